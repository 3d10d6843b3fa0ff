/*
 * load.py compares the load generator with this: an open load of GET requests to redis, as cheap as
 * it can be made, with nothing but what the measurement needs.
 *
 *   open_loop SOCKET RATE SECONDS CONNECTIONS KEYS ANSWER_BYTES
 *
 * Requests for random keys arrive at random times (exponential intervals), whether or not earlier
 * ones have been answered. A latency counts from when a request was due. Prints the number of
 * answers, the CPU time in ns, and the latencies' p50 and p99 in ns.
 */
#define _GNU_SOURCE
#include <error.h>
#include <errno.h>
#include <math.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { CONNECTIONS = 100, WAITING = 1 << 20 };

static struct {
	int fd;
	long got; /* bytes of the answer; -1 without a request */
	int64_t due;
} connections[CONNECTIONS];

static int64_t waiting[WAITING]; /* when requests were due that wait for a connection */
static long head, tail, keys;

static int64_t now(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static int by_size(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return (x > y) - (x < y);
}

static void ask(int n, int64_t due)
{
	char request[64];
	int length = snprintf(request, sizeof(request), "*2\r\n$3\r\nGET\r\n$16\r\nkey:%012ld\r\n",
			      (long)(drand48() * keys));

	if (send(connections[n].fd, request, length, 0) != length)
		error(1, errno, "cannot send");
	connections[n].got = 0;
	connections[n].due = due;
}

int main(int argc, char **argv)
{
	if (argc != 7)
		error(2, 0, "usage: open_loop SOCKET RATE SECONDS CONNECTIONS KEYS ANSWER_BYTES");

	double rate = atof(argv[2]);
	int64_t seconds = atof(argv[3]) * 1e9;
	int count = atoi(argv[4]);
	long bytes = atol(argv[6]), answers = 0, most = 2 * rate * seconds / 1e9 + 1000;
	int64_t *latencies = malloc(most * sizeof(*latencies));
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct sched_param first = { .sched_priority = 1 };
	int poll = epoll_create1(0), timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
	struct epoll_event event = { .events = EPOLLIN, .data.u32 = CONNECTIONS };
	static char buffer[65536];

	if (count < 1 || count > CONNECTIONS)
		error(2, 0, "at most %d connections", CONNECTIONS);
	keys = atol(argv[5]);
	sched_setscheduler(0, SCHED_RR, &first); /* as the load generator, where that is allowed */
	strncpy(address.sun_path, argv[1], sizeof(address.sun_path) - 1);
	epoll_ctl(poll, EPOLL_CTL_ADD, timer, &event);
	for (int n = 0; n < count; n++) {
		connections[n].fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
		connections[n].got = -1;
		if (connect(connections[n].fd, (struct sockaddr *)&address, sizeof(address)))
			error(1, errno, "cannot connect to %s", argv[1]);
		event.data.u32 = n;
		epoll_ctl(poll, EPOLL_CTL_ADD, connections[n].fd, &event);
	}

	int64_t cpu = now(CLOCK_PROCESS_CPUTIME_ID), start = now(CLOCK_MONOTONIC), due = start;

	while (due < start + seconds || head < tail) {
		struct epoll_event events[CONNECTIONS + 1];
		struct itimerspec at = { .it_value = { due / 1000000000, due % 1000000000 } };

		timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL);
		int ready = epoll_wait(poll, events, CONNECTIONS + 1, -1);

		for (int i = 0; i < ready; i++) {
			int n = events[i].data.u32;

			if (n == CONNECTIONS)
				continue;
			ssize_t more = recv(connections[n].fd, buffer, sizeof(buffer), 0);

			if (more <= 0)
				error(1, errno, "the server has closed a connection");
			connections[n].got += more;
			if (connections[n].got < bytes)
				continue;
			if (answers < most)
				latencies[answers++] = now(CLOCK_MONOTONIC) - connections[n].due;
			connections[n].got = -1;
			if (head < tail)
				ask(n, waiting[head++ % WAITING]);
		}
		for (int64_t time = now(CLOCK_MONOTONIC); due <= time && due < start + seconds;) {
			int n = 0;

			while (n < count && connections[n].got >= 0)
				n++;
			if (n < count)
				ask(n, due);
			else
				waiting[tail++ % WAITING] = due;
			due += -log(1 - drand48()) * 1e9 / rate;
		}
	}
	cpu = now(CLOCK_PROCESS_CPUTIME_ID) - cpu;
	if (!answers)
		error(1, 0, "no answers");
	qsort(latencies, answers, sizeof(*latencies), by_size);
	printf("%ld %lld %lld %lld\n", answers, (long long)cpu, (long long)latencies[answers / 2],
	       (long long)latencies[answers * 99 / 100]);
	return 0;
}
