"""Samples, converted once: two Parquet files beside samples.jsonl, which remains the original.

They hold the frames of a Run, and the size and modification time of the raw file. If these do not
match, or a file is damaged or has another version, the raw file is read again. If the directory
cannot be written to, the raw file is read each time.
"""

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from pyarrow import parquet

VERSION = 2  # of the frames: increase it when they change
KEY = b"ksm_testbed"
NAMES = {"samples": "samples.parquet", "guests": "guests.parquet"}


@dataclass(frozen=True)
class Sampled:
    """What a samples.jsonl holds: header, end line ({} if there is none), the frames of a Run.

    `warnings` are about its lines.
    """

    header: dict[str, Any]
    end: dict[str, Any]
    samples: pd.DataFrame
    guests: pd.DataFrame
    warnings: tuple[str, ...] = ()


def source(raw: Path) -> list[int]:
    """Return what identifies the content of a raw file. Raises OSError if there is no file.

    A hash would take as long as reading the file. The file is never edited. A copy without the
    original times is converted again.
    """
    stat = raw.stat()
    return [VERSION, stat.st_size, stat.st_mtime_ns]


def load(raw: Path, source: list[int]) -> Sampled | None:
    """Read the converted samples; None if there are none, or they are from another source."""
    try:
        tables = {key: _read(raw.with_name(name)) for key, name in NAMES.items()}
        notes = {key: json.loads(table.schema.metadata[KEY]) for key, table in tables.items()}
        if any(note["source"] != source for note in notes.values()):
            return None
        frames = {key: table.to_pandas() for key, table in tables.items()}
        note = notes["samples"]
        return Sampled(note["header"], note["end"], **frames, warnings=tuple(note["warnings"]))
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError):
        return None


def save(raw: Path, source: list[int], sampled: Sampled) -> None:
    """Write the converted samples beside their raw file, if the directory can be written to.

    `source` must be from before the file was read.
    """
    note = {key: getattr(sampled, key) for key in ("header", "end", "warnings")}
    note["source"] = source
    with contextlib.suppress(OSError, pa.ArrowException):
        for key, name in NAMES.items():
            table = pa.Table.from_pandas(getattr(sampled, key))
            metadata = {**(table.schema.metadata or {}), KEY: json.dumps(note)}
            _write(table.replace_schema_metadata(metadata), raw.with_name(name))


def _read(path: Path) -> pa.Table:
    return parquet.read_table(path, page_checksum_verification=True)


def _write(table: pa.Table, path: Path) -> None:
    """Write a file completely or not at all."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        parquet.write_table(table, beside, compression="zstd", write_page_checksum=True)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
