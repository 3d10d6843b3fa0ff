"""Rules for a domain or another process; docs/doctor.md explains each finding. Pure."""

from collections.abc import Iterator
from typing import Any

from ksm_analysis.doctor.facts import (
    Facts,
    ksm,
    settled,
    some,
)
from ksm_analysis.doctor.finding import (
    BLOCKS,
    COSTS,
    LIMITS,
    Finding,
    mib,
)

# A guest is reported if more than this part of its memory is not offered to KSM. Less is a ROM or
# the memory of a device.
MISSING = 0.1


def domain(facts: Facts, domain: dict[str, Any]) -> Iterator[Finding]:
    """Yield the findings of one domain."""
    yield from _kept_from_ksm(domain)
    yield from _pinned(domain)
    yield from unprofitable(facts, domain, "domain")


def _where(process: dict[str, Any], kind: str) -> dict[str, Any]:
    return {"kind": kind, "name": process["name"], "pid": process["pid"]}


def offered(domain: dict[str, Any]) -> float:
    """Return the mergeable part of a guest's memory; slightly more than 1 with mergeable ROMs."""
    configured = domain["qemu"]["memory_bytes"]
    return domain["memory"]["mergeable"]["size"] / configured if configured else 1.0


def _kept_from_ksm(domain: dict[str, Any]) -> Iterator[Finding]:
    """Yield a finding for each known reason, or one without a reason."""
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
        "QEMU was told not to call madvise(MADV_MERGEABLE). This isolates a guest from others "
        "(docs/security.md), or excludes a guest that costs more than it saves.",
        _xml_fix(domain, "<nosharepages/>", "")
        if xml
        else "start its QEMU without mem-merge=off (-machine) and merge=off (-object); on is usual",
    )


def _encrypted() -> tuple[Any, ...]:
    return (
        "encrypted",
        "its memory is encrypted",
        {"encrypted": True},
        "The host sees different bytes even if guests have equal pages; QEMU does not offer them.",
        "none: merging compares the memory of guests, and encryption prevents that",
    )


def _hugetlb(domain: dict[str, Any]) -> tuple[Any, ...]:
    sums, xml = domain["memory"]["hugetlb"], domain["libvirt"]
    return (
        "hugetlbfs",
        f"{mib(sums['size'])} of its memory are on hugetlbfs",
        {"hugetlb_mappings": sums["mappings"], "mem_path": domain["qemu"]["mem_path"]},
        "KSM merges small anonymous pages; pages of hugetlbfs are large and cannot be split.",
        _xml_fix(domain, "<hugepages/>", "")
        if xml
        else "start its QEMU with memory-backend-ram, without -mem-path and hugetlb=on. "
        "Transparent huge pages can be merged.",
    )


def _shared(domain: dict[str, Any]) -> tuple[Any, ...]:
    sums, xml, user = domain["memory"]["shared"], domain["libvirt"], domain["qemu"]["vhost_user"]
    backends = [each["type"] for each in domain["qemu"]["backends"] if each["share"]]
    needs = (
        " Its vhost-user devices (virtiofs, DPDK) need shared memory, so they exclude KSM."
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
        f"KSM merges private anonymous memory and ignores shared mappings.{needs}",
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
        "Mappings that are offered have the flag mg in /proc/PID/smaps; most of this memory does "
        "not.",
        f"look: grep -B 30 'VmFlags:.* mg' /proc/{domain['pid']}/smaps. Was QEMU built without "
        "MADV_MERGEABLE, or did it withdraw the offer (MADV_UNMERGEABLE)?",
    )


def _xml_fix(domain: dict[str, Any], remove: str, add: str) -> str:
    """Return the change of a domain's XML and its restart, which the change requires."""
    name = domain["libvirt"]["name"]
    change = f"# remove {remove} of <memoryBacking>"
    if add:
        change += f"; replace with:\n    {add}"
    return f"virsh edit {name}\n{change}\nvirsh shutdown {name}; virsh start {name}"


def _pinned(domain: dict[str, Any]) -> Iterator[Finding]:
    devices, files = domain["qemu"]["vfio"], domain["vfio_files"]
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
        "give the guest a virtio device instead: remove the <hostdev>, or -device vfio-…",
    )


def unprofitable(facts: Facts, process: dict[str, Any], kind: str) -> Iterator[Finding]:
    """Yield a finding if merging a process costs more than it saves."""
    stat = process["ksm_stat"]
    profit = stat.get("ksm_process_profit", 0)
    if not ksm(facts) or profit >= 0 or not settled(facts):
        return
    counters = ("ksm_process_profit", "ksm_rmap_items", "ksm_merging_pages", "ksm_zero_pages")
    yield Finding(
        "process-profit",
        COSTS,
        f"merging it uses {mib(-profit)} more memory than it saves",
        _where(process, kind),
        {**some(stat, *counters), "full_scans": ksm(facts)["full_scans"]},
        "Fewer than 1 in 64 of its pages are merged, and ksmd keeps a record of 64 bytes per page.",
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
