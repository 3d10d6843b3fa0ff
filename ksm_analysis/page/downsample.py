"""Fewer points that look the same: no minimum and no maximum is lost."""

import numpy as np


def thin(values: np.ndarray, points: int) -> np.ndarray:
    """Pick which values to draw: at most `points` of them, as indices that rise.

    The values are cut into stretches of equal length; each keeps its least and its greatest, and
    the first and the last value of all stay. NaN is neither, but a stretch of nothing else keeps
    one, so that its gap is seen. All are kept if they are few enough. ValueError if `points` < 4.
    """
    if points < 4:
        raise ValueError(f"{points} points are too few: the ends, a minimum and a maximum are 4")
    count = len(values)
    if count <= points:
        return np.arange(count)
    # The reshape wants equal rows: what is over at the end is NaN, which is never picked
    rows = (points - 2) // 2
    size = -(-count // rows)
    padded = np.full(rows * size, np.nan)
    padded[:count] = values
    grid = padded.reshape(rows, size)
    known = ~np.isnan(grid)
    low = np.where(known, grid, np.inf).argmin(axis=1)
    high = np.where(known, grid, -np.inf).argmax(axis=1)
    start = np.arange(rows) * size
    picked = np.unique(np.concatenate([[0], start + low, start + high, [count - 1]]))
    return picked[picked < count]


def envelope(low: np.ndarray, high: np.ndarray, points: int) -> tuple[np.ndarray, ...]:
    """Thin a band of two edges of equal length: (indices, lower edge, upper edge).

    Each stretch is as low as its lowest and as high as its highest value; its index is its first.
    """
    size = max(1, -(-len(low) // max(1, points)))
    start = np.arange(0, len(low), size)
    return start, np.fmin.reduceat(low, start), np.fmax.reduceat(high, start)


def packed(values: np.ndarray) -> np.ndarray:
    """Take the shorter of two forms that show no difference: whole numbers, or 32-bit floats."""
    values = np.asarray(values, dtype=float)
    whole = np.isfinite(values).all() and (values == np.round(values)).all()
    if whole and np.abs(values).max(initial=0) < 2**31:
        return values.astype(np.int32)
    return values.astype(np.float32)
