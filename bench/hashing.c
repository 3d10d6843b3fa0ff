/*
 * hashing.py asks this what comparing and hashing of pages costs.
 *
 *   hashing PAGES
 *
 * Looks at so many pages of 4 KiB in random order, again and again: a few are in the cache, and of
 * many, none is. Prints nanoseconds:
 *   compare BYTES   of a node of a tree: its item, and its page as far as it is equal, which is so
 *                   many bytes; the page that is looked for is in the cache. memcmp as in the
 *                   kernel: 8 bytes at once
 *   checksum        of a page: xxhash of 64 bits, as in the kernel
 *   look_up         in a hash table of as many items: a bucket, and an item
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define PAGE 4096
#define HUGE ((size_t)2 << 20)
#define LEAST 200000 /* steps of a measurement */
#define P1 11400714785074694791ULL
#define P2 14029467366897019727ULL
#define P3 1609587929392839161ULL
#define P4 9650029242287828579ULL

struct item {
	struct item *next;
	const unsigned char *page;
	uint64_t checksum;
	char rest[40]; /* an rmap_item has 64 bytes */
};

static double now(void)
{
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	return at.tv_sec * 1e9 + at.tv_nsec;
}

static uint64_t word(const unsigned char *at)
{
	uint64_t found;

	memcpy(&found, at, sizeof(found));
	return found;
}

static int compare(const unsigned char *a, const unsigned char *b)
{
	size_t n = 0;

	while (n < PAGE && word(a + n) == word(b + n)) /* the compiler must not do more at once */
		n += 8;
	for (; n < PAGE; n++)
		if (a[n] != b[n])
			return a[n] - b[n];
	return 0;
}

static uint64_t turn(uint64_t value, int bits)
{
	return value << bits | value >> (64 - bits);
}

static uint64_t round64(uint64_t sum, uint64_t input)
{
	return turn(sum + input * P2, 31) * P1;
}

static uint64_t merge(uint64_t sum, uint64_t value)
{
	return (sum ^ round64(0, value)) * P1 + P4;
}

/* XXH64 of a page with seed 0 */
static uint64_t checksum(const unsigned char *page)
{
	uint64_t v1 = P1 + P2, v2 = P2, v3 = 0, v4 = -P1, sum;

	for (const unsigned char *at = page; at < page + PAGE; at += 32) {
		v1 = round64(v1, word(at));
		v2 = round64(v2, word(at + 8));
		v3 = round64(v3, word(at + 16));
		v4 = round64(v4, word(at + 24));
	}
	sum = turn(v1, 1) + turn(v2, 7) + turn(v3, 12) + turn(v4, 18);
	sum = merge(merge(merge(merge(sum, v1), v2), v3), v4) + PAGE;
	sum = (sum ^ sum >> 33) * P2;
	sum = (sum ^ sum >> 29) * P3;
	return sum ^ sum >> 32;
}

/* In huge pages, as the kernel maps all memory for itself */
static void *room(size_t bytes)
{
	size_t size = (bytes + HUGE - 1) / HUGE * HUGE;
	void *found = bytes ? aligned_alloc(HUGE, size) : NULL;

	if (found)
		madvise(found, size, MADV_HUGEPAGE);
	return found;
}

/* Links items in a random circle that has all of them. */
static void shuffle(struct item *items, unsigned char *pages, size_t count)
{
	size_t *order = malloc(count * sizeof(*order));

	for (size_t n = 0; n < count; n++)
		order[n] = n;
	srandom(1);
	for (size_t n = count - 1; n > 0; n--) {
		size_t other = random() % (n + 1), kept = order[n];

		order[n] = order[other];
		order[other] = kept;
	}
	for (size_t n = 0; n < count; n++) {
		items[order[n]].next = items + order[(n + 1) % count];
		items[order[n]].page = pages + PAGE * order[(n * 7 + 1) % count];
		items[order[n]].checksum = n;
	}
	free(order);
}

int main(int argc, char **argv)
{
	size_t count = argc > 1 ? strtoull(argv[1], NULL, 10) : 0;
	size_t steps = count > LEAST ? count : LEAST;
	static const int equal[] = { 0, 8, 32, 128, 512, 2048, 4088 };
	struct item *items = room(count * sizeof(*items));
	unsigned char *pages = room(count * PAGE);
	struct item **buckets = room(count * sizeof(*buckets));
	unsigned char *query = room(PAGE);
	struct item *item;
	uint64_t found = 0;
	double begin;

	if (!items || !pages || !buckets || !query) {
		fprintf(stderr, "hashing: no %zu pages\n", count);
		return 1;
	}
	memset(pages, 1, count * PAGE);
	shuffle(items, pages, count);
	for (size_t n = 0; n < count; n++)
		buckets[items[n].checksum] = items + (n * 31 + 7) % count;
	for (size_t n = 0; n < sizeof(equal) / sizeof(*equal); n++) {
		memset(query, 1, PAGE);
		query[equal[n]] = 2;
		item = items;
		begin = now();
		for (size_t step = 0; step < steps; step++)
			item = compare(query, item->page) > 0 ? item->next : items;
		printf("compare %d %.2f\n", equal[n], (now() - begin) / steps);
		found += item->checksum;
	}
	item = items;
	begin = now();
	for (size_t step = 0; step < steps; step++) {
		found ^= checksum(item->page);
		item = item->next;
	}
	printf("checksum 0 %.2f\n", (now() - begin) / steps);
	begin = now();
	for (size_t step = 0; step < steps; step++)
		found = buckets[(found * P1 ^ step * P3) % count]->checksum;
	printf("look_up 0 %.2f\n", (now() - begin) / steps);
	return found == 1; /* keeps the compiler from removing it all */
}
