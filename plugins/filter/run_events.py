"""What happened in a run, as the lines of events.jsonl."""

from __future__ import annotations

import json
from typing import Any


def run_events(
    knobs_set: dict[str, Any], ready: list[dict[str, Any]], restored: dict[str, Any]
) -> list[dict[str, Any]]:
    """Put together what the steps of a run have returned."""
    events = []
    if "after" in knobs_set:
        events.append(_event("knobs set", knobs_set, knobs=knobs_set["after"]))
    events += [
        _event("guests ready", guest["stopped"], guest=guest["name"], seconds=guest["seconds"])
        for guest in ready
    ]
    if "after" in restored:
        events.append(_event("knobs restored", restored, knobs=restored["after"]))
    return sorted(events, key=lambda event: event["monotonic"])


def _event(name: str, when: dict[str, Any], **more: object) -> dict[str, Any]:
    return {"event": name, "wall": when["wall"], "monotonic": when["monotonic"], **more}


def jsonl(rows: list[object]) -> str:
    """One JSON object a line."""
    return "".join(json.dumps(row) + "\n" for row in rows)


class FilterModule:
    """Filters for the role run."""

    def filters(self) -> dict[str, Any]:
        """Names and functions."""
        return {"run_events": run_events, "jsonl": jsonl}
