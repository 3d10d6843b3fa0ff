"""The results that were collected from both machines."""

import json
import os
from pathlib import Path

import pytest

RESULTS = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"], "build/vagrant/arrays")
COUNTERS = ("pages_shared", "pages_sharing", "pages_unshared")
# 4,000,000 bytes are 977 pages. With max_page_sharing 256, 488 equal pages are kept in two copies.
MERGED = (977, 977, 0)
AFTERWARDS = {"single": (977, 976, 1), "half-same": (979, 974, 1)}


def runs() -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob("g*/run.json"))]


def counters(sample: dict) -> tuple[int, ...]:
    return tuple(sample["ksm"][name] for name in COUNTERS)


def test_all_runs_are_complete():
    assert [run["status"] for run in runs()] == ["complete"] * 4


def test_each_host_has_done_each_workload_once():
    done = sorted((run["host"], run["run"]["factors"]["workload"]) for run in runs())
    hosts = ("ksm-host-1", "ksm-host-2")
    assert done == [(host, workload) for host in hosts for workload in ("half-same", "single")]


@pytest.mark.parametrize("run", runs(), ids=lambda run: run["run"]["id"])
def test_the_counters_are_exact(run):
    directory = RESULTS / run["run"]["id"]
    lines = [json.loads(line) for line in (directory / "samples.jsonl").open()]
    samples = [line for line in lines if line["kind"] == "sample"]
    events = [json.loads(line) for line in (directory / "arrays.jsonl").open()]
    (changed,) = [event["monotonic"] for event in events if event["event"] == "array changed"]
    merged = [sample for sample in samples if sample["monotonic"] < changed - 0.5][-1]
    assert counters(merged) == MERGED
    assert counters(samples[-1]) == AFTERWARDS[run["run"]["factors"]["workload"]]


def test_the_record_says_that_the_hosts_differ():
    memory = {run["host"]: run["provenance"]["memory_bytes"] for run in runs()}
    assert memory["ksm-host-1"] != memory["ksm-host-2"]


def test_the_plan_is_kept_with_the_results():
    planned = json.loads((RESULTS / "plan.json").read_text())["runs"]
    assert {run["id"] for run in planned} == {run["run"]["id"] for run in runs()}


def test_the_page_distinguishes_the_hosts():
    page = (RESULTS / "report.html").read_text()
    assert "ksm-host-1" in page
    assert "ksm-host-2" in page


def test_knobs_were_restored():
    for run in runs():
        assert run["knobs"]["after"] == run["knobs"]["before"]
