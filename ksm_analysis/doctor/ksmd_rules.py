"""Rules for ksmd: whether it runs, how fast, and for how much CPU time; docs/doctor.md. Pure."""

import math
from collections.abc import Iterator
from typing import Any

from ksm_analysis.doctor import rulers
from ksm_analysis.doctor.facts import (
    GOAL_SECONDS,
    LEAST_VISITED,
    USUAL_SLEEP_MILLISECS,
    Facts,
    advised,
    enough_scans,
    grown,
    known_pages,
    ksm,
    ksmd_cpu,
    measured_scan_seconds,
    mergeable_pages,
    nominal_scan_seconds,
    offlining,
    pages_for_goal,
    reach,
    runs,
    saved_bytes,
    saved_pages,
    seconds_between,
    settled,
    some,
    visited,
)
from ksm_analysis.doctor.finding import BLOCKS, COSTS, HOST, KSM, LIMITS, NOTE, Finding, hours, mib

# Equal pages merge in the second full scan, or later: at this pace, after more than an hour.
SLOW_SECONDS = 1800
# Smart scan prevents merging if it skips this part of all pages, and at most this part is merged.
SKIPPED, MERGED = 0.5, 0.1
# ksmd's CPU time is reported from this part of a CPU on, if it saves less than this for each CPU,
# or scans everything again within so many seconds; and if what is saved hardly grows.
BUSY, YIELD, HASTY_SECONDS, GROWS = 0.2, 1024**3, 20, 0.01
FULL = 0.9  # of a CPU: ksmd cannot do more
USUAL_PAGES = 100


def ksmd(facts: Facts) -> Iterator[Finding]:
    """Yield the findings about ksmd."""
    if not ksm(facts):
        return
    for check in (_stopped, _still, _slow, _busy, _starving):
        yield from check(facts)


def _stopped(facts: Facts) -> Iterator[Finding]:
    knobs = ksm(facts)
    run = knobs.get("run", 1)
    evidence = some(knobs, "run", "pages_to_scan", "pages_shared", "pages_sharing")
    evidence |= {"units": [*facts["units"]]} if facts["units"] else {}
    evidence |= {"services": rulers.names(facts)} if facts["services"] else {}
    if run == 0:
        yield _run_0(facts, evidence)
    elif offlining(facts):
        yield Finding(
            "memory-offline",
            NOTE,
            f"the host is taking memory offline: run={run}",
            HOST,
            evidence,
            f"The kernel adds 4 to run ({run - 4}) while a block of memory goes offline, and ksmd "
            "waits until that is done. Merged pages stay merged.",
            "nothing needs to be done; if it stays so, see dmesg and /sys/devices/system/memory",
        )
    elif run != 1:
        yield Finding(
            "run-2",
            BLOCKS,
            f"ksmd is stopped, and all pages are unmerged: run={run}"
            if run == 2
            else f"ksmd does not run: run={run}, a value that Linux 6.18 does not have",
            HOST,
            evidence,
            "2 unmerges all pages and stops ksmd.",
            _start(facts),
        )
    elif knobs.get("pages_to_scan") == 0:
        yield Finding(
            "pages-to-scan-0",
            BLOCKS,
            "ksmd runs but scans nothing: pages_to_scan=0",
            HOST,
            evidence,
            "ksmd wakes up every sleep_millisecs and scans 0 pages.",
            f"echo {USUAL_PAGES} > {KSM}/pages_to_scan",
        )


def _run_0(facts: Facts, evidence: dict[str, Any]) -> Finding:
    wishes = [(name, rulers.wish(facts, name)) for name in rulers.names(facts)]
    known = [(name, wish) for name, wish in wishes if wish]
    intended = bool(known) and len(known) == len(wishes) and not any(wish.run for _, wish in known)
    says = "".join(f" {name}: {wish.says}." for name, wish in known)
    why = "Merged pages stay merged until they are written to; no more pages are merged."
    names = ", ".join(name for name, _ in wishes)
    if intended:
        return Finding(
            "run-0",
            NOTE,
            f"ksmd is stopped by {names}, as intended: enough memory is free",
            HOST,
            evidence,
            f"{why}{says}",
            f"nothing needs to be done; {_start(facts)}",
        )
    after = " After boot, run is 0."
    if known:
        after = (
            f"{says} So it should run: it may start at the next adjustment, or its configuration "
            "excludes this host."
        )
    elif facts["ksmd"] is None:
        after += " A program of the host that has stopped it is not visible from here."
    if "uksmd" in facts["programs"]:
        after += " uksmd offers the memory of programs, and does not start ksmd."
    return Finding(
        "run-0",
        BLOCKS,
        f"ksmd is stopped: run=0; {names} controls it" if names else "ksmd is stopped: run=0",
        HOST,
        evidence,
        why + after,
        _start(facts),
    )


def _start(facts: Facts) -> str:
    """Return how to start ksmd: at who rules it."""
    names = rulers.names(facts)
    if names:
        return "\n".join(rulers.configure(facts, name) for name in names)
    return f"echo 1 > {KSM}/run"


def _still(facts: Facts) -> Iterator[Finding]:
    """Yield a finding if ksmd should run and has pages to scan, but no counter changes."""
    knobs, seconds = ksm(facts), seconds_between(facts)
    counts = {"pages_scanned", "pages_to_scan", "sleep_millisecs"} <= knobs.keys()
    due = counts and seconds > 0.5 + 5 * knobs["sleep_millisecs"] / 1000
    if not (runs(facts) and due and knobs["pages_to_scan"] and mergeable_pages(facts)):
        return
    if visited(facts) == 0 and not ksmd_cpu(facts):
        yield Finding(
            "ksmd-still",
            BLOCKS,
            "ksmd should run but does not scan",
            HOST,
            {
                **some(knobs, "run", "pages_to_scan", "sleep_millisecs", "pages_scanned"),
                "visited": 0,
                "seconds": round(seconds, 1),
                "mergeable_pages": mergeable_pages(facts),
            },
            "There are pages to scan, but no page was scanned between the two readings.",
            "find out what ksmd waits for: cat /proc/$(pgrep -x ksmd)/stack; dmesg | tail",
        )


# --- pace -----------------------------------------------------------------------------------------


def _slow(facts: Facts) -> Iterator[Finding]:
    nominal, measured = nominal_scan_seconds(facts), measured_scan_seconds(facts)
    seconds, pages = nominal if measured is None else measured, mergeable_pages(facts)
    if not SLOW_SECONDS < seconds < math.inf:
        return
    if ksm(facts).get("run") == 0 and rulers.names(facts):
        return  # who starts ksmd sets its pace, too
    rate, known = reach(facts)
    cpu = ksmd_cpu(facts)
    yield Finding(
        "scan-slow",
        LIMITS,
        f"a full scan of {pages:,} mergeable pages takes {hours(seconds)}",
        HOST,
        {
            "mergeable_pages": pages,
            **some(ksm(facts), "pages_to_scan", "sleep_millisecs", "advisor_mode"),
            **some(ksm(facts), "advisor_target_scan_time", "advisor_max_cpu"),
            "nominal_scan_seconds": round(nominal, 1),
            "measured_scan_seconds": None if measured is None else round(measured, 1),
            "ksmd_cpu": None if cpu is None else round(cpu, 3),
            "pages_per_cpu_second": round(rate),
            "pages_per_cpu_second_from": "these readings" if known else "another host",
        },
        "Two equal pages are merged in the second full scan after they were written, or later. "
        "Pages that change more often than once per scan are never merged.",
        _advised_faster(facts, seconds) if advised(facts) else _faster(facts, pages),
    )


def _faster(facts: Facts, pages: int) -> str:
    rate, known = reach(facts)
    cpu, quickest = ksmd_cpu(facts), pages / rate
    reached = f"{rate:,.0f} pages a second" + ("" if known else " (measured on another host)")
    if cpu is not None and cpu >= FULL:
        return (
            f"no knob makes it faster: ksmd uses {cpu:.0%} of a CPU, and has one. With all of it, "
            f"it reaches {reached}. Offer less memory, or accept {hours(quickest)}"
        )
    if nominal_scan_seconds(facts) <= GOAL_SECONDS:
        return (
            "more pages_to_scan would not help: ksmd has too little CPU time. Raise its priority:\n"
            "renice -n 0 -p $(pgrep -x ksmd)    # the default is 5; it takes CPU time from guests"
        )
    seconds = max(GOAL_SECONDS, 2 * quickest)  # half a CPU, if the goal needs more
    wanted = math.ceil(pages_for_goal(pages) * GOAL_SECONDS / seconds)
    cost = f"{hours(seconds)} per scan; ksmd uses about {quickest / seconds:.0%} of a CPU"
    more = "" if seconds == GOAL_SECONDS else f", as it reaches {reached} with all of one"
    names = rulers.names(facts)
    if "ksmtuned" in names:
        return (
            f"in /etc/ksmtuned.conf: KSM_NPAGES_MAX={wanted}, KSM_NPAGES_MIN={wanted}, then "
            f"systemctl "
            f"restart ksmtuned    # {cost}{more}"
        )
    sleep = ksm(facts).get("sleep_millisecs") != USUAL_SLEEP_MILLISECS
    lines = [f"echo {USUAL_SLEEP_MILLISECS} > {KSM}/sleep_millisecs"] if sleep else []
    lines.append(f"echo {wanted} > {KSM}/pages_to_scan    # {cost}{more}")
    if names:
        lines.append(f"# {names[0]} will overwrite it: {rulers.configure(facts, names[0])}")
    return "\n".join(lines)


def _advised_faster(facts: Facts, seconds: float) -> str:
    """Return what speeds the advisor up, by its own formula (scan_time_advisor of mm/ksm.c).

    After each scan it sets pages_to_scan · scan time / target, but no more than pages_to_scan /
    (its CPU in %) · advisor_max_cpu, and no more than advisor_max_pages_to_scan.
    """
    knobs, cpu = ksm(facts), ksmd_cpu(facts)
    pages, target = knobs.get("pages_to_scan", 0), knobs.get("advisor_target_scan_time", 200)
    most_cpu = knobs.get("advisor_max_cpu", 70)
    most_pages = knobs.get("advisor_max_pages_to_scan", 30000)
    wanted = pages * seconds / target if target else pages
    by_cpu = pages / max(1, round(cpu * 100)) * most_cpu if cpu else math.inf
    planned = min(wanted, by_cpu, most_pages)
    rate, _ = reach(facts)
    need = mergeable_pages(facts) / GOAL_SECONDS / rate  # of a CPU
    at = f"{GOAL_SECONDS // 60} minutes a scan need about {need:.0%} of a CPU"
    if planned > 1.1 * pages:
        return (
            f"wait for the end of this scan: the advisor then sets pages_to_scan to about "
            f"{planned:,.0f} (pages_to_scan · scan time / advisor_target_scan_time, within "
            f"advisor_max_cpu={most_cpu} and advisor_max_pages_to_scan={most_pages}). Another "
            f"target "
            "changes nothing before that"
        )
    if need > FULL:
        return (
            f"no knob makes it fast: {at}, and ksmd has one. Offer less memory, or accept "
            f"{hours(mergeable_pages(facts) / rate)} with a whole CPU"
        )
    if most_pages <= min(wanted, by_cpu):
        more = math.ceil(most_pages * seconds / GOAL_SECONDS)
        return (
            f"echo {more} > {KSM}/advisor_max_pages_to_scan    # the advisor is at its limit; {at}"
        )
    if by_cpu < wanted:
        more = min(100, math.ceil(most_cpu * seconds / GOAL_SECONDS))
        return f"echo {more} > {KSM}/advisor_max_cpu    # the advisor is at its CPU limit; {at}"
    return f"echo {GOAL_SECONDS} > {KSM}/advisor_target_scan_time    # it is {target} s now; {at}"


def _busy(facts: Facts) -> Iterator[Finding]:
    """Yield a finding if ksmd uses much CPU time for what it saves."""
    cpu, saved, seconds = ksmd_cpu(facts), saved_bytes(facts), measured_scan_seconds(facts)
    if cpu is None or cpu < BUSY or not settled(facts):
        return
    new = grown(facts, "ksm", "pages_sharing") + grown(facts, "ksm", "ksm_zero_pages")
    hasty = seconds is not None and seconds < HASTY_SECONDS
    if new > GROWS * saved_pages(facts) or not (saved < YIELD * cpu or hasty):
        return
    scan = "" if seconds is None else f"; a full scan takes {max(1, round(seconds)):,} s"
    yield Finding(
        "ksmd-busy",
        COSTS,
        f"ksmd uses {cpu:.0%} of a CPU for {mib(saved)} that are saved{scan}",
        HOST,
        {
            "ksmd_cpu": round(cpu, 3),
            "saved_bytes": saved,
            "saved_pages_grown": new,
            "measured_scan_seconds": None if seconds is None else round(seconds, 1),
            **some(ksm(facts), "pages_to_scan", "sleep_millisecs", "advisor_mode"),
            **some(ksm(facts), "general_profit", "full_scans"),
            "seconds": round(seconds_between(facts), 1),
        },
        "What is saved hardly grows any more, and ksmd looks at the same pages again and again. "
        "Only pages that have changed need another look.",
        _calmer(facts),
    )


def _calmer(facts: Facts) -> str:
    names = rulers.names(facts)
    if advised(facts):
        return (
            f"echo {GOAL_SECONDS} > {KSM}/advisor_target_scan_time    # scan less often: what is "
            "merged stays merged, new pages merge later"
        )
    pages = max(USUAL_PAGES, pages_for_goal(mergeable_pages(facts)))
    if names:
        return f"scan less, at who controls it:\n{rulers.configure(facts, names[0])}"
    sleep = ksm(facts).get("sleep_millisecs", 0)
    lines = [f"echo {USUAL_SLEEP_MILLISECS} > {KSM}/sleep_millisecs"]
    return "\n".join(
        (lines if sleep < USUAL_SLEEP_MILLISECS else [])
        + [
            f"echo {pages} > {KSM}/pages_to_scan    # scan less often: what is merged stays "
            f"merged, "
            "new pages merge later"
        ]
    )


def _starving(facts: Facts) -> Iterator[Finding]:
    counters = ksm(facts)
    skipped, scanned = (grown(facts, "ksm", f"pages_{word}") for word in ("skipped", "scanned"))
    merged = counters.get("pages_shared", 0) + saved_pages(facts)
    known = known_pages(facts)
    seen = skipped + scanned
    if seen < LEAST_VISITED or skipped < SKIPPED * seen or merged > MERGED * known:
        return
    if not settled(facts):
        return
    yield Finding(
        "smart-scan",
        LIMITS,
        f"smart scan skips {skipped / seen:.0%} of the pages, and almost none is merged",
        HOST,
        {
            **some(counters, "smart_scan", "full_scans"),
            **some(counters, "pages_shared", "pages_sharing", "ksm_zero_pages"),
            "known_pages": known,
            "skipped": skipped,
            "scanned": scanned,
            "seconds": round(seconds_between(facts), 1),
            "enough_scans": enough_scans(facts),
        },
        "A page that did not merge is skipped in up to 8 of 9 scans, and is then not in the "
        "unstable tree. Each page has a clock of its own: two equal pages that are never looked at "
        "in the same scan do not merge, however long you wait. If there are no equal pages, "
        "nothing is wrong.",
        f"echo 0 > {KSM}/smart_scan    # for four full scans, in which ksmd uses more CPU; then 1 "
        "again: what has merged stays merged",
    )
