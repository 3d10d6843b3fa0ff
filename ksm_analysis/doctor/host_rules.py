"""Rules for a host as a whole; docs/doctor.md explains each finding. Pure."""

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
    saved_pages,
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

# Equal pages merge in the second full scan, or later: at this pace, after more than an hour.
SLOW_SECONDS = 1800
USUAL_MAX_PAGE_SHARING = 256
# Smart scan prevents merging if it skips this part of all pages, and at most this part is merged.
SKIPPED, MERGED = 0.5, 0.1
CHAINED = 0.05  # of the saved pages: additional savings that max_page_sharing prevents
HUGE = 0.5  # part of the mergeable memory


def host(facts: Facts) -> Iterator[Finding]:
    """Yield the findings of the host."""
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
        f"{KSM} does not exist: this host cannot merge pages.",
        "boot a kernel with CONFIG_KSM=y, such as Debian's linux-image-amd64",
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
            "Merged pages stay merged until they are written to; no more pages are merged. After "
            "boot, run is 0.",
            _restart(start, stopper),
        )
    elif knobs["run"] != 1:
        yield Finding(
            "run-2",
            BLOCKS,
            f"ksmd is stopped, and all pages are unmerged: run={knobs['run']}",
            HOST,
            {**evidence, **stopper},
            "2 unmerges all pages and stops ksmd.",
            _restart(start, stopper),
        )
    elif not knobs["pages_to_scan"]:
        yield Finding(
            "pages-to-scan-0",
            BLOCKS,
            "ksmd runs but scans nothing: pages_to_scan=0",
            HOST,
            evidence,
            "ksmd wakes up every sleep_millisecs and scans 0 pages.",
            f"echo 100 > {KSM}/pages_to_scan",
        )


def _stopper(facts: Facts) -> dict[str, Any]:
    names = [service["name"] for service in facts["services"]]
    return {"services": names} if names else {}


def _restart(start: str, stopper: dict[str, Any]) -> str:
    if not stopper:
        return start
    if "ksmtuned" not in stopper["services"]:
        return f"{start}    # {', '.join(stopper['services'])} may stop it again: it sets the knobs"
    return (
        "ksmtuned stops ksmd while enough memory is free (KSM_THRES_COEF in /etc/ksmtuned.conf). "
        f"To merge always:\nsystemctl disable --now ksmtuned\n{start}"
    )


def _still(facts: Facts) -> Iterator[Finding]:
    """Yield a finding if ksmd should run and has pages to scan, but no counter changes."""
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
        "Pages that change more often than once per scan are never merged.",
        _faster(facts, pages),
    )


def _faster(facts: Facts, pages: int) -> str:
    if nominal_scan_seconds(facts) <= GOAL_SECONDS:
        return (
            "more pages_to_scan would not help: ksmd has too little CPU time. Raise its priority:\n"
            "renice -n 0 -p $(pgrep -x ksmd)    # the default is 5"
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
        [*lines[:-1], f"{lines[-1]}    # {minutes} minutes per scan; ksmd uses more CPU"]
    )


def _starving(facts: Facts) -> Iterator[Finding]:
    counters = ksm(facts)
    skipped, scanned = (grown(facts, "ksm", f"pages_{word}") for word in ("skipped", "scanned"))
    visited = skipped + scanned
    merged = counters["pages_shared"] + saved_pages(facts)
    known = merged + counters["pages_unshared"] + counters["pages_volatile"]
    if visited < LEAST_VISITED or skipped < SKIPPED * visited or merged > MERGED * known:
        return
    yield Finding(
        "smart-scan",
        LIMITS,
        f"smart scan skips {skipped / visited:.0%} of the pages, and almost none is merged",
        HOST,
        {
            **some(counters, "smart_scan", "full_scans"),
            **some(counters, "pages_shared", "pages_sharing", "ksm_zero_pages"),
            "known_pages": known,
            "skipped": skipped,
            "scanned": scanned,
            "seconds": round(seconds_between(facts), 1),
        },
        "A page that did not merge is skipped in up to 8 of 9 scans, and is then not in the "
        "unstable tree. Two equal pages that are skipped in different scans do not merge. If there "
        "are no equal pages, nothing is wrong.",
        f"echo 0 > {KSM}/smart_scan    # and check again after two full scans",
    )


def _chained(facts: Facts) -> Iterator[Finding]:
    counters = ksm(facts)
    chains = counters.get("stable_node_chains", 0)
    lost = counters.get("stable_node_dups", 0) - chains
    sharing, shared, saved = counters["pages_sharing"], counters["pages_shared"], saved_pages(facts)
    limit = counters.get("max_page_sharing", 0)
    # With the default, only frames with few remaining mappings cost more, and ksmd soon frees them.
    if not chains or lost <= CHAINED * saved or limit >= USUAL_MAX_PAGE_SHARING:
        return
    yield Finding(
        "max-page-sharing",
        LIMITS,
        f"max_page_sharing={limit} costs {lost:,} pages, and {saved:,} are saved",
        HOST,
        {
            **some(counters, "max_page_sharing", "pages_shared", "pages_sharing", "ksm_zero_pages"),
            **some(counters, "stable_node_chains", "stable_node_dups"),
            "sharing_to_shared": round(sharing / shared, 2) if shared else None,
            "lost_pages": lost,
        },
        f"A merged page may have {limit} mappings. Contents that occur more often need another "
        f"copy for every {limit} mappings. stable_node_dups counts these copies.",
        f"echo 2 > {KSM}/run    # unmerges all pages, which needs free memory\n"
        f"echo {USUAL_MAX_PAGE_SHARING} > {KSM}/max_page_sharing\necho 1 > {KSM}/run",
    )


def _split(facts: Facts) -> Iterator[Finding]:
    knobs, nodes = ksm(facts), facts["host"]["numa_nodes"]
    if knobs.get("merge_across_nodes", 1) or nodes < 2:
        return
    yield Finding(
        "numa-split",
        LIMITS,
        f"equal pages on different NUMA nodes are not merged: there are {nodes} nodes",
        HOST,
        {**some(knobs, "merge_across_nodes"), "numa_nodes": nodes},
        "Each node has its own trees: contents on several nodes stay in memory once per node. "
        "This avoids accesses to distant memory, and may be intended.",
        f"echo 2 > {KSM}/run    # unmerges all pages, which needs free memory\n"
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
        f"KSM uses {mib(-profit)} more memory than it saves",
        HOST,
        some(counters, "general_profit", "full_scans", "pages_sharing", "ksm_zero_pages"),
        "ksmd keeps a record of 64 bytes (32 or 36 on 32-bit machines) for each tracked page. If "
        "fewer than one page in 64 is saved, the records use more memory.",
        "exclude domains that do not merge (see their ksm_process_profit), or turn KSM off:\n"
        f"echo 2 > {KSM}/run",
    )


def _collapsing(facts: Facts) -> Iterator[Finding]:
    """Yield a finding if khugepaged fills zero pages, which it treats as holes."""
    counters, thp = ksm(facts), facts["huge_pages"] or {}
    holes = (thp.get("khugepaged") or {}).get("max_ptes_none", 0)
    open_to = {"always": "size", "madvise": "advised_huge"}.get(str(thp.get("enabled")))
    size = mergeable(facts, open_to) if open_to else 0
    if not (counters.get("use_zero_pages") and holes and size):
        return
    yield Finding(
        "khugepaged-zero",
        LIMITS,
        "khugepaged allocates pages again that use_zero_pages has freed",
        HOST,
        {
            **some(counters, "use_zero_pages", "ksm_zero_pages"),
            "enabled": thp["enabled"],
            "max_ptes_none": holes,
            "open_to_huge_pages": size,
            "thp_collapse_alloc": grown(facts, "vmstat", "thp_collapse_alloc"),
        },
        f"khugepaged treats the kernel's zero page as a hole. If at most {holes} pages of a huge "
        "page are holes, it makes a huge page and allocates them all.",
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
        f"{huge / anonymous:.0%} of the mergeable memory is in huge pages that are not split",
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
        "Nothing in them is merged: ksmd scans each small page of a transparent huge page, and "
        "splits the huge page to merge it. So they hide no duplicates: in huge pages that are not "
        "split after some full scans, ksmd has found none. Merging costs the speed of huge pages.",
        "nothing needs to be done; to prefer memory over speed: "
        "echo never > /sys/kernel/mm/transparent_hugepage/enabled",
    )


def _changing(facts: Facts) -> Iterator[Finding]:
    """Yield a finding for knobs that changed between the readings, except by the advisor."""
    first, last = (reading["ksm"] or {} for reading in facts["readings"])
    ruled = {"pages_to_scan"} if advised(facts) else set()
    knobs = [name for name in KNOBS if name in last and first.get(name) != last[name]]
    changed = {name: [first.get(name), last[name]] for name in knobs if name not in ruled}
    if changed:
        yield Finding(
            "knobs-change",
            LIMITS,
            f"another program or user changes the knobs: {', '.join(changed)}",
            HOST,
            {**changed, "seconds": round(seconds_between(facts), 1), **_stopper(facts)},
            "The two readings differ. Your settings will be overwritten.",
            "find out what writes them: ksmtuned, oVirt's MOM, an experiment, or a user:\n"
            f"pgrep -af 'ksmtuned|momd'; fuser -v {KSM}/run",
        )


# Writable files of the directory; docs/metrics.md lists the counters.
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
            f"{names} and the kernel's advisor both control pages_to_scan",
            HOST,
            {**some(ksm(facts), "advisor_mode", "pages_to_scan"), **pids},
            "While the advisor is on, the kernel refuses writes of the service (EINVAL) and sets "
            "pages_to_scan itself after each scan.",
            f"systemctl disable --now {names}\nor\necho none > {KSM}/advisor_mode",
        )
    elif services or advisor:
        yield Finding(
            "ruled",
            NOTE,
            f"the knobs are controlled by {names or 'the advisor of the kernel'}",
            HOST,
            {**some(ksm(facts), "run", "advisor_mode", "pages_to_scan"), **pids},
            "Your settings will be overwritten.",
            f"systemctl disable --now {names}" if services else f"echo none > {KSM}/advisor_mode",
        )


def _kvm_closed(facts: Facts) -> Iterator[Finding]:
    """Yield a finding if root can open /dev/kvm but QEMU's user cannot."""
    device = facts.get("kvm")  # missing on hosts without KVM, and in facts of earlier versions
    if not device or not device["user"] or device["opens"]:
        return
    yield Finding(
        "kvm-closed",
        COSTS,
        f"root can open /dev/kvm, and {device['user']}, the user of QEMU, cannot",
        HOST,
        some(device, "mode", "owner", "group", "user", "groups"),
        "libvirt probes QEMU as root and finds KVM, then sees that QEMU cannot use it, discards "
        "the result and probes again (about 4 s) each time. Guests start slowly, and run without "
        "KVM.",
        "chgrp kvm /dev/kvm; chmod 0660 /dev/kvm\n"
        "To make this permanent with udev, in /etc/udev/rules.d/65-kvm.rules:\n"
        'KERNEL=="kvm", GROUP="kvm", MODE="0660"\n'
        f"If this is already set: usermod -aG kvm {device['user']}. Then restart libvirt.",
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
        "The kernel shows the memory of a process only to its owner and to root. The findings do "
        "not include memory that could not be read.",
        "read as root: ansible_user: root, or ansible_become: true, in the inventory",
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
        "KSM scans only memory that was offered with madvise(MADV_MERGEABLE), as QEMU does, or "
        "prctl(PR_SET_MEMORY_MERGE), as systemd does for MemoryKSM=yes.",
        "start a guest; or set in the unit of a service:\n[Service]\nMemoryKSM=yes",
    )
