"""A run directory, read: what was asked, what was sampled, what happened, and what is amiss.

The format is docs/data.md. Files are read and never written. Nothing is computed here but what is
needed to judge whether the files are whole.
"""

import io
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
import pyarrow as pa
from pyarrow import json as arrow_json

from ksm_analysis.errors import InputError

FORMAT = 1
PARTIAL = ".partial"
EXPECTED_EXITS = (None, 0, 124, 137)  # timeout(1) has ended it, as its time was over


@dataclass(frozen=True)
class Run:
    """One run.

    `samples` has one row a sample, indexed by `n`; columns are `seconds` (since the header's
    monotonic time), `wall`, `monotonic`, and one for each counter: `ksm.full_scans`, `cpu.idle`,
    `meminfo.MemFree`, `vmstat.cow_ksm`, `ksmd.cpu_ns`; units as the kernel prints them.

    `guests` has one row a sample and guest that was there: `n`, `seconds`, `guest`, and the
    counters of its process (`ksm_rmap_items`, `resident_pages`, …).

    Counters that the kernel has not are no columns. A run without readable samples has empty
    frames, and `usable` is false. `end` is the sampler's end line, empty if it was killed.
    """

    path: Path
    record: dict
    header: dict = field(default_factory=dict)
    end: dict = field(default_factory=dict)
    samples: pd.DataFrame = field(default_factory=pd.DataFrame)
    guests: pd.DataFrame = field(default_factory=pd.DataFrame)
    events: tuple[dict, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """What the run is called within its experiment."""
        return self.record["run"]["id"]

    @property
    def complete(self) -> bool:
        """Whether the run says of itself that nothing failed."""
        return self.record["status"] == "complete"

    @property
    def usable(self) -> bool:
        """Whether figures and tables may count on it: complete, with a sample after the baseline.

        An imported run has no baseline.
        """
        return self.complete and len(self.samples) > (0 if self.imported else 1)

    @property
    def host(self) -> str:
        """The Ansible name of the machine that ran it."""
        return self.record["host"]

    @property
    def factors(self) -> dict:
        """What was varied: guests, knobs, workload, repetition."""
        return self.record["run"]["factors"]

    @property
    def imported(self) -> bool:
        """Whether it was read from a log of the original framework, which has no sample 0."""
        return "imported" in self.record

    @property
    def converged(self) -> bool | None:
        """Whether pages_sharing was steady when the run ended; None if its length was fixed."""
        return self.record.get("converged")

    @property
    def intervals(self) -> int:
        """Intervals that were sampled: less than planned if it was steady, or the log cut short."""
        sampling = self.record["run"]["sampling"]
        ended_early = self.imported or self.end.get("reason") == "steady"
        if self.samples.empty or not ended_early:
            return sampling["intervals"]
        return math.ceil(self.samples.index[-1] / round(sampling["interval"] / sampling["period"]))

    def window(self) -> tuple[float, float] | None:
        """Return when the workload ran, first start to last stop, in seconds of `samples`.

        None without a workload. One that is not known to have stopped lasts until the last sample.
        """
        at = {"workload started": [], "workload stopped": []}
        for event in self.events:
            if event["event"] in at:
                at[event["event"]].append(event["monotonic"] - self.header["monotonic"])
        if not at["workload started"] or self.samples.empty:
            return None
        end = max(at["workload stopped"], default=self.samples["seconds"].iloc[-1])
        return min(at["workload started"]), end


@dataclass(frozen=True)
class Results:
    """All runs of a directory, in the order of the plan, and what is amiss with them."""

    path: Path
    runs: tuple[Run, ...]
    warnings: tuple[str, ...]

    @property
    def usable(self) -> tuple[Run, ...]:
        """The runs that figures and tables are made of."""
        return tuple(run for run in self.runs if run.usable)


def read_results(directory: Path) -> Results:
    """Read every run of an experiment's results.

    Failed runs are among `runs`, with a warning that says so; `usable` is without them.
    Raises InputError if there is no such directory, no run in it, or a format that is not known.
    """
    try:
        paths = sorted(path for path in directory.iterdir() if path.is_dir())
    except OSError as error:
        raise InputError(f"{directory}: cannot be read: {error.strerror}") from None
    runs, warnings = [], []
    for path in paths:
        if path.name.endswith(PARTIAL):
            warnings.append(f"{path.name}: left out, since the run was cut off before it ended")
        elif (path / "run.json").exists():
            try:
                runs.append(read_run(path))
            except _UnreadableError as error:
                warnings.append(f"{path.name}: left out, since {error}")
    if not runs and not warnings:
        raise InputError(
            f"{directory}: no runs here. Give the directory of an experiment's results, such as "
            "results/quick: it holds one directory a run, each with a run.json"
        )
    runs.sort(key=lambda run: (run.record["run"]["index"], run.host))
    warnings += [f"{run.id}: {warning}" for run in runs for warning in run.warnings]
    return Results(directory, tuple(runs), tuple(warnings))


class _UnreadableError(Exception):
    """A run that cannot be made sense of, and why."""


# --- one run ------------------------------------------------------------------------------------


def read_run(path: Path) -> Run:
    """Read one run directory, whatever is left of it."""
    record = _record(path / "run.json")
    failed = record["status"] != "complete"
    warnings = []
    if failed:
        warnings.append(
            f"left out, since the run failed: {record.get('reason') or 'no reason given'}"
        )
    events = tuple(_lenient_lines(path / "events.jsonl", warnings))
    try:
        header, samples, end = _sampled(path / "samples.jsonl", warnings)
        frame, guests = frames(samples, header)
    except (OSError, ValueError, KeyError, _UnreadableError) as error:
        if not failed:
            warnings.append(f"left out, since its samples cannot be read: {_why(error)}")
        return Run(path, record, events=events, warnings=tuple(warnings))
    run = Run(path, record, header, end, frame, guests, events)
    warnings += _sampling_warnings(run)
    if not failed:
        warnings += [*_guest_warnings(run), *_workload_warnings(run)]
        warnings += [*_knob_warnings(record), *_drift_warnings(run)]
    return replace(run, warnings=tuple(warnings))


def _why(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"key {error} is missing"
    return getattr(error, "strerror", None) or str(error)


def _record(path: Path) -> dict:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _UnreadableError(f"run.json cannot be read ({_why(error)})") from None
    found = record.get("format") if isinstance(record, dict) else None
    _check_format(found, path)
    run = record.get("run")
    whole = isinstance(run, dict) and {"host", "status"} <= record.keys()
    if not whole or not {"id", "index", "factors", "guests", "sampling"} <= run.keys():
        raise _UnreadableError("run.json is not whole")
    return record


def _check_format(found: object, path: Path) -> None:
    if found != FORMAT:
        raise InputError(
            f"{path}: format {found!r} is not known: this version of the project reads format "
            f"{FORMAT}. Read it with the version that wrote it"
        )


def _whole_lines(path: Path, warnings: list[str]) -> list[bytes]:
    """Split a file into lines. Only those that end in a newline count."""
    *lines, rest = path.read_bytes().split(b"\n")
    if rest:
        warnings.append(
            f"the last line of {path.name} is torn ({len(rest)} bytes without a newline) and is "
            "not counted"
        )
    return lines


def _lenient_lines(path: Path, warnings: list[str]) -> Iterator[dict]:
    """Yield the JSON objects of a file, with a warning for what is none."""
    try:
        lines = _whole_lines(path, warnings)
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
            warnings.append(f"line {number} of {path.name} is not a JSON object; it is passed over")


def _sampled(path: Path, warnings: list[str]) -> tuple[dict, pa.Table, dict]:
    """Read header, one row a sample, and end line (empty: the sampler was killed)."""
    lines = _whole_lines(path, warnings)
    if not lines:
        raise _UnreadableError("samples.jsonl has no header line")
    header = json.loads(lines[0])
    _check_format(header.get("format"), path)
    end = json.loads(lines[-1]) if b'"end"' in lines[-1][:40] else {}
    lines = lines[1 : -1 if end else None]
    if not lines:
        raise _UnreadableError("samples.jsonl has no sample")
    return header, _table(lines, path.name, warnings), end


def _table(lines: list[bytes], name: str, warnings: list[str]) -> pa.Table:
    options = arrow_json.ReadOptions(block_size=max(2**20, 2 * max(map(len, lines))))
    try:
        return arrow_json.read_json(io.BytesIO(b"\n".join(lines)), options)
    except pa.ArrowInvalid:
        good = [line for line in lines if _is_sample(line)]
        if not good or len(good) == len(lines):
            raise _UnreadableError(f"{name} does not hold samples") from None
        bad = len(lines) - len(good)
        warnings.append(f"{bad} of the lines of {name} are no samples; they are passed over")
        return _table(good, name, warnings)


def _is_sample(line: bytes) -> bool:
    try:
        return json.loads(line).get("kind") == "sample"
    except (ValueError, AttributeError):
        return False


# --- frames -------------------------------------------------------------------------------------


def frames(table: pa.Table, header: dict) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Turn sample lines into the two frames of a Run."""
    table = table.append_column(
        "seconds", pa.compute.subtract(table["monotonic"], float(header["monotonic"]))
    )
    guests = [*_guest_frames(table)] if "guests" in table.column_names else []
    host = table.drop_columns([c for c in ("kind", "guests") if c in table.column_names])
    while any(pa.types.is_struct(column.type) for column in host.schema):
        host = host.flatten()
    return (
        host.to_pandas().set_index("n"),
        pd.concat(guests, ignore_index=True) if guests else pd.DataFrame(),
    )


def _guest_frames(table: pa.Table) -> Iterator[pd.DataFrame]:
    """Yield a frame for each guest, with the samples that it was there for."""
    guests = table["guests"].combine_chunks()
    for index in range(guests.type.num_fields):
        counters = guests.field(index)
        if not pa.types.is_struct(counters.type):
            continue  # null in every sample: never there
        there = counters.is_valid()
        frame = pa.Table.from_arrays(counters.flatten(), counters.type.names).filter(there)
        frame = frame.to_pandas()
        frame.insert(0, "guest", guests.type.field(index).name)
        for column in ("seconds", "n"):
            frame.insert(0, column, table[column].filter(there).to_pandas())
        yield frame


# --- what is amiss ------------------------------------------------------------------------------


def _sampling_warnings(run: Run) -> Iterator[str]:
    sampling = run.record["run"]["sampling"]
    planned, first = sampling["samples"], int(run.imported)
    due = int(run.samples.index[-1]) + 1 - first if len(run.samples) else 0
    missed, reason = due - len(run.samples), run.end.get("reason")
    if cut_short := run.record.get("imported", {}).get("cut_short"):
        yield f"the log {cut_short}"
        return
    if missed > 0:
        yield f"{missed} of {planned} samples were missed: the host was too busy"
    if not run.end:
        yield "the sampler was killed: its end line is missing"
    elif reason not in ("finished", "steady"):
        yield f"sampling was ended early by {reason}"
    if due < planned and reason != "steady":
        yield f"sampling stopped after {due} of {planned} samples"
    if run.converged is False and reason == "finished":
        yield f"not converged: pages_sharing was not steady within {sampling['seconds']:g} s"


def _guest_warnings(run: Run) -> Iterator[str]:
    gone = run.end.get("gone") or {}
    for name in run.header.get("guests", {}):
        there = run.guests[run.guests["guest"] == name] if len(run.guests) else run.guests
        last_seen = there["n"].iloc[-1] if len(there) else -1
        if name in gone:
            seconds = gone[name] - run.header["monotonic"]
            yield f"guest {name} was gone after {seconds:.1f} s"
        elif len(run.samples) and last_seen < run.samples.index[-1]:
            when = f"after sample {last_seen}" if last_seen >= 0 else "from the beginning"
            yield f"guest {name} was gone {when}"


def _workload_warnings(run: Run) -> Iterator[str]:
    started = {e.get("guest") for e in run.events if e["event"] == "workload started"}
    stopped = {e.get("guest"): e for e in run.events if e["event"] == "workload stopped"}
    for guest in _busy_guests(run):
        if guest not in started:
            yield f"the workload of guest {guest} was never started"
    for guest in sorted(map(str, started - stopped.keys())):
        yield f"the workload of guest {guest} is not known to have stopped"
    for guest, event in stopped.items():
        if event.get("exitcode") not in EXPECTED_EXITS and not event.get("stopped_early"):
            words = (event.get("stderr") or "").strip().splitlines()[-1:] or ["it said nothing"]
            yield f"the workload of guest {guest} ended with code {event['exitcode']}: {words[0]}"


def _busy_guests(run: Run) -> Iterator[str]:
    """Yield the guests that were to have a workload before the run ended."""
    names, samples = list(run.header.get("guests", {})), run.samples
    ended = samples["seconds"].iloc[-1] if run.end.get("reason") == "steady" else math.inf
    for part in run.record["run"].get("workload", {}).get("parts", ()):
        if part["start"] < ended:
            yield from (names[n - 1] if n <= len(names) else f"number {n}" for n in part["guests"])


def _knob_warnings(record: dict) -> Iterator[str]:
    knobs = record.get("knobs") or {}
    before, during, after = (knobs.get(key) or {} for key in ("before", "during", "after"))
    for name, asked in _asked_knobs(record).items():
        if name in during and not _reads_as(during[name], asked):
            yield f"knob {name} was {during[name]} during the run, though {asked} was asked for"
    for name in before.keys() & after.keys():
        if before[name] != after[name]:
            yield f"knob {name} was {before[name]} before the run and is {after[name]} after it"


def _asked_knobs(record: dict) -> dict:
    """All that was asked for; what a kernel may have not is looked at where it has."""
    return {**record["run"].get("knobs_if_present", {}), **record["run"].get("knobs", {})}


def _drift_warnings(run: Run) -> Iterator[str]:
    """Somebody else, such as ksmtuned, may turn knobs while a run goes on."""
    set_at = [event["monotonic"] for event in run.events if event["event"] == "knobs set"]
    if not set_at or run.samples.empty:
        return
    later = run.samples[run.samples["seconds"] > set_at[0] - run.header["monotonic"]]
    for name, asked in _asked_knobs(run.record).items():
        reads = later[f"ksm.{name}"].unique().tolist() if f"ksm.{name}" in later else []
        for other in (read for read in reads if not _reads_as(read, asked)):
            yield f"knob {name} was {other} at times in the run, though {asked} was asked for"


def _reads_as(read: int | str, asked: int | str) -> bool:
    """Compare what the kernel prints (`[none] scan-time`) with what it was told (`none`)."""
    return str(read) == str(asked) or f"[{asked}]" in str(read)
