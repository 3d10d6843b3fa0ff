"""Curves of a run over its intervals, thinned for a page that shows thousands of runs."""

import numpy as np

from ksm_analysis.metrics.measurement import Measured
from ksm_analysis.results.once import once

METRICS = ("reclaimed_mib", "ksmd_cpu_percent", "general_profit", "pages_volatile")
POINTS = 32


@once()
def curves(measured: Measured) -> dict[str, list[float]]:
    """Return `seconds`, the ends of at most POINTS intervals, and the values of METRICS there."""
    host = measured.host
    chosen = np.unique(np.linspace(0, len(host) - 1, min(len(host), POINTS)).round().astype(int))
    seconds = host.index.to_numpy(dtype=float)[chosen] * measured.run.plan.sampling.interval
    values = {name: host[name].to_numpy(dtype=float)[chosen] for name in METRICS}
    return {"seconds": seconds.tolist(), **{name: each.tolist() for name, each in values.items()}}
