#!/usr/bin/env python3
"""Sample KSM as a service, as long as the host runs, while guests start and end.

The service uses ksm_sampler.py and ksm_prometheus.py, which must be in the same directory. This
file adds what a service needs: it finds guests by libvirt's pid files, limits the size and number
of the files of samples, and writes the last sample as text that node_exporter reads for Prometheus.

Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import re
import signal
import socket
import sys
import time
from pathlib import Path

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
    read_text,
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
    """Updates the guests of a reader to those that libvirt runs. Each has a pid file NAME.pid.

    The open files of a reader belong to one process, so a reused pid is not mistaken for the guest.
    A pid file may outlive its process. So a process counts as a guest only if its command line is
    that of QEMU with the name of the guest.
    """

    def __init__(self, reader, proc, directory, complaints):
        self.reader, self.proc, self.directory = reader, proc, directory
        self.complaints = complaints
        self.pids = {}

    def look(self):
        """Add guests that have started, and remove guests that have ended."""
        paths = pid_files(self.directory) if self.directory else {}
        known = self.reader.guests.keys()
        ended = [name for name in known if name not in paths or name in self.reader.gone]
        for name in ended:
            self.let_go(name)
        taken = [name for name in sorted(paths.keys() - known) if self.take(name, paths[name])]
        if ended or taken:
            self.reader.learn()
            re.purge()  # the cache of re would keep a pattern for each set of guests

    def take(self, name, path):
        """Add a guest; return whether it runs."""
        pid = read_text(path, "")
        if not pid.isdecimal():
            return False
        try:
            files = guest_files(self.proc, name, int(pid))
        except Unusable as error:
            if (self.proc / pid).exists():
                self.complaints.tell(path, str(error))
            return False
        if not is_guest(self.proc / pid, name):
            close(fd for fd, _ in files)
            return False
        self.reader.gone.pop(name, None)
        self.reader.guests[name], self.pids[name] = files, int(pid)
        return True

    def let_go(self, name):
        """Remove a guest."""
        close(fd for fd, _ in self.reader.guests.pop(name))
        del self.pids[name]


def pid_files(directory):
    """Return pid files by the names of their guests, which may have ended."""
    try:
        paths = [path for path in directory.iterdir() if path.suffix == ".pid"]
        links = directory.stat().st_nlink
    except OSError as error:
        raise Unusable(f"cannot list {directory}: {error.strerror}; is libvirt there?") from error
    if not links:  # the directory was replaced; this service still sees the old one
        raise Unusable(f"{directory} has been removed")
    return {unescaped(path.stem): path for path in paths}


def unescaped(text):
    """Return the name of a guest. libvirt escapes it in the name of the pid file, as in XML."""
    for entity, character in ("lt", "<"), ("gt", ">"), ("quot", '"'), ("apos", "'"), ("amp", "&"):
        text = text.replace(f"&{entity};", character)
    return text


def is_guest(process, name):
    """Whether a process is QEMU with -name guest=NAME,..., in which commas are doubled."""
    try:
        arguments = (process / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    wanted = re.escape(b"guest=" + os.fsencode(name).replace(b",", b",,"))
    return any(re.fullmatch(wanted + rb"(?:,[^,].*)?", argument) for argument in arguments)


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
        self.guests = Guests(self.reader, arguments.root / "proc", arguments.domains, complaints)
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
        )
        wall = time.time_ns() + start - time.monotonic_ns()
        self.files.begin(header_line(described, wall, start, self.ksmd, before))
        with unblocked():
            missed = sampler.run(start)
        self.files.end(end_line(self.arguments, sampler, missed, cpu))
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
        }
        self.textfile.write(exposition({**sample, "monitor": self.own}))
        notify("READY=1\nWATCHDOG=1")


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
        metavar="DIR",
        help="directory of libvirt's pid files, /run/libvirt/qemu (default: no guests)",
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
