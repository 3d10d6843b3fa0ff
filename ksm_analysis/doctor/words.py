"""What the doctor says, in words: titles of severities, what was read, evidence."""

import json
from collections.abc import Iterable
from typing import Any

from ksm_analysis.doctor import facts as read
from ksm_analysis.doctor.finding import Finding, hours, mib

TITLES = {
    "danger": "endangers the host or its guests",
    "blocks": "keeps pages from merging",
    "limits": "merges less, or later",
    "costs": "wastes memory or time",
    "unseen": "not visible",
    "note": "for information",
}


def alike(found: Iterable[Finding]) -> list[list[Finding]]:
    """Group findings that have their reason in common, such as those of several domains."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for each in found:
        groups.setdefault((each.finding, each.why), []).append(each)
    return [*groups.values()]


def printable(text: str) -> str:
    """Return a text without control characters, which a name or a file may contain."""
    return "".join(
        each if each.isprintable() or each == "\n" else f"\\x{ord(each):02x}" for each in text
    )


def looked_at(facts: dict[str, Any]) -> str:
    """Describe what was read, and how."""
    domains, others = facts["domains"], facts["processes"]
    way = "libvirt and /proc" if facts["domains_from"] == "libvirt" else "/proc"
    why = f"; libvirt: {facts['libvirt']}" if facts["libvirt"] else ""
    kinds = sorted({each["vmm"] for each in domains})
    of = f" of {', '.join(kinds)}" if kinds and kinds != ["qemu"] else ""
    seconds = read.seconds_between(facts)
    times = f"read twice, {seconds:.0f} s apart" if seconds else "read once, so no rate is known"
    return printable(
        f"Linux {facts['host']['kernel']}; {count(len(domains), 'domain')}{of} (by {way}{why}), "
        f"{count(len(others), 'other process', 'es')} with mergeable memory; {times}"
    )


def healthy(facts: dict[str, Any]) -> str:
    """Describe why nothing is wrong."""
    counters = read.ksm(facts)
    if not {"run", "pages_sharing", "full_scans"} <= counters.keys():
        return "Another implementation merges here."
    size = mib(read.mergeable(facts, "anonymous"))
    runs = "ksmd runs" if counters["run"] == 1 else "ksmd is stopped"
    return (
        f"{runs}; {size} are mergeable and present; a full scan of them takes "
        f"{hours(read.scan_seconds(facts))}; "
        f"pages_sharing={counters['pages_sharing']:,}, full_scans={counters['full_scans']:,}."
    )


def count(number: int, noun: str, plural: str = "s") -> str:
    """Format a number and its noun."""
    return f"{number} {noun}{'' if number == 1 else plural}"


def place(where: dict[str, Any]) -> str:
    """Return the place of a finding."""
    return (
        "host" if where["kind"] == "host" else f"{where['kind']} {where['name']} ({where['pid']})"
    )


def evidence(values: dict[str, Any]) -> str:
    """Format names and values as the kernel does."""
    return " ".join(
        f"{name}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in values.items()
    )
