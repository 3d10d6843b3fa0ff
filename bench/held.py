"""A process with mergeable memory of known contents, for the benchmark of policies.

Arguments: its number, pages, the share of pages that are equal between processes, the share of
zeros, the share of pages that are written in a second, and for how long a written page differs (0:
for ever). It prints `ready` when its memory is written, and ends with its standard input.
"""

import collections
import contextlib
import ctypes
import mmap
import random
import select
import sys
import time

PAGE = mmap.PAGESIZE
NO_HUGE_PAGES = 41  # PR_SET_THP_DISABLE
TICK = 0.05


def content(number, page, equal, zero):
    """Return what a page holds: the same in all processes, zeros, or its own."""
    if page < equal:
        return (page + 1).to_bytes(8, "little") * (PAGE // 8)
    if page < equal + zero:
        return bytes(PAGE)
    return (number << 32 | page).to_bytes(8, "little") * (PAGE // 8)


def main():
    """Hold the memory, and write to it."""
    number, pages = map(int, sys.argv[1:3])
    equal, zero, writes, rests = map(float, sys.argv[3:])
    equal, zero = round(pages * equal), round(pages * zero)
    ctypes.CDLL(None).prctl(NO_HUGE_PAGES, 1, 0, 0, 0)
    memory = mmap.mmap(-1, pages * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_MERGEABLE)
    for page in range(pages):
        memory[page * PAGE : (page + 1) * PAGE] = content(number, page, equal, zero)
    print("ready", flush=True)
    rng, away = random.Random(number), collections.deque()
    due = time.monotonic()
    while not select.select([sys.stdin], [], [], TICK if writes else None)[0]:
        now = time.monotonic()
        while due < now and writes:
            due += 1 / (writes * pages)
            page = rng.randrange(pages)
            memory[page * PAGE : page * PAGE + 8] = rng.randbytes(8)
            away.append((now + rests, page))
        while rests and away and away[0][0] <= now:
            page = away.popleft()[1]
            memory[page * PAGE : (page + 1) * PAGE] = content(number, page, equal, zero)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
