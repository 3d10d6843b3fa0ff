"""What of an experiment can be simulated: all whose contents of memory are known."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ksm_analysis.errors import InputError
from ksm_analysis.simulator import population
from ksm_analysis.simulator.ksmd import KNOBS, LIMITS, accepted
from ksm_analysis.simulator.memory import HOST, KERNEL, MIB, PAGE
from ksm_analysis.simulator.policy import BY_MEMORY, PORTS, writes_of
from ksm_analysis.simulator.programs import CONTENTS, program

PARTS = ("population", "processes", "arrays", "memory", "sampler", "policy")
POLICIES = (
    "none, advisor, ksmtuned, proxmox, kata, kubevirt, governor, a command that only sets such"
    " knobs with echo; see --policies"
)
SAME = {"merge_across_nodes": "1", "advisor_mode": "none"}  # what the simulated kernel has
THP = (("enabled", "madvise"), ("enabled", "never"))
BYTES = 40  # of memory for each page: arrays, and what is temporary
WORTH = 4  # runs that a process of their own is worth: it takes a second to start


def check(plan: dict[str, Any], memory: int = HOST, here: bool = True) -> None:
    """Raise InputError if any run of a plan cannot be simulated, with a line for each reason.

    `memory` is that of the simulated host, in MiB. `here` is whether the simulation must fit into
    the memory of this machine.
    """
    program(CONTENTS)  # are the roles here?
    runs = plan["runs"]
    found = dict.fromkeys(each for run in runs for each in _problems(run))
    found = found or dict.fromkeys(each for run in runs for each in _overcommitted(run, memory))
    if here and not found:
        limit = available()
        found = dict.fromkeys(each for run in runs for each in too_large(run, limit))
    if found:
        raise InputError("\n".join(f"{plan['file']}: {problem}" for problem in found))


def processes(runs: list[dict[str, Any]], processors: int) -> int:
    """Return how many processes are worth it, and fit into the memory of this machine."""
    most = max((pages_of(run) * BYTES for run in runs), default=0)
    return int(max(1, min(processors, len(runs) // WORTH, available() // max(1, most))))


def available() -> float:
    """Return the bytes of memory that are available on this machine; infinite if not known."""
    with contextlib.suppress(OSError):
        if found := re.search(r"MemAvailable: *(\d+)", Path("/proc/meminfo").read_text()):
            return int(found[1]) * 1024
    return float("inf")


def too_large(run: dict[str, Any], limit: float) -> Iterator[str]:
    """Yield why a run does not fit into so many bytes of memory, if so."""
    need = (pages := pages_of(run)) * BYTES
    if need > limit:
        gib = f"{need / 2**30:,.1f} GiB of memory, and {limit / 2**30:,.1f} GiB are available"
        yield f"{run['id']}: cannot be simulated here: {pages:,} pages need about {gib}"


def _overcommitted(run: dict[str, Any], memory: int) -> Iterator[str]:
    """Yield why a policy cannot decide by the memory of a host that has so many MiB."""
    need = pages_of(run) * PAGE // MIB + KERNEL
    if run.get("policy", {}).get("kind") in BY_MEMORY and need > memory:
        yield (
            f"{run['id']}: cannot be simulated: with {KERNEL} MiB for the kernel, its memory is "
            f"{need:,} MiB, and the host has {memory:,}. See --host-memory-mib"
        )


def pages_of(run: dict[str, Any]) -> int:
    """Return how many pages a run has, at most."""
    options = {part["name"]: part["options"] for part in run["parts"]}
    copies, array = options.get("processes"), options.get("arrays", {}).get("ints", 0)
    size = copies["count"] * copies["data_mib"] * MIB if copies else 0
    traced = population.size_of(asked)[0] if (asked := options.get("population")) else 0
    others = size + options.get("memory", {}).get("mib", 0) * MIB + 2 * 4 * array
    return int(traced + others // PAGE)


def _problems(run: dict[str, Any]) -> Iterator[str]:
    options = {part["name"]: part["options"] for part in run["parts"]}
    if run["guests"]["count"]:
        allowed = "population, processes, workloads, or --trace"
        yield no("guests", "the contents of their memory are not known", allowed)
    for name in sorted(options.keys() - {*PARTS}):
        yield no(name, "it is not simulated", "processes, arrays, memory and policies")
    if "population" in options:
        yield from _of_population(options["population"])
    if "processes" in options:
        yield from _of_processes(options["processes"])
    if options["sampler"]["steady"]:
        yield no("stop", "the length of a run must be known")
    yield from _of_host(run)
    if (policy := run.get("policy")) and not _policy(policy["kind"], policy["settings"]):
        yield no(f"policies: {policy['name']}", "it is not simulated", POLICIES)


def _of_population(options: dict[str, Any]) -> Iterator[str]:
    asked = "--trace" if "names" in options else "population.trace"
    try:
        _, contents = population.size_of(options)
    except InputError as error:
        yield f"{asked}: {error}"
        return
    if contents > 2**31 - 1:
        why = f"{contents:,} different contents are too many"
        yield no(asked.partition(".")[0], why, "2,147,483,647")


def _policy(kind: str, told: dict[str, Any]) -> bool:
    known = kind == "advisor" or kind in PORTS
    return known or (kind == "command" and writes_of(told["argv"]) is not None)


def _of_processes(options: dict[str, Any]) -> Iterator[str]:
    if options.get("service") != "memory":
        what = options.get("service") or "command"
        yield no(f"processes: {what}", "what is in its memory is not known", "service: memory")
    if options["density"]:
        yield no("density", "budgets of memory are not simulated")


def _of_host(run: dict[str, Any]) -> Iterator[str]:
    """Yield what is asked of the host, and the simulated one does not have."""
    if run.get("swap") not in (None, {}):
        yield no("swap", "the simulated host has none")
    for name, value in run["thp"].items():
        if (name, value) not in THP:
            yield no(f"thp.{name}", f"{value} is not simulated", "enabled: madvise, or never")
    for name, value in {**run["knobs_if_present"], **run["knobs"]}.items():
        if name in KNOBS:
            if not accepted(name, value):
                low, high = LIMITS[name]
                yield no(f"knobs.{name}", f"the kernel refuses {value}", f"{low} to {high}")
        elif name.startswith("advisor_") and run.get("policy", {}).get("kind") == "advisor":
            continue
        elif name in run["knobs"] and SAME.get(name) != str(value):
            yield no(f"knobs.{name}", "it is not simulated", ", ".join(KNOBS))
    if str(run["knobs"].get("run")) not in ("0", "1"):
        yield no("knobs.run", "a run begins with nothing merged", "0 or 1")


def no(key: str, why: str, allowed: str = "no such key") -> str:
    """Return that a key cannot be simulated, why, and what is allowed."""
    return f"{key}: cannot be simulated: {why}. Allowed: {allowed}"
