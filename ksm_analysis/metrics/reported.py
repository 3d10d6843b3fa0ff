"""Metrics that the runs reported themselves: one value for each run and metric."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from ksm_analysis.metrics import (
    arrivals,
    catalog,
    efficiency,
    freed,
    load,
    phase_lock,
    policies,
    work,
    writes,
)
from ksm_analysis.metrics.times import SHARES
from ksm_analysis.results.reported import HIGHER, LOWER, nothing
from ksm_analysis.results.run import Cell, Run

PREFIX = "reported_"
PHASE = f"{PREFIX}phase"
SETTLED, WHOLE = "settled", "whole run"
# Names of columns of `summary`, and of metrics of `compare`
BUILT_IN = {
    "run",
    "repetition",
    "seconds",
    "converged",
    "plateau",
    "saved_mib",
    "freed_against_off_mib",
    "bogo_ops_per_second_sum",
    "bogo_ops_per_second_mean",
    *Cell._fields,
    *SHARES,
    *freed.PARTS,
    *writes.COLUMNS,
    *work.COLUMNS,
    *efficiency.UNITS,
    *phase_lock.COLUMNS,
    policies.CPU,
    *(m.name for m in (*catalog.HOST, *catalog.GUEST, *catalog.CENSUS, *catalog.CENSUS_GUEST)),
}


@dataclass(frozen=True)
class Reported:
    """A metric that some run reported: its name, its unit, and which values are better.

    `column` is its name in tables. `better` is lower, higher, or empty if nobody said so.
    """

    name: str
    column: str
    unit: str
    better: str


def column(name: str, factors: Sequence[str] = ()) -> str:
    """Return the name of a metric in tables, which is not one of those of the project."""
    taken = name in BUILT_IN or name in factors or name.startswith(PREFIX)
    taken = taken or any(each.COLUMN.fullmatch(name) for each in (arrivals, policies))
    return f"{PREFIX}{name}" if taken else name


def metrics_of(runs: Sequence[Run]) -> list[Reported]:
    """List the metrics of runs, in the order in which they were first reported.

    The unit is that of the first run that has the metric. It is better lower or higher if no run
    says the opposite.
    """
    factors = [*dict.fromkeys(name for run in runs for name in run.factors)]
    return [
        Reported(str(name), column(str(name), factors), rows["unit"].iloc[0], _better(rows))
        for name, rows in _every(runs).groupby("metric", sort=False)
    ]


def _every(runs: Sequence[Run]) -> pd.DataFrame:
    """Return what all runs have reported, in the order of runs and time."""
    return pd.concat([run.reported for run in runs if len(run.reported)] or [nothing()])


def _better(rows: pd.DataFrame) -> str:
    said = {*rows["better"]} - {""}
    return said.pop() if len(said) == 1 else ""


def value(run: Run, metric: Reported, after: float = 0.0) -> float:
    """Return the value of a metric that stands for a run; NaN if it has none in this unit.

    It is the mean over the settled phase. If no value is from that phase, it is the mean over what
    covers no time before `after` seconds, or else over the whole run. With several guests or
    processes, it is the mean of their means. Those of a load are of all its answers.
    """
    if (found := load.value(run, metric.name, after)) is not None:
        return found
    rows = run.reported[run.reported["metric"] == metric.name]
    rows = rows[rows["unit"] == metric.unit]
    for chosen in (rows["settled"], rows["since"] >= after):
        if chosen.any():
            rows = rows[chosen]
            break
    return float(rows.groupby("of")["value"].mean().mean())


def settled_after(run: Run, metric: Reported) -> float:
    """Return since when the values of a run are settled, in seconds; 0 if none is."""
    rows = run.reported[(run.reported["metric"] == metric.name) & run.reported["settled"]]
    return float(rows["since"].min()) if len(rows) else 0.0


def phase(run: Run) -> str:
    """Say which part of a run its values are from: settled, whole run, or which metrics of it."""
    settled = run.reported.groupby("metric", sort=False)["settled"].any()
    whole = ", ".join(map(str, settled.index[~settled]))
    if settled.empty or not settled.any():
        return WHOLE if len(settled) else ""
    return f"{SETTLED}; {WHOLE}: {whole}" if whole else SETTLED


def of_run(run: Run, metrics: Sequence[Reported]) -> dict[str, object]:
    """Return the columns of a run in `summary`; none if no run reports anything."""
    values = {metric.column: value(run, metric) for metric in metrics}
    return {PHASE: phase(run), **values} if values else {}


def warnings_of(runs: Sequence[Run]) -> Iterator[str]:
    """Yield which metrics have another name in tables, or do not mean the same in all runs."""
    rows = _every(runs).groupby("metric")
    units, said = rows["unit"].unique(), rows["better"].unique()
    for metric in metrics_of(runs):
        name = metric.name
        if metric.column != name:
            words = "a name of the project's own: it is shown as"
            yield f"a run reports {name}, which is {words} {metric.column}"
        if len(units[name]) > 1:
            first, *others = (each or "no unit" for each in units[name])
            words = "in another: only the first of them is used"
            yield f"{name} is in {first} in one run and in {', '.join(others)} {words}"
        if {LOWER, HIGHER} <= {*said[name]}:
            yield f"runs disagree on whether a lower or a higher {name} is better"
