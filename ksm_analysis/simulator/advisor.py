"""The kernel's advisor in mode scan-time: which pages_to_scan it sets after each scan.

Source: scan_time_advisor() in mm/ksm.c, Linux 6.8 and newer. All of its numbers are whole.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

LEAST_CPU = 10  # percent; KSM_ADVISOR_MIN_CPU, which is no knob
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
