"""Figures of a load: how many answers took how long."""

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd

from ksm_analysis.analysis.words import guest_word, join
from ksm_analysis.metrics import load
from ksm_analysis.metrics.catalog import Metric
from ksm_analysis.metrics.measurement import Measured
from ksm_analysis.metrics.values import gauge
from ksm_analysis.page import drawing, tails
from ksm_analysis.page.drawing import Panel, style, text
from ksm_analysis.page.figures import meta_of, stack
from ksm_analysis.results.load import READS, WRITES

AXIS = Metric("load", "% of answers", "derived", "Answers", "", gauge(""))
FACTORS = ("host", "workload", "guests")


def latencies(measured: list[Measured]) -> list[Panel]:
    """Draw the share of answers that took longer than a time: a line for each setting.

    A panel for each workload. The answers of all repetitions are counted together.
    """
    runs = [each.run for each in measured if each.run.load is not None]
    if not runs:
        return []
    rows = stack(runs, [pd.DataFrame([{"place": place}]) for place in range(len(runs))])
    counts: list[Counter[int]] = [Counter() for _ in runs]
    after = rows.assign(after=[load.settled_after(run) for run in runs]).groupby([*FACTORS])
    since = after["after"].transform("max")
    for place, run in enumerate(runs):
        if counted := load.counted(run, float(since[place])):
            counts[place] = counted.counts[READS] + counted.counts[WRITES]
    varied = [name for name in FACTORS if rows[name].nunique() > 1]
    groups = rows.groupby(varied, sort=False) if varied else [((), rows)]
    return tails.finished([(_title(names), _lines(part, counts)) for names, part in groups])


def _title(names: Any) -> str:
    return join(*(guest_word(n) if isinstance(n, int) else str(n) for n in names))


def _lines(part: pd.DataFrame, counts: list[Counter[int]]) -> dict[str, Any]:
    figure = drawing.figure(AXIS)
    for index, (knobs, of) in enumerate(part.groupby("knobs", sort=False)):
        every = sum((counts[place] for place in of["place"]), Counter[int]())
        if every:
            ns = np.array([*every])
            x, y = tails.tail(ns / 1e6, np.array([*every.values()]))
            figure["data"].append(
                {
                    "x": x,
                    "y": y,
                    "name": text(f"{join(str(knobs)) or 'measured'} (n = {every.total():,})"),
                    "mode": "lines",
                    "line": style(index, index)["line"] | {"shape": "hv"},
                    "hovertemplate": "%{y:,.3~g} % took %{x:,.3~g} ms or longer"
                    "<extra>%{fullData.name}</extra>",
                    "meta": meta_of(of, "guests"),
                }
            )
    return tails.axes(figure, "ms")
