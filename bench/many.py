#!/usr/bin/env python3
"""Measure reading a campaign of many runs: the first time, when each run is reduced, and again.

The campaign is simulated: settings of pages_to_scan and workloads, 10 repetitions of each, with 10
guests x 30 minutes at 1 Hz. Samples are those of 20 runs, as hard links, so that a disk holds them;
each run is read and reduced for itself. The first time is of `summary`. Then `summary`, `answer`,
`report` and `compare` read only reductions. Start-up is told apart: a run costs what N runs take
longer than 201, the fewest that are reduced. With --copied, only 20 runs are reduced, and their
reductions are copied to all others, so that 10,000 take a minute. Memory is the maximum resident
size of the largest process.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import _campaign
import numpy as np
from pyarrow import parquet

from ksm_analysis.analysis import reduction
from ksm_analysis.results import reduced

ROOT = Path(__file__).resolve().parents[1]
GUESTS, MINUTES, HERTZ, DISTINCT, REPETITIONS, WORKLOADS = 10, 30.0, 1.0, 20, 10, 10
MS_FIRST, MS_AGAIN, SECONDS_FEW, MEMORY_MB, PAGE_MB = 90, 2, 10, 2000, 12  # ms are per run
FEW = 201  # the fewest runs that are reduced


def write(directory, runs):
    """Write the campaign; return the number of guests' samples."""
    samples = []
    for number in range(runs):
        cell, repetition = divmod(number, REPETITIONS)
        setting, workload = divmod(cell, WORKLOADS)
        record = _campaign._record(setting + 1, GUESTS, MINUTES, HERTZ)
        name = f"w{workload + 1}"
        run = record["run"]
        run |= {"id": f"k{setting + 1}-{name}-r{repetition + 1}", "index": number + 1}
        run["factors"] |= {"workload": name, "repetition": repetition + 1}
        run["workload"]["name"] = name
        path = directory / run["id"]
        path.mkdir()
        (path / "run.json").write_text(json.dumps(record))
        (path / "events.jsonl").write_text("")
        raw = path / "samples.jsonl"
        if len(samples) < DISTINCT:
            lines = _campaign._lines(record, np.random.default_rng(number))
            raw.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
            samples.append(raw)
        else:
            os.link(samples[(7 * cell + repetition) % DISTINCT], raw)
    return runs * GUESTS * round(MINUTES * 60 * HERTZ)


def copy_reductions(directory):
    """Reduce a run with each of the distinct samples, and copy the reductions to all other runs."""
    made = {}
    for path in sorted(directory.iterdir()):
        samples = (path / "samples.jsonl").stat().st_ino
        if samples not in made:
            content = reduction.reduce(path)[1]
            made[samples] = parquet.read_table(io.BytesIO(content))
        table = made[samples]
        files = reduced.files_of(path)
        note = json.loads(table.schema.metadata[reduced.NOTE]) | {"files": files, "contents": ""}
        text = json.dumps(note).encode()
        metadata = {reduced.NOTE: text, reduced.SUM: reduced._sum(text)}
        file = path / reduced.NAME
        parquet.write_table(table.replace_schema_metadata(metadata), file, compression="zstd",
                            write_page_checksum=True)  # fmt: skip


def timed(*words):
    """Run a command of the project; return seconds and maximum resident MB."""
    program = (
        "import resource, subprocess, sys\n"
        "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL,"
        " stderr=subprocess.DEVNULL)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e6)"
    )
    command = [sys.executable, "-c", program, sys.executable, "-m", "ksm_analysis", *words]
    began = time.monotonic()
    said = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    return time.monotonic() - began, float(said)


def told(words, value, unit, target, met):
    """Print one line; return whether the target was missed."""
    print(f"{words:44}{value:9.1f} {unit:6} target {target:9} {'met' if met else 'NOT met'}")
    return not met


def few_of(directory):
    """Return a directory with FEW of the runs, as links."""
    few = directory.with_name("few")
    few.mkdir()
    for path in sorted(directory.iterdir())[:FEW]:
        (few / path.name).symlink_to(path)
    return few


def measure(directory, runs, copied):
    """Print the figures; return the number of missed targets."""
    print(f"{write(directory, runs):,} samples of guests in {runs} runs")
    page, missed = directory.with_suffix(".html"), 0
    if copied:
        copy_reductions(directory)
    else:
        first, memory = timed("summary", str(directory), "--csv")
        missed += told("first time, per run", 1000 * first / runs, "ms", f"<= {MS_FIRST}",
                       1000 * first / runs <= MS_FIRST)  # fmt: skip
        missed += told("  memory", memory, "MB", f"<= {MEMORY_MB}", memory <= MEMORY_MB)
    few = few_of(directory)
    commands = {
        "summary": lambda place: (place, "--csv"),
        "answer": lambda place: (place, "--json"),
        "report": lambda place: (place, "-o", page),
        "compare": lambda place: (place, place, "--by", "workload", "--json"),
    }
    for name, words in commands.items():
        least, _ = timed(name, *map(str, words(few)))
        again, memory = timed(name, *map(str, words(directory)))
        missed += told(f"{name}, {FEW} runs", least, "s", f"<= {SECONDS_FEW}",
                       least <= SECONDS_FEW)  # fmt: skip
        each = 1000 * (again - least) / (runs - FEW)
        missed += told("  each further run", each, "ms", f"<= {MS_AGAIN}", each <= MS_AGAIN)
        missed += told("  memory", memory, "MB", f"<= {MEMORY_MB}", memory <= MEMORY_MB)
    size = page.stat().st_size / 1e6
    page.unlink()
    return missed + told("  page", size, "MB", f"<= {PAGE_MB}", size <= PAGE_MB)


def main():
    """Print the figures; exit 1 if a target is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=1000, help="of the campaign (default: 1000)")
    parser.add_argument("--copied", action="store_true", help="reduce only 20 runs, copy the rest")
    arguments = parser.parse_args()
    if arguments.runs <= FEW:
        parser.error(f"--runs {arguments.runs}: must be more than {FEW}")
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place) / "campaign"
        directory.mkdir()
        return 1 if measure(directory, arguments.runs, arguments.copied) else 0


if __name__ == "__main__":
    sys.exit(main())
