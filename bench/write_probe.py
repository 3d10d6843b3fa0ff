#!/usr/bin/env python3
"""Compare the write probe with the kernel's way to measure the same, in alternating rounds.

  probe  roles/part_write_probe/files/ksm_write_probe.py: each write at a random time, to a random
         page, measured by itself, in Python
  peer   cow.c, compiled here, as ksm_tests -C of the kernel: writes to every second page in one
         loop, and the mean of them all

Both times are means of writes to merged pages, while ksmd runs. That of the probe is less what its
clock costs (the median). A ratio is the median of the ratios of the rounds; the range follows.

It sets knobs of KSM (run=1, pages_to_scan, sleep_millisecs, smart_scan), and restores them. Nothing
else may use KSM meanwhile.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

BENCH = Path(__file__).resolve().parent
PROBE = BENCH.parent / "roles/part_write_probe/files/ksm_write_probe.py"
PYTHON = "/usr/bin/python3"  # what runs the probe on a Debian host
KSM = Path("/sys/kernel/mm/ksm")
KNOBS = {"pages_to_scan": "1000", "sleep_millisecs": "10", "smart_scan": "0", "run": "1"}
CPU = str(max(os.sched_getaffinity(0)))


@contextlib.contextmanager
def knobs_set():
    """Set the knobs that this kernel has, and restore them; run=2 unmerges what is left."""
    found = {name: (KSM / name).read_text().strip() for name in KNOBS if (KSM / name).exists()}
    try:
        for name in found:
            (KSM / name).write_text(KNOBS[name])
        yield
    finally:
        (KSM / "run").write_text("2")
        for name, value in found.items():
            (KSM / name).write_text(value)


def peer(program: Path, pages: int) -> tuple[float, float]:
    """Return mean times of a write in ns: not merged, merged."""
    command = ["taskset", "-c", CPU, str(program), str(pages)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    plain, merged = map(float, done.stdout.split())
    return plain, merged


def probe(mib: int, seconds: float, rate: float) -> dict[str, list[float]]:
    """Return all times in ns of writes after the pages were merged, less the clock's."""
    command = [PYTHON, str(PROBE), "--mib", str(mib), "--seconds", str(seconds), "--equal"]
    command += ["--rate", str(rate)]
    done = subprocess.run(
        ["taskset", "-c", CPU, *command], capture_output=True, text=True, check=True
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    clock = lines[0]["clock"]["p50_ns"]
    batches = [line for line in lines if line.get("kind") == "writes"]
    late = batches[len(batches) // 2 :]
    return {
        kind: [ns - clock for batch in late for ns in batch[kind]] for kind in ("merged", "plain")
    }


def spread(values: list[float], digits: int = 0) -> str:
    """Write the median and the range."""
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"


def main() -> None:
    """Print times and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="(default: 5)")
    parser.add_argument("--mib", type=int, default=16, metavar="N", help="(default: 16)")
    parser.add_argument("--seconds", type=float, default=6, metavar="S", help="of the probe (6)")
    parser.add_argument("--rate", type=float, default=300, metavar="R", help="of the probe (300)")
    asked = parser.parse_args()
    if os.geteuid():
        sys.exit("write_probe.py: only root may set the knobs and read /proc/self/pagemap")
    rounds = []
    with tempfile.TemporaryDirectory() as directory, knobs_set():
        program = Path(directory) / "cow"
        subprocess.run(["gcc", "-O2", "-o", program, BENCH / "cow.c"], check=True)
        for _ in range(asked.rounds):
            found = probe(asked.mib, asked.seconds, asked.rate)
            rounds.append((found, *peer(program, asked.mib * 256)))
    means = [statistics.fmean(found["merged"]) for found, _, _ in rounds]
    medians = [statistics.median(found["merged"]) for found, _, _ in rounds]
    plain = [statistics.median(found["plain"]) for found, _, _ in rounds]
    print(f"{asked.rounds} rounds; {sum(len(found['merged']) for found, _, _ in rounds)} merged")
    print(f"probe, merged, mean    {spread(means)} ns")
    print(f"probe, merged, median  {spread(medians)} ns")
    print(f"probe, plain, median   {spread(plain)} ns")
    print(f"peer, merged, mean     {spread([merged for _, _, merged in rounds])} ns")
    print(f"peer, not merged, mean {spread([before for _, before, _ in rounds])} ns")
    ratios = [mean / merged for mean, (_, _, merged) in zip(means, rounds, strict=True)]
    print(f"probe / peer, means    {spread(ratios, 2)}")


if __name__ == "__main__":
    main()
