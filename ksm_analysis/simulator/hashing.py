"""What ksmd compares in its trees, and what hashes would take instead.

Counts are those of the simulated ksmd: how many pages it hashes, looks for, and merges. What a
search compares is computed for a sample of the pages that are looked for: where contents first
differ is known from the trace. Trees are taken as balanced. docs/hashing.md has the results.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from ksm_analysis.simulator.ksmd import MERGED, NONE, UNSTABLE, Ints, Ksmd, Places

Floats = npt.NDArray[np.float64]
Marks = npt.NDArray[np.bool_]
PAGE = 4096
SAMPLE = 10_000  # searches of a scan, about
CACHED = 4096  # nodes of a tree that are in the cache: those that most searches meet
NODE, ITEM = 128, 72  # bytes that a search reads: item and page; bucket and item of a table
STRONG, CHECKSUM, BUCKET = 32, 4, 8  # bytes of a hash, of a checksum, of a bucket of a table
SEGMENT = 256  # pages
ALGORITHMS = ("trees", "index", "hashes", "kept")


class Prices(NamedTuple):
    """CPU time in nanoseconds, as bench/hashing.py measures it."""

    equal: tuple[int, ...] = (0, 8, 32, 128, 512, 2048, 4088)  # leading bytes that are equal
    warm: tuple[float, ...] = (2.4, 2.4, 3.0, 9.5, 40.0, 150.0, 327.0)  # to compare so many
    cold: tuple[float, ...] = (174.0, 174.0, 174.0, 268.0, 538.0, 793.0, 987.0)
    checksum: float = 1277.0  # of a page that is not in the cache
    strong: float = 3485.0  # SHA-256 of such a page
    strong_warm: float = 2616.0  # the same of a page that is in the cache
    look_up: float = 242.0  # in a table that is not in the cache
    look_up_warm: float = 7.8


PRICES = Prices()


class Tree:
    """How many nodes a tree has of each content of a trace, in the order of memcmp."""

    def __init__(self, counts: Places) -> None:
        self.counts = counts
        self.before: Places = np.concatenate([[0], np.cumsum(counts)])
        self.size = int(self.before[-1])

    def places(self, ranks: Places, there: Marks, random: np.random.Generator) -> Places:
        """Return the places of contents of these ranks; if not `there`: where they would come."""
        choices = np.maximum(self.counts[ranks] + ~there, 1)
        found: Places = self.before[ranks] + (random.random(len(ranks)) * choices).astype(np.int64)
        return found


class Met(NamedTuple):
    """What searches meet: sums of nodes, of those not in the cache, compared bytes, nanoseconds."""

    nodes: float = 0.0
    far: float = 0.0
    compared: float = 0.0
    nanoseconds: float = 0.0

    def plus(self, other: "Met") -> "Met":
        """Return the sum of both."""
        return Met(*(one + more for one, more in zip(self, other, strict=True)))

    def times(self, factor: float) -> "Met":
        """Return so many times as much."""
        return Met(*(each * factor for each in self))


class Order:
    """Where contents of a trace first differ, by their ranks.

    Contents of several guests that stand for the same one of the trace differ where that one
    differs from the neighbour that is most like it.
    """

    def __init__(self, order: pd.DataFrame) -> None:
        self.rank: Places = order["rank"].to_numpy(np.int64)
        lcp = order.sort_values("rank")["lcp"].to_numpy(np.int32)
        self.own = np.minimum(np.maximum(lcp, np.append(lcp[1:], 0)), PAGE - 1)
        rows = [lcp]  # row k: the least of 2 ** k that follow each other
        while (step := 2 ** (len(rows) - 1)) * 2 <= len(lcp):
            rows.append(np.append(np.minimum(rows[-1][:-step], rows[-1][step:]), lcp[:step]))
        self.least = np.stack(rows)

    def common(self, one: Places, other: Places) -> Places:
        """Return how many leading bytes different contents have in common."""
        low, high = np.minimum(one, other), np.maximum(one, other)
        size = np.maximum(high - low, 1)
        row = np.frexp(size)[1] - 1
        between = np.minimum(
            self.least[row, np.minimum(low + 1, high)], self.least[row, high - 2**row + 1]
        )
        found: Places = np.where(one == other, self.own[one], between)
        return found

    def search(self, tree: Tree, ranks: Places, there: Marks, random: np.random.Generator) -> Met:
        """Search a tree for contents of these ranks; `there`: which of them are in it."""
        places, met, depth = tree.places(ranks, there, random), Met(), 0
        low, high = np.zeros(len(ranks), np.int64), np.full(len(ranks), tree.size)
        while (at := np.flatnonzero(low < high)).size:
            middle = (low[at] + high[at]) // 2
            found = there[at] & (middle == places[at])
            nodes = np.searchsorted(tree.before, middle, side="right") - 1
            equal = np.where(found, PAGE, self.common(ranks[at], nodes))
            far = 2**depth >= CACHED
            prices = np.interp(equal, PRICES.equal, PRICES.cold if far else PRICES.warm)
            compared = np.minimum(equal + 1, PAGE).sum()
            met = met.plus(Met(len(at), len(at) * far, float(compared), float(prices.sum())))
            right = middle < places[at]
            low[at] = np.where(found, high[at], np.where(right, middle + 1, low[at]))
            high[at] = np.where(right | found, high[at], middle)
            depth += 1
        return met


class Counted(NamedTuple):
    """A full scan, in pages. `stable`, `waiting`: what is in the trees at its end."""

    scanned: int = 0  # looked at
    hashed: int = 0  # of which the checksum was taken
    fresh: int = 0  # at rest for the first time since a change
    searches: int = 0  # looked for in the stable tree
    joined: int = 0  # merged with a frame that was there
    pairs: int = 0  # merged with a page of the unstable tree
    inserted: int = 0  # put into the unstable tree
    stable: int = 0
    items: int = 0
    pages: int = 0


class Hashing:
    """Counts what the searches of ksmd compare, scan by scan."""

    def __init__(self, ksmd: Ksmd, order: pd.DataFrame, contents: Callable[[Ints], Ints]) -> None:
        """`contents`: returns the contents of the trace of those that pages have."""
        self.ksmd, self.order, self.contents = ksmd, Order(order), contents
        self.random = np.random.default_rng(1)
        self.rests = np.zeros(len(ksmd.content), bool)  # pages whose hash is known
        self.expected, self.since = len(ksmd.content), 0.0
        ksmd.watch = self.see
        self._begin()

    def _begin(self) -> None:
        ksmd = self.ksmd
        self.counted = Counted(scanned=-ksmd.scanned)
        there = np.flatnonzero(ksmd.stable != NONE).astype(np.int32)
        self.stable, self.waiting = self._tree(there), Tree(np.zeros_like(self.order.rank))
        self.growth, self.behind = np.zeros_like(self.order.rank), 0  # of the unstable tree
        # of the stable tree, and of the unstable one: searches to do, their number, their sum
        nothing = (np.empty(0, np.int64), np.empty(0, bool))
        self.asked = [[nothing], [nothing]]
        self.sampled, self.met = [0, 0], [Met(), Met()]

    def _ranks(self, contents: Ints) -> Places:
        return self.order.rank[self.contents(contents)]

    def _tree(self, contents: Ints) -> Tree:
        return Tree(np.bincount(self._ranks(contents), minlength=len(self.order.rank)))

    def see(self, changed: Places, rest: Places, frame: int, alone: int) -> None:
        """Count pages that ksmd has looked at; frames from `frame` on are new."""
        ksmd, known = self.ksmd, self.rests
        merged = (ksmd.flags[rest] & MERGED) != 0
        joined = merged & (ksmd.frame[rest] < frame)
        known[changed] = False
        new = int(np.count_nonzero(~known[rest]))
        known[rest] = True
        more = Counted(
            hashed=len(changed) + len(rest),
            fresh=new,
            searches=len(rest),
            joined=int(joined.sum()),
            pairs=ksmd.frames - frame,
            inserted=alone,
        )
        self.counted = Counted(*map(sum, zip(self.counted, more, strict=True)))
        self._sample(rest, merged, joined)

    def _sample(self, rest: Places, merged: Marks, joined: Marks) -> None:
        chosen = self.random.random(len(rest)) * self.expected < SAMPLE
        contents = self.ksmd.content[rest]
        full = (contents >= 0) & ~merged
        full[full] = self.ksmd.stable[contents[full]] != NONE
        ranks = np.zeros(len(rest), np.int64)
        waits = (self.ksmd.flags[rest] & UNSTABLE) != 0
        needed = chosen | waits
        ranks[needed] = self._ranks(contents[needed])
        self.asked[0].append((ranks[chosen], (joined | full)[chosen]))
        begin = 0
        while begin < len(rest):
            at = slice(begin, begin + self._room() - self.behind)
            some = chosen[at] & ~joined[at]
            self.asked[1].append((ranks[at][some], merged[at][some]))
            self.growth += np.bincount(ranks[at][waits[at]], minlength=len(self.growth))
            self.behind += len(some)
            begin = at.stop
            if self.behind >= self._room():
                self._grow()

    def _room(self) -> int:
        """Return for how many pages the unstable tree is taken as it was before them."""
        return max(SEGMENT, self.waiting.size // 8)

    def _grow(self) -> None:
        self._search(1, self.waiting)
        self.waiting = Tree(self.waiting.counts + self.growth)
        self.growth, self.behind = np.zeros_like(self.growth), 0

    def _search(self, which: int, tree: Tree) -> None:
        """Do the searches in one of the trees that have been asked for."""
        ranks, there = (np.concatenate(each) for each in zip(*self.asked[which], strict=True))
        self.asked[which].clear()
        self.sampled[which] += len(ranks)
        met = self.order.search(tree, ranks, there, self.random)
        self.met[which] = self.met[which].plus(met)

    def scanned(self) -> Iterator[dict[str, object]]:
        """Yield what a full scan took that has just ended, as metrics of a run."""
        ksmd, found = self.ksmd, self.counted
        self._search(0, self.stable)
        self._search(1, self.waiting)
        found = found._replace(
            scanned=found.scanned + ksmd.scanned,
            stable=ksmd.shared,
            items=ksmd.items,
            pages=ksmd.pages,
        )
        stable, unstable = (
            met.times(1 / max(1, number))
            for met, number in zip(self.met, self.sampled, strict=True)
        )
        times = {"at": ksmd.clock, "since": self.since}
        for name, unit, value in metrics(found, stable, unstable):
            yield {**times, "metric": name, "value": value, "unit": unit, "better": "lower"}
        self.expected, self.since = found.searches or ksmd.pages, ksmd.clock
        self._begin()


def metrics(found: Counted, stable: Met, unstable: Met) -> Iterator[tuple[str, str, float]]:
    """Yield metrics of a scan: name, unit, value. `stable`, `unstable`: the mean of a search.

    trees   as in Linux: a checksum tells whether a page has changed, and trees are in the order of
            memcmp
    index   the same checksum is the key of two hash tables
    hashes  a strong hash instead of the checksum, and trees in the order of hashes
    kept    the checksum, and a strong hash only of pages that rest for the first time; it is kept
    """
    other = found.searches - found.joined  # looked for in the unstable tree, too
    merged = found.joined + found.pairs
    again = stable.times(found.pairs)  # to put the frame of a pair into the stable tree
    met = stable.times(found.searches).plus(unstable.times(other)).plus(again)
    verified, waiting = merged * PAGE, found.inserted
    near = met.nodes - met.far
    by_hash = near * PRICES.warm[0] + met.far * PRICES.look_up / 2
    table = _look_up(found.stable) * (found.searches + found.pairs) + _look_up(waiting) * other
    first = merged * PRICES.cold[-1]  # the page that it is equal to is not in the cache
    compared = {
        "trees": met.compared + verified,
        "index": verified + (found.stable + waiting) / 2**32 * PAGE * other,
        "hashes": verified + BUCKET * met.nodes,
        "kept": verified + BUCKET * met.nodes,
    }
    hashed = dict.fromkeys(ALGORITHMS, float(found.hashed)) | {"kept": found.hashed + found.fresh}
    checksums = found.hashed * PRICES.checksum
    cpu = {
        "trees": checksums + met.nanoseconds + merged * PRICES.warm[-1],
        "index": checksums + table + first,
        "hashes": found.hashed * PRICES.strong + by_hash + first,
        "kept": checksums + found.fresh * PRICES.strong_warm + by_hash + first,
    }
    memory = {
        "trees": 0,
        "index": CHECKSUM * found.stable + BUCKET * (found.stable + waiting),
        "hashes": (STRONG - CHECKSUM) * found.items + STRONG * found.stable,
        "kept": STRONG * (found.items + found.stable),
    }
    for name in ALGORITHMS:
        yield f"{name}_compared", "B a page scanned", compared[name] / max(1, found.scanned)
        yield f"{name}_hashed", "B a page scanned", hashed[name] * PAGE / max(1, found.scanned)
        yield f"{name}_cpu", "ns a page scanned", cpu[name] / max(1, found.scanned)
        yield f"{name}_memory", "B a page", memory[name] / max(1, found.pages)
    yield "nodes_searched", "a page looked for", met.nodes / max(1, found.searches)
    yield "pages_looked_for", "% of those scanned", 100 * found.searches / max(1, found.scanned)


def _look_up(items: int) -> float:
    """Return nanoseconds of looking into a table: as much of it is cached as of a tree."""
    warm = min(1.0, CACHED * NODE / ITEM / max(1, items))
    return warm * PRICES.look_up_warm + (1 - warm) * PRICES.look_up
