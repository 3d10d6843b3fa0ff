#!/usr/bin/env python3
"""Hold mergeable memory whose contents are known, so that what KSM frees can be calculated.

One file, standard library only, Python 3.9 or newer, so that it can be copied to any host.
"""

import sys

if sys.version_info < (3, 9):  # before anything that an older Python does not have
    sys.exit("ksm_memory.py needs Python 3.9 or newer; this is {}.{}".format(*sys.version_info))

import argparse
import contextlib
import ctypes
import json
import math
import mmap
import os
import re
import signal
import time
from pathlib import Path

SIGNALS = (signal.SIGTERM, signal.SIGINT)
EXIT_UNUSABLE = 2
PAGE = mmap.PAGESIZE
MIB = 2**20
PATTERN = bytes(range(1, 256)) * (PAGE // 255 + 1)
NO_HUGE_PAGES = 41  # PR_SET_THP_DISABLE: khugepaged neither makes nor restores huge pages

HELP = """\
A page is full of zeros, or has one pattern that many pages have (equal), or contents of its own
(unique). Each kind is spread evenly over the memory, so that each huge page has some of each.

With --huge-pages, the memory is advised to be in huge pages; without, the process has none. The
process has no other mergeable memory.

--output gets a line of JSON with wall (CLOCK_REALTIME) and monotonic, in seconds, when the memory
is written:
  {"event": "memory written", "pages": 16384, "zero_pages": 8192, "equal_pages": 2048,
   "unique_pages": 6144, "huge_kib": 65536, ...}

exit status:
  0    --seconds are over
  2    wrong arguments, or the memory is not available
  130  ended by SIGINT    143  ended by SIGTERM
"""


class UnusableError(Exception):
    """The program cannot do what was requested; the message is for the user."""


class Stopped(Exception):  # noqa: N818 - not an error: it ends any wait
    """A signal has requested the end. The argument is its number."""


def kinds(pages, zero, equal):
    """Yield z, e or u for each page; `zero` and `equal` are parts of all pages, spread evenly."""
    zeros = equals = 0
    among_others = equal / (1 - zero) if zero < 1 else 0
    for page in range(1, pages + 1):
        if int(page * zero) > zeros:
            zeros += 1
            yield "z"
        elif int((page - zeros) * among_others) > equals:
            equals += 1
            yield "e"
        else:
            yield "u"


def content(kind, page):
    """Return the content of a page."""
    if kind == "z":
        return bytes(PAGE)
    if kind == "e":
        return PATTERN[:PAGE]
    return (page + 1).to_bytes(8, "little") * (PAGE // 8)


def mergeable(size, huge):
    """Allocate mergeable memory, in huge pages or in none; return it and where it begins."""
    align = huge_page_size() if huge else PAGE
    if not huge and ctypes.CDLL(None, use_errno=True).prctl(NO_HUGE_PAGES, 1, 0, 0, 0):
        raise UnusableError(f"huge pages cannot be turned off: {os.strerror(ctypes.get_errno())}")
    try:
        memory = mmap.mmap(-1, size + align, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError) as error:
        raise UnusableError(f"no memory for {size // MIB} MiB: {error}") from error
    begin = -ctypes.addressof(ctypes.c_char.from_buffer(memory)) % align
    try:
        if huge:
            memory.madvise(mmap.MADV_HUGEPAGE)
        memory.madvise(mmap.MADV_MERGEABLE)
    except OSError as error:
        raise UnusableError(
            f"memory cannot be made mergeable: {error.strerror};"
            " the kernel must be built with CONFIG_KSM"
        ) from error
    return memory, begin


def huge_page_size():
    """Return the size of a transparent huge page, in bytes."""
    try:
        text = Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size").read_text()
    except OSError as error:
        raise UnusableError("the kernel has no transparent huge pages") from error
    return int(text)


def huge_kib():
    """Return how much of this process is in huge pages, in KiB; None if the kernel does not say."""
    text = Path("/proc/self/smaps_rollup").read_text()
    found = re.search(r"^AnonHugePages: +(\d+) kB", text, re.MULTILINE)
    return int(found[1]) if found else None


def work(asked):
    """Write the memory, and hold it until the end."""
    start = time.monotonic()
    memory, begin = mergeable(asked.mib * MIB, asked.huge_pages)
    count = dict.fromkeys("zeu", 0)
    written = kinds(asked.mib * MIB // PAGE, asked.zero_percent / 100, asked.equal_percent / 100)
    for page, kind in enumerate(written):
        at = begin + page * PAGE
        memory[at : at + PAGE] = content(kind, page)
        count[kind] += 1
    tell(
        asked.output,
        event="memory written",
        pages=sum(count.values()),
        zero_pages=count["z"],
        equal_pages=count["e"],
        unique_pages=count["u"],
        huge_kib=huge_kib(),
    )
    with pid_file(asked.pid_file):  # its existence says that the memory is written
        # an absolute end, so that the time for writing is part of it
        time.sleep(max(0, start + asked.seconds - time.monotonic()))


def stop(number, _frame):
    """Handle a signal: end at once, and ignore further signals."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise Stopped(number)


def tell(path, **event):
    """Write an event with its time to a new file that only its owner can read, or to stdout."""
    line = json.dumps({**event, "wall": time.time(), "monotonic": time.monotonic()}) + "\n"
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with os.fdopen(1 if path == "-" else os.open(path, flags, 0o600), "w") as file:
            file.write(line)
    except OSError as error:
        raise UnusableError(f"cannot write to {path}: {error.strerror}") from error


@contextlib.contextmanager
def pid_file(path):
    """Keep the process id in a file, which is created atomically."""
    if path is None:
        yield
        return
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(f"{os.getpid()}\n")
        partial.replace(path)
        yield
    except OSError as error:
        raise UnusableError(f"cannot write {path}: {error.strerror}") from error
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
        prog="ksm_memory.py",
        description=__doc__.partition("\n")[0],
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    percent = number_argument(0, 100)
    add(
        "--mib",
        type=number_argument(1, 2**20, int),
        default=64,
        metavar="N",
        help="size of the memory, in MiB (default: 64)",
    )
    for kind, default in (("zero", 50), ("equal", 12.5)):
        add(
            f"--{kind}-percent",
            type=percent,
            default=default,
            metavar="P",
            help=f"part of its pages that are {kind} (default: {default})",
        )
    add("--huge-pages", action="store_true", help="ask for huge pages")
    add(
        "--seconds",
        type=number_argument(0, math.inf),
        default=60,
        metavar="S",
        help="how long the memory is held (default: 60)",
    )
    add("--output", default="-", metavar="FILE", help="new file for events; - is stdout (default)")
    add("--pid-file", type=Path, metavar="FILE", help="holds the process id once all is written")
    arguments = parser.parse_args(argv)
    if arguments.zero_percent + arguments.equal_percent > 100:
        parser.error("--zero-percent and --equal-percent are more than 100 together")
    return arguments


def main(argv=None):
    """Run the command line; return the exit status."""
    arguments = parse_arguments(argv)
    try:
        for number in SIGNALS:
            signal.signal(number, stop)
        work(arguments)
    except Stopped as stopped:
        return 128 + stopped.args[0]
    except UnusableError as error:
        print(f"ksm_memory.py: error: {error}", file=sys.stderr)
        return EXIT_UNUSABLE
    return 0


if __name__ == "__main__":
    sys.exit(main())
