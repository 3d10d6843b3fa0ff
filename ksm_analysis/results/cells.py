"""Which runs are repetitions of one another: those for which exactly the same was asked for.

Labels (`factors`) are for readers: they name only what differs within one experiment. So runs of
several experiments are compared by the full values, not by their labels.
"""

import json
from typing import Any

from ksm_analysis.definition.factors import swap_label
from ksm_analysis.definition.workload import WITHOUT_GUESTS
from ksm_analysis.results.run import Run

_GUEST_KEYS = ("memory_mib", "vcpus", "network", "backing", "balloon_mib", "numa")
GUESTS = (*(f"guest {key}" for key in _GUEST_KEYS), "image")


def knobs(run: Run) -> dict[str, Any]:
    """Return the knobs that were asked for, with those that only some kernels have.

    Factors that this version does not know are included, since they distinguish runs as knobs do.
    So is `control`, since a control is no repetition of the setting that it runs once more. An
    imported run has no plan. Its log has the values that the knobs had.
    """
    if run.imported:
        return run.record.knobs.during
    thp = {f"thp {name}": value for name, value in run.plan.thp.items()}
    swap = {} if run.plan.swap is None else {"swap": swap_label(run.plan.swap)}
    turned = run.plan.policy
    policy = {"policy": turned.full or turned.name} if turned else {}  # a name may not say it all
    control = {"control": "yes"} if run.plan.control else {}
    return {
        **run.plan.knobs_if_present,
        **run.plan.knobs,
        **thp,
        **swap,
        **policy,
        **run.plan.unknown,
        **control,
    }


def is_off(run: Run) -> bool:
    """Whether KSM was off: the baseline."""
    return str(knobs(run).get("run", 1)) == "0"


def guests(run: Run) -> dict[str, Any]:
    """Return what the guests were like: size, network and image. Empty without guests."""
    if not run.plan.guests.count or run.imported:
        return {}
    asked = run.plan.guests.asked()
    size = {f"guest {key}": asked[key] for key in _GUEST_KEYS if key in asked}
    images = [run.record.provenance.get(key) for key in _image_keys(run.plan.guests.image)]
    hashes = [str(image.get("hash")) for image in images if isinstance(image, dict)]
    return {**size, "image": "+".join(hashes)} if hashes else size


def _image_keys(names: str) -> list[str]:
    """Return where the provenance has the images of a run."""
    return [f"image {name}" for name in names.split("+")] if "+" in names else ["image"]


def workload(run: Run) -> str:
    """Describe in full what ran, and in which part of the run, but not in which guests.

    An imported run has only a name, which is its command.
    """
    seconds = run.plan.sampling.seconds
    parts = [
        {key: value for key, value in part.items() if key not in ("guests", "start", "stop")}
        | {key: round(part[key] / seconds, 3) for key in ("start", "stop")}
        for part in run.tasks
    ]
    processes = [run.options(part) for part in WITHOUT_GUESTS]
    if copies := run.options("processes"):
        processes.append(copies)
    hidden = run.plan.guests.nosharepages or []
    name = "" if parts or any(processes) else run.factors["workload"]
    return json.dumps([name, parts, processes, hidden], sort_keys=True)


def sampling(run: Run) -> tuple[int, float, str]:
    """Return how it was sampled: number of intervals, their length in seconds, rule for its end.

    `after` is left out of the rule, since it follows from the workload.
    """
    plan = run.plan.sampling
    rule = {key: value for key, value in (plan.steady or {}).items() if key != "after"}
    return plan.intervals, plan.interval, json.dumps(rule, sort_keys=True)
