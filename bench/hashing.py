#!/usr/bin/env python3
"""Measure what it costs to compare and to hash pages, in the cache and not.

hashing.c, compiled here, compares and hashes as the kernel does: memcmp by 8 bytes, xxhash of 64
bits. Strong hashes are those of Python's hashlib, less what it takes to call it. "warm" is of 16
pages, "cold" of so many in random order that none is in the cache. The least of all rounds counts,
since other programs only make it longer; the greatest follows.

The numbers are Prices of ksm_analysis/simulator/hashing.py. Needs no KSM and no root.
"""

import argparse
import hashlib
import mmap
import random
import subprocess
import tempfile
import time
from pathlib import Path

BENCH = Path(__file__).resolve().parent
PAGE = 4096
STRONG = {"sha256": hashlib.sha256, "blake2b": lambda data: hashlib.blake2b(data, digest_size=32)}


def asked(program: Path, pages: int) -> dict[str, float]:
    """Return nanoseconds by what was measured."""
    done = subprocess.run([program, str(pages)], capture_output=True, text=True, check=True)
    rows = (line.split() for line in done.stdout.splitlines())
    return {f"{what} {size}" if what == "compare" else what: float(ns) for what, size, ns in rows}


def strong(memory: mmap.mmap, order: list[int]) -> dict[str, float]:
    """Return nanoseconds of a strong hash of a page, by its name."""
    found = {}
    with memoryview(memory) as view:
        for name, hashed in STRONG.items():
            calls = seconds(hashed, [view[at:at] for at in order])
            pages = seconds(hashed, [view[at : at + PAGE] for at in order])
            found[name] = (pages - calls) / len(order) * 1e9
    return found


def seconds(hashed, pages) -> float:
    """Return how long it takes to hash all of these."""
    begin = time.perf_counter()
    for page in pages:
        hashed(page).digest()
    return time.perf_counter() - begin


def main() -> None:
    """Print a line for each price."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="(default: 7)")
    parser.add_argument("--pages", type=int, default=262144, metavar="N", help="cold (262144)")
    options = parser.parse_args()
    found: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as directory, mmap.mmap(-1, options.pages * PAGE) as memory:
        program = Path(directory) / "hashing"
        flags = ["-O2", "-fno-tree-vectorize"]  # the kernel has no vectors
        subprocess.run(["gcc", *flags, "-o", program, BENCH / "hashing.c"], check=True)
        memory[:] = random.randbytes(PAGE) * options.pages
        cold = random.sample(range(options.pages), min(options.pages, 30_000))
        for _ in range(options.rounds):
            for state, pages, order in (("warm", 16, [0] * 30_000), ("cold", options.pages, cold)):
                prices = asked(program, pages) | strong(memory, [PAGE * page for page in order])
                for name, value in prices.items():
                    found.setdefault(name, {}).setdefault(state, []).append(value)
    print(f"{'nanoseconds':14} {'warm':>8} {'most':>8} {'cold':>8} {'most':>8}")
    for name, states in found.items():
        numbers = [each for values in states.values() for each in (min(values), max(values))]
        print(f"{name:14} {' '.join(f'{each:8,.1f}' for each in numbers)}")


if __name__ == "__main__":
    main()
