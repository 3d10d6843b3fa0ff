"""Convert a log of the original bash framework to the files of a run directory.

A log has lines of this form. docs/data.md says how they are converted:

    num_intervals=30
    interval_duration=60
    command_executed_in_vms='stress-ng --vm 2'
    vm_pid_array=52944 52998
    Interval 1: average_cpu_usage=7.03
    [BEGIN] Logging ksm system parameters
    full_scans=3308
    [END] Logging ksm system parameters
    /proc/52944/ksm_stat=ksm_rmap_items 93900 ksm_merging_pages 70728
    /proc/52998/ksm_stat=

The last line is that of a process that no longer exists. Lines may be missing, and there may be
others; lines that no rule covers are kept as text. The functions neither read nor write files.
"""

import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ksm_analysis.errors import InputError

PAGE_SIZE = 4096
KNOBS = (
    *("run", "pages_to_scan", "sleep_millisecs", "merge_across_nodes", "use_zero_pages"),
    *("max_page_sharing", "stable_node_chains_prune_millisecs", "smart_scan"),
    *("advisor_mode", "advisor_max_cpu", "advisor_target_scan_time"),
    *("advisor_min_pages_to_scan", "advisor_max_pages_to_scan"),
)
BEGIN = "[BEGIN] Logging ksm system parameters"
END = "[END] Logging ksm system parameters"
LONGEST_GAP = 10_000  # intervals; if a gap is longer, a number is torn
_INTERVAL = re.compile(r"Interval\s+([0-9]{1,9})\s*:\s*(?:average_cpu_usage\s*=)?\s*(.*)")
_STAT = re.compile(r"/proc/([0-9]+)/ksm_stat")
_NUMBER = re.compile(r"[+-]?[0-9]{1,20}|([+-]?(?:[0-9]+\.[0-9]*|\.?[0-9]+)(?:[eE][+-]?[0-9]+)?)")

Number = int | float
Values = dict[str, Number | str | None]


@dataclass
class Interval:
    """One interval of a log.

    `guests` has the values of each process by pid; None if the process no longer existed.
    """

    number: int
    original: Values = field(default_factory=dict)
    ksm: Values = field(default_factory=dict)
    guests: dict[str, Values | None] = field(default_factory=dict)
    ended: bool = False

    def lacks(self, pids: list[str]) -> str | None:
        """Return the first line that is missing; None if the interval is complete.

        `pids` are the processes that it must have.
        """
        if not self.ended:
            return END
        if not self.ksm:
            return "a parameter before [END], such as full_scans=0"
        gone = next((pid for pid in pids if pid not in self.guests), None)
        return gone and f"/proc/{gone}/ksm_stat=…"


@dataclass(frozen=True)
class Log:
    """One log.

    `intervals` are the complete ones. `cut_short` says what is incomplete, in words that follow
    "the log"; None if all is complete. `assumed` has values that the log does not contain, by the
    header's keys. `other` has the lines that have no known form.
    """

    sha256: str
    header: dict[str, str]
    intervals: list[Interval]
    planned: int
    seconds: float
    pids: list[str]
    cut_short: str | None
    assumed: dict[str, Number]
    other: list[str]

    @property
    def command(self) -> str:
        """The command that the guests ran; empty if they were idle."""
        text = self.header.get("command_executed_in_vms", "").strip()
        quoted = len(text) > 1 and text[0] == text[-1] == "'"
        return (text[1:-1] if quoted else text).strip()

    @property
    def knobs(self) -> Values:
        """The knobs, as the first interval has them."""
        found = self.intervals[0].ksm
        return {name: _chosen(value) for name in KNOBS if (value := found.get(name)) is not None}


def parse(data: bytes, name: str) -> Log:
    """Read a log. Raises InputError if it is not a log or has no complete interval.

    `name` is only for messages.
    """
    lines, torn = _lines(data)
    parser = _Parser(name)
    for number, line in enumerate(lines, start=1):
        parser.feed(number, line)
    header, started = parser.header, parser.intervals
    if not started:
        raise InputError(_no_log(name, lines))
    pids = _pids(header, started)
    expected = [pid for pid in pids if len(started) == 1 or pid in started[0].guests]
    whole = [interval for interval in started if not interval.lacks(expected)]
    if not whole:
        raise InputError(
            f"{name}:{len(lines)}: no interval is complete: the last, {started[-1].number}, lacks "
            f"`{started[-1].lacks(expected)}`"
        )
    planned, seconds = _planned(header), _seconds(header)
    assumed: dict[str, Number] = {} if planned else {"num_intervals": whole[-1].number}
    return Log(
        sha256=hashlib.sha256(data).hexdigest(),
        header=header,
        intervals=whole,
        planned=max(planned or 0, whole[-1].number),
        seconds=seconds or 1.0,
        pids=pids,
        cut_short=_cut_short(started, whole, planned, torn),
        assumed=assumed if seconds else {**assumed, "interval_duration": 1.0},
        other=[*parser.other, *_settled(whole)],
    )


# --- lines ----------------------------------------------------------------------------------------


def _lines(data: bytes) -> tuple[list[str], bool]:
    """Return the lines, and whether the last is torn and left out.

    A line without a newline counts as torn, since its number may be incomplete.
    """
    text = data.decode("utf-8-sig", errors="backslashreplace")
    *lines, rest = (line.strip() for line in text.split("\n"))
    if rest == END:
        return [*lines, rest], False
    return lines, bool(rest)


class _Parser:
    """Adds each line to the header or to its interval."""

    def __init__(self, name: str):
        self.name = name
        self.header: dict[str, str] = {}
        self.intervals: list[Interval] = []
        self.other: list[str] = []
        self._values: dict[str, Any] = self.header  # what a line key=value belongs to

    def feed(self, number: int, line: str) -> None:
        """Take the next line. Raises InputError for an interval that cannot be the next one."""
        key, equals, value = line.partition("=")
        if key.startswith("Interval") and (match := _INTERVAL.fullmatch(line)):
            self._begin(number, line, int(match[1]), match[2])
        elif key.startswith("/proc/") and self.intervals and (match := _STAT.fullmatch(key)):
            self._guest(line, match[1], value)
        elif equals:
            self._value(line, key.strip(), value.strip())
        elif line and not self._marked(line):
            self.other.append(line)

    def _begin(self, line: int, text: str, number: int, usage: str) -> None:
        last = self.intervals[-1].number if self.intervals else 0
        if not last < number <= last + LONGEST_GAP:
            raise InputError(
                f"{self.name}:{line}: expected Interval {last + 1}, not {number}: either the file "
                "has more than one log, or the log is damaged"
            )
        cpu = _number(usage.replace(",", "."))
        if isinstance(cpu, str):
            self.other.append(text)
            cpu = None
        interval = Interval(number, {"average_cpu_usage": cpu})
        self.intervals.append(interval)
        self._values = interval.original

    def _marked(self, line: str) -> bool:
        if not self.intervals or not line.startswith(("[BEGIN]", "[END]")):
            return False
        interval = self.intervals[-1]
        interval.ended = line.startswith("[END]")
        self._values = interval.original if interval.ended else interval.ksm
        return True

    def _value(self, line: str, key: str, value: str) -> None:
        named = key.isidentifier() or (key and not re.search(r"\s", key))
        if not named or key in self._values:
            self.other.append(line)
        else:
            self._values[key] = value if self._values is self.header else _number(value)

    def _guest(self, line: str, pid: str, value: str) -> None:
        guests, words = self.intervals[-1].guests, value.split()
        if pid in guests:
            self.other.append(line)
            return
        if len(words) % 2:
            self.other.append(line)
        pairs = zip(words[::2], words[1::2], strict=False)
        guests[pid] = {key.rstrip(":"): _number(word) for key, word in pairs} or None


def _number(text: str) -> Number | str | None:
    """Return a number if JSON can represent it, None for empty text, else the text."""
    match = _NUMBER.fullmatch(text)
    if not match:
        return text or None
    if not match[1]:
        return int(text)
    value = float(text)
    return value if math.isfinite(value) else text


def _no_log(name: str, lines: list[str]) -> str:
    what = "not a log of the original framework"
    expected = "expected `Interval 1: average_cpu_usage=…`"
    for number, line in enumerate(lines, start=1):
        if line and "=" not in line:
            return f"{name}:{number}: {what}: {expected}, not {line[:60]}"
    return f"{name}:{len(lines) + 1}: {what}: {expected}, but the file ends"


# --- what the lines mean --------------------------------------------------------------------------


def _pids(header: dict[str, str], intervals: list[Interval]) -> list[str]:
    """List the processes: first those of the header, then those that only intervals have."""
    listed = re.findall(r"[0-9]+", header.get("vm_pid_array", ""))
    return list(dict.fromkeys([*listed, *(pid for each in intervals for pid in each.guests)]))


def _planned(header: dict[str, str]) -> int | None:
    value = _number(header.get("num_intervals", ""))
    return value if isinstance(value, int) and 0 < value < 10**9 else None


def _seconds(header: dict[str, str]) -> float | None:
    value = _number(header.get("interval_duration", "").replace(",", "."))
    return float(value) if isinstance(value, Number) and value > 0 else None


def _cut_short(
    started: list[Interval], whole: list[Interval], planned: int | None, torn: bool
) -> str | None:
    """Say what is incomplete. `torn`: the last line has no newline and was left out."""
    there = {interval.number for interval in whole}
    last, of = started[-1].number, f" of {planned}" if planned else ""
    lost = [number for number in range(1, last) if number not in there]
    words = [f"lacks all or part of interval {_spans(lost)}"] if lost else []
    if last not in there:
        words.append(f"ends within interval {last}{of}")
    elif planned and last < planned:
        words.append(f"ends after interval {last}{of}")
    elif torn:
        words.append("ends in a torn line")
    return " and ".join(words) or None


def _spans(numbers: list[int]) -> str:
    """Write 1, 2, 3, 7 as `1-3, 7`."""
    groups = itertools.groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])
    spans = [[number for _, number in group] for _, group in groups]
    return ", ".join(f"{s[0]}-{s[-1]}" if len(s) > 1 else str(s[0]) for s in spans)


def _settled(intervals: list[Interval]) -> Iterator[str]:
    """Remove the texts of each key that also has numbers, and yield their lines.

    A column of a table has either numbers or text.
    """
    pids = list(dict.fromkeys(pid for interval in intervals for pid in interval.guests))
    yield from _settled_rows([interval.original for interval in intervals], "{}={}")
    yield from _settled_rows([interval.ksm for interval in intervals], "{}={}")
    for pid in pids:
        rows = [row for interval in intervals if (row := interval.guests.get(pid))]
        yield from _settled_rows(rows, f"/proc/{pid}/ksm_stat={{}} {{}}")


def _settled_rows(rows: list[Values], line: str) -> Iterator[str]:
    for key in dict.fromkeys(k for row in rows for k, value in row.items() if type(value) is str):
        if not any(isinstance(row.get(key), Number) for row in rows):
            continue
        for row in rows:
            if isinstance(row.get(key), str):
                yield line.format(key, row[key])
                row[key] = None


def _chosen(value: Number | str) -> Number | str:
    """Return the word in brackets, such as none of `[none] scan-time`; else the value itself."""
    match = re.search(r"\[(.+?)\]", value) if isinstance(value, str) else None
    return match[1] if match else value


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
        "host": "imported",
        "status": "complete",
        "reason": "",
        "converged": None,
        "started": None,
        "ended": None,
        "knobs": {"before": {}, "during": log.knobs, "after": {}},
        "provenance": {"page_size": PAGE_SIZE},
        "imported": {
            "file": file,
            "sha256": log.sha256,
            "header": log.header,
            "other": log.other,
            "cut_short": log.cut_short,
            "assumed": {**memory, "page_size": PAGE_SIZE, **log.assumed},
        },
    }


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
        "page_size": PAGE_SIZE,
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
