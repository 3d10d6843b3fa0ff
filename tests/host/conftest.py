"""Fixtures for tests on the real machine."""

from __future__ import annotations

import json
import os
import subprocess

import pytest
from machine import ROOT, SHORT, STATE, Playbook, assert_given_back, knobs


@pytest.fixture(scope="session")
def play(tmp_path_factory):
    """Start playbooks; whatever a test leaves running is ended."""
    started = []

    def start(*arguments: str) -> Playbook:
        playbook = Playbook(*arguments, log=tmp_path_factory.mktemp("play") / "log")
        started.append(playbook)
        return playbook

    yield start
    for playbook in started:
        playbook.kill()


@pytest.fixture(scope="session")
def host(play):
    """Make this machine a host with an image, and give it back afterwards."""
    keep = "true" if (STATE / "images/current").exists() else "false"
    setup = play("playbooks/host.yml", "playbooks/base_image.yml")
    assert setup.wait() == 0, setup.log.read_text()
    yield
    teardown = play("playbooks/teardown.yml", "-e", f"keep_image={keep}", "-e", "force=true")
    assert teardown.wait() == 0, teardown.log.read_text()


@pytest.fixture
def given_back():
    """The machine is, at the end of the test, what it was at its beginning."""
    before = knobs()
    yield
    assert_given_back(before)


@pytest.fixture
def experiment(tmp_path, play):
    """Start an experiment in a results directory of its own."""

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
    """Run one module on this machine: module(name, arguments, check=False) -> its result."""

    def run(name: str, arguments: dict, check: bool = False) -> dict:
        done = subprocess.run(
            ["ansible", "localhost", "-m", name, "-a", json.dumps(arguments)]
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
