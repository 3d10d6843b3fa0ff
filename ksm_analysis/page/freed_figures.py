"""The figure of freed memory: its parts as stacked bars, beside what the counters say."""

from typing import Any

import pandas as pd

from ksm_analysis.analysis.words import guest_word, join
from ksm_analysis.metrics.catalog import HOST
from ksm_analysis.metrics.freed import Freed, counted_mib, freed
from ksm_analysis.metrics.measurement import Measured
from ksm_analysis.page import drawing
from ksm_analysis.page.drawing import COLOURS, GREY, Panel, pattern, text
from ksm_analysis.page.figures import add_meta, stack

# The parts that make memory free, and those that take memory: name, words, pattern of the bar
GAINS = (
    ("merged_mib", "merged", ""),
    ("zero_mib", "zeros, by ksmd", "/"),
    ("split_zero_mib", "zeros, by splits", "x"),
    ("residual_mib", "residual", "."),
)
LOSSES = (("overhead_mib", "overhead of KSM", "-"), ("grown_mib", "growth of processes", "|"))
COUNTED = "reclaimed_mib"
AXIS = next(metric for metric in HOST if metric.name == COUNTED)
FACTORS = ("host", "workload")  # a panel for each combination


def of_parts(measured: list[Measured]) -> list[Panel]:
    """Draw what was freed: a bar for each setting and number of guests, a panel for each workload.

    Values are means over repetitions. Without a census of the start, the counters of KSM say what
    was merged, and everything else is in the residual.
    """
    rows = _rows(measured)
    if rows.empty:
        return []
    varied = [name for name in FACTORS if rows[name].nunique() > 1]
    series = rows.groupby(varied, sort=False) if varied else [((), rows)]
    return drawing.finished([(join(*map(str, names)), _panel(part)) for names, part in series])


def _rows(measured: list[Measured]) -> pd.DataFrame:
    """Return one row for each run that knows what it freed: factors, parts, what is counted."""
    known = [(each, parts) for each in measured if not pd.isna((parts := freed(each)).freed_mib)]
    tables = [
        pd.DataFrame([{**parts._asdict(), COUNTED: counted_mib(each)}]) for each, parts in known
    ]
    return stack([each.run for each, _ in known], tables) if known else pd.DataFrame()


def _panel(part: pd.DataFrame) -> dict[str, Any]:
    cells = part.groupby(["guests", "knobs"], sort=False)
    means = cells[[*Freed._fields, COUNTED]].mean().reset_index()
    figure = drawing.figure(AXIS)
    several = part["knobs"].nunique() > 1
    labels = zip(means["guests"].astype(int), means["knobs"].astype(str), strict=True)
    names = [text(join(guest_word(n), knobs if several else "") or "all") for n, knobs in labels]
    losses = [(name, words, shape, -means[name]) for name, words, shape in LOSSES]
    gains = [(name, words, shape, means[name]) for name, words, shape in GAINS]
    for colour, (_, words, shape, values) in enumerate(gains + losses):
        figure["data"].append(_bar(names, values, words, colour, shape))
    figure["data"].append(_points(names, means["freed_mib"], "freed, measured", "diamond"))
    figure["data"].append(_points(names, means["host_freed_mib"], "of the host", "diamond-open"))
    figure["data"].append(_points(names, means[COUNTED], "counted by KSM", "circle-open"))
    figure["layout"]["barmode"] = "relative"
    figure["layout"]["xaxis"] |= {"type": "category"}
    by = {"guests": means["guests"].to_list(), "knobs": means["knobs"].to_list()}
    add_meta(figure, {**{name: part[name].iloc[0] for name in FACTORS}, "by": by})
    return figure


def _bar(
    names: list[str], values: pd.Series, words: str, colour: int, shape: str
) -> dict[str, Any]:
    return {
        "type": "bar",
        "x": names,
        "y": [None if pd.isna(value) else value for value in values],
        "name": words,
        "marker": {"color": (*COLOURS, GREY)[colour], "pattern": pattern(shape)},
        "hovertemplate": f"%{{x}}: %{{y:,.2f}} MiB<extra>{words}</extra>",
    }


def _points(names: list[str], values: pd.Series, words: str, symbol: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": names,
        "y": [None if pd.isna(value) else value for value in values],
        "name": words,
        "marker": {"symbol": symbol, "size": 11, "color": GREY, "line": {"width": 2}},
        "hovertemplate": f"%{{x}}: %{{y:,.2f}} MiB<extra>{words}</extra>",
    }
