"""Policies turn the knobs during runs, and the runs restore them."""

import contextlib
import json
import os
import signal
from pathlib import Path

import pytest
from machine import Run, assert_restored, knobs, processes, until

from ksm_analysis.metrics import policies
from ksm_analysis.results.reader import read_run

pytestmark = pytest.mark.host
STATE = Path("/var/lib/ksm-testbed/run")
PART = f"{STATE.parent}/policy/ksm_policy.py"
DEFINITION = """\
knobs: [{run: 1, pages_to_scan: 200, sleep_millisecs: 20}]
knobs_if_present: {smart_scan: 0}
policies:
  - kata
  - name: mine
    command: >
      echo more; echo 700 > /sys/kernel/mm/ksm/pages_to_scan;
      setsid sleep 600 & while true; do sleep 0.1; done
workloads: [{name: memory, memory: {mib: 16}}]
sampling: {interval: 1, intervals: 2}
order: as-written
"""


def test_decisions_are_recorded_and_a_killed_policy_leaves_nothing(tmp_path):
    before = knobs()
    definition = tmp_path / "policies.yml"
    definition.write_text(DEFINITION)
    run = Run(str(definition), "--results", str(tmp_path), log=tmp_path / "log")
    mark = until(lambda: (STATE / "policy.mark").read_text(), 120)
    until(lambda: before["pages_to_scan"] != knobs()["pages_to_scan"] == "700\n", 60)
    os.kill(json.loads((STATE / "policy.json").read_text())["pid"], signal.SIGKILL)
    assert run.wait() != 0, "a part that was killed makes the run a failed run"
    assert_restored(before)
    assert not processes(PART)
    assert not marked(mark), "processes of the program have outlived the run"

    kata = read_run(tmp_path / "policies/g00-k1-memory-r1")
    assert kata.complete, kata.record.reason
    assert not [words for words in kata.warnings if "knob" in words]
    (first, *_) = [event for event in kata.events if event["event"] == "decision"]
    assert first["reason"] == "memory came: aggressive"
    assert kata.samples["ksm.sleep_millisecs"].iloc[-1] == 1
    assert kata.samples["ksm.pages_to_scan"].iloc[-1] == first["knobs"]["pages_to_scan"]
    assert 0 < policies.cpu_seconds(kata) < 10

    mine = read_run(tmp_path / "policies/g00-k2-memory-r1")
    assert "policy" in mine.record.reason
    (decision,) = [event for event in mine.events if event["event"] == "decision"]
    assert (decision["knobs"], decision["reason"]) == ({"pages_to_scan": 700}, "more")


def marked(mark: str) -> list[Path]:
    """Return the processes of a program."""
    wanted, found = f"KSM_POLICY_OF={mark}".encode(), []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # it has ended
            found += [path] * (wanted in path.read_bytes().split(b"\0"))
    return found
