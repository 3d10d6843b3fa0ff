"""The command on small trees: kinds of hosts, guests and faults, and what the doctor says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile

import pytest
from trees import HUGETLB, PRIVATE, SHARED, Tree, guest, mapping

from ksm_analysis.__main__ import main
from ksm_analysis.campaign import launch
from ksm_analysis.commands import doctor as doctor_command
from ksm_analysis.doctor import redaction, shape

NOTHING = dict.fromkeys(("pages_shared", "pages_sharing", "pages_unshared"), 0)
CH = "/usr/bin/cloud-hypervisor --api-socket path=/run/vm1.sock --memory size=512M"


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path / "machine")


@pytest.fixture
def doctor(capsys):
    """Run the command; return its exit status and the one host of its JSON."""

    def run(*arguments) -> tuple[int, dict]:
        status = main(["doctor", "--json", *map(str, arguments)])
        (host,) = json.loads(capsys.readouterr().out)["hosts"].values()
        return status, host

    return run


@pytest.fixture
def judge(tree, doctor):
    """Judge the tree; return the findings by name: of several guests, the last."""

    def run(*arguments) -> dict:
        _, host = doctor("--root", tree.root, *arguments)
        return {each["finding"]: each for each in host["findings"]}

    return run


@pytest.fixture
def after(tmp_path):
    """Make the same machine later, with changed counters, and its ksmd's CPU time in ns."""

    def make(cpu=None, release="6.12.0", **counters):
        later = Tree(tmp_path / "later", release, **counters)
        if cpu is not None:
            later.put("proc/37/schedstat", f"{1_000_000_000 + cpu} 1 1\n")
        return later.root

    return make


def serious(found: dict) -> set:
    return {name for name, each in found.items() if each["severity"] != "note"}


# Guests are known by what they are


def test_an_ordinary_host(tree, judge):
    guest(tree)
    found = judge()
    assert serious(found) == set()
    assert found["overcommit"]["severity"] == "note"


def test_cloud_hypervisor_with_shared_memory(tree, judge):
    tree.ksm(**NOTHING)
    tree.process(7, f"{CH},mergeable=on,shared=on", mapping(512, SHARED, "/memfd:ch_ram (deleted)"))
    found = judge()
    assert [*serious(found)] == ["shared-memory"]
    assert found["shared-memory"]["where"] == {"kind": "domain", "name": "vm1", "pid": 7}
    assert "shared=off,mergeable=on" in found["shared-memory"]["fix"]
    assert "mergeable=on has no effect" in found["shared-memory"]["why"]


def test_cloud_hypervisor_offers_nothing_by_default(tree, judge):
    tree.ksm(**NOTHING)
    tree.process(7, CH, mapping(512, PRIVATE))
    assert [*serious(judge())] == ["mem-merge-off"]
    assert "mergeable=on" in judge()["mem-merge-off"]["fix"]


def test_cloud_hypervisor_that_the_api_configures(tree, judge):
    tree.ksm(**NOTHING)
    tree.process(7, "cloud-hypervisor --api-socket /run/b.sock", mapping(300, PRIVATE))
    found = judge()["not-mergeable"]
    assert (found["severity"], found["evidence"]["memory_bytes"]) == ("blocks", 300 << 20)
    assert "mergeable=on" in found["fix"]


@pytest.mark.parametrize("flags", [f"{PRIVATE} mg", PRIVATE])
def test_firecracker(tree, doctor, flags):
    tree.process(7, "/firecracker --id vm1 --api-sock s", mapping(4, PRIVATE), mapping(128, flags))
    tree.ksm(**NOTHING)
    _, host = doctor("--root", tree.root)
    (one,) = host["facts"]["domains"]
    assert (one["vmm"], one["name"], one["mapped_guest"]) == ("firecracker", "vm1", 128 << 20)
    names = {each["finding"] for each in host["findings"]}
    assert ("not-mergeable" in names) == (flags == PRIVATE)


def test_crosvm_cannot_merge(tree, judge):
    ram = mapping(512, SHARED, "/memfd:crosvm_guest (deleted)")
    tree.process(7, "/usr/bin/crosvm run --mem size=512 --name x", ram)
    tree.link("proc/7/fd/9", "anon_inode:kvm-vcpu:0")
    tree.process(8, "/usr/bin/crosvm device block", ram)
    tree.link("proc/8/fd/3", "socket:[1]")
    assert judge()["shared-memory"]["where"]["pid"] == 7
    assert "none in crosvm" in judge()["shared-memory"]["fix"]


@pytest.mark.parametrize("link", ["anon_inode:kvm-vcpu:0", "anon_inode:kvm-vm", "/dev/kvm"])
def test_any_program_that_has_kvm_open(tree, judge, link):
    tree.process(7, "/opt/vendor/machine --config m.json", mapping(1024, PRIVATE))
    tree.link("proc/7/fd/11", link)
    found = judge()["not-mergeable"]
    assert found["where"]["name"] == "machine-7"
    assert found["evidence"]["memory_bytes"] == 1 << 30


def test_a_daemon_that_only_looked_at_kvm_is_no_guest(tree, doctor):
    tree.process(7, "/usr/sbin/daemon", mapping(20, PRIVATE))
    tree.link("proc/7/fd/11", "/dev/kvm")
    assert doctor("--root", tree.root)[1]["facts"]["domains"] == []


def test_qemu_by_its_file(tree, judge):
    tree.process(7, "vm-of-a-vendor -S", mapping(512, PRIVATE))
    tree.link("proc/7/exe", "/nix/store/x/.qemu-system-x86_64-wrapped")
    assert judge()["not-mergeable"]["evidence"]["vmm"] == "qemu"


def test_qemu_without_a_size_has_that_of_its_mappings(tree, judge):
    tree.process(7, "guest-7", mapping(2048, PRIVATE), comm="qemu-system-x86")
    assert judge()["not-mergeable"]["evidence"]["memory_bytes"] == 2 << 30


def test_qemu_by_its_options(tree, judge):
    tree.process(7, "/opt/emulator -machine q35 -smp 2 -m 512", mapping(512, PRIVATE))
    assert judge()["not-mergeable"]["evidence"]["vmm"] == "qemu"


@pytest.mark.parametrize("readable", [True, False])
def test_qemu_with_readconfig(tree, judge, readable):
    tree.process(7, "/usr/bin/qemu-system-x86_64 -readconfig /etc/vm.cfg", mapping(2048, SHARED))
    if readable:
        config = '[memory]\n  size = "2048"\n[machine]\n  mem-merge = "off"\n'
        tree.put("etc/vm.cfg", config)
    found = judge()
    assert found["shared-memory"]["evidence"]["memory_bytes"] == 2 << 30, "not 128 MiB"
    assert ("mem-merge-off" in found) == readable


def test_virtiofs_needs_shared_memory(tree, judge):
    command = "/usr/bin/qemu-system-x86_64 -m 512 -device vhost-user-fs-pci,chardev=c"
    tree.process(7, command, mapping(512, SHARED, "/memfd:memory-backend-memfd (deleted)"))
    assert judge()["shared-memory"]["fix"].startswith("first replace its vhost-user devices")


def test_memory_that_is_named_as_a_guests(tree, judge):
    tree.process(7, "/opt/vmm", mapping(256, SHARED, "/memfd:guest_memory (deleted)"))
    assert "shared-memory" in judge()


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("/usr/libexec/virtiofsd --fd 4", "/memfd:memory-backend-memfd (deleted)"),
        ("/usr/bin/java -jar x", "/memfd:java_heap (deleted)"),
        ("postgres", "/dev/shm/PostgreSQL.1"),
    ],
)
def test_other_shared_memory_is_no_guest(tree, doctor, command, name):
    tree.process(7, command, mapping(256, SHARED, name))
    assert doctor("--root", tree.root)[1]["facts"]["domains"] == []


def test_linux_before_3_8_shows_no_flags(tree, judge):
    tree.process(7, "/usr/libexec/qemu-kvm -m 512", mapping(512, None))
    found = judge()
    assert found["flags-unseen"]["severity"] == "unseen"
    assert "not-mergeable" not in found


# What is not visible


def test_in_a_container(tree, judge):
    for name in ("comm", "cmdline", "schedstat"):
        (tree.root / "proc/37" / name).unlink()
    tree.process(1, "/sbin/init", mapping(4, PRIVATE))
    found = judge()
    assert [*serious(found)] == ["not-visible"]
    assert found["not-visible"]["evidence"]["ksmd_visible"] is False
    assert "look on the host" in found["not-visible"]["fix"]


def test_a_container_of_a_host_where_ksmd_is_stopped(tree, judge):
    for name in ("comm", "cmdline", "schedstat"):
        (tree.root / "proc/37" / name).unlink()
    tree.ksm(**NOTHING, run=0)
    found = judge()
    assert serious(found) == {"run-0", "not-visible"}
    assert "not visible from here" in found["run-0"]["why"]


def test_counters_are_not_contradicted(tree, judge):
    tree.process(50, "/usr/bin/python3 x.py", mapping(4, PRIVATE))
    assert [*serious(judge())] == ["not-visible"], "somebody has offered 95,000 pages"


def test_nothing_is_offered(tree, judge):
    tree.ksm(**NOTHING, stable_node_chains=11)
    tree.process(50, "/usr/bin/python3 x.py", mapping(4, PRIVATE))
    found = judge()
    assert [*serious(found)] == ["nothing-offered"]
    assert "Chains that are left over mean nothing" in found["nothing-offered"]["why"]


NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
@pytest.mark.parametrize("what", ["directory", "files", "one file"])
def test_sysfs_that_is_kept_from_this_user(tree, tmp_path, doctor, what):
    guest(tree)
    directory = tree.root / "sys/kernel/mm/ksm"
    kept = {"directory": [directory], "files": directory.iterdir()}
    for path in kept.get(what, [directory / "run"]):
        path.chmod(0o700 if path.is_dir() else 0o600)
    # pytest makes directories that only their owner may enter.
    for path in [
        each for each in tree.root.parents if tempfile.gettempdir() in map(str, each.parents)
    ]:
        path.chmod(path.stat().st_mode | 0o055)
    program = (launch.ROOT / "roles/doctor/files/ksm_facts.py").read_text()
    command = [*NOBODY, "/usr/bin/python3", "-I", "-B", "-", "--seconds", "0", "--root", tree.root]
    done = subprocess.run(command, input=program, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    (tmp_path / "kept.json").write_text(done.stdout)
    status, host = doctor("--facts", tmp_path / "kept.json")
    assert status == 1
    assert "sysfs-unreadable" in {each["finding"] for each in host["findings"]}
    assert "ksm-absent" not in {each["finding"] for each in host["findings"]}


def test_one_host_costs_no_other_its_findings(tree, tmp_path, doctor, capsys):
    tree.ksm(run=0)
    doctor("--root", tree.root, "--collect", tmp_path / "one.json")
    facts = json.loads((tmp_path / "one.json").read_text())["hosts"]["machine"]
    confined = json.loads(json.dumps(facts))
    for reading in confined["readings"]:
        reading["ksm"] = {}
    bundle = {"hosts": {"bad": {"format": 2}, "confined": confined, "good": facts}}
    (tmp_path / "all.json").write_text(json.dumps(bundle))
    assert main(["doctor", "--json", "--facts", str(tmp_path / "all.json")]) == 2
    hosts = json.loads(capsys.readouterr().out)["hosts"]
    assert "run-0" in [each["finding"] for each in hosts["good"]["findings"]]
    assert "sysfs-unreadable" in [each["finding"] for each in hosts["confined"]["findings"]]
    assert "no facts of a host" in hosts["bad"]["error"]


@pytest.mark.parametrize("value", [-17, 2**64 - 4, 2**63])
def test_impossible_counters_are_left_out(tree, judge, value):
    guest(tree)
    tree.ksm(ksm_zero_pages=value, full_scans=value)
    found = judge()
    assert found["counter-impossible"]["evidence"] == {
        "full_scans": str(value),
        "ksm_zero_pages": str(value),
    }
    assert found["overcommit"]["evidence"]["saved_bytes"] == 30_000 * 4096
    guest(tree, stat=LOSS)
    assert not {"too-early", "process-profit"} & set(judge()), "it is not known how many scans"


def test_unknown_files_are_told(tree, judge):
    guest(tree)
    tree.ksm(vendor_knob=3, redhat_only_zero_pages=0)
    assert judge()["unknown-files"]["evidence"] == {"vendor_knob": 3}


def test_only_zero_pages(tree, judge):
    guest(tree)
    tree.ksm(redhat_only_zero_pages=1, pages_sharing=0, pages_shared=0, ksm_zero_pages=51_200)
    assert "200 MiB" in judge()["only-zero-pages"]["what"]


def test_uksm(tree, judge):
    for path in (tree.root / "sys/kernel/mm/ksm").iterdir():
        path.unlink()
    (tree.root / "sys/kernel/mm/ksm").rmdir()
    tree.process(90, "/bin/bash /usr/sbin/ksmtuned", mapping(4, PRIVATE))
    assert set(judge()) == {"ksm-absent", "ruler-in-vain"}
    tree.put("sys/kernel/mm/uksm/run", "1\n")
    tree.put("sys/kernel/mm/uksm/pages_sharing", "120000\n")
    found = judge()
    assert set(found) == {"uksm", "ruler-in-vain"}
    assert found["uksm"]["evidence"]["pages_sharing"] == 120_000


def test_uksm_beside_ksm(tree, judge):
    guest(tree)
    tree.put("sys/kernel/mm/uksm/run", "1\n")
    found = judge()
    assert serious(found) == set()
    assert "The other findings are those of" in found["uksm"]["why"]


# Time since it came


LOSS = {"ksm_process_profit": -8_000_000, "ksm_merging_pages": 0}


@pytest.mark.parametrize(("age", "told"), [(100, False), (100_000, True)])
def test_a_guest_is_judged_after_scans_of_its_own(tree, judge, age, told):
    # 512 MiB take 2.6 s by the knobs; at 10 pages for each wake-up, 262 s
    tree.ksm(pages_to_scan=10, full_scans=9000)
    guest(tree, stat=LOSS, age=age)
    found = judge()
    assert ("process-profit" in found) == told
    assert ("too-early" in found) != told
    assert serious(found) == ({"process-profit"} if told else set())


@pytest.mark.parametrize(("smart", "scans", "told"), [(0, 2, 0), (0, 3, 1), (1, 9, 0), (1, 10, 1)])
def test_smart_scan_needs_more_scans(tree, judge, smart, scans, told):
    tree.ksm(smart_scan=smart, full_scans=scans)
    guest(tree, stat=LOSS)
    assert ("process-profit" in judge()) == bool(told)


def test_a_guest_that_ksmd_has_hardly_seen_is_not_judged(tree, judge):
    (tree.root / "proc/uptime").unlink()
    guest(tree, stat={**LOSS, "ksm_rmap_items": 20_000})
    assert "process-profit" not in judge()


def test_a_host_of_new_guests_is_not_judged(tree, judge):
    tree.ksm(general_profit=-8_000_000, pages_to_scan=10)
    guest(tree, age=60)
    assert "general-profit" not in judge()
    guest(tree, pid=501, mib=1024, stat=LOSS)
    assert "general-profit" in judge()


# Who turns the knobs


@pytest.mark.parametrize(
    ("command", "name", "words"),
    [
        ("/bin/bash /usr/sbin/ksmtuned", "ksmtuned", "KSM_THRES_COEF in /etc/ksmtuned.conf"),
        ("/usr/bin/python3 -s /usr/sbin/momd -c x", "momd", "ksm_free_percent"),
        ("/usr/bin/python3.9 -sE /usr/libexec/vdsm/mom-vdsm", "momd", "ksm_free_percent"),
        ("/usr/bin/python3 /usr/share/vdsm/supervdsmd", "supervdsmd", "oVirt"),
        ("virt-handler --port 8443", "virt-handler", "ksmConfiguration"),
        ("harvester-node-manager start", "harvester-node-manager", "kubectl edit ksmtuned"),
    ],
)
def test_who_rules(tree, judge, command, name, words):
    guest(tree)
    tree.ksm(run=0)
    tree.process(90, command, mapping(8, PRIVATE))
    found = judge()
    assert found["ruled"]["evidence"][name] == 90
    # 8 of 16 GiB are free, and 20 % are enough
    assert found["run-0"]["severity"] == "note"
    assert "as intended" in found["run-0"]["what"]
    assert words in found["run-0"]["fix"]
    tree.meminfo(free=1000)
    found = judge()
    assert found["run-0"]["severity"] == "blocks"
    assert words in found["run-0"]["fix"]


def test_the_pace_of_a_ksmd_that_its_ruler_stopped_is_no_finding(tree, judge):
    guest(tree)
    tree.ksm(run=0, pages_to_scan=1)
    assert "scan-slow" in judge()
    tree.process(90, "/bin/bash /usr/sbin/ksmtuned", mapping(4, PRIVATE))
    assert serious(judge()) == set()


def test_a_ruler_without_a_threshold(tree, judge):
    tree.ksm(run=0)
    tree.process(90, "/usr/libexec/kata/kata-ksm-throttler", mapping(8, PRIVATE))
    assert judge()["run-0"]["severity"] == "blocks"
    assert "disable --now kata-ksm-throttler" in judge()["run-0"]["fix"]


def test_thresholds_are_read(tree, judge):
    guest(tree)
    tree.ksm(run=0)
    tree.process(90, "/bin/bash /usr/sbin/ksmtuned", mapping(4, PRIVATE))
    tree.put("etc/ksmtuned.conf", "# KSM_THRES_COEF=5\nKSM_THRES_COEF=70\n")
    assert judge()["run-0"]["severity"] == "blocks", "8 of 16 GiB are free: 50 %"
    tree.process(90, "/usr/bin/python3 /usr/sbin/momd", mapping(4, PRIVATE))
    tree.put("etc/vdsm/mom.d/ksm.rules", "(defvar ksm_free_percent 0.60)\n")
    assert judge()["run-0"]["severity"] == "blocks"


@pytest.mark.parametrize("missed", [True, False])
def test_ksmtuned_of_debian_does_not_count_guests_of_libvirt(tree, judge, missed):
    tree.put("etc/os-release", "ID=debian\n")
    tree.process(90, "/bin/bash /usr/sbin/ksmtuned", mapping(4, PRIVATE))
    command = (
        "/usr/bin/qemu-system-x86_64 -accel kvm" if missed else "qemu-system-x86_64 -enable-kvm"
    )
    tree.process(7, f"{command} -m 512", mapping(512))
    tree.ksm(run=0)
    assert ("ksmtuned-blind" in judge()) == missed
    pattern = "pidlist=$(pgrep -d ' ' -- '^qemu(-(kvm|system-.+)|:.{1,11})$')\n"
    tree.put("usr/sbin/ksmtuned", pattern)
    tree.process(7, f"{command} -m 512", mapping(512), comm="qemu-system-x86")
    assert "ksmtuned-blind" not in judge(), "this one is not Debian's"


def test_tuned_rules_only_if_its_profile_does(tree, judge):
    guest(tree)
    tree.process(90, "/usr/bin/python3 -Es /usr/sbin/tuned -l -P", mapping(8, PRIVATE))
    tree.put("etc/tuned/active_profile", "mine\n")
    tree.put("etc/tuned/mine/tuned.conf", "[main]\ninclude=base\n")
    assert "ruled" not in judge()
    tree.put("usr/lib/tuned/base/tuned.conf", "[sysfs]\n/sys/kernel/mm/ksm/run=0\n")
    assert "run=0" in judge()["ruled"]["fix"]


# Fixes suit the host


@pytest.mark.parametrize(
    ("release", "systemd", "wanted", "unwanted"),
    [
        ("5.15.0", 256, "LD_PRELOAD", "MemoryKSM"),
        ("6.5.0", 256, "before Linux 6.7", "[Service]"),
        ("6.8.0", 255, "systemd 255 may fail", "[Service]"),
        ("6.8.0", 252, "systemd 252 has no MemoryKSM", "[Service]"),
        ("6.8.0", 256, "[Service]\nMemoryKSM=yes", "EINVAL"),
        ("6.8.0", None, "systemd 256 or newer", "LD_PRELOAD"),
    ],
)
def test_how_memory_is_offered(tmp_path, doctor, release, systemd, wanted, unwanted):
    new = {"general_profit": None} if release < "6" else {}
    tree = Tree(tmp_path / "machine", release, **NOTHING)
    tree.ksm(**new)
    if systemd:
        tree.put(f"usr/lib/x86_64-linux-gnu/systemd/libsystemd-shared-{systemd}.so", "")
    _, host = doctor("--root", tree.root)
    (fix,) = [each["fix"] for each in host["findings"] if each["finding"] == "nothing-offered"]
    assert wanted in fix
    assert unwanted not in fix


PVE = "/usr/bin/kvm -id 101 -name tenant,debug-threads=on -m 512 -machine type=q35+pve0"


def test_proxmox(tree, judge):
    tree.process(7, f"{PVE},mem-merge=off", mapping(512, PRIVATE))
    tree.process(8, f"{PVE} -mem-path /run/hugepages", mapping(512, HUGETLB, "/run/hugepages/x"))
    found = judge()
    assert (
        "qm set 101 --allow-ksm 1\nqm shutdown 101 && qm start 101" in found["mem-merge-off"]["fix"]
    )
    assert "qm set 101 --delete hugepages" in found["hugetlbfs"]["fix"]


LIBVIRT = "/usr/bin/qemu-system-x86_64 -name guest=web,debug-threads=on -m 512 -uuid 1-2"


def test_libvirt_that_is_not_there_to_be_asked(tree, judge):
    tree.process(7, f"{LIBVIRT} -machine q35,mem-merge=off", mapping(512, PRIVATE))
    fix = judge()["mem-merge-off"]["fix"]
    assert fix.startswith("virsh edit web\n# remove <nosharepages/>")
    tree.process(90, "/usr/bin/python3 -s /usr/sbin/momd", mapping(4, PRIVATE))
    assert judge()["mem-merge-off"]["fix"].startswith("# oVirt writes the XML anew")


def test_incus(tree, judge):
    command = "/opt/incus/bin/qemu-system-x86_64 -S -name c1 -readconfig /run/incus/c1/qemu.conf"
    tree.process(7, command, mapping(1024, SHARED, "/memfd:memory-backend-memfd (deleted)"))
    assert "incus restart c1" in judge()["shared-memory"]["fix"]


def test_kubevirt(tree, judge):
    tree.process(90, "virt-handler --port 8443", mapping(8, PRIVATE))
    guest(tree, pid=7, name="red_vm1", stat=LOSS)
    guest(tree, pid=8, name="blue_vm1")
    guest(tree, pid=9, name="red_vm2")
    found = judge()
    assert "ksmConfiguration" in found["process-profit"]["fix"]
    assert found["shared-secrets"]["severity"] == "danger"
    assert found["shared-secrets"]["evidence"]["owners"] == 2


def test_a_page_of_64_kib(tree, judge):
    guest(tree, stat={**LOSS, "ksm_rmap_items": 8192}, fields={"page": 64})
    found = judge()
    assert "1 in 1024" in found["process-profit"]["why"]
    assert found["overcommit"]["evidence"]["saved_bytes"] == 30_000 * 65536


def test_nodes_without_memory_do_not_count(tree, judge):
    guest(tree)
    tree.ksm(merge_across_nodes=0)
    tree.put("sys/devices/system/node/node0/meminfo", "Node 0 MemTotal: 100 kB\n")
    tree.put("sys/devices/system/node/node1/meminfo", "Node 1 MemTotal: 0 kB\n")
    assert "numa-split" not in judge()
    tree.put("sys/devices/system/node/node1/meminfo", "Node 1 MemTotal: 100 kB\n")
    assert "echo 1 > /sys/kernel/mm/ksm/merge_across_nodes" in judge()["numa-split"]["fix"]


@pytest.mark.parametrize("run", [4, 5])
def test_memory_that_goes_offline(tree, judge, run):
    guest(tree)
    tree.ksm(run=run)
    assert serious(judge()) == set()
    assert "memory-offline" in judge()


def test_no_fix_unmerges_without_the_memory(tree, judge):
    guest(tree)
    limited = {"max_page_sharing": 8, "stable_node_chains": 9, "stable_node_dups": 9000}
    tree.ksm(**limited, pages_sharing=30_000)  # 117 MiB
    assert (
        "it needs 117 MiB of memory (8,192 MiB are available)" in judge()["max-page-sharing"]["fix"]
    )
    tree.meminfo(free=100, swap=4096)
    found = judge()
    assert found["max-page-sharing"]["fix"].startswith("not now")
    assert "echo 2 >" not in "".join(each["fix"] for each in found.values())


def test_no_guest_is_started_anew_without_the_memory(tree, judge):
    command = "/usr/bin/qemu-system-x86_64 -name a -m 4096 -mem-path /dev/hugepages"
    tree.process(7, command, mapping(4096, HUGETLB, "/dev/hugepages/x", Rss=0))
    assert "the guest is down meanwhile" in judge()["hugetlbfs"]["fix"]
    tree.meminfo(free=1000)
    assert "not now: it may need 4,096 MiB" in judge()["hugetlbfs"]["fix"]


# Cost and danger


def test_ksmd_that_eats_a_cpu(tree, judge, after):
    guest(tree)
    pages = {"pages_scanned": 41_000_000}
    found = judge("--later", after(cpu=59_000_000_000, **pages), "--seconds", 60)["ksmd-busy"]
    assert "98% of a CPU for 117 MiB" in found["what"]
    assert found["evidence"]["measured_scan_seconds"] == 0.2
    assert "echo 100 > /sys/kernel/mm/ksm/pages_to_scan" in found["fix"]


def test_ksmd_that_still_finds_pages_may_use_its_cpu(tree, judge, after):
    guest(tree)
    more = {"pages_scanned": 1_600_000, "pages_sharing": 60_000}
    later = after(cpu=59_000_000_000, **more)
    assert "ksmd-busy" not in judge("--later", later, "--seconds", 60)


@pytest.mark.parametrize(("limit", "told"), [(None, True), (100_000, True), (256, False)])
def test_sharing_without_a_limit(tree, judge, limit, told):
    guest(tree)
    tree.process(60, "/usr/bin/numad -i 15", mapping(4, PRIVATE))
    tree.ksm(pages_shared=10, pages_sharing=30_000, max_page_sharing=limit)
    found = judge()
    assert ("unlimited-sharing" in found) == told
    if told:
        assert found["unlimited-sharing"]["severity"] == "danger"
        assert "disable --now numad" in found["unlimited-sharing"]["fix"]


@pytest.mark.parametrize(
    ("free", "swap", "severity", "words"),
    [
        (8192, 0, "note", "that suffices"),
        (100, 8192, "danger", "the host would swap"),
        (50, 50, "danger", "17 MiB would be missing"),
    ],
)
def test_is_the_overcommit_safe(tree, judge, free, swap, severity, words):
    guest(tree)
    tree.meminfo(free=free, swap=swap)
    found = judge()["overcommit"]
    assert (found["severity"], found["evidence"]["saved_bytes"]) == (severity, 30_000 * 4096)
    assert words in found["what"]


def test_secrets_of_several_users(tree, judge):
    guest(tree, pid=7, uid=1001)
    assert "shared-secrets" not in judge()
    guest(tree, pid=8, uid=1002)
    assert judge()["shared-secrets"]["severity"] == "danger"
    guest(tree, pid=8, uid=1001)
    assert judge()["shared-secrets"]["severity"] == "note"


# The command


def test_a_bundle_says_the_same_elsewhere(tree, doctor, after, tmp_path):
    guest(tree, stat=LOSS)
    later = after(pages_scanned=1_200_000)
    bundle = tmp_path / "bundle.json"
    first = doctor("--root", tree.root, "--later", later, "--seconds", 60, "--collect", bundle)
    assert doctor("--facts", bundle) == first
    assert first[1]["facts"]["readings"][1]["monotonic"] > 60


def test_a_bundle_may_be_the_output_of_json(tree, capsys, tmp_path):
    main(["doctor", "--json", "--root", str(tree.root)])
    (tmp_path / "told.json").write_text(capsys.readouterr().out)
    assert main(["doctor", "--facts", str(tmp_path / "told.json")]) == 1
    assert "read once, so no rate is known" in " ".join(capsys.readouterr().out.split())


def test_redaction_leaves_no_name(capsys, tmp_path):
    tree = Tree(tmp_path / "host-of-acme")
    guest(tree, name="acme-payroll", uid=4711, stat=LOSS)
    tree.process(8, "/usr/bin/acmed", mapping(64), stat=LOSS, comm="acmed")
    tree.process(9, "/usr/bin/kvm -id 7 -name acme2 -m 64 -mem-path /mnt/acme", mapping(64, SHARED))
    bundle = tmp_path / "bundle.json"
    arguments = ["doctor", "--redact", "--root", str(tree.root), "--collect", str(bundle)]
    assert main([*arguments]) == 1
    told = capsys.readouterr()
    assert main([*arguments, "--json"]) == 1
    for text in (told.out, capsys.readouterr().out, bundle.read_text()):
        assert "acme" not in text
        assert "4711" not in text
    assert "guest-1" in told.out


@pytest.fixture
def complete(tree, doctor):
    """Return complete facts with a text in every field that may have one."""
    guest(tree, name="a", uid=4711, stat=LOSS)
    backend = "memory-backend-file,id=m,size=64M,mem-path=/mnt/secret"
    options = f"-uuid u1 -id 7 -m 64 -mem-path /mnt -object {backend} -device vfio-pci"
    command = f"/usr/bin/qemu-system-x86_64 -name b {options}"
    tree.process(8, command, mapping(64, SHARED), uid=4712, stat=LOSS)
    tree.process(9, "/usr/bin/other", mapping(64), stat=LOSS, comm="other")
    tree.process(90, "/bin/bash /usr/sbin/ksmtuned", mapping(4, PRIVATE))
    tree.process(91, "/usr/bin/python3 /usr/sbin/tuned", mapping(4, PRIVATE))
    tree.process(92, "/usr/bin/numad", mapping(4, PRIVATE))
    tree.put("etc/ksmtuned.conf", "KSM_THRES_COEF=30\n")
    tree.put("etc/momd.rules", "(defvar ksm_free_percent 0.30)\n")
    tree.put("etc/tuned/active_profile", "mine\n")
    tree.put("etc/tuned/mine/tuned.conf", "[sysfs]\n/sys/kernel/mm/ksm/run=1\n")
    tree.put("etc/os-release", "ID=debian\n")
    tree.put("boot/config-6.12.0", "CONFIG_KSM=y\n")
    tree.put("sys/kernel/mm/uksm/cpu_governor", "full\n")
    tree.put("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n")
    tree.put("sys/kernel/mm/transparent_hugepage/khugepaged/defrag", "on\n")
    tree.put("dev/kvm", "")
    tree.put("etc/passwd", "me:x:0:0::/:\nqemu:x:107:107::/:\n")
    tree.put("etc/group", "mine:x:0:\nsecret:x:107:\n")
    facts = doctor("--root", tree.root)[1]["facts"]
    xml = {"name": "a", "uuid": "u", "source": "memfd", "access": "shared", "memballoon": "virtio"}
    facts["domains"][1] |= {"libvirt": xml, "platform": "libvirt"}
    facts["unreadable"] = [{"pid": 5, "name": "c", "vmm": "qemu"}]
    facts["units"] = {"ksm.service": "active"}
    for reading in facts["readings"]:
        reading["ksm_unreadable"] = ["zero_pages_sharing"]
    return facts


def texts(value, path=()):
    """Yield the path of each text within facts, and of an unknown key in each object."""
    if isinstance(value, str):
        yield path
    elif isinstance(value, dict | list):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from texts(each, (*path, key))
        if isinstance(value, dict):
            yield (*path, UNKNOWN)


UNKNOWN = "unknown"
# Fields whose text redaction keeps: docs/doctor.md lists them.
KEPT = {
    "host.kernel",
    "host.distribution",
    *(f"readings.{name}" for name in ("ksm.*", "uksm.*", "ksm_unreadable")),
    "huge_pages.khugepaged.*",
    *(f"{kind}.ksm_stat.*" for kind in ("domains", "processes")),
}


def field(path):
    """Return the name of a field: without numbers of items; `*` for a file of the kernel."""
    words = [str(each) for each in path if not isinstance(each, int)]
    if len(words) > 1 and words[-2] in ("ksm", "uksm", "khugepaged", "ksm_stat"):
        words[-1] = "*"
    return ".".join(words)


def mark(facts, path, word):
    """Put a word into a field; for an unknown key, into the key and what it has."""
    *way, last = path
    parent = facts
    for key in way:
        parent = parent[key]
    if last != UNKNOWN:
        parent[last] = word
    elif "*" in field(path) or way[-1:] == ["knobs"]:
        parent[word] = word
    elif all(isinstance(value, int) for value in parent.values()):
        parent[word] = 7
    else:
        parent[word] = {word: 7} if way[-1:] == ["memory"] else {word: [word]}


def test_no_text_passes_redaction_unless_documented(complete, capsys, tmp_path):
    paths = [*texts(complete)]
    names = {field(path) for path in paths}
    assert {"thresholds.tuned.profile", "domains.settings.backends.mem_path", "kvm.group"} <= names
    leaked = {}
    for all_at_once in (True, False):
        for start in [0] if all_at_once else range(len(paths)):
            chosen = paths if all_at_once else paths[start : start + 1]
            made = json.loads(json.dumps(complete))
            for index, path in enumerate(chosen, start):
                mark(made, path, f"zq{index:03d}z")
            odd = {"format": "zq998z", "readings": []}
            hosts = {"zq999z": made} | ({"zq997z": odd} if all_at_once else {})
            (tmp_path / "in.json").write_text(json.dumps({"hosts": hosts}))
            given = ["doctor", "--redact", "--facts", str(tmp_path / "in.json")]
            collected = ["--collect", str(tmp_path / "out.json")]
            status = main([*given, *collected, "--json"])
            text = capsys.readouterr()
            assert status == (2 if all_at_once else 1), text.out[:2000]
            main(given)
            shown = capsys.readouterr()
            told = [text.out, shown.out, shown.err, (tmp_path / "out.json").read_text()]
            assert "host-1" in text.out
            for number in set(re.findall(r"zq(\d\d\d)z", "".join(told).replace("\n", ""))):
                leaked[field(paths[int(number)]) if int(number) < 900 else number] = all_at_once
    # The keys of files are the kernel's; names of the knobs that tuned sets are so, too.
    assert set(leaked) == KEPT | {"thresholds.tuned.knobs.unknown"}


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ("me@127.0.0.77: Permission denied (publickey).", "permission denied"),
        ("ssh: connect to host 10.0.0.7 port 22: Connection refused", "not reached"),
        ("Could not resolve hostname lab.acme: Name or service not known", "not reached"),
        ("Ansible did not reach the host. acme", "not reached"),
        ("facts.domains[0].name: expected str, not 'acme'", "its facts cannot be used"),
        ("format 9 of the facts: 1 to 2 can be read", "its facts cannot be used"),
        ("no facts of this host in the file", "no facts of this host in the file"),
        ("cannot read this host with /home/acme/python3: no such file", "cannot be read"),
    ],
)
def test_redacted_errors_keep_only_their_kind(error, kind):
    assert redaction.reason(error) == kind


def test_redaction_names_the_right_host():
    errors = {"127.0.0.7": "me@127.0.0.7: refused", "127.0.0.77": "me@127.0.0.77: refused"}
    _, told = doctor_command._redacted(dict.fromkeys(errors), errors)
    assert told == {"host-1": "not reached", "host-2": "not reached"}


def test_redacted_facts_have_all_keys(complete):
    given = shape.complete(complete)
    made = redaction.redact(given)
    assert set(keys(made)) == set(keys(given))


def keys(value, path=()):
    """Yield the paths of all keys within facts."""
    if isinstance(value, dict | list):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield (*path, key)
            yield from keys(each, (*path, key))


def test_the_time_between_trees_is_that_of_their_uptime(tree, doctor, after):
    later = after(pages_scanned=1_200_000)
    (later / "proc/uptime").write_text("864090.00 1.0\n")
    _, host = doctor("--root", tree.root, "--later", later)
    first, last = (reading["monotonic"] for reading in host["facts"]["readings"])
    assert last - first == pytest.approx(90)


def test_names_do_not_reach_a_terminal_unescaped(tree, capsys):
    guest(tree, name="a\x1b[31mb", stat=LOSS)
    main(["doctor", "--root", str(tree.root)])
    told = capsys.readouterr().out
    assert "\x1b[31mb" not in told
    assert "a\\x1b[31mb" in told


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--later", "x"], "--later: only with --root"),
        (["--later", ""], "--later: only with --root"),
        (["--root", "."], "neither proc nor sys"),
        (["--root", ".", "--seconds", "60"], "--seconds: with --root, only with --later"),
        (["--root", ""], "--root: expected a path"),
        (["--root", ".", "--later", ""], "--later: expected a path"),
        (["--facts", ""], "--facts: expected a path"),
        (["--facts", "other", "--collect", ""], "--collect: expected a path"),
        (["--facts", "other", "--host", ""], "--host: not with"),
        (["--facts", "nan"], "nan: no JSON: NaN is no number of JSON"),
        (["--facts", "infinite"], "infinite: no JSON: -Infinity is no number of JSON"),
        (["--root", "absent"], "absent: no such directory"),
        (["--facts", "absent"], "absent: No such file"),
        (["--facts", "text"], "text: no JSON"),
        (["--facts", "other"], "other: neither a bundle"),
        (["--facts", "empty"], "empty: a bundle without hosts"),
        (["--facts", "other", "--host", "x"], "--host: not with"),
        (["--facts", "other", "--seconds", "3"], "--seconds: not with --facts"),
    ],
)
def test_what_cannot_be_used(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text("run 1\n")
    (tmp_path / "other").write_text('{"a": 1}')
    (tmp_path / "empty").write_text('{"hosts": {}}')
    (tmp_path / "nan").write_text('{"readings": [], "format": NaN}')
    (tmp_path / "infinite").write_text('{"readings": [], "format": -Infinity}')
    assert main(["doctor", *arguments]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("host", "uptime"), "1e999", "facts.host.uptime: inf is no finite number"),
        (("readings", 0, "ksm", "run"), f"{2**70}", "facts.readings[0].ksm.run: beyond 64 bits"),
        (("readings", 1, "vmstat", "new"), f"-{2**64}", "vmstat.new: beyond 64 bits"),
        (("new",), '[{"a": 1e999}]', "facts.new[0].a: inf is no finite number"),
        (("new",), "[" * 100 + "]" * 100, "nested too deep"),
        (("host", "config_ksm"), "[]", "facts.host.config_ksm: expected str or null"),
        (("domains", 0, "libvirt"), '{"source": 1}', "libvirt.source: expected str or null"),
    ],
)
def test_numbers_that_no_kernel_has(tree, tmp_path, doctor, path, value, words):
    guest(tree)
    facts = doctor("--root", tree.root)[1]["facts"]
    parent = facts
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = "HERE"
    (tmp_path / "odd.json").write_text(json.dumps(facts).replace('"HERE"', value))
    status, host = doctor("--facts", tmp_path / "odd.json", "--collect", tmp_path / "again.json")
    assert status == 2
    assert words in host["error"]


def test_the_xml_of_a_domain_may_say_nothing(tree, tmp_path, doctor):
    guest(tree, name="web", stat=LOSS)
    facts = doctor("--root", tree.root)[1]["facts"]
    facts["domains"][0]["libvirt"] = {"a": 1}
    (tmp_path / "odd.json").write_text(json.dumps(facts))
    _, host = doctor("--facts", tmp_path / "odd.json")
    assert host["facts"]["domains"][0]["libvirt"]["nosharepages"] is False
    fixes = {each["finding"]: each["fix"] for each in host["findings"]}
    assert "virsh edit web" in fixes["process-profit"]


def test_later_trees_need_a_time(tree, after, capsys):
    later = after()
    assert main(["doctor", "--root", str(tree.root), "--later", str(later)]) == 2
    assert "give --seconds" in capsys.readouterr().err


def test_the_file_cannot_be_written(tree, tmp_path, capsys):
    file = tmp_path / "absent/file"
    assert main(["doctor", "--root", str(tree.root), "--collect", str(file)]) == 2
    assert "No such file or directory" in capsys.readouterr().err


@pytest.mark.parametrize("version", ["3.6", "3.7", "3.8", "3.9", "3.13"])
def test_the_program_for_hosts_is_valid_for_each_python(version):
    import ast

    text = (launch.ROOT / "roles/doctor/files/ksm_facts.py").read_text()
    ast.parse(text, feature_version=tuple(map(int, version.split("."))))
    assert "from __future__" not in text, "annotations came with 3.7"


# --- as a page ------------------------------------------------------------------------------------


def test_the_page_has_findings_with_fixes_and_what_memory_could_merge(tree, tmp_path, capsys):
    tree.ksm(run=0)
    guest(tree, 500, "web", 1024, fields={"KSM": 256 * 1024}, stat={"ksm_merging_pages": 1})
    tree.process(501, "/usr/bin/qemu-system-x86_64 -name guest=db -m 512", mapping(512, SHARED))
    page = tmp_path / "doctor.html"
    status = main(["doctor", "--root", str(tree.root), "--html", str(page)])
    text = page.read_text()
    web = text[text.index("guest web (500)") :]

    assert status == 1
    assert f"wrote {page}" in capsys.readouterr().err
    assert "2 findings. The worst: host: ksmd is stopped: run=0." in text
    assert "echo 1 &gt; /sys/kernel/mm/ksm/run" in text
    assert re.findall(r"width: ([\d.]+)%", web)[:3] == ["25.00", "75.00", "0.00"]
    assert "256 MiB merged, 768 MiB not merged<" in web
    assert "512 MiB not offered<" in text
    assert text.index("ksmd is stopped") < text.index("(MAP_SHARED)")


def test_a_page_of_several_hosts_says_which_is_worst(tree, tmp_path, capsys):
    guest(tree)
    bundle = tmp_path / "facts.json"
    assert main(["doctor", "--root", str(tree.root), "--collect", str(bundle)]) in (0, 1)
    hosts = json.loads(bundle.read_text())
    (facts,) = hosts["hosts"].values()
    ill = json.loads(json.dumps(facts))
    for reading in ill["readings"]:
        reading["ksm"]["run"] = 0
    ill["domains"][0]["name"] = "<script>\x1b"
    hosts["hosts"] = {"good": facts, "ill": ill, "damaged": {"format": 2}}
    bundle.write_text(json.dumps(hosts))
    page = tmp_path / "doctor.html"
    status = main(["doctor", "--facts", str(bundle), "--html", str(page)])
    text = page.read_text()

    assert status == 2
    assert "the worst, on ill: host: ksmd is stopped: run=0. 1 host could not be read." in text
    assert "damaged: cannot be read: no facts" in text
    assert "<script>" not in text
    assert "&lt;script&gt;\\x1b" in text


def test_a_page_that_cannot_be_written_is_refused_before_a_host_is_asked(capsys):
    assert main(["doctor", "--html", "/missing/page.html"]) == 2
    assert capsys.readouterr().err == "--html /missing/page.html: there is no directory /missing\n"
