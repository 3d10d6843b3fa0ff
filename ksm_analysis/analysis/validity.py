"""Warnings about runs together: a drift over time, a control that differs, names and units."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ksm_analysis.analysis.blocks import blocks_of
from ksm_analysis.analysis.settings import InBlocks, compared, is_control, throughput_of
from ksm_analysis.analysis.statistics import CONFIDENCE, Difference, holm, trend
from ksm_analysis.analysis.words import guest_word, number
from ksm_analysis.metrics import reported
from ksm_analysis.metrics.freed import saved_mib
from ksm_analysis.metrics.measurement import Measured
from ksm_analysis.results import cells

DRIFT = 0.01  # chance of a warning about a drift, if there is none
ENOUGH = 8  # runs, to look for a drift
QUANTITIES: tuple[tuple[str, Callable[[Measured], float]], ...] = (
    ("savings", saved_mib),
    ("throughput", throughput_of),
)


def warnings_of(measured: list[Measured]) -> list[str]:
    """Return warnings about all runs of the results together."""
    of_names = reported.warnings_of([each.run for each in measured])
    return [*_drifts(measured), *_controls(measured), *of_names]


# --- drift ----------------------------------------------------------------------------------------


def _drifts(measured: list[Measured]) -> Iterator[str]:
    """Find quantities that changed from run to run, within the cells of an experiment on a host."""
    found = []
    for (experiment, host), runs_of in _in_time(measured).items():
        for name, value in QUANTITIES:
            groups: dict[object, tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
            for place, each in enumerate(runs_of):
                places, values = groups[each.run.cell]
                places.append(place)
                values.append(value(each))
            rises, p, runs = trend([*groups.values()])
            if runs >= ENOUGH:
                found.append((experiment, host, name, rises, p, runs))
    adjusted = holm([p for *_, p, _ in found])
    for (experiment, host, name, rises, p, runs), chance in zip(found, adjusted, strict=True):
        if chance < DRIFT:
            yield (
                f"{experiment}, {host}: {name} {'rose' if rises > 0 else 'fell'} with time within "
                f"settings ({runs} runs, p = {p:.1g}): something other than the "
                "settings changed. Trust only comparisons within repetitions"
            )


def _in_time(measured: list[Measured]) -> dict[tuple[str, str], list[Measured]]:
    """Return the runs of each experiment and host in the order of their start.

    Runs whose start is not known, such as imported ones, are left out.
    """
    timed = [(at, each) for each in measured if (at := each.run.record.started) is not None]
    found: dict[tuple[str, str], list[Measured]] = defaultdict(list)
    for _, each in sorted(timed, key=lambda both: both[0]):
        found[each.run.record.experiment, each.run.host].append(each)
    return found


# --- control --------------------------------------------------------------------------------------


class _Scenario(NamedTuple):
    experiment: str
    guests: int
    workload: str
    knobs: str


def _controls(measured: list[Measured]) -> Iterator[str]:
    """Find controls that differ from the setting that they run once more, over all hosts."""
    found = []
    sides = _sides(measured)
    for (scenario, control), runs in sides.items():
        twin = sides.get((scenario, False))
        if not control or not twin:
            continue
        for name, value in QUANTITIES:
            apart = compared(twin, runs, value)
            if apart and apart.p is not None:
                found.append((twin, name, apart, apart.p))
    adjusted = holm([p for *_, p in found])
    for (twin, name, apart, p), chance in zip(found, adjusted, strict=True):
        if chance < 1 - CONFIDENCE and apart.absolute:
            yield _differs(twin, name, apart, p)


def _sides(measured: list[Measured]) -> dict[tuple[_Scenario, bool], InBlocks]:
    """Group runs by what was asked for, and by whether they are of the control."""
    found: dict[tuple[_Scenario, bool], InBlocks] = {}
    for each, block in zip(measured, blocks_of([m.run for m in measured]), strict=True):
        knobs = {k: v for k, v in cells.knobs(each.run).items() if k != "control"}
        cell, experiment = each.run.cell, each.run.record.experiment
        scenario = _Scenario(experiment, cell.guests, cell.workload, str(sorted(knobs.items())))
        found.setdefault((scenario, is_control(each)), []).append((each, block))
    return found


def _differs(twin: InBlocks, name: str, apart: Difference, p: float) -> str:
    cell = twin[0][0].run.cell
    where = ", ".join(filter(None, (guest_word(cell.guests), cell.workload)))
    much = number(apart.absolute) if apart.change is None else f"{apart.change:+.1%}"
    return (
        f"the control differs from {cell.knobs}, with the same knobs ({where}): {name} {much} "
        f"({apart.a.runs} pairs, p = {p:.1g}). Other differences between settings may also have "
        "other causes than the knobs"
    )
