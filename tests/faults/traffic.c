/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Traffic that proves itself: many connections, both directions at once, and at every
 * byte it is known which one belongs there.
 *
 *   traffic listen  ADDRESS PORT SHARED [OPTION VALUE]…
 *   traffic connect ADDRESS PORT SHARED [OPTION VALUE]… -result FILE
 *
 * SHARED is a file that both sides map: what each has sent and received, so that nothing
 * has to be told over the connections under test. The connecting side watches for stalls,
 * and writes the result as JSON when all is done. A number in SHARED tells both to stop.
 *
 * The stream of a connection is a row of 64-bit words, each an invertible scramble of
 * (connection, direction, index). So a word that stands in the wrong place says where it
 * belongs, and the first word of a stream says which connection this is.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

#define LARGEST 262144      /* bytes of one write or read */
#define AFTER_PARTIAL 65536 /* of one that goes on after a partial write */
#define WINDOW (1 << 20)    /* bytes looked at after the first wrong one */
#define SMALL_BUFFER 8192   /* SO_SNDBUF and SO_RCVBUF of some */
#define CONNECTING_MAX 256  /* below every listen backlog */
#define NAP_US 20000        /* what a reader sleeps now and then */
#define SECOND 1000000000ULL
#define OPEN_END (~0ULL)

enum operation { CONNECT, SEND, RECV, ACCEPT, HELLO, OPERATIONS };
static const char *const operation_names[] = {"connect", "send", "recv", "accept", "hello"};

enum ending { RUNNING = 0, ENDED = 1, FAILED = 2 };
enum wrong { RIGHT = 0, WRONG, LOST, DUPLICATED, REORDERED, CORRUPT, MISDELIVERED };
static const char *const wrong_names[] = {"right",     "unclassified", "lost",        "duplicated",
					  "reordered", "corrupt",      "misdelivered"};
enum stall { STALL_CONNECT, STALL_DELIVERY, STALL_WRITE, STALL_END };
static const char *const stall_names[] = {"connect", "delivery", "write", "end of stream"};

/* One direction of a connection; 0 is from client to server. */
struct way {
	u64 sent;     /* accepted by send(); the sender writes it, and fin and blocked */
	u64 got;      /* received, and right; the receiver writes it and all the rest */
	u64 wrong_at; /* offset of the first wrong byte */
	u64 found;    /* and where that byte belongs */
	u64 bytes_wrong;
	u32 fin, eof; /* enum ending, at the sender and the receiver */
	u32 wrong;    /* enum wrong */
	u32 blocked;  /* the sender waits for room */
	u32 asleep;   /* the receiver does not read for a while, on purpose */
};

struct slot {
	struct way way[2];
	u64 opened_at;
	u32 port; /* the client's */
	u32 used, established;
};

#define ERRNO_MAX 134
struct shared {
	u32 stop; /* 1: come to an end; 2: and leave, now */
	u32 listening;
	u64 stall_ns; /* of the connection that stalls longest at this moment */
	u32 stall_id, stall_way, stall_kind, started;
	u32 spurious[2]; /* EAGAIN from a blocking recv(), by side */
	u32 errors[OPERATIONS][ERRNO_MAX];
	u32 blocking[2], polling[2]; /* endpoints, by side */
	_Alignas(4096) struct slot slots[];
};

_Static_assert(sizeof(struct slot) == 152, "read by traffic.py");
_Static_assert(offsetof(struct slot, port) == 136, "read by traffic.py");

static struct shared *shared;
static int side; /* 0 connects, 1 listens; the direction it sends in */
static u32 connections = 16, total, ports = 4, blocking_percent;
static u64 most_bytes, think_us = 20000, nap_us = NAP_US, grace_s = 15, long_lived = 1;
static struct sockaddr_in target;

static u64 now_ns(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * SECOND + time.tv_nsec;
}

static void die(const char *what)
{
	fprintf(stderr, "traffic: cannot %s: %s\n", what, strerror(errno));
	_exit(1);
}

static void count_error(enum operation operation, int error)
{
	__atomic_fetch_add(&shared->errors[operation][error % ERRNO_MAX], 1, __ATOMIC_RELAXED);
}

/* --- The stream ------------------------------------------------------------------------ */

#define FACTOR_1 0x9e3779b97f4a7c15ULL
#define FACTOR_2 0xd6e8feb86659fd93ULL

static u64 scramble(u64 x)
{
	x = (x ^ x >> 32) * FACTOR_1;
	x = (x ^ x >> 32) * FACTOR_2;
	return x ^ x >> 32;
}

/* Of an odd number, modulo 2^64: each step doubles the number of right bits. */
static u64 inverse(u64 factor)
{
	u64 result = factor;

	for (int i = 0; i < 6; i++)
		result *= 2 - factor * result;
	return result;
}

static u64 unscramble(u64 x)
{
	x = (x ^ x >> 32) * inverse(FACTOR_2);
	x = (x ^ x >> 32) * inverse(FACTOR_1);
	return x ^ x >> 32;
}

static u64 name_of(u32 id, int way, u64 index)
{
	return (u64)id << 40 | (u64)way << 39 | index;
}

static void fill(u8 *to, u32 id, int way, u64 offset, size_t size)
{
	u64 name = name_of(id, way, offset / 8), word;
	size_t skip = offset % 8, part;

	if (skip) {
		word = scramble(name++) >> 8 * skip;
		part = size < 8 - skip ? size : 8 - skip;
		memcpy(to, &word, part);
		to += part;
		size -= part;
	}
	for (; size >= 8; size -= 8, to += 8) {
		word = scramble(name++);
		memcpy(to, &word, 8);
	}
	word = scramble(name);
	memcpy(to, &word, size);
}

/* How many bytes from the start are those that belong at the offset. */
static size_t matching(const u8 *data, size_t size, u32 id, int way, u64 offset)
{
	u8 right[4096];

	for (size_t done = 0; done < size;) {
		size_t part = size - done < sizeof(right) ? size - done : sizeof(right);

		fill(right, id, way, offset + done, part);
		if (memcmp(data + done, right, part)) {
			size_t i = 0;

			while (data[done + i] == right[i])
				i++;
			return done + i;
		}
		done += part;
	}
	return size;
}

struct place {
	u32 id;
	int way;
	u64 offset;
};

/* Finds where the first of these bytes belongs; false when nowhere. */
static int locate(const u8 *data, size_t size, struct place *place)
{
	for (size_t shift = 0; shift < 8 && shift + 8 <= size; shift++) {
		u64 word, name, offset;

		memcpy(&word, data + shift, 8);
		name = unscramble(word);
		place->id = name >> 40;
		place->way = name >> 39 & 1;
		offset = (name & ((1ULL << 39) - 1)) * 8;
		if (place->id >= total || offset < shift ||
		    offset > shared->slots[place->id].way[place->way].sent + LARGEST)
			continue;
		place->offset = offset - shift;
		if (matching(data, shift, place->id, place->way, place->offset) == shift)
			return 1;
	}
	return 0;
}

/* What comes in on one direction. */
struct intake {
	u8 *window; /* from the first wrong byte on */
	size_t size;
};

/*
 * Says what happened at the first wrong byte, from what came after it. Bytes that were
 * skipped and come later were reordered; if they do not, they were lost.
 */
static void classify(struct intake *intake, struct way *way, u32 id, int number)
{
	u64 expected = way->got, skipped_to = 0, late = 0;
	size_t at = 0;
	struct place place;

	if (!locate(intake->window, intake->size, &place)) {
		way->wrong = CORRUPT;
		way->bytes_wrong = intake->size;
		return;
	}
	way->found = place.offset;
	if (place.id != id || place.way != number) {
		way->wrong = MISDELIVERED;
		way->bytes_wrong =
			matching(intake->window, intake->size, place.id, place.way, place.offset);
		return;
	}
	if (place.offset < expected) {
		way->wrong = DUPLICATED;
		way->bytes_wrong = matching(intake->window, intake->size, id, number, place.offset);
		if (way->bytes_wrong > expected - place.offset)
			way->bytes_wrong = expected - place.offset;
		return;
	}
	skipped_to = place.offset;
	while (at < intake->size && locate(intake->window + at, intake->size - at, &place)) {
		size_t run = matching(intake->window + at, intake->size - at, place.id, place.way,
				      place.offset);

		if (place.id != id || place.way != number || !run)
			break;
		if (place.offset < skipped_to && place.offset >= expected)
			late += run < skipped_to - place.offset ? run : skipped_to - place.offset;
		at += run;
	}
	way->wrong = late ? REORDERED : LOST;
	way->bytes_wrong = late ? late : skipped_to - expected;
}

/* Checks what was received; true while the stream is right, or its fault still to be named. */
static int take(struct intake *intake, struct way *way, u32 id, int number, const u8 *data,
		size_t size)
{
	size_t good = 0;

	if (!intake->window) {
		good = matching(data, size, id, number, way->got);
		way->got += good;
		if (good == size)
			return 1;
		way->wrong_at = way->got;
		way->wrong = WRONG;
		intake->window = malloc(WINDOW);
	}
	size -= good;
	if (size > WINDOW - intake->size)
		size = WINDOW - intake->size;
	memcpy(intake->window + intake->size, data + good, size);
	intake->size += size;
	if (intake->size < WINDOW)
		return 1;
	classify(intake, way, id, number);
	return 0;
}

static void finish_intake(struct intake *intake, struct way *way, u32 id, int number,
			  enum ending ending)
{
	if (intake->window && way->wrong == WRONG)
		classify(intake, way, id, number);
	free(intake->window);
	intake->window = NULL;
	way->eof = ending;
}

/* --- Chance ------------------------------------------------------------------------------ */

static u32 chance(u64 *state, u32 below)
{
	*state += FACTOR_1;
	return (u32)(((scramble(*state) >> 32) * below) >> 32);
}

/* As many of 1 to 2 bytes as of 128 to 256 KiB. */
static u32 any_size(u64 *state)
{
	u32 bits = chance(state, 18);

	return (1U << bits) + chance(state, (1U << bits) + 1);
}

static u64 fixed_goal(u32 id, int way)
{
	u64 state = scramble(name_of(id, way, 77));
	u64 goal = (u64)any_size(&state) * (1 + chance(&state, 64));

	if (goal > most_bytes)
		goal = 1 + chance(&state, most_bytes);
	return way ? goal : 8 + goal;
}

/* --- One endpoint ------------------------------------------------------------------------ */

struct conn {
	int fd;
	u32 id;
	struct slot *slot; /* NULL: not known yet, at the listening side */
	struct intake intake;
	u64 random;
	u64 goal;       /* bytes to send */
	u32 chunk_left; /* of the current write */
	u8 hello[8];
	u32 hello_size;
	/* of a polling one */
	int edge; /* one edge-triggered registration, and a short read is trusted; or one-shot */
	int connecting, readable, writable, hangup;
	u64 due_read, due_write;
	u64 due;
	int heap_at;
	struct conn *next, *before;
};

static struct way *out_way(struct conn *conn)
{
	return &conn->slot->way[side];
}

static struct way *in_way(struct conn *conn)
{
	return &conn->slot->way[!side];
}

/* The side that ends a long connection first; the other has something left to say. */
static int leads(struct conn *conn)
{
	return (conn->id % 4 == 3) == side;
}

static void begin(struct conn *conn, u32 id)
{
	conn->id = id;
	conn->slot = &shared->slots[id];
	conn->random ^= scramble(id * 2 + side);
	conn->goal = long_lived ? OPEN_END : fixed_goal(id, side);
}

/* Once the end is near the goal of a long connection is set. */
static void set_goal(struct conn *conn)
{
	if (conn->goal != OPEN_END)
		return;
	if (leads(conn) ? shared->stop : in_way(conn)->eof)
		conn->goal = out_way(conn)->sent + conn->chunk_left +
			     (leads(conn) ? 0 : any_size(&conn->random));
	if (conn->goal < 8)
		conn->goal = 8;
}

/*
 * Before connect() and listen(): a buffer that is made smaller later makes TCP itself
 * drop what its window has let in. The second of every four ports is for small buffers.
 */
static void set_options(int fd, u32 number)
{
	int on = 1, size = SMALL_BUFFER;

	if (number & 4)
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	if (number % ports % 4 == 1) {
		setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
		setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
	}
}

static int hello(struct conn *conn, const u8 *data)
{
	u64 word, name;

	memcpy(&word, data, 8);
	name = unscramble(word);
	if (name >> 40 >= total || name & ((1ULL << 40) - 1) ||
	    shared->slots[name >> 40].used != 1) {
		count_error(HELLO, EPROTO);
		return 0;
	}
	begin(conn, name >> 40);
	conn->slot->used = 2;
	in_way(conn)->got = 8;
	return 1;
}

static u32 ask_for(struct conn *conn)
{
	if (!conn->slot)
		return 8 - conn->hello_size;
	return chance(&conn->random, 8) ? 65536 : any_size(&conn->random);
}

/* Takes in what recv() gave; false when the connection cannot go on. */
static int received(struct conn *conn, const u8 *data, size_t size)
{
	if (conn->slot)
		return take(&conn->intake, in_way(conn), conn->id, !side, data, size);
	memcpy(conn->hello + conn->hello_size, data, size);
	conn->hello_size += size;
	return conn->hello_size < 8 || hello(conn, conn->hello);
}

static void ended_in(struct conn *conn, enum ending ending)
{
	if (conn->slot)
		finish_intake(&conn->intake, in_way(conn), conn->id, !side, ending);
}

static void failed(struct conn *conn, enum operation operation, int error)
{
	/* After a wrong byte either side gives up; what follows from it is not counted. */
	if (!conn->slot || !(out_way(conn)->wrong || in_way(conn)->wrong))
		count_error(operation, error);
	if (!conn->slot)
		return;
	if (!in_way(conn)->eof)
		ended_in(conn, FAILED);
	if (!out_way(conn)->fin)
		out_way(conn)->fin = FAILED;
	out_way(conn)->blocked = 0;
}

static u32 next_chunk(struct conn *conn)
{
	u64 left = conn->goal - out_way(conn)->sent;
	u32 size = any_size(&conn->random);

	/* The first write of a client names the connection. */
	if (!side && !out_way(conn)->sent && size < 8)
		size = 8;
	return size < left ? size : left;
}

static u64 pause_ns(struct conn *conn)
{
	if (!think_us || chance(&conn->random, 4))
		return 0;
	return 1000ULL * chance(&conn->random, 8 * think_us);
}

/* Most reads are followed by the next; some by a short sleep, few by one of up to nap_us. */
static u64 nap_ns(u64 *random)
{
	if (chance(random, 512) || shared->stop)
		return 0;
	return 1000ULL * (chance(random, 8) ? NAP_US : chance(random, nap_us));
}

static int take_id(u32 *id)
{
	if (shared->stop)
		return 0;
	*id = __atomic_fetch_add(&shared->started, 1, __ATOMIC_RELAXED);
	if (*id < total)
		return 1;
	__atomic_fetch_sub(&shared->started, 1, __ATOMIC_RELAXED);
	return 0;
}

static int new_client(u32 id, int flags)
{
	int fd = socket(AF_INET, SOCK_STREAM | flags, 0);

	if (fd < 0)
		die("make a socket");
	set_options(fd, id);
	shared->slots[id].opened_at = now_ns();
	shared->slots[id].used = 1;
	return fd;
}

static struct sockaddr_in target_of(u32 id)
{
	struct sockaddr_in address = target;

	address.sin_port = htons(ntohs(target.sin_port) + id % ports);
	return address;
}

static void established(struct conn *conn)
{
	struct sockaddr_in own;
	socklen_t length = sizeof(own);

	getsockname(conn->fd, (struct sockaddr *)&own, &length);
	conn->slot->port = ntohs(own.sin_port);
	conn->slot->established = 1;
}

/* --- Blocking endpoints: a thread that reads and one that writes --------------------------- */

static void *blocking_writer(void *argument)
{
	struct conn *conn = argument;
	struct way *way = out_way(conn);
	u8 *buffer = malloc(LARGEST);
	u64 random = conn->random ^ 1;

	while (set_goal(conn), way->sent < conn->goal) {
		u64 nap;
		ssize_t done;

		if (!conn->chunk_left) {
			conn->chunk_left = next_chunk(conn);
			fill(buffer, conn->id, side, way->sent, conn->chunk_left);
		}
		way->blocked = 1;
		done = send(conn->fd, buffer, conn->chunk_left, MSG_NOSIGNAL);
		way->blocked = 0;
		if (done < 0) {
			if (!way->wrong && !in_way(conn)->wrong)
				count_error(SEND, errno);
			way->fin = FAILED;
			break;
		}
		way->sent += done;
		conn->chunk_left -= done;
		memmove(buffer, buffer + done, conn->chunk_left);
		if (conn->chunk_left || !think_us || chance(&random, 4))
			continue;
		/* In short naps: the end may come meanwhile. */
		for (nap = chance(&random, 8 * think_us); nap && conn->goal == OPEN_END;) {
			u64 step = nap < 50000 ? nap : 50000;

			usleep(step);
			nap -= step;
			set_goal(conn);
		}
	}
	if (!way->fin) {
		way->fin = ENDED;
		if (shutdown(conn->fd, SHUT_WR))
			count_error(SEND, errno);
	}
	free(buffer);
	return NULL;
}

static void start_thread(pthread_t *thread, void *(*function)(void *), void *argument)
{
	pthread_attr_t attributes;

	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, 128 << 10);
	errno = pthread_create(thread, &attributes, function, argument);
	if (errno)
		die("start a thread");
	pthread_attr_destroy(&attributes);
}

static void run_blocking(struct conn *conn)
{
	u8 *buffer = malloc(LARGEST);
	pthread_t writer;
	int writing = 0;
	u64 random = conn->random ^ 2;

	__atomic_fetch_add(&shared->blocking[side], 1, __ATOMIC_RELAXED);
	for (;;) {
		u32 size, nap;
		ssize_t done;

		if (conn->slot && !writing) {
			start_thread(&writer, blocking_writer, conn);
			writing = 1;
		}
		size = !conn->slot          ? 8 - conn->hello_size
		       : chance(&random, 8) ? 65536
					    : any_size(&random);
		done = recv(conn->fd, buffer, size, 0);
		if (done < 0 && errno == EAGAIN) {
			__atomic_fetch_add(&shared->spurious[side], 1, __ATOMIC_RELAXED);
			continue;
		}
		if (done < 0) {
			if (!conn->slot || !(in_way(conn)->wrong || out_way(conn)->wrong))
				count_error(RECV, errno);
			ended_in(conn, FAILED);
			break;
		}
		if (!done) {
			if (!conn->slot)
				count_error(HELLO, ENODATA);
			ended_in(conn, ENDED);
			break;
		}
		if (!received(conn, buffer, done)) {
			ended_in(conn, FAILED);
			shutdown(conn->fd, SHUT_RDWR);
			break;
		}
		nap = nap_ns(&random) / 1000;
		if (nap && conn->slot) {
			in_way(conn)->asleep = 1;
			usleep(nap);
			in_way(conn)->asleep = 0;
		}
	}
	if (writing)
		pthread_join(writer, NULL);
	close(conn->fd);
	free(buffer);
}

static void *blocking_server(void *argument)
{
	run_blocking(argument);
	free(argument);
	return NULL;
}

static void *blocking_clients(void *unused)
{
	u32 id;

	(void)unused;
	while (take_id(&id)) {
		struct conn conn = {.fd = new_client(id, 0), .heap_at = -1};
		struct sockaddr_in address = target_of(id);

		begin(&conn, id);
		if (connect(conn.fd, (struct sockaddr *)&address, sizeof(address))) {
			failed(&conn, CONNECT, errno);
			close(conn.fd);
			continue;
		}
		established(&conn);
		run_blocking(&conn);
	}
	return NULL;
}

/* --- Polling endpoints: all in one thread --------------------------------------------------- */

static int poller;
static struct conn **heap, *first;
static u32 heap_size, open_count, connecting_count;
static u8 buffer[LARGEST];

static void heap_put(u32 at, struct conn *conn)
{
	heap[at] = conn;
	conn->heap_at = at;
}

static void heap_up(u32 at)
{
	struct conn *conn = heap[at];

	while (at && heap[(at - 1) / 2]->due > conn->due) {
		heap_put(at, heap[(at - 1) / 2]);
		at = (at - 1) / 2;
	}
	heap_put(at, conn);
}

static void heap_down(u32 at)
{
	struct conn *conn = heap[at];

	for (;;) {
		u32 child = 2 * at + 1;

		if (child >= heap_size)
			break;
		if (child + 1 < heap_size && heap[child + 1]->due < heap[child]->due)
			child++;
		if (heap[child]->due >= conn->due)
			break;
		heap_put(at, heap[child]);
		at = child;
	}
	heap_put(at, conn);
}

static void unschedule(struct conn *conn)
{
	int at = conn->heap_at;

	if (at < 0)
		return;
	conn->heap_at = -1;
	heap_size--;
	if ((u32)at == heap_size)
		return;
	heap_put(at, heap[heap_size]);
	heap_up(at);
	heap_down(heap[at]->heap_at);
}

static void schedule(struct conn *conn, u64 due)
{
	unschedule(conn);
	conn->due = due;
	heap[heap_size] = conn;
	heap_up(heap_size++);
}

static void add(struct conn *conn)
{
	struct epoll_event event = {.data.ptr = conn};

	__atomic_fetch_add(&shared->polling[side], 1, __ATOMIC_RELAXED);
	conn->heap_at = -1;
	conn->next = first;
	if (first)
		first->before = conn;
	first = conn;
	open_count++;
	event.events = conn->edge ? EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET
				  : EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLONESHOT;
	if (epoll_ctl(poller, EPOLL_CTL_ADD, conn->fd, &event))
		die("poll a socket");
}

static void discard(struct conn *conn)
{
	unschedule(conn);
	if (conn->connecting)
		connecting_count--;
	if (conn->next)
		conn->next->before = conn->before;
	if (conn->before)
		conn->before->next = conn->next;
	else
		first = conn->next;
	open_count--;
	close(conn->fd);
	free(conn->intake.window);
	free(conn);
}

/* False when the connection is no more. */
static int read_some(struct conn *conn, u64 now)
{
	if (conn->slot)
		in_way(conn)->asleep = now < conn->due_read;
	for (int turn = 0; turn < 8 && conn->readable && now >= conn->due_read; turn++) {
		u32 size = ask_for(conn);
		ssize_t done = recv(conn->fd, buffer, size, 0);

		if (done < 0 && errno == EAGAIN) {
			conn->readable = 0;
		} else if (done < 0) {
			failed(conn, RECV, errno);
			return 0;
		} else if (!done) {
			if (!conn->slot) {
				count_error(HELLO, ENODATA);
				return 0;
			}
			ended_in(conn, ENDED);
			conn->readable = 0;
			conn->due_write = 0;
			return 1;
		} else {
			if (!received(conn, buffer, done)) {
				failed(conn, RECV, EPROTO);
				return 0;
			}
			if (done < size && !conn->hangup)
				conn->readable = 0;
			conn->due_read = now + nap_ns(&conn->random);
			if (conn->slot)
				in_way(conn)->asleep = conn->due_read > now;
		}
	}
	return 1;
}

static int write_some(struct conn *conn, u64 now)
{
	struct way *way = out_way(conn);

	for (int turn = 0; turn < 4 && conn->writable && !way->fin && now >= conn->due_write;
	     turn++) {
		u32 size;
		ssize_t done;

		set_goal(conn);
		if (way->sent >= conn->goal) {
			way->fin = ENDED;
			if (shutdown(conn->fd, SHUT_WR)) {
				way->fin = 0;
				failed(conn, SEND, errno);
				return 0;
			}
			break;
		}
		size = conn->chunk_left;
		if (!size)
			size = conn->chunk_left = next_chunk(conn);
		else if (size > AFTER_PARTIAL)
			size = AFTER_PARTIAL;
		fill(buffer, conn->id, side, way->sent, size);
		done = send(conn->fd, buffer, size, MSG_NOSIGNAL);
		if (done < 0 && errno != EAGAIN) {
			failed(conn, SEND, errno);
			return 0;
		}
		if (done > 0) {
			way->sent += done;
			conn->chunk_left -= done;
		}
		conn->writable = done == (ssize_t)size;
		way->blocked = !conn->writable;
		if (!conn->chunk_left && !(long_lived && conn->goal != OPEN_END))
			conn->due_write = now + pause_ns(conn);
	}
	return 1;
}

static void finish_connecting(struct conn *conn)
{
	int error = 0;
	socklen_t length = sizeof(error);

	getsockopt(conn->fd, SOL_SOCKET, SO_ERROR, &error, &length);
	if (error) {
		failed(conn, CONNECT, error);
		discard(conn);
		return;
	}
	conn->connecting = 0;
	connecting_count--;
	established(conn);
}

static void rearm(struct conn *conn)
{
	struct epoll_event event = {.data.ptr = conn, .events = EPOLLONESHOT};

	if (!conn->readable && !(conn->slot && in_way(conn)->eof))
		event.events |= EPOLLIN;
	if (!conn->writable)
		event.events |= EPOLLOUT;
	if (epoll_ctl(poller, EPOLL_CTL_MOD, conn->fd, &event))
		die("poll a socket");
}

static void service(struct conn *conn)
{
	u64 now = now_ns(), due = OPEN_END;

	if (conn->connecting)
		return;
	if (!read_some(conn, now) || (conn->slot && !write_some(conn, now)) ||
	    (conn->slot && in_way(conn)->eof && out_way(conn)->fin)) {
		discard(conn);
		return;
	}
	if (conn->readable || conn->due_read > now)
		due = conn->due_read;
	if (conn->slot && conn->writable && !out_way(conn)->fin && conn->due_write < due)
		due = conn->due_write;
	if (due != OPEN_END)
		schedule(conn, due);
	else
		unschedule(conn);
	if (!conn->edge)
		rearm(conn);
}

static void on_event(struct conn *conn, u32 events)
{
	if (conn->connecting) {
		if (!(events & (EPOLLOUT | EPOLLERR | EPOLLHUP)))
			return;
		if (events & EPOLLERR) {
			finish_connecting(conn);
			return;
		}
		finish_connecting(conn);
	}
	if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
		conn->readable = !(conn->slot && in_way(conn)->eof);
	if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
		conn->hangup = 1;
	if (events & (EPOLLOUT | EPOLLERR))
		conn->writable = 1;
	service(conn);
}

static void connect_one(u32 id)
{
	struct conn *conn = calloc(1, sizeof(*conn));
	struct sockaddr_in address = target_of(id);

	conn->fd = new_client(id, SOCK_NONBLOCK);
	conn->edge = id % 2;
	conn->connecting = 1;
	connecting_count++;
	begin(conn, id);
	if (connect(conn->fd, (struct sockaddr *)&address, sizeof(address)) &&
	    errno != EINPROGRESS) {
		int error = errno;

		add(conn);
		failed(conn, CONNECT, error);
		discard(conn);
		return;
	}
	add(conn);
}

static void accept_some(int listener)
{
	static u32 accepted;

	for (int turn = 0; turn < 64; turn++) {
		struct conn *conn;
		int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);

		if (fd < 0) {
			if (errno != EAGAIN)
				count_error(ACCEPT, errno);
			return;
		}
		conn = calloc(1, sizeof(*conn));
		conn->fd = fd;
		conn->random = accepted;
		accepted++;
		/* Its own draw: all four combinations of blocking and polling ends come up. */
		if (scramble(accepted) % 100 < blocking_percent) {
			pthread_t thread;

			fcntl(fd, F_SETFL, 0);
			start_thread(&thread, blocking_server, conn);
			pthread_detach(thread);
			continue;
		}
		conn->edge = accepted % 3 > 0;
		add(conn);
	}
}

static void poll_all(u32 polling_clients, const int *listeners)
{
	struct epoll_event events[256];
	int stopping = 0;
	u32 id;

	for (;;) {
		u64 now = now_ns();
		int count, wait_ms = 20;

		if (shared->stop > 1)
			_exit(0);
		if (shared->stop && !stopping) {
			stopping = 1;
			for (struct conn *conn = first, *next; conn; conn = next) {
				next = conn->next;
				conn->due_read = 0;
				/* The others end when they have seen the end of these. */
				if (conn->slot && leads(conn))
					conn->due_write = 0;
				service(conn);
			}
		}
		while (open_count < polling_clients && connecting_count < CONNECTING_MAX &&
		       take_id(&id))
			connect_one(id);
		for (int turn = 0; turn < 256 && heap_size && heap[0]->due <= now; turn++) {
			struct conn *conn = heap[0];

			unschedule(conn);
			service(conn);
		}
		if (heap_size) {
			now = now_ns();
			if (heap[0]->due <= now)
				wait_ms = 0;
			else if (heap[0]->due - now < 20000000ULL)
				wait_ms = (heap[0]->due - now) / 1000000 + 1;
		}
		count = epoll_wait(poller, events, 256, wait_ms);
		for (int i = 0; i < count; i++) {
			u64 word = events[i].data.u64;

			if (word < ports)
				accept_some(listeners[word]);
			else
				on_event(events[i].data.ptr, events[i].events);
		}
	}
}

/* --- Watching, at the connecting side -------------------------------------------------------- */

struct watch {
	u64 got, sent;
	u64 moved_in, moved_out; /* when */
	u32 eof;
};

struct longest {
	u64 ns;
	u32 id, kind;
	int way;
};

static void consider(struct longest *longest, u64 ns, u32 id, int way, u32 kind)
{
	if (ns > longest->ns)
		*longest = (struct longest){ns, id, kind, way};
}

/* Looks at one direction; true when it has come to its end. */
static int watch_way(struct watch *watch, u32 id, int number, u64 now, struct longest *worst)
{
	struct way *way = &shared->slots[id].way[number];
	u64 got = way->got, sent = way->sent;
	u32 eof = way->eof, blocked = way->blocked, fin = way->fin;
	int owed = got < sent || (fin == ENDED && !eof);

	if (!watch->moved_in)
		watch->moved_in = watch->moved_out = now;
	if (!owed || got != watch->got || eof != watch->eof || way->wrong || way->asleep)
		watch->moved_in = now;
	if (!blocked || sent != watch->sent || way->asleep)
		watch->moved_out = now;
	watch->got = got;
	watch->sent = sent;
	watch->eof = eof;
	consider(worst, now - watch->moved_in, id, number, got < sent ? STALL_DELIVERY : STALL_END);
	consider(worst, now - watch->moved_out, id, number, STALL_WRITE);
	return eof && fin;
}

static void report(const char *path, struct longest longest, u64 pause, u32 unfinished)
{
	FILE *out = fopen(path, "w");
	u64 bytes[2] = {0, 0}, sums[MISDELIVERED + 1] = {0};
	const char *comma = "";
	u32 shown = 0;

	if (!out)
		die("write the result");
	fprintf(out, "{\"connections\": %u, \"unfinished\": %u, \"wrong\": [", shared->started,
		unfinished);
	for (u32 id = 0; id < shared->started; id++)
		for (int number = 0; number < 2; number++) {
			struct way *way = &shared->slots[id].way[number];

			bytes[number] += way->got;
			if (way->wrong) {
				sums[way->wrong] += way->bytes_wrong ? way->bytes_wrong : 1;
				if (shown++ < 10)
					fprintf(out,
						"%s{\"id\": %u, \"way\": %d, \"kind\": \"%s\", "
						"\"at\": %lu, \"found\": %lu, \"bytes\": %lu, "
						"\"port\": %u}",
						shown > 1 ? ", " : "", id, number,
						wrong_names[way->wrong], way->wrong_at, way->found,
						way->bytes_wrong, shared->slots[id].port);
			} else if (way->got < way->sent || !way->fin || !way->eof) {
				sums[LOST] += way->sent - way->got;
				if (shown++ < 10)
					fprintf(out,
						"%s{\"id\": %u, \"way\": %d, \"kind\": \"cut "
						"off\", "
						"\"at\": %lu, \"sent\": %lu, \"fin\": %u, \"eof\": "
						"%u, "
						"\"port\": %u}",
						shown > 1 ? ", " : "", id, number, way->got,
						way->sent, way->fin, way->eof,
						shared->slots[id].port);
			}
		}
	fprintf(out, "], \"bytes\": [%lu, %lu]", bytes[0], bytes[1]);
	for (int kind = WRONG; kind <= MISDELIVERED; kind++)
		fprintf(out, ", \"%s\": %lu", wrong_names[kind], sums[kind]);
	fprintf(out, ", \"errors\": {");
	for (int operation = 0; operation < OPERATIONS; operation++)
		for (int error = 0; error < ERRNO_MAX; error++)
			if (shared->errors[operation][error]) {
				fprintf(out, "%s\"%s %s\": %u", comma, operation_names[operation],
					strerrorname_np(error), shared->errors[operation][error]);
				comma = ", ";
			}
	fprintf(out, "}, \"spurious_eagain\": %u", shared->spurious[0] + shared->spurious[1]);
	fprintf(out, ", \"blocking_ends\": %u, \"polling_ends\": %u",
		shared->blocking[0] + shared->blocking[1], shared->polling[0] + shared->polling[1]);
	fprintf(out, ", \"stall_ms\": %lu, \"stall\": {\"kind\": \"%s\", \"id\": %u, \"way\": %d}",
		longest.ns / 1000000, stall_names[longest.kind], longest.id, longest.way);
	fprintf(out, ", \"pause_ms\": %lu}\n", pause / 1000000);
	if (fclose(out))
		die("write the result");
}

static void *watch_all(void *path)
{
	struct watch(*watches)[2] = calloc(total, sizeof(*watches));
	struct longest longest = {0};
	u64 pause = 0, last = now_ns(), ending_since = 0;
	u32 low = 0;

	for (;;) {
		struct longest worst = {0};
		u32 started = shared->started, unfinished = 0, limit;
		u64 now;

		usleep(50000);
		now = now_ns();
		/* How long this thread itself was kept from running: the machine, not the network. */
		if (now - last > pause + 50000000)
			pause = now - last - 50000000;
		last = now;
		limit = started < total ? started : total;
		for (u32 id = low; id < limit; id++) {
			struct slot *slot = &shared->slots[id];
			int ended;

			if (!slot->used) {
				unfinished++;
				continue;
			}
			if (!slot->established && !slot->way[0].fin) {
				consider(&worst, now - slot->opened_at, id, 0, STALL_CONNECT);
				unfinished++;
				continue;
			}
			ended = watch_way(&watches[id][0], id, 0, now, &worst);
			ended &= watch_way(&watches[id][1], id, 1, now, &worst);
			/* A failed end may leave the other without its share. */
			if (!ended && slot->way[0].fin == FAILED && slot->used == 1)
				ended = 1;
			if (!ended)
				unfinished++;
			else if (id == low)
				low++;
		}
		shared->stall_id = worst.id;
		shared->stall_way = worst.way;
		shared->stall_kind = worst.kind;
		shared->stall_ns = worst.ns;
		consider(&longest, worst.ns, worst.id, worst.way, worst.kind);
		if (!(shared->stop || limit == total))
			continue;
		if (shared->stop && !ending_since)
			ending_since = now;
		if (unfinished && !(ending_since && now - ending_since > grace_s * SECOND))
			continue;
		report(path, longest, pause, unfinished);
		_exit(0);
	}
}

/* --- Start ------------------------------------------------------------------------------------- */

static void listen_on(int *listeners)
{
	int on = 1;

	for (u32 i = 0; i < ports; i++) {
		struct epoll_event event = {.events = EPOLLIN, .data.u64 = i};
		struct sockaddr_in address = target_of(i);

		listeners[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
		setsockopt(listeners[i], SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
		set_options(listeners[i], i);
		if (bind(listeners[i], (struct sockaddr *)&address, sizeof(address)) ||
		    listen(listeners[i], 4096))
			die("listen");
		if (epoll_ctl(poller, EPOLL_CTL_ADD, listeners[i], &event))
			die("poll a socket");
	}
	shared->listening = 1;
}

int main(int argc, char **argv)
{
	const char *result = NULL;
	struct rlimit files;
	u32 blocking = 0;
	int *listeners, fd;
	size_t size;

	if (argc < 5 || argc % 2 == 0)
		return 2;
	side = strcmp(argv[1], "listen") == 0;
	target.sin_family = AF_INET;
	target.sin_port = htons(atoi(argv[3]));
	if (inet_pton(AF_INET, argv[2], &target.sin_addr) != 1)
		return 2;
	for (int i = 5; i < argc; i += 2) {
		u64 value = strtoull(argv[i + 1], NULL, 10);

		if (!strcmp(argv[i], "-connections"))
			connections = value;
		else if (!strcmp(argv[i], "-total"))
			total = value;
		else if (!strcmp(argv[i], "-bytes"))
			most_bytes = value;
		else if (!strcmp(argv[i], "-think"))
			think_us = value;
		else if (!strcmp(argv[i], "-nap"))
			nap_us = value;
		else if (!strcmp(argv[i], "-blocking"))
			blocking_percent = value;
		else if (!strcmp(argv[i], "-ports"))
			ports = value;
		else if (!strcmp(argv[i], "-grace"))
			grace_s = value;
		else if (!strcmp(argv[i], "-result"))
			result = argv[i + 1];
		else
			return 2;
	}
	long_lived = !most_bytes;
	if (!total)
		total = connections;
	if (!side && !result)
		return 2;
	files.rlim_cur = files.rlim_max = connections + 2 * CONNECTING_MAX + 4096;
	if (setrlimit(RLIMIT_NOFILE, &files))
		die("raise the limit of descriptors");
	size = sizeof(*shared) + total * sizeof(struct slot);
	fd = open(argv[4], O_RDWR);
	if (fd < 0 || ftruncate(fd, size))
		die("open the shared file");
	shared = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (shared == MAP_FAILED)
		die("map the shared file");
	poller = epoll_create1(0);
	/* At the listening side clients come and go faster than their servers are closed. */
	heap = calloc(side ? 1 << 20 : connections + 1, sizeof(*heap));
	listeners = calloc(ports, sizeof(*listeners));
	if (side) {
		listen_on(listeners);
	} else {
		pthread_t thread;

		blocking = (u64)connections * blocking_percent / 100;
		start_thread(&thread, watch_all, (void *)result);
		for (u32 i = 0; i < blocking; i++)
			start_thread(&thread, blocking_clients, NULL);
	}
	poll_all(side ? 0 : connections - blocking, listeners);
}
