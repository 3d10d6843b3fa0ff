"""The columns of the Parquet files of a trace, which have each fact once. docs/traces.md has them.

The order of n different contents takes log2(n!) bits: 2.56 bytes for each of 4 million. Their
numbers by rank take log2(n) bits, 0.18 bytes more: of 256 numbers, that which comes last is still
written with 8 bits, although no other is left. So of each block of 256 numbers, the place of each
is counted among those that are left.
"""

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

CHANGED = 128  # flag, in the file only: the content is not that of the moment before
BLOCK = 256  # contents

Numbers = NDArray[np.int32]
Bytes = NDArray[np.uint8]


def of_pages(contents: Numbers, flags: Bytes) -> dict[str, pa.Array]:
    """Make the columns of all moments. Contents must be numbered in the order of first sight.

    `flags_N`: which flags are not those of the moment before, and CHANGED. `content_N`: the content
    of a page that CHANGED; null if it is seen for the first time, since it has the next number.
    """
    columns: dict[str, pa.Array] = {}
    before, had, top = np.full_like(contents[0], -1), np.zeros_like(flags[0]), 0
    for n, (now, has) in enumerate(zip(contents, flags, strict=True)):
        highest = np.maximum.accumulate(np.append(np.int32(top), now))
        changed, known = now != before, now <= highest[:-1]
        if (top := top + int(np.count_nonzero(~known))) != highest[-1]:
            raise ValueError("contents are not numbered in the order of first sight")
        columns[f"content_{n}"] = pa.array(now, mask=~(changed & known))
        columns[f"flags_{n}"] = pa.array((has ^ had) | changed * np.uint8(CHANGED))
        before, had = now, has
    return columns


def pages_of(table: pa.Table, moments: int) -> tuple[Numbers, Bytes]:
    """Return the contents and flags of all moments, which of_pages() has written."""
    contents, flags = (np.empty((moments, len(table)), kind) for kind in (np.int32, np.uint8))
    before, had, top = np.full(len(table), -1, np.int32), np.zeros(len(table), np.uint8), 0
    for n, (now, has) in enumerate(zip(contents, flags, strict=True)):
        values, written = table[f"content_{n}"], table[f"flags_{n}"].to_numpy()
        known = values.is_valid().to_numpy()
        now[:], has[:] = before, (written & ~np.uint8(CHANGED)) ^ had
        now[known] = values.drop_null().to_numpy()
        new = (written & CHANGED > 0) & ~known
        now[new] = np.arange(top + 1, top + 1 + new.sum())
        before, had, top = now, has, top + int(new.sum())
    return contents, flags


def of_order(order: pd.DataFrame) -> dict[str, NDArray[Any]]:
    """Make the columns of the contents, by rank: `block` of its number, `lcp`, `exact`.

    `place` is in another order: of each block that which comes first by rank, then the second, and
    so on. It counts the numbers of the block that are lower and have not come.
    """
    by_rank = order.sort_values("rank")
    block, place = np.divmod(by_rank.index.to_numpy(), BLOCK)
    rows, there = _rows_of(block)
    rows[there] = place[np.argsort(block, kind="stable")]
    for n in range(BLOCK):
        rows[:, n + 1 :] -= rows[:, n + 1 :] > rows[:, n : n + 1]
    return {
        "block": block.astype(np.int32),
        "place": rows.T[there.T],
        "lcp": by_rank["lcp"].to_numpy(),
        "exact": by_rank["exact"].to_numpy(),
    }


def order_of(table: pa.Table) -> pd.DataFrame:
    """Return `rank`, `lcp` and `exact` of each content, which of_order() has written."""
    block = table["block"].to_numpy()
    rows, there = _rows_of(block)
    rows.T[there.T] = table["place"].to_numpy()
    for n in reversed(range(BLOCK)):
        rows[:, n + 1 :] += rows[:, n + 1 :] >= rows[:, n : n + 1]
    numbers = block * BLOCK
    numbers[np.argsort(block, kind="stable")] += rows[there]
    frame: pd.DataFrame = table.select(["lcp", "exact"]).to_pandas()
    frame.insert(0, "rank", np.arange(len(frame), dtype=np.int32))
    frame = frame.set_index(numbers).sort_index()
    if not np.array_equal(frame.index, np.arange(len(frame))):
        raise ValueError("not each content has one place in the order")
    return frame.reset_index(drop=True)


def _rows_of(block: NDArray[np.integer]) -> tuple[Bytes, NDArray[np.bool_]]:
    """Make a row for each block, and say which of its cells are there: the last may be shorter."""
    rows = np.tile(np.arange(BLOCK, dtype=np.uint8), (-(-len(block) // BLOCK), 1))
    return rows, np.arange(rows.size).reshape(rows.shape) < len(block)
