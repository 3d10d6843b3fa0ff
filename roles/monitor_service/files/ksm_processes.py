"""Finds the processes that the monitor service samples: pid files, rules, cgroups, containers.

A source of guests has find(), which is given the pids of the processes that are sampled now and
returns the processes that are there; a source of groups has groups(). Files of /proc can vanish at
any time: a process that has ended meanwhile is not there.

Standard library only, Python 3.9 or newer.
"""

import os
import re
from functools import partial
from pathlib import Path
from typing import Callable, NamedTuple

from ksm_sampler import Unusable, read_text

LOOKS = 3  # a new process is looked at so often, because it may still have to execute its program
CONTAINERS = (
    ("docker", r"(?:.*/)?docker[-/]([0-9a-f]{64})(?:\.scope)?(?:/.*)?"),
    ("podman", r"(?:.*/)?libpod-([0-9a-f]{64})(?:\.scope)?(?:/.*)?"),
    ("containerd", r"(?:.*/)?cri-containerd[-:]([0-9a-f]{64})(?:\.scope)?(?:/.*)?"),
    ("crio", r"(?:.*/)?crio-([0-9a-f]{64})(?:\.scope)?(?:/.*)?"),
    ("containerd", r"(?:.*/)?kubepods(?:/[^/]+)*/([0-9a-f]{64})(?:/.*)?"),
    ("lxc", r"/?lxc\.payload[./]([^/]+)(?:/.*)?"),
    ("lxc", r"/?lxc/([^/]+)(?:/.*)?"),
    ("nspawn", r"(?:.*/)?systemd-nspawn@([^/]+)\.service(?:/.*)?"),
    # machined also registers QEMU (qemu-N-NAME), which is no container, and libvirt's LXC
    ("nspawn", r"(?:.*/)?machine-(?!qemu)([^/]+)\.scope(?:/.*)?"),
)
V1 = ("unified", "systemd", "memory", "pids", "cpu,cpuacct", "cpu", "cpuacct", "devices", "freezer")


class Found(NamedTuple):
    """A process to sample. After its files are open, `check` says whether it is still the one."""

    pid: int
    about: object  # what a problem is about: a pid file, or a source
    check: Callable[[], bool]


class PidFiles:
    """Guests that have a pid file NAME.pid, as from libvirt (NAME) and Proxmox (VM id).

    A pid file may outlive its process. So a process counts as a guest only if its command line is
    that of QEMU with the name of the guest.
    """

    def __init__(self, proc, directory, complaints):
        self.proc, self.directory, self.complaints = proc, directory, complaints
        self.fruitless, self.found = set(), {}

    def find(self, sampled):
        """Return guests by name; tell each pid file that yields none at two looks in a row.

        The files of a guest that was found before and is still sampled are not read again.
        """
        found, fruitless = {}, set()
        for name, path in pid_files(self.directory).items():
            if name in self.found and self.found[name].pid in sampled:
                found[name] = self.found[name]
                continue
            pid = read_text(path, "")
            fault = self.fault(name, pid)
            if fault is None:
                found[name] = Found(int(pid), path, partial(is_guest, self.proc / pid, name))
            elif name != "driver":  # libvirt's own daemon
                fruitless.add(path)
                if path in self.fruitless:
                    self.complaints.tell(path, f"no guest: {fault}")
        self.fruitless, self.found = fruitless, found
        return found

    def fault(self, name, pid):
        """Return why a pid file yields no guest, or None."""
        if not (pid.isascii() and pid.isdecimal()):
            return f"it holds {pid[:40]!r}, not a pid" if pid else "it is empty or unreadable"
        if not (self.proc / pid).exists():
            return f"there is no process {pid}"
        if not is_guest(self.proc / pid, name):
            return (
                f"the command line of process {pid} has none of -name guest={name}, -name {name},"
                f" -id {name} and -pidfile …/{name}.pid"
            )
        return None


class Processes:
    """All processes of /proc. Each is inspected only while it is new, so a look is cheap."""

    def __init__(self, proc, inspect):
        self.proc, self.inspect = proc, inspect
        self.known = {}  # (pid, inode): looks, result; a reused pid has another inode

    def look(self):
        """Return what `inspect` says of each process by pid, without those of which it is None."""
        known = {}
        with os.scandir(self.proc) as entries:
            keys = [(e.name, e.inode()) for e in entries if e.name[0] in "123456789"]
        for key in keys:
            looks, result = self.known.get(key, (0, None))
            if looks < LOOKS:
                looks, result = looks + 1, self.inspect(self.proc / key[0])
            known[key] = looks, result
        self.known = known
        return {int(pid): result for (pid, _), (_, result) in known.items() if result is not None}


class Match:
    """Processes whose name or command line has a match of a regular expression.

    The first group that took part in the match is the guest's name; without one, it is COMM-PID.
    """

    def __init__(self, proc, pattern, complaints):
        self.proc, self.pattern, self.complaints = proc, pattern, complaints
        self.about = f"--match {pattern.pattern}"
        self.processes = Processes(proc, self.name_of)

    def find(self, _):
        """Return processes by name; of several with one name, all get their pid added."""
        named = self.processes.look()
        self.complaints.tell(self.about, None if named else "no process matches")
        names = list(named.values())
        found = {}
        for pid, name in named.items():
            unique = name if names.count(name) == 1 else f"{name}-{pid}"
            check = partial(self.still_matches, self.proc / str(pid), name)
            found[unique] = Found(pid, f"{self.about}, a process", check)
        return found

    def still_matches(self, process, name):
        """Whether a process still has this name."""
        return self.name_of(process) == name

    def name_of(self, process):
        """Return the name of a process that matches; otherwise None."""
        line = command_line(process)
        if not line or int(process.name) == os.getpid():
            return None
        comm = read_text(process / "comm", "")
        match = self.pattern.search(comm) or self.pattern.search(line)
        if match is None:
            return None
        return next(filter(None, match.groups()), None) or f"{comm}-{process.name}"


class Cgroup:
    """The processes in a cgroup and all below it: its sum, and that of each child."""

    def __init__(self, root, path, complaints):
        self.root, self.path, self.complaints = root / "sys/fs/cgroup", path.strip("/"), complaints

    def groups(self):
        """Return sets of pids by cgroup: the cgroup itself and its children."""
        about, found = f"--cgroup {self.path}", {}
        for base in self.directories():
            for directory, _, _ in os.walk(base):
                pids = {int(pid) for pid in read_text(Path(directory, "cgroup.procs"), "").split()}
                pids.discard(0)  # a process outside of this pid namespace
                below = Path(directory).relative_to(base).parts[:1]
                for name in {self.path, "/".join((self.path, *below))}:
                    found.setdefault(name, set()).update(pids)
        self.complaints.tell(about, None if found else f"there is no such cgroup below {self.root}")
        return found

    def directories(self):
        """Return the directories of the cgroup.

        A host with version 1 has several hierarchies. The same path may exist in each, and a
        process may be there in only some of them, so all of them count.
        """
        if (self.root / "cgroup.controllers").exists():
            bases = [self.root / self.path]
        else:
            bases = [self.root / hierarchy / self.path for hierarchy in V1]
        return [base for base in bases if base.is_dir()]


class Containers:
    """The processes of each container, known by the path of their cgroup."""

    def __init__(self, proc):
        self.processes = Processes(proc, container_of)

    def groups(self):
        """Return sets of pids by container, such as docker/0123456789ab."""
        found = {}
        for pid, name in self.processes.look().items():
            found.setdefault(name, set()).add(pid)
        return found


def container_of(process):
    """Return the container of a process as ENGINE/NAME, or None."""
    for line in read_text(process / "cgroup", "").splitlines():
        path = line.split(":", 2)[-1]
        for engine, pattern in CONTAINERS:
            found = re.fullmatch(pattern, path)
            if found:
                name = found[1]
                return f"{engine}/{name[:12] if re.fullmatch('[0-9a-f]{64}', name) else name}"
    return None


def command_line(process):
    """Return the arguments joined by spaces; empty for a kernel thread and a process that ended."""
    return read_text(process / "cmdline", "").replace("\0", " ").strip()


def pid_files(directory):
    """Return pid files by the names of their guests, which may have ended."""
    try:
        paths = [path for path in directory.iterdir() if path.suffix == ".pid"]
        links = directory.stat().st_nlink
    except OSError as error:
        message = f"cannot list {directory}: {error.strerror}; is libvirt or Proxmox there?"
        raise Unusable(message) from error
    if not links:  # the directory was replaced; this service still sees the old one
        raise Unusable(f"{directory} has been removed")
    return {unescaped(path.stem): path for path in paths}


def unescaped(text):
    """Return the name of a guest. libvirt escapes it in the name of the pid file, as in XML."""
    for entity, character in ("lt", "<"), ("gt", ">"), ("quot", '"'), ("apos", "'"), ("amp", "&"):
        text = text.replace(f"&{entity};", character)
    return text


def is_guest(process, name):
    """Whether a process is QEMU with this name: -name [guest=]NAME, -id NAME or -pidfile."""
    try:
        arguments = (process / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    plain = os.fsencode(name)
    named = rb"(?:guest=)?" + re.escape(plain.replace(b",", b",,")) + rb"(?:,[^,].*)?"
    for option, value in zip(arguments, arguments[1:]):
        option = option.replace(b"--", b"-", 1)
        if (
            (option == b"-name" and re.fullmatch(named, value))
            or (option == b"-id" and value == plain)
            or (option == b"-pidfile" and value.rpartition(b"/")[2] == plain + b".pid")
        ):
            return True
    return False
