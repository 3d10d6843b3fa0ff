"""Settings and policies on offer, and what each would do with a population: simulated."""

import bisect
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ksm_analysis.assess.population import ABSENT, ZERO, Churn, Population
from ksm_analysis.assess.seen import Seen
from ksm_analysis.definition.policies import NONE, Advisor, Governor, Ksmtuned, KubeVirt, Policy
from ksm_analysis.doctor.facts import saved_bytes
from ksm_analysis.simulator.ksmd import KNOBS, NEVER, Costs, Ksmd, Process
from ksm_analysis.simulator.memory import Actor, World
from ksm_analysis.simulator.policy import turns
from ksm_analysis.simulator.simulate import Queue

REFERENCE = 2.5e-6
"""CPU seconds to read and hash a page (ksm_assess.py) where the costs of ksmd were measured."""
BATCH = 1.5e-4
"""CPU seconds of a batch, there: caches are cold after a sleep."""
TICK = 0.1  # seconds between writes, at least
STEP, PART = 0.02, 0.01  # seconds between looks at what is freed, at least; part of the time so far
SETTLED, SCANS, LAST = 0.005, 4, 2  # it is over after scans, if the last freed hardly more
END = 0.75  # of the time: what is freed after that, if it was cut short, is taken for the end
LONGEST = 12 * 3600.0  # seconds that are simulated at most
PATIENCE, A_PAGE = 6.0, 5e-6  # seconds to simulate a setting at most, and more for each page
KIB = 1024
SOON = 0.95  # of what is freed in the end


@dataclass(frozen=True)
class Host:
    """What a policy sees of a host: bytes of memory, and what ksmd has used since boot.

    `available`: without what KSM frees now.
    """

    memory: int
    available: int
    anonymous: int
    page_size: int
    ksmd_seconds: float = 0.0


@dataclass(frozen=True)
class Setting:
    """Knobs from the start on, and who turns them then. `note`: what it needs, or assumes.

    `least`: seconds after which it does not change any more by itself.
    """

    name: str
    knobs: dict[str, int] = field(default_factory=dict)
    policy: Policy = NONE
    note: str = ""
    least: float = 0.0


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of a setting: `times`, `freed` (pages) and `cpu` (seconds) at them.

    `final`: pages freed in the end. `soon`: seconds to 95 % of that, and ksmd's CPU seconds until
    then. `settled`: seconds from which on no more is freed. `later`: percent of a CPU in that time
    or the last quarter, whichever is longer. `whole`: whether it was simulated until then.
    """

    setting: Setting
    times: NDArray[np.float64]
    freed: NDArray[np.float64]
    cpu: NDArray[np.float64]
    settled: float
    whole: bool

    @property
    def final(self) -> float:
        """Return the pages that are freed in the end, on average."""
        return float(self.freed[self.times >= self.settled].mean())

    @property
    def soon(self) -> tuple[float, float] | None:
        """Return seconds and CPU seconds until 95 % are freed; None without anything to free."""
        if self.final <= 0:
            return None
        at = int(np.argmax(self.freed >= SOON * self.final))
        return float(self.times[at]), float(self.cpu[at])

    @property
    def later(self) -> float:
        """Return percent of a CPU."""
        at = int(np.searchsorted(self.times, min(self.settled, END * self.times[-1])))
        seconds = self.times[-1] - self.times[at]
        return float(100 * (self.cpu[-1] - self.cpu[at]) / seconds) if seconds else 0.0


# --- what is on offer ----------------------------------------------------------------------------


def _fixed(pages: int, sleep: int, smart: int = 0) -> Setting:
    knobs = {"pages_to_scan": pages, "sleep_millisecs": sleep, "smart_scan": smart, "run": 1}
    name = f"{pages} pages / {sleep} ms" + (", smart_scan" if smart else "")
    return Setting(name, knobs)


def _advisor(seconds: int) -> Setting:
    policy = Policy(advisor=Advisor(target_scan_time=seconds))
    return Setting(f"advisor, {seconds} s", {"smart_scan": 1}, policy, "from Linux 6.8 on")


def _ksmtuned(**more: int) -> Policy:
    return Policy(ksmtuned=Ksmtuned(KSM_THRES_COEF=100, **more))  # memory is always short


SHORT = "if memory is short"
"""Its programs scan only while less than a fifth of the memory is available."""
OFFER = (
    Setting("default", _fixed(100, 20, 1).knobs, note="100 pages / 20 ms, smart_scan"),
    _fixed(500, 20),
    _fixed(1000, 20),
    _fixed(1250, 10),
    _fixed(5000, 20),
    _fixed(10000, 20),
    _fixed(10000, 20, 1),
    _advisor(200),
    _advisor(60),
    Setting("ksmtuned", {"run": 0}, _ksmtuned(), SHORT, 400),
    Setting("ksmtuned of Proxmox", {"run": 0}, _ksmtuned(KSM_SLEEP_MSEC=100), SHORT, 400),
    Setting("KubeVirt", {"run": 0}, Policy(kubevirt=KubeVirt(free_percent=1)), SHORT, 960),
    Setting("Kata", {"run": 0}, Policy(kata="auto"), "after an arrival", 400),
    Setting("governor", {}, Policy(governor=Governor())),
    Setting("governor, price 1", {}, Policy(governor=Governor(price=1))),
)


# --- simulation -----------------------------------------------------------------------------------


def costs(page_seconds: float) -> Costs:
    """Return ksmd's costs on a host where a page is read and hashed in so many CPU seconds."""
    return Costs(*(each * page_seconds / REFERENCE for each in Costs()))


def simulate(
    setting: Setting,
    population: Population,
    host: Host,
    of_pages: Costs,
    knobs: dict[str, int],
    hz: int = 250,
    seconds: float | None = None,
) -> Outcome:
    """Simulate a setting until it frees nothing more, or for some seconds.

    `knobs` are those of the host, which a setting does not set (max_page_sharing, use_zero_pages).
    """
    wake = BATCH * of_pages.merged / Costs().merged
    world = World(
        Ksmd(costs=of_pages, hz=hz, wake=wake),
        memory=host.memory // 2**20,
        page=host.page_size,
        used=host.ksmd_seconds,
    )
    given_up = knobs["use_zero_pages"]
    kept = {"max_page_sharing": knobs["max_page_sharing"], "smart_scan": knobs["smart_scan"]}
    world.ksmd.set({**kept, "use_zero_pages": 1})
    queue = Queue()
    for n, process in enumerate(_processes(world, population, bool(given_up))):
        for actor in _writers(world, process, population, n):
            queue.add(actor)
    if given_up_now := int(population.given_up.sum()):  # nothing writes to it, or it would not be
        world.come("", np.full(given_up_now, ZERO, np.int32))
    world.ksmd.set(setting.knobs)
    pages = world.ksmd.pages * host.page_size // KIB
    world.beside = (host.memory - host.available) // KIB - pages
    world.anonymous = max(0, host.anonymous // KIB - pages)
    if setting.policy != NONE:
        queue.add(turns(world, setting.policy.kind, setting.policy.settings))
    points, scans, began = [(0.0, 0.0, 0.0)], [0], time.monotonic()
    patience, whole = PATIENCE + A_PAGE * len(population.rest), True
    settled = None
    while settled is None:
        at = points[-1][0] + max(STEP, PART * points[-1][0])
        queue.until(min(at, seconds or at), world.ksmd)
        world.ksmd.advance(max(0.0, min(at, seconds or at) - world.ksmd.clock))
        points.append((world.ksmd.clock, float(world.ksmd.freed), world.ksmd.cpu))
        scans.append(world.ksmd.full_scans)
        if seconds is None:
            settled = _settled(world, setting, points, scans)
            whole = settled is not None
        if at >= (seconds or LONGEST) or (not seconds and time.monotonic() - began > patience):
            settled = settled or END * at
    times, freed, cpu = (np.array(each) for each in zip(*points, strict=True))
    return Outcome(setting, times, freed, cpu, settled, whole)


def _settled(
    world: World, setting: Setting, points: list[tuple[float, float, float]], scans: list[int]
) -> float | None:
    """Return since when nothing more is freed; None if more was.

    That is in the last scans, or, if ksmd rests, in half of the time.
    """
    at, now, _ = points[-1]
    if at < setting.least:
        return None
    if world.ksmd.knobs["run"] == 1:
        before = bisect.bisect(scans, scans[-1] - LAST - 1)
        enough = scans[-1] >= SCANS
    else:
        before = bisect.bisect(points, (at / 2,))
        enough = scans[-1] > 1
    since, then, _ = points[before]
    return since if enough and now - then <= SETTLED * max(now, 1) else None


def _processes(world: World, population: Population, given_up: bool) -> Iterator[Process]:
    """Start the processes. Zeros that are given up have 0; others are pages like others."""
    rest = population.rest
    numbers, at, counts = np.unique(rest, return_inverse=True, return_counts=True)
    small = np.zeros(len(numbers), np.int32)
    shared = (counts > 1) & (numbers > ZERO)
    zero = numbers == ZERO
    small[shared] = np.arange(2, 2 + shared.sum())  # 1 is zeros that are merged
    small[zero] = ZERO if given_up else 1
    alone = (counts == 1) & (numbers > ZERO)
    small[alone] = world.unique(int(alone.sum()))
    small[numbers == ABSENT] = NEVER
    found = small[at]
    found[population.split_zeros] = ZERO
    for n, name in enumerate(population.names):
        yield world.come(name, found[population.pages(n)])


def _writers(
    world: World, process: Process, population: Population, number: int
) -> Iterator[Actor]:
    one = population.churn[number]
    hot = np.flatnonzero(population.hot[population.pages(number)])
    if one.rate:
        yield _passing(world, process, one, hot)
    if len(hot):
        yield _hot(world, process, one, hot)


def _passing(world: World, process: Process, one: Churn, hot: NDArray[np.int64]) -> Actor:
    """Write to pages at random, and restore them after a while."""
    random = np.random.default_rng(process.start)
    resting = world.ksmd.content[process.pages].copy()
    free = np.ones(process.size, bool)
    free[hot] = False
    written: deque[tuple[float, NDArray[np.int64]]] = deque()
    tick, owed = max(TICK, one.dwell / 10), 0.0
    at = -one.dwell  # so that as many do not rest when it begins as later
    while True:
        owed += one.rate * process.size * tick
        pages = np.unique(random.integers(0, process.size, int(owed)))
        owed -= int(owed)
        pages = pages[free[pages]]
        back = np.empty(0, np.int64)
        while written and written[0][0] <= at - one.dwell:
            back = np.append(back, written.popleft()[1])
        free[back], free[pages] = True, False
        written.append((at, pages))
        world.ksmd.write(process, back, resting[back])
        world.ksmd.write(process, pages, world.unique(len(pages)))
        at += tick
        if at > 0:
            yield at


def _hot(world: World, process: Process, one: Churn, hot: NDArray[np.int64]) -> Actor:
    """Write new contents to the pages that never rest."""
    random, tick = np.random.default_rng(process.start), max(TICK, 0.1 / one.hot_rate)
    world.ksmd.write(process, hot, world.unique(len(hot)))
    at = 0.0
    while True:
        at += tick
        yield at
        pages = hot[random.random(len(hot)) < 1 - np.exp(-one.hot_rate * tick)]
        world.ksmd.write(process, pages, world.unique(len(pages)))


def host_of(seen: Seen) -> Host:
    """Return what a policy sees of the host."""
    facts, memory = seen.facts, seen.facts["host"]
    total = int(memory["memory_bytes"] or 2**34)
    return Host(
        total,
        int(memory["memory"].get("MemAvailable", total // 2) - saved_bytes(facts)),
        int(seen.host["anonymous"]),
        int(memory["page_size"]),
        (facts["readings"][-1]["ksmd_cpu_ns"] or 0) / 1e9,
    )


def usable(facts: dict[str, Any]) -> dict[str, int]:
    """Return the knobs of a host, with the kernel's defaults for those that it has not."""
    found = facts["readings"][-1]["ksm"] or {}
    return {name: int(found.get(name, value)) for name, value in KNOBS.items()}
