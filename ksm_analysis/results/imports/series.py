"""Turn rows of counters, each of one moment, into a log with intervals of equal length."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from statistics import median
from typing import Any

from ksm_analysis.errors import InputError
from ksm_analysis.results.imports.counters import COUNTERS, contradicted, page_size_of, plausible
from ksm_analysis.results.imports.log import Interval, Log, Number, Values

TIMES = ("time", "timestamp", "date", "datetime", "_time", "@timestamp", "wall", "epoch", "seconds")
LONGEST_GAP = 10_000  # rows; if a gap is longer, a time is wrong
SHORTEST, LONGEST = 0.001, 1e9  # seconds between rows
LATEST = 10**11  # seconds since 1970; a greater number is in milliseconds, or in nanoseconds


@dataclass(frozen=True)
class Options:
    """What the user says about a file.

    `period` is in seconds, `page_size` in bytes. `columns` has the kernel's names by the names of
    the file; `time` is the column with the time.
    """

    period: float | None = None
    page_size: int | None = None
    columns: tuple[tuple[str, str], ...] = ()
    time: str | None = None


@dataclass(frozen=True)
class Row:
    """Counters at one moment: `time` in seconds, if it is known, and the line in the file."""

    line: int
    time: float | None
    values: Values


def log_of(rows: Sequence[Row], name: str, options: Options, **more: Any) -> Log:
    """Make a log of rows in the order of time. Raises InputError if there are none, or time falls.

    `more` are further fields of Log. Rows that are missing in a regular series stay missing.
    """
    if not rows:
        raise InputError(f"{name}: no values")
    seconds, assumed = _period(rows, name, options.period)
    intervals, lines = [], {}
    for row, number in zip(rows, _numbers(rows, seconds, name), strict=True):
        intervals.append(Interval(number, ksm=dict(row.values)))
        lines.update({(number, key): row.line for key in row.values})
    notes = [*more.pop("notes", ()), *plausible(intervals, name, lines)]
    if not any(each.ksm.get(counter) is not None for each in intervals for counter in COUNTERS):
        raise InputError("\n".join([*notes, f"{name}: no counter of KSM has a value"]))
    notes += contradicted(intervals, options.page_size)
    size, source = page_size_of(intervals, options.page_size)
    return Log(
        **{"header": {}, "pids": [], "cut_short": None, "other": [], **more},
        intervals=intervals,
        planned=intervals[-1].number,
        seconds=seconds,
        assumed=assumed,
        notes=tuple(notes),
        page_size=size,
        page_size_from=source,
        started=rows[0].time if (rows[0].time or 0) > 10**8 else None,
    )


def torn_row(rows: list[Row], line: int) -> str:
    """Remove the row of a line without a newline, unless it is the only one; say what is wrong."""
    if len(rows) > 1 and rows[-1].line == line:
        rows.pop()
    return "ends in a line without a newline, which may be torn"


def _period(rows: Sequence[Row], name: str, asked: float | None) -> tuple[float, dict[str, Number]]:
    """Return the seconds between rows, and what was assumed."""
    if asked:
        return asked, {}
    times = [row.time for row in rows if row.time is not None]
    gaps = [after - before for before, after in pairwise(times)]
    if gaps and len(times) == len(rows):
        at = next((row.line for gap, row in zip(gaps, rows[1:], strict=True) if gap <= 0), None)
        if at is not None:
            raise InputError(f"{name}:{at}: the time does not increase")
        if not SHORTEST <= median(gaps) < LONGEST:
            raise InputError(f"{name}: rows are {median(gaps):g} s apart; are their times right?")
        return median(gaps), {}
    return 1.0, {"period": 1.0}


def _numbers(rows: Sequence[Row], seconds: float, name: str) -> list[int]:
    """Number the rows from 1, with gaps where rows are missing."""
    first = rows[0].time
    if first is None or any(row.time is None for row in rows):
        return list(range(1, len(rows) + 1))
    numbers = [round(((row.time or 0) - first) / seconds) + 1 for row in rows]
    for before, number, row in zip(numbers, numbers[1:], rows[1:], strict=False):
        if number - before > LONGEST_GAP:
            raise InputError(
                f"{name}:{row.line}: {number - before - 1} rows are missing before this one; is "
                "its time right?"
            )
        if number <= before:
            raise InputError(
                f"{name}:{row.line}: less than half of {seconds:g} s after the row before; "
                "the rows are not at regular times"
            )
    return numbers


def moment(text: str) -> float | None:
    """Return a time in seconds: a number (also of ms, us or ns since 1970), or ISO 8601."""
    try:
        value = float(text)
    except ValueError:
        return _date(text)
    if not math.isfinite(value):
        return None
    while abs(value) > LATEST:
        value /= 1000
    return value


def _date(text: str) -> float | None:
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def number(text: str) -> Number | str | None:
    """Return a number if JSON can represent it, None for empty text, else the text."""
    plain = text.strip()
    try:
        return int(plain)
    except ValueError:
        pass
    try:
        value = float(plain)
    except ValueError:
        return plain or None
    if not math.isfinite(value):
        return None
    return int(value) if value == int(value) else value
