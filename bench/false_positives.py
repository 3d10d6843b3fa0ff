#!/usr/bin/env python3
"""Measure how often `compare` reports differences that do not exist, and those that do.

Simulates experiments with several runs per side. A run is reduced to one value, as in `compare`;
for autocorrelated series, that is the last sample or the mean. For comparison, samples are pooled
as if each were a run, which shows why `compare` does not do this. Every rate has a standard error.

The rates of single comparisons are for p below 0.05, without the interval that a verdict also
requires, so the rate of verdicts is not higher. Rates marked "no limit" may be above 5 %: they are
for methods that are not used, or for the hardest cases.
"""

import argparse
import math
import warnings

import numpy as np
from scipy import stats

from ksm_analysis.analysis import statistics

LEVEL = 1 - statistics.CONFIDENCE
SAMPLES = 180  # of a run
CORRELATION = 0.95  # of consecutive samples
AT_ONCE = 500  # experiments, limited by the memory of their permutations
RESAMPLES = 999  # fewer permutations make p coarser, but not biased


# --- runs without a difference: an array of the given shape, one value per run --------------------


def normal(generator, shape):
    """Return runs with a normal scatter of 10 %."""
    return generator.normal(100, 10, shape)


def skewed(generator, shape):
    """Return runs with a skewed scatter of 10 %."""
    return 100 * generator.lognormal(0, 0.1, shape)


def series(generator, shape):
    """Return autocorrelated samples of runs, on an additional axis."""
    noise = generator.normal(0, 1, (*np.atleast_1d(shape), SAMPLES))
    noise[..., 0] /= math.sqrt(1 - CORRELATION**2)
    for n in range(1, SAMPLES):
        noise[..., n] += CORRELATION * noise[..., n - 1]
    return 100 + 3 * noise


def autocorrelated(generator, shape):
    """Return runs of autocorrelated samples, reduced to the last sample."""
    return series(generator, shape)[..., -1]


def autocorrelated_mean(generator, shape):
    """Return runs of autocorrelated samples, reduced to the mean."""
    return series(generator, shape).mean(axis=-1)


def two_values(generator, shape):
    """Return runs that end at one of two values, as exact counters can."""
    return generator.choice([489.0, 977.0], shape)


def narrow(generator, shape):
    """Return runs with a normal scatter of 1 % in logarithms."""
    return 100 * generator.lognormal(0, 0.01, shape)


def in_blocks(generator, shape, kind):
    """Return runs whose blocks (the second last axis) differ by 50 %; the last axis: settings."""
    return kind(generator, shape) * generator.lognormal(0, 0.5, (*shape[:-1], 1))


# --- rates ----------------------------------------------------------------------------------------


def share(alarms):
    """Return the share of experiments with an alarm, and its standard error."""
    alarms = np.asarray(alarms)
    found = float(alarms.mean())
    return found, math.sqrt(max(found * (1 - found), 1 / alarms.size) / alarms.size)


def alarms(a, b):
    """Whether each experiment (row) has p below 0.05; the columns are runs."""
    parts = range(0, len(a), AT_ONCE)
    p = [statistics.p_value(a[n : n + AT_ONCE], b[n : n + AT_ONCE]) for n in parts]
    return np.concatenate(p) < LEVEL


def family_alarms(a, b):
    """Whether any metric (second axis) of each experiment (first axis) has an alarm after Holm."""
    p = statistics.p_value(a, b)
    return np.array([min(statistics.holm(each)) < LEVEL for each in p])


def pooled_alarms(generator, times, runs):
    """Whether pooled samples differ by Welch's test."""
    a, b = (series(generator, (times, runs)).reshape(times, -1) for _ in "ab")
    return stats.ttest_ind(a, b, equal_var=False, axis=-1).pvalue < LEVEL


def verdicts(a, b, smallest):
    """Return the verdict of `compare` for each experiment, as the only comparison."""
    return np.array(
        [
            statistics.verdict(
                found := statistics.difference(*pair),
                found.p,
                smallest,
                statistics.equivalence(*pair, smallest),
            )
            for pair in zip(a, b, strict=True)
        ]
    )


# --- the report -----------------------------------------------------------------------------------


def report(words, found, limit=LEVEL):
    """Print a rate. Returns whether it exceeds the limit by more than three standard errors."""
    rate, error = found
    beyond = limit is not None and rate > limit + 3 * error
    mark = "   NOT met" if beyond else "   (no limit)" if limit is None else ""
    print(f"  {words:52}{rate:7.2%} ± {error:.2%}{mark}", flush=True)
    return beyond


def single(generator, times):
    """Print rates of single comparisons, on data without a difference."""
    beyond = 0
    for kind in (normal, skewed, autocorrelated, autocorrelated_mean):
        for runs in (3, 5, 7, 8, 12):
            few = times if runs < statistics.MANY else times // 5
            a, b = (kind(generator, (few, runs)) for _ in "ab")
            beyond += report(f"{kind.__name__}, {runs} runs a side", share(alarms(a, b)))
    return beyond


def hard(generator, times):
    """Print rates for counters with two values, and for sides of unequal size and spread."""
    for runs in range(3, 9):
        few = times if runs < statistics.MANY else times // 5
        a, b = (two_values(generator, (few, runs)) for _ in "ab")
        report(f"two_values, {runs} runs a side", share(alarms(a, b)), None)
    for first, second in ((3, 7), (7, 3), (8, 16), (16, 8)):
        few = times if first < statistics.MANY else times // 5
        a = generator.normal(100, 3, (few, first))
        b = generator.normal(100, 12, (few, second))
        words = f"normal, {first} runs that scatter by 3 %, {second} by 12 %"
        report(words, share(alarms(a, b)), None)


def several(generator, times):
    """Print rates of any alarm among six metrics, and of alarms with pooled samples."""
    beyond = 0
    for kind in (normal, skewed):
        for runs in (3, 5):
            a, b = (kind(generator, (times, 6, runs)) for _ in "ab")
            words = f"any of six metrics by Holm, {kind.__name__}, {runs} runs a side"
            beyond += report(words, share(family_alarms(a, b)))
    report("six metrics without Holm, 5 runs a side (not done)", share(np.any(
        [alarms(*(normal(generator, (times, 5)) for _ in "ab")) for _ in range(6)], axis=0
    )), None)  # fmt: skip
    pooled = pooled_alarms(generator, times // 10, 5)
    report("samples taken for runs, 5 runs a side (not done)", share(pooled), None)
    return beyond


def whole(generator, times):
    """Print rates of verdicts: false ones, then true ones."""
    beyond, moved = 0, (statistics.HIGHER, statistics.LOWER)
    for runs in (3, 8):
        a, b = (normal(generator, (times, runs)) for _ in "ab")
        found = share(np.isin(verdicts(a, b, 0.01), moved))
        beyond += report(f"higher or lower without a difference, {runs} runs a side", found)
        a, b = (generator.normal(mean, 0.5, (times, runs)) for mean in (100, 101))
        found = share(verdicts(a, b, 0.01) == statistics.SAME)
        beyond += report(f"the same within 1 % though 1 % apart, {runs} runs a side", found)
    for runs in (3, 5, 8):
        a, b = (generator.normal(mean, 2, (times, runs)) for mean in (100, 110))
        found = share(verdicts(a, b, 0.01) == statistics.HIGHER)
        report(f"10 % more is found, scatter 2 %, {runs} runs a side", found, 1)
    return beyond


def main():
    """Print the rates. Exits 1 if a rate of false alarms exceeds 5 % by more than its error."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--times", type=int, default=20_000, help="experiments each (default: 20000)")
    times = parser.parse_args().times
    if times < 1000:
        parser.error("--times: fewer than 1000 say nothing")
    generator = np.random.default_rng(1)
    warnings.simplefilter("error")
    statistics.RESAMPLES = RESAMPLES
    print(f"{times} experiments each, a fifth of them from {statistics.MANY} runs on")
    beyond = single(generator, times) + several(generator, times)
    hard(generator, times)
    beyond += whole(generator, times // 20)
    return 1 if beyond else 0


if __name__ == "__main__":
    raise SystemExit(main())
