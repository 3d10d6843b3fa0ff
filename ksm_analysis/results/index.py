"""An index of reductions: one file beside many run directories, so that 10,000 need not be opened.

It is never the truth. An entry counts only if the raw files of its run, and its reduction, have the
same sizes and times of change, and if the same code made it; it also remembers that a copy has the
contents of its original. A damaged index counts as none. Without it, or if it cannot be written,
all is read anew.
"""

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import NamedTuple

NAME = ".reductions.jsonl"
Files = dict[str, list[int]]  # size and time of change in ns, by name


class Entry(NamedTuple):
    """What is known of a run: its raw files, the metadata of its reduction, its run.json.

    `reduction` is the name of the reduction, its size, and its time of change in ns.
    """

    files: Files
    note: str
    run: str
    reduction: list[str | int]


def read(directory: Path, code: str) -> dict[str, Entry]:
    """Return the entries that this code has made, by the names of the run directories."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        head, _, body = (directory / NAME).read_bytes().partition(b"\n")
        if json.loads(head) == [code, hashlib.blake2b(body).hexdigest()]:
            return {name: Entry(*entry) for name, *entry in map(json.loads, body.splitlines())}
    return {}


def write(directory: Path, code: str, entries: dict[str, Entry]) -> None:
    """Write an index completely or not at all."""
    lines = (json.dumps([name, *entry]).encode() for name, entry in entries.items())
    body = b"\n".join(lines)
    head = json.dumps([code, hashlib.blake2b(body).hexdigest()]).encode()
    beside = directory / f"{NAME}.{os.getpid()}"
    with contextlib.suppress(OSError):
        try:
            beside.write_bytes(head + b"\n" + body)
            beside.replace(directory / NAME)
        finally:
            beside.unlink(missing_ok=True)
