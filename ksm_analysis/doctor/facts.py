"""What can be read off the facts of a host. Pure.

Facts are what roles/doctor/files/ksm_facts.py prints: sizes are bytes, counters the kernel's.
"""

import math
from typing import Any

Facts = dict[str, Any]

USUAL_SLEEP_MILLISECS = 20
GOAL_SECONDS = 600
LEAST_VISITED = 1000  # pages between the readings, to tell a rate from
SETTLED_SCANS = 2  # general_profit is negative before: pages are known, and none is merged


def ksm(facts: Facts) -> dict[str, Any]:
    """Return knobs and counters as they were read last; empty if this kernel has no KSM."""
    return facts["readings"][-1]["ksm"] or {}


def grown(facts: Facts, section: str, name: str) -> int:
    """How much a counter has grown between the readings; 0 if the kernel does not have it."""
    first, last = (int((reading[section] or {}).get(name, 0)) for reading in facts["readings"])
    return last - first


def seconds_between(facts: Facts) -> float:
    """Seconds between the readings."""
    first, last = (float(reading["monotonic"]) for reading in facts["readings"])
    return last - first


def mergeable(facts: Facts, field: str) -> int:
    """Sum of a field, in bytes, over all memory that is offered to KSM."""
    every = facts["domains"] + facts["processes"]
    return sum(int(each["memory"]["mergeable"][field]) for each in every)


def mergeable_pages(facts: Facts) -> int:
    """Pages that a full scan looks at: anonymous ones that are present, merged or not."""
    return mergeable(facts, "anonymous") // int(facts["host"]["page_size"])


def nominal_scan_seconds(facts: Facts) -> float:
    """Seconds of a full scan if ksmd took no time to look at pages: what the knobs ask for."""
    knobs = ksm(facts)
    naps = mergeable_pages(facts) / knobs["pages_to_scan"] if knobs["pages_to_scan"] else math.inf
    return naps * float(knobs["sleep_millisecs"]) / 1000


def measured_scan_seconds(facts: Facts) -> float | None:
    """Seconds of a full scan at the pace between the readings; None if ksmd did too little."""
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
    """Whether ksmd has scanned often enough that a profit can be judged."""
    return int(ksm(facts)["full_scans"]) >= SETTLED_SCANS


def some(values: dict[str, Any], *names: str) -> dict[str, Any]:
    """Pick the values with these names, as far as they are there."""
    return {name: values[name] for name in names if name in values}


def pages_for_goal(pages: int) -> int:
    """Return the pages_to_scan that scans this many pages in GOAL_SECONDS."""
    return math.ceil(pages * USUAL_SLEEP_MILLISECS / 1000 / GOAL_SECONDS)
