"""Events of a run, from the results of its steps."""

import json

from programs import PLUGINS, load

filters = load(PLUGINS / "filter/run_events.py")


def clock(seconds):
    return {"wall": 1000.0 + seconds, "monotonic": float(seconds)}


def test_a_run_without_steps_has_no_events():
    assert filters.run_events({}, [], {}) == []


def test_events_are_in_the_order_of_time():
    ready = [{"name": "a", "stopped": clock(1), "seconds": 1.0}]
    events = filters.run_events(
        clock(2) | {"after": {"run": 1}}, ready, clock(9) | {"after": {"run": 0}}
    )
    assert [(event["event"], event["monotonic"]) for event in events] == [
        ("guests ready", 1.0),
        ("knobs set", 2.0),
        ("knobs restored", 9.0),
    ]
    assert events[0]["guest"] == "a"
    assert events[2]["knobs"] == {"run": 0}


def test_jsonl_has_one_object_a_line():
    text = filters.jsonl([{"a": "line\nbreak"}, {"b": 2}])
    assert [json.loads(line) for line in text.splitlines()] == [{"a": "line\nbreak"}, {"b": 2}]
