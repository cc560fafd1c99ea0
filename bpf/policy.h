/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a program does decides: redirection changes recv() for the reader, and a
 * few habits do not survive it. Which program a socket belongs to is asked where
 * its process is the current one: at connect() and at listen().
 */

/* Fills in which executable the current process runs. False for a kernel thread. */
static __always_inline int current_executable(struct program_key *key)
{
	u64 task = bpf_get_current_task(), mm = 0, file = 0, inode = 0, dentry = 0, name = 0;
	u64 seconds = 0;
	u32 nanoseconds = 0;

	read_field(&mm, task, OFF_TASK_MM);
	read_field(&file, mm, OFF_MM_EXE_FILE);
	if (!mm || !file)
		return 0;
	read_field(&inode, file, OFF_FILE_INODE);
	read_field(&dentry, file, OFF_FILE_DENTRY);
	read_field(&name, dentry, OFF_DENTRY_NAME);
	read_kernel_string(key->name, sizeof(key->name), (void *)name);
	read_field(&key->size, inode, OFF_INODE_SIZE);
	read_field(&seconds, inode, OFF_INODE_MTIME_SEC);
	read_field(&nanoseconds, inode, OFF_INODE_MTIME_NSEC);
	key->mtime = seconds * 1000000000ULL + nanoseconds;
	return 1;
}

/*
 * Of the beginning of the command line, which may name a script, and of the working
 * directory, which the script's name may be relative to. Mirrored by
 * sockaccel.datapath.programs.arguments_hash().
 */
static __always_inline u64 arguments_hash(void)
{
	u64 task = bpf_get_current_task(), mm = 0, start = 0, end = 0, hash = 0;
	u64 fs = 0, dentry = 0, inode = 0;
	struct arguments *arguments;
	int zero = 0;
	u64 length;

	arguments = scratch.lookup(&zero);
	if (!arguments)
		return 0;
	read_field(&fs, task, OFF_TASK_FS);
	read_field(&dentry, fs, OFF_FS_PWD_DENTRY);
	read_field(&inode, dentry, OFF_DENTRY_INODE);
	read_field(&hash, inode, OFF_INODE_NUMBER);
	read_field(&mm, task, OFF_TASK_MM);
	read_field(&start, mm, OFF_MM_ARG_START);
	read_field(&end, mm, OFF_MM_ARG_END);
	__builtin_memset(arguments, 0, sizeof(*arguments));
	length = end - start;
	if (length > ARGUMENTS_SIZE)
		length = ARGUMENTS_SIZE;
	read_user(arguments, length, (void *)start);
#pragma unroll
	for (int i = 0; i < ARGUMENTS_SIZE / 8; i++) {
		hash = (hash ^ arguments->words[i]) * 0x100000001b3ULL;
		hash ^= hash >> 29;
	}
	return hash;
}

/* Fills in which program the current process is. A kernel thread has no name. */
static __always_inline void current_program(struct program_key *key, u32 side)
{
	if (current_executable(key))
		key->arguments = arguments_hash();
	key->side = side;
}

static __always_inline u32 *known_traits(struct program_key *key)
{
	struct program_name name;

	__builtin_memcpy(name.name, key->name, sizeof(name.name));
	return known_programs.lookup(&name);
}

/* True where the user has asked for everything in scope, whatever it is. */
static __always_inline int policy_is_all(struct config *cfg, u64 netns)
{
	u32 *flags;

	if (cfg->flags & CONFIG_POLICY_ALL)
		return 1;
	flags = scope.lookup(&netns);
	return flags && (*flags & SCOPE_POLICY_ALL);
}

/* REASON_NONE: sockets of this program may be enrolled. */
static __always_inline u32 judge(struct config *cfg, u64 netns, struct program_key *key)
{
	u32 *known, traits = 0;
	struct program *program;

	known = known_traits(key);
	if (policy_is_all(cfg, netns))
		return known && (*known & TRAIT_NEVER) ? REASON_POLICY_SPLICE : REASON_NONE;
	if (known) {
		traits = *known;
	} else {
		program = programs.lookup(key);
		if (program)
			traits = (program->earned ? TRAIT_RECV : 0) |
				 (program->splice ? TRAIT_SPLICE : 0) |
				 (program->blocking ? TRAIT_BLOCKING : 0) |
				 (program->unusual ? TRAIT_UNUSUAL : 0);
		/* Who asks FIONREAD cannot be seen: where it is wrong only names are trusted. */
		if (traits & TRAIT_RECV)
			traits |= TRAIT_FIONREAD;
	}
	if (traits & TRAIT_FORCED)
		return REASON_NONE;
	if (traits & TRAIT_REFUSED)
		return REASON_POLICY_USER;
	if (traits & TRAIT_SPLICE)
		return REASON_POLICY_SPLICE;
	if (traits & TRAIT_BLOCKING)
		return REASON_POLICY_BLOCKING;
	if (traits & TRAIT_UNUSUAL)
		return REASON_POLICY_UNUSUAL;
	if ((traits & TRAIT_FIONREAD) && !(cfg->flags & CONFIG_FIONREAD))
		return REASON_POLICY_FIONREAD;
	return traits & TRAIT_RECV ? REASON_NONE : REASON_POLICY_UNKNOWN;
}

/* Why a conn is looked at whenever its socket is read. */
enum watch {
	WATCH_NO = 0,
	WATCH_TO_LEARN = 1,
	WATCH_LEARNED = 2, /* this connection has been credited; what is seen now still counts */
};

static __always_inline u32 watch_for(struct config *cfg, u64 netns, struct program_key *key)
{
	if (policy_is_all(cfg, netns) || known_traits(key) || !key->name[0])
		return WATCH_NO;
	return WATCH_TO_LEARN;
}

static __always_inline struct program *program_of(struct program_key *key)
{
	struct program fresh = {};

	return programs.lookup_or_try_init(key, &fresh);
}

/* The program was seen to read like this: its next connections stay on TCP. */
static __always_inline void blame(struct program_key *key, u32 traits)
{
	struct program *program = program_of(key);

	if (!program)
		return;
	if (traits & TRAIT_SPLICE)
		program->splice = 1;
	if (traits & TRAIT_BLOCKING)
		program->blocking = 1;
	if (traits & TRAIT_UNUSUAL)
		program->unusual = 1;
}

/*
 * True when the socket has, or had urgent data for, an option that redirection does
 * not honour: SO_RCVLOWAT, SO_PEEK_OFF, TCP_INQ, MSG_OOB, MSG_ZEROCOPY, SO_TIMESTAMP…
 */
static __always_inline int has_unusual_options(u64 sk)
{
	u64 sk_flags = 0;
	u32 lowat = 0;
	s32 peek_off = -1;
	u16 timestamping = 0, urgent = 0;
	u8 inq = 0;

	read_field(&lowat, sk, OFF_RCVLOWAT);
	read_field(&peek_off, sk, OFF_PEEK_OFF);
	read_field(&sk_flags, sk, OFF_SK_FLAGS);
	read_field(&timestamping, sk, OFF_TSFLAGS);
	read_field(&urgent, sk, OFF_URG_DATA);
	read_field(&inq, sk, OFF_RECVMSG_INQ);
	return lowat > 1 || peek_off >= 0 || (sk_flags & UNUSUAL_SK_FLAGS) || timestamping ||
	       urgent || (inq & RECVMSG_INQ_MASK);
}

/* One connection was watched and only recv() seen; after some, the program has earned it. */
#define CONNECTIONS_TO_EARN 3

static __always_inline void credit(struct conn *conn)
{
	struct program *program = program_of(&conn->program);

	conn->watch = WATCH_LEARNED;
	if (!program)
		return;
	if (++program->connections >= CONNECTIONS_TO_EARN)
		program->earned = 1;
}
