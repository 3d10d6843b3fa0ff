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

The last line is that of a process that no longer exists. An older form, until April 2024, has all
counters once before the first interval, and then

    Interval 1: average_cpu_usage=4.47
    Interval 1: pages_shared=4876
    Interval 1: /proc/52944/ksm_stat=ksm_rmap_items 90828 ksm_merging_pages 25525

Lines may be missing, and there may be others; lines that no rule covers are kept as text.
"""

import hashlib
import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ksm_analysis.errors import InputError
from ksm_analysis.results.imports.counters import contradicted, page_size_of, plausible
from ksm_analysis.results.imports.log import Interval, Log, Number, Values, plain

BEGIN = "[BEGIN] Logging ksm system parameters"
END = "[END] Logging ksm system parameters"
LONGEST_GAP = 10_000  # intervals; if a gap is longer, a number is torn
_OLDER = re.compile(r"Interval\s+([0-9]{1,9})\s*:\s*(?!average_cpu_usage\s*=)([^\s=]+)\s*=\s*(.*)")
_INTERVAL = re.compile(r"Interval\s+([0-9]{1,9})\s*:\s*(?:average_cpu_usage\s*=)?\s*(.*)")
_STAT = re.compile(r"/proc/([0-9]+)/ksm_stat")
_NUMBER = re.compile(r"[+-]?[0-9]{1,20}|([+-]?(?:[0-9]+\.[0-9]*|\.?[0-9]+)(?:[eE][+-]?[0-9]+)?)")


@dataclass
class _Started(Interval):
    """An interval of a log. `older`: each of its lines begins with `Interval N:`."""

    ended: bool = False
    older: bool = False

    def lacks(self, pids: list[str], keys: list[str]) -> str | None:
        """Return the first line that is missing; None if the interval is complete.

        `pids` and `keys` are the processes and parameters that it must have.
        """
        if not self.ended and not self.older:
            return END
        if not self.ksm:
            return "a parameter before [END], such as full_scans=0"
        if self.older and (key := next((key for key in keys if key not in self.ksm), None)):
            return f"Interval {self.number}: {key}=…"
        gone = next((pid for pid in pids if pid not in self.guests), None)
        return gone and f"/proc/{gone}/ksm_stat=…"


def parse(data: bytes, name: str, page_size: int | None = None) -> Log:
    """Read a log. Raises InputError if it is not a log or has no complete interval.

    `name` is only for messages. `page_size` is in bytes; without it, profits show it.
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
    keys = list(started[0].ksm)
    whole = [interval for interval in started if not interval.lacks(expected, keys)]
    if not whole:
        raise InputError(
            f"{name}:{len(lines)}: no interval is complete: the last, {started[-1].number}, lacks "
            f"`{started[-1].lacks(expected, keys)}`"
        )
    planned, seconds = _planned(header), _seconds(header)
    assumed: dict[str, Number] = {} if planned else {"num_intervals": whole[-1].number}
    size, source = page_size_of(whole, page_size)
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
        notes=(*plausible(whole, name, parser.lines), *contradicted(whole, page_size)),
        baseline=parser.baseline,
        page_size=size,
        page_size_from=source,
    )


# --- lines ----------------------------------------------------------------------------------------


def _lines(data: bytes) -> tuple[list[str], bool]:
    """Return the lines, and whether the last is torn and left out.

    A line without a newline counts as torn, since its number may be incomplete.
    """
    text = plain(data)
    *lines, rest = (line.strip() for line in text.split("\n"))
    if rest == END:
        return [*lines, rest], False
    return lines, bool(rest)


class _Parser:
    """Adds each line to the header or to its interval."""

    def __init__(self, name: str):
        self.name = name
        self.header: dict[str, str] = {}
        self.intervals: list[_Started] = []
        self.baseline: Values = {}
        self.other: list[str] = []
        self.lines: dict[tuple[int, str], int] = {}  # of values, by interval and key
        self._values: dict[str, Any] = self.header  # what a line key=value belongs to

    def feed(self, number: int, line: str) -> None:
        """Take the next line. Raises InputError for an interval that cannot be the next one."""
        self._line = number
        if older := _OLDER.fullmatch(line):
            self._older(number, line, int(older[1]), older[2], older[3])
            return
        key, equals, value = line.partition("=")
        if key.startswith("Interval") and (match := _INTERVAL.fullmatch(line)):
            self._begin(number, line, int(match[1]), match[2])
        elif key.startswith("/proc/") and self.intervals and (match := _STAT.fullmatch(key)):
            self._guest(line, match[1], value)
        elif equals:
            self._value(line, key.strip(), value.strip())
        elif line and not self._marked(line):
            self.other.append(line)

    def _older(self, line: int, text: str, number: int, key: str, value: str) -> None:
        if not self.intervals or self.intervals[-1].number != number:
            self._begin(line, text, number, "")
        interval = self.intervals[-1]
        interval.older, self._values = True, interval.ksm
        if match := _STAT.fullmatch(key):
            self._guest(text, match[1], value)
        else:
            self._value(text, key, value)

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
        interval = _Started(number, {"average_cpu_usage": cpu})
        self.intervals.append(interval)
        self._values = interval.original

    def _marked(self, line: str) -> bool:
        if not line.startswith(("[BEGIN]", "[END]")):
            return False
        if not self.intervals:  # an older log has the counters before its first interval
            self._values = self.baseline if line.startswith("[BEGIN]") else self.header
            return True
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
            if self.intervals:
                self.lines[self.intervals[-1].number, key] = self._line

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


def _pids(header: dict[str, str], intervals: list[_Started]) -> list[str]:
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
    started: list[_Started], whole: list[_Started], planned: int | None, torn: bool
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


def _settled(intervals: list[_Started]) -> Iterator[str]:
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
