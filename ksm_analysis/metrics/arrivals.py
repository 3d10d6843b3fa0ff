"""Guests and processes that came and went within a run: how soon newcomers were merged."""

import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ksm_analysis.metrics.measurement import Measured
from ksm_analysis.metrics.times import FLAT, Floats, Reached, scans_needed
from ksm_analysis.metrics.values import Ends, saved_pages
from ksm_analysis.results import cells
from ksm_analysis.results.once import once
from ksm_analysis.results.run import Run

SHARE = 0.95
COLUMN = re.compile(r"arrival_[0-9]+_seconds_to_95")
ARRIVED, READY, LEFT = "arrived", "ready", "left"
KINDS = ("guest", "process")


class Arrival(NamedTuple):
    """A guest or a process that came in a run.

    `number` counts those of the run, from 1. `seconds` is when it was started, since the first
    sample, and `ready` how long after that it answered; NaN if it did not. `before` and `after` are
    the saved pages when it was started and just before the next one came or went. `to_95` counts
    from its start.
    """

    number: int
    name: str
    seconds: float
    ready: float
    before: float
    after: float
    to_95: Reached


def changes(run: Run) -> list[tuple[float, str, str]]:
    """Return what came and went after the first sample: seconds, ARRIVED or LEFT, name; in order.

    Empty if they are added by a density, which has a result of its own.
    """
    if run.has_density:
        return []
    return [each for each in _changes(run) if each[0] >= 0 and each[1] != READY]


def _changes(run: Run) -> Iterator[tuple[float, str, str]]:
    for event in run.events:
        kind, _, change = event["event"].partition(" ")
        if kind in KINDS and change in (ARRIVED, READY, LEFT) and run.header:
            yield event["monotonic"] - run.header["monotonic"], change, str(event.get(kind))


def arrivals(measured: Measured) -> list[Arrival]:
    """Measure each arrival of a run, in their order.

    A newcomer was merged when savings had risen by 95 % of what they rose until the next one came
    or went, and stayed there. This is known only if they no longer changed by then: in the last
    quarter of the time by at most 5 % of the rise, after enough full scans. Otherwise it is not
    reached, and its time is how long it was watched. It is not known (NaN) with KSM off, and if
    nothing was saved by it.
    """
    run = measured.run
    every = changes(run)
    came = [(at, name) for at, change, name in every if change == ARRIVED]
    if not came or "ksm.pages_sharing" not in run.samples:
        return []
    samples = run.samples
    seconds = samples["seconds"].to_numpy(dtype=float)
    ends = Ends(run, samples)
    pages = saved_pages(ends).to_numpy(dtype=float)
    scans = ends.column("ksm.full_scans").to_numpy(dtype=float)
    ready = {name: at for at, change, name in _changes(run) if change == READY}
    found = []
    for number, (at, name) in enumerate(came, start=1):
        until = min((other for other, *_ in every if other > at), default=np.inf)
        within = (seconds > at) & (seconds < until)
        before = pages[seconds <= at]
        start = float(before[-1]) if len(before) else np.nan
        enough = scans[within].size and np.ptp(scans[within]) >= scans_needed(measured)
        to_95 = _reached(seconds[within] - at, pages[within], start, bool(enough))
        if cells.is_off(run):
            to_95 = Reached(np.nan, False)
        after = float(pages[within][-1]) if within.any() else np.nan
        found.append(Arrival(number, name, at, ready.get(name, np.nan) - at, start, after, to_95))
    return found


def _reached(at: Floats, pages: Floats, before: float, enough: bool) -> Reached:
    """Return when pages had risen by SHARE of their rise; at[-1] is how long it was watched."""
    if not len(at) or np.isnan(pages).any() or np.isnan(before):
        return Reached(np.nan, False)
    rise = pages[-1] - before
    late = pages[at >= 0.75 * at[-1]]
    if not enough or (rise > 0 and np.ptp(late) > FLAT * rise):
        return Reached(float(at[-1]), False)
    if rise <= 0:
        return Reached(np.nan, False)
    below = np.flatnonzero(pages < before + SHARE * rise)
    return Reached(float(at[below[-1] + 1] if len(below) else at[0]), True)


@once()
def of_run(measured: Measured) -> dict[str, float]:
    """Return the columns of a run in `summary`; NaN if a time is not known or was not reached."""
    return {
        f"arrival_{each.number}_seconds_to_95": each.to_95.seconds if each.to_95.yes else np.nan
        for each in arrivals(measured)
    }
