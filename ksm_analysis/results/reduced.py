"""A run, reduced to what tables and large pages show: a small Parquet file beside its raw files.

It has a row for each metric of the host: `metric`, and `values`, one for each interval. Its
metadata has the values that were computed once (results.once), header and end of the samples, and
warnings. The raw files remain the truth: a reduction counts only if it was made from files with the
same contents (a hash) by the same code. Sizes and times of change show that soon. If only they
differ, the contents are hashed again. If the directory cannot be written to, reductions are in the
user's cache.
"""

import contextlib
import hashlib
import io
import json
import os
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from ksm_analysis import tasks
from ksm_analysis.errors import InputError
from ksm_analysis.results import location, reader
from ksm_analysis.results.index import Entry, Files
from ksm_analysis.results.record import of_text
from ksm_analysis.results.reported import nothing
from ksm_analysis.results.run import Run

NAME = "reduced.parquet"
NOTE, SUM = b"ksm_testbed", b"ksm_testbed_sum"  # keys of the metadata: JSON, and its hash
CODE = ("definition", "results", "metrics", "analysis")  # packages that values depend on
NONE = {"census": None, "writes": None, "load": None, "events": ()}


class Reduced(Run):
    """A run of which only the reduction was read. All else is read when something asks for it."""

    sum: bytes  # of the note that was read

    @cached_property
    def whole(self) -> Run:
        """The run from its raw files."""
        return reader.read_run(self.path)

    @cached_property
    def samples(self) -> pd.DataFrame:
        """As in Run."""
        return self.whole.samples

    @cached_property
    def guests(self) -> pd.DataFrame:
        """As in Run."""
        return self.whole.guests

    @cached_property
    def events(self) -> tuple[dict[str, Any], ...]:
        """As in Run."""
        return self.whole.events

    @cached_property
    def census(self) -> Any:
        """As in Run."""
        return self.whole.census

    @cached_property
    def writes(self) -> Any:
        """As in Run."""
        return self.whole.writes

    @cached_property
    def load(self) -> Any:
        """As in Run."""
        return self.whole.load

    @cached_property
    def host_frame(self) -> pd.DataFrame | None:
        """The metrics of the host, a row for each interval; None if they are damaged."""
        for place in places(self.path):
            with contextlib.suppress(OSError, pa.ArrowException, ValueError, KeyError):
                table = parquet.read_table(place, page_checksum_verification=True)
                if table.schema.metadata[SUM] != self.sum:  # one that was not believed
                    continue
                series = zip(
                    *(table[name].to_pylist() for name in ("metric", "values")), strict=True
                )
                frame = pd.DataFrame(
                    {name: np.array(values, dtype=float) for name, values in series}
                )
                return frame.set_axis(pd.RangeIndex(1, len(frame) + 1, name="interval"))
        return None


def made(run: Run, host: pd.DataFrame, files: Files, contents: str) -> bytes:
    """Return the reduction of a run, whose values are known; `host` has the metrics by interval."""
    note = {
        "code": code(),
        "files": files,
        "contents": contents,
        "none": [name for name, nothing_ in NONE.items() if getattr(run, name) == nothing_],
        "reported": run.reported.to_dict("list"),
        **{name: getattr(run, name) for name in ("header", "end", "warnings", "known")},
    }
    text = json.dumps(note, default=lambda value: value.item()).encode()
    table = pa.table(
        {"metric": [*host], "values": [column.to_list() for _, column in host.items()]},
        pa.schema({"metric": pa.string(), "values": pa.list_(pa.float64())}),
    ).replace_schema_metadata({NOTE: text, SUM: _sum(text)})
    file = io.BytesIO()
    parquet.write_table(table, file, compression="zstd", write_page_checksum=True)
    return file.getvalue()


def load(path: Path) -> Reduced | None:
    """Read the reduction of a run directory; None if it is damaged, or not of its files."""
    found = entry(path)
    return found and of_entry(path, found)


def of_entry(path: Path, found: Entry) -> Reduced:
    """Return the run that an entry of the index, or a reduction, describes."""
    return _run(path, json.loads(found.note), _sum(found.note.encode()), found.run)


def entry(path: Path, known: Entry | None = None) -> Entry | None:
    """Return what the reduction of a run directory says; None if there is none that counts.

    `known` is what the index has: it is returned if the raw files and the reduction are the same.
    """
    now = files_of(path)
    if known and known.files == now and _is_there(path, known.reduction):
        return known
    for place in places(path):
        with contextlib.suppress(OSError, pa.ArrowException, ValueError, KeyError, TypeError):
            state = _state(place)
            with parquet.ParquetFile(place, page_checksum_verification=True) as file:
                note = _note(schema := file.schema_arrow)
                file.read(use_threads=False)  # raises if it is damaged
            if note["code"] != code():
                continue
            if note["files"] != now and note["contents"] != contents_of(path):
                continue
            run = (path / "run.json").read_text(encoding="utf-8")
            return Entry(now, schema.metadata[NOTE].decode(), run, state)
    return None


def of_bytes(path: Path, content: bytes) -> Reduced:
    """Read a reduction that was just made. Raises InputError if other code made it."""
    schema = parquet.read_schema(io.BytesIO(content))
    note = _note(schema)
    if note["code"] != code():
        raise InputError("the workers of the scheduler have another version of this project")
    run = (path / "run.json").read_text(encoding="utf-8")
    return _run(path, note, schema.metadata[SUM], run)


def save(path: Path, content: bytes) -> None:
    """Write a reduction completely or not at all: into the run directory, or the user's cache."""
    for place in places(path):
        with contextlib.suppress(OSError):
            place.parent.mkdir(parents=True, exist_ok=True)
            beside = place.with_name(f".{place.name}.{os.getpid()}")
            try:
                beside.write_bytes(content)
                beside.replace(place)
            finally:
                beside.unlink(missing_ok=True)
            return


def places(path: Path) -> tuple[Path, Path]:
    """Return where the reduction of a run directory can be."""
    return path / NAME, location.cache() / f"{_sum(str(path.resolve()).encode()).decode()}.parquet"


def files_of(path: Path) -> Files:
    """Return size and time of change of each raw file of a run directory."""
    with os.scandir(path) as entries:
        found = [(e.name, e.stat()) for e in entries if _is_raw(e.name) and e.is_file()]
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in sorted(found)}


def _is_there(path: Path, reduction: list[str | int]) -> bool:
    """Whether a reduction is as it was. Where it mostly is comes first: the other takes longer."""
    return _state(path / NAME) == reduction or reduction in map(_state, places(path))


def _state(place: Path) -> list[str | int]:
    """Return name, size and time of change of a reduction; only its name if there is none."""
    with contextlib.suppress(OSError):
        stat = place.stat()
        return [place.name, stat.st_size, stat.st_mtime_ns]
    return [place.name]


def contents_of(path: Path) -> str:
    """Return a hash of the names and contents of all raw files of a run directory."""
    total = hashlib.blake2b(digest_size=16)
    for name in files_of(path):
        with (path / name).open("rb") as file:
            total.update(f"{name}\0{hashlib.file_digest(file, 'blake2b').hexdigest()}\0".encode())
    return total.hexdigest()


@cache
def code() -> str:
    """Return a hash of the code that values depend on."""
    return tasks.code(*CODE)


def _is_raw(name: str) -> bool:
    return not name.startswith(".") and not name.endswith(".parquet")


def _sum(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=16).hexdigest().encode()


def _note(schema: pa.Schema) -> dict[str, Any]:
    """Read the metadata. Raises ValueError if they are damaged."""
    if _sum(text := schema.metadata[NOTE]) != schema.metadata[SUM]:
        raise ValueError("damaged")
    note: dict[str, Any] = json.loads(text)
    return note


def _run(path: Path, note: dict[str, Any], total: bytes, text: str) -> Reduced:
    run = object.__new__(Reduced)
    run.__dict__.update(
        path=path,
        sum=total,
        record=of_text(text),
        header=note["header"],
        end=note["end"],
        warnings=tuple(note["warnings"]),
        known=note["known"],
        **{name: NONE[name] for name in note["none"]},
        reported=_reported(note["reported"]),
    )
    return run


def _reported(columns: dict[str, list[Any]]) -> pd.DataFrame:
    """Return the frame of what a run reported; those that report nothing share one."""
    return pd.DataFrame(columns) if any(columns.values()) else NOTHING


NOTHING = nothing()
