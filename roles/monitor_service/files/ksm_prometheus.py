"""The Prometheus metrics of a sample, in the text format.

A name is ksm_ (for a guest ksm_guest_, for a cgroup ksm_cgroup_), the kernel's name, and the unit.
Memory is in bytes and time in seconds, independent of the kernel's units. Metrics of the section
`monitor` are about the monitor service. Standard library only, Python 3.9 or newer.
"""

import os
from typing import NamedTuple


class Metric(NamedTuple):
    """One metric, and its source in a sample."""

    name: str
    source: str  # section.field; several fields joined by + are added
    unit: str  # unit of the source
    help: str

    @property
    def kind(self):
        """Return counter or gauge, from the name."""
        return "counter" if self.name.endswith("_total") else "gauge"


PAGE_SIZE, CLOCK_TICKS = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")
UNITS = {
    "": lambda count: count,
    "bytes": lambda count: count,
    "KiB": lambda count: count * 1024,
    "pages": lambda count: count * PAGE_SIZE,
    "seconds": lambda count: count,
    "ms": lambda count: count / 1000,
    "ns": lambda count: count / 10**9,
    "ticks": lambda count: count / CLOCK_TICKS,
    "no, yes": lambda word: int(word == "yes"),
}

# fmt: off
METRICS = (
    Metric("ksm_run", "ksm.run", "",
           "Whether ksmd runs: 0 stopped, 1 running, 2 stopped with all pages unmerged."),
    Metric("ksm_pages_to_scan", "ksm.pages_to_scan", "",
           "Pages that ksmd scans before it sleeps."),
    Metric("ksm_sleep_seconds", "ksm.sleep_millisecs", "ms",
           "How long ksmd sleeps between two batches of pages."),
    Metric("ksm_smart_scan", "ksm.smart_scan", "",
           "Whether ksmd skips pages that did not merge in earlier scans (Linux 6.7 and newer)."),
    Metric("ksm_use_zero_pages", "ksm.use_zero_pages", "",
           "Whether pages full of zeros are merged with the kernel's zero page."),
    Metric("ksm_merge_across_nodes", "ksm.merge_across_nodes", "",
           "Whether pages of different NUMA nodes are merged."),
    Metric("ksm_max_page_sharing", "ksm.max_page_sharing", "",
           "How many mappings may share one page before KSM keeps another copy."),
    Metric("ksm_full_scans_total", "ksm.full_scans", "",
           "Full scans of all mergeable memory by ksmd."),
    Metric("ksm_pages_scanned_total", "ksm.pages_scanned", "",
           "Pages that ksmd has scanned (Linux 6.6 and newer)."),
    Metric("ksm_pages_skipped_total", "ksm.pages_skipped", "",
           "Pages that smart_scan has skipped (Linux 6.7 and newer)."),
    Metric("ksm_pages_shared_bytes", "ksm.pages_shared", "pages",
           "Distinct pages that are shared."),
    Metric("ksm_pages_sharing_bytes", "ksm.pages_sharing", "pages",
           "Memory saved without zero pages: additional mappings that use a shared page."),
    Metric("ksm_pages_unshared_bytes", "ksm.pages_unshared", "pages",
           "Pages without an equal page when ksmd last looked. Skipped pages (smart_scan)"
           " do not count."),
    Metric("ksm_pages_volatile_bytes", "ksm.pages_volatile", "pages",
           "Tracked pages that changed, are new, or were skipped. Computed, not counted."),
    Metric("ksm_zero_pages_bytes", "ksm.ksm_zero_pages", "pages",
           "Memory saved by the kernel's zero page; not included in pages_sharing."),
    Metric("ksm_stable_node_chains", "ksm.stable_node_chains", "",
           "Shared pages with several copies, because max_page_sharing was reached."),
    Metric("ksm_stable_node_dups", "ksm.stable_node_dups", "",
           "Copies of shared pages in these chains."),
    Metric("ksm_general_profit_bytes", "ksm.general_profit", "bytes",
           "Memory saved minus the memory that KSM uses. Signed (Linux 6.4 and newer; zero pages"
           " are included since 6.6)."),
    Metric("ksm_cow_total", "vmstat.cow_ksm", "",
           "Merged pages that were copied: written to, or unmerged. Without zero pages."),
    Metric("ksm_swpin_copy_total", "vmstat.ksm_swpin_copy", "",
           "Merged pages that were copied when they were swapped in."),
    Metric("ksm_thp_split_page_total", "vmstat.thp_split_page", "",
           "Huge pages that were split, by ksmd or for another reason."),
    Metric("ksm_anon_huge_pages_bytes", "meminfo.AnonHugePages", "KiB",
           "Anonymous memory of the whole host in transparent huge pages, mergeable or not."),
    Metric("ksm_ksmd_cpu_seconds_total", "ksmd.cpu_ns", "ns",
           "CPU time of ksmd."),
    Metric("ksm_guest_merging_pages_bytes", "guests.ksm_merging_pages", "pages",
           "Memory of the guest that is merged, including the copies that were kept."),
    Metric("ksm_guest_zero_pages_bytes", "guests.ksm_zero_pages", "pages",
           "Memory of the guest that is merged with the kernel's zero page."),
    Metric("ksm_guest_rmap_items", "guests.ksm_rmap_items", "",
           "Pages of the guest that ksmd tracks, merged or not."),
    Metric("ksm_guest_process_profit_bytes", "guests.ksm_process_profit", "bytes",
           "Merged memory of the guest minus its costs. Signed. The sum over guests is larger than"
           " ksm_general_profit_bytes, because it includes the copy that guests share."),
    Metric("ksm_guest_mergeable", "guests.ksm_mergeable", "no, yes",
           "Whether any memory of the guest is mergeable."),
    Metric("ksm_guest_resident_bytes", "guests.resident_pages", "pages",
           "Resident memory of the guest's process; a merged page counts in each guest."),
    Metric("ksm_guest_cpu_seconds_total", "guests.utime+stime", "ticks",
           "CPU time of the guest's process, including the threads of the emulator."),
    Metric("ksm_cgroup_processes", "cgroups.processes", "",
           "Processes that are sampled in the cgroup and below it."),
    Metric("ksm_cgroup_merging_pages_bytes", "cgroups.ksm_merging_pages", "pages",
           "Merged memory of the processes in the cgroup and below it, including the copies that"
           " were kept."),
    Metric("ksm_cgroup_zero_pages_bytes", "cgroups.ksm_zero_pages", "pages",
           "Memory of these processes that is merged with the kernel's zero page."),
    Metric("ksm_cgroup_rmap_items", "cgroups.ksm_rmap_items", "",
           "Pages of these processes that ksmd tracks, merged or not."),
    Metric("ksm_cgroup_process_profit_bytes", "cgroups.ksm_process_profit", "bytes",
           "Merged memory of these processes minus its costs. Signed. It includes the copy that"
           " they share."),
    Metric("ksm_cgroup_resident_bytes", "cgroups.resident_pages", "pages",
           "Resident memory of these processes; a shared page counts in each process."),
    Metric("ksm_page_size_bytes", "monitor.page_size", "bytes",
           "Size of a page, which converts the kernel's counters to bytes."),
    Metric("ksm_monitor_last_sample_timestamp_seconds", "monitor.last_sample", "seconds",
           "Time of the last sample, in seconds since 1970. If it is old, all metrics are stale."),
    Metric("ksm_monitor_period_seconds", "monitor.period", "seconds",
           "Time between samples."),
    Metric("ksm_monitor_samples_total", "monitor.samples", "",
           "Samples taken since the start of the service."),
    Metric("ksm_monitor_missed_samples_total", "monitor.missed", "",
           "Samples that were missed because the next one was already due."),
    Metric("ksm_monitor_lost_samples_total", "monitor.lost", "",
           "Samples that could not be written to the files of samples, for example because the "
           "disk is full."),
    Metric("ksm_monitor_pid_files_without_guest", "monitor.fruitless", "",
           "Pid files for which there is no running guest with their name."),
    Metric("ksm_monitor_cpu_seconds_total", "monitor.cpu", "seconds",
           "CPU time of this service."),
)
# fmt: on


# An unsigned gauge of the kernel from here on was decremented too often. Its value is wrong.
BELOW_ZERO = 2**63


def exposition(sections):
    """Return the Prometheus text of a sample. Metrics without a value are left out."""
    families = (lines_of(metric, sections) for metric in METRICS)
    return "".join(line + "\n" for lines in families for line in lines)


def lines_of(metric, sections):
    """Return all lines of one metric; none without a value."""
    section, _, fields = metric.source.partition(".")
    found = sections.get(section) or {}
    if section in ("guests", "cgroups"):
        label = section[:-1]
        labelled = [(f'{{{label}="{escaped(name)}"}}', each or {}) for name, each in found.items()]
    else:
        labelled = [("", found)]
    values = [(labels, value_of(metric, fields, counts)) for labels, counts in labelled]
    lines = [f"{metric.name}{labels} {value}" for labels, value in values if value is not None]
    about = [f"# HELP {metric.name} {metric.help}", f"# TYPE {metric.name} {metric.kind}"]
    return about + lines if lines else []


def value_of(metric, fields, counts):
    """Return the value of one metric in its unit, or None."""
    found = [counts.get(field) for field in fields.split("+")]
    kind = str if metric.unit == "no, yes" else (int, float)
    if not all(isinstance(value, kind) for value in found):
        return None
    if metric.kind == "gauge" and kind is not str and max(found) >= BELOW_ZERO:
        return None
    return UNITS[metric.unit](found[0] if len(found) == 1 else sum(found))


def escaped(text):
    """Escape the value of a label."""
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
