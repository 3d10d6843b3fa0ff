"""Fixtures for tests on the real machine."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from machine import ROOT, SHORT, STATE, Playbook, assert_restored, knobs, teardown


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests after KSM_TEST_DEADLINE (seconds since 1970), for a check with a time limit."""
    deadline = os.environ.get("KSM_TEST_DEADLINE")
    if deadline and item.get_closest_marker("host") and time.time() > float(deadline):
        pytest.skip("no time left on this machine")


@pytest.fixture(scope="session")
def host(tmp_path_factory):
    """Make this machine a host with an image, and restore it afterwards."""
    logs = tmp_path_factory.mktemp("host")
    found = "true" if (STATE / "images/current").exists() else "false"
    keep = os.environ.get("KSM_KEEP_IMAGE") or found
    setup = Playbook("playbooks/host.yml", "playbooks/guest_image.yml", log=logs / "setup")
    assert setup.wait() == 0, setup.log.read_text()
    yield
    teardown(logs / "teardown", "-e", f"keep_image={keep}")
    assert STATE.exists() == (keep == "true"), "nothing is left of what was not there before"


@pytest.fixture(scope="module")
def only_libvirtd():
    """Wait until no other test has a libvirtd: that of a container is seen from the host."""
    with Path(tempfile.gettempdir(), "ksm-testbed-only-libvirtd").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture
def play(tmp_path):
    """Start playbooks. If a test fails, end them and restore the machine."""
    started = []

    def start(*arguments: str) -> Playbook:
        started.append(Playbook(*arguments, log=tmp_path / f"play-{len(started)}.log"))
        return started[-1]

    yield start
    running = [playbook for playbook in started if playbook.process.poll() is None]
    for playbook in running:
        playbook.kill()
    if running:
        teardown(tmp_path / "teardown.log", "-e", "keep_image=true")


@pytest.fixture
def restored():
    """Check that the test restores the machine."""
    before = knobs()
    yield
    assert_restored(before)


@pytest.fixture
def experiment(tmp_path, play):
    """Start an experiment with a separate directory of results."""

    def start(count=1, intervals=5, workload="idle", text=None, more=()):
        definition = tmp_path / "short.yml"
        definition.write_text(
            text or SHORT.format(count=count, intervals=intervals, workload=workload)
        )
        return play(
            "playbooks/experiment.yml",
            *("-e", f"experiment={definition}"),
            *("-e", f"results={tmp_path / 'results'}"),
            *more,
        )

    start.results = tmp_path / "results" / "short"
    return start


@pytest.fixture
def module():
    """Return a function that runs one module on this machine and returns its result."""

    def run(name: str, arguments: dict, check: bool = False) -> dict:
        done = subprocess.run(
            ["ansible", "localhost", "-m", f"ksm.testbed.{name}", "-a", json.dumps(arguments)]
            + (["--check"] if check else []),
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"ANSIBLE_CALLBACK_RESULT_FORMAT": "json", "ANSIBLE_NOCOLOR": "1"},
        )
        assert "=>" in done.stdout, done.stdout + done.stderr
        return json.loads(done.stdout.partition("=>")[2])

    return run
