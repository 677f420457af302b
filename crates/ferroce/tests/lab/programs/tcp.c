// SPDX-License-Identifier: MIT OR Apache-2.0
// A program that knows of TCP only: `tcp server|client ADDRESS PORT [MEGABYTES]`. On each of three connections,
// with a thread at either end, the client sends blocks of random bytes, and the server sends each back inverted.
#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CONNECTIONS = 3, MOST = 1 << 20 };

static long bytes;

static void check(int holds, const char *what)
{
	if (holds)
		return;
	perror(what);
	exit(1);
}

static void receive(int fd, void *to, size_t count)
{
	for (size_t had = 0; had < count;) {
		ssize_t got = recv(fd, (char *)to + had, count - had, 0);
		check(got > 0, "recv");
		had += got;
	}
}

static void send_all(int fd, const void *from, size_t count)
{
	for (size_t had = 0; had < count;) {
		ssize_t sent = send(fd, (const char *)from + had, count - had, 0);
		check(sent > 0, "send");
		had += sent;
	}
}

// A block of no bytes is the end.
static void *answer(void *argument)
{
	int fd = (int)(intptr_t)argument;
	unsigned char *block = malloc(MOST);
	for (;;) {
		uint32_t count;
		receive(fd, &count, 4);
		if (!count)
			break;
		receive(fd, block, count);
		for (uint32_t i = 0; i < count; i++)
			block[i] = ~block[i];
		send_all(fd, block, count);
	}
	send_all(fd, "end", 3);
	check(shutdown(fd, SHUT_RDWR) == 0, "shutdown");
	close(fd);
	free(block);
	return NULL;
}

static void *ask(void *argument)
{
	static const uint32_t sizes[] = { 1, 100, 4096, 65536, MOST };
	int fd = (int)(intptr_t)argument;
	unsigned seed = fd;
	unsigned char *out = malloc(MOST), *in = malloc(MOST);
	for (long left = bytes; left > 0;) {
		uint32_t count = sizes[rand_r(&seed) % 5];
		for (uint32_t i = 0; i < count; i++)
			out[i] = rand_r(&seed);
		send_all(fd, &count, 4);
		send_all(fd, out, count);
		receive(fd, in, count);
		for (uint32_t i = 0; i < count; i++)
			check(in[i] == (unsigned char)~out[i], "other bytes came back");
		left -= count;
	}
	uint32_t none = 0;
	send_all(fd, &none, 4);
	receive(fd, in, 3);
	check(!memcmp(in, "end", 3), "no end");
	check(recv(fd, in, 1, 0) == 0, "something follows the end");
	close(fd);
	free(out);
	free(in);
	return NULL;
}

int main(int argc, char **argv)
{
	check(argc >= 4, "tcp server|client ADDRESS PORT [MEGABYTES]");
	int is_server = !strcmp(argv[1], "server"), one = 1;
	long megabytes = argc > 4 ? atol(argv[4]) : 1;
	bytes = (megabytes << 20) / CONNECTIONS;
	struct addrinfo hints = { .ai_flags = AI_NUMERICHOST, .ai_socktype = SOCK_STREAM }, *address;
	check(getaddrinfo(argv[2], argv[3], &hints, &address) == 0, "getaddrinfo");
	int listener = -1;
	if (is_server) {
		listener = socket(address->ai_family, SOCK_STREAM, 0);
		check(listener >= 0, "socket");
		check(setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) == 0, "SO_REUSEADDR");
		check(bind(listener, address->ai_addr, address->ai_addrlen) == 0, "bind");
		check(listen(listener, 8) == 0, "listen");
	}
	pthread_t threads[CONNECTIONS];
	for (int i = 0; i < CONNECTIONS; i++) {
		int fd;
		if (is_server) {
			fd = accept(listener, NULL, NULL);
			check(fd >= 0, "accept");
		} else {
			fd = socket(address->ai_family, SOCK_STREAM, 0);
			check(fd >= 0, "socket");
			check(connect(fd, address->ai_addr, address->ai_addrlen) == 0, "connect");
			check(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) == 0, "TCP_NODELAY");
		}
		void *(*run)(void *) = is_server ? answer : ask;
		check(pthread_create(&threads[i], NULL, run, (void *)(intptr_t)fd) == 0, "pthread_create");
	}
	for (int i = 0; i < CONNECTIONS; i++)
		pthread_join(threads[i], NULL);
	if (!is_server)
		printf("%ld MB there and back, every byte right\n", megabytes);
	return 0;
}
