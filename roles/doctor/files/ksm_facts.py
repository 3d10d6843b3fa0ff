#!/usr/bin/env python3
"""Read all that bears on what KSM merges on this host. Nothing is judged, and nothing is written.

One file, standard library only, Python 3.9 or newer, so that it can be fed to any host's Python.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import time
import xml.etree.ElementTree as Xml
from pathlib import Path

FORMAT = 1
MIB = 1024 * 1024
VIRSH_SECONDS = 20
QEMU = re.compile(r"qemu-system-\w+|qemu-kvm|kvm")
# Their daemons write to the knobs: Debian's, Red Hat's and Proxmox's; oVirt's.
SERVICES = ("ksmtuned", "momd")
# Users that run QEMU, unless qemu.conf names another: Debian's, Red Hat's and SUSE's.
QEMU_USERS = ("libvirt-qemu", "qemu")
UNITS = ("ksm.service", "ksmtuned.service")
LIBVIRT = ("libvirtd", "virtqemud")
VMSTAT = ("thp_collapse_alloc", "thp_split_page")
# Fields of smaps, and the names they get: bytes.
FIELDS = {
    "Size": "size",
    "Rss": "resident",
    "Anonymous": "anonymous",
    "AnonHugePages": "huge",
    "KSM": "ksm",
    "Swap": "swapped",
    "Locked": "locked",
}
KINDS = ("mergeable", "shared", "hugetlb", "private")
NO = (False, "off", "no", "false", "n")
YES = (True, "on", "yes", "true", "y")
UNIT = {"b": 1, "k": 1024, "m": MIB, "g": 1024 * MIB, "t": MIB * MIB}

HELP = """\
examples:
  python3 ksm_facts.py --seconds 0        one JSON object: counters, domains and their memory
  ssh host python3 - < ksm_facts.py       the same of another host, on which no file is left

output: one JSON object; docs/doctor.md of the KSM testbed explains its keys.
"""


def read(path, default=None):
    """Text of a file without the space around it; the default if it cannot be read."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return default


def number(text):
    """Return an int where a text is one, else the text."""
    return int(text) if re.fullmatch(r"-?[0-9]+", text) else text


# The host


def host(root):
    """Describe the machine and its kernel."""
    release = read(root / "proc/sys/kernel/osrelease", os.uname().release)
    memory = re.search(r"^MemTotal: +(\d+) kB", read(root / "proc/meminfo", ""), re.MULTILINE)
    return {
        "kernel": release,
        "config_ksm": config_ksm(root, release),
        "page_size": os.sysconf("SC_PAGESIZE"),
        "memory_bytes": int(memory[1]) * 1024 if memory else None,
        "numa_nodes": max(1, len([*root.glob("sys/devices/system/node/node[0-9]*")])),
        "root": os.geteuid() == 0,
    }


def config_ksm(root, release):
    """CONFIG_KSM, where the kernel or /boot shows its configuration."""
    try:
        with gzip.open(root / "proc/config.gz", "rt") as file:
            config = file.read()
    except OSError:
        config = read(root / f"boot/config-{release}")
    if config is None:
        return None
    found = re.search(r"^CONFIG_KSM=(.*)$", config, re.MULTILINE)
    return found[1] if found else "n"


def kvm(root):
    """Who may open /dev/kvm, and whether the user of libvirt's QEMU may; None without the device.

    Users and groups are those of /etc. `user` is None if there is no such user, or qemu.conf cannot
    be read. An ACL is not read: `opens` is then true, since it may well be.
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
    """Users, each with its ids (user, group), and groups, each with its id and its members."""
    rows = (line.split(":") for line in read(root / "etc/passwd", "").splitlines())
    users = {row[0]: (int(row[2]), int(row[3])) for row in rows if len(row) == 7}
    rows = (line.split(":") for line in read(root / "etc/group", "").splitlines())
    return users, {row[0]: (int(row[2]), row[3].split(",")) for row in rows if len(row) == 4}


def qemu_user(root, users):
    """Name the user that libvirt runs QEMU as; None if there is none."""
    try:
        config = (root / "etc/libvirt/qemu.conf").read_text(errors="replace")
    except FileNotFoundError:
        config = ""
    except OSError:
        return None
    found = re.search(r'^\s*user\s*=\s*"\+?([^"]+)"', config, re.MULTILINE)
    names = [found[1]] if found else QEMU_USERS
    return next((name for name in names if name in users), None)


def has_acl(path):
    """Whether a file has an access list besides its mode."""
    try:
        return "system.posix_acl_access" in os.listxattr(path)
    except OSError:
        return False


def may_open(state, uid, groups):
    """Whether a user may read and write a file of this state."""
    if uid in (0, state.st_uid):
        bits = state.st_mode >> 6 if uid else 6
    else:
        bits = state.st_mode >> 3 if state.st_gid in groups else state.st_mode
    return bits & 6 == 6


def huge_pages(root):
    """Settings of transparent huge pages, and of khugepaged."""
    directory = root / "sys/kernel/mm/transparent_hugepage"
    if not directory.is_dir():
        return None
    return {
        "enabled": chosen(read(directory / "enabled", "")),
        "khugepaged": values(directory / "khugepaged"),
    }


def chosen(text):
    """Return the word in brackets."""
    found = re.search(r"\[(.*?)\]", text)
    return found[1] if found else text


def values(directory):
    """Every file of a directory of sysfs: a number, or text; None where it is not there."""
    if not directory.is_dir():
        return None
    texts = {path.name: read(path) for path in sorted(directory.iterdir())}
    return {name: number(text) for name, text in texts.items() if text is not None}


def reading(root):
    """Read what moves. Compared with a later reading, it tells of rates."""
    vmstat = dict(line.split() for line in read(root / "proc/vmstat", "").splitlines())
    return {
        "monotonic": time.monotonic(),
        "ksm": values(root / "sys/kernel/mm/ksm"),
        "vmstat": {name: int(vmstat[name]) for name in VMSTAT if name in vmstat},
    }


def units(root):
    """State of the units that rule KSM, where systemd runs and knows them."""
    if root != Path("/") or not Path("/run/systemd/system").is_dir():
        return {}
    out = run("systemctl", "is-active", *UNITS) or ""
    states = dict(zip(UNITS, out.split()))  # noqa: B905 - Python 3.9
    return {name: state for name, state in states.items() if state == "active"}


def run(*command):
    """Run a command that only asks; return what it prints, or None if it cannot be run."""
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=VIRSH_SECONDS,
            env=environment,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 or command[0] == "systemctl" else None


# Processes


def command_lines(root):
    """Process ids of all programs, and their command lines. Kernel threads have none."""
    found = {}
    for directory in sorted(root.glob("proc/[0-9]*"), key=lambda path: int(path.name)):
        words = [word for word in (read(directory / "cmdline") or "").split("\0") if word]
        if words:
            found[int(directory.name)] = words
    return found


def services(lines):
    """Programs that are known to write to the knobs. Scripts are named by their second word."""
    found = []
    for pid, words in lines.items():
        names = [Path(word).name for word in words[:2]]
        found += [{"name": name, "pid": pid} for name in names if name in SERVICES]
    return found


def process(root, pid):
    """What KSM may do with a process, and did. Raises OSError."""
    directory = root / "proc" / str(pid)
    status = dict(
        line.split(":\t", 1)
        for line in read(directory / "status", "").splitlines()
        if ":\t" in line
    )
    return {
        "pid": pid,
        "name": status.get("Name", "?"),
        "memory": memory((directory / "smaps").read_bytes().decode(errors="replace")),
        "ksm_stat": ksm_stat(directory),
        "pinned": kib(status.get("VmPin")),
        "vfio_files": len([*open_files(directory, "/dev/vfio/")]),
    }


def kib(text):
    """Bytes of `12 kB`; 0 of what is not there."""
    return int(text.split()[0]) * 1024 if text else 0


def open_files(directory, prefix):
    """Files below a path that a process has open."""
    for link in (directory / "fd").glob("*"):
        try:
            if str(link.readlink()).startswith(prefix):
                yield link
        except OSError:
            continue  # just closed


def ksm_stat(directory):
    """Lines of ksm_stat: `name value` and `name: value`; none on kernels before 6.1."""
    lines = read(directory / "ksm_stat", "").splitlines()
    pairs = (re.fullmatch(r"(\w+):? +(.*)", line) for line in lines)
    return {pair[1]: number(pair[2]) for pair in pairs if pair}


def may_merge(stat):
    """Whether ksm_stat allows mergeable memory; None if this kernel does not say."""
    if stat.get("ksm_rmap_items"):
        return True
    if "ksm_mergeable" not in stat:
        return None
    return "yes" in (stat["ksm_mergeable"], stat.get("ksm_merge_any"))


def memory(smaps):
    """Sum up mappings by what KSM can do with them. All in bytes, but for their number.

    mergeable: offered to KSM (mg); shared and hugetlb: of kinds that it never takes; private: it
    would be taken, if it were offered. advised_huge: open to huge pages by madvise.
    """
    names = ("mappings", *FIELDS.values(), "advised_huge")
    kinds = {kind: dict.fromkeys(names, 0) for kind in KINDS}
    fields = {}
    for line in smaps.splitlines():
        name, _, value = line.partition(":")
        if name in FIELDS:
            fields[FIELDS[name]] = kib(value)
        elif name == "VmFlags":  # the last line of a mapping
            total = kinds[kind(value.split())]
            total["mappings"] += 1
            total["advised_huge"] += fields["size"] if "hg" in value.split() else 0
            for field, amount in fields.items():
                total[field] += amount
            fields = {}
    return kinds


def kind(flags):
    """Name what KSM can do with a mapping of these flags."""
    if "ht" in flags:
        return "hugetlb"
    if "sh" in flags or "ms" in flags:
        return "shared"
    return "mergeable" if "mg" in flags else "private"


# Domains


def qemu(words):
    """What a command line of QEMU says of the guest's memory; sizes in bytes."""
    given = [*options(words)]
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
        "name": name.get("guest"),
        "uuid": next((value for option, value in given if option == "uuid"), None),
        "memory_bytes": size(memory_size.get("size", "128"), MIB),
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


def options(words):
    """Options of a command line, each with its value, or an empty one."""
    for index, word in enumerate(words[1:], 1):
        if word.startswith("-"):
            following = words[index + 1] if index + 1 < len(words) else ""
            yield word.lstrip("-"), "" if following.startswith("-") else following


def properties(text, first):
    """Read `a,key=value,…` or JSON. A first word without a key is the value of `first`."""
    if text.startswith("{"):
        try:
            return json.loads(text)
        except ValueError:
            return {}
    found = {}
    for part in re.split(r"(?<!,),(?!,)", text):  # a doubled comma is one in a value
        key, equals, value = part.partition("=")
        if equals:
            found[key] = value
        else:
            found.update({key: "on"} if found else {first: key})
    return found


def size(text, unit):
    """Bytes of a size as QEMU writes it; None if it is none."""
    if isinstance(text, int):
        return text
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([bkmgt]?)", text.lower())
    return int(float(found[1]) * (UNIT[found[2]] if found[2] else unit)) if found else None


def is_backend(properties_of):
    """Whether an object is memory of the guest."""
    return str(properties_of.get("qom-type", "")).startswith("memory-backend-")


def backend(given):
    """Describe a memory backend. Only memfd is shared where nothing is said."""
    kind_of = given["qom-type"]
    return {
        "type": kind_of,
        "size": size(given.get("size", 0), 1),
        "share": given.get("share", kind_of == "memory-backend-memfd") in YES,
        "merge": given.get("merge", "on") not in NO,
        "hugetlb": given.get("hugetlb", "off") in YES,
        "mem_path": given.get("mem-path"),
    }


def libvirt(root, lines):
    """Domains of libvirt by UUID, and why there are none.

    libvirt is asked only where its daemon runs: to knock at its socket would start it.
    """
    if root != Path("/"):
        return {}, "not asked: these files are of another machine"
    if not any(Path(words[0]).name in LIBVIRT for words in lines.values()):
        return {}, f"not asked: neither {' nor '.join(LIBVIRT)} runs"
    if not shutil.which("virsh"):
        return {}, "not asked: there is no virsh"
    listed = run("virsh", "--readonly", "--connect", "qemu:///system", "list", "--name")
    if listed is None:
        return {}, "it does not answer"
    texts = (
        run("virsh", "--readonly", "--connect", "qemu:///system", "dumpxml", "--", name)
        for name in filter(None, listed.splitlines())
    )
    domains = (domain(text) for text in texts if text)
    return {each["uuid"]: each for each in domains}, None


def domain(text):
    """What libvirt's XML of a domain says of its memory."""
    xml = Xml.fromstring(text)
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


def look(root, lines):
    """Every domain, every other process with mergeable memory, and what could not be read."""
    managed, why_not = libvirt(root, lines)
    domains, others, unreadable, unknown = [], [], [], 0
    for pid, words in lines.items():
        is_qemu = bool(QEMU.fullmatch(Path(words[0]).name))
        try:
            known = may_merge(ksm_stat(root / "proc" / str(pid)))
            if not is_qemu and known is False:
                continue
            found = process(root, pid)
        except PermissionError:
            unknown += 1
            if is_qemu:
                unreadable.append({"pid": pid, "name": qemu(words)["name"]})
            continue
        except OSError:
            continue  # it has just ended
        if is_qemu:
            settings = qemu(words)
            xml = managed.get(settings["uuid"])
            name = (xml or settings)["name"] or f"{Path(words[0]).name}-{pid}"
            domains.append({**found, "name": name, "libvirt": xml, "qemu": settings})
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


def facts(root, seconds):
    """Read it all, with two readings of the counters so many seconds apart, or more."""
    first = reading(root)
    lines = command_lines(root)
    found = {
        "format": FORMAT,
        "host": host(root),
        "kvm": kvm(root),
        "huge_pages": huge_pages(root),
        "services": services(lines),
        "units": units(root),
        **look(root, lines),
    }
    time.sleep(max(0.0, first["monotonic"] + seconds - time.monotonic()))
    return {**found, "readings": [first, reading(root)]}


def seconds_argument(text):
    """Seconds of 0 or more, not so many that whoever waits gives up."""
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
    option("--seconds", type=seconds_argument, default=5.0, help="between the readings: 5")
    option("--root", type=Path, default=Path("/"), help="where /proc and /sys are; for tests")
    arguments = parser.parse_args(argv)
    json.dump(facts(arguments.root, arguments.seconds), sys.stdout)
    print()


if __name__ == "__main__":
    main()
