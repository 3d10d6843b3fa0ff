"""What all figures share: colours and their second cues, axes, names, lines."""

import textwrap
from html import escape

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ksm_analysis.downsample import envelope, packed, thin
from ksm_analysis.metrics import MIB, Metric

# Okabe and Ito's colours, which people with any colour vision tell apart; black, and yellow, which
# is faint on white, are left out since pages are light or dark.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8a8a8a")
MARKERS = ("circle", "square", "diamond", "triangle-up", "x", "star", "triangle-down", "pentagon")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
GREY = "#8a8a8a"
LINE_LENGTH = 36  # characters of a legend's line, so that it fits a telephone's screen


def text(value: object) -> str:
    """Make text of a name: Plotly would read `<b>` in it as markup, and cut off what is long."""
    lines = textwrap.wrap(str(value), LINE_LENGTH) or [""]
    return "<br>".join(escape(line, quote=False) for line in lines)


def join(*names: str) -> str:
    """Put names side by side; empty ones take no room."""
    return " · ".join(filter(None, names))


def guest_word(count: int) -> str:
    """Write `1 guest`, `2 guests`; nothing without guests."""
    return {0: "", 1: "1 guest"}.get(count, f"{count} guests")


def figure(metric: Metric) -> go.Figure:
    """Make an empty figure with axes for a metric and a legend below."""
    unit = "MiB" if metric.unit == "bytes" else metric.unit
    # All at once: Plotly checks each change of a layout anew
    return go.Figure(
        layout={
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
                "maxheight": 0.9,  # else a long legend scrolls within itself
            },
            "xaxis": {"automargin": True, "zeroline": False, "ticks": "outside"},
            "yaxis": {
                "title": unit,
                "automargin": True,
                "rangemode": "tozero",
                "separatethousands": True,
                "exponentformat": "none",
            },
        }
    )


def shown(metric: Metric, values: pd.Series) -> pd.Series:
    """Turn bytes into MiB, as figures show them."""
    return values / MIB if metric.unit == "bytes" else values


def mean_line(rows: pd.DataFrame, x: str, metric: Metric, label: str) -> dict:
    """Mean over repetitions at each x; the number of runs is in the hover text, and gaps stay.

    Against time, there is a gap as well where not all runs have a value: where one ends before the
    others, the mean of the rest would jump although no run does.
    """
    groups = shown(metric, rows[metric.name]).groupby(rows[x])
    mean, count = groups.mean(), groups.count()
    if x == "interval":
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


def style(index: int, series: int) -> dict:
    """Make the look of a line: colour and marker tell `index`, the dash tells `series`."""
    colour = COLOURS[index % len(COLOURS)]
    # Where colours begin again, the dash tells the second of a colour from the first
    dash = DASHES[(series + index // len(COLOURS)) % len(DASHES)]
    return {
        "line": {"color": colour, "dash": dash, "width": 2},
        "marker": {"color": colour, "symbol": MARKERS[index % len(MARKERS)], "size": 7},
    }


def time_line(seconds: np.ndarray, values: np.ndarray, label: str, points: int) -> dict:
    """Every sample of one run as a line of at most `points` points, with its peaks."""
    kept = thin(values, points)
    return {
        "x": packed(seconds[kept]),
        "y": packed(values[kept]),
        "name": text(label),
        "mode": "lines",
        "hovertemplate": "%{x:,.1f} s: %{y:,.6~g}<extra>%{fullData.name}</extra>",
    }


def band(x: np.ndarray, low: np.ndarray, high: np.ndarray, label: str, points: int) -> list[dict]:
    """Make two lines with the room between them filled: from the lowest to the highest."""
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


def same_scale(panels: list[tuple[str, go.Figure]], values: pd.Series) -> list:
    """Let panels be compared by eye; zero is always on the scale."""
    low, high = min(0.0, values.min()), max(0.0, values.max())
    margin = 0.05 * (high - low) or 1.0
    if len(panels) > 1:
        for _, each in panels:
            each.update_yaxes(range=[low - margin if low < 0 else 0, high + margin])
    return panels
