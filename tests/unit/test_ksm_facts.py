"""Facts of a host, from test trees and from output of real QEMU and libvirt."""

import gzip
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from programs import ROLES, load

from ksm_analysis.doctor import shape

PROGRAM = ROLES / "doctor/files/ksm_facts.py"
MIB = 1024 * 1024
ksm_facts = load(PROGRAM)

# Four mappings of two QEMU processes (7.2, TCG, -m 64) on Linux 6.18: the memory of a guest, a ROM
# in a huge page, translated code, and guest memory from a memfd.
SMAPS = """\
7f9967e00000-7f996be00000 rw-p 00000000 00:00 0
Size:              65536 kB
KernelPageSize:        4 kB
MMUPageSize:           4 kB
Rss:                   0 kB
Pss:                   0 kB
Pss_Dirty:             0 kB
Shared_Clean:          0 kB
Shared_Dirty:          0 kB
Private_Clean:         0 kB
Private_Dirty:         0 kB
Referenced:            0 kB
Anonymous:             0 kB
KSM:                   0 kB
LazyFree:              0 kB
AnonHugePages:         0 kB
ShmemPmdMapped:        0 kB
FilePmdMapped:         0 kB
Shared_Hugetlb:        0 kB
Private_Hugetlb:       0 kB
Swap:                  0 kB
SwapPss:               0 kB
Locked:                0 kB
THPeligible:           1
VmFlags: rd wr mr mw me dc ac hg mg
7f99b0400000-7f99b0600000 rw-p 00000000 00:00 0
Size:               2048 kB
KernelPageSize:        4 kB
MMUPageSize:           4 kB
Rss:                2048 kB
Pss:                2048 kB
Pss_Dirty:          2048 kB
Shared_Clean:          0 kB
Shared_Dirty:          0 kB
Private_Clean:         0 kB
Private_Dirty:      2048 kB
Referenced:         2048 kB
Anonymous:          2048 kB
KSM:                   0 kB
LazyFree:              0 kB
AnonHugePages:      2048 kB
ShmemPmdMapped:        0 kB
FilePmdMapped:         0 kB
Shared_Hugetlb:        0 kB
Private_Hugetlb:       0 kB
Swap:                  0 kB
SwapPss:               0 kB
Locked:                0 kB
THPeligible:           1
VmFlags: rd wr mr mw me dc ac hg mg
7f996c000000-7f99abfff000 rwxp 00000000 00:00 0
Size:            1048572 kB
KernelPageSize:        4 kB
MMUPageSize:           4 kB
Rss:                2048 kB
Pss:                2048 kB
Pss_Dirty:          2048 kB
Shared_Clean:          0 kB
Shared_Dirty:          0 kB
Private_Clean:         0 kB
Private_Dirty:      2048 kB
Referenced:         2048 kB
Anonymous:          2048 kB
KSM:                   0 kB
LazyFree:              0 kB
AnonHugePages:      2048 kB
ShmemPmdMapped:        0 kB
FilePmdMapped:         0 kB
Shared_Hugetlb:        0 kB
Private_Hugetlb:       0 kB
Swap:                  0 kB
SwapPss:               0 kB
Locked:                0 kB
THPeligible:           1
VmFlags: rd wr ex mr mw me ac hg
7fd61ffff000-7fd623fff000 rw-s 00000000 00:01 251845 /memfd:memory-backend-memfd (deleted)
Size:              65536 kB
KernelPageSize:        4 kB
MMUPageSize:           4 kB
Rss:                   0 kB
Pss:                   0 kB
Pss_Dirty:             0 kB
Shared_Clean:          0 kB
Shared_Dirty:          0 kB
Private_Clean:         0 kB
Private_Dirty:         0 kB
Referenced:            0 kB
Anonymous:             0 kB
KSM:                   0 kB
LazyFree:              0 kB
AnonHugePages:         0 kB
ShmemPmdMapped:        0 kB
FilePmdMapped:         0 kB
Shared_Hugetlb:        0 kB
Private_Hugetlb:       0 kB
Swap:                  0 kB
SwapPss:               0 kB
Locked:                0 kB
THPeligible:           0
VmFlags: rd wr sh mr mw me ms dc hg
"""
# Without the memory of a guest
SMAPS_OF_A_PROGRAM = SMAPS[: SMAPS.index("7fd61ffff000")]
# A command line of libvirt 9.0, without options that do not affect memory.
LIBVIRT = """\
/usr/bin/qemu-system-x86_64 -name guest=web,debug-threads=on -S
-machine pc-i440fx-7.2,usb=off,dump-guest-core=off,mem-merge=off,memory-backend=pc.ram -accel tcg
-m 768 -object {"qom-type":"memory-backend-ram","id":"pc.ram","size":805306368}
-overcommit mem-lock=off -uuid 292abd1b-2231-449e-bc61-cf53ae662926
-device {"driver":"virtio-net-pci","netdev":"hostua-net-0","id":"ua-net-0"}
"""
XML = """\
<domain type='qemu' id='1'>
  <name>web</name>
  <uuid>292abd1b-2231-449e-bc61-cf53ae662926</uuid>
  <memoryBacking><nosharepages/><access mode='shared'/><source type='memfd'/></memoryBacking>
  <devices><hostdev mode='subsystem'/><memballoon model='none'/></devices>
</domain>
"""
TREE = {
    "proc/sys/kernel/osrelease": "6.18.0\n",
    "proc/meminfo": "MemTotal:       2048 kB\n",
    "proc/vmstat": "thp_collapse_alloc 3\nthp_split_page 4\nother 5\n",
    "sys/kernel/mm/ksm/run": "1\n",
    "sys/kernel/mm/ksm/general_profit": "-64\n",
    "sys/kernel/mm/ksm/advisor_mode": "[none] scan-time\n",
    "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
    "sys/kernel/mm/transparent_hugepage/khugepaged/max_ptes_none": "511\n",
    "sys/devices/system/node/node0/cpulist": "0\n",
    "sys/devices/system/node/node1/cpulist": "1\n",
    "proc/37/comm": "ksmd\n",
    "proc/37/cmdline": "",
    "proc/90/cmdline": "/bin/bash\0/usr/sbin/ksmtuned\0",
    "proc/90/ksm_stat": "ksm_rmap_items 0\nksm_merge_any: no\nksm_mergeable: no\n",
    "proc/4242/cmdline": "qemu-system-x86_64\0-name\0web\0-m\x0064\0",
    "proc/4242/status": "Name:\tqemu-system-x86\nVmLck:\t       0 kB\nVmPin:\t       8 kB\n",
    "proc/4242/smaps": SMAPS,
    "proc/4242/ksm_stat": "ksm_rmap_items 9\nksm_process_profit -576\nksm_mergeable: yes\n",
}


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "root"
    for path, text in TREE.items():
        put(root, path, text)
    return root


def put(root, path, text):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def read(tree, *arguments):
    command = [sys.executable, PROGRAM, "--root", tree, "--seconds", "0.05", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return json.loads(done.stdout)


def qemu(*words):
    return ksm_facts.qemu(["qemu-system-x86_64", *words])


# The host


def test_a_host(tree):
    facts = read(tree)
    assert facts["host"]["kernel"] == "6.18.0"
    assert facts["host"]["memory_bytes"] == 2 * MIB
    assert facts["host"]["numa_nodes"] == 2
    assert facts["huge_pages"] == {"enabled": "madvise", "khugepaged": {"max_ptes_none": 511}}
    assert facts["services"] == [{"name": "ksmtuned", "pid": 90}]
    first, last = facts["readings"]
    assert last["monotonic"] - first["monotonic"] >= 0.05
    assert last["ksm"] == {"run": 1, "general_profit": -64, "advisor_mode": "[none] scan-time"}
    assert last["vmstat"] == {"thp_collapse_alloc": 3, "thp_split_page": 4}


def test_a_kernel_without_ksm(tree):
    directory = tree / "sys/kernel/mm/ksm"
    for path in directory.iterdir():
        path.unlink()
    directory.rmdir()
    assert read(tree)["readings"][-1]["ksm"] is None


@pytest.mark.parametrize(
    ("config", "found"),
    [("CONFIG_KSM=y\n", "y"), ("# CONFIG_KSM is not set\n", "n"), (None, None)],
)
def test_the_configuration_of_the_kernel(tree, config, found):
    if config is not None:
        put(tree, "boot/config-6.18.0", config)
    assert read(tree)["host"]["config_ksm"] == found


def test_the_configuration_that_the_kernel_shows_itself(tree):
    (tree / "proc/config.gz").write_bytes(gzip.compress(b"CONFIG_KSM=y\n"))
    assert read(tree)["host"]["config_ksm"] == "y"


LONG = "9" * 5000


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("etc/passwd", "+::::::\nroot:x:0:0::/root:/bin/sh\n"),
        ("etc/passwd", f"a:x:{LONG}:0::/:/bin/sh\nroot:x:0:0::/root:/bin/sh\n"),
        ("etc/group", "+:::\nkvm:x:77:\n"),
        ("proc/vmstat", "thp_collapse_alloc 3\nodd line here\nthp_split_page 4\n"),
        ("proc/vmstat", f"thp_collapse_alloc 3\nthp_split_page {LONG}\n"),
        ("proc/vmstat", "thp_collapse_alloc 3\nthp_split_page -\n"),
        ("proc/meminfo", "MemTotal: 12kB\nMemFree: 7 kB\n"),
        ("proc/meminfo", f"MemTotal: {LONG} kB\nMemFree:\n"),
        ("proc/uptime", "nan 1.0\n"),
        ("proc/uptime", "1e999 1.0\n"),
        ("sys/devices/system/node/node0/meminfo", f"Node 0 MemTotal: {LONG} kB\n"),
        ("sys/kernel/mm/ksm/full_scans", f"{LONG}\n"),
        ("etc/momd.rules", "(defvar ksm_free_percent 0.2.1)\n"),
        ("etc/momd.rules", f"(defvar ksm_free_percent {LONG})\n"),
        ("etc/ksmtuned.conf", f"KSM_THRES_COEF={LONG}\n"),
        ("proc/4242/ksm_stat", f"ksm_rmap_items {LONG}\nksm_mergeable: yes\n"),
        ("proc/4242/ksm_merging_pages", f"{LONG}\n"),
        ("proc/4242/status", f"Name:\tqemu\nUid:\t{LONG}\nVmPin:\t{LONG} kB\n"),
        ("proc/4242/smaps", f"{SMAPS}Rss: {LONG} kB\nRss: odd\nKernelPageSize:    \n"),
        ("proc/4242/maps", "odd 1 2 3 4 /memfd:ram\n"),
        ("proc/4242/stat", f"1 (a) S {'1 ' * 18}{LONG} 1\n"),
        ("proc/4242/cmdline", f"qemu-system-x86_64\0-name\0web\0-m\0{LONG}\0"),
        ("proc/4242/cmdline", f"/opt/x\0-m\0{LONG}\0"),
        ("proc/4242/cmdline", 'qemu\0-name\0{"guest": 5}\0-m\0{"size": [1]}\0'),
        ("proc/4242/cmdline", 'qemu\0-object\0{"qom-type": "memory-backend-ram", "mem-path": 3}\0'),
        ("proc/4242/cmdline", "qemu\0-object\0" + '{"a":' * 5000 + "0" + "}" * 5000 + "\0"),
        ("proc/37/stat", f"37 (ksmd) S {'1 ' * 10}odd {LONG} 1\n"),
        ("proc/37/schedstat", f"{LONG} 1 1\n"),
        ("proc/\u00b2/cmdline", "x\0"),
    ],
)
def test_an_odd_line_costs_no_other(tree, path, text):
    put(tree, "dev/kvm", "")
    put(tree, path, text)
    facts = shape.complete(read(tree))
    assert facts["host"]["kernel"] == "6.18.0"
    assert facts["kvm"]["mode"]
    for reading in facts["readings"]:
        assert reading["ksm"]["run"] == 1
        assert reading["vmstat"]["thp_collapse_alloc"] == 3
    if path == "proc/meminfo" and "MemFree: 7" in text:
        assert facts["host"]["memory_bytes"] is None
        assert facts["host"]["memory"] == {"MemFree": 7 * 1024}
    if path.startswith("etc/passwd"):
        users, _ = ksm_facts.accounts(tree)
        assert users == {"root": (0, 0)}
    assert LONG not in json.dumps(facts)


def test_a_wrong_interval():
    command = [sys.executable, PROGRAM, "--seconds", "-1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "-1 is not a number of seconds from 0 to 3600" in done.stderr


# Processes


def test_mappings_by_what_ksm_can_do_with_them():
    kinds = ksm_facts.memory(SMAPS)
    assert kinds["mergeable"] == {
        "mappings": 2,
        "size": 66 * MIB,
        "resident": 2 * MIB,
        "anonymous": 2 * MIB,
        "huge": 2 * MIB,
        "ksm": 0,
        "swapped": 0,
        "locked": 0,
        "advised_huge": 66 * MIB,
    }
    assert (kinds["shared"]["mappings"], kinds["shared"]["size"]) == (1, 64 * MIB)
    assert kinds["private"]["size"] == 1048572 * 1024
    assert kinds["hugetlb"]["mappings"] == 0


@pytest.mark.parametrize(
    ("flags", "kind"),
    [
        ("rd wr mr mw me dc de ht", "hugetlb"),
        ("rd wr sh mr mw me ms de ht", "hugetlb"),
        ("rd mr mw me ms", "shared"),
        ("rd wr mr mw me ac mg", "mergeable"),
        ("rd wr mr mw me ac", "private"),
    ],
)
def test_flags_of_a_mapping(flags, kind):
    assert ksm_facts.kind(flags.split()) == kind


def test_a_domain_of_proc(tree):
    facts = read(tree)
    (domain,) = facts["domains"]
    assert (facts["domains_from"], facts["libvirt"][:8]) == ("proc", "not used")
    assert (domain["name"], domain["pid"], domain["libvirt"]) == ("web", 4242, None)
    assert domain["ksm_stat"]["ksm_process_profit"] == -576
    assert domain["pinned"] == 8192
    assert facts["processes"] == []


@pytest.mark.parametrize("name", ["/usr/libexec/qemu-kvm", "/usr/bin/kvm", "qemu-system-aarch64"])
def test_a_command_line_of_qemu(tree, name):
    put(tree, "proc/4242/cmdline", f"{name}\0-m\x0064\0")
    assert read(tree)["domains"][0]["name"] == f"{name.rpartition('/')[2]}-4242"


@pytest.mark.parametrize("name", ["/usr/bin/notkvm", "qemu-img", "vim\0qemu-system-x86_64"])
def test_a_command_line_of_another_program(tree, name):
    put(tree, "proc/4242/cmdline", f"{name}\0")
    put(tree, "proc/4242/smaps", SMAPS_OF_A_PROGRAM)
    assert read(tree)["domains"] == []


def test_a_process_that_offers_memory_is_read(tree):
    put(tree, "proc/50/cmdline", "/usr/bin/java\0")
    put(tree, "proc/50/status", "Name:\tjava\n")
    put(tree, "proc/50/smaps", SMAPS_OF_A_PROGRAM)
    put(tree, "proc/50/ksm_stat", "ksm_rmap_items 0\nksm_mergeable: yes\n")
    (process,) = read(tree)["processes"]
    assert process["name"] == "java"
    assert process["memory"]["mergeable"]["size"] == 66 * MIB


def test_an_older_kernel_does_not_report_mergeable_memory(tree):
    for pid, flags in ((50, "mr mg"), (51, "mr")):
        put(tree, f"proc/{pid}/cmdline", "program\0")
        put(tree, f"proc/{pid}/smaps", f"1-2 rw-p 0 00:00 0\nSize: 4 kB\nVmFlags: {flags}\n")
    assert [each["pid"] for each in read(tree)["processes"]] == [50]


def test_a_process_that_has_ended_meanwhile_is_skipped(tree):
    (tree / "proc/4242/smaps").unlink()
    facts = read(tree)
    assert facts["domains"] == []
    assert facts["unreadable_processes"] == 0


def test_a_process_may_have_an_empty_name(tree):
    put(tree, "proc/60/cmdline", "\0")
    assert [domain["pid"] for domain in read(tree)["domains"]] == [4242]


def test_unreadable_processes_are_counted(tree, monkeypatch):
    def refuse(root, pid, since_boot):
        raise PermissionError

    monkeypatch.setattr(ksm_facts, "process", refuse)
    facts = ksm_facts.facts(tree, 0)
    assert facts["unreadable"] == [{"pid": 4242, "name": "web", "vmm": "qemu"}]
    assert facts["unreadable_processes"] == 1


# QEMU


def test_a_command_line_of_libvirt():
    found = ksm_facts.qemu(LIBVIRT.split())
    assert found == {
        "name": "web",
        "id": None,
        "uuid": "292abd1b-2231-449e-bc61-cf53ae662926",
        "memory_bytes": 768 * MIB,
        "mem_merge": False,
        "encrypted": False,
        "backends": [
            {
                "type": "memory-backend-ram",
                "size": 768 * MIB,
                "share": False,
                "merge": True,
                "hugetlb": False,
                "mem_path": None,
            }
        ],
        "mem_path": None,
        "mem_lock": False,
        "vfio": [],
        "vhost_user": False,
        "balloon": False,
    }


@pytest.mark.parametrize(
    ("words", "size"),
    [
        ("", 128 * MIB),
        ("-m 64", 64 * MIB),
        ("-m 1.5G", 1536 * MIB),
        ("-m size=2097152k,slots=16,maxmem=8G", 2048 * MIB),
        ("-m 1g,slots=2", 1024 * MIB),
        ("-m rubbish", None),
    ],
)
def test_the_memory_of_a_guest(words, size):
    assert qemu(*words.split())["memory_bytes"] == size


def test_settings_of_a_guest():
    assert qemu()["mem_merge"]
    assert not qemu("-M", "q35,mem-merge=off")["mem_merge"]
    assert not qemu("--machine", "q35", "-machine", "mem-merge=no")["mem_merge"]
    assert qemu("-machine", "q35,confidential-guest-support=sev0")["encrypted"]
    assert qemu("-mem-path", "/dev/hugepages")["mem_path"] == "/dev/hugepages"
    assert qemu("-overcommit", "mem-lock=on")["mem_lock"]
    assert qemu("-device", "vfio-pci,host=01:00.0")["vfio"] == ["vfio-pci"]
    assert qemu("-device", '{"driver":"vfio-pci","host":"01:00.0"}')["vfio"] == ["vfio-pci"]
    assert qemu("-device", "vhost-user-fs-pci,chardev=c,tag=t")["vhost_user"]
    assert qemu("-netdev", "vhost-user,id=n,chardev=c")["vhost_user"]
    assert qemu("-device", "virtio-balloon-pci")["balloon"]


def test_memory_backends():
    words = ("-object", "memory-backend-memfd,id=m,size=64M,share=on,merge=off")
    (memfd,) = qemu(*words)["backends"]
    assert memfd["size"] == 64 * MIB
    assert (memfd["share"], memfd["merge"]) == (True, False)
    assert qemu("-object", "memory-backend-memfd,id=m,size=1G")["backends"][0]["share"]
    assert not qemu("-object", "memory-backend-file,id=m,mem-path=/x")["backends"][0]["share"]
    assert qemu("-object", '{"qom-type":"secret","id":"s"}', "-object", "{broken")["backends"] == []


def test_a_doubled_comma_is_one_word():
    assert ksm_facts.properties("guest=a,,b,debug-threads=on", "guest")["guest"] == "a,,b"


# libvirt


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a mount namespace")
def test_libvirt_of_a_container_is_not_asked():
    run = "mount -t tmpfs none /run && echo && exec -a /usr/sbin/virtqemud sleep 60"
    command = ["unshare", "--mount", "bash", "-c", run]
    daemon = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        daemon.stdout.readline()
        while Path(f"/proc/{daemon.pid}/comm").read_text() != "sleep\n":
            time.sleep(0.01)
        programs, _ = ksm_facts.look_at_processes(Path("/"))
        ours = {daemon.pid: programs[daemon.pid]}
        assert ksm_facts.libvirt(Path("/"), ours)[1].startswith("not used: its daemon")
    finally:
        daemon.kill()
        daemon.communicate()


def test_the_xml_of_a_domain():
    found = ksm_facts.domain(XML)
    assert found["uuid"] == "292abd1b-2231-449e-bc61-cf53ae662926"
    assert (found["nosharepages"], found["hugepages"], found["locked"]) == (True, False, False)
    assert (found["source"], found["access"]) == ("memfd", "shared")
    assert (found["hostdevs"], found["memballoon"]) == (1, "none")


def test_a_domain_without_settings_of_its_memory():
    found = ksm_facts.domain("<domain><name>a</name><uuid>b</uuid></domain>")
    assert not found["nosharepages"]
    assert (found["source"], found["access"], found["memballoon"]) == (None, None, None)


@pytest.fixture
def device(tmp_path):
    """Make a root directory with a test /dev/kvm, and users."""

    def make(mode, user="libvirt-qemu", uid=64055, group=None, conf=None):
        owner = tmp_path.stat()
        gid = owner.st_gid if group is None else group
        for name in ("dev", "etc/libvirt"):
            (tmp_path / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "dev/kvm").touch()
        (tmp_path / "dev/kvm").chmod(mode)
        (tmp_path / "etc/passwd").write_text(
            f"boss:x:{owner.st_uid}:0::/:/bin/sh\n{user}:x:{uid}:77::/:/bin/false\n"
        )
        (tmp_path / "etc/group").write_text(f"crowd:x:77:\nkvm:x:{gid}:someone,{user}\n")
        if conf is not None:
            (tmp_path / "etc/libvirt/qemu.conf").write_text(conf)
        return ksm_facts.kvm(tmp_path)

    return make


def test_kvm_that_only_its_owner_may_open(device):
    found = device(0o600)
    assert found == {
        "mode": "0600",
        "owner": "boss",
        "group": "kvm",
        "user": "libvirt-qemu",
        "groups": ["crowd", "kvm"],
        "opens": False,
    }


@pytest.mark.parametrize(
    ("mode", "more", "opens"),
    [
        (0o660, {}, True),
        (0o640, {}, False),
        (0o660, {"group": 99}, False),
        (0o606, {}, False),  # members of the group get only its bits
        (0o666, {"group": 99}, True),
        (0o600, {"uid": 0}, True),
    ],
)
def test_who_may_open_kvm(device, mode, more, opens):
    assert device(mode, **more)["opens"] is opens


def test_the_user_of_qemu_is_that_of_its_configuration(device):
    assert device(0o600, user="qemu")["user"] == "qemu"
    assert device(0o600, user="mine", conf='#user = "qemu"\nuser = "mine"\n')["user"] == "mine"
    assert device(0o600, user="mine", conf="")["user"] is None


def test_no_kvm(tmp_path):
    assert ksm_facts.kvm(tmp_path) is None
