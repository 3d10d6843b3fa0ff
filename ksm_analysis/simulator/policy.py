"""The governor, which turns the knobs of a simulated host: its core is that of the role."""

from typing import Any

from ksm_analysis.simulator.memory import Actor, World
from ksm_analysis.simulator.programs import GOVERNOR, program


def governor(world: World, told: dict[str, Any]) -> Actor:
    """Look, decide and set knobs, as ksm_governor.py does; no task waits for a CPU or for memory.

    `told` may have `price`, in CPUs a GiB, and `max_cpu`, in percent of a CPU.
    """
    core, ksmd = program(GOVERNOR), world.ksmd
    settings = core.Settings(**told)
    if "max_cpu" in told:
        settings = settings._replace(max_cpu=told["max_cpu"] / 100)
    state = core.State()
    world.tell("policy", "policy started", kind="governor", knobs=dict(ksmd.knobs))
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
        candidates=ksmd.pages - ksmd.zero_pages + ksmd.broken,
        saved=ksmd.saved,
        volatile=ksmd.volatile,
        scanned=ksmd.scanned,
        full_scans=ksmd.full_scans,
        cpu=ksmd.cpu,
        memory_pressure=0.0,
        cpu_pressure=0.0,
        gap=core.STEP,
    )
