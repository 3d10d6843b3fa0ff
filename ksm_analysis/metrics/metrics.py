"""What is measured, in one table, and how each value follows from the samples.

An interval is a window of samples. Sample n belongs to interval ceil(n / samples an interval);
sample 0 is the baseline, which an imported run has not. The value of a gauge is that of the
interval's last sample, and of a counter the difference between the last samples of this interval
and the one before. Counters of the kernel start at boot: no absolute value of one is ever shown. An
interval of which every sample was missed has no value (NaN), and neither has a metric that the
kernel does not offer.
"""

# The signs of multiplication and minus are meant: these formulas are for people to read.
# ruff: noqa: RUF001, RUF002

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import yaml

from ksm_analysis.results.run import Run

MIB = 2**20


@dataclass(frozen=True)
class Ends:
    """The last sample of each interval, of the host or of one guest.

    Row 0 is the run's first sample; row i ends interval i.
    """

    run: Run
    rows: pd.DataFrame

    def column(self, name: str) -> pd.Series:
        """Return a counter by name, as float; NaN where there is none."""
        if name not in self.rows:
            return pd.Series(np.nan, self.rows.index, dtype=float)
        return pd.to_numeric(self.rows[name], errors="coerce").astype(float)


@dataclass(frozen=True)
class Metric:
    """One thing that is measured.

    `kind` is gauge, counter (difference over the interval), total (since the run's first sample) or
    derived. `value` takes Ends and gives one value for each interval; its row 0 is ignored.
    `beside` names the metric that it is chosen and shown with.
    """

    name: str
    unit: str
    kind: str
    label: str
    help: str
    value: Callable[[Ends], pd.Series]
    figure: bool = False
    beside: str = ""

    @property
    def chosen_with(self) -> str:
        """The metric by whose name it is chosen: its own, or that of the one it is beside."""
        return self.beside or self.name


# --- how values follow ----------------------------------------------------------------------------


def _gauge(name: str) -> Callable[..., Any]:
    return lambda ends: ends.column(name)


def _counter(name: str) -> Callable[..., Any]:
    return lambda ends: ends.column(name).diff()


def _total(name: str, scale: float = 1.0) -> Callable[..., Any]:
    """Count from the first value that there is: an imported run has none before interval 1."""
    return lambda ends: (ends.column(name) - ends.column(name).bfill().iloc[0]) * scale


def host_cpu_percent(ends: Ends) -> pd.Series:
    """Share of the CPUs' time that was not idle, in percent. Guest time is within user and nice.

    Of an imported run, what its log says.
    """
    if "original.average_cpu_usage" in ends.rows:
        return ends.column("original.average_cpu_usage")
    busy = sum(
        ends.column(f"cpu.{state}") for state in ("user", "nice", "system", "irq", "softirq")
    )
    waiting = sum(ends.column(f"cpu.{state}") for state in ("idle", "iowait", "steal"))
    return 100 * busy.diff() / (busy + waiting).diff()


def ksmd_cpu_percent(ends: Ends) -> pd.Series:
    """CPU time of ksmd over elapsed time, in percent of one CPU."""
    return 100 * (ends.column("ksmd.cpu_ns") / 1e9).diff() / ends.column("seconds").diff()


def guest_cpu_percent(ends: Ends) -> pd.Series:
    """CPU time of one guest's process over elapsed time, in percent of one CPU."""
    ticks = ends.column("utime") + ends.column("stime")
    seconds = ticks / ends.run.header.get("clock_ticks", np.nan)
    return 100 * seconds.diff() / ends.column("seconds").diff()


def _pages(ends: Ends, *names: str) -> pd.Series:
    return sum(ends.column(name) for name in names)


def configured_mib(ends: Ends) -> pd.Series:
    """Memory that the guests were given: their number times their size, in MiB; NaN without any."""
    guests = ends.run.record["run"]["guests"]
    mib = guests["count"] * (guests.get("memory_mib") or 0)
    return pd.Series(mib or np.nan, ends.rows.index, dtype=float)


def resident_mib(ends: Ends) -> pd.Series:
    """Sum of the guests' resident memory, in MiB."""
    return _mib(ends, ends.column("resident_pages"))


def _mib(ends: Ends, pages: pd.Series) -> pd.Series:
    return pages * ends.run.header["page_size"] / MIB


def shared_mib(ends: Ends) -> pd.Series:
    """Guest memory that is merged: (pages_shared + pages_sharing) × page size, in MiB."""
    return _mib(ends, _pages(ends, "ksm.pages_shared", "ksm.pages_sharing"))


def reclaimed_mib(ends: Ends) -> pd.Series:
    """Memory that merging saves: pages_sharing × page size, in MiB."""
    return _mib(ends, ends.column("ksm.pages_sharing"))


def _percent(part: Callable[..., Any], whole: Callable[..., Any]) -> Callable[..., Any]:
    return lambda ends: 100 * part(ends) / whole(ends).replace(0, np.nan)


def _kept_mib(ends: Ends) -> pd.Series:
    return shared_mib(ends) - reclaimed_mib(ends)


def _sum_of_guests(name: str) -> Callable[..., Any]:
    return lambda ends: ends.column(f"guests.{name}")


def _merged(ends: Ends) -> pd.Series:
    return _pages(ends, "ksm_pages", "zero_frame_pages")


# --- the table ------------------------------------------------------------------------------------

WHOLE = {
    "configured": (
        "The denominator is the memory that the guests were given, as in published figures."
    ),
    "resident": (
        "The denominator is the guests' resident memory (RSS): a small guest touches less than it "
        "was given. A merged page still counts in the RSS of every guest that has it, and so does "
        "QEMU's own memory."
    ),
}
ZERO_PAGES = (
    "With use_zero_pages=1, pages full of zeros are merged with the kernel's zero page: they count "
    "in ksm_zero_pages and not here."
)
AT_SCAN_END = (
    "in the last sample before full_scans rose by one, held until it rises again: the unstable "
    "tree is as whole then as it gets. No value before the first such sample, nor while scans are "
    "shorter than the time between samples."
)

HOST = (
    Metric(
        "host_cpu_percent",
        "%",
        "derived",
        "CPU use of the host",
        "Time that the host's CPUs were not idle, over the interval; 100 is all CPUs busy. From "
        "the first line of /proc/stat: user + nice + system + irq + softirq, of these + idle + "
        "iowait + steal. Of an imported run, average_cpu_usage of its log.",
        host_cpu_percent,
        figure=True,
    ),
    Metric(
        "ksmd_cpu_percent",
        "% of one CPU",
        "derived",
        "CPU use of ksmd",
        "CPU time of the ksmd kernel thread over elapsed time: 100 is one CPU kept busy. From "
        "/proc/PID/schedstat of ksmd.",
        ksmd_cpu_percent,
        figure=True,
    ),
    Metric(
        "ksmd_cpu_seconds",
        "s",
        "total",
        "CPU time of ksmd",
        "CPU time that ksmd has used since the run's first sample. From /proc/PID/schedstat.",
        _total("ksmd.cpu_ns", 1e-9),
    ),
    Metric(
        "guests_cpu_percent",
        "% of one CPU",
        "derived",
        "CPU use of all guests",
        "CPU time of all guests' processes (emulator and its threads included) over elapsed time; "
        "100 is one CPU kept busy. utime + stime of /proc/PID/stat.",
        _sum_of_guests("guest_cpu_percent"),
        figure=True,
    ),
    Metric(
        "full_scans",
        "scans",
        "total",
        "full_scans",
        "Times that ksmd has been through all mergeable memory, since the run's first sample; of "
        "an imported run, since the end of its first interval. "
        "ksm_scan.seqnr in mm/ksm.c.",
        _total("ksm.full_scans"),
        figure=True,
    ),
    Metric(
        "pages_scanned",
        "pages",
        "counter",
        "pages_scanned",
        "Pages that ksmd has looked at during the interval (Linux 6.6 and newer). "
        "ksm_pages_scanned in mm/ksm.c.",
        _counter("ksm.pages_scanned"),
        figure=True,
    ),
    Metric(
        "general_profit",
        "bytes",
        "gauge",
        "general_profit",
        "What merging saves less what it costs in memory: (pages_sharing + ksm_zero_pages) × page "
        "size − rmap_items × size of a struct ksm_rmap_item (64 B on 64-bit kernels). Signed, and "
        "negative while little is merged yet. general_profit_show() in mm/ksm.c, Linux 6.4 and "
        "newer. The sum of ksm_process_profit over processes is greater and is not this.",
        _gauge("ksm.general_profit"),
        figure=True,
    ),
    Metric(
        "pages_shared",
        "pages",
        "gauge",
        "pages_shared",
        "Distinct pages that are shared: the nodes of the stable tree. ksm_pages_shared in "
        "mm/ksm.c.",
        _gauge("ksm.pages_shared"),
        figure=True,
    ),
    Metric(
        "pages_sharing",
        "pages",
        "gauge",
        "pages_sharing",
        "Further places that use a shared page instead of a copy of their own: the pages saved. "
        f"{ZERO_PAGES} ksm_pages_sharing in mm/ksm.c.",
        _gauge("ksm.pages_sharing"),
        figure=True,
    ),
    Metric(
        "pages_unshared",
        "pages",
        "gauge",
        "pages_unshared",
        "Pages without a twin that are checked again in every scan: the nodes of the unstable "
        "tree. It is built anew in each scan, so a value depends on how far the scan had got at "
        "that instant; the interval's last sample is shown. ksm_pages_unshared in mm/ksm.c.",
        _gauge("ksm.pages_unshared"),
        figure=True,
    ),
    Metric(
        "pages_unshared_at_scan_end",
        "pages",
        "gauge",
        "pages_unshared at the end of a scan",
        f"pages_unshared {AT_SCAN_END}",
        _gauge("scan_end.pages_unshared"),
        figure=True,
        beside="pages_unshared",
    ),
    Metric(
        "pages_volatile",
        "pages",
        "gauge",
        "pages_volatile",
        "Pages that changed too fast for the trees. Not a measurement but what is left over: "
        "rmap_items − pages_shared − pages_sharing − pages_unshared, at least 0; it shares the "
        "uncertainty of pages_unshared. pages_volatile_show() in mm/ksm.c.",
        _gauge("ksm.pages_volatile"),
        figure=True,
    ),
    Metric(
        "pages_volatile_at_scan_end",
        "pages",
        "gauge",
        "pages_volatile at the end of a scan",
        f"pages_volatile {AT_SCAN_END}",
        _gauge("scan_end.pages_volatile"),
        figure=True,
        beside="pages_volatile",
    ),
    Metric(
        "ksm_zero_pages",
        "pages",
        "gauge",
        "ksm_zero_pages",
        "Pages full of zeros that ksmd has replaced by the kernel's zero page; 0 unless "
        "use_zero_pages is 1 (Linux 6.6 and newer). ksm_zero_pages in mm/ksm.c.",
        _gauge("ksm.ksm_zero_pages"),
    ),
    Metric(
        "pages_skipped",
        "pages",
        "counter",
        "pages_skipped",
        "Pages that smart_scan skipped during the interval (Linux 6.7 and newer). "
        "ksm_pages_skipped in mm/ksm.c.",
        _counter("ksm.pages_skipped"),
    ),
    Metric(
        "stable_node_chains",
        "chains",
        "gauge",
        "stable_node_chains",
        "Stable tree nodes that were split because max_page_sharing was reached. "
        "ksm_stable_node_chains in mm/ksm.c.",
        _gauge("ksm.stable_node_chains"),
    ),
    Metric(
        "stable_node_dups",
        "pages",
        "gauge",
        "stable_node_dups",
        "Copies of the same page that these chains hold. ksm_stable_node_dups in mm/ksm.c.",
        _gauge("ksm.stable_node_dups"),
    ),
    Metric(
        "cow_ksm",
        "pages",
        "counter",
        "cow_ksm",
        "Merged pages that were written to, and so copied again, during the interval: merging that "
        "was undone. cow_ksm of /proc/vmstat, counted in do_wp_page() of "
        "mm/memory.c.",
        _counter("vmstat.cow_ksm"),
    ),
    Metric(
        "ksm_swpin_copy",
        "pages",
        "counter",
        "ksm_swpin_copy",
        "Merged pages that had to be copied when they came back from swap, during the interval. "
        "ksm_swpin_copy of /proc/vmstat, counted in ksm_might_need_to_copy() of mm/ksm.c.",
        _counter("vmstat.ksm_swpin_copy"),
    ),
    Metric(
        "guest_memory_configured_mib",
        "MiB",
        "derived",
        "Guest memory, configured",
        "Memory that the guests were given: their number × their size.",
        configured_mib,
    ),
    Metric(
        "guest_memory_resident_mib",
        "MiB",
        "derived",
        "Guest memory, resident",
        "Sum over the guests of resident_pages × page size: what their processes have touched. A "
        "merged page counts in each of them. Second field of /proc/PID/statm.",
        _sum_of_guests("resident_mib"),
    ),
    Metric(
        "shared_mib",
        "MiB",
        "derived",
        "Shared memory",
        "Guest memory that is merged: (pages_shared + pages_sharing) × page size.",
        shared_mib,
    ),
    Metric(
        "reclaimed_mib",
        "MiB",
        "derived",
        "Reclaimed memory",
        f"Memory that merging saves: pages_sharing × page size. {ZERO_PAGES}",
        reclaimed_mib,
    ),
    *(
        Metric(
            f"{part}_percent_{whole}",
            "%",
            "derived",
            f"{label}, of {whole} memory",
            f"100 × {formula} × page size / {whole} guest memory. {WHOLE[whole]}",
            _percent(function, denominator),
        )
        for whole, denominator in (
            ("configured", configured_mib),
            ("resident", _sum_of_guests("resident_mib")),
        )
        for part, label, formula, function in (
            ("shared", "Shared", "(pages_shared + pages_sharing)", shared_mib),
            ("reclaimed", "Reclaimed", "pages_sharing", reclaimed_mib),
            ("difference", "Shared less reclaimed", "pages_shared", _kept_mib),
        )
    ),
)

GUEST = (
    Metric(
        "ksm_merging_pages",
        "pages",
        "gauge",
        "ksm_merging_pages",
        "Pages of this process that are merged, the copy that was kept included. "
        "/proc/PID/ksm_stat; ksm_merging_pages of struct mm_struct.",
        _gauge("ksm_merging_pages"),
        figure=True,
    ),
    Metric(
        "ksm_rmap_items",
        "items",
        "gauge",
        "ksm_rmap_items",
        "Pages of this process that ksmd keeps track of, merged or not. /proc/PID/ksm_stat; "
        "ksm_rmap_items of struct mm_struct.",
        _gauge("ksm_rmap_items"),
        figure=True,
    ),
    Metric(
        "ksm_process_profit",
        "bytes",
        "gauge",
        "ksm_process_profit",
        "(ksm_merging_pages + ksm_zero_pages) × page size − ksm_rmap_items × size of a struct "
        "ksm_rmap_item. Signed. It counts the pages that the process holds for others as well, so "
        "the sum over guests is more than general_profit. ksm_process_profit() in mm/ksm.c.",
        _gauge("ksm_process_profit"),
        figure=True,
    ),
    Metric(
        "guest_cpu_percent",
        "% of one CPU",
        "derived",
        "CPU use of the guest",
        "CPU time of the guest's process over elapsed time. utime + stime of /proc/PID/stat.",
        guest_cpu_percent,
    ),
    Metric(
        "resident_mib",
        "MiB",
        "derived",
        "Resident memory of the guest",
        "resident_pages × page size, merged pages included. Second field of /proc/PID/statm.",
        resident_mib,
    ),
)


CENSUS = (
    Metric(
        "efficiency_percent",
        "%",
        "derived",
        "Efficiency of merging",
        "100 × saved_pages / limit_pages: how much is saved of what perfect merging would save. "
        "None where there is nothing to save.",
        _percent(_gauge("saved_pages"), _gauge("limit_pages")),
        figure=True,
    ),
    Metric(
        "limit_pages",
        "pages",
        "gauge",
        "What could be saved",
        "Pages that perfect merging would save: present pages less distinct contents; with "
        "use_zero_pages=1, pages full of zeros cost no frame at all and count in full. Present are "
        "pages of mergeable mappings that are in memory.",
        _gauge("limit_pages"),
    ),
    Metric(
        "limit_zero_pages",
        "pages",
        "gauge",
        "Could be saved: zeros",
        "The part of limit_pages that is full of zeros.",
        _gauge("limit_zero_pages"),
    ),
    Metric(
        "limit_within_pages",
        "pages",
        "gauge",
        "Could be saved: within guests",
        "The part of limit_pages, zeros left out, that merging inside each guest alone would save.",
        _gauge("limit_within_pages"),
    ),
    Metric(
        "limit_between_pages",
        "pages",
        "gauge",
        "Could be saved: between guests",
        "The part of limit_pages, zeros left out, that merging across guests would save besides.",
        _gauge("limit_between_pages"),
    ),
    Metric(
        "max_page_sharing_pages",
        "pages",
        "gauge",
        "Cost of max_page_sharing",
        "Pages of limit_pages that max_page_sharing keeps from being saved, since a frame may be "
        "shared so many times only: the sum over contents of ⌈occurrences / max_page_sharing⌉ − 1.",
        _gauge("max_page_sharing_pages"),
    ),
    Metric(
        "saved_pages",
        "pages",
        "gauge",
        "What is saved",
        "Pages that are saved: mappings of KSM's frames less these frames, and mappings of the "
        "kernel's zero page. Counted in the page tables, not taken from the kernel's counters.",
        _gauge("saved_pages"),
    ),
    Metric(
        "saved_zero_pages",
        "pages",
        "gauge",
        "Saved: the zero page",
        "The part of saved_pages that is the kernel's zero page. Without use_zero_pages, pages "
        "full of zeros share frames of KSM, and count within and between guests.",
        _gauge("saved_zero_pages"),
    ),
    Metric(
        "saved_within_pages",
        "pages",
        "gauge",
        "Saved: within guests",
        "The part of saved_pages on frames of KSM that each guest saves by itself: its mappings of "
        "them less the distinct frames among these.",
        _gauge("saved_within_pages"),
    ),
    Metric(
        "saved_between_pages",
        "pages",
        "gauge",
        "Saved: between guests",
        "The part of saved_pages on frames of KSM that is saved since guests share them.",
        _gauge("saved_between_pages"),
    ),
    Metric(
        "present_pages",
        "pages",
        "gauge",
        "Present pages",
        "Pages of mergeable mappings that are in memory, of all guests.",
        _gauge("present_pages"),
    ),
    Metric(
        "changed_percent",
        "%",
        "derived",
        "Pages that changed",
        "100 × changed_pages / compared_pages: of the pages that were in memory at this census and "
        "at the one before, those whose contents differ. None in the first.",
        _percent(_gauge("changed_pages"), _gauge("compared_pages")),
    ),
)

CENSUS_GUEST = (
    Metric(
        "attributed_bytes",
        "bytes",
        "gauge",
        "Attributed savings",
        "What is saved, dealt out: a frame that m pages share saves m − 1 pages, of which each of "
        "the m gets its equal part, as in PSS; a page on the kernel's zero page is saved whole. "
        "The sum over guests is exactly what is saved.",
        _gauge("attributed_bytes"),
    ),
    Metric(
        "guest_changed_percent",
        "%",
        "derived",
        "Pages of the guest that changed",
        "changed_percent of one guest.",
        _percent(_gauge("changed_pages"), _gauge("compared_pages")),
    ),
    Metric(
        "unmerged_percent",
        "%",
        "derived",
        "Not merged",
        "100 × (present pages − pages on frames of KSM or on the zero page) / present pages: what "
        "ksmd looks at, unless smart_scan has it skipped, and has not merged.",
        lambda ends: 100 * (1 - _merged(ends) / ends.column("present_pages").replace(0, np.nan)),
    ),
)


# --- tables of values ----------------------------------------------------------------------------


def interval_ends(run: Run, samples: pd.DataFrame) -> pd.DataFrame:
    """Pick the last sample of each interval; row 0 is the first sample. Index: interval, 0 and up.

    `samples` is indexed by n. Intervals of which every sample was missed are rows of NaN, and so is
    row 0 of an imported run, which has no sample before its first interval.
    """
    sampling = run.record["run"]["sampling"]
    size = round(sampling["interval"] / sampling["period"])
    interval = np.ceil(samples.index.to_numpy() / size).astype(int)
    if not run.imported:
        interval[0] = 0  # the baseline, even if sample 0 itself was missed
    last = ~pd.Series(interval).duplicated(keep="last").to_numpy()
    ends = samples[last].set_axis(interval[last])
    return ends.reindex(pd.RangeIndex(run.intervals + 1, name="interval"))


@dataclass(frozen=True)
class Measured:
    """A run and its values.

    `host`: one row an interval, indexed by `interval` from 1, a column for each metric of HOST.
    `guest`: one row an interval and guest: `interval`, `guest`, then each metric of GUEST.
    `census`: one row a census: `seconds`, `moment`, then each metric of CENSUS.
    `census_guest`: one row a census and guest: `n`, `seconds`, `guest`, then each metric of
    CENSUS_GUEST. Both are empty without a census.
    """

    run: Run
    host: pd.DataFrame
    guest: pd.DataFrame
    census: pd.DataFrame
    census_guest: pd.DataFrame

    @property
    def last(self) -> int:
        """The interval whose values stand for the run: its last.

        Of an imported run, the last in which any of its processes was there: the original went on
        logging when the programs that it watched had ended.
        """
        there = self.guest.loc[self.guest["ksm_rmap_items"].notna(), "interval"]
        if self.run.imported and len(there):
            return int(there.max())
        return int(self.host.index[-1])

    @property
    def last_census(self) -> pd.Series:
        """The values of the census that stands for the run: its last. Empty without any."""
        return self.census.iloc[-1] if len(self.census) else pd.Series(dtype=float)


def at_scan_ends(samples: pd.DataFrame) -> pd.DataFrame:
    """Columns scan_end.pages_unshared and scan_end.pages_volatile: see AT_SCAN_END.

    A sample at which full_scans has risen by one is the first that has the values of the sample
    before it. Where it rises by more, nobody has looked at the end of a scan.
    """
    if "ksm.full_scans" not in samples:
        return pd.DataFrame(index=samples.index)
    risen = samples["ksm.full_scans"].diff()
    names = {f"ksm.{name}": f"scan_end.{name}" for name in ("pages_unshared", "pages_volatile")}
    held = samples.shift(1).reindex(columns=list(names))
    scan = (risen > 0).cumsum()
    return held.where(risen == 1).groupby(scan).ffill().rename(columns=names)


def measure(run: Run) -> Measured:
    """Compute the value of every metric in every interval of a run."""
    samples = run.samples.join(at_scan_ends(run.samples))
    guest = _guest_values(run, _ends_of_guests(run), "interval")
    host = _host_values(run, interval_ends(run, samples), guest, "interval")
    return Measured(run, host, guest, *_census_values(run))


def _census_values(run: Run) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compute the values of each census, and of each guest in it."""
    if run.census is None:
        return pd.DataFrame(), pd.DataFrame()
    return tuple(
        rows[names].assign(**{m.name: m.value(Ends(run, rows)) for m in table})
        for rows, names, table in (
            (run.census.rows, ["seconds", "moment"], CENSUS),
            (run.census.guests, ["n", "seconds", "guest"], CENSUS_GUEST),
        )
    )


def every_sample(run: Run) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compute the value of every metric at every sample, as if each were an interval.

    Returns the frames of Measured with `n` for `interval`, and with `seconds` since the header's
    time. A counter's value is its difference from the sample before.
    """
    samples = run.samples.join(at_scan_ends(run.samples))
    guest = _guest_values(run, run.guests, "n", "seconds")
    host = _host_values(run, samples, guest, "n")
    return host.assign(seconds=samples["seconds"]), guest


def _host_values(run: Run, rows: pd.DataFrame, guest: pd.DataFrame, index: str) -> pd.DataFrame:
    # The process of arrays is no guest, and its memory is none of guests
    guests = guest if run.record["run"]["guests"]["count"] else guest.iloc[:0]
    totals = guests.groupby(index)[["guest_cpu_percent", "resident_mib"]].sum(min_count=1)
    both = Ends(run, rows.join(totals.add_prefix("guests.")))
    return pd.DataFrame({m.name: m.value(both) for m in HOST}).iloc[1:]


def _ends_of_guests(run: Run) -> pd.DataFrame:
    """Pick the last sample of each guest in each interval, guest by guest."""
    guests = run.guests.groupby("guest", observed=True) if len(run.guests) else ()
    ends = [interval_ends(run, rows.set_index("n")).assign(guest=guest) for guest, rows in guests]
    return pd.concat(ends).reset_index() if ends else pd.DataFrame()


def _guest_values(run: Run, rows: pd.DataFrame, *index: str) -> pd.DataFrame:
    """Compute the values of all guests, whose rows follow one another, at once.

    A value may depend on the row before. What it takes for that in the first row of a guest is
    another guest's last, but first rows have no value.
    """
    names = [*index, "guest"]
    if rows.empty:
        return pd.DataFrame(columns=[*names, *(m.name for m in GUEST)], dtype=float)
    ends = Ends(run, rows)
    table = rows[names].assign(**{m.name: m.value(ends) for m in GUEST})
    return table[rows["guest"].duplicated()].reset_index(drop=True)


def throughput(run: Run) -> list[float]:
    """Bogo operations a second (real time) of each guest that reported them, from stress-ng's YAML.

    Several stressors of a guest add up.
    """
    return [
        rate
        for event in run.events
        if event["event"] == "workload stopped"
        and (rate := _bogo_rate(event.get("stdout") or "")) is not None
    ]


def _bogo_rate(text: str) -> float | None:
    # stress-ng may have written messages before its document
    document = text[text.find("---\n") :] if "---\n" in text else text
    try:
        stressors = yaml.safe_load(document.split("\n...")[0])["metrics"]
        return float(sum(each["bogo-ops-per-second-real-time"] for each in stressors))
    except (yaml.YAMLError, ValueError, TypeError, KeyError):
        return None


def summary(measured: list[Measured]) -> pd.DataFrame:
    """One row a run: its factors, each metric of HOST in the last interval, the guests' throughput.

    Columns: run, host, guests, knobs, workload, repetition, seconds (that were sampled), converged
    (yes, no, or empty if the run's length was fixed), the names of HOST, then
    bogo_ops_per_second_sum and _mean over guests (NaN without a workload). If any run has a census,
    the names of CENSUS follow, with the values of its last.
    """
    rows = []
    counted = [m.name for m in CENSUS if any(len(each.census) for each in measured)]
    for each in measured:
        rates = throughput(each.run)
        rows.append(
            {
                "run": each.run.id,
                "host": each.run.host,
                **each.run.factors,
                "seconds": each.run.intervals * each.run.record["run"]["sampling"]["interval"],
                "converged": {True: "yes", False: "no"}.get(each.run.converged, ""),
                **each.host.loc[each.last].to_dict(),
                "bogo_ops_per_second_sum": float(np.sum(rates)) if rates else np.nan,
                "bogo_ops_per_second_mean": float(np.mean(rates)) if rates else np.nan,
                **each.last_census.reindex(counted).astype(float).to_dict(),
            }
        )
    return pd.DataFrame(rows)
