#!/usr/bin/env python3
"""Two equal arrays in mergeable memory, one of which is changed later: KSM without guests.

One file, standard library only, Python 3.9 or newer, so that it can be copied to any host.
"""

import sys

if sys.version_info < (3, 9):  # before anything that an older Python does not have
    sys.exit("ksm_arrays.py needs Python 3.9 or newer; this is {}.{}".format(*sys.version_info))

import argparse
import contextlib
import json
import math
import mmap
import os
import signal
import time
from array import array
from pathlib import Path

SIGNALS = (signal.SIGTERM, signal.SIGINT)
EXIT_UNUSABLE = 2
INT = array("i").itemsize
PIECE = 2**16  # numbers per write, so that the program needs little memory besides the arrays

HELP = """\
Array 1 is written at the start and array 2 some time later, both with array[i] = i. Then array 1 is
changed:
  single         array1[0] = -1
  half-same      array1[i] = -1 in its first half
  half-distinct  array1[i] = -i in its first half
The process has no other mergeable memory.

With 1,000,000 numbers, 4 KiB pages, max_page_sharing 256 and smart_scan 0, an array has 977 pages.
When the arrays are merged, pages_shared / pages_sharing / pages_unshared are 977 / 977 / 0. At the
end they are 977 / 976 / 1 (single), 979 / 974 / 1 (half-same), 977 / 488 / 489 (half-distinct).

--output gets a line of JSON after each of these events, with wall (CLOCK_REALTIME) and monotonic,
in seconds:
  {"event": "array written", "array": 1, "pages": 977, ...}
  {"event": "array changed", "change": "single", ...}

exit status:
  0    --seconds are over
  2    wrong arguments, or the memory is not available
  130  ended by SIGINT    143  ended by SIGTERM
"""


class UnusableError(Exception):
    """The program cannot do what was requested; the message is for the user."""


class Stopped(Exception):  # noqa: N818 - not an error: it ends any wait
    """A signal has requested the end. The argument is its number."""


def mergeable(ints):
    """Allocate mergeable memory for so many numbers.

    It has no transparent huge pages, because khugepaged may copy merged pages into a new huge page,
    which unmerges them. (ksmd itself counts small pages and splits huge pages.)
    """
    try:
        memory = mmap.mmap(-1, ints * INT, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError) as error:
        raise UnusableError(f"no memory for {ints} numbers: {error}") from error
    with contextlib.suppress(OSError):  # the kernel has no huge pages
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    try:
        memory.madvise(mmap.MADV_MERGEABLE)
    except OSError as error:
        raise UnusableError(
            f"memory cannot be made mergeable: {error.strerror};"
            " the kernel must be built with CONFIG_KSM"
        ) from error
    return memory


def fill(memory, count, values):
    """Write the first numbers of an array. `values` returns those from one index to another."""
    for start in range(0, count, PIECE):
        stop = min(start + PIECE, count)
        memory[start * INT : stop * INT] = array("i", values(start, stop)).tobytes()


CHANGES = {
    "single": lambda ints: (1, lambda start, stop: [-1]),
    "half-same": lambda ints: (ints // 2, lambda start, stop: [-1] * (stop - start)),
    "half-distinct": lambda ints: (ints // 2, lambda start, stop: range(-start, -stop, -1)),
}


def work(asked, output):
    """Write array 1, write array 2, change array 1, wait; each at its time of CLOCK_MONOTONIC."""
    start = max(time.monotonic(), asked.start)
    arrays = []
    for number, at in ((1, start), (2, start + asked.second)):
        sleep_until(at)
        arrays.append(mergeable(asked.ints))
        fill(arrays[-1], asked.ints, range)
        pages = -(-asked.ints * INT // mmap.PAGESIZE)
        tell(output, event="array written", array=number, pages=pages)
    sleep_until(start + asked.changed)
    fill(arrays[0], *CHANGES[asked.change](asked.ints))
    tell(output, event="array changed", change=asked.change)
    sleep_until(start + asked.seconds)


def sleep_until(at):
    """Sleep until an absolute time."""
    time.sleep(max(0, at - time.monotonic()))


def stop(number, _frame):
    """Handle a signal: end at once, and ignore further signals."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise Stopped(number)


def tell(output, **event):
    """Write an event with its time to a descriptor."""
    event.update(wall=time.time(), monotonic=time.monotonic())
    try:
        os.write(output, json.dumps(event).encode() + b"\n")
    except OSError as error:
        raise UnusableError(f"cannot write an event: {error.strerror}") from error


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
    kept = partial
    try:
        try:
            partial.write_text(f"{os.getpid()}\n")
            partial.replace(path)
            kept = path
        except OSError as error:
            raise UnusableError(f"cannot write {path}: {error.strerror}") from error
        yield
    finally:
        with contextlib.suppress(OSError):
            kept.unlink()


def seconds_argument(text):
    """Parse a number of seconds."""
    seconds = float(text)
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds")
    return seconds


def ints_argument(text):
    """Parse the size of an array: at least 2, so that one half can be changed."""
    ints = int(text)
    if not 2 <= ints < 2**31:
        raise argparse.ArgumentTypeError(f"{text} is not from 2 to {2**31 - 1}")
    return ints


def parse_arguments(argv):
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="ksm_arrays.py",
        description=__doc__.partition("\n")[0],
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--change", required=True, choices=CHANGES, help="how array 1 is changed")
    add(
        "--ints",
        type=ints_argument,
        default=1_000_000,
        metavar="N",
        help="32-bit numbers in each array (default: 1000000)",
    )
    for name, default, text in (
        ("second", 10, "when array 2 is written"),
        ("changed", 20, "when array 1 is changed"),
        ("seconds", 60, "when the program ends"),
    ):
        add(
            f"--{name}",
            type=seconds_argument,
            default=default,
            metavar="S",
            help=f"{text}, in seconds from the start (default: {default})",
        )
    add(
        "--start",
        type=seconds_argument,
        default=0,
        metavar="S",
        help="start time, in seconds of CLOCK_MONOTONIC; a past time means now (default)",
    )
    add("--output", default="-", metavar="FILE", help="new file for events; - is stdout (default)")
    add("--pid-file", type=Path, metavar="FILE", help="holds the process id while it runs")
    arguments = parser.parse_args(argv)
    if not arguments.second <= arguments.changed <= arguments.seconds:
        parser.error("the order is --second, --changed, --seconds")
    return arguments


def main(argv=None):
    """Run the command line; return the exit status."""
    arguments = parse_arguments(argv)
    try:
        for number in SIGNALS:
            signal.signal(number, stop)
        with opened(arguments.output) as output, pid_file(arguments.pid_file):
            work(arguments, output)
    except Stopped as stopped:
        return 128 + stopped.args[0]
    except UnusableError as error:
        print(f"ksm_arrays.py: error: {error}", file=sys.stderr)
        return EXIT_UNUSABLE
    return 0


if __name__ == "__main__":
    sys.exit(main())
