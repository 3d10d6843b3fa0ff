"""What may be concluded from repetitions. The run is the unit: samples of runs are never pooled.

Every test is scipy's. What is here decides which of them fits, and what is said of the result.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
FEWEST = 3  # runs on each side; with fewer there is no verdict
MANY = 8  # runs on each side; from here on the bootstrap is used
RESAMPLES = 9999
POWER = 0.8  # with which an effect is to be found when runs are counted that it would take
SEED = 20240  # so that the same runs give the same numbers


@dataclass(frozen=True)
class Estimate:
    """A mean over runs. `low` and `high` bound it with 95 % confidence; None for fewer than two."""

    mean: float
    low: float | None
    high: float | None
    runs: int


def estimate(values: Sequence[float]) -> Estimate | None:
    """Estimate the mean of one value a run, by Student's t. NaN counts as no run; None without any.

    Source: scipy.stats.t.
    """
    known = _known(values)
    if not len(known):
        return None
    mean = float(known.mean())
    if len(known) < 2:
        return Estimate(mean, None, None, 1)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(known) - 1) * stats.sem(known))
    return Estimate(mean, mean - half, mean + half, len(known))


def _known(values: Sequence[float]) -> np.ndarray:
    known = np.asarray(values, dtype=float)
    return known[~np.isnan(known)]


# --- two groups of runs ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """Group B against group A.

    `change` is relative to the size of A's mean (0.1: 10 % more), None if that is 0; `absolute` is
    in the metric's unit. `low` and `high` bound the change, and `absolute_low`, `absolute_high` the
    absolute one, with 95 % confidence, each comparison by itself. `p` is two-sided. Both are None
    where there are too few runs for a verdict. `method` is how they were found.
    """

    a: Estimate
    b: Estimate
    absolute: float
    absolute_low: float | None = None
    absolute_high: float | None = None
    p: float | None = None
    method: str = ""

    @property
    def change(self) -> float | None:
        """The difference, relative to the size of A's mean."""
        return self._relative(self.absolute)

    @property
    def low(self) -> float | None:
        """The lower bound of the change."""
        return self._relative(self.absolute_low)

    @property
    def high(self) -> float | None:
        """The upper bound of the change."""
        return self._relative(self.absolute_high)

    def _relative(self, value: float | None) -> float | None:
        return None if value is None or self.a.mean == 0 else value / abs(self.a.mean)


def difference(a: Sequence[float], b: Sequence[float]) -> Difference | None:
    """Compare one value a run of two groups of runs. NaN counts as no run; None if a side has none.

    Fewer than 3 runs on a side: no interval, no p. Up to 7 on the smaller side, or values that are
    not all positive: Welch's t-test. More: the ratio of means, its interval by bootstrap (BCa), its
    p by permutation, since bootstrap intervals of so few runs are too narrow to decide by alone.
    Values that are all the same on each side are equal or not; there is nothing to test.

    Source: scipy.stats.ttest_ind, bootstrap, permutation_test.
    """
    a, b = _known(a), _known(b)
    if not len(a) or not len(b):
        return None
    base = {"a": estimate(a), "b": estimate(b), "absolute": float(b.mean() - a.mean())}
    if min(len(a), len(b)) < FEWEST:
        return Difference(**base)
    if np.ptp(a) == np.ptp(b) == 0:
        apart = base["absolute"]
        return Difference(**base, **_bounds(apart, apart), p=float(apart == 0), method="constant")
    if min(len(a), len(b)) < MANY or min(a.min(), b.min()) <= 0:
        return Difference(**base, **_welch(a, b))
    return Difference(**base, **_bootstrap(a, b))


def _bounds(low: float, high: float) -> dict:
    return {"absolute_low": float(low), "absolute_high": float(high)}


def _welch(a: np.ndarray, b: np.ndarray) -> dict:
    with warnings.catch_warnings():
        # scipy doubts the spread of a side whose runs are all the same, which it is right to be 0
        warnings.filterwarnings("ignore", "Precision loss", RuntimeWarning)
        test = stats.ttest_ind(b, a, equal_var=False)
    interval = test.confidence_interval(CONFIDENCE)
    return {**_bounds(interval.low, interval.high), "p": float(test.pvalue), "method": "Welch"}


def _bootstrap(a: np.ndarray, b: np.ndarray) -> dict:
    generator = np.random.default_rng(SEED)
    interval = stats.bootstrap(
        (a, b),
        lambda a, b, axis=-1: b.mean(axis=axis) / a.mean(axis=axis),
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        vectorized=True,
        rng=generator,
    ).confidence_interval
    test = stats.permutation_test(
        (a, b),
        lambda a, b, axis=-1: np.log(b.mean(axis=axis) / a.mean(axis=axis)),
        vectorized=True,
        n_resamples=RESAMPLES,
        rng=generator,
    )
    size = a.mean()
    bounds = _bounds(size * (interval.low - 1), size * (interval.high - 1))
    return {**bounds, "p": float(test.pvalue), "method": "bootstrap"}


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
    if adjusted is None:
        return NO_VERDICT
    outside = found.absolute_low > 0 or found.absolute_high < 0
    if adjusted < 1 - CONFIDENCE and outside:
        if found.change is not None and abs(found.change) < smallest:
            return SMALL
        return HIGHER if found.absolute > 0 else LOWER
    if found.low is not None and -smallest <= found.low and found.high <= smallest:
        return SAME
    return NOT_SHOWN


def runs_needed(a: Sequence[float], b: Sequence[float], smallest: float) -> int | None:
    """Estimate the runs a side that would show the smallest effect that matters, 4 times in 5.

    By the normal approximation, from the spread of the runs at hand: a guide and no more. None if
    the spread is not known, or A's mean is 0.
    """
    a, b = _known(a), _known(b)
    if min(len(a), len(b)) < 2 or a.mean() == 0:
        return None
    spread = math.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2) / abs(a.mean())
    z = stats.norm.ppf((1 + CONFIDENCE) / 2) + stats.norm.ppf(POWER)
    return max(FEWEST, math.ceil(2 * (z * spread / smallest) ** 2))
