#!/usr/bin/env python3
"""Read what is in the memory that KSM may merge, at some moments. Writes nothing but its output.

Standard library only, Python 3.9 or newer. It reads as ksm_census.py does, which it imports, and
finds out what there is with ksm_facts.py.
"""

import sys

if sys.version_info < (3, 9):  # before anything that an older Python does not have
    sys.exit("ksm_assess.py needs Python 3.9 or newer; this is {}.{}".format(*sys.version_info))

import argparse
import base64
import contextlib
import gzip
import json
import os
import re
import resource
import select
import statistics
import time
import zlib
from array import array
from pathlib import Path

import ksm_census as census
import ksm_facts as facts_of

FORMAT = 1
PAGE = census.PAGE
MOMENTS = 4  # the second soon after the first, to see pages that change quickly
SOON = 1.0  # seconds from the first to the second, or twice what reading takes
BYTES = 56  # of memory for each page of the address space that is read, at two moments
LEAST = 16 * 2**20  # anonymous bytes of a process that is read as if its memory could be merged
OWN = 64 * 2**20  # bytes that it takes besides, for pieces, text and workers
PIECE = 2**20  # pages that are packed together
KEPT = 6  # bytes of a hash; among 16 million contents, half a pair is taken for equal
EXIT_FAILED, EXIT_UNUSABLE = 1, 2
# Mappings that KSM never takes, by VmFlags: shared, hugetlbfs, devices, and those that fork drops
NEVER = {"sh", "ms", "ht", "pf", "io", "mm", "de"}
# A mapping of which nothing is in memory or in swap, such as address space that is only reserved
EMPTY = re.compile(r"^Rss: +0 kB$[^\0]*^Swap: +0 kB$", re.MULTILINE)
TRIAL = 8192  # pages, to measure what it costs to read and hash one
DEFAULT_HZ = 250

HELP = """\
output: lines of JSON
  kind=host    facts (of ksm_facts.py), page_size, processes (names and pids), hz (ticks of the
               kernel a second), anonymous (bytes of all processes), zero (the content of zeros)
  kind=moment  n, monotonic, read_seconds, page_seconds (CPU time to read and hash a page), ksm,
               complaints, guests (swapped and fork_shared pages, ksm_stat)
  kind=pages   of the last moment: process, start, pages, data: kinds and contents. A content is 6
               bytes of a hash with a key that nobody has. `same`: they are XORed with those before
  kind=end     facts again, for the second reading of the counters; cpu_seconds of all

exit status: 0 all was read; 1 the kernel refused a resource; 2 it cannot be read, and why
"""


class AsIf(census.Process):
    """A process all of whose private memory counts as mergeable."""

    def mappings(self):
        """List private mappings that KSM could take; see Process."""
        text = re.findall(
            r"^([0-9a-f]+)-([0-9a-f]+) ([^\0]*?)^VmFlags: (.*)$", self.text("smaps"), re.MULTILINE
        )
        found = [
            (int(start, 16), (int(end, 16) - int(start, 16)) // PAGE)
            for start, end, values, flags in text
            if not NEVER & set(flags.split()) and "mw" in flags.split() and not EMPTY.search(values)
        ]
        return found, 0, 0


def candidates(found, as_if, wanted):
    """Return (name, pid) of each process to read: those that offer memory, or could."""
    ours = ancestors()
    every = [
        (each["name"], each["pid"], each["memory"]["mergeable"]["mappings"])
        for each in (*found["domains"], *found["processes"])
    ]
    if as_if:
        known = {pid for _, pid, _ in every}
        every += [(name, pid, 0) for name, pid in large() if pid not in known | ours]
    names = [name for name, *_ in every]
    named = [
        (name if names.count(name) == 1 else f"{name}-{pid}", pid, offered)
        for name, pid, offered in every
        if not wanted or {name, str(pid), f"{name}-{pid}"} & set(wanted)
    ]
    return [(name, pid) for name, pid, offered in named if offered or as_if]


def ancestors():
    """Return the ids of this process and of those that have started it."""
    pid, found = os.getpid(), set()
    while pid > 1:
        found.add(pid)
        pid = int((facts_of.stat_fields(Path(f"/proc/{pid}")) or [0, 0])[1])
    return found


def large():
    """Yield name and pid of each process with much anonymous memory."""
    for path in Path("/proc").glob("[0-9]*/status"):
        pid = int(path.parent.name)
        if anonymous(pid) >= LEAST:
            yield facts_of.read(path.with_name("comm"), "?"), pid


def anonymous(pid):
    """Return the anonymous bytes of a process that are in memory; 0 if it has ended."""
    text = facts_of.read(Path(f"/proc/{pid}/status")) or ""
    found = re.search(r"^RssAnon:\s*(\d+ kB)", text, re.MULTILINE)
    return facts_of.kib(found.group(1)) if found else 0


def check(found, chosen, as_if, wanted):
    """Raise Unusable if nothing can be read here, before anything takes long."""
    if not found["readings"][0]["ksm"]:
        raise census.Unusable(
            "this kernel has no KSM: there is no /sys/kernel/mm/ksm (CONFIG_KSM is "
            f"{found['host']['config_ksm'] or 'not known'})"
        )
    if not frames_shown():
        raise census.Unusable(
            "the frames of pages cannot be read (/proc/PID/pagemap, /proc/kpageflags): this needs "
            "root with CAP_SYS_ADMIN, on the host itself and not in a container"
        )
    if not chosen:
        which = f" named {', '.join(wanted)}" if wanted else ""
        more = "" if as_if else "; --as-if-mergeable reads those that do not"
        raise census.Unusable(f"no guest or process{which} offers memory to KSM{more}")


def check_size(processes, ceiling):
    """Raise Unusable if to read processes takes more memory than the ceiling, in MiB."""
    pages = sum(pages for each in processes for _, pages in each.mappings()[0])
    need = pages * BYTES
    if need > ceiling * 2**20:
        raise census.Unusable(
            f"to read {pages * PAGE >> 20} MiB takes about {need >> 20} MiB, and the ceiling is "
            f"{ceiling:g} MiB: choose fewer with --guest, or raise --memory"
        )


def keep_below(ceiling):
    """Let the kernel refuse more memory than the ceiling, in MiB, should the estimate be wrong."""
    now = int(Path("/proc/self/statm").read_text().split()[0]) * PAGE
    most = now + OWN + int(ceiling * 2**20)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def opened(chosen, kind):
    """Open processes; those that have ended meanwhile are left out."""
    found = []
    for name, pid in chosen:
        with contextlib.suppress(census.Unusable):
            found.append(kind(name, pid))
    return found or [kind(*chosen[0])]  # which says why not


def frames_shown():
    """Whether the kernel shows frames of pages, and their flags."""
    try:
        with Path("/proc/self/pagemap").open("rb", 0) as file, Path("/proc/kpageflags").open("rb"):
            entry = os.pread(file.fileno(), 8, 8 * (id(file) // PAGE))  # where the object is
    except OSError:
        return False
    return int.from_bytes(entry, sys.byteorder) & census.FRAME != 0


def anonymous_of_all():
    """Return AnonPages of the host, in bytes."""
    found = re.search(r"^AnonPages:\s*(\d+ kB)", facts_of.read(Path("/proc/meminfo")), re.MULTILINE)
    return facts_of.kib(found.group(1))


def page_seconds():
    """Return the CPU seconds to read and hash a page, as it is mostly."""
    memory = os.urandom(TRIAL * PAGE)
    address = id(memory)  # CPython's: the bytes follow the object's head
    taken = []
    with Path("/proc/self/mem").open("rb", 0) as mem:
        for first in range(0, TRIAL - census.PIECE, census.PIECE):
            began = time.thread_time()
            os.preadv(mem.fileno(), [census.BUFFER], address + first * PAGE)
            sum(map(hash, map(census.BUFFERED, census.PLACES)))
            taken.append((time.thread_time() - began) / census.PIECE)
    return statistics.median(taken)


def ticks():
    """Return the ticks of the kernel a second, if its configuration can be read."""
    release, text = os.uname().release, ""
    try:
        with gzip.open("/proc/config.gz", "rt", errors="replace") as file:
            text = file.read()
    except OSError:
        text = facts_of.read(Path(f"/boot/config-{release}")) or ""
    found = re.search(r"^CONFIG_HZ=(\d+)$", text, re.MULTILINE)
    return int(found.group(1)) if found else DEFAULT_HZ


def paced(work, share):
    """Return a function that does the same, and then sleeps, to use no more of a CPU."""

    def slowly(*arguments):
        began, used = time.monotonic(), time.thread_time()
        work(*arguments)
        used = time.thread_time() - used
        time.sleep(max(0.0, used / share - (time.monotonic() - began)))

    return slowly


class Reading:
    """Reads processes at moments, and tells what it has read; see HELP."""

    def __init__(self, processes, output):
        self.processes, self.output = processes, output
        self.flags = os.open("/proc/kpageflags", os.O_RDONLY | os.O_CLOEXEC)
        self.before = {}

    def tell(self, **line):
        """Write a line."""
        self.output.write(json.dumps(line, separators=(",", ":")) + "\n")
        self.output.flush()

    def take(self, n):
        """Read all once, and tell it; return how long reading took."""
        ksm, began = census.read_ksm(), time.monotonic()
        guests, gone, _ = census.read_all(self.processes, self.flags, None, True)
        took = time.monotonic() - began
        if not guests:
            raise census.Unusable("; ".join(gone.values()))
        self.tell(
            kind="moment",
            n=n,
            monotonic=began,
            read_seconds=took,
            page_seconds=page_seconds(),
            ksm=ksm,
            complaints=[f"{name}: {why}" for name, why in gone.items()],
            guests={
                each.name: {
                    "swapped": each.swapped,
                    "fork_shared": each.fork_shared,
                    "complaint": each.complaint,
                    "ksm_stat": each.stat,
                }
                for each in guests
            },
        )
        now = {}
        self.tell(kind="huge", pages=census.huge_pages(guests, self.flags))
        for guest in guests:
            for mapping in guest.mappings:
                key = (guest.name, mapping.start, mapping.pages)
                self.tell_mapping(key, mapping, self.before.get(key))
                now[key] = mapping.contents
        self.before = now
        return took

    def tell_mapping(self, key, mapping, before):
        """Tell the pages of a mapping, in pieces."""
        name, start, pages = key
        for first in range(0, pages, PIECE):
            at = slice(first, min(pages, first + PIECE))
            self.tell_piece((name, start // PAGE + first), mapping, at, before)

    def tell_piece(self, key, mapping, at, before):
        """Tell some pages of a mapping."""
        contents = mapping.contents[at].tobytes()
        if before is not None:
            contents = xor(contents, before[at].tobytes())
        self.tell(
            kind="pages",
            process=key[0],
            start=key[1],
            pages=at.stop - at.start,
            same=before is not None,
            data=[packed(mapping.kinds[at]), packed(planes(contents))],
        )


def xor(data, other):
    """Return the bytes in which two differ."""
    whole = int.from_bytes(data, "little") ^ int.from_bytes(other, "little")
    return whole.to_bytes(len(data), "little")


def planes(contents):
    """Return the bytes of all numbers that are kept, the lowest of all first."""
    numbers = array("q", contents)
    if sys.byteorder == "big":
        numbers.byteswap()
    raw = numbers.tobytes()
    return b"".join(raw[i::8] for i in range(KEPT))


def packed(data):
    """Return bytes as text."""
    return base64.b64encode(zlib.compress(data, 1)).decode()


def wait(seconds, output):
    """Sleep. Raises BrokenPipeError if nobody reads the output any more."""
    poll = select.poll()
    with contextlib.suppress(OSError):  # it is no file
        poll.register(output.fileno(), 0)  # errors are always told
    if poll.poll(max(0.0, seconds) * 1000):
        raise BrokenPipeError("nobody reads what is told")


def read(arguments, output):
    """Do all of it."""
    root = Path("/")
    found = facts_of.facts(root, 0)
    chosen = candidates(found, arguments.as_if_mergeable, arguments.guest)
    check(found, chosen, arguments.as_if_mergeable, arguments.guest)
    reading = Reading(opened(chosen, AsIf if arguments.as_if_mergeable else census.Process), output)
    check_size(reading.processes, arguments.memory)
    keep_below(arguments.memory)
    os.nice(19)
    reading.tell(
        kind="host",
        format=FORMAT,
        facts=found,
        page_size=PAGE,
        processes=[(each.name, each.pid) for each in reading.processes],
        as_if_mergeable=arguments.as_if_mergeable,
        hz=ticks(),
        anonymous=anonymous_of_all(),
        zero=census.ZERO % 2 ** (8 * KEPT),
    )
    share = arguments.cpu / 100
    census.hash_piece = paced(census.hash_piece, share / census.WORKERS)  # for hash_pieces
    reading.tell_piece = paced(reading.tell_piece, share)
    began, took = time.monotonic(), 0.0
    for n in range(MOMENTS):
        due = [0, max(SOON, 2 * took), arguments.seconds / 2, arguments.seconds][n]
        wait(began + due - time.monotonic(), output)
        took = reading.take(n)
    used = census.cpu_seconds()
    reading.tell(kind="end", reading=facts_of.reading(root, found["ksmd"]), cpu_seconds=used)


def number(low, high):
    """Return a parser of numbers in a range."""

    def parse(text):
        if not low <= float(text) <= high:
            raise argparse.ArgumentTypeError(f"{text} is not a number from {low} to {high}")
        return float(text)

    return parse


def main(argv=None, output=sys.stdout):
    """Run the command line; return the exit status."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="ksm_assess.py", description=__doc__, epilog=HELP, formatter_class=form
    )
    add = parser.add_argument
    add("--seconds", type=number(1, 86400), required=True, help="from first to last moment")
    add("--guest", action="append", default=[], metavar="NAME", help="only this one, or its pid")
    add("--as-if-mergeable", action="store_true", help="read private memory that is not offered")
    add("--memory", type=number(0.1, 2**20), default=1024, metavar="MIB", help="ceiling")
    add("--cpu", type=number(1, 200), default=50, metavar="PERCENT", help="of a CPU, to read")
    try:
        read(parser.parse_args(argv), output)
    except census.Unusable as error:
        print(f"ksm_assess.py: error: {error}", file=sys.stderr)
        return EXIT_UNUSABLE
    except (OSError, MemoryError) as error:
        why = str(error) or "more memory than --memory allows, or than there is, was needed"
        print(f"ksm_assess.py: error: {why}", file=sys.stderr)
        return EXIT_FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
