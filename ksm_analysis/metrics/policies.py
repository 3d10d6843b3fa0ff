"""What the policy of a run cost: whoever turned the knobs, apart from ksmd."""

import math
from collections.abc import Sequence

from ksm_analysis.results.run import Run

CPU = "policy_cpu_seconds"


def cpu_seconds(run: Run) -> float:
    """Return the CPU time that the policy itself took while the run was sampled, in seconds.

    0 without a program: knobs that stay, or the kernel's advisor. NaN if it is not known.
    """
    if run.options("policy") is None:
        return 0.0
    used = [event.get("cpu_seconds") for event in run.events if event["event"] == "policy used"]
    known = [float(each) for each in used if isinstance(each, int | float)]
    return known[-1] if known else math.nan


def of_run(run: Run, runs: Sequence[Run]) -> dict[str, float]:
    """Return the columns of a run in `summary`; none if no run of all has a policy."""
    return {CPU: cpu_seconds(run)} if any(each.plan.policy for each in runs) else {}
