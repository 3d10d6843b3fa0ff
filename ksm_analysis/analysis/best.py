"""Which of the tried settings are best, and why.

The greatest of several means tends to be too great, because it was selected for its value. So the
answer is every setting that the runs cannot distinguish from the best. It is a single setting only
if the runs distinguish it from all others.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from ksm_analysis.analysis.settings import Setting
from ksm_analysis.analysis.statistics import FEWEST, may_be_greatest
from ksm_analysis.analysis.words import number, spoken


@dataclass(frozen=True)
class Best:
    """What the runs show about the settings for the same host, guests and workload.

    `settings` are those that the runs cannot distinguish from the best, ordered by CPU time of ksmd
    (lowest first). It is empty if it is too early to say. `confident`: it is a single setting, and
    the runs show that it saves most.
    """

    scenario: str
    settings: tuple[Setting, ...]
    confident: bool
    why: str


def best_of(every: list[Setting]) -> list[Best]:
    """Compare settings if more than one was tried for the same host, guests and workload.

    A setting competes if ksmd scanned all memory often enough in each of its runs. Most guests
    first.
    """
    scenarios: dict[tuple[str, int, str], list[Setting]] = {}
    for each in every:
        if not each.off and each.saved_mib:
            scenarios.setdefault((each.host, each.guests, each.workload), []).append(each)
    several_hosts = len({each.host for each in every}) > 1
    tried = [rivals for rivals in scenarios.values() if len(rivals) > 1]
    tried.sort(key=lambda rivals: -rivals[0].guests)
    return [_compared(rivals, rivals[0].scenario(several_hosts)) for rivals in tried]


def _compared(tried: list[Setting], scenario: str) -> Best:
    rivals = sorted((s for s in tried if s.scanned), key=_cost)
    early = _early([s for s in tried if not s.scanned])
    if len(rivals) < 2:
        return Best(scenario, (), False, early)
    if max(map(_saved, rivals)) <= 0:
        words = "None of them saves anything: KSM does not pay here."
        return Best(scenario, tuple(rivals), False, f"{words} {early}".strip())
    chosen = may_be_greatest([s.savings for s in rivals])
    best = tuple(s for s, chance in zip(rivals, chosen, strict=True) if chance)
    reasons = _one(best[0], rivals) if len(best) == 1 else _several(best)
    return Best(scenario, best, len(best) == 1, " ".join([*reasons, early]).strip())


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
    if best.ksmd_cpu_seconds and second.ksmd_cpu_seconds:
        ours, theirs = number(best.ksmd_cpu_seconds.mean), number(second.ksmd_cpu_seconds.mean)
        yield f"It costs {ours} CPU seconds of ksmd. The next costs {theirs}."


def _several(best: tuple[Setting, ...]) -> Iterator[str]:
    listed = "; ".join(f"{s.knobs} saves {spoken(s.saved_mib, 'MiB')}" for s in best)
    yield f"These runs do not show which of {len(best)} settings saves most: {listed}."
    if (runs := min(len(s.savings) for s in best)) < FEWEST:
        yield f"Each needs at least {FEWEST} runs, and one of them has only {runs}."
    else:
        yield "More runs may show it."
    if best[0].ksmd_cpu_seconds:
        cost = number(best[0].ksmd_cpu_seconds.mean)
        yield f"Of these, {best[0].knobs} costs the least: {cost} CPU seconds of ksmd."


def _early(settings: list[Setting]) -> str:
    if not settings:
        return ""
    names = "; ".join(s.knobs for s in settings)
    return f"Too early to judge: ksmd did not scan all memory often enough with {names}."
