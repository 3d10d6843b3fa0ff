"""The page of a diagnosis: findings with their fixes, and what memory could merge. No scripts."""

import math
from collections.abc import Mapping
from typing import Any

from ksm_analysis.doctor import facts as read
from ksm_analysis.doctor import words
from ksm_analysis.doctor.diagnosis import is_wrong
from ksm_analysis.doctor.facts import Facts
from ksm_analysis.doctor.finding import NOTE, SEVERITIES, Finding, hours, mib
from ksm_analysis.doctor.words import count
from ksm_analysis.page import sparks
from ksm_analysis.page.render import render
from ksm_analysis.page.tables import of_text
from ksm_analysis.page.tiles import Tile

MOST_BARS = 20  # processes with a bar of their own
KINDS = ("merged", "not merged", "not offered")
HEADS = ("host", "findings", "the worst", "offered", "saved", "full scan", "kernel")
Diagnosed = tuple[Facts, list[Finding]]


def page(hosts: Mapping[str, tuple[Facts | None, list[Finding]]], errors: dict[str, str]) -> str:
    """Return the page as text, of hosts that were read; `errors` say why others were not."""
    known = {name: (facts, found) for name, (facts, found) in hosts.items() if facts}
    sections = [_host(name, *each, n) for n, (name, each) in enumerate(known.items())]
    top = _alone(sections[0], *known[sections[0]["name"]]) if len(hosts) == 1 else None
    data = {
        **(top or _together(known, errors)),
        "warnings": [f"{name}: cannot be read: {why}" for name, why in errors.items()],
        "sections": sections,
    }
    return render("doctor.html.j2", _printable(data))


def _alone(section: dict[str, Any], facts: Facts, found: list[Finding]) -> dict[str, Any]:
    """Return the top of the page of a single host."""
    return {
        "name": section["name"],
        "links": [("memory-0", "Memory"), ("host-0", "Findings"), ("read-0", "What was read")],
        "tried": section["tried"],
        "verdict": section["verdict"],
        "tiles": _tiles(facts, found),
        "hosts": None,
    }


def _together(known: dict[str, Diagnosed], errors: dict[str, str]) -> dict[str, Any]:
    """Return the top of the page of several hosts."""
    return {
        "name": count(len(known) + len(errors), "host"),
        "links": [(f"host-{n}", name) for n, name in enumerate(known)],
        "tried": "Each host by itself; numbers of memory are sums",
        "verdict": _verdict_of_all(known, errors),
        "tiles": _tiles_of_all(known),
        "hosts": of_text(HEADS, [_row(name, *each) for name, each in known.items()], (0, 2, 6)),
    }


def _printable(value: Any) -> Any:
    """Return data without control characters: names are of a host, or of a file of others."""
    if isinstance(value, str):
        return words.printable(value)
    if isinstance(value, dict):
        return {key: _printable(each) for key, each in value.items()}
    return [*map(_printable, value)] if isinstance(value, list) else value


# --- in one sentence ------------------------------------------------------------------------------


def _wrong(found: list[Finding]) -> list[Finding]:
    return [each for each in found if each.severity != NOTE]


def _verdict(facts: Facts, found: list[Finding]) -> str:
    wrong = _wrong(found)
    if not wrong:
        return f"Nothing is wrong. {words.healthy(facts)}"
    first = f"{words.place(wrong[0].where)}: {wrong[0].what}"
    return f"{first}." if len(wrong) == 1 else f"{len(wrong)} findings. The worst: {first}."


def _verdict_of_all(known: dict[str, Diagnosed], errors: dict[str, str]) -> str:
    ill = {name: _wrong(found) for name, (_, found) in known.items() if is_wrong(found)}
    unread = f" {count(len(errors), 'host')} could not be read." if errors else ""
    if not ill:
        return f"Nothing is wrong on {count(len(known), 'host')}.{unread}"
    name = min(ill, key=lambda name: SEVERITIES.index(ill[name][0].severity))
    verb = "has" if len(ill) == 1 else "have"
    worst = f"{words.place(ill[name][0].where)}: {ill[name][0].what}"
    return (
        f"{len(ill)} of {count(len(known), 'host')} {verb} findings; the worst, on {name}: {worst}."
        f"{unread}"
    )


# --- tiles ----------------------------------------------------------------------------------------


def _tiles(facts: Facts, found: list[Finding]) -> list[Tile]:
    wrong, notes = _wrong(found), len(found) - len(_wrong(found))
    worst = words.TITLES[wrong[0].severity] if wrong else "nothing is wrong"
    whole = facts["host"]["memory_bytes"] or 0
    offered, saved = read.mergeable(facts, "anonymous"), read.saved_bytes(facts)
    tiles = [
        Tile(
            "Findings", str(len(wrong)), "", f"the worst {worst}" if wrong else worst, _notes(notes)
        ),
        Tile("Saved now", *_size(saved), f"of {mib(offered)} offered", "", _share(saved, offered)),
        Tile(
            "Offered to KSM",
            *_size(offered),
            f"of {mib(whole)} of the host" if whole else "",
            "",
            _share(offered, whole),
        ),
    ]
    if kept := sum(_not_offered(each) for each in facts["domains"]):
        tiles.append(Tile("Not offered", *_size(kept), "of the memory of guests, as it is"))
    seconds, cpu = read.scan_seconds(facts), read.ksmd_cpu(facts)
    if offered and math.isfinite(seconds):
        value, unit = hours(seconds).split(" ")
        how = "as measured" if read.measured_scan_seconds(facts) is not None else "by the knobs"
        tiles.append(Tile("A full scan takes", value, unit, how))
    if cpu is not None:
        share = sparks.share(100 * cpu)
        tiles.append(Tile("CPU use of ksmd", f"{100 * cpu:.0f}", "% of a CPU", "", "", share))
    return tiles


def _notes(notes: int) -> str:
    return f"and {count(notes, 'note')}" if notes else ""


def _size(size: float) -> tuple[str, str]:
    value, unit = mib(size).split(" ")
    return value, unit


def _share(part: float, whole: float) -> str:
    return sparks.share(100 * part / whole) if whole else ""


def _tiles_of_all(known: dict[str, Diagnosed]) -> list[Tile]:
    every = [facts for facts, _ in known.values()]
    ill = sum(is_wrong(found) for _, found in known.values())
    offered = sum(read.mergeable(facts, "anonymous") for facts in every)
    saved = sum(map(read.saved_bytes, every))
    return [
        Tile("Hosts", str(len(known)), "", "that were read"),
        Tile("With findings", str(ill), f"of {len(known)}", "", "", _share(ill, len(known))),
        Tile("Saved now", *_size(saved), f"of {mib(offered)} offered", "", _share(saved, offered)),
        Tile("Offered to KSM", *_size(offered), "on all hosts"),
    ]


def _row(name: str, facts: Facts, found: list[Finding]) -> list[str]:
    wrong, seconds = _wrong(found), read.scan_seconds(facts)
    return [
        name,
        str(len(wrong)),
        f"{wrong[0].finding}: {words.TITLES[wrong[0].severity]}" if wrong else "nothing is wrong",
        mib(read.mergeable(facts, "anonymous")),
        mib(read.saved_bytes(facts)),
        hours(seconds) if math.isfinite(seconds) else "",
        str(facts["host"]["kernel"]),
    ]


# --- one host -------------------------------------------------------------------------------------


def _host(name: str, facts: Facts, found: list[Finding], number: int) -> dict[str, Any]:
    knobs = facts["readings"][-1]["ksm"] or {}
    return {
        "id": f"host-{number}",
        "number": number,
        "name": name,
        "tried": words.looked_at(facts),
        "verdict": _verdict(facts, found),
        "memory": _memory(facts),
        "findings": [
            (words.TITLES[severity], severity, [_same(same) for same in words.alike(those)])
            for severity in SEVERITIES
            if (those := [each for each in found if each.severity == severity])
        ],
        "knobs": of_text(("name", "value"), [[name, str(value)] for name, value in knobs.items()]),
    }


def _same(same: list[Finding]) -> dict[str, Any]:
    """Return what is alike once, and what differs for each place."""
    return {
        "name": same[0].finding,
        "places": [
            (words.place(each.where), each.what, words.evidence(each.evidence)) for each in same
        ],
        "why": same[0].why,
        "fixes": [*dict.fromkeys(each.fix for each in same)],
    }


def _not_offered(process: Facts) -> int:
    """Return the bytes that are present and that KSM does not look at."""
    return sum(sums["resident"] for kind, sums in process["memory"].items() if kind != "mergeable")


def _memory(facts: Facts) -> dict[str, Any] | None:
    """Return a bar for each process, the largest first: merged, offered, and not offered."""
    page_size, bars = read.page_size(facts), []
    for kind, processes in (("guest", facts["domains"]), ("process", facts["processes"])):
        for each in processes:
            offered = each["memory"]["mergeable"]["anonymous"]
            stat = each["ksm_stat"].get("ksm_merging_pages", 0)
            seen = each["memory"]["mergeable"].get("ksm", 0)
            pages = stat * page_size if isinstance(stat, int) else 0
            merged = min(max(seen, pages), offered)
            sizes = (merged, offered - merged, _not_offered(each))
            bars.append((f"{kind} {each['name']} ({each['pid']})", sizes))
    bars.sort(key=lambda bar: -sum(bar[1]))
    rest = bars[MOST_BARS:]
    if rest:
        sums = [sum(sizes) for sizes in zip(*(sizes for _, sizes in rest), strict=True)]
        bars = [*bars[:MOST_BARS], (f"{len(rest)} others", (sums[0], sums[1], sums[2]))]
    most = max((sum(sizes) for _, sizes in bars), default=0)
    if not most:
        return None
    return {
        "kinds": KINDS,
        "bars": [
            {
                "name": name,
                "parts": [100 * size / most for size in sizes],
                "sizes": ", ".join(
                    f"{mib(size)} {kind}" for size, kind in zip(sizes, KINDS, strict=True) if size
                ),
            }
            for name, sizes in bars
        ],
    }
