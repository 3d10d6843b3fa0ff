"""Runs with a census: it matches the counters of the kernel, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from pathlib import Path

import pytest
from machine import SHORT, STATE, assert_restored, censuses, is_python, knobs, unexpected

from ksm_analysis.metrics import measurement
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


def saved_by_the_kernel(counters: dict) -> int:
    return counters["pages_sharing"] + counters.get("ksm_zero_pages", 0)


def census_of(path: Path) -> dict:
    """Return the last census of a run."""
    lines = map(json.loads, (path / "census.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] == "census"][-1]


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


def test_two_idle_guests(experiment, restored):
    text = SHORT.format(count=2, intervals=25, workload="idle") + "census: [end]\n"
    play = experiment(text=text)
    assert play.wait() == 0, play.log.read_text()
    run = read_run(experiment.results / "g02-k1-idle-r1")
    census, last = census_of(run.path), run.samples.iloc[-1]

    assert unexpected(run.warnings) == []
    assert census["monotonic"] - run.header["monotonic"] == pytest.approx(25, abs=1)
    # ksmd runs between the last sample and the census, and during the census
    sampled = last["ksm.pages_sharing"] + last.get("ksm.ksm_zero_pages", 0)
    assert sampled > 10_000
    assert census["saved_pages"] == pytest.approx(sampled, rel=0.03)
    around = [saved_by_the_kernel(census[key]) for key in ("ksm", "ksm_after")]
    assert min(around) * 0.99 <= census["saved_pages"] <= max(around) * 1.01
    assert 0 < census["efficiency"] <= 1
    attributed = [guest["attributed_bytes"] for guest in census["guests"].values()]
    assert sum(attributed) == census["saved_pages"] * census["page_size"]
    # What the kernel calls profit counts the frames that are kept, and takes off its rmap_items
    stats = [guest["ksm_stat"] for guest in census["guests"].values()]
    kept = census["ksm_frames"] * census["page_size"]
    items = sum(stat["ksm_rmap_items"] for stat in stats) * 64
    profit = sum(stat["ksm_process_profit"] for stat in stats)
    assert sum(attributed) + kept - items == pytest.approx(profit, rel=0.01)
    assert census["guests"].keys() == {"ksm-guest-01", "ksm-guest-02"}
    shared = census["matrix"]["pages"]
    assert shared[0][1] > 1000
    assert shared[1][0] > 1000
    efficiency = measurement.measure(run).last_census["efficiency_percent"]
    assert efficiency == pytest.approx(100 * census["efficiency"])
    page = (experiment.results / "report.html").read_text()
    assert '<figure id="who-shares"' in page


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
