"""What may be concluded from repetitions. The run is the unit: samples of runs are never pooled.

Every test is scipy's. What is here decides which of them fits, and what is said of the result.
scipy.stats takes half a second to load, which scipy does where it is first used.
"""

import contextlib
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Values = Sequence[float] | Floats
CONFIDENCE = 0.95
FEWEST = 3  # runs on each side; with fewer there is no verdict
MANY = 8  # runs on each side; from here on the bootstrap is used
RESAMPLES = 49_999  # the smallest p is 1 in 25,000, for it is multiplied by the comparisons made
POWER = 0.8  # with which an effect is to be found when runs are counted that it would take
SEED = 20240  # so that the same runs give the same numbers


@dataclass(frozen=True)
class Estimate:
    """A mean over runs. `low` and `high` bound it with 95 % confidence; None for fewer than two."""

    mean: float
    low: float | None
    high: float | None
    runs: int


def estimate(values: Values) -> Estimate | None:
    """Estimate the mean of one value a run, by Student's t. NaN counts as no run; None without any.

    Source: scipy.stats.t.
    """
    known = _known(values)
    if not len(known):
        return None
    mean = float(known.mean())
    if len(known) < 2:
        return Estimate(mean, None, None, 1)
    half = float(scipy.stats.t.ppf((1 + CONFIDENCE) / 2, len(known) - 1) * scipy.stats.sem(known))
    return Estimate(mean, mean - half, mean + half, len(known))


def _known(values: Values) -> Floats:
    known = np.asarray(values, dtype=np.float64)
    return known[~np.isnan(known)]


# --- two groups of runs ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """Group B against group A.

    `absolute` is in the metric's unit. `effect` is the same as a fraction of `scale` (0.1: 10 %
    more), which is A's mean where values have a ratio, and else the larger of the two means without
    its sign; None if that is 0. `change` is the effect if it is relative to A's mean, else None.
    `low` and `high` bound the effect, `absolute_low` and `absolute_high` the absolute difference,
    with 95 % confidence, each comparison by itself. `p` is two-sided. They are None where there are
    too few runs for a verdict. `method` is how they were found: constant, Welch, or bootstrap.
    """

    a: Estimate
    b: Estimate
    absolute: float
    ratio: bool = True
    absolute_low: float | None = None
    absolute_high: float | None = None
    p: float | None = None
    method: str = ""

    @property
    def scale(self) -> float:
        """What the effect is a fraction of, in the metric's unit."""
        return self.a.mean if self.ratio else max(abs(self.a.mean), abs(self.b.mean))

    @property
    def effect(self) -> float | None:
        """The difference as a fraction of the scale."""
        return self._relative(self.absolute)

    @property
    def change(self) -> float | None:
        """The difference as a fraction of A's mean; None if values have no ratio."""
        return self.effect if self.ratio else None

    @property
    def low(self) -> float | None:
        """The lower bound of the effect."""
        return self._relative(self.absolute_low)

    @property
    def high(self) -> float | None:
        """The upper bound of the effect."""
        return self._relative(self.absolute_high)

    def _relative(self, value: float | None) -> float | None:
        return None if value is None or self.scale == 0 else value / self.scale


def difference(a: Values, b: Values) -> Difference | None:
    """Compare one value a run of two groups of runs. NaN counts as no run; None if a side has none.

    Fewer than 3 runs on a side: no interval, no p. Up to 7 on the smaller side, or values that have
    no ratio (A's not all positive, or any of B's negative): Welch's t-test. More: the ratio of
    means, its interval by bootstrap (BCa), its p as `p_value` says. Values that are all the same on
    each side are equal or not; there is nothing to test.

    Welch's interval as a fraction takes A's mean for exact; the bootstrap's does not.

    Source: scipy.stats.ttest_ind, bootstrap, PermutationMethod.
    """
    a, b = _known(a), _known(b)
    ours, theirs = estimate(a), estimate(b)
    if ours is None or theirs is None:
        return None
    constant = np.ptp(a) == np.ptp(b) == 0
    # A mean of equal numbers is off by rounding
    apart = float(b[0] - a[0] if constant else b.mean() - a.mean())
    found = Difference(ours, theirs, apart, ratio=bool(a.min() > 0 and b.min() >= 0))
    if min(len(a), len(b)) < FEWEST:
        return found
    if constant:
        return _bounded(found, (apart, apart), float(apart == 0), "constant")
    p = float(p_value(a, b))
    if found.ratio and min(len(a), len(b)) >= MANY:
        ratios = _ratio_interval(a, b)
        if np.isfinite(ratios).all():
            return _bounded(found, a.mean() * (ratios - 1), p, "bootstrap")
    with _doubts_of_equal_values():
        interval = scipy.stats.ttest_ind(b, a, equal_var=False).confidence_interval(CONFIDENCE)
    return _bounded(found, interval, p, "Welch")


def _bounded(found: Difference, bounds: Values, p: float, method: str) -> Difference:
    low, high = map(float, bounds)
    return replace(found, absolute_low=low, absolute_high=high, p=p, method=method)


def p_value(a: Floats, b: Floats) -> Floats:
    """Return two-sided p of equal means, one value a run along the last axis.

    Up to 7 runs on the smaller side it is that of Welch's t. From 8 on it is the larger of that and
    the p of the same t when runs are dealt out to the sides anew (permutation). Either alone is
    wrong too often somewhere: Welch's by a little with skewed values, a permutation by much with
    unequal spreads of unequal numbers of runs.
    """
    with _doubts_of_equal_values():
        p: Floats = np.asarray(scipy.stats.ttest_ind(b, a, equal_var=False, axis=-1).pvalue)
        if min(a.shape[-1], b.shape[-1]) >= MANY:
            dealt = scipy.stats.PermutationMethod(
                n_resamples=RESAMPLES, rng=np.random.default_rng(SEED)
            )
            again = scipy.stats.ttest_ind(b, a, equal_var=False, axis=-1, method=dealt)
            p = np.maximum(p, again.pvalue)
    return p


@contextlib.contextmanager
def _doubts_of_equal_values() -> Iterator[None]:
    """Keep scipy from doubting the spread of runs that are all the same: it is right to be 0."""
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        warnings.filterwarnings("ignore", "Precision loss", RuntimeWarning)
        warnings.filterwarnings("ignore", "invalid value encountered", RuntimeWarning)
        warnings.simplefilter("ignore", scipy.stats.DegenerateDataWarning)
        yield


def _ratio_interval(a: Floats, b: Floats) -> Floats:
    """Bound the ratio of B's mean to A's; NaN where BCa cannot, with almost equal values."""
    with _doubts_of_equal_values():
        found = scipy.stats.bootstrap(
            (a, b),
            lambda a, b, axis=-1: b.mean(axis=axis) / a.mean(axis=axis),
            n_resamples=RESAMPLES,
            confidence_level=CONFIDENCE,
            method="BCa",
            vectorized=True,
            rng=np.random.default_rng(SEED),
        )
    return np.array(found.confidence_interval)


def may_be_greatest(groups: Sequence[Values]) -> list[bool]:
    """Tell of each group of runs whether its mean may be the greatest of all.

    It may, unless another is shown to be greater. With equal means the chance that any is excluded
    is at most 5 %. With fewer than 3 runs of one of them, each may.

    Source: Games and Howell's test of all pairs, scipy.stats.tukey_hsd with equal_var=False.
    """
    known = [_known(group) for group in groups]
    if min(map(len, known)) < FEWEST:
        return [True] * len(known)
    with _doubts_of_equal_values():
        p = np.array(scipy.stats.tukey_hsd(*known, equal_var=False).pvalue)
    means = np.array([group.mean() for group in known])
    constant = np.array([np.ptp(group) == 0 for group in known])
    # Groups without any spread are equal or not
    p[np.ix_(constant, constant)] = np.equal.outer(means[constant], means[constant])
    shown = np.greater.outer(means, means) & (p < 1 - CONFIDENCE)
    return [not any(column) for column in shown.T]


def holm(values: Sequence[float]) -> list[float]:
    """Adjust p values of several tests, so that the chance of even one false alarm stays as asked.

    Source: Holm, A Simple Sequentially Rejective Multiple Test Procedure, 1979.
    """
    count, highest = len(values), 0.0
    adjusted = [0.0] * count
    for rank, index in enumerate(np.argsort(values)):
        highest = max(highest, min(1.0, (count - rank) * values[index]))
        adjusted[index] = float(highest)
    return adjusted


# --- verdicts -------------------------------------------------------------------------------------

HIGHER, LOWER = "higher", "lower"
SMALL = "differs, by less than matters"
SAME = "the same"
NOT_SHOWN = "no difference shown"
NO_VERDICT = "no verdict"


def verdict(found: Difference, adjusted: float | None, smallest: float) -> str:
    """Say what a difference comes to: B is higher, lower, or one of the four others above.

    `adjusted` is its p after Holm; `smallest` the relative change from which on it matters. A
    difference is one if both its p and its interval say so.
    """
    if adjusted is None or found.absolute_low is None or found.absolute_high is None:
        return NO_VERDICT
    outside = found.absolute_low > 0 or found.absolute_high < 0
    if found.method == "constant" or (adjusted < 1 - CONFIDENCE and outside):
        if abs(found.effect or 0) < smallest:
            return SMALL if found.absolute else SAME
        return HIGHER if found.absolute > 0 else LOWER if found.absolute else SAME
    low, high = found.low, found.high
    if low is not None and high is not None and -smallest <= low and high <= smallest:
        return SAME
    return NOT_SHOWN


def runs_needed(a: Values, b: Values, scale: float, smallest: float) -> int | None:
    """Estimate the runs a side that would tell the smallest effect that matters from none.

    4 times in 5, by the normal approximation, from the spread of the runs at hand: a guide and no
    more. `smallest` is a fraction of `scale`. None if the spread is not known, or either is 0.
    """
    a, b = _known(a), _known(b)
    if min(len(a), len(b)) < 2 or not scale * smallest:
        return None
    z = scipy.stats.norm.ppf((1 + CONFIDENCE) / 2) + scipy.stats.norm.ppf(POWER)
    variances = float(a.var(ddof=1) + b.var(ddof=1))
    return max(FEWEST, math.ceil(variances * (z / (scale * smallest)) ** 2))
