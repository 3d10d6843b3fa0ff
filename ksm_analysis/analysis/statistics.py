"""What repetitions allow to conclude. The run is the unit: samples of runs are never pooled.

All tests are from scipy. This module chooses the test and puts the result into words. scipy loads
scipy.stats at its first use, because loading takes half a second.
"""

import contextlib
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations, islice, permutations

import numpy as np
import scipy
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Values = Sequence[float] | Floats
CONFIDENCE = 0.95
MARGIN = 0.01  # a smaller relative difference does not matter: what the same means
FEWEST = 3  # runs on each side; with fewer there is no verdict
MANY = 8  # runs on each side; from here on the bootstrap is used
RESAMPLES = 49_999  # the smallest p is 1 in 25,000: Holm multiplies it by the comparisons made
KEPT = 2**23  # numbers drawn (64 MiB) that are kept for the next comparison of as many runs
AT_ONCE = 2**20  # numbers drawn that are in memory at a time, if they are not kept
POWER = 0.8  # chance to detect the effect, when the number of runs that it needs is estimated
ROUNDED = 1e-10  # a greatest error of a t, as a share
ALIKE = 1e-12  # numbers that differ by a smaller share of the values differ by rounding only
SEED = 20240  # fixed, so that the same runs give the same numbers


@dataclass(frozen=True)
class Estimate:
    """A mean over runs. `low` and `high` are its 95 % confidence interval; None for one run."""

    mean: float
    low: float | None
    high: float | None
    runs: int


def estimate(values: Values, chosen_of: int = 1) -> Estimate | None:
    """Estimate the mean of one value for each run, with Student's t.

    NaN counts as no run. None if there is no run. `chosen_of` is the number of groups of runs from
    which this one was selected, because its mean is the greatest. Such a mean is rather too great,
    so the lower bound is lower: that none of so many lower bounds is too high has 95 %. The mean
    itself is not corrected.

    Source: scipy.stats.t; Šidák's correction of the lower bound.
    """
    known = _known(values)
    if not len(known):
        return None
    mean = float(known.mean())
    if len(known) < 2:
        return Estimate(mean, None, None, 1)
    level, error = (1 + CONFIDENCE) / 2, float(known.std(ddof=1)) / math.sqrt(len(known))
    lowest = max(level, CONFIDENCE ** (1 / chosen_of))
    below, above = (error * _quantile(each, len(known) - 1) for each in (lowest, level))
    return Estimate(mean, mean - below, mean + above, len(known))


@lru_cache(maxsize=1024)
def _quantile(level: float, freedom: int) -> float:
    """Return a quantile of Student's t. SciPy takes longer for one than all else in an estimate."""
    return float(scipy.stats.t.ppf(level, freedom))


def _known(values: Values) -> Floats:
    known = np.asarray(values, dtype=np.float64)
    return known[~np.isnan(known)]


@dataclass(frozen=True)
class Times:
    """Times until something happened in runs; in some of them it may not have happened.

    It happened in `reached` of all `runs`. The others are censored: they were watched for some time
    and count for it (Kaplan and Meier). `mean`, `low` and `high` are as in Estimate, and None
    unless it happened in each run, because a mean of the other runs would be too small. `median` is
    None if it is not reached. `restricted_mean` is the mean of the time until it happened, but at
    most `until`, the longest time that any run was watched or needed. All in seconds.
    """

    mean: float | None
    low: float | None
    high: float | None
    runs: int
    reached: int
    median: float | None
    restricted_mean: float
    until: float


def times_of(seconds: Sequence[float], happened: Sequence[bool]) -> Times | None:
    """Estimate times of runs: `seconds` until it happened, or that the run was watched.

    None if there is no run.

    Source: the estimator of Kaplan and Meier, as scipy.stats.ecdf has it. Without scipy.stats, the
    page of single runs is written in two thirds of the time.
    """
    if not len(seconds):
        return None
    times, there = np.array(seconds, dtype=np.float64), np.array(happened, dtype=bool)
    at = np.unique(times)
    watched = (times >= at[:, np.newaxis]).sum(axis=1)
    ended = (times[there] == at[:, np.newaxis]).sum(axis=1)
    left = np.cumprod((watched - ended) / watched)
    halved = np.flatnonzero(left <= 0.5 * (1 + ALIKE))
    area = at[0] + float(left[:-1] @ np.diff(at))
    over = estimate(times) if there.all() else None
    return Times(
        mean=over.mean if over else None,
        low=over.low if over else None,
        high=over.high if over else None,
        runs=len(times),
        reached=int(there.sum()),
        median=float(at[halved[0]]) if len(halved) else None,
        restricted_mean=float(area),
        until=float(at[-1]),
    )


# --- two groups of runs ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """Group B against group A.

    `absolute` is the difference in the metric's unit. `effect` is the difference as a fraction of
    `scale` (0.1: 10 % more). `scale` is A's mean if values have a ratio, and otherwise the larger
    of the two means without its sign. `effect` is None if `scale` is 0. `change` is the effect if
    it is relative to A's mean, else None. `low` and `high` bound the effect. `absolute_low` and
    `absolute_high` bound the absolute difference. Both have 95 % confidence for one comparison by
    itself. `p` is two-sided. Bounds and p are None if there are too few runs for a verdict.
    `method` is how they were computed: constant, Welch, bootstrap, paired ratios, or paired
    differences.
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
        """The value that the effect is relative to, in the metric's unit."""
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
    """Compare two groups of runs, with one value for each run.

    NaN counts as no run. None if a side has no run.

    - Fewer than 3 runs on a side: no interval and no p.
    - Up to 7 runs on the smaller side, or values without a ratio (A's are not all positive, or one
      of B's is negative): Welch's t-test.
    - More runs: the ratio of means, with a bootstrap interval (BCa) and the p of `p_value`.
    - All values on each side are the same: they are equal or they are not. There is nothing to
      test.

    As a fraction, Welch's interval treats A's mean as exact. The bootstrap interval does not.

    Source: scipy.stats.ttest_ind, bootstrap, PermutationMethod.
    """
    a, b = _known(a), _known(b)
    ours, theirs = estimate(a), estimate(b)
    if ours is None or theirs is None:
        return None
    constant = np.ptp(a) == np.ptp(b) == 0
    # The mean of equal numbers can differ from them by rounding
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
    error, freedom = _welch(a, b)
    half = float(error * scipy.special.stdtrit(freedom, (1 + CONFIDENCE) / 2))
    return _bounded(found, (apart - half, apart + half), p, "Welch")


def _bounded(found: Difference, bounds: Values, p: float, method: str) -> Difference:
    low, high = map(float, bounds)
    return replace(found, absolute_low=low, absolute_high=high, p=p, method=method)


def p_value(a: Floats, b: Floats) -> Floats:
    """Return the two-sided p of equal means, with one value for each run along the last axis.

    With up to 7 runs on the smaller side, it is the p of Welch's t. From 8 runs on, it is the
    larger of this p and the p of the same t in a permutation test. Each alone gives too many false
    alarms in some cases: Welch's test a few more with skewed values, the permutation test many more
    with unequal spreads and unequal numbers of runs.
    """
    error, freedom = _welch(a, b)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (b.mean(axis=-1) - a.mean(axis=-1)) / error
    p = 2 * scipy.special.stdtr(freedom, -np.abs(t))
    if min(a.shape[-1], b.shape[-1]) >= MANY:
        both = np.concatenate([b, a], axis=-1)
        rows = np.broadcast_to(t, both.shape[:-1]).reshape(-1)
        every = both.reshape(-1, both.shape[-1])
        again = [_permuted(row, b.shape[-1], each) for row, each in zip(every, rows, strict=True)]
        p = np.maximum(p, np.reshape(again, both.shape[:-1]))
    return np.asarray(p)


def _welch(a: Floats, b: Floats) -> tuple[Floats, Floats]:
    """Return the standard error of Welch's test along the last axis, and its degrees of freedom.

    scipy.stats.ttest_ind does the same, and takes fifty times as long for its checks.
    """
    squares = [each.var(axis=-1, ddof=1) / each.shape[-1] for each in (a, b)]
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = [q**2 / (each.shape[-1] - 1) for q, each in zip(squares, (a, b), strict=True)]
        both = squares[0] + squares[1]
        return np.sqrt(both), both**2 / (parts[0] + parts[1])


def _permuted(both: Floats, first: int, t: float) -> float:
    """Return the two-sided p of a t in a permutation test; `first` values are those of B.

    As scipy.stats.permutation_test, in the same permutations, but many of them at once.
    """
    values = both - both.mean()
    last, exact = len(both) - first, math.comb(len(both), first) <= RESAMPLES
    drawn = _drawn(_permutations, (first, last), RESAMPLES)
    pieces = [(_sums(each, values), _sums(each, values**2)) for _, each in drawn]
    sums, squares = (np.concatenate(each) for each in zip(*pieces, strict=True))
    rest, rests = values.sum() - sums, (values**2).sum() - squares
    spread = np.maximum(squares - sums**2 / first, 0) / (first - 1) / first
    spread += np.maximum(rests - rest**2 / last, 0) / (last - 1) / last
    spread[spread <= ALIKE * (values**2).sum()] = 0  # all of it is rounding
    with np.errstate(divide="ignore", invalid="ignore"):
        others = (sums / first - rest / last) / np.sqrt(spread)
    near = ROUNDED * abs(t) if np.isfinite(t) else 0.0
    sides = [int((others <= t + near).sum()), int((others >= t - near).sum())]
    p = 2 * (min(sides) + (not exact)) / (len(others) + (not exact))
    return min(1.0, p)


def _sums(weights: Floats, values: Floats) -> Floats:
    """Return the sum of weighted values, for each row of weights.

    With @, threads of BLAS wait for each other on a busy machine, ten times as long as it takes.
    """
    return np.asarray(np.einsum("ij,j->i", weights, values))


Drawn = tuple[int, Floats]  # a number of a group, and some of its rows
Draw = Callable[[tuple[int, int], int], Iterator[Drawn]]


def _drawn(draw: Draw, sizes: tuple[int, int], most: int) -> Iterable[Drawn]:
    """Draw for two numbers of runs. What is large is not kept, but drawn again each time."""
    small = sum(sizes) * most <= KEPT
    return _kept(draw, sizes, most) if small else draw(sizes, most)


@lru_cache(maxsize=4)
def _kept(draw: Draw, sizes: tuple[int, int], most: int) -> tuple[Drawn, ...]:
    found: list[list[Floats]] = [[], []]
    for group, rows in draw(sizes, most):
        found[group].append(rows)
    return tuple((group, np.concatenate(rows)) for group, rows in enumerate(found) if rows)


def _permutations(sizes: tuple[int, int], most: int) -> Iterator[Drawn]:
    """Yield which of all values are the first, a row of 0 and 1 each, some rows at a time.

    They are all ways to choose the first, or `most` random ones if there are more.
    """
    first, count = sizes[0], sum(sizes)
    generator = np.random.default_rng(SEED)
    ways: Iterator[Sequence[int] | NDArray[np.int64]] = (
        combinations(range(count), first)
        if math.comb(count, first) <= most
        else (generator.permutation(count)[:first] for _ in range(most))
    )
    while rows := [*islice(ways, max(1, AT_ONCE // count))]:
        chosen = np.zeros((len(rows), count))
        np.put_along_axis(chosen, np.array(rows), 1, axis=1)
        yield 0, chosen


# --- runs of the same blocks ----------------------------------------------------------------------


def paired(a: Values, b: Values) -> Difference | None:
    """Compare two settings within blocks: value n of A and value n of B are of the same block.

    A pair counts if both values are known. None if no pair does. The means of the result are over
    these pairs.

    - Fewer than 3 pairs: no interval and no p.
    - All values are positive: Student's t of the logarithms of the ratios. The change is the
      geometric mean of the ratios, minus 1; as an absolute difference, it is a share of A's mean.
    - Otherwise a ratio may not exist: Student's t of the differences.
    - All values on each side are the same, or all ratios are: there is nothing to test.

    Source: scipy.stats.ttest_1samp.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    whole = ~(np.isnan(a) | np.isnan(b))
    a, b = a[whole], b[whole]
    ours, theirs = estimate(a), estimate(b)
    if ours is None or theirs is None:
        return None
    positive = bool(a.min() > 0 and b.min() > 0)
    within = within_blocks(a, b)

    def absolute(value: float) -> float:
        return float(ours.mean * np.expm1(value)) if positive else float(value)

    ratio = bool(a.min() > 0 and b.min() >= 0)
    found = Difference(ours, theirs, absolute(float(within.mean())), ratio=ratio)
    if len(a) < FEWEST:
        return found
    if np.ptp(a) == np.ptp(b) == 0:
        apart = float(b[0] - a[0])
        found = replace(found, absolute=apart)
        return _bounded(found, (apart, apart), float(apart == 0), "constant")
    method = "paired ratios" if positive else "paired differences"
    size = 1.0 if positive else max(np.abs(a).max(), np.abs(b).max())
    if np.ptp(within) <= ALIKE * size:
        p = float(abs(within.mean()) <= ALIKE * size)
        return _bounded(found, (found.absolute, found.absolute), p, method)
    # As scipy.stats.ttest_1samp does, which takes thirty times as long for its checks
    mean, error = float(within.mean()), math.sqrt(within.var(ddof=1) / len(within))
    freedom = len(within) - 1
    p = 2 * float(scipy.special.stdtr(freedom, -abs(mean) / error))
    apart = _quantile((1 + CONFIDENCE) / 2, freedom) * error
    return _bounded(found, [absolute(mean - apart), absolute(mean + apart)], p, method)


def within_blocks(a: Floats, b: Floats) -> Floats:
    """Return B against A in each block: logarithms of ratios if all values are positive.

    Otherwise they are differences, in the metric's unit. No value may be NaN.
    """
    if a.min() > 0 and b.min() > 0:
        return np.asarray(np.log(b) - np.log(a))
    return b - a


# --- equal, as far as it matters ------------------------------------------------------------------


def equivalence(a: Values, b: Values, margin: float, in_blocks: bool = False) -> float | None:
    """Return the p of two one-sided tests (TOST): B is within a margin of A.

    One value for each run, or in blocks: value n of A and of B are of the same block. `margin` is a
    share of A's mean; without a ratio, of the larger mean without its sign. None with fewer than 3
    runs on a side, or fewer than 3 pairs.

    Source: Schuirmann, two one-sided tests, 1987; scipy.stats.ttest_ind, ttest_1samp.
    """
    a, b = _counted(a, b, in_blocks)
    if min(len(a), len(b)) < FEWEST:
        return None
    above = _not_less(b, _shifted(a, b, -margin), in_blocks)
    return max(above, _not_less(_shifted(a, b, margin), b, in_blocks))


def not_less(a: Values, b: Values, margin: float, in_blocks: bool = False) -> float | None:
    """Return the one-sided p that B is not below A by as much as the margin; see equivalence."""
    a, b = _counted(a, b, in_blocks)
    if min(len(a), len(b)) < FEWEST:
        return None
    return _not_less(b, _shifted(a, b, -margin), in_blocks)


def _counted(a: Values, b: Values, in_blocks: bool) -> tuple[Floats, Floats]:
    """Return the values that are known; in blocks, of complete pairs."""
    if not in_blocks:
        return _known(a), _known(b)
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    whole = ~(np.isnan(a) | np.isnan(b))
    return a[whole], b[whole]


def _shifted(a: Floats, b: Floats, by: float) -> Floats:
    """Move A by a share of its values; without a ratio, by a share of the larger mean."""
    if a.min() > 0 and b.min() >= 0:
        return np.asarray(a * max(1 + by, 0.0))
    return np.asarray(a + by * max(abs(a.mean()), abs(b.mean())))


def _not_less(b: Floats, limit: Floats, in_blocks: bool) -> float:
    """Return the one-sided p that B's mean is above that of the limits.

    Without any spread there is nothing to test: it is 0, or 1 if B is below.
    """
    size = ALIKE * max(np.abs(limit).max(), np.abs(b).max())
    if not in_blocks:
        if np.ptp(limit) <= size and np.ptp(b) <= size:
            return float(b.mean() < limit.mean() - size)
        error, freedom = _welch(limit, b)
        return float(scipy.special.stdtr(freedom, (limit.mean() - b.mean()) / error))
    apart = within_blocks(limit, b)
    size = ALIKE if limit.min() > 0 and b.min() > 0 else size
    if np.ptp(apart) <= size:
        return float(apart.mean() < -size)
    # As scipy.stats.ttest_1samp does, which takes thirty times as long for its checks
    t = apart.mean() / math.sqrt(apart.var(ddof=1) / len(apart))
    return float(scipy.special.stdtr(len(apart) - 1, -t))


@contextlib.contextmanager
def _silent_about_equal_values() -> Iterator[None]:
    """Silence scipy's warnings about runs without spread: here, a spread of 0 is correct."""
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        warnings.filterwarnings("ignore", "Precision loss", RuntimeWarning)
        warnings.filterwarnings("ignore", "invalid value encountered", RuntimeWarning)
        warnings.simplefilter("ignore", scipy.stats.DegenerateDataWarning)
        yield


def _ratio_interval(a: Floats, b: Floats) -> Floats:
    """Bound the ratio of B's mean to A's mean; NaN if BCa fails, as with almost equal values.

    As scipy.stats.bootstrap, from the same samples: they are drawn once for each number of runs.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, 14.3 and 15.4.
    """
    sums: list[list[Floats]] = [[], []]
    for group, rows in _drawn(_resamples, (len(a), len(b)), RESAMPLES):
        sums[group].append(_sums(rows, (a, b)[group]))
    ours, theirs = map(np.concatenate, sums)
    ratios, found = theirs / ours, b.mean() / a.mean()
    left_out = [b.mean() / _without_each(a), _without_each(b) / a.mean()]
    apart = [(len(each) - 1) * (each.mean() - each) for each in left_out]
    cubes, squares = (sum((u**k).sum() / len(u) ** k for u in apart) for k in (3, 2))
    below = ((ratios < found).mean() + (ratios <= found).mean()) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        bias, bend = scipy.special.ndtri(below), cubes / np.float64(squares) ** 1.5 / 6
        ends = bias + scipy.special.ndtri([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        levels = scipy.special.ndtr(bias + ends / (1 - bend * ends))
    if not np.isfinite(levels).all():
        return np.full(2, np.nan)
    return np.asarray(np.quantile(ratios, levels))


def _without_each(values: Floats) -> Floats:
    """Return the means without each of the values."""
    return np.asarray((values.sum() - values) / (len(values) - 1))


def _resamples(sizes: tuple[int, int], most: int) -> Iterator[Drawn]:
    """Yield `most` samples of the first, then of the second number of runs, some at a time.

    A row of a sample has how often each run was drawn, as a share.
    """
    generator = np.random.default_rng(SEED)
    for group, size in enumerate(sizes):
        step = max(1, AT_ONCE // size)
        for start in range(0, most, step):
            count = min(step, most - start)
            drawn = generator.integers(0, size, (count, size))
            often = np.zeros((count, size))
            np.add.at(often, (np.arange(count)[:, None], drawn), 1 / size)
            yield group, often


def may_be_greatest(groups: Sequence[Values]) -> list[bool]:
    """Return for each group of runs whether its mean may be the greatest of all.

    It may be, unless the test shows that another is greater. If all means are equal, the chance
    that any group is excluded is at most 5 %. If one group has fewer than 3 runs, every group may
    be the greatest.

    Source: Games and Howell's test of all pairs, scipy.stats.tukey_hsd with equal_var=False.
    """
    known = [_known(group) for group in groups]
    if min(map(len, known)) < FEWEST:
        return [True] * len(known)
    with _silent_about_equal_values():
        p = np.array(scipy.stats.tukey_hsd(*known, equal_var=False).pvalue)
    means = np.array([group.mean() for group in known])
    constant = np.array([np.ptp(group) == 0 for group in known])
    # Groups without spread are equal or not: the test cannot be used
    p[np.ix_(constant, constant)] = np.equal.outer(means[constant], means[constant])
    shown = np.greater.outer(means, means) & (p < 1 - CONFIDENCE)
    return [not any(column) for column in shown.T]


def may_be_greatest_in_blocks(table: Floats) -> list[bool]:
    """Return for each column whether its mean may be the greatest of all.

    `table` has one row for each block and one column for each setting, without NaN. Like
    may_be_greatest, but within blocks: on logarithms if all values are positive. With fewer than 3
    blocks, every setting may be the greatest.

    It is Tukey's test of all pairs in a block design. Two corrections keep false exclusions rare if
    settings have unequal spreads: the variance of a pair is the larger of the common one and its
    own, and Huynh and Feldt's epsilon reduces the degrees of freedom. For two settings, it is the
    paired t-test.

    Source: scipy.stats.studentized_range; Huynh and Feldt, Estimation of the Box Correction, 1976.
    """
    blocks, settings = table.shape
    if blocks < FEWEST:
        return [True] * settings
    values = np.log(table) if table.min() > 0 else table
    means = values.mean(axis=0)
    apart = np.subtract.outer(means, means)
    rest = values - values.mean(axis=1, keepdims=True) - means + values.mean()
    freedom = (blocks - 1) * (settings - 1)
    common = 2 * (rest**2).sum() / freedom
    own = (values[:, :, None] - values[:, None, :]).var(axis=0, ddof=1)
    error = np.sqrt(np.maximum(own, common) / blocks)
    apart[np.abs(apart) <= ALIKE * max(1.0, np.abs(values).max())] = 0
    # Without any spread, settings are equal or not; an error of mere rounding counts as none
    error = np.maximum(error, ALIKE * max(1.0, np.abs(values).max()))
    strongest = (apart / error).max(axis=0)  # of the differences to greater means
    corrected, chosen = _epsilon(rest) * freedom, [True] * settings
    for n in np.argsort(-strongest):
        p = scipy.stats.studentized_range.sf(math.sqrt(2) * strongest[n], settings, corrected)
        if not (strongest[n] > 0 and p < 1 - CONFIDENCE):
            break  # for all others, p is greater
        chosen[n] = False
    return chosen


def _epsilon(rest: Floats) -> float:
    """Return Huynh and Feldt's epsilon: 1 if all differences of settings have equal spreads.

    `rest` has the residuals, one row for each block and one column for each setting.
    """
    blocks, settings = rest.shape
    covariance = rest.T @ rest
    squares = (covariance**2).sum()
    if settings == 2 or not squares > 0:
        return 1.0
    least = float(np.trace(covariance) ** 2 / squares)  # Geisser and Greenhouse's, times settings-1
    beyond = (settings - 1) * (blocks - 1 - least)
    found = (blocks * least - 2) / beyond if beyond > ALIKE else 1.0
    return float(np.clip(found, least / (settings - 1), 1))


# --- over time ------------------------------------------------------------------------------------


SHUFFLES = 9_999  # random orders of the runs of each cell; all orders, if they are not more


def trend(groups: Sequence[tuple[Values, Values]]) -> tuple[float, float, int]:
    """Test whether values rise or fall with time within groups: a permutation test.

    `groups` has the times and the values of the runs of each cell, in any unit of time. NaN counts
    as no run. The statistic is the sum of the products of time and residual, where a residual is
    relative to the mean of its cell. Return it, its two-sided p if the values of each cell are
    shuffled, and the number of runs in cells that can show a trend. scipy's permutation tests
    cannot shuffle within groups.
    """
    cells = [cell for each in groups if len((cell := _residuals(*each))[1])]
    score = sum(float(at @ rest) for at, rest in cells)
    if math.prod(math.factorial(len(rest)) for _, rest in cells) <= SHUFFLES:
        orders = np.zeros(1)
        for at, rest in cells:
            orders = np.add.outer(orders, np.array([*permutations(rest)]) @ at).ravel()
        p = float(_as_great(orders, score).mean())
    else:
        generator, orders = np.random.default_rng(SEED), np.zeros(SHUFFLES)
        for at, rest in cells:
            orders += generator.permuted(np.tile(rest, (SHUFFLES, 1)), axis=1) @ at
        p = float((1 + _as_great(orders, score).sum()) / (1 + SHUFFLES))
    return score, p, sum(len(rest) for _, rest in cells)


def _residuals(times: Values, values: Values) -> tuple[Floats, Floats]:
    """Return times and values without their means; none if values are all the same."""
    at, rest = np.asarray(times, dtype=np.float64), np.asarray(values, dtype=np.float64)
    at, rest = at[~np.isnan(rest)], rest[~np.isnan(rest)]
    if not len(rest) or np.ptp(rest) == 0:
        return at[:0], rest[:0]
    return at - at.mean(), (rest - rest.mean()) / np.abs(rest).mean()


def _as_great(orders: Floats, score: float) -> NDArray[np.bool_]:
    return np.asarray(np.abs(orders) >= abs(score) * (1 - ALIKE))


# --- several tests --------------------------------------------------------------------------------


def holm(values: Sequence[float]) -> list[float]:
    """Adjust the p values of several tests: the chance of any false alarm stays at the given level.

    Source: Holm, A Simple Sequentially Rejective Multiple Test Procedure, 1979.
    """
    count, highest = len(values), 0.0
    found = [0.0] * count
    for rank, index in enumerate(np.argsort(values)):
        highest = max(highest, min(1.0, (count - rank) * values[index]))
        found[index] = float(highest)
    return found


def adjusted(values: Sequence[float | None]) -> list[float | None]:
    """Adjust the p values that are known by Holm's method."""
    known = iter(holm([p for p in values if p is not None]))
    return [None if p is None else next(known) for p in values]


# --- verdicts -------------------------------------------------------------------------------------

HIGHER, LOWER = "higher", "lower"
SMALL = "differs, by less than matters"
UNSURE = "differs, perhaps by less than matters"
SAME = "the same"
NOT_SHOWN = "no difference shown"
NO_VERDICT = "no verdict"


def verdict(
    found: Difference, adjusted: float | None, smallest: float, same: float | None = None
) -> str:
    """Return the verdict on a difference: B is higher, lower, or one of the five others above.

    `adjusted` is its p after Holm. `smallest` is the smallest relative change that matters, and
    `same` the p of `equivalence` with this margin, after Holm. There is a difference only if both
    the p and the interval show it.
    """
    if adjusted is None or found.absolute_low is None or found.absolute_high is None:
        return NO_VERDICT
    equal = same is not None and same < 1 - CONFIDENCE
    outside = found.absolute_low > 0 or found.absolute_high < 0
    if found.method == "constant" or (adjusted < 1 - CONFIDENCE and outside):
        if not found.absolute:
            return SAME
        if abs(found.effect or 0) < smallest:
            return SMALL if equal or found.method == "constant" else UNSURE
        return HIGHER if found.absolute > 0 else LOWER
    return SAME if equal else NOT_SHOWN


def runs_needed(a: Values, b: Values, scale: float, smallest: float) -> int | None:
    """Estimate how many runs on each side detect the smallest effect that matters.

    They detect it 4 times in 5, by the normal approximation with the spread of the given runs. The
    number is only a guide. `smallest` is a fraction of `scale`. None if the spread is not known, or
    if `smallest` or `scale` is 0.
    """
    a, b = _known(a), _known(b)
    if min(len(a), len(b)) < 2 or not scale * smallest:
        return None
    variances = float(a.var(ddof=1) + b.var(ddof=1))
    return max(FEWEST, math.ceil(variances * (_normal_quantiles() / (scale * smallest)) ** 2))


def _normal_quantiles() -> float:
    """Return by how many standard errors an effect must differ from 0, to be detected."""
    normal = scipy.stats.norm
    return float(normal.ppf((1 + CONFIDENCE) / 2) + normal.ppf(POWER))


def pairs_needed(spread: float, effect: float, tests: int = 1) -> int | None:
    """Return how many pairs detect an effect 4 times in 5, with the paired t-test at 5 %.

    `spread` is the standard deviation of the differences within blocks. `effect` is the mean
    difference, in the same unit: logarithms, or the metric's unit. `tests` share the 5 %, as in the
    first step of Holm's method. At least 3. None if the effect is 0.

    Source: power of the t-test, scipy.stats.nct.
    """
    if not effect:
        return None
    pairs = max(FEWEST, math.floor((_normal_quantiles() * spread / effect) ** 2))
    while spread and paired_power(pairs, abs(effect) / spread, tests) < POWER:
        pairs += 1
    return pairs


def paired_power(pairs: int, effect: float, tests: int = 1) -> float:
    """Return the chance that the paired t-test detects an effect, given in its spread.

    It is at 5 %, which all `tests` share.
    """
    limit = scipy.stats.t.ppf(1 - (1 - CONFIDENCE) / 2 / tests, pairs - 1)
    beyond = scipy.stats.nct(pairs - 1, effect * math.sqrt(pairs))
    return float(beyond.sf(limit) + beyond.cdf(-limit))
