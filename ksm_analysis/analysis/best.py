"""Which setting is best of those that were tried, and why."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import scipy

from ksm_analysis.analysis.settings import Setting
from ksm_analysis.analysis.statistics import CONFIDENCE, FEWEST, Estimate
from ksm_analysis.analysis.words import number, spoken

EQUAL = 0.01  # of savings: settings that differ by less save the same


@dataclass(frozen=True)
class Best:
    """The best setting of those that were tried for the same host, guests and workload."""

    scenario: str
    setting: Setting
    why: str


def best_of(every: list[Setting]) -> list[Best]:
    """Name the best setting wherever more than one was tried for equal host, guests and workload.

    The largest mean savings win; of those within 1 % of it, the least CPU time of ksmd. Whether
    runs can tell the winner from the next is said with it (Welch's t-test). Most guests first.
    """
    scenarios: dict[tuple[str, int, str], list[Setting]] = {}
    for each in every:
        if not each.off and each.saved_mib:
            scenarios.setdefault((each.host, each.guests, each.workload), []).append(each)
    several_hosts = len({each.host for each in every}) > 1
    found = [
        Best(rivals[0].scenario(several_hosts), *_choose(rivals))
        for rivals in scenarios.values()
        if len(rivals) > 1
    ]
    return sorted(found, key=lambda each: -each.setting.guests)


def _choose(rivals: list[Setting]) -> tuple[Setting, str]:
    most = max(map(_saved, rivals))
    if most <= 0:
        cheapest = min(rivals, key=_cost)
        return cheapest, "None of them saves anything: here KSM does not pay, and this costs least."
    ties = [s for s in rivals if _saved(s) >= (1 - EQUAL) * most]
    winner = min(ties, key=_cost)
    others = [s for s in rivals if s is not winner]
    return winner, " ".join(filter(None, _reasons(winner, others, ties)))


def _saved(setting: Setting) -> float:
    """MiB saved; what is not known is not the most."""
    return setting.saved_mib.mean if setting.saved_mib else -math.inf


def _cost(setting: Setting) -> float:
    """CPU seconds of ksmd; what is not known is not the least."""
    return setting.ksmd_cpu_seconds.mean if setting.ksmd_cpu_seconds else math.inf


def _reasons(winner: Setting, others: list[Setting], ties: list[Setting]) -> Iterator[str]:
    saved, cost = spoken(winner.saved_mib, "MiB"), winner.ksmd_cpu_seconds
    if len(ties) > 1:
        tied = [s for s in ties if s is not winner]
        words = f"It saves {saved}, as much as {'; '.join(s.knobs for s in tied)} within 1 %"
        if cost:
            yield f"{words}, and costs least CPU time: {spoken(cost, 's')}, against {_costs(tied)}."
        else:
            yield f"{words}; what ksmd costs is not known."
        return
    second = max(others, key=_saved)
    yield (
        f"It saves most: {saved}; next is {second.knobs} with {spoken(second.saved_mib, 'MiB')}."
    )
    if cost and second.ksmd_cpu_seconds:
        other = number(second.ksmd_cpu_seconds.mean)
        yield f"It costs {number(cost.mean)} CPU seconds of ksmd, against {other}."
    if winner.saved_mib and second.saved_mib:
        yield _doubt(winner.saved_mib, second.saved_mib)


def _doubt(more: Estimate, less: Estimate) -> str:
    """Say so where runs do not tell two savings apart."""
    if min(more.runs, less.runs) < FEWEST:
        return f"With fewer than {FEWEST} runs of each this may be chance."
    deviations = _deviation(more), _deviation(less)
    if not any(deviations):
        return ""
    test = scipy.stats.ttest_ind_from_stats(
        more.mean, deviations[0], more.runs, less.mean, deviations[1], less.runs, equal_var=False
    )
    apart = test.pvalue < 1 - CONFIDENCE
    return "" if apart else "These runs do not tell the two apart: more would."


def _deviation(of: Estimate) -> float:
    """Find the standard deviation that the interval was made of; 0 without an interval."""
    if of.high is None:
        return 0.0
    t = scipy.stats.t.ppf((1 + CONFIDENCE) / 2, of.runs - 1)
    return (of.high - of.mean) / t * math.sqrt(of.runs)


def _costs(tied: list[Setting]) -> str:
    costs = (s.ksmd_cpu_seconds for s in tied)
    return ", ".join(f"{number(c.mean)} s" if c else "an unknown time" for c in costs)
