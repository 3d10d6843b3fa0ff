"""The price of KSM: what throughput and latencies lose against the same runs with KSM off.

Runs are compared within blocks. That KSM costs nothing is said only if two one-sided tests show
that the difference is smaller than a stated bound.
"""

# ruff: noqa: RUF001

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from ksm_analysis.analysis import statistics
from ksm_analysis.analysis.blocks import shared
from ksm_analysis.analysis.settings import (
    InBlocks,
    baselines_of,
    but_knobs,
    grouped,
    is_control,
    is_off,
    throughput_of,
)
from ksm_analysis.analysis.statistics import FEWEST, Difference, Estimate, Floats
from ksm_analysis.analysis.words import guest_word, join, number
from ksm_analysis.metrics import freed, load, reported, writes
from ksm_analysis.metrics.measurement import Measured
from ksm_analysis.results.reported import HIGHER, LOWER
from ksm_analysis.results.run import Cell

BOUND = 0.05  # a smaller difference is called nothing, if it is shown to be smaller
TIMES = ("s", "ms", "µs", "us", "ns")  # units
NOTHING, COSTS, GAINS = "nothing measurable", "costs", "gains"
UNSURE, TOO_FEW = "cannot tell", "too few runs"


class Metric(NamedTuple):
    """A metric that KSM may make worse. `value` takes a run, and since when it counts, in s."""

    name: str
    unit: str
    better: str
    value: Callable[[Measured, float], float]
    settled_after: Callable[[Measured], float]


@dataclass(frozen=True)
class Price:
    """What one metric of a setting loses against KSM off, in `pairs` of runs. Losses are positive.

    `off` and `on` are the means. `percent` is the loss relative to KSM off, None if values have no
    ratio, and `absolute` that in the unit of the metric. Their bounds are None with fewer than 3
    pairs. `p` is that of a difference by itself, and `p_holm` allows for all `tested` prices, as
    the verdict does. `p_same` is that of the equivalence test with BOUND, and allows for them, too.
    `freed_mib` is what the setting frees, measured against KSM off where that is known, or else, if
    `freed` is false, what KSM saves. `mib_per` is MiB for each `per` that is lost: % (of
    throughput) or unit of time. It is None unless a loss is shown; at the upper bound of the loss
    it is `mib_per_at_least`. `needed` is about how many pairs show a difference of BOUND among so
    many.
    """

    metric: str
    unit: str
    better: str
    host: str
    guests: int
    workload: str
    knobs: str
    pairs: int
    off: Estimate
    on: Estimate
    percent: Estimate | None
    absolute: Estimate
    p: float | None
    p_same: float | None
    freed_mib: float | None
    freed: bool
    verdict: str = TOO_FEW
    per: str = ""
    mib_per: Estimate | None = None
    mib_per_at_least: float | None = None
    needed: int | None = None
    p_holm: float | None = None
    tested: int = 0


class Sides(NamedTuple):
    """The runs of a setting, and those with KSM off that are alike in all else."""

    cell: Cell
    off: InBlocks
    on: InBlocks


def prices(measured: list[Measured]) -> list[Price]:
    """Return the price in each metric of each setting that has a baseline with KSM off.

    If a host alone has too few pairs for a verdict, and all hosts together have enough, their runs
    are compared together, each within its host.
    """
    found = grouped(measured)
    baselines = baselines_of(found)
    gained = dict(zip(map(id, measured), _gained(measured), strict=True))
    sides = [
        Sides(cell, baseline, runs)
        for cell, runs in found.items()
        if not is_off(runs[0][0]) and not is_control(runs[0][0])
        if (baseline := baselines.get(but_knobs(cell)))
    ]
    metrics = metrics_of(measured)
    made = [_compared(*each, metric, gained) for each in _over_hosts(sides) for metric in metrics]
    return _judged([both for both in made if both])


def _over_hosts(sides: list[Sides]) -> list[Sides]:
    """Join settings that differ only in the host, if only all hosts together have enough pairs."""
    alike: dict[Cell, list[Sides]] = {}
    for each in sides:
        alike.setdefault(each.cell._replace(host=""), []).append(each)
    return [joined for several in alike.values() for joined in _joined(several)]


def _joined(several: list[Sides]) -> list[Sides]:
    counts = [len(_places(each.off, each.on)) for each in several]
    if len(several) < 2 or not min(counts) < FEWEST <= sum(counts):
        return several
    cell = several[0].cell._replace(host=f"{len(several)} hosts")
    _, off, on = zip(*several, strict=True)
    return [Sides(cell, [*chain(*off)], [*chain(*on)])]


def _places(off: InBlocks, on: InBlocks) -> list[tuple[int, ...]]:
    """Return where the runs of each block are that both sides have."""
    return shared([[block for _, block in side] for side in (off, on)])


def _gained(measured: list[Measured]) -> list[float]:
    """Return what each run freed, less what the run with KSM off did; NaN if it is not known."""
    return [float(value) for value in freed.against_off(measured)]


def metrics_of(measured: list[Measured]) -> list[Metric]:
    """List what KSM may make worse: of the runs' own metrics, those of which a side is better.

    An open load whose requests were all answered has its own rate as throughput, and no errors,
    whatever KSM does. These are no prices.
    """

    def at_any_time(value: Callable[[Measured], float]) -> Callable[[Measured, float], float]:
        return lambda each, _: value(each)

    def never(_: Measured) -> float:
        return 0.0

    runs = [each.run for each in measured]
    told_nothing = load.GIVEN if load.all_answered(runs) else ()
    own = [
        Metric(
            each.column,
            each.unit,
            each.better,
            partial(_reported, each),
            partial(_settled_after, each),
        )
        for each in reported.metrics_of(runs)
        if each.better and each.name not in told_nothing
    ]
    rate = at_any_time(throughput_of)
    taken = [
        Metric(f"write_{name}_us", "µs", LOWER, at_any_time(value), never)
        for name, value in (
            ("p50", partial(_write, "p50")),
            ("p99", partial(_write, "p99")),
            ("late_p99", _late),
        )
    ]
    return [Metric("bogo_ops_per_second_mean", "bogo ops/s", HIGHER, rate, never), *taken, *own]


def _reported(metric: reported.Reported, measured: Measured, after: float) -> float:
    return reported.value(measured.run, metric, after)


def _settled_after(metric: reported.Reported, measured: Measured) -> float:
    return reported.settled_after(measured.run, metric)


def _write(percentile: str, measured: Measured) -> float:
    return writes.mergeable_us(measured.run, percentile)


def _late(measured: Measured) -> float:
    """Return how late the probe was for its writes: what scans on its CPU cost is in no write."""
    return float(writes.in_last_phase(measured.run).get("write_late_p99_us", math.nan))


def _compared(
    cell: Cell, off: InBlocks, on: InBlocks, metric: Metric, gained: dict[int, float]
) -> tuple[Price, Difference, Floats] | None:
    """Compare a metric of a setting with KSM off, within blocks; None without a complete pair."""
    after = max(metric.settled_after(each) for each, _ in on)
    pairs = [
        (metric.value(off[a][0], after), metric.value(on[b][0], after)) for a, b in _places(off, on)
    ]
    both = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    both = both[~np.isnan(both).any(axis=1)]
    found = statistics.paired(both[:, 0], both[:, 1])
    if found is None:
        return None
    runs = [each for each, _ in on]
    gain = statistics.estimate([gained[id(each)] for each in runs])
    saved = gain or statistics.estimate([freed.saved_mib(each) for each in runs])
    price = Price(
        **cell._asdict(),
        metric=metric.name,
        unit=metric.unit,
        better=metric.better,
        pairs=len(both),
        off=found.a,
        on=found.b,
        percent=_percent(found, metric.better),
        absolute=_loss(
            found.absolute, found.absolute_low, found.absolute_high, metric.better, len(both)
        ),
        p=found.p,
        p_same=statistics.equivalence(both[:, 0], both[:, 1], BOUND, in_blocks=True),
        freed_mib=saved.mean if saved else None,
        freed=gain is not None,
    )
    return price, found, both


def _percent(found: Difference, better: str) -> Estimate | None:
    if found.change is None:
        return None
    low, high = (None if each is None else 100 * each for each in (found.low, found.high))
    return _loss(100 * found.change, low, high, better, found.a.runs)


def _loss(
    change: float, low: float | None, high: float | None, better: str, pairs: int
) -> Estimate:
    """Make a loss of a change: with the other sign, if higher values are better."""
    if better == LOWER:
        return Estimate(change, low, high, pairs)
    lowest, highest = (None if each is None else -each for each in (high, low))
    return Estimate(-change, lowest, highest, pairs)


def _judged(made: list[tuple[Price, Difference, Floats]]) -> list[Price]:
    """Add the verdicts, which allow for the number of prices, and what follows from them.

    All prices are one family: whoever reads an answer looks for any cost among them.
    """
    apart = statistics.adjusted([found.p for _, found, _ in made])
    same = statistics.adjusted([price.p_same for price, _, _ in made])
    tested = sum(p is not None for p in apart)
    judged = []
    for (price, found, both), p, p_same in zip(made, apart, same, strict=True):
        verdict = _verdict(statistics.verdict(found, p, BOUND, p_same), price.absolute.mean)
        needed = _needed(found, both, tested) if verdict == UNSURE else None
        price = replace(price, p_holm=p, tested=tested, p_same=p_same, verdict=verdict)
        price = replace(price, needed=needed)
        judged.append(replace(price, **_exchange(price)))
    return judged


def _verdict(found: str, loss: float) -> str:
    if found in (statistics.NO_VERDICT, statistics.SAME, statistics.NOT_SHOWN):
        words = {statistics.NO_VERDICT: TOO_FEW, statistics.SAME: NOTHING}
        return words.get(found, UNSURE)
    return COSTS if loss > 0 else GAINS


def _needed(found: Difference, both: Floats, tested: int) -> int | None:
    within = statistics.within_blocks(both[:, 0], both[:, 1])
    ratios = found.method == "paired ratios"
    effect = math.log1p(BOUND) if ratios else found.scale * BOUND
    return statistics.pairs_needed(float(within.std(ddof=1)), effect, tested)


def _exchange(price: Price) -> dict[str, Any]:
    """Return what is freed for each percent of throughput, or unit of time, as fields of Price."""
    if price.better == HIGHER:
        lost, per = price.percent, "%"
    elif price.unit in TIMES:
        lost, per = price.absolute, price.unit
    else:
        return {}
    mib = price.freed_mib
    if lost is None or lost.low is None or lost.high is None or not mib or mib <= 0:
        return {}
    if lost.high <= 0:
        return {}  # nothing is lost
    found: dict[str, Any] = {"per": per, "mib_per_at_least": mib / lost.high}
    if price.verdict == COSTS and lost.low > 0:
        found["mib_per"] = Estimate(mib / lost.mean, mib / lost.high, mib / lost.low, lost.runs)
    return found


# --- in words -------------------------------------------------------------------------------------


def in_words(price: Price) -> str:
    """Say what one metric loses, and what is freed for it; or what is missing to say so."""
    bound = f"{100 * BOUND:g} %"
    loss = _spoken(price)
    if price.verdict == TOO_FEW:
        pairs = FEWEST - price.pairs
        words = f"{pairs} more {'repetition' if pairs == 1 else 'repetitions'} needed"
        return f"cannot tell: {loss}; {words}"
    if price.verdict == NOTHING:
        return f"KSM costs you nothing measurable here (less than {bound}): {loss}"
    if price.verdict == UNSURE:
        return "; ".join([f"cannot tell: {loss}", *_why_unsure(price, bound)])
    if price.verdict == GAINS:
        return f"KSM makes it better by {_spoken(price, -1)}"
    less = price.p_same is not None and price.p_same < 1 - statistics.CONFIDENCE
    return f"KSM costs {loss}{f', which is less than {bound}' if less else ''}"


def _why_unsure(price: Price, bound: str) -> Iterator[str]:
    """Yield why there is no verdict, and what it takes to have one."""
    if price.p is not None and price.p < 1 - statistics.CONFIDENCE:
        yield f"p is {price.p:.3f} alone: not significant among {price.tested} prices"
    if price.needed and price.needed > price.pairs:
        yield f"about {price.needed:,} repetitions would show {bound}"


def _spoken(price: Price, sign: int = 1) -> str:
    """Write a loss with its interval; with the other sign, a gain."""
    value, unit = (price.percent, "%") if price.percent else (price.absolute, price.unit)
    words = f"{_signed(sign * value.mean)} {unit}".strip()
    if value.low is not None and value.high is not None:
        low, high = sorted((sign * value.low, sign * value.high))
        words += f" ({_signed(low)} to {_signed(high)})"
    return f"{words} in {price.pairs} {'pair' if price.pairs == 1 else 'pairs'}"


def _signed(value: float) -> str:
    return number(value).replace("-", "−")


def exchanged(price: Price) -> str:
    """Say how much is freed for what is lost; empty if that is not known."""
    longer = f"each {price.per} that it gets longer"
    per = "each percent of it that is lost" if price.per == "%" else longer
    freed_ = "freed" if price.freed else "saved"
    if price.mib_per and price.mib_per.low is not None and price.mib_per.high is not None:
        low, high = number(price.mib_per.low), number(price.mib_per.high)
        return f"{number(price.mib_per.mean)} MiB ({low} to {high}) are {freed_} for {per}"
    if price.mib_per_at_least is not None:
        return f"at least {number(price.mib_per_at_least)} MiB are {freed_} for {per}"
    return ""


def sentences(every: list[Price]) -> Iterator[str]:
    """Yield the prices of each setting, a sentence for each metric."""
    several = len({price.host for price in every}) > 1
    settings: dict[str, list[str]] = {}
    for price in every:
        where = join(
            price.host if several else "", guest_word(price.guests), price.workload, price.knobs
        )
        parts = filter(None, [in_words(price), exchanged(price)])
        settings.setdefault(where, []).append(f"{price.metric}: {'; '.join(parts)}.")
    for where, words in settings.items():
        yield f"{where}: {' '.join(words)}"


def missing(measured: list[Measured], every: list[Price]) -> str:
    """Say why there is no price, if runs measured something that could have one."""
    known = any(
        not math.isnan(metric.value(each, 0.0))
        for metric in metrics_of(measured)
        for each in measured
    )
    if every or not known or all(map(is_off, measured)):
        return ""
    return (
        "What KSM costs is not known: that needs runs with KSM off in the same experiment "
        "(`- {run: 0}` in `knobs`)."
    )
