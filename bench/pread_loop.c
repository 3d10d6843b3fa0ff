/*
 * The minimum cost of sampling: pread the files at every deadline, and do nothing with them.
 *
 * pread_loop PERIOD_NS SAMPLES BUFFER FILE...  prints the CPU time per sample, in ns.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <error.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static int64_t now(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void sleep_until(int64_t deadline)
{
	struct timespec t = { deadline / 1000000000, deadline % 1000000000 };

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
		;
}

int main(int argc, char **argv)
{
	if (argc < 5)
		error(2, 0, "usage: pread_loop PERIOD_NS SAMPLES BUFFER FILE...");

	int64_t period = atoll(argv[1]);
	long samples = atol(argv[2]);
	size_t size = atol(argv[3]);
	char *buffer = malloc(size);
	int files = argc - 4, fds[files];

	for (int i = 0; i < files; i++) {
		fds[i] = open(argv[4 + i], O_RDONLY | O_CLOEXEC);
		if (fds[i] < 0 || pread(fds[i], buffer, size, 0) < 0)
			error(2, errno, "cannot read %s", argv[4 + i]);
	}

	int64_t start = now(CLOCK_MONOTONIC), cpu = now(CLOCK_PROCESS_CPUTIME_ID);

	for (long n = 0; n < samples; n++) {
		sleep_until(start + n * period);
		for (int i = 0; i < files; i++)
			if (pread(fds[i], buffer, size, 0) < 0)
				error(1, errno, "cannot read %s any more", argv[4 + i]);
	}
	printf("%lld\n", (long long)((now(CLOCK_PROCESS_CPUTIME_ID) - cpu) / samples));
	return 0;
}
