"""Blocks: what the runs of several settings have in common, so that they are compared within it.

A block is one repetition on one host. Runs of a block were made one after another on the same
machine, so a drift over time, and a difference between hosts, affects all of them alike.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from ksm_analysis.results import cells
from ksm_analysis.results.run import Run


class Block(NamedTuple):
    """One repetition of an experiment on one host.

    `number` is the repetition. If the repetitions of an experiment were divided among its hosts,
    it counts the runs of each cell on the host, from 1.
    """

    experiment: str
    host: str
    number: int


def blocks_of(runs: Sequence[Run]) -> list[Block | None]:
    """Return the block of each run; None for imported runs.

    Their logs do not say which of them belong together.
    """
    divided = _divided(runs)
    earlier: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for run in runs:
        if run.record.experiment in divided:
            earlier[_cell(run)].append(run.repetition)
    found: list[Block | None] = []
    for run in runs:
        number = run.repetition
        if run.record.experiment in divided:
            number = 1 + sorted(earlier[_cell(run)]).index(number)
        block = Block(run.record.experiment, run.host, number)
        found.append(None if run.imported else block)
    return found


def _cell(run: Run) -> tuple[object, ...]:
    return run.record.experiment, run.cell, str(sorted(cells.knobs(run).items()))


def _divided(runs: Sequence[Run]) -> set[str]:
    """Return the experiments whose hosts each did a part of the repetitions."""
    hosts: dict[str, set[str]] = defaultdict(set)
    done: dict[str, dict[object, set[str]]] = defaultdict(lambda: defaultdict(set))
    for run in runs:
        hosts[run.record.experiment].add(run.host)
    for run in runs:
        experiment = run.record.experiment
        if len(hosts[experiment]) == 1:
            continue
        planned = run.cell._replace(host=""), str(sorted(cells.knobs(run).items())), run.repetition
        done[experiment][planned].add(run.host)
    return {
        name
        for name, there in hosts.items()
        if len(there) > 1 and all(len(each) == 1 for each in done[name].values())
    }


def shared(groups: Sequence[Sequence[Block | None]]) -> list[tuple[int, ...]]:
    """Return the positions, one in each group, of each block that all groups have.

    Blocks are in the order of the first group. A block that a group has twice does not count.
    """
    first = groups[0]
    alike = all(group == first for group in groups)
    if alike and None not in first and len({*first}) == len(first):  # as nearly always
        return [(n,) * len(groups) for n in range(len(first))]
    places = []
    for group in groups:
        often = Counter(group)
        places.append({b: n for n, b in enumerate(group) if b is not None and often[b] == 1})
    return [
        tuple(place[block] for place in places)
        for block in places[0]
        if all(block in place for place in places)
    ]
