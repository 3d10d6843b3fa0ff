"""Fewer points for the same picture: no minimum and no maximum is lost."""

import numpy as np


def thin(values: np.ndarray, points: int) -> np.ndarray:
    """Choose at most `points` values to draw; return their indices in rising order.

    The values are divided into stretches of equal length. Each stretch keeps its lowest and its
    highest value. The first and the last of all values are kept too. NaN is ignored, but a stretch
    of only NaN keeps one, so that the gap stays visible. If there are at most `points` values, all
    are kept. Raise ValueError if `points` < 4.
    """
    if points < 4:
        raise ValueError(f"{points} points are too few: the ends, a minimum and a maximum are 4")
    count = len(values)
    if count <= points:
        return np.arange(count)
    # All rows must have equal length. The last one is filled with NaN, which is never picked
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
    """Thin a band of two edges of equal length: return (indices, lower edge, upper edge).

    Each stretch reaches from its lowest to its highest value. Its index is that of its first value.
    """
    size = max(1, -(-len(low) // max(1, points)))
    start = np.arange(0, len(low), size)
    return start, np.fmin.reduceat(low, start), np.fmax.reduceat(high, start)


def packed(values: np.ndarray) -> np.ndarray:
    """Convert to 32-bit integers if all values are whole, else to 32-bit floats, to save space."""
    values = np.asarray(values, dtype=float)
    whole = np.isfinite(values).all() and (values == np.round(values)).all()
    if whole and np.abs(values).max(initial=0) < 2**31:
        return values.astype(np.int32)
    return values.astype(np.float32)
