#!/usr/bin/env python3
"""Count what KSM could merge, what it has merged, and who shares with whom, page by page.

One file, standard library only, Python 3.9 or newer, so that it can be copied to any host.

How it leaves things as they are: only pages that /proc/PID/pagemap shows to be in memory are read,
so that none is faulted in, and they are read through /proc/PID/mem. process_vm_readv() would be
faster, and wrong: it pins pages, and the kernel gives a process its own copy of a merged page
before that is pinned.

How it is cheap: the flags of a thousand pages are sorted out by one bytes.translate(), own pages
are read and hashed 128 at a time, by two processes, and frames that many pages share are not read
for each of them.

What is equal: pages with the same 64-bit SipHash, under a key that each process of Python draws
anew (PYTHONHASHSEED is not heeded), so that nobody can make pages collide. With n different
contents, the odds that any two are taken for one are below n * n / 2**65: 3e-8 for a million of
them, which is 4 GiB.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import math
import mmap
import os
import re
import resource
import select
import signal
import sys
import time
import traceback
from array import array
from fractions import Fraction
from pathlib import Path

FORMAT = 1
PAGE = os.sysconf("SC_PAGE_SIZE")
ZERO = hash(bytes(PAGE))
MAX_AHEAD = 3600  # seconds to the start
STOPPING = 1  # seconds that a process may take to stop
POLL = 0.05  # seconds between looks at full_scans
SHARE = 0.1  # of the time, at most, that goes into censuses at the boundaries of scans
LONGEST = 300  # seconds that processes are stopped: what 1 TiB takes to be read
SIGNALS = (signal.SIGTERM, signal.SIGINT)
STOPS = (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
EXIT_FAILED, EXIT_UNUSABLE = 1, 2

# /proc/PID/pagemap, Documentation/admin-guide/mm/pagemap.rst
FRAME = (1 << 55) - 1
PRESENT, SWAPPED, FILE, ALONE = 0x80, 0x40, 0x20, 0x01  # of its highest byte
KPF_KSM, KPF_ZERO_PAGE = 1 << 21, 1 << 24  # /proc/kpageflags
ENTRIES = 1024  # of the pagemap, at a time
WORKERS = min(2, len(os.sched_getaffinity(0)))  # this process is one of them
PIECE = 128  # pages that are read at a time: they stay in the CPU's cache until they are hashed
# They are read into the same memory, since getting more from the kernel takes as long as reading.
BUFFER = mmap.mmap(-1, PIECE * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # of each worker
BUFFERED = memoryview(BUFFER).toreadonly().__getitem__
PLACES = [slice(at, at + PAGE) for at in range(0, PIECE * PAGE, PAGE)]
SHARED, KNOWN = b"sk"
IN_MIND = 2**16  # frames whose contents a worker keeps in mind
GAP = 4  # between frames whose flags are read together, as a system call costs as much as these

HELP = """\
examples:
  python3 ksm_census.py --process a=4242 --process b=/run/libvirt/qemu/b.pid --output -
      the census of two processes as they are now: one line on standard output
  python3 ksm_census.py --process a=4242 --output census.jsonl --seconds 60 --every 20 --end
      three within a minute, and one at its end
  kill -TERM PID
      ends it early, with the census of the end if that was asked for; kill -INT does without

Counted are the pages of anonymous memory that ksmd may merge (VmFlags mg in /proc/PID/smaps).

output: one JSON object a line; a header and an end line only if moments were asked for.
Numbers are pages unless it says otherwise; null is what cannot be known, and `complaints` says why.
  census  n, moment (now, every, scan, end)
          wall, monotonic     seconds, when it began to read (CLOCK_REALTIME, CLOCK_MONOTONIC)
          page_size           bytes
          frames_visible      whether the kernel shows frames (CAP_SYS_ADMIN); else limits alone
          read_seconds, paused_seconds (0: not paused), cpu_seconds, bytes_read
          ksm, ksm_after      the files of /sys/kernel/mm/ksm before it, and after
          present_pages       pages that are in memory; = zero + unique + duplicate
          swapped_pages       pages that are not
          unwritten_pages     pages that were read but never written, which are no one's: the
                              kernel's zero page stands for them without ksmd. In no other number
          zero_pages          full of zeros
          unique_pages        others whose contents occur once
          duplicate_pages     others whose contents occur again, in any of the processes
          distinct_contents   zeros included
          limit_pages         what perfect merging saves
            limit_zero_pages      of it, pages of zeros: all with use_zero_pages, else all but one
            limit_within_pages    other pages, were each process merged by itself
            limit_between_pages   what merging across processes adds to that
          max_page_sharing_pages  how much of the limit is out of reach as max_page_sharing is
          saved_pages         what merging saves now
            saved_zero_pages      of it, pages that KSM gave up for the kernel's zero page
            saved_ksm_pages       of it, mappings of KSM pages less KSM pages; that is again
              saved_within_pages    less the KSM pages that each process maps, by itself
              saved_between_pages   what sharing across processes adds to that
          ksm_frames          KSM pages that these processes map more than once, or share
          outside_mappings    mappings of these by processes that were not counted, or that were
                              merged while it was read
          fork_shared_pages   pages that are shared since a fork, not by KSM
          efficiency          saved_pages / limit_pages
          changed_pages, compared_pages   of those in memory at the census before, too: whose
                              contents have changed, and all
          guests              per process: pid, most of the above, own_duplicate_pages (duplicates
                              within it), ksm_pages (mappings of shared KSM pages),
                              zero_frame_pages, attributed_bytes (of what is saved: each KSM page
                              split evenly among its mappings, so that the sum is exactly
                              saved_pages), ksm_stat (as the kernel says)
          matrix              guests, and pages: in row A, column B the pages of A whose KSM page B
                              maps as well; in row A, column A those that A maps more than once

exit status:
  0    all moments have come
  1    the output could not be written any further, and its last line may be torn; or the kernel
       refused what it takes to count, such as memory
  2    wrong arguments, or nothing to count: nothing was written
  130  ended by SIGINT    143  ended by SIGTERM    (both with an end line)
"""


class Unusable(Exception):  # noqa: N818
    """What was asked for cannot be counted; the message is for the user."""


class WriteError(Exception):
    """The output cannot be written any further."""


class Stopped(Exception):  # noqa: N818
    """A signal has asked for the end."""


class GoneError(Exception):
    """A process cannot be counted; the message says why."""


# --- the pages of a process -----------------------------------------------------------------------


def kind_of(flags):
    """Classify a page by the highest byte of its entry in the pagemap: o, s, w or -."""
    if flags & PRESENT and not flags & FILE:
        return b"o" if flags & ALONE else b"s"  # own: nobody else maps it; or shared
    return b"w" if flags & SWAPPED and not flags & FILE else b"-"


KINDS = b"".join(map(kind_of, range(256)))
HIGH = slice(7, None, 8) if sys.byteorder == "little" else slice(0, None, 8)


class Process:
    """A process, and what of it ksmd may merge."""

    def __init__(self, name, pid):
        self.name, self.pid = name, pid
        self.proc = Path(f"/proc/{pid}")
        try:
            self.pidfd = os.pidfd_open(pid)
            self.mem, self.pagemap = map(self.open, ("mem", "pagemap"))
        except PermissionError:
            raise Unusable(f"process {name}: {pid} cannot be read; run as root?") from None
        except OSError as error:
            if self.proc.exists() and error.filename == str(self.proc / "pagemap"):
                raise Unusable(f"{error.filename}: the kernel has no PROC_PAGE_MONITOR") from None
            raise Unusable(f"process {name}: there is no process {pid}") from None

    def open(self, file):
        """Open one of its files in /proc for reading."""
        return os.open(self.proc / file, os.O_RDONLY | os.O_CLOEXEC)

    def alive(self):
        """Whether it has not ended; its pid may be another's when it has."""
        return not select.select([self.pidfd], [], [], 0)[0]

    def signal(self, number):
        """Send a signal, if it still lives."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    def text(self, file):
        """Text of one of its files in /proc."""
        try:
            return (self.proc / file).read_text(errors="replace")
        except OSError as error:
            raise GoneError(f"it could not be read ({error.strerror})") from None

    def mappings(self):
        """List what ksmd may merge, as (start, pages); with bytes on hugepages, and shared ones."""
        found, huge, shared = [], 0, 0
        for start, end, flags in re.findall(
            r"^([0-9a-f]+)-([0-9a-f]+) [^\0]*?^VmFlags: (.*)$", self.text("smaps"), re.MULTILINE
        ):
            first, last = int(start, 16), int(end, 16)
            if "mg" in flags.split():
                found.append((first, (last - first) // PAGE))
            elif "ht" in flags.split():
                huge += last - first
            elif "sh" in flags.split():
                shared += last - first
        return found, huge, shared

    def stat(self):
        """What the kernel itself says of it, as far as it does."""
        found = {}
        with contextlib.suppress(GoneError):
            for line in self.text("ksm_stat").splitlines():
                name, value = line.replace(":", " ").split(None, 1)
                found[name] = int(value) if re.fullmatch("-?[0-9]+", value) else value
        return found

    def entries(self, start, first, pages):
        """Entries of the pagemap for pages of the mapping that starts there; none if it is gone."""
        try:
            return os.pread(self.pagemap, 8 * pages, 8 * (start // PAGE + first))
        except OSError:
            return b""

    def read(self, address, pages):
        """Read pages into the buffer; returns how many could be."""
        try:
            return os.preadv(self.mem, [memoryview(BUFFER)[: pages * PAGE]], address) // PAGE
        except OSError:
            return 0

    def stopped(self):
        """Whether all of its threads are stopped; one that has just ended is."""
        states = set()
        for path in self.proc.glob("task/*/stat"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                states.add(path.read_text(errors="replace").rpartition(")")[2].split()[0])
        return states <= set("TtZX")


class Mapping:
    """A mapping that ksmd may merge, in memory that workers share.

    `kinds` has the kind of each page: o, s, w or - as above; k is a shared one whose frame was read
    before; 0 if nobody could tell. `contents` has the hash of each that is in memory and 0 for
    others, `frames` the frame of each shared one, 0 where the kernel hides them.
    """

    def __init__(self, process, start, pages):
        self.process, self.start, self.pages = process, start, pages
        self.kinds = mmap.mmap(-1, pages)
        self.contents, self.frames = (
            memoryview(mmap.mmap(-1, 8 * pages)).cast("q") for _ in range(2)
        )


class Pages:
    """The pages of a process as they were read; `ksm` has the frames of those on KSM pages."""

    def __init__(self, process):
        self.process, self.name, self.pid = process, process.name, process.pid
        mappings, huge, shared = process.mappings()
        mergeable = sum(pages for _, pages in mappings) * PAGE
        # A guest whose memory is of such a kind has some that may be merged all the same: its ROMs
        self.complaint = None
        if huge + shared > mergeable:
            self.complaint = (
                f"{huge >> 20} MiB of its memory are on hugepages and {shared >> 20} MiB are "
                f"shared, which KSM does not merge; {mergeable >> 20} MiB may be merged"
            )
        if not mappings:
            raise GoneError(self.complaint or "it has no memory that KSM may merge (no VmFlags mg)")
        self.mappings = [Mapping(process, *mapping) for mapping in mappings]
        self.swapped = self.bytes_read = self.zero_frame = self.fork_shared = 0
        self.stat, self.hidden, self.ksm = {}, False, []

    @property
    def contents(self):
        """Contents of the pages of each mapping, by its start."""
        return {mapping.start: mapping.contents for mapping in self.mappings}


def read_all(processes, flags, counts):
    """Read all processes: the pages of each, why others are missing, mappings of KSM pages."""
    read, counted, gone = [], [], {}
    for process in processes:
        with left_out(process, gone):
            read.append(Pages(process))
    if not hash_own([mapping for pages in read for mapping in pages.mappings]):
        why = "what read it has failed, or was killed; it is left out"
        return [], {process.name: why for process in processes}, 0
    for pages in read:
        with left_out(pages.process, gone):
            shared = shared_frames(pages)
            pages.hidden = flags is None or 0 in shared
            pages.ksm = split([shared], FRAME_PART)
            counted.append(pages)
    mapped = 0 if any(pages.hidden for pages in counted) else look_up(counted, flags, counts)
    return counted, gone, mapped


@contextlib.contextmanager
def left_out(process, gone):
    """Note why a process cannot be counted, if it cannot."""
    try:
        yield
    except GoneError as error:
        gone[process.name] = f"{error}; it is left out"


def hash_own(mappings):
    """Hash all pages that are nobody else's, all workers together; whether that could be done."""
    pieces = [(each, first) for each in mappings for first in range(0, each.pages, ENTRIES)]
    # What is left to do is what is left of a file: those who have it open together read on in it.
    left = os.memfd_create("pieces")
    try:
        os.write(left, array("I", range(len(pieces))))
        os.lseek(left, 0, os.SEEK_SET)
        children = [fork(hash_pieces, pieces, left) for _ in range(WORKERS - 1)]
        hash_pieces(pieces, left)
        statuses = [os.waitpid(child, 0)[1] for child in children]
        return not any(statuses)
    finally:
        os.close(left)


def fork(work, *arguments):
    """Have a child do work for as long as this process lives; returns its pid."""
    parent = os.getpid()
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        work(*arguments, lambda: os.getppid() == parent)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def hash_pieces(pieces, left, wanted=lambda: True):
    """Hash pieces until none is left, or it is no longer wanted."""
    known = {}
    while wanted() and (number := os.read(left, 4)):
        hash_piece(*pieces[int.from_bytes(number, sys.byteorder)], known)
        if len(known) > IN_MIND:
            known.clear()


def hash_piece(mapping, first, known):
    """Hash the pages of a piece; `known` has contents of shared frames."""
    raw = mapping.process.entries(mapping.start, first, min(ENTRIES, mapping.pages - first))
    kinds = raw[HIGH].translate(KINDS)
    shared = b"s" in kinds
    if shared:
        kinds = copy_known(mapping, first, kinds, frames_of(raw), known)
    mapping.kinds[first : first + len(kinds)] = kinds
    for run in re.finditer(b"[os]+", kinds):
        hash_run(mapping, first + run.start(), first + run.end())
    if shared:
        keep_contents(mapping, first, kinds, known)


def frames_of(raw):
    """Frames of entries of the pagemap."""
    return array("q", [entry & FRAME for entry in memoryview(raw).cast("Q")])


def copy_known(mapping, first, kinds, frames, known):
    """Copy the contents of pages whose frame is known; returns the kinds, with k for these."""
    kinds = bytearray(kinds)
    mapping.frames[first : first + len(frames)] = memoryview(frames)
    for at, (kind, frame) in enumerate(zip(kinds, frames)):  # noqa: B905 - Python 3.9
        if kind == SHARED and frame in known:
            kinds[at] = KNOWN
            mapping.contents[first + at] = known[frame]
    return bytes(kinds)


def keep_contents(mapping, first, kinds, known):
    """Keep in mind what shared frames hold, if the pages are in them still."""
    again = frames_of(mapping.process.entries(mapping.start, first, len(kinds)))
    for at, (kind, frame) in enumerate(zip(kinds, again), first):  # noqa: B905
        if kind != SHARED:
            continue
        if frame != mapping.frames[at]:  # it was written to meanwhile, and got a frame of its own
            mapping.kinds[at : at + 1] = b"o" if mapping.contents[at] else b"-"
        elif frame:
            known[frame] = mapping.contents[at]


def hash_run(mapping, begin, end):
    """Hash pages that are in memory, from one to another."""
    while begin < end:
        wanted = min(PIECE, end - begin)
        whole = mapping.process.read(mapping.start + begin * PAGE, wanted)
        hashes = array("q", map(hash, map(BUFFERED, PLACES[:whole])))
        mapping.contents[begin : begin + whole] = memoryview(hashes)
        begin += whole
        if whole < wanted:  # one has gone meanwhile, or the hardware has lost it
            mapping.kinds[begin : begin + 1] = b"-"
            mapping.contents[begin] = 0
            begin += 1


def shared_frames(pages):
    """Frames of all shared pages; raises GoneError if the process could not be read."""
    shared = array("q")
    for mapping in pages.mappings:
        kinds = mapping.kinds[:]
        if b"\0" in kinds:
            raise GoneError("it has ended, or has become another program, while it was counted")
        pages.swapped += kinds.count(b"w")
        pages.bytes_read += PAGE * (kinds.count(b"o") + kinds.count(b"s"))
        for run in re.finditer(b"[sk]+", kinds):
            shared.frombytes(mapping.frames[slice(*run.span())].tobytes())
    pages.stat = pages.process.stat()
    if not pages.process.alive():
        raise GoneError("it has ended while it was read")
    return shared


def look_up(every, flags, counts):
    """Leave in `ksm` those frames that are KSM pages; returns how many mappings these have."""
    mapped = 0
    for part in range(PARTS):
        frames = sorted(set().union(*(pages.ksm[part] for pages in every)))
        flagged = list(zip(frames, numbers_at(flags, frames)))  # noqa: B905
        zero = {frame for frame, flag in flagged if flag & KPF_ZERO_PAGE}
        ksm = [frame for frame, flag in flagged if flag & KPF_KSM]
        mapped += sum(numbers_at(counts, ksm)) if counts is not None else 0
        among = set(ksm).__contains__
        for pages in every:
            shared = pages.ksm[part]
            pages.ksm[part] = array("q", filter(among, shared))
            zeros = sum(map(zero.__contains__, shared))
            pages.zero_frame += zeros
            pages.fork_shared += len(shared) - len(pages.ksm[part]) - zeros
    return mapped


def numbers_at(fd, indexes):
    """Yield 64-bit numbers of a file, at ascending indexes; those that are near in one go."""
    near = []
    for index in indexes:
        if near and (index - near[-1] > GAP or index - near[0] >= ENTRIES):
            yield from numbers_near(fd, near)
            near = []
        near.append(index)
    if near:
        yield from numbers_near(fd, near)


def numbers_near(fd, indexes):
    """List the numbers at indexes; reads all from the first to the last."""
    first, last = indexes[0], indexes[-1]
    raw = array("Q", os.pread(fd, 8 * (last - first + 1), 8 * first))
    return [raw[index - first] for index in indexes]


# --- counting -------------------------------------------------------------------------------------

PARTS = 16  # pages are counted a part at a time, as counting takes much memory a page
FRAME_PART = 12  # the bit from which on a frame's number tells its part, so that many lie close by


def split(arrays, shift=0):
    """Sort hashes, or frames, into parts such that equal ones are in the same; without zeros."""
    parts = [array("q") for _ in range(PARTS)]
    add = [part.append for part in parts]
    for numbers in arrays:
        for number in numbers:
            if number:
                add[number >> shift & (PARTS - 1)](number)
    return parts


def count_contents(guests, largest):
    """Count equal contents within each guest and among all, those that are not zero.

    `guests` has the parts of each; `largest` is how many pages one KSM page can stand for, None if
    there is no bound. Returns the counts of all, and a list of those of each.
    """
    every = collections.Counter()
    each = [collections.Counter() for _ in guests]
    for parts in zip(*guests):  # noqa: B905
        counted = [collections.Counter(part) for part in parts]
        total = collections.Counter()
        for own, count in zip(counted, each):  # noqa: B905
            count["zero"] += own.pop(ZERO, 0)
            count["pages"] += sum(own.values())
            count["distinct"] += len(own)
            count["own_duplicate"] += sum(n for n in own.values() if n > 1)
            total.update(own)
        for own, count in zip(counted, each):  # noqa: B905
            count["duplicate"] += sum(n for content, n in own.items() if total[content] > 1)
        every["distinct"] += len(total)
        if largest:
            every["split"] += sum((n - 1) // largest for n in total.values() if n > largest)
    return every, each


def count_limits(every, each, zero, saved, ksm):
    """What perfect merging would save, and what of it the knobs leave out of reach.

    There are `zero` pages of zeros, of which KSM gave up `saved` for the kernel's zero page.
    """
    own_zero = zero - saved
    given_up = ksm.get("use_zero_pages", 0) == 1
    distinct = sum(count["distinct"] for count in each)
    limits = {
        "limit_zero_pages": zero - (own_zero > 0 and not given_up),
        "limit_within_pages": sum(count["pages"] for count in each) - distinct,
        "limit_between_pages": distinct - every["distinct"],
    }
    largest = ksm.get("max_page_sharing")
    more = (own_zero - 1) // largest if largest and own_zero > 0 and not given_up else 0
    return {
        "distinct_contents": every["distinct"] + (zero > 0),
        "limit_pages": sum(limits.values()),
        **limits,
        "max_page_sharing_pages": every["split"] + more if largest else None,
    }


def count_shares(guests):
    """Who shares KSM pages with whom, and what that saves.

    `guests` has for each the frames of its mappings of KSM pages, in parts. Returns counts of all,
    and for each guest its row of the matrix and its share of the savings in pages, as a Fraction.
    """
    every, numbers = collections.Counter(), range(len(guests))
    sharers, among = ([collections.Counter() for _ in guests] for _ in range(2))
    rows = [[0 for _ in guests] for _ in guests]
    for parts in zip(*guests):  # noqa: B905
        counted = list(map(collections.Counter, parts))
        inside, who = collections.Counter(), collections.Counter()
        for number in numbers:
            inside.update(counted[number])
            who.update(dict.fromkeys(counted[number], 1 << number))
        every["mappings"] += sum(map(len, parts))
        every["distinct"] += sum(map(len, counted))
        every["frames"] += len(inside)
        for number in numbers:
            sharers[number].update(map(who.__getitem__, parts[number]))
            among[number].update(map(inside.__getitem__, parts[number]))
            rows[number][number] += sum(n for n in counted[number].values() if n > 1)
    for a in numbers:
        for b in {*numbers} - {a}:
            rows[a][b] = sum(n for who, n in sharers[a].items() if who >> b & 1)
    shares = [sum((Fraction(n * (m - 1), m) for m, n in own.items()), Fraction(0)) for own in among]
    saved = {
        "saved_ksm_pages": every["mappings"] - every["frames"],
        "saved_within_pages": every["mappings"] - every["distinct"],
        "saved_between_pages": every["distinct"] - every["frames"],
        "ksm_frames": every["frames"],
    }
    return saved, rows, shares


def whole_bytes(shares):
    """Round shares, whose sum is whole, to bytes such that their sum is kept."""
    exact = [share * PAGE for share in shares]
    given = [math.floor(share) for share in exact]
    order = sorted(range(len(exact)), key=lambda i: given[i] - exact[i])
    for i in order[: int(sum(exact)) - sum(given)]:
        given[i] += 1
    return given


def count_changes(before, now):
    """Pages whose contents differ, and all that were in memory both times."""
    changed = compared = 0
    for start, contents in now.items():
        for old, new in zip(before.get(start, ()), contents):  # noqa: B905
            if old and new:
                compared += 1
                changed += old != new
    return changed, compared


# --- a census -------------------------------------------------------------------------------------


class Census:
    """Takes censuses of processes, one after the other; `before` has the pages of the last."""

    def __init__(self, processes, pause, keep):
        self.processes, self.pause, self.keep = processes, pause, keep
        self.complaints = []
        self.flags, self.counts = map(self.open, ("/proc/kpageflags", "/proc/kpagecount"))
        self.nodes = len(list(Path("/sys/devices/system/node").glob("node[0-9]*")))
        self.before, self.taken = {}, 0

    def open(self, path):
        """Open a file of the kernel's, or say why not."""
        try:
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            self.complaints.append(f"{path} cannot be read ({error.strerror})")
            return None

    def take(self, moment):
        """Take one; returns what its line says."""
        cpu, complaints = cpu_seconds(), list(self.complaints)
        with paused(self.processes if self.pause else (), complaints) as pause:
            ksm, wall, began = read_ksm(), time.time(), time.monotonic()
            guests, gone, mapped = read_all(self.processes, self.flags, self.counts)
            read, ksm_after = time.monotonic() - began, read_ksm()
        line = {
            "kind": "census",
            "n": self.taken,
            "moment": moment,
            "wall": wall,
            "monotonic": began,
            "page_size": PAGE,
            "read_seconds": read,
            "paused_seconds": pause.seconds,
            "bytes_read": sum(pages.bytes_read for pages in guests),
            "ksm": ksm,
            "ksm_after": ksm_after,
            **self.counted(guests, mapped, ksm, complaints),
        }
        for process in self.processes:
            if process.name in gone:
                line["guests"][process.name] = {"pid": process.pid, "complaint": gone[process.name]}
        said = {pages.name: pages.complaint for pages in guests if pages.complaint} | gone
        line["complaints"] = complaints + [f"{name}: {why}" for name, why in said.items()]
        self.before = {pages.name: pages.contents for pages in guests} if self.keep else {}
        self.taken += 1
        return line | {"cpu_seconds": cpu_seconds() - cpu}

    def counted(self, guests, mapped, ksm, complaints):
        """Count what was read."""
        visible = bool(guests) and not any(pages.hidden for pages in guests)
        complaints += apart(ksm, self.nodes)
        if guests and not visible:
            complaints.append(
                "the kernel does not show which frames pages are in (it takes CAP_SYS_ADMIN): what "
                "is saved cannot be known, and pages that were never written count as present"
            )
        zeros = [zeros_of(pages, ksm, complaints) if visible else (None, 0) for pages in guests]
        every, each = count_contents(
            [split(pages.contents.values()) for pages in guests], ksm.get("max_page_sharing")
        )
        for count, (_, unwritten) in zip(each, zeros):  # noqa: B905
            count["zero"] -= unwritten
        totals = {
            "frames_visible": visible,
            "swapped_pages": sum(pages.swapped for pages in guests),
            "unwritten_pages": sum(unwritten for _, unwritten in zeros) if visible else None,
        }
        own = [guest_counts(pages, count) for pages, count in zip(guests, each)]  # noqa: B905
        for name in ("present", "zero", "unique", "duplicate"):
            totals[f"{name}_pages"] = sum(counts[f"{name}_pages"] for counts in own)
        saved_zero = sum(saved for saved, _ in zeros) if visible else 0
        totals |= count_limits(every, each, totals["zero_pages"], saved_zero, ksm)
        totals |= self.saved(guests, mapped, zeros, own, totals, visible)
        if forked := totals["fork_shared_pages"]:
            complaints.append(
                f"{forked} pages share frames since a fork, and not by KSM: they are in the limit"
            )
        self.compare(guests, own, totals)
        totals["guests"] = {pages.name: counts for pages, counts in zip(guests, own)}  # noqa: B905
        return totals

    def saved(self, guests, mapped, zeros, own, totals, visible):
        """Count what is saved, put each guest's part with its own counts, and return the whole."""
        if not visible:
            names = ("saved", "saved_zero", "saved_ksm", "saved_within", "saved_between")
            more = ("ksm_frames", "outside_mappings", "fork_shared_pages", "efficiency", "matrix")
            return dict.fromkeys([*(f"{name}_pages" for name in names), *more])
        shared, rows, shares = count_shares([pages.ksm for pages in guests])
        mappings = sum(len(part) for pages in guests for part in pages.ksm)
        outside = max(0, mapped - mappings) if self.counts is not None else None
        saved_zero = sum(saved for saved, _ in zeros)
        saved = shared["saved_ksm_pages"] + saved_zero
        whole = [share + zero for share, (zero, _) in zip(shares, zeros)]  # noqa: B905
        for counts, pages, given, (zero, unwritten) in zip(own, guests, whole_bytes(whole), zeros):  # noqa: B905
            counts |= {
                "ksm_pages": sum(map(len, pages.ksm)),
                "zero_frame_pages": zero,
                "unwritten_pages": unwritten,
                "fork_shared_pages": pages.fork_shared,
                "attributed_bytes": given,
            }
        return {
            "saved_pages": saved,
            "saved_zero_pages": saved_zero,
            **shared,
            "outside_mappings": outside,
            "fork_shared_pages": sum(pages.fork_shared for pages in guests),
            "efficiency": saved / totals["limit_pages"] if totals["limit_pages"] else None,
            "matrix": {"guests": [pages.name for pages in guests], "pages": rows},
        }

    def compare(self, guests, own, totals):
        """Count what has changed since the census before, if there was one."""
        changes = []
        for pages, counts in zip(guests, own):  # noqa: B905
            if pages.name in self.before:
                changes.append(count_changes(self.before[pages.name], pages.contents))
                counts["changed_pages"], counts["compared_pages"] = changes[-1]
        both = [sum(each) for each in zip(*changes)] or [None, None]  # noqa: B905
        totals["changed_pages"], totals["compared_pages"] = both


def zeros_of(pages, ksm, complaints):
    """Tell pages that KSM gave up for the kernel's zero page from those never written.

    Both are mapped to it. Since 6.6 the kernel tells how many the former are. Before, it is taken
    that use_zero_pages has been what it is now.
    """
    given_up = pages.stat.get("ksm_zero_pages")
    if given_up is None and pages.zero_frame:
        complaints.append(
            f"{pages.name}: the kernel does not tell how many of the {pages.zero_frame} pages that "
            "are its zero page were given up by KSM; taken for so are "
            + ("all" if ksm.get("use_zero_pages") == 1 else "none")
        )
        given_up = pages.zero_frame if ksm.get("use_zero_pages") == 1 else 0
    saved = min(given_up or 0, pages.zero_frame)
    return saved, pages.zero_frame - saved


def apart(ksm, nodes):
    """List what is to be said of NUMA nodes that ksmd keeps apart."""
    if ksm.get("merge_across_nodes", 1) or nodes < 2:
        return []
    return [
        f"merge_across_nodes is 0, and there are {nodes} NUMA nodes: equal pages on different "
        "nodes are in the limit, and will not be merged"
    ]


def guest_counts(pages, count):
    """What is said of one process, as far as it follows from its contents."""
    return {
        "pid": pages.pid,
        "present_pages": count["zero"] + count["pages"],
        "swapped_pages": pages.swapped,
        "zero_pages": count["zero"],
        "unique_pages": count["pages"] - count["duplicate"],
        "duplicate_pages": count["duplicate"],
        "own_duplicate_pages": count["own_duplicate"],
        **dict.fromkeys(("ksm_pages", "zero_frame_pages", "unwritten_pages", "fork_shared_pages")),
        **dict.fromkeys(("attributed_bytes", "changed_pages", "compared_pages")),
        "ksm_stat": pages.stat,
        "complaint": pages.complaint,
    }


def cpu_seconds():
    """CPU time of this process and of its workers that have ended."""
    used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def read_ksm():
    """Read the files of /sys/kernel/mm/ksm."""
    found = {}
    for path in sorted(Path("/sys/kernel/mm/ksm").glob("*")):
        with contextlib.suppress(OSError):
            text = path.read_text().strip()
            found[path.name] = int(text) if re.fullmatch("-?[0-9]+", text) else text
    return found


# --- stopping processes ---------------------------------------------------------------------------


class Pause:
    """How long processes were stopped."""

    seconds = 0.0


@contextlib.contextmanager
def paused(processes, complaints):
    """Stop processes; they go on afterwards, even if this program is killed meanwhile.

    Those that somebody else has stopped stay so. A child of this program lets the others go on when
    the pipe between the two breaks, or after LONGEST. Meanwhile, Ctrl-Z does nothing.
    """
    pause = Pause()
    running = [process for process in processes if process.alive() and not process.stopped()]
    if not running:
        yield pause
        return
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        let_go_on_when_broken(reader, writer, running)
    os.close(reader)
    began = time.monotonic()
    handlers = {number: signal.signal(number, signal.SIG_IGN) for number in STOPS}
    try:
        for process in running:
            process.signal(signal.SIGSTOP)
        for process in running:
            if not wait_for(process.stopped, STOPPING):
                complaints.append(f"{process.name}: it did not stop within {STOPPING} s")
        yield pause
    finally:
        for process in running:
            process.signal(signal.SIGCONT)
        pause.seconds = time.monotonic() - began
        if pause.seconds > LONGEST:
            complaints.append(f"processes went on after {LONGEST} s, before all was read")
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.close(writer)
        os.waitpid(child, 0)


def let_go_on_when_broken(reader, writer, processes):
    """Do the child's work, in a session of its own, whatever becomes of the parent."""
    try:
        os.setsid()
        for number in (*SIGNALS, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        os.close(writer)
        select.select([reader], [], [], LONGEST)
        for process in processes:
            process.signal(signal.SIGCONT)
    finally:
        os._exit(0)


def wait_for(what, seconds):
    """Whether something is so, at the latest after some seconds."""
    deadline = time.monotonic() + seconds
    while not what():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True


# --- moments --------------------------------------------------------------------------------------


class Moments:
    """When a census is due; all times are CLOCK_MONOTONIC, in seconds."""

    def __init__(self, start, seconds, every, at_scan_boundary, at_end):
        self.start, self.end = start, start + seconds
        self.every, self.at_scan_boundary, self.at_end = every, at_scan_boundary, at_end
        self.reason, self.asleep, self.missed = "finished", False, 0

    def stop(self, number, _frame):
        """Handle a signal: end a sleep at once, but no census."""
        self.reason = signal.Signals(number).name
        if self.asleep:
            self.asleep = False
            raise Stopped

    def __iter__(self):
        """Yield the moments, each when it has come."""
        with contextlib.suppress(Stopped):
            self.sleep_until(self.start)
            yield from self.before_the_end()
        if self.at_end and self.reason != "SIGINT":
            yield "end"

    def before_the_end(self):
        """Yield the moments until the end; those that come while a census is taken are missed."""
        due = self.start + self.every if self.every else math.inf
        scans, earliest = full_scans(), self.start
        while True:
            now = time.monotonic()
            if due <= now and (due < self.end or not self.at_end):
                yield "every"
                passed = max(1, math.ceil((time.monotonic() - due) / self.every))
                left = (self.end - due) / self.every  # the end itself has a moment of its own
                self.missed += min(passed, math.ceil(left) if self.at_end else int(left) + 1) - 1
                due += self.every * passed
            if now >= self.end:
                return
            if self.at_scan_boundary and now >= earliest and (found := full_scans()) != scans:
                scans = found
                yield "scan"
                earliest = time.monotonic() + (time.monotonic() - now) * (1 / SHARE - 1)
            again = now + POLL if self.at_scan_boundary else math.inf
            self.sleep_until(min(due, again, self.end))

    def sleep_until(self, deadline):
        """Sleep; raise Stopped if a signal comes, or came."""
        self.asleep = True
        if self.reason != "finished":
            self.asleep = False
            raise Stopped
        time.sleep(max(0, deadline - time.monotonic()))
        self.asleep = False


def full_scans():
    """How often ksmd has been through all memory; None if the kernel does not say."""
    try:
        return int(Path("/sys/kernel/mm/ksm/full_scans").read_text())
    except (OSError, ValueError):
        return None


# --- the command line -----------------------------------------------------------------------------


class Output:
    """A new file, or standard output, that gets whole lines."""

    def __init__(self, path):
        self.name = path
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self.fd = 1 if path == "-" else os.open(path, flags, 0o600)
        except FileExistsError:
            raise Unusable(f"{path} exists already, and is never overwritten") from None
        except OSError as error:
            raise Unusable(f"cannot create {path}: {error.strerror}") from None

    def write(self, **members):
        """Write a line of JSON."""
        line = json.dumps(members, separators=(",", ":")).encode() + b"\n"
        try:
            while line:
                line = line[os.write(self.fd, line) :]
        except OSError as error:
            raise WriteError(f"cannot write to {self.name}: {error.strerror}") from error


def process_argument(text):
    """Name and pid of NAME=PID or NAME=PIDFILE."""
    name, _, value = text.partition("=")
    if not name or not value:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PID or NAME=PIDFILE")
    if not value.isdecimal():
        try:
            pid = Path(value).read_text(errors="replace").strip()
        except OSError as error:
            fault = f"the pid file {value} cannot be read ({error.strerror})"
            raise argparse.ArgumentTypeError(f"process {name}: {fault}") from None
        if not pid.isdecimal():
            fault = f"the pid file {value} holds {pid[:40]!r}, not a pid"
            raise argparse.ArgumentTypeError(f"process {name}: {fault}")
        value = pid
    return name, int(value)


def seconds_argument(text):
    """Give a number of 0 or more."""
    seconds = float(text)
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds, 0 or more")
    return seconds


def parse_arguments(argv):
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="ksm_census.py",
        description=__doc__.partition("\n")[0],
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--process",
        type=process_argument,
        action="append",
        required=True,
        metavar="NAME=PID|PIDFILE",
        help="process to count, by pid or by the file that holds it; may be repeated",
    )
    add("--output", required=True, metavar="FILE", help="new file to write, or - for stdout")
    add("--pause", action="store_true", help="stop the processes while they are read")
    add(
        "--every",
        type=seconds_argument,
        metavar="S",
        help="a census each time S seconds have passed",
    )
    add("--at-scan-boundary", action="store_true", help="a census when full_scans has risen")
    add("--end", action="store_true", help="a census when --seconds are over, or on SIGTERM")
    add("--seconds", type=seconds_argument, metavar="S", help="how long, if there are moments")
    add(
        "--start",
        type=seconds_argument,
        default=0,
        metavar="S",
        help="when, in seconds of CLOCK_MONOTONIC; one that has passed is now (default)",
    )
    arguments = parser.parse_args(argv)
    moments = arguments.every is not None or arguments.at_scan_boundary or arguments.end
    if arguments.every == 0:
        parser.error("argument --every: must be more than 0")
    if moments != (arguments.seconds is not None):
        parser.error("--seconds belongs to moments: --every, --at-scan-boundary, --end")
    if len(dict(arguments.process)) < len(arguments.process):
        parser.error("argument --process: a name is given twice")
    if arguments.start > time.monotonic() + MAX_AHEAD:
        parser.error(f"argument --start: more than {MAX_AHEAD} s ahead")
    return arguments


def count(arguments):
    """Do what the arguments say; returns the exit status."""
    processes = [Process(name, pid) for name, pid in arguments.process]
    keep = bool(arguments.every or arguments.at_scan_boundary)
    census = Census(processes, arguments.pause, keep)
    output = Output(arguments.output)
    try:
        if arguments.seconds is None:
            output.write(**census.take("now"))
            return 0
        return count_at_moments(arguments, census, output)
    except (WriteError, OSError, MemoryError) as error:
        what = "no memory" if isinstance(error, MemoryError) else error
        complain(f"ended after {census.taken} censuses: {what}")
        return EXIT_FAILED


def count_at_moments(arguments, census, output):
    """Take a census at each moment, between a header and an end line."""
    wall, monotonic, cpu = time.time(), time.monotonic(), cpu_seconds()
    start = max(monotonic, arguments.start)
    moments = Moments(
        start, arguments.seconds, arguments.every, arguments.at_scan_boundary, arguments.end
    )
    for number in SIGNALS:
        signal.signal(number, moments.stop)
    output.write(**header(arguments, wall + start - monotonic, start))
    for moment in moments:
        output.write(**census.take(moment))
    end = {
        "kind": "end",
        "censuses": census.taken,
        "missed": moments.missed,
        "cpu_seconds": cpu_seconds() - cpu,
        "reason": moments.reason,
    }
    output.write(**end)
    if arguments.output != "-":
        print(json.dumps(end))
    return 0 if moments.reason == "finished" else 128 + signal.Signals[moments.reason]


def header(arguments, wall, start):
    """Say what is counted, and when."""
    kernel = Path("/proc/sys/kernel")
    return {
        "kind": "header",
        "format": FORMAT,
        "wall": wall,
        "monotonic": start,
        "seconds": arguments.seconds,
        "every": arguments.every,
        "at_scan_boundary": arguments.at_scan_boundary,
        "end": arguments.end,
        "pause": arguments.pause,
        "page_size": PAGE,
        "boot_id": (kernel / "random/boot_id").read_text().strip(),
        "kernel": (kernel / "osrelease").read_text().strip(),
        "guests": dict(arguments.process),
    }


def complain(message):
    """Tell the user what is wrong."""
    print(f"ksm_census.py: error: {message}", file=sys.stderr)


def main(argv=None):
    """Run the command line; return the exit status."""
    arguments = parse_arguments(argv)
    try:
        return count(arguments)
    except Unusable as error:
        complain(error)
        return EXIT_UNUSABLE


if __name__ == "__main__":
    if os.environ.pop("PYTHONHASHSEED", None) not in (None, "random"):
        os.execv(sys.executable, [sys.executable, *sys.argv])  # with a key that nobody knows
    sys.exit(main())
