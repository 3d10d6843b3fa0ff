"""Tails of times: the share that is as long or longer, on logarithmic axes.

A few long times among many are what a tail is about. In a histogram, nobody sees them.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ksm_analysis.page import drawing
from ksm_analysis.page.drawing import Panel

A_DECADE = 40  # points in a power of ten, at most
LOGARITHMIC = {"type": "log", "dtick": 1, "exponentformat": "none"}
SHORTEST = 1e-3  # a time of 0 counts as this, in the unit of the figure


def tail(times: NDArray[np.float64], counts: NDArray[np.int64]) -> tuple[list[float], list[float]]:
    """Return times, in rising order, and which percent of all are as long or longer.

    `counts` is how often there was each of `times`, in any unit.
    """
    bucket = np.floor(A_DECADE * np.log10(np.maximum(times, SHORTEST))).astype(int)
    places, of = np.unique(bucket, return_inverse=True)
    shortest = np.full(len(places), np.inf)
    np.minimum.at(shortest, of, np.maximum(times, SHORTEST))
    number = np.bincount(of, weights=counts)
    longer = number[::-1].cumsum()[::-1]
    return shortest.tolist(), (100 * longer / longer[0]).tolist()


def axes(figure: dict[str, Any], unit: str) -> dict[str, Any]:
    """Make both axes of a figure logarithmic; return it."""
    figure["layout"]["xaxis"] |= {"title": unit, **LOGARITHMIC}
    figure["layout"]["yaxis"] |= LOGARITHMIC | {"rangemode": "normal"}
    return figure


def finished(panels: list[tuple[str, dict[str, Any]]]) -> list[Panel]:
    """Let Plotly check the panels. All have the same scales, so that readers can compare them."""
    lines = [line for _, figure in panels for line in figure["data"]]
    for axis in ("x", "y"):
        values = [value for line in lines for value in line[axis]]
        for _, figure in panels if values else []:
            low, high = math.log10(min(values)), math.log10(max(values))
            figure["layout"][f"{axis}axis"]["range"] = [low - 0.1, high + 0.1]
    return drawing.finished(panels)
