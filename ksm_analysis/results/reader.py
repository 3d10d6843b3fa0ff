"""Read run directories: what was asked, what was sampled, what happened, and warnings.

docs/data.md describes the format. The reader writes only one thing: samples, converted to Parquet.
It computes only what shows whether the files are complete.
"""

import contextlib
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import json as arrow_json

from ksm_analysis.errors import InputError
from ksm_analysis.results import caveats, censuses, load, parquet, printed, reported, writes
from ksm_analysis.results.record import (
    End,
    Header,
    Record,
    UnreadableError,
    check,
    check_format,
    read,
    why,
)
from ksm_analysis.results.run import Results, Run

SAMPLES_FORMAT = CENSUS_FORMAT = PROBE_FORMAT = LOAD_FORMAT = 1
# Parts whose files are read elsewhere. The files of all other parts may have events.
NO_EVENTS = {"sampler", "census"}
PARTIAL = ".partial"
BLOCK = 2**22  # bytes of sample lines that a CPU parses at a time; longer than a line
# Other counters may be text, such as advisor_mode.
COUNTERS = re.compile(
    r"seconds$|monotonic$|(cpu|meminfo|vmstat|ksmd)[.]"
    r"|ksm[.](full_scans|general_profit|ksm_zero_pages|pages_|stable_node_)"
    r"|(utime|stime|resident_pages|ksm_(rmap_items|zero_pages|merging_pages|process_profit))$"
)
LARGEST = 2**64  # no counter of a kernel is greater
NO_OBJECT = re.compile(rb"\n[^{\n]")  # a line that is not an object: `null` would crash pyarrow


Read = Callable[[list[Path]], Iterable[tuple[Run | None, str]]]


def read_runs(paths: list[Path]) -> Iterator[tuple[Run | None, str]]:
    """Read run directories: yield a run or a warning for each; neither if it is none."""
    # Two at a time: while JSON is parsed and Parquet written, Python can work on the other run
    with ThreadPoolExecutor(2) as pool:
        yield from pool.map(_read, paths)


def read_results(directory: Path, read: Read = read_runs) -> Results:
    """Read every run of an experiment's results, by `read`.

    `runs` of the results includes failed runs, each with a warning; `usable` does not.
    Raises InputError if there is no such directory or no run in it.
    """
    try:
        paths = sorted(path for path in directory.iterdir() if path.is_dir())
    except OSError as error:
        raise InputError(f"{directory}: cannot be read: {error.strerror}") from None
    runs, warnings = [], []
    for run, warning in read(paths):
        runs += [run] if run else []
        warnings += [warning] if warning else []
    if not runs and not warnings:
        raise InputError(
            f"{directory}: no runs here. Give the directory of an experiment's results, such as "
            "results/quick: it has one directory for each run, with a run.json"
        )
    runs.sort(key=lambda run: (run.plan.index, run.host))
    try:
        planned = _planned(directory / "plan.json")
    except (OSError, ValueError, KeyError, TypeError) as error:
        warnings.append(f"plan.json cannot be read, so missing runs are not found: {why(error)}")
        planned = None
    warnings += caveats.of_experiment(runs, planned)
    warnings += [f"{run.id}: {warning}" for run in runs for warning in run.warnings]
    return Results(directory, tuple(runs), tuple(warnings))


def _planned(path: Path) -> dict[str, dict[str, Any]] | None:
    """Read the factors of all runs of the plan by their ids; None if there is no plan."""
    if not path.exists():
        return None
    return {run["id"]: run["factors"] for run in json.loads(path.read_text())["runs"]}


def _read(path: Path) -> tuple[Run | None, str]:
    """Read a run directory: return the run or a warning; neither if it is not a run directory."""
    if warning := cut_off(path):
        return None, warning
    if not (path / "run.json").exists():
        return None, ""
    try:
        return read_run(path), ""
    except UnreadableError as error:
        return None, f"{path.name}: left out, since {error}"


def cut_off(path: Path) -> str:
    """Return a warning if a run was cut off, else nothing."""
    partial = path.name.endswith(PARTIAL)
    return f"{path.name}: left out, since the run was cut off before it ended" if partial else ""


# --- one run ------------------------------------------------------------------------------------


def read_run(path: Path, keep: bool = True) -> Run:
    """Read one run directory, even if it is incomplete. `keep`: leave its samples as Parquet.

    Raises UnreadableError if its run.json cannot be read.
    """
    record = read(path / "run.json")
    failed = record.status != "complete"
    warnings: list[str] = []
    if failed:
        warnings.append(f"left out, since the run failed: {record.reason or 'no reason given'}")
    lines = _lines_of_parts(path, record, warnings)
    events = _events(path, lines, warnings)
    try:
        sampled = _sampled(path / "samples.jsonl", warnings, keep)
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException, UnreadableError) as error:
        if not failed:
            warnings.append(f"left out, since its samples cannot be read: {why(error)}")
        return Run(path, record, events=events, warnings=tuple(warnings))
    header, end = sampled.header, sampled.end
    if len(sampled.samples) and sampled.samples.index[-1] > record.run.sampling.samples:
        warnings.append("left out, since it has samples after the last one that was planned")
        return Run(path, record, events=events, warnings=tuple(warnings))
    run = Run(path, record, header, end, sampled.samples, sampled.guests, events)
    run = replace(run, census=_census(run, warnings), writes=_writes(run, warnings))
    run = replace(run, load=_load(run, lines.get("load", []), warnings))
    run = replace(run, reported=_reported(run, lines, warnings))
    warnings += caveats.of_sampling(run)
    if not failed:
        warnings += caveats.of_run(run)
    return replace(run, warnings=tuple(warnings))


def _lines_of_parts(
    path: Path, record: Record, warnings: list[str]
) -> dict[str, list[dict[str, Any]]]:
    """Read the lines of the files that may have events or metrics, by the name of the part."""
    parts = [each.name for each in record.run.parts if each.name not in NO_EVENTS]
    # Format 1 has all events in one file, and some parts have no file
    files = {name: path / f"{name}.jsonl" for name in parts}
    return {
        name: list(_lenient_lines(file, warnings)) for name, file in files.items() if file.exists()
    }


def _events(
    path: Path, of_parts: dict[str, list[dict[str, Any]]], warnings: list[str]
) -> tuple[dict[str, Any], ...]:
    """Find the events of the run and of its parts, in the order of time."""
    own = list(_lenient_lines(path / "events.jsonl", warnings))
    events = []
    for name, lines in {"events": own, **of_parts}.items():
        good = [line for line in lines if _is_event(line)]
        if bad := sum("event" in line for line in lines) - len(good):
            warnings.append(f"{bad} of the events in {name}.jsonl are damaged; they are skipped")
        events += good
    return tuple(sorted(events, key=lambda event: event["monotonic"]))


# Optional keys of events, with their types
OPTIONAL = {"guest": str, "stdout": str, "stderr": str, "exitcode": int}


def _is_event(line: dict[str, Any]) -> bool:
    """Whether a line has a name and a time, and optional keys of the right types."""
    at = line.get("monotonic")
    timed = isinstance(at, int | float) and abs(at) < math.inf
    typed = all(isinstance(line.get(key), kind | None) for key, kind in OPTIONAL.items())
    return timed and typed and isinstance(line.get("event"), str)


def _census(run: Run, warnings: list[str]) -> censuses.Census | None:
    """Read the censuses; warn if they were asked for and there are none."""
    path = run.path / "census.jsonl"
    if not path.exists():
        if run.complete and run.options("census"):
            warnings.append("a census was asked for, but there is none")
        return None
    lines = list(_lenient_lines(path, warnings))
    headers = [line for line in lines if line.get("kind") == "header"]
    numbers = run.plan.guests.nosharepages or ()
    excluded = [name for n, name in enumerate(run.header["guests"], start=1) if n in numbers]
    try:
        if headers:
            check_format(headers[0].get("format"), "census.jsonl", CENSUS_FORMAT)
        found = censuses.of_lines(lines, run.header["monotonic"], excluded)
    except (UnreadableError, ValueError, KeyError, TypeError, AttributeError) as error:
        warnings.append(f"its censuses are left out, since they cannot be read: {why(error)}")
        return None
    warnings += found.warnings if found else ["census.jsonl has no complete census"]
    return found


def _writes(run: Run, warnings: list[str]) -> writes.Writes | None:
    """Read the writes of the probe; warn if they were asked for and there are none."""
    path = run.path / "write_probe.jsonl"
    if not path.exists():
        if run.complete and run.options("write_probe"):
            warnings.append("writes were to be measured, but there are none")
        return None
    # Its lines that are no JSON were reported when its events were read
    lines = list(_lenient_lines(path, []))
    headers = [line for line in lines if line.get("kind") == "header"]
    try:
        if headers:
            check_format(headers[0].get("format"), "write_probe.jsonl", PROBE_FORMAT)
        found = writes.of_lines(lines, run.header["monotonic"])
    except UnreadableError as error:
        warnings.append(f"its writes are left out, since they cannot be read: {why(error)}")
        return None
    warnings += found.warnings if found else ["write_probe.jsonl has no writes"]
    return found


def _load(run: Run, lines: list[dict[str, Any]], warnings: list[str]) -> load.Load | None:
    """Read the answers to the load; warn if they were asked for and there are none."""
    if not lines:
        if run.complete and run.options("load"):
            warnings.append("answers to a load were to be measured, but there are none")
        return None
    headers = [line for line in lines if line.get("kind") == "header"]
    try:
        if headers:
            check_format(headers[0].get("format"), "load.jsonl", LOAD_FORMAT)
        found = load.of_lines(lines, run.header["monotonic"], run.plan.sampling.interval)
    except UnreadableError as error:
        warnings.append(f"its load is left out, since it cannot be read: {why(error)}")
        return None
    warnings += found.warnings if found else ["load.jsonl has no answers after the warm-up"]
    return found


def _reported(
    run: Run, of_parts: dict[str, list[dict[str, Any]]], warnings: list[str]
) -> pd.DataFrame:
    """Read the metrics that the parts and the commands of the run have reported."""
    lines = [line for each in of_parts.values() for line in each]
    lines += run.load.lines() if run.load else []
    metrics, faults = printed.of_run(run)
    found = reported.of_lines([*lines, *metrics], run.header["monotonic"], run.samples)
    warnings += [*faults, *found.warnings]
    return found.rows


def _whole_lines(path: Path, warnings: list[str]) -> bytes:
    """Read a file. Only lines that end in a newline count."""
    text = path.read_bytes()
    whole = text.rfind(b"\n") + 1
    if whole < len(text):
        warnings.append(
            f"the last line of {path.name} is torn ({len(text) - whole} bytes without a newline) "
            "and is not counted"
        )
    return text[:whole]


def _lenient_lines(path: Path, warnings: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of a file, with a warning for each other line."""
    try:
        lines = _whole_lines(path, warnings).split(b"\n")[:-1]
    except OSError as error:
        warnings.append(f"{path.name} cannot be read ({error.strerror})")
        return
    for number, line in enumerate(lines, start=1):
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        if isinstance(value, dict):
            yield value
        else:
            warnings.append(f"line {number} of {path.name} is not a JSON object; it is skipped")


def _sampled(path: Path, warnings: list[str], keep: bool) -> parquet.Sampled:
    """Read the converted samples, or else read the raw file and convert it."""
    source = parquet.source(path)
    if known := parquet.load(path, source):
        warnings += known.warnings
        return known
    before = len(warnings)
    header, table, end = _raw(path, warnings)
    samples, guests = map(_without_objects, frames(table, header))
    _require_numbers(samples, guests)
    sampled = parquet.Sampled(header, end, samples, guests, tuple(warnings[before:]))
    if keep and path.parent.suffix != PARTIAL:
        parquet.save(path, source, sampled)
    return sampled


def _without_objects(frame: pd.DataFrame) -> pd.DataFrame:
    """Make columns without any value columns of NaN, so that one can compute with them."""
    empty = frame.columns[frame.isna().all()]
    return frame.astype(dict.fromkeys(empty, float)) if len(empty) else frame


def _require_numbers(samples: pd.DataFrame, guests: pd.DataFrame) -> None:
    """Check that samples are in order, and that counters have numbers that a kernel can have."""
    if not samples.index.is_monotonic_increasing or not samples.index.is_unique:
        raise UnreadableError(
            "samples.jsonl is not in order: n does not increase from line to line"
        )
    if not pd.api.types.is_integer_dtype(samples.index) or samples.index[0] < 0:
        raise UnreadableError("samples.jsonl is not numbered: n is not a count")
    if "monotonic" in samples and not samples["monotonic"].is_monotonic_increasing:
        raise UnreadableError("samples.jsonl is not of one boot: its time goes back")
    for frame in (samples, guests.drop(columns="guest", errors="ignore")):
        for name, column in frame.items():
            if not _holds_counts(column, COUNTERS.match(str(name)) is not None):
                raise UnreadableError(f"{name} of samples.jsonl is not a number")


def _holds_counts(column: "pd.Series[Any]", required: bool) -> bool:
    """Return whether a column has numbers in range, or text if numbers are not required."""
    if pd.api.types.is_bool_dtype(column):
        return False
    if pd.api.types.is_integer_dtype(column):
        return True
    if pd.api.types.is_float_dtype(column):
        return not bool((np.abs(column.to_numpy()) > LARGEST).any())
    if required and column.notna().any():
        return False
    return all(type(value) in (str, int, float) for value in column.dropna())


def _raw(path: Path, warnings: list[str]) -> tuple[dict[str, Any], pa.Table, dict[str, Any]]:
    """Read the header, a row for each sample, and the end line ({} if the sampler was killed)."""
    text = _whole_lines(path, warnings)
    if not text:
        raise UnreadableError("samples.jsonl has no header line")
    first, last = text.index(b"\n") + 1, text.rfind(b"\n", 0, -1) + 1
    header = json.loads(text[: first - 1])
    if not isinstance(header, dict):
        raise UnreadableError("samples.jsonl has no header line")
    check_format(header.get("format"), "samples.jsonl", SAMPLES_FORMAT)
    check(Header, header, "the header of samples.jsonl")
    header = {"guests": {}, **header}
    end = json.loads(text[last:-1]) if b'"end"' in text[last : last + 40] else {}
    end = end if isinstance(end, dict) else {}
    if end:
        check(End, end, "the end line of samples.jsonl")
    # A view, since a copy could take half a gigabyte
    lines = memoryview(text)[first : last if end else None]
    if not lines:
        raise UnreadableError("samples.jsonl has no sample")
    return header, _table(lines, path.name, warnings), end


def _table(lines: memoryview, name: str, warnings: list[str]) -> pa.Table:
    """Parse all lines at once; if some are not samples, parse only those that are."""
    if bytes(lines[:1]) == b"{" and not NO_OBJECT.search(lines):
        with contextlib.suppress(pa.ArrowInvalid):
            table = _parsed(lines, BLOCK)
            if _all_samples(table):
                return table
    every = [line for line in bytes(lines).split(b"\n") if line]
    good = [line for line in every if _is_sample(line)]
    try:
        table = _parsed(b"\n".join(good), max(BLOCK, 2 * max(map(len, good), default=0)))
    except pa.ArrowInvalid:
        raise UnreadableError(f"{name} does not hold samples") from None
    if bad := len(every) - len(good):
        warnings.append(f"{bad} of the lines of {name} are not samples; they are skipped")
    return table


def _parsed(lines: bytes | memoryview, block: int) -> pa.Table:
    return arrow_json.read_json(pa.BufferReader(lines), arrow_json.ReadOptions(block_size=block))


def _all_samples(table: pa.Table) -> bool:
    """Return whether all rows are samples, by the same rule as `_is_sample`."""
    if not {"kind", "n"} <= set(table.column_names):
        return False
    return table["kind"].unique().to_pylist() == ["sample"] and not table["n"].null_count


def _is_sample(line: bytes) -> bool:
    try:
        value = json.loads(line)
        return value.get("kind") == "sample" and isinstance(value.get("n"), int)
    except (ValueError, AttributeError):
        return False


# --- frames -------------------------------------------------------------------------------------


def frames(table: pa.Table, header: dict[str, Any]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Turn sample lines into the two frames of a Run."""
    table = table.append_column(
        "seconds", pa.compute.subtract(table["monotonic"], float(header["monotonic"]))
    )
    guests = dict(_guest_frames(table)) if "guests" in table.column_names else {}
    host = table.drop_columns([c for c in ("kind", "guests") if c in table.column_names])
    while any(pa.types.is_struct(column.type) for column in host.schema):
        host = host.flatten()
    return host.to_pandas().set_index("n"), _joined(guests)


def _guest_frames(table: pa.Table) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the name of each guest and a frame of the samples in which it existed."""
    guests = table["guests"].combine_chunks()
    for index in range(guests.type.num_fields):
        counters = guests.field(index)
        if not pa.types.is_struct(counters.type):
            continue  # null in every sample: it never existed
        there = counters.is_valid()
        frame = pa.Table.from_arrays(counters.flatten(), counters.type.names).filter(there)
        frame = frame.to_pandas()
        for column in ("seconds", "n"):
            frame.insert(0, column, table[column].filter(there).to_pandas())
        yield guests.type.field(index).name, frame


def _joined(guests: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Join the frames of all guests, with the column `guest` after `n` and `seconds`."""
    if not guests:
        return pd.DataFrame()
    joined = pd.concat(guests.values(), ignore_index=True)
    rows = np.repeat(np.arange(len(guests)), [len(frame) for frame in guests.values()])
    names = pd.Categorical.from_codes(rows, pd.Index(list(guests)))
    joined.insert(2, "guest", pd.Series(names))
    return joined
