"""Writes to merged pages are measured in a run, and ksmd is left as it was found."""

import os
import signal
import statistics
import subprocess
from pathlib import Path

import pytest
from machine import ROOT, Run, assert_restored, knobs, until

from ksm_analysis.results.reader import read_run
from ksm_analysis.results.writes import PHASES

pytestmark = pytest.mark.host
PROGRAM = ROOT / "roles/part_write_probe/files/ksm_write_probe.py"
DEFINITION = """\
knobs: [{run: 1, pages_to_scan: 2000, sleep_millisecs: 10}]
knobs_if_present: {smart_scan: 0}
workloads:
  - {name: probe, write_probe: {mib: 32, ksmd: other, stop_ksmd: 4}}
sampling: {interval: 1, intervals: 6}
"""


def cpus_of_ksmd() -> set[int]:
    pid = subprocess.run(["pgrep", "-x", "ksmd"], capture_output=True, text=True, check=True)
    return os.sched_getaffinity(int(pid.stdout))


def kill_while_ksmd_is_placed(kept: Path) -> None:
    """Kill a probe, which has no time to restore the CPUs of ksmd, and restore them."""
    found = cpus_of_ksmd()
    command = ["/usr/bin/python3", PROGRAM, "--mib", "1", "--ksmd", "same", "--kept", kept]
    process = subprocess.Popen([*command, "--output", kept.with_name("output")])
    until(lambda: cpus_of_ksmd() != found, 10)
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    assert cpus_of_ksmd() != found
    for words in ("restored\n", ""):  # the second time, there is nothing to do
        command = ["/usr/bin/python3", PROGRAM, "--restore", kept]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout == words
    assert cpus_of_ksmd() == found


def test_writes_to_merged_pages_take_longer(tmp_path):
    before, cpus = knobs(), cpus_of_ksmd()
    if len(os.sched_getaffinity(0)) > 1:
        kill_while_ksmd_is_placed(tmp_path / "kept")
    definition = tmp_path / "probe.yml"
    definition.write_text(DEFINITION)
    run = Run(str(definition), "--results", str(tmp_path), log=tmp_path / "log")
    assert run.wait() == 0, run.output
    assert_restored(before)
    assert cpus_of_ksmd() == cpus
    found = read_run(tmp_path / "probe/g00-k1-probe-r1")
    placed = next(event for event in found.events if event["event"] == "processors set")
    assert not {*placed["probe"]} & {*placed["ksmd"]}
    rows = found.writes.rows
    assert list(rows["phase"].unique()) == [*PHASES[1:]]
    for phase in PHASES[2:]:
        now = rows[rows["phase"] == phase]
        merged, plain = (now.loc[now["kind"] == kind, "ns"] for kind in ("merged", "plain"))
        assert len(merged) > 100
        assert statistics.median(merged) > 2 * statistics.median(plain)
