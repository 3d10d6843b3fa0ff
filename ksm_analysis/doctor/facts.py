"""Values derived from the facts of a host. Pure.

roles/doctor/files/ksm_facts.py prints the facts: sizes in bytes, counters as in the kernel.
"""

import math
import re
from typing import Any

Facts = dict[str, Any]

USUAL_SLEEP_MILLISECS = 20
GOAL_SECONDS = 600
LEAST_VISITED = 1000  # pages between the readings, to compute a rate
BELOW_ZERO = 2**63  # and more: an unsigned counter that the kernel decremented below zero
LEAST_PROFIT = -(2**60)  # bytes: no host has so many records of pages
# Full scans before pages can be judged: with smart scan, a page is looked at in scans 1, 2, 3, 4,
# 6 and 9, and a skipped page cannot be merged with.
SETTLED_SCANS, SETTLED_SCANS_SMART = 3, 10
# Items of a process, as a part of its pages. With fewer, ksmd has not been through it once.
SCANNED_PART = 0.5
# Pages a second that ksmd reached on one core, measured on Linux 6.18, where the knobs asked for
# 500,000. Used where the facts have no rate of their own.
REACHED = 205_000
OFFLINE = 4  # a bit of `run`: memory is being taken offline, and ksmd waits (KSM_RUN_OFFLINE)
ITEM_BYTES = 64


# --- counters -------------------------------------------------------------------------------------


def is_impossible(name: str, value: Any) -> bool:
    """Whether the kernel cannot mean this value: below zero, or wrapped."""
    if not isinstance(value, int):
        return False
    if name in ("general_profit", "ksm_process_profit"):
        return not LEAST_PROFIT < value < BELOW_ZERO
    return not 0 <= value < BELOW_ZERO


def ksm(facts: Facts) -> dict[str, Any]:
    """Return knobs and counters of the last reading; empty if this kernel has no KSM.

    A counter that the kernel decremented below zero is left out, as is anything but a number,
    except advisor_mode.
    """
    return counters(facts["readings"][-1])


def counters(reading: Facts) -> dict[str, Any]:
    """Return the usable knobs and counters of a reading."""
    return {
        name: value
        for name, value in (reading["ksm"] or {}).items()
        if name == "advisor_mode"
        or (
            isinstance(value, int)
            and not isinstance(value, bool)
            and not is_impossible(name, value)
        )
    }


def impossible(facts: Facts) -> dict[str, int]:
    """Return the counters of the last reading that were left out."""
    return {
        name: value
        for name, value in (facts["readings"][-1]["ksm"] or {}).items()
        if is_impossible(name, value)
    }


def saved_pages(facts: Facts) -> int:
    """Return pages_sharing + ksm_zero_pages (Linux 6.6 and newer); 0 if they cannot be read."""
    values = ksm(facts)
    return int(values.get("pages_sharing", 0)) + int(values.get("ksm_zero_pages", 0))


def saved_bytes(facts: Facts) -> int:
    """Return the bytes that merging saves."""
    return saved_pages(facts) * page_size(facts)


def known_pages(facts: Facts) -> int:
    """Return the pages that ksmd has records of. pages_volatile includes the zero pages."""
    values = ksm(facts)
    names = ("pages_shared", "pages_sharing", "pages_unshared", "pages_volatile")
    return sum(int(values.get(name, 0)) for name in names)


def grown(facts: Facts, section: str, name: str) -> int:
    """Return the growth of a counter between the readings; 0 if the kernel does not have it."""
    if section == "ksm":
        first, last = (counters(reading).get(name) for reading in facts["readings"])
    else:
        first, last = (reading[section].get(name) for reading in facts["readings"])
    if not isinstance(first, int) or not isinstance(last, int):
        return 0
    return last - first


def visited(facts: Facts) -> int:
    """Return the pages that ksmd visited between the readings; skipped pages, too."""
    return grown(facts, "ksm", "pages_scanned") + grown(facts, "ksm", "pages_skipped")


def seconds_between(facts: Facts) -> float:
    """Return the seconds between the readings."""
    first, last = (float(reading["monotonic"]) for reading in facts["readings"])
    return max(0.0, last - first)


def ksmd_cpu(facts: Facts) -> float | None:
    """Return the part of one CPU that ksmd used between the readings; None if it is not known."""
    first, last = (reading["ksmd_cpu_ns"] for reading in facts["readings"])
    seconds = seconds_between(facts)
    if not isinstance(first, int) or not isinstance(last, int) or not seconds or last < first:
        return None
    return (last - first) / 1e9 / seconds


def reach(facts: Facts) -> tuple[float, bool]:
    """Return the pages a second that ksmd can visit with a whole CPU, and if it is measured."""
    cpu = ksmd_cpu(facts)
    if cpu and cpu > 0.01 and visited(facts) >= LEAST_VISITED:
        return visited(facts) / seconds_between(facts) / cpu, True
    return REACHED, False


# --- memory ---------------------------------------------------------------------------------------


def page_size(facts: Facts) -> int:
    """Return the bytes of a page."""
    return int(facts["host"]["page_size"])


def mergeable(facts: Facts, field: str) -> int:
    """Return the sum of a field, in bytes, over all memory that is offered to KSM."""
    every = facts["domains"] + facts["processes"]
    return sum(int(each["memory"]["mergeable"][field]) for each in every)


def mergeable_pages(facts: Facts) -> int:
    """Return the pages of a full scan: present anonymous pages, merged or not.

    If most of them belong to processes that are not visible, the pages that ksmd knows.
    """
    pages = mergeable(facts, "anonymous") // page_size(facts)
    return known_pages(facts) if hidden(facts) else pages


def hidden(facts: Facts) -> bool:
    """Whether ksmd knows far more pages than the visible processes have offered."""
    seen = mergeable(facts, "anonymous") + mergeable(facts, "swapped")
    seen += sum(int(each["memory"]["unknown"]["anonymous"]) for each in facts["domains"])
    seen = seen // page_size(facts) + int(ksm(facts).get("ksm_zero_pages", 0))
    return known_pages(facts) > 2 * seen + LEAST_VISITED or (
        not seen and (known_pages(facts) > 0 or visited(facts) > 0)
    )


def available(facts: Facts) -> int | None:
    """Return the bytes that can be allocated without swapping; None if they are not known."""
    memory = facts["host"]["memory"]
    if "MemAvailable" in memory:
        return int(memory["MemAvailable"])
    if "MemFree" in memory:  # before Linux 3.14
        return sum(int(memory.get(name, 0)) for name in ("MemFree", "Buffers", "Cached"))
    return None


def swap(facts: Facts) -> int:
    """Return the bytes of free swap space."""
    return int(facts["host"]["memory"].get("SwapFree", 0))


def guest_bytes(domain: Facts) -> int:
    """Return the bytes of a guest's memory: by its settings, else by its mappings."""
    configured = domain["settings"]["memory_bytes"]
    return int(configured if configured is not None else domain["mapped_guest"])


def resident(process: Facts) -> int:
    """Return the bytes of a process that are in memory, merged or not."""
    return sum(int(sums["resident"]) for sums in process["memory"].values())


# --- pace -----------------------------------------------------------------------------------------


def nominal_scan_seconds(facts: Facts) -> float:
    """Return the seconds of a full scan according to the knobs, without the time of scanning."""
    knobs = ksm(facts)
    pages = knobs.get("pages_to_scan", 0)
    naps = mergeable_pages(facts) / pages if pages else math.inf
    return naps * float(knobs.get("sleep_millisecs", 0)) / 1000 if pages else math.inf


def measured_scan_seconds(facts: Facts) -> float | None:
    """Return the seconds of a full scan at the measured pace; None if too little was scanned."""
    if not runs(facts) or visited(facts) < LEAST_VISITED or not seconds_between(facts):
        return None
    return mergeable_pages(facts) / visited(facts) * seconds_between(facts)


def scan_seconds(facts: Facts) -> float:
    """Return the seconds of a full scan: measured, else by the knobs and what ksmd can reach."""
    measured = measured_scan_seconds(facts)
    if measured is not None:
        return measured
    return max(nominal_scan_seconds(facts), mergeable_pages(facts) / REACHED)


def advised(facts: Facts) -> bool:
    """Whether the kernel's advisor sets pages_to_scan."""
    mode = str(ksm(facts).get("advisor_mode", "[none]"))
    return "[none]" not in mode


def offlining(facts: Facts) -> bool:
    """Whether the host takes memory offline, for which ksmd waits."""
    return OFFLINE <= int(ksm(facts).get("run", 0)) < 2 * OFFLINE


def runs(facts: Facts) -> bool:
    """Whether ksmd ran at both readings."""
    return all(counters(reading).get("run") == 1 for reading in facts["readings"])


def enough_scans(facts: Facts) -> int:
    """Return the full scans after which pages can be judged."""
    return SETTLED_SCANS_SMART if ksm(facts).get("smart_scan") else SETTLED_SCANS


def settled(facts: Facts) -> bool:
    """Whether ksmd has scanned often enough to judge the profit of the host.

    Half of the memory that is offered, or more, must have been there for enough scans.
    """
    if int(ksm(facts).get("full_scans", 0)) < enough_scans(facts):
        return False
    every = facts["domains"] + facts["processes"]
    pages = [(each["memory"]["mergeable"]["anonymous"], each) for each in every]
    old = sum(size for size, each in pages if judged(facts, each))
    return bool(2 * old >= sum(size for size, _ in pages))


def scans_of(facts: Facts, process: Facts) -> float:
    """Return the full scans that a process has been through, at the present pace."""
    scans = float(ksm(facts).get("full_scans", 0))
    pages = process["memory"]["mergeable"]["anonymous"] / page_size(facts)
    items = process["ksm_stat"].get("ksm_rmap_items")
    if isinstance(items, int) and items < SCANNED_PART * pages:
        return 0.0
    if process["age"] is None:
        return scans
    seconds = scan_seconds(facts)
    return min(scans, process["age"] / seconds) if seconds else scans


def judged(facts: Facts, process: Facts) -> bool:
    """Whether a process has been through enough scans to judge its profit."""
    return scans_of(facts, process) >= enough_scans(facts)


def some(values: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return the values with these names, if they exist."""
    return {name: values[name] for name in names if name in values}


def pages_for_goal(pages: int) -> int:
    """Return the pages_to_scan that scans this many pages in GOAL_SECONDS."""
    return math.ceil(pages * USUAL_SLEEP_MILLISECS / 1000 / GOAL_SECONDS)


# --- what this host can do ------------------------------------------------------------------------


def kernel(facts: Facts) -> tuple[int, int]:
    """Return the version of the kernel; (0, 0) if it is not known."""
    found = re.match(r"(\d+)\.(\d+)", str(facts["host"]["kernel"]))
    return (int(found[1]), int(found[2])) if found else (0, 0)


def has_prctl(facts: Facts) -> bool:
    """Whether the kernel has PR_SET_MEMORY_MERGE: 6.4, or a back port, which has its counter."""
    return kernel(facts) >= (6, 4) or "general_profit" in (facts["readings"][-1]["ksm"] or {})


def service_names(facts: Facts) -> list[str]:
    """Return the names of the programs that are known to write to the knobs."""
    return sorted({service["name"] for service in facts["services"]})
