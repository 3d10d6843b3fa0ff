"""Rules for what merging saves, costs and endangers on a host; docs/doctor.md. Pure."""

from collections.abc import Iterator
from typing import Any

from ksm_analysis.doctor import fixes
from ksm_analysis.doctor.facts import (
    ITEM_BYTES,
    Facts,
    available,
    grown,
    guest_bytes,
    kernel,
    ksm,
    mergeable,
    page_size,
    resident,
    saved_bytes,
    saved_pages,
    settled,
    some,
    swap,
)
from ksm_analysis.doctor.finding import COSTS, DANGER, HOST, KSM, LIMITS, NOTE, Finding, mib

USUAL_MAX_PAGE_SHARING = 256
CHAINED = 0.05  # of the saved pages: additional savings that max_page_sharing prevents
HUGE = 0.5  # part of the mergeable memory
# Mappings of one page, on average, from which walks over all of them take long, where a limit is
# set. Without any limit, single pages have far more than the average.
MANY_MAPPINGS = 4 * USUAL_MAX_PAGE_SHARING


def saving(facts: Facts) -> Iterator[Finding]:
    """Yield the findings about what is saved."""
    if not ksm(facts):
        return
    checks = (_unlimited, _overcommit, _tenants, _chained, _split, _only_zero, _costly)
    for check in (*checks, _collapsing, _huge):
        yield from check(facts)


# --- danger ---------------------------------------------------------------------------------------


def _unlimited(facts: Facts) -> Iterator[Finding]:
    """Yield a finding if pages have so many mappings that walks over them stall the host."""
    values = ksm(facts)
    shared, sharing = values.get("pages_shared", 0), values.get("pages_sharing", 0)
    limit = values.get("max_page_sharing")
    unlimited = "max_page_sharing" not in (facts["readings"][-1]["ksm"] or {})
    least = USUAL_MAX_PAGE_SHARING if unlimited else MANY_MAPPINGS
    if not shared or sharing < least * shared:
        return
    if not unlimited and (limit is None or limit <= MANY_MAPPINGS):
        return
    nodes, numad = facts["host"]["numa_nodes"], "numad" in facts["programs"]
    yield Finding(
        "unlimited-sharing",
        DANGER,
        f"one page has {sharing // shared:,} mappings on average, and nothing limits them"
        if unlimited
        else f"one page has {sharing // shared:,} mappings on average: max_page_sharing={limit}",
        HOST,
        {
            "pages_shared": shared,
            "pages_sharing": sharing,
            "max_page_sharing": limit,
            "numa_nodes": nodes,
            "numad": numad,
            **some(facts["host"], "kernel"),
        },
        "To migrate, compact or reclaim such a page, the kernel walks all its mappings with locks "
        "held: hosts and guests have stalled for seconds (soft lockups). "
        + (
            "Before Linux 4.13, there is no max_page_sharing, and nothing limits sharing."
            if unlimited
            else "The default limit is 256."
        )
        + (" numad migrates pages between nodes all the time." if numad else ""),
        _limit(facts, unlimited, nodes, numad),
    )


def _limit(facts: Facts, unlimited: bool, nodes: int, numad: bool) -> str:
    lines = ["systemctl disable --now numad    # it migrates pages between nodes"] if numad else []
    if not unlimited:
        limit = f"echo {USUAL_MAX_PAGE_SHARING} > {KSM}/max_page_sharing"
        return "\n".join([*lines, fixes.after_unmerging(facts, limit)])
    lines.append("boot Linux 4.13 or newer, or a kernel with max_page_sharing (RHEL 7.5 and later)")
    if nodes > 1 and ksm(facts).get("merge_across_nodes", 1):
        lines.append("Until then, keep pages of each node apart, so that they are not migrated:")
        lines.append(fixes.after_unmerging(facts, f"echo 0 > {KSM}/merge_across_nodes"))
    return "\n".join(lines)


def _overcommit(facts: Facts) -> Iterator[Finding]:
    """Yield the host's own answer to whether its memory would suffice without merging."""
    saved, there = saved_bytes(facts), available(facts)
    if not saved or there is None:
        return
    zero = int(ksm(facts).get("ksm_zero_pages", 0)) * page_size(facts)
    configured = sum(guest_bytes(each) for each in facts["domains"])
    held = sum(min(resident(each), guest_bytes(each)) for each in facts["domains"])
    # Pages that are the kernel's zero page are not resident
    most = max(saved, saved - zero + max(0, configured - held))
    short, short_most = saved - there - swap(facts), most - there - swap(facts)
    space = f"{mib(there)} are available" + (
        f", and {mib(swap(facts))} of swap" if swap(facts) else "; there is no free swap"
    )
    if short > 0:
        answer = f"{mib(short)} would be missing: the kernel would kill processes (OOM)"
    elif saved > there:
        answer = "the host would swap"
    else:
        answer = "that suffices"
    worst = (
        ""
        if not configured
        else (
            f" If the guests also use all {mib(configured)} that they are configured with, "
            f"{mib(most)} are needed: "
            + (
                "that is missing"
                if short_most > 0
                else "that would swap"
                if most > there
                else "enough"
            )
            + (f" by {mib(short_most)}." if short_most > 0 else ".")
        )
    )
    yield Finding(
        "overcommit",
        DANGER if saved > there else NOTE,
        f"if all merged pages are written to or unmerged, {mib(saved)} are needed, and {space}: "
        f"{answer}",
        HOST,
        {
            "saved_bytes": saved,
            "available_bytes": there,
            "swap_free_bytes": swap(facts),
            "guests_configured_bytes": configured,
            "needed_if_guests_use_all_bytes": most,
            **some(facts["host"], "memory_bytes"),
        },
        "A merged page that is written to becomes a page of its own again: guests that are updated "
        f"or rebooted at the same time do that to many.{worst}",
        "add swap or memory, or migrate guests, before it happens; keep run=2 for when the memory "
        "is there"
        if saved > there
        else "nothing needs to be done; do not unmerge (run=2) when less is available than needed",
    )


def _tenants(facts: Facts) -> Iterator[Finding]:
    """Yield a finding if guests or processes share pages that may belong to different tenants."""
    every = facts["domains"] + facts["processes"]
    merged = [each for each in every if _merging(each)]
    guests = [each for each in merged if each in facts["domains"]]
    users = {owner for each in merged if (owner := _owner(facts, each)) is not None}
    owners = {owner for each in guests if (owner := _owner(facts, each)) is not None}
    if len(guests) < 2 and len(users) < 2:
        return
    several = len(owners) > 1
    yield Finding(
        "shared-secrets",
        DANGER if several else NOTE,
        f"{len(merged)} guests and processes share merged pages"
        + (f": the guests are of {len(owners)} owners" if several else ""),
        HOST,
        {
            "merging": [each["name"] for each in merged][:20],
            "owners": len(owners),
            **some(ksm(facts), "pages_shared", "pages_sharing"),
        },
        "A write to a merged page takes longer. So a guest can find out whether another has a page "
        "of the same contents: a key, a password, a program of a certain version. "
        "docs/security.md has the attacks.",
        "merge only guests that trust each other: exclude the others ("
        + fixes.change(facts, guests[0], "exclude").partition("\n")[0]
        + "), or place tenants on hosts of their own"
        if guests
        else "offer only the memory of programs that trust each other",
    )


def _merging(process: dict[str, Any]) -> bool:
    pages = process["ksm_stat"].get("ksm_merging_pages", 0)
    return (isinstance(pages, int) and pages > 0) or process["memory"]["mergeable"]["ksm"] > 0


def _owner(facts: Facts, process: dict[str, Any]) -> str | None:
    """Return whose a process is: a namespace of KubeVirt, or a user; None if it is not known."""
    if process in facts["domains"] and fixes.manager(facts, process) == "kubevirt":
        namespace, found, _ = str(process["name"]).partition("_")
        return namespace if found else None
    return None if process["uid"] is None else str(process["uid"])


# --- limits ---------------------------------------------------------------------------------------


def _chained(facts: Facts) -> Iterator[Finding]:
    counters = ksm(facts)
    chains = counters.get("stable_node_chains", 0)
    lost = counters.get("stable_node_dups", 0) - chains
    sharing, shared = counters.get("pages_sharing", 0), counters.get("pages_shared", 0)
    saved, limit = saved_pages(facts), counters.get("max_page_sharing", 0)
    # With the default, only frames with few remaining mappings cost more, and ksmd soon frees them.
    if not chains or lost <= CHAINED * saved or not 0 < limit < USUAL_MAX_PAGE_SHARING:
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
        f"copy for every {limit} mappings. stable_node_dups counts these copies. A higher limit "
        "makes migration, compaction and reclaim of such a page slower.",
        fixes.after_unmerging(facts, f"echo {USUAL_MAX_PAGE_SHARING} > {KSM}/max_page_sharing"),
    )


def _split(facts: Facts) -> Iterator[Finding]:
    knobs, nodes = ksm(facts), facts["host"]["numa_nodes"]
    if knobs.get("merge_across_nodes", 1) or nodes < 2:
        return
    yield Finding(
        "numa-split",
        LIMITS,
        f"equal pages on different NUMA nodes are not merged: there are {nodes} nodes with memory",
        HOST,
        {**some(knobs, "merge_across_nodes"), "numa_nodes": nodes},
        "Each node has its own trees: contents on several nodes stay in memory once per node. "
        "This avoids accesses to distant memory, and may be intended.",
        fixes.after_unmerging(facts, f"echo 1 > {KSM}/merge_across_nodes"),
    )


def _only_zero(facts: Facts) -> Iterator[Finding]:
    values = ksm(facts)
    if not values.get("redhat_only_zero_pages"):
        return
    zero = values.get("ksm_zero_pages", 0)
    yield Finding(
        "only-zero-pages",
        LIMITS,
        "only pages full of zeros are merged: redhat_only_zero_pages=1. They save "
        f"{mib(zero * page_size(facts))}",
        HOST,
        some(values, "redhat_only_zero_pages", "ksm_zero_pages", "pages_sharing", "use_zero_pages"),
        "With this knob of Red Hat's kernels nothing else is merged, so pages_sharing stays 0. It "
        "shares nothing between guests that tells one about another, and may be intended. The "
        "savings are pages_sharing + ksm_zero_pages.",
        f"echo 0 > {KSM}/redhat_only_zero_pages    # other pages merge, too; then guests share "
        f"them",
    )


# --- costs ----------------------------------------------------------------------------------------


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
        f"ksmd keeps a record of {ITEM_BYTES} bytes (32 or 36 on 32-bit machines) for each tracked "
        f"page. If fewer than one page in {page_size(facts) // ITEM_BYTES} is saved, the "
        f"records use "
        "more memory.",
        "exclude domains that do not merge (see their ksm_process_profit), or turn KSM off:\n"
        + _off(facts),
    )


def _off(facts: Facts) -> str:
    saved, there = saved_bytes(facts), available(facts)
    if saved and (there is None or saved > there):
        space = "" if there is None else f"; {mib(there)} are available"
        return (
            f"echo 0 > {KSM}/run    # stops ksmd. The records are freed only by run=2, which "
            f"unmerges "
            f"{mib(saved)}{space}"
        )
    return f"echo 2 > {KSM}/run    # unmerges {mib(saved)} and frees the records"


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
    if not anonymous or huge < HUGE * anonymous or not settled(facts):
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
            **some(ksm(facts), "full_scans"),
            "thp_split_page": grown(facts, "vmstat", "thp_split_page"),
            "thp_collapse_alloc": grown(facts, "vmstat", "thp_collapse_alloc"),
        },
        "Nothing in them is merged: ksmd scans each small page of a transparent huge page, and "
        "splits the huge page to merge it. So they hide no duplicates: in huge pages that are not "
        "split after some full scans, ksmd has found none. Merging costs the speed of huge pages."
        + (
            " Since Linux 6.12, a split also gives zero-filled parts back, which no counter shows."
            if kernel(facts) >= (6, 12)
            else ""
        ),
        "nothing needs to be done; to prefer memory over speed: "
        "echo never > /sys/kernel/mm/transparent_hugepage/enabled",
    )
