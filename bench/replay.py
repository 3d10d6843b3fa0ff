#!/usr/bin/env python3
"""Replay real runs from their traces in the simulator, and compare pages_sharing.

Each directory is that of a run with a census of the start and later ones, with `trace: true`. The
knobs are those of the run. Of all samples from the start of ksmd on:
  end       how far the simulated pages_sharing is from the real one at the end, in percent of it
  mean, worst  the same at all samples, in percent of the range of the real one
  within 5  how many samples are within 5 % of the range
Needs no KSM and no root.
"""

import argparse
import json
import statistics
from pathlib import Path

from ksm_analysis.simulator.ksmd import KNOBS, Ksmd
from ksm_analysis.simulator.memory import World
from ksm_analysis.simulator.population import Population, read, traced_guests
from ksm_analysis.simulator.simulate import Queue


def samples(run: Path) -> list[tuple[float, int]]:
    """Return the seconds of each sample since the first, and pages_sharing."""
    lines = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    found = [line for line in lines if line["kind"] == "sample"]
    start = found[0]["monotonic"]
    return [(each["monotonic"] - start, int(each["ksm"]["pages_sharing"])) for each in found]


def replayed(run: Path, seconds: list[float]) -> list[int]:
    """Return the simulated pages_sharing at these times."""
    knobs = json.loads((run / "run.json").read_text())["knobs"]["during"]
    guests = len(traced_guests(read(str(run))))
    world = World(Ksmd())
    queue = Queue(iter([]))
    options = {"trace": str(run), "guests": guests, "churn_percent": None}
    queue.add(Population(world, options).replay())
    found = []
    for n, at in enumerate(seconds):
        queue.until(at, world.ksmd)
        world.ksmd.advance(at - world.ksmd.clock)
        found.append(world.ksmd.sharing)
        if n == 0:
            world.ksmd.set({name: int(knobs[name]) for name in KNOBS if name in knobs})
    return found


def main() -> None:
    """Print a line for each run."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="directories of runs")
    print(f"{'run':44} {'real':>7} {'simulated':>9} {'end':>8} {'mean':>7} {'worst':>7} within 5")
    for run in parser.parse_args().runs:
        real = samples(run)
        simulated = replayed(run, [at for at, _ in real])
        pages = [each for _, each in real]
        range_ = max(pages) - min(pages) or 1
        off = [abs(one - other) / range_ for one, other in zip(pages, simulated, strict=True)]
        end = simulated[-1] / max(1, pages[-1]) - 1
        near = statistics.fmean(each <= 0.05 for each in off)
        name = "/".join(run.parts[-2:])
        print(
            f"{name:44} {pages[-1]:7,} {simulated[-1]:9,} {end:8.2%} {statistics.fmean(off):7.2%} "
            f"{max(off):7.2%} {near:8.1%}"
        )


if __name__ == "__main__":
    main()
