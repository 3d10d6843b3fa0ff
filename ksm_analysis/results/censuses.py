"""Read the censuses of a run: what could be merged, what is merged, which guests share pages.

The format is that of census.jsonl in docs/data.md. Impossible values are shown, with a warning.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from pandas.api.types import is_object_dtype

# A count, and the counts that it is the sum of. Checked in each census that has all of them. Before
# there was a census of the start, none had the last of these.
OPTIONAL = {"saved_split_zero_pages"}
SUMS = {
    "present_pages": ("zero_pages", "unique_pages", "duplicate_pages"),
    "limit_pages": ("limit_zero_pages", "limit_within_pages", "limit_between_pages"),
    "saved_pages": ("saved_ksm_pages", "saved_zero_pages", "saved_split_zero_pages"),
    "saved_ksm_pages": ("saved_within_pages", "saved_between_pages"),
}


# What the census program says of a guest without mergeable memory, in this version and before.
NOTHING_MERGEABLE = ("it has no mergeable memory", "it has no memory that KSM may merge")


@dataclass(frozen=True)
class Census:
    """All censuses of a run.

    `rows`: one row per census, indexed by `n`: `seconds` (since the run's first sample), `moment`,
    and its counts, with NaN for unknown ones; the kernel's own counters before and
    after are columns `ksm.full_scans`, `ksm_after.full_scans` and so on.

    `guests`: one row per census and guest, with `n`, `seconds`, `guest`; `ksm_stat.*` as the kernel
    prints it. `matrix`: pages of a guest (row) whose frame another guest (column) also has, in the
    last census that has these numbers; empty without them.
    """

    rows: pd.DataFrame
    guests: pd.DataFrame
    matrix: pd.DataFrame
    header: dict[str, Any] = field(default_factory=dict)
    end: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def of_lines(
    lines: list[dict[str, Any]], start: float, excluded: Sequence[str] = ()
) -> Census | None:
    """Make frames from the lines of census.jsonl; None if there is no census in it.

    `start` is the monotonic time at which `seconds` is 0. `excluded` are guests whose memory the
    host must not merge. No warning says that they have no mergeable memory, since this is intended.
    """
    kinds = {kind: [line for line in lines if line.get("kind") == kind] for kind in KINDS}
    whole = [line for line in kinds["census"] if _is_whole(line)]
    if not whole:
        return None
    end = kinds["end"][-1] if kinds["end"] else {}
    matrices = [line["matrix"] for line in whole if line.get("matrix")]
    return Census(
        rows=_rows(whole, start),
        guests=_guests(whole, start),
        matrix=_matrix(matrices[-1]) if matrices else pd.DataFrame(),
        header=kinds["header"][0] if kinds["header"] else {},
        end=end,
        warnings=tuple(_warnings(whole, len(kinds["census"]) - len(whole), end, excluded)),
    )


KINDS = ("header", "census", "end")


def _is_whole(line: dict[str, Any]) -> bool:
    guests = line.get("guests")
    if not isinstance(guests, dict) or not all(isinstance(each, dict) for each in guests.values()):
        return False
    timed = all(isinstance(line.get(key), int | float) for key in ("n", "monotonic"))
    named = isinstance(line.get("moment"), str)
    return timed and named and all(map(_has_numbers, [line, *guests.values()]))


# How the names of counts end
COUNTS = ("_pages", "_bytes", "_seconds", "_items", "_profit", "_scans", "page_size", "efficiency")
LARGEST = 2**63  # no kernel has a greater number


def _has_numbers(counts: dict[str, Any]) -> bool:
    """Return whether all counts are numbers, or null, which means unknown."""
    flat = _flat({key: value for key, value in counts.items() if key != "guests"})
    return all(_is_number(value) for name, value in flat.items() if name.endswith(COUNTS))


def _is_number(value: object) -> bool:
    if isinstance(value, bool):
        return False
    return value is None or (isinstance(value, int | float) and abs(value) < LARGEST)


# --- frames ---------------------------------------------------------------------------------------


def _rows(lines: list[dict[str, Any]], start: float) -> pd.DataFrame:
    left_out = ("kind", "guests", "matrix", "complaints")
    rows = [
        _flat({key: value for key, value in line.items() if key not in left_out})
        | {"seconds": _since(line, start)}
        for line in lines
    ]
    return _numbers(pd.DataFrame(rows)).set_index("n")


def _guests(lines: list[dict[str, Any]], start: float) -> pd.DataFrame:
    rows = [
        {"n": line["n"], "seconds": _since(line, start), "guest": name, **_flat(counts)}
        for line in lines
        for name, counts in sorted(line["guests"].items())
    ]
    return _numbers(pd.DataFrame(rows, columns=None if rows else ["n", "seconds", "guest"]))


def _since(line: dict[str, Any], start: float) -> float:
    seconds: float = line["monotonic"] - start
    return round(seconds, 3)


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Replace a mapping within a mapping by its entries, with both names as their key."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        within = isinstance(value, dict)
        flat |= _flat(value, f"{prefix}{key}.") if within else {prefix + key: value}
    return flat


def _numbers(table: pd.DataFrame) -> pd.DataFrame:
    """Convert columns that have only numbers and null to float; null becomes NaN."""
    for name in filter(lambda name: is_object_dtype(table[name]), table):
        values = table[name].dropna()
        if values.map(lambda value: isinstance(value, int | float)).all():
            table[name] = table[name].astype(float)
    return table


def _matrix(found: dict[str, Any]) -> pd.DataFrame:
    names, rows = found["guests"], found["pages"]
    if any(len(row) != len(names) for row in rows):  # pandas would fill them up
        raise ValueError("the matrix of a census is not square")
    return pd.DataFrame(rows, index=names, columns=names, dtype=float)


# --- warnings -------------------------------------------------------------------------------------


def _warnings(
    lines: list[dict[str, Any]], torn: int, end: dict[str, Any], excluded: Sequence[str]
) -> Iterator[str]:
    if torn:
        yield f"{torn} of its censuses are incomplete; they are skipped"
    if not end:
        yield "the census program was killed: its end line is missing"
    if missed := end.get("missed"):
        were = "census was" if missed == 1 else "censuses were"
        yield f"{missed} {were} missed because the previous census took too long"
    said: Counter[str] = Counter()
    for line in lines:
        complaints = line.get("complaints", ())
        # At the start, a process may not have its memory yet
        allowed = line["guests"] if line["moment"] == "start" else excluded
        expected = tuple(f"{name}: {reason}" for name in allowed for reason in NOTHING_MERGEABLE)
        said.update({each for each in complaints if not each.startswith(expected)})
        said.update({*_wrong_sums(line)})
    for words, times in said.items():
        where = f" (in {times} of {len(lines)} censuses)" if len(lines) > 1 else ""
        yield f"census: {words}{where}"


def _wrong_sums(line: dict[str, Any]) -> Iterator[str]:
    """Find counts of one census that do not agree with each other."""
    known = {name: value for name, value in line.items() if value is not None}
    for whole, parts in SUMS.items():
        there = {whole, *parts} - OPTIONAL <= known.keys()
        if there and known[whole] != sum(known.get(part, 0) for part in parts):
            yield f"{whole} is not {' + '.join(parts)}: it cannot be trusted"
    if known.get("saved_pages", 0) > known.get("limit_pages", 0):
        yield "saved_pages is more than limit_pages: memory changed while it was read"
    if {"saved_pages", "page_size"} <= known.keys():
        attributed = sum(each.get("attributed_bytes") or 0 for each in line["guests"].values())
        if attributed != known["saved_pages"] * known["page_size"]:
            yield "the sum of attributed_bytes is not the size of saved_pages: it cannot be trusted"
