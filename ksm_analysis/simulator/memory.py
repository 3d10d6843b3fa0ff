"""The memory of a run, and how it changes: what the programs of the testbed do, as events.

An actor is a generator. It does what is due, and yields when it is to be called again, in seconds
since the first sample. Its first call is at 0, when nothing is scanned yet.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ksm_analysis.errors import InputError
from ksm_analysis.simulator.ksmd import HUGE_PAGE, NEVER, ZERO, Ints, Ksmd, Places, Process
from ksm_analysis.simulator.programs import ARRAYS, CONTENTS, MEMORY, program

PAGE = 4096
MIB = 2**20
HOST = 16 * 1024  # MiB that a host has, unless it is told otherwise
KERNEL = 512  # MiB of it that the kernel and all that is not simulated take
Actor = Iterator[float]


@dataclass
class World:
    """A simulated host: ksmd, its processes by name, and what happened, by the file for it.

    A guest of a trace may have several processes of one name. `alone` is the last content that only
    one page has; each new one is below it. `memory` is that of the host, in MiB. `thp` is whether
    memory that asks for huge pages gets them. Of what is not simulated: `beside` are the KiB that
    it takes, `anonymous` the KiB of its anonymous memory, and `used` the CPU seconds of ksmd since
    boot. `page` are the bytes of a page.
    """

    ksmd: Ksmd
    seed: int = 0
    memory: int = HOST
    thp: bool = True
    beside: int = KERNEL * 1024
    anonymous: int = 0
    used: float = 0.0
    page: int = PAGE
    there: dict[str, list[Process]] = field(default_factory=dict)
    gone: list[str] = field(default_factory=list)
    told: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    alone: int = 0
    kind: Any = None

    @property
    def kib(self) -> tuple[int, int]:
        """KiB of memory that the host has, and of those that are free."""
        used = (self.ksmd.pages - self.ksmd.freed) * self.page // 1024 + self.beside
        return self.memory * 1024, max(0, self.memory * 1024 - max(1024, used))

    def tell(self, file: str, event: str, **more: Any) -> None:
        """Record an event."""
        self.told.setdefault(file, []).append({"event": event, "at": self.ksmd.clock, **more})

    def unique(self, number: int) -> Ints:
        """Return so many contents that no other page has."""
        self.alone -= number
        if self.alone <= NEVER:
            raise InputError("too many different contents: at most 2147483647 can be simulated")
        return np.arange(self.alone, self.alone + number, dtype=np.int32)

    def kinds(self, asked: dict[str, Any]) -> Any:
        """Return the kind of each page of a copy, which is the same in all copies."""
        if self.kind is None:
            self.kind = np.array(program(CONTENTS).kinds(asked))
        return self.kind

    def come(self, name: str, contents: Ints, huge: bool = False) -> Process:
        """Start a process, which may be in huge pages. Others of its name stay."""
        process = self.ksmd.arrive(contents, name, huge)
        self.there.setdefault(name, []).append(process)
        return process

    def go(self, name: str) -> None:
        """End all processes of a name."""
        for process in self.there.pop(name):
            self.ksmd.leave(process)
        self.gone.append(name)


def actors(world: World, parts: list[dict[str, Any]]) -> Iterator[Actor]:
    """Yield who changes the memory of a run, in the order of their start."""
    for part in parts:
        options = part["options"]
        if part["name"] == "processes":
            for copy, name in enumerate(part["processes"], start=1):
                yield _copy(world, options, copy, name)
        elif part["name"] == "memory":
            yield _memory(world, options)
        elif part["name"] == "arrays":
            yield _arrays(world, options)


# --- copies of the service memory -----------------------------------------------------------------


def _copy(world: World, options: dict[str, Any], copy: int, name: str) -> Actor:
    """Act as ksm_contents.py."""
    came, stays = ((options[key] or [0.0] * copy)[copy - 1] for key in ("arrivals", "lifetimes"))
    yield came
    contents = program(CONTENTS)
    asked = {"data_mib": options["data_mib"], **options["contents"]}
    resting = _resting(world, world.kinds(asked), contents)
    held = resting if options["merge"] != "none" else resting[:0]
    process = world.come(name, held, asked["huge_pages"] and world.thp)
    world.tell("processes", "process arrived", process=name)
    world.tell("processes", "process ready", process=name, pid=copy, merge_any=None)
    leaves = came + stays if options["lifetimes"] else float("inf")
    if asked["write_percent"] and len(held):
        writer = Writer(world, process, resting, asked, copy)
        tick = came + contents.TICK
        while tick < leaves:
            yield tick
            writer.write_until(tick - came)
            tick += contents.TICK
    if options["lifetimes"]:
        yield leaves
        world.go(name)
        world.tell("processes", "process left", process=name, reason="its lifetime is over")


def _resting(world: World, kinds: Any, contents: Any) -> Ints:
    """Return what is in the pages of a copy at rest. Equal is what each page of it has in all."""
    found = np.arange(1, len(kinds) + 1, dtype=np.int32)
    found[kinds == contents.ZERO] = ZERO
    alone = np.flatnonzero(kinds == contents.UNIQUE)
    found[alone] = world.unique(len(alone))
    return found


class Writer:
    """Who writes to pages of a copy, and restores them after a while."""

    def __init__(
        self, world: World, process: Process, resting: Ints, asked: dict[str, Any], copy: int
    ) -> None:
        self.world, self.process, self.resting = world, process, resting
        self.a_second = len(resting) * asked["write_percent"] / 100
        self.most = int(asked["rest_seconds"] * self.a_second)
        self.random = np.random.default_rng(copy + world.seed)
        self.written = 0
        self.passing = np.empty(0, np.int64)  # pages that do not rest, in the order of writes
        self.rests = np.ones(len(resting), bool)

    def write_until(self, seconds: float) -> None:
        """Do what is due that many seconds after the begin: write pages, and restore the oldest."""
        due = int(seconds * self.a_second)
        pages = self._any(due - self.written)
        self.written += len(pages)
        every = np.concatenate([self.passing, pages])
        restored, self.passing = np.split(every, [max(0, len(every) - self.most)])
        self.rests[pages], self.rests[restored] = False, True
        now = np.union1d(pages, restored)
        contents = np.where(self.rests[now], self.resting[now], self.world.unique(len(now)))
        self.world.ksmd.write(self.process, now, contents)

    def _any(self, number: int) -> Places:
        """Return so many of the pages that rest, at random."""
        there = np.flatnonzero(self.rests)
        return self.random.choice(there, min(number, len(there)), replace=False)


# --- one process ----------------------------------------------------------------------------------


def _memory(world: World, options: dict[str, Any]) -> Actor:
    """Act as ksm_memory.py: what is equal is equal within the process."""
    pages = options["mib"] * MIB // PAGE
    zero, equal = options["zero_percent"] / 100, options["equal_percent"] / 100
    kinds = np.array([*program(MEMORY).kinds(pages, zero, equal)])
    contents = np.where(kinds == "z", ZERO, 1).astype(np.int32)
    alone = np.flatnonzero(kinds == "u")
    contents[alone] = world.unique(len(alone))
    huge = options["huge_pages"] and world.thp
    world.come("memory", contents, huge)
    counts = {f"{kind}_pages": int((kinds == kind[0]).sum()) for kind in ("zero", "equal")}
    counts["unique_pages"] = len(alone)
    kib = pages // HUGE_PAGE * HUGE_PAGE * PAGE // 1024 if huge else 0
    world.tell("memory", "memory written", pages=pages, **counts, huge_kib=kib)
    yield from ()


def _arrays(world: World, options: dict[str, Any]) -> Actor:
    """Act as ksm_arrays.py. Linux maps the second array below the first."""
    size = -(-options["ints"] * program(ARRAYS).INT // PAGE)
    first = np.arange(1, size + 1, dtype=np.int32)
    process = world.come("arrays", np.concatenate([np.full(size, NEVER, np.int32), first]))
    world.tell("arrays", "array written", array=1, pages=size)
    yield options["second"]
    world.ksmd.write(process, np.arange(size), first)
    world.tell("arrays", "array written", array=2, pages=size)
    yield options["changed"]
    changed = _CHANGES[options["change"]](world, options["ints"], size)
    world.ksmd.write(process, size + np.arange(len(changed)), changed)
    world.tell("arrays", "array changed", change=options["change"])


def _half_same(world: World, ints: int, size: int) -> Ints:
    """Return the pages of half an array of equal numbers; the last is shared with the rest."""
    number = program(ARRAYS).INT
    whole, rest = divmod(ints // 2 * number, PAGE)
    return np.append(np.full(whole, size + 1, np.int32), world.unique(1 if rest else 0))


_CHANGES: dict[str, Callable[[World, int, int], Ints]] = {
    "single": lambda world, ints, size: world.unique(1),
    "half-same": _half_same,
    "half-distinct": lambda world, ints, size: world.unique(
        -(-(ints // 2) * program(ARRAYS).INT // PAGE)
    ),
}
