"""How many repetitions a difference needs, from the spread of runs that were made before."""

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from ksm_analysis.analysis.blocks import Block, blocks_of, shared
from ksm_analysis.analysis.statistics import Floats, pairs_needed
from ksm_analysis.analysis.validity import QUANTITIES
from ksm_analysis.errors import InputError
from ksm_analysis.metrics.measurement import Measured

Values = list[tuple[float, Block | None]]  # logarithms of the values of a setting, with blocks


@dataclass(frozen=True)
class Need:
    """What the runs of the pilot say about one quantity, for the same guests and workload.

    `quantity` is savings or throughput. `repetitions` are what the paired t-test needs to detect
    the difference 4 times in 5, at 5 %. `spread` is the standard deviation of the logarithm of the
    ratio of two settings in a block; `freedom` are its degrees of freedom. `in_blocks` is false if
    it is from the repetitions of single settings, because no two settings share two blocks.
    """

    quantity: str
    guests: int
    workload: str
    repetitions: int
    spread: float
    freedom: int
    in_blocks: bool


def needs(pilot: list[Measured], difference: float) -> list[Need]:
    """Return how many repetitions show a relative difference (0.05: 5 %), for each quantity.

    Values of 0 have no ratio and are left out. Raise InputError if no quantity has a known spread.
    """
    if not pilot:
        raise InputError("--pilot: no run there can be used")
    if len(pilot) == 1:
        raise InputError("--pilot: there is only one run, so the spread of runs is not known")
    found = []
    for name, value in QUANTITIES:
        for (guests, workload), settings in _scenarios(
            pilot, [value(each) for each in pilot]
        ).items():
            ratios = _within(settings)
            known = ratios or _of_cells(settings)
            if known is None:
                continue
            spread, freedom = known
            count = pairs_needed(spread, math.log1p(difference)) or 0
            found.append(Need(name, guests, workload, count, spread, freedom, ratios is not None))
    if not found:
        raise InputError(
            "--pilot: no setting there has two runs with savings or throughput above 0, so the "
            "spread of runs is not known"
        )
    return found


def _scenarios(
    pilot: list[Measured], values: list[float]
) -> dict[tuple[int, str], dict[str, Values]]:
    """Group the logarithms of positive values by guests and workload, and by setting."""
    blocks = blocks_of([each.run for each in pilot])
    found: dict[tuple[int, str], dict[str, Values]] = defaultdict(lambda: defaultdict(list))
    for each, value, block in zip(pilot, values, blocks, strict=True):
        cell = each.run.cell
        if value > 0:
            found[cell.guests, cell.workload][cell.knobs].append((math.log(value), block))
    return found


def _within(settings: dict[str, Values]) -> tuple[float, int] | None:
    """Return the spread of log ratios over blocks, over all pairs of settings."""
    return _pooled(
        np.array([a[n][0] - b[m][0] for n, m in shared([[k for _, k in a], [k for _, k in b]])])
        for a, b in combinations(settings.values(), 2)
    )


def _of_cells(settings: dict[str, Values]) -> tuple[float, int] | None:
    """Return the spread of ratios of unrelated runs: that of single runs, times the root of 2."""
    groups: dict[tuple[str, str], list[float]] = defaultdict(list)
    for knobs, values in settings.items():
        for value, block in values:
            groups[knobs, block.host if block else ""].append(value)
    known = _pooled(np.array(each) for each in groups.values())
    return known and (math.sqrt(2) * known[0], known[1])


def _pooled(groups: Iterable[Floats]) -> tuple[float, int] | None:
    """Return the standard deviation within groups, and its degrees of freedom; None if 0."""
    many = [each for each in groups if len(each) > 1]
    freedom = sum(len(each) - 1 for each in many)
    if not freedom:
        return None
    return math.sqrt(sum(((each - each.mean()) ** 2).sum() for each in many) / freedom), freedom
