"""Assignment of runs to hosts."""

import itertools

import pytest
from programs import PLUGINS, load

assign_runs = load(PLUGINS / "filter/assign_runs.py").assign_runs


def runs(cells=4, repetitions=1, seconds=60.0):
    return [
        {
            "id": f"c{cell}-r{repetition}",
            "factors": {"guests": cell, "knobs": "run=1", "repetition": repetition},
            "seconds": seconds,
        }
        for repetition, cell in itertools.product(range(1, repetitions + 1), range(cells))
    ]


def ids(shares):
    return {host: [run["id"] for run in share] for host, share in shares.items()}


def cells(share):
    return [run["factors"]["guests"] for run in share]


def test_one_host_does_all_in_the_order_of_the_plan():
    assert assign_runs(runs(3, 2), ["a"]) == {"a": runs(3, 2)}


@pytest.mark.parametrize("many", [1, 2, 3, 5])
@pytest.mark.parametrize("number", [1, 2, 3, 4, 7])
def test_hosts_and_settings_are_not_confounded(number, many):
    """With as many repetitions as hosts, or a multiple, each host does each cell equally often."""
    hosts = [f"h{n}" for n in range(many)]
    shares = assign_runs(runs(number, 2 * many), hosts)
    for share in shares.values():
        assert sorted(cells(share)) == sorted([*range(number)] * 2)


@pytest.mark.parametrize("repetitions", [1, 2, 3])
def test_every_run_is_assigned_once_and_hosts_have_equal_work(repetitions):
    every = runs(5, repetitions)
    shares = assign_runs(every, ["a", "b", "c"])
    lengths = [len(share) for share in shares.values()]
    assert sorted(run["id"] for share in shares.values() for run in share) == sorted(
        run["id"] for run in every
    )
    assert max(lengths) - min(lengths) <= 1


def test_a_long_run_counts_for_several_short_ones():
    every = [*runs(1, 1, seconds=300.0), *runs(6, 1)[1:]]
    assert ids(assign_runs(every, ["a", "b"]))["a"] == ["c0-r1"]


def test_the_runs_of_a_host_keep_the_order_of_the_plan():
    every = runs(4, 3)
    order = [run["id"] for run in every]
    for share in ids(assign_runs(every, ["a", "b"])).values():
        assert share == sorted(share, key=order.index)


def ended(run, host, status="complete"):
    return {run["id"]: {"host": host, "status": status, "factors": run["factors"]}}


def test_runs_of_a_lost_host_are_assigned_to_other_hosts():
    left = runs(4, 2)[1::2]
    assert ids(assign_runs(left, ["a"], ended(runs(4)[0], "a"))) == {
        "a": [run["id"] for run in left]
    }


def test_a_failed_run_is_assigned_to_another_host():
    (run,) = runs(1)
    failed = ended(run, "a", "failed")
    assert ids(assign_runs([run], ["a", "b"], failed)) == {"a": [], "b": ["c0-r1"]}
    assert ids(assign_runs([run], ["a"], failed)) == {"a": ["c0-r1"]}


def test_earlier_runs_of_a_host_count_as_repetitions():
    first, second = runs(1, 2)
    assert ids(assign_runs([second], ["a", "b"], ended(first, "a"))) == {"a": [], "b": ["c0-r2"]}


def test_without_a_host_nothing_is_assigned():
    assert assign_runs(runs(), []) == {}
