"""Traces: which page had which content, and where different contents first differ.

docs/traces.md has the format. The census program writes census.trace, which is never edited. It is
converted once, to two Parquet files in the directory `trace` beside it, which can be copied.
"""

import contextlib
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet

from ksm_analysis.errors import InputError
from ksm_analysis.results import trace_check, trace_columns
from ksm_analysis.results.trace_order import Order, joined

RAW_FORMAT = 1  # of census.trace
FORMATS = (1, 2)  # of the Parquet files: the last is written
PAGE_SIZE = 4096
HUGE_PAGE = 512  # pages
TICKS = 100  # of the clock of processes, per second
RAW, PAGES, CONTENTS = "census.trace", "pages.parquet", "contents.parquet"
LARGE = 2**28  # rows or bytes; more than a trace has
KEY = b"ksm_testbed_trace"
SHIPPED = Path(__file__).parents[1] / "traces"

# Flags of a page. A page without a flag was never touched.
PRESENT = 1  # in memory, with a content
MERGED = 2  # on a frame of KSM that other mappings have, too
ZERO_FRAME = 4  # mapped to the kernel's zero page
HUGE = 8  # part of a huge page
SWAPPED = 16  # not in memory: it is in swap
UNMERGEABLE = 32  # not mapped, not offered to KSM, or of a file
FORKED = 64  # other processes map the same frame, and it is not one of KSM: since a fork

KINDS = {
    "o": PRESENT, "s": PRESENT | FORKED, "k": PRESENT | FORKED, "m": PRESENT | MERGED,
    "z": PRESENT | ZERO_FRAME, "w": SWAPPED, "f": UNMERGEABLE, "-": 0,
}  # fmt: skip
FLAGS = np.zeros(256, np.uint8)
FLAGS[[ord(kind) for kind in KINDS]] = [*KINDS.values()]
TYPES = ("u1", "<i4", "<u4", "<u4", "<u2", "<u4")  # of the parts of a moment

Contents = NDArray[np.int32]
Flags = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Trace:
    """What some processes had in their pages, of `page_size` bytes each, at some moments.

    `moments`: a row for each, in the order of time: `moment` (start, every, scan, end, now),
    `monotonic` (seconds, CLOCK_MONOTONIC of the host), `seconds` (since the first of them),
    `read_seconds` (how long it took to read all pages), `paused_seconds` (how long the processes
    were stopped then; 0 if not; the column is missing if an earlier version wrote the trace),
    `frames_visible` (if not, no page is MERGED or ZERO_FRAME), and the kernel's knobs and counters
    just before, as `ksm.run`, `ksm.pages_sharing` and so on.

    `processes`: a row for each, in the order in which they were given to the census: `name`,
    `started` (seconds since the start of the first of them; NaN if unknown).

    `mappings`: a row for each range of addresses, by process and then by address, the order in
    which ksmd scans: `process` (row of `processes`), `first` (its first page), `pages`.

    `contents`: an int32 array, moments x pages: the number of the content of each page, -1 if it
    has none. Numbers are in the order of first sight. 0 is the page of zeros.

    `flags`: an uint8 array, moments x pages: PRESENT, MERGED, and so on.

    `order`: a row for each content: `rank` (its place in the order of memcmp, from 0), `lcp` (how
    many leading bytes it has in common with the content of the rank before), `exact` (whether its
    place among those that are exact is certain). Two contents have as many leading bytes in common
    as the least `lcp` of those ranks that are after the lower of them, up to the higher; if one of
    them is not exact, at least as many.
    """

    page_size: int
    moments: pd.DataFrame
    processes: pd.DataFrame
    mappings: pd.DataFrame
    contents: Contents
    flags: Flags
    order: pd.DataFrame


def shipped() -> dict[str, Path]:
    """Return the traces that come with the package: what read_trace() reads, by name."""
    return {path.parent.name: path.parent for path in sorted(SHIPPED.glob(f"*/{PAGES}"))}


def read_trace(path: Path) -> Trace:
    """Read the trace of a run directory, or a directory with a converted one.

    Raises InputError if there is none, it is cut short or damaged, or has another format version or
    page size.
    """
    raw = path / RAW
    try:
        if not raw.exists():
            return _load(path)
        source = [raw.stat().st_size, raw.stat().st_mtime_ns]
        with contextlib.suppress(InputError, OSError):
            return _load(path / "trace", source)
        trace = convert(raw)
        with contextlib.suppress(OSError):
            write_trace(trace, path / "trace", source)
        return trace
    except OSError as error:
        raise InputError(f"there is no trace in {path}: {error.strerror or error}") from None


# --- Parquet --------------------------------------------------------------------------------------


def write_trace(trace: Trace, directory: Path, source: list[int] | None = None) -> None:
    """Write a trace to a directory, as read_trace() reads it. Raises OSError."""
    directory.mkdir(exist_ok=True)
    note = {
        "format": FORMATS[-1],
        "page_size": trace.page_size,
        "source": source,
        **{name: getattr(trace, name).to_dict("list") for name in TABLES},
    }
    pages = trace_columns.of_pages(trace.contents, trace.flags)
    _write(pa.table(pages), note, directory / PAGES)
    _write(pa.table(trace_columns.of_order(trace.order)), note, directory / CONTENTS)


TABLES = ("moments", "processes", "mappings")


def _write(table: pa.Table, note: dict[str, Any], path: Path) -> None:
    beside = path.with_name(f".{path.name}")
    numbers = (field.name for field in table.schema if not pa.types.is_boolean(field.type))
    with parquet.ParquetWriter(
        beside,
        table.schema,
        compression="zstd",
        compression_level=19,
        use_dictionary=False,
        column_encoding=dict.fromkeys(numbers, "BYTE_STREAM_SPLIT"),
        write_page_checksum=True,
        store_schema=False,  # it would have the note again
        # All of a column is one page: zstd finds little where the bytes of few numbers are together
        max_rows_per_page=LARGE,
        data_page_size=LARGE,
    ) as file:
        file.write_table(table, row_group_size=LARGE)
        file.add_key_value_metadata({KEY: json.dumps(note)})
    beside.replace(path)


def _load(directory: Path, source: list[int] | None = None) -> Trace:
    files, notes = [], []
    for name in (PAGES, CONTENTS):
        with _whole(directory, name):
            files.append(parquet.read_table(directory / name, page_checksum_verification=True))
            notes.append(_note(files[-1]))
        _check(notes[-1], directory, FORMATS)
    note, (pages, contents) = notes[0], files
    if len({table.schema.metadata[KEY] for table in files}) > 1 or (
        source and note.get("source") != source
    ):
        raise InputError(f"{PAGES} and {CONTENTS} in {directory} are of different traces")
    with _whole(directory, PAGES):
        tables = trace_check.tables(note)
        found = _pages(pages, len(tables["moments"]), note["format"])
        trace_check.pages(*found, tables["mappings"])
    with _whole(directory, CONTENTS):
        order = _order(contents, note["format"])
        trace_check.order(order, found[0])
    return Trace(note["page_size"], **tables, contents=found[0], flags=found[1], order=order)


@contextlib.contextmanager
def _whole(directory: Path, name: str) -> Iterator[None]:
    """Say which file it is that cannot be used."""
    try:
        yield
    except FileNotFoundError:
        missing = f"neither {RAW} nor {PAGES} and {CONTENTS}"
        raise InputError(f"there is no trace in {directory}: it has {missing}") from None
    except (OSError, pa.ArrowException, ValueError, KeyError, RecursionError) as error:
        raise InputError(f"{directory} has no whole trace: {name}: {error}") from None


def _note(table: pa.Table) -> dict[str, Any]:
    """Return the metadata of a file. Raises ValueError."""
    text = (table.schema.metadata or {}).get(KEY)
    if text is None:
        raise ValueError(f"it has no metadata {KEY.decode()}: it must have an object of JSON there")
    if not isinstance(note := json.loads(text), dict):
        raise ValueError(f"its metadata {KEY.decode()} must be an object, not {text.decode()[:40]}")
    return note


def _pages(table: pa.Table, moments: int, form: int) -> tuple[Contents, Flags]:
    """Return contents and flags. Raises ValueError."""
    kinds = {"content": "int32", "flags": "uint8"}
    expected = {f"{name}_{n}": kinds[name] for n in range(moments) for name in kinds}
    trace_check.columns(table, expected, "content" if form > 1 else "")
    if form > 1:
        return trace_columns.pages_of(table, moments)
    contents, flags = (
        np.stack([table[f"{name}_{n}"].to_numpy() for n in range(moments)]) for name in kinds
    )
    return contents, flags


def _order(table: pa.Table, form: int) -> pd.DataFrame:
    """Return the order. Raises ValueError."""
    of_all = {"lcp": "uint16", "exact": "bool"}
    if form > 1:
        trace_check.columns(table, {"block": "int32", "place": "uint8", **of_all})
        return trace_columns.order_of(table)
    trace_check.columns(table, {"rank": "int32", **of_all})
    order: pd.DataFrame = table.select(["rank", *of_all]).to_pandas(ignore_metadata=True)
    return order


def _check(header: dict[str, Any], path: Path, formats: Sequence[int] = (RAW_FORMAT,)) -> None:
    """Check format and page size. Raises InputError."""
    if (found := header.get("format")) not in formats:
        known = " and ".join(map(str, formats))
        raise InputError(
            f"{path} is a trace of format {found!r}: this version reads only format {known}"
        )
    if (size := header.get("page_size")) != PAGE_SIZE:
        raise InputError(
            f"{path} is a trace of pages of {size!r} bytes: only {PAGE_SIZE} can be read, since "
            "larger pages merge in another way"
        )


# --- what the census program writes ---------------------------------------------------------------


class _Moment(NamedTuple):
    """A moment as it is in the file; `mappings` are (process, number of the first page, pages)."""

    line: dict[str, Any]
    mappings: list[tuple[str, int, int]]
    contents: Contents
    flags: Flags
    order: Order


def convert(raw: Path) -> Trace:
    """Make a trace from census.trace. Raises InputError, and OSError if it cannot be read."""
    moments = _moments(raw)
    if not moments:
        raise InputError(f"{raw} has no moment")
    try:
        trace = _joined(moments, raw)
        trace_check.tables({name: getattr(trace, name).to_dict("list") for name in TABLES})
        trace_check.pages(trace.contents, trace.flags, trace.mappings)
        trace_check.order(trace.order, trace.contents)
    except KeyError as error:
        raise InputError(f"{raw} is damaged: a moment has no {error}") from None
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(f"{raw} is damaged: {error}") from None
    return trace


def _joined(moments: list[_Moment], raw: Path) -> Trace:
    names = [*dict.fromkeys(name for each in moments for name, *_ in each.mappings)]
    mappings = _together(names, moments)
    contents = np.full((len(moments), int(mappings["pages"].sum())), -1, np.int32)
    flags = np.full(contents.shape, UNMERGEABLE, np.uint8)
    starts = zip(mappings["process"], mappings["start"], strict=True)
    places = dict(zip(starts, mappings["first"].to_list(), strict=True))
    for n, moment in enumerate(moments):
        at = 0
        for name, start, pages in moment.mappings:
            to = places[names.index(name), start]
            contents[n, to : to + pages] = moment.contents[at : at + pages]
            flags[n, to : to + pages] = moment.flags[at : at + pages]
            at += pages
    order = _ranks(joined([each.order for each in moments]), int(contents.max(initial=0)) + 1, raw)
    first_seen = _by_first_sight(contents)
    contents = np.where(contents < 0, -1, np.argsort(first_seen)[contents]).astype(np.int32)
    lines = [each.line for each in moments]
    return Trace(
        PAGE_SIZE,
        moments=_times(lines),
        processes=_processes(names, lines),
        mappings=mappings[["process", "first", "pages"]],
        contents=contents,
        flags=flags,
        order=order.iloc[first_seen].reset_index(drop=True),
    )


def _by_first_sight(contents: Contents) -> NDArray[np.int64]:
    """Return the numbers of the contents in the order in which they are seen first, after zeros."""
    numbers, at = np.unique(np.append(0, contents), return_index=True)
    found: NDArray[np.int64] = numbers[np.argsort(at)]
    return found[found >= 0]


def _moments(raw: Path) -> list[_Moment]:
    """Read and check all of a file."""
    found, kinds = [], []
    for line, data in _records(raw.read_bytes(), raw):
        kinds.append(line.get("kind"))
        if kinds == ["header"]:
            _check(line, raw)
        elif kinds[-1] == "moment" and kinds[0] == "header":
            found.append(_moment(line, data, raw))
        elif kinds[-1] == "end" and line.get("moments") == len(found):
            return found
        else:
            break
    if kinds[:1] != ["header"]:
        raise InputError(f"{raw} is no trace: it does not begin with a header")
    raise InputError(
        f"{raw} is cut short after {len(found)} moments: its end is missing, since the census was "
        "killed, could not write, or the file was not copied completely"
    )


def _records(data: bytes, raw: Path) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Yield the lines of JSON, and the bytes that follow each, as far as they are whole."""
    at = 0
    while (end := data.find(b"\n", at)) >= 0:
        try:
            line = json.loads(data[at:end])
            after = end + 1 + line["bytes"]
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{raw} is damaged at byte {at}: it is no line of a trace") from None
        if not end < after <= len(data):
            return
        at = after
        yield line, data[end + 1 : at]


def _moment(line: dict[str, Any], data: bytes, raw: Path) -> _Moment:
    try:
        ends = np.cumsum(line["parts"])
        parts = [data[end - size : end] for end, size in zip(ends, line["parts"], strict=True)]
        kinds, numbers, huge, order, lcp, unsure = map(_unpacked, parts, TYPES)
        mappings = [(str(name), int(start), int(pages)) for name, start, pages in line["mappings"]]
        if not all(pages > 0 for *_, pages in mappings):
            raise ValueError("a mapping must have a page or more")
        flags = FLAGS[kinds]
        for first in huge:
            flags[first : first + HUGE_PAGE] |= HUGE
        if not len(kinds) == len(numbers) == sum(pages for *_, pages in mappings):
            raise ValueError("its mappings have another number of pages")
        contents = np.where(flags & PRESENT, numbers, -1).astype(np.int32)
        own = (each.tolist() for each in (order, lcp, unsure))
        return _Moment(line, mappings, contents, flags, Order.of(*own))
    except (ValueError, KeyError, TypeError, zlib.error) as error:
        raise InputError(f"{raw}: moment {line.get('n')} is damaged: {error}") from None


def _unpacked(data: bytes, kind: str) -> NDArray[Any]:
    """Read numbers whose least significant bytes are all together, and come first."""
    size = np.dtype(kind).itemsize
    planes = np.frombuffer(zlib.decompress(data), np.uint8).reshape(size, -1)
    return np.ascontiguousarray(planes.T).view(kind).ravel()


def _together(names: list[str], moments: Iterable[_Moment]) -> pd.DataFrame:
    """Cut all that was ever mapped at all ends of mappings, so that each moment has whole pieces.

    Pieces of a mapping follow each other, and so do their pages.
    """
    rows = []
    for process, name in enumerate(names):
        own = [each[1:] for moment in moments for each in moment.mappings if each[0] == name]
        cuts = sorted({edge for start, pages in own for edge in (start, start + pages)})
        for start, end in pairwise(cuts):
            if any(first <= start < first + pages for first, pages in own):
                rows.append((process, start, end - start))
    table = pd.DataFrame(rows, columns=["process", "start", "pages"])
    table["first"] = table["pages"].cumsum() - table["pages"]
    return table


def _times(lines: list[dict[str, Any]]) -> pd.DataFrame:
    names = ["moment", "monotonic", "read_seconds", "frames_visible"]
    if all("paused_seconds" in line for line in lines):  # no earlier version wrote them
        names.append("paused_seconds")
    rows = (
        {name: line[name] for name in names}
        | {f"ksm.{name}": each for name, each in line["ksm"].items()}
        for line in lines
    )
    table = pd.DataFrame(rows)
    table.insert(2, "seconds", table["monotonic"] - table["monotonic"].iloc[0])
    return table


def _processes(names: list[str], lines: list[dict[str, Any]]) -> pd.DataFrame:
    ticks = {name: line["started"][name] for line in reversed(lines) for name in line["started"]}
    started = pd.Series([ticks.get(name) for name in names], dtype=float) / TICKS
    return pd.DataFrame({"name": names, "started": started - started.min()})


def _ranks(order: Order, contents: int, raw: Path) -> pd.DataFrame:
    if len(order.numbers) != contents or sorted(order.numbers) != list(range(contents)):
        raise InputError(f"{raw} is damaged: not each content has one place in the order")
    table = pd.DataFrame({"lcp": order.lcp, "exact": order.exact}, index=order.numbers)
    table.insert(0, "rank", range(contents))
    return table.sort_index().astype({"rank": np.int32, "lcp": np.uint16})
