#!/usr/bin/env python3
"""Read everything that affects what KSM merges on this host. Does not judge, and writes nothing.

One file, standard library only, Python 3.9 or newer, so that any host's Python can run it.
"""

from __future__ import annotations

import argparse
import contextlib
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
# Daemons that write to the knobs: of Debian, Red Hat and Proxmox; of oVirt.
SERVICES = ("ksmtuned", "momd")
# Users that run QEMU, unless qemu.conf names another: on Debian; on Red Hat and SUSE.
QEMU_USERS = ("libvirt-qemu", "qemu")
UNITS = ("ksm.service", "ksmtuned.service")
LIBVIRT = ("libvirtd", "virtqemud")
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
KINDS = ("mergeable", "shared", "hugetlb", "private")
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


def number(text):
    """Return the text as an int if possible, else the text."""
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
    """Return CONFIG_KSM, if the kernel or /boot shows the configuration."""
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
    rows = (line.split(":") for line in read(root / "etc/passwd", "").splitlines())
    users = {row[0]: (int(row[2]), int(row[3])) for row in rows if len(row) == 7}
    rows = (line.split(":") for line in read(root / "etc/group", "").splitlines())
    return users, {row[0]: (int(row[2]), row[3].split(",")) for row in rows if len(row) == 4}


def qemu_user(root, users):
    """Return the user that libvirt runs QEMU as; None if there is none."""
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
    """Return all files of a sysfs directory, as numbers or text; None without the directory."""
    if not directory.is_dir():
        return None
    texts = {path.name: read(path) for path in sorted(directory.iterdir())}
    return {name: number(text) for name, text in texts.items() if text is not None}


def reading(root):
    """Read the counters. The difference of two readings gives rates."""
    vmstat = dict(line.split() for line in read(root / "proc/vmstat", "").splitlines())
    return {
        "monotonic": time.monotonic(),
        "ksm": values(root / "sys/kernel/mm/ksm"),
        "vmstat": {name: int(vmstat[name]) for name in VMSTAT if name in vmstat},
    }


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
    """Return process ids and command lines of all programs, without kernel threads."""
    found = {}
    for directory in sorted(root.glob("proc/[0-9]*"), key=lambda path: int(path.name)):
        words = [word for word in (read(directory / "cmdline") or "").split("\0") if word]
        if words:
            found[int(directory.name)] = words
    return found


def services(lines):
    """Return running programs that are known to write to the knobs. A script is the second word."""
    found = []
    for pid, words in lines.items():
        names = [Path(word).name for word in words[:2]]
        found += [{"name": name, "pid": pid} for name in names if name in SERVICES]
    return found


def process(root, pid):
    """Return what KSM may merge of a process, and what it has merged. Raises OSError."""
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
    """Return the bytes of `12 kB`; 0 if the value is missing."""
    return int(text.split()[0]) * 1024 if text else 0


def open_files(directory, prefix):
    """Return the open files of a process below a path."""
    for link in (directory / "fd").glob("*"):
        with contextlib.suppress(OSError):  # closed meanwhile
            if str(link.readlink()).startswith(prefix):
                yield link


def ksm_stat(directory):
    """Return the lines of ksm_stat, `name value` or `name: value`; empty before Linux 6.1."""
    lines = read(directory / "ksm_stat", "").splitlines()
    pairs = (re.fullmatch(r"(\w+):? +(.*)", line) for line in lines)
    return {pair[1]: number(pair[2]) for pair in pairs if pair}


def may_merge(stat):
    """Whether ksm_stat reports mergeable memory; None if this kernel does not say."""
    if stat.get("ksm_rmap_items"):
        return True
    if "ksm_mergeable" not in stat:
        return None
    return "yes" in (stat["ksm_mergeable"], stat.get("ksm_merge_any"))


def memory(smaps):
    """Sum up mappings by what KSM can do with them. All values are bytes, except the number.

    mergeable: offered to KSM (mg); shared and hugetlb: kinds that KSM never merges; private: KSM
    could merge it, but it is not offered. advised_huge: huge pages were enabled by madvise.
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
    """Return what KSM can do with a mapping that has these flags."""
    if "ht" in flags:
        return "hugetlb"
    if "sh" in flags or "ms" in flags:
        return "shared"
    return "mergeable" if "mg" in flags else "private"


# Domains


def qemu(words):
    """Return what a QEMU command line says about the guest's memory; sizes in bytes."""
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
    """Return the options of a command line with their values, which may be empty."""
    for index, word in enumerate(words[1:], 1):
        if word.startswith("-"):
            following = words[index + 1] if index + 1 < len(words) else ""
            yield word.lstrip("-"), "" if following.startswith("-") else following


def properties(text, first):
    """Parse `a,key=value,…` or JSON. A first word without a key is the value of `first`."""
    if text.startswith("{"):
        try:
            return json.loads(text)
        except ValueError:
            return {}
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
        return text
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([bkmgt]?)", text.lower())
    return int(float(found[1]) * (UNIT[found[2]] if found[2] else unit)) if found else None


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
        "mem_path": given.get("mem-path"),
    }


def libvirt(root, lines):
    """Return the domains of libvirt by UUID, and why there are none.

    libvirt is used only if its daemon runs, because a connection to its socket would start it.
    """
    if root != Path("/"):
        return {}, "not used: these files are from another machine"
    if not any(Path(words[0]).name in LIBVIRT for words in lines.values()):
        return {}, f"not used: {' and '.join(LIBVIRT)} do not run"
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


def domain(text):
    """Return what the XML of a domain says about its memory."""
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
    """Return domains, other processes with mergeable memory, and unreadable processes."""
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
            continue  # it has ended meanwhile
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
    """Return all facts, with two readings of the counters at least so many seconds apart."""
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
