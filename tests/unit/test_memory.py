"""The process whose memory has known contents."""

from __future__ import annotations

import collections
import json
import os
import signal
import subprocess
import sys

import pytest
from programs import ROLES, load

PROGRAM = ROLES / "part_memory/files/ksm_memory.py"
memory = load(PROGRAM)
PAGES = 16384


@pytest.mark.parametrize(
    ("zero", "equal"), [(0.5, 0.125), (0.5, 0.5), (0, 1), (1, 0), (0, 0), (0.25, 0.125)]
)
def test_the_numbers_of_pages_are_exact(zero, equal):
    count = collections.Counter(memory.kinds(PAGES, zero, equal))
    assert count["z"] == PAGES * zero
    assert count["e"] == PAGES * equal
    assert count.total() == PAGES


def test_each_huge_page_has_some_of_each_kind():
    kinds = list(memory.kinds(PAGES, 0.5, 0.125))
    for first in range(0, PAGES, 512):
        count = collections.Counter(kinds[first : first + 512])
        assert count == {"z": 256, "e": 64, "u": 192}


def test_contents():
    kinds = list(memory.kinds(1000, 0.5, 0.125))
    contents = [memory.content(kind, page) for page, kind in enumerate(kinds)]
    assert {len(each) for each in contents} == {memory.PAGE}
    assert len(set(contents)) == 2 + kinds.count("u")


def run(*arguments):
    return subprocess.run(
        [sys.executable, PROGRAM, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.host  # its memory is mergeable
def test_it_says_what_it_has_written(tmp_path):
    done = run("--mib", "2", "--seconds", "0", "--pid-file", str(tmp_path / "pid"))
    assert done.returncode == 0, done.stderr
    event = json.loads(done.stdout)
    assert event["event"] == "memory written"
    pages = {name: event[f"{name}_pages"] for name in ("zero", "equal", "unique")}
    assert pages == {"zero": 256, "equal": 64, "unique": 192}
    assert event["pages"] == 512
    assert event["huge_kib"] == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.host  # its memory is mergeable
def test_its_pid_file_says_that_the_memory_is_written(tmp_path):
    output, pid = tmp_path / "memory.jsonl", tmp_path / "memory.pid"
    where = ("--output", output, "--pid-file", pid)
    process = subprocess.Popen([sys.executable, PROGRAM, "--mib", "1", *where])
    try:
        while not pid.exists():
            assert process.poll() is None
        assert int(pid.read_text()) == process.pid
        assert json.loads(output.read_text())["pages"] == 256
        assert output.stat().st_mode & 0o777 == 0o600
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(10) == 143
        assert not pid.exists()
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--mib", "0"), "0 is not from 1 to 1048576"),
        (("--zero-percent", "101"), "101 is not from 0 to 100"),
        (("--zero-percent", "90", "--equal-percent", "11"), "more than 100 together"),
        (("--output", "/no/such/directory/file", "--mib", "1"), "cannot write to /no/such/direct"),
    ],
)
def test_wrong_arguments(arguments, words):
    done = run(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
