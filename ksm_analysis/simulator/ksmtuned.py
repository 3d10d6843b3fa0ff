"""How ksmtuned decides, as Debian packages it: which knobs it sets, from how much memory is free.

Written after usr/sbin/ksmtuned of 4.20150326+b1. tests/data/policies.json has what that wrote.
"""

from typing import NamedTuple

Writes = list[tuple[str, int]]
"""Knobs and their values, in the order in which they are written."""


class Settings(NamedTuple):
    """Its variables and their defaults: seconds, milliseconds, pages, percent, KiB."""

    KSM_MONITOR_INTERVAL: int = 60  # also before the first decision
    KSM_SLEEP_MSEC: int = 10
    KSM_NPAGES_BOOST: int = 300
    KSM_NPAGES_DECAY: int = -50
    KSM_NPAGES_MIN: int = 64
    KSM_NPAGES_MAX: int = 1250
    KSM_THRES_COEF: int = 20
    KSM_THRES_CONST: int = 2048


def adjust(settings: Settings, pages: int, total: int, committed: int, free: int) -> Writes:
    """Return what it writes. `pages` is what it last wrote to pages_to_scan, 0 at first.

    Memory is in KiB: of the host, of the guests that it counts, and free with what is cached.
    """
    short = max(total * settings.KSM_THRES_COEF // 100, settings.KSM_THRES_CONST)
    if committed + short < total and free > short:
        return [("run", 0)]
    pages += settings.KSM_NPAGES_BOOST if free < short else settings.KSM_NPAGES_DECAY
    low, high = settings.KSM_NPAGES_MIN, settings.KSM_NPAGES_MAX
    pages = low if pages < low else min(pages, high)  # in this order: low may be above high
    sleep = max(10, settings.KSM_SLEEP_MSEC * 16 * 1024 * 1024 // total)
    return [("pages_to_scan", pages), ("sleep_millisecs", sleep), ("run", 1)]
