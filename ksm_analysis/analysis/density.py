"""How many copies or guests fit into a budget of memory, without KSM and with it, and why."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ksm_analysis.analysis.settings import Setting
from ksm_analysis.analysis.statistics import Estimate, estimate
from ksm_analysis.analysis.words import number, spoken
from ksm_analysis.results import cells
from ksm_analysis.results.once import once
from ksm_analysis.results.run import Cell, Run

ENDED, STORM = "density ended", "density storm ended"
WHICH = re.compile(r"process-[0-9]+(, process-[0-9]+)*")
WHICH_GUEST = re.compile(r"ksm-guest-[0-9]+(, ksm-guest-[0-9]+)*")
MEASURED = re.compile(r"([0-9.]+|inf) (%|ms) (?=> )")


@dataclass(frozen=True)
class Fit:
    """One setting: how many copies fit, over its repetitions. They are `of` copies or guests.

    `at_least`: in some run, copies were not added until it broke, so more may fit. `reasons` says
    why it broke, and in how many runs. `killed` is how many died when all of them wrote to their
    data at once, of `stormed`; None if they did not.
    """

    host: str
    workload: str
    knobs: str
    off: bool
    of: str
    runs: tuple[str, ...]
    copies: Estimate
    at_least: bool
    reasons: tuple[tuple[str, int], ...]
    killed: Estimate | None
    stormed: Estimate | None


def fits(runs: Sequence[Run]) -> list[Fit]:
    """Return how many copies fit with each setting, in the order of the plan."""
    found: dict[Cell, list[tuple[Run, dict[str, Any]]]] = {}
    for run in runs:
        if event := _ended(run):
            found.setdefault(run.cell, []).append((run, event))
    return [_fit(cell, both) for cell, both in found.items()]


@once()
def _ended(run: Run) -> dict[str, Any] | None:
    return _last(run, ENDED, "copies")


@once()
def _storm(run: Run) -> dict[str, Any] | None:
    return _last(run, STORM, "copies", "killed")


def _last(run: Run, name: str, *counts: str) -> dict[str, Any] | None:
    """Return the last event of a name whose counts are counts."""
    good = (
        event
        for event in reversed(run.events)
        if event["event"] == name and all(type(event.get(key)) is int for key in counts)
    )
    return next(good, None)


def _fit(cell: Cell, both: list[tuple[Run, dict[str, Any]]]) -> Fit:
    copies = estimate([event["copies"] for _, event in both])
    storms = [storm for run, _ in both if (storm := _storm(run))]
    reasons = Counter(_reason(str(event.get("reason"))) for _, event in both)
    assert copies is not None, "there is at least one run"
    return Fit(
        host=cell.host,
        workload=cell.workload,
        knobs=cell.knobs,
        off=cells.is_off(both[0][0]),
        of="guests" if both[0][0].options("density") else "copies",
        runs=tuple(run.id for run, _ in both),
        copies=copies,
        at_least=not all(event.get("broke") is True for _, event in both),
        reasons=tuple(reasons.most_common()),
        killed=estimate([storm["killed"] for storm in storms]),
        stormed=estimate([storm["copies"] for storm in storms]),
    )


def _reason(words: str) -> str:
    """Leave out what differs between repetitions: which one it was, and what was measured."""
    return MEASURED.sub("", WHICH_GUEST.sub("a guest", WHICH.sub("a copy", words)))


def beside(settings: list[Setting], found: Sequence[Fit]) -> list[Setting]:
    """Return the settings whose savings count: those of a density end with what is left of it."""
    those = {(fit.host, fit.workload, fit.knobs) for fit in found}
    return [each for each in settings if (each.host, each.workload, each.knobs) not in those]


def in_words(found: Sequence[Fit]) -> list[str]:
    """Write for each host and workload how many fit, why not more, and how many survive."""
    hosts = len({fit.host for fit in found}) > 1
    groups: dict[tuple[str, str], list[Fit]] = {}
    for fit in sorted(found, key=lambda fit: not fit.off):
        groups.setdefault((fit.host if hosts else "", fit.workload), []).append(fit)
    return [
        f"{', '.join(filter(None, (workload, host)))}: {_of_settings(several)}"
        for (host, workload), several in groups.items()
    ]


def _of_settings(several: list[Fit]) -> str:
    same = len({_why(fit) for fit in several}) == 1
    fit_words = [
        f"{'at least ' * fit.at_least}{spoken(fit.copies, fit.of)} fit "
        f"{'without KSM' if fit.off else f'with {fit.knobs}'}"
        + ("" if same else f", and then came {_why(fit)}")
        for fit in several
    ]
    words = f"{'; '.join(fit_words)}{f'. Then came {_why(several[0])}' * same}."
    storms = [
        f"{number(fit.killed.mean)} of {number(fit.stormed.mean)}"
        for fit in several
        if fit.killed and fit.stormed
    ]
    if storms:
        words += f" When all write to all of their data at once, {', '.join(storms)} are killed."
    return words


def _why(fit: Fit) -> str:
    if len(fit.reasons) == 1:
        return fit.reasons[0][0]
    return ", ".join(f"{reason} ({count} of {len(fit.runs)})" for reason, count in fit.reasons)
