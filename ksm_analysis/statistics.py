"""What may be concluded from repetitions. The run is the unit: samples of runs are never pooled."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over runs. `low` and `high` bound it with 95 % confidence; None for fewer than two."""

    mean: float
    low: float | None
    high: float | None
    runs: int


def estimate(values: Sequence[float]) -> Estimate | None:
    """Estimate the mean of one value a run, by Student's t. NaN counts as no run; None without any.

    Source: scipy.stats.t.
    """
    known = np.asarray(values, dtype=float)
    known = known[~np.isnan(known)]
    if not len(known):
        return None
    mean = float(known.mean())
    if len(known) < 2:
        return Estimate(mean, None, None, 1)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(known) - 1) * stats.sem(known))
    return Estimate(mean, mean - half, mean + half, len(known))
