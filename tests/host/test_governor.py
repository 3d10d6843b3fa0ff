"""The governor controls the real ksmd, and always gives the knobs back."""

import contextlib
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from machine import ROOT, knobs, until

pytestmark = pytest.mark.host
PROGRAM = ROOT / "roles/governor/files/ksm_governor.py"
KSM = Path("/sys/kernel/mm/ksm")
MERGEABLE = Path(__file__).with_name("mergeable.py")
PAGES = 2048  # of each kind, of each process


@pytest.fixture(autouse=True)
def restored():
    """Check that the knobs are restored, and unmerge."""
    found = knobs()
    yield
    try:
        assert knobs() == found
    finally:
        for name, value in found.items():
            if name not in ("run", "max_page_sharing", "merge_across_nodes"):
                (KSM / name).write_text(value.replace("[none] scan-time", "none"))
        (KSM / "run").write_text("2")
        (KSM / "run").write_text(found["run"])


@pytest.fixture
def mergeable():
    """Start processes with mergeable memory: `common` pages are the same in all of them."""
    with contextlib.ExitStack() as stack:

        def start(common, unique, seed):
            process = subprocess.Popen(
                [sys.executable, MERGEABLE, "0", *map(str, (common, 0, unique, seed))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            assert process.stdout.readline() == b"ready\n"

        yield start


@pytest.fixture
def govern(tmp_path):
    """Start governors, and end them."""
    started = []

    def start(*more):
        command = ["/usr/bin/python3", PROGRAM, "--state", tmp_path / "state", *more]
        out = (tmp_path / f"out-{len(started)}").open("w")
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        started.append(process)
        return process

    yield start
    for process in started:
        process.terminate()
        process.wait(20)


def saved():
    return int((KSM / "pages_sharing").read_text())


def value(knob):
    return (KSM / knob).read_text().strip()


def test_newcomers_are_merged_and_then_it_rests(govern, mergeable, tmp_path):
    mergeable(PAGES, PAGES, 1)
    process = govern("--decisions", tmp_path / "decisions", "--metrics", tmp_path / "ksm.prom")
    until((tmp_path / "ksm.prom").exists)
    for seed in (2, 3):
        mergeable(PAGES, PAGES, seed)
        # their common pages are one page, of which the kernel keeps one for each 256
        until(lambda seed=seed: saved() > 0.99 * seed * PAGES)
        until(lambda: value("run") == "0")
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    decisions = [json.loads(line) for line in (tmp_path / "decisions").read_text().splitlines()]
    assert {line["event"] for line in decisions} == {"decision"}
    assert decisions[0]["knobs"]["run"] == 1
    assert "ksm_governor_saved_pages_total" in (tmp_path / "ksm.prom").read_text()
    assert saved() > 0.99 * 3 * PAGES  # what is merged stays merged


def test_knobs_are_restored_whenever_it_is_killed(govern, mergeable, tmp_path):
    mergeable(PAGES, PAGES, 1)
    mergeable(PAGES, PAGES, 2)
    rng, found = random.Random(1), knobs()
    set_at_all = 0
    for _ in range(20):
        process = govern()
        time.sleep(rng.random() / 2)
        process.kill()
        set_at_all += (tmp_path / "state/knobs.json").exists()
        until(lambda: knobs() == found, 20)
        until(lambda: not (tmp_path / "state/knobs.json").exists(), 20)
    assert set_at_all > 0


def test_knobs_are_restored_without_the_guard(govern):
    found = knobs()
    process = govern()
    until(lambda: value("run") == "1")
    (guard,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    subprocess.run(["kill", "-KILL", guard], check=True)
    process.terminate()
    assert process.wait(20) == 0
    assert knobs() == found


def test_knobs_are_restored_after_the_guard_was_killed_too(govern, tmp_path):
    found = knobs()
    process = govern()
    until(lambda: value("run") == "1")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    (guard,) = children.read_text().split()
    process.send_signal(signal.SIGSTOP)
    subprocess.run(["kill", "-KILL", guard, str(process.pid)], check=True)
    process.wait(10)
    assert knobs() != found
    assert govern("--restore").wait(20) == 0
    assert knobs() == found


def test_one_governor_at_a_time(govern, tmp_path):
    govern()
    until(lambda: value("run") == "1")
    assert govern().wait(20) == 2
    assert "another governor has locked" in (tmp_path / "out-1").read_text()


def test_the_advisor_is_named(govern, tmp_path):
    if not (KSM / "advisor_mode").exists():
        pytest.skip("this kernel has no advisor")
    (KSM / "advisor_mode").write_text("scan-time")
    try:
        assert govern().wait(20) == 2
    finally:
        (KSM / "advisor_mode").write_text("none")
    assert "the kernel's advisor" in (tmp_path / "out-0").read_text()


def test_what_an_administrator_sets_stays(govern, tmp_path):
    found = value("pages_to_scan")
    process = govern()
    until(lambda: value("run") == "1")
    (KSM / "pages_to_scan").write_text("777")
    until(lambda: "somebody else has set knobs" in (tmp_path / "out-0").read_text())
    process.terminate()
    assert process.wait(10) == 0
    assert (value("pages_to_scan"), value("run")) == ("777", "0")
    (KSM / "pages_to_scan").write_text(found)


def test_a_dry_run_writes_nothing(govern, mergeable, tmp_path):
    mergeable(PAGES, 0, 1)
    found = knobs()
    process = govern("--dry-run")
    until(lambda: "run=1" in (tmp_path / "out-0").read_text())
    assert knobs() == found
    process.terminate()
    assert process.wait(10) == 0
