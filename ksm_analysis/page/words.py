"""A description of what was run."""

from typing import Any

from ksm_analysis.definition.factors import FACTORS, REPETITION
from ksm_analysis.results.cells import is_off
from ksm_analysis.results.run import Run

MOST, LENGTH = 3, 90  # names, and characters of them, that fit a line


def in_words(runs: tuple[Run, ...]) -> str:
    """Describe what was run."""
    if not runs:
        return "No run can be used. This page only shows why."
    values = {
        factor: sorted({run.factors[factor] for run in runs}) for factor in (*FACTORS, REPETITION)
    }
    repetitions = len(values[REPETITION])
    return (
        f"{len(runs)} {'run' if len(runs) == 1 else 'runs'} {_guests(runs)}; "
        f"workload: {_list(values['workload'])}; knobs: {_list(values['knobs'], '; ')}. "
        f"Sampled {_sampling(runs)}{_ending(runs)}. "
        + (
            "Each cell was run once, so it is not known how much repetitions would differ."
            if repetitions == 1
            else f"Each cell was run up to {repetitions} times. Lines are means of runs, and the "
            "short strokes beside them are single runs."
        )
        + _origin(runs)
    )


def simulated(runs: tuple[Run, ...]) -> list[str]:
    """Say that runs are simulated, if any are."""
    kernels = dict.fromkeys(run.record.simulated.kernel for run in runs if run.record.simulated)
    if not kernels:
        return []
    which = "Simulated" if all(run.simulated for run in runs) else "Partly simulated"
    return [f"{which}: a model of ksmd of Linux {', '.join(kernels)} made these numbers."]


def tried(runs: tuple[Run, ...]) -> str:
    """Say in one line what was tried: guests, workloads, settings, runs, kernels."""
    if not runs:
        return ""
    counted = {factor: dict.fromkeys(run.factors[factor] for run in runs) for factor in FACTORS}
    loads, settings = [*counted["workload"]], [*counted["knobs"]]
    hosts = {run.host for run in runs}
    seconds = sorted({round(run.seconds) for run in runs})
    span = f"{seconds[0]}" if len(seconds) == 1 else f"{seconds[0]} to {seconds[-1]}"
    return " · ".join(
        filter(
            None,
            [
                _guests(runs).removeprefix("with ") if any(counted["guests"]) else "",
                _list(loads) if len(loads) <= MOST else f"{len(loads)} workloads",
                settings[0] if len(settings) == 1 else _settings(runs),
                f"{len(hosts)} hosts" if len(hosts) > 1 else "",
                f"{len(runs)} {'run' if len(runs) == 1 else 'runs'} of {span} s",
                _kernels(runs),
            ],
        )
    )


def _kernels(runs: tuple[Run, ...]) -> str:
    """Name the kernels; empty if any is not known, as for imported runs."""
    found = [run.record.provenance.get("kernel") for run in runs]
    releases = {str(each.get("release") or "") if isinstance(each, dict) else "" for each in found}
    return "" if "" in releases else f"Linux {_list(sorted(releases))}"


def _settings(runs: tuple[Run, ...]) -> str:
    """Name the settings, or the knobs in which they differ."""
    settings = dict.fromkeys(run.factors["knobs"] for run in runs if not is_off(run))
    off = " and KSM off" if any(map(is_off, runs)) else ""
    if len(settings) <= MOST and sum(map(len, settings)) <= LENGTH:
        return f"{_list([*settings], ' against ')}{off}" if settings else "KSM off"
    values: dict[str, set[str]] = {}
    for run in runs:
        for name, value in run.plan.knobs.items():
            values.setdefault(name, set()).add(str(value))
    names = [name for name, each in values.items() if len(each) > 1 and name != "run"]
    of = f" of {_list(names)}" if 0 < len(names) <= MOST else ""
    return f"{len(settings)} {'setting' if len(settings) == 1 else 'settings'}{of}{off}"


def _guests(runs: tuple[Run, ...]) -> str:
    """Say how many guests there were, and how much memory each had."""
    asked = [run.plan.guests for run in runs if run.factors["guests"]]
    words = ["without guests"] if len(asked) < len(runs) else []
    if asked:
        counts = sorted({run.factors["guests"] for run in runs} - {0})
        noun = "guest" if counts == [1] else "guests"
        sizes = sorted({guests.memory_mib for guests in asked if guests.memory_mib})
        of = f" of {_list(sizes, ' or ')} MiB" if sizes else ""
        words.append(f"with {_list(counts)} {noun}{of}")
    return " and ".join(words)


def _sampling(runs: tuple[Run, ...]) -> str:
    """Say how often and how long runs were sampled; with many ways, only the ranges."""
    every = [run.plan.sampling for run in runs]
    ways = list(
        dict.fromkeys(
            f"every {s.period:g} s for {s.intervals} intervals of {s.interval:g} s" for s in every
        )
    )
    if len(ways) <= 3:
        return _list(ways, ", or ")
    counts, lengths = [s.intervals for s in every], [s.interval for s in every]
    return f"for {min(counts)} to {max(counts)} intervals of {min(lengths):g} to {max(lengths):g} s"


def _origin(runs: tuple[Run, ...]) -> str:
    """Say how many runs were imported, and what was assumed because their logs do not have it."""
    assumed = [run.record.imported.assumed for run in runs if run.record.imported]
    if not assumed:
        return ""
    values = sorted({f"{name} {value}" for each in assumed for name, value in each.items()})
    many = "1 run was" if len(assumed) == 1 else f"{len(assumed)} runs were"
    return f" {many} imported from logs; assumed: {', '.join(values)}."


def _ending(runs: tuple[Run, ...]) -> str:
    """Say how many of the runs that may end early were steady."""
    judged = [run for run in runs if run.converged is not None]
    steady = sum(bool(run.converged) for run in judged)
    if not judged:
        return ""
    return f", or until savings were steady (which happened in {steady} of {len(judged)} runs)"


def _list(values: list[Any], last: str = " and ") -> str:
    *most, end = map(str, values)
    return f"{', '.join(most)}{last}{end}" if most else end
