"""A real Dask scheduler with two workers, of which one is killed: it reduces, and simulates."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ksm_analysis import tasks
from ksm_analysis.__main__ import main
from ksm_analysis.analysis import reduction
from ksm_analysis.definition import experiment
from ksm_analysis.errors import InputError
from ksm_analysis.simulator import simulate

ROOT = Path(__file__).parents[2]
TIMEOUT = 120


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


FLEET = """\
population: {trace: redis, guests: 3, hosts: 4}
knobs: [{pages_to_scan: 2000}]
policies: [none, governor]
sampling: {interval: 1, intervals: 5}
"""


def files_of(directory):
    return {file.relative_to(directory): file.read_bytes() for file in directory.rglob("*.*")}


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
    done = tasks.on_cluster(where, items, address)
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


def test_earlier_results_stay_if_no_scheduler_answers(tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "PATIENCE", 0.5)
    fleet = experiment.plan(experiment.parse(FLEET, "fleet.yml"), "fleet.yml")
    kept = tmp_path / "fleet"
    kept.mkdir()
    with pytest.raises(InputError, match="no Dask scheduler answers"):
        list(simulate.runs(fleet, tmp_path, scheduler="tcp://127.0.0.1:1"))
    assert list(tmp_path.iterdir()) == [kept]
    assert list(kept.iterdir()) == []


def test_a_fleet_is_the_same_on_a_cluster_that_loses_a_worker(scheduler, tmp_path, capsys):
    address, workers = scheduler
    (tmp_path / "fleet.yml").write_text(FLEET)
    fleet = experiment.plan(experiment.parse(FLEET, "fleet.yml"), str(tmp_path / "fleet.yml"))
    done = simulate.runs(fleet, tmp_path / "cluster", scheduler=address)
    next(done)
    os.kill(workers[0].pid, signal.SIGKILL)
    assert len([*done]) == 7
    assert main(["simulate", str(tmp_path / "fleet.yml"), "--results", str(tmp_path / "here")]) == 0

    here, there = files_of(tmp_path / "here"), files_of(tmp_path / "cluster")
    assert len(here) == 1 + 4 * (3 + 4)
    assert there == here
    capsys.readouterr()
    assert main(["summary", str(tmp_path / "here/fleet"), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    fixed = [row["saved_mib"] for row in rows if "none" in row["knobs"]]
    assert (len(fixed), len({*fixed}) > 2) == (4, True)  # each host has drawn others


def test_a_worker_of_another_version_is_said(scheduler, tmp_path, monkeypatch, capsys):
    (tmp_path / "fleet.yml").write_text(FLEET)
    monkeypatch.setattr(simulate, "_code", lambda: "another")
    words = ["simulate", str(tmp_path / "fleet.yml"), "--results", str(tmp_path / "results")]
    assert main([*words, "--scheduler", scheduler[0]]) == 2
    assert "has another version of this project" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


def test_a_scheduler_that_is_not_there_is_said_at_once(capsys, write_run, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr(reduction, "MANY", 0)
    monkeypatch.setattr(tasks, "PATIENCE", 1)
    address = f"tcp://127.0.0.1:{free_port()}"

    assert main(["answer", str(write_run().parent), "--scheduler", address]) == 2
    assert f"--scheduler {address}: no Dask scheduler answers" in capsys.readouterr().err


@pytest.mark.parametrize("address", ["nonsense", "ftp://127.0.0.1:1", "tcp://127.0.0.1:port"])
def test_what_is_no_address_is_said(address):
    pytest.importorskip("distributed")
    with pytest.raises(InputError, match="--scheduler"):
        next(tasks.on_cluster(where, [1], address))


def test_without_dask_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match="scale"):
        next(tasks.on_cluster(where, [1], "tcp://127.0.0.1:1"))
