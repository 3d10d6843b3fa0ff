"""The lock of a host, used through its module."""

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.host, pytest.mark.beside]
BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
HERE = f"{BOOT} {Path('/proc/self/ns/pid').readlink()}"


@pytest.fixture
def lock(tmp_path, module):
    """Return a function that acquires or releases one lock."""

    def act(machine, pid, **more):
        holder = {"machine": machine, "pid": pid, "what": f"experiment of {pid}"}
        return module("host_lock", {"path": str(tmp_path / "lock"), "holder": holder} | more)

    return act


@pytest.fixture
def ended():
    """Return the id of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_one_holder_at_a_time(lock):
    assert lock(HERE, os.getpid())["changed"]
    assert not lock(HERE, os.getpid())["changed"], "renewed by the same"
    refused = lock(HERE, os.getppid())
    assert f"locked by experiment of {os.getpid()} (process {os.getpid()})" in refused["msg"]
    assert "locked by" in lock(HERE, os.getppid(), state="absent")["msg"]
    assert lock(HERE, os.getpid(), state="absent")["changed"]
    assert not lock(HERE, os.getpid(), state="absent")["changed"]
    assert lock(HERE, os.getppid())["changed"]


def test_a_process_that_has_ended_holds_no_lock(lock, ended, tmp_path):
    dead = {"machine": HERE, "pid": ended, "process_start": "1", "what": "it", "since": 1.0}
    (tmp_path / "lock").write_text(json.dumps(dead | {"until": time.time() + 3600}))
    taken = lock(HERE, os.getpid())
    assert taken["taken_over"]["pid"] == ended


def test_a_remote_controller_holds_the_lock_until_it_expires(lock):
    assert lock("elsewhere", 1, seconds=3600)["changed"]
    assert "locked by" in lock(HERE, os.getpid())["msg"]
    assert not lock("elsewhere", 1, seconds=0)["changed"], "renewed, for no time"
    assert lock(HERE, os.getpid())["taken_over"]["machine"] == "elsewhere"


def test_a_controller_in_a_container_holds_the_lock_until_it_expires(lock):
    """It has the boot id of the host, and its process id means nothing there."""
    container = f"{BOOT} pid:[4026532000]"
    assert lock(container, 1, seconds=3600)["changed"]
    assert "locked by" in lock(HERE, os.getpid())["msg"]
    assert not lock(container, 1, seconds=0)["changed"], "renewed, for no time"
    assert lock(HERE, os.getpid())["taken_over"]["machine"] == container


def test_an_incomplete_lock_is_ignored(lock, tmp_path):
    (tmp_path / "lock").write_text('{"machine": ')
    assert lock(HERE, os.getpid())["changed"]


def test_force_breaks_any_lock(lock):
    lock(HERE, os.getpid())
    assert lock(HERE, os.getppid(), state="absent", force=True)["changed"]
