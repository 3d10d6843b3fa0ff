"""Why nothing merges: facts of a host in, findings out. Pure; docs/doctor.md has each one's reason.

Facts are what roles/doctor/files/ksm_facts.py prints: sizes are bytes, counters the kernel's.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

KSM = "/sys/kernel/mm/ksm"
# How bad it is, the worst first. What is only worth knowing is nothing wrong.
BLOCKS, LIMITS, COSTS, UNSEEN, NOTE = "blocks", "limits", "costs", "unseen", "note"
SEVERITIES = (BLOCKS, LIMITS, COSTS, UNSEEN, NOTE)

# A guest of which more than this is kept from KSM is told of. Less is a ROM or a device's memory.
MISSING = 0.1
# Equal pages meet in the second full scan, or later: at this pace, after more than an hour.
SLOW_SECONDS, GOAL_SECONDS = 1800, 600
USUAL_SLEEP_MILLISECS = 20
USUAL_MAX_PAGE_SHARING = 256
# Smart scan starves merging if it skips this part of all pages, and at most this part is merged.
SKIPPED, MERGED = 0.5, 0.1
LEAST_VISITED = 1000  # pages between the readings, to tell a rate from
SETTLED_SCANS = 2  # general_profit is negative before: pages are known, and none is merged
CHAINED = 0.05  # of the pages saved, that would be saved too if max_page_sharing did not forbid it
HUGE = 0.5  # of the mergeable memory


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth knowing."""

    finding: str  # its name, the same in docs/doctor.md
    severity: str
    what: str
    where: dict[str, Any]  # kind (host, domain or process), and name and pid of the latter two
    evidence: dict[str, Any]  # names as in the facts, and their values
    why: str
    fix: str

    def plain(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)


HOST = {"kind": "host", "name": None, "pid": None}


def findings(facts: dict[str, Any]) -> list[Finding]:
    """Everything that is wrong, or worth knowing, the worst first."""
    found = [
        *_host(facts),
        *(each for domain in facts["domains"] for each in _domain(facts, domain)),
    ]
    for process in facts["processes"]:
        found += _unprofitable(facts, process, "process")
    found += _nothing_offered(facts, found)
    return sorted(found, key=lambda each: SEVERITIES.index(each.severity))


def is_wrong(found: list[Finding]) -> bool:
    """Whether any of these is more than worth knowing."""
    return any(each.severity != NOTE for each in found)


# --- what is read off the facts -------------------------------------------------------------------


def ksm(facts: dict[str, Any]) -> dict[str, Any] | None:
    """Knobs and counters as they were read last; None if this kernel has no KSM."""
    return facts["readings"][-1]["ksm"]


def grown(facts: dict[str, Any], section: str, name: str) -> int:
    """How much a counter has grown between the readings; 0 if the kernel has not got it."""
    first, last = (reading[section] or {} for reading in facts["readings"])
    return last.get(name, 0) - first.get(name, 0)


def seconds_between(facts: dict[str, Any]) -> float:
    """Time between the readings."""
    first, last = facts["readings"]
    return last["monotonic"] - first["monotonic"]


def mergeable(facts: dict[str, Any], field: str) -> int:
    """Sum of a field, in bytes, over all memory that is offered to KSM."""
    every = facts["domains"] + facts["processes"]
    return sum(each["memory"]["mergeable"][field] for each in every)


def mergeable_pages(facts: dict[str, Any]) -> int:
    """Pages that a full scan looks at: anonymous ones that are present, merged or not."""
    return mergeable(facts, "anonymous") // facts["host"]["page_size"]


def nominal_scan_seconds(facts: dict[str, Any]) -> float:
    """Time of a full scan if it took ksmd none to look at pages: what the knobs ask for."""
    knobs = ksm(facts)
    naps = mergeable_pages(facts) / knobs["pages_to_scan"] if knobs["pages_to_scan"] else math.inf
    return naps * knobs["sleep_millisecs"] / 1000


def measured_scan_seconds(facts: dict[str, Any]) -> float | None:
    """Time of a full scan at the pace between the readings; None if ksmd did too little to tell."""
    visited = grown(facts, "ksm", "pages_scanned") + grown(facts, "ksm", "pages_skipped")
    if not _runs(facts) or visited < LEAST_VISITED:
        return None
    return mergeable_pages(facts) / visited * seconds_between(facts)


def advised(facts: dict[str, Any]) -> bool:
    """Whether the kernel's advisor rules pages_to_scan."""
    mode = str((ksm(facts) or {}).get("advisor_mode", "[none]"))
    return "[none]" not in mode


def _runs(facts: dict[str, Any]) -> bool:
    return all((reading["ksm"] or {}).get("run") == 1 for reading in facts["readings"])


def _settled(facts: dict[str, Any]) -> bool:
    return ksm(facts)["full_scans"] >= SETTLED_SCANS


def _some(values: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: values[name] for name in names if name in values}


# --- the host -------------------------------------------------------------------------------------


def _host(facts: dict[str, Any]) -> Iterator[Finding]:
    yield from _unreadable(facts)
    yield from _rulers(facts)
    if ksm(facts) is None:
        yield from _absent(facts)
        return
    checks = (_stopped, _still, _slow, _starving, _chained, _split, _costly, _collapsing, _huge)
    for check in (*checks, _changing):
        yield from check(facts)


def _absent(facts: dict[str, Any]) -> Iterator[Finding]:
    yield Finding(
        "ksm-absent",
        BLOCKS,
        "this kernel has no KSM",
        HOST,
        {"directory": None, **_some(facts["host"], "kernel", "config_ksm")},
        f"{KSM} does not exist: no page of this host can be merged.",
        "boot a kernel that was built with CONFIG_KSM=y; Debian's linux-image-amd64 is",
    )


def _stopped(facts: dict[str, Any]) -> Iterator[Finding]:
    knobs = ksm(facts)
    evidence = _some(knobs, "run", "pages_to_scan", "pages_shared", "pages_sharing")
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


def _stopper(facts: dict[str, Any]) -> dict[str, Any]:
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


def _still(facts: dict[str, Any]) -> Iterator[Finding]:
    """Nothing moves, though ksmd is to run, has something to scan, and had the time to begin."""
    knobs, seconds = ksm(facts), seconds_between(facts)
    visited = grown(facts, "ksm", "pages_scanned") + grown(facts, "ksm", "pages_skipped")
    counts = "pages_scanned" in knobs
    due = seconds > 0.5 + 5 * knobs["sleep_millisecs"] / 1000
    if not (_runs(facts) and counts and due and knobs["pages_to_scan"] and mergeable_pages(facts)):
        return
    if visited == 0:
        yield Finding(
            "ksmd-still",
            BLOCKS,
            "ksmd is let run and does not move",
            HOST,
            {
                **_some(knobs, "run", "pages_to_scan", "sleep_millisecs", "pages_scanned"),
                "visited": 0,
                "seconds": round(seconds, 1),
                "mergeable_pages": mergeable_pages(facts),
            },
            "There are pages to look at, and it looked at none between two readings.",
            "look at what ksmd waits for: cat /proc/$(pgrep -x ksmd)/stack; dmesg | tail",
        )


def _slow(facts: dict[str, Any]) -> Iterator[Finding]:
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
            **_some(ksm(facts), "pages_to_scan", "sleep_millisecs", "advisor_mode"),
            "nominal_scan_seconds": round(nominal, 1),
            "measured_scan_seconds": None if measured is None else round(measured, 1),
        },
        "Two equal pages are merged in the second full scan after they were written, or later. "
        "Pages that change in less time than a scan takes are never merged.",
        _faster(facts, pages),
    )


def hours(seconds: float) -> str:
    """A long time, no finer than it is good for."""
    return f"{seconds / 3600:.1f} hours" if seconds >= 3600 else f"{seconds / 60:.0f} minutes"


def pages_for_goal(pages: int) -> int:
    """Return the pages_to_scan that goes through so many pages in GOAL_SECONDS."""
    return math.ceil(pages * USUAL_SLEEP_MILLISECS / 1000 / GOAL_SECONDS)


def _faster(facts: dict[str, Any], pages: int) -> str:
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


def _starving(facts: dict[str, Any]) -> Iterator[Finding]:
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
            **_some(counters, "smart_scan", "full_scans", "pages_shared", "pages_sharing"),
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


def _chained(facts: dict[str, Any]) -> Iterator[Finding]:
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
            **_some(counters, "max_page_sharing", "pages_shared", "pages_sharing"),
            **_some(counters, "stable_node_chains", "stable_node_dups"),
            "sharing_to_shared": round(sharing / shared, 2) if shared else None,
            "lost_pages": lost,
        },
        f"A page may be mapped {limit} times; of contents that are there more often, a further "
        "copy is kept for each so many. stable_node_dups counts the copies of all such contents.",
        f"echo 2 > {KSM}/run    # unmerges everything: memory must be free for it\n"
        f"echo {USUAL_MAX_PAGE_SHARING} > {KSM}/max_page_sharing\necho 1 > {KSM}/run",
    )


def _split(facts: dict[str, Any]) -> Iterator[Finding]:
    knobs, nodes = ksm(facts), facts["host"]["numa_nodes"]
    if knobs.get("merge_across_nodes", 1) or nodes < 2:
        return
    yield Finding(
        "numa-split",
        LIMITS,
        f"equal pages on different NUMA nodes are not merged: there are {nodes}",
        HOST,
        {**_some(knobs, "merge_across_nodes"), "numa_nodes": nodes},
        "Each node has trees of its own: contents that are on all nodes stay in memory once for "
        "each. That saves accesses to distant memory; it is a choice, if it was one.",
        f"echo 2 > {KSM}/run    # unmerges everything: memory must be free for it\n"
        f"echo 1 > {KSM}/merge_across_nodes\necho 1 > {KSM}/run",
    )


def _costly(facts: dict[str, Any]) -> Iterator[Finding]:
    counters = ksm(facts)
    profit = counters.get("general_profit", 0)
    if profit >= 0 or not _settled(facts):
        return
    yield Finding(
        "general-profit",
        COSTS,
        f"KSM takes {mib(-profit)} more memory than it saves",
        HOST,
        _some(counters, "general_profit", "full_scans", "pages_sharing", "ksm_zero_pages"),
        "ksmd keeps a record of 64 bytes (32 on 32-bit machines) for each page that it knows. If "
        "fewer than one page in 64 is saved, the records take more.",
        "keep from KSM what does not merge (ksm_process_profit of each domain), or end it all:\n"
        f"echo 2 > {KSM}/run",
    )


def _collapsing(facts: dict[str, Any]) -> Iterator[Finding]:
    """Zero pages are holes to khugepaged, which fills them."""
    counters, thp = ksm(facts), facts["huge_pages"] or {}
    holes = (thp.get("khugepaged") or {}).get("max_ptes_none", 0)
    open_to = {"always": "size", "madvise": "advised_huge"}.get(thp.get("enabled"))
    size = mergeable(facts, open_to) if open_to else 0
    if not (counters.get("use_zero_pages") and holes and size):
        return
    yield Finding(
        "khugepaged-zero",
        LIMITS,
        "khugepaged fills again what use_zero_pages has emptied",
        HOST,
        {
            **_some(counters, "use_zero_pages", "ksm_zero_pages"),
            "enabled": thp["enabled"],
            "max_ptes_none": holes,
            "open_to_huge_pages": size,
            "thp_collapse_alloc": grown(facts, "vmstat", "thp_collapse_alloc"),
        },
        f"To khugepaged the kernel's zero page is a hole. Where up to {holes} of the pages of a "
        "huge one are holes, it makes it whole, and allocates them all.",
        "echo 0 > /sys/kernel/mm/transparent_hugepage/khugepaged/max_ptes_none",
    )


def _huge(facts: dict[str, Any]) -> Iterator[Finding]:
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


def _changing(facts: dict[str, Any]) -> Iterator[Finding]:
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


def _rulers(facts: dict[str, Any]) -> Iterator[Finding]:
    services, advisor = facts["services"], advised(facts)
    names = ", ".join(sorted({service["name"] for service in services}))
    pids = {service["name"]: service["pid"] for service in services}
    if services and advisor:
        yield Finding(
            "two-rulers",
            LIMITS,
            f"{names} and the kernel's advisor both rule pages_to_scan",
            HOST,
            {**_some(ksm(facts), "advisor_mode", "pages_to_scan"), **pids},
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
            {**_some(ksm(facts) or {}, "run", "advisor_mode", "pages_to_scan"), **pids},
            "What you write to them will be written over.",
            f"systemctl disable --now {names}" if services else f"echo none > {KSM}/advisor_mode",
        )


def _unreadable(facts: dict[str, Any]) -> Iterator[Finding]:
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


def _nothing_offered(facts: dict[str, Any], found: list[Finding]) -> Iterator[Finding]:
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


# --- domains --------------------------------------------------------------------------------------


def _domain(facts: dict[str, Any], domain: dict[str, Any]) -> Iterator[Finding]:
    yield from _kept_from_ksm(domain)
    yield from _pinned(domain)
    yield from _unprofitable(facts, domain, "domain")


def _where(process: dict[str, Any], kind: str) -> dict[str, Any]:
    return {"kind": kind, "name": process["name"], "pid": process["pid"]}


def offered(domain: dict[str, Any]) -> float:
    """Part of a guest's memory that is mergeable; a little more than 1 where ROMs are, too."""
    configured = domain["qemu"]["memory_bytes"]
    return domain["memory"]["mergeable"]["size"] / configured if configured else 1.0


def _kept_from_ksm(domain: dict[str, Any]) -> Iterator[Finding]:
    """Each reason that is evident; if none is, the bare fact."""
    if offered(domain) >= 1 - MISSING:
        return
    evidence = {
        "memory_bytes": domain["qemu"]["memory_bytes"],
        **{f"{kind}_bytes": sums["size"] for kind, sums in domain["memory"].items()},
    }
    reasons = [*_reasons(domain)] or [_unknown_reason(domain)]
    for name, what, more, why, fix in reasons:
        severity = BLOCKS if offered(domain) < MISSING else LIMITS
        where = _where(domain, "domain")
        yield Finding(name, severity, what, where, {**evidence, **more}, why, fix)


def _reasons(domain: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    settings, memory = domain["qemu"], domain["memory"]
    least = MISSING * settings["memory_bytes"]
    unmerged = [each["type"] for each in settings["backends"] if not each["merge"]]
    if settings["encrypted"]:
        yield _encrypted()
    elif not settings["mem_merge"] or unmerged:
        yield _not_merged(domain, unmerged)
    if memory["hugetlb"]["size"] >= least:
        yield _hugetlb(domain)
    if memory["shared"]["size"] >= least:
        yield _shared(domain)


def _not_merged(domain: dict[str, Any], unmerged: list[str]) -> tuple[Any, ...]:
    xml = domain["libvirt"]
    more = {"mem_merge": domain["qemu"]["mem_merge"], "backends_with_merge_off": unmerged}
    what = "nosharepages" if xml and xml["nosharepages"] else "mem-merge=off"
    return (
        "mem-merge-off",
        f"its memory is not offered to KSM: {what}",
        more | ({"nosharepages": xml["nosharepages"]} if xml else {}),
        "QEMU was told not to call madvise(MADV_MERGEABLE). That is how a guest is kept apart from "
        "others (docs/security.md), or from costing more than it saves.",
        _xml_fix(domain, "<nosharepages/>", "")
        if xml
        else "start its QEMU without mem-merge=off (-machine) and merge=off (-object); on is usual",
    )


def _encrypted() -> tuple[Any, ...]:
    return (
        "encrypted",
        "its memory is encrypted",
        {"encrypted": True},
        "The host sees different bytes even where guests hold the same; QEMU does not offer them.",
        "none: encryption keeps guests apart, and merging needs to compare them",
    )


def _hugetlb(domain: dict[str, Any]) -> tuple[Any, ...]:
    sums, xml = domain["memory"]["hugetlb"], domain["libvirt"]
    return (
        "hugetlbfs",
        f"{mib(sums['size'])} of its memory are on hugetlbfs",
        {"hugetlb_mappings": sums["mappings"], "mem_path": domain["qemu"]["mem_path"]},
        "KSM merges small anonymous pages; pages of hugetlbfs are neither small nor splittable.",
        _xml_fix(domain, "<hugepages/>", "")
        if xml
        else "start its QEMU with memory-backend-ram, without -mem-path and hugetlb=on. "
        "Transparent huge pages can be merged.",
    )


def _shared(domain: dict[str, Any]) -> tuple[Any, ...]:
    sums, xml, user = domain["memory"]["shared"], domain["libvirt"], domain["qemu"]["vhost_user"]
    backends = [each["type"] for each in domain["qemu"]["backends"] if each["share"]]
    needs = (
        " Its vhost-user devices (virtiofs, DPDK) need shared memory: it is they or KSM."
        if user
        else ""
    )
    return (
        "shared-memory",
        f"{mib(sums['size'])} of its memory are shared (MAP_SHARED)",
        {
            "shared_mappings": sums["mappings"],
            "shared_backends": backends,
            "vhost_user": user,
        },
        f"KSM merges private anonymous memory; of shared mappings it ignores the offer.{needs}",
        _xml_fix(
            domain,
            "<source type='memfd'/> and <access mode='shared'/>",
            "<source type='anonymous'/>\n    <access mode='private'/>",
        )
        if xml
        else "start its QEMU with memory-backend-ram,share=off, not with share=on or a memfd",
    )


def _unknown_reason(domain: dict[str, Any]) -> tuple[Any, ...]:
    return (
        "not-mergeable",
        f"only {offered(domain):.0%} of its memory is mergeable, and its settings do not say why",
        {"ksm_stat": domain["ksm_stat"]},
        "A mapping that was offered has the flag mg in /proc/PID/smaps; too little of this has.",
        f"look: grep -B 30 'VmFlags:.* mg' /proc/{domain['pid']}/smaps. Was it built without "
        "MADV_MERGEABLE, or has it taken it back (MADV_UNMERGEABLE)?",
    )


def _xml_fix(domain: dict[str, Any], remove: str, add: str) -> str:
    """The change of a domain's XML. Memory is set up at start, so it takes one."""
    name = domain["libvirt"]["name"]
    change = f"# remove {remove} of <memoryBacking>"
    if add:
        change += f"; put in their place:\n    {add}"
    return f"virsh edit {name}\n{change}\nvirsh shutdown {name}; virsh start {name}"


def _pinned(domain: dict[str, Any]) -> Iterator[Finding]:
    devices, files = domain["qemu"]["vfio"], domain["vfio_files"]
    if not (devices or files):
        return
    yield Finding(
        "vfio",
        BLOCKS,
        f"its memory is pinned for {max(len(devices), 1)} devices that it was given (VFIO)",
        _where(domain, "domain"),
        {
            "vfio": devices,
            "vfio_files": files,
            "locked_bytes": sum(sums["locked"] for sums in domain["memory"].values()),
            "pinned_bytes": domain["pinned"],
        },
        "A device reaches all memory of its guest by DMA, so all of it is pinned; a page that "
        "others than page tables hold is not merged. With a virtual IOMMU it is what that maps.",
        "give the guest a virtio device instead: remove the <hostdev>, or -device vfio-…",
    )


def _unprofitable(facts: dict[str, Any], process: dict[str, Any], kind: str) -> Iterator[Finding]:
    stat = process["ksm_stat"]
    profit = stat.get("ksm_process_profit", 0)
    if ksm(facts) is None or profit >= 0 or not _settled(facts):
        return
    counters = ("ksm_process_profit", "ksm_rmap_items", "ksm_merging_pages", "ksm_zero_pages")
    yield Finding(
        "process-profit",
        COSTS,
        f"merging it takes {mib(-profit)} more memory than it saves",
        _where(process, kind),
        {**_some(stat, *counters), "full_scans": ksm(facts)["full_scans"]},
        "Of its pages fewer than 1 in 64 are merged, and ksmd keeps a record of 64 bytes for each.",
        _exclude(process, kind),
    )


def _exclude(process: dict[str, Any], kind: str) -> str:
    if kind == "process":
        return "do not offer it: MemoryKSM=no in its unit, or no MADV_MERGEABLE in the program"
    xml = process["libvirt"]
    if xml is None:
        return "start its QEMU with -machine mem-merge=off"
    name = xml["name"]
    return (
        f"virsh edit {name}\n<memoryBacking><nosharepages/></memoryBacking>\n"
        f"virsh shutdown {name}; virsh start {name}"
    )


def mib(size: int) -> str:
    """Bytes, in words."""
    if size < 1024**2:
        return f"{size / 1024:,.0f} KiB"
    return f"{size / 1024**2:,.0f} MiB" if size < 10 * 1024**3 else f"{size / 1024**3:,.1f} GiB"
