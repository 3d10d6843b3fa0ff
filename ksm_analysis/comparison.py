"""Two sets of runs, paired cell by cell and metric by metric."""

# ruff: noqa: RUF001

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ksm_analysis import answer, cells, metrics, statistics
from ksm_analysis.errors import InputError
from ksm_analysis.metrics import Measured
from ksm_analysis.provenance import facts
from ksm_analysis.runs import Run
from ksm_analysis.statistics import Difference

FACTORS = ("host", "guests", "knobs", "workload", "sampling")
# What is saved, what it costs, how soon, and what is left for the guests: one of each, as every
# further metric makes all of them harder to tell
DEFAULT = ("pages_sharing", "ksmd_cpu_seconds", "seconds_to_95", "bogo_ops_per_second_mean")
OWN = {"seconds_to_95": "s", "bogo_ops_per_second_mean": "bogo ops/s"}  # not of metrics.HOST
UNITS = {metric.name: metric.unit for metric in metrics.HOST} | OWN


@dataclass(frozen=True)
class Cell:
    """Repetitions of one thing. `labels` name its factors; `key` is what is behind each of them."""

    labels: dict[str, str]
    key: dict[str, object]
    runs: tuple[Measured, ...]

    def values(self, metric: str) -> list[float]:
        """Return one value a run; NaN where it has none."""
        return [_value(each, metric) for each in self.runs]


@dataclass(frozen=True)
class Comparison:
    """One metric of a cell of A against one of B.

    `by` are the labels of the factor in which they differ on purpose, if there is one. `p_holm` is
    p adjusted for all comparisons made. `missing` is how many more runs (A, B) a verdict takes,
    `needed` about how many runs a side would show the smallest effect that matters.
    """

    metric: str
    unit: str
    a: Cell
    b: Cell
    by: tuple[str, str] | None
    found: Difference
    p_holm: float | None = None
    verdict: str = statistics.NO_VERDICT
    missing: tuple[int, int] = (0, 0)
    needed: int | None = None


# --- cells ----------------------------------------------------------------------------------------


def group(*sides: list[Measured]) -> list[list[Cell]]:
    """Put the repetitions of each side together, in the order of its plan.

    Knobs are labelled by those that differ between any of the runs of all sides.
    """
    every = [cells.knobs(each.run) for side in sides for each in side]
    names = list(dict.fromkeys(name for knobs in every for name in knobs))
    differ = [name for name in names if len({str(knobs.get(name)) for knobs in every}) > 1]
    return [_group(side, differ or names) for side in sides]


def _group(measured: list[Measured], knobs: list[str]) -> list[Cell]:
    found: dict[str, list[Measured]] = {}
    for each in measured:
        found.setdefault(str(_key(each.run)), []).append(each)
    return [
        Cell(_labels(runs[0].run, knobs), _key(runs[0].run), tuple(runs)) for runs in found.values()
    ]


def _key(run: Run) -> dict[str, object]:
    return {
        "host": run.host,
        "guests": run.factors["guests"],
        "knobs": tuple(sorted((k, str(v)) for k, v in cells.knobs(run).items())),
        "workload": cells.workload(run),
        "sampling": cells.sampling(run),
    }


def _labels(run: Run, knobs: list[str]) -> dict[str, str]:
    intervals, interval, _ = cells.sampling(run)
    return {
        "host": run.host,
        "guests": str(run.factors["guests"]),
        "knobs": ", ".join(f"{n}={v}" for n, v in cells.knobs(run).items() if n in knobs),
        "workload": run.factors["workload"],
        "sampling": f"{intervals} × {interval:g} s",
    }


def _value(measured: Measured, metric: str) -> float:
    if metric == "seconds_to_95":
        return answer.time_to(0.95)(measured)
    if metric == "bogo_ops_per_second_mean":
        return answer.throughput_of(measured)
    return answer.last(metric)(measured)


# --- pairs ----------------------------------------------------------------------------------------


def pair(a: list[Cell], b: list[Cell], by: str | None, same: bool) -> list[tuple[Cell, Cell]]:
    """Find cells that compare: equal in every factor, but for `by`, in which they have to differ.

    `same`: A and B are the same runs, so that each pair is wanted once. Raises InputError, with
    what both sides have, if there is none.
    """
    pairs = []
    for one in a:
        for other in b:
            unlike = {name for name in FACTORS if one.key[name] != other.key[name]}
            if unlike == ({by} if by else set()):
                pairs.append((one, other))
    if same:
        pairs = [(one, other) for one, other in pairs if _place(one, a) < _place(other, b)]
    if not pairs:
        raise InputError(_no_pairs(a, b, by, same))
    return pairs


def _place(cell: Cell, among: list[Cell]) -> int:
    return next(n for n, each in enumerate(among) if each.key == cell.key)


def _no_pairs(a: list[Cell], b: list[Cell], by: str | None, same: bool) -> str:
    if same and by is None:
        return (
            f"A and B are the same runs: say in what to compare them, with --by {'|'.join(FACTORS)}"
        )
    lines = ["no runs of A and B compare:"]
    for name in FACTORS:
        ours, theirs = ("; ".join(dict.fromkeys(c.labels[name] for c in side)) for side in (a, b))
        known = {str(c.key[name]) for c in a}, {str(c.key[name]) for c in b}
        mark = "" if known[0] & known[1] else "   <- never equal"
        lines.append(f"  {name}: A has {ours}; B has {theirs}{mark}")
        if mark and name != by:
            lines.append(f"    to compare runs that differ in it: --by {name}")
    return "\n".join(lines)


# --- comparisons ----------------------------------------------------------------------------------


def check_metrics(names: list[str]) -> None:
    """Raise InputError for a metric that there is not."""
    for name in names:
        if name not in UNITS:
            known = ", ".join(sorted(UNITS))
            raise InputError(f"--metric {name}: there is no such metric. There are: {known}")


def compare(
    pairs: list[tuple[Cell, Cell]], names: list[str], by: str | None, smallest: float
) -> list[Comparison]:
    """Compare every pair in every metric, allowing for the number of comparisons (Holm).

    A metric that one side has not is left out; so is a total (as CPU seconds) where the two were
    not sampled for equally long.
    """
    made = [one for a, b in pairs for one in _of_pair(a, b, names, by)]
    tested = [one for one in made if one.found.p is not None]
    adjusted = iter(statistics.holm([one.found.p for one in tested]))
    return [_judged(one, None if one.found.p is None else next(adjusted), smallest) for one in made]


def _of_pair(a: Cell, b: Cell, names: list[str], by: str | None) -> Iterator[Comparison]:
    totals = {metric.name for metric in metrics.HOST if metric.kind == "total"}
    labels = (a.labels[by], b.labels[by]) if by else None
    for name in names:
        if by == "sampling" and name in totals:
            continue
        if found := statistics.difference(a.values(name), b.values(name)):
            yield Comparison(name, UNITS[name], a, b, labels, found)


def _judged(one: Comparison, adjusted: float | None, smallest: float) -> Comparison:
    a, b = one.a.values(one.metric), one.b.values(one.metric)
    found = statistics.verdict(one.found, adjusted, smallest)
    fewest = statistics.FEWEST
    needed = None
    if found == statistics.NOT_SHOWN:
        needed = statistics.runs_needed(a, b, smallest)
    return replace(
        one,
        p_holm=adjusted,
        verdict=found,
        missing=tuple(max(0, fewest - sum(not math.isnan(v) for v in side)) for side in (a, b)),
        needed=needed,
    )


def unlike(pairs: list[tuple[Cell, Cell]], by: str | None) -> dict[str, tuple[str, str]]:
    """Name what else differs between the runs of both sides: values of A and of B, by name.

    What follows from `by` is left out. A different kernel may explain more than any knob.
    """
    sides = [
        {fact.name: fact.values for fact in facts(list({m.run.path: m.run for m in runs}.values()))}
        for runs in (
            [m for a, _ in pairs for m in a.runs],
            [m for _, b in pairs for m in b.runs],
        )
    ]
    found = {}
    for name in dict.fromkeys([*sides[0], *sides[1]]):
        values = [sorted(value for value, _ in side.get(name, ())) for side in sides]
        follows = by and (name == by or name.startswith(f"{by}."))
        if values[0] != values[1] and not follows:
            found[name] = tuple("; ".join(each) or "(none)" for each in values)
    return found
