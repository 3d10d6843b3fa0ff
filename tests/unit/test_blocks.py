"""Which runs belong to the same block."""

import pytest
from made_up_runs import run_record

from ksm_analysis.analysis.blocks import Block, blocks_of, shared
from ksm_analysis.results.reader import read_results
from ksm_analysis.results.together import read_together


@pytest.fixture
def write(write_run):
    """Write runs, each given as host, setting and repetition."""

    def write(*runs, experiment="made-up", **other):
        for host, knobs, repetition in runs:
            record = run_record(1, repetition=repetition, host=host, **other)
            record["experiment"] = experiment
            record["run"]["factors"]["knobs"] = knobs
            write_run(record, name=f"{experiment}/{host}-{knobs}-{repetition}")
        return write_run.directory / experiment

    return write


def numbers(results):
    found = zip(results.runs, blocks_of(results.runs), strict=True)
    return {
        (run.host, run.factors["knobs"], run.repetition): block and block.number
        for run, block in found
    }


def test_a_block_is_a_repetition_on_a_host(write):
    runs = [(host, knobs, n) for host in "ab" for knobs in ("k", "l") for n in (1, 3)]
    found = numbers(read_results(write(*runs)))

    assert found == {run: run[2] for run in runs}


def test_hosts_that_divide_the_repetitions_count_their_own(write):
    """assign_runs gives each host each setting equally often, but not of the same repetition."""
    runs = [
        ("a", "k", 1),
        ("b", "l", 1),
        ("a", "l", 2),
        ("b", "k", 2),
        ("a", "k", 3),
        ("b", "l", 3),
    ]
    found = numbers(read_results(write(*runs)))

    assert found == dict(zip(runs, [1, 1, 1, 1, 2, 2], strict=True))


def test_repetitions_of_different_experiments_are_different_blocks(write):
    directories = [write(("a", "k", 2), ("a", "l", 2), experiment=name) for name in ("x", "y")]
    runs = read_together(directories).runs

    assert set(blocks_of(runs)) == {Block("x", "a", 2), Block("y", "a", 2)}
    assert {run.factors["repetition"] for run in runs} == {1, 2}


def test_imported_runs_have_no_block(write):
    assert blocks_of(read_results(write(("a", "k", 1), imported={"file": "x.log"})).runs) == [None]


def test_shared_blocks_are_those_that_every_group_has_once():
    a, b, c = (Block("x", "h", n) for n in (1, 2, 3))

    assert shared([[a, b, c], [c, a]]) == [(0, 1), (2, 0)]
    assert shared([[a, a, b, None], [a, b, None]]) == [(2, 1)]
    assert shared([[a], []]) == []
