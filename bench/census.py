#!/usr/bin/env python3
"""Measure the time and memory of a census, compared with memcpy and xxhash of as many bytes.

Compares in alternating rounds, so that noise affects all of them equally:

  census   roles/part_census/files/ksm_census.py on a process whose mergeable pages are all private
           and different, so that each is read and hashed; the whole program
  reading  only reading and hashing, the time for which guests are stopped with `pause`
  memcpy   memcpy.c, compiled here: as many bytes, once, into allocated memory
  xxhash   64-bit XXH3 of each page of as many bytes, by the package xxhash, which is C; in its own
           memory, so without reading another process

Then it measures the time per shared frame: those of a process and its child after a fork, each of
which is looked up in /proc/kpageflags and /proc/kpagecount. Memory is the maximum resident size
minus that of a census of one page.

A ratio is the median of the ratios of the rounds; the range follows. ksmd must be off (run=0).
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BENCH = Path(__file__).resolve().parent
CENSUS = BENCH.parent / "roles/part_census/files/ksm_census.py"
PYTHON = "/usr/bin/python3"  # what runs the census on a Debian host
PAGE = os.sysconf("SC_PAGE_SIZE")
PART, BYTES_A_PAGE, PAUSE_MS = 1 / 6, 64, 50
HOLD = """
import mmap, os, signal, sys
pages, forks = map(int, sys.argv[1:])
memory = mmap.mmap(-1, pages * mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(mmap.MADV_NOHUGEPAGE)
memory.madvise(mmap.MADV_MERGEABLE)
for left in range(pages, 0, -256):
    memory.write(os.urandom(min(left, 256) * mmap.PAGESIZE))
if not forks or os.fork():
    print("ready", flush=True)
sys.stdin.read()
"""
XXHASH = """
import mmap, os, sys, time
from xxhash import xxh3_64_intdigest
pages = int(sys.argv[1])
memory = mmap.mmap(-1, pages * mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.write(os.urandom(mmap.PAGESIZE) * pages)
view, size = memoryview(memory), mmap.PAGESIZE
start = time.perf_counter()
for at in range(0, pages * size, size):
    xxh3_64_intdigest(view[at : at + size])
print((time.perf_counter() - start) * 1e9)
"""
EXAMPLES = """\
examples:
  python bench/census.py
  python bench/census.py --pages 1000000 --rounds 3

Needs root, gcc, and xxhash from PyPI (the extra bench; skipped if it is not installed).
"""


@contextlib.contextmanager
def held(pages, forks=0):
    """Start a process with so many mergeable pages; yield its pid."""
    command = [sys.executable, "-c", HOLD, str(pages), str(forks)]
    # The child ends, too, when the other end of its input is closed
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        if process.stdout.readline() != b"ready\n":
            raise SystemExit(f"{pages} mergeable pages are not available")
        yield process.pid


def census(arguments, pid, *more):
    """Take a census; return its line, the seconds it took, and its maximum resident KiB."""
    command = [arguments.python, CENSUS, "--process", f"held={pid}", "--output", "-", *more]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    line = json.loads(process.stdout.read())
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    # Pages that a fork shares are what show_shared() measures
    wrong = [each for each in line["complaints"] if " share frames after a fork" not in each]
    if process.returncode or wrong:
        raise SystemExit(f"the census failed: {line['complaints']}")
    return line | {"seconds": time.perf_counter() - start, "kib": usage.ru_maxrss}


def nanoseconds(*command):
    """Return the output of a command, in seconds."""
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout) / 1e9


def rounds(arguments, pid):
    """Return the seconds of each method and round, and the last census."""
    costs = {}
    with tempfile.TemporaryDirectory() as directory:
        program = f"{directory}/memcpy"
        subprocess.run(["gcc", "-O2", "-Wall", "-o", program, BENCH / "memcpy.c"], check=True)
        ways = {"memcpy": (program, str(arguments.pages * PAGE))}
        if subprocess.run(
            [sys.executable, "-c", "import xxhash"], stderr=subprocess.DEVNULL, check=False
        ).returncode:
            print("xxhash is not installed: skipped", file=sys.stderr)
        else:
            ways["xxhash"] = (sys.executable, "-c", XXHASH, str(arguments.pages))
        for n in range(arguments.rounds):
            print(f"round {n + 1} of {arguments.rounds}", file=sys.stderr)
            line = census(arguments, pid)
            costs.setdefault("census", []).append(line["seconds"])
            costs.setdefault("reading", []).append(line["read_seconds"])
            for way, command in ways.items():
                costs.setdefault(way, []).append(nanoseconds(*command))
    return costs, line


def show(costs, total):
    """Print the table of speed."""
    print(f"\n{'':8}{'':>12}   census / this, in GB/s")
    for way, values in costs.items():
        row = f"{way:8}{total / statistics.median(values) / 1e9:7.2f} GB/s"
        if way in ("memcpy", "xxhash"):
            ratios = [own / other for own, other in zip(values, costs["census"], strict=True)]
            row += f"   {spread(ratios)}"
            if way == "memcpy":
                row += f"   target {PART:.3f} or more: {verdict(statistics.median(ratios) >= PART)}"
        print(row)


def spread(values):
    """Format median and range."""
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def verdict(met):
    """Whether a target is met."""
    return "met" if met else "NOT met"


def show_rest(arguments, pid, line):
    """Print memory, the time of stopped guests, and the cost of shared frames."""
    with held(1) as one:
        least = census(arguments, one)["kib"]
    each = (line["kib"] - least) * 1024 / arguments.pages
    print(f"memory: {each:.1f} B a page   target {BYTES_A_PAGE} or less: {verdict(each <= 64)}")
    with tempfile.TemporaryDirectory() as directory:
        traced = census(arguments, pid, "--trace", f"{directory}/census.trace")
    each = (traced["kib"] - least) * 1024 / arguments.pages
    times = traced["cpu_seconds"] / line["cpu_seconds"]
    print(f"with a trace: {each:.1f} B a page, {times:.2f} times the CPU time")
    paused = census(arguments, pid, "--pause")
    longer = 1000 * (paused["paused_seconds"] - paused["read_seconds"])
    said = f"{1000 * paused['paused_seconds']:.0f} ms, {longer:.1f} ms more than reading took"
    print(f"stopped: {said}   target {PAUSE_MS} or less more: {verdict(longer <= PAUSE_MS)}")


def show_shared(arguments):
    """Print the cost of looking up frames."""
    with held(arguments.pages, forks=1) as pid:
        line = census(arguments, pid)
    if line["fork_shared_pages"] < arguments.pages:
        raise SystemExit(f"only {line['fork_shared_pages']} pages are shared")
    each = 1e6 * line["read_seconds"] / arguments.pages
    print(f"shared frames: {each:.1f} µs each, contents included")


def main():
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--rounds", type=int, default=7, metavar="N", help="repetitions (default: 7)")
    add("--pages", type=int, default=262144, metavar="N", help="pages (default: 262144, 1 GiB)")
    add("--python", default=PYTHON, help=f"interpreter of the census (default: {PYTHON})")
    arguments = parser.parse_args()
    with held(arguments.pages) as pid:
        costs, line = rounds(arguments, pid)
        show(costs, arguments.pages * PAGE)
        show_rest(arguments, pid, line)
    show_shared(arguments)


if __name__ == "__main__":
    main()
