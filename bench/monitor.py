#!/usr/bin/env python3
"""Measure the CPU time of a sample of the monitor service, compared with an earlier version.

Guests are replaced by sleeping processes with the option -name of QEMU. Versions and ways to find
guests alternate in rounds, so that noise affects all of them equally. A ratio is the median of the
ratios of the rounds to the first way; the range follows.
"""

import argparse
import contextlib
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROLES = Path(__file__).resolve().parent.parent / "roles"
PYTHON = "/usr/bin/python3"
WAYS = {
    "pid files": ["--domains", "{pids}"],
    "--match": ["--match", "-name guest=(stand-in-[0-9]+)"],
    "--containers": ["--domains", "{pids}", "--containers"],
}


@contextlib.contextmanager
def stand_ins(count, directory):
    """Start sleeping processes with pid files."""
    started = []
    try:
        for name in [f"stand-in-{n}" for n in range(count)]:
            argv = [PYTHON, "-Sc", "import time; time.sleep(9999)", "-name", f"guest={name}"]
            started.append(subprocess.Popen(argv))
            (directory / f"{name}.pid").write_text(f"{started[-1].pid}\n")
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def cpu(program, options, period, seconds):
    """Return the CPU seconds per sample of a service, without those of its start."""
    with tempfile.TemporaryDirectory() as state:
        argv = [PYTHON, "-EsB", program, "--state", state, "--period", str(period), *options]
        process = subprocess.Popen(argv)
        time.sleep(1)
        first = told(state)
        time.sleep(seconds)
        last = told(state)
        process.terminate()
        process.wait()
    return (last[0] - first[0]) / (last[1] - first[1])


def told(state):
    """Return the CPU seconds and the number of samples of a service."""
    text = (Path(state) / "ksm.prom").read_text()
    names = "ksm_monitor_cpu_seconds_total", "ksm_monitor_samples_total"
    return [float(re.search(f"^{name} (.*)$", text, re.M)[1]) for name in names]


def install(directory, revision=None):
    """Copy the programs, of a git revision or as they are, to a directory; return the monitor."""
    directory.mkdir()
    paths = ["part_sampler/files/ksm_sampler.py"]
    listed = [path.name for path in (ROLES / "monitor_service/files").glob("*.py")]
    for path in [*paths, *(f"monitor_service/files/{name}" for name in listed)]:
        if revision is None:
            text = (ROLES / path).read_bytes()
        else:
            show = ["git", "show", f"{revision}:roles/{path}"]
            text = subprocess.run(show, cwd=ROLES.parent, capture_output=True, check=False).stdout
        (directory / Path(path).name).write_bytes(text)
    return directory / "ksm_monitor.py"


def main():
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--revision", default="HEAD~1", help="git revision to compare with")
    parser.add_argument("--guests", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--period", type=float, default=0.05, help="seconds between samples")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long to measure each")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        pids = Path(place) / "pids"
        pids.mkdir()
        ways = {"earlier": (install(Path(place) / "old", arguments.revision), WAYS["pid files"])}
        new = install(Path(place) / "new")
        ways |= {name: (new, options) for name, options in WAYS.items()}
        with stand_ins(arguments.guests, pids):
            rounds = [
                {
                    name: cpu(
                        program,
                        [option.format(pids=pids) if "{" in option else option for option in way],
                        arguments.period,
                        arguments.seconds,
                    )
                    for name, (program, way) in ways.items()
                }
                for _ in range(arguments.rounds)
            ]
    for name in ways:
        ratios = sorted(each[name] / each["earlier"] for each in rounds)
        ms = statistics.median(each[name] for each in rounds) * 1e3
        ratio = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        print(f"{name:14} {ms:6.2f} ms a sample, ratio {ratio}")


if __name__ == "__main__":
    sys.exit(main())
