"""What stands for the load of a run: percentiles of all answers, and not means of percentiles."""

from collections.abc import Sequence

import pandas as pd

from ksm_analysis.results.load import UNITS, Interval, together
from ksm_analysis.results.run import Run

WHEN = "load_throughput"  # every interval has it
SLACK = 0.1  # s; the intervals of two runs begin a few ms apart
GIVEN = ("load_throughput", "load_errors_percent")  # determined by the rate, if all was answered


def all_answered(runs: Sequence[Run]) -> bool:
    """Whether all requests of all loads were answered in time; True without any load."""
    return all(run.load.answered for run in runs if run.load)


def value(run: Run, name: str, after: float = 0.0) -> float | None:
    """Return a metric of UNITS over the settled phase.

    Without one, it is that of what began `after` seconds or later, or else of the whole run.
    None if it is not a metric of the run's load.
    """
    if name not in UNITS:
        return None
    every = counted(run, after)
    return every.values().get(name) if every else None


def counted(run: Run, after: float = 0.0) -> Interval | None:
    """Return the part of a run that its values are from, as one interval; None without a load."""
    if run.load is None:
        return None
    settled = {*_settled(run)["seconds"]}
    start, intervals = run.header["monotonic"], run.load.intervals
    chosen = [each for each in intervals if each.ended - start in settled]
    late = [each for each in intervals if each.begun - start >= after - SLACK]
    return together(chosen or late or intervals)


def settled_after(run: Run) -> float:
    """Return since when the load of a run is settled, in seconds; 0 if it is not."""
    rows = _settled(run)
    return float(rows["since"].min()) if len(rows) else 0.0


def _settled(run: Run) -> pd.DataFrame:
    return run.reported[(run.reported["metric"] == WHEN) & run.reported["settled"]]
