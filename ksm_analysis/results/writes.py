"""Read the writes of a run: how long writes to merged pages took, and to others.

The format is that of write_probe.jsonl in docs/data.md. A damaged line loses only its own writes.
"""

from dataclasses import dataclass, field
from typing import Any

import pandas as pd

KINDS = ("merged", "unmerged", "plain", "moved")
LATE = "late"
LISTS = (*KINDS, LATE)
OFF, FIRST, SETTLED, STOPPED = PHASES = ("KSM off", "first scans", "settled", "ksmd stopped")
SCANS = 2  # ksmd merges a page in the second scan that finds it unchanged
LONGEST = 2**63  # ns


@dataclass(frozen=True)
class Writes:
    """All measured writes of a run.

    `rows`: one row for each write: `seconds` (since the run's first sample, of the end of its
    second), `phase` (one of PHASES), `kind` (one of KINDS), `ns` (with a reading of the clock). If
    `kind` is LATE, `ns` is how late the process woke up for a pair of writes.
    `clock`: what a write to a page in the cache takes with that reading: n, p50_ns, p99_ns,
    p999_ns.
    """

    rows: pd.DataFrame
    clock: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def of_lines(lines: list[dict[str, Any]], start: float) -> Writes | None:
    """Make a frame of the lines of write_probe.jsonl; None if there are no writes in it.

    `start` is the monotonic time at which `seconds` is 0.
    """
    header = next((line for line in lines if line.get("kind") == "header"), {})
    batches = [line for line in lines if line.get("kind") == "writes"]
    whole = [line for line in batches if _is_whole(line)]
    if not whole:
        return None
    before = [header if _has_state(header) else whole[0], *whole]
    first = before[0]["ksm"]["full_scans"]
    began = next((n for n, line in enumerate(whole) if line["ksm"]["run"] == 1), len(whole))
    frames = [
        pd.DataFrame({"ns": line[kind], "kind": kind}).assign(
            seconds=round(line["monotonic"] - start, 3),
            phase=_phase(line["ksm"]["run"], earlier["ksm"]["full_scans"] - first, n > began),
        )
        for n, (earlier, line) in enumerate(zip(before, whole, strict=False))
        for kind in LISTS
        if line.get(kind)
    ]
    bad = len(batches) - len(whole)
    warnings = (f"{bad} of the lines of its writes are damaged; they are skipped",) * bool(bad)
    clock = header.get("clock")
    rows = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
    return Writes(rows, clock if isinstance(clock, dict) else {}, warnings) if frames else None


def _phase(run: int, scans: int, ran: bool) -> str:
    """Name the phase by the knob at its end, the full scans before it, and whether ksmd ran."""
    if run == 1:
        return SETTLED if scans >= SCANS else FIRST
    return STOPPED if ran or scans else OFF


def _is_whole(line: dict[str, Any]) -> bool:
    timed = isinstance(line.get("monotonic"), int | float)
    return timed and _has_state(line) and all(_are_times(line.get(kind, [])) for kind in LISTS)


def _has_state(line: dict[str, Any]) -> bool:
    state = line.get("ksm")
    return isinstance(state, dict) and all(type(state.get(k)) is int for k in ("run", "full_scans"))


def _are_times(values: object) -> bool:
    if not isinstance(values, list):
        return False
    return all(type(value) is int and 0 <= value < LONGEST for value in values)
