"""Simulate policies in scenarios: which others save more, for less CPU time of ksmd.

Takes the experiments policies-s*.yml that can be simulated, and prints a table of each, as
docs/simulator.md has it. Only where memory is written at random do repetitions differ.
"""

import argparse
import os
import statistics
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ksm_analysis import tasks
from ksm_analysis.definition import experiment
from ksm_analysis.simulator import guests, simulate
from ksm_analysis.simulator.memory import HOST, MIB, PAGE

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
SCENARIOS = ("s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9")
TRACES = {"s8": "guests-boot", "s9": "guests-load"}  # whose guests act
# S6 of the benchmark, without the file that fills up its cgroup, is S2 with fewer writes.
FEWER_WRITES = ("s2", "write_percent: 5", "write_percent: 1")


class Found(NamedTuple):
    """A run: the share of what could be saved over time, CPU seconds of ksmd, and seconds."""

    policy: str
    efficiency: float | None  # None: nothing can be saved
    mib: float  # saved on average
    cpu: float
    reached: list[float | None]  # from each arrival to 95 % of what can be saved, if it was


def simulated(run):
    """Simulate a run, and look at what is really saved, at each of its samples."""
    world, options = simulate.host_of(run, HOST), run["parts"][0]["options"]
    changes = _random(options)
    points, limits = [], {}
    every = round(1 / run["sampling"]["period"]) if changes else 1  # the limit takes its time
    for line in simulate.sampled(world, run, simulate.knobs_of(run), 0.0):
        if line["kind"] == "sample" and line["n"] % every == 0:
            key = line["n"] if changes else len(world.there)
            if key not in limits:
                limits[key] = world.ksmd.limit()
            points.append((line["monotonic"], world.ksmd.freed, limits[key]))
    at, saved, limit = np.array(points).T
    whole = np.trapezoid(limit, at)
    efficiency = float(np.trapezoid(saved, at) / whole) if whole else None
    mib = float(np.trapezoid(saved, at) / at[-1]) * PAGE / MIB
    arrivals = sorted({*(options["arrivals"] or [0.0])})
    ends = [*arrivals[1:], at[-1] + 1]
    reached = [
        next((float(t - begin) for t in at[within & (saved >= 0.95 * limit)]), None)
        for begin, end in zip(arrivals, ends, strict=True)
        for within in [(at >= begin) & (at < end)]
    ]
    return Found(run["policy"]["name"], efficiency, mib, world.ksmd.cpu, reached)


def _random(options):
    """Whether memory changes at random times, or pages are written at random."""
    return "trace" in options or options["contents"]["write_percent"] > 0


def runs(scenarios, repetitions):
    """Yield the runs of scenarios."""
    for name in scenarios:
        like, *written = FEWER_WRITES if name == "s6" else (name, "", "")
        (file,) = EXPERIMENTS.glob(f"policies-{like}-*.yml")
        text = file.read_text().replace(*written)
        plan = experiment.plan(experiment.parse(text, file.name), file.name)
        if name in TRACES:
            plan = guests.from_trace(plan, TRACES[name])
        for run in plan["runs"]:
            random = _random(run["parts"][0]["options"])
            policy = run.setdefault("policy", {"name": "none", "kind": "none", "settings": {}})
            if policy["kind"] == "none":
                policy.update(kind="command", settings={"argv": ["sleep infinity"]})
            for repetition in range(1, repetitions + 1 if random else 2):
                yield {**run, "factors": {**run["factors"], "repetition": repetition}}


def better(one, other):
    """Whether a policy saves no less and costs no more than another, and not both the same."""
    gains, costs = (one.efficiency or 0) - (other.efficiency or 0), other.cpu - one.cpu
    return gains >= 0 and costs >= 0 and (gains > 0 or costs > 0)


def median(of):
    """Return a run of which each figure is the median of several."""
    shares = [each.efficiency for each in of if each.efficiency is not None]
    times = zip(*(each.reached for each in of), strict=True)
    return of[0]._replace(
        efficiency=statistics.median(shares) if shares else None,
        mib=statistics.median(each.mib for each in of),
        cpu=statistics.median(each.cpu for each in of),
        reached=[None if None in each else statistics.median(each) for each in times],
    )


def show(name, found):
    """Print the table of a scenario."""
    rows = [
        median([each for each in found if each.policy == policy])
        for policy in dict.fromkeys(each.policy for each in found)
    ]
    for row in sorted(rows, key=lambda row: row.policy):
        beaten = [each.policy for each in rows if better(each, row)]
        share = "" if row.efficiency is None else f"{row.efficiency:.3f}"
        times = ", ".join("-" if each is None else f"{each:.1f}" for each in row.reached)
        print(
            f"| {name.upper()} | {row.policy} | {share} | {row.mib:.0f} MiB | {row.cpu:.2f} s | "
            f"{times if share else ''} | {', '.join(beaten)} |",
            flush=True,
        )


def main():
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--scenarios", nargs="+", choices=SCENARIOS, default=SCENARIOS)
    add("--repetitions", type=int, default=5, metavar="N", help="(default: %(default)s)")
    asked = parser.parse_args()
    for name in asked.scenarios:
        todo = [*runs([name], asked.repetitions)]
        show(name, [*tasks.here(simulated, todo, os.cpu_count())])


if __name__ == "__main__":
    main()
