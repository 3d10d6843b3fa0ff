#!/usr/bin/env python3
"""Find out which equal pages ksmd merges, by the scans between their first appearances.

One file, standard library only, Python 3.9 or newer, so that it can be copied to any host.
"""

import sys

if sys.version_info < (3, 9):  # before anything that an older Python does not have
    sys.exit("ksm_phase_lock.py needs Python 3.9 or newer; this is {}.{}".format(*sys.version_info))

import argparse
import contextlib
import ctypes
import json
import math
import mmap
import os
import signal
import struct
import time
from pathlib import Path

SIGNALS = (signal.SIGTERM, signal.SIGINT)
EXIT_UNUSABLE = 2
PAGE = mmap.PAGESIZE
KSM = Path("/sys/kernel/mm/ksm")
NO_HUGE_PAGES = 41  # PR_SET_THP_DISABLE
PRESENT, FRAME = 1 << 63, (1 << 55) - 1  # of an entry of pagemap
POLL_SECONDS = 0.001
OWN = 2**30  # no other program of the project writes such contents
HOLD_SECONDS = 1.0
CURED_SCANS = 4  # with smart_scan=0, after which equal pages are merged

HELP = """\
Of each distance, there are two sets of pages. The first set is written before ksmd runs. The second
gets the same contents when ksmd has scanned the first so many times as the distance says. --scans
scans after the last of them, the program counts the pages that share a frame with their equal. Then
it sets smart_scan=0 for four scans and counts again. Whoever has set the knobs restores them.

--output gets a line of JSON for each distance, with wall (CLOCK_REALTIME) and monotonic (seconds):
  {"event": "distance measured", "distance": 22, "pages": 512, "scans": 60, "merged": 0,
   "merged_without_skips": 512, "certain": true}
scans is how many followed before `merged` was counted. certain says that the second set was written
while ksmd slept between two scans.

exit status:
  0    all distances were measured
  2    wrong arguments, or the host does not allow the measurement, or --seconds were too few
  130  ended by SIGINT    143  ended by SIGTERM
"""


class UnusableError(Exception):
    """The program cannot do what was requested; the message is for the user."""


class Stopped(Exception):  # noqa: N818 - not an error: it ends any wait
    """A signal has requested the end. The argument is its number."""


# --- ksmd -----------------------------------------------------------------------------------------


def knob(name):
    """Return a knob or a counter of KSM."""
    try:
        return int((KSM / name).read_text())
    except (OSError, ValueError) as error:
        raise UnusableError(f"{KSM / name} cannot be read: {error}") from error


class Scans:
    """The scans of ksmd since the program has begun, which it waits for."""

    def __init__(self, until):
        self.until, self.begin = until, knob("full_scans")

    def wait(self, count):
        """Wait until so many scans have ended; return when this was not yet so, just before."""
        before = time.monotonic()
        done = self.done()
        while done < count:
            before = time.monotonic()
            if before > self.until:
                raise UnusableError(f"ksmd has made {done} of {count} scans: the run is too short")
            time.sleep(POLL_SECONDS)
            done = self.done()
        return before

    def done(self):
        """Return how many scans have ended."""
        return knob("full_scans") - self.begin


# --- memory ---------------------------------------------------------------------------------------


class Pages:
    """Mergeable pages of this process, which it has not written yet."""

    def __init__(self, count):
        self.count = count
        try:
            self.memory = mmap.mmap(-1, count * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            self.memory.madvise(mmap.MADV_MERGEABLE)
        except (OSError, OverflowError) as error:
            raise UnusableError(f"no mergeable memory for {count} pages: {error}") from error
        self.first = ctypes.addressof(ctypes.c_char.from_buffer(self.memory)) // PAGE

    def write(self, distance):
        """Write contents that no page of another distance has."""
        for page in range(self.count):
            content = struct.pack("<II", OWN + distance, page + 1) * (PAGE // 8)
            self.memory[page * PAGE : (page + 1) * PAGE] = content

    def frames(self):
        """Return the frame of each page."""
        try:
            with Path("/proc/self/pagemap").open("rb", buffering=0) as file:
                data = os.pread(file.fileno(), 8 * self.count, 8 * self.first)
        except OSError as error:
            raise UnusableError(f"/proc/self/pagemap cannot be read: {error.strerror}") from error
        found = [each & FRAME if each & PRESENT else 0 for (each,) in struct.iter_unpack("Q", data)]
        if not any(found):
            raise UnusableError("/proc/self/pagemap has no frames; only root may read them")
        return found


def merged(pair):
    """Return how many pages of two sets share a frame, each with its equal."""
    first, second = (pages.frames() for pages in pair)
    return sum(one == other != 0 for one, other in zip(first, second))


# --- measurement ----------------------------------------------------------------------------------


def work(asked, output):
    """Write pages at their times, and count those that were merged."""
    pairs = {each: (Pages(asked.pages), Pages(asked.pages)) for each in sorted(asked.distances)}
    for distance, (first, _) in pairs.items():
        first.write(distance)
    with pid_file(asked.pid_file):  # its existence says that the memory is written
        scans = Scans(max(time.monotonic(), asked.start) + asked.seconds)
        certain = {distance: write_second(distance, pairs, scans) for distance in pairs}
        last = max(pairs)
        scans.wait(last + asked.scans)
        before = {distance: (merged(pair), scans.done()) for distance, pair in pairs.items()}
        set_smart_scan(0, output)
        scans.wait(scans.done() + 1 + CURED_SCANS)  # the first of them has begun before
        for distance, pair in pairs.items():
            tell(
                output,
                event="distance measured",
                distance=distance,
                pages=asked.pages,
                scans=before[distance][1] - distance,
                merged=before[distance][0],
                merged_without_skips=merged(pair),
                certain=certain[distance],
            )
        # the last sample is taken while the memory is there
        time.sleep(max(0, scans.until + HOLD_SECONDS - time.monotonic()))


def write_second(distance, pairs, scans):
    """Write the second set at its time; return whether ksmd slept all the while."""
    before = scans.wait(distance)
    pairs[distance][1].write(distance)
    took = time.monotonic() - before
    return scans.done() == distance and took < knob("sleep_millisecs") / 1000


def set_smart_scan(value, output):
    """Set the knob. Whoever set the knobs restores them."""
    try:
        (KSM / "smart_scan").write_text(str(value))
    except OSError as error:
        raise UnusableError(f"smart_scan cannot be set: {error.strerror}") from error
    tell(output, event="smart_scan set", value=value)


# --- input and output -----------------------------------------------------------------------------


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
        prog="ksm_phase_lock.py",
        description=__doc__.partition("\n")[0],
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add, seconds = parser.add_argument, number_argument(0, math.inf)
    distance = number_argument(1, 1000, int)
    add("--distances", type=distance, nargs="+", required=True, metavar="N", help="in scans")
    pages = number_argument(1, 2**16, int)
    add("--pages", type=pages, default=512, metavar="N", help="of each set (default: 512)")
    scans = number_argument(1, 10**6, int)
    add("--scans", type=scans, default=60, metavar="N", help="that follow (default: 60)")
    add("--start", type=seconds, default=0, metavar="T", help="begin at T of CLOCK_MONOTONIC")
    add("--seconds", type=seconds, default=60, metavar="S", help="at most, from then on")
    add("--output", default="-", metavar="FILE", help="new file for lines; - is stdout (default)")
    add("--pid-file", type=Path, metavar="FILE", help="holds the process id once all is written")
    return parser.parse_args(argv)


def main(argv=None):
    """Run the command line; return the exit status."""
    asked = parse_arguments(argv)
    try:
        for number in SIGNALS:
            signal.signal(number, stop)
        if ctypes.CDLL(None).prctl(NO_HUGE_PAGES, 1, 0, 0, 0):
            raise UnusableError("huge pages cannot be turned off")
        with opened(asked.output) as output:
            work(asked, output)
    except Stopped as stopped:
        return 128 + stopped.args[0]
    except UnusableError as error:
        print(f"ksm_phase_lock.py: error: {error}", file=sys.stderr)
        return EXIT_UNUSABLE
    return 0


if __name__ == "__main__":
    sys.exit(main())
