#!/usr/bin/env python3
"""Sample the counters of KSM, the host and its guests at a steady pace, about as fast as C.

One file, standard library only, Python 3.9 or newer, so that it can be copied to any host.

It is fast: every file stays open and is read again with one pread() at offset 0, which makes the
kernel print it again. The layout of the files is learned once, as one regular expression for all of
them. Its groups are the values, and the rest is literal. Each sample is then one match and one
template of bytes. The match is also the check: if a name, a unit or a kind of value has changed, it
does not match, and the layout is learned again.
"""

import sys

if sys.version_info < (3, 9):  # before anything that an older Python does not have
    sys.exit("ksm_sampler.py needs Python 3.9 or newer; this is {}.{}".format(*sys.version_info))

import argparse
import collections
import contextlib
import json
import math
import os
import re
import signal
import textwrap
import time
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

FORMAT = 1
MIN_PERIOD = 0.01  # seconds
MAX_AHEAD = 3600  # seconds to the start
BUFFER = 8192  # bytes per pread; a larger file is read with several
SIGNALS = (signal.SIGTERM, signal.SIGINT)
EXIT_WRITE_FAILED, EXIT_UNUSABLE = 1, 2
CLOCK_TICK = 50_000_000  # ns; the clock of files is coarser than others, by less than this

CPU = b"user nice system idle iowait irq softirq steal guest guest_nice".split()
MEMINFO = frozenset(
    b"MemTotal MemFree MemAvailable Buffers Cached SwapCached SwapTotal SwapFree Active(anon)"
    b" Inactive(anon) Unevictable Mlocked Zswap Zswapped AnonPages AnonHugePages Mapped Shmem"
    b" Slab SReclaimable PageTables".split()
)
VMSTAT = frozenset(
    b"cow_ksm ksm_swpin_copy pswpin pswpout thp_split_page thp_collapse_alloc".split()
)

INTERRUPTS = {"tlb_shootdowns": "TLB shootdowns", "function_calls": "Function call interrupts"}
NAMED = 5  # other processes that the end line names

HELP = """\
examples:
  python3 ksm_sampler.py --output - --samples 3
      three samples of the host, one per second, on standard output
  python3 ksm_sampler.py --output samples.jsonl --period 0.25 --samples 181 \\
      --guest ksm-guest-01=/run/libvirt/qemu/ksm-guest-01.pid --guest other=4242
      45 seconds at 4 Hz, with two guests; the end line also goes to standard output
  python3 ksm_sampler.py --output samples.jsonl --samples 3601 --steady-scans 3 --steady-seconds 60
      at most an hour; ends earlier if the saved pages are flat
  kill -TERM PID
      ends at once, with a complete last line and an end line

output: one JSON object per line.
  header  kind, format, wall, monotonic, period, samples, page_size (bytes), clock_ticks (per
          second), boot_id, kernel, ksmd_pid (null: not visible), guests (name: pid, without those
          of --transient), pss_anon of these (name: KiB of anonymous memory, of a page that n
          processes share 1/n, Pss_Anon in /proc/PID/smaps_rollup; null: unknown), and strain, with
          those values that the kernel has:
            memory_some_us, memory_full_us  us that some tasks, all tasks waited for memory since
                                            boot (/proc/pressure/memory)
            throttled                       thermal throttling events of all CPUs since boot
                                            (thermal_throttle/core_throttle_count)
  sample  n            index of the deadline: sample n is due at the header's monotonic
                       + n * period, and is never early; a gap in n is a missed sample
          wall         seconds, CLOCK_REALTIME   } both read once, immediately
          monotonic    seconds, CLOCK_MONOTONIC  } before the counters
          ksm          every file of /sys/kernel/mm/ksm: a number or text
                       (pages_*: pages; general_profit: bytes, signed)
          cpu          first line of /proc/stat: clock ticks of all CPUs since boot
          meminfo      KiB, from /proc/meminfo, if they exist:
%(meminfo)s
          vmstat       events since boot (pswp*: pages), from /proc/vmstat, if they exist:
%(vmstat)s
          ksmd         cpu_ns: CPU time of ksmd in ns, from /proc/PID/schedstat, as of its last
                       scheduler tick; or from the clock ticks of /proc/PID/stat; null: unknown
          guests       null: has ended; absent: has not started; else per guest
                         ksm_*            lines of /proc/PID/ksm_stat: pages, and
                                          ksm_process_profit in bytes, signed (older kernels:
                                          /proc/PID/ksm_merging_pages, or nothing)
                         utime, stime     clock ticks of the whole process, /proc/PID/stat
                         resident_pages   second field of /proc/PID/statm
  end     samples (taken), missed, cpu_seconds (of the sampler, up to its last sample),
          reason (finished, steady, SIGTERM, SIGINT), gone (guest: monotonic time when its end was
          noticed), pss_anon and strain (as in the header), others (ksm_rmap_items: pages that
          ksmd tracks of all other processes; processes: those with the most), with --transient
          arrived and left (name: monotonic time when it was noticed), with --steady-scans converged
          (false: not steady when sampling ended), and work: what the host did from the first sample
          to the last, as far as the kernel tells:
            seconds            between these samples
            tlb_shootdowns     interrupts of all CPUs (/proc/interrupts)
            function_calls     the same
            page_faults        of all processes (pgfault in /proc/vmstat)
            khugepaged_cpu_ns  CPU time of khugepaged

A sample is not an atomic snapshot: its files are read one after the other, within about 0.3 ms,
while ksmd may run. The kernel computes pages_volatile from counters that change meanwhile.

The sampler uses the real-time policy SCHED_FIFO, priority 1, if it may (root or CAP_SYS_NICE), so
that busy guests do not delay or interrupt a sample. The end line counts missed samples.

With --steady-scans, sampling ends as soon as the saved pages, pages_sharing + ksm_zero_pages, have
been flat for the given seconds and full scans; with smart_scan=1 for at least 10 full scans, since
ksmd skips pages. Flat means: maximum minus minimum is at most the given percentage of the maximum,
and so is the change if the slope went on for 10 more scans, and for 10 times the given seconds.

exit status:
  0    all samples are done, or it was steady
  1    the output could not be written (for example, no space left); its last line may be incomplete
  2    wrong arguments, or nothing to sample: nothing was written
  130  ended by SIGINT    143  ended by SIGTERM    (both with an end line)
"""


class Unusable(Exception):  # noqa: N818
    """The request cannot be sampled; the message is for the user."""


class Stopped(Exception):  # noqa: N818 - it is not an error
    """A signal has requested the end."""


# A layout describes the text of a file. Each function takes the text and returns a regular
# expression for it, with a group for each value, and a JSON template for these values.

NUMBER = rb"(0|-?[1-9][0-9]*)"  # exactly the integers of JSON
TEXT = rb"(?!-?[0-9]+(?![ -~]))([ !#-\[\]-~]*)"  # not a number; nothing that JSON escapes
REST = rb"[^\0]*"  # the rest of the file: a NUL separates it from the next
# /proc/PID/stat up to its field 14, utime; the name in parentheses may contain anything. A zombie
# still has its times, but counts as ended.
PROCESS = rb"[0-9]+ \([^\0]*\) [^ZX] (?:[^ ]+ ){10}"


def json_text(text):
    """Return str or bytes as a JSON string for a template."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "backslashreplace")
    return json.dumps(text).encode().replace(b"%", b"%%")


def slot(text):
    """Return pattern and JSON of one value: a group, or literal if JSON must escape it."""
    if re.fullmatch(NUMBER, text):
        return NUMBER, b"%b"
    if re.fullmatch(TEXT, text):
        return TEXT, b'"%b"'
    return re.escape(text), json_text(text)


def value_layout(name, text):
    """Return the layout of a file with one value, as in sysfs."""
    value = text.rstrip(b"\n")
    pattern, json_value = slot(value)
    return pattern + re.escape(text[len(value) :]), [(name, json_value)]


def lines_layout(text, wanted=None):
    """Return the layout of lines `name value` or `name: value [kB]`: the wanted ones, or all."""
    pattern, members, skipped = b"", [], 0
    for line in text.splitlines(keepends=True):
        found = re.fullmatch(rb"([^\s:]+):? +(.*?)((?: kB)?\n?)", line)
        if not found or (wanted is not None and found[1] not in wanted):
            skipped += 1
            continue
        value, json_value = slot(found[2])
        pattern += skip(skipped) + re.escape(found[1]) + rb":? +" + value + re.escape(found[3])
        members.append((found[1], json_value))
        skipped = 0
    return pattern + (skip(skipped) if wanted is None else REST), members


def skip(lines):
    """Return a pattern for a number of lines.

    For many lines, a greedy match that backtracks is faster. It is safe because the name that
    follows occurs only once in the text.
    """
    return rb"(?s:.*)\n" if lines > 16 else rb"[^\n]*\n" * lines


def cpu_layout(text):
    """Return the layout of /proc/stat: only its first line, ticks of all CPUs."""
    found = re.match(rb"cpu +((?:[0-9]+ ?)+)", text)
    names = CPU[: len(found[1].split())] if found else []
    return (rb"cpu +" + rb" ".join([NUMBER] * len(names)) if names else b"") + REST, [
        (name, b"%b") for name in names
    ]


def process_layout(_text):
    """Return the layout of /proc/PID/stat: CPU time in clock ticks."""
    pattern = PROCESS + NUMBER + rb" " + NUMBER + rb" " + REST
    return pattern, [(b"utime", b"%b"), (b"stime", b"%b")]


def ticks_layout(text):
    """Return the layout of /proc/PID/stat of a kernel thread: its stime in ns; its utime is 0.

    A clock tick is 1/100 s (except 1/1024 s on Alpha, which is not supported). Appended zeros
    convert it to ns.
    """
    if re.match(PROCESS + rb"0 0 ", text):
        return PROCESS + rb"0 0 " + REST, [(b"cpu_ns", b"0")]
    return PROCESS + rb"0 ([1-9][0-9]*) " + REST, [(b"cpu_ns", b"%b0000000")]


def resident_layout(_text):
    """Return the layout of /proc/PID/statm: the second field, pages in memory."""
    return rb"[0-9]+ " + NUMBER + rb" " + REST, [(b"resident_pages", b"%b")]


def schedstat_layout(_text):
    """Return the layout of /proc/PID/schedstat: the first field, ns on a CPU."""
    return NUMBER + rb" " + REST, [(b"cpu_ns", b"%b")]


# The value of a section without files.
EMPTY = {"ksmd": [(b"cpu_ns", b"null")]}
SAMPLE = b'{"kind":"sample","n":%d,"wall":%d.%09d,"monotonic":%d.%09d,'


class Reader:
    """Reads the files of a sample and makes its line.

    `host` and `guests` map a section, such as meminfo or a guest's name, to its files: a list of
    (descriptor, layout). If a file of the host becomes unreadable, later samples leave it out. If a
    guest has ended, it is null in later samples, and `gone` has the time when this was noticed.
    `transient` adds guests that start later.
    """

    def __init__(self, host, guests, transient=None):
        self.host, self.guests, self.gone = host, guests, {}
        self.transient = transient
        self.learn()

    def line(self, n, wall, monotonic):
        """Read the counters and return the sample line. Times are in ns."""
        new = self.transient.found() if self.transient else {}
        self.guests.update(new)
        try:
            match = None if new else self.match(self.read())
        except OSError:
            match = None
        match = match or self.learn()
        wall, monotonic = divmod(wall, 10**9), divmod(monotonic, 10**9)
        return self.template % (n, *wall, *monotonic, *match.groups())

    def read(self):
        """Return the text of all files, with a NUL between them."""
        if self.long:
            return b"\0".join([self.read_file(fd) for fd in self.fds])
        # This line takes half of the time of a sample.
        return b"\0".join(map(os.pread, self.fds, repeat(BUFFER), repeat(0)))

    def read_file(self, fd):
        """Return the text of one file, which may need more than one pread."""
        return b"".join(pieces(fd)) if fd in self.long else os.pread(fd, BUFFER, 0)

    def learn(self):
        """Read every file completely and learn its layout again; return the match."""
        laid, host, guests = [], [], []
        for name, files in self.host.items():
            found = [file for file in map(lay_out, files) if file]
            host.append((name, members_of(found) if found else json_object(EMPTY.get(name, []))))
            laid += found
        for name, files in self.guests.items():
            found = [lay_out(file) for file in files]
            if None in found:
                self.gone.setdefault(name, time.monotonic())
            guests.append((name, b"null" if name in self.gone else members_of(found)))
            laid += [] if name in self.gone else found
        self.fds = [file.fd for file in laid]
        self.long = {file.fd for file in laid if file.long}
        self.match = re.compile(b"\0".join([file.pattern for file in laid])).fullmatch
        self.template = SAMPLE + json_object([*host, ("guests", json_object(guests))])[1:] + b"\n"
        return self.match(b"\0".join([file.text for file in laid]))


class Transient:
    """Processes that may start and end during the sampling.

    `files` maps the name of each to the file that has its process id, which appears when it has
    started. `pids` and `arrived` (monotonic seconds) have those that have been found.
    """

    def __init__(self, proc, files):
        self.proc, self.pids, self.arrived, self.places = proc, {}, {}, {}
        self.looked = {}  # when each directory had last changed before it was listed
        for name, path in files:
            self.places.setdefault(path.parent, {})[path.name] = name

    def found(self):
        """Return those that have started since the last look: their files, by name."""
        found = {}
        for directory, awaited in self.places.items():
            changed = directory.stat().st_mtime_ns
            if changed == self.looked.get(directory):
                continue
            if time.time_ns() - changed > CLOCK_TICK:  # a later change will have another time
                self.looked[directory] = changed
            for file in awaited.keys() & os.listdir(directory):  # noqa: PTH208 - names are faster
                if not self.find(directory / file, awaited[file], found):
                    self.looked.pop(directory, None)
                else:
                    awaited.pop(file)
        return found

    def find(self, path, name, found):
        """Add the files of a process; return whether it is there."""
        pid = read_text(path, "")
        try:
            found[name] = guest_files(self.proc, name, int(pid))
        except (Unusable, ValueError):  # it may have ended already, or the file is not complete
            return False
        self.pids[name], self.arrived[name] = int(pid), time.monotonic()
        return True


class LaidOut(NamedTuple):
    """A file with a known layout."""

    fd: int
    text: bytes
    pattern: bytes
    members: list
    long: bool  # the wanted values need more than the first pread


def lay_out(file):
    """Read a file and learn its layout; None if it is unreadable or has an unexpected form."""
    fd, layout = file
    try:
        text = list(pieces(fd))
    except OSError:
        return None
    if not text:
        return None
    whole = b"".join(text)
    pattern, members = layout(whole)
    if not re.fullmatch(pattern, whole):
        return None
    return LaidOut(fd, whole, pattern, members, not re.fullmatch(pattern, text[0]))


def members_of(laid):
    """Return the template of the JSON object for files."""
    return json_object([member for file in laid for member in file.members])


def json_object(members):
    """Return the template of a JSON object."""
    return b"{" + b",".join([json_text(name) + b":" + value for name, value in members]) + b"}"


def pieces(fd):
    """Yield the whole text of an open file, in the pieces that the kernel returns.

    A short read is not the end: seq_file returns at most one page of whole records at a time.
    """
    offset = 0
    piece = os.pread(fd, BUFFER, offset)
    while piece:
        yield piece
        offset += len(piece)
        piece = os.pread(fd, BUFFER, offset)


def open_file(path, dir_fd=None):
    """Open a file for reading; None if it does not exist."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=dir_fd)
    except (FileNotFoundError, ProcessLookupError):
        return None
    except OSError as error:
        raise Unusable(f"cannot read {path}: {error.strerror}; run as root?") from error


def ksm_files(root):
    """Open every file that this kernel has in /sys/kernel/mm/ksm."""
    directory = root / "sys/kernel/mm/ksm"
    try:
        paths = sorted(path for path in directory.iterdir() if path.is_file())
    except OSError as error:
        raise Unusable(
            f"cannot list {directory}: {error.strerror}; the kernel must be built with CONFIG_KSM"
        ) from error
    if not paths:
        raise Unusable(f"{directory} is empty; the kernel must be built with CONFIG_KSM")
    return [(open_file(path), partial(value_layout, path.name)) for path in paths]


def one_file(path, layout):
    """Return one file as a section; empty if the kernel does not have the file."""
    fd = open_file(path)
    return [] if fd is None else [(fd, layout)]


def read_text(path, default=None):
    """Return the stripped text of a small file; the default if it cannot be read."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return default


def find_thread(proc, name):
    """Return the pid of a kernel thread; None if it is not visible, as in a container."""
    for directory in sorted(proc.glob("[0-9]*")):
        # Any process may have the name ksmd, but only kernel threads have no command line.
        if read_text(directory / "comm") == name and not read_text(directory / "cmdline", ""):
            return int(directory.name)
    return None


def ksmd_files(proc, pid):
    """Return the most exact file for the CPU time of ksmd."""
    if pid is None:
        return []
    # All values are zero if the kernel does not keep the statistics: ksmd has run at least once.
    if (read_text(proc / f"{pid}/schedstat") or "0 0 0") != "0 0 0":
        return one_file(proc / f"{pid}/schedstat", schedstat_layout)
    return one_file(proc / f"{pid}/stat", ticks_layout)


def guest_files(proc, name, pid):
    """Open the files of one guest's process.

    The files are opened relative to one descriptor of /proc/PID, and all belong to that process:
    when it has ended, reads fail with ESRCH, even if the kernel reuses its pid.
    """
    directory = open_file(proc / str(pid))
    if directory is None:
        raise Unusable(f"guest {name}: there is no process {pid} in {proc}")
    layouts = {
        "ksm_stat": lines_layout,
        "ksm_merging_pages": partial(value_layout, "ksm_merging_pages"),
        "stat": process_layout,
        "statm": resident_layout,
    }
    fds = {}
    try:
        for file in layouts:
            fds[file] = open_file(file, directory)
        if fds["stat"] is None or fds["statm"] is None:
            raise Unusable(f"guest {name}: {proc / str(pid)} has no stat or statm")
    except Unusable:
        close(fds.values())
        raise
    finally:
        os.close(directory)
    if fds["ksm_stat"] is not None:
        close([fds.pop("ksm_merging_pages")])  # ksm_stat includes it
    return [(fd, layouts[file]) for file, fd in fds.items() if fd is not None]


def close(fds):
    """Close files; None is ignored."""
    for fd in fds:
        if fd is not None:
            os.close(fd)


class Output:
    """The output: a new file, or standard output."""

    def __init__(self, path):
        self.name, self.fd = "standard output", sys.stdout.fileno()
        if path == "-":
            return
        self.name = path
        try:
            # The kernel shows the counters of a process only to its owner.
            self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError as error:
            raise Unusable(f"{path} already exists and is not overwritten") from error
        except OSError as error:
            raise Unusable(f"cannot create {path}: {error.strerror}") from error

    def write(self, line):
        """Write a whole line with one system call; more only after a partial write."""
        while line:
            line = line[os.write(self.fd, line) :]


class Steady:
    """Decides whether the saved pages have been flat for long enough.

    It is flat over some samples if maximum minus minimum is at most `percent` of the maximum. The
    flat samples must not begin before `after`, must cover `seconds`, and must contain `scans`
    complete full scans. For that, one more scan has to end meanwhile, because a sample may be taken
    in the middle of a scan. The first sample of a run is taken before ksmd starts.

    A slow rise is flat for a while, so the slope counts too (least squares): if it went on for
    AHEAD scans, and for AHEAD times `seconds`, values must change by at most `percent`.
    """

    def __init__(self, scans, seconds, percent, after=0.0):
        self.scans, self.seconds, self.percent, self.after = scans, seconds, percent, after
        # Samples, as (seconds, full_scans, sums of all values before: see `sums`)
        self.origin = self.now = self.since = None
        self.sums = (0, 0.0, 0, 0.0, 0.0)  # n, seconds, saved, seconds², seconds · saved
        # The values since then that are greater than all later ones, so that the first is the
        # maximum, each with the earliest sample since which this holds. The same for the negated
        # values. The length is limited by the number of different values.
        self.highs, self.lows = collections.deque(), collections.deque()

    def add(self, seconds, full_scans, saved):
        """Add a sample."""
        now = (seconds, full_scans, self.sums)
        # If scans have ended, ksmd already runs
        self.origin = self.origin or (seconds, 0, self.sums)
        if seconds < self.after:
            return
        terms = (1, seconds, saved, seconds * seconds, seconds * saved)
        self.sums = tuple(map(sum, zip(self.sums, terms)))
        if self.now is None or full_scans < self.now[1]:  # run=2 has reset ksmd
            self.forget(now)
        self.now = now
        push(self.highs, saved, now)
        push(self.lows, -saved, now)
        while not self.is_flat():
            # The new value is the only one of its kind; remove values of the other kind.
            others = self.lows if len(self.highs) == 1 else self.highs
            others.popleft()
            self.since = others[0][1]

    def forget(self, now):
        """Start again with a sample."""
        self.highs.clear()
        self.lows.clear()
        self.since = now

    def is_flat(self):
        """Whether the range of all values is small enough."""
        high = self.highs[0][0]
        return high + self.lows[0][0] <= self.percent / 100 * high

    def reached(self):
        """Whether the saved pages are steady now."""
        if self.now is None:
            return False
        seconds, scans = self.now[0] - self.since[0], self.now[1] - self.since[1]
        if seconds < self.seconds or scans < self.scans + (self.since != self.origin):
            return False
        ahead = AHEAD * max(self.seconds, seconds / max(scans, 1))
        return abs(self.slope()) * ahead <= self.percent / 100 * self.highs[0][0]

    def slope(self):
        """Return pages a second: least squares over the flat samples."""
        n, t, y, tt, ty = (now - then for now, then in zip(self.sums, self.since[2]))
        spread = n * tt - t * t
        return (n * ty - t * y) / spread if spread > 0 else 0.0


def push(greatest, value, now):
    """Add a value and its sample to those that are greater than all later ones."""
    since = now
    while greatest and greatest[-1][0] <= value:
        since = greatest.pop()[1]
    greatest.append((value, since))


# Finding these in our own line is faster than parsing it.
SCANS = re.compile(rb'"full_scans":([0-9]+)').search
SHARING = re.compile(rb'"pages_sharing":([0-9]+)').search
ZERO = re.compile(rb'"ksm_zero_pages":([0-9]+)').search  # the first is the host's
BELOW_ZERO = 2**63  # from here on, the kernel has decremented the count too often
AHEAD = 10  # scans, or times the flat seconds, for which a slope must not matter
SKIPPING = 10  # full scans that tell something although smart_scan skips pages


class Sampler:
    """Takes samples at the deadlines start + n * period, all times in ns of CLOCK_MONOTONIC."""

    def __init__(self, reader, output, period, samples, steady=None, every=1, work=None):
        self.reader, self.output, self.work = reader, output, work
        self.period, self.samples, self.taken = period, samples, 0
        self.steady, self.every = steady, every
        self.reason, self.asleep = "finished", False

    def stop(self, number, _frame):
        """Handle a signal: end a sleep at once, but never interrupt the writing of a line."""
        self.reason = signal.Signals(number).name
        if self.asleep:
            self.asleep = False  # a second signal must not interrupt the end
            raise Stopped

    def run(self, start):
        """Sample until the end or a signal; return the number of missed deadlines.

        A deadline is missed when the next one comes before its sample could be taken.
        """
        n = 0
        with contextlib.suppress(Stopped):
            while n < self.samples:
                self.sleep_until(start + n * self.period)
                wall, monotonic = time.time_ns(), time.monotonic_ns()
                n = max(n, (monotonic - start) // self.period) + 1
                if n <= self.samples:
                    line = self.reader.line(n - 1, wall, monotonic)
                    if self.work and self.taken == 0:
                        self.work.begin()
                    self.output.write(line)
                    self.taken += 1
                    self.after(n - 1, (monotonic - start) / 1e9, line)
        return min(n, self.samples) - self.taken

    def after(self, n, seconds, line):
        """Handle the end of sample n, which was taken so many seconds after the start."""
        if self.steady and self.is_steady(n, seconds, line):
            self.end("steady")

    def end(self, reason):
        """End early. If a signal came meanwhile, it is the reason."""
        if self.reason == "finished":
            self.reason = reason
        raise Stopped

    def is_steady(self, n, seconds, line):
        """Whether to end with sample n. Checked at the ends of intervals."""
        scans, sharing, zero = SCANS(line), SHARING(line), ZERO(line)
        if not (scans and sharing):  # a file was unreadable
            return False
        zeros = int(zero[1]) if zero else 0
        saved = int(sharing[1]) + (zeros if zeros < BELOW_ZERO else 0)
        self.steady.add(seconds, int(scans[1]), saved)
        return n % self.every == 0 and self.steady.reached()

    def sleep_until(self, deadline):
        """Sleep; raise Stopped on a signal, also on an earlier one."""
        self.asleep = True
        if self.reason != "finished":
            self.asleep = False
            raise Stopped
        time.sleep(max(0, deadline - time.monotonic_ns()) / 1e9)
        self.asleep = False


def json_line(**members):
    """Return one line of JSON."""
    return json.dumps(members, separators=(",", ":")).encode() + b"\n"


def guest_argument(text):
    """Parse NAME=PID or NAME=PIDFILE; return name and pid."""
    name, _, value = text.partition("=")
    if not name or not value:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PID or NAME=PIDFILE")
    if not value.isdecimal():
        pid = read_text(Path(value))
        if pid is None or not pid.isdecimal():
            fault = "cannot be read" if pid is None else f"holds {pid[:40]!r}, not a pid"
            raise argparse.ArgumentTypeError(f"guest {name}: the pid file {value} {fault}")
        value = pid
    return name, int(value)


def transient_argument(text):
    """Parse NAME=PIDFILE; return name and path."""
    name, _, path = text.partition("=")
    if not name or not path:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PIDFILE")
    if not Path(path).parent.is_dir():
        raise argparse.ArgumentTypeError(f"process {name}: there is no directory of {path}")
    return name, Path(path)


def period_argument(text):
    """Parse the seconds between deadlines."""
    period = float(text)
    if not MIN_PERIOD <= period < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a period: {MIN_PERIOD} seconds or more")
    return period


def count_argument(text):
    """Parse a whole number of 1 or more."""
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of 1 or more")
    return count


def amount_argument(text):
    """Parse a number of 0 or more."""
    amount = float(text)
    if not 0 <= amount < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number of 0 or more")
    return amount


def parse_arguments(argv):
    """Parse the command line."""
    indent = " " * 25
    fields = {
        name: textwrap.fill(
            b" ".join(sorted(words)).decode(),
            width=100,
            initial_indent=indent,
            subsequent_indent=indent,
        )
        for name, words in (("meminfo", MEMINFO), ("vmstat", VMSTAT))
    }
    parser = argparse.ArgumentParser(
        prog="ksm_sampler.py",
        description=__doc__.partition("\n")[0],
        epilog=HELP % fields,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--output", required=True, metavar="FILE", help="new file to write, or - for stdout")
    add("--samples", required=True, type=count_argument, metavar="N", help="number of samples")
    add(
        "--period",
        type=period_argument,
        default=1.0,
        metavar="S",
        help=f"seconds between deadlines, {MIN_PERIOD} or more (default: 1)",
    )
    add(
        "--guest",
        type=guest_argument,
        action="append",
        default=[],
        metavar="NAME=PID|PIDFILE",
        help="process of a guest, by pid or by the file that holds it; may be repeated",
    )
    add(
        "--transient",
        type=transient_argument,
        action="append",
        default=[],
        metavar="NAME=PIDFILE",
        help="a process that may start after the first sample, when the file with its id appears, "
        "and end before the last; may be repeated",
    )
    add(
        "--start",
        type=amount_argument,
        default=0,
        metavar="S",
        help="first deadline, in seconds of CLOCK_MONOTONIC; a past time means now (default)",
    )
    add(
        "--steady-scans",
        type=count_argument,
        metavar="N",
        help="end early when the saved pages were flat for N full scans and --steady-seconds",
    )
    for name, default, text in (
        ("seconds", 60, "minimum time that it was flat"),
        ("percent", 1, "maximum range and change of flat values, in percent of the greatest"),
        ("after", 0, "seconds after the first sample that do not count"),
    ):
        add(
            f"--steady-{name}",
            type=amount_argument,
            default=default,
            metavar="X",
            help=f"{text} (default: {default})",
        )
    add(
        "--steady-every",
        type=count_argument,
        default=1,
        metavar="N",
        help="end only at samples whose n is a multiple of this (default: 1)",
    )
    add("--root", type=Path, default=Path("/"), metavar="DIR", help="read DIR/sys and DIR/proc")
    arguments = parser.parse_args(argv)
    named = [*arguments.guest, *arguments.transient]
    if len(dict(named)) < len(named):
        parser.error("argument --guest: a name is given twice")
    if arguments.start > time.monotonic() + MAX_AHEAD:
        parser.error(f"argument --start: more than {MAX_AHEAD} s ahead")
    return arguments


def open_reader(root, guests, transient=()):
    """Open all sampled files; return their reader and the pid of ksmd."""
    proc = root / "proc"
    ksmd = find_thread(proc, "ksmd")
    host = {
        "ksm": ksm_files(root),
        "cpu": one_file(proc / "stat", cpu_layout),
        "meminfo": one_file(proc / "meminfo", partial(lines_layout, wanted=MEMINFO)),
        "ksmd": ksmd_files(proc, ksmd),
        "vmstat": one_file(proc / "vmstat", partial(lines_layout, wanted=VMSTAT)),
    }
    awaited = Transient(proc, transient) if transient else None
    reader = Reader(host, {name: guest_files(proc, name, pid) for name, pid in guests}, awaited)
    for name in reader.gone:
        raise Unusable(f"guest {name}: process {dict(guests)[name]} has ended")
    return reader, ksmd


def take_precedence():
    """Give the sampler real-time priority, so that nothing delays or interrupts a sample.

    Without it, guests that keep all CPUs busy do. Real-time priority needs root or CAP_SYS_NICE;
    sampling works without it, and counts missed samples.
    """
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))


def sample(arguments):
    """Execute the command line; return the exit status."""
    reader, ksmd = open_reader(arguments.root, arguments.guest, arguments.transient)
    output = Output(arguments.output)
    steady = steady_rule(arguments)
    period = round(arguments.period * 1e9)
    work = Work(arguments.root)
    sampler = Sampler(
        reader, output, period, arguments.samples, steady, arguments.steady_every, work
    )
    for number in SIGNALS:
        signal.signal(number, sampler.stop)
    take_precedence()
    # slow with many CPUs and much memory, so before the first deadline
    before = {**strain(arguments.root), **pss_anon(arguments)}
    wall, monotonic, cpu = time.time_ns(), time.monotonic_ns(), time.process_time_ns()
    start = max(monotonic, round(arguments.start * 1e9))
    header = header_line(arguments, wall + start - monotonic, start, ksmd, before)
    try:
        output.write(header)
        missed = sampler.run(start)
        cpu = time.process_time_ns() - cpu
        done = work.done()
        more = {"converged": sampler.reason == "steady"} if steady else {}
        more |= {**pss_anon(arguments), **others(arguments, reader.transient), **done}
        end = end_line(arguments, sampler, missed, cpu, **more)
        output.write(end)
    except OSError as error:
        complain(f"cannot write to {output.name} after {sampler.taken} samples: {error.strerror}")
        return EXIT_WRITE_FAILED
    if arguments.output != "-":
        print(end.decode(), end="")
    if sampler.reason in ("finished", "steady"):
        return 0
    return 128 + signal.Signals[sampler.reason]


def steady_rule(arguments):
    """Return the rule for ending early, or None."""
    if arguments.steady_scans is None:
        return None
    skips = read_text(arguments.root / "sys/kernel/mm/ksm/smart_scan") == "1"
    return Steady(
        max(arguments.steady_scans, SKIPPING if skips else 0),
        arguments.steady_seconds,
        arguments.steady_percent,
        arguments.steady_after,
    )


def header_line(arguments, wall, start, ksmd, before):
    """Return the first line; times are in ns, of the first deadline."""
    kernel = arguments.root / "proc/sys/kernel"
    return json_line(
        kind="header",
        format=FORMAT,
        wall=wall / 1e9,
        monotonic=start / 1e9,
        period=arguments.period,
        samples=arguments.samples,
        page_size=os.sysconf("SC_PAGE_SIZE"),
        clock_ticks=os.sysconf("SC_CLK_TCK"),
        boot_id=read_text(kernel / "random/boot_id"),
        kernel=read_text(kernel / "osrelease"),
        ksmd_pid=ksmd,
        guests=dict(arguments.guest),
        **before,
    )


def end_line(arguments, sampler, missed, cpu, **more):
    """Return the last line; `cpu` is the CPU time of the sampler from header to end, in ns."""
    ended, transient = sampler.reader.gone, dict(arguments.transient)
    if transient:
        left = {name: at for name, at in ended.items() if name in transient}
        more |= {"arrived": sampler.reader.transient.arrived, "left": left}
    return json_line(
        kind="end",
        samples=sampler.taken,
        missed=missed,
        cpu_seconds=cpu / 1e9,
        reason=sampler.reason,
        gone={name: at for name, at in ended.items() if name not in transient},
        **strain(arguments.root),
        **more,
    )


class Work:
    """What the host does because of KSM, or of anything else, outside of ksmd."""

    def __init__(self, root):
        self.proc, self.before = root / "proc", {}
        self.khugepaged = find_thread(self.proc, "khugepaged")

    def begin(self):
        """Read the counters at the first sample: what went before is not the run's."""
        self.before = self.read()

    def done(self):
        """Return how much each counter has risen since then."""
        after = self.read()
        rises = {name: after[name] - value for name, value in self.before.items() if name in after}
        return {"work": rises} if len(rises) > 1 else {}

    def read(self):
        """Return the counters that the kernel has, and when they were read."""
        found = {"seconds": time.monotonic()}
        for line in read_text(self.proc / "interrupts", "").splitlines():
            _, _, rest = line.partition(":")
            for name, words in INTERRUPTS.items():
                if rest.endswith(words):
                    counts = rest[: -len(words)].split()
                    found[name] = found.get(name, 0) + sum(map(int, counts))
        faults = re.search(r"^pgfault (\d+)$", read_text(self.proc / "vmstat", ""), re.MULTILINE)
        if faults:
            found["page_faults"] = int(faults[1])
        run = read_text(self.proc / f"{self.khugepaged}/schedstat", "").split()
        if run:
            found["khugepaged_cpu_ns"] = int(run[0])
        return found


def strain(root):
    """Return memory pressure and throttling since boot. Read only at start and end of a run."""
    found = {}
    for line in (read_text(root / "proc/pressure/memory") or "").splitlines():
        kind, total = line.partition(" ")[0], line.rpartition("total=")[2]
        if kind in ("some", "full") and total.isdecimal():
            found[f"memory_{kind}_us"] = int(total)
    cpus = root.glob("sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/core_throttle_count")
    counts = [text for text in map(read_text, cpus) if text and text.isdecimal()]
    if counts:
        found["throttled"] = sum(map(int, counts))
    return {"strain": found} if found else {}


def pss_anon(arguments):
    """Return the anonymous memory of the guests' processes; the kernel reads their page tables."""
    found = {}
    for name, pid in arguments.guest:
        text = read_text(arguments.root / f"proc/{pid}/smaps_rollup", "")
        value = re.search(r"^Pss_Anon: +(\d+) kB$", text, re.MULTILINE)
        found[name] = int(value[1]) if value else None
    return {"pss_anon": found}


def others(arguments, transient=None):
    """Return how many pages of other processes ksmd tracks, and the processes with the most.

    Descendants of those that are sampled belong to them, such as the servers of a database's
    clients.
    """
    own, found = {pid for _, pid in arguments.guest}, []
    own |= set(transient.pids.values() if transient else ())
    for path in arguments.root.glob("proc/[0-9]*/ksm_stat"):
        items = re.search(r"^ksm_rmap_items (\d+)$", read_text(path, ""), re.MULTILINE)
        pid = int(path.parent.name)
        if items and int(items[1]) and not own & {pid, *ancestors(arguments.root, pid)}:
            found.append((int(items[1]), pid, read_text(path.parent / "comm", "")))
    most = [
        {"pid": pid, "name": name, "ksm_rmap_items": items}
        for items, pid, name in sorted(found, reverse=True)[:NAMED]
    ]
    return {"others": {"ksm_rmap_items": sum(items for items, _, _ in found), "processes": most}}


def ancestors(root, pid):
    """Yield the process ids of the parent of a process, of its parent, and so on."""
    while pid > 1:
        fields = read_text(root / f"proc/{pid}/stat", "").rpartition(")")[2].split()
        pid = int(fields[1]) if len(fields) > 1 and fields[1].isdigit() else 0
        yield pid


def complain(message):
    """Report an error to the user."""
    print(f"ksm_sampler.py: error: {message}", file=sys.stderr)


def main(argv=None):
    """Run the command line; return the exit status."""
    arguments = parse_arguments(argv)
    try:
        return sample(arguments)
    except Unusable as error:
        complain(error)
        return EXIT_UNUSABLE


if __name__ == "__main__":
    sys.exit(main())
