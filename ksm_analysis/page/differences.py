"""The page of a comparison: each difference with its interval. One file, without scripts."""

# ruff: noqa: RUF001

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ksm_analysis.analysis import compared, comparison, statistics
from ksm_analysis.analysis.comparison import Comparison, LeftOut
from ksm_analysis.analysis.statistics import Estimate
from ksm_analysis.analysis.words import join, short
from ksm_analysis.page import sparks, tables
from ksm_analysis.page.render import render
from ksm_analysis.page.tiles import Tile

LINKS = {"differences": "Differences", "numbers": "Numbers", "else": "What else differs"}
MOST_ROWS, MOST_TILES = 30, 8  # of each metric in the picture; the table has all
WIDE = 3.0  # ratio of the largest to the smallest value from which the axis is logarithmic
SHOWN = (statistics.HIGHER, statistics.LOWER, statistics.SMALL, statistics.UNSURE)
PERCENTS = (-99, -90, -75, -50, -25, 0, 50, 100, 300, 900, 2900, 9900, 99900)
NUMBERS = (
    "mean of A",
    "runs",
    "mean of B",
    "runs",
    "B against A",
    "95 % interval",
    "p",
    "verdict on B",
    "why",
)


@dataclass(frozen=True)
class Compared:
    """What was compared. `smallest` is in percent; `unlike` is what else differs, of A and of B."""

    a: str
    b: str
    by: str | None
    smallest: float
    made: Sequence[Comparison]
    left_out: Sequence[LeftOut]
    unlike: dict[str, tuple[str, str]]
    warnings: Sequence[str]


def page(given: Compared) -> str:
    """Return the page as text."""
    by_metric = _by_metric(given.made)
    same = given.a == given.b
    data = {
        "name": given.a if same else f"{given.a} and {given.b}",
        "links": [*LINKS.items()],
        "tried": _tried(given, same),
        "verdict": compared.summary(given.made),
        "warnings": [*given.warnings],
        "tiles": [_tile(*each, given.smallest) for each in [*by_metric.items()][:MOST_TILES]],
        "panels": [
            panel
            for every in by_metric.values()
            for ratio in (True, False)
            if (panel := _panel([e for e in every if e.found.ratio is ratio], given))
        ],
        "numbers": _numbers(given),
        "allowed_for": compared.allowed_for(given.made, given.smallest),
        "left_out": [_left_out(each) for each in given.left_out],
        "unlike": tables.of_text(
            ("what", "A", "B"),
            [[name, *values] for name, values in given.unlike.items()],
            (0, 1, 2),
        ),
    }
    return render("differences.html.j2", data)


def _by_metric(made: Sequence[Comparison]) -> dict[str, list[Comparison]]:
    found: dict[str, list[Comparison]] = {}
    for one in made:
        found.setdefault(one.metric, []).append(one)
    return found


def _tried(given: Compared, same: bool) -> str:
    by = f"Runs that differ only in {given.by}" if given.by else "Runs that are equal but for this"
    where = "within each repetition on each host" if same else f"A is {given.a}; B is {given.b}"
    count = len(given.made)
    return f"{by}; {where}; {count} {'comparison' if count == 1 else 'comparisons'}."


def _left_out(each: LeftOut) -> str:
    pairs = "1 pair" if each.pairs == 1 else f"{each.pairs} pairs"
    return f"{each.metric} is left out of {pairs}: {each.why}"


def _where(one: Comparison, given: Compared) -> str:
    """Name a pair by what differs between pairs."""
    labels = one.a.labels
    varied = [
        f"{name} {labels[name]}"
        for name in comparison.FACTORS
        if name != given.by and len({each.a.labels[name] for each in given.made}) > 1
    ]
    return join(*varied)


# --- tiles ----------------------------------------------------------------------------------------


def _tile(metric: str, every: list[Comparison], smallest: float) -> Tile:
    first = every[0]
    if len(every) > 1:
        count = sum(one.verdict in (statistics.HIGHER, statistics.LOWER) for one in every)
        share = sparks.share(100 * count / len(every))
        words = f"of {len(every)} pairs differ"
        return Tile(metric, str(count), words, compared.counted(every), "", share)
    by, around = _change(first)
    value, unit = (by[:-2], "%") if by.endswith("%") else (by, first.unit)
    words = around or "no interval"
    if first.found.effect is None:
        return Tile(metric, value, unit, words, first.verdict)
    spark = sparks.interval(_effect(first), smallest)
    return Tile(metric, value, unit, words, first.verdict, spark)


def _change(one: Comparison) -> tuple[str, str]:
    by, around = (text.replace("%", " %").replace("-", "−") for text in compared.change(one))
    return by, around


def _effect(one: Comparison) -> Estimate:
    """Return the difference in percent of its scale."""
    found = one.found
    low, high = (None if each is None else 100 * each for each in (found.low, found.high))
    return Estimate(100 * (found.effect or 0.0), low, high, found.b.runs)


# --- the picture ----------------------------------------------------------------------------------


def _panel(every: list[Comparison], given: Compared) -> dict[str, Any] | None:
    """Return the rows of one metric, with places in percent of the width."""
    rows = every[:MOST_ROWS]
    if not rows:
        return None
    ratio = rows[0].found.ratio
    values = [_interval(one) for one in rows]
    nothing = given.smallest if ratio else 0.0
    at, ticks = _axis([each for three in values for each in (*three, -nothing, nothing)], ratio)
    metric, unit = rows[0].metric, rows[0].unit
    return {
        "title": f"{metric}: B against A, in {'percent of A' if ratio else unit}",
        "rows": [
            _row(one, given, [at(each) for each in three])
            for one, three in zip(rows, values, strict=True)
        ],
        "ticks": [(at(value), text) for value, text in ticks],
        "zero": at(0.0),
        "band": (at(-nothing), at(nothing) - at(-nothing)),
        "more": f"The first {len(rows)} of {len(every)} pairs; the table has all."
        if len(every) > len(rows)
        else "",
    }


def _row(one: Comparison, given: Compared, places: list[float]) -> dict[str, Any]:
    low, middle, high = places
    by, around = _change(one)
    return {
        "name": _where(one, given),
        "sides": one.by or (),
        "low": low,
        "middle": middle,
        "wide": high - low,
        "shown": one.verdict in SHOWN,
        "change": by,
        "around": around,
        "sizes": f"{short(one.found.a)} → {short(one.found.b)} {one.unit}",
        "verdict": one.verdict,
    }


def _interval(one: Comparison) -> tuple[float, float, float]:
    """Return the lower end, the difference and the upper end: in percent of A, or in the unit."""
    found = one.found
    if found.ratio:
        effect = _effect(one)
        middle, low, high = effect.mean, effect.low, effect.high
    else:
        middle, low, high = found.absolute, found.absolute_low, found.absolute_high
    known = [each if each is not None and math.isfinite(each) else middle for each in (low, high)]
    return known[0], middle, known[1]


def _axis(
    values: list[float], ratio: bool
) -> tuple[Callable[[float], float], list[tuple[float, str]]]:
    """Return where a value is, in percent of the width, and the ticks with their text.

    Ratios that differ much are on a logarithmic axis: as far to the left for half as to the right
    for double.
    """
    low, high = min(0.0, *values), max(0.0, *values)
    log = ratio and low > -99.5 and (100 + high) / (100 + low) > WIDE

    def scale(value: float) -> float:
        return math.log1p(value / 100) if log else value

    start, wide = scale(low), (scale(high) - scale(low)) or 1.0

    def at(value: float) -> float:
        return round(4 + 92 * (scale(value) - start) / wide, 2)

    every = [float(p) for p in PERCENTS if low <= p <= high] if log else _steps(low, high)
    ticks: list[tuple[float, str]] = []
    for value in sorted(every, key=abs):  # zero first; what would touch another is left out
        if all(abs(at(value) - at(other)) >= 14 for other, _ in ticks):
            ticks.append((value, _tick(value, ratio)))
    return at, ticks


def _tick(value: float, ratio: bool) -> str:
    text = f"{value:+,.4g}{' %' if ratio else ''}" if value else "0"
    return text.replace("-", "−")


def _steps(low: float, high: float) -> list[float]:
    """Return multiples of 1, 2 or 5 times a power of ten between two values."""
    rough = ((high - low) or 1.0) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(n * power for n in (1, 2, 5, 10) if n * power >= rough)
    return [n * step for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


# --- the table ------------------------------------------------------------------------------------


def _numbers(given: Compared) -> dict[str, Any]:
    where = [_where(one, given) for one in given.made]
    named = any(where)
    heads = ["metric", *(["where"] if named else []), *(["A", "B"] if given.by else [])]
    rows = []
    for one, name in zip(given.made, where, strict=True):
        metric = f"{one.metric}, {one.unit}" if one.unit else one.metric
        rows.append([metric, *([name] if named else []), *(one.by or ())])
        rows[-1] += [
            short(one.found.a),
            str(one.found.a.runs),
            short(one.found.b),
            str(one.found.b.runs),
            *_change(one),
            compared.p_value(one),
            one.verdict,
            compared.reason(one),
        ]
    text = (*range(len(heads)), len(heads) + 7, len(heads) + 8)
    return tables.of_text((*heads, *NUMBERS), rows, text)
