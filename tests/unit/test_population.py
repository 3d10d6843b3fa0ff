"""Guests of a trace in the simulator: what they share, how they change, what is refused."""

import shutil
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from ksm_analysis.__main__ import main
from ksm_analysis.page import words
from ksm_analysis.results import caveats, reader, traces
from ksm_analysis.simulator import possible
from ksm_analysis.simulator.ksmd import NEVER, Ksmd
from ksm_analysis.simulator.memory import World
from ksm_analysis.simulator.population import Population, changing, drawn, times, traced_guests
from ksm_analysis.simulator.simulate import Queue

COUNTED = ("pages_shared", "pages_sharing", "pages_unshared")


def population(trace, guests, churn=None, seed=0):
    world = World(Ksmd(), seed)
    return Population(world, {"trace": trace, "guests": guests, "churn_percent": churn})


def replayed(trace, guests, pages_to_scan):
    """Replay a trace; return what the real kernel counted at its end, and what the simulator."""
    found = population(trace, guests)
    ksmd, queue = found.world.ksmd, Queue(iter([]))
    for actor in found.actors():
        queue.add(actor)
    ksmd.set({"run": 1, "pages_to_scan": pages_to_scan, "smart_scan": 0})
    end = times(found.trace)[-1]
    queue.until(end, ksmd)
    ksmd.advance(end - ksmd.clock)
    last = found.trace.moments.iloc[-1]
    real = np.array([last[f"ksm.{name}"] for name in COUNTED])
    return real, np.array([ksmd.counters()[name] for name in COUNTED])


def test_python_workers_are_merged_as_by_the_real_kernel():
    """Frames that are shared since a fork among them: without these, 6 % more would merge."""
    real, simulated = replayed("python", 3, 2000)
    assert abs(real - simulated).max() <= 3


def test_redis_under_load_is_merged_as_by_the_real_kernel():
    real, simulated = replayed("redis", 4, 2000)
    assert simulated[1] == pytest.approx(real[1], rel=0.005)


def test_idle_guests_are_merged_as_by_the_real_kernel():
    real, simulated = replayed("guests-idle", 2, 5000)
    assert simulated == pytest.approx(real, rel=0.005)


def test_what_changes_at_each_moment_never_rests():
    """Memory of stress-ng: without these, 5 % more would be merged, and a tenth be volatile."""
    found = population("guests-stress", 2)
    assert sum(map(len, found.restless)) > 30_000
    real, simulated = replayed("guests-stress", 2, 5000)
    assert simulated[1] == pytest.approx(real[1], rel=0.02)
    assert not population("python", 3).restless[0].size


def test_nothing_changes_while_the_processes_of_a_trace_are_stopped():
    trace = population("redis", 4).trace
    moments = pd.DataFrame(
        {"moment": ["start", "every", "every", "end"], "seconds": [0.0, 17.0, 20.0, 23.0]}
    ).assign(paused_seconds=[1.0, 1.0, 0.5, 1.0])
    stopped = replace(trace, moments=moments)
    assert changing(stopped, stops=True) == [(0, 3), (4, 6), (6.5, 9)]
    assert changing(stopped, stops=False) == [(0, 3), (3, 5), (5, 7.5)]
    assert changing(trace, stops=True) == [*pairwise(times(trace))]


def test_more_guests_share_what_those_of_the_trace_share():
    few, many = population("redis", 4, 0), population("redis", 12, 0)
    contents = [
        [found.world.ksmd.content[process.pages] for process, *_ in found.processes]
        for found in (few, many)
    ]
    private = [[{*each[each >= len(few.shared)], *each[each < 0]} for each in c] for c in contents]
    assert not set.intersection(*private[1][::4])
    assert sum(map(len, private[1])) == len(set.union(*private[1])) == 3 * sum(map(len, private[0]))
    for one, other in zip(contents[1][:4], contents[1][4:8], strict=True):
        common = (one >= 0) & (one < len(few.shared))
        assert common.any()
        assert (one[common] == other[common]).all()


def test_hosts_draw_at_random_and_the_same_again():
    hosts = [drawn(1000, 4, seed, apart=True) for seed in range(20)]
    assert hosts == [drawn(1000, 4, seed, apart=True) for seed in range(20)]
    numbers = np.array([np.bincount(host, minlength=4) for host in hosts])
    assert (abs(numbers.mean(axis=0) - 250) < 20).all()
    assert (numbers.std(axis=0) > 5).all()


def test_each_content_is_known_to_be_one_of_the_trace():
    found = population("guests-stress", 5, 0)
    traced = traced_guests(found.trace)
    order = drawn(5, 2, 0)
    for (process, *_), guest in zip(found.processes, order, strict=True):
        contents = found.world.ksmd.content[process.pages]
        expected = traced[guest].pages[0][-1]
        there = contents != NEVER
        assert (there == (expected != NEVER)).all()
        assert (found.traced(contents[there]) == expected[there]).all()


def test_churn_writes_so_many_pages_and_they_get_their_contents_back():
    found = population("redis", 2, 20)
    ksmd = found.world.ksmd
    rest = [ksmd.content[process.pages].copy() for process, *_ in found.processes]
    shares = []
    for _ in range(6):
        ksmd.scan()
        for (process, *_), own in zip(found.processes, rest, strict=True):
            shares.append(np.mean(ksmd.content[process.pages] != own))
    assert np.mean(shares) == pytest.approx(0.2, abs=0.01)


def test_guests_are_drawn_evenly():
    assert drawn(7, 3, 1).count(0) in (2, 3)
    assert [*map(drawn(9, 3, 1).count, range(3))] == [3, 3, 3]
    assert {tuple(drawn(1, 3, seed)) for seed in range(20)} == {(0,), (1,), (2,)}


def test_a_page_that_is_unmapped_is_forgotten_at_the_next_scan():
    ksmd = Ksmd()
    ksmd.set({"run": 1, "smart_scan": 0})
    process = ksmd.arrive([1, 1, 2, -1])
    ksmd.scan()
    ksmd.scan()
    ksmd.write(process, [1, 2], [NEVER, NEVER])
    ksmd.scan()
    assert (ksmd.shared, ksmd.sharing, ksmd.unshared, ksmd.items, ksmd.pages) == (1, 0, 1, 2, 2)


EXPERIMENT = "population: {trace: %s, guests: 2}\nsampling: {interval: 1, intervals: 2}\n"


def refused(tmp_path, trace, capsys, command="simulate"):
    file = tmp_path / "made.yml"
    file.write_text(EXPERIMENT % trace)
    assert main([command, str(file), "--results", str(tmp_path / "results")]) == 2
    assert not (tmp_path / "results").exists()
    return capsys.readouterr().err


def test_what_is_no_trace_is_refused_before_anything_starts(tmp_path, capsys):
    names = ", ".join(traces.shipped())
    called = "no trace of the package, and no directory, is called redes"
    said = f"{called}. Those of the package are {names}"
    assert f"made.yml: population.trace: {said}\n" in refused(tmp_path, "redes", capsys)
    assert with_trace(tmp_path, "", trace="redes") == (2, [])
    assert f"guests.yml: --trace: {said}\n" in capsys.readouterr().err
    (tmp_path / "run").mkdir()
    raw = tmp_path / "run/census.trace"
    head = '{"kind": "header", "format": 1, "page_size": 4096, "bytes": 0}\n'
    raw.write_text(head)
    assert "is cut short after 0 moments" in refused(tmp_path, tmp_path / "run", capsys)
    raw.write_text(head.replace('"format": 1', '"format": 2'))
    assert "reads only format 1" in refused(tmp_path, tmp_path / "run", capsys)
    raw.write_text(head.replace("4096", "16384"))
    assert "is a trace of pages of 16384 bytes" in refused(tmp_path, tmp_path / "run", capsys)


def test_a_shipped_trace_that_is_cut_short_is_refused(tmp_path, capsys):
    copied = shutil.copytree(traces.shipped()["redis"], tmp_path / "copy")
    pages = copied / "pages.parquet"
    pages.write_bytes(pages.read_bytes()[:-100])
    assert "has no whole trace" in refused(tmp_path, copied, capsys)


def test_a_population_that_does_not_fit_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(possible, "available", lambda: 2.0**18)
    assert "pages need about" in refused(tmp_path, "redis", capsys)


@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_population_is_only_simulated(tmp_path, capsys, command):
    assert "guests of a trace are only simulated" in refused(tmp_path, "redis", capsys, command)


GUESTS = """
guests: {count: 3%s}
workloads: [%s]
sampling: {interval: 1, intervals: 2}
"""


def with_trace(tmp_path, more, workloads="idle", trace="guests-idle"):
    """Simulate guests as those of a trace; return the exit status and the run directories."""
    file, results = tmp_path / "guests.yml", tmp_path / "results"
    file.write_text(GUESTS % (more, workloads))
    status = main(["simulate", str(file), "--results", str(results), "--trace", trace])
    return status, [*results.glob("guests/*/")]


def test_guests_of_a_trace_act_instead_of_those_of_an_experiment(tmp_path):
    status, (path,) = with_trace(tmp_path, ", arrivals: [0, 0, 1]")
    assert status == 0
    run = reader.read_run(path)
    (arrived,) = [each for each in run.events if each["event"] == "guest arrived"]
    assert (arrived["guest"], arrived["monotonic"]) == ("ksm-guest-03", pytest.approx(1))
    there = run.guests.groupby("guest", observed=True)["seconds"].min()
    assert [*there] == [0, 0, pytest.approx(1, abs=0.3)]
    assert (run.guests["resident_pages"] > 30_000).all()


def test_what_the_experiment_says_of_guests_is_not_said_of_those_of_a_trace(tmp_path):
    more = ", memory_mib: 4096, vcpus: 8"
    status, (path,) = with_trace(tmp_path, more, "{name: a, stress_ng: {vm: 1}}")
    assert status == 0
    run = reader.read_run(path)
    said = "act as those of the trace guests-idle: their memory, CPUs and workload are those of"
    assert any(said in each for each in caveats.of_experiment([run]))
    assert words.tried((run,)).startswith("3 guests ·")


def test_all_processes_of_a_guest_are_its_own(tmp_path):
    """A guest of this trace has three, and ksmd tracks all of them."""
    status, (path,) = with_trace(tmp_path, "", trace="python")
    assert status == 0
    run = reader.read_run(path)
    assert not any("other processes" in each for each in caveats.of_run(run))
    before = run.guests[run.guests["n"] == 0]  # nothing is merged
    assert before["resident_pages"].sum() == population("python", 3).world.ksmd.pages


COPIES = (
    "processes: {count: 2, service: memory, merge: madvise, data_mib: 8,"
    " contents: {equal_percent: 50, zero_percent: 0}"
)


@pytest.mark.parametrize(
    ("more", "workloads", "said"),
    [
        (", lifetimes: 1", "idle", "guests.lifetimes: cannot be simulated: no guest of a trace"),
        (", balloon_mib: 256", "idle", "balloon_mib"),
        ("", "idle, {name: a, stress_ng: {vm: 1}}", "there are several: idle; a"),
        (", vcpus: [1, 2]", "idle", "there are several: idle, vcpus=1; idle, vcpus=2"),
        ("", "{name: a, nosharepages: all}", "nosharepages: cannot be simulated: all guests"),
        ("}\n" + COPIES, "idle", "processes: cannot be simulated: nothing is simulated beside"),
        ("}\ncensus: {moments: [end]", "idle", "census: cannot be simulated: nothing is simulated"),
    ],
)
def test_a_trace_stands_for_no_other_guests(tmp_path, capsys, more, workloads, said):
    assert with_trace(tmp_path, more, workloads) == (2, [])
    assert said in capsys.readouterr().err
