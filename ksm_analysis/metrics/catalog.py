"""What is measured, in one table.

An interval is a window of samples. Sample n belongs to interval ceil(n / samples per interval).
Sample 0 is the baseline; an imported run has none. The value of a gauge is that of the interval's
last sample. The value of a counter is the difference between the last sample of this interval and
the last sample of the interval before. The kernel's counters start at boot, so their absolute
values are never shown. An interval has no value (NaN) if all its samples were missed. The same is
true for a metric that the kernel does not have.
"""

# Multiplication and minus signs are intended: people read these formulas.
# ruff: noqa: RUF001

from dataclasses import dataclass

from ksm_analysis.metrics.values import (
    Value,
    configured_mib,
    counter,
    gauge,
    guest_cpu_percent,
    host_cpu_percent,
    kept_mib,
    ksmd_cpu_percent,
    percent,
    reclaimed_mib,
    resident_mib,
    shared_mib,
    sum_of_guests,
    total,
    unmerged_percent,
)


@dataclass(frozen=True)
class Metric:
    """One thing that is measured.

    `kind` is gauge, counter (difference over the interval), total (since the run's first sample) or
    derived. `value` takes Ends and returns one value for each interval; its row 0 is ignored.
    `beside` names another metric: the page shows both together, and one choice selects both.
    """

    name: str
    unit: str
    kind: str
    label: str
    help: str
    value: Value
    figure: bool = False
    beside: str = ""

    @property
    def chosen_with(self) -> str:
        """The name that selects this metric on the page: that of `beside`, or its own."""
        return self.beside or self.name


WHOLE = {
    "configured": (
        "The denominator is the memory that the guests were given, as in published figures."
    ),
    "resident": (
        "The denominator is the guests' resident memory (RSS). A small guest touches less memory "
        "than it was given. A merged page counts in the RSS of every guest that has it. The RSS "
        "includes QEMU's own memory."
    ),
}
ZERO_PAGES = (
    "With use_zero_pages=1, ksmd merges pages full of zeros with the kernel's zero page. These "
    "pages count in ksm_zero_pages and not here."
)
SAVED = "(pages_sharing + ksm_zero_pages)"
ZERO_PAGES_ALSO = (
    "Pages full of zeros that ksmd merged with the kernel's zero page (use_zero_pages=1) count too."
)
AT_SCAN_END = (
    "in the last sample before full_scans rose by one. The value is kept until full_scans rises "
    "again. By this sample, ksmd has looked at almost every page in this scan. There is no value "
    "before the first such sample, and none while scans are shorter than the time between samples. "
    "There is none with smart_scan=1 either: a page that ksmd skips leaves the unstable tree."
)

HOST = (
    Metric(
        "host_cpu_percent",
        "%",
        "derived",
        "CPU use of the host",
        "Share of CPU time in which the host's CPUs were not idle during the interval; 100 means "
        "that all CPUs were busy. From the first line of /proc/stat: user + nice + system + irq + "
        "softirq, divided by the same sum + idle + iowait. Stolen time counts as neither: the host "
        "did not have it. For an imported run: average_cpu_usage in its log.",
        host_cpu_percent,
        figure=True,
    ),
    Metric(
        "ksmd_cpu_percent",
        "% of one CPU",
        "derived",
        "CPU use of ksmd",
        "CPU time of the ksmd kernel thread, divided by elapsed time; 100 means that one CPU was "
        "busy all the time. From /proc/PID/schedstat of ksmd.",
        ksmd_cpu_percent,
        figure=True,
    ),
    Metric(
        "ksmd_cpu_seconds",
        "s",
        "total",
        "CPU time of ksmd",
        "CPU time that ksmd has used since the run's first sample. From /proc/PID/schedstat.",
        total("ksmd.cpu_ns", 1e-9),
    ),
    Metric(
        "guests_cpu_percent",
        "% of one CPU",
        "derived",
        "CPU use of all guests",
        "CPU time of all guests' processes (the emulator and its threads), divided by elapsed "
        "time; 100 means that one CPU was busy all the time. utime + stime in /proc/PID/stat.",
        sum_of_guests("guest_cpu_percent"),
        figure=True,
    ),
    Metric(
        "full_scans",
        "scans",
        "total",
        "full_scans",
        "How many times ksmd has scanned all mergeable memory since the run's first sample (for an "
        "imported run: since the end of its first interval). ksm_scan.seqnr in mm/ksm.c.",
        total("ksm.full_scans", restarts=True),
        figure=True,
    ),
    Metric(
        "pages_scanned",
        "pages",
        "counter",
        "pages_scanned",
        "Pages that ksmd scanned during the interval (Linux 6.6 and newer). "
        "ksm_pages_scanned in mm/ksm.c.",
        counter("ksm.pages_scanned"),
        figure=True,
    ),
    Metric(
        "general_profit",
        "bytes",
        "gauge",
        "general_profit",
        "Memory that merging saves, minus memory that it costs: (pages_sharing + ksm_zero_pages) × "
        "page size − rmap_items × size of a struct ksm_rmap_item (64 B on 64-bit kernels; 36 B on "
        "32-bit kernels since Linux 6.7). Zero pages are included since Linux 6.6. Signed; "
        "negative while little is merged. general_profit_show() in mm/ksm.c, Linux 6.4 and newer. "
        "The sum of ksm_process_profit over processes is a different, greater number.",
        gauge("ksm.general_profit"),
        figure=True,
    ),
    Metric(
        "pages_shared",
        "pages",
        "gauge",
        "pages_shared",
        "Distinct pages that are shared: the nodes of the stable tree. ksm_pages_shared in "
        "mm/ksm.c.",
        gauge("ksm.pages_shared"),
        figure=True,
    ),
    Metric(
        "pages_sharing",
        "pages",
        "gauge",
        "pages_sharing",
        "Further places that use a shared page instead of their own copy: the pages saved. "
        f"{ZERO_PAGES} ksm_pages_sharing in mm/ksm.c.",
        gauge("ksm.pages_sharing"),
        figure=True,
    ),
    Metric(
        "pages_unshared",
        "pages",
        "gauge",
        "pages_unshared",
        "Pages for which ksmd found no equal page when it last looked at them. The kernel does not "
        "reset the counter when a scan ends: a page counts until ksmd comes to it again. With "
        "smart_scan=1 (the default since Linux 6.7), a page that is skipped counts in "
        "pages_volatile instead, so the value differs from scan to scan even if no memory changes. "
        "The interval's last sample is shown. ksm_pages_unshared in mm/ksm.c.",
        gauge("ksm.pages_unshared"),
        figure=True,
    ),
    Metric(
        "pages_unshared_at_scan_end",
        "pages",
        "gauge",
        "pages_unshared at the end of a scan",
        f"pages_unshared {AT_SCAN_END}",
        gauge("scan_end.pages_unshared"),
        figure=True,
        beside="pages_unshared",
    ),
    Metric(
        "pages_volatile",
        "pages",
        "gauge",
        "pages_volatile",
        "Pages that ksmd tracks but that are in neither tree: they are new, changed since the last "
        "scan, or were skipped (smart_scan=1). The kernel does not count them but calculates the "
        "rest: rmap_items − pages_shared − pages_sharing − pages_unshared, at least 0. It is as "
        "uncertain as pages_unshared. pages_volatile_show() in mm/ksm.c.",
        gauge("ksm.pages_volatile"),
        figure=True,
    ),
    Metric(
        "pages_volatile_at_scan_end",
        "pages",
        "gauge",
        "pages_volatile at the end of a scan",
        f"pages_volatile {AT_SCAN_END}",
        gauge("scan_end.pages_volatile"),
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
        gauge("ksm.ksm_zero_pages"),
    ),
    Metric(
        "pages_skipped",
        "pages",
        "counter",
        "pages_skipped",
        "Pages that smart_scan skipped during the interval (Linux 6.7 and newer). "
        "ksm_pages_skipped in mm/ksm.c.",
        counter("ksm.pages_skipped"),
    ),
    Metric(
        "stable_node_chains",
        "chains",
        "gauge",
        "stable_node_chains",
        "Stable tree nodes that were split because max_page_sharing was reached. "
        "ksm_stable_node_chains in mm/ksm.c.",
        gauge("ksm.stable_node_chains"),
    ),
    Metric(
        "stable_node_dups",
        "pages",
        "gauge",
        "stable_node_dups",
        "Copies of the same page that these chains hold. ksm_stable_node_dups in mm/ksm.c.",
        gauge("ksm.stable_node_dups"),
    ),
    Metric(
        "cow_ksm",
        "pages",
        "counter",
        "cow_ksm",
        "Merged pages that were copied during the interval: they were written to, or the kernel "
        "unmerged them (break_ksm(), for example with run=2). Writes to zero pages do not count. "
        "cow_ksm in /proc/vmstat, counted in do_wp_page() of mm/memory.c.",
        counter("vmstat.cow_ksm"),
    ),
    Metric(
        "ksm_swpin_copy",
        "pages",
        "counter",
        "ksm_swpin_copy",
        "Merged pages that were copied during the interval when they came back from swap. "
        "ksm_swpin_copy in /proc/vmstat, counted in ksm_might_need_to_copy() of mm/ksm.c.",
        counter("vmstat.ksm_swpin_copy"),
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
        sum_of_guests("resident_mib"),
    ),
    Metric(
        "shared_mib",
        "MiB",
        "derived",
        "Shared memory",
        "Guest memory that is merged: (pages_shared + pages_sharing + ksm_zero_pages) × page "
        f"size. {ZERO_PAGES_ALSO}",
        shared_mib,
    ),
    Metric(
        "reclaimed_mib",
        "MiB",
        "derived",
        "Reclaimed memory",
        f"Memory that merging saves: {SAVED} × page size. {ZERO_PAGES_ALSO}",
        reclaimed_mib,
    ),
    *(
        Metric(
            f"{part}_percent_{whole}",
            "%",
            "derived",
            f"{label}, of {whole} memory",
            f"100 × {formula} × page size / {whole} guest memory. {WHOLE[whole]}",
            percent(function, denominator),
        )
        for whole, denominator in (
            ("configured", configured_mib),
            ("resident", sum_of_guests("resident_mib")),
        )
        for part, label, formula, function in (
            ("shared", "Shared", "(pages_shared + pages_sharing + ksm_zero_pages)", shared_mib),
            ("reclaimed", "Reclaimed", SAVED, reclaimed_mib),
            ("difference", "Shared minus reclaimed", "pages_shared", kept_mib),
        )
    ),
)

GUEST = (
    Metric(
        "ksm_merging_pages",
        "pages",
        "gauge",
        "ksm_merging_pages",
        "Pages of this process that are merged, including the copy that is kept. "
        "/proc/PID/ksm_stat; ksm_merging_pages of struct mm_struct.",
        gauge("ksm_merging_pages"),
        figure=True,
    ),
    Metric(
        "ksm_rmap_items",
        "items",
        "gauge",
        "ksm_rmap_items",
        "Pages of this process that ksmd tracks, merged or not. /proc/PID/ksm_stat; "
        "ksm_rmap_items of struct mm_struct.",
        gauge("ksm_rmap_items"),
        figure=True,
    ),
    Metric(
        "ksm_process_profit",
        "bytes",
        "gauge",
        "ksm_process_profit",
        "(ksm_merging_pages + ksm_zero_pages) × page size − ksm_rmap_items × size of a struct "
        "ksm_rmap_item. Signed. It also counts the pages that the process holds for others, so the "
        "sum over guests is greater than general_profit. ksm_process_profit() in mm/ksm.c.",
        gauge("ksm_process_profit"),
        figure=True,
    ),
    Metric(
        "guest_cpu_percent",
        "% of one CPU",
        "derived",
        "CPU use of the guest",
        "CPU time of the guest's process, divided by elapsed time. utime + stime in "
        "/proc/PID/stat.",
        guest_cpu_percent,
    ),
    Metric(
        "resident_mib",
        "MiB",
        "derived",
        "Resident memory of the guest",
        "resident_pages × page size, including merged pages. Second field of /proc/PID/statm.",
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
        "No value if there is nothing to save.",
        percent(gauge("saved_pages"), gauge("limit_pages")),
        figure=True,
    ),
    Metric(
        "limit_pages",
        "pages",
        "gauge",
        "What could be saved",
        "Pages that perfect merging would save: present pages minus distinct contents. With "
        "use_zero_pages=1, pages full of zeros need no frame, so all of them count. Present pages "
        "are pages of mergeable mappings that are in memory.",
        gauge("limit_pages"),
    ),
    Metric(
        "limit_zero_pages",
        "pages",
        "gauge",
        "Could be saved: zeros",
        "The part of limit_pages that is full of zeros.",
        gauge("limit_zero_pages"),
    ),
    Metric(
        "limit_within_pages",
        "pages",
        "gauge",
        "Could be saved: within guests",
        "The part of limit_pages, without zeros, that merging inside each guest alone would save.",
        gauge("limit_within_pages"),
    ),
    Metric(
        "limit_between_pages",
        "pages",
        "gauge",
        "Could be saved: between guests",
        "The part of limit_pages, without zeros, that merging between guests would save in "
        "addition.",
        gauge("limit_between_pages"),
    ),
    Metric(
        "max_page_sharing_pages",
        "pages",
        "gauge",
        "Cost of max_page_sharing",
        "Pages of limit_pages that cannot be saved because max_page_sharing limits how often a "
        "frame may be shared: the sum over contents of ⌈occurrences / max_page_sharing⌉ − 1.",
        gauge("max_page_sharing_pages"),
    ),
    Metric(
        "saved_pages",
        "pages",
        "gauge",
        "What is saved",
        "Pages that are saved: mappings of KSM's frames, minus the number of these frames, plus "
        "mappings of the kernel's zero page. Counted in the page tables, not taken from the "
        "kernel's counters.",
        gauge("saved_pages"),
    ),
    Metric(
        "saved_zero_pages",
        "pages",
        "gauge",
        "Saved: the zero page",
        "The part of saved_pages that ksmd replaced by the kernel's zero page. Without "
        "use_zero_pages, pages full of zeros share frames of KSM and count within and between "
        "guests.",
        gauge("saved_zero_pages"),
    ),
    Metric(
        "saved_split_zero_pages",
        "pages",
        "gauge",
        "Saved: zeros given up in splits",
        "The part of saved_pages that the kernel mapped to its zero page when it split huge pages "
        "(Linux 6.12 and newer). Known only with a census of the start.",
        gauge("saved_split_zero_pages"),
    ),
    Metric(
        "saved_within_pages",
        "pages",
        "gauge",
        "Saved: within guests",
        "The part of saved_pages on frames of KSM that each guest saves by itself: its mappings of "
        "these frames, minus the number of distinct frames among them.",
        gauge("saved_within_pages"),
    ),
    Metric(
        "saved_between_pages",
        "pages",
        "gauge",
        "Saved: between guests",
        "The part of saved_pages on frames of KSM that is saved because guests share them.",
        gauge("saved_between_pages"),
    ),
    Metric(
        "present_pages",
        "pages",
        "gauge",
        "Present pages",
        "Pages of mergeable mappings that are in memory, of all guests.",
        gauge("present_pages"),
    ),
    Metric(
        "changed_percent",
        "%",
        "derived",
        "Pages that changed",
        "100 × changed_pages / compared_pages: of the pages that were in memory at this census and "
        "at the one before, the share whose contents differ. The first census has no value.",
        percent(gauge("changed_pages"), gauge("compared_pages")),
    ),
)

CENSUS_GUEST = (
    Metric(
        "attributed_bytes",
        "bytes",
        "gauge",
        "Attributed savings",
        "Savings, divided between guests. A frame that m pages share saves m − 1 pages, and each "
        "of the m pages gets an equal part of them, as in PSS. A page on the kernel's zero page "
        "is saved completely. The sum over guests is exactly what is saved.",
        gauge("attributed_bytes"),
    ),
    Metric(
        "guest_changed_percent",
        "%",
        "derived",
        "Pages of the guest that changed",
        "changed_percent of one guest.",
        percent(gauge("changed_pages"), gauge("compared_pages")),
    ),
    Metric(
        "unmerged_percent",
        "%",
        "derived",
        "Not merged",
        "100 × (present pages − pages on frames of KSM or on the zero page) / present pages: pages "
        "that ksmd has not merged, although it scans them (unless smart_scan skips them).",
        unmerged_percent,
    ),
)
