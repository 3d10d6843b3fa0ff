"""The events of a run, as lines of events.jsonl."""

from __future__ import annotations

import json
from typing import Any


def run_events(
    knobs_set: dict[str, Any], ready: list[dict[str, Any]], restored: dict[str, Any]
) -> list[dict[str, Any]]:
    """Combine the results of the steps of a run."""
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
    """Return one JSON object per line."""
    return "".join(json.dumps(row) + "\n" for row in rows)


class FilterModule:
    """Filters for the role run."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by name."""
        return {"run_events": run_events, "jsonl": jsonl}
