"""Whether the parts of a trace agree, since its files can be rewritten, filtered, or mixed.

All raise ValueError, which says what is wrong and what is allowed.
"""

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

MOST_COMMON = 4096  # leading bytes: a whole page
ALL_FLAGS = 127
LONGEST = 1e12  # seconds
NUMBER, WHOLE, TEXT = ("a number", int, float), ("a whole number", int), ("a text", str)
Kind = tuple[str | type, ...]
COLUMNS: dict[str, dict[str, Kind]] = {
    "moments": {"moment": TEXT, "monotonic": NUMBER, "seconds": NUMBER},
    "processes": {"name": TEXT, "started": NUMBER},
    "mappings": {"process": WHOLE, "first": WHOLE, "pages": WHOLE},
}
IF_THERE: dict[str, Kind] = {"paused_seconds": NUMBER}  # in moments


def tables(found: Mapping[str, object]) -> dict[str, pd.DataFrame]:
    """Return the tables `moments`, `processes` and `mappings`, given as lists of their columns."""
    made = {name: _table(name, found.get(name)) for name in COLUMNS}
    seconds = made["moments"]["seconds"].to_list()
    if not seconds:
        raise ValueError("`moments` has no row: a trace has one or more")
    for n, (before, now) in enumerate(pairwise([0.0, *seconds])):
        if not before <= now < (LONGEST if n else 1e-9):
            allowed = f"must be {before} or more" if n else "must be 0"
            raise ValueError(f"`moments.seconds` of row {n} is {now}: it {allowed}")
    processes, first = len(made["processes"]), 0
    of_mappings = (made["mappings"][each].to_list() for each in COLUMNS["mappings"])
    for n, (process, start, pages) in enumerate(zip(*of_mappings, strict=True)):
        if not 0 <= process < processes:
            allowed = f"must be the row of one of {processes} processes, from 0"
            raise ValueError(f"`mappings.process` of row {n} is {process}: it {allowed}")
        if start != first or pages < 0:
            allowed = (
                f"must begin at page {first}, where that before ends, and have 0 pages or more"
            )
            raise ValueError(f"`mappings`: row {n} has {pages} pages from {start}: it {allowed}")
        first += pages
    return made


def _table(name: str, found: object) -> pd.DataFrame:
    if not isinstance(found, dict) or not all(isinstance(each, list) for each in found.values()):
        raise ValueError(f"`{name}` must be an object that has a list for each column")
    if len({len(each) for each in found.values()}) > 1:
        raise ValueError(f"`{name}` has columns of different lengths: all must be as long")
    there = {each: kind for each, kind in IF_THERE.items() if each in found}
    for column, (kind, *types) in (COLUMNS[name] | there).items():
        if column not in found:
            raise ValueError(f"`{name}` has no column `{column}`: it must have one")
        for n, value in enumerate(found[column]):
            if type(value) not in types:
                raise ValueError(f"`{name}.{column}` of row {n} is {value!r}: it must be {kind}")
    return pd.DataFrame(found)


def columns(table: pa.Table, expected: dict[str, str], nulls: str = "") -> None:
    """Check names and Arrow types. Only columns that begin with `nulls`, if any, may have them."""
    found = {field.name: str(field.type) for field in table.schema}
    for name in dict.fromkeys([*expected, *found]):
        has, must = (each.get(name, "missing") for each in (found, expected))
        if has != must:
            raise ValueError(f"its column {name} is {has}: it must be {must}")
        if table[name].null_count and not (nulls and name.startswith(nulls)):
            raise ValueError(f"its column {name} has nulls: it must have none")


def pages(contents: NDArray[np.int32], flags: NDArray[np.uint8], mappings: pd.DataFrame) -> None:
    """Check that there is a page for each of the mappings, and how contents are numbered."""
    rows, mapped = contents.shape[1], int(mappings["pages"].sum())
    if rows != mapped:
        raise ValueError(f"it has {rows} pages: it must have the {mapped} of its mappings")
    if flags.max(initial=0) > ALL_FLAGS:
        raise ValueError(f"a page has the flags {flags.max()}: {ALL_FLAGS} is the most")
    top = 0
    for n, now in enumerate(contents):
        highest = np.maximum.accumulate(np.append(np.int32(top), now))
        if now.min(initial=0) < -1 or (new := np.diff(highest) > 1).any():
            bad = now.min() if now.min() < -1 else now[new][0]
            allowed = "-1 is none, and each is at most one above all before"
            raise ValueError(f"a content of moment {n} has the number {bad}: {allowed}")
        top = int(highest[-1])


def order(found: pd.DataFrame, contents: NDArray[np.int32]) -> None:
    """Check that each content has a place in the order."""
    there = int(contents.max(initial=0)) + 1
    if len(found) != there:
        raise ValueError(f"it has {len(found)} contents: it must have {there}, as the pages have")
    if not np.array_equal(np.sort(found["rank"]), np.arange(there)):
        raise ValueError(f"its ranks must be 0 to {there - 1}, and each must be there once")
    if found["lcp"].max() > MOST_COMMON:
        raise ValueError(f"an lcp is {found['lcp'].max()}: {MOST_COMMON} is the most")
