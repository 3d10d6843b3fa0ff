"""Figures of what ksmd compares in its trees, and of what hashes would take instead."""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from ksm_analysis.analysis.words import join
from ksm_analysis.metrics import reported
from ksm_analysis.metrics.catalog import Metric
from ksm_analysis.metrics.measurement import Measured
from ksm_analysis.metrics.reported import Reported
from ksm_analysis.metrics.values import gauge
from ksm_analysis.page import drawing
from ksm_analysis.page.drawing import Panel, style, text
from ksm_analysis.page.figures import guests_axis, meta_of, stack
from ksm_analysis.results.run import Run

ALGORITHMS = {
    "trees": "trees, as in Linux",
    "index": "tables by the checksum",
    "hashes": "trees of strong hashes",
    "kept": "checksum, and hashes kept",
}
QUANTITIES = {
    "compared": "Bytes that are compared",
    "cpu": "CPU time",
    "memory": "Memory for hashes",
}


def figures(measured: list[Measured]) -> Iterator[tuple[str, str, list[Panel]]]:
    """Yield each quantity with its title and panels: one for each trace, over all guests."""
    runs = [each.run for each in measured if shows(each.run)]
    found = {metric.name: metric for metric in reported.metrics_of(runs)}
    for quantity, title in QUANTITIES.items():
        names = [name for name in ALGORITHMS if f"{name}_{quantity}" in found]
        if names:
            metrics = {name: found[f"{name}_{quantity}"] for name in names}
            yield quantity, title, _panels(runs, metrics)


def shows(run: Run) -> bool:
    """Whether what a run reported is in these figures."""
    return bool(_asked(run))


def _asked(run: Run) -> dict[str, Any]:
    """Return the options of the population of a run that counts bytes; empty without one."""
    for part in run.plan.parts:
        if part.name == "population" and part.options.get("count_bytes"):
            return dict(part.options)
    return {}


def _panels(runs: list[Run], metrics: dict[str, Reported]) -> list[Panel]:
    values = [
        pd.DataFrame([{name: reported.value(run, metric) for name, metric in metrics.items()}])
        for run in runs
    ]
    rows = stack(runs, values)
    rows["trace"] = [_asked(run)["trace"] for run in runs]
    rows["churn"] = [_asked(run)["churn_percent"] for run in runs]
    unit = next(iter(metrics.values())).unit
    panels = []
    for trace, part in rows.groupby("trace", sort=False):
        axis = Metric("hashing", unit, "derived", str(trace), "", gauge(""))
        figure = drawing.figure(axis)
        series = part.groupby(["workload", "knobs", "host"], sort=False)
        for place, ((_, knobs, _), line) in enumerate(series):
            churn = line["churn"].iloc[0]
            words = "" if pd.isna(churn) else f"churn {churn:g} %"
            for index, name in enumerate(metrics):
                label = join(ALGORITHMS[name], words)
                metric = Metric(name, unit, "derived", label, "", gauge(""))
                drawn = drawing.mean_line(line, "guests", metric, label)
                shown = {"name": text(ALGORITHMS[name]), "showlegend": place == 0}
                group = {"legendgroup": name, "hovertemplate": f"{text(label)}: %{{y:,.4~g}}"}
                group["hovertemplate"] += "<extra>%{x} guests</extra>"
                meta = {"meta": meta_of(line) | {"line": join(label, str(knobs))}}
                figure["data"].append(drawn | style(index, place) | shown | group | meta)
        guests_axis(figure, part["guests"])
        figure["layout"]["xaxis"] |= {"type": "log", "dtick": 1}
        panels.append((str(trace), figure))
    return drawing.finished(panels, rows[[*metrics]].melt()["value"])
