"""Figures of writes: how long those to merged pages took, beside those to others."""

from typing import Any

import numpy as np
import pandas as pd

from ksm_analysis.analysis.words import join
from ksm_analysis.metrics.catalog import Metric
from ksm_analysis.metrics.measurement import Measured
from ksm_analysis.metrics.values import gauge
from ksm_analysis.metrics.writes import MEASURED, by_phase
from ksm_analysis.page import drawing, tails
from ksm_analysis.page.drawing import COLOURS, DASHES, Panel, text
from ksm_analysis.page.figures import meta_of, stack
from ksm_analysis.page.tails import LOGARITHMIC
from ksm_analysis.results.writes import LATE, PHASES

AXIS = Metric("write", "% of writes", "derived", "Writes", "", gauge(""))
TIME = Metric("write", "µs", "derived", "Writes", "", gauge(""))
SERIES = (*MEASURED, LATE)
FEW = 30  # fewer writes have no distribution
SHOWN = {
    "p50_us": ("p50", "circle"),
    "p99_us": ("p99", "diamond-open"),
    "p999_us": ("p99.9", "triangle-up-open"),
}
FACTORS = ("host", "workload")


def distributions(measured: list[Measured]) -> list[Panel]:
    """Draw the share of writes that took longer than a time, for each phase and kind of page.

    A panel for each workload. Writes of all repetitions are counted together.
    """
    runs = [each.run for each in measured if each.run.writes is not None]
    tables = [run.writes.rows for run in runs if run.writes is not None]
    if not runs:
        return []
    rows = stack(runs, tables)
    rows = rows[rows["kind"].isin(MEASURED)]
    return tails.finished([(title, _tails(part)) for title, part in _panels(rows)])


def _panels(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    varied = [name for name in FACTORS if rows[name].nunique() > 1]
    series = rows.groupby(varied, sort=False) if varied else [((), rows)]
    return [(join(*map(str, names)), part) for names, part in series]


def _tails(part: pd.DataFrame) -> dict[str, Any]:
    figure = drawing.figure(AXIS)
    several = bool(part.groupby("phase")["knobs"].nunique().max() > 1)
    for (phase, knobs, kind), writes in part.groupby(["phase", "knobs", "kind"], sort=False):
        if len(writes) >= FEW:
            label = join(str(kind), str(phase), str(knobs) if several else "")
            place, dash = MEASURED.index(str(kind)), PHASES.index(str(phase))
            look = {"color": COLOURS[place], "dash": DASHES[dash], "shape": "hv", "width": 2}
            line = _tail(writes["ns"].to_numpy() / 1000, label)
            figure["data"].append(line | {"line": look, "meta": meta_of(writes, "guests")})
    return tails.axes(figure, "µs")


def _tail(microseconds: np.ndarray, label: str) -> dict[str, Any]:
    x, y = tails.tail(microseconds, np.ones(len(microseconds), dtype=int))
    return {
        "x": x,
        "y": y,
        "name": text(f"{label} (n = {len(microseconds):,})"),
        "mode": "lines",
        "hovertemplate": "%{y:,.3~g} % took %{x:,.3~g} µs or longer<extra>%{fullData.name}</extra>",
    }


def percentiles(measured: list[Measured]) -> list[Panel]:
    """Draw percentiles by phase: points for each kind of page and percentile.

    A panel for each workload. Values are means of the percentiles of repetitions.
    """
    runs = [each.run for each in measured if each.run.writes is not None]
    if not runs:
        return []
    rows = stack(runs, [by_phase(run) for run in runs])
    rows = rows[rows["kind"].isin(SERIES)]
    panels = [(title, _points(part)) for title, part in _panels(rows)]
    every = np.log10(rows[[*SHOWN]].clip(lower=0.001))
    low, high = every.min(axis=None) - 0.3, every.max(axis=None) + 0.3  # room for markers
    for _, figure in panels:  # the same scale, so that readers can compare them
        figure["layout"]["yaxis"]["range"] = [float(low), float(high)]
    return drawing.finished(panels)


def _points(part: pd.DataFrame) -> dict[str, Any]:
    figure = drawing.figure(TIME)
    several = bool(part.groupby("phase")["knobs"].nunique().max() > 1)
    for place, kind in enumerate(SERIES):
        for name, (words, symbol) in SHOWN.items():
            known = part[(part["kind"] == kind) & part[name].notna()]
            if len(known):
                points = _of_phases(known, name, several)
                look = {"color": COLOURS[place], "symbol": symbol, "size": 9}
                figure["data"].append(points | {"name": f"{kind}, {words}", "marker": look})
    figure["layout"]["xaxis"] |= {
        "type": "category",
        "categoryorder": "array",
        "categoryarray": [text(phase) for phase in PHASES],
    }
    figure["layout"]["yaxis"] |= LOGARITHMIC | {"rangemode": "normal"}
    return figure


def _of_phases(known: pd.DataFrame, name: str, several: bool) -> dict[str, Any]:
    cells = known.groupby(["phase", "knobs"], sort=False)
    means = cells.agg(value=(name, "mean"), n=("n", "sum")).reset_index()
    labels = zip(means["phase"], means["knobs"].astype(str), strict=True)
    common = {key: value for key, value in meta_of(known, "guests").items() if key != "knobs"}
    return {
        "x": [text(join(phase, knobs if several else "")) for phase, knobs in labels],
        "y": means["value"].to_list(),
        "customdata": means["n"].to_list(),
        "mode": "markers",
        "hovertemplate": "%{x}: %{y:,.3~g} µs of %{customdata:,} writes"
        "<extra>%{fullData.name}</extra>",
        "meta": common | {"by": {"knobs": means["knobs"].to_list()}},
    }
