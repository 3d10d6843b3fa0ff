"""Values derived from the facts of a host. Pure.

roles/doctor/files/ksm_facts.py prints the facts: sizes in bytes, counters as in the kernel.
"""

import math
from typing import Any

Facts = dict[str, Any]

USUAL_SLEEP_MILLISECS = 20
GOAL_SECONDS = 600
LEAST_VISITED = 1000  # pages between the readings, to compute a rate
BELOW_ZERO = 2**63  # and more: an unsigned counter that the kernel decremented below zero
SETTLED_SCANS = 2  # before, general_profit is negative: pages have records, none is merged


def ksm(facts: Facts) -> dict[str, Any]:
    """Return knobs and counters of the last reading; empty if this kernel has no KSM.

    A counter that the kernel decremented below zero is left out.
    """
    values = facts["readings"][-1]["ksm"] or {}
    return {
        name: value
        for name, value in values.items()
        if not (isinstance(value, int) and value >= BELOW_ZERO)
    }


def saved_pages(facts: Facts) -> int:
    """Return pages_sharing + ksm_zero_pages (Linux 6.6 and newer)."""
    counters = ksm(facts)
    return int(counters["pages_sharing"]) + int(counters.get("ksm_zero_pages", 0))


def grown(facts: Facts, section: str, name: str) -> int:
    """Return the growth of a counter between the readings; 0 if the kernel does not have it."""
    first, last = (int((reading[section] or {}).get(name, 0)) for reading in facts["readings"])
    return last - first


def seconds_between(facts: Facts) -> float:
    """Return the seconds between the readings."""
    first, last = (float(reading["monotonic"]) for reading in facts["readings"])
    return last - first


def mergeable(facts: Facts, field: str) -> int:
    """Return the sum of a field, in bytes, over all memory that is offered to KSM."""
    every = facts["domains"] + facts["processes"]
    return sum(int(each["memory"]["mergeable"][field]) for each in every)


def mergeable_pages(facts: Facts) -> int:
    """Return the pages of a full scan: present anonymous pages, merged or not."""
    return mergeable(facts, "anonymous") // int(facts["host"]["page_size"])


def nominal_scan_seconds(facts: Facts) -> float:
    """Return the seconds of a full scan according to the knobs, without the time of scanning."""
    knobs = ksm(facts)
    naps = mergeable_pages(facts) / knobs["pages_to_scan"] if knobs["pages_to_scan"] else math.inf
    return naps * float(knobs["sleep_millisecs"]) / 1000


def measured_scan_seconds(facts: Facts) -> float | None:
    """Return the seconds of a full scan at the measured pace; None if too little was scanned."""
    visited = grown(facts, "ksm", "pages_scanned") + grown(facts, "ksm", "pages_skipped")
    if not runs(facts) or visited < LEAST_VISITED:
        return None
    return mergeable_pages(facts) / visited * seconds_between(facts)


def advised(facts: Facts) -> bool:
    """Whether the kernel's advisor sets pages_to_scan."""
    mode = str(ksm(facts).get("advisor_mode", "[none]"))
    return "[none]" not in mode


def runs(facts: Facts) -> bool:
    """Whether ksmd ran at both readings."""
    return all((reading["ksm"] or {}).get("run") == 1 for reading in facts["readings"])


def settled(facts: Facts) -> bool:
    """Whether ksmd has scanned often enough to judge the profit."""
    return int(ksm(facts)["full_scans"]) >= SETTLED_SCANS


def some(values: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return the values with these names, if they exist."""
    return {name: values[name] for name in names if name in values}


def pages_for_goal(pages: int) -> int:
    """Return the pages_to_scan that scans this many pages in GOAL_SECONDS."""
    return math.ceil(pages * USUAL_SLEEP_MILLISECS / 1000 / GOAL_SECONDS)
