#!/usr/bin/env python3
"""Measure how long writes to merged pages take, beside writes to pages that are not merged.

One file, standard library only, Python 3.9 or newer, so that it can be copied to any host.
"""

import sys

if sys.version_info < (3, 9):  # before anything that an older Python does not have
    sys.exit(
        "ksm_write_probe.py needs Python 3.9 or newer; this is {}.{}".format(*sys.version_info)
    )

import argparse
import contextlib
import ctypes
import gc
import json
import math
import mmap
import os
import random
import signal
import struct
import time
from pathlib import Path

SIGNALS = (signal.SIGTERM, signal.SIGINT)
EXIT_UNUSABLE = 2
FORMAT = 1
PAGE = mmap.PAGESIZE
MIB = 2**20
COPIES = 16  # pages with the same content; the kernel allows 256 at one place (max_page_sharing)
NO_HUGE_PAGES = 41  # PR_SET_THP_DISABLE
PRESENT, FRAME = 1 << 63, (1 << 55) - 1  # bits of /proc/PID/pagemap
KSM = 1 << 21  # KPF_KSM, a bit of /proc/kpageflags
BEHIND = 0.1  # seconds, after which writes that were missed are left out
CLOCKS = 10_000  # how often the clock is read to learn what that costs
KINDS = ("merged", "unmerged", "plain", "moved")
LISTS = (*KINDS, "late")
KSM_FILES = Path("/sys/kernel/mm/ksm")

HELP = """\
The process has two regions of the same size: one that KSM may merge, and one that it may not. At
random times (exponential intervals) it writes a byte to a random page of each, in random order, and
measures each write. The byte is the one that is there already: the kernel copies a merged page at
any write, and ksmd can merge the copy again, since its content is the same.

A write is one of four kinds, by the frame of the page before and after it:
  merged    the page was a page of KSM, and has a frame of its own now: the write broke it
  unmerged  the page may be merged, but was not
  plain     the page may not be merged
  moved     neither: ksmd changed the page between the look and the write

--output gets lines of JSON: a header with what reading the clock costs; a line a second with the
times of all its writes in nanoseconds, how late the process woke up for each pair, and the state of
KSM after them; events; and an end line.

exit status:
  0    --seconds are over
  2    wrong arguments, or the host does not allow the measurement
  130  ended by SIGINT    143  ended by SIGTERM
"""


class UnusableError(Exception):
    """The program cannot do what was requested; the message is for the user."""


class Stopped(Exception):  # noqa: N818 - not an error: it ends any wait
    """A signal has requested the end. The argument is its number."""


# --- memory ---------------------------------------------------------------------------------------


def content(page, equal):
    """Return the content of a page: shared by COPIES pages, or its own. Never full of zeros."""
    number = page // COPIES if equal else page
    return (number + 1).to_bytes(8, "little") * (PAGE // 8)


class Region:
    """Pages of this process that are in memory, none of them in a huge page."""

    def __init__(self, pages, equal, mergeable):
        try:
            self.memory = mmap.mmap(-1, pages * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except (OSError, OverflowError) as error:
            raise UnusableError(f"no memory for {pages} pages: {error}") from error
        for page in range(pages):
            self.memory[page * PAGE : (page + 1) * PAGE] = content(page, equal)
        self.first = ctypes.addressof(ctypes.c_char.from_buffer(self.memory)) // PAGE
        if mergeable:
            try:
                self.memory.madvise(mmap.MADV_MERGEABLE)
            except OSError as error:
                raise UnusableError(
                    f"memory cannot be made mergeable: {error.strerror};"
                    " the kernel must be built with CONFIG_KSM"
                ) from error


class Frames:
    """Which frame a page of this process has, and whether it is a page of KSM."""

    def __init__(self):
        try:
            self.pagemap = os.open("/proc/self/pagemap", os.O_RDONLY)
            self.flags = os.open("/proc/kpageflags", os.O_RDONLY)
        except OSError as error:
            raise UnusableError(
                f"{error.filename} cannot be read: {error.strerror}; only root may"
            ) from error

    def of(self, page):
        """Return the frame of a page of memory; 0 if it is not in memory, or not known."""
        (entry,) = struct.unpack("Q", os.pread(self.pagemap, 8, page * 8))
        return entry & FRAME if entry & PRESENT else 0

    def is_ksm(self, frame):
        """Return whether a frame belongs to KSM."""
        found = os.pread(self.flags, 8, frame * 8)
        return len(found) == 8 and bool(struct.unpack("Q", found)[0] & KSM)


def kind_of(mergeable, was_ksm, before, after):
    """Name the kind of a write by the frame of its page before and after it."""
    if before == 0 or was_ksm == (before == after):
        return "moved"
    if was_ksm:
        return "merged"
    return "unmerged" if mergeable else "plain"


# --- measurement ----------------------------------------------------------------------------------


def timed_write(memory, at, value, clock=time.perf_counter_ns):
    """Write one byte; return how long that took, in ns, with one reading of the clock."""
    clock()  # so that its code and data are in the caches
    before = clock()
    memory[at] = value
    return clock() - before


def clock_ns():
    """Measure a write to a page that was just written: the clock, and the store by itself."""
    memory = bytearray(PAGE)
    times = sorted(timed_write(memory, 0, 1) for _ in range(CLOCKS))
    return {
        "n": CLOCKS,
        "p50_ns": times[CLOCKS // 2],
        "p99_ns": times[CLOCKS * 99 // 100],
        "p999_ns": times[CLOCKS * 999 // 1000],
    }


class Probe:
    """The two regions, and the writes to them."""

    def __init__(self, asked):
        pages = asked.mib * MIB // PAGE
        self.pages, self.equal = pages, asked.equal
        self.random = random.Random(asked.seed)
        self.frames = Frames()
        self.regions = {True: Region(pages, asked.equal, True), False: Region(pages, False, False)}
        if not self.frames.of(self.regions[False].first):
            raise UnusableError("/proc/self/pagemap has no frames; only root may read them")

    def write(self, mergeable, page):
        """Write to a page of a region; return the kind of the write, and its time in ns."""
        region, at = self.regions[mergeable], page * PAGE
        virtual = region.first + page
        before = self.frames.of(virtual)
        was_ksm = self.frames.is_ksm(before)
        # known without a read, which would bring the page into the cache
        value = content(page, mergeable and self.equal)[0]
        took = timed_write(region.memory, at, value)
        return kind_of(mergeable, was_ksm, before, self.frames.of(virtual)), took

    def both(self):
        """Write to a random page of each region, in random order; yield kinds and times."""
        order = [True, False]
        self.random.shuffle(order)
        for mergeable in order:
            yield self.write(mergeable, self.random.randrange(self.pages))


def ksm_state():
    """Return what KSM does now: its knob `run`, `full_scans`, and merged pages of this process."""
    merged = None
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/ksm_stat").read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == "ksm_merging_pages":
                merged = int(value)
    return {
        "run": int((KSM_FILES / "run").read_text()),
        "full_scans": int((KSM_FILES / "full_scans").read_text()),
        "merging_pages": merged,
    }


def work(asked, output):
    """Write at random times until the end, and record a line of writes each second."""
    probe = Probe(asked)
    with pid_file(asked.pid_file):  # its existence says that the memory is written
        gc.disable()
        start = max(time.monotonic(), asked.start)
        sleep_until(start)
        header = {"format": FORMAT, "pages": probe.pages, "equal": asked.equal, "rate": asked.rate}
        tell(output, kind="header", **header, clock=clock_ns(), ksm=ksm_state())
        batch, second, at = {name: [] for name in LISTS}, start + 1, start
        stop_at = start + asked.stop_ksmd if asked.stop_ksmd else math.inf
        while at < start + asked.seconds:
            at += probe.random.expovariate(asked.rate)
            sleep_until(at)
            now = time.monotonic()
            # ksmd on the same CPU, for one, can make the process wait
            late = max(0, round((now - at) * 1e9))
            if now >= min(second, stop_at):
                tell(output, kind="writes", **batch, ksm=ksm_state())
                batch, second = {name: [] for name in LISTS}, now + 1
            if now - at > BEHIND:
                at = now  # the rate cannot be kept; times stay those that were asked for
            if now >= stop_at:
                stop_ksmd(output)
                stop_at = math.inf
            batch["late"].append(late)
            for kind, took in probe.both():
                batch[kind].append(took)
        tell(output, kind="writes", **batch, ksm=ksm_state())
        tell(output, kind="end")


def stop_ksmd(output):
    """Stop ksmd: what is merged stays merged. Whoever set the knobs restores them."""
    try:
        (KSM_FILES / "run").write_text("0")
    except OSError as error:
        raise UnusableError(f"ksmd cannot be stopped: {error.strerror}") from error
    tell(output, event="ksmd stopped")


# --- processors -----------------------------------------------------------------------------------


def ksmd():
    """Return the process id of ksmd."""
    for path in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            if path.read_text() == "ksmd\n" and not (path.parent / "cmdline").read_bytes():
                return int(path.parent.name)
    raise UnusableError("there is no ksmd: the kernel must be built with CONFIG_KSM")


@contextlib.contextmanager
def placed(where, output, kept):
    """Keep this process on one CPU, and ksmd on the same one or off it; restore ksmd's CPUs.

    The file `kept` has ksmd's CPUs as found, so that --restore can set them if this process cannot.
    """
    if where == "any":
        yield
        return
    cpus = sorted(os.sched_getaffinity(0))
    own = cpus[-1]  # CPU 0 often has more interrupts
    others = set(cpus) - {own}
    if where == "other" and not others:
        raise UnusableError("ksmd cannot be kept on another CPU: this host has only one")
    os.sched_setaffinity(0, {own})
    thread = ksmd()
    found = os.sched_getaffinity(thread)
    if kept:
        kept.write_text(json.dumps({"ksmd": thread, "cpus": sorted(found)}))
    try:
        try:
            os.sched_setaffinity(thread, {own} if where == "same" else others)
        except OSError as error:
            raise UnusableError(f"the CPUs of ksmd cannot be set: {error.strerror}") from error
        now = sorted(os.sched_getaffinity(thread))
        tell(output, event="processors set", probe=[own], ksmd=now, ksmd_found=sorted(found))
        yield
    finally:
        os.sched_setaffinity(thread, found)
        if kept:
            kept.unlink()


def restore(kept):
    """Set ksmd's CPUs as the file says, if it is there: the probe was killed."""
    if not kept.exists():
        return
    found = json.loads(kept.read_text())
    os.sched_setaffinity(ksmd(), found["cpus"])
    kept.unlink()
    print("restored")  # for changed_when


# --- input and output -----------------------------------------------------------------------------


def sleep_until(at):
    """Sleep until an absolute time of CLOCK_MONOTONIC."""
    time.sleep(max(0, at - time.monotonic()))


def stop(number, _frame):
    """Handle a signal: end at once, and ignore further signals."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise Stopped(number)


def tell(output, **line):
    """Write a line with its time to a descriptor."""
    line.update(wall=time.time(), monotonic=time.monotonic())
    try:
        os.write(output, json.dumps(line, separators=(",", ":")).encode() + b"\n")
    except OSError as error:
        raise UnusableError(f"cannot write a line: {error.strerror}") from error


@contextlib.contextmanager
def opened(name):
    """Create a file that only its owner can read; - is standard output."""
    if name == "-":
        yield sys.stdout.fileno()
        return
    try:
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise UnusableError(f"cannot make {name}: {error.strerror}") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def pid_file(path):
    """Keep the process id in a file, which is created atomically."""
    if path is None:
        yield
        return
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        try:
            partial.write_text(f"{os.getpid()}\n")
            partial.replace(path)
        except OSError as error:
            raise UnusableError(f"cannot write {path}: {error.strerror}") from error
        yield
    finally:
        for each in (partial, path):
            each.unlink(missing_ok=True)


def number_argument(least, most, kind=float):
    """Return a parser of numbers in a range."""

    def parse(text):
        value = kind(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text} is not from {least} to {most}")
        return value

    return parse


def parse_arguments(argv):
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="ksm_write_probe.py",
        description=__doc__.partition("\n")[0],
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add, seconds = parser.add_argument, number_argument(0, math.inf)
    size = number_argument(1, 2**20, int)
    add("--mib", type=size, default=64, metavar="N", help="size of each region, in MiB")
    add("--equal", action="store_true", help=f"{COPIES} mergeable pages have the same content")
    rate = number_argument(1, 10_000)
    add("--rate", type=rate, default=300, metavar="R", help="writes to each region in a second")
    add(
        "--ksmd",
        choices=("any", "same", "other"),
        default="any",
        help="keep the probe on one CPU, and ksmd on the same one or off it",
    )
    add("--stop-ksmd", type=seconds, default=0, metavar="S", help="set run=0 after S seconds")
    add("--seed", type=int, default=0, metavar="N", help="of the random times and pages")
    add("--start", type=seconds, default=0, metavar="T", help="begin at T of CLOCK_MONOTONIC")
    add("--seconds", type=seconds, default=60, metavar="S", help="how long it writes")
    add("--output", default="-", metavar="FILE", help="new file for lines; - is stdout (default)")
    add("--pid-file", type=Path, metavar="FILE", help="holds the process id once all is written")
    add("--kept", type=Path, metavar="FILE", help="holds ksmd's CPUs as found while they are set")
    add("--restore", type=Path, metavar="FILE", help="only set ksmd's CPUs as this file says")
    return parser.parse_args(argv)


def main(argv=None):
    """Run the command line; return the exit status."""
    asked = parse_arguments(argv)
    try:
        for number in SIGNALS:
            signal.signal(number, stop)
        if asked.restore:
            restore(asked.restore)
            return 0
        if ctypes.CDLL(None).prctl(NO_HUGE_PAGES, 1, 0, 0, 0):
            raise UnusableError("huge pages cannot be turned off")
        with opened(asked.output) as output, placed(asked.ksmd, output, asked.kept):
            work(asked, output)
    except Stopped as stopped:
        return 128 + stopped.args[0]
    except UnusableError as error:
        print(f"ksm_write_probe.py: error: {error}", file=sys.stderr)
        return EXIT_UNUSABLE
    return 0


if __name__ == "__main__":
    sys.exit(main())
