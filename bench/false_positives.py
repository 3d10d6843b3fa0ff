#!/usr/bin/env python3
"""How often `compare` sees a difference where there is none, and how often one that is there.

Simulates experiments of several runs a side. A run is reduced to one value, as `compare` does; of
autocorrelated series that is the last sample or the mean. Beside it: what comes of pooling samples,
as if each were a run, which is why this is not done. Every rate has its standard error.
"""

import argparse
import math
import warnings

import numpy as np
from scipy import stats

from ksm_analysis import statistics

SAMPLES = 180  # of a run
CORRELATION = 0.95  # of one sample with the next


def normal(generator, runs):
    """Runs that scatter evenly by 10 %."""
    return generator.normal(100, 10, runs)


def skewed(generator, runs):
    """Runs that scatter by 10 %, more of them far up than far down."""
    return 100 * generator.lognormal(0, 0.1, runs)


def series(generator, runs):
    """Samples of runs, each of which depends on the one before: one row a run."""
    noise = generator.normal(0, 1, (runs, SAMPLES))
    noise[:, 0] /= math.sqrt(1 - CORRELATION**2)
    for n in range(1, SAMPLES):
        noise[:, n] += CORRELATION * noise[:, n - 1]
    return 100 + 3 * noise


def autocorrelated(generator, runs):
    """Runs whose samples depend on those before; the last stands for the run."""
    return series(generator, runs)[:, -1]


def autocorrelated_mean(generator, runs):
    """As above; the mean stands for the run."""
    return series(generator, runs).mean(axis=1)


def alarmed(groups, smallest=0.0):
    """Whether any of the comparisons is told to differ, with Holm over all of them."""
    found = [statistics.difference(a, b) for a, b in groups]
    adjusted = statistics.holm([each.p for each in found])
    verdicts = map(statistics.verdict, found, adjusted, [smallest] * len(found))
    return any(each in (statistics.HIGHER, statistics.LOWER) for each in verdicts)


def rate(times, make):
    """Share of experiments that raise an alarm, and its standard error."""
    share = sum(map(alarmed, (make() for _ in range(times)))) / times
    return share, math.sqrt(max(share * (1 - share), 1 / times) / times)


def pooled(times, generator, runs):
    """Share of experiments in which samples that are taken for runs differ by Welch's test."""
    alarms = sum(
        stats.ttest_ind(
            series(generator, runs).ravel(), series(generator, runs).ravel(), equal_var=False
        ).pvalue
        < 1 - statistics.CONFIDENCE
        for _ in range(times)
    )
    share = alarms / times
    return share, math.sqrt(share * (1 - share) / times)


def main():
    """Print the rates. Exits 1 if a rate of false alarms is beyond 5 % by more than its error."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=2000, help="experiments each (default: 2000)")
    times = parser.parse_args().times
    generator, failed = np.random.default_rng(1), 0
    warnings.simplefilter("error")
    print(f"{times} experiments each; false alarms at most 5 %, give or take 3 standard errors")
    for kind in (normal, skewed, autocorrelated, autocorrelated_mean):
        for runs in (3, 5, 7, 8, 12):
            few = times if runs < statistics.MANY else max(200, times // 5)
            found, error = rate(few, lambda k=kind, n=runs: [(k(generator, n), k(generator, n))])
            failed += found > 0.05 + 3 * error
            print(f"  {kind.__name__:20}{runs:3} runs a side {found:7.1%} ± {error:.1%}")
    found, error = rate(
        times, lambda: [(normal(generator, 5), normal(generator, 5)) for _ in range(6)]
    )
    failed += found > 0.05 + 3 * error
    print(f"  {'six metrics, Holm':20}{5:3} runs a side {found:7.1%} ± {error:.1%}")
    found, error = pooled(times, generator, 5)
    print(
        f"  {'samples taken as runs':20}{5:2} runs a side {found:7.1%} ± {error:.1%}   (not done)"
    )
    for effect in (0.1, 0.2):
        found, error = rate(
            times,
            lambda e=effect: [
                (normal(generator, 5), (1 + e) * (100 + (normal(generator, 5) - 100) / 5))
            ],
        )
        print(
            f"  finds {effect:.0%} more, runs that scatter by 10 and 2 %: {found:.1%} ± {error:.1%}"
        )
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
