"""Each finding follows from its facts, and from no others."""

import copy
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ksm_analysis.__main__ import main
from ksm_analysis.campaign import launch
from ksm_analysis.campaign.reading import Listener
from ksm_analysis.commands import doctor
from ksm_analysis.doctor import diagnosis, redaction, shape
from ksm_analysis.doctor import facts as read
from ksm_analysis.doctor.finding import SEVERITIES
from ksm_analysis.errors import InputError

MIB = 1024 * 1024
KSM = {
    "run": 1,
    "pages_to_scan": 1000,
    "sleep_millisecs": 20,
    "merge_across_nodes": 1,
    "use_zero_pages": 0,
    "max_page_sharing": 256,
    "smart_scan": 1,
    "advisor_mode": "[none] scan-time",
    "advisor_max_pages_to_scan": 30000,
    "full_scans": 30,
    "pages_shared": 10_000,
    "pages_sharing": 60_000,
    "pages_unshared": 50_000,
    "pages_volatile": 1000,
    "pages_scanned": 1_000_000,
    "pages_skipped": 1_000_000,
    "general_profit": 200 * MIB,
    "ksm_zero_pages": 0,
    "stable_node_chains": 2,
    "stable_node_dups": 90,
}
# Of a host where no memory is offered
NONE_KNOWN = {
    **dict.fromkeys(("pages_shared", "pages_sharing", "pages_unshared", "pages_volatile"), 0),
    "before": {"pages_scanned": 1_000_000},
}
SUMS = dict.fromkeys(
    [
        *("mappings", "size", "resident", "anonymous", "huge", "ksm", "swapped", "locked"),
        "advised_huge",
    ],
    0,
)
GUEST = {**SUMS, "mappings": 4, "size": 514 * MIB, "resident": 400 * MIB, "anonymous": 400 * MIB}
QEMU = {
    "name": "web",
    "uuid": "u",
    "memory_bytes": 512 * MIB,
    "mem_merge": True,
    "encrypted": False,
    "backends": [],
    "mem_path": None,
    "mem_lock": False,
    "vfio": [],
    "vhost_user": False,
    "balloon": False,
}
XML = {"name": "web", "nosharepages": False}


def domain(mergeable=GUEST, xml=None, **changes):
    """Make a domain without findings, with changes of QEMU's settings or other facts."""
    kinds = {kind: {**SUMS} for kind in ("shared", "hugetlb", "private")}
    made = {
        "pid": 7,
        "name": "web",
        "memory": {"mergeable": mergeable, **kinds},
        "ksm_stat": {"ksm_process_profit": 100 * MIB, "ksm_rmap_items": 100_000},
        "pinned": 0,
        "vfio_files": 0,
        "libvirt": xml,
        "qemu": {**QEMU, **{key: value for key, value in changes.items() if key in QEMU}},
    }
    kinds |= {
        kind: {**SUMS, "mappings": 1, "size": changes[kind]} for kind in kinds & changes.keys()
    }
    made["memory"] |= kinds
    return made | {key: value for key, value in changes.items() if key in made}


def facts(before=None, domains=None, **changes):
    """Make facts of a host without findings, with changes of counters or other facts."""
    last = {**KSM, **{key: value for key, value in changes.items() if key in KSM}}
    first = {**last, "pages_scanned": last["pages_scanned"] - 250_000, **(before or {})}
    vmstat = {"thp_collapse_alloc": 5, "thp_split_page": 6}
    made = {
        "format": 1,
        "host": {
            "kernel": "6.18.0",
            "config_ksm": "y",
            "page_size": 4096,
            "memory_bytes": 8192 * MIB,
            "numa_nodes": 1,
            "root": True,
        },
        "kvm": None,
        "huge_pages": {"enabled": "madvise", "khugepaged": {"max_ptes_none": 511}},
        "services": [],
        "units": {},
        "domains": [domain()] if domains is None else domains,
        "processes": [],
        "unreadable": [],
        "unreadable_processes": 0,
        "domains_from": "proc",
        "libvirt": "not used",
        "readings": [
            {"monotonic": 100.0, "ksm": first, "vmstat": vmstat},
            {"monotonic": 105.0, "ksm": last, "vmstat": vmstat},
        ],
    }
    return shape.complete(made | {key: value for key, value in changes.items() if key in made})


def names(made):
    """Return the names of all findings."""
    return [each.finding for each in diagnosis.findings(made)]


def the(name, made):
    """Return the one finding of that name."""
    (found,) = [each for each in diagnosis.findings(made) if each.finding == name]
    return found


def big(gib):
    """Return a guest with all of its memory present."""
    return {**GUEST, "size": gib * 1024 * MIB, "anonymous": gib * 1024 * MIB}


def test_a_host_without_findings():
    made = facts()
    assert diagnosis.findings(made) == []
    assert not diagnosis.is_wrong([])


def test_findings_as_json_are_complete():
    made = facts(run=0, domains=[domain(mergeable=SUMS, mem_merge=False)])
    for each in diagnosis.findings(made):
        plain = each.plain()
        assert json.loads(json.dumps(plain)) == plain
        assert all(plain[key] for key in plain)
        assert plain["severity"] in SEVERITIES


def test_the_document_lists_exactly_the_findings():
    rules = Path(diagnosis.__file__).parent.glob("*_rules.py")
    code = "".join(path.read_text() for path in rules)
    names = set(re.findall(r'(?:Finding|return )\(\s*"([a-z0-9-]+)",', code))
    document = (launch.ROOT / "docs/doctor.md").read_text().partition("## Time of")[0]
    rows = re.findall(r"^\| (`[a-z].*?) (?:\([^|]*\) )?\|", document, re.MULTILINE)
    assert len(names) > 20
    assert names == {name for row in rows for name in re.findall(r"`([a-z0-9-]+)`", row)}


def test_the_worst_come_first():
    made = facts(
        run=0,
        general_profit=-1,
        merge_across_nodes=0,
        unreadable_processes=1,
        domains=[domain(mergeable=GUEST | {"huge": 400 * MIB})],
    )
    made["host"]["numa_nodes"] = 2
    found = [each.severity for each in diagnosis.findings(made)]
    assert found == ["blocks", "limits", "costs", "unseen", "note"]


def test_facts_are_not_changed():
    made = facts(run=0)
    before = copy.deepcopy(made)
    diagnosis.findings(made)
    assert made == before


# The host


def test_a_kernel_without_ksm():
    made = facts(readings=[{"monotonic": t, "ksm": None, "vmstat": {}} for t in (1.0, 2.0)])
    made["host"]["config_ksm"] = "n"
    found = the("ksm-absent", made)
    assert found.evidence == {"directory": None, "kernel": "6.18.0", "config_ksm": "n"}
    assert names(made) == ["ksm-absent"]


def test_kvm_is_closed_to_qemu():
    closed = {"mode": "0600", "owner": "root", "group": "root"}
    closed |= {"user": "libvirt-qemu", "groups": ["kvm"], "opens": False}
    found = the("kvm-closed", facts(kvm=closed))
    assert diagnosis.is_wrong([found])
    assert found.evidence["mode"] == "0600"
    assert found.fix.startswith("chgrp kvm /dev/kvm; chmod 0660 /dev/kvm\n")
    assert names(facts(kvm=closed | {"mode": "0660", "group": "kvm", "opens": True})) == []
    assert names(facts(kvm=closed | {"user": None})) == [], "no libvirt"
    earlier = facts()
    del earlier["kvm"]
    assert names(earlier) == []


def test_an_old_kernel_has_fewer_counters():
    old = ("run", "pages_to_scan", "sleep_millisecs", "full_scans", "pages_shared")
    old += ("pages_sharing", "pages_unshared", "pages_volatile")
    counters = {name: KSM[name] for name in old}
    readings = [{"monotonic": t, "ksm": counters, "vmstat": {}} for t in (1.0, 9.0)]
    assert names(facts(readings=readings)) == []


def test_ksmd_is_stopped():
    found = the("run-0", facts(run=0))
    assert (found.severity, found.where["kind"]) == ("blocks", "host")
    assert found.evidence["run"] == 0
    assert found.fix == "echo 1 > /sys/kernel/mm/ksm/run"


def test_a_unit_that_has_started_ksmd_is_named():
    found = the("run-0", facts(run=0, units={"ksm.service": "active"}))
    assert found.evidence["units"] == ["ksm.service"]


def test_all_is_unmerged():
    assert the("run-2", facts(run=2)).evidence["run"] == 2
    assert "run-0" not in names(facts(run=2))


def test_ksmtuned_has_stopped_ksmd():
    found = the("run-0", facts(run=0, services=[{"name": "ksmtuned", "pid": 3}]))
    assert found.evidence["services"] == ["ksmtuned"]
    assert "systemctl disable --now ksmtuned" in found.fix


def test_pages_to_scan_is_0():
    found = names(facts(pages_to_scan=0, before={"pages_scanned": KSM["pages_scanned"]}))
    assert found == ["pages-to-scan-0"]


def test_ksmd_does_not_move():
    still = {"pages_scanned": KSM["pages_scanned"]}
    assert the("ksmd-still", facts(before=still)).evidence["mergeable_pages"] == 102_400
    assert names(facts(before=still, sleep_millisecs=2000)) == [], "it may be asleep"
    assert "ksmd-still" not in names(facts(domains=[domain(mergeable=SUMS)], **NONE_KNOWN))


def test_a_scan_takes_hours():
    # 64 GiB are 16,777,216 pages; 100 of them every 20 ms takes 3355.4 s and no less.
    made = facts(
        pages_to_scan=100,
        domains=[domain(mergeable=big(64), memory_bytes=64 * 1024 * MIB)],
        before={"pages_scanned": KSM["pages_scanned"] - 20_000},
    )
    found = the("scan-slow", made)
    assert found.evidence["mergeable_pages"] == 16_777_216
    assert found.evidence["nominal_scan_seconds"] == 3355.4
    assert found.evidence["measured_scan_seconds"] == pytest.approx(16_777_216 / 20_000 * 5, 0.01)
    assert "1.2 hours" in found.what
    # 16,777,216 pages in 600 s with sleeps of 20 ms: 559.2 per sleep
    assert found.fix.startswith("echo 560 > /sys/kernel/mm/ksm/pages_to_scan")


def test_a_scan_that_is_quick_enough():
    made = facts(domains=[domain(mergeable=big(64), memory_bytes=64 * 1024 * MIB)])
    assert read.nominal_scan_seconds(made) == pytest.approx(335.5, 0.01)
    assert names(made) == []


def test_the_scan_time_of_a_stopped_ksmd_is_from_its_knobs():
    made = facts(run=0, pages_to_scan=10, before={"run": 0, "pages_scanned": 1_000_000})
    assert read.measured_scan_seconds(made) is None
    assert read.nominal_scan_seconds(made) == pytest.approx(204.8)


def test_skipped_pages_are_visited():
    made = facts(before={"pages_scanned": 1_000_000 - 5000, "pages_skipped": 1_000_000 - 5000})
    assert read.measured_scan_seconds(made) == pytest.approx(102_400 / 10_000 * 5)


# --- the advisor's own formula: pages_to_scan · scan time / target, within two limits ---


def advised(cpu_percent=None, seconds=4000, **changes):
    """Make facts of 64 GiB that the advisor scans in so many seconds, at pages_to_scan=100."""
    pages = 64 * 2**30 // 4096
    made = facts(
        pages_to_scan=100,
        advisor_mode="none [scan-time]",
        domains=[domain(mergeable=big(64), memory_bytes=64 * 1024 * MIB)],
        before={"pages_scanned": 1_000_000 - round(pages * 5 / seconds)},
    )
    knobs = {"advisor_target_scan_time": 200, "advisor_max_cpu": 70, **changes}
    for reading in made["readings"]:
        reading["ksm"] |= knobs
    if cpu_percent is not None:
        made["readings"][0]["ksmd_cpu_ns"] = 0
        made["readings"][1]["ksmd_cpu_ns"] = round(cpu_percent / 100 * 5e9)
    return made


def test_an_advisor_that_will_be_faster_is_left_alone():
    # 100 · 4000 s / 200 s = 2000 pages, and 100 / 2 % · 70 % = 3500
    fix = the("scan-slow", advised(cpu_percent=2)).fix
    assert "wait for the end of this scan" in fix
    assert "about 2,000" in fix
    assert "echo" not in fix


def test_an_advisor_at_its_limit_of_pages():
    fix = the("scan-slow", advised(cpu_percent=2, advisor_max_pages_to_scan=100)).fix
    assert fix.startswith("echo 667 > /sys/kernel/mm/ksm/advisor_max_pages_to_scan")


def test_an_advisor_at_its_limit_of_cpu():
    made = advised(cpu_percent=5, advisor_max_cpu=5)
    fix = the("scan-slow", made).fix
    assert fix.startswith("echo 34 > /sys/kernel/mm/ksm/advisor_max_cpu")
    assert "target" not in fix


def test_an_advisor_with_a_long_target():
    fix = the("scan-slow", advised(cpu_percent=2, advisor_target_scan_time=4000)).fix
    assert fix.startswith("echo 600 > /sys/kernel/mm/ksm/advisor_target_scan_time")
    assert "about 13% of a CPU" in fix


def test_an_advisor_that_no_cpu_is_enough_for():
    fix = the("scan-slow", advised(cpu_percent=70, advisor_max_cpu=70)).fix
    assert "no knob makes it fast" in fix
    assert "echo" not in fix


def test_a_goal_that_ksmd_cannot_reach():
    # 1 TiB in 10 minutes is 447,392 pages a second; one CPU does 205,000
    guest = domain(mergeable=big(1024), memory_bytes=1024 * 1024 * MIB)
    fix = the("scan-slow", facts(run=0, pages_to_scan=100, domains=[guest])).fix
    # Half a CPU: 268,435,456 / 102,500 per second = 2619 s
    assert fix.startswith("echo 205")
    assert "44 minutes per scan" in fix
    assert "about 50% of a CPU" in fix


def test_ksmd_at_its_limit():
    guest = domain(mergeable=big(1024), memory_bytes=1024 * 1024 * MIB)
    made = facts(pages_to_scan=100_000, domains=[guest], before={"pages_scanned": 500_000})
    for reading, cpu in zip(made["readings"], (0, 4_950_000_000), strict=True):
        reading["ksmd_cpu_ns"] = cpu
    found = the("scan-slow", made)
    assert "no knob makes it faster: ksmd uses 99% of a CPU" in found.fix
    assert found.evidence["pages_per_cpu_second"] == 101_010


def test_ksmd_does_not_keep_up():
    made = facts(
        domains=[domain(mergeable=big(64), memory_bytes=64 * 1024 * MIB)],
        before={"pages_scanned": KSM["pages_scanned"] - 20_000},
    )
    found = the("scan-slow", made)
    assert found.evidence["nominal_scan_seconds"] == 335.5
    assert "renice" in found.fix
    assert "echo" not in found.fix


def test_a_long_sleep_is_shortened():
    made = facts(
        run=0,
        sleep_millisecs=5000,
        domains=[domain(mergeable=big(64), memory_bytes=64 * 1024 * MIB)],
    )
    assert the("scan-slow", made).fix.startswith("echo 20 > /sys/kernel/mm/ksm/sleep_millisecs\n")


def test_smart_scan_starves_merging():
    few = {"pages_shared": 10, "pages_sharing": 10}
    few |= {"stable_node_chains": 0, "stable_node_dups": 0}
    starved = facts(before={"pages_skipped": 1_000_000 - 750_000}, **few)
    found = the("smart-scan", starved)
    assert (found.evidence["skipped"], found.evidence["scanned"]) == (750_000, 250_000)
    assert "75%" in found.what
    assert names(facts(before={"pages_skipped": 1_000_000 - 750_000})) == [], "much is merged"
    assert names(facts(before={"pages_skipped": 1_000_000 - 100_000}, **few)) == [], (
        "little is skipped"
    )
    assert (
        names(facts(before={"pages_skipped": 1_000_000 - 750, "pages_scanned": 999_900}, **few))
        == []
    )


def test_max_page_sharing_costs():
    # With a limit of 2, every two mappings need another frame
    limited = {"max_page_sharing": 2, "pages_shared": 30_000, "pages_sharing": 30_000}
    made = facts(**limited, stable_node_chains=100, stable_node_dups=30_000)
    found = the("max-page-sharing", made)
    assert found.evidence["lost_pages"] == 29_900
    assert found.evidence["sharing_to_shared"] == 1.0
    assert "first see that 117 MiB are available" in found.fix, "it is not known"
    assert "\necho 256 > /sys/kernel/mm/ksm/max_page_sharing\n" in found.fix
    usual = facts(stable_node_chains=2, stable_node_dups=236, pages_sharing=60_000)
    assert names(usual) == [], "with 256 it costs less than half a percent"
    emptied = facts(stable_node_chains=100, stable_node_dups=30_000)
    assert names(emptied) == [], "unmerging and setting the same value would fix nothing"


def test_numa_nodes_are_kept_apart():
    made = facts(merge_across_nodes=0)
    assert names(made) == [], "there is one"
    made["host"]["numa_nodes"] = 2
    assert the("numa-split", made).evidence == {"merge_across_nodes": 0, "numa_nodes": 2}


def test_ksm_costs_more_than_it_saves():
    found = the("general-profit", facts(general_profit=-3 * MIB))
    assert "3 MiB" in found.what
    assert found.severity == "costs"
    assert names(facts(general_profit=-3 * MIB, full_scans=1)) == [], "it has not done enough scans"


def test_khugepaged_fills_zero_pages():
    open_to = domain(mergeable={**GUEST, "advised_huge": 512 * MIB})
    found = the("khugepaged-zero", facts(use_zero_pages=1, domains=[open_to]))
    assert found.evidence["max_ptes_none"] == 511
    assert names(facts(domains=[open_to])) == []
    assert names(facts(use_zero_pages=1)) == [], "madvise, and none was given"
    for enabled, holes in (("never", 511), ("always", 0)):
        thp = {"enabled": enabled, "khugepaged": {"max_ptes_none": holes}}
        assert names(facts(use_zero_pages=1, domains=[open_to], huge_pages=thp)) == []
    thp = {"enabled": "always", "khugepaged": {"max_ptes_none": 511}}
    assert names(facts(use_zero_pages=1, huge_pages=thp)) == ["khugepaged-zero"]


def test_huge_pages_are_a_note():
    made = facts(domains=[domain(mergeable={**GUEST, "huge": 300 * MIB})])
    found = the("huge-pages-whole", made)
    assert (found.severity, found.evidence["huge"]) == ("note", 300 * MIB)
    assert not diagnosis.is_wrong([found])
    assert names(facts(domains=[domain(mergeable={**GUEST, "huge": 100 * MIB})])) == []


def test_another_program_changes_the_knobs():
    found = the("knobs-change", facts(before={"pages_to_scan": 64, "sleep_millisecs": 10}))
    assert found.evidence["pages_to_scan"] == [64, 1000]
    assert found.evidence["sleep_millisecs"] == [10, 20]


def test_the_advisor_may_change_pages_to_scan():
    made = facts(before={"pages_to_scan": 64}, advisor_mode="none [scan-time]")
    assert names(made) == ["ruled"]
    assert not diagnosis.is_wrong(diagnosis.findings(made))


def test_a_service_and_the_advisor_conflict():
    service = [{"name": "ksmtuned", "pid": 3}]
    found = the("two-rulers", facts(advisor_mode="none [scan-time]", services=service))
    assert found.evidence["ksmtuned"] == 3
    assert names(facts(services=service)) == ["ruled"]


def test_unreadable_processes():
    made = facts(unreadable_processes=2, unreadable=[{"pid": 9, "name": None}])
    made["host"]["root"] = False
    found = the("permission", made)
    assert found.evidence == {"unreadable_processes": 2, "guests": ["pid 9"], "root": False}
    assert diagnosis.is_wrong([found])


def test_no_process_offers_memory():
    assert the("nothing-offered", facts(domains=[], **NONE_KNOWN)).severity == "blocks"
    hidden = facts(domains=[], unreadable_processes=3, **NONE_KNOWN)
    assert names(hidden) == ["permission"], "one of them may offer memory"
    excluded = facts(domains=[domain(mergeable=SUMS, mem_merge=False)], **NONE_KNOWN)
    assert names(excluded) == ["mem-merge-off"], "which says why"


# Domains


def test_a_domain_that_offers_nothing():
    found = the("mem-merge-off", facts(domains=[domain(mergeable=SUMS, mem_merge=False)]))
    assert found.where == {"kind": "domain", "name": "web", "pid": 7}
    assert (found.severity, found.evidence["mergeable_bytes"]) == ("blocks", 0)
    assert "-machine" in found.fix


def test_a_domain_of_libvirt_is_fixed_by_xml():
    xml = XML | {"nosharepages": True}
    found = the("mem-merge-off", facts(domains=[domain(mergeable=SUMS, mem_merge=False, xml=xml)]))
    assert "nosharepages" in found.what
    assert found.fix.startswith("virsh edit web\n# remove <nosharepages/>")


def test_a_name_is_no_command():
    xml = {"name": "web; reboot", "nosharepages": True}
    found = the("mem-merge-off", facts(domains=[domain(mergeable=SUMS, mem_merge=False, xml=xml)]))
    assert found.fix.startswith("virsh edit 'web; reboot'\n")


def test_a_backend_that_is_not_merged():
    backend = {"type": "memory-backend-ram", "share": False, "merge": False}
    found = the("mem-merge-off", facts(domains=[domain(mergeable=SUMS, backends=[backend])]))
    assert found.evidence["backends_with_merge_off"] == ["memory-backend-ram"]


def test_shared_memory():
    backend = {"type": "memory-backend-memfd", "share": True, "merge": True}
    shared = {"mergeable": {**SUMS, "size": 2 * MIB}, "shared": 512 * MIB, "backends": [backend]}
    found = the("shared-memory", facts(domains=[domain(**shared)]))
    assert found.evidence["shared_bytes"] == 512 * MIB
    assert found.evidence["shared_backends"] == ["memory-backend-memfd"]
    assert "vhost-user" not in found.why
    found = the("shared-memory", facts(domains=[domain(**shared, vhost_user=True, xml=XML)]))
    assert "vhost-user devices (virtiofs, DPDK) need" in found.why
    assert "<access mode='private'/>" in found.fix


def test_hugetlbfs():
    huge = domain(mergeable=SUMS, hugetlb=512 * MIB, xml=XML)
    assert "remove <hugepages/>" in the("hugetlbfs", facts(domains=[huge])).fix
    half = domain(mergeable={**GUEST, "size": 256 * MIB}, hugetlb=256 * MIB)
    assert the("hugetlbfs", facts(domains=[half])).severity == "limits"


def test_encrypted_memory():
    encrypted = domain(mergeable=SUMS, encrypted=True, mem_merge=False)
    made = facts(domains=[encrypted], **NONE_KNOWN)
    assert names(made) == ["encrypted"]


def test_several_reasons_are_all_reported():
    both = domain(mergeable=SUMS, mem_merge=False, shared=512 * MIB)
    made = facts(domains=[both], **NONE_KNOWN)
    assert names(made) == ["mem-merge-off", "shared-memory"]


def test_no_known_reason():
    found = the("not-mergeable", facts(domains=[domain(mergeable={**GUEST, "size": 64 * MIB})]))
    assert "12%" in found.what
    assert found.severity == "limits"


def test_a_little_less_than_all_is_no_finding():
    nearly = domain(mergeable={**GUEST, "size": 470 * MIB}, shared=42 * MIB)
    assert names(facts(domains=[nearly])) == []


def test_pinned_memory():
    found = the("vfio", facts(domains=[domain(vfio=["vfio-pci"])]))
    assert found.severity == "blocks"
    assert the("vfio", facts(domains=[domain(vfio_files=2)])).evidence["vfio_files"] == 2


def test_a_domain_that_costs_more_than_it_saves():
    stat = {"ksm_process_profit": -5 * MIB, "ksm_rmap_items": 90_000, "ksm_merging_pages": 100}
    found = the("process-profit", facts(domains=[domain(ksm_stat=stat, xml=XML)]))
    assert "<nosharepages/>" in found.fix
    assert found.evidence["ksm_process_profit"] == -5 * MIB
    assert names(facts(domains=[domain(ksm_stat=stat)], full_scans=1)) == ["too-early"]


def test_a_process_that_costs_more_than_it_saves():
    stat = {"ksm_process_profit": -2 * MIB}
    process = {"name": "java", "pid": 5, "memory": domain()["memory"], "ksm_stat": stat}
    found = the("process-profit", facts(processes=[process]))
    assert found.where == {"kind": "process", "name": "java", "pid": 5}


# Output


def told(capsys, made, errors=None):
    doctor._show({"lab": (made, diagnosis.findings(made) if made else [])}, errors or {})
    return " ".join(capsys.readouterr().out.split())


def test_nothing_is_wrong_is_said_with_what_was_looked_at(capsys):
    text = told(capsys, facts())
    assert "lab Linux 6.18.0; 1 domain (by /proc; libvirt: not used)" in text
    assert "read twice, 5 s apart" in text
    assert "Nothing is wrong. ksmd runs; 400 MiB are mergeable" in text


def test_domains_with_one_reason_share_it(capsys):
    text = told(capsys, facts(domains=[domain(mergeable=SUMS, mem_merge=False)] * 2))
    assert text.count("domain web (7): its memory is not offered to KSM") == 2
    assert text.count("why QEMU was told") == 1
    assert "mem_merge=false" in text


def test_a_name_is_not_markup(capsys):
    odd = domain(mergeable=SUMS, mem_merge=False) | {"name": "[red]web[/]"}
    assert "domain [red]web[/] (7)" in told(capsys, facts(domains=[odd]))


def test_a_listener_takes_facts_and_reasons():
    listener = Listener(["a", "b", "c"], "facts")
    for event, host, result in (
        ("runner_on_ok", "a", {"facts": {"format": 1}}),
        ("runner_on_unreachable", "b", {"msg": "no\nroute"}),
    ):
        listener.take({"event": event, "event_data": {"host": host, "res": result}})
    listener.take({"event": "verbose", "stdout": "[ERROR]: it is broken"})
    assert listener.found["a"] == {"format": 1}
    errors = {"b": "no route", "c": "Ansible did not reach the host. [ERROR]: it is broken"}
    assert listener.errors() == errors


MANY = """
from ansible.plugins.action import ActionBase

class ActionModule(ActionBase):
    def run(self, tmp=None, task_vars=None):
        return {"changed": False, "facts": {"domains": ["x" * 2000] * 1000}}
"""


def test_the_facts_of_a_thousand_guests_are_received(tmp_path):
    (tmp_path / "action_plugins").mkdir()
    (tmp_path / "action_plugins/many.py").write_text(MANY)
    (tmp_path / "hosts.yml").write_text(INVENTORY % "/usr/bin/python3")
    play = {"name": "Read", "hosts": "lab", "gather_facts": False, "tasks": [{"many": {}}]}
    (tmp_path / "play.yml").write_text(json.dumps([play]))
    listener = Listener(["lab"], "facts")
    launcher = launch.Launcher(
        tmp_path, tmp_path / "hosts.yml", "doctor", listener.take, lambda: None
    )
    assert launcher.play("play.yml", {}) == 0
    assert listener.errors() == {}
    assert len(listener.found["lab"]["domains"]) == 1000


# What cannot be used

INVENTORY = "ksm_hosts: {hosts: {lab: {ansible_connection: local, ansible_python_interpreter: %s}}}"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--host", "nobody"], "--host nobody: no such host in ksm_hosts"),
        (["--inventory", "absent.yml"], "absent.yml: no such inventory"),
    ],
)
def test_unusable_arguments_end_with_2(capsys, arguments, words):
    assert main(["doctor", *arguments]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("seconds", ["-1", "nan", "3601", "soon"])
def test_wrong_seconds_end_with_2(capsys, seconds):
    with pytest.raises(SystemExit, match="2"):
        main(["doctor", f"--seconds={seconds}"])
    assert f"{seconds} is not a number from 0 to 3600" in capsys.readouterr().err


def test_a_host_that_cannot_be_read_ends_with_2(capsys, tmp_path):
    inventory = tmp_path / "hosts.yml"
    inventory.write_text(INVENTORY % "/absent/python3")
    assert main(["doctor", "--inventory", str(inventory), "--json"]) == 2
    lab = json.loads(capsys.readouterr().out)["hosts"]["lab"]
    assert (lab["facts"], lab["findings"]) == (None, [])
    assert "cannot read this host with /absent/python3" in lab["error"]
    assert main(["doctor", "--inventory", str(inventory)]) == 2
    assert "lab: cannot be read: " in capsys.readouterr().err


def test_a_host_that_cannot_be_reached_ends_with_2(capsys, tmp_path):
    inventory = tmp_path / "hosts.yml"
    far = "{ansible_host: 127.0.0.1, ansible_port: 1, ansible_python_interpreter: python3}"
    inventory.write_text(f"ksm_hosts: {{hosts: {{lab: {far}}}}}")
    assert main(["doctor", "--inventory", str(inventory)]) == 2
    assert "Connection refused" in capsys.readouterr().err


ODD = st.one_of(st.none(), st.booleans(), st.integers(1 - 2**64, 2**64 - 1), st.just("1 2"))


@given(
    counters=st.dictionaries(st.sampled_from([*KSM, "redhat_only_zero_pages", "new"]), ODD),
    missing=st.sets(st.sampled_from([*KSM])),
    later=st.booleans(),
)
def test_no_counters_and_no_values_of_them_end_the_doctor(counters, missing, later):
    made = facts(services=[{"name": "ksmtuned", "pid": 1}])
    for reading in made["readings"][1 if later else 0 :]:
        kept = {name: value for name, value in reading["ksm"].items() if name not in missing}
        reading["ksm"] = kept | counters
    for each in (made, facts(domains=[])):
        for found in diagnosis.findings(each):
            json.dumps(found.plain())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 9}, "format 9"),
        ({"readings": []}, "0 readings"),
        ({"host": None}, r"facts.host: expected an object"),
        ({"domains": [3]}, r"facts.domains\[0\]: expected an object"),
        ({"services": ["ksmtuned"]}, r"facts.services\[0\]: expected an object"),
        ({"unreadable_processes": "many"}, "facts.unreadable_processes: expected int"),
        ({"domains": [domain() | {"pid": "x"}]}, r"facts.domains\[0\].pid: expected int, not 'x'"),
        ({"thresholds": {"ksmtuned": 3}}, "facts.thresholds.ksmtuned: expected an object"),
    ],
)
def test_facts_that_cannot_be_used(change, words):
    with pytest.raises(InputError, match=words):
        diagnosis.findings(facts() | change)


def nodes(value, path=()):
    """Return the paths of all values within a value."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, each in items:
        yield (*path, key)
        if isinstance(each, dict | list):
            yield from nodes(each, (*path, key))


@pytest.mark.parametrize("junk", [None, "x", -5, 2**64 - 1, 1.5, True, [1], {"a": 1}])
def test_any_wrong_value_is_judged_or_refused(capsys, junk):
    service = [{"name": "ksmtuned", "pid": 3}]
    rule = {"ksmtuned": {"file": None, "coefficient": 20, "constant_kib": 1, "pattern": None}}
    whole = facts(services=service, domains=[domain(xml=XML)], processes=[domain()])
    whole |= {"thresholds": rule, "kvm": {"mode": "0600", "user": "qemu", "opens": False}}
    refused = 0
    for path in nodes(whole):
        made = copy.deepcopy(whole)
        *way, last = path
        parent = made
        for key in way:
            parent = parent[key]
        parent[last] = junk
        try:
            made = shape.complete(made)
            doctor._show({"lab": (made, diagnosis.findings(redaction.redact(made)))}, {})
        except InputError:
            refused += 1
    assert refused > 50
    assert "lab" in capsys.readouterr().out


def test_many_zero_pages_are_not_hidden_processes():
    # Most of the guest's memory is the kernel's zero page, which is not resident
    small = domain(mergeable={**GUEST, "anonymous": 4 * MIB})
    zero = {"ksm_zero_pages": 100_000, "pages_volatile": 100_000, "pages_unshared": 0}
    made = facts(domains=[small], **zero, pages_shared=10, pages_sharing=20)
    assert "not-visible" not in names(made)


def test_zero_pages_count_as_saved():
    counters = {"max_page_sharing": 8, "stable_node_chains": 100, "stable_node_dups": 700}
    few, many = (facts(**counters, pages_sharing=2_000, ksm_zero_pages=n) for n in (0, 20_000))

    assert "max-page-sharing" in names(few)
    assert "max-page-sharing" not in names(many)


def test_a_counter_below_zero_is_left_out():
    made = facts(ksm_zero_pages=2**64 - 5)

    assert "ksm_zero_pages" not in read.ksm(made)
    assert read.saved_pages(made) == read.ksm(made)["pages_sharing"]


def test_a_kernel_without_zero_pages_saves_what_is_shared():
    made = facts(pages_sharing=7)
    del made["readings"][-1]["ksm"]["ksm_zero_pages"]

    assert read.saved_pages(made) == 7
