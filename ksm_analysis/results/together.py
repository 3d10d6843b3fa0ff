"""Combine the results of several experiments. What differs gets different names.

Labels name what differs within one experiment. Between experiments this may not be enough: the
workload `stress` of one may differ from that of another, and so may knobs without a label.
"""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from ksm_analysis.errors import InputError
from ksm_analysis.results import cells, reader
from ksm_analysis.results.record import Factors
from ksm_analysis.results.run import Results, Run


def read_together(directories: list[Path], read: reader.Read = reader.read_runs) -> Results:
    """Read the results of several directories as one; `read` reads the runs.

    Raises InputError if one cannot be read, or is given twice: its runs would count twice.
    """
    seen: dict[Path, Path] = {}
    for directory in directories:
        other = seen.setdefault(directory.resolve(), directory)
        if other is not directory:
            raise InputError(f"{directory}: given twice, so its runs would count twice")
    return together([reader.read_results(directory, read) for directory in directories])


def together(several: list[Results]) -> Results:
    """Combine results, in the order given. Those of a single experiment stay as they are.

    The label of the knobs names all knobs that differ between any of the runs, and what guests
    differ in: size, network, image. Workloads that have
    the same name, but are not the same or not sampled in the same way, also get the name of the
    experiment that ran them first. Ids that several runs have get the name of each run's own
    experiment. Equal cells of several experiments become repetitions of one cell.
    """
    several = _distinguished(several)
    runs = [run for results in several for run in results.runs]
    names = list(dict.fromkeys(map(_experiment, runs)))
    warnings = [warning for results in several for warning in results.warnings]
    if len(names) > 1:
        runs = _numbered(_identified(_labelled(runs)))
        warnings = [
            f"{_place(results)}: {warning}" for results in several for warning in results.warnings
        ]
    return Results(several[0].path, tuple(runs), tuple(warnings))


def _distinguished(several: list[Results]) -> list[Results]:
    """Name an experiment after its directory if several directories have the same experiment."""
    names = Counter(name for results in several for name in {*map(_experiment, results.runs)})
    return [
        replace(
            results,
            runs=tuple(
                run.relabelled(run.record.model_copy(update={"experiment": _place(results)}))
                if names[_experiment(run)] > 1
                else run
                for run in results.runs
            ),
        )
        for results in several
    ]


def _experiment(run: Run) -> str:
    return run.record.experiment


def _place(results: Results) -> str:
    return Path(results.path).name


def _planned(run: Run, **values: object) -> Run:
    """Copy a run with other values in its plan."""
    plan = run.plan.model_copy(update=values)
    return run.relabelled(run.record.model_copy(update={"run": plan}))


def _factors(run: Run, **factors: object) -> Factors:
    return run.plan.factors.model_copy(update=factors)


def _labelled(runs: list[Run]) -> list[Run]:
    knobs = [{**cells.knobs(run), **cells.guests(run)} for run in runs]
    names = list(dict.fromkeys(name for each in knobs for name in each))
    differ = [name for name in names if _differs(name, knobs)]
    workloads = _workload_names(runs)
    labelled = []
    for run, each in zip(runs, knobs, strict=True):
        label = ", ".join(
            "control" if name == "control" else f"{name}={each[name]}"
            for name in differ
            if name in each
        )
        workload = workloads[run.factors["workload"], _content(run)]
        factors = _factors(run, knobs=label or run.factors["knobs"], workload=workload)
        labelled.append(_planned(run, factors=factors))
    return labelled


def _differs(name: str, settings: list[dict[str, Any]]) -> bool:
    """Whether runs differ in it. What guests are like differs only between runs with guests."""
    of_guests = name in cells.GUESTS
    return len({str(each.get(name)) for each in settings if name in each or not of_guests}) > 1


def _content(run: Run) -> tuple[Any, ...]:
    return cells.workload(run), cells.sampling(run)


def _workload_names(runs: list[Run]) -> dict[tuple[Any, ...], str]:
    """Name each workload by its label. If several share it, add the experiment that ran it."""
    first: dict[tuple[Any, ...], str] = {}
    for run in runs:
        first.setdefault((run.factors["workload"], _content(run)), _experiment(run))
    labels = [label for label, _ in first]
    return {
        (label, content): label if labels.count(label) == 1 else f"{label} of {experiment}"
        for (label, content), experiment in first.items()
    }


def _identified(runs: list[Run]) -> list[Run]:
    taken = Counter(run.id for run in runs)
    return [
        _planned(run, id=f"{_experiment(run)}/{run.id}") if taken[run.id] > 1 else run
        for run in runs
    ]


def _numbered(runs: list[Run]) -> list[Run]:
    """Renumber the repetitions of each cell, and all runs in their order."""
    seen: Counter[object] = Counter()
    numbered = []
    for index, run in enumerate(runs, start=1):
        seen[run.cell] += run.usable
        factors = _factors(run, repetition=max(1, seen[run.cell]))
        numbered.append(_planned(run, index=index, factors=factors, repetition=run.repetition))
    return numbered
