/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The comparator: socket redirection as it is usually published. Both ends enter
 * the map under their addresses and ports, every message goes to whoever is found
 * under the mirrored key. No scope, no guard, no back-pressure, no off switch: it
 * is here to tell what safety costs, and is for nothing else.
 */
struct tuple {
	u32 local_ip4;   /* network order */
	u32 remote_ip4;  /* network order */
	u32 local_port;  /* host order */
	u32 remote_port; /* host order */
};

/* Spelt out for its 8-byte values, as in bpf/maps.h. */
struct textbook_map_table_t {
	struct tuple key;
	u64 leaf;
	int (*update)(struct tuple *, u64 *);
	int (*delete)(struct tuple *);
	int (*sock_hash_update)(void *, void *, u64);
	int (*msg_redirect_hash)(void *, void *, u64);
	int (*sk_redirect_hash)(void *, void *, u64);
	u32 max_entries;
};
__attribute__((section("maps/sockhash"))) struct textbook_map_table_t textbook_map = {
	.max_entries = 65536};
BPF_ANNOTATE_KV_PAIR(textbook_map, struct tuple, u64);

int textbook_ops(struct bpf_sock_ops *ctx)
{
	struct tuple key = {};

	if (ctx->op != BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB &&
	    ctx->op != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB)
		return 1;
	key.local_ip4 = ctx->local_ip4;
	key.remote_ip4 = ctx->remote_ip4;
	key.local_port = ctx->local_port;
	key.remote_port = bpf_ntohl(ctx->remote_port);
	textbook_map.sock_hash_update(ctx, &key, BPF_NOEXIST);
	return 1;
}

int textbook_msg(struct sk_msg_md *msg)
{
	struct tuple key = {};

	key.local_ip4 = msg->remote_ip4;
	key.remote_ip4 = msg->local_ip4;
	key.local_port = bpf_ntohl(msg->remote_port);
	key.remote_port = msg->local_port;
	textbook_map.msg_redirect_hash(msg, &key, BPF_F_INGRESS);
	return SK_PASS;
}
