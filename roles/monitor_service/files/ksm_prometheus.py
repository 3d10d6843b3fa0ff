"""What Prometheus is told of a sample: every metric, and the text format.

A metric is called ksm_ (of a guest, ksm_guest_) and what the kernel calls it, and then its unit:
amounts of memory are in bytes and times in seconds, whatever the kernel counts in. What has a
section `monitor` is of the service that samples. Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import os
from typing import NamedTuple


class Metric(NamedTuple):
    """One metric, and where it is in a sample."""

    name: str
    source: str  # section.field; of several fields, joined by +, the sum
    unit: str  # in which it is counted there
    help: str

    @property
    def kind(self):
        """Counter or gauge, as its name says."""
        return "counter" if self.name.endswith("_total") else "gauge"


PAGE_SIZE, CLOCK_TICKS = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")
UNITS = {
    "": lambda count: count,
    "bytes": lambda count: count,
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
           "Whether ksmd runs: 0 it is stopped, 1 it runs, 2 all is unmerged and it is stopped."),
    Metric("ksm_pages_to_scan", "ksm.pages_to_scan", "",
           "Pages that ksmd scans before it sleeps."),
    Metric("ksm_sleep_seconds", "ksm.sleep_millisecs", "ms",
           "How long ksmd sleeps between two batches of pages."),
    Metric("ksm_smart_scan", "ksm.smart_scan", "",
           "Whether ksmd skips pages that did not merge before (Linux 6.7 and newer)."),
    Metric("ksm_use_zero_pages", "ksm.use_zero_pages", "",
           "Whether pages full of zeros are merged with the kernel's zero page."),
    Metric("ksm_merge_across_nodes", "ksm.merge_across_nodes", "",
           "Whether pages of different NUMA nodes are merged."),
    Metric("ksm_max_page_sharing", "ksm.max_page_sharing", "",
           "How often one page may be shared before it is copied."),
    Metric("ksm_full_scans_total", "ksm.full_scans", "",
           "Times that ksmd has been through all mergeable memory."),
    Metric("ksm_pages_scanned_total", "ksm.pages_scanned", "",
           "Pages that ksmd has looked at (Linux 6.6 and newer)."),
    Metric("ksm_pages_skipped_total", "ksm.pages_skipped", "",
           "Pages that smart_scan has skipped (Linux 6.7 and newer)."),
    Metric("ksm_pages_shared_bytes", "ksm.pages_shared", "pages",
           "Distinct pages that are shared."),
    Metric("ksm_pages_sharing_bytes", "ksm.pages_sharing", "pages",
           "Memory saved: further places that use a shared page instead of a copy of their own."),
    Metric("ksm_pages_unshared_bytes", "ksm.pages_unshared", "pages",
           "Pages without a twin, which are checked again in every scan; read in mid-scan."),
    Metric("ksm_pages_volatile_bytes", "ksm.pages_volatile", "pages",
           "Pages that changed too fast. What is left over of the other counters, not a count."),
    Metric("ksm_zero_pages_bytes", "ksm.ksm_zero_pages", "pages",
           "Memory saved by the kernel's zero page, which is not in pages_sharing."),
    Metric("ksm_stable_node_chains", "ksm.stable_node_chains", "",
           "Shared pages of which there are copies, since max_page_sharing was reached."),
    Metric("ksm_stable_node_dups", "ksm.stable_node_dups", "",
           "Copies of shared pages in these chains."),
    Metric("ksm_general_profit_bytes", "ksm.general_profit", "bytes",
           "Memory saved less what it costs in memory. Signed (Linux 6.4 and newer)."),
    Metric("ksm_cow_total", "vmstat.cow_ksm", "",
           "Merged pages that were written to, and so copied again."),
    Metric("ksm_swpin_copy_total", "vmstat.ksm_swpin_copy", "",
           "Merged pages that were copied when they came back from swap."),
    Metric("ksm_ksmd_cpu_seconds_total", "ksmd.cpu_ns", "ns",
           "CPU time of ksmd."),
    Metric("ksm_guest_merging_pages_bytes", "guests.ksm_merging_pages", "pages",
           "Memory of the guest that is merged, the copies that were kept included."),
    Metric("ksm_guest_zero_pages_bytes", "guests.ksm_zero_pages", "pages",
           "Memory of the guest that is merged with the kernel's zero page."),
    Metric("ksm_guest_rmap_items", "guests.ksm_rmap_items", "",
           "Pages of the guest that ksmd keeps track of, merged or not."),
    Metric("ksm_guest_process_profit_bytes", "guests.ksm_process_profit", "bytes",
           "Merged memory of the guest less what it costs. Signed. The sum over guests is more than"
           " ksm_general_profit_bytes, as it counts pages that each holds for others."),
    Metric("ksm_guest_mergeable", "guests.ksm_mergeable", "no, yes",
           "Whether any memory of the guest is open to KSM."),
    Metric("ksm_guest_resident_bytes", "guests.resident_pages", "pages",
           "Memory that the guest's process has touched; a merged page counts in each guest."),
    Metric("ksm_guest_cpu_seconds_total", "guests.utime+stime", "ticks",
           "CPU time of the guest's process, the emulator's threads included."),
    Metric("ksm_page_size_bytes", "monitor.page_size", "bytes",
           "Size of a page: what these metrics were multiplied with to be bytes."),
    Metric("ksm_monitor_last_sample_timestamp_seconds", "monitor.last_sample", "seconds",
           "When the last sample was taken, in seconds since 1970. Old: what is shown is stale."),
    Metric("ksm_monitor_period_seconds", "monitor.period", "seconds",
           "Time between samples."),
    Metric("ksm_monitor_samples_total", "monitor.samples", "",
           "Samples taken since the service was started."),
    Metric("ksm_monitor_missed_samples_total", "monitor.missed", "",
           "Samples that were not taken, because the next one was already due."),
    Metric("ksm_monitor_lost_samples_total", "monitor.lost", "",
           "Samples that could not be written to the files of samples, for example because the "
           "disk is full."),
    Metric("ksm_monitor_cpu_seconds_total", "monitor.cpu", "seconds",
           "CPU time of this service."),
)
# fmt: on


def exposition(sections):
    """Text format of Prometheus for the sections of a sample; what it has not is left out."""
    families = (lines_of(metric, sections) for metric in METRICS)
    return "".join(line + "\n" for lines in families for line in lines)


def lines_of(metric, sections):
    """All lines of one metric; none without a value."""
    section, _, fields = metric.source.partition(".")
    found = sections.get(section) or {}
    if section == "guests":
        labelled = [(f'{{guest="{escaped(name)}"}}', guest or {}) for name, guest in found.items()]
    else:
        labelled = [("", found)]
    values = [(labels, value_of(metric, fields, counts)) for labels, counts in labelled]
    lines = [f"{metric.name}{labels} {value}" for labels, value in values if value is not None]
    about = [f"# HELP {metric.name} {metric.help}", f"# TYPE {metric.name} {metric.kind}"]
    return about + lines if lines else []


def value_of(metric, fields, counts):
    """Value of one metric in its own unit, or None."""
    found = [counts.get(field) for field in fields.split("+")]
    kind = str if metric.unit == "no, yes" else (int, float)
    if not all(isinstance(value, kind) for value in found):
        return None
    return UNITS[metric.unit](found[0] if len(found) == 1 else sum(found))


def escaped(text):
    """Value of a label."""
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
