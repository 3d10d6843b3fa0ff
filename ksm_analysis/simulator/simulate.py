"""Simulate the runs of a plan, and write their run directories."""

import heapq
import itertools
import json
import os
import time
from collections.abc import Iterable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from socket import gethostname
from typing import Any, NamedTuple

from ksm_analysis import tasks
from ksm_analysis.errors import InputError
from ksm_analysis.results.record import FORMAT
from ksm_analysis.simulator import possible
from ksm_analysis.simulator.advisor import Advisor
from ksm_analysis.simulator.ksmd import KNOBS, Ksmd
from ksm_analysis.simulator.memory import HOST as HOST_MEMORY
from ksm_analysis.simulator.memory import PAGE, Actor, World, actors
from ksm_analysis.simulator.policy import turns
from ksm_analysis.simulator.population import Population

HOST = "simulated"
KERNEL = "6.18"
RMAP_ITEM = 64  # bytes
CLOCK = 946_684_800.0  # when the first run begins: 2000-01-01, so that equal runs have equal files
SEEDS = 1000  # from one repetition to the next: there are fewer copies


class Simulated(NamedTuple):
    """What became of a run: its directory, and the seconds that were simulated."""

    path: Path
    seconds: float


Files = dict[str, str]
"""The text of each file of a run directory, by name."""


def runs(
    plan: dict[str, Any], results: Path, memory: int = HOST_MEMORY, scheduler: str = ""
) -> Iterator[Simulated]:
    """Simulate the runs of a plan, and yield each that is done. Earlier results are moved aside.

    `memory` is that of the simulated host, in MiB. `scheduler` is the address of a Dask scheduler
    whose workers do it, each a run at a time; without it, this machine does. The files are the
    same. Raises InputError if earlier results cannot be moved, something cannot be written, or
    workers cannot do it.
    """
    directory = results / plan["experiment"]
    try:
        for number, (run, files) in enumerate(_made(plan, memory, scheduler)):
            if not number:  # nothing is moved if nobody can do it
                _make(directory, plan)
            yield Simulated(_write(directory, run["id"], files), run["sampling"]["seconds"])
    except OSError as error:
        raise InputError(f"{error.filename or directory}: {error.strerror}") from None


def _make(directory: Path, plan: dict[str, Any]) -> None:
    if directory.exists():
        moved = time.strftime("%Y%m%dT%H%M%S", time.localtime(directory.stat().st_mtime))
        aside = directory.with_name(f"{directory.name}.{moved}")
        if aside.exists():
            raise InputError(f"{aside} already exists and is not overwritten")
        directory.rename(aside)
    directory.mkdir(parents=True)
    (directory / "plan.json").write_text(json.dumps(plan, indent=2))


def _made(
    plan: dict[str, Any], memory: int, scheduler: str
) -> Iterator[tuple[dict[str, Any], Files]]:
    """Yield runs with their files, in any order."""
    todo = [*zip(plan["runs"], _starts(plan["runs"]), strict=True)]
    function = partial(_task, experiment=plan["experiment"], memory=memory, code=_code())
    if scheduler:
        yield from tasks.on_cluster(function, todo, scheduler)
    elif (processes := possible.processes(plan["runs"], os.cpu_count() or 1)) > 1:
        yield from tasks.here(function, todo, processes)
    else:
        yield from map(function, todo)


def _starts(runs: list[dict[str, Any]]) -> Iterator[float]:
    """Yield when each run begins by the clock of the simulated host, one after the other."""
    seconds = [run["sampling"]["seconds"] for run in runs]
    return itertools.accumulate(seconds[:-1], initial=CLOCK)


def _task(
    todo: tuple[dict[str, Any], float], experiment: str, memory: int, code: str
) -> tuple[dict[str, Any], Files]:
    """Simulate a run, perhaps on another machine.

    Raises InputError if that has another version of this project, or too little memory.
    """
    run, started = todo
    if code != _code():
        raise InputError(f"the worker on {gethostname()} has another version of this project")
    if problems := [*possible.too_large(run, possible.available())]:
        raise InputError(f"{gethostname()}: {problems[0]}")
    return run, simulate(run, experiment, memory, started)


def _code() -> str:
    return tasks.code("definition", "results", "simulator", "../roles")


def _write(directory: Path, name: str, files: Files) -> Path:
    """Write a run directory, completely or not at all; return it."""
    path = directory / f"{name}.partial"
    path.mkdir()
    for file, text in files.items():
        (path / file).write_text(text)
    return path.rename(directory / name)


def simulate(run: dict[str, Any], experiment: str, memory: int, started: float) -> Files:
    """Simulate a run that begins at a time; return the files of its directory."""
    world = host_of(run, memory)
    knobs = knobs_of(run)
    files = {"samples.jsonl": _lines(sampled(world, run, knobs, started), (",", ":"))}
    for name, events in world.told.items():
        files[f"{name}.jsonl"] = _lines(
            {
                **{key: value for key, value in event.items() if key != "at"},
                "wall": started + event["at"],
                "monotonic": event["at"],
            }
            for event in events
        )
    record = {
        "format": FORMAT,
        "experiment": experiment,
        "run": run,
        "host": HOST,
        "status": "complete",
        "reason": "",
        "started": started,
        "ended": started + run["sampling"]["seconds"],
        "knobs": {"before": KNOBS, "during": {**KNOBS, **knobs, **_advised(run)}, "after": KNOBS},
        "simulated": {
            "kernel": KERNEL,
            "memory_mib": memory,
            "costs": world.ksmd.costs._asdict(),
        },
        "provenance": {
            "kernel": {"release": f"{KERNEL}, simulated", "machine": "x86_64"},
            "page_size": PAGE,
            "versions": {"project": version("ksm-testbed")},
        },
    }
    return {**files, "run.json": json.dumps(record, indent=2)}


def host_of(run: dict[str, Any], memory: int) -> World:
    """Return the host of a run, whose memory is so many MiB, before anything has started."""
    seed = SEEDS * (run["factors"]["repetition"] - 1)
    return World(Ksmd(), seed, memory, run["thp"].get("enabled") != "never")


def _lines(of: Iterable[dict[str, Any]], separators: tuple[str, str] | None = None) -> str:
    return "".join(json.dumps(line, separators=separators) + "\n" for line in of)


def _advised(run: dict[str, Any]) -> dict[str, Any]:
    """Return the knobs of the kernel's advisor, if a run has it."""
    asked = run.get("policy", {})
    if asked.get("kind") != "advisor":
        return {}
    knobs = Advisor(**asked["settings"])._asdict()
    return {"advisor_mode": "scan-time"} | {f"advisor_{name}": knobs[name] for name in knobs}


def knobs_of(run: dict[str, Any]) -> dict[str, int]:
    """Return the knobs of a run that the simulated kernel has."""
    asked = {**run["knobs_if_present"], **run["knobs"]}
    return {name: int(value) for name, value in asked.items() if name in KNOBS}


def sampled(
    world: World, run: dict[str, Any], knobs: dict[str, int], started: float
) -> Iterator[dict[str, Any]]:
    """Yield the lines of the sampler, and let time pass between them."""
    ksmd, sampling = world.ksmd, run["sampling"]
    queue = Queue(actors(world, run["parts"]))
    for part in run["parts"]:
        if part["name"] == "population":
            for actor in Population(world, part["options"]).actors():
                queue.add(actor)
    queue.until(0.0, ksmd)
    names = [name for part in run["parts"] for name in part.get("processes", [])]
    options = next(part["options"] for part in run["parts"] if part["name"] == "sampler")
    transient = {*options.get("transient", [])}
    pids = {name: number for number, name in enumerate(names, start=1)}
    yield {
        "kind": "header",
        "format": 1,
        "wall": started,
        "monotonic": 0.0,
        "period": sampling["period"],
        "samples": sampling["samples"],
        "page_size": PAGE,
        "clock_ticks": 100,
        "kernel": f"{KERNEL}, simulated",
        "ksmd_pid": 0,
        "guests": {name: pid for name, pid in pids.items() if name not in transient},
    }
    for n in range(sampling["samples"]):
        at = n * sampling["period"]
        queue.until(at, ksmd)
        ksmd.advance(at - ksmd.clock)
        yield {"kind": "sample", "n": n, "wall": started + at, "monotonic": at, **_sample(world)}
        if n == 0:
            ksmd.set(knobs)
            world.tell("events", "knobs set", knobs={**KNOBS, **knobs})
            if policy := run.get("policy"):
                queue.add(turns(world, policy["kind"], policy["settings"]))
    yield {
        "kind": "end",
        "samples": sampling["samples"],
        "missed": 0,
        "cpu_seconds": 0.0,
        "reason": "finished",
        "gone": {},
        **({"left": _left(world)} if transient else {}),
    }


def _left(world: World) -> dict[str, float]:
    return {
        event["process"]: event["at"]
        for event in world.told.get("processes", [])
        if event["event"] == "process left"
    }


def _sample(world: World) -> dict[str, Any]:
    """Return what the sampler reads of a simulated host."""
    ksmd = world.ksmd
    profit = ksmd.saved * PAGE - ksmd.items * RMAP_ITEM
    guests: dict[str, dict[str, int] | None] = dict.fromkeys(world.gone)
    for name, processes in world.there.items():
        each = [ksmd.of(process) for process in processes]
        found = {key: sum(of[key] for of in each) for key in each[0]}
        saved = found["ksm_merging_pages"] + found["ksm_zero_pages"]
        found["ksm_process_profit"] = saved * PAGE - found["ksm_rmap_items"] * RMAP_ITEM
        guests[name] = found
    return {
        "ksm": {**ksmd.counters(), **ksmd.knobs, "general_profit": profit},
        "vmstat": {"cow_ksm": ksmd.broken},
        "ksmd": {"cpu_ns": round(ksmd.cpu * 1e9)},
        "guests": guests,
    }


class Queue:
    """Actors, and when each is to be called next."""

    def __init__(self, actors: Iterable[Actor] = ()) -> None:
        self.due: list[tuple[float, int, Actor]] = []
        self.number = 0
        for actor in actors:
            self.add(actor)

    def add(self, actor: Actor, at: float = 0.0) -> None:
        """Call an actor at a time; those of the same time in the order in which they were added."""
        heapq.heappush(self.due, (at, self.number, actor))
        self.number += 1

    def until(self, at: float, ksmd: Ksmd) -> None:
        """Let time pass until then, and call all actors that are due."""
        while self.due and self.due[0][0] <= at:
            when, _, actor = heapq.heappop(self.due)
            ksmd.advance(max(0.0, when - ksmd.clock))
            again = next(actor, None)
            if again is not None:
                self.add(actor, again)
