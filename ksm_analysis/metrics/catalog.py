"""What is measured, in one table.

An interval is a window of samples. Sample n belongs to interval ceil(n / samples an interval);
sample 0 is the baseline, which an imported run has not. The value of a gauge is that of the
interval's last sample, and of a counter the difference between the last samples of this interval
and the one before. Counters of the kernel start at boot: no absolute value of one is ever shown. An
interval of which every sample was missed has no value (NaN), and neither has a metric that the
kernel does not offer.
"""

# The signs of multiplication and minus are meant: these formulas are for people to read.
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
    derived. `value` takes Ends and gives one value for each interval; its row 0 is ignored.
    `beside` names the metric that it is chosen and shown with.
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
        """The metric by whose name it is chosen: its own, or that of the one it is beside."""
        return self.beside or self.name


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
        total("ksmd.cpu_ns", 1e-9),
    ),
    Metric(
        "guests_cpu_percent",
        "% of one CPU",
        "derived",
        "CPU use of all guests",
        "CPU time of all guests' processes (emulator and its threads included) over elapsed time; "
        "100 is one CPU kept busy. utime + stime of /proc/PID/stat.",
        sum_of_guests("guest_cpu_percent"),
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
        total("ksm.full_scans"),
        figure=True,
    ),
    Metric(
        "pages_scanned",
        "pages",
        "counter",
        "pages_scanned",
        "Pages that ksmd has looked at during the interval (Linux 6.6 and newer). "
        "ksm_pages_scanned in mm/ksm.c.",
        counter("ksm.pages_scanned"),
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
        "Further places that use a shared page instead of a copy of their own: the pages saved. "
        f"{ZERO_PAGES} ksm_pages_sharing in mm/ksm.c.",
        gauge("ksm.pages_sharing"),
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
        "Pages that changed too fast for the trees. Not a measurement but what is left over: "
        "rmap_items − pages_shared − pages_sharing − pages_unshared, at least 0; it shares the "
        "uncertainty of pages_unshared. pages_volatile_show() in mm/ksm.c.",
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
        "Merged pages that were written to, and so copied again, during the interval: merging that "
        "was undone. cow_ksm of /proc/vmstat, counted in do_wp_page() of "
        "mm/memory.c.",
        counter("vmstat.cow_ksm"),
    ),
    Metric(
        "ksm_swpin_copy",
        "pages",
        "counter",
        "ksm_swpin_copy",
        "Merged pages that had to be copied when they came back from swap, during the interval. "
        "ksm_swpin_copy of /proc/vmstat, counted in ksm_might_need_to_copy() of mm/ksm.c.",
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
            percent(function, denominator),
        )
        for whole, denominator in (
            ("configured", configured_mib),
            ("resident", sum_of_guests("resident_mib")),
        )
        for part, label, formula, function in (
            ("shared", "Shared", "(pages_shared + pages_sharing)", shared_mib),
            ("reclaimed", "Reclaimed", "pages_sharing", reclaimed_mib),
            ("difference", "Shared less reclaimed", "pages_shared", kept_mib),
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
        gauge("ksm_merging_pages"),
        figure=True,
    ),
    Metric(
        "ksm_rmap_items",
        "items",
        "gauge",
        "ksm_rmap_items",
        "Pages of this process that ksmd keeps track of, merged or not. /proc/PID/ksm_stat; "
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
        "ksm_rmap_item. Signed. It counts the pages that the process holds for others as well, so "
        "the sum over guests is more than general_profit. ksm_process_profit() in mm/ksm.c.",
        gauge("ksm_process_profit"),
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
        percent(gauge("saved_pages"), gauge("limit_pages")),
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
        "The part of limit_pages, zeros left out, that merging inside each guest alone would save.",
        gauge("limit_within_pages"),
    ),
    Metric(
        "limit_between_pages",
        "pages",
        "gauge",
        "Could be saved: between guests",
        "The part of limit_pages, zeros left out, that merging across guests would save besides.",
        gauge("limit_between_pages"),
    ),
    Metric(
        "max_page_sharing_pages",
        "pages",
        "gauge",
        "Cost of max_page_sharing",
        "Pages of limit_pages that max_page_sharing keeps from being saved, since a frame may be "
        "shared so many times only: the sum over contents of ⌈occurrences / max_page_sharing⌉ − 1.",
        gauge("max_page_sharing_pages"),
    ),
    Metric(
        "saved_pages",
        "pages",
        "gauge",
        "What is saved",
        "Pages that are saved: mappings of KSM's frames less these frames, and mappings of the "
        "kernel's zero page. Counted in the page tables, not taken from the kernel's counters.",
        gauge("saved_pages"),
    ),
    Metric(
        "saved_zero_pages",
        "pages",
        "gauge",
        "Saved: the zero page",
        "The part of saved_pages that is the kernel's zero page. Without use_zero_pages, pages "
        "full of zeros share frames of KSM, and count within and between guests.",
        gauge("saved_zero_pages"),
    ),
    Metric(
        "saved_within_pages",
        "pages",
        "gauge",
        "Saved: within guests",
        "The part of saved_pages on frames of KSM that each guest saves by itself: its mappings of "
        "them less the distinct frames among these.",
        gauge("saved_within_pages"),
    ),
    Metric(
        "saved_between_pages",
        "pages",
        "gauge",
        "Saved: between guests",
        "The part of saved_pages on frames of KSM that is saved since guests share them.",
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
        "at the one before, those whose contents differ. None in the first.",
        percent(gauge("changed_pages"), gauge("compared_pages")),
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
        "100 × (present pages − pages on frames of KSM or on the zero page) / present pages: what "
        "ksmd looks at, unless smart_scan has it skipped, and has not merged.",
        unmerged_percent,
    ),
)
