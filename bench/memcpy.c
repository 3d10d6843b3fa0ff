/*
 * census.py compares the census with this: copy as many bytes, once.
 *
 *   memcpy BYTES
 *
 * Source and target are in memory before. Prints the time in nanoseconds.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

int main(int argc, char **argv)
{
	size_t bytes = argc > 1 ? strtoull(argv[1], NULL, 10) : 0;
	char *from = malloc(bytes), *to = malloc(bytes);
	struct timespec start, end;

	if (!bytes || !from || !to) {
		fprintf(stderr, "memcpy: no %zu bytes to copy\n", bytes);
		return 1;
	}
	memset(from, 1, bytes);
	memset(to, 2, bytes);
	clock_gettime(CLOCK_MONOTONIC, &start);
	memcpy(to, from, bytes);
	clock_gettime(CLOCK_MONOTONIC, &end);
	if (to[bytes - 1] != 1) /* prevents the compiler from removing the copy */
		return 1;
	printf("%lld\n", (end.tv_sec - start.tv_sec) * 1000000000LL + end.tv_nsec - start.tv_nsec);
	return 0;
}
