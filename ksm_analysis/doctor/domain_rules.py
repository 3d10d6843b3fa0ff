"""Rules for a guest or another process; docs/doctor.md explains each finding. Pure."""

from collections.abc import Iterator
from typing import Any

from ksm_analysis.doctor import fixes
from ksm_analysis.doctor.facts import (
    ITEM_BYTES,
    Facts,
    enough_scans,
    guest_bytes,
    judged,
    ksm,
    page_size,
    scans_of,
    some,
)
from ksm_analysis.doctor.finding import BLOCKS, COSTS, LIMITS, NOTE, UNSEEN, Finding, mib

# A guest is reported if more than this part of its memory is not offered to KSM. Less is a ROM or
# the memory of a device.
MISSING = 0.1


def domain(facts: Facts, domain: dict[str, Any]) -> Iterator[Finding]:
    """Yield the findings of one domain."""
    yield from _kept_from_ksm(facts, domain)
    yield from _pinned(facts, domain)
    yield from unprofitable(facts, domain, "domain")


def _where(process: dict[str, Any], kind: str) -> dict[str, Any]:
    return {"kind": kind, "name": process["name"], "pid": process["pid"]}


def offered(domain: dict[str, Any]) -> float:
    """Return the mergeable part of a guest's memory; slightly more than 1 with mergeable ROMs."""
    configured = guest_bytes(domain)
    return float(domain["memory"]["mergeable"]["size"] / configured) if configured else 1.0


def _kept_from_ksm(facts: Facts, domain: dict[str, Any]) -> Iterator[Finding]:
    """Yield a finding for each known reason, or one without a reason."""
    if offered(domain) >= 1 - MISSING:
        return
    where, memory = _where(domain, "domain"), domain["memory"]
    evidence = {
        "vmm": domain["vmm"],
        "memory_bytes": guest_bytes(domain),
        **{f"{kind}_bytes": sums["size"] for kind, sums in memory.items() if sums["mappings"]},
        "mergeable_bytes": memory["mergeable"]["size"],
    }
    reasons = [*_reasons(facts, domain)]
    unknown = memory["unknown"]["size"] >= MISSING * guest_bytes(domain)
    if unknown and not reasons:
        yield _no_flags(facts, where, evidence)
        return
    for name, what, more, why, fix in reasons or [_unknown_reason(facts, domain)]:
        severity = BLOCKS if offered(domain) < MISSING else LIMITS
        yield Finding(name, severity, what, where, {**evidence, **more}, why, fix)


def _no_flags(facts: Facts, where: dict[str, Any], evidence: dict[str, Any]) -> Finding:
    return Finding(
        "flags-unseen",
        UNSEEN,
        "whether its memory is offered to KSM is not visible",
        where,
        {**evidence, **some(ksm(facts), "pages_shared", "pages_sharing", "full_scans")},
        f"Linux {facts['host']['kernel']} does not show the flags of mappings (VmFlags in "
        "/proc/PID/smaps, since 3.8).",
        "look at pages_sharing: if it is above 0, some memory is offered",
    )


def _reasons(facts: Facts, domain: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    settings, memory = domain["settings"], domain["memory"]
    least = MISSING * guest_bytes(domain)
    unmerged = [each["type"] for each in settings["backends"] if not each["merge"]]
    if settings["encrypted"]:
        yield _encrypted()
    elif settings["mem_merge"] is False or unmerged:
        yield _not_merged(facts, domain, unmerged)
    if memory["hugetlb"]["size"] >= least:
        yield _hugetlb(facts, domain)
    if memory["shared"]["size"] >= least:
        yield _shared(facts, domain)


def _not_merged(facts: Facts, domain: dict[str, Any], unmerged: list[str]) -> tuple[Any, ...]:
    xml, vmm = domain["libvirt"], domain["vmm"]
    more = {"mem_merge": domain["settings"]["mem_merge"], "backends_with_merge_off": unmerged}
    more |= {"nosharepages": xml["nosharepages"]} if xml else {}
    fix = fixes.change(facts, domain, "offer")
    if vmm == "cloud-hypervisor":
        return (
            "mem-merge-off",
            "its memory is not offered to KSM: mergeable=off, which is the default",
            more,
            "cloud-hypervisor calls madvise(MADV_MERGEABLE) only with --memory mergeable=on.",
            fix,
        )
    what = "nosharepages" if xml and xml.get("nosharepages") else "mem-merge=off"
    return (
        "mem-merge-off",
        f"its memory is not offered to KSM: {what}",
        more,
        "QEMU was told not to call madvise(MADV_MERGEABLE). This isolates a guest from others "
        "(docs/security.md), or excludes a guest that costs more than it saves.",
        fix,
    )


def _encrypted() -> tuple[Any, ...]:
    return (
        "encrypted",
        "its memory is encrypted",
        {"encrypted": True},
        "The host sees different bytes even if guests have equal pages; QEMU does not offer them.",
        "none: merging compares the memory of guests, and encryption prevents that",
    )


def _hugetlb(facts: Facts, domain: dict[str, Any]) -> tuple[Any, ...]:
    sums, settings = domain["memory"]["hugetlb"], domain["settings"]
    paths = [each.get("mem_path") for each in settings["backends"] if each.get("mem_path")]
    return (
        "hugetlbfs",
        f"{mib(sums['size'])} of its memory are on hugetlbfs",
        {"hugetlb_mappings": sums["mappings"], "mem_path": settings["mem_path"] or paths or None},
        "KSM merges small anonymous pages; pages of hugetlbfs are large and cannot be split.",
        fixes.change(facts, domain, "hugetlb")
        + "\n# the huge pages stay reserved until nr_hugepages is lowered",
    )


def _shared(facts: Facts, domain: dict[str, Any]) -> tuple[Any, ...]:
    sums, settings = domain["memory"]["shared"], domain["settings"]
    backends = [each["type"] for each in settings["backends"] if each["share"]]
    needs = (
        " Its vhost-user devices (virtiofs, DPDK) need shared memory, so they exclude KSM."
        if settings["vhost_user"]
        else ""
    )
    asked = domain["vmm"] == "cloud-hypervisor" and settings["mem_merge"]
    needs += " mergeable=on has no effect on it." if asked else ""
    return (
        "shared-memory",
        f"{mib(sums['size'])} of its memory are shared (MAP_SHARED)",
        {
            "shared_mappings": sums["mappings"],
            "shared_backends": backends,
            "vhost_user": settings["vhost_user"],
        },
        f"KSM merges private anonymous memory and ignores shared mappings.{needs}",
        (
            "first replace its vhost-user devices: virtiofs by 9p, a disk or NFS; others by "
            "virtio\n"
            if settings["vhost_user"]
            else ""
        )
        + fixes.change(facts, domain, "shared"),
    )


def _unknown_reason(facts: Facts, domain: dict[str, Any]) -> tuple[Any, ...]:
    part, pid, vmm = offered(domain), domain["pid"], domain["vmm"]
    what = f"only {part:.0%} of its memory is mergeable" if part else "its memory is not mergeable"
    if vmm != "qemu":
        return (
            "not-mergeable",
            f"{what}: {vmm if vmm != 'unknown' else 'its program'} does not offer it",
            {"ksm_stat": domain["ksm_stat"], "private": domain["memory"]["private"]["size"]},
            "The memory is private, so KSM could merge it, but no mapping has the flag mg in "
            "/proc/PID/smaps. "
            + (
                "cloud-hypervisor offers memory only with mergeable=on, which is not the default."
                if vmm == "cloud-hypervisor"
                else "KSM scans only memory that was offered by madvise or prctl."
            ),
            fixes.change(facts, domain, "offer"),
        )
    return (
        "not-mergeable",
        f"{what}, and its settings do not say why",
        {"ksm_stat": domain["ksm_stat"]},
        "Mappings that are offered have the flag mg in /proc/PID/smaps; most of this memory does "
        "not.",
        f"look: grep -B 30 'VmFlags:.* mg' /proc/{pid}/smaps. Was QEMU built without "
        "MADV_MERGEABLE, or did it withdraw the offer (MADV_UNMERGEABLE)?",
    )


def _pinned(facts: Facts, domain: dict[str, Any]) -> Iterator[Finding]:
    devices, files = domain["settings"]["vfio"], domain["vfio_files"]
    if not (devices or files):
        return
    yield Finding(
        "vfio",
        BLOCKS,
        f"its memory is pinned for {max(len(devices), 1)} assigned devices (VFIO)",
        _where(domain, "domain"),
        {
            "vfio": devices,
            "vfio_files": files,
            "locked_bytes": sum(sums["locked"] for sums in domain["memory"].values()),
            "pinned_bytes": domain["pinned"],
        },
        "A device may access all memory of its guest by DMA, so all of it is pinned, and KSM does "
        "not merge pinned pages. With a virtual IOMMU, only the mapped memory is pinned.",
        fixes.change(facts, domain, "vfio"),
    )


def unprofitable(facts: Facts, process: dict[str, Any], kind: str) -> Iterator[Finding]:
    """Yield a finding if merging a process costs more than it saves, after enough scans of it."""
    stat = process["ksm_stat"]
    profit = stat.get("ksm_process_profit", 0)
    if "full_scans" not in ksm(facts) or not isinstance(profit, int) or profit >= 0:
        return
    counters = ("ksm_process_profit", "ksm_rmap_items", "ksm_merging_pages", "ksm_zero_pages")
    evidence = {
        **some(stat, *counters),
        **some(ksm(facts), "full_scans"),
        "scans_of_it": round(scans_of(facts, process), 1),
        "age_seconds": process["age"],
    }
    if not judged(facts, process):
        yield _too_early(facts, process, kind, evidence)
        return
    yield Finding(
        "process-profit",
        COSTS,
        f"merging it uses {mib(-profit)} more memory than it saves",
        _where(process, kind),
        evidence,
        f"Fewer than 1 in {page_size(facts) // ITEM_BYTES} of its pages are merged, and ksmd keeps "
        f"a record of {ITEM_BYTES} bytes per page.",
        fixes.change(facts, process, "exclude") if kind == "domain" else _exclude(process),
    )


def _too_early(
    facts: Facts, process: dict[str, Any], kind: str, evidence: dict[str, Any]
) -> Finding:
    scans, enough = evidence["scans_of_it"], enough_scans(facts)
    return Finding(
        "too-early",
        NOTE,
        f"it has been through {scans:g} full scans, too few to judge: {enough} are needed",
        _where(process, kind),
        evidence,
        "ksmd records pages in the first scan and merges them in later ones. So far it uses "
        f"{mib(-evidence['ksm_process_profit'])} more memory for it than it saves.",
        "nothing needs to be done: wait, and look again",
    )


def _exclude(process: dict[str, Any]) -> str:
    if process["ksm_stat"].get("ksm_merge_any") == "yes":
        return (
            "do not offer it: MemoryKSM=no in its unit, or no PR_SET_MEMORY_MERGE in what starts it"
        )
    return "do not offer it: no MADV_MERGEABLE in the program"
