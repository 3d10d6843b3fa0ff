"""Who turns the knobs of a simulated host: the governor, or a command that only sets them once."""

import re
from collections.abc import Sequence
from typing import Any

from ksm_analysis.simulator.ksmd import KNOBS, accepted
from ksm_analysis.simulator.memory import Actor, World
from ksm_analysis.simulator.programs import GOVERNOR, program


def turns(world: World, kind: str, told: dict[str, Any]) -> Actor:
    """Return the actor that turns the knobs; `kind` and `told` as in a plan."""
    world.tell("policy", "policy started", kind=kind, knobs=dict(world.ksmd.knobs))
    if kind == "governor":
        return governor(world, told)
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
        looked = ksmd.clock
        state, decision = core.decide(state, seen(world, core), settings)
        if decision:
            ksmd.set(decision.knobs)
            world.tell("policy", "decision", reason=decision.reason, knobs=decision.knobs)
        yield looked + (core.STEP if state.passes else core.LOOK)
        while state.passes and ksmd.full_scans < state.target and ksmd.clock < looked + core.LOOK:
            yield ksmd.clock + core.STEP


def seen(world: World, core: Any) -> Any:
    """Return what the governor sees."""
    ksmd = world.ksmd
    return core.Seen(
        seconds=ksmd.clock,
        candidates=ksmd.pages - ksmd.zero_pages,
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
