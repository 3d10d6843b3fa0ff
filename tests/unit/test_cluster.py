"""Results are reduced on a real Dask scheduler with two workers, of which one is killed."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ksm_analysis.__main__ import main
from ksm_analysis.analysis import cluster, reduction
from ksm_analysis.errors import InputError

ROOT = Path(__file__).parents[2]
TIMEOUT = 120


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def where(path):
    """Return which process reads a run directory, after a moment, in which it can be killed."""
    time.sleep(0.2)
    return path, os.getpid()


@pytest.fixture
def programs(tmp_path):
    """Start programs of Dask, and stop them at the end."""
    pytest.importorskip("distributed")
    started = []

    def start(*words):
        command = [sys.executable, "-m", "distributed.cli." + words[0], *words[1:]]
        environment = os.environ | {"PYTHONPATH": f"{ROOT}:{Path(__file__).parent}"}
        log = (tmp_path / f"{len(started)}.log").open("w")
        started.append(
            subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=log, stderr=log)
        )
        return started[-1]

    yield start
    for program in started:
        program.kill()
    for program in started:
        program.wait()


@pytest.fixture
def scheduler(programs):
    """Start a scheduler on loopback, with two workers; return its address, and the workers."""
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    programs("dask_scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard")
    words = (address, "--no-nanny", "--nthreads", "1", "--no-dashboard", "--host", "127.0.0.1")
    workers = [programs("dask_worker", *words) for _ in range(2)]
    from distributed import Client

    with Client(address, timeout=TIMEOUT) as client:
        client.wait_for_workers(2, timeout=TIMEOUT)
    return address, workers


def test_what_a_killed_worker_had_is_done_by_the_other(scheduler, write_run, monkeypatch, capsys):
    address, workers = scheduler
    items = [*range(40)]
    done = cluster.each(where, items, address)
    first = [next(done) for _ in range(4)]
    os.kill(workers[0].pid, signal.SIGKILL)
    found = [*first, *done]

    assert sorted(item for item, _ in found) == items
    assert {process for _, process in found[-10:]} == {workers[1].pid}

    paths = [write_run(guests=guests) for guests in (1, 2, 3)]
    main(["summary", str(paths[0].parent), "--csv"])
    raw = capsys.readouterr().out
    monkeypatch.setattr(reduction, "MANY", 0)
    main(["summary", str(paths[0].parent), "--csv", "--scheduler", address])

    assert capsys.readouterr().out == raw


def test_a_scheduler_that_is_not_there_is_said_at_once(capsys, write_run, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr(reduction, "MANY", 0)
    monkeypatch.setattr(cluster, "PATIENCE", 1)
    address = f"tcp://127.0.0.1:{free_port()}"

    assert main(["answer", str(write_run().parent), "--scheduler", address]) == 2
    assert f"--scheduler {address}: no Dask scheduler answers" in capsys.readouterr().err


@pytest.mark.parametrize("address", ["nonsense", "ftp://127.0.0.1:1", "tcp://127.0.0.1:port"])
def test_what_is_no_address_is_said(address):
    pytest.importorskip("distributed")
    with pytest.raises(InputError, match="--scheduler"):
        next(cluster.each(where, [1], address))


def test_without_dask_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match="scale"):
        next(cluster.each(where, [1], "tcp://127.0.0.1:1"))
