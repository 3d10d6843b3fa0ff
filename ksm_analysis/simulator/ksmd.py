"""ksmd as it is in Linux 6.11 to 6.18, for memory whose contents are known.

Source of all rules: mm/ksm.c. What makes it fast: within a full scan, ksmd looks at a page once,
and pages of different contents do not affect each other. So a run of pages is handled by operations
on arrays, content by content. Only contents that need an order are handled one after the other:
those with several frames (max_page_sharing), and those of whose merged pages some were written to.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ksm_analysis.simulator.tree import Tree

Ints = npt.NDArray[np.int32]
Bytes = npt.NDArray[np.uint8]
Places = npt.NDArray[np.int64]

ZERO = 0
"""The content of a page full of zeros."""
CHUNK = 2**19  # pages handled at once: temporary arrays take about 100 bytes for each
NEVER = -(2**31)
"""Not a content: the page is not in memory, or ksmd has not looked at it."""
GONE = -2  # instead of a page of the unstable tree
NONE, CHAIN = -1, -2  # instead of a frame: there is none; there are several, in chain CHAIN - value

# What ksmd knows of a page: it has an rmap_item, which is in the unstable tree, or in the stable
# tree; the page is mapped to a merged frame, or to the zero page; it is not in memory; it is part
# of a huge page; it was one of zeros when its huge page was split, which no counter of KSM has.
ITEM, UNSTABLE, STABLE, MERGED, ZEROED, ABSENT, HUGE, EMPTIED = (np.uint8(2**n) for n in range(8))
TREES, NOT_ANONYMOUS = UNSTABLE | STABLE, ZEROED | ABSENT | EMPTIED
HUGE_PAGE = 512  # pages

SKIPS = np.array([1] * 4 + [2] * 2 + [4] * 3 + [8] * 247, dtype=np.uint8)  # by age
YOUNG, OLDEST = 3, 255  # scans: no page is skipped that is younger; an age is a byte

KNOBS = {
    "run": 0,
    "pages_to_scan": 100,
    "sleep_millisecs": 20,
    "smart_scan": 1,
    "use_zero_pages": 0,
    "max_page_sharing": 256,
    "stable_node_chains_prune_millisecs": 2000,
}
LIMITS = {
    **dict.fromkeys(KNOBS, (0, 2**32 - 1)),
    "run": (0, 2),
    "smart_scan": (0, 1),
    "use_zero_pages": (0, 1),
    "max_page_sharing": (2, 2**31 - 1),
}
"""The lowest and the highest value that the kernel takes."""
EMPTY = 5e-5
"""Seconds that a scan takes at least, about: it passes over all processes."""


def accepted(name: str, value: object) -> bool:
    """Whether the kernel takes a value of this knob."""
    low, high = LIMITS[name]
    return str(value).isdecimal() and low <= int(str(value)) <= high


class Costs(NamedTuple):
    """CPU seconds of ksmd for a page, by what happens to it.

    Measured with Linux 6.18 in a virtual machine: means of many pages, trees included.
    """

    changed: float = 1.13e-6  # it is new, or has another checksum than when it was last looked at
    merged: float = 0.57e-6  # it is merged already
    alone: float = 5.5e-6  # no equal page is found, and it is put into the unstable tree
    merging: float = 4.55e-6  # it is merged, with a page or with the zero page
    skipped: float = 0.29e-6  # smart_scan skips it


Watch = Callable[[Places, Places, int, int], None]
"""Is told of pages that ksmd has looked at: those that have changed, those that rest, the first
frame that is new, and how many were put into the unstable tree."""


@dataclass(eq=False)
class Process:
    """A process with mergeable memory: `size` pages from `start` on, of all pages of the host.

    `huge` is whether they were in huge pages when it came.
    """

    name: str
    start: int
    size: int
    huge: bool = False
    ended: bool = False

    @property
    def pages(self) -> slice:
        """Where its pages are."""
        return slice(self.start, self.start + self.size)


@dataclass
class Chain:
    """The frames of a content that has several, as the kernel lists them; the last is its first."""

    number: int
    frames: list[int]
    pruned: float  # when all of them were looked at


@dataclass(eq=False)
class Ksmd:
    """KSM of a host.

    A content is a number: 0 is a page of zeros, a positive number one that several pages may have
    (there is a table of all of them, so they should be small), and a negative number that of a
    single page, ever. A page that was never written has NEVER. Times are in seconds.

    With `key`, which returns a number for each content in the order of their bytes, the trees have
    their shapes, and all pages are looked for in their order: about a hundred times slower, but
    then also what a search meets on its way is as in the kernel. Chains of frames end there, and
    pages that have changed since they were put into the unstable tree mislead it.
    """

    knobs: dict[str, int] = field(default_factory=lambda: dict(KNOBS))
    costs: Costs = field(default_factory=Costs)
    key: Callable[[int], int] | None = None
    between: Callable[[], None] | None = None  # called after each full scan
    watch: Watch | None = None  # called with pages that were looked at
    hz: int | None = None  # ticks a second, at which sleeps end; without, they end when they should
    wake: float = 0.0  # more CPU seconds of each batch, unless all its pages are merged already
    clock: float = 0.0
    cpu: float = 0.0
    full_scans: int = 0
    scanned: int = 0
    skipped: int = 0
    broken: int = 0  # merged pages that were written to
    pages: int = 0  # of all processes, in memory
    shared: int = 0
    sharing: int = 0
    unshared: int = 0
    zero_pages: int = 0
    emptied: int = 0  # pages of zeros that splits of huge pages have freed
    items: int = 0
    chains: dict[int, Chain] = field(default_factory=dict)
    processes: list[Process] = field(default_factory=list)  # in the order of the scan

    def __post_init__(self) -> None:
        self.cursor, self.page = -1, 0  # between two scans, the cursor is before all processes
        # when ksmd goes on; pages that are left of its batch, seconds that it has taken so far, and
        # whether one of its pages was looked at
        self.due, self.left, self.spent, self.woken = 0.0, 0, 0.0, False
        self.used, self.free = 0, dict[int, list[int]]()  # room in the arrays, by size
        self.content: Ints = np.empty(0, np.int32)
        self.checksum: Ints = np.empty(0, np.int32)  # the content when it was last looked at
        self.frame: Ints = np.empty(0, np.int32)  # that it is, or was, merged to
        self.flags: Bytes = np.empty(0, np.uint8)
        self.age: Bytes = np.empty(0, np.uint8)
        self.skips: Bytes = np.empty(0, np.uint8)
        # by content: its frame, NONE or CHAIN; its page in the unstable tree; marks
        self.stable: Ints = np.full(1, NONE, np.int32)
        self.unstable: Ints = np.full(1, NONE, np.int32)
        self.marked: Bytes = np.zeros(1, np.uint8)
        # by number of a chain: its first frame, and whether all others are known to be full
        self.chain_first: Ints = np.empty(0, np.int32)
        self.rest_full: npt.NDArray[np.bool_] = np.empty(0, bool)
        self.free_chains: list[int] = []
        self._plant()
        # by frame: its content, NONE if it is in no tree; rmap_items; pages that are mapped to it
        self.frames = 0
        self.frame_content: Ints = np.empty(0, np.int32)
        self.length: Ints = np.empty(0, np.int32)
        self.mapped: Ints = np.empty(0, np.int32)

    def _plant(self) -> None:
        """Make the trees with shapes, if they are asked for."""
        self.tree = Tree(self.key) if self.key else None
        self.waiting_tree = Tree(self._key_of_page)

    def _key_of_page(self, page: int) -> int:
        return self.key(int(self.content[page])) if self.key else 0

    # --- memory -----------------------------------------------------------------------------------

    def arrive(self, contents: npt.ArrayLike, name: str = "", huge: bool = False) -> Process:
        """Add a process; between two scans at the end, else just before the cursor.

        `huge`: all its pages are in huge pages, but for those that are left over.
        """
        found = self._known(contents)
        process = Process(name, self._place(len(found)), len(found), huge)
        at, absent = process.pages, found == NEVER
        self.content[at], self.flags[at] = found, np.where(absent, ABSENT, np.uint8(0))
        if huge:
            self.flags[at][: len(found) // HUGE_PAGE * HUGE_PAGE] |= HUGE
        self.pages += len(found) - int(np.count_nonzero(absent))
        if self.cursor < 0:
            self.processes.append(process)
        else:
            self.processes.insert(self.cursor, process)
            self.cursor += 1
        return process

    def leave(self, process: Process) -> None:
        """End a process. What ksmd knows of it is removed when ksmd comes to it, which is soon."""
        process.ended = True
        self.pages -= int(np.count_nonzero((self.flags[process.pages] & ABSENT) == 0))
        self._unmap(np.arange(process.start, process.start + process.size))
        flags = self.flags[process.pages]
        waits = process.start + np.flatnonzero(flags & UNSTABLE)
        waits = waits[self.checksum[waits] >= 0]
        ours = waits[self.unstable[self.checksum[waits]] == waits]
        self.unstable[self.checksum[ours]] = NONE
        index = self.processes.index(process)
        if index == self.cursor:
            return
        del self.processes[index]
        self.cursor -= index < self.cursor
        if (flags & ITEM).any():
            self.processes.insert(self.cursor + 1, process)
        else:
            self._release(process)

    def write(self, process: Process, pages: npt.ArrayLike, contents: npt.ArrayLike) -> None:
        """Write to pages of a process. Those that are merged get a frame of their own.

        A page whose content becomes NEVER is in memory no longer.
        """
        at: Places = process.start + np.asarray(pages, np.int64)
        found = self._known(contents)
        absent = np.broadcast_to(found == NEVER, at.shape)
        self.broken += int(np.count_nonzero(self.flags[at[~absent]] & MERGED))
        self.pages += int(np.count_nonzero(self.flags[at] & ABSENT)) - int(absent.sum())
        self._unmap(at)
        self.content[at] = found
        self.flags[at[absent]] |= ABSENT

    def _unmap(self, at: Places) -> None:
        flags = self.flags[at]
        self.zero_pages -= int(np.count_nonzero(flags & ZEROED))
        self.emptied -= int(np.count_nonzero(flags & EMPTIED))
        frames = self.frame[at[(flags & MERGED) != 0]]
        np.subtract.at(self.mapped, frames, 1)
        self.flags[at] = flags & ~(MERGED | ZEROED | ABSENT | EMPTIED)
        self._reopen(self.frame_content[frames])

    def _reopen(self, contents: Ints | int) -> None:
        """Note that frames of these contents may take pages again, or may be gone."""
        values = np.atleast_1d(self.stable[contents])
        self.rest_full[CHAIN - values[values <= CHAIN]] = False

    def _known(self, contents: npt.ArrayLike) -> Ints:
        """Return contents as numbers that the table of contents has."""
        found = np.asarray(contents, np.int32)
        most = int(found.max(initial=0))
        if most >= len(self.stable):
            self.reserve(0, max(most, len(self.stable) * 5 // 4))
        return found

    def _place(self, size: int) -> int:
        """Return where so many pages have room."""
        if self.free.get(size):
            return self.free[size].pop()
        start, self.used = self.used, self.used + size
        if self.used > len(self.content):
            self.reserve(max(self.used, len(self.content) * 5 // 4))
        return start

    def reserve(self, pages: int, contents: int = 0) -> None:
        """Make room for so many pages and contents, if it is known how many will come."""
        if pages > len(self.content):
            self.content = _grown(self.content, pages, 0)
            self.checksum = _grown(self.checksum, pages, NEVER)
            self.frame = _grown(self.frame, pages, NONE)
            self.flags = _grown(self.flags, pages, 0)
            self.age = _grown(self.age, pages, 0)
            self.skips = _grown(self.skips, pages, 0)
        if contents >= len(self.stable):
            self.stable = _grown(self.stable, contents + 1, NONE)
            self.unstable = _grown(self.unstable, contents + 1, NONE)
            self.marked = _grown(self.marked, contents + 1, 0)

    def _release(self, process: Process) -> None:
        self.free.setdefault(process.size, []).append(process.start)

    # --- counters ---------------------------------------------------------------------------------

    @property
    def saved(self) -> int:
        """Pages that are saved, as the kernel counts them."""
        return self.sharing + self.zero_pages

    @property
    def volatile(self) -> int:
        """Pages of which the kernel knows, and that are in no tree."""
        return max(0, self.items - self.shared - self.sharing - self.unshared)

    def counters(self) -> dict[str, int]:
        """Return the counters of /sys/kernel/mm/ksm, by name."""
        return {
            "full_scans": self.full_scans,
            "ksm_zero_pages": self.zero_pages,
            "pages_scanned": self.scanned,
            "pages_shared": self.shared,
            "pages_sharing": self.sharing,
            "pages_skipped": self.skipped,
            "pages_unshared": self.unshared,
            "pages_volatile": self.volatile,
            "stable_node_chains": len(self.chains),
            "stable_node_dups": sum(len(chain.frames) for chain in self.chains.values()),
        }

    def of(self, process: Process) -> dict[str, int]:
        """Return what the kernel counts of a process, in pages; resident are anonymous pages."""
        flags, frames = self.flags[process.pages], self.frame[process.pages]
        merging = (flags & STABLE) != 0
        return {
            "ksm_rmap_items": int(np.count_nonzero(flags & ITEM)),
            "ksm_zero_pages": int(np.count_nonzero(flags & ZEROED)),
            "ksm_merging_pages": int((self.frame_content[frames[merging]] != NONE).sum()),
            "resident_pages": int(np.count_nonzero((flags & NOT_ANONYMOUS) == 0)),
        }

    @property
    def freed(self) -> int:
        """Frames that are really saved: a page that was written to saves none, also before a scan.

        `saved` has it until ksmd comes by, and has nothing of what splits of huge pages free.
        """
        mapped = self.mapped[: self.frames]
        saved = int(mapped.sum() - np.count_nonzero(mapped))
        return saved + self.zero_pages + self.emptied

    def limit(self) -> int:
        """Return how many pages could be saved now, with these knobs."""
        there = [each.pages for each in self.processes if not each.ended]
        found = np.concatenate([np.empty(0, np.int32), *(self.content[each] for each in there)])
        flags = np.concatenate([np.empty(0, np.uint8), *(self.flags[each] for each in there)])
        split = (found == ZERO) & ((flags & (HUGE | EMPTIED)) != 0)
        found = found[~split]
        contents, numbers = np.unique(found[found != NEVER], return_counts=True)
        frames = -(-numbers // self.knobs["max_page_sharing"])
        if self.knobs["use_zero_pages"]:
            frames[contents == ZERO] = 0
        return int((numbers - frames).sum() + np.count_nonzero(split))

    # --- the thread -------------------------------------------------------------------------------

    def set(self, knobs: Mapping[str, int]) -> None:
        """Set knobs, as by writing to /sys/kernel/mm/ksm.

        Raises ValueError for an unknown one, and for max_page_sharing while anything is shared.
        """
        if unknown := knobs.keys() - KNOBS.keys():
            raise ValueError(f"unknown knobs: {', '.join(sorted(unknown))}")
        if knobs.get("max_page_sharing", self.knobs["max_page_sharing"]) != self.knobs[
            "max_page_sharing"
        ] and (self.shared or self.chains):
            raise ValueError("max_page_sharing can change only while nothing is shared")
        run = knobs.get("run", self.knobs["run"])
        if run != self.knobs["run"]:
            self._finish_batch()
            self.due = max(self.due, self.clock)
        self.knobs.update(knobs)
        if run == 2:
            self._unmerge()

    def _finish_batch(self) -> None:
        """Do what is left of a batch: a write to `run` waits for it."""
        if self.knobs["run"] == 1 and self.left:
            self.cpu += self._visit(self.left).seconds
        self.left, self.spent, self.woken = 0, 0.0, False

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        end = self.clock + seconds
        while self.knobs["run"] == 1 and self.processes and self.knobs["pages_to_scan"] > 0:
            if self.due >= end:
                break
            self.clock = max(self.clock, self.due)
            if not self._go_on(end - self.clock):  # or time would not pass without sleep
                self.due = max(self.due, self.clock + EMPTY)
        self.clock = end

    def _go_on(self, seconds: float) -> int:
        """Scan for some of the time: as many batches as certainly fit, or a part of one.

        Returns the number of pages that were visited.
        """
        pages, most = self.knobs["pages_to_scan"], max(self.costs)
        longest = self._sleep(0.0) + self.wake + pages * most
        batches = 0 if self.left else int(seconds / longest)
        self.left = self.left or pages
        part = max(1, int(seconds / most))
        found = self._visit(pages * batches if batches else min(self.left, part))
        # the batch that finds the end of the scan is over
        slept = found.visited // pages + 1 if batches and found.ended else batches
        wakes = min(slept if batches else int(not self.woken), found.looked)
        seconds = found.seconds + wakes * self.wake
        self.cpu += seconds
        self.due = self.clock + seconds
        if batches:
            self.due += slept * self._sleep(seconds / slept)
            self.left = 0
            return found.visited
        self.left -= found.visited
        self.spent, self.woken = self.spent + seconds, self.woken or wakes > 0
        if found.ended or self.left <= 0:
            self.left = 0
            self.due += self._sleep(self.spent)
            self.spent, self.woken = 0.0, False
        return found.visited

    def _sleep(self, batch: float) -> float:
        """Return how long ksmd sleeps after a batch of so many seconds.

        A timer counts whole ticks from the last one on, and ends at the one after.
        """
        asked = self.knobs["sleep_millisecs"] / 1000
        if not self.hz or not asked:
            return asked
        return (math.ceil(asked * self.hz) + 1 + int(batch * self.hz)) / self.hz - batch

    def batch(self) -> None:
        """Do one batch, at once."""
        self.cpu += self._visit(self.knobs["pages_to_scan"]).seconds

    def scan(self) -> None:
        """Scan to the end of a full scan, at once; without processes, do nothing."""
        self.cpu += self._visit(2**62).seconds
        self.left = 0

    def _visit(self, budget: int) -> "Visited":
        """Visit so many pages, or those that are left of this scan."""
        if not self.processes:
            return Visited(0, 0, 0.0, True)
        if self.cursor < 0:
            self.unstable.fill(NONE)
            self.waiting_tree = Tree(self._key_of_page)
            self.cursor = self.page = 0
        visited, looked, seconds = 0, 0, 0.0
        while visited < budget:
            if self.cursor == len(self.processes):
                self.cursor, self.full_scans = -1, self.full_scans + 1
                if self.between:
                    self.between()
                return Visited(visited, looked, seconds, True)
            process = self.processes[self.cursor]
            if process.ended:
                self._clean(process)
                del self.processes[self.cursor]
                self.page = 0
            elif self.page == process.size:
                self.cursor, self.page = self.cursor + 1, 0
            else:
                number, more, spent = self._chunk(process, budget - visited)
                visited, looked, seconds = visited + number, looked + more, seconds + spent
        return Visited(visited, looked, seconds, False)

    def _clean(self, process: Process) -> None:
        """Forget a process that has ended."""
        at = process.pages
        flags = self.flags[at]
        for page in [each for each in self.waiting_tree.nodes if at.start <= each < at.stop]:
            self.waiting_tree.erase(page)  # in the order in which they were put there
        self.unshared -= int(np.count_nonzero(flags & UNSTABLE))
        self.items -= int(np.count_nonzero(flags & ITEM))
        self._resolve(np.empty(0, np.int64), process.start + np.flatnonzero(flags & STABLE))
        self.flags[at] = 0
        self._release(process)

    def _chunk(self, process: Process, budget: int) -> tuple[int, int, float]:
        """Visit pages from the cursor on.

        Returns how many, how many of them were not merged before, and the CPU seconds.
        """
        low = process.start + self.page
        size = min(process.size - self.page, CHUNK, max(1024, 2 * budget))
        if process.huge:
            size = min(size, HUGE_PAGE - self.page % HUGE_PAGE)
        flags = self.flags[low : low + size]
        present = (flags & NOT_ANONYMOUS) == 0
        others = present & ((flags & MERGED) == 0)
        skipped = np.zeros(size, bool)
        if self.knobs["smart_scan"]:
            # an item that is still to come has age 0
            skipped = others & ((flags & ITEM) != 0)
            skipped &= (self.age[low : low + size] >= YOUNG) & (self.skips[low : low + size] > 0)
        visits = np.flatnonzero(present & ~skipped)
        if len(visits) >= budget:  # what follows waits for the next batch, also if it is skipped
            size = int(visits[budget - 1]) + 1
            visits = visits[:budget]
            flags, present, others = flags[:size], present[:size], others[:size]
            skipped = skipped[:size]
        self.page += size
        self.scanned += len(visits)
        self._keep_items(low, flags, present)
        if self.knobs["smart_scan"]:
            self._grow_older(low, others, skipped)
        seconds = np.count_nonzero(skipped) * self.costs.skipped
        trees = ((flags & MERGED) == 0) & ((flags & TREES) != 0)
        gone = low + np.flatnonzero(trees & ((flags & STABLE) != 0))
        self.unshared -= int(np.count_nonzero(flags[trees] & UNSTABLE))
        flags[trees] &= ~TREES
        looked = low + visits[others[visits]]
        same = self.checksum[looked] == self.content[looked]
        changed = looked[~same]
        self.checksum[changed] = self.content[changed]
        frame, rest, alone, passed = self.frames, looked[same], 0, 0
        if process.huge and len(rest) and self.flags[rest[0]] & HUGE:
            first = low - (low - process.start) % HUGE_PAGE
            alone, passed, rest = self._in_huge_page(first, rest)
        alone += self._resolve(self._zeroed(rest), gone)
        if self.watch:
            self.watch(changed, rest, frame, alone)
        merging = np.count_nonzero(same) - alone - passed
        self.scanned -= passed
        seconds += (
            len(changed) * self.costs.changed
            + (len(visits) - len(looked)) * self.costs.merged
            + alone * self.costs.alone
            + merging * self.costs.merging
        )
        return len(visits) - passed, len(looked), float(seconds)

    def _in_huge_page(self, first: int, pages: Places) -> tuple[int, int, Places]:
        """Look for equals of pages of a huge page, up to the one at which it is split.

        ksmd splits it as soon as it may merge one of its pages. Returns how many pages were put
        into the unstable tree, how many of zeros it then no longer meets, and those that are left.
        """
        contents = self.content[pages]
        zeros, shared = contents == ZERO, np.flatnonzero(contents >= 0)
        found = np.zeros(len(pages), bool)
        found[shared] = self.stable[contents[shared]] != NONE
        found[shared] |= self._waiting(contents[shared]) >= 0
        again = np.ones(len(shared), bool)
        again[np.unique(contents[shared], return_index=True)[1]] = False
        found[shared] |= again
        # a search that meets a page of zeros that was freed gives up
        blind = self.unstable[ZERO] != NONE and self._waiting(np.array([ZERO]))[0] == NONE
        found[zeros] &= not blind
        if self.knobs["use_zero_pages"]:
            found |= zeros
        split = int(np.argmax(found)) if found.any() else len(pages)
        before = pages[:split][~zeros[:split]] if blind else pages[:split]
        alone = self._resolve(before, pages[:0]) + split - len(before)
        if split == len(pages):
            return alone, 0, pages[:0]
        self._split(first)
        left, met = pages[split:], int(zeros[split])
        stays = (self.flags[left] & EMPTIED) == 0
        return alone + met, int(np.count_nonzero(~stays)) - met, left[stays]

    def _split(self, first: int) -> None:
        """Split a huge page: since Linux 6.12, its pages of zeros are mapped to the zero page."""
        at = slice(first, first + HUGE_PAGE)
        zeros = self.content[at] == ZERO
        self.flags[at] = self.flags[at] & ~HUGE | np.where(zeros, EMPTIED, np.uint8(0))
        self.emptied += int(np.count_nonzero(zeros))

    def _keep_items(self, low: int, flags: Bytes, present: npt.NDArray[np.bool_]) -> None:
        """Forget pages that are the zero page now, and get to know new ones."""
        has = (flags & ITEM) != 0
        lost, new = np.flatnonzero(has & ~present), low + np.flatnonzero(present & ~has)
        self.items += len(new) - len(lost)
        flags[lost] &= ~ITEM
        self.flags[new] |= ITEM
        self.checksum[new], self.age[new], self.skips[new] = NEVER, 0, 0

    def _grow_older(
        self, low: int, others: npt.NDArray[np.bool_], skipped: npt.NDArray[np.bool_]
    ) -> None:
        """Count the age of pages that are not merged, and how often they may be skipped."""
        self.skipped += int(np.count_nonzero(skipped))
        at = slice(low, low + len(others))
        age, skips = self.age[at], self.skips[at]
        skips[skipped] -= np.uint8(1)
        due = others & ~skipped & (age >= YOUNG)
        skips[due] = SKIPS[age[due]]
        age[others & (age < OLDEST)] += np.uint8(1)

    def _zeroed(self, pages: Places) -> Places:
        """Map pages of zeros to the zero page, if the knob says so; return the others."""
        if not self.knobs["use_zero_pages"]:
            return pages
        zero = self.content[pages] == ZERO
        self.flags[pages[zero]] |= ZEROED
        self.zero_pages += int(np.count_nonzero(zero))
        others: Places = pages[~zero]
        return others

    # --- trees ------------------------------------------------------------------------------------

    def _resolve(self, pages: Places, gone: Places) -> int:
        """Look for equals of `pages`, and take the items of `gone` out of the stable tree.

        Both are in the order in which ksmd comes to them; a page may be in both. Returns how many
        pages were put into the unstable tree.
        """
        if self.tree:
            return self._in_order(pages, gone)
        if len(gone):
            gone = gone[self.frame_content[self.frame[gone]] != NONE]
        contents = self.content[pages]
        single = pages[contents < 0]
        self._wait(single)
        alone = len(single)
        if len(single) and len(pages) > len(single):
            pages, contents = pages[contents >= 0], contents[contents >= 0]
        elif len(single):
            pages, contents = pages[:0], contents[:0]
        if not len(pages) and not len(gone):
            return alone
        keys = self.frame_content[self.frame[gone]]
        self.marked[keys] = 1
        order = np.argsort(contents, kind="stable")
        pages, contents = pages[order], contents[order]
        starts = np.flatnonzero(np.diff(contents, prepend=NEVER))
        groups = Groups(contents[starts], starts, np.diff(starts, append=len(pages)))
        waited, slow = self._merge_groups(pages, groups)
        alone += waited
        self.marked[keys[self.stable[keys] <= CHAIN]] = 2
        self.marked[slow.contents] = np.where(self.marked[slow.contents], 2, 0)
        ordered = self.marked[keys] == 2
        self.marked[keys], self.marked[slow.contents] = 0, 0
        self._remove(self.frame[gone[~ordered]])
        for content, one_by_one in _by_content(slow, pages, keys[ordered], gone[ordered]):
            alone += self._one_by_one(content, *one_by_one)
        return alone

    def _merge_groups(self, pages: Places, groups: "Groups") -> tuple[int, "Groups"]:
        """Merge groups of equal pages whose order does not matter.

        Returns how many pages were put into the unstable tree, and the groups that are left.
        """
        contents, sizes, most = groups.contents, groups.sizes, self.knobs["max_page_sharing"]
        frames, waiting = self.stable[contents], self._waiting(contents)
        quiet = self.marked[contents] == 0
        chained = quiet & (frames <= CHAIN)
        chained[chained] = self.rest_full[CHAIN - frames[chained]]
        frames[chained] = self.chain_first[CHAIN - frames[chained]]  # only it may take pages
        join = frames >= 0  # also if some leave a frame: others stay, and it never gets full
        join[join] &= self.mapped[frames[join]] > 0
        join[join] &= self.length[frames[join]] + sizes[join] <= most
        full = chained & ~join
        full[full] &= (self.mapped[frames[full]] > 0) & (self.length[frames[full]] >= most)
        new = quiet & (frames == NONE) | full
        single = new & (waiting < 0) & (sizes == 1)
        waits = waiting >= 0
        pair = new & ~single & (sizes + waits <= most)
        if join.any():
            self._append(frames[join], sizes[join])
            self._map(groups.pages(pages, join), np.repeat(frames[join], sizes[join]))
        self._wait(pages[groups.starts[single]])
        if pair.any():
            first = self._new_frames(contents[pair])
            longer = full[pair]
            self.stable[contents[pair][~longer]] = first[~longer]
            for content, frame in zip(contents[pair][longer], first[longer], strict=True):
                self._lengthen(self.chains[int(content)], int(frame))
            waited = waiting[pair & waits]
            self._append(first, sizes[pair] + waits[pair])
            self._map(groups.pages(pages, pair), np.repeat(first, sizes[pair]))
            self._take(waited, first[waits[pair]])
        alone = np.count_nonzero(single) + np.count_nonzero(pair & ~waits)
        return int(alone), groups.of(~(join | single | pair))

    def _waiting(self, contents: Ints) -> Ints:
        """Return the page of each content that is in the unstable tree; NONE if there is none.

        A page that was written to since it was put there is not equal any more.
        """
        found = self.unstable[contents].copy()
        there = found >= 0
        there[there] &= self.content[found[there]] == contents[there]
        there[there] &= (self.flags[found[there]] & EMPTIED) == 0
        found[~there] = NONE
        return found

    def _wait(self, pages: Places) -> None:
        """Put pages into the unstable tree."""
        self.flags[pages] |= UNSTABLE
        self.unshared += len(pages)
        contents = self.content[pages]
        shared = contents >= 0
        self.unstable[contents[shared]] = pages[shared]
        if self.key:
            for page in pages.tolist():
                self.waiting_tree.insert(page)

    def _take(self, pages: npt.NDArray[Any], frames: Ints) -> None:
        """Merge pages that are in the unstable tree."""
        self.unstable[self.content[pages]] = NONE
        if self.key:
            for page in pages.tolist():
                self.waiting_tree.erase(page)
        self.flags[pages] &= ~UNSTABLE
        self.unshared -= len(pages)
        for page in pages[(self.flags[pages] & HUGE) != 0].tolist():
            if self.flags[page] & HUGE:  # or it was split for another one
                self._split(self._huge_page_of(page))
        self._map(pages, frames)

    def _huge_page_of(self, page: int) -> int:
        """Return the first page of the huge page that a page is in."""
        start = next(
            each.start
            for each in self.processes
            if each.huge and each.start <= page < each.start + each.size
        )
        return page - (page - start) % HUGE_PAGE

    def _map(self, pages: npt.NDArray[Any], frames: npt.NDArray[Any] | int) -> None:
        """Let pages be mapped to frames, one for each page or one for all."""
        self.frame[pages] = frames
        self.flags[pages] |= STABLE | MERGED

    def _append(self, frames: Ints, numbers: npt.NDArray[Any]) -> None:
        """Count so many more pages of each frame."""
        self.shared += int(np.count_nonzero(self.length[frames] == 0))
        self.sharing += int(numbers.sum() - np.count_nonzero(self.length[frames] == 0))
        self.length[frames] += numbers.astype(np.int32)
        self.mapped[frames] += numbers.astype(np.int32)

    def _new_frames(self, contents: Ints) -> Ints:
        """Return new frames of these contents, without pages."""
        first, self.frames = self.frames, self.frames + len(contents)
        if self.frames > len(self.length):
            room = max(self.frames, len(self.length) * 5 // 4)
            self.length, self.mapped = _grown(self.length, room, 0), _grown(self.mapped, room, 0)
            self.frame_content = _grown(self.frame_content, room, NONE)
        self.frame_content[first : self.frames] = contents
        return np.arange(first, self.frames, dtype=np.int32)

    def _remove(self, frames: Ints) -> None:
        """Take items out of frames of contents that have one frame; a frame may be there twice."""
        found, numbers = np.unique(frames, return_counts=True)
        empty = self.mapped[found] == 0
        gone, left = found[empty], found[~empty]
        self.stable[self.frame_content[gone]] = NONE
        self.frame_content[gone] = NONE
        self.shared -= len(gone)
        self.sharing -= int((self.length[gone] - 1).sum()) + int(numbers[~empty].sum())
        self.length[gone] = 0
        self.length[left] -= numbers[~empty].astype(np.int32)

    # --- in the order of pages, with the shape of the tree ---------------------------------------

    def _in_order(self, pages: Places, gone: Places) -> int:
        """Do what _resolve does, page by page."""
        alone, looked, left = 0, {*pages.tolist()}, {*gone.tolist()}
        for page in sorted(looked | left):
            frame = int(self.frame[page])
            if page in left and self.frame_content[frame] != NONE:
                self._remove_one(int(self.frame_content[frame]), frame)
            if page in looked:
                alone += self._look(page)
        return alone

    def _look(self, page: int) -> int:
        """Look for an equal of a page; return whether it was put into the unstable tree."""
        content, itself = int(self.content[page]), np.array([page])
        self._meet(content, prune=True)
        if content >= 0:
            return self._join(content, itself)
        if self._find_waiting(content)[0] == NONE:
            self._wait(itself)
        return 1

    def _meet(self, content: int, prune: bool) -> None:
        """Search the tree: frames that nobody uses are dropped on the way, and chains end."""
        while self.tree and self.key:
            path = self.tree.path(self.key(content))
            if all(self._stays(met, prune) for met in path):
                return  # else begin again, since the tree has changed

    def _stays(self, content: int, prune: bool) -> bool:
        """Return whether a content that a search meets stays in the tree."""
        chain = self.chains.get(content)
        if chain is None:
            frame = int(self.stable[content])
            if not self.mapped[frame]:
                self._drop(content, frame)
            return bool(self.stable[content] != NONE)
        if self.rest_full[chain.number] and len(chain.frames) > 1:
            return True
        return self._walk(content, prune) != NONE

    # --- one by one -------------------------------------------------------------------------------

    def _one_by_one(self, content: int, pages: Places, gone: Places) -> int:
        """Do what _resolve does for the pages of one content, in their order."""
        alone, done = 0, 0
        for page in gone:
            before = int(np.searchsorted(pages, page))
            alone += self._join(content, pages[done:before])
            self._remove_one(content, int(self.frame[page]))
            done = before
        return alone + self._join(content, pages[done:])

    def _remove_one(self, content: int, frame: int) -> None:
        if self.frame_content[frame] == NONE:
            return
        if not self.mapped[frame]:
            self._drop(content, frame)
            return
        self.length[frame] -= 1
        self.sharing -= 1
        self._reopen(content)

    def _drop(self, content: int, frame: int) -> None:
        """Take a frame that no page is mapped to out of the tree."""
        self.shared -= 1
        self.sharing -= int(self.length[frame]) - 1
        self.length[frame], self.frame_content[frame] = 0, NONE
        if content in self.chains:
            self._reopen(content)
            chain = self.chains[content]
            chain.frames.remove(frame)
            self.chain_first[chain.number] = chain.frames[-1] if chain.frames else NONE
        else:
            self._forget(content)

    def _forget(self, content: int) -> None:
        """Take a content that has no frame any more out of the tree."""
        self.stable[content] = NONE
        if self.tree:
            self.tree.erase(content)

    def _join(self, content: int, pages: Places) -> int:
        """Merge equal pages one after the other; return how many the unstable tree got."""
        most, alone, done = self.knobs["max_page_sharing"], 0, 0
        while done < len(pages):
            frame = self._search(content)
            if frame is not None:
                some = pages[done : done + most - int(self.length[frame])]
                self._append(np.array([frame], np.int32), np.array([len(some)]))
                self._map(some, frame)
                done += len(some)
                continue
            waiting = self._find_waiting(content)
            if waiting[0] < 0:
                alone += 1
                if waiting[0] == NONE:
                    self._wait(pages[done : done + 1])
            else:
                new = self._new_frames(np.array([content], np.int32))
                self._insert(content, int(new[0]))
                self._append(new, np.array([2]))
                self._map(pages[done : done + 1], new)
                self._take(waiting, new)
            done += 1
        return alone

    def _find_waiting(self, content: int) -> Ints:
        """Return the page in the unstable tree that is equal; NONE if there is none.

        GONE if the search meets a page of a process that has ended: then it is given up.
        """
        if not self.key:
            return self._waiting(np.array([content], np.int32))
        met, key = NONE, self.key(content)
        ended = [each for each in self.processes if each.ended]
        for met in self.waiting_tree.path(key):
            if any(each.start <= met < each.start + each.size for each in ended):
                return np.array([GONE], np.int32)
        equal = met != NONE and self._key_of_page(met) == key
        return np.array([met if equal else NONE], np.int32)

    def _takes(self, frame: int, more: int = 0) -> bool:
        """Whether a frame can take another page, after so many more."""
        length = int(self.length[frame])
        return length > 0 and length + more < self.knobs["max_page_sharing"]

    def _search(self, content: int) -> int | None:
        """Return the frame that a page merges with; None if there is none."""
        chain = self.chains.get(content)
        if chain is None:
            frame = int(self.stable[content])
            if frame >= 0 and not self.mapped[frame]:
                self._drop(content, frame)
                frame = NONE
        elif self.rest_full[chain.number]:
            frame = chain.frames[-1]
        else:
            frame = self._walk(content, prune=True)
        return frame if frame >= 0 and self._takes(frame) else None

    def _insert(self, content: int, frame: int) -> None:
        """Put a new frame into the stable tree, if no frame that is there can take a page."""
        self._meet(content, prune=False)
        chain = self.chains.get(content)
        if chain is not None and not self.rest_full[chain.number]:
            self._walk(content, prune=False)
            chain = self.chains.get(content)
        first = int(self.stable[content])
        if first == NONE:
            self.stable[content] = frame
            if self.tree:
                self.tree.insert(content)
            return
        if chain is None:
            chain = self.chains[content] = Chain(self._chain_number(), [first], self.clock)
            self.stable[content] = CHAIN - chain.number
            self.rest_full[chain.number] = True  # or the page would not need a new frame
        self._lengthen(chain, frame)

    def _chain_number(self) -> int:
        """Return the number of a new chain."""
        if not self.free_chains:
            count = len(self.chain_first)
            more = max(64, count // 4)
            self.chain_first = _grown(self.chain_first, count + more, NONE)
            self.rest_full = _grown(self.rest_full, count + more, 0)
            self.free_chains.extend(range(count, count + more))
        return self.free_chains.pop()

    def _lengthen(self, chain: Chain, frame: int) -> None:
        """Make a new frame the first of a chain."""
        chain.frames.append(frame)
        self.chain_first[chain.number] = frame

    def _walk(self, content: int, prune: bool) -> int:
        """Return the frame of a chain that is best for another page; NONE if none is left.

        Frames that no page is mapped to are dropped. A chain that is left with one frame ends. All
        frames are looked at only now and then, by time.
        """
        chain = self.chains[content]
        wait = self.knobs["stable_node_chains_prune_millisecs"] / 1000
        prune = prune and self.clock >= chain.pruned + wait
        if prune:
            chain.pruned = self.clock
        best, gone, others = NONE, [], False
        for frame in reversed(chain.frames):
            if not self.mapped[frame]:
                gone.append(frame)
            elif best == NONE or (
                self._takes(frame)
                and (not self._takes(best) or self.length[frame] > self.length[best])
            ):
                best = frame
                if self._takes(best) and not prune:
                    others = True  # which are not looked at
                    break
        for frame in gone:
            self._drop(content, frame)
        if len(chain.frames) <= 1:
            self.stable[content] = best
            self.free_chains.append(self.chains.pop(content).number)
            if best == NONE:
                self._forget(content)
        elif chain.frames[-1] != best and self._takes(best, 1):
            chain.frames.remove(best)
            self._lengthen(chain, best)
        elif not others and not self._takes(best):
            self.rest_full[chain.number] = True
        return best

    def _unmerge(self) -> None:
        """Unmerge all pages, and forget them, as run=2 does."""
        for process in [each for each in self.processes if each.ended]:
            self.processes.remove(process)
            self._release(process)
        self.flags &= ABSENT | HUGE | EMPTIED
        self.length.fill(0)
        self.mapped.fill(0)
        self.frame_content.fill(NONE)
        self.stable.fill(NONE)
        self.unstable.fill(NONE)
        self.free_chains.extend(chain.number for chain in self.chains.values())
        self.chains.clear()
        self._plant()
        self.frames = 0
        self.shared = self.sharing = self.unshared = self.zero_pages = self.items = 0
        self.full_scans, self.cursor, self.page = 0, -1, 0


class Visited(NamedTuple):
    """How many pages were visited, in which CPU time, and whether that was the end of a scan.

    `looked`: pages of them that were not merged before.
    """

    visited: int
    looked: int
    seconds: float
    ended: bool


class Groups(NamedTuple):
    """Groups of equal pages in an array that is sorted by content."""

    contents: Ints
    starts: Places
    sizes: Places

    def of(self, chosen: npt.NDArray[np.bool_]) -> "Groups":
        """Return some of them."""
        return Groups(self.contents[chosen], self.starts[chosen], self.sizes[chosen])

    def pages(self, pages: Places, chosen: npt.NDArray[np.bool_]) -> Places:
        """Return the pages of some of them."""
        chosen_pages: Places = pages[np.repeat(chosen, self.sizes)]
        return chosen_pages


def _by_content(
    slow: Groups, pages: Places, keys: Ints, gone: Places
) -> Iterable[tuple[int, tuple[Places, Places]]]:
    """Yield each content with its pages and those that are gone."""
    ranges = zip(slow.starts, slow.sizes, strict=True)
    starts = dict(zip(slow.contents.tolist(), ranges, strict=True))
    order = np.argsort(keys, kind="stable")
    keys, gone = keys[order], gone[order]
    for content in sorted({*starts, *keys.tolist()}):
        start, size = starts.get(content, (0, 0))
        low, high = np.searchsorted(keys, [content, content + 1])
        yield content, (pages[start : start + size], gone[low:high])


def _grown(array: npt.NDArray[Any], size: int, value: int) -> npt.NDArray[Any]:
    """Return an array of that size with the same values, and others at its end."""
    grown = np.full(size, value, array.dtype)
    grown[: len(array)] = array
    return grown
