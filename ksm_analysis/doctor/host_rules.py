"""Findings of a host as a whole; docs/doctor.md has the reason for each. Pure."""

import math
from collections.abc import Iterator
from typing import Any

from ksm_analysis.doctor.facts import (
    GOAL_SECONDS,
    LEAST_VISITED,
    USUAL_SLEEP_MILLISECS,
    Facts,
    advised,
    grown,
    ksm,
    measured_scan_seconds,
    mergeable,
    mergeable_pages,
    nominal_scan_seconds,
    pages_for_goal,
    runs,
    seconds_between,
    settled,
    some,
)
from ksm_analysis.doctor.finding import (
    BLOCKS,
    COSTS,
    HOST,
    KSM,
    LIMITS,
    NOTE,
    UNSEEN,
    Finding,
    hours,
    mib,
)

# Equal pages meet in the second full scan, or later: at this pace, after more than an hour.
SLOW_SECONDS = 1800
USUAL_MAX_PAGE_SHARING = 256
# Smart scan starves merging if it skips this part of all pages, and at most this part is merged.
SKIPPED, MERGED = 0.5, 0.1
CHAINED = 0.05  # of the pages saved, that would be saved too if max_page_sharing did not forbid it
HUGE = 0.5  # of the mergeable memory


def host(facts: Facts) -> Iterator[Finding]:
    """Yield findings of the host as a whole."""
    yield from _unreadable(facts)
    yield from _kvm_closed(facts)
    yield from _rulers(facts)
    if not ksm(facts):
        yield from _absent(facts)
        return
    checks = (_stopped, _still, _slow, _starving, _chained, _split, _costly, _collapsing, _huge)
    for check in (*checks, _changing):
        yield from check(facts)


def _absent(facts: Facts) -> Iterator[Finding]:
    yield Finding(
        "ksm-absent",
        BLOCKS,
        "this kernel has no KSM",
        HOST,
        {"directory": None, **some(facts["host"], "kernel", "config_ksm")},
        f"{KSM} does not exist: no page of this host can be merged.",
        "boot a kernel that was built with CONFIG_KSM=y; Debian's linux-image-amd64 is",
    )


def _stopped(facts: Facts) -> Iterator[Finding]:
    knobs = ksm(facts)
    evidence = some(knobs, "run", "pages_to_scan", "pages_shared", "pages_sharing")
    evidence |= {"units": [*facts["units"]]} if facts["units"] else {}
    stopper = _stopper(facts)
    start = f"echo 1 > {KSM}/run"
    if knobs["run"] == 0:
        yield Finding(
            "run-0",
            BLOCKS,
            "ksmd is stopped: run=0",
            HOST,
            {**evidence, **stopper},
            "What is merged stays merged until it is written; no more is. A boot sets run=0.",
            _restart(start, stopper),
        )
    elif knobs["run"] != 1:
        yield Finding(
            "run-2",
            BLOCKS,
            f"ksmd is stopped, and all is unmerged: run={knobs['run']}",
            HOST,
            {**evidence, **stopper},
            "2 breaks up all that was merged, and keeps ksmd from merging it again.",
            _restart(start, stopper),
        )
    elif not knobs["pages_to_scan"]:
        yield Finding(
            "pages-to-scan-0",
            BLOCKS,
            "ksmd runs and looks at nothing: pages_to_scan=0",
            HOST,
            evidence,
            "It wakes up every sleep_millisecs, and scans as many pages as it was told to: none.",
            f"echo 100 > {KSM}/pages_to_scan",
        )


def _stopper(facts: Facts) -> dict[str, Any]:
    names = [service["name"] for service in facts["services"]]
    return {"services": names} if names else {}


def _restart(start: str, stopper: dict[str, Any]) -> str:
    if not stopper:
        return start
    if "ksmtuned" not in stopper["services"]:
        return (
            f"{start}    # {', '.join(stopper['services'])} may stop it again: it rules the knobs"
        )
    return (
        "ksmtuned stops ksmd while enough memory is free (KSM_THRES_COEF in /etc/ksmtuned.conf). "
        f"To merge always:\nsystemctl disable --now ksmtuned\n{start}"
    )


def _still(facts: Facts) -> Iterator[Finding]:
    """Nothing moves, though ksmd is to run, has something to scan, and had the time to begin."""
    knobs, seconds = ksm(facts), seconds_between(facts)
    visited = grown(facts, "ksm", "pages_scanned") + grown(facts, "ksm", "pages_skipped")
    counts = "pages_scanned" in knobs
    due = seconds > 0.5 + 5 * knobs["sleep_millisecs"] / 1000
    if not (runs(facts) and counts and due and knobs["pages_to_scan"] and mergeable_pages(facts)):
        return
    if visited == 0:
        yield Finding(
            "ksmd-still",
            BLOCKS,
            "ksmd is let run and does not move",
            HOST,
            {
                **some(knobs, "run", "pages_to_scan", "sleep_millisecs", "pages_scanned"),
                "visited": 0,
                "seconds": round(seconds, 1),
                "mergeable_pages": mergeable_pages(facts),
            },
            "There are pages to look at, and it looked at none between two readings.",
            "look at what ksmd waits for: cat /proc/$(pgrep -x ksmd)/stack; dmesg | tail",
        )


def _slow(facts: Facts) -> Iterator[Finding]:
    nominal, measured = nominal_scan_seconds(facts), measured_scan_seconds(facts)
    seconds, pages = nominal if measured is None else measured, mergeable_pages(facts)
    if not SLOW_SECONDS < seconds < math.inf:
        return
    yield Finding(
        "scan-slow",
        LIMITS,
        f"a full scan of {pages:,} mergeable pages takes {hours(seconds)}",
        HOST,
        {
            "mergeable_pages": pages,
            **some(ksm(facts), "pages_to_scan", "sleep_millisecs", "advisor_mode"),
            "nominal_scan_seconds": round(nominal, 1),
            "measured_scan_seconds": None if measured is None else round(measured, 1),
        },
        "Two equal pages are merged in the second full scan after they were written, or later. "
        "Pages that change in less time than a scan takes are never merged.",
        _faster(facts, pages),
    )


def _faster(facts: Facts, pages: int) -> str:
    if nominal_scan_seconds(facts) <= GOAL_SECONDS:
        return (
            "more pages_to_scan would not help: ksmd does not keep up with it. Give it more CPU:\n"
            "renice -n 0 -p $(pgrep -x ksmd)    # it has 5"
        )
    wanted, minutes = pages_for_goal(pages), GOAL_SECONDS // 60
    sleep = ksm(facts)["sleep_millisecs"] != USUAL_SLEEP_MILLISECS
    lines = [f"echo {USUAL_SLEEP_MILLISECS} > {KSM}/sleep_millisecs"] if sleep else []
    if advised(facts):
        lines += [f"echo {GOAL_SECONDS} > {KSM}/advisor_target_scan_time"]
        if wanted > ksm(facts).get("advisor_max_pages_to_scan", wanted):
            lines += [f"echo {wanted} > {KSM}/advisor_max_pages_to_scan"]
    else:
        lines += [f"echo {wanted} > {KSM}/pages_to_scan"]
    return "\n".join(
        [*lines[:-1], f"{lines[-1]}    # {minutes} minutes a scan; ksmd takes more CPU"]
    )


def _starving(facts: Facts) -> Iterator[Finding]:
    counters = ksm(facts)
    skipped, scanned = (grown(facts, "ksm", f"pages_{word}") for word in ("skipped", "scanned"))
    visited = skipped + scanned
    merged = counters["pages_shared"] + counters["pages_sharing"]
    known = merged + counters["pages_unshared"] + counters["pages_volatile"]
    if visited < LEAST_VISITED or skipped < SKIPPED * visited or merged > MERGED * known:
        return
    yield Finding(
        "smart-scan",
        LIMITS,
        f"smart scan passes over {skipped / visited:.0%} of the pages, and hardly any is merged",
        HOST,
        {
            **some(counters, "smart_scan", "full_scans", "pages_shared", "pages_sharing"),
            "known_pages": known,
            "skipped": skipped,
            "scanned": scanned,
            "seconds": round(seconds_between(facts), 1),
        },
        "A page that did not merge is skipped in up to 8 of 9 scans, and leaves the unstable tree "
        "meanwhile: two equal pages that are skipped in different scans do not meet. Where there "
        "are no equal pages, this is as it should be.",
        f"echo 0 > {KSM}/smart_scan    # and look again after two full scans",
    )


def _chained(facts: Facts) -> Iterator[Finding]:
    counters = ksm(facts)
    chains = counters.get("stable_node_chains", 0)
    lost = counters.get("stable_node_dups", 0) - chains
    sharing, shared = counters["pages_sharing"], counters["pages_shared"]
    limit = counters.get("max_page_sharing", 0)
    # With the default only frames that have emptied since cost more, and ksmd is rid of them soon.
    if not chains or lost <= CHAINED * sharing or limit >= USUAL_MAX_PAGE_SHARING:
        return
    yield Finding(
        "max-page-sharing",
        LIMITS,
        f"max_page_sharing={limit} costs {lost:,} pages, beside {sharing:,} that are saved",
        HOST,
        {
            **some(counters, "max_page_sharing", "pages_shared", "pages_sharing"),
            **some(counters, "stable_node_chains", "stable_node_dups"),
            "sharing_to_shared": round(sharing / shared, 2) if shared else None,
            "lost_pages": lost,
        },
        f"A page may be mapped {limit} times; of contents that are there more often, a further "
        "copy is kept for each so many. stable_node_dups counts the copies of all such contents.",
        f"echo 2 > {KSM}/run    # unmerges everything: memory must be free for it\n"
        f"echo {USUAL_MAX_PAGE_SHARING} > {KSM}/max_page_sharing\necho 1 > {KSM}/run",
    )


def _split(facts: Facts) -> Iterator[Finding]:
    knobs, nodes = ksm(facts), facts["host"]["numa_nodes"]
    if knobs.get("merge_across_nodes", 1) or nodes < 2:
        return
    yield Finding(
        "numa-split",
        LIMITS,
        f"equal pages on different NUMA nodes are not merged: there are {nodes}",
        HOST,
        {**some(knobs, "merge_across_nodes"), "numa_nodes": nodes},
        "Each node has trees of its own: contents that are on all nodes stay in memory once for "
        "each. That saves accesses to distant memory; it is a choice, if it was one.",
        f"echo 2 > {KSM}/run    # unmerges everything: memory must be free for it\n"
        f"echo 1 > {KSM}/merge_across_nodes\necho 1 > {KSM}/run",
    )


def _costly(facts: Facts) -> Iterator[Finding]:
    counters = ksm(facts)
    profit = counters.get("general_profit", 0)
    if profit >= 0 or not settled(facts):
        return
    yield Finding(
        "general-profit",
        COSTS,
        f"KSM takes {mib(-profit)} more memory than it saves",
        HOST,
        some(counters, "general_profit", "full_scans", "pages_sharing", "ksm_zero_pages"),
        "ksmd keeps a record of 64 bytes (32 on 32-bit machines) for each page that it knows. If "
        "fewer than one page in 64 is saved, the records take more.",
        "keep from KSM what does not merge (ksm_process_profit of each domain), or end it all:\n"
        f"echo 2 > {KSM}/run",
    )


def _collapsing(facts: Facts) -> Iterator[Finding]:
    """Zero pages are holes to khugepaged, which fills them."""
    counters, thp = ksm(facts), facts["huge_pages"] or {}
    holes = (thp.get("khugepaged") or {}).get("max_ptes_none", 0)
    open_to = {"always": "size", "madvise": "advised_huge"}.get(str(thp.get("enabled")))
    size = mergeable(facts, open_to) if open_to else 0
    if not (counters.get("use_zero_pages") and holes and size):
        return
    yield Finding(
        "khugepaged-zero",
        LIMITS,
        "khugepaged fills again what use_zero_pages has emptied",
        HOST,
        {
            **some(counters, "use_zero_pages", "ksm_zero_pages"),
            "enabled": thp["enabled"],
            "max_ptes_none": holes,
            "open_to_huge_pages": size,
            "thp_collapse_alloc": grown(facts, "vmstat", "thp_collapse_alloc"),
        },
        f"To khugepaged the kernel's zero page is a hole. Where up to {holes} of the pages of a "
        "huge one are holes, it makes it whole, and allocates them all.",
        "echo 0 > /sys/kernel/mm/transparent_hugepage/khugepaged/max_ptes_none",
    )


def _huge(facts: Facts) -> Iterator[Finding]:
    huge, anonymous = mergeable(facts, "huge"), mergeable(facts, "anonymous")
    if not anonymous or huge < HUGE * anonymous:
        return
    thp = facts["huge_pages"] or {}
    yield Finding(
        "huge-pages-whole",
        NOTE,
        f"{huge / anonymous:.0%} of the mergeable memory is in huge pages that are still whole",
        HOST,
        {
            "huge": huge,
            "anonymous": anonymous,
            "ksm": mergeable(facts, "ksm"),
            "enabled": thp.get("enabled"),
            "full_scans": ksm(facts)["full_scans"],
            "thp_split_page": grown(facts, "vmstat", "thp_split_page"),
            "thp_collapse_alloc": grown(facts, "vmstat", "thp_collapse_alloc"),
        },
        "Nothing in them is merged: ksmd looks at each small page of a transparent huge one, and "
        "splits the huge one to merge it. So they hide no duplicates; what is whole after some "
        "full scans has none that ksmd found. Merging costs the speed of huge pages.",
        "nothing needs to be done; for memory rather than speed: "
        "echo never > /sys/kernel/mm/transparent_hugepage/enabled",
    )


def _changing(facts: Facts) -> Iterator[Finding]:
    """What somebody has written to a knob between the readings. The advisor writes one itself."""
    first, last = (reading["ksm"] or {} for reading in facts["readings"])
    ruled = {"pages_to_scan"} if advised(facts) else set()
    knobs = [name for name in KNOBS if name in last and first.get(name) != last[name]]
    changed = {name: [first.get(name), last[name]] for name in knobs if name not in ruled}
    if changed:
        yield Finding(
            "knobs-change",
            LIMITS,
            f"somebody is changing the knobs: {', '.join(changed)}",
            HOST,
            {**changed, "seconds": round(seconds_between(facts), 1), **_stopper(facts)},
            "Two readings of them differ. What you set will not last.",
            "find out who writes: ksmtuned, oVirt's MOM, an experiment, or a person:\n"
            f"pgrep -af 'ksmtuned|momd'; fuser -v {KSM}/run",
        )


# Writable files of the directory: docs/metrics.md has the counters.
KNOBS = (
    *("run", "pages_to_scan", "sleep_millisecs", "merge_across_nodes", "use_zero_pages"),
    *("max_page_sharing", "stable_node_chains_prune_millisecs", "smart_scan", "advisor_mode"),
    *("advisor_max_cpu", "advisor_target_scan_time"),
    *("advisor_min_pages_to_scan", "advisor_max_pages_to_scan"),
)


def _rulers(facts: Facts) -> Iterator[Finding]:
    services, advisor = facts["services"], advised(facts)
    names = ", ".join(sorted({service["name"] for service in services}))
    pids = {service["name"]: service["pid"] for service in services}
    if services and advisor:
        yield Finding(
            "two-rulers",
            LIMITS,
            f"{names} and the kernel's advisor both rule pages_to_scan",
            HOST,
            {**some(ksm(facts), "advisor_mode", "pages_to_scan"), **pids},
            "While the advisor is on, the kernel refuses what the service writes (EINVAL) and sets "
            "pages_to_scan itself after each scan.",
            f"systemctl disable --now {names}\nor\necho none > {KSM}/advisor_mode",
        )
    elif services or advisor:
        yield Finding(
            "ruled",
            NOTE,
            f"the knobs are ruled by {names or 'the advisor of the kernel'}",
            HOST,
            {**some(ksm(facts), "run", "advisor_mode", "pages_to_scan"), **pids},
            "What you write to them will be written over.",
            f"systemctl disable --now {names}" if services else f"echo none > {KSM}/advisor_mode",
        )


def _kvm_closed(facts: Facts) -> Iterator[Finding]:
    """libvirt, as root, finds KVM when it probes QEMU; QEMU's own user then cannot open it."""
    device = facts.get("kvm")  # none on hosts without KVM, and in facts of earlier versions
    if not device or not device["user"] or device["opens"]:
        return
    yield Finding(
        "kvm-closed",
        COSTS,
        f"root can open /dev/kvm, and {device['user']}, the user of QEMU, cannot",
        HOST,
        some(device, "mode", "owner", "group", "user", "groups"),
        "libvirt probes QEMU as root and finds KVM, then sees that QEMU cannot use it, discards "
        "what it found and probes again (about 4 s) whenever it looks. Guests start slowly, and "
        "run without KVM.",
        "chgrp kvm /dev/kvm; chmod 0660 /dev/kvm\n"
        "To keep it so after a reboot, where udev runs, in /etc/udev/rules.d/65-kvm.rules:\n"
        'KERNEL=="kvm", GROUP="kvm", MODE="0660"\n'
        f"If it is so already: usermod -aG kvm {device['user']}. Then restart libvirt.",
    )


def _unreadable(facts: Facts) -> Iterator[Finding]:
    count = facts["unreadable_processes"]
    if not count:
        return
    names = [each["name"] or f"pid {each['pid']}" for each in facts["unreadable"]]
    yield Finding(
        "permission",
        UNSEEN,
        f"the memory of {count} processes could not be read, {len(names)} QEMU among them",
        HOST,
        {"unreadable_processes": count, "qemu": names, "root": facts["host"]["root"]},
        "The kernel tells of a process's memory to its owner and to root. What is said here does "
        "not count what could not be read.",
        "look as root: ansible_user: root, or ansible_become: true, in the inventory",
    )


def nothing_offered(facts: Facts, found: list[Finding]) -> Iterator[Finding]:
    """Yield a finding if no memory is offered, unless a domain's finding says why."""
    told = any(each.where["kind"] == "domain" and each.severity == BLOCKS for each in found)
    if told or mergeable(facts, "size"):
        return
    yield Finding(
        "nothing-offered",
        BLOCKS if not facts["unreadable_processes"] else UNSEEN,
        "no process offers memory to KSM",
        HOST,
        {"domains": len(facts["domains"]), "mergeable_mappings": 0},
        "KSM looks only at memory that was offered with madvise(MADV_MERGEABLE), as QEMU does, or "
        "prctl(PR_SET_MEMORY_MERGE), as systemd does for MemoryKSM=yes.",
        "start a guest; or, for a service, in its unit:\n[Service]\nMemoryKSM=yes",
    )
