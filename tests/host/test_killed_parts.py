"""A part that is killed fails its run and no other, and nothing is left of it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from pathlib import Path

import pytest
from machine import (
    STATE,
    Playbook,
    Run,
    assert_restored,
    censuses,
    is_python,
    knobs,
    processes,
    sampled,
    samplers,
)

from ksm_analysis.results.reader import read_run

pytestmark = pytest.mark.host
RUN = STATE / "run"
# The census stops and continues the process, as it does guests; the policy sets knobs in the run.
DEFINITION = """\
workloads: [{name: work, memory: {mib: 16}}]
knobs: [{run: 1, pages_to_scan: 200, sleep_millisecs: 20}]
knobs_if_present: {smart_scan: 0}
policies: [kata]
sampling: {interval: 1, intervals: 6, period: 0.25}
census: {moments: [every: 1], pause: true}
repetitions: 4
"""
SAMPLER, CENSUS, POLICY, ALL = (f"g00-k1-work-r{n}" for n in (1, 2, 3, 4))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Kill a part in each run, and everything in the last one. The host is restored."""
    directory, before = tmp_path_factory.mktemp("killed"), knobs()
    (directory / "killed.yml").write_text(DEFINITION)
    play = Run(str(directory / "killed.yml"), "--results", str(directory), log=directory / "log")
    try:
        play.until(lambda: sampled(SAMPLER))
        (sampler,) = (pid for pid in samplers() if is_python(pid))
        os.kill(int(sampler), signal.SIGKILL)

        play.until(lambda: sampled(CENSUS) and counting())
        process = int((RUN / "memory.pid").read_text())
        os.kill(int(parent_of_all(censuses())), signal.SIGKILL)
        play.until(lambda: not censuses())
        assert state(process) not in "tT"

        play.until(lambda: sampled(POLICY) and decided())
        assert knobs()["sleep_millisecs"] == "1\n"
        os.kill(json.loads((RUN / "policy.json").read_text())["pid"], signal.SIGKILL)

        play.until(lambda: sampled(ALL) and counting())
    finally:
        play.kill()
        teardown = Playbook(
            "playbooks/teardown.yml",
            *("-e", "keep_image=true", "-e", "force=true"),
            log=directory / "down",
        )
        assert teardown.wait() == 0, teardown.output
    assert_restored(before)
    assert processes(f"{STATE}/policy/ksm_policy.py") == []
    return directory / "killed"


def counting() -> bool:
    """Whether a census has been taken in the current run."""
    path = RUN / "census.jsonl"
    return path.exists() and path.read_bytes().count(b"\n") > 1


def decided() -> bool:
    """Whether the policy has decided in the current run."""
    path = RUN / "policy.jsonl"
    return path.exists() and '"decision"' in path.read_text()


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


def reason(results: Path, run: str) -> str:
    """Return why a run has failed."""
    record = json.loads((results / run / "run.json").read_text())
    assert record["status"] == "failed"
    return record["reason"]


def test_the_sampler(results):
    assert "the sampler was killed by signal KILL" in reason(results, SAMPLER)
    assert (results / SAMPLER / "samples.jsonl").stat().st_size > 0


def test_the_census(results):
    assert "the census was killed by signal KILL" in reason(results, CENSUS)
    assert (results / CENSUS / "census.jsonl").exists()


def test_the_policy(results):
    assert "policy" in reason(results, POLICY)
    found = read_run(results / POLICY)
    (decision,) = [event for event in found.events if event["event"] == "decision"]
    assert decision["reason"] == "memory came: aggressive"
    assert found.samples["ksm.pages_to_scan"].iloc[-1] == decision["knobs"]["pages_to_scan"]


def test_everything(results):
    assert (results / f"{ALL}.partial").exists()
