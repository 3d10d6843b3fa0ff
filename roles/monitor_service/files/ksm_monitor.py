#!/usr/bin/env python3
"""Sample KSM as a service, as long as the host runs, while guests start and end.

The service uses ksm_sampler.py, ksm_processes.py and ksm_prometheus.py, which must be in the same
directory. This file adds what a service needs: it follows guests that start and end, limits the
size and number of the files of samples, and writes the last sample as text that node_exporter reads
for Prometheus.

Standard library only, Python 3.9 or newer.
"""

import sys

if sys.version_info < (3, 9):  # before anything that an older Python does not have
    sys.exit("ksm_monitor.py needs Python 3.9 or newer; this is {}.{}".format(*sys.version_info))

import argparse
import contextlib
import json
import math
import os
import re
import signal
import socket
import time
from functools import partial
from pathlib import Path

from ksm_processes import Cgroup, Containers, Found, Match, PidFiles, command_line
from ksm_prometheus import PAGE_SIZE, exposition
from ksm_sampler import (
    EXIT_UNUSABLE,
    SIGNALS,
    Sampler,
    Unusable,
    close,
    count_argument,
    end_line,
    guest_files,
    header_line,
    open_reader,
    period_argument,
    strain,
)

HANDLED = (*SIGNALS, signal.SIGHUP)
MIB = 2**20

EPILOG = """\
in the state directory:
  samples.jsonl  what ksm_sampler.py writes (see its --help); samples.1.jsonl is the previous file,
                 and so on. Each file is complete: header, samples, end line. In the header,
                 `samples` is null, and `guests` are those of the first sample. A guest that has
                 ended is null in one sample and missing in the next, until a process with its name
                 is found again. `reason` in the end line is rotated (the file was full), SIGHUP,
                 SIGTERM or SIGINT.
  ksm.prom       the last sample for Prometheus; after the service has been stopped, only the
                 metrics about the service

A process that only --cgroup or --containers finds is in `guests` of the samples as CGROUP/PID. Of
these, ksm.prom has only the sums. A container is named ENGINE/NAME, with 12 digits of a long id.

A pid file without a running guest, a rule that no process matches, and a cgroup that does not exist
are reported on standard error once, and sampling goes on.

SIGHUP begins a new file of samples. A sample that cannot be written, for example because the disk
is full, is counted as lost. The earlier lines stay complete.

exit status:
  0    ended by SIGTERM or SIGINT
  2    wrong arguments, nothing to sample, or no directory of pid files
"""


# Output


class Complaints:
    """Reports each problem once, until it changes or is solved."""

    def __init__(self):
        self.told = {}

    def tell(self, about, message=None):
        """Report a problem, unless it was reported before. No message: the problem is solved."""
        if message and self.told.get(about) != message:
            print(f"ksm_monitor.py: {about}: {message}", file=sys.stderr, flush=True)
        self.told[about] = message


class Textfile:
    """A file that is replaced atomically, so that a reader always gets one complete sample."""

    def __init__(self, path, complaints):
        self.path, self.complaints = path, complaints

    def write(self, text):
        """Replace the file. If that fails, the old file stays; its timestamp shows its age."""
        temporary = self.path.with_name(self.path.name + ".new")
        try:
            temporary.write_bytes(text.encode("utf-8", "backslashreplace"))
            temporary.chmod(0o644)
            temporary.replace(self.path)
        except OSError as error:
            self.complaints.tell(self.path, error.strerror)
        else:
            self.complaints.tell(self.path)


class SampleFiles:
    """The files of samples: samples.jsonl, and numbered earlier files, of which 1 is the newest."""

    def __init__(self, directory, limit, number, complaints):
        self.path, self.limit, self.number = directory / "samples.jsonl", limit, number
        self.complaints = complaints
        self.fd, self.size, self.lost = None, 0, 0

    @property
    def full(self):
        """Whether to begin the next file. True also if this file could not be created."""
        return self.fd is None or self.size >= self.limit

    def begin(self, header):
        """Move the current file aside, and begin a new one."""
        self.size = 0
        try:
            self.set_aside()
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self.fd = os.open(self.path, flags, 0o640)
        except OSError as error:
            self.complaints.tell(self.path, error.strerror)
        if not self.append(header):
            self.close()

    def write(self, line):
        """Write a sample."""
        self.lost += not self.append(line)

    def end(self, line):
        """Write the end line."""
        self.append(line)
        self.close()

    def append(self, line):
        """Write a complete line or nothing; return whether it was written."""
        if self.fd is None:
            return False
        try:
            left = line
            while left:
                left = left[os.write(self.fd, left) :]
        except OSError as error:
            os.ftruncate(self.fd, self.size)
            self.complaints.tell(self.path, error.strerror)
            return False
        self.size += len(line)
        self.complaints.tell(self.path)
        return True

    def close(self):
        """Close the file."""
        if self.fd is not None:
            os.close(self.fd)
        self.fd = None

    def set_aside(self):
        """Give each file the next number. Remove the oldest file, and files without samples."""
        if not self.path.exists():
            return
        if not has_sample(self.path):
            self.path.unlink()
            return
        before = {number_of(path): path for path in self.path.parent.glob("samples.*.jsonl")}
        for number in sorted(filter(None, before), reverse=True):
            if number + 1 < self.number:
                before[number].replace(self.numbered(number + 1))
            else:
                before[number].unlink()
        if self.number > 1:
            self.path.replace(self.numbered(1))
        else:
            self.path.unlink()

    def numbered(self, number):
        """Return the path of an earlier file."""
        return self.path.with_name(f"samples.{number}.jsonl")


def number_of(path):
    """Return the number of an earlier file, or 0."""
    found = re.fullmatch(r"samples\.([1-9][0-9]*)\.jsonl", path.name)
    return int(found[1]) if found else 0


def has_sample(path):
    """Whether a file has a complete sample."""
    with path.open("rb") as file:
        file.readline()
        line = file.readline()
    return line.startswith(b'{"kind":"sample"') and line.endswith(b"\n")


# Guests


class Guests:
    """Updates the guests of a reader to the processes that its sources find.

    The open files of a reader belong to one process, so a reused pid is not mistaken for the guest.
    Processes that only a cgroup has are sampled too, but `members` are not guests for Prometheus.
    """

    def __init__(self, reader, proc, sources, grouped, complaints):
        self.reader, self.proc, self.complaints = reader, proc, complaints
        self.sources, self.grouped = sources, grouped
        self.pids, self.groups, self.members = {}, {}, set()

    def look(self):
        """Add guests that have started, and remove guests that have ended."""
        found = self.find()
        known = self.reader.guests.keys()
        ended = [name for name in known if name not in found or name in self.reader.gone]
        ended += [name for name in known - set(ended) if found[name].pid != self.pids[name]]
        for name in ended:
            self.let_go(name)
        taken = [name for name in sorted(found.keys() - known) if self.take(name, found[name])]
        if ended or taken:
            self.reader.learn()
            re.purge()  # the cache of re would keep a pattern for each set of guests

    def find(self):
        """Return the processes by name, each once, and note the cgroups that they are in."""
        sampled = {pid for name, pid in self.pids.items() if name not in self.reader.gone}
        found, pids = {}, set()
        for source in self.sources:
            for name, process in source.find(sampled).items():
                if process.pid in pids:
                    continue
                pids.add(process.pid)
                found[name if name not in found else f"{name}-{process.pid}"] = process
        self.groups = {}
        for source in self.grouped:
            self.groups.update(source.groups())
        self.members = set()
        # the child of a cgroup follows it, and is the better name for its processes
        for group, inside in reversed(self.groups.items()):
            for pid in sorted(inside - pids):
                pids.add(pid)
                name = f"{group}/{pid}"
                self.members.add(name)
                check = partial(command_line, self.proc / str(pid))
                found[name] = Found(pid, f"cgroup {group}", check)
        return found

    def take(self, name, found):
        """Add a guest; return whether it runs."""
        try:
            files = guest_files(self.proc, name, found.pid)
        except Unusable as error:
            if (self.proc / str(found.pid)).exists():
                self.complaints.tell(found.about, str(error))
            return False
        if not found.check():
            close(fd for fd, _ in files)
            return False
        if isinstance(found.about, Path):  # a pid file is about one process; others are about many
            self.complaints.tell(found.about)
        self.reader.gone.pop(name, None)
        self.reader.guests[name], self.pids[name] = files, found.pid
        return True

    def let_go(self, name):
        """Remove a guest."""
        close(fd for fd, _ in self.reader.guests.pop(name))
        del self.pids[name]

    def fruitless(self):
        """Return the number of pid files without a guest; None if there is no such directory."""
        counts = [len(each.fruitless) for each in self.sources if isinstance(each, PidFiles)]
        return sum(counts) if counts else None

    def sections(self, sampled):
        """Return the sections `guests` and `cgroups` for Prometheus, from the sampled guests."""
        by_pid = {self.pids[name]: counts for name, counts in sampled.items() if name in self.pids}
        return {
            "guests": {name: sampled[name] for name in sampled if name not in self.members},
            "cgroups": {
                group: total([by_pid[pid] for pid in pids if by_pid.get(pid)])
                for group, pids in self.groups.items()
            },
        }


def total(processes):
    """Return the sum of each counter that is a number, and the number of processes."""
    found = {"processes": len(processes)}
    for counts in processes:
        for name, value in counts.items():
            if isinstance(value, int):
                found[name] = found.get(name, 0) + value
    return found


# The service


class FileSampler(Sampler):
    """Writes the samples of one file."""

    def __init__(self, service):
        super().__init__(service.reader, service.files, service.period, math.inf)
        self.service = service

    def after(self, n, _seconds, line):
        """Publish the sample, update the guests, and end the file if it is full."""
        self.service.publish(self, n, line)
        self.service.guests.look()
        if self.output.full:
            self.end("rotated")


class Service:
    """Writes samples to one file after the other, until a signal ends it."""

    def __init__(self, arguments):
        self.arguments, self.period = arguments, round(arguments.period * 1e9)
        complaints = Complaints()
        self.reader, self.ksmd = open_reader(arguments.root, [])
        self.guests = Guests(self.reader, arguments.root / "proc", *sources(arguments, complaints))
        size = round(arguments.file_mib * MIB)
        self.files = SampleFiles(arguments.state, size, arguments.files, complaints)
        self.textfile = Textfile(arguments.state / "ksm.prom", complaints)
        self.taken = self.missed = 0  # in completed files
        self.own = {}

    def run(self):
        """Sample until a signal. A signal between two files ends the next file at once."""
        signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
        start, reason = time.monotonic_ns(), "rotated"
        while reason in ("rotated", "SIGHUP"):
            self.guests.look()
            sampler = FileSampler(self)
            for number in HANDLED:
                signal.signal(number, sampler.stop)
            missed = self.one_file(sampler, start)
            start += (sampler.taken + missed) * self.period
            self.taken, self.missed = self.taken + sampler.taken, self.missed + missed
            reason = sampler.reason
        self.textfile.write(exposition({"monitor": self.own}))

    def one_file(self, sampler, start):
        """Fill one file; return the number of missed samples."""
        self.reader.gone.clear()
        cpu, before = time.process_time_ns(), strain(self.arguments.root)
        described = argparse.Namespace(
            root=self.arguments.root,
            period=self.arguments.period,
            samples=None,
            guest=self.guests.pids,
            transient=(),
        )
        wall = time.time_ns() + start - time.monotonic_ns()
        self.files.begin(header_line(described, wall, start, self.ksmd, before))
        with unblocked():
            missed = sampler.run(start)
        used = time.process_time_ns() - cpu
        self.files.end(end_line(described, sampler, missed, used))
        return missed

    def publish(self, sampler, n, line):
        """Report sample n to Prometheus and systemd."""
        sample = json.loads(line)
        self.own = {
            "page_size": PAGE_SIZE,
            "last_sample": sample["wall"],
            "period": self.arguments.period,
            "samples": self.taken + sampler.taken,
            "missed": self.missed + n + 1 - sampler.taken,
            "lost": self.files.lost,
            "cpu": time.process_time(),
            "fruitless": self.guests.fruitless(),
        }
        found = self.guests.sections(sample["guests"])
        self.textfile.write(exposition({**sample, **found, "monitor": self.own}))
        notify("READY=1\nWATCHDOG=1")


def sources(arguments, complaints):
    """Return the sources of guests, those of cgroups, and the complaints."""
    proc = arguments.root / "proc"
    guests = [PidFiles(proc, directory, complaints) for directory in arguments.domains]
    guests += [Match(proc, pattern, complaints) for pattern in arguments.match]
    cgroups = [Containers(proc)] if arguments.containers else []
    cgroups += [Cgroup(arguments.root, path, complaints) for path in arguments.cgroup]
    return guests, cgroups, complaints


@contextlib.contextmanager
def unblocked():
    """Unblock signals."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)


def notify(state):
    """Notify systemd, if it has started this service."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.sendto(state.encode(), "\0" + address[1:] if address[0] == "@" else address)


def pattern_argument(text):
    """Parse a regular expression that does not match everything."""
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a regular expression: {error}"
        ) from error
    if pattern.search(""):
        raise argparse.ArgumentTypeError(f"{text!r} matches every process")
    return pattern


def cgroup_argument(text):
    """Parse the path of a cgroup, relative to the root of its hierarchy."""
    if not text.strip("/") or ".." in text.split("/"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a cgroup's path, such as machine.slice")
    return text.strip("/")


def parse_arguments(argv):
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="ksm_monitor.py",
        description=__doc__.partition("\n")[0],
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--state", required=True, type=Path, metavar="DIR", help="directory for files")
    add(
        "--domains",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="directory of pid files NAME.pid: libvirt's /run/libvirt/qemu, Proxmox's "
        "/run/qemu-server (may be repeated; default: none)",
    )
    add(
        "--match",
        type=pattern_argument,
        action="append",
        default=[],
        metavar="REGEX",
        help="sample processes in whose name (/proc/PID/comm) or command line, its arguments "
        "joined by spaces, this Python regular expression is found; its first group is the name "
        "of the guest, for example 'firecracker .*--id ([^ ]+)', otherwise COMM-PID (may be "
        "repeated)",
    )
    add(
        "--cgroup",
        type=cgroup_argument,
        action="append",
        default=[],
        metavar="PATH",
        help="sample the processes of a cgroup, version 1 or 2, for example machine.slice: the "
        "sum, and that of each child (may be repeated)",
    )
    add(
        "--containers",
        action="store_true",
        help="sample the processes of each container of Docker, Podman, containerd, CRI-O, LXC "
        "and systemd-nspawn",
    )
    add(
        "--period",
        type=period_argument,
        default=15.0,
        metavar="S",
        help="seconds between samples (default: 15)",
    )
    add(
        "--file-mib",
        type=count_argument,
        default=16,
        metavar="MIB",
        help="size at which a file of samples is full (default: 16)",
    )
    add(
        "--files",
        type=count_argument,
        default=8,
        metavar="N",
        help="number of files of samples to keep, including the current one (default: 8)",
    )
    add("--root", type=Path, default=Path("/"), metavar="DIR", help="read DIR/sys and DIR/proc")
    return parser.parse_args(argv)


def main(argv=None):
    """Run the command line; return the exit status."""
    try:
        Service(parse_arguments(argv)).run()
    except Unusable as error:
        print(f"ksm_monitor.py: error: {error}", file=sys.stderr)
        return EXIT_UNUSABLE
    return 0


if __name__ == "__main__":
    sys.exit(main())
