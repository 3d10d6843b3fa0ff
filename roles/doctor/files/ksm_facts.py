#!/usr/bin/env python3
"""Read everything that affects what KSM merges on this host. Does not judge, and writes nothing.

One file, standard library only, Python 3.6 or newer, so that any host's Python can run it.
"""

import argparse
import gzip
import json
import math
import os
import re
import shutil
import stat
import subprocess
import sys
import time
import xml.etree.ElementTree as Xml
import zlib
from pathlib import Path

FORMAT = 2
MIB = 1024 * 1024
VIRSH_SECONDS = 20
# Programs that run guests, by the name of their file. The kernel cuts names of processes to 15
# characters.
VMMS = {
    "qemu": re.compile(r"\.?(qemu-system-[\w.-]+|qemu-kvm|kvm|qemu)"),
    "cloud-hypervisor": re.compile(r"\.?cloud-hyperviso(r[\w.-]*)?"),
    "firecracker": re.compile(r"\.?firecracker[\w.-]*"),
    "crosvm": re.compile(r"\.?crosvm[\w.-]*"),
    "kvmtool": re.compile(r"lkvm|kvmtool"),
    "virtualbox": re.compile(r"VBoxHeadless|VirtualBoxVM"),
    "vmware": re.compile(r"vmware-vmx[\w.-]*"),
}
# Options of QEMU. A program of any other name is QEMU if it was given three of them, one telling.
QEMU_OPTIONS = {
    *("-machine", "-M", "-accel", "-readconfig", "-enable-kvm", "-nodefaults", "-no-user-config"),
    *("-qmp", "-m", "-smp", "-cpu", "-name", "-device", "-drive", "-netdev", "-display", "-object"),
    *("-kernel", "-chardev", "-mon", "-uuid", "-pidfile", "-daemonize", "-overcommit"),
}
QEMU_TELLING = {
    *("-machine", "-M", "-accel", "-readconfig", "-enable-kvm", "-nodefaults", "-qmp"),
}
# Names of shared mappings that hold a guest's memory: of QEMU, cloud-hypervisor, crosvm and others.
GUEST_MAPPING = re.compile(
    r"memory-backend|pc\.ram|qemu_back_mem|guest|vm[-_.]?mem|vm[-_.]?\d|mem\d|libkrun|(?<![a-z])ram(?![a-z])"
)
# Back ends that map the memory of guests that are not theirs.
BACKENDS = re.compile(
    r"virtiofsd|ovs-vswitchd|spdk.*|vhost.*|dpdk.*|testpmd|vpp|passt.*|snabb|swtpm|qemu-storage-.*"
)
LEAST_GUEST = 64 * MIB  # mapping of a guest that only its mappings show
LEAST_MAPPING = 16 * MIB  # one that counts as memory of a known guest
# Programs that write to the knobs, by the names that they go by.
SERVICES = {
    "ksmtuned": "ksmtuned",
    "momd": "momd",
    "mom": "momd",
    "mom-vdsm": "momd",
    "vdsm-mom": "momd",
    "supervdsmd": "supervdsmd",
    "supervdsm": "supervdsmd",
    "supervdsmServer": "supervdsmd",
    "vdsmd": "supervdsmd",
    "kata-ksm-throttler": "kata-ksm-throttler",
    "kata-ksm-thrott": "kata-ksm-throttler",
    "cc-ksm-throttler": "kata-ksm-throttler",
    "ksm-throttler": "kata-ksm-throttler",
    "virt-handler": "virt-handler",
    "harvester-node-manager": "harvester-node-manager",
    "harvester-node-": "harvester-node-manager",
    "tuned": "tuned",
}
# Programs that do not write to the knobs, but matter to them.
PROGRAMS = ("numad", "uksmd")
INTERPRETERS = re.compile(r"(python|pypy|perl)[\d.]*|(ba|da|z|k)?sh|busybox")
LOADER = re.compile(r"ld(-linux.*|-musl.*)?\.so.*")
# ksmtuned of Debian counts only QEMUs whose command line matches this.
DEBIAN_KSMTUNED = "^qemu-system.*-enable-kvm"
MEMORY = ("MemFree", "MemAvailable", "Buffers", "Cached", "SwapTotal", "SwapFree")
# Users that run QEMU, unless qemu.conf names another: on Debian; on Red Hat and SUSE.
QEMU_USERS = ("libvirt-qemu", "qemu")
UNITS = ("ksm.service", "ksmtuned.service")
LIBVIRT = ("libvirtd", "virtqemud")
SOCKETS = tuple(f"/run/libvirt/{name}-sock" for name in ("libvirt", "virtqemud"))
VMSTAT = ("thp_collapse_alloc", "thp_split_page")
# Fields of smaps, and their names in the facts. All are in bytes.
FIELDS = {
    "Size": "size",
    "Rss": "resident",
    "Anonymous": "anonymous",
    "AnonHugePages": "huge",
    "KSM": "ksm",
    "Swap": "swapped",
    "Locked": "locked",
}
KINDS = ("mergeable", "shared", "hugetlb", "private", "unknown")
NO = (False, "off", "no", "false", "n")
YES = (True, "on", "yes", "true", "y")
UNIT = {"b": 1, "k": 1024, "m": MIB, "g": 1024 * MIB, "t": MIB * MIB}

HELP = """\
examples:
  python3 ksm_facts.py --seconds 0        one JSON object: counters, domains and their memory
  ssh host python3 - < ksm_facts.py       the same for another host; leaves no file there

output: one JSON object; docs/doctor.md of the KSM testbed explains its keys.
"""


def read(path, default=None):
    """Return the stripped text of a file; the default if it cannot be read."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return default


def names_in(directory):
    """Return the sorted names in a directory; empty if it is missing or cannot be listed."""
    try:
        return sorted(os.listdir(str(directory)))
    except OSError:
        return []


def target(link):
    """Return where a link leads, or None."""
    try:
        return os.readlink(str(link))
    except OSError:
        return None


def number(text):
    """Return the text as an int if it is one, else the text; None beyond 64 bits."""
    return integer(text) if re.fullmatch(r"-?[0-9]+", text) else text


def integer(text):
    """Return the text as an int of at most 64 bits, or None: such a line is skipped."""
    if not re.fullmatch(r"-?[0-9]{1,20}", text) or abs(int(text)) >= 2**64:
        return None
    return int(text)


def fraction(text):
    """Return the text as a finite float, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


# The host


def host(root):
    """Describe the machine and its kernel."""
    release = read(root / "proc/sys/kernel/osrelease") or os.uname().release
    lines = (line.partition(":") for line in (read(root / "proc/meminfo") or "").splitlines())
    sizes = {name: kib(value, None) for name, _, value in lines}
    return {
        "kernel": release,
        "config_ksm": config_ksm(root, release),
        "page_size": os.sysconf("SC_PAGESIZE") if root == Path("/") else None,
        "memory_bytes": sizes.get("MemTotal"),
        "memory": {name: sizes[name] for name in MEMORY if sizes.get(name) is not None},
        "numa_nodes": max(1, len(nodes(root))),
        "root": os.geteuid() == 0,
        "uptime": uptime(root),
        "cpus": len(re.findall(r"^cpu\d", read(root / "proc/stat") or "", re.MULTILINE)) or None,
        "distribution": distribution(root),
        "systemd": systemd(root),
        "proxmox": os.path.isdir(str(root / "etc/pve"))
        or os.path.exists(str(root / "usr/sbin/qm")),
    }


def nodes(root):
    """Return the NUMA nodes that have memory. A node without `meminfo` counts."""
    directory = root / "sys/devices/system/node"
    found = []
    for name in names_in(directory):
        if re.fullmatch(r"node\d+", name):
            total = re.search(r"MemTotal: +(\d+)", read(directory / name / "meminfo") or "")
            if total is None or integer(total.group(1)) != 0:
                found.append(name)
    return found


def uptime(root):
    """Return the seconds since boot; None if they are not shown."""
    words = (read(root / "proc/uptime") or "").split()
    return fraction(words[0]) if words else None


def distribution(root):
    """Return the ID of os-release, or None."""
    found = re.search(r'^ID="?([\w.-]+)', read(root / "etc/os-release") or "", re.MULTILINE)
    return found.group(1) if found else None


def systemd(root):
    """Return the version of systemd, by the name of its library; None if it is not found."""
    places = ("lib", "lib64", "usr/lib", "usr/lib64")
    for place in places:
        for directory in (root / place, *(root / place).glob("*-linux-*")):
            for name in names_in(directory / "systemd"):
                found = re.match(r"libsystemd-(?:shared|core)-(\d+)", name)
                if found:
                    return integer(found.group(1))
    return None


def config_ksm(root, release):
    """Return CONFIG_KSM, if the kernel or /boot shows the configuration."""
    try:
        with gzip.open(root / "proc/config.gz", "rt", errors="replace") as file:
            config = file.read()
    except (OSError, EOFError, zlib.error):
        config = read(root / "boot" / "config-{}".format(release.replace("/", "_")))
    if config is None:
        return None
    found = re.search(r"^CONFIG_KSM=(.*)$", config, re.MULTILINE)
    return found.group(1) if found else "n"


def kvm(root):
    """Return who can open /dev/kvm, and whether libvirt's QEMU user can; None without the device.

    Users and groups are those of /etc. `user` is None if there is no such user, or qemu.conf cannot
    be read. ACLs are not evaluated: with an ACL, `opens` is true, because access is likely.
    """
    device = root / "dev/kvm"
    try:
        state = device.stat()
    except OSError:
        return None
    users, members = accounts(root)
    user = qemu_user(root, users)
    names = {gid: name for name, (gid, _) in members.items()}
    own = {users[user][1]} if user else set()
    own |= {gid for gid, listed in members.values() if user in listed}
    return {
        "mode": f"{stat.S_IMODE(state.st_mode):04o}",
        "owner": next((name for name, ids in users.items() if ids[0] == state.st_uid), None),
        "group": names.get(state.st_gid),
        "user": user,
        "groups": sorted(names.get(gid, str(gid)) for gid in own),
        "opens": bool(user) and (has_acl(device) or may_open(state, users[user][0], own)),
    }


def accounts(root):
    """Return users with their ids (user, group), and groups with their ids and members."""
    users = {row[0]: (integer(row[2]), integer(row[3])) for row in rows(root / "etc/passwd", 7)}
    groups = {row[0]: (integer(row[2]), row[3].split(",")) for row in rows(root / "etc/group", 4)}
    return (
        {name: ids for name, ids in users.items() if None not in ids},
        {name: (gid, listed) for name, (gid, listed) in groups.items() if gid is not None},
    )


def rows(path, columns):
    """Return the rows of a table such as /etc/passwd. Those of NIS, `+::::::`, have no ids."""
    found = (line.split(":") for line in (read(path) or "").splitlines())
    return [row for row in found if len(row) == columns]


def qemu_user(root, users):
    """Return the user that libvirt runs QEMU as; None if there is none."""
    try:
        config = (root / "etc/libvirt/qemu.conf").read_text(errors="replace")
    except FileNotFoundError:
        config = ""
    except OSError:
        return None
    found = re.search(r'^\s*user\s*=\s*"\+?([^"]+)"', config, re.MULTILINE)
    names = [found.group(1)] if found else QEMU_USERS
    return next((name for name in names if name in users), None)


def has_acl(path):
    """Whether a file has an ACL."""
    try:
        return "system.posix_acl_access" in os.listxattr(path)
    except OSError:
        return False


def may_open(state, uid, groups):
    """Whether a user may read and write a file with this owner and mode."""
    if uid in (0, state.st_uid):
        bits = state.st_mode >> 6 if uid else 6
    else:
        bits = state.st_mode >> 3 if state.st_gid in groups else state.st_mode
    return bits & 6 == 6


def huge_pages(root):
    """Return the settings of transparent huge pages and of khugepaged."""
    directory = root / "sys/kernel/mm/transparent_hugepage"
    enabled = read(directory / "enabled")
    if enabled is None:
        return None
    return {
        "enabled": chosen(enabled),
        "khugepaged": values(directory / "khugepaged"),
    }


def chosen(text):
    """Return the word in brackets."""
    found = re.search(r"\[(.*?)\]", text)
    return found.group(1) if found else text


def values(directory, refused=None):
    """Return all files of a sysfs directory, as numbers or text; None without the directory.

    Files that cannot be read, and `.` if the directory cannot be listed, are added to `refused`,
    a list.
    """
    refused = [] if refused is None else refused
    try:
        names = sorted(os.listdir(str(directory)))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        refused.append(".")
        return {}
    texts = {name: read(directory / name) for name in names}
    refused += [name for name, text in texts.items() if text is None]
    found = {name: number(text) for name, text in texts.items() if text is not None}
    return {name: value for name, value in found.items() if value is not None}


def reading(root, ksmd=None):
    """Read the counters. The difference of two readings gives rates."""
    refused = []
    lines = (line.split() for line in (read(root / "proc/vmstat") or "").splitlines())
    vmstat = {words[0]: integer(words[1]) for words in lines if len(words) == 2}
    return {
        "monotonic": time.monotonic(),
        "ksm": values(root / "sys/kernel/mm/ksm", refused),
        "ksm_unreadable": refused,
        "uksm": values(root / "sys/kernel/mm/uksm"),
        "ksmd_cpu_ns": cpu_time(root, ksmd),
        "vmstat": {name: vmstat[name] for name in VMSTAT if vmstat.get(name) is not None},
    }


def cpu_time(root, pid):
    """Return the CPU time of a process in ns, or None."""
    if pid is None:
        return None
    words = (read(root / "proc" / str(pid) / "schedstat") or "").split()
    if words and integer(words[0]) is not None:
        return integer(words[0])
    ticks = [integer(field) for field in stat_fields(root / "proc" / str(pid))[11:13]]
    if len(ticks) < 2 or None in ticks:
        return None
    return sum(ticks) * (10**9 // hertz(root))


def stat_fields(directory):
    """Return the fields of /proc/PID/stat after the name, from the state on."""
    return (read(directory / "stat") or "").rpartition(")")[2].split()


def hertz(root):
    """Return the ticks in a second; of another machine, the usual number."""
    return os.sysconf("SC_CLK_TCK") if root == Path("/") else 100


def age(root, directory, since_boot):
    """Return the seconds since a process was started, or None."""
    fields = stat_fields(directory)
    started = integer(fields[19]) if len(fields) > 19 else None
    if since_boot is None or started is None:
        return None
    return max(0.0, since_boot - started / hertz(root))


def units(root):
    """Return the states of the systemd units that control KSM, if systemd runs and knows them."""
    if root != Path("/") or not Path("/run/systemd/system").is_dir():
        return {}
    out = run("systemctl", "is-active", *UNITS) or ""
    states = dict(zip(UNITS, out.split()))
    return {name: state for name, state in states.items() if state == "active"}


def run(*command):
    """Run a read-only command; return its output, or None if it cannot be run."""
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            universal_newlines=True,
            errors="replace",
            timeout=VIRSH_SECONDS,
            env=environment,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 or command[0] == "systemctl" else None


# Processes


def look_at_processes(root):
    """Return the programs by process id (words, name and file), and the process id of ksmd."""
    found, ksmd = {}, None
    pids = [name for name in names_in(root / "proc") if re.fullmatch("[0-9]{1,10}", name)]
    for name in sorted(pids, key=int):
        directory = root / "proc" / name
        words = [word for word in (read(directory / "cmdline") or "").split("\0") if word]
        comm = read(directory / "comm")
        if words:
            file = target(directory / "exe")
            file = file[: -len(" (deleted)")] if file and file.endswith(" (deleted)") else file
            found[int(name)] = {"words": words, "comm": comm, "exe": file}
        elif comm == "ksmd":
            ksmd = int(name)
    return found, ksmd


def base(path):
    """Return the last part of a path."""
    return path.rstrip("/").rpartition("/")[2]


def called(program):
    """Return the names that a program goes by: of its file, its first word, and its script."""
    words, file = program["words"], base(program["exe"] or "")
    names = [name for name in (file, base(words[0])) if name and not LOADER.fullmatch(name)]
    if any(INTERPRETERS.fullmatch(name) for name in names) or not names:
        names += script(words[1:])
    return [name for name in [*names, program["comm"]] if name]


def script(words):
    """Return the name of the script or module that an interpreter runs, in a list."""
    skip = False
    for index, word in enumerate(words):
        if skip:
            skip = False
        elif word == "-m":
            return [part.rpartition(".")[2] for part in words[index + 1 : index + 2]]
        elif word == "-c":
            return []
        elif word in ("-W", "-X", "--library-path", "--preload"):
            skip = True
        elif not word.startswith("-"):
            return [base(word)]
    return []


def services(root, programs):
    """Return running programs that are known to write to the knobs."""
    found = []
    for pid, program in programs.items():
        name = next((SERVICES[each] for each in called(program) if each in SERVICES), None)
        if name and (name != "tuned" or tuned(root)["knobs"]):
            found.append({"name": name, "pid": pid})
    return found


def thresholds(root):
    """Return what the configuration of the services says about when ksmd is to run."""
    return {"ksmtuned": ksmtuned(root), "momd": mom(root), "tuned": tuned(root)}


def ksmtuned(root):
    """Return when ksmtuned starts ksmd: a part of the memory in %, and at least so many KiB free.

    `pattern` is which QEMUs it counts by their whole command line, `by_command_line`, or their
    name. Null: not known.
    """
    config, file = {}, None
    for path in ("etc/ksmtuned.conf", "etc/sysconfig/ksmtuned", "etc/default/ksmtuned"):
        text = read(root / path)
        if text is None:
            continue
        file = file or "/" + path
        found = re.findall(r"^\s*(?:export\s+)?(KSM_THRES_\w+)=[\"']?(\d+)", text, re.MULTILINE)
        config.update((name, integer(value)) for name, value in found if integer(value) is not None)
    program = next(
        filter(
            None, (read(root / place / "ksmtuned") for place in ("usr/sbin", "usr/bin", "sbin"))
        ),
        None,
    )
    counts = re.search(r"pgrep\s+(.*?)['\"](\^?[^'\"\s][^'\"]*)['\"]", program or "")
    pattern = counts.group(2) if counts else None
    whole = bool(counts) and "-f" in counts.group(1).split()
    if program is None and distribution(root) in ("debian", "ubuntu"):
        pve = os.path.isdir(str(root / "etc/pve"))
        pattern, whole = (None, False) if pve else (DEBIAN_KSMTUNED, True)
    return {
        "file": file,
        "coefficient": config.get("KSM_THRES_COEF", 20),
        "constant_kib": config.get("KSM_THRES_CONST", 2048),
        "pattern": pattern,
        "by_command_line": whole,
    }


def counted(rule, program):
    """Whether ksmtuned counts a QEMU; None if it is not known."""
    if not rule["pattern"]:
        return None
    try:
        text = " ".join(program["words"]) if rule["by_command_line"] else program["comm"] or ""
        return bool(re.search(rule["pattern"], text))
    except re.error:
        return None


def mom(root):
    """Return the part of the memory that is to be free before MOM lets ksmd stop, and its file."""
    places = [root / "etc/vdsm/mom.d/ksm.rules", root / "etc/mom.rules", root / "etc/momd.rules"]
    for directory in ("etc/vdsm/mom.d", "etc/mom.d", "etc/mom"):
        places += [root / directory / name for name in names_in(root / directory)]
    for path in places:
        found = re.search(r"\(defvar\s+ksm_free_percent\s+([\d.]+)", read(path) or "")
        part = fraction(found.group(1)) if found else None
        if part is not None:
            return {"file": "/" + str(path.relative_to(root)), "part": part}
    return {"file": None, "part": 0.2}


def tuned(root):
    """Return the active profile of tuned, and the knobs of KSM that it sets."""
    active = (read(root / "etc/tuned/active_profile") or "").split()
    wanted, seen, knobs = [*active], [], {}
    while wanted:
        name = wanted.pop()
        if name in seen or not re.fullmatch(r"[\w.-]+", name):
            continue
        seen.append(name)
        for place in ("etc/tuned", "etc/tuned/profiles", "usr/lib/tuned", "usr/lib/tuned/profiles"):
            text = read(root / place / name / "tuned.conf") or ""
            for knob, value in re.findall(r"mm/ksm/(\w+)\s*=\s*>?\s*(\S+)", text):
                knobs.setdefault(knob, value)
            included = re.search(r"^\s*include\s*=\s*(.+)$", text, re.MULTILINE)
            wanted += re.split(r"[\s,]+", included.group(1)) if included else []
    return {"profile": " ".join(active) or None, "knobs": knobs}


def process(root, pid, since_boot=None):
    """Return what KSM may merge of a process, and what it has merged. Raises OSError."""
    directory = root / "proc" / str(pid)
    status = dict(
        line.split(":\t", 1)
        for line in (read(directory / "status") or "").splitlines()
        if ":\t" in line
    )
    found = mappings((directory / "smaps").read_bytes().decode(errors="replace"))
    uid = (status.get("Uid") or "").split()
    return {
        "pid": pid,
        "name": status.get("Name") or read(directory / "comm") or "?",
        "uid": integer(uid[0]) if uid else None,
        "age": age(root, directory, since_boot),
        "memory": sums(found),
        "mapped_guest": mapped_guest(found),
        "page_size": min((each["page_size"] for each in found if each["page_size"]), default=None),
        "ksm_stat": ksm_stat(directory),
        "pinned": kib(status.get("VmPin")),
        "vfio_files": len([1 for path in descriptors(directory) if path.startswith("/dev/vfio/")]),
    }


def kib(text, default=0):
    """Return the bytes of `12 kB`; the default if the value is missing or is none."""
    words = (text or "").split()
    amount = integer(words[0]) if words else None
    return default if amount is None or abs(amount) >= 2**54 else amount * 1024


def descriptors(directory):
    """Return what the descriptors of a process lead to; empty if they cannot be listed."""
    links = (target(directory / "fd" / name) for name in names_in(directory / "fd"))
    return [link for link in links if link]


def ksm_stat(directory):
    """Return the lines of ksm_stat, `name value` or `name: value`; empty before Linux 6.1."""
    lines = (read(directory / "ksm_stat") or "").splitlines()
    pairs = (re.fullmatch(r"(\w+):? +(.*)", line) for line in lines)
    found = {pair.group(1): number(pair.group(2)) for pair in pairs if pair}
    merging = integer(read(directory / "ksm_merging_pages") or "")
    found.setdefault("ksm_merging_pages", merging)
    return {name: value for name, value in found.items() if value is not None}


def may_merge(stat):
    """Whether ksm_stat reports mergeable memory; None if this kernel does not say."""
    if stat.get("ksm_rmap_items"):
        return True
    if "ksm_mergeable" not in stat:
        return None
    return "yes" in (stat["ksm_mergeable"], stat.get("ksm_merge_any"))


HEADER = re.compile(r"[0-9a-f]+-[0-9a-f]+ (\S{4}) \S+ \S+ \S+ *(.*)")


def mappings(smaps):
    """Return the mappings of a process: rights, name, size of its pages, fields and flags.

    Flags are None on kernels before 3.8, which do not show them.
    """
    found = []
    for line in smaps.splitlines():
        name, _, value = line.partition(":")
        if name in FIELDS and found:
            found[-1]["fields"][FIELDS[name]] = kib(value)
        elif name == "VmFlags" and found:
            found[-1]["flags"] = value.split()
        elif name == "KernelPageSize" and found:
            found[-1]["page_size"] = kib(value)
        else:
            header = HEADER.match(line)
            if header:
                mapping = {"rights": header.group(1), "name": header.group(2), "page_size": 0}
                found.append({**mapping, "fields": {}, "flags": None})
    return found


def memory(smaps):
    """Sum up the mappings of a text of smaps."""
    return sums(mappings(smaps))


def sums(found):
    """Sum up mappings by what KSM can do with them. All values are bytes, except the number.

    mergeable: offered to KSM (mg); shared and hugetlb: kinds that KSM never merges; private: KSM
    could merge it, but it is not offered; unknown: private, and the kernel does not say whether it
    is offered. advised_huge: huge pages were enabled by madvise.
    """
    names = ("mappings", *FIELDS.values(), "advised_huge")
    kinds = {kind: dict.fromkeys(names, 0) for kind in KINDS}
    for mapping in found:
        flags = mapping["flags"]
        total = kinds[kind(flags, mapping["rights"])]
        total["mappings"] += 1
        if flags and "hg" in flags:
            total["advised_huge"] += mapping["fields"].get("size", 0)
        for field, amount in mapping["fields"].items():
            total[field] += amount
    return kinds


def kind(flags, rights="rw-p"):
    """Return what KSM can do with a mapping that has these flags."""
    if flags is None:
        return "shared" if rights.endswith("s") else "unknown"
    if "ht" in flags:
        return "hugetlb"
    if "sh" in flags or "ms" in flags:
        return "shared"
    return "mergeable" if "mg" in flags else "private"


def mapped_guest(found):
    """Return the bytes of the mappings that look like a guest's memory.

    They are large, writable and not executable (which is translated code), and not the heap. A
    file may be mapped several times, and counts once.
    """
    files, size = {}, 0
    for mapping in found:
        amount, name = mapping["fields"].get("size", 0), mapping["name"]
        if amount < LEAST_MAPPING or "w" not in mapping["rights"] or "x" in mapping["rights"]:
            continue
        if name in ("[heap]", "[stack]"):
            continue
        if name and mapping["rights"].endswith("s"):
            files[name] = max(files.get(name, 0), amount) if "memfd:" not in name else amount
        else:
            size += amount
    return size + sum(files.values())


# Domains


def vmm(root, pid, program):
    """Return which kind of program runs a guest in this process; None if it runs none.

    By the name of the program; by its descriptors of KVM; by options of QEMU; by its mappings.
    """
    names = called(program)
    for kind_of, pattern in VMMS.items():
        if any(pattern.fullmatch(name) for name in names):
            helper = kind_of == "crosvm" and not has_kvm(root, pid, unless_unknown=True)
            return None if helper else kind_of
    given = set(program["words"][1:])
    if len(QEMU_OPTIONS & given) >= 3 and QEMU_TELLING & given:
        return "qemu"
    if has_kvm(root, pid):
        return "unknown"
    if any(BACKENDS.fullmatch(name) for name in names):
        return None
    return "unknown" if maps_a_guest(root / "proc" / str(pid)) else None


def has_kvm(root, pid, unless_unknown=False):
    """Whether a process has a virtual machine or CPU of KVM open."""
    found = descriptors(root / "proc" / str(pid))
    if not found:
        return unless_unknown
    return any(path.startswith("anon_inode:kvm-v") for path in found) or "/dev/kvm" in found


def maps_a_guest(directory):
    """Whether a process maps a large memfd or file of /dev/shm that is named as guests' memory."""
    text = read(directory / "maps")
    if text is None:  # a copy of another machine's files
        found = (
            (each["name"], each["fields"]) for each in mappings(read(directory / "smaps") or "")
        )
        sizes = [(name, fields.get("size", 0)) for name, fields in found]
    else:
        lines = (line.split(None, 5) for line in text.splitlines() if line.count("/"))
        sizes = [(words[5], extent(words[0])) for words in lines if len(words) == 6]
    return any(
        size_of >= LEAST_GUEST
        and ("memfd:" in name or "/dev/shm/" in name)
        and GUEST_MAPPING.search(name)
        for name, size_of in sizes
    )


def extent(addresses):
    """Return the bytes of a range of addresses, `first-last` in hexadecimal; 0 if it is none."""
    found = re.fullmatch("([0-9a-f]{1,16})-([0-9a-f]{1,16})", addresses)
    return int(found.group(2), 16) - int(found.group(1), 16) if found else 0


def settings(root, kind_of, words):
    """Return what a command line says about the guest's memory; sizes in bytes."""
    if kind_of == "qemu":
        return qemu(words, root)
    given = {
        **qemu(["qemu"]),
        "memory_bytes": None,
        "mem_merge": None,
        "name": None,
    }
    parsers = {"cloud-hypervisor": cloud_hypervisor, "crosvm": crosvm, "firecracker": firecracker}
    return {**given, **(parsers[kind_of](words) if kind_of in parsers else {})}


def long_options(words):
    """Return long options with their values: `--name value`, several values, or `--name=value`."""
    found, name = [], None
    for word in words[1:]:
        if word.startswith("-"):
            name, equals, value = word.lstrip("-").partition("=")
            if equals:
                found.append((name, value))
            else:
                found.append((name, ""))
        elif name is not None:
            if found[-1] == (name, ""):
                found.pop()
            found.append((name, word))
    return found


def cloud_hypervisor(words):
    """Return what the command line of cloud-hypervisor says. Its memory is private by default."""
    given = long_options(words)
    zones = [properties(value, "size") for name, value in given if name == "memory-zone"]
    memories = [properties(value, "size") for name, value in given if name == "memory"]
    main = memories[-1] if memories else {}
    parts = zones or [main]
    sizes = [size(each.get("size", "0"), 1) or 0 for each in parts]
    socket = next((value for name, value in given if name == "api-socket"), "")
    path = properties(socket, "path").get("path", "")
    return {
        "name": re.sub(r"\.\w+$", "", base(path)) or None,
        "memory_bytes": sum(sizes) or None,
        "mem_merge": main.get("mergeable", "off") in YES if memories else None,
        "backends": [
            {
                "type": "memory-zone" if zones else "memory",
                "size": amount,
                "share": each.get("shared", "off") in YES,
                "merge": main.get("mergeable", "off") in YES,
                "hugetlb": each.get("hugepages", "off") in YES,
                "mem_path": each.get("file"),
            }
            for each, amount in zip(parts, sizes)
            if amount
        ],
        "vfio": ["vfio" for name, _ in given if name == "device"],
        "vhost_user": any(
            name == "fs" or "vhost_user=" in value or "vhost-user" in value for name, value in given
        ),
        "balloon": any(name == "balloon" for name, _ in given),
    }


def crosvm(words):
    """Return what the command line of crosvm says. Its memory is always a shared memfd."""
    memory_size, name, socket = None, None, None
    for option, value in long_options(words):
        if option in ("mem", "m"):
            memory_size = size(properties(value, "size").get("size", ""), MIB)
        elif option == "name":
            name = value
        elif option in ("s", "socket"):
            socket = re.sub(r"\.\w+$", "", base(value))
    return {"name": name or socket, "memory_bytes": memory_size}


def firecracker(words):
    """Return what the command line of Firecracker says: not the memory, which the API sets."""
    given = dict(long_options(words))
    return {"name": given.get("id") or None}


def qemu(words, root=None):
    """Return what a QEMU command line says about the guest's memory; sizes in bytes.

    `root` is where files of -readconfig are looked up, which are not read without it.
    """
    given, unread = with_files([*options(words)], root)
    machine, memory_size, name = {}, {}, {}
    for option, value in given:
        if option in ("machine", "M"):
            machine.update(properties(value, "type"))
        elif option == "m":
            memory_size.update(properties(value, "size"))
        elif option == "name":
            name.update(properties(value, "guest"))
    objects = [properties(value, "qom-type") for option, value in given if option == "object"]
    devices = [properties(value, "driver") for option, value in given if option == "device"]
    drivers = [str(device.get("driver", "")) for device in devices]
    return {
        "name": str(name["guest"]) if "guest" in name else None,
        "id": next((value for option, value in given if option == "id"), None),
        "uuid": next((value for option, value in given if option == "uuid"), None),
        "memory_bytes": None
        if unread and not memory_size
        else size(memory_size.get("size", "128"), MIB),
        "mem_merge": machine.get("mem-merge", "on") not in NO,
        "encrypted": bool({"confidential-guest-support", "memory-encryption"} & machine.keys()),
        "backends": [backend(each) for each in objects if is_backend(each)],
        "mem_path": next((value for option, value in given if option == "mem-path"), None),
        "mem_lock": any(
            properties(value, "").get(key) in YES
            for option, key in (("overcommit", "mem-lock"), ("realtime", "mlock"))
            for given_option, value in given
            if given_option == option
        ),
        "vfio": [driver for driver in drivers if driver.startswith("vfio-")],
        "vhost_user": any(driver.startswith("vhost-user") for driver in drivers)
        or any(value.startswith("vhost-user") for option, value in given if option == "netdev"),
        "balloon": any(driver.startswith("virtio-balloon") for driver in drivers),
    }


def with_files(given, root):
    """Return options with those of -readconfig's files, and whether a file could not be read."""
    found, unread = [], False
    for option, value in given:
        text = None
        if option == "readconfig":
            text = read(root / value.lstrip("/")) if root is not None else None
            unread = unread or text is None
        found += readconfig(text) if text is not None else [(option, value)]
    return found, unread


def readconfig(text):
    """Return the options in a file of -readconfig: groups such as `[object "mem0"]`."""
    found, first = [], {"memory": "m", "machine": "machine", "object": "object", "name": "name"}
    for line in text.splitlines():
        head = re.match(r'\s*\[\s*([\w-]+)(?:\s+"([^"]*)")?\s*\]', line)
        pair = re.match(r'\s*([\w.-]+)\s*=\s*"([^"]*)"', line)
        if head:
            found.append((first.get(head.group(1), head.group(1)), {}))
        elif pair and found:
            found[-1][1][pair.group(1)] = pair.group(2)
    return [(option, json.dumps(given)) for option, given in found]


def platform(root, pid, words):
    """Return what manages a guest, by its files and options: libvirt or another; None: nothing."""
    text = " ".join(words)
    groups = read(root / "proc" / str(pid) / "cgroup") or ""
    if "+pve" in text or "/qemu-server/" in text or "/etc/pve/" in text:
        return "proxmox"
    if "/kubevirt" in text or "kubevirt.io" in text:
        return "kubevirt"
    for name in ("incus", "lxd"):
        if re.search(r"/(opt|run|var/lib|var/log|var/snap)/(snap/)?" + name + r"\b", text):
            return name
    if "/run/vc/" in text or "/opt/kata/" in text or "kata" in text.split(" ")[0]:
        return "kata"
    if "kubepods" in groups:
        return "kubernetes"
    named = re.search(r"-name guest=[^ ]*debug-threads=|-name guest=.* -uuid ", text)
    return "libvirt" if named or "/libvirt/qemu/" in text else None


def options(words):
    """Return the options of a command line with their values, which may be empty."""
    for index, word in enumerate(words[1:], 1):
        if word.startswith("-"):
            following = words[index + 1] if index + 1 < len(words) else ""
            yield word.lstrip("-"), "" if following.startswith("-") else following


def properties(text, first):
    """Parse `a,key=value,…` or JSON. A first word without a key is the value of `first`."""
    if text.startswith("{"):
        try:
            parsed = json.loads(text)
        except (ValueError, RecursionError):
            return {}
        return parsed if isinstance(parsed, dict) else {}
    found = {}
    for part in re.split(r"(?<!,),(?!,)", text):  # a doubled comma is a comma in a value
        key, equals, value = part.partition("=")
        if equals:
            found[key] = value
        else:
            found.update({key: "on"} if found else {first: key})
    return found


def size(text, unit):
    """Return the bytes of a size in QEMU's notation; None if it is not a size."""
    if isinstance(text, int):
        return text if abs(text) < 2**64 else None
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([bkmgt]?)(?:i?b)?", str(text).lower())
    if not found:
        return None
    amount = float(found.group(1)) * (UNIT[found.group(2)] if found.group(2) else unit)
    return int(amount) if amount < 2**64 else None


def is_backend(properties_of):
    """Whether a QEMU object is a memory backend."""
    return str(properties_of.get("qom-type", "")).startswith("memory-backend-")


def backend(given):
    """Describe a memory backend. Only memfd is shared by default."""
    kind_of = given["qom-type"]
    return {
        "type": kind_of,
        "size": size(given.get("size", 0), 1),
        "share": given.get("share", kind_of == "memory-backend-memfd") in YES,
        "merge": given.get("merge", "on") not in NO,
        "hugetlb": given.get("hugetlb", "off") in YES,
        "mem_path": str(given["mem-path"]) if "mem-path" in given else None,
    }


def libvirt(root, programs):
    """Return the domains of libvirt by UUID, and why there are none.

    libvirt is used only if its daemon runs here and not in a container, because a connection to the
    host's socket would start it.
    """
    if root != Path("/"):
        return {}, "not used: these files are from another machine"
    pids = [pid for pid, program in programs.items() if set(called(program)) & set(LIBVIRT)]
    if not pids:
        return {}, "not used: {} do not run".format(" and ".join(LIBVIRT))
    if not any(is_here(root, pid) for pid in pids):
        return {}, "not used: its daemon runs in a container, or may not be examined"
    if not shutil.which("virsh"):
        return {}, "not used: there is no virsh"
    listed = run("virsh", "--readonly", "--connect", "qemu:///system", "list", "--name")
    if listed is None:
        return {}, "it does not answer"
    texts = (
        run("virsh", "--readonly", "--connect", "qemu:///system", "dumpxml", "--", name)
        for name in filter(None, listed.splitlines())
    )
    domains = (domain(text) for text in texts if text)
    return {each["uuid"]: each for each in domains}, None


def is_here(root, pid):
    """Whether a daemon serves this machine's socket: it is in no container with one of its own."""
    seen = root / "proc" / str(pid) / "root"
    return any(same_file(Path(name), seen / name.lstrip("/")) for name in SOCKETS)


def same_file(path, other):
    """Whether both are one file; not if either is missing or may not be seen."""
    try:
        return path.samefile(other)
    except OSError:
        return False


def domain(text):
    """Return what the XML of a domain says about its memory."""
    try:
        xml = Xml.fromstring(text)
    except Xml.ParseError:
        xml = Xml.Element("domain")
    backing = xml.find("memoryBacking")
    backing = Xml.Element("memoryBacking") if backing is None else backing
    source, access = backing.find("source"), backing.find("access")
    balloon = xml.find("devices/memballoon")
    return {
        "name": xml.findtext("name"),
        "uuid": xml.findtext("uuid"),
        "nosharepages": backing.find("nosharepages") is not None,
        "hugepages": backing.find("hugepages") is not None,
        "locked": backing.find("locked") is not None,
        "source": None if source is None else source.get("type"),
        "access": None if access is None else access.get("mode"),
        "shared_cells": len(xml.findall("cpu/numa/cell[@memAccess='shared']")),
        "hostdevs": len(xml.findall("devices/hostdev")),
        "memballoon": None if balloon is None else balloon.get("model"),
    }


def look(root, programs, since_boot):
    """Return domains, other processes with mergeable memory, and unreadable processes."""
    managed, why_not = libvirt(root, programs)
    rule = ksmtuned(root)
    domains, others, unreadable, unknown = [], [], [], 0
    for pid, program in programs.items():
        words = program["words"]
        runs_guest = vmm(root, pid, program)
        try:
            known = may_merge(ksm_stat(root / "proc" / str(pid)))
            if not runs_guest and known is False:
                continue
            found = process(root, pid, since_boot)
        except PermissionError:
            unknown += 1
            if runs_guest:
                name = settings(root, runs_guest, words)["name"]
                unreadable.append({"pid": pid, "name": name, "vmm": runs_guest})
            continue
        except OSError:
            continue  # it has ended meanwhile
        if runs_guest == "unknown" and found["mapped_guest"] < LEAST_GUEST:
            runs_guest = None
        if runs_guest:
            given = settings(root, runs_guest, words)
            if runs_guest == "qemu" and not {"-m", "-readconfig"} & set(words):
                given["memory_bytes"] = found["mapped_guest"] or given["memory_bytes"]
            xml = managed.get(given["uuid"])
            program_name = base(program["exe"] or "") or base(words[0])
            name = (xml or given)["name"] or f"{program_name}-{pid}"
            domains.append(
                {
                    **found,
                    "name": name,
                    "vmm": runs_guest,
                    "platform": platform(root, pid, words),
                    "libvirt": xml,
                    "settings": given,
                    "counted_by_ksmtuned": counted(rule, program),
                }
            )
        elif found["memory"]["mergeable"]["mappings"] or known:
            others.append(found)
    return {
        "domains": domains,
        "processes": others,
        "unreadable": unreadable,
        "unreadable_processes": unknown,
        "domains_from": "proc" if why_not else "libvirt",
        "libvirt": why_not,
    }


def page_size(found):
    """Return the size of a page by the processes: their mappings, or their profit; None without.

    A process's profit is (ksm_merging_pages + ksm_zero_pages) pages less 64 bytes for each item.
    """
    every = found["domains"] + found["processes"]
    sizes = [each["page_size"] for each in every if each["page_size"]]
    if sizes:
        return min(sizes)
    for each in every:
        counters = each["ksm_stat"]
        names = ("ksm_process_profit", "ksm_rmap_items", "ksm_merging_pages")
        if not all(isinstance(counters.get(name), int) for name in names):
            continue
        pages = counters["ksm_merging_pages"] + counters.get("ksm_zero_pages", 0)
        bytes_of = counters["ksm_process_profit"] + 64 * counters["ksm_rmap_items"]
        if pages > 0 and bytes_of % pages == 0 and bytes_of // pages in (4096, 16384, 65536):
            return bytes_of // pages
    return None


def facts(root, seconds):
    """Return all facts, with two readings of the counters at least so many seconds apart."""
    programs, ksmd = look_at_processes(root)
    first = reading(root, ksmd)
    machine = host(root)
    found = look(root, programs, machine["uptime"])
    if machine["page_size"] is None:
        machine["page_size"] = page_size(found) or 4096
    names = {name for program in programs.values() for name in called(program)}
    everything = {
        "format": FORMAT,
        "host": machine,
        "kvm": kvm(root),
        "huge_pages": huge_pages(root),
        "services": services(root, programs),
        "thresholds": thresholds(root),
        "programs": sorted(names & set(PROGRAMS)),
        "units": units(root),
        "ksmd": ksmd,
        "visible_processes": len(programs),
        **found,
    }
    time.sleep(max(0.0, first["monotonic"] + seconds - time.monotonic()))
    return {**everything, "readings": [first, reading(root, ksmd)]}


def seconds_argument(text):
    """Parse a number of seconds from 0 to 3600."""
    seconds = float(text)
    if not 0 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds from 0 to 3600")
    return seconds


def main(argv=None):
    """Entry point."""
    parser = argparse.ArgumentParser(
        prog="ksm_facts.py",
        description=__doc__.partition("\n")[0],
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    option = parser.add_argument
    option("--seconds", type=seconds_argument, default=5.0, help="between readings (default: 5)")
    option("--root", type=Path, default=Path("/"), help="directory of proc and sys, for tests")
    arguments = parser.parse_args(argv)
    json.dump(facts(arguments.root, arguments.seconds), sys.stdout)
    print()


if __name__ == "__main__":
    main()
