"""A run, and all runs of a directory of results."""

import contextlib
import copy
import json
import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from ksm_analysis.results import censuses
from ksm_analysis.results.load import Load
from ksm_analysis.results.once import once
from ksm_analysis.results.record import Planned, Record
from ksm_analysis.results.reported import nothing
from ksm_analysis.results.writes import Writes


class Cell(NamedTuple):
    """What the repetitions of a run have in common: the factors, as labels, and the host."""

    guests: int
    host: str
    workload: str
    knobs: str


@dataclass(frozen=True)
class Run:
    """One run.

    `samples` has one row per sample, indexed by `n`; columns are `seconds` (since the header's
    monotonic time), `wall`, `monotonic`, and one for each counter: `ksm.full_scans`, `cpu.idle`,
    `meminfo.MemFree`, `vmstat.cow_ksm`, `ksmd.cpu_ns`; units as the kernel prints them.

    `guests` has one row per sample and existing guest: `n`, `seconds`, `guest`, and the counters of
    its process (`ksm_rmap_items`, `resident_pages`, …). `guest` is categorical, so that a name
    takes one byte per row.

    A counter that the kernel does not have is not a column. A run without readable samples has
    empty frames, and `usable` is false. `end` is the sampler's end line, empty if it was killed.
    `census`, `writes` and `load` are None if there are none.

    `reported` has one row for each value that a part reported: `seconds` (when), `since` (the start
    of the time that it covers; equal to `seconds` if that is not known), `metric`, `value`, `unit`,
    `better` (lower, higher or empty), `of` (a guest or a process, or empty), and `settled`: before
    `since`, ksmd had scanned all memory twice, and it ran. Rows are in the order of time.
    """

    path: Path
    record: Record
    header: dict[str, Any] = field(default_factory=dict)
    end: dict[str, Any] = field(default_factory=dict)
    samples: pd.DataFrame = field(default_factory=pd.DataFrame)
    guests: pd.DataFrame = field(default_factory=pd.DataFrame)
    events: tuple[dict[str, Any], ...] = ()
    warnings: tuple[str, ...] = ()
    census: censuses.Census | None = None
    writes: Writes | None = None
    load: Load | None = None
    reported: pd.DataFrame = field(default_factory=nothing)
    known: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def relabelled(self, record: Record, **changes: object) -> "Run":
        """Copy the run with another record. Its values stay as they are, as `known` has them."""
        changed = copy.copy(self)
        changed.__dict__.pop("factors", None)
        changed.__dict__.update(record=record, **changes)
        return changed

    @property
    def plan(self) -> Planned:
        """What was asked for."""
        return self.record.run

    @property
    def id(self) -> str:
        """The name of the run within its experiment."""
        return self.plan.id

    @property
    def complete(self) -> bool:
        """Whether run.json says that nothing failed."""
        return self.record.status == "complete"

    @property
    def usable(self) -> bool:
        """Whether figures and tables use it: it is complete and has a sample after the baseline.

        An imported run has no baseline.
        """
        return self.complete and _extent(self)[0] > (0 if self.imported else 1)

    @property
    def sampled(self) -> int:
        """How many samples it has."""
        return _extent(self)[0]

    @property
    def host(self) -> str:
        """The Ansible name of the machine that ran it."""
        return self.record.host

    @cached_property
    def factors(self) -> dict[str, Any]:
        """What was varied: guests, knobs, workload, repetition."""
        return self.plan.factors.asked()

    @property
    def repetition(self) -> int:
        """Its repetition within its own experiment."""
        return self.plan.repetition or self.plan.factors.repetition

    @property
    def cell(self) -> Cell:
        """What it has in common with its repetitions."""
        factors = self.plan.factors
        return Cell(factors.guests, self.host, factors.workload, factors.knobs)

    @property
    def imported(self) -> bool:
        """Whether it was read from a log of the original framework, which has no sample 0."""
        return self.record.imported is not None

    @property
    def simulated(self) -> bool:
        """Whether a model of ksmd made it, and no kernel."""
        return self.record.simulated is not None

    @property
    def converged(self) -> bool | None:
        """Whether savings were steady when the run ended; None if its length was fixed."""
        found = self.end.get("converged", self.record.converged)
        return found if isinstance(found, bool) else None

    def options(self, part: str) -> dict[str, Any] | None:
        """Return the options of a part; None if the run has no such part."""
        return next((each.options for each in self.plan.parts if each.name == part), None)

    @property
    def has_density(self) -> bool:
        """Whether copies or guests were added to a budget until they did not fit."""
        return bool(self.options("density") or (self.options("processes") or {}).get("density"))

    @property
    def tasks(self) -> tuple[dict[str, Any], ...]:
        """What the guests did: tasks with `guests`, `start`, `stop`, `stress_ng` or `command`."""
        return tuple((self.options("workload") or {}).get("tasks", ()))

    @property
    def intervals(self) -> int:
        """Intervals that were sampled: fewer than planned if the run ended early or was cut short.

        Without samples there are none.
        """
        count, last = _extent(self)
        if not count:
            return 0
        sampling = self.plan.sampling
        each = max(1, round(sampling.interval / sampling.period))
        return min(sampling.intervals, math.ceil(last / each))

    @property
    def seconds(self) -> float:
        """How long it was sampled."""
        return self.intervals * self.plan.sampling.interval

    def over_guests(self, name: str, n: int) -> float:
        """Return the sum of a counter of all processes in sample n; NaN if one has no value."""
        if name not in self.guests:
            return math.nan
        values = pd.to_numeric(self.guests.loc[self.guests["n"] == n, name], errors="coerce")
        complete = len(values) == len(self.header.get("guests", {})) > 0
        return float(values.sum(skipna=False)) if complete else math.nan

    def lines(self, part: str) -> list[dict[str, Any]]:
        """Return the JSON objects of a part's file, in their order. Other lines are skipped."""
        try:
            text = (self.path / f"{part}.jsonl").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return []
        found = []
        for line in text.splitlines():
            with contextlib.suppress(ValueError):
                if isinstance(value := json.loads(line), dict):
                    found.append(value)
        return found

    def window(self) -> tuple[float, float] | None:
        """Return when the workload ran, first start to last stop, in seconds of `samples`.

        None without a workload. If no stop was recorded, it lasts until the last sample.
        """
        return _window(self)


@once()
def _extent(run: Run) -> list[int]:
    """Return the number of samples, and the number of the last one (0 without any)."""
    return [len(run.samples), int(run.samples.index[-1]) if len(run.samples) else 0]


@once(lambda found: found and (found[0], found[1]))
def _window(run: Run) -> tuple[float, float] | None:
    at: dict[str, list[float]] = {"workload started": [], "workload stopped": []}
    for event in run.events:
        if event["event"] in at:
            at[event["event"]].append(event["monotonic"] - run.header["monotonic"])
    if not at["workload started"] or run.samples.empty:
        return None
    end = max(at["workload stopped"], default=float(run.samples["seconds"].iloc[-1]))
    return min(at["workload started"]), end


@dataclass(frozen=True)
class Results:
    """All runs of a directory, in the order of the plan, and warnings about them."""

    path: Path
    runs: tuple[Run, ...]
    warnings: tuple[str, ...]

    @property
    def usable(self) -> tuple[Run, ...]:
        """The runs that figures and tables are made of."""
        return tuple(run for run in self.runs if run.usable)
