"""Read a table: CSV, or with semicolons or tabs, whose first line names the columns.

Columns with a name of sysfs, node_exporter or PCP are counters. Others are left out, and told.
"""

import csv
import hashlib
import io
from collections.abc import Iterator

from ksm_analysis.errors import InputError
from ksm_analysis.results.imports.counters import Column, column
from ksm_analysis.results.imports.log import PAGE_SIZE, Log, Values, plain
from ksm_analysis.results.imports.series import (
    TIMES,
    Options,
    Row,
    log_of,
    moment,
    number,
    torn_row,
)

DELIMITERS = ",;\t"


def looks_like(text: str, options: Options) -> bool:
    """Whether the first line names at least one counter of KSM, or columns that the user maps."""
    names = _names(text)
    asked = {column for column, _ in options.columns} | {options.time}
    return len(names) > 1 and bool(any(map(column, names)) or asked & {*names})


def parse(data: bytes, name: str, options: Options) -> Log:
    """Read a table. Raises InputError, with the line, if it cannot be read."""
    text = plain(data)
    names = _names(text)
    columns = _columns(names, name, options)
    time = _time_column(names, name, options)
    rows, notes = [], list(_left_out(names, columns, time))
    torn, more = not text.endswith("\n"), 0
    for line, cells in _lines(text, name):
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) < len(names):
            notes.append(f"{name}:{line}: {len(cells)} values, and {len(names)} names; "
                         "the row is left out")  # fmt: skip
            continue
        more = max(more, len(cells) - len(names))
        at = None if time is None else _time(cells[time], name, line)
        rows.append(Row(line, at, _values(cells, columns, options)))
    if more:
        notes.append(f"rows have {more} more values than the first line has names; the last of "
                     "each row are left out")  # fmt: skip
    cut_short = torn_row(rows, text.count("\n") + 1) if torn else None
    sha256 = hashlib.sha256(data).hexdigest()
    return log_of(rows, name, options, sha256=sha256, notes=notes, cut_short=cut_short)


def _lines(text: str, file: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the cells of each line but the first. Raises InputError."""
    reader = csv.reader(io.StringIO(text), delimiter=_delimiter(text))
    try:
        next(reader)
        for cells in reader:
            yield reader.line_num, cells
    except csv.Error as error:
        raise InputError(f"{file}:{reader.line_num}: no table: {error}") from None


def _delimiter(text: str) -> str:
    first = text.partition("\n")[0]
    return max(DELIMITERS, key=first.count)


def _names(text: str) -> list[str]:
    first = text.partition("\n")[0]
    try:
        return [name.strip() for name in next(csv.reader([first], delimiter=_delimiter(text)), [])]
    except csv.Error:
        return []  # a field is too long: this is no table


def _columns(names: list[str], file: str, options: Options) -> dict[int, Column]:
    """Return the columns with counters by their places. Raises InputError."""
    asked = {column: Column(name) for column, name in options.columns}
    if missing := [column for column in asked if column not in names]:
        raise InputError(f"{file}:1: no column {missing[0]}. There are: {', '.join(names)}")
    known = {place: asked.get(name) or column(name) for place, name in enumerate(names)}
    mapped = {each.name for each in asked.values()}
    found = {
        place: each
        for place, each in known.items()
        if each and (names[place] in asked or each.name not in mapped)
    }
    for place, each in found.items():
        if both := [
            names[p] for p, other in found.items() if other.name == each.name and p > place
        ]:
            raise InputError(
                f"{file}:1: {names[place]} and {both[0]} are both {each.name}. "
                f"--map COLUMN={each.name} says which one counts"
            )
    if not found:
        raise InputError(
            f"{file}:1: no column is a counter of KSM. There are: {', '.join(names)}. "
            "--map COLUMN=NAME says which is which"
        )
    return found


def _time_column(names: list[str], file: str, options: Options) -> int | None:
    if options.time is not None and options.time not in names:
        raise InputError(f"{file}:1: no column {options.time}. There are: {', '.join(names)}")
    if options.time is not None:
        return names.index(options.time)
    return next((place for place, name in enumerate(names) if name.lower() in TIMES), None)


def _left_out(names: list[str], columns: dict[int, Column], time: int | None) -> Iterator[str]:
    others = [name for place, name in enumerate(names) if place not in columns and place != time]
    if others:
        yield f"columns that are not counters of KSM are left out: {', '.join(others)}"


def _time(text: str, file: str, line: int) -> float:
    if (at := moment(text)) is None:
        raise InputError(f"{file}:{line}: {text[:40]} is not a time. Use seconds or ISO 8601")
    return at


def _values(cells: list[str], columns: dict[int, Column], options: Options) -> Values:
    size = options.page_size or PAGE_SIZE
    return {each.name: each.value(number(cells[place]), size) for place, each in columns.items()}
