#!/usr/bin/env python3
"""Measure the time of a run beyond its sampling, and how much of it is booting.

  run      from the event that a run has started to the event that it has ended
  booting  from the start of its guests until the last agent answers
  Ansible  the rest: preparing, setting knobs, removing guests, restoring, collecting

Does one experiment of three runs, with three idle guests each. Needs root; provisions this machine.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 15
DEFINITION = """\
guests: {{count: {guests}}}
sampling: {{interval: 3, intervals: {intervals}}}
repetitions: {runs}
"""


def timed_runs(definition, results):
    """Do the runs; return {run id: seconds from its start to its end}."""
    command = [sys.executable, "-m", "ksm_analysis", "run", "--json", "--results", results]
    began, took = {}, {}
    with subprocess.Popen([*command, definition], stdout=subprocess.PIPE, cwd=ROOT) as process:
        for event in map(json.loads, process.stdout):
            if event["event"] == "run started":
                began[event["run"]] = time.monotonic()
            elif event["event"] == "run ended":
                took[event["run"]] = time.monotonic() - began[event["run"]]
    if process.returncode:
        sys.exit(f"the experiment failed: exit code {process.returncode}")
    return took


def boot_seconds(run):
    """Return the seconds until the last guest of a run was ready."""
    events = [json.loads(line) for line in (run / "events.jsonl").open()]
    return max(event["seconds"] for event in events if event["event"] == "guests ready")


def main():
    """Print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--guests", type=int, default=3, help="guests of each run (default: 3)")
    parser.add_argument("--runs", type=int, default=3, help="runs (default: 3)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        definition = Path(name) / "overhead.yml"
        definition.write_text(DEFINITION.format(intervals=SECONDS // 3, **vars(arguments)))
        took = timed_runs(definition, name)
        boots = {run: boot_seconds(Path(name) / "overhead" / run) for run in took}
    overhead = statistics.median(took[run] - SECONDS for run in took)
    booting = statistics.median(boots.values())
    ansible = statistics.median(took[run] - SECONDS - boots[run] for run in took)
    print(
        f"{arguments.guests} guests, median of {len(took)} runs: {overhead:.1f} s beyond sampling, "
        f"booting {booting:.1f} s, Ansible {ansible:.1f} s (target: at most 10)"
    )


if __name__ == "__main__":
    main()
