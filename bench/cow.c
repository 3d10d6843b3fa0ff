/*
 * write_probe.py compares the write probe with this: the kernel's own way to measure what breaking a
 * merged page costs (ksm_tests -C in tools/testing/selftests/mm).
 *
 *   cow PAGES
 *
 * Writes to every second page, first while none is merged, then after each of them was merged with
 * the page after it. Prints the mean times of a write, in nanoseconds: not merged, merged. ksmd must
 * run. It waits at most a minute for ksmd, by its own ksm_merging_pages.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static long merging_pages(void)
{
	char line[128];
	long pages = -1;
	FILE *file = fopen("/proc/self/ksm_stat", "r");

	while (file && fgets(line, sizeof(line), file))
		sscanf(line, "ksm_merging_pages %ld", &pages);
	if (file)
		fclose(file);
	return pages;
}

static double write_every_second(volatile char *memory, long pages, long size)
{
	struct timespec start, end;

	clock_gettime(CLOCK_MONOTONIC_RAW, &start);
	for (long page = 0; page < pages - 1; page += 2)
		memory[page * size] = '-';
	clock_gettime(CLOCK_MONOTONIC_RAW, &end);
	return ((end.tv_sec - start.tv_sec) * 1e9 + end.tv_nsec - start.tv_nsec) / (pages / 2);
}

int main(int argc, char **argv)
{
	long size = sysconf(_SC_PAGESIZE), pages = argc > 1 ? atol(argv[1]) & ~1L : 0;
	char *memory = mmap(NULL, pages * size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	double plain, merged;

	if (pages < 2 || memory == MAP_FAILED || madvise(memory, pages * size, MADV_NOHUGEPAGE)) {
		fprintf(stderr, "cow: no memory for %ld pages\n", pages);
		return 1;
	}
	memset(memory, '*', pages * size);
	plain = write_every_second(memory, pages, size);
	for (long page = 0; page < pages; page++) {
		memset(memory + page * size, '+', size);
		((long *)memory)[page * size / sizeof(long)] = page / 2; /* equal pairs */
	}
	if (madvise(memory, pages * size, MADV_MERGEABLE)) {
		perror("cow: madvise");
		return 1;
	}
	for (int tries = 0; merging_pages() < pages; tries++) {
		if (tries == 600) {
			fprintf(stderr, "cow: %ld of %ld pages are merged\n", merging_pages(), pages);
			return 1;
		}
		usleep(100000);
	}
	merged = write_every_second(memory, pages, size);
	printf("%.1f %.1f\n", plain, merged);
	return 0;
}
