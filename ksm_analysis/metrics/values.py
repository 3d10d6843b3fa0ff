"""How the values of metrics are computed from the last samples of intervals.

A value is a function of Ends. It returns one number for each row; that of row 0 is ignored.
"""

# Multiplication signs are intended: people read these formulas.
# ruff: noqa: RUF002

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from ksm_analysis.results.caveats import below_zero
from ksm_analysis.results.run import Run

MIB = 2**20

Numbers = pd.Series  # of float


@dataclass(frozen=True)
class Ends:
    """The last sample of each interval, of the host or of one guest.

    Row 0 is the run's first sample; row i ends interval i.
    """

    run: Run
    rows: pd.DataFrame
    known: dict[str, Numbers] = field(default_factory=dict)

    def column(self, name: str) -> Numbers:
        """Return a counter by name, as float; NaN if it is missing or below zero.

        Only profits may be below zero.
        """
        if name not in self.known:
            self.known[name] = self._column(name)
        return self.known[name]

    def _column(self, name: str) -> Numbers:
        if name not in self.rows:
            return pd.Series(np.nan, self.rows.index, dtype=float)
        # Several times as fast as with pandas, and most of the time that a small run takes
        values = pd.to_numeric(self.rows[name], errors="coerce").to_numpy(float)
        known = np.where(below_zero(name, values), np.nan, values)
        return pd.Series(known, self.rows.index, name=name)

    def sum(self, *names: str) -> Numbers:
        """Return the sum of counters; NaN if one of them is missing."""
        total = self.column(names[0])
        for name in names[1:]:
            total = total + self.column(name)
        return total

    def mib(self, pages: Numbers) -> Numbers:
        """Return the size of pages, in MiB."""
        size: int = self.run.header["page_size"]
        return pages * size / MIB


Value = Callable[[Ends], Numbers]


def gauge(name: str) -> Value:
    """Return the value of a gauge."""
    return lambda ends: ends.column(name)


def counter(name: str) -> Value:
    """Return how much a counter rose in each interval; NaN if it fell."""

    def value(ends: Ends) -> Numbers:
        risen = ends.column(name).diff()
        return risen.where(~(risen < 0))

    return value


def total(name: str, scale: float = 1.0, restarts: bool = False) -> Value:
    """Count from the first known value: an imported run has none before interval 1.

    If a counter fell, it restarted from 0 in between (run=2 does that to full_scans), or from then
    on its total is not known.
    """

    def value(ends: Ends) -> Numbers:
        column = ends.column(name)
        known = column.dropna()
        risen = known.diff()
        fell = risen < 0
        summed = risen.where(~fell, known).fillna(0).cumsum() * scale
        return summed.where(restarts | ~fell.cummax()).reindex(column.index)

    return value


def percent(part: Value, whole: Value) -> Value:
    """Return a part of a whole in percent; NaN if the whole is 0."""
    return lambda ends: 100 * part(ends) / whole(ends).replace(0, np.nan)


def sum_of_guests(name: str) -> Value:
    """Return the sum of a metric over guests."""
    return gauge(f"guests.{name}")


def host_cpu_percent(ends: Ends) -> Numbers:
    """CPU time that was not idle, in percent, of the time that the host had.

    Guest time is included in user and nice. Stolen time is neither busy nor idle.

    For an imported run, it is the value in its log.
    """
    if "original.average_cpu_usage" in ends.rows:
        return ends.column("original.average_cpu_usage")
    busy = ends.sum("cpu.user", "cpu.nice", "cpu.system", "cpu.irq", "cpu.softirq")
    waiting = ends.sum("cpu.idle", "cpu.iowait")
    return 100 * busy.diff() / (busy + waiting).diff()


def ksmd_cpu_percent(ends: Ends) -> Numbers:
    """CPU time of ksmd divided by elapsed time, in percent of one CPU."""
    return 100 * (ends.column("ksmd.cpu_ns") / 1e9).diff() / ends.column("seconds").diff()


def guest_cpu_percent(ends: Ends) -> Numbers:
    """CPU time of one guest's process divided by elapsed time, in percent of one CPU."""
    clock_ticks: float = ends.run.header.get("clock_ticks", np.nan)
    return 100 * (ends.sum("utime", "stime") / clock_ticks).diff() / ends.column("seconds").diff()


def configured_mib(ends: Ends) -> Numbers:
    """Memory that the guests were given: their number times their size, in MiB; NaN if none."""
    guests = ends.run.plan.guests
    mib = guests.count * (guests.memory_mib or 0)
    return pd.Series(mib or np.nan, ends.rows.index, dtype=float)


def resident_mib(ends: Ends) -> Numbers:
    """Resident memory of one guest, in MiB."""
    return ends.mib(ends.column("resident_pages"))


def saved_pages(ends: Ends) -> Numbers:
    """Pages that merging saves: pages_sharing + ksm_zero_pages (Linux 6.6 and newer)."""
    sharing, zero = "ksm.pages_sharing", "ksm.ksm_zero_pages"
    return ends.sum(sharing, zero) if zero in ends.rows else ends.column(sharing)


def shared_mib(ends: Ends) -> Numbers:
    """Guest memory that is merged: (pages_shared + saved pages) × page size, in MiB."""
    return ends.mib(ends.column("ksm.pages_shared") + saved_pages(ends))


def reclaimed_mib(ends: Ends) -> Numbers:
    """Memory that merging saves: saved pages × page size, in MiB."""
    return ends.mib(saved_pages(ends))


def kept_mib(ends: Ends) -> Numbers:
    """Memory of the pages that are shared: pages_shared × page size, in MiB."""
    return ends.mib(ends.column("ksm.pages_shared"))


def unmerged_percent(ends: Ends) -> Numbers:
    """Present pages of a guest that are not merged, in percent."""
    merged = ends.sum("ksm_pages", "zero_frame_pages")
    return 100 * (1 - merged / ends.column("present_pages").replace(0, np.nan))
