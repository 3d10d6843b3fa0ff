"""Who turns the knobs of a simulated host: the programs and rules that do it on a real one."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ksm_analysis.simulator.advisor import Advisor, advise, start
from ksm_analysis.simulator.ksmd import KNOBS, accepted
from ksm_analysis.simulator.ksmtuned import Settings, adjust
from ksm_analysis.simulator.memory import Actor, World
from ksm_analysis.simulator.programs import GOVERNOR, POLICY, program

LOOK = 0.01  # seconds between looks at whether a scan has ended, at least


def turns(world: World, kind: str, told: dict[str, Any]) -> Actor:
    """Return the actor that turns the knobs; `kind` and `told` as in a plan."""
    if kind == "advisor":  # which is the kernel, and no program
        return advisor(world, told)
    world.tell("policy", "policy started", kind=kind, knobs=dict(world.ksmd.knobs))
    if kind in PORTS:
        return PORTS[kind](world, told)
    return _command(world, writes_of(told["argv"]) or {})


def writes_of(argv: Sequence[str]) -> dict[str, int] | None:
    """Return the knobs that a command sets at its start; None if it does anything else.

    It may `cd` to the directory of the knobs, `echo` numbers to them, and `sleep infinity`.
    """
    words, found = " ".join(argv).removeprefix("/bin/sh -c "), dict[str, int]()
    for step in re.split(r"\s*&&\s*|\s*;\s*", words.strip()):
        if step in ("sleep infinity", "cd /sys/kernel/mm/ksm"):
            continue
        write = re.fullmatch(r"echo (\d{1,9}) ?> ?(?:/sys/kernel/mm/ksm/)?([a-z_]+)", step)
        if not write or write[2] not in KNOBS or not accepted(write[2], write[1]):
            return None
        found[write[2]] = int(write[1])
    return found


def _command(world: World, writes: dict[str, int]) -> Actor:
    world.ksmd.set(writes)
    world.tell("policy", "decision", reason="", knobs=writes)
    yield from ()


def advisor(world: World, told: dict[str, int]) -> Actor:
    """Set pages_to_scan after each full scan, as the kernel does in the advisor's mode scan-time.

    What ksmd has used before, since boot, counts for the first scan.
    """
    asked, ksmd, used = Advisor(**told), world.ksmd, world.used
    state = start(asked)
    ksmd.set({"pages_to_scan": state.pages_to_scan, "run": 1})
    since, scans, cpu = ksmd.clock, ksmd.full_scans, ksmd.cpu
    while True:
        yield ksmd.clock + max(LOOK, state.scan_time / 200)
        if ksmd.full_scans > scans:
            state = advise(state, ksmd.clock - since, ksmd.cpu - cpu + used, asked)
            since, scans, cpu, used = ksmd.clock, ksmd.full_scans, ksmd.cpu, 0.0
            ksmd.set({"pages_to_scan": state.pages_to_scan})


def kata(world: World, told: dict[str, str]) -> Actor:
    """Act as Kata's ksm-throttler; all anonymous memory is that of what runs in the simulation."""
    core, ksmd, there = program(POLICY), world.ksmd, set[str]()
    found = [(name, ksmd.knobs[name]) for name in ("pages_to_scan", "sleep_millisecs", "run")]

    def tune(mode: str, reason: str) -> None:
        kib = ksmd.pages * world.page // 1024 + world.anonymous
        writes = found if mode == "initial" else core.kata_writes(mode, kib, world.page)
        _decide(world, f"{reason}: {mode}", writes)

    if told["mode"] != "auto":
        tune(told["mode"], "the mode")
        return
    state, population = core.kata_start(ksmd.clock), ksmd.processes and not world.there
    while True:
        came = sorted({*world.there} - there) or ["the population"] * bool(population)
        there, population = {*world.there}, False
        if came:
            more = f" and {len(came) - 1} more" * (len(came) > 1)
            state, mode = core.kata_next(state, ksmd.clock, kicked=True)
            tune(mode, f"{came[0]}{more} came")
        state, mode = core.kata_next(state, ksmd.clock, kicked=False)
        if mode:
            tune(mode, "time is over")
        yield ksmd.clock + core.PERIOD


def kubevirt(world: World, told: dict[str, Any]) -> Actor:
    """Act as KubeVirt's virt-handler."""
    core, ksmd = program(POLICY), world.ksmd
    while True:
        total, free = world.kib
        running, pages = ksmd.knobs["run"] == 1, ksmd.knobs["pages_to_scan"]
        writes = core.kubevirt_writes(told, running, pages, total, free)
        _decide(world, f"{free} of {total} KiB are available", writes)
        yield ksmd.clock + told["interval"]


def ksmtuned(world: World, told: dict[str, int]) -> Actor:
    """Act as ksmtuned, which counts no guests of libvirt, nor other processes."""
    settings, pages = Settings(**told), 0
    while True:
        yield world.ksmd.clock + settings.KSM_MONITOR_INTERVAL
        total, free = world.kib
        writes = adjust(settings, pages, total, 0, free)
        pages = dict(writes).get("pages_to_scan", pages)
        _decide(world, f"{free} of {total} KiB are free", writes)


def _decide(world: World, reason: str, writes: Iterable[tuple[str, int]]) -> None:
    """Write knobs in their order."""
    for name, value in writes:
        world.ksmd.set({name: value})
    world.tell("policy", "decision", reason=reason, knobs=dict(writes))


def governor(world: World, told: dict[str, Any]) -> Actor:
    """Look, decide and set knobs, as ksm_governor.py does; no task waits for a CPU or for memory.

    `told` may have `price`, in CPUs a GiB, and `max_cpu`, in percent of a CPU.
    """
    core, ksmd = program(GOVERNOR), world.ksmd
    settings = core.Settings(**told)
    if "max_cpu" in told:
        settings = settings._replace(max_cpu=told["max_cpu"] / 100)
    state = core.State()
    while True:
        looked, found, there = ksmd.clock, seen(world, core), ksmd.pages
        state, decision = core.decide(state, found, settings)
        if decision:
            ksmd.set(decision.knobs)
            world.tell("policy", "decision", reason=decision.reason, knobs=decision.knobs)
        if state.passes:
            yield looked + core.STEP
            while ksmd.full_scans < state.target and ksmd.clock < looked + core.LOOK:
                yield ksmd.clock + core.STEP
            continue
        for _ in range(1 if found.candidates > state.base + core.NOISE else core.QUIET):
            yield ksmd.clock + core.LOOK
            if ksmd.pages > there + core.NOISE:
                break


def seen(world: World, core: Any) -> Any:
    """Return what the governor sees."""
    ksmd = world.ksmd
    return core.Seen(
        seconds=ksmd.clock,
        candidates=ksmd.pages - ksmd.zero_pages - ksmd.emptied,
        broken=ksmd.broken,
        saved=ksmd.saved,
        volatile=ksmd.volatile,
        scanned=ksmd.scanned,
        full_scans=ksmd.full_scans,
        cpu=ksmd.cpu,
        memory_pressure=0.0,
        cpu_pressure=0.0,
        gap=core.STEP,
    )


PORTS: dict[str, Callable[[World, dict[str, Any]], Actor]] = {
    "governor": governor,
    "kata": kata,
    "ksmtuned": ksmtuned,
    "kubevirt": kubevirt,
}
BY_MEMORY = ("ksmtuned", "kubevirt")
"""Policies that decide by how much memory of the host is free."""
