/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The maps. MAX_SOCKETS and MAX_HANDSHAKES come from the loader.
 *
 * BCC's BPF_SOCKHASH declares 4-byte values, for which the kernel refuses
 * look-ups from user space (ENOSPC); with 8 bytes it answers with the socket
 * cookie. Hence the table is spelt out here.
 */
struct sock_ops_map_table_t {
	struct pair_key key;
	u64 leaf;
	int (*update)(struct pair_key *, u64 *);
	int (*delete)(struct pair_key *);
	int (*sock_hash_update)(void *, void *, u64);
	int (*msg_redirect_hash)(void *, void *, u64);
	int (*sk_redirect_hash)(void *, void *, u64);
	u32 max_entries;
};
/* pair_key -> socket. sock_ops writes, sk_msg redirects through it. */
__attribute__((section("maps/sockhash"))) struct sock_ops_map_table_t sock_ops_map = {
	.max_entries = MAX_SOCKETS};
BPF_ANNOTATE_KV_PAIR(sock_ops_map, struct pair_key, u64);

/*
 * socket -> struct conn. sock_ops creates it, sk_msg counts in it, reader watches by
 * it, the iterator reads it.
 */
BPF_SK_STORAGE(conns, struct conn);

/*
 * handshake_key -> struct handshake, from SYN to ESTABLISHED. LRU: a flood of SYNs
 * pushes out the oldest, whose connection then stays on TCP.
 */
BPF_F_TABLE("lru_hash", struct handshake_key, struct handshake, handshakes, MAX_HANDSHAKES, 0);

/*
 * pair_key of a client -> its peer, from the server's ESTABLISHED to the client's
 * first message or close.
 */
BPF_F_TABLE("hash", struct pair_key, struct peer, peers, MAX_SOCKETS, BPF_F_NO_PREALLOC);

/* 0 -> until when (ktime, ns) listeners here are taken to answer with SYN cookies. */
BPF_ARRAY(syn_cookies, u64, 1);

/* cookie of a listener -> the program that called listen(), or has it since before. */
BPF_F_TABLE("lru_hash", u64, struct program_key, listeners, 16384, 0);

/* name of an executable -> enum trait. What sockaccel ships and the user's word. */
struct program_name {
	char name[16];
};
BPF_F_TABLE("hash", struct program_name, u32, known_programs, 1024, BPF_F_NO_PREALLOC);

/* What was learned of other programs. */
BPF_F_TABLE("lru_hash", struct program_key, struct program, programs, 4096, 0);

/* Room for a command line that the stack has not. */
struct arguments {
	u64 words[ARGUMENTS_SIZE / 8];
};
BPF_PERCPU_ARRAY(scratch, struct arguments, 1);

/* namespace cookie -> SCOPE_…. User space writes; sock_ops reads. */
BPF_F_TABLE("hash", u64, u32, scope, 65536, BPF_F_NO_PREALLOC);

/* namespace and port of a listener -> in scope, where SCOPE_PORTS is set. User space writes. */
BPF_F_TABLE("lpm_trie", struct netns_port, u32, netns_ports, 65536, BPF_F_NO_PREALLOC);

/*
 * name of a container -> OVERRIDE_…: the user's word. For user space alone; it is here
 * so that it lives as long as the datapath does, and bpftool shows it.
 */
BPF_F_TABLE("hash", struct container_name, u32, overrides, 4096, BPF_F_NO_PREALLOC);

/* bit of the listener's bound port -> in scope, where CONFIG_PORTS is set. */
BPF_ARRAY(ports, u64, PORT_WORDS);

/* Addresses that this host answers for; tells `remote` from `peer-out-of-scope`. */
BPF_F_TABLE("lpm_trie", struct network, u32, local_networks, 65536, BPF_F_NO_PREALLOC);

/* enum counter -> sum over closed connections. */
BPF_PERCPU_ARRAY(counters, u64, COUNTER_MAX);

BPF_ARRAY(config, struct config, 1);

/* What `enable` was asked for; a second one compares. */
BPF_ARRAY(options, struct options, 1);
