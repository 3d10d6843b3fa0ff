"""Copies are added to a budget of memory until they do not fit; nothing is left of them."""

import contextlib
import importlib
import json
import mmap
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launched import PROGRAM, left, runs, started
from machine import KSM, knobs, until

pytestmark = pytest.mark.host
DENSITY = {
    "memory_mib": 120,
    "step": 1,
    "limit": 9,
    "settle_seconds": 0.2,
    "answer_seconds": 5,
    "answer_p99_ms": None,
    "psi_full": None,
    "storm": True,
}
PYTHON = {"service": "python", "count": 1, "workers": 1, "data_mib": 16, "memory_mib": 256}


def told(directory, *names):
    """Return the last line with one of the names, once it is there."""

    def find():
        text = (directory / "processes.jsonl").read_text()
        lines = [json.loads(line) for line in text.splitlines(keepends=True) if line[-1] == "\n"]
        return [each for each in lines if {each.get("event"), each.get("metric")} & {*names}]

    return until(find, 30)[-1]


def begin(directory):
    """Tell the program that the run begins."""
    partial = directory / "begin"
    partial.write_text(str(time.monotonic()))
    partial.rename(directory / "processes.begin")


def test_copies_are_added_until_the_kernel_kills_one(tmp_path):
    with started(tmp_path, **PYTHON, density=DENSITY):
        begin(tmp_path)
        ended = told(tmp_path, "density ended")
        assert ended["reason"].startswith("an OOM kill in process-")
        assert ended["broke"]
        assert 1 <= ended["copies"] < 4  # each has 16 MiB of data and two interpreters
        assert told(tmp_path, "density_copies")["value"] == ended["copies"]
        storm = told(tmp_path, "density storm ended")
        assert storm["copies"] == ended["copies"]
        assert told(tmp_path, "density_storm_killed")["value"] == storm["killed"]


def test_the_limit_is_an_end_and_a_kill_leaves_what_remove_finds(tmp_path):
    small = {"command": ["/bin/sleep", "60"], "count": 1}
    asked = {**DENSITY, "limit": 3, "step": 2, "storm": False}
    argv = [sys.executable, str(PROGRAM), "remove", "--directory", str(tmp_path)]
    with started(tmp_path, **small, density=asked) as process:
        begin(tmp_path)
        ended = told(tmp_path, "density ended")
        assert (ended["copies"], ended["reason"], ended["broke"]) == (3, "the limit of 3", False)
        last = int((tmp_path / "process-03.pid").read_text())
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert len(left()) == 2
        assert subprocess.run(argv, check=True, capture_output=True).stdout == b"removed\n"
    assert not runs(last)


def test_a_budget_that_not_even_one_fits_in(tmp_path):
    with started(tmp_path, **PYTHON, density={**DENSITY, "memory_mib": 10}) as process:
        assert process.wait(20) == 2
        assert "the budget of 10 MiB is too small for one copy" in process.stderr.read()


def test_the_time_of_answers_is_measured(tmp_path):
    asked = {**DENSITY, "answer_p99_ms": 0.001}  # no answer is so fast, and the first must fit
    with started(tmp_path, **PYTHON, density=asked) as process:
        begin(tmp_path)
        assert process.wait(30) == 2
        assert "process-01: p99 of answers " in process.stderr.read()


def test_the_budget_of_guests_is_removed_with_all_in_it(tmp_path, monkeypatch):
    for role in ("processes", "part_arrivals", "part_density"):
        monkeypatch.syspath_prepend(PROGRAM.parents[2] / role / "files")
    program = importlib.import_module("ksm_guest_density")
    systemd = Path("/run/systemd/system").exists()
    state = program.budget_of(Path("/proc/mounts").read_text(), systemd)
    program.make_budget(state, 64, tmp_path)
    groups = [Path(group) for group in {state["cgroup"], *state["groups"]}]
    with subprocess.Popen(["/bin/sleep", "60"]) as process:
        for group in groups:
            (group / "cgroup.procs").write_text(str(process.pid))
        name = "memory.max" if state["version"] == 2 else "memory.limit_in_bytes"
        assert int(Path(state["cgroup"], name).read_text()) == 64 * 2**20
        with pytest.raises(program.FailedError, match="exists already"):
            program.make_budget(state, 64, tmp_path / "other")
        assert program.remove(tmp_path)
        assert process.wait(10) == -signal.SIGTERM
    assert not any(group.exists() for group in groups)
    assert not program.remove(tmp_path)


# --- whose merged pages are -----------------------------------------------------------------------

PAGES = 4096


@contextlib.contextmanager
def two_groups():
    """Make two cgroups of version 1 in one; yield the three."""
    parent = Path("/sys/fs/cgroup/memory/ksm-testbed-charge")
    if not parent.parent.joinpath("memory.usage_in_bytes").exists():
        pytest.skip("there is no memory controller of version 1")
    groups = [parent / name for name in "ab"]
    for group in (parent, *groups):
        group.mkdir()
    yield groups, parent
    for group in (*groups, parent):
        if group.exists():
            group.rmdir()


def mergeable(group):
    """Start a process in a cgroup with pages that differ from each other, and return its pid."""
    ready, started_ = os.pipe()
    pid = os.fork()
    if pid == 0:
        (group / "cgroup.procs").write_text(str(os.getpid()))
        memory = mmap.mmap(-1, PAGES * mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory.madvise(mmap.MADV_MERGEABLE)
        for page in range(PAGES):
            memory[page * mmap.PAGESIZE : page * mmap.PAGESIZE + 8] = b"page%04d" % page
        os.write(started_, b".")
        signal.pause()
    os.read(ready, 1)
    return pid


def end(pid):
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def charged(group):
    """Return how many pages are charged to a cgroup."""
    return int((group / "memory.usage_in_bytes").read_text()) / mmap.PAGESIZE


def test_a_merged_page_stays_charged_to_one_cgroup():
    """Also when its process has ended and it is removed. A common parent counts the page once."""
    before = knobs()
    with two_groups() as (groups, parent):
        pids = {group: mergeable(group) for group in groups}
        try:
            for name, value in (("run", 2), ("pages_to_scan", 20000), ("run", 1)):
                (KSM / name).write_text(str(value))
            until(lambda: min(map(charged, groups)) < PAGES / 4, 20)
            owner, other = sorted(groups, key=charged, reverse=True)
            assert charged(owner) > PAGES * 0.9
            end(pids.pop(owner))
            assert charged(owner) > PAGES * 0.9
            owner.rmdir()
            assert charged(other) < PAGES / 4
            assert PAGES * 0.9 < charged(parent) < PAGES * 1.5
        finally:
            for pid in pids.values():
                end(pid)
            (KSM / "run").write_text("2")
            for name in ("pages_to_scan", "run"):
                (KSM / name).write_text(before[name])
    assert knobs() == before
