"""What makes two runs repetitions of one another: everything that was asked for, spelled out.

Labels (`factors`) are made for reading: within an experiment they name what differs there, and no
more. Runs of several experiments are compared by what is behind them.
"""

import json
from typing import Any

from ksm_analysis.results.run import Run


def knobs(run: Run) -> dict[str, Any]:
    """Return the knobs that were asked for, with those that only some kernels have.

    Factors that this version does not know are among them, since they tell runs apart as knobs do.
    An imported run was never planned: its log has only what the knobs were.
    """
    if run.imported:
        return run.record.knobs.during
    return {**run.plan.knobs_if_present, **run.plan.knobs, **run.plan.unknown}


def workload(run: Run) -> str:
    """Spell out what was run, and in which part of the time. The guests that ran it do not count.

    An imported run has only a name, which is its command.
    """
    seconds = run.plan.sampling.seconds
    parts = [
        {key: value for key, value in part.items() if key not in ("guests", "start", "stop")}
        | {key: round(part[key] / seconds, 3) for key in ("start", "stop")}
        for part in run.tasks
    ]
    arrays = run.options("arrays")
    hidden = run.plan.guests.nosharepages or []
    name = "" if parts or arrays else run.factors["workload"]
    return json.dumps([name, parts, arrays, hidden], sort_keys=True)


def sampling(run: Run) -> tuple[int, float, str]:
    """Return how long and how often it was sampled: intervals, their seconds, rule for an end.

    From when on the rule is asked follows from the workload.
    """
    plan = run.plan.sampling
    rule = {key: value for key, value in (plan.steady or {}).items() if key != "after"}
    return plan.intervals, plan.interval, json.dumps(rule, sort_keys=True)
