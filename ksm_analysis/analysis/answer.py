"""The answer: what each setting saves, what that costs, and which is best."""

# ruff: noqa: RUF001

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy

from ksm_analysis.analysis.statistics import CONFIDENCE, FEWEST, Estimate, difference, estimate
from ksm_analysis.metrics.metrics import Measured, throughput
from ksm_analysis.results import cells

FLAT = 0.05  # a run has reached a plateau if pages_sharing changed by less in its last quarter
EQUAL = 0.01  # of savings: settings that differ by less save the same
NO_INTERVAL = "1 run: no interval"


@dataclass(frozen=True)
class Setting:
    """One cell of the experiment, over its repetitions.

    `off` is the baseline: run=0. Values are None where no run has one (an imported run has no CPU
    time of ksmd, arrays have no configured memory). `throughput` is the mean over guests, in bogo
    operations a second; `throughput_vs_off_percent` its change against the same guests and workload
    with KSM off. `seconds_to_50`, `_90`, `_95` count from the first sample until pages_sharing has
    reached that share of what it ended at; that is a plateau only if `plateaued`, in every run.
    `efficiency_percent` is what is saved of what perfect merging would save, in the last census.
    `period` is the seconds between two samples.
    """

    host: str
    guests: int
    workload: str
    knobs: str
    off: bool
    runs: tuple[str, ...]
    plateaued: bool
    saved_mib: Estimate | None
    percent_configured: Estimate | None
    percent_resident: Estimate | None
    ksmd_cpu_seconds: Estimate | None
    ksmd_cpu_percent: Estimate | None
    throughput: Estimate | None
    throughput_vs_off_percent: Estimate | None
    saved_per_cpu_second: Estimate | None
    seconds_to_50: Estimate | None
    seconds_to_90: Estimate | None
    seconds_to_95: Estimate | None
    efficiency_percent: Estimate | None = None
    period: float = 0.0

    def within(self, seconds: Estimate) -> bool:
        """Whether a time is that of the first sample: what was reached by then was so before."""
        return seconds.mean <= self.period


@dataclass(frozen=True)
class Best:
    """The best setting of those that were tried for the same host, guests and workload."""

    scenario: str
    setting: Setting
    why: str


# --- settings -------------------------------------------------------------------------------------


def settings(measured: list[Measured]) -> list[Setting]:
    """Make one setting of each cell, in the order of the plan."""
    found: dict[tuple[Any, ...], list[Measured]] = {}
    for each in measured:
        factors = each.run.factors
        key = (each.run.host, factors["guests"], factors["workload"], factors["knobs"])
        found.setdefault(key, []).append(each)
    baselines = {key[:3]: runs for key, runs in found.items() if is_off(runs[0])}
    return [_setting(key, runs, baselines.get(key[:3])) for key, runs in found.items()]


def is_off(measured: Measured) -> bool:
    """Whether KSM was off in a run: the baseline."""
    return str(cells.knobs(measured.run).get("run", 1)) == "0"


def _setting(
    key: tuple[Any, ...], runs: list[Measured], baseline: list[Measured] | None
) -> Setting:
    host, guests, workload, knobs = key
    off = is_off(runs[0])
    return Setting(
        host=host,
        guests=guests,
        workload=workload,
        knobs=knobs,
        off=off,
        runs=tuple(each.run.id for each in runs),
        plateaued=all(map(has_plateau, runs)),
        saved_mib=_over(runs, last("reclaimed_mib")),
        percent_configured=_over(runs, last("reclaimed_percent_configured")),
        percent_resident=_over(runs, last("reclaimed_percent_resident")),
        ksmd_cpu_seconds=_over(runs, last("ksmd_cpu_seconds")),
        ksmd_cpu_percent=_over(runs, _ksmd_percent),
        throughput=_over(runs, throughput_of),
        throughput_vs_off_percent=None if off or not baseline else _change(runs, baseline),
        saved_per_cpu_second=None if off else _over(runs, _saved_per_second),
        seconds_to_50=_over(runs, time_to(0.50)),
        seconds_to_90=_over(runs, time_to(0.90)),
        seconds_to_95=_over(runs, time_to(0.95)),
        efficiency_percent=None if off else _over(runs, efficiency_of),
        period=max(each.run.record["run"]["sampling"]["period"] for each in runs),
    )


def _over(runs: list[Measured], value: Callable[[Measured], float]) -> Estimate | None:
    return estimate([value(each) for each in runs])


def last(name: str) -> Callable[[Measured], float]:
    """Make a function that reads the value that stands for a run; NaN if it has none."""
    return lambda measured: float(measured.host.loc[measured.last, name])


def _seconds(measured: Measured) -> float:
    run = measured.run
    return run.intervals * run.record["run"]["sampling"]["interval"]


def _ksmd_percent(measured: Measured) -> float:
    return 100 * last("ksmd_cpu_seconds")(measured) / _seconds(measured)


def _saved_per_second(measured: Measured) -> float:
    used = last("ksmd_cpu_seconds")(measured)
    return last("reclaimed_mib")(measured) / used if used else np.nan


def throughput_of(measured: Measured) -> float:
    """Mean over guests of the workload's bogo operations a second; NaN without any."""
    rates = throughput(measured.run)
    return float(np.mean(rates)) if rates else np.nan


def efficiency_of(measured: Measured) -> float:
    """What the last census found saved, in percent of what could be; NaN without a census."""
    return float(measured.last_census.get("efficiency_percent", np.nan))


def _change(runs: list[Measured], baseline: list[Measured]) -> Estimate | None:
    """Change of the mean throughput in percent of the baseline's, with the interval of compare."""
    ours, theirs = (
        np.array([rate for each in group if not np.isnan(rate := throughput_of(each))])
        for group in (runs, baseline)
    )
    if not len(ours) or not len(theirs) or not theirs.mean():
        return None
    found = difference(theirs, ours)
    scale, fewest = 100 / abs(theirs.mean()), min(len(ours), len(theirs))
    bounds = (
        None if bound is None else float(scale * bound)
        for bound in (found.absolute_low, found.absolute_high)
    )
    return Estimate(float(scale * found.absolute), *bounds, fewest)


def _sharing(measured: Measured) -> tuple[np.ndarray, np.ndarray]:
    """Seconds since the first sample, and pages_sharing, up to what stands for the run.

    Seconds are those that samples were due at. Those of an imported run, which has no sample before
    its first interval, count from the beginning of that.
    """
    samples, sampling = measured.run.samples, measured.run.record["run"]["sampling"]
    upto = samples.index <= measured.last * round(sampling["interval"] / sampling["period"])
    seconds = samples.index.to_numpy()[upto] * sampling["period"]
    return seconds, samples["ksm.pages_sharing"].to_numpy(dtype=float)[upto]


def time_to(share: float) -> Callable[[Measured], float]:
    """Make a function of a run: seconds until pages_sharing was at a share of what it ended at.

    They count from the first sample. NaN if nothing is shared at the end.
    """

    def seconds(measured: Measured) -> float:
        if "ksm.pages_sharing" not in measured.run.samples:
            return np.nan
        at, pages = _sharing(measured)
        if not pages[-1] > 0:
            return np.nan
        return float(at[(pages >= share * pages[-1]).argmax()])

    return seconds


def has_plateau(measured: Measured) -> bool:
    """Whether pages_sharing had come to rest when the run ended.

    A run that was to end when steady knows. Of others, it has to have changed by less than 5 % of
    what it ended at in the last quarter of its time.
    """
    if measured.run.converged is not None:
        return measured.run.converged
    if "ksm.pages_sharing" not in measured.run.samples:
        return False
    at, pages = _sharing(measured)
    late = pages[at >= 0.75 * at[-1]]
    return bool(np.ptp(late) <= FLAT * abs(pages[-1]))


# --- the best -------------------------------------------------------------------------------------


def best(every: list[Setting]) -> list[Best]:
    """Name the best setting wherever more than one was tried for equal host, guests and workload.

    The largest mean savings win; of those within 1 % of it, the least CPU time of ksmd. Whether
    runs can tell the winner from the next is said with it (Welch's t-test). Most guests first.
    """
    scenarios: dict[tuple[Any, ...], list[Setting]] = {}
    for each in every:
        if not each.off and each.saved_mib:
            scenarios.setdefault((each.host, each.guests, each.workload), []).append(each)
    several_hosts = len({each.host for each in every}) > 1
    found = [
        Best(_scenario(rivals[0], several_hosts), *_choose(rivals))
        for rivals in scenarios.values()
        if len(rivals) > 1
    ]
    return sorted(found, key=lambda each: -each.setting.guests)


def _scenario(setting: Setting, with_host: bool) -> str:
    guests = {0: "", 1: "1 guest"}.get(setting.guests, f"{setting.guests} guests")
    return ", ".join(filter(None, (guests, setting.workload, setting.host if with_host else "")))


def _choose(rivals: list[Setting]) -> tuple[Setting, str]:
    most = max(rivals, key=lambda s: s.saved_mib.mean)
    if most.saved_mib.mean <= 0:
        cheapest = min(rivals, key=_cost)
        return cheapest, "None of them saves anything: here KSM does not pay, and this costs least."
    ties = [s for s in rivals if s.saved_mib.mean >= (1 - EQUAL) * most.saved_mib.mean]
    winner = min(ties, key=_cost)
    others = [s for s in rivals if s is not winner]
    return winner, " ".join(_reasons(winner, others, ties))


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
    second = max(others, key=lambda s: s.saved_mib.mean)
    yield (
        f"It saves most: {saved}; next is {second.knobs} with {spoken(second.saved_mib, 'MiB')}."
    )
    if cost and second.ksmd_cpu_seconds:
        other = number(second.ksmd_cpu_seconds.mean)
        yield f"It costs {number(cost.mean)} CPU seconds of ksmd, against {other}."
    if doubt := _doubt(winner.saved_mib, second.saved_mib):
        yield doubt


def _doubt(more: Estimate, less: Estimate) -> str:
    """Say so where runs do not tell two savings apart."""
    fewest = min(more.runs, less.runs)
    if fewest < FEWEST:
        return f"With fewer than {FEWEST} runs of each this may be chance."
    t = scipy.stats.t.ppf((1 + CONFIDENCE) / 2, [more.runs - 1, less.runs - 1])
    spreads = [(e.high - e.mean) / each for e, each in zip((more, less), t, strict=True)]
    if not any(spreads):
        return ""
    deviations = [
        spread * math.sqrt(e.runs) for spread, e in zip(spreads, (more, less), strict=True)
    ]
    test = scipy.stats.ttest_ind_from_stats(
        more.mean, deviations[0], more.runs, less.mean, deviations[1], less.runs, equal_var=False
    )
    apart = test.pvalue < 1 - CONFIDENCE
    return "" if apart else "These runs do not tell the two apart: more would."


def _costs(tied: list[Setting]) -> str:
    costs = (s.ksmd_cpu_seconds for s in tied)
    return ", ".join(f"{number(c.mean)} s" if c else "an unknown time" for c in costs)


# --- words ----------------------------------------------------------------------------------------


def number(value: float) -> str:
    """Write a number with three digits, or all of those before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.3g}"


def spoken(value: Estimate | None, unit: str) -> str:
    """Write an estimate in a sentence: `123 MiB (118 to 128, 3 runs)`."""
    if value is None:
        return "not known"
    if value.low is None:
        return f"{number(value.mean)} {unit} ({NO_INTERVAL})"
    low, high = number(value.low), number(value.high)
    return f"{number(value.mean)} {unit} ({low} to {high}, {value.runs} runs)"


def short(value: Estimate | None) -> str:
    """Write an estimate in a table: `123.4 ± 5.1`; without ± there is one run."""
    if value is None:
        return "–"
    if value.low is None or not math.isfinite(value.high):
        return number(value.mean)
    half = value.high - value.mean
    if not half:
        return f"{number(value.mean)} ± 0"
    # Two digits of the interval, and no more of the mean than it bears
    digits = max(0, 1 - math.floor(math.log10(half)))
    return f"{value.mean:,.{digits}f} ± {half:,.{digits}f}" if digits < 6 else number(value.mean)


def headline(every: list[Setting]) -> str:
    """Say what was saved and what it cost, with the most guests; of several settings, the most."""
    shared = [s for s in every if not s.off and s.saved_mib]
    if not shared and any(not s.off for s in every):
        return "What was saved is not known: no run has a value in its last interval."
    if not shared:
        return "KSM was off in every run." if every else "No run can be used."
    top = max(shared, key=lambda s: (s.guests, s.saved_mib.mean))
    hosts = len({s.host for s in every}) > 1
    words = f"With {_scenario(top, hosts)}: KSM saves {spoken(top.saved_mib, 'MiB')}"
    if top.percent_configured and top.percent_resident:
        words += (
            f", which is {number(top.percent_configured.mean)} % of configured and "
            f"{number(top.percent_resident.mean)} % of resident guest memory"
        )
    if top.efficiency_percent:
        words += (
            f"; a census finds {number(top.efficiency_percent.mean)} % saved of what perfect "
            "merging would save"
        )
    if top.ksmd_cpu_seconds:
        words += (
            f"; ksmd takes {number(top.ksmd_cpu_seconds.mean)} CPU seconds for it, "
            f"{number(top.ksmd_cpu_percent.mean)} % of one CPU"
        )
    return f"{words}. {_how_soon(top)}".strip()


def _how_soon(setting: Setting) -> str:
    if not setting.saved_mib.mean > 0:
        return "Nothing is merged."
    if not setting.plateaued:
        return "Sharing was still changing when the run ended: more time would tell more."
    if setting.seconds_to_95 is None:
        return ""
    if setting.within(setting.seconds_to_95):
        return f"95 % of that is reached within {number(setting.period)} s."
    return f"95 % of that is reached after {number(setting.seconds_to_95.mean)} s."
