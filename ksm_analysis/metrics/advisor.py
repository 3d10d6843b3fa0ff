"""The kernel's advisor in mode scan-time, predicted: which pages_to_scan it sets after each scan.

Source: scan_time_advisor() in mm/ksm.c, Linux 6.8 and newer. All of its numbers are whole.
"""

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

from ksm_analysis.results.run import Run

LEAST_CPU = 10  # percent; KSM_ADVISOR_MIN_CPU, which is no knob
ERROR = 0.02  # of CPU time that is measured from sample to sample
WEIGHT = 30  # percent of the last scan in `change`; EWMA_WEIGHT


class Advisor(NamedTuple):
    """Its knobs: seconds, percent of a CPU, pages."""

    target_scan_time: int = 200
    max_cpu: int = 70
    max_pages_to_scan: int = 30000
    min_pages_to_scan: int = 500  # only where it starts


class State(NamedTuple):
    """What it keeps from scan to scan. Seconds of a scan are 0 before the first has ended."""

    pages_to_scan: int
    change: int = 0
    scan_time: int = 0


class Host(NamedTuple):
    """What a scan takes: pages to scan, CPU seconds of each page and of each batch, and its sleep.

    `used` is the CPU time that ksmd has used before the advisor was set: it counts it as that of
    the first scan.
    """

    pages: int
    page_seconds: float
    batch_seconds: float = 0.0
    sleep_seconds: float = 0.02
    used: float = 0.0


def start(advisor: Advisor) -> State:
    """Return the state when the advisor is set."""
    return State(advisor.min_pages_to_scan)


def advise(state: State, scan_seconds: float, cpu_seconds: float, advisor: Advisor) -> State:
    """Return the state after a scan that has taken so long, and so much CPU time."""
    scan_time = max(1, int(scan_seconds))
    cpu_percent = max(1, int(cpu_seconds * 1000) * 100 // (scan_time * 1000))
    factor = max(1, advisor.target_scan_time * 100 // scan_time)
    change = max(1, scan_time * 100 // (state.scan_time or scan_time))
    change = ((100 - WEIGHT) * state.change + WEIGHT * change) // 100
    pages = state.pages_to_scan * 100 // factor * change // 100
    a_percent = max(1, state.pages_to_scan // cpu_percent)  # pages for a percent of a CPU
    pages = max(min(pages, a_percent * advisor.max_cpu), a_percent * LEAST_CPU)
    return State(min(pages, advisor.max_pages_to_scan), change, scan_time)


def scan(host: Host, pages_to_scan: int) -> tuple[float, float]:
    """Return the seconds, and the CPU seconds, of a scan in batches of so many pages."""
    batches = math.ceil(host.pages / max(1, pages_to_scan))
    cpu = host.pages * host.page_seconds + batches * host.batch_seconds
    return cpu + batches * host.sleep_seconds, cpu


def course(host: Host, advisor: Advisor) -> Iterator[tuple[float, State]]:
    """Yield when each scan ends, in seconds, and the state after it, without end."""
    state, at, used = start(advisor), 0.0, host.used
    while True:
        seconds, cpu = scan(host, state.pages_to_scan)
        state, at, used = advise(state, seconds, cpu + used, advisor), at + seconds, 0.0
        yield at, state


# --- what a run has seen --------------------------------------------------------------------------


class Seen(NamedTuple):
    """A scan that a run has seen: how long it took, its CPU seconds, and pages_to_scan after it.

    `predicted` is what the advisor sets after such a scan, as its whole numbers allow within the
    time between two samples.
    """

    at: float
    seconds: float
    cpu_seconds: float
    pages_to_scan: int
    predicted: tuple[int, int]


def replay(run: Run) -> list[Seen]:
    """Predict what the advisor did after each scan of a run, from what it did before.

    It ends where samples are too rare to see each scan. Empty without the advisor.
    """
    knobs, samples = run.record.knobs.during, run.samples
    if str(knobs.get("advisor_mode")) != "scan-time" or samples.empty:
        return []
    names = ("target_scan_time", "max_cpu", "max_pages_to_scan", "min_pages_to_scan")
    advisor = Advisor(*(int(knobs[f"advisor_{name}"]) for name in names))
    columns = ["seconds", "ksm.full_scans", "ksm.pages_to_scan", "ksmd.cpu_ns"]
    rows = samples[columns].to_numpy(dtype=float).tolist()
    sleep, period = float(knobs["sleep_millisecs"]) / 1000, run.plan.sampling.period
    # at first it has counted no CPU time, so its first scan has all that ksmd has used since boot
    state, began, used, found = start(advisor), rows[0][0], 0.0, []
    for (_, before, *_), (at, scans, pages, cpu) in itertools.pairwise(rows):
        if scans == before + 1:
            took, cpu_seconds = at - began - sleep, cpu / 1e9 - used
            near = [
                advise(state, max(0, took + late), cpu_seconds * (1 + share), advisor)
                for late in (-period, 0, period)
                for share in (-ERROR, 0, ERROR)
            ]
            states = [each.pages_to_scan for each in near]
            found.append(Seen(at, took, cpu_seconds, int(pages), (min(states), max(states))))
            # what cannot be seen is kept as predicted; its rate is known
            state, began, used = near[4]._replace(pages_to_scan=int(pages)), at, cpu / 1e9
        elif scans > before + 1:
            break
    return found
