"""The figure of what is saved, and of what could be, where the contents of memory are known."""

from typing import Any

import pandas as pd

from ksm_analysis.analysis.words import join
from ksm_analysis.metrics import efficiency
from ksm_analysis.metrics.catalog import Metric
from ksm_analysis.metrics.measurement import Measured
from ksm_analysis.metrics.times import Floats
from ksm_analysis.metrics.values import gauge
from ksm_analysis.page import drawing
from ksm_analysis.page.drawing import GREY, Panel
from ksm_analysis.page.figures import factors_of_runs, meta_of
from ksm_analysis.results.run import Run

AXIS = Metric("saved", "pages", "derived", "Saved", "", gauge(""))
POINTS = 600  # of a line
FACTORS = ("host", "workload")  # a panel for each combination
Found = tuple[Run, tuple[Floats, Floats, Floats]]


def saved_and_limit(measured: list[Measured]) -> list[Panel]:
    """Draw saved pages over time, a line for each run, and their limit: a panel for each workload.

    The limit is that of the first run of each setting.
    """
    runs = [(each.run, found) for each in measured if (found := efficiency.over_time(each.run))]
    if not runs:
        return []
    table = factors_of_runs([run for run, _ in runs])
    varied = [name for name in FACTORS if table[name].nunique() > 1]
    series = table.groupby(varied, sort=False) if varied else [((), table)]
    panels = [(join(*map(str, names)), _panel(part, runs)) for names, part in series]
    every = [pd.Series(values) for _, found in runs for values in found[1:]]
    return drawing.finished(panels, pd.concat(every))


def _panel(part: pd.DataFrame, runs: list[Found]) -> dict[str, Any]:
    figure = drawing.figure(AXIS)
    for series, (knobs, rows) in enumerate(part.groupby("knobs", sort=False)):
        for index in rows.index:
            run, (seconds, saved, limit) = runs[index]
            first = bool(index == rows.index[0])
            label, meta = str(knobs), meta_of(rows.loc[[index]], "guests")
            line = drawing.time_line(seconds, saved, label, POINTS) | drawing.style(series, series)
            shown = {"legendgroup": label, "showlegend": first}
            figure["data"].append(line | shown | {"meta": meta | {"line": f"{label}, {run.id}"}})
            if first:
                most = drawing.time_line(seconds, limit, "limit", POINTS)
                look = {"line": {"color": GREY, "width": 1, "dash": "dash"}}
                shown = {"legendgroup": "limit", "showlegend": series == 0}
                words = f"limit, {run.id}"
                figure["data"].append(most | look | shown | {"meta": meta | {"line": words}})
    figure["layout"]["xaxis"] |= {"title": "seconds", "rangemode": "tozero"}
    return figure
