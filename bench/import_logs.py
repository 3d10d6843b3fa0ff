#!/usr/bin/env python3
"""Measure the time to import logs of the original framework: 60 logs, about 20 MB.

  import  python -m ksm_analysis import LOG... --results DIR: Python's start, reading and writing
  split   a Python that reads the same files, splits each line at `=` and keeps nothing

The logs are generated, with one to ten guests and about the same size. Both use this Python, in
alternating rounds, so that noise affects both equally. Times are the median of the rounds; the
range follows. The disk is that of temporary files.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 5
BYTES = 20_000_000
LOGS = 60
SPLIT = """
import sys
for path in sys.argv[1:]:
    with open(path) as file:
        for line in file:
            line.partition("=")
"""


def log(pids, size):
    """Return a log of about `size` bytes."""
    each = len(interval(1, pids))
    count = max(1, round(size / each))
    header = [f"num_intervals={count}", "interval_duration=1", "command_executed_in_vms=''"]
    header += [f"vm_pid_array={' '.join(map(str, pids))}"]
    return "\n".join(header) + "\n" + "".join(interval(n, pids) for n in range(1, count + 1))


def interval(n, pids):
    """Return one interval; its counters rise with `n`."""
    counters = {
        "full_scans": 3000 + n,
        "general_profit": 662_000_000 + 4096 * n,
        "max_page_sharing": 256,
        "merge_across_nodes": 1,
        "pages_shared": 52_000 + n,
        "pages_sharing": 166_000 + n,
        "pages_to_scan": 1000,
        "pages_unshared": 70_000 - n,
        "pages_volatile": n % 700,
        "run": 1,
        "sleep_millisecs": 20,
        "stable_node_chains": 5,
        "stable_node_chains_prune_millisecs": 2000,
        "stable_node_dups": 263,
        "use_zero_pages": 0,
    }
    lines = [f"Interval {n}: average_cpu_usage={n % 1000 / 100}"]
    lines += ["[BEGIN] Logging ksm system parameters"]
    lines += [f"{key}={value}" for key, value in counters.items()]
    lines += ["[END] Logging ksm system parameters"]
    for pid in pids:
        profit = 283_000_000 + 4096 * n
        stat = f"ksm_rmap_items {93_000 + n} ksm_merging_pages {70_000 + n}"
        lines.append(f"/proc/{pid}/ksm_stat={stat} ksm_process_profit {profit}")
    return "\n".join(lines) + "\n"


def write_logs(directory):
    """Write the logs; return their paths."""
    paths = [directory / f"log-{number:02}.log" for number in range(LOGS)]
    for number, path in enumerate(paths):
        first = 50_000 + 100 * number
        path.write_text(log(range(first, first + 1 + number % 10), BYTES / LOGS))
    return paths


def seconds(arguments):
    """Run Python to its end and return how long it took."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def rounds(count, directory, paths):
    """Return the seconds of import and split, one pair per round."""
    for number in range(count):
        print(f"round {number + 1} of {count}", file=sys.stderr)
        imports = ["-m", "ksm_analysis", "import", *paths, "--results", directory / f"{number}"]
        yield seconds(imports), seconds(["-c", SPLIT, *paths])


def main():
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="default: 5")
    count = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as name:
        paths = write_logs(Path(name))
        megabytes = sum(path.stat().st_size for path in paths) / 1e6
        imports, splits = zip(*rounds(count, Path(name), paths), strict=True)
    print(f"{LOGS} logs, {megabytes:.1f} MB")
    for way, times in (("import", imports), ("split", splits)):
        middle, span = statistics.median(times), f"({min(times):.2f} to {max(times):.2f})"
        row = f"{way:7}{middle:6.2f} s {span:16}{megabytes / middle:7.1f} MB/s"
        if way == "import":
            row += f"   at most {LIMIT} s: {'met' if middle <= LIMIT else 'NOT met'}"
        print(row)
    ratio = statistics.median(one / other for one, other in zip(imports, splits, strict=True))
    print(f"import / split {ratio:.1f}")


if __name__ == "__main__":
    main()
