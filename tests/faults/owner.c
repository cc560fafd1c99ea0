/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Another owner of sockets: enters every new connection into a map of its own, whose
 * sk_msg program looks at the messages and lets them pass, as observers do.
 */
struct owner_map_table_t {
	u64 key;
	u64 leaf;
	int (*update)(u64 *, u64 *);
	int (*delete)(u64 *);
	int (*sock_hash_update)(void *, void *, u64);
	int (*msg_redirect_hash)(void *, void *, u64);
	int (*sk_redirect_hash)(void *, void *, u64);
	u32 max_entries;
};
__attribute__((section("maps/sockhash"))) struct owner_map_table_t owner_map = {.max_entries =
											65536};
BPF_ANNOTATE_KV_PAIR(owner_map, u64, u64);

int owner_ops(struct bpf_sock_ops *ctx)
{
	u64 key;

	if (ctx->op != BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB &&
	    ctx->op != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB)
		return 1;
	key = bpf_get_socket_cookie(ctx);
	owner_map.sock_hash_update(ctx, &key, BPF_NOEXIST);
	return 1;
}

int owner_msg(struct sk_msg_md *msg)
{
	return SK_PASS;
}
