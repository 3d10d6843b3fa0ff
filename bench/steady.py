#!/usr/bin/env python3
"""Measure how much earlier runs end with `stop: steady`, and the error of their results.

Replays the samples of finished runs of fixed length with the sampler's rule, and compares the end
by the rule with the real end. Sharing is pages_sharing. By default it replays the runs of
experiments/original-1.yml, which must be done before.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import NamedTuple

from _sampler import ksm_sampler

ROOT = Path(__file__).resolve().parents[1]
WITHIN = 2  # percent
SHARE = 1 / 5  # of the time
DEFAULT = "results/original-1/g*/"
FIRST = f"""\
no runs to replay: {DEFAULT} does not exist. First do an experiment of fixed length:
  python -m ksm_analysis run experiments/original-1.yml"""
EXAMPLES = """\
examples:
  python bench/steady.py
  python bench/steady.py results/original-1/g03* --percent 0.5
  python bench/steady.py results/original-1/g* --seconds 120 --every 60
"""


class UnusableError(Exception):
    """A run that cannot be replayed; the message is for the user."""


class Sample(NamedTuple):
    """The values that the rule uses; seconds since the first deadline."""

    n: int
    seconds: float
    full_scans: int
    pages_sharing: int


def read_samples(run):
    """Return period and samples of a run; UnusableError if it is not complete."""
    try:
        text = (run / "samples.jsonl").read_text()
        header, *samples, end = map(json.loads, text.splitlines())
    except OSError as error:
        raise UnusableError(f"cannot read {run}/samples.jsonl: {error.strerror}") from error
    except ValueError:  # a sampler that was killed
        samples, end = [], {}
    if not samples or end.get("reason") != "finished":
        raise UnusableError(f"{run} is not a complete run of fixed length")
    return header["period"], [
        Sample(
            sample["n"],
            sample["monotonic"] - header["monotonic"],
            sample["ksm"]["full_scans"],
            sample["ksm"]["pages_sharing"],
        )
        for sample in samples
    ]


def steady_sample(samples, rule, every):
    """Return the first sample at which the rule ends a run, checked every so many; or None."""
    for sample in samples:
        rule.add(*sample[1:])
        if sample.n % every == 0 and rule.reached():
            return sample
    return None


def row(name, steady, last):
    """Return one line of the table."""
    if steady is None:
        return f"{name:24}{'never':>9}{'':10}{last.pages_sharing:12}{'':17}   NOT met"
    share, off = steady.seconds / last.seconds, difference(steady, last)
    verdict = "met" if abs(off) <= WITHIN and share <= SHARE else "NOT met"
    numbers = f"{steady.seconds:7.0f} s{steady.pages_sharing:10}{last.pages_sharing:12}"
    return f"{name:24}{numbers}{off:+8.2f} %{share:7.1%}   {verdict}"


def difference(steady, last):
    """Return the error of sharing in percent."""
    if steady.pages_sharing == last.pages_sharing:
        return 0.0
    return (steady.pages_sharing / last.pages_sharing - 1) * 100 if last.pages_sharing else 100.0


def parse_arguments():
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("runs", nargs="*", type=Path, metavar="RUN_DIRECTORY", help="a run of fixed length")
    for name, default, text in (
        ("every", 10, "seconds of an interval; a run may end only at its end"),
        ("scans", 3, "full scans during which sharing must be flat"),
        ("seconds", 60, "seconds during which sharing must be flat"),
        ("percent", 1, "maximum range of flat values"),
    ):
        kind = int if name == "scans" else float
        add(f"--{name}", type=kind, default=default, help=f"{text} (default: {default})")
    return parser.parse_args()


def replay(run, arguments):
    """Return the line of the table for one run directory."""
    period, samples = read_samples(run)
    rule = ksm_sampler.Steady(arguments.scans, arguments.seconds, arguments.percent)
    steady = steady_sample(samples, rule, max(1, round(arguments.every / period)))
    return row(run.name, steady, samples[-1])


def complain(message):
    """Report an error to the user."""
    print(f"steady.py: {message}", file=sys.stderr)


def main():
    """Print the table. If a run cannot be replayed, the others still are."""
    arguments = parse_arguments()
    runs = arguments.runs or sorted(ROOT.glob(DEFAULT))
    if not runs:
        complain(FIRST)
        return 1
    print(f"{'':24}{'steady at':>9}{'sharing':>10}{'in the end':>12}{'off':>10}{'time':>7}", end="")
    print(f"   target: off {WITHIN} % in {SHARE:.0%} of the time, at most")
    failed = 0
    for run in runs:
        try:
            print(replay(run, arguments))
        except UnusableError as error:
            complain(error)
            failed += 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
