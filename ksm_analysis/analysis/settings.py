"""Settings: the runs of each, what it saves, what that costs, and how soon it saves it."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ksm_analysis.analysis.blocks import Block, blocks_of, shared
from ksm_analysis.analysis.statistics import (
    FEWEST,
    Difference,
    Estimate,
    Times,
    difference,
    estimate,
    paired,
    times_of,
)
from ksm_analysis.analysis.words import guest_word
from ksm_analysis.metrics import policies
from ksm_analysis.metrics.freed import census_mib, counted_mib, freed, saved_mib
from ksm_analysis.metrics.measurement import Measured
from ksm_analysis.metrics.summary import throughput
from ksm_analysis.metrics.times import has_plateau, reached, scanned_enough
from ksm_analysis.results import cells
from ksm_analysis.results.run import Cell

InBlocks = list[tuple[Measured, Block | None]]  # runs of a cell, each with its block


@dataclass(frozen=True)
class Setting:
    """One cell of the experiment, over its repetitions.

    `off` is the baseline: run=0. A value is None if no run has it (an imported run has no CPU time
    of ksmd, arrays have no configured memory). `throughput` is the mean over guests, in bogo
    operations per second. `throughput_vs_off_percent` is its change against the same guests and
    workload with KSM off. `seconds_to_50`, `_90`, `_95` count from the first sample until the
    savings reached that share of their plateau. `plateaued`: every run reached one. A run without
    one never reached the share: its time is censored. `efficiency_percent` is what is saved of what
    perfect merging would save, in the last census. `period` is the seconds between two samples.
    `freed_mib` is what the host has more of, and `counted_mib` what KSM counts as saved, if a
    census decides.
    `savings` lists the MiB that each run saved, and `blocks` their blocks (experiment, host,
    number). `cpu_seconds`, those of ksmd and the policy together, and `throughputs` are of the same
    runs; None if not known. `cost_seconds` is the mean of `cpu_seconds`.
    `scanned`: in each run, ksmd scanned all memory often enough to judge the setting. `control`: it
    is the first setting once more, so it is not compared with others.
    """

    host: str
    guests: int
    workload: str
    knobs: str
    off: bool
    runs: tuple[str, ...]
    scanned: bool
    plateaued: bool
    savings: tuple[float, ...]
    saved_mib: Estimate | None
    percent_configured: Estimate | None
    percent_resident: Estimate | None
    ksmd_cpu_seconds: Estimate | None
    ksmd_cpu_percent: Estimate | None
    throughput: Estimate | None
    throughput_vs_off_percent: Estimate | None
    saved_per_cpu_second: Estimate | None
    seconds_to_50: Times | None
    seconds_to_90: Times | None
    seconds_to_95: Times | None
    efficiency_percent: Estimate | None = None
    period: float = 0.0
    freed_mib: Estimate | None = None
    counted_mib: Estimate | None = None
    blocks: tuple[Block | None, ...] = ()
    control: bool = False
    cpu_seconds: tuple[float | None, ...] = ()
    throughputs: tuple[float | None, ...] = ()
    cost_seconds: Estimate | None = None

    def within(self, seconds: Times) -> bool:
        """Whether a time is that of the first sample: the share may have been reached before it."""
        return seconds.mean is not None and seconds.mean <= self.period

    def scenario(self, with_host: bool) -> str:
        """Name what compared settings have in common: guests, workload and, if asked, the host."""
        return ", ".join(
            filter(None, (guest_word(self.guests), self.workload, self.host if with_host else ""))
        )


def settings_of(measured: list[Measured]) -> list[Setting]:
    """Return one setting for each cell, in the order of the plan."""
    found = grouped(measured)
    baselines = baselines_of(found)
    return [_setting(cell, runs, baselines.get(but_knobs(cell))) for cell, runs in found.items()]


def grouped(measured: list[Measured]) -> dict[Cell, InBlocks]:
    """Return the runs of each cell, in the order of the plan."""
    found: dict[Cell, InBlocks] = {}
    for each, block in zip(measured, blocks_of([m.run for m in measured]), strict=True):
        found.setdefault(each.run.cell, []).append((each, block))
    return found


def baselines_of(found: dict[Cell, InBlocks]) -> dict[Cell, InBlocks]:
    """Return the runs with KSM off, by their cell without its knobs."""
    return {
        but_knobs(cell): runs
        for cell, runs in found.items()
        if is_off(runs[0][0]) and not is_control(runs[0][0])
    }


def but_knobs(cell: Cell) -> Cell:
    """Return what a cell has in common with those that differ from it only in the knobs."""
    return cell._replace(knobs="")


def is_off(measured: Measured) -> bool:
    """Whether KSM was off in a run: the baseline."""
    return cells.is_off(measured.run)


def is_control(measured: Measured) -> bool:
    """Whether a run belongs to the control: the first setting once more."""
    return measured.run.plan.control


def _setting(cell: Cell, in_blocks: InBlocks, baseline: InBlocks | None) -> Setting:
    runs = [each for each, _ in in_blocks]
    off = is_off(runs[0])
    known = [both for both in in_blocks if not np.isnan(saved_mib(both[0]))]
    return Setting(
        **cell._asdict(),
        off=off,
        runs=tuple(each.run.id for each in runs),
        scanned=all(map(scanned_enough, runs)),
        plateaued=all(map(has_plateau, runs)),
        savings=tuple(saved_mib(each) for each, _ in known),
        blocks=tuple(block for _, block in known),
        cpu_seconds=tuple(_or_none(cost_of(each)) for each, _ in known),
        throughputs=tuple(_or_none(throughput_of(each)) for each, _ in known),
        control=is_control(runs[0]),
        saved_mib=_over(runs, saved_mib),
        freed_mib=_over(runs, _freed),
        counted_mib=_over(runs, _counted),
        percent_configured=_over(runs, _percent_of("guest_memory_configured_mib")),
        percent_resident=_over(runs, _percent_of("guest_memory_resident_mib")),
        ksmd_cpu_seconds=_over(runs, last("ksmd_cpu_seconds")),
        ksmd_cpu_percent=_over(runs, _ksmd_percent),
        cost_seconds=_over(runs, cost_of),
        throughput=_over(runs, throughput_of),
        throughput_vs_off_percent=None if off or not baseline else _change(in_blocks, baseline),
        saved_per_cpu_second=None if off else _over(runs, _saved_per_second),
        seconds_to_50=_times(runs, 0.50),
        seconds_to_90=_times(runs, 0.90),
        seconds_to_95=_times(runs, 0.95),
        efficiency_percent=None if off else _over(runs, efficiency_of),
        period=max(each.run.plan.sampling.period for each in runs),
    )


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else value


def _over(runs: list[Measured], value: Callable[[Measured], float]) -> Estimate | None:
    return estimate([value(each) for each in runs])


def _times(runs: list[Measured], share: float) -> Times | None:
    found = [each for each in map(reached(share), runs) if not np.isnan(each.seconds)]
    return times_of([seconds for seconds, _ in found], [yes for _, yes in found])


def last(name: str) -> Callable[[Measured], float]:
    """Return a function that reads the value that stands for a run; NaN if there is none."""
    return lambda measured: measured.final[name]


def _percent_of(whole: str) -> Callable[[Measured], float]:
    """Return a function that gives the savings in percent of a metric in MiB."""
    return lambda measured: 100 * saved_mib(measured) / (last(whole)(measured) or np.nan)


def _freed(measured: Measured) -> float:
    return freed(measured).freed_mib


def _counted(measured: Measured) -> float:
    """Return what KSM counts, if a census found something else; NaN otherwise."""
    return np.nan if np.isnan(census_mib(measured)) else counted_mib(measured)


def cost_of(measured: Measured) -> float:
    """Return the CPU time of ksmd, and of the policy that turned its knobs, in seconds."""
    return last("ksmd_cpu_seconds")(measured) + policies.cpu_seconds(measured.run)


def _ksmd_percent(measured: Measured) -> float:
    return 100 * last("ksmd_cpu_seconds")(measured) / measured.run.seconds


def _saved_per_second(measured: Measured) -> float:
    used = last("ksmd_cpu_seconds")(measured)
    return saved_mib(measured) / used if used else np.nan


def throughput_of(measured: Measured) -> float:
    """Return the mean over guests of bogo operations per second; NaN without any."""
    rates = throughput(measured.run)
    return float(np.mean(rates)) if rates else np.nan


def efficiency_of(measured: Measured) -> float:
    """Return the efficiency that the last census found, in percent; NaN without a census."""
    return float(measured.last_census.get("efficiency_percent", np.nan))


def _change(runs: InBlocks, baseline: InBlocks) -> Estimate | None:
    """Return the change of mean throughput in percent of the baseline; interval as in compare."""
    found = compared(baseline, runs, throughput_of)
    if found is None or not found.a.mean:
        return None
    scale = 100 / abs(found.a.mean)
    low, high = (
        None if bound is None else scale * bound
        for bound in (found.absolute_low, found.absolute_high)
    )
    return Estimate(scale * found.absolute, low, high, min(found.a.runs, found.b.runs))


def compared(a: InBlocks, b: InBlocks, value: Callable[[Measured], float]) -> Difference | None:
    """Compare B with A: within blocks, or as two groups if runs have no blocks.

    With fewer than 3 complete pairs, the means are over all runs, without an interval or a p.
    """
    ours, theirs = ([value(each) for each, _ in side] for side in (a, b))
    blocks = [[block for _, block in side] for side in (a, b)]
    if not all(map(any, blocks)):
        return difference(ours, theirs)
    places = np.array(shared(blocks), dtype=int).reshape(-1, 2)
    found = paired(np.array(ours)[places[:, 0]], np.array(theirs)[places[:, 1]])
    if found and found.a.runs >= FEWEST:
        return found
    whole = difference(ours, theirs)
    return whole and replace(whole, absolute_low=None, absolute_high=None, p=None, method="")
