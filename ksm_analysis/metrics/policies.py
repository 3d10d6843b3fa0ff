"""What the policy of a run cost: whoever turned the knobs, apart from ksmd."""

import math
import re

import numpy as np

from ksm_analysis.metrics import efficiency
from ksm_analysis.results.once import once
from ksm_analysis.results.run import Run

CPU = "policy_cpu_seconds"
UNITS = {CPU: "s"}
COLUMN = re.compile(r"seconds_to_95_of_limit_[0-9]+")
SHARE = 0.95


@once()
def cpu_seconds(run: Run) -> float:
    """Return the CPU time that the policy itself took while the run was sampled, in seconds.

    0 without a program: knobs that stay, or the kernel's advisor. NaN if it is not known.
    """
    if run.options("policy") is None:
        return 0.0
    used = [event.get("cpu_seconds") for event in run.events if event["event"] == "policy used"]
    known = [float(each) for each in used if isinstance(each, int | float)]
    return known[-1] if known else math.nan


def to_95_of_limit(run: Run) -> list[float]:
    """Return how soon 95 % of what could be saved was saved, after each time at which copies came.

    Seconds count from that time, the first of which is the first sample. From then on, savings stay
    there until more copies come. NaN if they did not. Empty if the limit is not known.
    """
    found = efficiency.over_time(run)
    if found is None:
        return []
    seconds, saved, limit = found
    planned = (run.options("processes") or {}).get("arrivals") or []
    times = sorted({0.0, *(float(at) for at in planned)})
    every = []
    for at, until in zip(times, [*times[1:], math.inf], strict=True):
        within = (seconds >= at) & (seconds < until)
        below = np.flatnonzero(saved[within] < SHARE * limit[within])
        after = seconds[within][below[-1] + 1 if len(below) else 0 :] - at
        every.append(float(after[0]) if len(after) and limit[within][-1] > 0 else math.nan)
    return every


@once()
def of_run(run: Run) -> dict[str, float]:
    """Return what the policy of a run cost, and how soon it reached the limit."""
    soon = {f"seconds_to_95_of_limit_{n}": t for n, t in enumerate(to_95_of_limit(run), start=1)}
    return {CPU: cpu_seconds(run), **soon}
