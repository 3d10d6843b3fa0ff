"""A process with mergeable memory of known contents, for tests of the counts.

The arguments are the numbers of pages of each kind: zero, common (the same page in every such
process), own (the same page within this process), unique; then the seed of its own contents. It
prints `ready`, also after each command on standard input: `change N` changes N of its unique pages,
`read N` reads N more pages, which were never written.
"""

import ctypes
import mmap
import random
import sys

PAGE = mmap.PAGESIZE
COMMON = random.Random(0).randbytes(PAGE)
NO_HUGE_PAGES = 41  # PR_SET_THP_DISABLE


def main() -> None:
    """Write the pages, and execute commands."""
    zero, common, own, unique, seed = map(int, sys.argv[1:])
    contents = random.Random(seed)
    pages = [bytes(PAGE)] * zero + [COMMON] * common + [contents.randbytes(PAGE)] * own
    first = len(pages)
    pages += [contents.randbytes(PAGE) for _ in range(unique)]
    ctypes.CDLL(None).prctl(NO_HUGE_PAGES, 1, 0, 0, 0)
    # As many again are never written
    memory = mmap.mmap(-1, 2 * len(pages) * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_MERGEABLE)
    memory[: len(pages) * PAGE] = b"".join(pages)
    print("ready", flush=True)
    for line in sys.stdin:
        what, number = line.split()
        for n in range(int(number)):
            if what == "change":
                memory[(first + n) * PAGE] = (memory[(first + n) * PAGE] + 1) % 256
            else:
                assert memory[(len(pages) + n) * PAGE] == 0
        print("ready", flush=True)


if __name__ == "__main__":
    main()
