"""What happened in a run, as the lines of events.jsonl."""

from __future__ import annotations

import json

ENDED = ("exitcode", "stdout", "stderr", "stopped_early")


def run_events(facts: dict) -> list[dict]:
    """Put together what the steps of a run have reported; a step that was not reached is absent.

    `facts` has `set` and `restored` (results of ksm_knobs), `ready` and `work` (entries of
    guest_agent) and `arrays` (events already). Times are seconds on the host's clocks.
    """
    events = []
    if "after" in facts["set"]:
        events.append(_event("knobs set", facts["set"], knobs=facts["set"]["after"]))
    events += [
        _event("guests ready", guest["stopped"], guest=guest["name"], seconds=guest["seconds"])
        for guest in facts["ready"]
    ]
    for guest in facts["work"]:
        if "exitcode" in guest:
            name = {"guest": guest["name"]}
            events.append(_event("workload started", guest["started"], argv=guest["argv"], **name))
            output = {key: guest[key] for key in ENDED}
            events.append(_event("workload stopped", guest["stopped"], **name, **output))
    events += facts["arrays"]
    if "after" in facts["restored"]:
        events.append(_event("knobs restored", facts["restored"], knobs=facts["restored"]["after"]))
    return sorted(events, key=lambda event: event["monotonic"])


def _event(name: str, when: dict, **more: object) -> dict:
    return {"event": name, "wall": when["wall"], "monotonic": when["monotonic"], **more}


def jsonl(rows: list) -> str:
    """One JSON object a line."""
    return "".join(json.dumps(row) + "\n" for row in rows)


class FilterModule:
    """Filters of the role."""

    def filters(self) -> dict:
        """Names and functions."""
        return {"run_events": run_events, "jsonl": jsonl}
