"""Which of the tried settings are best, and why.

The greatest of several means tends to be too great, because it was selected for its value. So the
answer is every setting that the runs cannot distinguish from the best, with intervals that allow
for the selection. It is a single setting only if the runs distinguish it from all others. Settings
are compared within blocks, if at least 3 blocks have a run of each setting.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from ksm_analysis.analysis.blocks import shared
from ksm_analysis.analysis.front import on_front
from ksm_analysis.analysis.settings import Setting
from ksm_analysis.analysis.statistics import (
    CONFIDENCE,
    FEWEST,
    MARGIN,
    Floats,
    equivalence,
    estimate,
    may_be_greatest,
    may_be_greatest_in_blocks,
    paired,
)
from ksm_analysis.analysis.words import number, spoken


@dataclass(frozen=True)
class Best:
    """What the runs show about the settings for the same host, guests and workload.

    `settings` are those that the runs cannot distinguish from the best, ordered by CPU time of ksmd
    (lowest first). It is empty if it is too early to say. The intervals of their `saved_mib` allow
    for their selection. `confident`: it is a single setting, and the runs show that it saves most.
    `equal`: there are several, and the runs show that they save the same within 1 %. `front` are
    the settings that no other is shown to beat in both savings and cost (see on_front), ordered in
    the same way; it is empty if no cost is known. `rivals` are all settings that compete.
    """

    scenario: str
    settings: tuple[Setting, ...]
    confident: bool
    why: str
    equal: bool = False
    front: tuple[Setting, ...] = ()
    rivals: tuple[Setting, ...] = ()

    def has_on_front(self, setting: Setting) -> bool | None:
        """Whether a setting is on the front; None if it does not compete here."""
        if not any(_alike(setting, each) for each in self.rivals):
            return None
        return any(_alike(setting, each) for each in self.front)


def _alike(setting: Setting, pooled: Setting) -> bool:
    """Whether a setting is that one, or a part of it: settings of several hosts may be pooled."""
    same = (setting.guests, setting.workload, setting.knobs)
    of_hosts = {block.host for block in pooled.blocks if block} | {pooled.host}
    return same == (pooled.guests, pooled.workload, pooled.knobs) and setting.host in of_hosts


def best_of(every: list[Setting]) -> list[Best]:
    """Compare settings if more than one was tried for the same host, guests and workload.

    A setting competes if ksmd scanned all memory often enough in each of its runs. A control does
    not compete. If a host alone has too few runs, and all hosts together have enough, they are
    compared together, each within itself. Most guests first.
    """
    scenarios: dict[tuple[str, int, str], list[Setting]] = {}
    for each in every:
        if not (each.off or each.control) and each.saved_mib:
            scenarios.setdefault((each.host, each.guests, each.workload), []).append(each)
    several_hosts = len({each.host for each in every}) > 1
    tried = [rivals for rivals in _over_hosts(scenarios) if len(rivals) > 1]
    tried.sort(key=lambda rivals: -rivals[0].guests)
    return [_compared(rivals, rivals[0].scenario(several_hosts)) for rivals in tried]


def _over_hosts(scenarios: dict[tuple[str, int, str], list[Setting]]) -> Iterator[list[Setting]]:
    """Yield the rivals of each scenario; those of all hosts together if only that can decide."""
    of_hosts: dict[tuple[int, str], list[list[Setting]]] = {}
    for (_, guests, workload), rivals in scenarios.items():
        of_hosts.setdefault((guests, workload), []).append(rivals)
    for (_, guests, workload), rivals in scenarios.items():
        hosts = of_hosts[guests, workload]
        pooled = _of_all(hosts)
        few = min(len(_blocks(each)) for each in hosts) < FEWEST
        if len(hosts) == 1 or not few or len(_blocks(pooled)) < FEWEST:
            yield rivals
        elif rivals is hosts[0]:
            yield pooled


def _of_all(hosts: list[list[Setting]]) -> list[Setting]:
    """Return the settings of all hosts together."""
    every: dict[str, list[Setting]] = {}
    for setting in (s for rivals in hosts for s in rivals):
        every.setdefault(setting.knobs, []).append(setting)
    return [_together(each, f"{len(hosts)} hosts") for each in every.values()]


def _together(of_hosts: list[Setting], host: str) -> Setting:
    """Combine a setting of several hosts: means are over the runs of all of them."""
    savings = tuple(value for s in of_hosts for value in s.savings)
    costs = [s.ksmd_cpu_seconds.mean for s in of_hosts if s.ksmd_cpu_seconds]
    return replace(
        of_hosts[0],
        host=host,
        runs=tuple(run for s in of_hosts for run in s.runs),
        scanned=all(s.scanned for s in of_hosts),
        savings=savings,
        blocks=tuple(block for s in of_hosts for block in s.blocks),
        cpu_seconds=tuple(value for s in of_hosts for value in s.cpu_seconds),
        throughputs=tuple(value for s in of_hosts for value in s.throughputs),
        saved_mib=estimate(savings),
        ksmd_cpu_seconds=estimate(costs) if len(costs) == len(of_hosts) else None,
    )


def _blocks(rivals: list[Setting]) -> list[tuple[int, ...]]:
    """Return where each complete block is in the savings of each setting that competes."""
    return shared([s.blocks for s in rivals if s.scanned] or [()])


def _compared(tried: list[Setting], scenario: str) -> Best:
    count = sum(s.scanned for s in tried)
    rivals = [
        replace(s, saved_mib=estimate(s.savings, chosen_of=count)) for s in tried if s.scanned
    ]
    rivals.sort(key=_cost)
    early = _early([s for s in tried if not s.scanned])
    if len(rivals) < 2:
        return Best(scenario, (), False, early)
    if max(map(_saved, rivals)) <= 0:
        words = "None of them saves anything: KSM does not pay here."
        return Best(scenario, tuple(rivals), False, f"{words} {early}".strip())
    chosen = _may_be_best(rivals)
    best = tuple(s for s, chance in zip(rivals, chosen, strict=True) if chance)
    alone, equal = len(best) == 1, _equal(best)
    reasons = [*(_one(best[0], rivals) if alone else _several(best, rivals, equal))]
    front = _front(rivals, chosen)
    words = " ".join([*reasons, *_of_front(front, rivals), early]).strip()
    return Best(scenario, best, alone, words, equal, front, tuple(rivals))


def _equal(settings: tuple[Setting, ...]) -> bool:
    """Whether the runs show that several settings save the same within 1 %.

    Each pair must show it by itself, so p needs no adjustment.
    """
    p = (_equivalence(a, b) for a, b in combinations(settings, 2))
    return len(settings) > 1 and all(each is not None and each < 1 - CONFIDENCE for each in p)


def _equivalence(a: Setting, b: Setting) -> float | None:
    pairs = _pairs(a, b)
    if len(pairs) < FEWEST:
        return equivalence(a.savings, b.savings, MARGIN)
    return equivalence(pairs[:, 0], pairs[:, 1], MARGIN, in_blocks=True)


def _pairs(a: Setting, b: Setting) -> Floats:
    """Return the savings of both in each block that both have, one row for each block."""
    places = shared([a.blocks, b.blocks])
    return np.array([(a.savings[n], b.savings[m]) for n, m in places]).reshape(-1, 2)


def _front(rivals: list[Setting], chosen: list[bool]) -> tuple[Setting, ...]:
    """Return the settings on the front; one that may save most is on it by definition."""
    if not any(value is not None for s in rivals for value in s.cpu_seconds):
        return ()
    there = zip(rivals, chosen, on_front(rivals), strict=True)
    return tuple(s for s, may_be_best, unbeaten in there if may_be_best or unbeaten)


def _of_front(front: tuple[Setting, ...], rivals: list[Setting]) -> Iterator[str]:
    if front and len(front) == len(rivals):
        yield "No setting is shown to save less and cost more than another."
    elif len(front) == 1:
        yield "Every other setting saves less and costs more."
    elif front:
        yield f"Settings that no other beats in savings and cost: {_named(front)}."


def _named(settings: tuple[Setting, ...]) -> str:
    return "; ".join(s.knobs for s in settings)


def _may_be_best(rivals: list[Setting]) -> list[bool]:
    """Return for each setting whether it may save most: within blocks, if enough are complete."""
    places = _blocks(rivals)
    if len(places) < FEWEST:
        return may_be_greatest([s.savings for s in rivals])
    return may_be_greatest_in_blocks(
        np.array([[s.savings[n] for s, n in zip(rivals, row, strict=True)] for row in places])
    )


def _saved(setting: Setting) -> float:
    """Return MiB saved; a value that is not known sorts as the smallest."""
    return setting.saved_mib.mean if setting.saved_mib else -math.inf


def _cost(setting: Setting) -> float:
    """Return CPU seconds of ksmd; a value that is not known sorts as the largest."""
    return setting.ksmd_cpu_seconds.mean if setting.ksmd_cpu_seconds else math.inf


def _one(best: Setting, rivals: list[Setting]) -> Iterator[str]:
    second = max((s for s in rivals if s is not best), key=_saved)
    saved, other = spoken(best.saved_mib, "MiB"), spoken(second.saved_mib, "MiB")
    yield f"It saves most: {saved}. The next is {second.knobs} with {other}."
    if words := _more(best, second):
        yield words
    shown = _equivalence(second, best)
    if shown is not None and shown < 1 - CONFIDENCE:
        yield f"That is less than {100 * MARGIN:g} %, so it hardly matters."
    yield (
        f"It was selected from {len(rivals)}: its mean is rather too high, and its interval allows "
        "for that."
    )
    if best.ksmd_cpu_seconds and second.ksmd_cpu_seconds:
        ours, theirs = number(best.ksmd_cpu_seconds.mean), number(second.ksmd_cpu_seconds.mean)
        yield f"It costs {ours} CPU seconds of ksmd. The next costs {theirs}."


def _more(best: Setting, second: Setting) -> str:
    """Say how much more the best saves within blocks; empty without blocks."""
    pairs = _pairs(second, best)
    found = paired(*pairs.T)
    if not found or found.change is None or found.low is None or found.high is None:
        return ""
    more, low, high = (number(100 * value) for value in (found.change, found.low, found.high))
    return f"Within {len(pairs)} blocks, it saves {more} % more ({low} to {high})."


def _several(best: tuple[Setting, ...], rivals: list[Setting], equal: bool) -> Iterator[str]:
    listed = "; ".join(f"{s.knobs} saves {spoken(s.saved_mib, 'MiB')}" for s in best)
    yield f"These runs do not show which of {len(best)} settings saves most: {listed}."
    if len(_blocks(rivals)) < FEWEST and (runs := min(len(s.savings) for s in best)) < FEWEST:
        yield f"Each needs at least {FEWEST} runs, and one of them has only {runs}."
    elif equal:
        yield f"They are shown to save the same within {100 * MARGIN:g} %."
    else:
        yield f"Nor do they show that these save the same within {100 * MARGIN:g} %. More runs may."
    if best[0].ksmd_cpu_seconds:
        cost = number(best[0].ksmd_cpu_seconds.mean)
        yield f"Of these, {best[0].knobs} costs the least: {cost} CPU seconds of ksmd."


def _early(settings: list[Setting]) -> str:
    if not settings:
        return ""
    names = _named(tuple(settings))
    return f"Too early to judge: ksmd did not scan all memory often enough with {names}."
