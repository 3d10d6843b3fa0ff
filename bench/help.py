#!/usr/bin/env python3
"""Measure the time of --help, compared with a Python that does nothing.

  help     python -m ksm_analysis --help
  nothing  python -c pass

Both use this Python, in alternating rounds, so that noise affects both equally. The ratio is the
median of the ratios of the rounds; the range follows. Compiled modules are in a separate directory,
which is filled before the first round.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 3
HELP = ("-m", "ksm_analysis", "--help")
NOTHING = ("-c", "pass")


def seconds(arguments, environment):
    """Run Python to its end and return how long it took."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, *arguments],
        check=True,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    return time.perf_counter() - start


def rounds(count):
    """Return the seconds of both, one pair per round."""
    with tempfile.TemporaryDirectory() as directory:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": directory}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        for arguments in (HELP, NOTHING):
            seconds(arguments, environment)
        return [(seconds(HELP, environment), seconds(NOTHING, environment)) for _ in range(count)]


def main():
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20, metavar="N", help="default: 20")
    pairs = rounds(parser.parse_args().rounds)
    helps, nothings = zip(*pairs, strict=True)
    ratios = [one / other for one, other in pairs]
    ratio = statistics.median(ratios)
    verdict = "met" if ratio <= LIMIT else "NOT met"
    print(f"help     {statistics.median(helps) * 1e3:6.1f} ms")
    print(f"nothing  {statistics.median(nothings) * 1e3:6.1f} ms")
    span = f"({min(ratios):.2f} to {max(ratios):.2f})"
    print(f"help / nothing {ratio:.2f} {span}   at most {LIMIT}: {verdict}")


if __name__ == "__main__":
    main()
