"""Runs with a census: it matches the counters of the kernel, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from pathlib import Path

import pytest
from machine import (
    STATE,
    assert_restored,
    census_of,
    censuses,
    is_python,
    knobs,
    saved_by_the_kernel,
    unexpected,
)

from ksm_analysis.results.reader import read_run

pytestmark = [pytest.mark.host, pytest.mark.usefixtures("host")]
ARRAYS = """\
workloads: [{name: single, arrays: {change: single, second: 1, changed: 2}}]
knobs: [{pages_to_scan: 5000, sleep_millisecs: 10}]
knobs_if_present: {smart_scan: 0}
sampling: {interval: 1, intervals: 10}
census: [end, every: 4, at-scan-boundary]
"""


def counting() -> bool:
    """Whether a census has been taken in the current run."""
    path = STATE / "run/census.jsonl"
    return path.exists() and path.read_bytes().count(b"\n") > 1


def test_arrays_are_counted_to_the_page(experiment, restored):
    play = experiment(text=ARRAYS)
    assert play.wait() == 0, play.log.read_text()
    run = read_run(experiment.results / "g00-k1-single-r1")
    rows = run.census.rows

    assert unexpected(run.warnings) == []
    at_scans = rows["moment"] == "scan"
    assert rows["moment"][~at_scans].to_list() == ["every", "every", "end"]
    assert rows["seconds"][~at_scans].to_list() == pytest.approx([4, 8, 10], abs=0.5)
    scans = rows["ksm.full_scans"][at_scans]
    assert len(scans) > 1
    assert scans.is_monotonic_increasing
    assert scans.is_unique
    # Two arrays of 977 pages, of which the second is all one content, and the first but one page
    assert (
        rows["limit_pages"].iloc[-1]
        == rows["present_pages"].iloc[-1] - rows["distinct_contents"].iloc[-1]
    )
    last = census_of(run.path)
    before, after = (saved_by_the_kernel(last[key]) for key in ("ksm", "ksm_after"))
    assert min(before, after) <= last["saved_pages"] <= max(before, after)
    assert last["guests"].keys() == {"arrays"}
    summary = json.loads((run.path / "census.json").read_text())["summary"]
    assert summary["censuses"] == len(rows)


# The process of the arrays is stopped and continued like those of guests.
PAUSED = """\
workloads: [{{name: single, arrays: {{change: single, second: 1, changed: 2}}}}]
knobs: [{{pages_to_scan: 5000, sleep_millisecs: 10}}]
sampling: {{interval: 1, intervals: {intervals}}}
census: {{moments: [every: 1], pause: true}}
"""


def test_a_killed_census_fails_its_run_and_leaves_no_process_stopped(experiment, restored):
    play = experiment(text=PAUSED.format(intervals=15))
    play.until(counting)
    program = parent_of_all(censuses())
    process = int((STATE / "run/arrays.pid").read_text())
    os.kill(int(program), signal.SIGKILL)
    play.until(lambda: not censuses())
    assert state(process) not in "tT"
    assert play.wait() != 0
    record = json.loads((experiment.results / "g00-k1-single-r1/run.json").read_text())
    assert record["status"] == "failed"
    assert "the census was killed by signal KILL" in record["reason"]
    assert (experiment.results / "g00-k1-single-r1/census.jsonl").exists()


def state(pid: int) -> str:
    return stat(pid)[0]


def stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat: state, parent, and so on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def parent_of_all(pids: list[str]) -> str:
    """Return the parent of the others: while it reads, it has worker processes."""
    parents = {}
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            if is_python(pid):
                parents[pid] = stat(int(pid))[1]
    (program,) = (pid for pid, parent in parents.items() if parent not in parents)
    return program


def test_a_crash_during_a_census_is_recovered(experiment, play):
    before = knobs()
    cut = experiment(text=PAUSED.format(intervals=60))
    cut.until(counting)
    cut.kill()
    assert censuses() != []
    teardown = play("playbooks/teardown.yml", "-e", "keep_image=true")
    assert teardown.wait() == 0, teardown.log.read_text()
    assert_restored(before)
