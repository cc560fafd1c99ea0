/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Request and response of a fixed size between two processes, as fast as they go.
 *
 *   echo server tcp ADDRESS PORT        serves one connection after the other
 *   echo server unix PATH
 *   echo client tcp ADDRESS PORT SIZE SECONDS
 *   echo client unix PATH - SIZE SECONDS
 *
 * The client prints how many round trips it made and in how many seconds.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static char buffer[1 << 20];

static void die(const char *what)
{
	fprintf(stderr, "echo: cannot %s: %s\n", what, strerror(errno));
	exit(1);
}

static int open_socket(char **args, struct sockaddr_storage *address, socklen_t *length)
{
	memset(address, 0, sizeof(*address));
	if (strcmp(args[0], "unix") == 0) {
		struct sockaddr_un *local = (struct sockaddr_un *)address;

		local->sun_family = AF_UNIX;
		strncpy(local->sun_path, args[1], sizeof(local->sun_path) - 1);
		*length = sizeof(*local);
		return socket(AF_UNIX, SOCK_STREAM, 0);
	}
	struct sockaddr_in *inet = (struct sockaddr_in *)address;

	inet->sin_family = AF_INET;
	inet->sin_port = htons(atoi(args[2]));
	if (inet_pton(AF_INET, args[1], &inet->sin_addr) != 1)
		die("use the address");
	*length = sizeof(*inet);
	return socket(AF_INET, SOCK_STREAM, 0);
}

static void no_delay(int fd)
{
	int on = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

static void send_all(int fd, size_t size)
{
	for (size_t done = 0; done < size;) {
		ssize_t sent = send(fd, buffer + done, size - done, MSG_NOSIGNAL);

		if (sent < 0)
			die("send");
		done += sent;
	}
}

static int receive_all(int fd, size_t size)
{
	for (size_t done = 0; done < size;) {
		ssize_t got = recv(fd, buffer + done, size - done, 0);

		if (got < 0)
			die("receive");
		if (got == 0)
			return 0;
		done += got;
	}
	return 1;
}

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

static void serve(int listener)
{
	if (listen(listener, 16) != 0)
		die("listen");
	puts("ready");
	fflush(stdout);
	for (;;) {
		int fd = accept(listener, NULL, NULL);
		ssize_t got;

		if (fd < 0)
			die("accept");
		no_delay(fd);
		while ((got = recv(fd, buffer, sizeof(buffer), 0)) > 0)
			send_all(fd, got);
		close(fd);
	}
}

int main(int argc, char **argv)
{
	struct sockaddr_storage address;
	socklen_t length;
	int one = 1;

	if (argc < 4) {
		fprintf(stderr, "usage: see the head of echo.c\n");
		return 2;
	}
	int fd = open_socket(argv + 2, &address, &length);

	if (fd < 0)
		die("make a socket");
	if (strcmp(argv[1], "server") == 0) {
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
		if (bind(fd, (struct sockaddr *)&address, length) != 0)
			die("bind");
		serve(fd);
	}
	if (argc < 7)
		die("run without size and seconds");
	size_t size = atol(argv[5]);
	double seconds = atof(argv[6]), start, end;
	long rounds = 0;

	if (connect(fd, (struct sockaddr *)&address, length) != 0)
		die("connect");
	no_delay(fd);
	start = now();
	do {
		for (int i = 0; i < 64; i++, rounds++) {
			send_all(fd, size);
			if (!receive_all(fd, size))
				die("go on: the server closed");
		}
		end = now();
	} while (end - start < seconds);
	printf("%ld %.6f\n", rounds, end - start);
	return 0;
}
