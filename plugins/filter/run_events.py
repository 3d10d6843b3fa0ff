"""What happened in a run, as the lines of events.jsonl."""

from __future__ import annotations

import json
from typing import Any

DOCUMENTATION = r"""
name: run_events
short_description: What a run did to the host, as events
description:
  - Puts together what the steps of a run have returned. A step that was not reached is an empty
    dict or list.
options:
  _input:
    description: What M(ksm.testbed.ksm_knobs) returned when the knobs were set.
    type: dict
  ready:
    description: Entries of M(ksm.testbed.guest_agent) for guests that became ready.
    type: list
    elements: dict
  restored:
    description: What M(ksm.testbed.ksm_knobs) returned when the knobs were restored.
    type: dict
author: [The KSM testbed authors (@ksm-testbed)]
"""

EXAMPLES = r"""
- ansible.builtin.debug:
    msg: "{{ ksm_set | ksm.testbed.run_events(guests_ready, ksm_restored) }}"
"""

RETURN = r"""
_value:
  description: Events in the order of their times. Each has C(event), C(wall) and C(monotonic).
  type: list
  elements: dict
"""


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
