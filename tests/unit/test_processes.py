"""Processes instead of guests: definitions, plans, data sets, warnings."""

from __future__ import annotations

import dataclasses
import sys

import pytest
from programs import ROLES, load

from ksm_analysis.definition import experiment
from ksm_analysis.errors import InputError
from ksm_analysis.results import caveats
from ksm_analysis.results.reader import read_results
from ksm_analysis.results.record import Part

FILES = ROLES / "processes/files"
sys.path.insert(0, str(FILES))
copies = load(FILES / "ksm_copies.py")
services = load(FILES / "ksm_services.py")
SAMPLING = "sampling: {interval: 1, intervals: 4}\n"
REDIS = {"service": "redis", "data_mib": 1}


def plan(processes, more=""):
    text = f"processes: {processes}\n{SAMPLING}{more}"
    return experiment.plan(experiment.parse(text, "file.yml"), "file.yml")["runs"]


def test_the_count_is_a_factor():
    runs = plan("{count: [2, 120], service: python, workers: 1}", "repetitions: 2\n")
    assert [run["id"] for run in runs] == [
        *("p002-k1-idle-r1", "p120-k1-idle-r1", "p120-k1-idle-r2", "p002-k1-idle-r2")
    ]
    assert runs[0]["factors"]["processes"] == 2
    assert runs[0]["factors"]["guests"] == 0
    assert [run["factors"]["workload"] for run in runs[:2]] == ["2 × python", "120 × python"]  # noqa: RUF001
    part = runs[0]["parts"][0]
    assert part["name"] == "processes"
    assert part["role"] == "ksm.testbed.processes"
    assert part["prepare"]
    assert part["options"]["count"] == 2
    names = ["process-01", "process-01-w1", "process-02", "process-02-w1"]
    assert part["processes"] == names
    assert runs[1]["parts"][0]["processes"][-1] == "process-120-w1"


def test_options_that_are_not_given_are_left_out():
    """The role would refuse a service that is null."""
    (run,) = plan("{count: 1, command: /bin/true}")
    assert not {"service", "check", "metrics"} & run["parts"][0]["options"].keys()


def test_guests_and_processes_run_together():
    runs = plan("{count: [1, 2], service: redis}", "guests: {count: [1, 3]}\n")
    assert [run["id"] for run in runs] == [
        f"g0{guests}-p00{copies}-k1-idle-r1" for guests in (1, 3) for copies in (1, 2)
    ]
    assert runs[3]["factors"]["guests"] == runs[3]["guests"]["count"] == 3
    assert runs[3]["factors"]["processes"] == 2
    assert runs[3]["factors"]["workload"] == "2 × redis"  # noqa: RUF001
    assert [part["name"] for part in runs[3]["parts"]] == ["processes", "sampler"]


def test_an_experiment_without_processes_has_no_such_factor():
    text = f"guests: {{count: 1}}\n{SAMPLING}"
    run = experiment.plan(experiment.parse(text, "file.yml"), "file.yml")["runs"][0]
    assert "processes" not in run["factors"]
    assert [part["name"] for part in run["parts"]] == ["sampler"]


@pytest.mark.parametrize(
    ("processes", "words"),
    [
        ("{count: 0, service: redis}", "processes.count: must be a whole number from 1 to 999"),
        ("{count: 1000, service: redis}", "a whole number from 1 to 999"),
        ("{count: [1, 1], service: redis}", "entries must differ"),
        ("{count: 1}", "needs either 'service' or 'command'"),
        ("{count: 1, service: redis, command: /bin/true}", "needs either 'service' or 'command'"),
        (
            "{count: 1, service: mysql}",
            "one of python, redis, memcached, postgres, nginx, java, memory",
        ),
        ("{count: 1, service: redis, merge: all}", "one of prctl, madvise, none"),
        ("{count: 1, service: redis, merge: madvise}", "must be prctl or none for redis"),
        ("{count: 1, service: redis, workers: 2}", "processes.workers: goes with"),
        ("{count: 1, service: redis, check: /bin/true}", "processes.check: goes with"),
        ("{count: 1, command: /bin/true, data: same}", "processes.data: goes with"),
        ("{count: 1, service: redis}\nworkloads: [{name: a, command: ls}]", "need no guests"),
    ],
)
def test_a_wrong_definition(processes, words):
    with pytest.raises(InputError, match=r"^file\.yml:") as caught:
        plan(processes)
    assert words in str(caught.value)


def test_what_cannot_be_merged_is_told_before_a_run():
    (run,) = plan("{count: 2, service: postgres}")
    assert run["notes"] == [
        "KSM cannot merge the buffers of PostgreSQL, which are shared memory, and its files in the"
        " page cache: only private memory of its processes"
    ]
    assert run["parts"][0]["processes"][:5] == [
        *("process-01", "process-01-w1", "process-01-w2", "process-01-w3", "process-02")
    ]
    assert plan("{count: 1, service: redis, merge: none}")[0]["notes"] == [
        "KSM may not merge the memory of these processes: merge is none"
    ]
    assert "notes" not in plan("{count: 2, service: redis}")[0]


def data(copy, kind):
    return list(services.records({**REDIS, "data": kind}, copy))


def test_data_sets():
    assert data(1, "same") == data(2, "same")
    assert data(1, "similar") != data(2, "similar")
    assert sorted(data(1, "similar")) == sorted(data(2, "similar")) == data(1, "same")
    assert not {v for _, v in data(1, "different")} & {v for _, v in data(2, "different")}
    assert len({value for _, value in data(1, "same")}) == 2**20 // services.VALUE_BYTES


def test_the_newer_memory_controller_is_preferred(tmp_path):
    first = "cgroup /v1/memory cgroup rw,relatime,memory 0 0\n"
    second = f"cgroup2 {tmp_path} cgroup2 rw 0 0\n"
    controllers = tmp_path / "cgroup.controllers"
    controllers.write_text("cpu memory\n")
    assert copies.memory_controller(first + second) == (2, str(tmp_path))
    controllers.write_text("\n")
    assert copies.memory_controller(first + second) == (1, "/v1/memory")
    with pytest.raises(copies.FailedError, match="no memory controller"):
        copies.memory_controller(second)


def test_a_cgroup_of_others_is_refused_and_left(tmp_path):
    (tmp_path / "own").mkdir()
    state = {"version": 1, "cgroup": str(tmp_path / "own"), "enabled": False}
    with pytest.raises(copies.FailedError, match="cannot be made: File exists"):
        copies.make_parent(state, tmp_path)
    assert copies.remove(tmp_path) is False
    assert (tmp_path / "own").is_dir()


def made_up(write_run, options, merge_any, items):
    """Make a run with one process; return its warnings about processes."""
    run = read_results(write_run(guests=1).parent).runs[0]
    part = Part(name="processes", options=options)
    plan_ = run.plan.model_copy(update={"parts": [*run.plan.parts, part]})
    record = run.record.model_copy(update={"run": plan_})
    event = {"event": "process ready", "process": "process-01", "merge_any": merge_any}
    guests = run.guests.assign(ksm_rmap_items=items)
    changed = dataclasses.replace(run, record=record, events=(event,), guests=guests)
    return list(caveats._process_warnings(changed))


def test_memory_that_is_not_mergeable_has_a_warning(write_run):
    found = made_up(write_run, {"merge": "prctl"}, False, 0)
    assert len(found) == 2
    assert "has lost PR_SET_MEMORY_MERGE" in found[0]
    assert "ksmd has scanned none of its pages" in found[1]


@pytest.mark.parametrize("options", [{"merge": "prctl"}, {"merge": ["x"]}, {}])
def test_mergeable_memory_has_none(write_run, options):
    assert made_up(write_run, options, True, 5) == []
