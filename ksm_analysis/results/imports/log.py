"""What was recorded elsewhere, as all formats are read, and the files of a run directory for it.

docs/data.md says how it is converted. The functions neither read nor write files.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

PAGE_SIZE = 4096
KNOBS = (
    *("run", "pages_to_scan", "sleep_millisecs", "merge_across_nodes", "use_zero_pages"),
    *("max_page_sharing", "stable_node_chains_prune_millisecs", "smart_scan"),
    *("advisor_mode", "advisor_max_cpu", "advisor_target_scan_time"),
    *("advisor_min_pages_to_scan", "advisor_max_pages_to_scan"),
)

Number = int | float
Values = dict[str, Number | str | None]


@dataclass
class Interval:
    """The values at the end of one interval.

    `guests` has the values of each process by pid; None if the process no longer existed.
    `original` has values that are not counters of KSM.
    """

    number: int
    original: Values = field(default_factory=dict)
    ksm: Values = field(default_factory=dict)
    guests: dict[str, Values | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Log:
    """What was recorded, in intervals of equal length.

    `intervals` are the complete ones. `cut_short` says what is incomplete, in words that follow
    "the log"; None if all is complete. `assumed` has values that the file does not contain, by
    their names in the header. `other` has the lines that have no known form. `notes` are sentences
    for the user about values that cannot be right, with their lines. `baseline` has the counters of
    the host before the first interval. `page_size` is in bytes; `page_size_from` says how it is
    known: asked, profit, or assumed. `host` is the machine that it was recorded on. `started` is
    its first moment, in seconds since 1970.
    """

    sha256: str
    header: dict[str, str]
    intervals: list[Any]
    planned: int
    seconds: float
    pids: list[str]
    cut_short: str | None
    assumed: dict[str, Number]
    other: list[str]
    notes: tuple[str, ...] = ()
    baseline: Values = field(default_factory=dict)
    page_size: int = PAGE_SIZE
    page_size_from: str = "assumed"
    host: str = "imported"
    started: float | None = None

    @property
    def command(self) -> str:
        """The command that the guests ran; empty if they were idle."""
        text = self.header.get("command_executed_in_vms", "").strip()
        quoted = len(text) > 1 and text[0] == text[-1] == "'"
        return (text[1:-1] if quoted else text).strip()

    @property
    def knobs(self) -> Values:
        """The knobs, as the first interval has them."""
        found = {**self.intervals[0].ksm, **self.baseline}
        return {name: _chosen(value) for name in KNOBS if (value := found.get(name)) is not None}


def _chosen(value: Number | str) -> Number | str:
    """Return the word in brackets, such as none of `[none] scan-time`; else the value itself."""
    match = re.search(r"\[(.+?)\]", value) if isinstance(value, str) else None
    return match[1] if match else value


def plain(data: bytes) -> str:
    """Return the text of a file, with lines that end in a newline, whatever ended them."""
    text = data.decode("utf-8-sig", errors="backslashreplace")
    return printable(text.replace("\r\n", "\n").replace("\r", "\n"))


def printable(text: str) -> str:
    """Return text of a file without characters that would control a terminal."""
    return "".join(
        each if each.isprintable() or each in "\t\n" else each.encode("unicode_escape").decode()
        for each in text
    )


# --- a run directory ------------------------------------------------------------------------------


def cell(log: Log) -> dict[str, Any]:
    """Return the factors that a log contains: guests, knobs, workload."""
    shown = {"pages_to_scan", "sleep_millisecs"} | ({"run"} if log.knobs.get("run") != 1 else set())
    knobs = [f"{name}={value}" for name, value in log.knobs.items() if name in shown]
    knobs.sort(key=lambda knob: knob.startswith("run="))
    return {
        "guests": len(log.pids),
        "knobs": ", ".join(knobs) or "unknown",
        "workload": log.command or "idle",
    }


def planned(
    log: Log, run_id: str, index: int, factors: dict[str, Any], memory_mib: int
) -> dict[str, Any]:
    """Return the run in the form of a plan. What a log does not contain is null or empty."""
    sampling = {"interval": log.seconds, "intervals": log.planned, "period": log.seconds}
    sampling |= {"samples": log.planned, "seconds": log.planned * log.seconds}
    return {
        "id": run_id,
        "index": index,
        "factors": factors,
        "guests": {
            "count": len(log.pids),
            "memory_mib": memory_mib,
            "disk_gib": None,
            "vcpus": None,
            "network": None,
            "nosharepages": [],
        },
        "knobs": {},
        "knobs_if_present": {},
        "workload": {"name": factors["workload"], "parts": []},
        "sampling": sampling,
        "note": "",
        "seconds": sampling["seconds"],
    }


def record(log: Log, file: str, experiment: str, run: dict[str, Any]) -> dict[str, Any]:
    """Return the run.json of a run that is `planned`."""
    memory = {"memory_mib": run["guests"]["memory_mib"]}
    return {
        "format": 1,
        "experiment": experiment,
        "run": run,
        "host": log.host,
        "status": "complete",
        "reason": "",
        "converged": None,
        "started": log.started,
        "ended": None,
        "knobs": {"before": {}, "during": log.knobs, "after": {}},
        "provenance": {"page_size": log.page_size},
        "imported": {
            "file": file,
            "sha256": log.sha256,
            "header": log.header,
            "other": log.other,
            "cut_short": log.cut_short,
            "assumed": {**memory, **_page_size(log), **log.assumed},
            **({"baseline": log.baseline} if log.baseline else {}),
        },
    }


def _page_size(log: Log) -> dict[str, Number]:
    return {"page_size": log.page_size} if log.page_size_from == "assumed" else {}


def samples(log: Log) -> Iterator[str]:
    """Yield the lines of samples.jsonl. Guests are the processes that the log has lines of."""
    encode = json.JSONEncoder(allow_nan=False).encode
    seen = {pid for interval in log.intervals for pid in interval.guests}
    names = {pid: f"vm-{pid}" for pid in log.pids if pid in seen}
    yield encode(_header(log, {name: int(pid) for pid, name in names.items()}))
    for interval in log.intervals:
        sample = {
            "kind": "sample",
            "n": interval.number,
            "monotonic": interval.number * log.seconds,
            "ksm": interval.ksm,
            "guests": {name: interval.guests.get(pid) for pid, name in names.items()},
            "original": interval.original,
        }
        yield encode(sample)
    yield encode(_end(log))


def _header(log: Log, guests: dict[str, int]) -> dict[str, Any]:
    return {
        "kind": "header",
        "format": 1,
        "wall": None,
        "monotonic": 0.0,
        "period": log.seconds,
        "samples": log.planned,
        "page_size": log.page_size,
        "guests": guests,
    }


def _end(log: Log) -> dict[str, Any]:
    count, last = len(log.intervals), log.intervals[-1].number
    return {
        "kind": "end",
        "samples": count,
        "missed": max(0, last - count),
        "reason": "cut short" if log.cut_short else "finished",
        "gone": {},
    }
