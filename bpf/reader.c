/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * reader: sees how programs that nobody knows yet read their sockets.
 *
 * Attached to the tracepoint tcp_rcv_space_adjust, which every way of reading
 * passes: recv() once it has bytes, splice() even when it has none. It runs for
 * each read of a TCP socket on this host, and returns at once where the socket has
 * no record or nothing is to be learned of it. Which way it is tells the system
 * call that is under way (NR_…, and where its flags are: the loader knows the CPU).
 */
#ifdef NR_READ
#define MSG_OOB 0x1
#define MSG_TRUNC 0x20
#define MSG_DONTWAIT 0x40
#define MSG_WAITALL 0x100
#define READS_TO_CREDIT 64 /* a connection that lasts need not end to count */

#define PF_IO_WORKER 0x10 /* include/linux/sched.h */

/* True in a worker thread of io_uring: what cannot be done at once, splice() above all. */
static __always_inline int is_io_worker(void)
{
	u64 task = bpf_get_current_task();
	u32 flags = 0;

	read_field(&flags, task, OFF_TASK_FLAGS);
	return flags & PF_IO_WORKER;
}

/* The traits of this one read, 0 for a recv() that would not have waited. */
static __always_inline u32 traits_of_read(u64 sk, u64 regs)
{
	u64 socket = 0, file = 0, flags = 0;
	u32 call = 0, file_flags = 0, traits = 0;

	read_field(&call, regs, OFF_REGS_CALL);
	switch (call) {
	case NR_SPLICE:
		return TRAIT_SPLICE;
	case NR_RECVFROM:
	case NR_RECVMMSG:
		read_field(&flags, regs, OFF_REGS_ARG4);
		break;
	case NR_RECVMSG:
		read_field(&flags, regs, OFF_REGS_ARG3);
		break;
	case NR_IO_URING_ENTER: /* never waits: polls instead */
		if (is_io_worker())
			return TRAIT_UNUSUAL;
		flags = MSG_DONTWAIT;
		break;
	case NR_READ:
	case NR_READV:
		break;
	default:
		return TRAIT_UNUSUAL;
	}
	if (flags & (MSG_OOB | MSG_TRUNC | MSG_WAITALL))
		traits |= TRAIT_UNUSUAL;
	if (has_unusual_options(sk))
		traits |= TRAIT_UNUSUAL;
	read_field(&socket, sk, OFF_SOCKET);
	read_field(&file, socket, OFF_SOCKET_FILE);
	read_field(&file_flags, file, OFF_FILE_FLAGS);
	if (!(flags & MSG_DONTWAIT) && !(file_flags & O_NONBLOCK_FLAG))
		traits |= TRAIT_BLOCKING;
	return traits;
}

/* False when the socket was handed to another program than the one that made it. */
static __always_inline int read_by_its_maker(struct program_key *maker)
{
	struct program_key key = {};

	if (!current_executable(&key) || key.size != maker->size || key.mtime != maker->mtime)
		return 0;
	return *(u64 *)key.name == *(u64 *)maker->name &&
	       *(u64 *)(key.name + 8) == *(u64 *)(maker->name + 8);
}

int reader(u64 *ctx)
{
	void *sk = (void *)ctx[0];
	struct conn *conn;
	u32 traits;

	conn = conns.sk_storage_get(sk, 0, 0);
	if (!conn || conn->watch == WATCH_NO)
		return 0;
	traits = traits_of_read((u64)sk, bpf_task_pt_regs(bpf_get_current_task_btf()));
	if (traits) {
		blame(&conn->program, traits);
		conn->watch = WATCH_NO;
		return 0;
	}
	if (conn->watch != WATCH_TO_LEARN)
		return 0;
	/* Nothing is known of whom the next one will be handed to. */
	if (!conn->reads && !read_by_its_maker(&conn->program)) {
		blame(&conn->program, TRAIT_UNUSUAL);
		conn->watch = WATCH_NO;
		return 0;
	}
	if (++conn->reads == READS_TO_CREDIT)
		credit(conn);
	return 0;
}
#endif
