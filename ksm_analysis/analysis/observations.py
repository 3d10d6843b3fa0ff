"""The observations of 2024 on KSM, as named checks of the given runs.

A check compares means over runs. If the interval of what it compares allows both answers, the check
decides nothing; single runs have no interval. A value that is missing on one side of a comparison
is no evidence. Savings are those of `saved_mib`: what a census found, or pages_sharing +
ksm_zero_pages.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import scipy

from ksm_analysis.analysis.settings import is_off, last
from ksm_analysis.analysis.statistics import FEWEST, Floats, difference, estimate
from ksm_analysis.analysis.words import guest_word, join, number
from ksm_analysis.metrics.freed import saved_mib
from ksm_analysis.metrics.measurement import Measured
from ksm_analysis.metrics.times import reached
from ksm_analysis.metrics.values import MIB, Ends, saved_pages
from ksm_analysis.results import cells
from ksm_analysis.results.once import once

HOLDS, FAILS, UNTESTED = "holds", "does not hold", "not tested here"
EQUAL = 0.10  # a smaller relative difference of last values counts as about the same
LEAST_RUNS = 4  # of a series, for an interval of its slope
VISIBLE = 1.0  # percent of the host's CPU
OFTEN = 10  # the cost of sampling is tested with periods that differ by this factor or more


@dataclass(frozen=True)
class Check:
    """One observation: `verdict` is holds, does not hold, or not tested here."""

    name: str
    claim: str
    verdict: str
    evidence: str
    note: str = ""


def checks(measured: list[Measured]) -> list[Check]:
    """Test each observation on these runs, without those with KSM off."""
    on = [each for each in measured if not is_off(each)]
    return [Check(name, claim, *test(on), note) for name, claim, test, note in OBSERVATIONS]


# --- comparing ------------------------------------------------------------------------------------

Values = list[float]
Pair = tuple[Values, Values]  # values of runs on both sides, with all else equal


def _is_higher(pairs: list[Pair]) -> tuple[bool | None, str]:
    """Return whether the second side is higher on average; None if the interval includes zero.

    The interval is over pairs. For a single pair, it is over runs, and needs 3 runs on each side.
    """
    bounds, words = _interval(pairs)
    if bounds is None:
        return None, words
    low, high = bounds
    return (None if low <= 0 <= high else low > 0), words


def _is_equal(pairs: list[Pair]) -> tuple[bool | None, str]:
    """Return whether both sides are about the same on average.

    True if the interval is within EQUAL. False if it does not include zero and the difference is
    greater than EQUAL. Otherwise it is not decided: None.
    """
    bounds, words = _interval(pairs)
    if bounds is None:
        return None, words
    low, high = bounds
    if max(-low, high) <= EQUAL:
        return True, words
    apart = (low > 0 or high < 0) and abs(low + high) / 2 > EQUAL
    return (False if apart else None), words


def _interval(pairs: list[Pair]) -> tuple[tuple[float, float] | None, str]:
    """Bound the relative difference between the second side and the first, and put it in words.

    It is relative to the mean of both sides, so it has a sign and never exceeds 200 %. There are no
    bounds if there are too few runs.
    """
    means = [(float(np.mean(one)), float(np.mean(other))) for one, other in pairs]
    changes = [2 * (b - a) / (abs(a) + abs(b)) if a != b else 0.0 for a, b in means]
    over = estimate(changes)
    if over and over.low is not None and over.high is not None:
        words = f"{over.mean:+.0%} ({over.low:+.0%} to {over.high:+.0%}) over {over.runs} pairs"
        return (over.low, over.high), words
    words = f"{changes[0]:+.0%} in 1 pair"
    found, size = difference(*pairs[0]), sum(map(abs, means[0])) / 2
    if not found or found.absolute_low is None or found.absolute_high is None or not size:
        return None, words
    low, high = found.absolute_low / size, found.absolute_high / size
    return (low, high), f"{words} ({low:+.0%} to {high:+.0%})"


def _at_most(pairs: list[Pair], limit: float) -> tuple[bool | None, str]:
    """Return whether the first side is above the second by at most a limit, in the unit of values.

    None if the interval includes the limit. It is over pairs, or over the runs of a single pair.
    """
    apart = [float(np.mean(one) - np.mean(other)) for one, other in pairs]
    over, only = estimate(apart), difference(pairs[0][1], pairs[0][0])
    low, high = (over.low, over.high) if over else (None, None)
    if len(pairs) == 1 and only:
        low, high = only.absolute_low, only.absolute_high
    if low is None or high is None:
        return None, f"{apart[0]:+.2g} in 1 pair"
    holds = True if high <= limit else False if low > limit else None
    return holds, f"{np.mean(apart):+.2g} ({low:+.2g} to {high:+.2g})"


def _verdict(holds: Sequence[bool | None]) -> str:
    """Return the verdict: one case that does not hold is enough; untested if none is decided."""
    if False in holds:
        return FAILS
    return HOLDS if True in holds else UNTESTED


def _cells(
    measured: list[Measured], key: Callable[..., Any]
) -> dict[tuple[Any, ...], list[Measured]]:
    """Group runs by the result of `key`; runs for which it is None are left out."""
    groups: dict[tuple[Any, ...], list[Measured]] = {}
    for each in measured:
        if (found := key(each)) is not None:
            groups.setdefault(found, []).append(each)
    return groups


def _frozen(values: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(sorted((str(key), str(value)) for key, value in values.items()))


def _series(measured: Measured) -> tuple[Any, ...]:
    """Return everything that was varied except the number of guests."""
    return measured.run.cell._replace(guests=0), _frozen(cells.knobs(measured.run))


def _cell(measured: Measured) -> tuple[Any, ...]:
    return _series(measured), measured.run.factors["guests"]


def _at_end(name: str, runs: list[Measured]) -> Values:
    return _known(last(name), runs)


def _known(of: Callable[[Measured], float], runs: list[Measured]) -> Values:
    """Return the values of runs, without NaN."""
    return [value for each in runs if not np.isnan(value := of(each))]


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _mean(values: Values) -> str:
    return number(float(np.mean(values)))


# --- the observations -----------------------------------------------------------------------------


GROWING = ("pages_shared", "reclaimed_mib", "general_profit")


def _grows_with_guests(measured: list[Measured]) -> tuple[str, str]:
    series = [
        (name, points)
        for _, counts in _by_guests(measured)
        for name in GROWING
        if len(points := _points(name, counts)) >= LEAST_RUNS
    ]
    if not series:
        return UNTESTED, (
            f"Needs at least two numbers of guests and {LEAST_RUNS} runs with all else equal, as "
            "in experiments/original-1.yml with repetitions."
        )
    bounds = [(name, slope(points, 0.05 / len(series))) for name, points in series]
    rise = sum(low > 0 for _, (low, _) in bounds)
    fall = sum(high < 0 for _, (_, high) in bounds)
    verdict = FAILS if fall else HOLDS if rise == len(bounds) else UNTESTED
    words = "; ".join(f"{name} {low:+.0%} to {high:+.0%}" for name, (low, high) in bounds[:4])
    return verdict, (
        f"Change for each further guest, as a share of the mean: {words}. {rise} of {len(bounds)} "
        f"series rise, {fall} fall, and the others are not decided yet."
    )


def _points(name: str, counts: list[tuple[int, list[Measured]]]) -> list[tuple[int, float]]:
    """Return (guests, last value) of each run; none if fewer than two numbers have a value."""
    points = [(count, value) for count, runs in counts for value in _at_end(name, runs)]
    return points if len({count for count, _ in points}) > 1 else []


def slope(points: list[tuple[int, float]], alpha: float = 0.05) -> tuple[float, float]:
    """Bound the slope of y over x by linear regression, as a share of the mean of |y|.

    `points` are (x, y) of at least 3 runs with two or more values of x. `alpha` is the chance that
    the slope is outside of the bounds. Both bounds are 0 if y does not vary.
    """
    x, y = (np.array(each, dtype=float) for each in zip(*points, strict=True))
    if np.ptp(y) == 0:
        return 0.0, 0.0
    fit = scipy.stats.linregress(x, y)
    half = float(scipy.stats.t.isf(alpha / 2, len(x) - 2) * fit.stderr)
    size = float(np.abs(y).mean())
    return (float(fit.slope) - half) / size, (float(fit.slope) + half) / size


def _by_guests(
    measured: list[Measured], least: int = 2
) -> Iterator[tuple[tuple[Any, ...], list[tuple[int, list[Measured]]]]]:
    """Yield each series that has enough numbers of guests, with its runs by number of guests."""
    guests = [each for each in measured if each.run.factors["guests"]]
    for series, runs in _cells(guests, _series).items():
        counts = sorted(_cells(runs, lambda each: (each.run.factors["guests"],)).items())
        if len(counts) >= least:
            yield series, [(count, cell) for (count,), cell in counts]


def _rate(measured: Measured) -> float | None:
    """Return pages per second that ksmd may scan, as if scanning itself took no time."""
    knobs = cells.knobs(measured.run)
    try:
        return 1000 * int(knobs["pages_to_scan"]) / int(knobs["sleep_millisecs"])
    except (KeyError, ValueError, ZeroDivisionError):
        return None


def _faster_scan(measured: list[Measured]) -> tuple[str, str]:
    sooner, dearer, ends = [], [], []
    never = 0
    for runs in _cells(measured, _but_rate).values():
        rates = sorted(_cells(runs, lambda each: (_rate(each),) if _rate(each) else None).items())
        if len(rates) < 2:
            continue
        sides = rates[0][1], rates[-1][1]
        soon = _values(_seconds_to_95, sides)
        cost = _values(last("ksmd_cpu_seconds"), sides)
        end = _values(saved_mib, sides)
        # If the workload ends after merging, it determines the time of the plateau. A mean of only
        # those runs that reached it would be too small
        if not any(each.run.window() for side in sides for each in side):
            missing = sum(map(len, sides)) - sum(map(len, soon))
            never += missing
            if not missing:
                sooner.append((soon[1], soon[0]))
        if all(cost):
            dearer.append(cost)
        if all(end):
            ends.append(end)
    if not ends:
        return UNTESTED, (
            "Needs two scan rates with all else equal: experiments/original-1.yml and "
            "original-2.yml in one report."
        )
    every = [
        (name, *test(pairs))
        for name, test, pairs in (
            ("time to 95 % with the slower rate", _is_higher, sooner),
            ("CPU time of ksmd with the faster one", _is_higher, dearer),
            ("savings at the end", _is_equal, ends),
        )
        if pairs
    ]
    if never:
        words = f"is not known, since {_count(never, 'run')} did not reach it"
        every.insert(0, ("time to 95 % with the slower rate", None, words))
    holds = [one for _, one, _ in every]
    # The observation holds only if every part is decided
    verdict = UNTESTED if None in holds and False not in holds else _verdict(holds)
    parts = "; ".join(f"{name} {words}{_undecided(one)}" for name, one, words in every)
    return verdict, f"Fastest against slowest rate, all else equal: {parts}."


def _seconds_to_95(measured: Measured) -> float:
    """Return when 95 % was reached; NaN if the run reached no plateau."""
    seconds, yes = reached(0.95)(measured)
    return seconds if yes else np.nan


def _undecided(holds: bool | None) -> str:
    return " (not decided yet: more runs are needed)" if holds is None else ""


def _but_rate(measured: Measured) -> tuple[Any, ...]:
    rate = ("pages_to_scan", "sleep_millisecs")
    others = {key: value for key, value in cells.knobs(measured.run).items() if key not in rate}
    return measured.run.cell._replace(knobs=""), _frozen(others), _length(measured)


def _length(measured: Measured) -> float:
    sampling = measured.run.plan.sampling
    return sampling.interval * sampling.intervals


def _values(of: Callable[[Measured], float], sides: tuple[list[Measured], list[Measured]]) -> Pair:
    """Return the values of the runs of each side, without NaN."""
    return _known(of, sides[0]), _known(of, sides[1])


def _after_workload(measured: list[Measured]) -> tuple[str, str]:
    pairs: dict[tuple[Any, ...], Pair] = {}
    for each in measured:
        if found := _late_in_both(each):
            for side, value in zip(pairs.setdefault(_cell(each), ([], [])), found, strict=True):
                side.append(value)
    if not pairs:
        return (
            UNTESTED,
            "Needs a workload that ends before its run does: experiments/original-3.yml.",
        )
    holds, words = _is_higher([*pairs.values()])
    during, after = (_mean([*chain(*sides)]) for sides in zip(*pairs.values(), strict=True))
    return _verdict([holds]), (
        f"Savings in the last quarter of the time after the workload, against the last quarter "
        f"of the time during it: {words}{_undecided(holds)}; "
        f"{during} pages during and {after} after it, on average."
    )


@once(lambda found: found and (found[0], found[1]))
def _late_in_both(measured: Measured) -> tuple[float, float] | None:
    """Return mean saved pages in the last quarter of the workload's time, and of the time after.

    Earlier values do not count: merging has just begun, so less is shared in any run. None if the
    workload did not end before the run, or ended before ksmd scanned all memory for the first time.
    """
    window, samples = measured.run.window(), measured.run.samples
    if not window or not {"ksm.pages_sharing", "ksm.full_scans"} <= set(samples):
        return None
    begin, end = window
    seconds, last = samples["seconds"], samples["seconds"].iloc[-1]
    pages = saved_pages(Ends(measured.run, samples))
    inside = seconds.between(end - (end - begin) / 4, end)
    behind = (seconds > end) & (seconds >= last - (last - end) / 4)
    scans = samples.loc[seconds <= end, "ksm.full_scans"]
    if not inside.any() or not behind.any() or scans.iloc[-1] == scans.iloc[0]:
        return None
    found = float(pages[inside].mean()), float(pages[behind].mean())
    return None if np.isnan(found).any() else found


def _option(measured: Measured, name: str) -> str | None:
    """Find an option of stress-ng in the plan of a run, or in the command of an imported one."""
    run = measured.run
    for part in run.tasks:
        if name in (part.get("stress_ng") or {}):
            return str(part["stress_ng"][name])
    found = re.search(rf"--{name.replace('_', '-')}[ =](\S+)", run.factors["workload"])
    return found.group(1).strip("'\"") if found else None


def _but_option(measured: Measured, name: str) -> tuple[Any, ...]:
    """Return everything that was varied except one option of stress-ng."""
    run = measured.run
    parts = [
        {**part, "stress_ng": {k: v for k, v in (part.get("stress_ng") or {}).items() if k != name}}
        for part in run.tasks
    ]
    words = re.sub(rf"--{name.replace('_', '-')}[ =]\S+\s*", "", run.factors["workload"]).strip()
    what = str(parts) if parts else words
    return (
        run.host,
        run.factors["guests"],
        _frozen(cells.knobs(measured.run)),
        what,
        _length(measured),
    )


def _mergeable(measured: list[Measured]) -> tuple[str, str]:
    pairs = []
    for runs in _cells(measured, lambda each: _but_option(each, "vm_madvise")).values():
        unmergeable, mergeable = (
            _known(saved_mib, [e for e in runs if _option(e, "vm_madvise") == advice])
            for advice in ("unmergeable", "mergeable")
        )
        if unmergeable and mergeable:
            pairs.append((unmergeable, mergeable))
    if not pairs:
        return UNTESTED, (
            "Needs stress-ng with vm_madvise mergeable and unmergeable, all else equal: "
            "experiments/original-3.yml and original-5.yml in one report."
        )
    equal, words = _is_equal(pairs)
    return _verdict([equal]), (
        f"Final savings with mergeable against unmergeable: {words}{_undecided(equal)}. "
        f"Up to {EQUAL:.0%} counts as the same."
    )


def _hanging(measured: list[Measured]) -> tuple[str, str]:
    pairs = []
    for runs in _cells(measured, lambda each: _but_option(each, "vm_hang")).values():
        # Idle runs are no comparison, although they have no vm_hang either
        busy = [each for each in runs if _busy(each)]
        plain = [
            p for e in busy if _option(e, "vm_hang") is None and (p := _early_profit(e)) is not None
        ]
        hanging = [p for e in busy if _option(e, "vm_hang") and (p := _early_profit(e)) is not None]
        if plain and hanging:
            pairs.append((plain, hanging))
    if not pairs:
        return UNTESTED, (
            "Needs stress-ng with and without vm_hang, all else equal: experiments/original-5.yml "
            "and original-6.yml in one report."
        )
    holds, words = _is_higher(pairs)
    without, with_it = (_mean([v / MIB for side in pairs for v in side[n]]) for n in (0, 1))
    return _verdict([holds]), (
        f"Mean general_profit in the first half, with vm_hang against without: {words}"
        f"{_undecided(holds)}; "
        f"{with_it} MiB with vm_hang and {without} MiB without, on average."
    )


def _busy(measured: Measured) -> bool:
    return bool(measured.run.tasks) or "stress-ng" in measured.run.factors["workload"]


@once()
def _early_profit(measured: Measured) -> float | None:
    profit = measured.host["general_profit"]
    value = profit.iloc[: max(1, len(profit) // 2)].mean()
    return None if np.isnan(value) else float(value)


def _flattens(measured: list[Measured]) -> tuple[str, str]:
    series = [
        (f"{part} ", join(cell.workload, cell.knobs), points)
        for (cell, _), counts in _by_guests(measured, 4)
        for part in ("shared", "reclaimed")
        if len(points := _three(f"{part}_percent_configured", counts)) == 3
    ]
    if not series:
        return UNTESTED, (
            "Needs at least four numbers of guests: experiments/original-8.yml, with repetitions."
        )
    holds, words = [], []
    for part, where, points in series:
        early, late = _slope(*points[:2]), _slope(*points[1:])
        holds.append(_flatter(points, 0.05 / (2 * len(series))))
        words.append(f"{part}{early:+.2f}, then {late:+.2f}{_undecided(holds[-1])} ({where})")
    return UNTESTED if None in holds and False not in holds else _verdict(holds), (
        "Percentage points for each further guest, in the first half of the numbers of guests, "
        "then in the second half. The second value must be at most half of the first: "
        f"{'; '.join(words[:4])}."
    )


Point = tuple[int, Values]  # number of guests, one value for each run


def _three(name: str, counts: list[tuple[int, list[Measured]]]) -> list[Point]:
    """Return the fewest, a middle and the most guests; none if fewer than four have a value."""
    points = [(count, values) for count, runs in counts if (values := _at_end(name, runs))]
    return [points[0], points[len(points) // 2], points[-1]] if len(points) > 3 else []


def _slope(first: Point, last: Point) -> float:
    return float(np.mean(last[1]) - np.mean(first[1])) / (last[0] - first[0])


def _flatter(points: list[Point], alpha: float) -> bool | None:
    """Return whether the later slope is at most half of the earlier one, up or down.

    None if the intervals do not decide it, or if a point has fewer than 3 runs.
    """
    if min(len(values) for _, values in points) < FEWEST:
        return None
    first, middle, last = (count for count, _ in points)
    early = np.array([-1.0, 1.0, 0.0]) / (middle - first)
    late = np.array([0.0, -1.0, 1.0]) / (last - middle)
    bounds = [
        contrast([values for _, values in points], weights, alpha)
        for weights in (early / 2 - late, early / 2 + late)
    ]
    if any(high < 0 for _, high in bounds):
        return False
    return True if all(low > 0 for low, _ in bounds) else None


def contrast(groups: list[Values], weights: Floats, alpha: float) -> tuple[float, float]:
    """Bound the weighted sum of the means of groups of at least 2 runs; `alpha`: chance to miss it.

    Source: Satterthwaite's degrees of freedom, as in Welch's t-test, for more than two groups.
    """
    value = float(weights @ [np.mean(each) for each in groups])
    parts = weights**2 * [np.var(each, ddof=1) / len(each) for each in groups]
    if not parts.sum() > 0:
        return value, value
    freedom = parts.sum() ** 2 / sum(
        part**2 / (len(each) - 1) for part, each in zip(parts, groups, strict=True)
    )
    half = float(scipy.stats.t.isf(alpha / 2, freedom) * np.sqrt(parts.sum()))
    return value - half, value + half


def _sampling_cost(measured: list[Measured]) -> tuple[str, str]:
    pairs: list[Pair] = []
    words = []
    for key, runs in _cells(measured, _cell).items():
        periods = sorted(_cells(runs, lambda each: (_period(each),)).items())
        if len(periods) < 2 or periods[-1][0][0] < OFTEN * periods[0][0][0]:
            continue
        often, seldom = _values(_host_cpu_percent, (periods[0][1], periods[-1][1]))
        if often and seldom:
            pairs.append((often, seldom))
            words.append(
                f"{_mean(often)} % every {periods[0][0][0]:g} s and {_mean(seldom)} % every "
                f"{periods[-1][0][0]:g} s ({join(guest_word(key[1]), key[0][0].workload)})"
            )
    if pairs:
        holds, apart = _at_most(pairs, VISIBLE)
        return _verdict([holds]), (
            f"CPU use of the host (up to {VISIBLE:g} point more counts as no cost): "
            f"{'; '.join(words[:4])}; difference {apart} points{_undecided(holds)}. "
            f"{_own_cost(measured)}".strip()
        )
    needed = f"Needs equal runs, some of them sampled at least {OFTEN} times as often as others."
    return UNTESTED, f"{needed} {_own_cost(measured)}".strip()


@once()
def _host_cpu_percent(measured: Measured) -> float:
    return float(measured.host["host_cpu_percent"].mean())


def _period(measured: Measured) -> float:
    return measured.run.plan.sampling.period


def _own_cost(measured: list[Measured]) -> str:
    """Say how much CPU the sampler itself used; imported logs do not have it."""
    costs = [cost for each in measured if (cost := _own_percent(each)) is not None]
    if not costs:
        return ""
    return f"The sampler itself used at most {number(max(costs))} % of one CPU."


@once()
def _own_percent(measured: Measured) -> float | None:
    used, seconds = measured.run.end.get("cpu_seconds"), measured.run.samples["seconds"].iloc[-1]
    return float(100 * used / seconds) if used is not None and seconds else None


OBSERVATIONS = (
    (
        "grows-with-guests",
        "Shared and saved memory and the profit grow with the number of guests.",
        _grows_with_guests,
        "",
    ),
    (
        "faster-scan",
        "A faster scan reaches the plateau sooner, costs more CPU and ends at about the same "
        "sharing.",
        _faster_scan,
        "",
    ),
    ("after-workload", "Sharing is higher after the workload has stopped.", _after_workload, ""),
    (
        "mergeable",
        "The advice mergeable inside the guest changes nothing.",
        _mergeable,
        "madvise() in a guest advises only the guest's own kernel. For the host, all memory of a "
        "guest is already mergeable (QEMU's mem-merge=on). <nosharepages/> prevents that.",
    ),
    (
        "vm-hang",
        "Holding memory for 10 s in stress-ng (--vm-hang 10) raises profit in the first half.",
        _hanging,
        "",
    ),
    (
        "flattens",
        "The percentages of shared and reclaimed memory flatten with more guests.",
        _flattens,
        "",
    ),
    (
        "sampling-cost",
        "Sampling 60 times as often costs no visible CPU.",
        _sampling_cost,
        "",
    ),
)
