"""Warnings about runs: what a reader must know before trusting their numbers.

Each warning is a sentence with its numbers. A warning changes no data and leaves none out.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator
from itertools import product
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ksm_analysis.results.run import Run

EXPECTED_EXITS = (None, 0, 124, 137)  # 124 and 137: timeout(1) ended it when its time was over
NAMED = 3  # missing runs that are named
BELOW_ZERO = 2**63  # of an unsigned 64-bit counter
MONOTONIC = {"ksmd.cpu_ns", "ksm.pages_scanned"}  # counters that only grow
FEW = 0.05  # of the host's memory: with less available, the host is short of memory
STALLED = 0.01  # of the time, waiting for memory
STOLEN = 0.01  # of CPU time, by the hypervisor below the host
RMAP_ITEM = 64  # bytes of a struct ksm_rmap_item, on 64-bit kernels
OWN = 0.99  # of the pages that ksmd tracks: with less, it tracks other processes too
PSI = (("memory_some_us", "some task"), ("memory_full_us", "all tasks"))


def of_experiment(
    runs: list[Run], planned: dict[str, dict[str, Any]] | None = None
) -> Iterator[str]:
    """Yield which runs of an experiment are missing, and how its hosts differ.

    `planned` has the factors of all runs of the plan by their ids. Older results have no plan. For
    them, each combination of factors is expected, without the host: a run is assigned to one host.
    """
    yield from _simulated(runs)
    yield from _host_warnings(runs)
    if planned is not None:
        there = {run.id for run in runs}
        names = _varied([*planned.values()])
        missing = [
            tuple(map(factors.get, names)) for run, factors in planned.items() if run not in there
        ]
        yield from _missing(names, missing, f"{len(planned)} runs of the plan")
        return
    experiments = defaultdict(list)
    for run in runs:
        if not run.imported:
            experiments[run.record.experiment].append(run.factors)
    for every in experiments.values():
        names = _varied(every)
        cells = [*product(*(dict.fromkeys(each.get(name) for each in every) for name in names))]
        done = {tuple(map(each.get, names)) for each in every}
        missing = [cell for cell in cells if cell not in done]
        yield from _missing(names, missing, f"{len(cells)} combinations of factors")


def _simulated(runs: list[Run]) -> Iterator[str]:
    """Say that no kernel was measured."""
    many = sum(run.simulated for run in runs)
    if many:
        which = "all runs are" if many == len(runs) else f"{many} of {len(runs)} runs are"
        yield f"{which} simulated: their numbers come from a model of ksmd, not from a kernel"
    options = [run.options("population") or {} for run in runs]
    for trace in dict.fromkeys(each["trace"] for each in options if each.get("names")):
        yield (
            f"guests are not those of the experiment, but act as those of the trace {trace}: their "
            "memory, CPUs and workload are those of the trace, whatever the experiment says of them"
        )


def _varied(every: list[dict[str, Any]]) -> list[str]:
    """Name the factors that have more than one value."""
    names = every[0] if every else ()
    return [name for name in names if len({each.get(name) for each in every}) > 1]


def _missing(names: list[str], missing: list[tuple[Any, ...]], of: str) -> Iterator[str]:
    """Say which runs are missing, by their values of the factors `names`."""
    if missing:
        words = [
            ", ".join(f"{name} {value}" for name, value in zip(names, values, strict=True))
            or "the only one"
            for values in missing[:NAMED]
        ]
        more = f"; and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        yield f"{len(missing)} of {of} are missing: {'; '.join(words)}{more}"


# Properties of a host that measurements depend on, and how to read each from the provenance.
MACHINE: dict[str, Callable[[dict[str, Any]], object]] = {
    "kernel": lambda known: known.get("kernel", {}).get("release"),
    "CPU": lambda known: known.get("cpu", {}).get("model"),
    "number of CPUs": lambda known: known.get("cpu", {}).get("count"),
    "memory": lambda known: (
        f"{known['memory_bytes'] / 2**20:,.0f} MiB" if "memory_bytes" in known else None
    ),
    "acceleration": lambda known: known.get("acceleration"),
}


def _host_warnings(runs: list[Run]) -> Iterator[str]:
    """Find differences between hosts, and settings that only some of them measured."""
    hosts = list(dict.fromkeys(run.host for run in runs))
    if len(hosts) < 2:
        return
    known = {run.host: run.record.provenance for run in runs}
    for name, read in MACHINE.items():
        values = {host: read(known[host]) for host in hosts}
        if len(set(values.values())) > 1:
            said = "; ".join(f"{host} {value}" for host, value in values.items())
            yield f"hosts differ in {name}: {said}. Each is shown separately, without averages"
    done = defaultdict(set)
    for run in runs:
        done[run.cell._replace(host="")].add(run.host)
    partly = sum(len(each) < len(hosts) for each in done.values())
    if partly:
        yield (
            f"{partly} of {len(done)} settings were not measured on every host: compare settings "
            "within a host, or use as many repetitions as there are hosts"
        )


def of_run(run: Run) -> Iterator[str]:
    """Yield warnings about a run whose run.json says that it is complete."""
    yield from _guest_warnings(run)
    yield from _process_warnings(run)
    yield from _density_warnings(run)
    yield from _workload_warnings(run)
    yield from _knob_warnings(run)
    yield from _drift_warnings(run)
    yield from _policy_warnings(run)
    if not run.samples.empty:
        yield from _counter_warnings(run)
        yield from _stranger_warnings(run)
        yield from _memory_warnings(run)
        yield from _cpu_warnings(run)


def of_sampling(run: Run) -> Iterator[str]:
    """Yield warnings about the samples of a run, complete or not."""
    planned, first = run.plan.sampling.samples, int(run.imported)
    due = int(run.samples.index[-1]) + 1 - first if len(run.samples) else 0
    missed, reason = due - len(run.samples), run.end.get("reason")
    if run.record.imported and run.record.imported.cut_short:
        yield f"the log {run.record.imported.cut_short}"
        return
    if missed > 0:
        yield f"{missed} of {planned} samples were missed: the host was too busy"
    if not run.end:
        yield "the sampler was killed: its end line is missing"
    elif reason not in ("finished", "steady"):
        yield f"sampling was ended early by {reason}"
    if run.complete and len(run.samples) and not run.usable:
        yield "left out, since one sample shows no change"
    if due < planned and reason != "steady":
        yield f"sampling stopped after {due} of {planned} samples"
    if run.converged is False and reason == "finished":
        yield f"not converged: savings were not steady within {run.plan.sampling.seconds:g} s"


def _guest_warnings(run: Run) -> Iterator[str]:
    gone = run.end.get("gone") or {}
    last: dict[Hashable, int] = {}
    if len(run.guests):
        last = run.guests.groupby("guest", observed=True)["n"].last().to_dict()
    for name in run.header.get("guests", {}):
        last_seen = last.get(name, -1)
        if name in gone:
            seconds = gone[name] - run.header["monotonic"]
            yield f"guest {name} was gone after {seconds:.1f} s"
        elif len(run.samples) and last_seen < run.samples.index[-1]:
            when = f"after sample {last_seen}" if last_seen >= 0 else "from the beginning"
            yield f"guest {name} was gone {when}"


def _process_warnings(run: Run) -> Iterator[str]:
    """Yield warnings about processes whose memory should be mergeable, and is not."""
    merge = (run.options("processes") or {}).get("merge")
    if merge == "prctl":
        ready = [e for e in run.events if e["event"] == "process ready"]
        lost = [str(e.get("process")) for e in ready if e.get("merge_any") is False]
        if lost:
            yield (
                f"{', '.join(lost)}: not mergeable: the kernel has lost PR_SET_MEMORY_MERGE, as"
                " kernels before 6.7 do when a program is executed"
            )
    on = str(run.plan.knobs.get("run", 1)) == "1"
    if merge in ("prctl", "madvise") and on and "ksm_rmap_items" in run.guests:
        items = pd.to_numeric(run.guests["ksm_rmap_items"], errors="coerce")
        most = items.groupby(run.guests["guest"], observed=True).max()
        most = most.drop([*(run.end.get("left") or {})], errors="ignore")  # some left at once
        # by madvise, only the processes that hold data have asked
        names = [str(name) for name in most.index[most == 0]]
        if names and (merge == "prctl" or len(names) == len(most)):
            yield f"{', '.join(names)}: ksmd has scanned none of its pages"


def _density_warnings(run: Run) -> Iterator[str]:
    """Yield why it is not known how many copies or guests fit."""
    if not run.has_density:
        return
    of = "guests" if run.options("density") else "copies"
    ended = [event for event in run.events if event["event"] == "density ended"]
    if not ended:
        yield f"it is not known how many {of} fit: the run ended before the first were looked at"
    for event in ended:
        if event.get("broke") is False:
            copies, reason = event.get("copies"), event.get("reason")
            yield f"at least {copies} {of} fit: none were added after them ({reason})"


def _workload_warnings(run: Run) -> Iterator[str]:
    started = {e.get("guest") for e in run.events if e["event"] == "workload started"}
    stopped = {e.get("guest"): e for e in run.events if e["event"] == "workload stopped"}
    for guest in _busy_guests(run):
        if guest not in started:
            yield f"the workload of guest {guest} was never started"
    for guest in sorted(map(str, started - stopped.keys())):
        yield f"the workload of guest {guest} has no record of its end"
    for name, event in stopped.items():
        if event.get("exitcode") not in EXPECTED_EXITS and not event.get("stopped_early"):
            words = (event.get("stderr") or "").strip().splitlines()[-1:] or ["no message"]
            yield f"the workload of guest {name} ended with code {event['exitcode']}: {words[0]}"


def _busy_guests(run: Run) -> Iterator[str]:
    """Yield the guests whose workload was planned to start before the run ended."""
    names, samples = list(run.header.get("guests", {})), run.samples
    ended = samples["seconds"].iloc[-1] if run.end.get("reason") == "steady" else math.inf
    for part in run.tasks:
        if part["start"] < ended:
            yield from (names[n - 1] if n <= len(names) else f"number {n}" for n in part["guests"])


def _knob_warnings(run: Run) -> Iterator[str]:
    knobs = run.record.knobs
    before, during, after = knobs.before, knobs.during, knobs.after
    for name, asked in _asked_knobs(run).items():
        advised = name == "pages_to_scan" and _turned(run, name)
        if name in during and not _reads_as(during[name], asked) and not advised:
            yield f"knob {name} was {during[name]} during the run, though {asked} was asked for"
    for name in before.keys() & after.keys():
        if before[name] != after[name]:
            yield f"knob {name} was {before[name]} before the run and is {after[name]} after it"


def _asked_knobs(run: Run) -> dict[str, int | str]:
    """Return all knobs that were asked for, also those that only some kernels have."""
    return {**run.plan.knobs_if_present, **run.plan.knobs}


def _drift_warnings(run: Run) -> Iterator[str]:
    """Find knobs that another program, such as ksmtuned, changed during the run."""
    set_at = [event["monotonic"] for event in run.events if event["event"] == "knobs set"]
    if not set_at or run.samples.empty:
        return
    later = run.samples[run.samples["seconds"] > set_at[0] - run.header["monotonic"]]
    for name, asked in _asked_knobs(run).items():
        if _turned(run, name):
            continue
        reads = later[f"ksm.{name}"].unique().tolist() if f"ksm.{name}" in later else []
        stops = ((run.options(part) or {}).get("stop_ksmd") for part in ("write_probe", "load"))
        cured = name == "smart_scan" and run.options("phase_lock")
        if cured or (name == "run" and any(stops)):
            reads = [read for read in reads if str(read) != "0"]  # the part has set it
        for other in (read for read in reads if not _reads_as(read, asked)):
            yield f"knob {name} was {other} at times in the run, though {asked} was asked for"


def _policy_warnings(run: Run) -> Iterator[str]:
    """Say if a policy did not decide anything, or what the kernel refused."""
    if run.options("policy") is None:
        return
    decisions = [event for event in run.events if event["event"] == "decision"]
    if not decisions:
        yield "the policy decided nothing: the knobs stayed as they were"
    refused = [str(each["refused"]) for each in decisions if "refused" in each]
    if refused:
        words = f"{len(refused)} of {len(decisions)} decisions"
        yield f"the kernel refused a part of {words} of the policy, the first {refused[0]}"


def _turned(run: Run, name: str) -> bool:
    """Whether the policy of a run turns a knob."""
    policy = run.plan.policy
    return policy is not None and (policy.turns is None or name in policy.turns)


def _reads_as(read: int | str, asked: int | str) -> bool:
    """Compare what the kernel prints (`[none] scan-time`) with what was written (`none`)."""
    return str(read) == str(asked) or f"[{asked}]" in str(read)


def below_zero(name: str, values: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which values of a counter are below zero, of which only profits are signed.

    The kernel prints most of them as unsigned numbers.
    """
    return (values >= BELOW_ZERO) | ((values < 0) & (not name.endswith("_profit")))


def _counter_warnings(run: Run) -> Iterator[str]:
    """Find counters that are below zero, fell, or restarted."""
    for name in map(str, run.samples.filter(like="ksm.").select_dtypes("number")):
        if below_zero(name, run.samples[name].to_numpy()).any():
            yield f"{name.removeprefix('ksm.')} was below zero: the kernel counts it incorrectly"
    for name in MONOTONIC.intersection(run.samples):
        if (run.samples[name].diff() < 0).any():
            yield f"{name} fell: from then on, its total is not known"
    if "ksm.full_scans" in run.samples and (run.samples["ksm.full_scans"].diff() < 0).any():
        yield "full_scans restarted: something unmerged all memory (run=2) during the run"


def _stranger_warnings(run: Run) -> Iterator[str]:
    """Find out whether ksmd tracks pages of processes that are not of the run."""
    own, others = (
        run.over_guests("ksm_rmap_items", run.samples.index[-1]),
        run.end.get("others", {}),
    )
    # In a container, the sampler does not see all processes, but the counters include them.
    host = max(_tracked_items(run) or 0, own + others.get("ksm_rmap_items", 0))
    if not 0 <= own < OWN * host:  # or it is not known
        return
    page = run.header["page_size"] / 2**20
    named = [
        f"{each['name']} (process {each['pid']}) {each['ksm_rmap_items'] * page:,.0f} MiB"
        for each in others.get("processes", ())
    ]
    yield ": ".join(
        [
            f"other processes on this host are merged too: {(host - own) * page:,.0f} MiB of "
            f"mergeable pages ({1 - own / host:.0%}) are not of this run's processes; the counters "
            "include them",
            *filter(None, [", ".join(named)]),
        ]
    )


def _tracked_items(run: Run) -> float | None:
    """Return the host's rmap_items at the last sample, from general_profit.

    None on 32-bit kernels, on those before 6.6, and if a number is missing or below zero.
    """
    kernel = run.record.provenance.get("kernel")
    machine = str(kernel.get("machine")) if isinstance(kernel, dict) else ""
    names = ["ksm.pages_sharing", "ksm.ksm_zero_pages", "ksm.general_profit"]
    if not ("64" in machine or machine == "s390x") or not set(names) <= set(run.samples):
        return None
    values = [run.samples[name].iloc[-1] for name in names]
    if not all(isinstance(value, Real) and math.isfinite(value) for value in values):
        return None
    sharing, zero, profit = map(float, values)
    items = ((sharing + zero) * run.header["page_size"] - profit) / RMAP_ITEM
    return items if zero < BELOW_ZERO and items > 0 else None


def _memory_warnings(run: Run) -> Iterator[str]:
    """Find out whether the host was short of memory: swapped memory is not merged."""
    for name, words in (("pswpin", "read back from"), ("pswpout", "written to")):
        pages = _risen(run, f"vmstat.{name}")
        if pages:
            yield f"{pages:,.0f} pages were {words} swap during the run"
    if {"meminfo.MemAvailable", "meminfo.MemTotal"} <= set(run.samples):
        share = (run.samples["meminfo.MemAvailable"] / run.samples["meminfo.MemTotal"]).min()
        if share < FEW:
            yield f"the host was short of memory: at one time, only {share:.1%} was available"
    seconds = _strained_seconds(run)
    for key, words in PSI:
        stalled = _strain(run, key) / 1e6
        if seconds and stalled > STALLED * seconds:
            yield f"{words} waited for memory for {stalled / seconds:.1%} of the time (PSI)"


def _cpu_warnings(run: Run) -> Iterator[str]:
    """Find CPU time that the host lost."""
    if throttled := _strain(run, "throttled"):
        yield f"the CPUs were throttled because they were too hot: {throttled:,.0f} times"
    states = [c for c in map(str, run.samples) if c.startswith("cpu.") and "guest" not in c]
    total = sum(_risen(run, state) for state in states)
    stolen = _risen(run, "cpu.steal")
    if total and stolen > STOLEN * total:
        yield f"{stolen / total:.1%} of the CPU time was stolen: the host is itself a guest"


def _risen(run: Run, column: str) -> float:
    """Return how much a counter rose from the first sample to the last; 0 without the counter."""
    if column not in run.samples:
        return 0
    values = run.samples[column].dropna()
    return values.iloc[-1] - values.iloc[0] if len(values) else 0


def _strain(run: Run, key: str) -> float:
    """Return how much a counter rose from the header to the end line; 0 without the counter."""
    before, after = (line.get("strain", {}).get(key) for line in (run.header, run.end))
    return 0 if before is None or after is None else after - before


def _strained_seconds(run: Run) -> float:
    return float(run.samples["seconds"].iloc[-1])
