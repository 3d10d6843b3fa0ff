"""Guests drawn from a trace: their pages, and how these change.

The guests of a trace are its processes; workers of a process belong to it. A content that several
of them had is shared, and so are zeros: all that are drawn have the same. Any other content is
private: each draw has one of its own, as often as the guest of the trace has it.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ksm_analysis.errors import InputError
from ksm_analysis.results import traces
from ksm_analysis.results.traces import Trace
from ksm_analysis.simulator.hashing import Hashing
from ksm_analysis.simulator.ksmd import ABSENT, NEVER, ZERO, Ints, Places, Process
from ksm_analysis.simulator.memory import Actor, World

STEP = 0.1  # seconds between writes
FRESH = 10  # contents of a page that is written again and again: smart_scan skips up to 8 scans
WORKER = re.compile(r"-w\d+$")


@cache
def read(name: str) -> "tuple[Trace, list[Traced]]":
    """Return a trace of the package, or of a directory, and its guests. Raises InputError."""
    shipped = traces.shipped()
    path = shipped.get(name, Path(name))
    if not os.path.isdir(path):  # noqa: PTH112 - a name that is too long is no error for it
        there = ", ".join(shipped)
        raise InputError(
            f"no trace of the package, and no directory, is called {name}. Those of the package "
            f"are {there}"
        )
    trace = traces.read_trace(path)
    if not (guests := traced_guests(trace)):
        raise InputError(f"no process in {name} has a page in memory")
    return trace, guests


@dataclass(frozen=True, eq=False)
class Traced:
    """A guest of a trace. `pages`: its contents, moments x pages, of each of its processes.

    Contents are those of the trace; NEVER: not in memory.
    """

    pages: list[Ints]

    @property
    def size(self) -> int:
        """Number of its pages."""
        return sum(each.shape[1] for each in self.pages)

    @cached_property
    def restless(self) -> list[Places]:
        """Which pages of each process had another content at each of three moments or more."""
        return [
            np.flatnonzero((np.diff(pages, axis=0) != 0).all(axis=0) & (len(pages) > 2))
            for pages in self.pages
        ]

    @cached_property
    def calm(self) -> list[Ints]:
        """The same as `pages`, but for the contents of those that are restless: one each."""
        found = [pages.copy() for pages in self.pages]
        for pages, at in zip(found, self.restless, strict=True):
            some = pages[:, at]
            pages[:, at] = np.where(some == NEVER, NEVER, some.max(axis=0, initial=NEVER))
        return found

    @cached_property
    def contents(self) -> tuple[Ints, Ints]:
        """All its contents, and on how many of its pages each is at most."""
        every = np.concatenate([_pairs(each) for each in self.pages])
        found, numbers = np.unique(every, return_counts=True)
        return found, numbers.astype(np.int32)


def _pairs(pages: Ints) -> Ints:
    """Return the contents of pages, moments x pages, each once for each page that had it."""
    size = pages.shape[1]
    places = pages.astype(np.int64) * size + np.arange(size)
    found: Ints = (np.unique(places[pages >= 0]) // size).astype(np.int32)
    return found


def traced_guests(trace: Trace) -> list[Traced]:
    """Return the guests of a trace, in the order of their start."""
    processes = trace.processes.sort_values("started", kind="stable")
    names = [WORKER.sub("", name) for name in processes["name"]]
    mappings = [trace.mappings[trace.mappings["process"] == each] for each in processes.index]
    places = [_places(each) for each in mappings]
    owners = np.zeros((2, trace.contents.shape[1]), np.int32)  # guest and process of each page
    for n, (name, at) in enumerate(zip(names, places, strict=True)):
        owners[:, at] = [[names.index(name)], [n]]
    seen = _in_memory(trace)
    for moment in range(len(seen)):
        seen[moment] &= ~_behind(trace.contents[moment], trace.flags[moment], owners)
    found: dict[str, list[Ints]] = {}
    for name, at in zip(names, places, strict=True):
        there = at[seen[:, at].any(axis=0)]
        if len(there):
            pages = np.where(seen[:, there], trace.contents[:, there], NEVER).astype(np.int32)
            found.setdefault(name, []).append(pages)
    return [Traced(pages) for pages in found.values()]


def _places(mappings: pd.DataFrame) -> Places:
    """Return where the pages of mappings are, in their order."""
    ranges = zip(mappings["first"], mappings["pages"], strict=True)
    return np.concatenate([np.empty(0, int), *(np.arange(n, n + size) for n, size in ranges)])


def _behind(contents: Ints, flags: traces.Flags, owners: Ints) -> Any:
    """Return which pages ksmd never merges, since all that are equal are one frame, after a fork.

    ksmd puts the first of them into the unstable tree, and leaves the others alone.
    """
    behind = np.zeros(len(contents), bool)
    pages = np.flatnonzero(contents > 0)
    pages = pages[np.lexsort((owners[1, pages], contents[pages]))]
    starts = np.flatnonzero(np.diff(contents[pages], prepend=-1))
    if not len(starts):
        return behind
    forked = np.minimum.reduceat((flags[pages] & traces.FORKED) != 0, starts)
    guests = owners[0, pages]
    forked &= np.minimum.reduceat(guests, starts) == np.maximum.reduceat(guests, starts)
    twice = np.diff(owners[1, pages], prepend=-1) == 0  # in one process: not one frame
    twice[starts] = False
    forked &= ~np.maximum.reduceat(twice, starts)
    behind[pages] = np.repeat(forked, np.diff(starts, append=len(pages)))
    behind[pages[starts]] = False
    return behind


def _in_memory(trace: Trace) -> Any:
    """Return which pages ksmd can see: those in memory, without those on the kernel's zero page.

    Zeros in a huge page are on it as soon as the kernel splits it, so they count as if they were on
    it already at the moment before.
    """
    zero = (trace.flags & traces.ZERO_FRAME) != 0
    if "ksm.use_zero_pages" in trace.moments:  # those that ksmd has put there
        zero &= (trace.moments["ksm.use_zero_pages"].to_numpy() == 0)[:, None]
    zero[:-1] |= zero[1:] & (trace.contents[:-1] == 0)
    return ((trace.flags & traces.PRESENT) != 0) & ~zero


def times(trace: Trace) -> list[float]:
    """Return when each moment of a trace is in a run, in seconds; the start is before the run."""
    seconds = trace.moments["seconds"].to_list()
    if trace.moments["moment"].iloc[0] != "start" or len(seconds) < 2:
        return seconds
    rest = np.diff(seconds[1:])
    first = float(np.median(rest)) if len(rest) else seconds[1]
    return [0.0, *(each - seconds[1] + first for each in seconds[1:])]


def changing(trace: Trace, stops: bool) -> list[tuple[float, float]]:
    """Return from when to when pages change after each moment of a trace but the last, in seconds.

    Nothing changed while the processes were stopped for a moment, if the trace says for how long.
    With `stops`, they are stopped so again; without, this time is left out.
    """
    at, moments = np.array(times(trace)), trace.moments
    paused = moments.get("paused_seconds", pd.Series(0.0, moments.index)).to_numpy()
    paused = np.where(moments["moment"] == "start", 0.0, paused)  # before the run
    if not stops:
        at[1:] -= paused[:-1].cumsum()
        paused = np.zeros(len(at))
    return [*zip((at + paused)[:-1].tolist(), at[1:].tolist(), strict=True)]


def drawn(guests: int, there: int, seed: int, apart: bool = False) -> list[int]:
    """Draw guests with replacement: each equally often, and the rest at random; `apart`: all."""
    random, (whole, rest) = np.random.default_rng(seed), divmod(guests, there)
    if apart:
        return sorted(random.integers(there, size=guests).tolist())
    return [*range(there)] * whole + sorted(random.permutation(there)[:rest].tolist())


def size_of(options: dict[str, Any]) -> tuple[int, int]:
    """Return how many pages a population has at most, and how many contents."""
    _, traced = read(options["trace"])
    chosen = [traced[each] for each in drawn(options["guests"], len(traced), 0)]
    if "hosts" in options:
        chosen = [max(traced, key=lambda guest: guest.size)] * options["guests"]
    pages = sum(each.size for each in chosen)
    written = pages
    if options["churn_percent"] is None:
        written = sum(len(at) for each in chosen for at in each.restless)
    fresh = FRESH * written if options["churn_percent"] != 0 else 0
    return pages, fresh + sum(len(each.contents[0]) for each in chosen)


@dataclass(frozen=True, eq=False)
class Coming:
    """A guest that is drawn: when it comes, its name, and its pages as in Traced.

    `numbers` are those of its contents, by those of the trace.
    """

    at: float
    name: str
    pages: list[Ints]
    numbers: Ints
    restless: list[Places]


class Population:
    """The guests of a run. `traced()` tells which content of the trace any of theirs is."""

    def __init__(self, world: World, options: dict[str, Any]) -> None:
        self.world, self.options = world, options
        self.trace, guests = read(options["trace"])
        churn = options["churn_percent"]
        self.shared = _shared(guests, len(self.trace.order))
        self.many = [self.shared]  # the contents of the trace, of positive numbers
        self.alone: list[tuple[int, Ints]] = []  # first number of a draw, and its contents
        self.known = len(self.shared)
        self.processes: list[tuple[Process, Ints, Ints]] = []
        self.restless: list[Places] = []
        self.fresh: list[int] = []  # first content of those that each process writes
        self.later: list[Coming] = []
        arrivals = options.get("arrivals") or [0.0] * options["guests"]
        names = options.get("names") or [""] * options["guests"]
        rests = churn is not None or any(arrivals)
        chosen = drawn(options["guests"], len(guests), world.seed, "hosts" in options)
        for each, at, name in zip(chosen, arrivals, names, strict=True):
            guest = guests[each]
            pages = [held[-1:] for held in guest.pages] if rests and not at else guest.calm
            coming = Coming(at, name, pages, self._numbers(guest), guest.restless)
            if at:
                self.later.append(coming)
            else:
                self._arrive(coming)
        self.first = np.array([first for first, _ in reversed(self.alone)])
        self.every = np.concatenate(self.many)
        self.random = np.random.default_rng(world.seed)
        self.hashing: Hashing | None = None
        if options.get("count_bytes"):
            self.hashing = Hashing(world.ksmd, self.trace.order, self.traced)
        world.ksmd.between = self._between
        if churn:
            self.rest = [_of(numbers, pages[0]) for _, pages, numbers in self.processes]
            self.passing = [np.zeros(len(each), bool) for each in self.rest]
            self.fresh = [self._fresh(FRESH * len(each)) for each in self.rest]

    def _numbers(self, guest: Traced) -> Ints:
        """Return a number for each content of the trace, of a guest that is drawn now."""
        numbers = np.full(len(self.trace.order) + 1, NEVER, np.int32)
        numbers[self.shared] = np.arange(len(self.shared))
        found, pages = guest.contents
        private = ~np.isin(found, self.shared)
        alone, many = found[private & (pages == 1)], found[private & (pages > 1)]
        numbers[many] = self.known + np.arange(len(many))
        self.known += len(many)
        self.many.append(many)
        numbers[alone] = self.world.unique(len(alone))
        self.alone.append((self.world.alone, alone))
        return numbers

    def _fresh(self, number: int) -> int:
        self.world.unique(number)
        return self.world.alone

    def _arrive(self, guest: "Coming") -> None:
        """Let a guest come. If it has a name, all its processes are sampled together under it."""
        for pages in guest.pages:
            contents = _of(guest.numbers, pages[0])
            if guest.name:
                process = self.world.come(guest.name, contents)
            else:
                process = self.world.ksmd.arrive(contents)
            self.processes.append((process, pages, guest.numbers))
        self.restless += guest.restless
        if self.options["churn_percent"] is None:
            self.fresh += [self._fresh(FRESH * len(at)) for at in guest.restless]

    def traced(self, contents: Ints) -> Ints:
        """Return the contents of the trace of which these are, which no churn has written."""
        found = np.empty(len(contents), np.int32)
        positive = contents >= 0
        found[positive] = self.every[contents[positive]]
        own = contents[~positive]
        draws = len(self.first) - np.searchsorted(self.first, own, side="right")
        for draw in np.unique(draws):
            first, alone = self.alone[draw]
            at = np.flatnonzero(~positive)[draws == draw]
            found[at] = alone[contents[at] - first]
        return found

    # --- how pages change ------------------------------------------------------------------------

    def _between(self) -> None:
        """Act between two full scans."""
        if self.hashing:
            self.world.told.setdefault("population", []).extend(self.hashing.scanned())
        if self.options["churn_percent"] is None:
            self._rewrite()
        elif self.options["churn_percent"]:
            self._churn()

    def _rewrite(self) -> None:
        """Write to pages that do not rest, so that ksmd finds something else at its next visit."""
        ksmd = self.world.ksmd
        for (process, _, _), at, first in zip(
            self.processes, self.restless, self.fresh, strict=True
        ):
            there = np.flatnonzero((ksmd.flags[process.start + at] & ABSENT) == 0)
            ksmd.write(process, at[there], first + FRESH * there + ksmd.full_scans % FRESH)

    def _churn(self) -> None:
        """Write to pages at random between two scans, and restore those of the last time."""
        ksmd, share = self.world.ksmd, (self.options["churn_percent"] or 0) / 100
        for n, (process, _, _) in enumerate(self.processes):
            rest, passed = self.rest[n], self.passing[n]
            now = self.random.random(len(rest), np.float32) < share
            at = np.flatnonzero(now | passed)
            fresh = self.fresh[n] + FRESH * at + ksmd.full_scans % FRESH
            ksmd.write(process, at, np.where(now[at], fresh, rest[at]))
            self.passing[n] = now

    def actors(self) -> Iterator[Actor]:
        """Yield who changes pages as in the trace: an actor for all guests that come at a time."""
        yield self._replay([*self.processes], 0.0)
        for at, guests in groupby(self.later, key=lambda guest: guest.at):
            yield self._come(at, [*guests])

    def _come(self, at: float, guests: "list[Coming]") -> Actor:
        yield at
        first = len(self.processes)
        for guest in guests:
            self._arrive(guest)
            self.world.tell("population", "guest arrived", guest=guest.name)
        yield from self._replay(self.processes[first:], at)

    def _replay(self, processes: list[tuple[Process, Ints, Ints]], begin: float) -> Actor:
        """Change pages at random times between two moments. They are those from a time on."""
        ksmd, spans = self.world.ksmd, changing(self.trace, self.options.get("stops", False))
        moments = len(processes[0][1])
        for moment, (start, end) in enumerate(spans[: moments - 1], 1):
            changed = [self._changed(pages, moment) for _, pages, _ in processes]
            steps = max(1, round((end - start) / STEP))
            cuts = [self._cut(len(each), steps) for each in changed]
            for step in range(steps):
                yield begin + start + step * STEP
                for n, (process, pages, numbers) in enumerate(processes):
                    some = changed[n][cuts[n][step] : cuts[n][step + 1]]
                    if len(some):
                        ksmd.write(process, some, _of(numbers, pages[moment, some]))

    def _changed(self, pages: Ints, moment: int) -> Places:
        return self.random.permutation(np.flatnonzero(pages[moment] != pages[moment - 1]))

    def _cut(self, pages: int, steps: int) -> Places:
        return np.linspace(0, pages, steps + 1).astype(np.int64)


def _of(numbers: Ints, pages: Ints) -> Ints:
    """Return the numbers of contents of the trace. The last stands for none."""
    found: Ints = numbers[np.maximum(pages, -1)]
    return found


def _shared(guests: list[Traced], contents: int) -> Ints:
    """Return the contents that several guests have, after that of zeros."""
    numbers = np.zeros(contents, np.int32)
    for guest in guests:
        numbers[guest.contents[0]] += 1
    found = np.flatnonzero(numbers > 1)
    return np.append(ZERO, found[found != ZERO]).astype(np.int32)
