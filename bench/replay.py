#!/usr/bin/env python3
"""Replay real runs from their traces in the simulator, and compare pages_sharing.

Each directory is that of a run with a census of the start and later ones, with `trace: true`. The
knobs are those of the run. Of all samples of the run:
  end    how far the simulated pages_sharing is from the real one at the end, in percent of it
  time   the mean difference at the same times, in percent of the range of the real one
  pages  the same when as many pages have been scanned: ksmd may wait for a busy CPU
Needs no KSM and no root.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from ksm_analysis.simulator.ksmd import KNOBS, Ksmd
from ksm_analysis.simulator.memory import World
from ksm_analysis.simulator.population import Population, read
from ksm_analysis.simulator.simulate import Queue

STEP = 0.02  # seconds


def samples(run: Path) -> np.ndarray:
    """Return seconds since the first sample, pages scanned since then, and pages_sharing."""
    lines = [json.loads(line) for line in (run / "samples.jsonl").read_text().splitlines()]
    found = [line for line in lines if line["kind"] == "sample"]
    names = ("pages_scanned", "pages_sharing")
    rows = [[each["monotonic"], *(int(each["ksm"][name]) for name in names)] for each in found]
    table = np.array(rows, float)
    table[:, :2] -= table[0, :2]
    return table.T


def replayed(run: Path, end: float, hz: int | None) -> np.ndarray:
    """Return the same of the simulated run, each STEP seconds."""
    knobs = json.loads((run / "run.json").read_text())["knobs"]["during"]
    guests = len(read(str(run))[1])
    world, queue = World(Ksmd(hz=hz)), Queue(iter([]))
    options = {"trace": str(run), "guests": guests, "churn_percent": None, "stops": True}
    for actor in Population(world, options).actors():
        queue.add(actor)
    queue.until(0.0, world.ksmd)
    world.ksmd.set({name: int(knobs[name]) for name in KNOBS if name in knobs})
    rows = []
    for at in np.arange(0, end + STEP, STEP):
        queue.until(at, world.ksmd)
        world.ksmd.advance(at - world.ksmd.clock)
        rows.append([at, world.ksmd.scanned, world.ksmd.sharing])
    return np.array(rows, float).T


def main() -> None:
    """Print a line for each run."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="directories of runs")
    print(f"{'run':40} {'real':>8} {'simulated':>9} {'end':>7} {'time':>7} {'pages':>7}")
    parser.add_argument(
        "--hz",
        type=int,
        metavar="N",
        help="ticks a second of the kernel of the runs (CONFIG_HZ), on which a sleep of ksmd ends; "
        "without, it ends on time",
    )
    asked = parser.parse_args()
    for run in asked.runs:
        real = samples(run)
        simulated = replayed(run, real[0, -1], asked.hz)
        pages = real[2]
        by_time, by_pages = (
            np.abs(np.interp(real[n], simulated[n], simulated[2]) - pages).mean() / np.ptp(pages)
            for n in (0, 1)
        )
        end = simulated[2, -1] / pages[-1] - 1
        counts = f"{pages[-1]:8,.0f} {simulated[2, -1]:9,.0f}"
        name = "/".join(run.parts[-2:])
        print(f"{name:40} {counts} {end:7.2%} {by_time:7.2%} {by_pages:7.2%}", flush=True)


if __name__ == "__main__":
    main()
