"""Copies of services on the host: they run, merge, and are gone afterwards, however they end."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from launched import PROGRAM, left, runs, started
from machine import Run, assert_restored, knobs, unexpected, until

from ksm_analysis.results.reader import read_results

pytestmark = pytest.mark.host
PROGRAMS = {
    "python": "python3",
    "memory": "python3",
    "redis": "redis-server",
    "memcached": "memcached",
    "java": "javac",
}
DEFINITION = """\
processes:
  {count: 3, service: python, data_mib: 8, workers: 1, memory_mib: 128, arrivals: [0, 0, 2],
  lifetimes: [9, 9, 2]}
knobs: [{run: 1, pages_to_scan: 20000, sleep_millisecs: 20}]
knobs_if_present: {smart_scan: 0}
sampling: {interval: 1, intervals: 6, period: 0.25}
"""


@pytest.mark.parametrize("service", PROGRAMS)
def test_a_service_is_ready_and_then_gone(service, tmp_path):
    if not Path("/usr/bin", PROGRAMS[service]).exists():
        pytest.skip(f"{service} is not installed")
    with started(tmp_path, service=service, ready_seconds=50):
        assert json.loads((tmp_path / "processes.ready").read_text()) == {"error": None}
        first = int((tmp_path / "process-01.pid").read_text())
        assert "/process-01" in Path(f"/proc/{first}/cgroup").read_text()
    assert not runs(first)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"command": ["/bin/sh", "-c", "echo broken >&2; exit 7"], "check": ["/bin/false"]},
         "process-01 ended with code 7: broken"),
        ({"command": ["/bin/sleep", "60"], "check": ["/bin/false"], "ready_seconds": 1},
         "process-01: its check has not answered within 1 s"),
        ({"command": ["/bin/nothing"]}, "process-01: /bin/nothing cannot be started"),
        ({"service": "python", "memory_mib": 8}, "reached its memory limit"),
    ],
)  # fmt: skip
def test_a_copy_that_fails(options, words, tmp_path):
    with started(tmp_path, **options) as process:
        assert process.wait(20) == 2
        said = process.stderr.read()
    assert words in json.loads((tmp_path / "processes.ready").read_text())["error"]
    assert words in said
    assert len(said.splitlines()) == 1


def test_what_a_command_prints_is_recorded_to_its_last_word(tmp_path):
    script = "trap 'echo bye; exit' TERM; echo $KSM_COPY; while :; do sleep 0.1; done"
    with started(tmp_path, command=["/bin/sh", "-c", script], metrics="json"):
        path = tmp_path / "processes.jsonl"
        until(lambda: path.read_text().count('"output"') == 2, 10)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    said = [(line["process"], line["output"]) for line in lines if "output" in line]
    assert sorted(said) == [
        ("process-01", "1"),
        ("process-01", "bye"),
        ("process-02", "2"),
        ("process-02", "bye"),
    ]


def test_remove_after_the_program_was_killed(tmp_path):
    argv = [sys.executable, str(PROGRAM), "remove", "--directory", str(tmp_path)]
    with started(tmp_path, command=["/bin/sleep", "60"]) as process:
        first = int((tmp_path / "process-01.pid").read_text())
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert len(left()) == 2
        assert subprocess.run(argv, check=True, capture_output=True).stdout == b"removed\n"
    assert not runs(first)
    assert subprocess.run(argv, check=True, capture_output=True).stdout == b""


def test_an_experiment_merges_its_processes(tmp_path):
    before, definition = knobs(), tmp_path / "two.yml"
    definition.write_text(DEFINITION)
    run = Run(str(definition), "--results", str(tmp_path), log=tmp_path / "log")
    assert run.wait() == 0, run.output
    assert_restored(before)
    assert left() == []
    found = read_results(tmp_path / "two")
    assert unexpected(found.warnings) == []
    (only,) = found.usable
    assert only.factors["processes"] == 3
    # both workers that stay have the same 8 MiB
    assert only.samples["ksm.pages_sharing"].iloc[-1] > 2048 - 100
    third = only.guests[only.guests["guest"] == "process-03-w1"]["seconds"]
    assert 2 < third.min() < third.max() < 5.5
    assert set(only.end["left"]) == {"process-03", "process-03-w1"}
    events = [each["event"] for each in only.events if each.get("process") == "process-03"]
    assert events == ["process arrived", "process ready", "process left"]
