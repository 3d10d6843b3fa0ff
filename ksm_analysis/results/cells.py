"""What makes two runs repetitions of one another: everything that was asked for, spelled out.

Labels (`factors`) are made for reading: within an experiment they name what differs there, and no
more. Runs of several experiments are compared by what is behind them.
"""

import json
from typing import Any

from ksm_analysis.results.run import Run


def knobs(run: Run) -> dict[str, Any]:
    """Return the knobs that were asked for, with those that only some kernels have.

    Nobody has planned an imported run: it tells only what its knobs were.
    """
    if run.imported:
        return run.record.get("knobs", {}).get("during", {})
    plan = run.record["run"]
    return {**plan.get("knobs_if_present", {}), **plan.get("knobs", {})}


def workload(run: Run) -> str:
    """Spell out what was run, and in which part of the time, whichever guests ran it.

    An imported run tells it by the name alone, which is its command.
    """
    plan = run.record["run"]
    seconds = plan["sampling"]["seconds"]
    parts = [
        {key: value for key, value in part.items() if key not in ("guests", "start", "stop")}
        | {key: round(part[key] / seconds, 3) for key in ("start", "stop")}
        for part in run.tasks
    ]
    arrays = run.options("arrays")
    hidden = plan["guests"].get("nosharepages") or []
    name = "" if parts or arrays else run.factors["workload"]
    return json.dumps([name, parts, arrays, hidden], sort_keys=True)


def sampling(run: Run) -> tuple[int, float, str]:
    """Return how long and how often it was sampled: intervals, their seconds, rule for an end.

    From when on the rule is asked follows from the workload.
    """
    plan = run.record["run"]["sampling"]
    rule = {key: value for key, value in (plan.get("steady") or {}).items() if key != "after"}
    return plan["intervals"], plan["interval"], json.dumps(rule, sort_keys=True)
