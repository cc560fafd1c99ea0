/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * sk_msg: moves a message into the peer's queue, or leaves it to TCP.
 *
 * Always returns SK_PASS: when the peer is no longer in the map the helper
 * answers SK_DROP and has set nothing, and a message of ours is never dropped.
 * Runs under the lock of the sending socket; that lock is dropped before the
 * kernel carries out a redirect.
 */

/* REASON_NONE: this message may be redirected. */
static __always_inline u32 verdict(struct sk_msg_md *msg, struct conn *conn, void *tcp,
				   u32 write_seq)
{
	struct config *cfg = get_config();
	u32 copied_seq = 0, rmem = 0, rcvbuf = 0;
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
	if (cookie != conn->peer_cookie)
		return REASON_NO_PEER;
	/*
	 * Redirected bytes are read before TCP bytes that wait in the same socket, so
	 * the reader must have taken every byte that we wrote by TCP.
	 */
	read_field(&copied_seq, conn->peer_sk, OFF_COPIED_SEQ);
	if (copied_seq != write_seq)
		return REASON_UNREAD_TCP;
	/* The kernel charges redirected bytes to the reader but never compares. */
	read_field(&rmem, conn->peer_sk, OFF_RMEM_ALLOC);
	if (rmem) {
		if (msg->size < SMALL_WRITE)
			return REASON_SMALL_WRITES;
		read_field(&rcvbuf, conn->peer_sk, OFF_RCVBUF);
		if (rmem > rcvbuf)
			return REASON_BACK_PRESSURE;
	}
	/* kTLS: here we would see plaintext, there it would be taken for plaintext. */
	if (*(u64 *)(tcp + OFF_ULP_OPS))
		return REASON_ULP;
	read_field(&ulp, conn->peer_sk, OFF_ULP_OPS);
	if (ulp)
		return REASON_ULP;
	return REASON_NONE;
}

int sk_msg(struct sk_msg_md *msg)
{
	struct bpf_sock *sk = msg->sk;
	struct pair_key peer_key;
	struct conn *conn;
	u32 reason, write_seq;
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
	conn->tcp_bytes += (u32)(write_seq - conn->tcp_seq);
	conn->tcp_seq = write_seq;
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
	conn->reasons[reason & (REASON_MAX - 1)]++;
	return SK_PASS;
}
