"""What was seen in the memory of a host: what roles/assess/files/ksm_assess.py tells, as arrays."""

import base64
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ksm_analysis.doctor import shape
from ksm_analysis.errors import InputError
from ksm_analysis.results.traces import FLAGS, HUGE, HUGE_PAGE, PRESENT, UNMERGEABLE

FORMAT = 1
KEPT = 6  # bytes of a content
KEYS = {
    "host": {"facts", "page_size", "processes", "as_if_mergeable", "hz", "anonymous", "zero"},
    "moment": {"monotonic", "read_seconds", "page_seconds", "complaints", "guests"},
}
DAMAGES = (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, zlib.error)
Contents = NDArray[np.int32]
Flags = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Seen:
    """The memory of a host that KSM may merge, at some moments.

    `facts`: those of the doctor, with two readings of the counters. `host`: how it was read (hz:
    ticks a second; anonymous: bytes of all processes; as_if_mergeable). `moments`: what was told of
    each (monotonic, read_seconds, page_seconds, complaints, guests).
    `names`: of the processes; `owner`: the process of each page, by its place among the names.
    `contents`: int32, moments x pages: numbers, 0 is zeros, -1 none. `flags`: uint8, moments x
    pages, as in a trace (docs/traces.md).
    """

    facts: dict[str, Any]
    host: dict[str, Any]
    moments: list[dict[str, Any]]
    names: list[str]
    owner: Contents
    contents: Contents
    flags: Flags

    @property
    def page_seconds(self) -> float:
        """Return the CPU seconds to read and hash a page."""
        return float(np.median([each["page_seconds"] for each in self.moments]))

    @property
    def seconds(self) -> list[float]:
        """When each moment was, since the first."""
        first = self.moments[0]["monotonic"]
        return [each["monotonic"] - first for each in self.moments]


def load(path: Path) -> Seen:
    """Read what was kept of a host. Raises InputError."""
    try:
        with path.open() as file:
            return read(file, str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {getattr(error, 'strerror', None) or error}") from None


def read(lines: Iterator[str] | Any, source: str) -> Seen:
    """Read the lines of the program. Raises InputError if they are not whole."""
    host: dict[str, Any] = {}
    moments: list[dict[str, Any]] = []
    mappings: list[dict[tuple[str, int, int], tuple[Flags, NDArray[np.uint64]]]] = []
    huge: list[list[int]] = []
    end = None
    try:
        for text in lines:
            line = json.loads(text)
            kind = line.pop("kind")
            if missing := KEYS.get(kind, set()) - line.keys():
                raise KeyError(*missing)
            if kind == "host":
                host = line
            elif kind == "moment":
                moments.append(line)
                mappings.append({})
            elif kind == "huge":
                huge.append(line["pages"])
            elif kind == "pages":
                _piece(line, mappings)
            elif kind == "end":
                end, host["cpu_seconds"] = line["reading"], line["cpu_seconds"]
        if host.get("format") != FORMAT:
            raise InputError(f"{source}: not what `assess` has kept, or of another version")
        if end is None or len(moments) < 2:
            raise InputError(f"{source} is cut short: the host was not read to the end")
        facts = host.pop("facts")
        facts["readings"][1] = end
        return _together(shape.complete(facts), host, moments, mappings, huge)
    except DAMAGES as error:
        raise InputError(f"{source}: not what `assess` has kept: {error!r}") from None


def _piece(line: dict[str, Any], mappings: list[Any]) -> None:
    key = (line["process"], line["start"], line["pages"])
    kinds, planes = (
        np.frombuffer(zlib.decompress(base64.b64decode(each)), np.uint8) for each in line["data"]
    )
    if len(kinds) != line["pages"]:
        raise ValueError(f"{len(kinds)} pages instead of {line['pages']}")
    wide = np.zeros((len(kinds), 8), np.uint8)
    wide[:, :KEPT] = planes.reshape(KEPT, -1).T
    contents = wide.view("<u8").ravel()
    if line["same"]:
        contents = contents ^ mappings[-2][key][1]
    mappings[-1][key] = (FLAGS[kinds], contents)


def _together(
    facts: dict[str, Any],
    host: dict[str, Any],
    moments: list[dict[str, Any]],
    mappings: list[dict[tuple[str, int, int], tuple[Flags, NDArray[np.uint64]]]],
    huge: list[list[int]],
) -> Seen:
    names = [name for name, _ in host["processes"]]
    places: dict[tuple[str, int], int] = {}
    size = 0
    for name, start, pages in sorted(
        {key for each in mappings for key in each}, key=lambda key: (names.index(key[0]), *key[1:])
    ):
        # a piece that has grown or shrunk is another one: what both have is at the same place
        if (name, start) not in places or places[name, start] + pages > size:
            places[name, start] = size
            size += pages
    flags = np.full((len(moments), size), UNMERGEABLE, np.uint8)
    hashes = np.zeros((len(moments), size), np.uint64)
    owner = np.zeros(size, np.int32)
    for n, each in enumerate(mappings):
        order = np.concatenate([places[key[:2]] + np.arange(key[2]) for key in each])
        for key, (kinds, contents) in each.items():
            at = slice(places[key[:2]], places[key[:2]] + key[2])
            flags[n, at], hashes[n, at], owner[at] = kinds, contents, names.index(key[0])
        for first in huge[n]:
            flags[n, order[first : first + HUGE_PAGE]] |= HUGE
    return Seen(facts, host, moments, names, owner, _numbered(hashes, flags, host["zero"]), flags)


def _numbered(hashes: NDArray[np.uint64], flags: Flags, zero: int) -> Contents:
    """Return contents as small numbers: 0 is zeros, -1 is none."""
    known, numbers = np.unique(np.append(hashes.ravel(), np.uint64(zero)), return_inverse=True)
    numbers = numbers.astype(np.int32)
    of_zero = numbers[-1]
    swap = np.arange(len(known), dtype=np.int32)
    swap[of_zero], swap[0] = 0, of_zero
    found = swap[numbers[:-1]].reshape(hashes.shape)
    return np.where(flags & PRESENT, found, -1).astype(np.int32)
