"""Figures of the metrics that runs reported themselves: by setting, and over time."""

from numbers import Integral
from typing import Any

import pandas as pd

from ksm_analysis.analysis.words import guest_word, join
from ksm_analysis.metrics import reported
from ksm_analysis.metrics.catalog import Metric
from ksm_analysis.metrics.measurement import Measured
from ksm_analysis.metrics.reported import Reported
from ksm_analysis.metrics.values import gauge
from ksm_analysis.page import drawing
from ksm_analysis.page.drawing import Panel, style, text
from ksm_analysis.page.figures import meta_of, series_of, stack

POINTS = 1000  # most points of a line
BETTER = {"lower": "lower is better", "higher": "higher is better", "": ""}
SERIES = ("host", "workload", "guests")  # a colour for each combination; knobs are on the x axis


def words_of(metric: Reported) -> str:
    """Say what is known of a metric."""
    return f"{metric.name}, reported by the runs; {BETTER[metric.better]}".removesuffix("; ") + ". "


def panels_of(measured: list[Measured], metric: Reported) -> list[Panel]:
    """Draw a metric by setting, and over time if any run has several values; none without values.

    By setting: a point for each run, and the median of each setting. Over time: a line for each
    run and each guest or process.
    """
    runs = [each.run for each in measured]
    values = [pd.DataFrame([{"value": reported.value(run, metric)}]) for run in runs]
    rows = stack(runs, values).dropna(subset=["value"])
    if rows.empty:
        return []
    panels = [("By setting", _by_setting(rows, metric))]
    times = [
        run.reported[
            (run.reported["metric"] == metric.name) & (run.reported["unit"] == metric.unit)
        ]
        for run in runs
    ]
    if any(each["seconds"].nunique() > 1 for each in times):
        panels.append(("Over time", _over_time(stack(runs, times), metric)))
    return drawing.finished(panels if len(panels) > 1 else [("", panels[0][1])])


def _axis(metric: Reported) -> Metric:
    return Metric(metric.name, text(metric.unit), "gauge", metric.name, "", gauge(""))


def _by_setting(rows: pd.DataFrame, metric: Reported) -> dict[str, Any]:
    figure = drawing.figure(_axis(metric))
    varied = [name for name in SERIES if rows[name].nunique() > 1]
    groups = rows.groupby(varied, sort=False) if varied else [((), rows)]
    for index, (names, part) in enumerate(groups):
        label = join(*(guest_word(int(n)) if isinstance(n, Integral) else str(n) for n in names))
        look = style(index, index)["marker"]
        meta = {name: value for name, value in meta_of(part, "guests").items() if name != "knobs"}
        median = part.groupby("knobs", sort=False)["value"].median()
        for points, name, symbol in (
            (part.set_index("knobs")["value"], "single runs", "line-ew-open"),
            (median, "median", look["symbol"]),
        ):
            single = name == "single runs"
            hover = [text(run) for run in part["run"]] if single else [name] * len(points)
            figure["data"].append(
                {
                    "x": [text(knobs) for knobs in points.index],
                    "y": points.to_list(),
                    "customdata": hover,
                    "name": text(join(label, name)),
                    "mode": "markers",
                    "showlegend": not single,
                    "marker": {**look, "symbol": symbol, "size": 9},
                    "hovertemplate": "%{customdata}: %{y:,.6~g}<extra>%{fullData.name}</extra>",
                    "meta": meta | {"by": {"knobs": points.index.to_list()}},
                }
            )
    figure["layout"]["xaxis"] |= {"type": "category"}
    return figure


def _over_time(rows: pd.DataFrame, metric: Reported) -> dict[str, Any]:
    figure = drawing.figure(_axis(metric))
    for index, (name, part) in enumerate(series_of(rows)):
        for place, ((run, of), line) in enumerate(part.groupby(["run", "of"], sort=False)):
            label = join(guest_word(int(line["guests"].iloc[0])), name) or "measured"
            seconds, values = line["seconds"].to_numpy(), line["value"].to_numpy()
            drawn = drawing.time_line(seconds, values, label, POINTS)
            more = {"mode": "lines+markers", "legendgroup": label, "showlegend": place == 0}
            meta = meta_of(line, "guests") | {"line": join(label, str(run), str(of))}
            look = style(index, index)
            look["marker"]["size"] = 4
            figure["data"].append(drawn | look | more | {"meta": meta})
    figure["layout"]["xaxis"] |= {"title": "seconds", "separatethousands": True}
    return figure
