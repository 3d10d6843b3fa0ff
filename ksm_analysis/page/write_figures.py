"""Figures of writes: how long those to merged pages took, beside those to others."""

from typing import Any

import numpy as np
import pandas as pd

from ksm_analysis.analysis.words import join
from ksm_analysis.metrics.catalog import Metric
from ksm_analysis.metrics.measurement import Measured
from ksm_analysis.metrics.values import gauge
from ksm_analysis.metrics.writes import MEASURED, by_phase
from ksm_analysis.page import drawing
from ksm_analysis.page.drawing import COLOURS, DASHES, MARKERS, Panel, text
from ksm_analysis.page.figures import meta_of, stack
from ksm_analysis.results.writes import PHASES

AXIS = Metric("write", "% of writes", "derived", "Writes", "", gauge(""))
TIME = Metric("write", "µs", "derived", "Writes", "", gauge(""))
A_DECADE = 10  # buckets in a power of ten
FEW = 30  # fewer writes have no distribution
SHOWN = {"p50_us": "p50", "p99_us": "p99", "p999_us": "p99.9"}
FACTORS = ("host", "workload")
LOGARITHMIC = {"type": "log", "dtick": 1, "exponentformat": "none"}


def distributions(measured: list[Measured]) -> list[Panel]:
    """Draw a histogram in logarithmic buckets: a line for each phase and kind of page.

    A panel for each workload. Writes of all repetitions are counted together.
    """
    runs = [each.run for each in measured if each.run.writes is not None]
    tables = [run.writes.rows for run in runs if run.writes is not None]
    if not runs:
        return []
    rows = stack(runs, tables)
    rows = rows[rows["kind"].isin(MEASURED)]
    return drawing.finished([(title, _histograms(part)) for title, part in _panels(rows)])


def _panels(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    varied = [name for name in FACTORS if rows[name].nunique() > 1]
    series = rows.groupby(varied, sort=False) if varied else [((), rows)]
    return [(join(*map(str, names)), part) for names, part in series]


def _histograms(part: pd.DataFrame) -> dict[str, Any]:
    figure = drawing.figure(AXIS)
    several = bool(part.groupby("phase")["knobs"].nunique().max() > 1)
    for (phase, knobs, kind), writes in part.groupby(["phase", "knobs", "kind"], sort=False):
        if len(writes) >= FEW:
            label = join(str(kind), str(phase), str(knobs) if several else "")
            place, dash = MEASURED.index(str(kind)), PHASES.index(str(phase))
            look = {"color": COLOURS[place], "dash": DASHES[dash], "shape": "hvh", "width": 2}
            line = _histogram(writes["ns"].to_numpy() / 1000, label)
            figure["data"].append(line | {"line": look, "meta": meta_of(writes, "guests")})
    figure["layout"]["xaxis"] |= {"title": "µs", **LOGARITHMIC}
    return figure


def _histogram(microseconds: np.ndarray, label: str) -> dict[str, Any]:
    """Count in buckets of equal width of the logarithm; 0 counts as the shortest, 1 ns."""
    bucket = np.floor(A_DECADE * np.log10(np.maximum(microseconds, 0.001))).astype(int)
    counted = pd.Series(bucket).value_counts()
    counted = counted.reindex(range(bucket.min() - 1, bucket.max() + 2), fill_value=0)
    return {
        "x": [float(10 ** ((each + 0.5) / A_DECADE)) for each in counted.index],
        "y": (100 * counted / len(bucket)).to_list(),
        "name": text(f"{label} (n = {len(bucket):,})"),
        "mode": "lines",
        "hovertemplate": "about %{x:,.3~g} µs: %{y:,.3~g} %<extra>%{fullData.name}</extra>",
    }


def percentiles(measured: list[Measured]) -> list[Panel]:
    """Draw percentiles by workload and phase: points for each kind of page.

    A panel for each percentile. Values are means of the percentiles of repetitions.
    """
    runs = [each.run for each in measured if each.run.writes is not None]
    if not runs:
        return []
    rows = stack(runs, [by_phase(run) for run in runs])
    rows = rows[rows["kind"].isin(MEASURED)]
    panels = [(words, _points(rows, name)) for name, words in SHOWN.items()]
    return drawing.finished([(words, figure) for words, figure in panels if figure["data"]])


def _points(rows: pd.DataFrame, name: str) -> dict[str, Any]:
    figure = drawing.figure(TIME)
    known = rows[rows[name].notna()]
    varied = [factor for factor in ("host", "workload", "knobs") if rows[factor].nunique() > 1]
    for place, kind in enumerate(MEASURED):
        part = known[known["kind"] == kind]
        if part.empty:
            continue
        means = part.groupby([*varied, "phase"], sort=False)[[name, "n"]].agg(
            {name: "mean", "n": "sum"}
        )
        labels = [join(*_named(index)) for index in means.index]
        common = meta_of(part, "guests")
        by = {factor: means.index.get_level_values(factor).to_list() for factor in varied}
        figure["data"].append(
            {
                "x": [text(label) for label in labels],
                "y": means[name].to_list(),
                "customdata": means["n"].to_list(),
                "name": kind,
                "mode": "markers",
                "marker": {"color": COLOURS[place], "symbol": MARKERS[place], "size": 9},
                "hovertemplate": "%{x}: %{y:,.3~g} µs, n = %{customdata}"
                "<extra>%{fullData.name}</extra>",
                "meta": {name: value for name, value in common.items() if name not in by}
                | {"by": by},
            }
        )
    figure["layout"]["xaxis"] |= {"type": "category"}
    figure["layout"]["yaxis"] |= LOGARITHMIC | {"rangemode": "normal"}
    return figure


def _named(index: object) -> list[str]:
    return [str(each) for each in index] if isinstance(index, tuple) else [str(index)]
