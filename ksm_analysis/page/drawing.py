"""What all figures share: colours, markers and dashes, axes, names, lines.

A figure is a plain dictionary in Plotly's format until it is finished. Plotly then takes it
without checking it, which would take most of the time. Tests set CHECKS, so that it does.
"""

import textwrap
from html import escape
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ksm_analysis.metrics.catalog import Metric
from ksm_analysis.metrics.values import MIB
from ksm_analysis.page.downsample import envelope, packed, thin

# Okabe and Ito's colours, which people with any colour vision can distinguish. Black is left out
# because pages can be dark, and yellow because it is faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8a8a8a")
MARKERS = ("circle", "square", "diamond", "triangle-up", "x", "star", "triangle-down", "pentagon")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
GREY = "#8a8a8a"
Values = TypeVar("Values", pd.Series, pd.DataFrame)
Panel = tuple[str, go.Figure]  # the title is empty if there is only one panel
CHECKS = False  # whether Plotly checks each figure
LINE_LENGTH = 36  # characters in a line of the legend, to fit the screen of a phone


def text(value: object) -> str:
    """Escape and wrap a name: Plotly would treat `<b>` in it as markup, and cut long names."""
    lines = textwrap.wrap(str(value), LINE_LENGTH) or [""]
    return "<br>".join(escape(line, quote=False) for line in lines)


def figure(metric: Metric) -> dict[str, Any]:
    """Start a figure: axes for a metric and a legend below, without lines."""
    unit = "MiB" if metric.unit == "bytes" else metric.unit
    return {
        "data": [],
        "layout": {
            "template": {},
            "margin": {"l": 12, "r": 12, "t": 28, "b": 12},
            "hovermode": "closest",
            "showlegend": True,
            "legend": {
                "orientation": "h",
                "yref": "container",
                "y": 0,
                "yanchor": "bottom",
                "x": 0,
                "itemwidth": 44,
                "maxheight": 0.9,  # otherwise a long legend gets its own scroll bar
            },
            "xaxis": {"automargin": True, "zeroline": False, "ticks": "outside"},
            "yaxis": {
                "title": unit,
                "automargin": True,
                "rangemode": "tozero",
                "separatethousands": True,
                "exponentformat": "none",
            },
            "shapes": [],
            "annotations": [],
        },
    }


def shown(metric: Metric, values: Values) -> Values:
    """Convert bytes to MiB, as figures show them."""
    return values / MIB if metric.unit == "bytes" else values


def mean_line(rows: pd.DataFrame, x: str, metric: Metric, label: str) -> dict[str, Any]:
    """Make a line of means over repetitions at each x, with the number of runs as hover text.

    Gaps stay. Over time, there is also a gap where a run has no value: if one run ends before the
    others, the mean of the rest would jump although no run does.
    """
    groups = shown(metric, rows[metric.name]).groupby(rows[x])
    mean, count = groups.mean(), groups.count()
    if x in ("interval", "seconds"):
        mean = mean.where(count == count.max())
    of = ", mean of %{customdata} runs" if rows["repetition"].nunique() > 1 else ""
    hover = f"{x} %{{x}}: %{{y:,.6~g}}{of}<extra>%{{fullData.name}}</extra>"
    return {
        "x": mean.index.to_list(),
        "y": mean.to_list(),
        "customdata": count.to_list(),
        "name": text(label),
        "mode": "lines+markers" if len(mean) <= 40 else "lines",
        "hovertemplate": hover,
    }


def style(index: int, series: int) -> dict[str, Any]:
    """Return the style of a line: colour and marker for `index`, dash for `series`."""
    colour = COLOURS[index % len(COLOURS)]
    # When colours repeat, the dash distinguishes lines of the same colour
    dash = DASHES[(series + index // len(COLOURS)) % len(DASHES)]
    return {
        "line": {"color": colour, "dash": dash, "width": 2},
        "marker": {"color": colour, "symbol": MARKERS[index % len(MARKERS)], "size": 7},
    }


def pattern(shape: str) -> dict[str, Any]:
    """Draw lines over a bar, for readers who cannot see its colour."""
    return {"shape": shape, "fillmode": "overlay", "fgcolor": "white", "solidity": 0.2}


def time_line(seconds: np.ndarray, values: np.ndarray, label: str, points: int) -> dict[str, Any]:
    """Make a line of all samples of one run, with at most `points` points and all peaks."""
    kept = thin(values, points)
    return {
        "x": packed(seconds[kept]),
        "y": packed(values[kept]),
        "name": text(label),
        "mode": "lines",
        "hovertemplate": "%{x:,.1f} s: %{y:,.6~g}<extra>%{fullData.name}</extra>",
    }


def band(
    x: np.ndarray, low: np.ndarray, high: np.ndarray, label: str, points: int
) -> list[dict[str, Any]]:
    """Make two lines, lowest and highest, with the area between them filled."""
    start, low, high = envelope(low, high, points // 2)
    edge = {"mode": "lines", "line": {"width": 0, "color": GREY}, "hoverinfo": "skip"}
    lower, upper = (
        {
            "x": packed(x[start]),
            "y": packed(values),
            "name": text(label),
            "meta": {"line": f"{which} of {label}"},
            **edge,
        }
        for which, values in (("lowest", low), ("highest", high))
    )
    fill = {"fill": "tonexty", "fillcolor": "rgba(138, 138, 138, 0.3)"}
    return [lower | {"showlegend": False}, upper | fill]


def shade(figure: dict[str, Any], name: str, start: float, stop: float, words: str) -> None:
    """Shade from start to stop, with words above. The page hides it with the lines of `name`."""
    room = {
        "name": name,
        "type": "rect",
        "x1": stop,
        "fillcolor": GREY,
        "opacity": 0.18,
        "line": {"width": 0},
        "layer": "below",
    }
    _upright(figure, start, room, {"name": name, "text": words, "xanchor": "left"})


def mark(figure: dict[str, Any], at: float, words: str, to_the: str) -> None:
    """Draw a vertical dotted line, with words above it, on its left or right (`to_the`)."""
    line = {"type": "line", "x1": at, "line": {"color": GREY, "width": 1, "dash": "dot"}}
    anchor = {"left": "right", "right": "left"}[to_the]
    _upright(figure, at, line, {"text": words, "xanchor": anchor})


def _upright(
    figure: dict[str, Any], x: float, shape: dict[str, Any], words: dict[str, Any]
) -> None:
    """Add a shape as high as the figure, with words at its start."""
    axes = {"xref": "x", "yref": "y domain"}
    figure["layout"]["shapes"].append({**axes, "x0": x, "y0": 0, "y1": 1, **shape})
    figure["layout"]["annotations"].append(
        {**axes, "x": x, "y": 1, "yanchor": "bottom", "showarrow": False, "font": {"size": 11}}
        | words
    )


def finished(
    panels: list[tuple[str, dict[str, Any]]], values: pd.Series | None = None
) -> list[Panel]:
    """Make Plotly's figures.

    `values` are all values that they show. With `values`, several panels have the same scale, so
    that readers can compare them. The scale always includes zero.
    """
    if values is not None and len(panels) > 1:
        low, high = min(0.0, values.min()), max(0.0, values.max())
        margin = 0.05 * (high - low) or 1.0
        for _, each in panels:
            each["layout"]["yaxis"]["range"] = [low - margin if low < 0 else 0, high + margin]
    for _, each in panels:
        for axis in (each["layout"]["xaxis"], each["layout"]["yaxis"]):
            if isinstance(words := axis.get("title"), str):
                axis["title"] = {"text": words}
    return [(title, go.Figure(each, _validate=CHECKS)) for title, each in panels]
