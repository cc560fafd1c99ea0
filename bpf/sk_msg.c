/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * sk_msg: moves a message into the peer's queue, or leaves it to TCP.
 *
 * Always returns SK_PASS: when the peer is no longer in the map the helper
 * answers SK_DROP and has set nothing, and a message of ours is never dropped.
 * Runs under the lock of the sending socket; that lock is dropped before the
 * kernel carries out a redirect.
 */

#define PSOCK_MASK (~7ULL)    /* sk_user_data without its flags: SK_USER_DATA_PTRMASK */
#define MESSAGE_OVERHEAD 1024 /* struct sk_msg, 712 bytes on 6.18, in a slab of 1 KB */

/*
 * True when every byte that we handed to TCP has been read, or is already in the
 * queue that a redirected message would join, so that none can be overtaken.
 *
 * The peer has received them all in order (rcv_nxt), and is at rest: no softirq
 * works on the socket (slock), no process works off its backlog (len; it is
 * cleared last). What was received then sits in the one queue (see sk_skb.c),
 * unless the kernel left it in sk_receive_queue (before accept(), or below
 * SO_RCVLOWAT) or put it aside in ingress_skb (no memory). Nothing can arrive
 * meanwhile: only we write to this connection, and we hold our socket's lock.
 */
static __always_inline int all_queued(struct config *cfg, u64 peer, u32 write_seq)
{
	u32 copied_seq = 0, rcv_nxt = 0, slock = 1, backlog = 1, received = 1, aside = 1;
	u64 psock = 0;

	read_field(&copied_seq, peer, OFF_COPIED_SEQ);
	if (copied_seq == write_seq)
		return 1;
	if (!(cfg->flags & CONFIG_ONE_QUEUE))
		return 0;
	read_field(&rcv_nxt, peer, OFF_RCV_NXT);
	if (rcv_nxt != write_seq)
		return 0;
	read_field(&slock, peer, OFF_SLOCK);
	read_field(&backlog, peer, OFF_BACKLOG_LEN);
	read_field(&received, peer, OFF_RECEIVE_QUEUE_LEN);
	if (slock || backlog || received)
		return 0;
	read_field(&psock, peer, OFF_USER_DATA);
	psock &= PSOCK_MASK;
	read_field(&aside, psock, OFF_PSOCK_ASIDE_LEN);
	return !aside;
}

/*
 * True when TCP is short of memory on this host (net.ipv4.tcp_mem). TCP then
 * shrinks and waits; the kernel's redirect knows only success and ENOMEM.
 */
static __always_inline int memory_is_short(void *tcp)
{
	u64 protocol = *(u64 *)(tcp + OFF_PROT), flag = 0, value = 0;

	read_field(&flag, protocol, OFF_PROT_MEMORY_PRESSURE);
	read_field(&value, flag, 0);
	return value != 0;
}

/* What the peer's TCP has promised to take: its receive window. */
static __always_inline u32 window(u64 peer)
{
	u32 wup = 0, wnd = 0, nxt = 0;
	s32 left;

	read_field(&wup, peer, OFF_RCV_WUP);
	read_field(&wnd, peer, OFF_RCV_WND);
	read_field(&nxt, peer, OFF_RCV_NXT);
	left = wup + wnd - nxt;
	return left > 0 ? left : 0;
}

/*
 * True when the peer's queue has room: the kernel charges redirected bytes to
 * the reader but never compares. A size that the reader chose is kept; else
 * the queue may grow to QUEUE_BYTES, where TCP would raise the size by itself.
 * A queued message also takes MESSAGE_OVERHEAD, which nothing is charged for:
 * what is queued is taken for messages of this size.
 *
 * TCP knows nothing of redirected bytes: what its window promises must still find
 * room beside them. Otherwise the reader's TCP drops what the writer's sends after
 * a fallback, and the writer's waits for timers that double.
 */
static __always_inline int has_room(struct conn *conn, u32 rmem, u32 size)
{
	u64 peer = conn->peer_sk, wanted = (u64)rmem + size;
	u32 rcvbuf = 0, limit, bound, overhead;
	u8 locks = 0;

	read_field(&rcvbuf, peer, OFF_RCVBUF);
	read_field(&locks, peer, OFF_USERLOCKS);
	limit = bound = rcvbuf;
	if (!(locks & RCVBUF_LOCK)) {
		bound = conn->peer_rmem_max;
		if (limit < QUEUE_BYTES)
			limit = QUEUE_BYTES;
	}
	overhead = limit < QUEUE_OVERHEAD ? limit : QUEUE_OVERHEAD;
	if (wanted > limit || wanted * MESSAGE_OVERHEAD > (u64)overhead * size)
		return 0;
	/* A window is never larger than the buffer. */
	return wanted + rcvbuf <= bound || wanted + window(peer) <= bound;
}

/* True when TCP holds small writes back and joins them: TCP_NODELAY is not set. */
static __always_inline int joins_writes(void *tcp)
{
	u8 nonagle = NAGLE_OFF;

	read_field(&nonagle, (u64)tcp, OFF_NONAGLE);
	return !(nonagle & NAGLE_OFF);
}

/*
 * TCP joins small writes, a queue of messages does not. A stream of them goes by TCP
 * until its reader has caught up: once it has filled the queue, or, of writes that are
 * smaller still and that TCP would join at once, from the second one on.
 */
static __always_inline int better_joined(struct conn *conn, void *tcp, u32 unread, u32 size)
{
	if (!unread || size >= SMALL_WRITE)
		return 0;
	return conn->last_reason != REASON_NONE || (size < NAGLE_WRITE && joins_writes(tcp));
}

/*
 * Several threads that write to one socket at the same time. TCP keeps each
 * send() in one piece, because it holds the socket's lock throughout. The kernel
 * drops that lock while it carries out a redirect, so a message of another thread
 * that goes by TCP in that moment could be cut in two by the redirected one.
 * Hence: once it is seen, messages are redirected, even beyond the queue's room,
 * until nobody else is at work on the socket; then they go by TCP, until there
 * was no sign of it for a while.
 */
enum sharing {
	SHARING_NO = 0,
	SHARING_LEAVING = 1,
	SHARING_TCP = 2,
};
#define SHARING_QUIET_MESSAGES 64
#define SHARING_QUEUE_BYTES (4 * QUEUE_BYTES)

/* True when other threads are in send() or recv() of this socket: each holds the psock. */
static __always_inline int others_at_work(void *tcp)
{
	u64 psock = *(u64 *)(tcp + OFF_USER_DATA) & PSOCK_MASK;
	u32 references = 0;

	read_field(&references, psock, OFF_PSOCK_REFCNT);
	return references > 2; /* the map's, and that of this send() */
}

/* Returns enum sharing for this message. */
static __always_inline u32 sharing(struct conn *conn, void *tcp)
{
	u64 writer = bpf_get_current_pid_tgid();
	int changed = conn->writer != writer;

	if (!changed && conn->sharing == SHARING_NO)
		return SHARING_NO;
	conn->writer = writer;
	if (others_at_work(tcp)) {
		if (changed && conn->sharing == SHARING_NO)
			conn->sharing = SHARING_LEAVING;
		if (changed)
			conn->quiet = SHARING_QUIET_MESSAGES;
	} else if (conn->sharing == SHARING_LEAVING) {
		conn->sharing = SHARING_TCP;
	}
	if (conn->sharing == SHARING_TCP && !conn->quiet--)
		conn->sharing = SHARING_NO;
	return conn->sharing;
}

/*
 * False when TCP has an error for this message: we have sent our FIN, or the peer's
 * has come and it will not read any more either (close(), or SHUT_RDWR).
 */
static __always_inline int may_send(void *tcp, u64 peer)
{
	u8 state = *(u8 *)(tcp + OFF_STATE), shutdown = 0;

	if (state == BPF_TCP_ESTABLISHED)
		return 1;
	if (state != BPF_TCP_CLOSE_WAIT)
		return 0;
	read_field(&shutdown, peer, OFF_SHUTDOWN);
	return !(shutdown & 1 /* RCV_SHUTDOWN */);
}

/*
 * True when this message should go by TCP so that conntrack sees the connection at
 * work: it sees no redirected byte, lets the entry expire, and what TCP sends later
 * is then not translated, or taken for a stranger's.
 */
static __always_inline int conntrack_is_due(struct conn *conn)
{
	u64 now = bpf_ktime_get_coarse_ns();

	if (now < conn->refresh_at)
		return 0;
	conn->refresh_at = now + conn->refresh_ns;
	return 1;
}

/* REASON_NONE: this message may be redirected. */
static __always_inline u32 verdict(struct sk_msg_md *msg, struct conn *conn, void *tcp,
				   u32 write_seq)
{
	struct config *cfg = get_config();
	u32 rmem = 0;
	u64 cookie = 0, ulp = 0;

	if (!cfg || !(cfg->flags & CONFIG_ENABLED))
		return REASON_DISABLED;
	if (!conn->peer_cookie) {
		struct pair_key key = conn->key;
		struct peer *peer = peers.lookup(&key);

		if (!peer)
			return REASON_NO_PEER;
		conn->peer_sk = peer->sk;
		conn->peer_netns = peer->netns;
		conn->peer_rmem_max = peer->rmem_max;
		if (conn->refresh_ns != peer->refresh_ns) {
			conn->refresh_ns = peer->refresh_ns;
			conn->refresh_at = bpf_ktime_get_coarse_ns() + conn->refresh_ns;
		}
		conn->peer_cookie = peer->cookie;
		peers.delete(&key);
	}
	if (conn->scope_epoch != cfg->scope_epoch) {
		if (!netns_in_scope(cfg, conn->netns))
			return REASON_OUT_OF_SCOPE;
		if (!netns_in_scope(cfg, conn->peer_netns))
			return REASON_PEER_OUT_OF_SCOPE;
		conn->scope_epoch = cfg->scope_epoch;
	}
	/* The memory may belong to another socket by now, which has another cookie. */
	read_field(&cookie, conn->peer_sk, OFF_COOKIE);
	if (cookie != conn->peer_cookie || !may_send(tcp, conn->peer_sk))
		return REASON_NO_PEER;
	/* What was queued once stays so: it is asked again only after more went by TCP. */
	if (conn->queued_seq != write_seq) {
		if (!all_queued(cfg, conn->peer_sk, write_seq))
			return REASON_UNREAD_TCP;
		conn->queued_seq = write_seq;
	}
	read_field(&rmem, conn->peer_sk, OFF_RMEM_ALLOC);
	switch (sharing(conn, tcp)) {
	case SHARING_NO:
		if (better_joined(conn, tcp, rmem, msg->size))
			return REASON_SMALL_WRITES;
		if ((rmem || msg->size >= SMALL_WRITE) &&
		    (!has_room(conn, rmem, msg->size) || memory_is_short(tcp)))
			return REASON_BACK_PRESSURE;
		break;
	case SHARING_LEAVING:
		if (rmem > SHARING_QUEUE_BYTES)
			return REASON_BACK_PRESSURE;
		break;
	default:
		return REASON_SHARED_WRITERS;
	}
	/* MSG_ZEROCOPY may be asked for: the kernel completes nothing that is redirected. */
	if (*(u64 *)(tcp + OFF_SK_FLAGS) & (1ULL << SOCK_ZEROCOPY_BIT))
		return REASON_ZEROCOPY;
	/* kTLS: here we would see plaintext, there it would be taken for plaintext. */
	if (*(u64 *)(tcp + OFF_ULP_OPS))
		return REASON_ULP;
	read_field(&ulp, conn->peer_sk, OFF_ULP_OPS);
	if (ulp)
		return REASON_ULP;
	return conntrack_is_due(conn) ? REASON_CONNTRACK : REASON_NONE;
}

int sk_msg(struct sk_msg_md *msg)
{
	struct bpf_sock *sk = msg->sk;
	struct pair_key peer_key;
	struct conn *conn;
	u32 reason, slot, write_seq;
	void *tcp;
	int redirected;

	if (!sk)
		return SK_PASS;
	conn = conns.sk_storage_get(sk, 0, 0);
	if (!conn)
		return SK_PASS;
	/* A typed pointer: its fields are plain loads, without a helper. */
	tcp = bpf_skc_to_tcp_sock(sk);
	if (!tcp)
		return SK_PASS;
	write_seq = *(u32 *)(tcp + OFF_WRITE_SEQ);
	reason = verdict(msg, conn, tcp, write_seq);
	if (reason == REASON_NONE) {
		peer_key.local_seq = conn->key.remote_seq;
		peer_key.remote_seq = conn->key.local_seq;
		peer_key.netns = conn->key.netns;
		redirected = sock_ops_map.msg_redirect_hash(msg, &peer_key, BPF_F_INGRESS);
		if (redirected == SK_PASS) {
			conn->redirected_bytes += msg->size;
			conn->redirected_messages++;
			conn->last_reason = REASON_NONE;
			return SK_PASS;
		}
		reason = REASON_NO_PEER;
	}
	conn->tcp_messages++;
	conn->last_reason = reason;
	slot = reason - REASON_BACK_PRESSURE;
	if (slot < MESSAGE_REASONS)
		conn->reasons[slot]++;
	return SK_PASS;
}
