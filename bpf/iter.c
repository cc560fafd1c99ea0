/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * connections: one struct conn_record for every struct conn, for those who read
 * the pinned iterator. Covers sockets that were closed by their process and
 * still have something to say to their peer; these have left the map (in_map 0).
 */
struct bpf_iter_meta;
struct bpf_iter__bpf_sk_storage_map {
	struct bpf_iter_meta *meta;
	void *map;
	void *sk;
	struct conn *value;
};
struct bpf_iter_meta {
	void *seq;
	u64 session_id;
	u64 seq_num;
};

int bpf_iter__bpf_sk_storage_map(struct bpf_iter__bpf_sk_storage_map *ctx)
{
	struct conn_record record = {};
	struct conn *conn = ctx->value;
	void *seq = ctx->meta->seq;
	u64 sk = (u64)ctx->sk, socket = 0, psock = 0;

	/* Without a cookie: a client whose handshake has not ended. */
	if (!conn || !sk || !conn->cookie)
		return 0;
	__builtin_memcpy(&record.conn, conn, sizeof(record.conn));
	read_field(&record.write_seq, sk, OFF_WRITE_SEQ);
	read_field(&record.bytes_acked, sk, OFF_BYTES_ACKED);
	read_field(&record.family, sk, OFF_FAMILY);
	read_field(&record.local_port, sk, OFF_NUM);
	read_field(&record.remote_port, sk, OFF_DPORT);
	read_field(&record.state, sk, OFF_STATE);
	read_field(&record.local_ip4, sk, OFF_RCV_SADDR);
	read_field(&record.remote_ip4, sk, OFF_DADDR);
#ifdef OFF_V6_RCV_SADDR
	read_field(&record.local_ip6, sk, OFF_V6_RCV_SADDR);
#endif
#ifdef OFF_V6_DADDR
	read_field(&record.remote_ip6, sk, OFF_V6_DADDR);
#endif
	read_field(&psock, sk, OFF_USER_DATA);
	record.in_map = psock != 0;
	read_field(&socket, sk, OFF_SOCKET);
	if (socket)
		read_field(&record.inode, socket, OFF_SOCKET_INODE);
	bpf_seq_write(seq, &record, sizeof(record));
	return 0;
}
