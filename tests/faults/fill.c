/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes to readers that do not read, until nothing more goes in.
 *
 *   fill ADDRESS PORT CONNECTIONS SIZE blocking|polling
 *
 * Connects, and waits for a line on its input. Then writes SIZE bytes at a time to each
 * connection, and once no byte was accepted for half a second prints how many were, as
 * {"accepted": N, "errors": N}. With the next line it ends the streams: what was begun is
 * still written, as the readers now read. Each stream is the bytes 0 to 250, repeated.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PERIOD 251
#define QUIET_MS 500
#define LARGEST (1 << 20)

static char pattern[LARGEST + PERIOD];
static int connections, size, blocking, errors;
static volatile int over; /* also after an error: nothing more is written */

struct stream {
	int fd;
	unsigned long sent;
	size_t left; /* of the write that was begun */
};
static struct stream *streams;

static void die(const char *what)
{
	fprintf(stderr, "fill: cannot %s: %s\n", what, strerror(errno));
	exit(1);
}

/* One write, or the rest of one; false when it did not go in whole. */
static int write_once(struct stream *stream)
{
	ssize_t done;

	if (!stream->left)
		stream->left = size;
	done = send(stream->fd, pattern + stream->sent % PERIOD, stream->left, MSG_NOSIGNAL);
	if (done < 0) {
		/* TCP says EAGAIN and nothing else. */
		if (errno != EAGAIN) {
			fprintf(stderr, "fill: send: %s\n", strerror(errno));
			__atomic_fetch_add(&errors, 1, __ATOMIC_RELAXED);
			over = 1;
		}
		return 0;
	}
	__atomic_fetch_add(&stream->sent, done, __ATOMIC_RELAXED);
	stream->left -= done;
	return !stream->left;
}

static void *write_blocking(void *argument)
{
	struct stream *stream = argument;

	while (!over)
		write_once(stream);
	shutdown(stream->fd, SHUT_WR);
	return NULL;
}

static void write_polling(void)
{
	int more = 1;

	while (more && !over) {
		more = 0;
		for (int i = 0; i < connections; i++)
			for (int turn = 0; turn < 64 && write_once(&streams[i]); turn++)
				more = 1;
	}
}

/* A write that blocks counts as a whole: nobody can see how much of it is in. */
static unsigned long all_accepted(void)
{
	unsigned long sum = 0;

	for (int i = 0; i < connections; i++)
		sum += __atomic_load_n(&streams[i].sent, __ATOMIC_RELAXED) +
		       (blocking ? streams[i].left : 0);
	return sum;
}

static void await_line(void)
{
	char line[16];

	if (!fgets(line, sizeof(line), stdin))
		exit(0);
}

int main(int argc, char **argv)
{
	struct sockaddr_in address = {.sin_family = AF_INET};
	struct timespec pause = {.tv_nsec = 10000000};
	unsigned long before = 0, now = 0;
	pthread_t *threads;

	if (argc != 6 || inet_pton(AF_INET, argv[1], &address.sin_addr) != 1)
		return 2;
	address.sin_port = htons(atoi(argv[2]));
	connections = atoi(argv[3]);
	size = atoi(argv[4]);
	blocking = strcmp(argv[5], "blocking") == 0;
	if (size > LARGEST)
		return 2;
	for (int i = 0; i < (int)sizeof(pattern); i++)
		pattern[i] = i % PERIOD;
	streams = calloc(connections, sizeof(*streams));
	threads = calloc(connections, sizeof(*threads));
	for (int i = 0; i < connections; i++) {
		streams[i].fd = socket(AF_INET, SOCK_STREAM, 0);
		if (connect(streams[i].fd, (struct sockaddr *)&address, sizeof(address)))
			die("connect");
		if (!blocking)
			fcntl(streams[i].fd, F_SETFL, O_NONBLOCK);
	}
	puts("connected");
	fflush(stdout);
	await_line();
	for (int i = 0; blocking && i < connections; i++)
		if (pthread_create(&threads[i], NULL, write_blocking, &streams[i]))
			die("start a thread");
	for (int quiet = 0; quiet < QUIET_MS / 10; quiet++) {
		if (!blocking)
			write_polling();
		now = all_accepted();
		if (now != before)
			quiet = 0;
		before = now;
		nanosleep(&pause, NULL);
	}
	printf("{\"accepted\": %lu, \"errors\": %d}\n", now, errors);
	fflush(stdout);
	await_line();
	over = 1;
	for (int i = 0; i < connections; i++) {
		struct pollfd writable = {.fd = streams[i].fd, .events = POLLOUT};

		if (blocking) {
			pthread_join(threads[i], NULL);
			continue;
		}
		/* Once its reader reads there is room again. */
		if (poll(&writable, 1, 10000) != 1 || !(writable.revents & POLLOUT))
			errors++;
		shutdown(streams[i].fd, SHUT_WR);
	}
	printf("{\"accepted\": %lu, \"errors\": %d}\n", all_accepted(), errors);
	return 0;
}
