/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * sock_ops: enrols the two ends of a local connection.
 *
 *   listen(), connect()   remember which program it is, where the policy asks
 *   SYN at the listener   announces the two initial sequence numbers
 *   ACTIVE_ESTABLISHED    the client enters if somebody here announced its numbers
 *   PASSIVE_ESTABLISHED   the server enters if that client did, and both know each other
 *   STATE -> CLOSE        what the connection moved is added to the counters
 *
 * A client whose server is not on this host, or not in scope, finds no
 * announcement and is never enrolled. Callback flags are only ever added: other
 * programs on the cgroup have theirs. The return value is 1 throughout and
 * `reply` is left alone, so that no setting of the kernel's is changed.
 */

static __always_inline int unpaired(u32 reason)
{
	count(COUNTER_REASON + reason, 1);
	if (reason != REASON_OUT_OF_SCOPE)
		count(COUNTER_UNPAIRED, 1);
	return 1;
}

/* The addresses of a socket, IPv4 as v4-mapped. */
struct addresses {
	u32 local[4];
	u32 remote[4];
};

static __always_inline void read_addresses(struct bpf_sock_ops *ctx, struct addresses *a)
{
	if (ctx->family == 2 /* AF_INET */) {
		a->local[0] = a->local[1] = a->remote[0] = a->remote[1] = 0;
		a->local[2] = a->remote[2] = bpf_htonl(0xffff);
		a->local[3] = ctx->local_ip4;
		a->remote[3] = ctx->remote_ip4;
		return;
	}
	a->local[0] = ctx->local_ip6[0];
	a->local[1] = ctx->local_ip6[1];
	a->local[2] = ctx->local_ip6[2];
	a->local[3] = ctx->local_ip6[3];
	a->remote[0] = ctx->remote_ip6[0];
	a->remote[1] = ctx->remote_ip6[1];
	a->remote[2] = ctx->remote_ip6[2];
	a->remote[3] = ctx->remote_ip6[3];
}

/* True when both are loopback. */
static __always_inline int are_loopback(struct addresses *a)
{
	u32 mapped = bpf_htonl(0xffff);

	if (a->remote[0] || a->remote[1] || a->local[0] || a->local[1])
		return 0;
	if (a->remote[2] == mapped && a->local[2] == mapped)
		return (bpf_ntohl(a->remote[3]) >> 24) == 127 &&
		       (bpf_ntohl(a->local[3]) >> 24) == 127;
	return a->remote[2] == 0 && a->local[2] == 0 && a->remote[3] == bpf_htonl(1) &&
	       a->local[3] == bpf_htonl(1);
}

static __always_inline u32 folded(u32 *address)
{
	return address[0] ^ address[1] ^ address[2] ^ address[3];
}

/*
 * How often conntrack must see the connection. Where addresses or ports are
 * translated an expired entry breaks it, and its timeout may be seconds. Elsewhere
 * a firewall may insist on an entry; the shortest timeout of one that is half
 * closed is 30 s (nf_conntrack_tcp_timeout_last_ack).
 */
#define REFRESH_NS (10 * 1000000000ULL)
#define REFRESH_NAT_NS (100 * 1000000ULL)

static __always_inline u64 refresh_ns(struct bpf_sock_ops *ctx, struct addresses *server,
				      struct handshake *client)
{
	int same = client->local_ip == folded(server->remote) &&
		   client->remote_ip == folded(server->local) &&
		   client->local_port == bpf_ntohl(ctx->remote_port) &&
		   client->remote_port == ctx->local_port;

	return same ? REFRESH_NS : REFRESH_NAT_NS;
}

static __always_inline int is_local(u32 *address)
{
	struct network network = {.prefix_len = 128};

	__builtin_memcpy(network.address, address, 16);
	return local_networks.lookup(&network) != 0;
}

/* Why no in-scope peer was found behind this address. */
static __always_inline u32 absent_reason(u32 *address)
{
	return is_local(address) ? REASON_PEER_OUT_OF_SCOPE : REASON_REMOTE;
}

/* What enable's --ports and the labels of the namespace's containers say: both must agree. */
static __always_inline int port_in_scope(struct config *cfg, u64 netns, u32 port)
{
	struct netns_port key = {.prefix_len = 80};
	u32 word = port / 64;
	u32 *flags;
	u64 *bits;

	if (cfg->flags & CONFIG_PORTS) {
		bits = ports.lookup(&word);
		if (!bits || !(*bits & (1ULL << (port % 64))))
			return 0;
	}
	flags = scope.lookup(&netns);
	if (!flags || !(*flags & SCOPE_PORTS))
		return 1;
	__builtin_memcpy(key.netns, &netns, sizeof(netns));
	key.port[0] = port >> 8;
	key.port[1] = port;
	return netns_ports.lookup(&key) != 0;
}

/*
 * A listener that answers with SYN cookies keeps no request, so the kernel does
 * not ask us and nobody announces. The server's ESTABLISHED shows that it
 * happens; for a while clients of local addresses then enter without having
 * been announced. One that finds no peer stays a member, on TCP.
 */
#define SYN_COOKIES_NS (60 * 1000000000ULL)

static __always_inline void expect_syn_cookies(void)
{
	u64 until = bpf_ktime_get_ns() + SYN_COOKIES_NS;
	int zero = 0;

	syn_cookies.update(&zero, &until);
}

static __always_inline int syn_cookies_expected(void)
{
	int zero = 0;
	u64 *until = syn_cookies.lookup(&zero);

	return until && *until && bpf_ktime_get_ns() < *until;
}

static __always_inline u32 update_error_reason(int error)
{
	switch (error) {
	case -7: /* E2BIG */
		return REASON_MAP_FULL;
	case -16: /* EBUSY: another sk_msg program owns the socket */
		return REASON_FOREIGN_OWNER;
	case -17: /* EEXIST: two live connections with equal numbers */
		return REASON_NO_PEER;
	case -22: /* EINVAL: an upper-layer protocol is set */
		return REASON_ULP;
	default:
		return REASON_KERNEL;
	}
}

static __always_inline int is_mptcp(u64 sk)
{
	u8 mptcp = 0;

#ifdef OFF_IS_MPTCP
	read_field(&mptcp, sk, OFF_IS_MPTCP);
#endif
	return mptcp;
}

/*
 * The address of the socket as a number. The verifier's own view of it (ctx->sk)
 * takes no offsets, and hides requests, which are no full sockets; the kernel's
 * context behind ctx has it for both.
 */
static __always_inline u64 socket_address(struct bpf_sock_ops *ctx)
{
	u64 sk = 0;

	read_field(&sk, (u64)ctx, OFF_SOCK_OPS_KERN_SK);
	return sk;
}

/* The process of a listener or client is the current one only here. */
static __always_inline int on_listen(struct bpf_sock_ops *ctx)
{
	u64 cookie = bpf_get_socket_cookie(ctx);
	struct program_key program = {};

	current_program(&program, SIDE_SERVER);
	listeners.update(&cookie, &program);
	return 1;
}

static __always_inline int on_connect(struct bpf_sock_ops *ctx, struct config *cfg)
{
	u64 netns = bpf_get_netns_cookie(ctx);
	struct bpf_sock *sk = ctx->sk;
	struct conn *conn;

	if (!netns_in_scope(cfg, netns) || !sk)
		return 1;
	conn = conns.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (conn && policy_is_all(cfg, netns))
		current_executable(&conn->program); /* its name is all that judge() asks for */
	else if (conn)
		current_program(&conn->program, SIDE_CLIENT);
	return 1;
}

/* Fills in the program that listens there; one that nobody saw has no name. */
static __always_inline void program_of_listener(u64 cookie, struct program_key *program)
{
	struct program_key *found = listeners.lookup(&cookie);

	if (found)
		*program = *found;
	program->side = SIDE_SERVER;
}

/*
 * A SYN was accepted: this callback asks for the initial receive window of the
 * request, whose answer, with both numbers set, goes out next.
 */
static __always_inline int on_syn(struct bpf_sock_ops *ctx, struct config *cfg)
{
	struct program_key program = {};
	struct handshake handshake = {};
	struct handshake_key key;
	u64 request, listener = 0, netns;
	u8 deferred = 0;

	netns = bpf_get_netns_cookie(ctx);
	if (!netns_in_scope(cfg, netns))
		return 1;
	if (!port_in_scope(cfg, netns, ctx->local_port))
		return 1;
	request = socket_address(ctx);
	read_field(&listener, request, OFF_REQUEST_LISTENER);
	read_field(&handshake.listener_cookie, listener, OFF_COOKIE);
	program_of_listener(handshake.listener_cookie, &program);
	read_field(&deferred, listener, OFF_DEFER_ACCEPT);
	/* Children of an MPTCP listener, plain ones too, crash some kernels in a sockmap. */
	if (is_mptcp(listener))
		handshake.reason = REASON_MPTCP;
	else if (deferred)
		handshake.reason = REASON_DEFERRED_ACCEPT;
	else
		handshake.reason = judge(cfg, netns, &program);
	read_field(&key.client_seq, request, OFF_REQUEST_RCV_ISN);
	read_field(&key.server_seq, request, OFF_REQUEST_SNT_ISN);
	key.client_seq++;
	key.server_seq++;
	handshake.server_netns = netns;
	/* The first to announce stands: nobody replaces a handshake that is under way. */
	handshakes.insert(&key, &handshake);
	return 1;
}

/* The record of an end in scope; one that is a member of the map has it before, see enrol(). */
static __always_inline struct conn *record(struct bpf_sock_ops *ctx, struct bpf_sock *sk,
					   struct pair_key *key, u64 netns, u32 side)
{
	struct conn *conn = conns.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);

	if (!conn)
		return 0;
	conn->key = *key;
	conn->sk = socket_address(ctx);
	/* Made here if the socket has none yet: sk_msg and the iterator can only read it. */
	conn->cookie = bpf_get_socket_cookie(ctx);
	conn->netns = netns;
	conn->side = side;
	conn->queued_seq = key->local_seq;
	conn->refresh_ns = REFRESH_NS;
	conn->refresh_at = bpf_ktime_get_coarse_ns() + REFRESH_NS;
	bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
	return conn;
}

/* How far the kernel lets the receive buffers of this socket's namespace grow. */
static __always_inline u32 rmem_max(u64 sk)
{
	u64 net = 0;
	u32 max = 0;

	read_field(&net, sk, OFF_NET);
	read_field(&max, net, OFF_NET_TCP_RMEM + 2 * sizeof(u32));
	return max;
}

/* Enters the socket into the map. What fails leaves no record. */
static __always_inline int enrol(struct bpf_sock_ops *ctx, struct bpf_sock *sk,
				 struct pair_key *key)
{
	int error = sock_ops_map.sock_hash_update(ctx, key, BPF_NOEXIST);

	if (error)
		conns.sk_storage_delete(sk);
	return error;
}

/*
 * True when the packet that ends the handshake has data. The kernel leaves those in
 * sk_receive_queue until the first recv(), and FIONREAD of a member of the map does
 * not look there. A listener with TCP_DEFER_ACCEPT has them always, see on_syn().
 */
static __always_inline int has_data(struct bpf_sock_ops *ctx)
{
	u8 *header = (u8 *)(long)ctx->skb_data, *end = (u8 *)(long)ctx->skb_data_end;

	if (header + 20 > end)
		return 0;
	return ctx->skb_len > (header[12] >> 4) * 4U;
}

/* Neither end is enrolled, because of what the program at one of them is. */
static __always_inline int is_policy(u32 reason)
{
	return reason >= REASON_POLICY_SPLICE && reason <= REASON_POLICY_UNKNOWN;
}

static __always_inline int forget(struct bpf_sock *sk, u32 reason)
{
	conns.sk_storage_delete(sk);
	return unpaired(reason);
}

static __always_inline int on_active(struct bpf_sock_ops *ctx, struct config *cfg)
{
	struct handshake_key hkey = {.client_seq = ctx->snd_nxt, .server_seq = ctx->rcv_nxt};
	struct pair_key key = {.local_seq = ctx->snd_nxt, .remote_seq = ctx->rcv_nxt};
	struct bpf_sock *sk = ctx->sk;
	struct handshake *handshake;
	struct conn *conn;
	struct addresses addresses;
	int loopback, error;
	u32 own;
	u64 netns;

	netns = bpf_get_netns_cookie(ctx);
	if (!netns_in_scope(cfg, netns))
		return unpaired(REASON_OUT_OF_SCOPE);
	if (!sk)
		return 1;
	/*
	 * No packet: TCP_REPAIR, whose owner chooses both numbers. A handshake that
	 * happened has a SYN-ACK.
	 */
	if (!ctx->skb_len)
		return forget(sk, REASON_NO_PEER);
	read_addresses(ctx, &addresses);
	loopback = are_loopback(&addresses);
	handshake = handshakes.lookup(&hkey);
	/* Who answers with cookies is not known, so the policy must not ask. */
	if (!handshake && policy_is_all(cfg, netns) && syn_cookies_expected() &&
	    is_local(addresses.remote)) {
		struct handshake unannounced = {};

		handshakes.insert(&hkey, &unannounced);
		handshake = handshakes.lookup(&hkey);
	}
	if (!handshake)
		return forget(sk, absent_reason(addresses.remote));
	/* Taken already, or loopback of another namespace: equal numbers by chance. */
	if (handshake->state != HANDSHAKE_ANNOUNCED ||
	    (loopback && handshake->server_netns && handshake->server_netns != netns))
		return forget(sk, REASON_NO_PEER);
	if (is_mptcp(socket_address(ctx)))
		handshake->reason = REASON_MPTCP;
	if (loopback)
		key.netns = netns;
	conn = record(ctx, sk, &key, netns, SIDE_CLIENT);
	if (!conn) {
		handshake->reason = REASON_KERNEL;
		return unpaired(REASON_KERNEL);
	}
	own = judge(cfg, netns, &conn->program);
	if (!handshake->reason)
		handshake->reason = own;
	conn->watch = watch_for(cfg, netns, &conn->program);
	conn->scope_epoch = cfg->scope_epoch;
	handshake->client_sk = conn->sk;
	handshake->client_cookie = conn->cookie;
	handshake->client_netns = netns;
	handshake->rmem_max = rmem_max(conn->sk);
	handshake->local_ip = folded(addresses.local);
	handshake->remote_ip = folded(addresses.remote);
	handshake->local_port = ctx->local_port;
	handshake->remote_port = bpf_ntohl(ctx->remote_port);
	handshake->state = HANDSHAKE_CLIENT_IN;
	conn->refused = handshake->reason;
	conn->last_reason = own;
	if (is_policy(handshake->reason))
		return unpaired(handshake->reason);
	if (handshake->reason)
		return forget(sk, handshake->reason);
	error = enrol(ctx, sk, &key);
	if (error) {
		handshake->reason = update_error_reason(error);
		return unpaired(handshake->reason);
	}
	return 1;
}

static __always_inline int on_passive(struct bpf_sock_ops *ctx, struct config *cfg)
{
	struct handshake_key hkey = {.client_seq = ctx->rcv_nxt, .server_seq = ctx->snd_nxt};
	struct pair_key key = {.local_seq = ctx->snd_nxt, .remote_seq = ctx->rcv_nxt};
	struct bpf_sock *sk = ctx->sk;
	struct handshake handshake = {};
	struct handshake *found;
	struct pair_key client_key = {};
	struct peer peer = {};
	struct conn *conn;
	struct addresses addresses;
	int loopback, error;
	u64 netns;

	netns = bpf_get_netns_cookie(ctx);
	if (!netns_in_scope(cfg, netns))
		return 1; /* a connection is counted once, at its client */
	if (!sk)
		return 1;
	read_addresses(ctx, &addresses);
	loopback = are_loopback(&addresses);
	found = handshakes.lookup(&hkey);
	if (!found) {
		/* Not announced: its port is not in scope, or it answers with SYN cookies. */
		if (port_in_scope(cfg, netns, ctx->local_port) && is_local(addresses.remote))
			expect_syn_cookies();
		return 1;
	}
	handshake = *found;
	handshakes.delete(&hkey);
	/* Data in the SYN (Fast Open): its client has other numbers, and is counted there. */
	if (handshake.state == HANDSHAKE_ANNOUNCED)
		return has_data(ctx) ? 1 : unpaired(absent_reason(addresses.remote));
	if (handshake.reason && !is_policy(handshake.reason))
		return 1; /* counted at the client */
	/*
	 * The numbers agree. Whatever NAT does, it leaves one of the two ports alone;
	 * and loopback does not leave its namespace.
	 */
	if ((handshake.server_netns && handshake.server_netns != netns) ||
	    (loopback && handshake.client_netns != netns) ||
	    (handshake.local_port != bpf_ntohl(ctx->remote_port) &&
	     handshake.remote_port != ctx->local_port))
		return unpaired(REASON_NO_PEER);
	if (!handshake.reason && has_data(ctx))
		return unpaired(REASON_DEFERRED_ACCEPT);
	if (loopback)
		key.netns = netns;
	conn = record(ctx, sk, &key, netns, SIDE_SERVER);
	if (!conn)
		return unpaired(REASON_KERNEL);
	program_of_listener(handshake.listener_cookie, &conn->program);
	conn->watch = watch_for(cfg, netns, &conn->program);
	conn->scope_epoch = cfg->scope_epoch;
	conn->refused = handshake.reason;
	if (handshake.reason) {
		/* Each end shows what its own program is to blame for. */
		conn->last_reason = judge(cfg, netns, &conn->program);
		return 1;
	}
	conn->peer_sk = handshake.client_sk;
	conn->peer_netns = handshake.client_netns;
	conn->peer_cookie = handshake.client_cookie;
	peer.sk = conn->sk;
	peer.cookie = conn->cookie;
	peer.netns = netns;
	peer.rmem_max = rmem_max(conn->sk);
	conn->peer_rmem_max = handshake.rmem_max;
	peer.refresh_ns = conn->refresh_ns = refresh_ns(ctx, &addresses, &handshake);
	conn->refresh_at = bpf_ktime_get_coarse_ns() + conn->refresh_ns;
	error = enrol(ctx, sk, &key);
	if (error)
		return unpaired(update_error_reason(error));
	client_key.local_seq = key.remote_seq;
	client_key.remote_seq = key.local_seq;
	client_key.netns = key.netns;
	if (peers.update(&client_key, &peer))
		count(COUNTER_REASON + REASON_MAP_FULL, 1);
	count(COUNTER_PAIRED, 1);
	return 1;
}

/* True once our FIN has taken its place in the sequence space. */
static __always_inline int fin_counted(u32 old_state)
{
	return old_state == BPF_TCP_FIN_WAIT1 || old_state == BPF_TCP_FIN_WAIT2 ||
	       old_state == BPF_TCP_CLOSING || old_state == BPF_TCP_LAST_ACK;
}

/*
 * A reader that closes with bytes unread resets its TCP connection, but the kernel
 * does not count those in the sockmap's queue: it sends a FIN, and its window, full
 * of them, never opens again. TCP would hold what we have still to send until timers
 * of minutes end. Nobody will ever read it: the next timer is the last.
 */
static __always_inline void give_up_if_unwanted(struct bpf_sock_ops *ctx, struct conn *conn)
{
	int timeout_ms = 1;
	u64 cookie = 0;
	u32 write_seq = 0, acknowledged = 0;
	u8 shutdown = 0;

	if (!conn->peer_cookie)
		return;
	read_field(&write_seq, conn->sk, OFF_WRITE_SEQ);
	read_field(&acknowledged, conn->sk, OFF_SND_UNA);
	if (write_seq == acknowledged)
		return;
	read_field(&cookie, conn->peer_sk, OFF_COOKIE);
	read_field(&shutdown, conn->peer_sk, OFF_SHUTDOWN);
	if (cookie == conn->peer_cookie && shutdown != 3 /* SHUTDOWN_MASK */)
		return;
	bpf_setsockopt(ctx, 6 /* SOL_TCP */, 18 /* TCP_USER_TIMEOUT */, &timeout_ms,
		       sizeof(timeout_ms));
}

static __always_inline int on_state(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct pair_key client_key;
	struct conn *conn;
	u64 bytes_acked = 0, tcp_bytes;
	u32 write_seq = 0;

	if (!sk)
		return 1;
	conn = conns.sk_storage_get(sk, 0, 0);
	if (!conn)
		return 1;
	if (ctx->args[1] != BPF_TCP_CLOSE) {
		give_up_if_unwanted(ctx, conn);
		return 1;
	}
	/* write_seq is exact, modulo 2^32; bytes_acked tells how often it has wrapped. */
	read_field(&write_seq, conn->sk, OFF_WRITE_SEQ);
	read_field(&bytes_acked, conn->sk, OFF_BYTES_ACKED);
	tcp_bytes = bytes_acked + (s32)(write_seq - conn->key.local_seq - (u32)bytes_acked);
	if (tcp_bytes && fin_counted(ctx->args[0]))
		tcp_bytes--;
	count(COUNTER_REDIRECTED_BYTES, conn->redirected_bytes);
	count(COUNTER_REDIRECTED_MESSAGES, conn->redirected_messages);
	count(COUNTER_TCP_BYTES, tcp_bytes);
	count(COUNTER_TCP_MESSAGES, conn->tcp_messages);
#pragma unroll
	for (int i = 0; i < MESSAGE_REASONS; i++)
		if (conn->reasons[i])
			count(COUNTER_REASON + REASON_BACK_PRESSURE + i, conn->reasons[i]);
	/* Options may have been set after the last read. */
	if (conn->watch != WATCH_NO && has_unusual_options(conn->sk))
		blame(&conn->program, TRAIT_UNUSUAL);
	else if (conn->watch == WATCH_TO_LEARN && conn->reads)
		credit(conn);
	/* A client that never asked leaves it; one that was gone before the server came, too. */
	client_key = conn->key;
	if (conn->side == SIDE_SERVER) {
		client_key.local_seq = conn->key.remote_seq;
		client_key.remote_seq = conn->key.local_seq;
	}
	peers.delete(&client_key);
	/* Counted now; a second CLOSE must find nothing. */
	conns.sk_storage_delete(sk);
	return 1;
}

int sock_ops(struct bpf_sock_ops *ctx)
{
	struct config *cfg;

	switch (ctx->op) {
	case BPF_SOCK_OPS_TCP_LISTEN_CB:
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
	case BPF_SOCK_OPS_RWND_INIT:
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		break;
	case BPF_SOCK_OPS_STATE_CB:
		return on_state(ctx);
	default:
		return 1;
	}
	cfg = get_config();
	if (!cfg || !(cfg->flags & CONFIG_ENABLED))
		return 1;
	switch (ctx->op) {
	case BPF_SOCK_OPS_TCP_LISTEN_CB:
		/* In scope or not, whatever the policy: both may change, and judge() asks under any. */
		return on_listen(ctx);
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		return on_connect(ctx, cfg);
	case BPF_SOCK_OPS_RWND_INIT:
		/* A client's own SYN asks too, as a full socket. */
		return ctx->is_fullsock ? 1 : on_syn(ctx, cfg);
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
		return on_active(ctx, cfg);
	default:
		return on_passive(ctx, cfg);
	}
}
