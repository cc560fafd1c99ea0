/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The load of the scenarios that need no other program: two processes and their sockets.
 *
 *   sockets MODE server tcp ADDRESS PORT SIZE PAUSE_US
 *   sockets MODE client tcp ADDRESS PORT SIZE SECONDS CONNECTIONS RATE NODELAY
 *   with `unix PATH -` in the place of `tcp ADDRESS PORT`
 *
 *   echo      SIZE bytes there and back, one message under way per connection
 *   stream    one way, in writes of SIZE bytes; the reader waits PAUSE_US after every read
 *   connect   a new connection for each message of SIZE bytes there and back
 *
 * RATE 0 is a closed loop: the next message is sent when the one before is back. Any other
 * is an open loop of so many messages per second and connection, by the clock, and
 * latencies count from when a message was due. NODELAY 1 sets TCP_NODELAY on the client's
 * sockets; the server's have it.
 *
 * The server prints "ready". The client prints one JSON object; latencies are in buckets
 * 1/64 wide, named by their middle.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define BUFFER_SIZE (1 << 18)
#define SUB_BITS 6
#define SUB (1 << SUB_BITS)
#define BUCKETS ((64 - SUB_BITS + 1) * SUB)
#define NS_PER_S 1000000000ULL

enum mode { ECHO, STREAM, CONNECT };

static enum mode mode;
static struct sockaddr_storage address;
static socklen_t address_length;
static size_t size;
static long pause_us;
static double rate;
static int nodelay = 1;
static uint64_t duration_ns;

struct client {
	pthread_t thread;
	char *buffer;
	uint64_t operations;
	uint64_t bytes; /* of payload that have arrived, both ways */
	uint64_t end;
	uint64_t latencies[BUCKETS];
};

static void die(const char *what)
{
	fprintf(stderr, "sockets: cannot %s: %s\n", what, strerror(errno));
	exit(1);
}

static void *allocate(size_t bytes)
{
	void *memory = calloc(1, bytes);

	if (!memory)
		die("get memory");
	return memory;
}

static uint64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * NS_PER_S + time.tv_nsec;
}

static void wait_until(uint64_t due)
{
	struct timespec time = {.tv_sec = due / NS_PER_S, .tv_nsec = due % NS_PER_S};

	clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL);
}

/* --- Sockets ------------------------------------------------------------------------ */

static void set_address(char **args)
{
	if (strcmp(args[0], "unix") == 0) {
		struct sockaddr_un *local = (struct sockaddr_un *)&address;

		if (strlen(args[1]) >= sizeof(local->sun_path)) {
			errno = ENAMETOOLONG;
			die("use the socket's path");
		}
		local->sun_family = AF_UNIX;
		strncpy(local->sun_path, args[1], sizeof(local->sun_path) - 1);
		address_length = sizeof(*local);
		return;
	}
	struct sockaddr_in *inet = (struct sockaddr_in *)&address;

	inet->sin_family = AF_INET;
	inet->sin_port = htons(atoi(args[2]));
	address_length = sizeof(*inet);
	if (inet_pton(AF_INET, args[1], &inet->sin_addr) != 1)
		die("use the address");
}

static int make_socket(void)
{
	int fd = socket(address.ss_family, SOCK_STREAM, 0);

	if (fd < 0)
		die("make a socket");
	return fd;
}

static void no_delay(int fd)
{
	if (address.ss_family == AF_INET)
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &nodelay, sizeof(nodelay));
}

static void send_all(int fd, const void *data, size_t length)
{
	for (size_t done = 0; done < length;) {
		ssize_t sent = send(fd, (const char *)data + done, length - done, MSG_NOSIGNAL);

		if (sent < 0)
			die("send");
		done += sent;
	}
}

/*
 * Redirection may end a recv() that waits with EAGAIN (docs/semantics.md), which is why the
 * policy leaves such programs on TCP. This one is accelerated all the same, and waits again.
 */
static ssize_t receive(int fd, void *data, size_t length)
{
	struct pollfd readable = {.fd = fd, .events = POLLIN};
	ssize_t got;

	while ((got = recv(fd, data, length, 0)) < 0 && errno == EAGAIN)
		poll(&readable, 1, -1);
	if (got < 0)
		die("receive");
	return got;
}

static void receive_all(int fd, void *data, size_t length)
{
	for (size_t done = 0; done < length;) {
		ssize_t got = receive(fd, (char *)data + done, length - done);

		if (got == 0) {
			errno = ECONNABORTED;
			die("go on: the other end closed");
		}
		done += got;
	}
}

/* --- The server --------------------------------------------------------------------- */

static void serve_echo(int fd, char *buffer)
{
	ssize_t got;

	while ((got = receive(fd, buffer, BUFFER_SIZE)) > 0)
		send_all(fd, buffer, got);
}

static void serve_stream(int fd, char *buffer)
{
	uint64_t total = 0;
	ssize_t got;

	while ((got = receive(fd, buffer, BUFFER_SIZE)) > 0) {
		total += got;
		if (pause_us)
			wait_until(now() + pause_us * 1000);
	}
	/* The client counts what has arrived, not what it has written. */
	send_all(fd, &total, sizeof(total));
}

static void serve_one(int fd, char *buffer)
{
	receive_all(fd, buffer, size);
	send_all(fd, buffer, size);
}

static void *serve_connection(void *argument)
{
	int fd = (int)(intptr_t)argument;
	char *buffer = allocate(BUFFER_SIZE);

	no_delay(fd);
	prctl(PR_SET_TIMERSLACK, 1);
	if (mode == STREAM)
		serve_stream(fd, buffer);
	else
		serve_echo(fd, buffer);
	close(fd);
	free(buffer);
	return NULL;
}

static void serve(int listener)
{
	char *buffer = allocate(BUFFER_SIZE);
	pthread_t thread;

	if (listen(listener, 128) != 0)
		die("listen");
	puts("ready");
	fflush(stdout);
	for (;;) {
		int fd = accept(listener, NULL, NULL);

		if (fd < 0)
			die("accept");
		if (mode == CONNECT) {
			/* The server closes first: TIME_WAIT must not use up the client's ports. */
			no_delay(fd);
			serve_one(fd, buffer);
			close(fd);
			continue;
		}
		if (pthread_create(&thread, NULL, serve_connection, (void *)(intptr_t)fd) != 0)
			die("start a thread");
		pthread_detach(thread);
	}
}

/* --- The client --------------------------------------------------------------------- */

static void note(struct client *client, uint64_t ns)
{
	int shift = 63 - SUB_BITS - __builtin_clzll(ns | SUB);

	client->latencies[(shift << SUB_BITS) + (ns >> shift)]++;
}

/* The middle of a bucket, in nanoseconds. */
static double middle(int bucket)
{
	int shift = bucket < 2 * SUB ? 0 : (bucket >> SUB_BITS) - 1;
	uint64_t low = (uint64_t)(bucket - (shift << SUB_BITS)) << shift;

	return low + ((1ULL << shift) - 1) / 2.0;
}

static int connected(void)
{
	int fd = make_socket();

	if (connect(fd, (struct sockaddr *)&address, address_length) != 0)
		die("connect");
	no_delay(fd);
	return fd;
}

static void exchange(int fd, char *buffer)
{
	send_all(fd, buffer, size);
	receive_all(fd, buffer, size);
}

static void connect_and_exchange(char *buffer)
{
	int fd = connected();

	exchange(fd, buffer);
	if (receive(fd, buffer, 1) != 0)
		die("see the server close");
	close(fd);
}

static void run_messages(struct client *client, uint64_t start)
{
	int fd = mode == ECHO ? connected() : -1;
	uint64_t last = start;

	do {
		uint64_t from = last;

		if (rate > 0) {
			from = start + (uint64_t)(client->operations / rate * NS_PER_S);
			if (from > last)
				wait_until(from);
		}
		if (mode == ECHO)
			exchange(fd, client->buffer);
		else
			connect_and_exchange(client->buffer);
		last = now();
		note(client, last - from);
		client->operations++;
	} while (last - start < duration_ns);
	client->bytes = 2 * size * client->operations;
	if (fd >= 0)
		close(fd);
}

static void run_stream(struct client *client, uint64_t start)
{
	uint64_t arrived;
	int fd = connected();

	do {
		send_all(fd, client->buffer, size);
		client->operations++;
	} while (now() - start < duration_ns);
	shutdown(fd, SHUT_WR);
	receive_all(fd, &arrived, sizeof(arrived));
	if (arrived != size * client->operations) {
		errno = EIO;
		die("go on: bytes are missing");
	}
	client->bytes = arrived;
	close(fd);
}

static void *run_client(void *argument)
{
	struct client *client = argument;
	uint64_t start = now();

	prctl(PR_SET_TIMERSLACK, 1);
	client->buffer = allocate(size);
	if (mode == STREAM)
		run_stream(client, start);
	else
		run_messages(client, start);
	client->end = now();
	free(client->buffer);
	return NULL;
}

static void report(struct client *clients, long count, uint64_t start)
{
	uint64_t operations = 0, bytes = 0, end = start;
	const char *separator = "";

	for (long i = 0; i < count; i++) {
		operations += clients[i].operations;
		bytes += clients[i].bytes;
		if (clients[i].end > end)
			end = clients[i].end;
	}
	printf("{\"operations\":%llu,\"bytes\":%llu,\"seconds\":%.6f,\"latency_us\":[",
	       (unsigned long long)operations, (unsigned long long)bytes,
	       (end - start) / (double)NS_PER_S);
	for (int bucket = 0; bucket < BUCKETS; bucket++) {
		uint64_t sum = 0;

		for (long i = 0; i < count; i++)
			sum += clients[i].latencies[bucket];
		if (sum) {
			printf("%s[%.3f,%llu]", separator, middle(bucket) / 1000,
			       (unsigned long long)sum);
			separator = ",";
		}
	}
	puts("]}");
}

static void measure(long count)
{
	struct client *clients = allocate(count * sizeof(*clients));
	uint64_t start = now();

	for (long i = 0; i < count; i++)
		if (pthread_create(&clients[i].thread, NULL, run_client, &clients[i]) != 0)
			die("start a thread");
	for (long i = 0; i < count; i++)
		pthread_join(clients[i].thread, NULL);
	report(clients, count, start);
}

int main(int argc, char **argv)
{
	static const char *const names[] = {"echo", "stream", "connect"};
	int one = 1;

	if (argc < 8) {
		fprintf(stderr, "usage: see the head of sockets.c\n");
		return 2;
	}
	while (mode <= CONNECT && strcmp(argv[1], names[mode]) != 0)
		mode++;
	set_address(argv + 3);
	size = atol(argv[6]);
	if (mode > CONNECT || size < 1 || size > BUFFER_SIZE) {
		fprintf(stderr, "sockets: no such mode or size\n");
		return 2;
	}
	if (strcmp(argv[2], "server") == 0) {
		int fd = make_socket();

		pause_us = atol(argv[7]);
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
		if (bind(fd, (struct sockaddr *)&address, address_length) != 0)
			die("bind");
		serve(fd);
	}
	if (argc < 11) {
		fprintf(stderr, "sockets: connections, rate or nodelay is missing\n");
		return 2;
	}
	duration_ns = atof(argv[7]) * NS_PER_S;
	rate = atof(argv[9]);
	nodelay = atol(argv[10]) != 0;
	measure(atol(argv[8]));
	return 0;
}
