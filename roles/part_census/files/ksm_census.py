#!/usr/bin/env python3
"""Count the pages that KSM could merge, that it has merged, and that processes share.

One file, standard library only, Python 3.9 or newer, so that it can be copied to any host.

It changes nothing: it reads only pages that are in memory according to /proc/PID/pagemap, so that
none is faulted in, and it reads them through /proc/PID/mem. process_vm_readv() would be faster, but
it pins pages, and the kernel unmerges a page before it is pinned.

It is fast: one bytes.translate() classifies a thousand pages, two processes read and hash private
pages, 128 at a time, and a frame that many pages share is read only once.

Pages with the same 64-bit SipHash count as equal. Each Python process has a random key, even if
PYTHONHASHSEED is set, so that no guest can make pages collide. With n different contents, the
probability of a collision is below n * n / 2**65: 3e-8 for a million contents, which is 4 GiB.
"""

import sys

if sys.version_info < (3, 9):  # before anything that an older Python does not have
    sys.exit("ksm_census.py needs Python 3.9 or newer; this is {}.{}".format(*sys.version_info))

import argparse
import bisect
import collections
import contextlib
import itertools
import json
import math
import mmap
import os
import random
import re
import resource
import secrets
import select
import signal
import time
import traceback
import zlib
from array import array
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

FORMAT = 1
PAGE = os.sysconf("SC_PAGE_SIZE")
HASH_BITS = 64
ZERO = hash(bytes(PAGE))
SEEDED = "KSM_CENSUS_SEED"  # set to the seed when the program starts itself again
MAX_AHEAD = 3600  # seconds to the start
STOPPING = 1  # seconds to wait until a process has stopped
POLL = 0.05  # seconds between reads of full_scans
SHARE = 0.1  # largest part of the time for censuses at scan boundaries
LONGEST = 300  # maximum seconds that processes are stopped: enough to read 1 TiB
SIGNALS = (signal.SIGTERM, signal.SIGINT)
STOPS = (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
EXIT_FAILED, EXIT_UNUSABLE = 1, 2

# /proc/PID/pagemap, Documentation/admin-guide/mm/pagemap.rst
FRAME = (1 << 55) - 1
PRESENT, SWAPPED, FILE, ALONE = 0x80, 0x40, 0x20, 0x01  # bits of its highest byte
KPF_KSM, KPF_ZERO_PAGE = 1 << 21, 1 << 24  # /proc/kpageflags
ENTRIES = 1024  # of the pagemap, per read
WORKERS = min(2, len(os.sched_getaffinity(0)))  # this process is one of them
PIECE = 128  # pages per read: they stay in the CPU's cache until they are hashed
# Pages are read into the same buffer, because allocating memory takes as long as reading.
BUFFER = mmap.mmap(-1, PIECE * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # one per worker
BUFFERED = memoryview(BUFFER).toreadonly().__getitem__
PLACES = [slice(at, at + PAGE) for at in range(0, PIECE * PAGE, PAGE)]
FIRSTS = memoryview(BUFFER).cast("Q")[:: PAGE // 8]  # the first 8 bytes of each page
SHARED, KNOWN = b"sk"
ZERO_FRAME = ord("z")
MERGED = ord("m")
PRESENT_KINDS = b"oskm"  # in memory, and not mapped to the kernel's zero page
IN_MIND = 2**16  # frames whose contents a worker caches
GAP = 4  # read flags together over gaps up to this: a system call costs as much

HELP = """\
examples:
  python3 ksm_census.py --process a=4242 --process b=/run/libvirt/qemu/b.pid --output -
      one census of two processes, now: one line on standard output
  python3 ksm_census.py --process a=4242 --output census.jsonl --seconds 60 --every 20 --end
      three censuses within a minute, and one at the end
  python3 ksm_census.py --process a=4242 --output - --trace census.trace
      one census, and which page had which content
  python3 ksm_census.py --process a=4242 --output start --save-start
  python3 ksm_census.py --process a=4242 --output census.jsonl --since start --end --seconds 60
      one census before ksmd runs, and one at the end that says what has become of these pages
  kill -TERM PID
      ends early, with the last census if --end was given; kill -INT ends without it

The program counts pages of anonymous memory that ksmd may merge (VmFlags mg in /proc/PID/smaps).

output: one JSON object per line. With --every, --at-scan-boundary or --end, also a header and an
end line. Numbers are pages unless stated otherwise. null means unknown; `complaints` says why.
  census  n, moment (start, now, every, scan, end)
          wall, monotonic     start of reading, in seconds (CLOCK_REALTIME, CLOCK_MONOTONIC)
          page_size           bytes
          frames_visible      whether the kernel shows frames (CAP_SYS_ADMIN); if not, only limits
          read_seconds, paused_seconds (0: not paused), cpu_seconds, bytes_read
          trace_seconds       with --trace: for numbering and ordering the contents
          ksm, ksm_after      the files of /sys/kernel/mm/ksm before and after the census
          present_pages       pages in memory; = zero + unique + duplicate
          swapped_pages       pages not in memory
          unwritten_pages     pages that were read but never written. The kernel maps its zero page
                              there, without ksmd. They are in no other number. Without --since,
                              pages of zeros that the kernel gave up when it split a huge page
                              (Linux 6.12 and newer) look the same, and count here
          zero_pages          pages full of zeros
          unique_pages        other pages whose contents occur once
          duplicate_pages     other pages whose contents occur again, in any of the processes
          distinct_contents   including zeros
          limit_pages         pages that perfect merging would save
            limit_zero_pages      pages of zeros: all with use_zero_pages, else all but one
            limit_within_pages    other pages, if each process is merged by itself
            limit_between_pages   additional pages if processes are merged with each other
          max_page_sharing_pages  part of the limit that max_page_sharing makes unreachable
          saved_pages         pages that merging saves now
            saved_zero_pages      pages that KSM replaced by the kernel's zero page
            saved_split_zero_pages  with --since: other pages that were in memory at the start and
                                  are mapped to the kernel's zero page now. The kernel gave them up
                                  when it split a huge page. They count as present
            saved_ksm_pages       mappings of KSM pages minus KSM pages, which is the sum of
              saved_within_pages    mappings minus KSM pages within each process
              saved_between_pages   additional savings by sharing across processes
          ksm_frames          KSM pages that these processes map more than once, or share
          outside_mappings    mappings of these KSM pages by other processes, or that were merged
                              during the census
          fork_shared_pages   pages that are shared after a fork, not by KSM
          efficiency          saved_pages / limit_pages
          grown_pages         with --since: pages in memory now minus pages in memory at the start
          changed_pages, compared_pages   pages that were also in memory at the previous census:
                              those with changed contents, and all; not since the start
          guests              per process: pid, most of the above, own_duplicate_pages (duplicates
                              within the process), ksm_pages (mappings of shared KSM pages),
                              zero_frame_pages, attributed_bytes (its part of the savings: each KSM
                              page is split evenly among its mappings, so that the sum is exactly
                              saved_pages), ksm_stat (from the kernel)
          matrix              guests, and pages: in row A, column B the pages of A whose KSM page B
                              also maps; in row A, column A those that A maps more than once

exit status:
  0    all censuses were taken
  1    the output could not be written, and its last line may be incomplete; or the kernel refused
       a resource, such as memory
  2    wrong arguments, or nothing to count: nothing was written
  130  ended by SIGINT    143  ended by SIGTERM    (both with an end line)
"""


class Unusable(Exception):  # noqa: N818
    """The request cannot be counted; the message is for the user."""


class WriteError(Exception):
    """The output cannot be written."""


class Stopped(Exception):  # noqa: N818
    """A signal has requested the end."""


class GoneError(Exception):
    """A process cannot be counted; the message says why."""


# --- the pages of a process -----------------------------------------------------------------------


def kind_of(flags):
    """Classify a page by the highest byte of its entry in the pagemap: o, s, w, f or -."""
    if flags & PRESENT and not flags & FILE:
        return b"o" if flags & ALONE else b"s"  # own: no other process maps it; or shared
    if flags & FILE:
        return b"f"  # a page of a file, which KSM never merges
    return b"w" if flags & SWAPPED else b"-"


KINDS = b"".join(map(kind_of, range(256)))
HIGH = slice(7, None, 8) if sys.byteorder == "little" else slice(0, None, 8)


class Process:
    """A process and its mergeable memory."""

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
        """Whether it still runs. After its end, its pid may be reused."""
        return not select.select([self.pidfd], [], [], 0)[0]

    def signal(self, number):
        """Send a signal, if the process still runs."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    def text(self, file):
        """Return the text of one of its files in /proc."""
        try:
            return (self.proc / file).read_text(errors="replace")
        except OSError as error:
            raise GoneError(f"it could not be read ({error.strerror})") from None

    def mappings(self):
        """List mergeable mappings (start, pages); also return bytes on hugepages and shared."""
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
        """Return the kernel's counters of the process, if it has them."""
        found = {}
        with contextlib.suppress(GoneError):
            for line in self.text("ksm_stat").splitlines():
                name, value = line.replace(":", " ").split(None, 1)
                found[name] = int(value) if re.fullmatch("-?[0-9]+", value) else value
        return found

    def entries(self, start, first, pages):
        """Return pagemap entries for pages of a mapping; empty if the mapping is gone."""
        try:
            return os.pread(self.pagemap, 8 * pages, 8 * (start // PAGE + first))
        except OSError:
            return b""

    def read(self, address, pages):
        """Read pages into the buffer; return how many could be read."""
        try:
            return os.preadv(self.mem, [memoryview(BUFFER)[: pages * PAGE]], address) // PAGE
        except OSError:
            return 0

    def started(self):
        """Return when it started, in clock ticks since boot; None if it has ended."""
        with contextlib.suppress(GoneError, IndexError):
            return int(self.text("stat").rpartition(")")[2].split()[19])
        return None

    def stopped(self):
        """Whether all of its threads are stopped or have ended."""
        states = set()
        for path in self.proc.glob("task/*/stat"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                states.add(path.read_text(errors="replace").rpartition(")")[2].split()[0])
        return states <= set("TtZX")


class Mapping:
    """A mergeable mapping, in memory that workers share.

    `kinds` has the kind of each page: o, s, w, f or - as above; k is a shared page whose frame was
    read before; z is mapped to the kernel's zero page, and in a trace m to a frame of KSM; 0 is
    unknown. `contents` has the hash of each page in memory, and 0 for others. `frames` has the
    frame of each shared page, or 0 if the kernel hides frames. For a trace, `firsts` has the first
    8 bytes of each page that was read, else it is None.
    """

    def __init__(self, process, start, pages, traced=False):
        self.process, self.start, self.pages = process, start, pages
        self.kinds = mmap.mmap(-1, pages)
        self.contents, self.frames = (
            memoryview(mmap.mmap(-1, 8 * pages)).cast("q") for _ in range(2)
        )
        self.firsts = memoryview(mmap.mmap(-1, 8 * pages)).cast("Q") if traced else None


class Pages:
    """The pages of a process as read; `ksm` has the frames of its KSM pages."""

    def __init__(self, process, traced=False):
        self.process, self.name, self.pid = process, process.name, process.pid
        mappings, huge, shared = process.mappings()
        mergeable = sum(pages for _, pages in mappings) * PAGE
        # A guest on such memory still has some mergeable memory: its ROMs
        self.complaint = None
        if huge + shared > mergeable:
            self.complaint = (
                f"{huge >> 20} MiB of its memory are on hugepages and {shared >> 20} MiB are "
                f"shared, which KSM does not merge; {mergeable >> 20} MiB may be merged"
            )
        if not mappings:
            raise GoneError(self.complaint or "it has no mergeable memory (no VmFlags mg)")
        self.mappings = [Mapping(process, *mapping, traced) for mapping in mappings]
        self.swapped = self.bytes_read = self.zero_frame = self.fork_shared = 0
        self.stat, self.hidden, self.ksm = {}, False, []

    @property
    def contents(self):
        """Return the contents of the pages of each mapping, by its start."""
        return {mapping.start: mapping.contents for mapping in self.mappings}


def read_all(processes, flags, counts, traced=False):
    """Read all processes. Return their pages, why others are missing, mappings of KSM pages."""
    read, counted, gone = [], [], {}
    for process in processes:
        with left_out(process, gone):
            read.append(Pages(process, traced))
    if not hash_own([mapping for pages in read for mapping in pages.mappings]):
        why = "its reader failed or was killed; it is left out"
        return [], {process.name: why for process in processes}, 0
    for pages in read:
        with left_out(pages.process, gone):
            shared = shared_frames(pages)
            pages.hidden = flags is None or 0 in shared
            pages.ksm = split([shared], FRAME_PART)
            counted.append(pages)
    if any(pages.hidden for pages in counted):
        return counted, gone, 0
    return counted, gone, look_up(counted, flags, counts, traced)


@contextlib.contextmanager
def left_out(process, gone):
    """Record why a process cannot be counted, if it cannot."""
    try:
        yield
    except GoneError as error:
        gone[process.name] = f"{error}; it is left out"


def hash_own(mappings):
    """Hash all private pages, with all workers; return whether that succeeded."""
    pieces = [(each, first) for each in mappings for first in range(0, each.pages, ENTRIES)]
    # The work queue is a file: workers share its offset, so each reads the next piece.
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
    """Start a child that works as long as this process lives; return its pid."""
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
    """Hash pieces until none is left, or `wanted` returns false."""
    known = {}
    while wanted():
        number = os.read(left, 4)
        if not number:
            return
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
    """Return the frames of pagemap entries."""
    return array("q", [entry & FRAME for entry in memoryview(raw).cast("Q")])


def copy_known(mapping, first, kinds, frames, known):
    """Copy the contents of pages whose frame is known; return the kinds, with k for these."""
    kinds = bytearray(kinds)
    mapping.frames[first : first + len(frames)] = memoryview(frames)
    for at, (kind, frame) in enumerate(zip(kinds, frames)):
        if kind == SHARED and frame in known:
            kinds[at] = KNOWN
            mapping.contents[first + at] = known[frame]
    return bytes(kinds)


def keep_contents(mapping, first, kinds, known):
    """Cache the contents of shared frames, if the pages still use these frames."""
    again = frames_of(mapping.process.entries(mapping.start, first, len(kinds)))
    for at, (kind, frame) in enumerate(zip(kinds, again), first):
        if kind != SHARED:
            continue
        if frame != mapping.frames[at]:  # the page was written to meanwhile, and has a new frame
            mapping.kinds[at : at + 1] = b"o" if mapping.contents[at] else b"-"
        elif frame:
            known[frame] = mapping.contents[at]


def hash_run(mapping, begin, end):
    """Hash a range of pages that are in memory."""
    while begin < end:
        wanted = min(PIECE, end - begin)
        whole = mapping.process.read(mapping.start + begin * PAGE, wanted)
        hashes = array("q", map(hash, map(BUFFERED, PLACES[:whole])))
        mapping.contents[begin : begin + whole] = memoryview(hashes)
        if mapping.firsts:
            mapping.firsts[begin : begin + whole] = FIRSTS[:whole]
        begin += whole
        if whole < wanted:  # a page is gone meanwhile, or has a hardware error
            mapping.kinds[begin : begin + 1] = b"-"
            mapping.contents[begin] = 0
            begin += 1


def shared_frames(pages):
    """Return the frames of all shared pages; raises GoneError if the process has ended."""
    shared = array("q")
    for mapping in pages.mappings:
        kinds = mapping.kinds[:]
        if b"\0" in kinds:
            raise GoneError("it ended, or became another program, while it was counted")
        pages.swapped += kinds.count(b"w")
        pages.bytes_read += PAGE * (kinds.count(b"o") + kinds.count(b"s"))
        for run in re.finditer(b"[sk]+", kinds):
            shared.frombytes(mapping.frames[slice(*run.span())].tobytes())
    pages.stat = pages.process.stat()
    if not pages.process.alive():
        raise GoneError("it ended while it was read")
    return shared


def look_up(every, flags, counts, traced=False):
    """Keep in `ksm` the frames that are KSM pages; return how many mappings these have.

    Pages that are mapped to the kernel's zero page get the kind z; for a trace, pages that are
    mapped to KSM's frames get the kind m.
    """
    mapped, marks = 0, {}
    for part in range(PARTS):
        frames = sorted(set().union(*(pages.ksm[part] for pages in every)))
        flagged = list(zip(frames, numbers_at(flags, frames)))
        zero = {frame for frame, flag in flagged if flag & KPF_ZERO_PAGE}
        ksm = [frame for frame, flag in flagged if flag & KPF_KSM]
        marks.update(dict.fromkeys(zero, ZERO_FRAME))
        marks.update(dict.fromkeys(ksm if traced else (), MERGED))
        mapped += sum(numbers_at(counts, ksm)) if counts is not None else 0
        among = set(ksm).__contains__
        for pages in every:
            shared = pages.ksm[part]
            pages.ksm[part] = array("q", filter(among, shared))
            zeros = sum(map(zero.__contains__, shared))
            pages.zero_frame += zeros
            pages.fork_shared += len(shared) - len(pages.ksm[part]) - zeros
    for pages in every:
        if pages.zero_frame or traced:
            mark(pages, marks)
    return mapped


def mark(pages, marks):
    """Give the pages of a process that have one of these frames its kind."""
    for mapping in pages.mappings:
        for run in re.finditer(b"[sk]+", mapping.kinds[:]):
            frames = mapping.frames[slice(*run.span())]
            mapping.kinds[slice(*run.span())] = bytes(map(marks.get, frames, run.group()))


def numbers_at(fd, indexes):
    """Yield 64-bit numbers of a file at ascending indexes; near ones with one system call."""
    near = []
    for index in indexes:
        if near and (index - near[-1] > GAP or index - near[0] >= ENTRIES):
            yield from numbers_near(fd, near)
            near = []
        near.append(index)
    if near:
        yield from numbers_near(fd, near)


def numbers_near(fd, indexes):
    """Return the numbers at indexes; reads everything from the first to the last."""
    first, last = indexes[0], indexes[-1]
    raw = array("Q", os.pread(fd, 8 * (last - first + 1), 8 * first))
    return [raw[index - first] for index in indexes]


# --- counting -------------------------------------------------------------------------------------

PARTS = 16  # pages are counted in parts, because counting takes much memory per page
FRAME_PART = 12  # lowest bit of a frame's number that selects its part: a part has near frames


def split(arrays, shift=0):
    """Split hashes or frames into parts, equal ones into the same part; without zeros."""
    parts = [array("q") for _ in range(PARTS)]
    add = [part.append for part in parts]
    for numbers in arrays:
        for number in numbers:
            if number:
                add[number >> shift & (PARTS - 1)](number)
    return parts


def count_contents(guests, largest):
    """Count equal nonzero contents within each guest and among all guests.

    `guests` has the parts of each guest; `largest` is the maximum number of mappings of a KSM page,
    None if there is no maximum. Returns the counts of all guests, and a list of those of each.
    """
    every = collections.Counter()
    each = [collections.Counter() for _ in guests]
    for parts in zip(*guests):
        counted = [collections.Counter(part) for part in parts]
        total = collections.Counter()
        for own, count in zip(counted, each):
            count["zero"] += own.pop(ZERO, 0)
            count["pages"] += sum(own.values())
            count["distinct"] += len(own)
            count["own_duplicate"] += sum(n for n in own.values() if n > 1)
            total.update(own)
        for own, count in zip(counted, each):
            count["duplicate"] += sum(n for content, n in own.items() if total[content] > 1)
        every["distinct"] += len(total)
        if largest:
            every["split"] += sum((n - 1) // largest for n in total.values() if n > largest)
    return every, each


def count_limits(every, each, zero, saved, ksm):
    """Return the savings of perfect merging, and the part that the knobs make unreachable.

    There are `zero` pages of zeros, of which KSM replaced `saved` by the kernel's zero page.
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
    """Count which guests share KSM pages, and what that saves.

    `guests` has the frames of the mappings of KSM pages of each guest, in parts. Returns the counts
    of all guests, and for each guest its row of the matrix and its savings in pages, a Fraction.
    """
    every, numbers = collections.Counter(), range(len(guests))
    sharers, among = ([collections.Counter() for _ in guests] for _ in range(2))
    rows = [[0 for _ in guests] for _ in guests]
    for parts in zip(*guests):
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
    """Round shares to bytes without changing their sum, which is a whole number."""
    exact = [share * PAGE for share in shares]
    given = [math.floor(share) for share in exact]
    order = sorted(range(len(exact)), key=lambda i: given[i] - exact[i])
    for i in order[: int(sum(exact)) - sum(given)]:
        given[i] += 1
    return given


def count_changes(before, now):
    """Count pages whose contents differ, and all that were in memory both times."""
    changed = compared = 0
    for start, contents in now.items():
        for old, new in zip(before.get(start, ()), contents):
            if old and new:
                compared += 1
                changed += old != new
    return changed, compared


# --- the start of a run ---------------------------------------------------------------------------


class Start:
    """The pages that were in memory at the start; `line` is the census of that time."""

    def __init__(self, line, kinds):
        self.line, self.kinds = line, kinds

    @classmethod
    def read(cls, path, processes):
        """Read the file that --save-start has written, for these processes."""
        try:
            with Path(path).open("rb") as file:
                line, mappings = json.loads(file.readline()), json.loads(file.readline())
                kinds = zlib.decompress(file.read())
        except OSError as error:
            raise Unusable(f"cannot read {path}: {error.strerror}") from None
        except (ValueError, zlib.error):
            raise Unusable(f"{path} was not written by --save-start, or is incomplete") from None
        start, at = cls(line, {}), 0
        for name, first, pages in mappings:
            start.kinds.setdefault(name, []).append((first, kinds[at : at + pages]))
            at += pages
        for process in processes:
            was = line["guests"].get(process.name, {"pid": process.pid})["pid"]
            if was != process.pid:
                raise Unusable(f"{path}: process {process.name} was {was}, not {process.pid}")
        return start

    def of_mapping(self, name, start, pages):
        """Return the kinds that the pages of a mapping had at the start."""
        kinds = bytearray(b"-" * pages)
        for first, then in self.kinds.get(name, ()):
            shift = (first - start) // PAGE
            low, high = max(0, shift), min(pages, shift + len(then))
            if low < high:
                kinds[low:high] = then[low - shift : high - shift]
        return bytes(kinds)

    def became_zero(self, pages):
        """Count pages now mapped to the zero page: those in memory at the start; those not yet."""
        given_up = new = 0
        for mapping in pages.mappings:
            then = self.of_mapping(pages.name, mapping.start, mapping.pages)
            for run in re.finditer(b"z+", mapping.kinds[:]):
                were = then[slice(*run.span())]
                given_up += sum(were.count(kind) for kind in PRESENT_KINDS)
                new += sum(map(were.count, (b"-", b"w", b"f")))
        return given_up, new

    def present(self, name):
        """Return how many pages of a process were in memory."""
        return self.line["guests"].get(name, {}).get("present_pages", 0)


def save_start(output, line, guests):
    """Write the census of the start, and the kinds of all pages, for Start.read()."""
    mappings = [(pages.name, each.start, each.pages) for pages in guests for each in pages.mappings]
    kinds = b"".join(each.kinds[:] for pages in guests for each in pages.mappings)
    output.write(**line)
    output.write_bytes(json.dumps(mappings).encode() + b"\n" + zlib.compress(kinds, 1))


# --- a trace --------------------------------------------------------------------------------------

TRACE_FORMAT = 1
MOST_CONTENTS = 2**22  # in a trace: a content takes about 85 B of memory
AT_ONCE = 1024  # pages that are sorted in memory
PIVOTS = 1024  # largest number of places at which more are split into parts, before they are sorted
KNOWN_BYTES = 8  # what is known of each content: Mapping.firsts
HUGE = Path("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")
KPF_THP = 1 << 22


class Trace:
    """Writes which page had which content at each census, and the order of the contents.

    Contents are numbered; 0 is zeros. By number, `hashes` has their hashes, `firsts` their first 8
    bytes as a number, and `seen` whether this program has seen them: of those that were gone after
    the start, nothing is known. These are arrays, since a dictionary takes ten times as much
    memory: there is one only of a part of the contents at a time, whose numbers are in `parts`.
    """

    def __init__(self, path, key=None):
        before = key.hashes if key else ()
        self.output = Output(path, again=bool(before))
        self.hashes = array("q", before or (ZERO,))
        self.firsts = array("Q", [0]) * len(self.hashes)
        self.seen = bytearray(len(self.hashes))
        self.seen[0] = 1  # zeros, wherever they are
        self.parts = [array("i") for _ in range(PARTS)]
        for number, content in enumerate(self.hashes):
            self.parts[content & (PARTS - 1)].append(number)
        self.moments, self.full = int(bool(before)), False
        if not before:
            self.record(b"", kind="header", format=TRACE_FORMAT, page_size=PAGE)

    def look(self, guests, complaints):
        """Number the contents of a census, and order them; return what is to be written."""
        if not self.full:
            numbered, last = self.number(guests)
            self.full = len(self.hashes) > MOST_CONTENTS
        if self.full:
            why = f"more than {MOST_CONTENTS} contents"
            complaints.append(f"the trace has ended before this census: there are {why}")
            return None
        places = Places(guests, last, self.hashes)
        return numbered, in_order(self.firsts, self.seen, places.page)

    def number(self, guests):
        """Return the number of the content of each page, -1 for none; and the last page of each."""
        numbered, last = array("i"), array("i", [-1]) * len(self.hashes)
        parts = [(array("q"), array("i"), array("Q")) for _ in range(PARTS)]
        adds = [[each.append for each in part] for part in parts]
        for mapping in mappings_of(guests):
            for at, (content, first) in enumerate(
                zip(mapping.contents, in_memcmp_order(mapping.firsts)), len(numbered)
            ):
                if content:
                    add, add_at, add_first = adds[content & (PARTS - 1)]
                    add(content)
                    add_at(at)
                    add_first(first)
            numbered.extend(array("i", [-1]) * mapping.pages)
        for numbers, part in zip(self.parts, parts):
            known = {self.hashes[number]: number for number in numbers}
            for content, at, first in zip(*part):
                number = known.get(content)
                if number is None:
                    number = known[content] = len(self.hashes)
                    numbers.append(number)
                    last.append(-1)
                    self.add(content)
                numbered[at], last[number], self.seen[number] = number, at, 1
                if first:  # 0 is unknown, or what is there already
                    self.firsts[number] = first
        return numbered, last

    def add(self, content):
        """Add a content; its number is the next."""
        self.hashes.append(content)
        self.firsts.append(0)
        self.seen.append(0)

    def write(self, line, guests, looked, huge):
        """Write a moment: the kinds of all pages, their contents, and the contents in order."""
        numbered, (order, lcp, unsure) = looked
        kinds = b"".join(each.kinds[:] for each in mappings_of(guests))
        written = (array("B", kinds), numbered, array("I", huge), order, lcp, unsure)
        packed = [pack(each) for each in written]
        members = ("n", "moment", "wall", "monotonic", "read_seconds", "trace_seconds")
        members += ("paused_seconds", "ksm")
        self.record(
            b"".join(packed),
            kind="moment",
            **{name: line[name] for name in members},
            frames_visible=line["frames_visible"],
            started={pages.name: pages.process.started() for pages in guests},
            mappings=[
                [pages.name, each.start // PAGE, each.pages]
                for pages in guests
                for each in pages.mappings
            ],
            parts=[len(each) for each in packed],
        )
        self.moments += 1

    def end(self):
        """Say that the trace is whole."""
        self.record(b"", kind="end", moments=self.moments)

    def record(self, data, **members):
        """Write a line of JSON, and the data that belong to it."""
        line = json.dumps({**members, "bytes": len(data)}, separators=(",", ":"))
        self.output.write_bytes(line.encode() + b"\n" + data)


def in_memcmp_order(firsts):
    """Return the first bytes of pages as numbers in the order of memcmp()."""
    found = array("Q", firsts.tobytes())
    if sys.byteorder == "little":
        found.byteswap()
    return found


def mappings_of(guests):
    """List the mappings of all guests, in order."""
    return [mapping for pages in guests for mapping in pages.mappings]


def pack(numbers):
    """Compress numbers, least significant bytes of all first: their high bytes are mostly equal."""
    if sys.byteorder == "big":
        numbers.byteswap()
    raw = numbers.tobytes()
    return zlib.compress(b"".join(raw[i :: numbers.itemsize] for i in range(numbers.itemsize)), 1)


class Places:
    """Where the contents of a census are: `last` has the last page that has each, or -1."""

    def __init__(self, guests, last, hashes):
        self.mappings, self.last, self.hashes = mappings_of(guests), last, hashes
        self.starts = [0]
        for mapping in self.mappings:
            self.starts.append(self.starts[-1] + mapping.pages)

    def page(self, number):
        """Return a page of this content; None if the page has changed, or is gone."""
        at = self.last[number]
        if number == 0:
            return bytes(PAGE)
        if at < 0:
            return None
        which = bisect.bisect(self.starts, at) - 1
        mapping = self.mappings[which]
        address = mapping.start + (at - self.starts[which]) * PAGE
        try:
            page = os.pread(mapping.process.mem, PAGE, address)
        except OSError:
            return None
        return page if hash(page) == self.hashes[number] else None


def in_order(firsts, seen, read):
    """Order contents as memcmp() does, by their first 8 bytes, and by all bytes if these are equal.

    `read` returns the page of a number, None if it is gone. Return their numbers in order, how many
    leading bytes each has in common with the one before, and the numbers of those that could not be
    read again. These come last of those that have the same first 8 bytes.
    """
    order, lcp, unsure, before = array("I"), array("H"), array("I"), None
    for first, block in by_first(firsts, seen):
        begin, missing = len(order), []
        for number, same in sorted_block(block, read, missing):
            order.append(number)
            lcp.append(same)
        order.extend(missing)
        lcp.extend([KNOWN_BYTES] * len(missing))
        unsure.extend(missing)
        known = KNOWN_BYTES - ((before ^ first).bit_length() + 7) // 8 if begin else 0
        lcp[begin], before = known, first
    return order, lcp, unsure


def by_first(firsts, seen):
    """Yield the numbers of contents with the same first bytes, in order; sorts a part at a time."""
    pivots = sorted(random.choices(firsts, k=PIVOTS))
    parts = [array("I") for _ in range(PIVOTS + 1)]
    for number, first in enumerate(firsts):
        if seen[number]:
            parts[bisect.bisect(pivots, first)].append(number)
    for part in parts:
        in_part = sorted(part, key=firsts.__getitem__)
        for first, block in itertools.groupby(in_part, firsts.__getitem__):
            yield first, list(block)


def sorted_block(block, read, missing):
    """Yield numbers of contents in the order of their bytes, with the leading bytes in common."""
    if len(block) == 1:
        yield block[0], 0
        return
    before = None
    for page, number in sorted_pages(block, read, missing):
        yield number, 0 if before is None else common(before, page)
        before = page


def sorted_pages(block, read, missing):
    """Yield pages and their numbers in order; not more than some are in memory at once.

    Many pages are first split at some of them, which are drawn at random, so that no guest can
    choose its pages such that the parts are of very different sizes.
    """
    if len(block) > AT_ONCE:
        drawn = random.sample(block, min(PIVOTS, 2 * len(block) // AT_ONCE))
        pivots = sorted(filter(None, map(read, drawn)))
        parts = [[] for _ in range(len(pivots) + 1)]
        for number in block:
            page = read(number)
            (missing if page is None else parts[bisect.bisect(pivots, page)]).append(number)
        del pivots
        for part in parts:
            yield from sorted_pages(part, read, missing)
        return
    found = []
    for number in block:
        page = read(number)
        if page is None:
            missing.append(number)
        else:
            found.append((page, number))
    yield from sorted(found)


def common(page, other):
    """Return how many leading bytes two different pages have in common."""
    low, high = 0, PAGE
    while high - low > 1:
        middle = (low + high) // 2
        if page[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle
    return low


def huge_pages(guests, flags):
    """Return the first page of each huge page that is mapped as such, counted over all mappings."""
    try:
        size = int(HUGE.read_text()) // PAGE
    except (OSError, ValueError):
        return []  # the kernel has none
    found, before = [], 0
    for mapping in mappings_of(guests) if flags is not None else ():
        for first in range(-(mapping.start // PAGE) % size, mapping.pages - size + 1, size):
            frames = frames_of(mapping.process.entries(mapping.start, first, 1))
            if frames and frames[0] and frames[0] % size == 0:
                last = frames_of(mapping.process.entries(mapping.start, first + size - 1, 1))
                together = last and last[0] == frames[0] + size - 1
                if together and numbers_near(flags, [frames[0]])[0] & KPF_THP:
                    found.append(before + first)
        before += mapping.pages
    return found


class Key:
    """What a trace needs to go on where a census of the start ended: a file that only root reads.

    `seed` makes the hashes of both programs the same, and `hashes` has the hashes of the contents
    in the order of their numbers, empty before there are any. Who has them can find out whether a
    page that they know was in memory. So the file is removed as soon as it is read.
    """

    def __init__(self, path):
        self.path = Path(path)
        try:
            with self.path.open("rb") as file:
                self.seed = int(file.readline())
                self.hashes = array("q", file.read())
        except OSError as error:
            raise Unusable(f"cannot read {path}: {error.strerror}") from None
        except ValueError:
            raise Unusable(f"{path} was not written by --save-start") from None

    @classmethod
    def make(cls, path):
        """Draw a seed and write it, instead of what an earlier program has left."""
        with contextlib.suppress(OSError):
            Path(path).unlink()
        output = Output(path)
        output.write_bytes(b"%d\n" % (1 + secrets.randbelow(2**32 - 1)))
        os.close(output.fd)
        return cls(path)

    def save(self, hashes):
        """Add the hashes of the contents."""
        Output(self.path, again=True).write_bytes(hashes.tobytes())


# --- a census -------------------------------------------------------------------------------------


class Census:
    """Takes censuses of processes.

    `before` has the pages of the previous census, `guests` those of the last one. `start` is what
    was in memory at the start, None if this is not known.
    """

    def __init__(self, processes, pause, keep, start=None, trace=None):
        self.processes, self.pause, self.keep, self.start = processes, pause, keep, start
        self.trace = trace
        self.complaints = []
        self.flags, self.counts = map(self.open, ("/proc/kpageflags", "/proc/kpagecount"))
        self.nodes = len(list(Path("/sys/devices/system/node").glob("node[0-9]*")))
        self.before, self.guests, self.taken = {}, [], 0

    def open(self, path):
        """Open a kernel file, or record why not."""
        try:
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            self.complaints.append(f"{path} cannot be read ({error.strerror})")
            return None

    def take(self, moment):
        """Take a census; return its members."""
        cpu, complaints = cpu_seconds(), list(self.complaints)
        with paused(self.processes if self.pause else (), complaints) as pause:
            ksm, wall, began = read_ksm(), time.time(), time.monotonic()
            guests, gone, mapped = read_all(
                self.processes, self.flags, self.counts, bool(self.trace)
            )
            read, ksm_after = time.monotonic() - began, read_ksm()
            if self.trace:
                looked, huge = self.trace.look(guests, complaints), huge_pages(guests, self.flags)
                traced = time.monotonic() - began - read
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
        if self.trace:
            line["trace_seconds"] = traced
            if looked:
                self.trace.write(line, guests, looked, huge)
        self.before = {pages.name: pages.contents for pages in guests} if self.keep else {}
        self.guests = guests if moment == "start" else []
        self.taken += 1
        return line | {"cpu_seconds": cpu_seconds() - cpu}

    def counted(self, guests, mapped, ksm, complaints):
        """Count the pages that were read."""
        visible = bool(guests) and not any(pages.hidden for pages in guests)
        complaints += apart(ksm, self.nodes)
        if guests and not visible:
            complaints.append(
                "the kernel does not show the frames of pages (this needs CAP_SYS_ADMIN): savings "
                "are unknown, and pages that were never written count as present"
            )
        zeros = [
            zeros_of(pages, self.start, ksm, complaints) if visible else UNKNOWN for pages in guests
        ]
        every, each = count_contents(
            [split(pages.contents.values()) for pages in guests], ksm.get("max_page_sharing")
        )
        for count, zero in zip(each, zeros):
            count["zero"] -= zero.unwritten
        totals = {
            "frames_visible": visible,
            "swapped_pages": sum(pages.swapped for pages in guests),
            "unwritten_pages": sum(zero.unwritten for zero in zeros) if visible else None,
        }
        own = [guest_counts(pages, count) for pages, count in zip(guests, each)]
        for name in ("present", "zero", "unique", "duplicate"):
            totals[f"{name}_pages"] = sum(counts[f"{name}_pages"] for counts in own)
        saved_zero = sum(zero.ksm + zero.split for zero in zeros)
        totals |= count_limits(every, each, totals["zero_pages"], saved_zero, ksm)
        totals |= self.saved(guests, mapped, zeros, own, totals, visible)
        forked = totals["fork_shared_pages"]
        if forked:
            complaints.append(
                f"{forked} pages share frames after a fork and not by KSM: they are in the limit"
            )
        self.compare(guests, own, totals)
        totals["guests"] = {pages.name: counts for pages, counts in zip(guests, own)}
        return totals

    def saved(self, guests, mapped, zeros, own, totals, visible):
        """Count the savings, add each guest's part to its counts, and return the total."""
        if not visible:
            names = ("saved", "saved_zero", "saved_split_zero", "saved_ksm", "saved_within")
            more = ("saved_between_pages", "grown_pages", "ksm_frames", "outside_mappings")
            more += ("fork_shared_pages", "efficiency", "matrix")
            return dict.fromkeys([*(f"{name}_pages" for name in names), *more])
        shared, rows, shares = count_shares([pages.ksm for pages in guests])
        mappings = sum(len(part) for pages in guests for part in pages.ksm)
        outside = max(0, mapped - mappings) if self.counts is not None else None
        saved_zero, split = sum(zero.ksm for zero in zeros), sum(zero.split for zero in zeros)
        saved = shared["saved_ksm_pages"] + saved_zero + split
        whole = [share + zero.ksm + zero.split for share, zero in zip(shares, zeros)]
        since = self.start
        for counts, pages, given, zero in zip(own, guests, whole_bytes(whole), zeros):
            before = since.present(pages.name) if since else None
            counts |= {
                "ksm_pages": sum(map(len, pages.ksm)),
                "zero_frame_pages": zero.ksm + zero.split,
                "split_zero_pages": zero.split if since else None,
                "grown_pages": counts["present_pages"] - before if since else None,
                "unwritten_pages": zero.unwritten,
                "fork_shared_pages": pages.fork_shared,
                "attributed_bytes": given,
            }
        return {
            "saved_pages": saved,
            "saved_zero_pages": saved_zero,
            "saved_split_zero_pages": split if since else None,
            "grown_pages": sum(counts["grown_pages"] for counts in own) if since else None,
            **shared,
            "outside_mappings": outside,
            "fork_shared_pages": sum(pages.fork_shared for pages in guests),
            "efficiency": saved / totals["limit_pages"] if totals["limit_pages"] else None,
            "matrix": {"guests": [pages.name for pages in guests], "pages": rows},
        }

    def compare(self, guests, own, totals):
        """Count the changes since the previous census, if there was one."""
        changes = []
        for pages, counts in zip(guests, own):
            if pages.name in self.before:
                changes.append(count_changes(self.before[pages.name], pages.contents))
                counts["changed_pages"], counts["compared_pages"] = changes[-1]
        both = [sum(each) for each in zip(*changes)] or [None, None]
        totals["changed_pages"], totals["compared_pages"] = both


class Zeros(NamedTuple):
    """Pages of a process that are mapped to the kernel's zero page, by how they got there."""

    ksm: int  # KSM replaced them
    split: int  # the kernel gave them up when it split a huge page
    unwritten: int  # read but never written


UNKNOWN = Zeros(0, 0, 0)


def zeros_of(pages, start, ksm, complaints):
    """Count the pages that are mapped to the kernel's zero page, by how they got there.

    Linux 6.6 and newer count what KSM replaced. For older kernels it is assumed that use_zero_pages
    has not changed. What was given up in a split is known only if the start is.
    """
    replaced = pages.stat.get("ksm_zero_pages")
    if replaced is None and pages.zero_frame:
        complaints.append(
            f"{pages.name}: the kernel does not say how many of the {pages.zero_frame} pages that "
            "are mapped to its zero page KSM has replaced; assumed "
            + ("all" if ksm.get("use_zero_pages") == 1 else "none")
        )
        replaced = pages.zero_frame if ksm.get("use_zero_pages") == 1 else 0
    replaced = min(replaced or 0, pages.zero_frame)
    given_up, new = start.became_zero(pages) if start else (0, 0)
    if replaced and new and given_up:
        complaints.append(
            f"{pages.name}: at least {max(0, given_up - replaced)} pages of zeros were given up in "
            f"splits of huge pages, and up to {min(new, replaced)} more: new pages look the same"
        )
    split = max(0, given_up - replaced)
    return Zeros(replaced, split, pages.zero_frame - replaced - split)


def apart(ksm, nodes):
    """Return a complaint if ksmd does not merge across NUMA nodes."""
    if ksm.get("merge_across_nodes", 1) or nodes < 2:
        return []
    return [
        f"merge_across_nodes is 0, and there are {nodes} NUMA nodes: equal pages on different "
        "nodes are in the limit, and will not be merged"
    ]


def guest_counts(pages, count):
    """Return the counts of one process that follow from its contents."""
    return {
        "pid": pages.pid,
        "present_pages": count["zero"] + count["pages"],
        "swapped_pages": pages.swapped,
        "zero_pages": count["zero"],
        "unique_pages": count["pages"] - count["duplicate"],
        "duplicate_pages": count["duplicate"],
        "own_duplicate_pages": count["own_duplicate"],
        **dict.fromkeys(("ksm_pages", "zero_frame_pages", "unwritten_pages", "fork_shared_pages")),
        **dict.fromkeys(("split_zero_pages", "grown_pages")),
        **dict.fromkeys(("attributed_bytes", "changed_pages", "compared_pages")),
        "ksm_stat": pages.stat,
        "complaint": pages.complaint,
    }


def cpu_seconds():
    """Return the CPU time of this process and of its workers that have ended."""
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
    """Stop processes; they continue afterwards, even if this program is killed meanwhile.

    Processes that were already stopped stay stopped. A child of this program continues the others
    when the pipe between the two breaks, or after LONGEST. Meanwhile, Ctrl-Z is ignored.
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
            complaints.append(f"processes continued after {LONGEST} s, before all was read")
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.close(writer)
        os.waitpid(child, 0)


def let_go_on_when_broken(reader, writer, processes):
    """Run the child, in its own session, so that it survives the parent."""
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
    """Wait until a condition is true, at most some seconds; return whether it is."""
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
        """Handle a signal: end a sleep at once, but do not interrupt a census."""
        self.reason = signal.Signals(number).name
        if self.asleep:
            self.asleep = False
            raise Stopped

    def __iter__(self):
        """Yield each moment when it is due."""
        with contextlib.suppress(Stopped):
            self.sleep_until(self.start)
            yield from self.before_the_end()
        if self.at_end and self.reason != "SIGINT":
            yield "end"

    def before_the_end(self):
        """Yield the moments until the end. Moments during a census are missed."""
        due = self.start + self.every if self.every else math.inf
        scans, earliest = full_scans(), self.start
        while True:
            now = time.monotonic()
            if due <= now and (due < self.end or not self.at_end):
                yield "every"
                passed = max(1, math.ceil((time.monotonic() - due) / self.every))
                left = (self.end - due) / self.every  # the end is a separate moment
                self.missed += min(passed, math.ceil(left) if self.at_end else int(left) + 1) - 1
                due += self.every * passed
            if now >= self.end:
                return
            found = full_scans() if self.at_scan_boundary and now >= earliest else scans
            if found != scans:
                scans = found
                yield "scan"
                earliest = time.monotonic() + (time.monotonic() - now) * (1 / SHARE - 1)
            again = now + POLL if self.at_scan_boundary else math.inf
            self.sleep_until(min(due, again, self.end))

    def sleep_until(self, deadline):
        """Sleep; raise Stopped on a signal, also on an earlier one."""
        self.asleep = True
        if self.reason != "finished":
            self.asleep = False
            raise Stopped
        time.sleep(max(0, deadline - time.monotonic()))
        self.asleep = False


def full_scans():
    """Return the number of full scans; None if the kernel does not say."""
    try:
        return int(Path("/sys/kernel/mm/ksm/full_scans").read_text())
    except (OSError, ValueError):
        return None


# --- the command line -----------------------------------------------------------------------------


class Output:
    """A new file, or one that goes on, or standard output, to which whole lines are written."""

    def __init__(self, path, again=False):
        self.name = path
        try:
            flags = os.O_APPEND if again else os.O_CREAT | os.O_EXCL
            flags |= os.O_WRONLY | os.O_CLOEXEC
            self.fd = 1 if path == "-" else os.open(path, flags, 0o600)
        except FileExistsError:
            raise Unusable(f"{path} already exists and is not overwritten") from None
        except OSError as error:
            what = "go on with" if again else "create"
            raise Unusable(f"cannot {what} {path}: {error.strerror}") from None

    def write(self, **members):
        """Write a line of JSON."""
        self.write_bytes(json.dumps(members, separators=(",", ":")).encode() + b"\n")

    def write_bytes(self, line):
        """Write all of a line."""
        try:
            while line:
                line = line[os.write(self.fd, line) :]
        except OSError as error:
            raise WriteError(f"cannot write to {self.name}: {error.strerror}") from error


def process_argument(text):
    """Parse NAME=PID or NAME=PIDFILE; return name and pid."""
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
    """Parse a number of 0 or more."""
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
    add("--end", action="store_true", help="a census after --seconds, or on SIGTERM")
    add(
        "--save-start",
        action="store_true",
        help="one census, now, and which pages are in memory: a file for --since",
    )
    add(
        "--trace",
        metavar="FILE",
        help="also write which page had which content, to a new file; with --since, to the file "
        "that --save-start --trace has begun",
    )
    add(
        "--key",
        metavar="FILE",
        help="with --trace, and --save-start or --since: where the first keeps what the second "
        "needs to recognize contents, and removes",
    )
    add("--since", metavar="FILE", help="what --save-start has written; its census comes first")
    add("--seconds", type=seconds_argument, metavar="S", help="duration, for several censuses")
    add(
        "--start",
        type=seconds_argument,
        default=0,
        metavar="S",
        help="start time, in seconds of CLOCK_MONOTONIC; a past time means now (default)",
    )
    arguments = parser.parse_args(argv)
    moments = arguments.every is not None or arguments.at_scan_boundary or arguments.end
    if arguments.save_start and (moments or arguments.since or arguments.output == "-"):
        parser.error("--save-start writes one census to a file, and goes with no other moment")
    if arguments.since and not moments:
        parser.error("--since goes with --every, --at-scan-boundary or --end")
    if arguments.trace and not arguments.since and Path(arguments.trace).exists():
        parser.error(f"argument --trace: {arguments.trace} already exists and is not overwritten")
    if bool(arguments.key) != bool(arguments.trace and (arguments.save_start or arguments.since)):
        parser.error("--key goes with --trace and --save-start, and with --trace and --since")
    if arguments.every == 0:
        parser.error("argument --every: must be more than 0")
    if moments != (arguments.seconds is not None):
        parser.error("--seconds goes with --every, --at-scan-boundary or --end")
    if len(dict(arguments.process)) < len(arguments.process):
        parser.error("argument --process: a name is given twice")
    if arguments.start > time.monotonic() + MAX_AHEAD:
        parser.error(f"argument --start: more than {MAX_AHEAD} s ahead")
    return arguments


def count(arguments, key=None):
    """Execute the command line; return the exit status."""
    processes = [Process(name, pid) for name, pid in arguments.process]
    keep = bool(arguments.every or arguments.at_scan_boundary)
    start = Start.read(arguments.since, processes) if arguments.since else None
    output = Output(arguments.output)
    try:
        trace = Trace(arguments.trace, key) if arguments.trace else None
        census = Census(processes, arguments.pause, keep, start, trace)
        if arguments.save_start:
            save_start(output, census.take("start"), census.guests)
            if trace:
                key.save(trace.hashes)
            return 0
        if key:
            key.path.unlink()
        status = 0
        if arguments.seconds is None:
            output.write(**census.take("now"))
        else:
            status = count_at_moments(arguments, census, output)
        if trace:
            trace.end()
        return status
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
    if census.start:
        output.write(**census.start.line)
        census.taken = 1
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
    """Return the members of the header line."""
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


def with_its_seed(arguments):
    """Start this program again if hashes do not have the right seed; return the key of a trace.

    The seed is random, except that a trace must have that of its census of the start.
    """
    now, ours = os.environ.pop("PYTHONHASHSEED", "random"), os.environ.pop(SEEDED, None)
    if not arguments.key:
        if now == "random":
            return None
    else:
        new = arguments.save_start and ours is None
        key = Key.make(arguments.key) if new else Key(arguments.key)
        if now == ours == str(key.seed):
            return key
        os.environ["PYTHONHASHSEED"] = os.environ[SEEDED] = str(key.seed)
    return os.execv(sys.executable, [sys.executable, *sys.argv])


def complain(message):
    """Report an error to the user."""
    print(f"ksm_census.py: error: {message}", file=sys.stderr)


def main(argv=None):
    """Run the command line; return the exit status."""
    arguments = parse_arguments(argv)
    try:
        if sys.hash_info.width < HASH_BITS:
            bits = sys.hash_info.width
            raise Unusable(f"this Python's hashes have {bits} bits, too few to tell pages apart")
        return count(arguments, with_its_seed(arguments))
    except Unusable as error:
        complain(error)
        return EXIT_UNUSABLE


if __name__ == "__main__":
    sys.exit(main())
