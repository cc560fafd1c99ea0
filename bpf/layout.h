/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the kernel programs and user space both read and write. Every structure
 * has its mirror in sockaccel/datapath/layout.py; the sizes are asserted on both
 * sides. Padding is explicit: keys are compared byte by byte.
 */

/*
 * Key of sock_ops_map: the two initial sequence numbers of the handshake, seen
 * from one end. The peer's key is the same with the two swapped. Nobody but the
 * two ends knows both (RFC 6528), whatever addresses and ports they see.
 */
struct pair_key {
	u32 local_seq;  /* own snd_nxt at ESTABLISHED, host order */
	u32 remote_seq; /* own rcv_nxt at ESTABLISHED, host order */
	u64 netns;      /* namespace cookie where both addresses are loopback, else 0 */
};
_Static_assert(sizeof(struct pair_key) == 16, "mirrored in layout.py");

/* Key of handshakes: the same two numbers, by role, so that both ends name it alike. */
struct handshake_key {
	u32 client_seq;
	u32 server_seq;
};
_Static_assert(sizeof(struct handshake_key) == 8, "mirrored in layout.py");

enum handshake_state {
	HANDSHAKE_ANNOUNCED = 0, /* an in-scope listener here answered this SYN */
	HANDSHAKE_CLIENT_IN = 1, /* and its client, in scope too, has seen that */
};

struct handshake {
	u64 server_netns; /* 0: not announced, see syn_cookies */
	u64 listener_cookie;
	u64 client_netns;
	u64 client_sk; /* struct sock *, to be trusted only while client_cookie is found there */
	u64 client_cookie;
	u32 state;       /* enum handshake_state */
	u32 reason;      /* enum reason: why both ends stay on TCP, REASON_NONE if they do not */
	u32 local_ip;    /* of the client, folded to 32 bits */
	u32 remote_ip;   /* of the client, folded to 32 bits */
	u16 local_port;  /* of the client, host order */
	u16 remote_port; /* of the client, host order */
	u32 rmem_max;    /* of the client, for conn.peer_rmem_max */
};
_Static_assert(sizeof(struct handshake) == 64, "mirrored in layout.py");

/* What a client that waits for its peer finds in `peers` under its own key. */
struct peer {
	u64 sk;
	u64 cookie;
	u64 netns;
	u64 refresh_ns; /* for conn.refresh_ns */
	u32 rmem_max;   /* for conn.peer_rmem_max */
	u32 pad;
};
_Static_assert(sizeof(struct peer) == 40, "mirrored in layout.py");

/* Why something went by TCP. Mirrored by sockaccel.datapath.layout.Reason. */
enum reason {
	REASON_NONE = 0,
	/* counted once per connection */
	REASON_OUT_OF_SCOPE = 1,
	REASON_REMOTE = 2,
	REASON_NO_PEER = 3,
	REASON_PEER_OUT_OF_SCOPE = 4,
	REASON_MPTCP = 5,
	REASON_MAP_FULL = 6,
	REASON_FOREIGN_OWNER = 7,
	REASON_KERNEL = 8,
	REASON_DEFERRED_ACCEPT = 9,
	REASON_POLICY_SPLICE = 10,
	REASON_POLICY_FIONREAD = 11,
	REASON_POLICY_BLOCKING = 12,
	REASON_POLICY_UNUSUAL = 13,
	REASON_POLICY_USER = 14,
	REASON_POLICY_UNKNOWN = 15,
	/* counted once per message */
	REASON_BACK_PRESSURE = 16,
	REASON_UNREAD_TCP = 17,
	REASON_SMALL_WRITES = 18,
	REASON_DISABLED = 19,
	REASON_ULP = 20,
	REASON_SHARED_WRITERS = 21,
	REASON_CONNTRACK = 22,
	REASON_ZEROCOPY = 23,
	REASON_MAX = 32,
};
#define MESSAGE_REASONS 8 /* from REASON_BACK_PRESSURE on */

/* Indices of `counters`: sums over connections; those of live ones are in conns. */
enum counter {
	COUNTER_PAIRED = 0,
	COUNTER_UNPAIRED = 1,
	COUNTER_REDIRECTED_BYTES = 2,
	COUNTER_REDIRECTED_MESSAGES = 3,
	COUNTER_TCP_BYTES = 4,
	COUNTER_TCP_MESSAGES = 5,
	COUNTER_REASON = 8, /* + enum reason */
	COUNTER_MAX = COUNTER_REASON + REASON_MAX,
};

enum side {
	SIDE_CLIENT = 0,
	SIDE_SERVER = 1,
};

/*
 * What a program is known to do with its sockets. Known programs by the name of
 * their executable (known_programs), others as they are seen to behave (programs).
 */
enum trait {
	TRAIT_RECV = 1,      /* reads by recv() and never waits in it */
	TRAIT_SPLICE = 2,    /* reads by splice() */
	TRAIT_BLOCKING = 4,  /* waits in recv() */
	TRAIT_UNUSUAL = 8,   /* reads in a way that redirection changes: MSG_WAITALL and its like */
	TRAIT_FIONREAD = 16, /* asks FIONREAD, or takes a short read for an empty socket */
	TRAIT_FORCED = 32,   /* the user wants it accelerated, whatever else is known */
	TRAIT_REFUSED = 64,  /* the user wants it on TCP */
	TRAIT_NEVER = 128,   /* works on TCP alone, so that not even --policy all takes it */
};

/*
 * A program, as client or as server: its executable (the name, size and mtime are
 * the same in every container of an image, inode and device are not), the beginning
 * of its command line, because an interpreter says nothing of its script, and the
 * directory that the script's name may be relative to.
 */
struct program_key {
	char name[16]; /* of the executable, without its directory, cut after 15 characters */
	u64 size;      /* of the executable, bytes */
	u64 mtime;     /* of the executable, ns */
	u64 arguments; /* hash of the working directory and ARGUMENTS_SIZE bytes of command line */
	u32 side;      /* enum side */
	u32 pad;
};
_Static_assert(sizeof(struct program_key) == 48, "mirrored in layout.py");
#define ARGUMENTS_SIZE 256

/* What was learned. One byte each: CPUs that learn at the same time undo nothing. */
struct program {
	u8 earned; /* TRAIT_RECV */
	u8 splice;
	u8 blocking;
	u8 unusual;
	u32 connections; /* watched to their end, or long enough, and nothing but recv() seen */
};
_Static_assert(sizeof(struct program) == 8, "mirrored in layout.py");

/*
 * One connection's end in scope: enrolled, or kept on TCP by the policy. Lives and
 * dies with its socket. Written under the socket's lock.
 */
struct conn {
	struct pair_key key;
	u64 peer_sk;
	u64 peer_cookie; /* 0: the peer is not known (yet) */
	u64 peer_netns;
	u64 sk;
	u64 cookie;
	u64 netns;
	u64 redirected_bytes;
	u64 redirected_messages;
	u64 tcp_messages;
	u32 scope_epoch;
	u32 side;        /* enum side */
	u32 last_reason; /* enum reason of the last message, REASON_NONE if redirected */
	u32 refused;     /* enum reason: why it was not enrolled, REASON_NONE if it was */
	u32 reasons[MESSAGE_REASONS];
	u64 writer;     /* pid_tgid of the thread that wrote last */
	u32 queued_seq; /* write_seq up to which the peer is known to have queued all */
	u16 sharing;    /* enum sharing, see sk_msg.c */
	u16 quiet;      /* messages left in SHARING_TCP */
	u64 refresh_at; /* ktime, ns: when a message is to go by TCP, for conntrack's sake */
	u64 refresh_ns; /* so long after the one before */
	struct program_key program;
	u32 peer_rmem_max; /* net.ipv4.tcp_rmem[2] of the peer's namespace */
	u32 pad;
	u32 watch; /* enum watch, see reader.c */
	u32 reads; /* seen while watched */
};
_Static_assert(sizeof(struct conn) == 232, "mirrored in layout.py");

/* One line of the iterator `connections`. */
struct conn_record {
	struct conn conn;
	u64 inode;       /* of the socket's file, 0 without one */
	u64 bytes_acked; /* tcp_sock.bytes_acked */
	u32 write_seq;   /* tcp_sock.write_seq */
	u16 family;
	u16 local_port;  /* host order */
	u16 remote_port; /* network order */
	u8 state;        /* TCP_ESTABLISHED… */
	u8 in_map;       /* 1: a member of a sockmap now */
	u32 local_ip4;   /* network order */
	u32 remote_ip4;  /* network order */
	u8 local_ip6[16];
	u8 remote_ip6[16];
	u32 pad;
};
_Static_assert(sizeof(struct conn_record) == 304, "mirrored in layout.py");

#define CONFIG_ENABLED 1    /* off: every message takes TCP, no socket is enrolled */
#define CONFIG_SCOPE_ALL 2  /* every namespace is in scope */
#define CONFIG_PORTS 4      /* only listeners on a port that is set in `ports` */
#define CONFIG_POLICY_ALL 8 /* do not ask what a program is */
#define CONFIG_ONE_QUEUE 16 /* sk_skb is attached, and redirected and TCP bytes share a queue */
#define CONFIG_FIONREAD 32  /* and FIONREAD counts both on this kernel */

#define SCOPE_MEMBER 1     /* in the values of `scope` */
#define SCOPE_POLICY_ALL 2 /* CONFIG_POLICY_ALL for this namespace */
#define SCOPE_PORTS 4      /* only its listeners on a port that is in `netns_ports`, too */
#define SCOPE_BY_DOCKER 8  /* sockaccel put it there because of a container, and may remove it */
#define SCOPE_BY_NETNS 16  /* likewise, because --netns or --scope all names it */

#define LOCAL_PRESENT 1 /* in the values of `local_networks` */
#define LOCAL_OURS 2    /* sockaccel put it there, and may remove it */

#define OVERRIDE_EXCLUDE 1 /* the values of `overrides` */
#define OVERRIDE_INCLUDE 2

/* The one element of `config`. */
struct config {
	u32 flags;
	u32 scope_epoch; /* raised whenever `scope` changes: live connections look again */
	u64 instance;    /* whose: a hash of the pin directory, for user space alone */
};
_Static_assert(sizeof(struct config) == 16, "mirrored in layout.py");

/* The one element of `options`: how it was enabled, for user space alone. */
struct options {
	char json[16384];
};

/* Key of local_networks; IPv4 as ::ffff:a.b.c.d with 96 added to its prefix. */
struct network {
	u32 prefix_len;
	u8 address[16];
};
_Static_assert(sizeof(struct network) == 20, "mirrored in layout.py");

/* Key of netns_ports: a range of ports is at most 30 prefixes. */
struct netns_port {
	u32 prefix_len; /* 64 + how many bits of the port are fixed */
	u8 netns[8];    /* cookie, as the CPU stores it */
	u8 port[2];     /* network order, so that a prefix is a range */
	u8 pad[2];      /* beyond every prefix */
};
_Static_assert(sizeof(struct netns_port) == 16, "mirrored in layout.py");

/* Key of overrides: a container's name, ending in NUL. */
struct container_name {
	char name[128];
};
_Static_assert(sizeof(struct container_name) == 128, "mirrored in layout.py");

#define PORT_WORDS 1024 /* 65536 ports in u64 */
