"""Guests of an experiment that act as those of a trace, since their own memory is not known."""

from collections.abc import Iterator
from typing import Any

from ksm_analysis.definition.experiment import GUEST
from ksm_analysis.errors import InputError
from ksm_analysis.simulator.possible import no

ACT = ("arrivals", "workload")  # parts of real guests: the trace has what these do
BESIDE = ("sampler", "policy")  # parts that have no mergeable memory
NONE: dict[str, Any] = {
    **dict.fromkeys(("count", "memory_mib", "disk_gib", "vcpus"), 0),
    "network": None,
    "nosharepages": [],
}
LIKE = {*NONE, "later"}


def from_trace(plan: dict[str, Any], trace: str) -> dict[str, Any]:
    """Return a plan in which the guests of each run are drawn from a trace.

    Raises InputError, with a line for each reason, if the trace cannot stand for them.
    """
    if found := dict.fromkeys(_problems(plan["runs"])):
        raise InputError("\n".join(f"{plan['file']}: {problem}" for problem in found))
    return {**plan, "runs": [_drawn(run, trace) for run in plan["runs"]]}


def _problems(runs: list[dict[str, Any]]) -> Iterator[str]:
    """Yield why a trace cannot stand for the guests of these runs."""
    if not all(run["guests"]["count"] for run in runs):
        yield "--trace: a trace stands for guests, and there are runs without any"
    if len(labels := {run["factors"]["workload"]: None for run in runs}) > 1:
        yield f"--trace: a trace has one workload, and there are several: {'; '.join(labels)}"
    for run in runs:
        guests = run["guests"]
        for key in sorted(guests.keys() - LIKE):
            yield no(f"guests.{key}", "guests are made as those of the trace")
        for name in sorted({part["name"] for part in run["parts"]} - {*ACT, *BESIDE}):
            yield no(name, "nothing is simulated beside guests of a trace")
        if guests["nosharepages"]:
            yield no("nosharepages", "all guests of a trace are merged")
        if not all(change["arrives"] for change in _changes(run)):
            yield no("guests.lifetimes", "no guest of a trace ends")


def _changes(run: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        change
        for part in run["parts"]
        if part["name"] == "arrivals"
        for change in part["options"]["changes"]
    ]


def _drawn(run: dict[str, Any], trace: str) -> dict[str, Any]:
    count = run["guests"]["count"]
    come = {change["guest"]: change["at"] for change in _changes(run)}
    names = [GUEST.format(number) for number in range(1, count + 1)]
    options: dict[str, Any] = {"trace": trace, "guests": count, "churn_percent": None}
    options |= {"names": names, "arrivals": [come.get(name, 0.0) for name in names]}
    part = {"name": "population", "role": "", "options": options, "processes": names}
    others = [each for each in run["parts"] if each["name"] not in ACT]
    return {**run, "guests": NONE, "parts": [part, *others]}
