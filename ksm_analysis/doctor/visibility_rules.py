"""Rules about what could not be seen, or is not KSM as it is known; docs/doctor.md. Pure."""

from collections.abc import Iterator

from ksm_analysis.doctor import fixes
from ksm_analysis.doctor.facts import (
    Facts,
    has_prctl,
    hidden,
    impossible,
    known_pages,
    ksm,
    mergeable,
    page_size,
    some,
    visited,
)
from ksm_analysis.doctor.finding import (
    BLOCKS,
    HOST,
    KSM,
    LIMITS,
    NOTE,
    UNSEEN,
    Finding,
)
from ksm_analysis.doctor.ruler_rules import KNOBS

UKSM = "/sys/kernel/mm/uksm"
NEEDED = ("run", "pages_to_scan", "sleep_millisecs", "full_scans", "pages_shared", "pages_sharing")
# Counters of Linux 6.18, and knobs of distributions that have rules of their own.
COUNTERS = {
    *("pages_shared", "pages_sharing", "pages_unshared", "pages_volatile", "full_scans"),
    *("stable_node_chains", "stable_node_dups", "general_profit", "pages_scanned"),
    *("ksm_zero_pages", "pages_skipped"),
}
OF_DISTRIBUTIONS = {"redhat_only_zero_pages"}


def seen(facts: Facts) -> Iterator[Finding]:
    """Yield findings about what is not visible, and what is not known."""
    yield from _absent(facts)
    yield from _unreadable(facts)
    yield from _sysfs(facts)
    yield from _hidden(facts)
    yield from _impossible(facts)
    yield from _unknown(facts)


def absent(facts: Facts) -> bool:
    """Whether the kernel has no KSM: its directory does not exist."""
    return facts["readings"][-1]["ksm"] is None


def _absent(facts: Facts) -> Iterator[Finding]:
    uksm = facts["readings"][-1]["uksm"]
    if uksm is not None:
        stopped = uksm.get("run") == 0 and absent(facts)
        yield Finding(
            "uksm",
            LIMITS if stopped else NOTE,
            "this kernel merges with UKSM, another implementation, "
            + ("which is stopped" if stopped else f"at {UKSM}"),
            HOST,
            {**some(facts["host"], "kernel"), "directory": UKSM, **uksm},
            "UKSM scans the memory of all processes, offered or not, and has its own knobs and "
            "counters. "
            + (
                f"{KSM} does not exist, and the findings for KSM do not apply."
                if absent(facts)
                else f"The other findings are those of {KSM} alone."
            ),
            f"echo 1 > {UKSM}/run"
            if stopped
            else f"nothing needs to be done; its knobs are in {UKSM}: cpu_governor, "
            "max_cpu_percentage, run",
        )
        return
    if not absent(facts):
        return
    yield Finding(
        "ksm-absent",
        BLOCKS,
        "this kernel has no KSM",
        HOST,
        {"directory": None, **some(facts["host"], "kernel", "config_ksm")},
        f"{KSM} does not exist: this host cannot merge pages.",
        "boot a kernel with CONFIG_KSM=y, such as Debian's linux-image-amd64",
    )


def _unreadable(facts: Facts) -> Iterator[Finding]:
    count = facts["unreadable_processes"]
    if not count:
        return
    names = [each["name"] or f"pid {each['pid']}" for each in facts["unreadable"]]
    yield Finding(
        "permission",
        UNSEEN,
        f"not visible: the memory of {count} processes, {len(names)} guests among them",
        HOST,
        {"unreadable_processes": count, "guests": names, "root": facts["host"]["root"]},
        "The kernel shows the memory of a process only to its owner and to root. The findings do "
        "not include memory that could not be read.",
        "read as root: ansible_user: root, or ansible_become: true, in the inventory",
    )


def _sysfs(facts: Facts) -> Iterator[Finding]:
    refused = facts["readings"][-1]["ksm_unreadable"]
    missing = [name for name in NEEDED if name not in (facts["readings"][-1]["ksm"] or {})]
    if absent(facts) or not (refused or missing):
        return
    what = "all of it" if len(missing) == len(NEEDED) else ", ".join(refused or missing)
    yield Finding(
        "sysfs-unreadable",
        UNSEEN,
        f"not visible: {KSM} cannot be read ({what})",
        HOST,
        {"unreadable": refused, "missing": missing, "root": facts["host"]["root"]},
        "KSM is there, and its knobs and counters are kept from this user, by the mode of the "
        "files or by confinement (AppArmor, SELinux, snap, a container). Findings that need them "
        "are missing; all others stand.",
        f"read as root, unconfined: ls -ld {KSM}; ls -l {KSM}",
    )


def _hidden(facts: Facts) -> Iterator[Finding]:
    """Yield a finding if /proc is not, or not all of, the host's."""
    if absent(facts):
        return
    values, root = ksm(facts), facts["host"]["root"]
    no_ksmd = facts["ksmd"] is None
    if not no_ksmd and not hidden(facts):
        return
    evidence = {
        "ksmd_visible": not no_ksmd,
        "visible_processes": facts["visible_processes"],
        "mergeable_pages_visible": mergeable(facts, "anonymous") // page_size(facts),
        "known_pages": known_pages(facts),
        **some(values, "pages_shared", "pages_sharing", "ksm_zero_pages"),
        "visited": visited(facts),
        "root": root,
    }
    where = (
        "Without ksmd among the processes, /proc is a container's, or is mounted with hidepid; "
        f"{KSM} is the host's."
        if no_ksmd
        else "They may run in another container, or their memory may not be readable."
    )
    offered = (
        " The counters show that memory is offered and scanned, by processes that cannot be seen "
        "from here."
        if hidden(facts)
        else ""
    )
    yield Finding(
        "not-visible",
        UNSEEN,
        "not visible: processes of this host, so the memory that they offer is not known",
        HOST,
        evidence,
        f"{where}{offered} The findings cover only what is visible.",
        "look on the host itself, as root, outside containers",
    )


def _impossible(facts: Facts) -> Iterator[Finding]:
    values = impossible(facts)
    if not values:
        return
    yield Finding(
        "counter-impossible",
        UNSEEN,
        f"not usable: {', '.join(values)}, which the kernel has counted below zero",
        HOST,
        {name: str(value) for name, value in values.items()},
        "Some kernels decrement a counter too often: it shows as a negative number, or as one near "
        "2^64. Such values are left out of all sums and findings.",
        "use a newer kernel (ksm_zero_pages: Linux 6.10)",
    )


def _unknown(facts: Facts) -> Iterator[Finding]:
    values = facts["readings"][-1]["ksm"] or {}
    unknown = {
        name: value
        for name, value in values.items()
        if name not in COUNTERS and name not in KNOBS and name not in OF_DISTRIBUTIONS
    }
    if not unknown:
        return
    yield Finding(
        "unknown-files",
        NOTE,
        f"not known here: {', '.join(unknown)} of {KSM}",
        HOST,
        unknown,
        "Files that Linux 6.18 does not have: of a distribution, a patch or a newer kernel. If one "
        "is a knob, it may change what is merged.",
        "see the documentation of this kernel",
    )


def nothing_offered(facts: Facts, found: list[Finding]) -> Iterator[Finding]:
    """Yield a finding if no memory is offered, unless another finding says why or contradicts."""
    told = any(
        each.where["kind"] == "domain" and each.severity in (BLOCKS, UNSEEN) for each in found
    )
    unseen = {"not-visible", "permission", "flags-unseen"}
    unseen |= {"sysfs-unreadable"} if "pages_sharing" not in ksm(facts) else set()
    if told or absent(facts) or mergeable(facts, "size"):
        return
    if unseen & {each.finding for each in found}:
        return
    chains = some(ksm(facts), "stable_node_chains", "full_scans")
    uksmd = " uksmd runs, and offers memory of programs that it chooses." * (
        "uksmd" in facts["programs"]
    )
    yield Finding(
        "nothing-offered",
        BLOCKS,
        "no process offers memory to KSM",
        HOST,
        {"domains": len(facts["domains"]), "mergeable_mappings": 0, **chains},
        "KSM scans only memory that was offered with madvise(MADV_MERGEABLE), as QEMU does"
        + (
            ", or prctl(PR_SET_MEMORY_MERGE), as systemd does for MemoryKSM=yes."
            if has_prctl(facts)
            else "."
        )
        + (" Chains that are left over mean nothing." if chains.get("stable_node_chains") else "")
        + uksmd,
        f"start a guest that offers its memory. For another program: {fixes.offer(facts)}",
    )
