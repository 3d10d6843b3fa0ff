"""The doctor on this machine, with real knobs, QEMU processes and domains. It changes nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from machine import KSM, ROOT, STATE, knobs, processes, until

from ksm_analysis.doctor import diagnosis
from ksm_analysis.doctor import facts as read

pytestmark = [pytest.mark.host, pytest.mark.usefixtures("only_libvirtd")]
MIB = 1024 * 1024
LIBVIRTD = "(^|/)libvirtd( |$)"
FACTS = ROOT / "roles/doctor/files/ksm_facts.py"
# 64 MiB: half of the pages are equal in pairs and half differ; or all are equal; or all differ.
OFFERS = """
import mmap, os, sys
size = 64 << 20
memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
pages = {
    "pairs": lambda: os.urandom(size // 4) * 2 + os.urandom(size // 2),
    "equal": lambda: os.urandom(4096) * (size // 4096),
    "unlike": lambda: os.urandom(size),
}
memory.write(pages[sys.argv[1]]())
memory.madvise(mmap.MADV_MERGEABLE)
print("offered", flush=True)
sys.stdin.read()
"""
MERGES_ANY = """
import ctypes, sys
assert ctypes.CDLL(None).prctl(67, 1, 0, 0, 0) == 0  # PR_SET_MEMORY_MERGE
memory = bytearray(8 << 20)
print("offered", flush=True)
sys.stdin.read()
"""
DOMAIN = """
<domain type="qemu">
  <name>ksm-doctor-test</name>
  <memory unit="MiB">32</memory>
  <memoryBacking><nosharepages/></memoryBacking>
  <os><type arch="x86_64">hvm</type></os>
  <devices><controller type="usb" model="none"/><memballoon model="none"/></devices>
</domain>
"""
# Make all mounts read-only for the program, so that it cannot write anything.
READ_ONLY = """
mount --make-rprivate /
while read -r _ place _; do
    mount -o remount,bind,ro "$place" 2>/dev/null || true
done < /proc/mounts
for file in / /tmp /root /run /dev/shm /var/lib; do
    if touch "$file/ksm-doctor-test" 2>/dev/null; then echo "$file is writable" >&2; exit 1; fi
done
if [ -w /sys/kernel/mm/ksm/run ]; then echo "knobs are writable" >&2; exit 1; fi
exec "$@"
"""


@pytest.fixture(autouse=True)
def as_found():
    """Restore the knobs, and check that the files of the testbed did not change."""
    before, files = knobs(), files_of_the_testbed()
    yield
    (KSM / "run").write_text("2")
    if "[none]" in before.get("advisor_mode", ""):
        (KSM / "advisor_mode").write_text("none")  # the advisor would refuse pages_to_scan
    for name, value in before.items():
        if name != "run" and knobs()[name] != value:
            (KSM / name).write_text(value)
    (KSM / "run").write_text(before["run"])
    assert knobs() == before
    assert files_of_the_testbed() == files


def files_of_the_testbed() -> dict:
    """Return every file of the testbed, and its time of change."""
    return {path: path.lstat().st_mtime_ns for path in [STATE, *STATE.rglob("*")] if path.exists()}


@pytest.fixture
def start():
    """Start programs, and end them."""
    started = []

    def run(*command, ready=True) -> int:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen([*map(str, command)], **pipes))
        if ready:
            assert started[-1].stdout.readline() == "offered\n"
        return started[-1].pid

    yield run
    for process in started:
        process.terminate()
        process.communicate()


@pytest.fixture
def qemu(start):
    """Start small QEMU processes, whose guests never run."""

    def run(*options) -> int:
        usual = ("-accel", "tcg", "-S", "-m", "64", "-display", "none", "-nodefaults")
        pid = start("qemu-system-x86_64", *usual, *options, ready=False)
        deadline = time.monotonic() + 30
        while smaps_size(pid) < 64 * MIB:
            assert time.monotonic() < deadline, "it has no memory yet"
            time.sleep(0.1)
        time.sleep(0.3)
        return pid

    return run


def smaps_size(pid: int) -> int:
    """Return the size of the largest possible guest memory; translated code is larger."""
    lines = Path(f"/proc/{pid}/smaps").read_text().splitlines()
    sizes = [int(line.split()[1]) * 1024 for line in lines if line.startswith("Size:")]
    return max((size for size in sizes if size == 64 * MIB), default=0)


def doctor(*arguments, seconds=0.2) -> tuple[int, dict]:
    """Return the exit status, and the output for this machine."""
    before = knobs()
    command = [sys.executable, "-m", "ksm_analysis", "doctor", "--json", "--seconds", str(seconds)]
    done = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert knobs() == before
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)["hosts"]["localhost"]


def found(told: dict, pid: int | None = None) -> dict:
    """Return findings of a process, or of the host, by name."""
    return {each["finding"]: each for each in told["findings"] if each["where"]["pid"] == pid}


def wrong(told: dict) -> set:
    """Return the names of findings of the host, except that of this machine's /dev/kvm."""
    names = {name for name, each in found(told).items() if each["severity"] != "note"}
    return names - {"kvm-closed"}


def domain(told: dict, pid: int) -> dict:
    """Return the facts of a domain."""
    (one,) = [each for each in told["facts"]["domains"] if each["pid"] == pid]
    return one


def let_run(**values) -> None:
    """Set knobs, and start ksmd."""
    for name, value in values.items():
        (KSM / name).write_text(str(value))
    (KSM / "run").write_text("1")


def scan_calmly() -> None:
    """Let ksmd scan so slowly that its CPU time is no finding, even on a slow or busy machine."""
    (KSM / "pages_to_scan").write_text("250")


def wait_for_scans(number: int) -> None:
    """Wait until ksmd has done so many full scans more."""
    deadline = time.monotonic() + 60
    number += int((KSM / "full_scans").read_text())
    while int((KSM / "full_scans").read_text()) < number:
        assert time.monotonic() < deadline, "ksmd is too slow"
        time.sleep(0.2)


def test_ksmd_that_is_stopped():
    assert knobs()["run"] == "0\n"
    status, told = doctor()
    assert status == 1
    assert found(told)["run-0"]["evidence"]["run"] == 0
    assert told["findings"][0]["severity"] == "blocks"


def test_nothing_is_wrong(start):
    pid = start(sys.executable, "-c", OFFERS, "pairs")
    let_run(pages_to_scan=5000, smart_scan=0)
    wait_for_scans(3)
    scan_calmly()
    status, told = doctor(seconds=1)
    (process,) = [each for each in told["facts"]["processes"] if each["pid"] == pid]
    # A quarter of the contents occurs twice, and each pair is merged to one page
    assert process["memory"]["mergeable"]["ksm"] == 32 * MIB
    assert process["memory"]["mergeable"]["anonymous"] == 64 * MIB
    assert found(told, pid) == {}
    assert wrong(told) == set()
    strangers = [each for each in told["findings"] if each["where"]["kind"] == "domain"]
    assert status == (1 if strangers or "kvm-closed" in found(told) else 0)


def test_all_memory_of_a_process_is_offered(start):
    pid = start(sys.executable, "-c", MERGES_ANY)
    _, told = doctor()
    (process,) = [each for each in told["facts"]["processes"] if each["pid"] == pid]
    assert process["ksm_stat"]["ksm_merge_any"] == "yes"
    assert process["memory"]["mergeable"]["anonymous"] >= 8 * MIB


def test_a_qemu_without_findings(qemu):
    pid = qemu("-name", "in-order")
    _, told = doctor()
    assert found(told, pid) == {}
    assert domain(told, pid)["name"] == "in-order"
    assert domain(told, pid)["memory"]["mergeable"]["size"] >= 64 * MIB


def test_a_qemu_that_offers_nothing(qemu):
    pid = qemu("-machine", "mem-merge=off")
    status, told = doctor()
    assert status == 1
    assert [*found(told, pid)] == ["mem-merge-off"]
    finding = found(told, pid)["mem-merge-off"]
    assert (finding["severity"], finding["evidence"]["mergeable_bytes"]) == ("blocks", 0)


def test_a_qemu_with_shared_memory(qemu):
    memory = "memory-backend-memfd,id=m,size=64M,share=on"
    pid = qemu("-object", memory, "-machine", "memory-backend=m")
    _, told = doctor()
    assert [*found(told, pid)] == ["shared-memory"]
    evidence = found(told, pid)["shared-memory"]["evidence"]
    assert evidence["shared_bytes"] == 64 * MIB
    # Its ROMs are still offered: mergeable memory alone proves nothing
    assert evidence["mergeable_bytes"] > 0
    assert domain(told, pid)["ksm_stat"].get("ksm_mergeable", "yes") == "yes"


def test_a_qemu_with_both(qemu):
    memory = "memory-backend-memfd,id=m,size=64M,share=on"
    pid = qemu("-object", memory, "-machine", "memory-backend=m,mem-merge=off")
    _, told = doctor()
    assert [*found(told, pid)] == ["mem-merge-off", "shared-memory"]


def test_a_scan_that_takes_hours(start):
    start(sys.executable, "-c", OFFERS, "pairs")
    let_run(pages_to_scan=1, sleep_millisecs=1000)
    _, told = doctor()
    evidence = found(told)["scan-slow"]["evidence"]
    pages = evidence["mergeable_pages"]
    assert pages >= 64 * MIB // 4096
    # One page a second
    assert evidence["nominal_scan_seconds"] == pages
    assert evidence["measured_scan_seconds"] is None
    wanted = read.pages_for_goal(pages)
    lines = [line.partition("#")[0] for line in found(told)["scan-slow"]["fix"].splitlines()]
    subprocess.run(["bash", "-ec", "\n".join(lines)], check=True)
    assert knobs()["sleep_millisecs"] == "20\n"
    assert knobs()["pages_to_scan"] == f"{wanted}\n"
    assert read.nominal_scan_seconds(doctor()[1]["facts"]) <= read.GOAL_SECONDS


@pytest.mark.parametrize("smart_scan", [0, 1])
def test_the_time_of_a_scan_is_measured_correctly(start, smart_scan):
    start(sys.executable, "-c", OFFERS, "pairs")
    let_run(pages_to_scan=1000, smart_scan=smart_scan)
    wait_for_scans(10)
    facts = doctor(seconds=5)[1]["facts"]
    first, last = (reading["ksm"]["full_scans"] for reading in facts["readings"])
    expected = read.seconds_between(facts) / read.measured_scan_seconds(facts)
    assert last - first > 5
    assert expected == pytest.approx(last - first, abs=1.5)


@pytest.mark.parametrize("smart_scan", [0, 1])
def test_different_pages_cost_memory_and_are_skipped(start, smart_scan):
    pid = start(sys.executable, "-c", OFFERS, "unlike")
    let_run(pages_to_scan=5000, smart_scan=smart_scan)
    wait_for_scans(30)
    scan_calmly()
    _, told = doctor(seconds=2)
    names = {"general-profit", "smart-scan"} if smart_scan else {"general-profit"}
    assert wrong(told) == names
    profit = found(told, pid)["process-profit"]["evidence"]
    # All pages have records of 64 bytes, and none is merged
    assert profit["ksm_process_profit"] == -64 * profit["ksm_rmap_items"]
    assert profit["ksm_rmap_items"] >= 64 * MIB // 4096


def test_a_limit_of_two_costs_as_much_as_it_saves(start):
    (KSM / "run").write_text("2")
    (KSM / "max_page_sharing").write_text("2")
    start(sys.executable, "-c", OFFERS, "equal")
    let_run(pages_to_scan=5000, smart_scan=0)
    wait_for_scans(4)
    evidence = found(doctor()[1])["max-page-sharing"]["evidence"]
    # 16,384 equal pages in 8192 frames; with one frame, the other 8191 would also be saved
    assert (evidence["pages_shared"], evidence["pages_sharing"]) == (8192, 8192)
    assert (evidence["stable_node_chains"], evidence["lost_pages"]) == (1, 8191)


def test_the_default_limit_costs_almost_nothing(start):
    start(sys.executable, "-c", OFFERS, "equal")
    let_run(pages_to_scan=5000, smart_scan=0)
    wait_for_scans(4)
    _, told = doctor()
    assert told["facts"]["readings"][-1]["ksm"]["stable_node_dups"] == 64
    assert "max-page-sharing" not in found(told)


def test_khugepaged_may_fill_zero_pages_of_qemu(qemu):
    qemu()
    assert "khugepaged-zero" not in found(doctor()[1])
    (KSM / "use_zero_pages").write_text("1")
    _, told = doctor()
    if told["facts"]["huge_pages"]["enabled"] == "never":
        pytest.skip("there are no huge pages here")
    assert found(told)["khugepaged-zero"]["evidence"]["open_to_huge_pages"] >= 64 * MIB


def test_the_advisor_controls_pages_to_scan():
    (KSM / "advisor_mode").write_text("scan-time")
    _, told = doctor()
    assert found(told)["ruled"]["severity"] == "note"
    assert "knobs-change" not in found(told)


def test_another_program_changes_the_knobs():
    command = [sys.executable, "-m", "ksm_analysis", "doctor", "--json", "--seconds", "6"]
    looking = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    time.sleep(4)
    (KSM / "sleep_millisecs").write_text("33")
    told = json.loads(looking.communicate()[0])["hosts"]["localhost"]
    assert found(told)["knobs-change"]["evidence"]["sleep_millisecs"] == [20, 33]


def test_a_domain_of_libvirt(start):
    ran = {name: bool(processes(f"(^|/){name}( |$)")) for name in ("virtlogd", "libvirtd")}
    for name in ran:
        subprocess.run(["service", name, "start"], check=True, capture_output=True)
    virsh = ["virsh", "--connect", "qemu:///system"]
    try:
        create = [*virsh, "create", "--paused", "/dev/stdin"]
        subprocess.run(create, input=DOMAIN, text=True, check=True, capture_output=True)
        _, told = doctor()
        assert told["facts"]["domains_from"] == "libvirt"
        (pid,) = [d["pid"] for d in told["facts"]["domains"] if d["name"] == "ksm-doctor-test"]
        finding = found(told, pid)["mem-merge-off"]
        assert finding["evidence"]["nosharepages"]
        assert finding["fix"].startswith("virsh edit ksm-doctor-test\n# remove <nosharepages/>")
    finally:
        subprocess.run([*virsh, "destroy", "ksm-doctor-test"], capture_output=True)
        for name in (name for name in ("libvirtd", "virtlogd") if not ran[name]):
            subprocess.run(["service", name, "stop"], check=True, capture_output=True)


@pytest.fixture
def _no_libvirtd():
    """Stop libvirt's daemon meanwhile; guests continue to run."""
    ran = processes(LIBVIRTD)
    if ran:
        subprocess.run(["service", "libvirtd", "stop"], check=True, capture_output=True)
        until(lambda: not processes(LIBVIRTD))
    yield
    if ran:
        subprocess.run(["service", "libvirtd", "start"], check=True, capture_output=True)


@pytest.mark.usefixtures("_no_libvirtd")
def test_libvirt_is_not_started():
    assert processes(LIBVIRTD) == []
    _, told = doctor()
    assert told["facts"]["domains_from"] == "proc"
    assert "libvirtd and virtqemud do not run" in told["facts"]["libvirt"]
    assert processes(LIBVIRTD) == []


def test_it_works_on_a_read_only_file_system(qemu):
    pid = qemu("-machine", "mem-merge=off")
    command = ["unshare", "--mount", "bash", "-ec", READ_ONLY, "bash"]
    command += ["/usr/bin/python3", "-I", "-B", "-", "--seconds", "0"]
    done = subprocess.run(command, stdin=FACTS.open(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert [each["pid"] for each in facts["domains"] if each["pid"] == pid]
    assert all(Path(f"/proc/{each['pid']}").exists() for each in facts["domains"])


def test_ansible_leaves_nothing_behind(tmp_path):
    # Directory of temporary files, if a module were sent
    places = {"ANSIBLE_REMOTE_TMP": str(tmp_path / "remote"), "TMPDIR": str(tmp_path)}
    inventory = tmp_path / "hosts.yml"
    local = "ansible_connection: local, ansible_python_interpreter: /usr/bin/python3"
    inventory.write_text(f"ksm_hosts: {{hosts: {{lab: {{{local}}}}}}}")
    command = [
        "ansible-playbook",
        "-i",
        inventory,
        "-e",
        "doctor_seconds=0",
        "playbooks/doctor.yml",
    ]
    environment = os.environ | places | {"ANSIBLE_KEEP_REMOTE_FILES": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "changed=0" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["hosts.yml"]


def test_a_user_without_rights_learns_what_is_unreadable(qemu):
    pid = qemu()
    program = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    command = [*program, "/usr/bin/python3", "-I", "-B", "-", "--seconds", "0"]
    done = subprocess.run(command, stdin=FACTS.open(), capture_output=True, text=True, check=True)
    facts = json.loads(done.stdout)
    assert pid in [each["pid"] for each in facts["unreadable"]]
    permission = {each.finding: each for each in diagnosis.findings(facts)}["permission"]
    assert permission.evidence["unreadable_processes"] > 0
    assert not permission.evidence["root"]
