"""The figure of which equal pages were merged, by the scans between their first appearances."""

from collections.abc import Callable
from typing import Any

import pandas as pd

from ksm_analysis.analysis.words import join
from ksm_analysis.metrics import phase_lock
from ksm_analysis.metrics.catalog import Metric
from ksm_analysis.metrics.measurement import Measured
from ksm_analysis.metrics.phase_lock import Outcome
from ksm_analysis.metrics.values import gauge
from ksm_analysis.page import drawing
from ksm_analysis.page.drawing import COLOURS, Panel, text
from ksm_analysis.page.figures import factors_of_runs, meta_of
from ksm_analysis.results.run import Run

AXIS = Metric("merged", "pages", "derived", "Merged", "", gauge(""))
SERIES: tuple[tuple[str, str, int, int, Callable[[Outcome], int | None]], ...] = (
    ("predicted", "circle-open", 15, 0, lambda each: each.predicted),
    ("measured", "circle", 7, 1, lambda each: each.merged if each.certain else None),
    ("not certain", "x", 7, 1, lambda each: None if each.certain else each.merged),
    ("then with smart_scan=0", "diamond-open", 10, 2, lambda each: each.cured),
)
FACTORS = ("host", "workload", "knobs")  # a panel for each combination


def by_distance(measured: list[Measured]) -> list[Panel]:
    """Draw merged pages against the distance of two sets: predicted, and measured in each run."""
    runs = [each.run for each in measured if phase_lock.outcomes(each.run)]
    if not runs:
        return []
    table = factors_of_runs(runs)
    varied = [name for name in FACTORS if table[name].nunique() > 1]
    series = table.groupby(varied, sort=False) if varied else [((), table)]
    panels = [(join(*map(str, names)), _panel(part, runs)) for names, part in series]
    return drawing.finished(panels)


def _panel(part: pd.DataFrame, runs: list[Run]) -> dict[str, Any]:
    figure = drawing.figure(AXIS)
    for position, index in enumerate(part.index):
        found, meta = phase_lock.outcomes(runs[index]), meta_of(part.loc[[index]], "guests")
        for name, symbol, size, colour, value in SERIES:
            points = [(each.distance, y) for each in found if (y := value(each)) is not None]
            if points:
                figure["data"].append(
                    {
                        "x": [x for x, _ in points],
                        "y": [y for _, y in points],
                        "name": text(name),
                        "mode": "markers",
                        "marker": {"color": COLOURS[colour], "symbol": symbol, "size": size},
                        "legendgroup": name,
                        "showlegend": position == 0,
                        "hovertemplate": "%{x} scans: %{y} pages<extra>%{fullData.name}</extra>",
                        "meta": meta | {"line": f"{name}, {runs[index].id}"},
                    }
                )
    figure["layout"]["xaxis"] |= {"title": "scans from one set to its equal", "dtick": 3}
    return figure
