"""Events of a run, from what its steps have reported."""

import json

from programs import PLUGINS, load

filters = load(PLUGINS / "filter/run_events.py")

NOTHING = {"set": {}, "restored": {}, "ready": [], "work": [], "arrays": []}


def clock(seconds):
    return {"wall": 1000.0 + seconds, "monotonic": float(seconds)}


def test_a_run_that_reached_nothing_has_no_events():
    assert filters.run_events(NOTHING) == []


def test_events_are_in_the_order_of_time():
    work = {"name": "a", "started": clock(4), "stopped": clock(6), "exitcode": 0}
    work |= {"argv": ["stress-ng"], "stopped_early": False}
    facts = {
        "set": clock(2) | {"after": {"run": 1}},
        "ready": [{"name": "a", "stopped": clock(1), "seconds": 1.0}],
        "work": [work | {"stdout": "x", "stderr": ""}],
        "arrays": [],
        "restored": clock(9) | {"after": {"run": 0}},
    }
    events = filters.run_events(facts)
    assert [(event["event"], event["monotonic"]) for event in events] == [
        ("guests ready", 1.0),
        ("knobs set", 2.0),
        ("workload started", 4.0),
        ("workload stopped", 6.0),
        ("knobs restored", 9.0),
    ]
    assert events[2]["argv"] == ["stress-ng"]
    assert events[3]["stdout"] == "x"


def test_a_guest_that_died_at_work_has_neither_started_nor_stopped():
    dead = {"name": "a", "started": clock(1), "stopped": clock(2), "error": "it stopped"}
    assert filters.run_events(NOTHING | {"work": [dead]}) == []


def test_jsonl_has_one_object_a_line():
    text = filters.jsonl([{"a": "line\nbreak"}, {"b": 2}])
    assert [json.loads(line) for line in text.splitlines()] == [{"a": "line\nbreak"}, {"b": 2}]
