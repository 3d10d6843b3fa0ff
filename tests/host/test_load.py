"""Services under load: latencies of a whole run, and what is left when something is killed."""

import json
import os
import signal
import subprocess
import sys

import pytest
from launched import PROGRAM, left, started
from machine import (
    ROOT,
    STATE,
    Run,
    assert_restored,
    knobs,
    processes,
    sampling,
    unexpected,
    until,
)

from ksm_analysis.metrics import load
from ksm_analysis.results.reader import read_run

pytestmark = pytest.mark.host
DEFINITION = """\
processes: {count: 2, service: python, data_mib: 8, workers: 1, memory_mib: 128}
knobs: [{run: 1, pages_to_scan: 20000, sleep_millisecs: 20}]
knobs_if_present: {smart_scan: 0}
workloads: [{name: asks, load: {rate: 50, warmup: 2, stop_ksmd: 1}}]
sampling: {interval: 1, intervals: 4, period: 0.25}
repetitions: 2
"""


def generators():
    """Return ids of running load generators."""
    return processes(f"{STATE}/load/ksm_load.py --directory")


def test_a_whole_load_and_one_whose_service_is_killed(tmp_path):
    before, definition = knobs(), tmp_path / "asks.yml"
    definition.write_text(DEFINITION)
    whole, cut_off = (tmp_path / f"asks/p002-k1-asks-r{n}" for n in (1, 2))
    play = Run(str(definition), "--results", str(tmp_path), log=tmp_path / "log")
    play.until(lambda: whole.exists() and sampling() and generators())
    os.kill(int((STATE / "run/process-01.pid").read_text()), signal.SIGKILL)
    assert play.wait() != 0
    assert generators() == left() == []
    assert_restored(before)

    first, second = read_run(whole), read_run(cut_off)
    warnings = unexpected(first.warnings)
    assert [each for each in warnings if "load generator itself was late" not in each] == []
    assert [event["event"] for event in first.events].count("ksmd stopped") == 1
    assert first.samples["ksm.run"].iloc[-1] == 0
    assert first.samples["ksm.pages_sharing"].iloc[-1] > 2048 - 100  # 8 MiB of one other copy
    assert 0 < load.value(first, "load_p50_ms") <= load.value(first, "load_p99_ms")
    assert load.value(first, "load_errors_percent") == 0
    assert load.value(first, "load_throughput") == pytest.approx(100, rel=0.5)  # at random times
    assert second.record.status == "failed"
    assert "process-01 was ended by signal 9" in second.record.reason


def test_remove_under_load_after_the_launcher_was_killed(tmp_path):
    options = {"service": "python", "data": "same", "data_mib": 4, "rate": 50, "connections": 2}
    options |= {"arrivals": "poisson", "keys": "uniform", "write_percent": 10}
    options |= {"warmup": 0, "seed": 0}
    program = ROOT / "roles/part_load/files/ksm_load.py"
    argv = [sys.executable, str(program), "--options", json.dumps(options), "--directory"]
    environment = os.environ | {"PYTHONPATH": str(PROGRAM.parent)}
    with (
        started(tmp_path, service="python", workers=1) as launcher,
        subprocess.Popen([*argv, str(tmp_path)], env=environment) as generator,
    ):
        until(lambda: '"requests"' in (tmp_path / "load.jsonl").read_text(), 20)
        launcher.kill()
        launcher.wait()
        assert len(left()) == 2, "a cgroup and a directory"
        remove = [sys.executable, str(PROGRAM), "remove", "--directory", str(tmp_path)]
        assert subprocess.run(remove, check=True, capture_output=True).stdout == b"removed\n"
        assert left() == []
        generator.terminate()
        assert generator.wait(10) == 143
