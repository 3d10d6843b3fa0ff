"""A description of what was run."""

from typing import Any

from ksm_analysis.definition.factors import FACTORS, REPETITION
from ksm_analysis.results.run import Run


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
