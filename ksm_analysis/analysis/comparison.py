"""Comparison of two sets of runs, by cell and metric."""

# ruff: noqa: RUF001

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from ksm_analysis.analysis import statistics
from ksm_analysis.analysis.blocks import Block, blocks_of, shared
from ksm_analysis.analysis.settings import last
from ksm_analysis.analysis.statistics import Difference, Floats
from ksm_analysis.errors import InputError
from ksm_analysis.metrics import (
    catalog,
    efficiency,
    freed,
    phase_lock,
    policies,
    summary,
    work,
    writes,
)
from ksm_analysis.metrics.measurement import Measured
from ksm_analysis.metrics.reported import Reported, metrics_of, settled_after, value
from ksm_analysis.metrics.times import SHARES, reached
from ksm_analysis.results import cells
from ksm_analysis.results.provenance import facts
from ksm_analysis.results.run import Run

# How much is saved, at what cost, how soon, and what is left for the guests. One metric for each
# question: each further metric makes all differences harder to prove
DEFAULT = ("saved_mib", "ksmd_cpu_seconds", "seconds_to_95", "bogo_ops_per_second_mean")
# These are not in catalog.HOST; _value computes them
RATES: dict[str, Callable[[list[float]], np.floating]] = {
    "bogo_ops_per_second_mean": np.mean,
    "bogo_ops_per_second_sum": np.sum,
}
UNITS = (
    {metric.name: metric.unit for metric in (*catalog.HOST, *catalog.CENSUS)}
    | dict.fromkeys(("seconds", *SHARES), "s")
    | dict.fromkeys(("saved_mib", *freed.PARTS), "MiB")
    | {name: "µs" for name in writes.COLUMNS if name.endswith("_us")}
    | work.UNITS
    | efficiency.UNITS
    | policies.UNITS
    | phase_lock.UNITS
    | dict.fromkeys(RATES, "bogo ops/s")
)
COUNTED = {metric.name for metric in catalog.CENSUS}
TOTALS = {metric.name for metric in catalog.HOST if metric.kind == "total"} | {"seconds", *SHARES}
OVER_AN_INTERVAL = {metric.name for metric in catalog.HOST if metric.kind == "counter"} | {
    metric.name for metric in catalog.HOST if metric.name.endswith("_cpu_percent")
}


class Key(NamedTuple):
    """The full value of each factor, behind its label. Repetitions are equal in all of them."""

    host: str
    guests: tuple[tuple[str, Any], ...]
    knobs: tuple[tuple[str, str], ...]
    workload: str
    sampling: tuple[int, float, str]


FACTORS = Key._fields


@dataclass(frozen=True)
class Cell:
    """Repetitions of one cell. `labels` name its factors; `key` has their full values.

    `blocks` has the block of each run: None if it has none, or if A and B are different results.
    `reported` has the metrics that runs of any side reported, by their names in tables. Those of a
    run without a settled phase count from `after` seconds on.
    """

    labels: dict[str, str]
    key: Key
    runs: tuple[Measured, ...]
    blocks: tuple[Block | None, ...] = ()
    reported: dict[str, Reported] = field(default_factory=dict)
    after: float = 0.0

    def values(self, metric: str) -> list[float]:
        """Return one value for each run; NaN if a run has none."""
        if metric not in UNITS:
            return [value(each.run, self.reported[metric], self.after) for each in self.runs]
        return [_value(each, metric) for each in self.runs]

    def unit(self, metric: str) -> str:
        """Return the unit of a metric."""
        return UNITS[metric] if metric in UNITS else self.reported[metric].unit

    def array(self, metric: str) -> Floats:
        """Return the same as an array."""
        return np.array(self.values(metric), dtype=np.float64)


@dataclass(frozen=True)
class Comparison:
    """One metric of a cell of A, compared with that of a cell of B.

    `by` has both labels of the factor in which the cells differ on purpose, if there is one.
    `p_holm` is p adjusted for all comparisons made. `p_same` is that of the equivalence test, whose
    margin is the smallest effect that matters, adjusted in the same way. `missing` is how many more
    runs (A, B) a verdict needs. `needed` is about how many runs on each side detect the smallest
    effect that matters. `pairs` is the number of complete pairs if runs were compared within
    blocks, else None. `not_reached` counts the runs (A, B) that never reached a share of their
    plateau; their time is how long they were watched.
    """

    metric: str
    unit: str
    a: Cell
    b: Cell
    by: tuple[str, str] | None
    found: Difference
    p_holm: float | None = None
    p_same: float | None = None
    verdict: str = statistics.NO_VERDICT
    missing: tuple[int, int] = (0, 0)
    needed: int | None = None
    pairs: int | None = None
    not_reached: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class LeftOut:
    """A metric that was not compared in some pairs of cells, with the reason."""

    metric: str
    why: str
    pairs: int


# --- cells ----------------------------------------------------------------------------------------


def group(*sides: list[Measured]) -> list[list[Cell]]:
    """Group the repetitions of each side, in the order of its plan.

    Labels name only the knobs and guest properties that differ between any runs of all sides. If no
    knob differs, labels name all knobs. Runs have blocks only if there is a single side: the blocks
    of different results have nothing in common.
    """
    every = [each.run for side in sides for each in side]
    named = {"knobs": _differ([cells.knobs(run) for run in every])}
    named["knobs"] = named["knobs"] or sorted({name for run in every for name in cells.knobs(run)})
    named["guests"] = [n for n in _differ([_guests(run) for run in every]) if n != "count"]
    own = {metric.column: metric for metric in metrics_of(every)}
    return [
        [replace(cell, reported=own) for cell in _group(side, named, blocks=len(sides) == 1)]
        for side in sides
    ]


def _differ(settings: list[dict[str, Any]]) -> list[str]:
    names = dict.fromkeys(name for each in settings for name in each)
    return [name for name in names if len({str(each.get(name)) for each in settings}) > 1]


def _group(measured: list[Measured], named: dict[str, list[str]], blocks: bool) -> list[Cell]:
    known = blocks_of([each.run for each in measured]) if blocks else [None] * len(measured)
    found: dict[str, list[tuple[Measured, Block | None]]] = {}
    for each, block in zip(measured, known, strict=True):
        found.setdefault(str(_key(each.run)), []).append((each, block))
    cells = []
    for both in found.values():
        runs, in_blocks = zip(*both, strict=True)
        cells.append(Cell(_labels(runs[0].run, named), _key(runs[0].run), runs, in_blocks))
    return cells


def _key(run: Run) -> Key:
    return Key(
        host=run.host,
        guests=tuple(sorted(_guests(run).items())),
        knobs=tuple(sorted((name, str(value)) for name, value in cells.knobs(run).items())),
        workload=cells.workload(run),
        sampling=_sampling(run),
    )


def _guests(run: Run) -> dict[str, Any]:
    """Return the number of guests and their properties. nosharepages belongs to the workload."""
    guests = run.plan.guests
    made = {k: v for k, v in guests.asked().items() if v and k not in ("count", "nosharepages")}
    return {"count": guests.count, **made}


def _sampling(run: Run) -> tuple[int, float, str]:
    """Return how a run was sampled; for an imported run, what its log has, which may be cut short.

    The comparison is of last values, so runs that end at different times are not repetitions.
    """
    intervals, interval, rule = cells.sampling(run)
    return run.intervals if run.imported else intervals, interval, rule


def _labels(run: Run, named: dict[str, list[str]]) -> dict[str, str]:
    intervals, interval, rule = _sampling(run)
    guests, knobs = _guests(run), cells.knobs(run)
    made = [f"{name}={guests[name]}" for name in named["guests"] if name in guests]
    return {
        "host": run.host,
        "guests": ", ".join([str(guests["count"]), *made]),
        "knobs": ", ".join(f"{name}={knobs[name]}" for name in named["knobs"] if name in knobs),
        "workload": run.factors["workload"],
        "sampling": f"{intervals} × {interval:g} s" + (" or until steady" if rule != "{}" else ""),
    }


def _value(measured: Measured, metric: str) -> float:
    """Return the value that stands for a run; NaN if it has none.

    If a run did not reach a share of its plateau, its time is how long it was watched: both sides
    are compared in their restricted means.
    """
    if metric in SHARES:
        return reached(SHARES[metric])(measured).seconds
    if metric == "saved_mib":
        return freed.saved_mib(measured)
    if metric in freed.PARTS:
        return float(freed.freed(measured)._asdict()[metric])
    for columns, of in (
        (writes.COLUMNS, writes.in_last_phase),
        (work.COLUMNS, work.of_run),
        (efficiency.UNITS, efficiency.of_run),
        (policies.UNITS, policies.of_run),
        (phase_lock.UNITS, phase_lock.of_run),
    ):
        if metric in columns:
            return float(of(measured.run).get(metric, np.nan))
    if metric in RATES:
        rates = summary.throughput(measured.run)
        return float(RATES[metric](rates)) if rates else np.nan
    if metric == "seconds":
        return measured.run.seconds
    if metric in COUNTED:
        return float(measured.last_census.get(metric, np.nan))
    return last(metric)(measured)


# --- pairs ----------------------------------------------------------------------------------------


def pair(a: list[Cell], b: list[Cell], by: str | None, same: bool) -> list[tuple[Cell, Cell]]:
    """Find cells to compare: equal in every factor except `by`, in which they must differ.

    `same`: A and B are the same runs, so each pair is returned only once. Raise InputError, with
    the factors of both sides, if there is no pair.
    """
    required = {by} if by else set()
    near: dict[object, list[Cell]] = {}  # few of many cells are equal in what is text
    for other in b:
        near.setdefault(_text(other, by), []).append(other)
    pairs = [
        (one, other)
        for one in a
        for other in near.get(_text(one, by), ())
        if _unlike(one, other) == required
    ]
    if same:
        place = {id(cell): n for n, cell in enumerate(a)}
        pairs = [(one, other) for one, other in pairs if place[id(one)] < place[id(other)]]
    if not pairs:
        raise InputError(_no_pairs(a, b, by, same))
    return pairs


def _unlike(a: Cell, b: Cell) -> set[str]:
    every = zip(FACTORS, a.key, b.key, strict=True)
    return {name for name, one, other in every if one != other}


def _text(cell: Cell, by: str | None) -> object:
    """Return the factors that are text, but `by`."""
    return tuple(getattr(cell.key, f) for f in ("host", "knobs", "workload") if f != by)


def _no_pairs(a: list[Cell], b: list[Cell], by: str | None, same: bool) -> str:
    for name, side in (("A", a), ("B", b)):
        if not side:
            return f"nothing to compare: no run of {name} can be used"
    unlike = [_unlike(one, other) for one in a for other in b]
    single = [name for name in FACTORS if {name} in unlike]
    if same and by is None:
        helps = "|".join(single or FACTORS)
        return f"A and B are the same runs: choose the factor to compare them by, with --by {helps}"
    lines = ["no runs of A and B can be compared:"]
    for name in FACTORS:
        ours, theirs = ("; ".join(dict.fromkeys(c.labels[name] for c in side)) for side in (a, b))
        never = all(name in each for each in unlike)
        mark = "   <- never equal" if never else ""
        lines.append(f"  {name}: A has {ours}; B has {theirs}{mark}")
    return "\n".join([*lines, _way_out(unlike, single, by)])


def _way_out(unlike: list[set[str]], single: list[str], by: str | None) -> str:
    if single:
        return "to compare runs that differ in one of these: " + " or ".join(
            f"--by {name}" for name in single
        )
    apart = [each for each in unlike if each]
    if not apart or (by and not any(by in each for each in apart)):
        return f"they do not differ in {by}" if by else "they do not differ"
    closest = min(apart, key=len)
    names = " and ".join(name for name in FACTORS if name in closest)
    return (
        f"the most similar cells differ in {names}: a comparison would not show which of these "
        "makes a difference"
    )


def over_hosts(pairs: list[tuple[Cell, Cell]]) -> list[tuple[Cell, Cell]]:
    """Join pairs that differ only in the host, if a host alone has too few blocks for a verdict.

    All hosts together must have enough. Their runs are still compared within each host.
    """
    alike: dict[str, list[tuple[Cell, Cell]]] = {}
    for a, b in pairs:
        alone = a.key.host if a.key.host == b.key.host else ""
        rest = [cell.key._replace(host="" if alone else cell.key.host) for cell in (a, b)]
        alike.setdefault(str(rest), []).append((a, b))
    return [joined for each in alike.values() for joined in _joined(each)]


def _joined(pairs: list[tuple[Cell, Cell]]) -> list[tuple[Cell, Cell]]:
    counts = [len(shared([a.blocks, b.blocks])) for a, b in pairs]
    if len(pairs) < 2 or not min(counts) < statistics.FEWEST <= sum(counts):
        return pairs
    a, b = zip(*pairs, strict=True)
    return [(_of_hosts(a), _of_hosts(b))]


def _of_hosts(several: tuple[Cell, ...]) -> Cell:
    first = several[0]
    return Cell(
        {**first.labels, "host": f"{len(several)} hosts"},
        first.key._replace(host=", ".join(cell.key.host for cell in several)),
        tuple(run for cell in several for run in cell.runs),
        tuple(block for cell in several for block in cell.blocks),
        first.reported,
    )


# --- comparisons ----------------------------------------------------------------------------------


def check_metrics(names: list[str], cells: list[Cell]) -> None:
    """Raise InputError for a metric that neither exists nor was reported by a run."""
    own = list(dict.fromkeys(name for cell in cells for name in cell.reported))
    for name in names:
        if name not in UNITS and name not in own:
            known = ", ".join(sorted(UNITS))
            more = f". These runs report: {', '.join(own)}" if own else ""
            raise InputError(
                f"--metric {name}: there is no such metric. Metrics are: {known}{more}"
            )


def compare(
    pairs: list[tuple[Cell, Cell]], names: list[str], by: str | None, smallest: float
) -> tuple[list[Comparison], list[LeftOut]]:
    """Compare every pair in every metric; p is adjusted for the number of comparisons (Holm).

    Runs of the same results are compared within blocks, unless hosts are compared.

    A metric is left out if a side has no value of it. A total (such as CPU seconds) is left out if
    the two sides were sampled for unequal times. A metric that is counted over an interval is left
    out if the intervals have unequal lengths. So is a time that no run reached.
    """
    made: list[Comparison] = []
    left_out: dict[tuple[str, str], int] = {}
    for a, b in over_hosts(pairs):
        for name in names:
            one = _of_pair(a, b, name, by, smallest)
            if isinstance(one, str):
                left_out[name, one] = left_out.get((name, one), 0) + 1
            else:
                made.append(one)
    apart = statistics.adjusted([one.found.p for one in made])
    same = statistics.adjusted([one.p_same for one in made])
    made = [replace(one, p_holm=p, p_same=q) for one, p, q in zip(made, apart, same, strict=True)]
    return (
        [_judged(one, smallest) for one in made],
        [LeftOut(name, why, count) for (name, why), count in left_out.items()],
    )


def _of_pair(a: Cell, b: Cell, name: str, by: str | None, smallest: float) -> Comparison | str:
    """Compare one metric, or return the reason why it is left out."""
    (count, interval, rule), (others, other, ending) = a.key.sampling, b.key.sampling
    if name in TOTALS and (count * interval, rule) != (others * other, ending):
        return "A and B were not sampled for the same time"
    if name in OVER_AN_INTERVAL and interval != other:
        return "it is counted over an interval, and the intervals of A and B have unequal lengths"
    never = _never(a, name), _never(b, name)
    if name in SHARES and never == (len(a.runs), len(b.runs)):
        return "no run of A or of B reached it"
    a, b = _of_the_same_time(a, b, name)
    in_blocks = by != "host" and any(a.blocks) and any(b.blocks)
    found = (_within if in_blocks else _between)(a, b, name)
    if found is None:
        empty = [s for s, c in (("A", a), ("B", b)) if all(map(math.isnan, c.values(name)))]
        return f"no run of {' or of '.join(empty)} has a value"
    labels = (a.labels[by], b.labels[by]) if by else None
    ours, theirs = _pairs(a, b, name) if in_blocks else (a.array(name), b.array(name))
    same = statistics.equivalence(ours, theirs, smallest, in_blocks)
    pairs = len(ours) if in_blocks else None
    return Comparison(
        name, a.unit(name), a, b, labels, found, p_same=same, pairs=pairs, not_reached=never
    )


def _of_the_same_time(a: Cell, b: Cell, name: str) -> tuple[Cell, Cell]:
    """Let what a run reported without a settled phase count from that of the other side on.

    With KSM off, nothing is settled. A service that is slow at first would seem slower without KSM.
    """
    if name in UNITS:
        return a, b
    metric = a.reported[name]
    after = max(settled_after(each.run, metric) for cell in (a, b) for each in cell.runs)
    return replace(a, after=after), replace(b, after=after)


def _never(cell: Cell, name: str) -> int:
    """Count the runs that never reached a share of their plateau."""
    return sum(not reached(SHARES[name])(each).yes for each in cell.runs) if name in SHARES else 0


def _between(a: Cell, b: Cell, name: str) -> Difference | None:
    return statistics.difference(a.values(name), b.values(name))


def _within(a: Cell, b: Cell, name: str) -> Difference | None:
    """Compare within blocks. Without a complete pair there are means, but no interval and no p."""
    if found := statistics.paired(*_pairs(a, b, name)):
        return found
    apart = _between(a, b, name)
    return apart and replace(apart, absolute_low=None, absolute_high=None, p=None, method="")


def _pairs(a: Cell, b: Cell, name: str) -> tuple[Floats, Floats]:
    """Return the values of A and of B in the blocks in which both have one."""
    ours, theirs = (np.array(cell.values(name)) for cell in (a, b))
    places = np.array(shared([a.blocks, b.blocks]), dtype=int).reshape(-1, 2)
    both = np.column_stack([ours[places[:, 0]], theirs[places[:, 1]]])
    both = both[~np.isnan(both).any(axis=1)]
    return both[:, 0], both[:, 1]


def _judged(one: Comparison, smallest: float) -> Comparison:
    found = statistics.verdict(one.found, one.p_holm, smallest, one.p_same)
    a, b = one.a.values(one.metric), one.b.values(one.metric)
    missing = _missing(a), _missing(b)
    if one.pairs is not None:
        missing = (max(0, statistics.FEWEST - one.pairs),) * 2
    needed = None
    if found == statistics.NOT_SHOWN and one.pairs is not None:
        needed = _pairs_needed(one, smallest)
    elif found == statistics.NOT_SHOWN:
        needed = statistics.runs_needed(a, b, one.found.scale, smallest)
    return replace(one, verdict=found, missing=missing, needed=needed)


def _pairs_needed(one: Comparison, smallest: float) -> int | None:
    within = statistics.within_blocks(*_pairs(one.a, one.b, one.metric))
    ratios = one.found.method == "paired ratios"
    effect = math.log1p(smallest) if ratios else one.found.scale * smallest
    return statistics.pairs_needed(float(within.std(ddof=1)), effect)


def _missing(values: list[float]) -> int:
    """Count the runs that a verdict needs in addition to those that have a value."""
    return max(0, statistics.FEWEST - sum(not math.isnan(value) for value in values))


def unlike(pairs: list[tuple[Cell, Cell]], by: str | None) -> dict[str, tuple[str, str]]:
    """Return what else differs between or within the compared sides: values of A and of B.

    Differences that follow from `by` are left out. A different kernel may explain more than any
    knob.
    """
    found: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
    every = {id(cell): cell for both in pairs for cell in both}
    known = {place: _facts(cell) for place, cell in every.items()}
    for a, b in pairs:
        ours, theirs = known[id(a)], known[id(b)]
        follows = _follows(a, b, by)
        for name in dict.fromkeys([*ours, *theirs]):
            values = ours.get(name, ()), theirs.get(name, ())
            if (values[0] != values[1] or len(values[0]) > 1) and not name.startswith(follows):
                both = found.setdefault(name, ({}, {}))
                for side, more in zip(both, values, strict=True):
                    side.update(dict.fromkeys(more or ("(none)",)))
    return {name: ("; ".join(ours), "; ".join(theirs)) for name, (ours, theirs) in found.items()}


def _facts(cell: Cell) -> dict[str, tuple[str, ...]]:
    return {
        fact.name: tuple(sorted(value for value, _ in fact.values))
        for fact in facts([each.run for each in cell.runs])
    }


def _follows(a: Cell, b: Cell, by: str | None) -> tuple[str, ...]:
    """Return prefixes of the facts that differ because `by` differs."""
    asked = [f"knobs.{name}" for name in dict(a.key.knobs) | dict(b.key.knobs)]
    return {
        "host": ("host",),
        "guests": ("guests.",),
        "knobs": tuple(asked),
        "workload": ("guests.nosharepages", "sampling.steady.after"),
        "sampling": ("sampling.",),
    }.get(by or "", ())
