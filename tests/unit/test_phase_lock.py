"""Equal pages that smart_scan never merges: the prediction, what a run measured, the figure."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from made_up_runs import MONOTONIC, WALL, run_record, sample_lines
from programs import ROLES

from ksm_analysis.definition import experiment
from ksm_analysis.errors import InputError
from ksm_analysis.metrics import measurement, phase_lock, summary
from ksm_analysis.page import phase_lock_figures
from ksm_analysis.results.reader import read_run

PROGRAM = ROLES / "part_phase_lock/files/ksm_phase_lock.py"
NEVER = [13, 15, 16, 22, 24, 25, 31, 33, 34, 40]


class KernelPage:
    """A page as the kernel keeps it: should_skip_rmap_item() and skip_age() of mm/ksm.c."""

    def __init__(self):
        self.age, self.remaining, self.checksum = 0, 0, False

    def skipped(self):
        age = self.age
        self.age = min(255, age + 1)
        if age < 3:
            return False
        if not self.remaining:
            self.remaining = next(
                skips for limit, skips in ((3, 1), (5, 2), (8, 4), (255, 8)) if age <= limit
            )
            return False
        self.remaining -= 1
        return True


def simulated(distance, scans):
    """Let two equal pages be scanned; return whether they are in the unstable tree together."""
    first, second = KernelPage(), KernelPage()
    for scan in range(1, distance + scans + 1):
        tree = []
        for page in (first, second)[: 1 + (scan > distance)]:
            if not page.skipped():
                tree += [page] if page.checksum else []
                page.checksum = True
        if len(tree) == 2:
            return True
    return False


def test_when_a_page_is_looked_at():
    assert phase_lock.looks(60) == [1, 2, 3, 4, 6, 9, 14, 23, 32, 41, 50, 59]


def test_the_prediction_is_that_of_the_kernel():
    for distance in range(300):  # ages stay at 255
        for scans in (1, 2, 10, 60):
            assert phase_lock.meet(distance, scans) == simulated(distance, scans)


def test_distances_that_never_meet():
    assert [d for d in range(1, 41) if not phase_lock.meet(d, 60)] == NEVER
    late = range(13, 500)
    assert {d % 9 for d in late if not phase_lock.meet(d, 9999)} == {4, 6, 7}
    assert {d % 9 for d in late if phase_lock.meet(d, 9999)} == {0, 1, 2, 3, 5, 8}
    assert all(phase_lock.meet(d, 2, smart_scan=False) for d in late)


def measured(distance, merged, certain=True, scans=60):
    counted = {"merged": merged, "merged_without_skips": 512, "certain": certain}
    at = {"wall": WALL + 3, "monotonic": MONOTONIC + 3}
    event = {"event": "distance measured", "distance": distance, "pages": 512, "scans": scans}
    return event | counted | at


def made(write_run, *events, smart_scan=1):
    record = run_record(guests=0, workload="distances")
    record["knobs"]["during"]["smart_scan"] = smart_scan
    return read_run(write_run(record, sample_lines(record), events))


EVENTS = (measured(22, 0), measured(20, 512), measured(23, 100), measured(21, 0, certain=False))


def test_outcomes_are_compared_with_the_prediction(write_run):
    run = made(write_run, *EVENTS, {**measured(24, 0), "merged": None})
    found = phase_lock.outcomes(run)
    assert [(each.distance, each.merged, each.predicted) for each in found] == [
        *((20, 512, 512), (21, 0, 512), (22, 0, 0), (23, 100, 512))
    ]
    expected = {"phase_lock_distances": 3, "phase_lock_as_predicted": 2}
    assert phase_lock.of_run(run) == expected
    table = summary.summary([measurement.measure(run)])
    assert table[[*expected]].iloc[0].to_dict() == expected
    assert phase_lock.of_run(read_run(write_run(guests=1))) == {}


def test_without_smart_scan_all_are_merged(write_run):
    (one,) = phase_lock.outcomes(made(write_run, measured(22, 512), smart_scan=0))
    assert one.predicted == 512


def test_the_figure_has_what_was_predicted_and_measured(write_run):
    ((_, figure),) = phase_lock_figures.by_distance([measurement.measure(made(write_run, *EVENTS))])
    points = {line.name: dict(zip(line.x, line.y, strict=True)) for line in figure.data}
    assert points["predicted"] == {20: 512, 21: 512, 22: 0, 23: 512}
    assert points["measured"] == {20: 512, 22: 0, 23: 100}
    assert points["not certain"] == {21: 0}
    assert points["then with smart_scan=0"][22] == 512
    assert phase_lock_figures.by_distance([]) == []


def plan(workload):
    text = f"workloads: [{{name: a, phase_lock: {workload}}}]\n"
    text += "sampling: {interval: 1, intervals: 4}\n"
    return experiment.plan(experiment.parse(text, "file.yml"), "file.yml")["runs"][0]


def test_the_plan():
    assert [part["name"] for part in plan("{}")["parts"]] == ["phase_lock", "sampler"]
    options = plan("{}")["parts"][0]["options"]
    assert options == {"distances": [*range(13, 41)], "pages": 512, "scans": 60}
    assert plan("{distances: 22}")["parts"][0]["options"]["distances"] == [22]
    with pytest.raises(InputError, match="entries must differ"):
        plan("{distances: [22, 22]}")


def test_a_run_that_is_too_short_says_so():
    """It waits for scans that do not come, since nobody lets ksmd run."""
    if not os.access("/sys/kernel/mm/ksm/run", os.R_OK):
        pytest.skip("this kernel has no KSM")
    done = subprocess.run(
        [sys.executable, PROGRAM, "--distances", "999", "--pages", "1", "--seconds", "0.1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "scans: the run is too short" in done.stderr
