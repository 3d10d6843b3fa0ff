"""What the kernel's advisor did after each scan of a run, and what its formula predicts."""

import itertools
from typing import NamedTuple

from ksm_analysis.results.run import Run
from ksm_analysis.simulator.advisor import Advisor, advise, start

ERROR = 0.02  # of CPU time that is measured from sample to sample


class Seen(NamedTuple):
    """A scan that a run has seen: how long it took, its CPU seconds, and pages_to_scan after it.

    `predicted` is what the advisor sets after such a scan, as its whole numbers allow within the
    time between two samples.
    """

    at: float
    seconds: float
    cpu_seconds: float
    pages_to_scan: int
    predicted: tuple[int, int]


def replay(run: Run) -> list[Seen]:
    """Predict what the advisor did after each scan of a run, from what it did before.

    It ends where samples are too rare to see each scan. Empty without the advisor.
    """
    knobs, samples = run.record.knobs.during, run.samples
    if str(knobs.get("advisor_mode")) != "scan-time" or samples.empty:
        return []
    names = ("target_scan_time", "max_cpu", "max_pages_to_scan", "min_pages_to_scan")
    advisor = Advisor(*(int(knobs[f"advisor_{name}"]) for name in names))
    columns = ["seconds", "ksm.full_scans", "ksm.pages_to_scan", "ksmd.cpu_ns"]
    rows = samples[columns].to_numpy(dtype=float).tolist()
    sleep, period = float(knobs["sleep_millisecs"]) / 1000, run.plan.sampling.period
    # at first it has counted no CPU time, so its first scan has all that ksmd has used since boot
    state, began, used, found = start(advisor), rows[0][0], 0.0, []
    for (_, before, *_), (at, scans, pages, cpu) in itertools.pairwise(rows):
        if scans == before + 1:
            took, cpu_seconds = at - began - sleep, cpu / 1e9 - used
            near = [
                advise(state, max(0, took + late), cpu_seconds * (1 + share), advisor)
                for late in (-period, 0, period)
                for share in (-ERROR, 0, ERROR)
            ]
            states = [each.pages_to_scan for each in near]
            found.append(Seen(at, took, cpu_seconds, int(pages), (min(states), max(states))))
            # what cannot be seen is kept as predicted; its rate is known
            state, began, used = near[4]._replace(pages_to_scan=int(pages)), at, cpu / 1e9
        elif scans > before + 1:
            break
    return found
