"""A policy turns the knobs in a run, and the run restores them, even if the policy is killed."""

import json
import os
import signal
from pathlib import Path

import pytest
from machine import Run, assert_restored, knobs, processes, until

from ksm_analysis.results.reader import read_run

pytestmark = pytest.mark.host
STATE = Path("/var/lib/ksm-testbed/run")
PART = f"{STATE.parent}/policy/ksm_policy.py"
DEFINITION = """\
knobs: [{run: 1, pages_to_scan: 200, sleep_millisecs: 20}]
knobs_if_present: {smart_scan: 0}
policies: [kata]
workloads: [{name: memory, memory: {mib: 16}}]
sampling: {interval: 1, intervals: 3}
"""


def test_decisions_are_recorded_and_a_killed_policy_leaves_nothing(tmp_path):
    before = knobs()
    definition = tmp_path / "policies.yml"
    definition.write_text(DEFINITION)
    run = Run(str(definition), "--results", str(tmp_path), log=tmp_path / "log")
    until(lambda: '"decision"' in (STATE / "policy.jsonl").read_text(), 180)
    assert knobs()["sleep_millisecs"] == "1\n"
    os.kill(json.loads((STATE / "policy.json").read_text())["pid"], signal.SIGKILL)
    assert run.wait() != 0, "a part that was killed makes the run a failed run"
    assert_restored(before)
    assert not processes(PART)

    found = read_run(tmp_path / "policies/g00-k1-memory-r1")
    assert "policy" in found.record.reason
    (decision,) = [event for event in found.events if event["event"] == "decision"]
    assert decision["reason"] == "memory came: aggressive"
    assert found.samples["ksm.pages_to_scan"].iloc[-1] == decision["knobs"]["pages_to_scan"]
