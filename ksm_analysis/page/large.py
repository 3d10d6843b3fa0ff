"""The page of many settings: figures and a table of all of them, and each of them on demand.

A figure for each setting would make a page that no browser opens. So a setting is a point here, and
its curves are only numbers until the reader chooses it.
"""

import base64
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ksm_analysis.analysis.answer import shared
from ksm_analysis.analysis.settings import InBlocks, Setting, grouped
from ksm_analysis.analysis.statistics import Estimate
from ksm_analysis.analysis.words import guest_word, join
from ksm_analysis.metrics import catalog
from ksm_analysis.metrics.curves import METRICS, POINTS, curves
from ksm_analysis.metrics.measurement import Measured
from ksm_analysis.page import drawing
from ksm_analysis.page.figures import FACTORS, guests_axis
from ksm_analysis.page.sections import Figure, Section
from ksm_analysis.page.tables import FACTORS as CELL
from ksm_analysis.results.reduced import Reduced
from ksm_analysis.results.run import Cell

MOST = 60  # settings of which each has lines of its own
BYTES = 2_500_000  # of all curves
LEAST = 6  # points of a curve
SHOWN = 50  # settings, warnings and runs that are listed
TRACES = 7  # of a figure: as many as there are colours
COLUMNS = (  # of the table: heading, unit, value of a setting
    ("runs", "", lambda s: len(s.runs)),
    ("saved", "MiB", lambda s: _mean(s.saved_mib)),
    ("±", "MiB", lambda s: _half(s.saved_mib)),
    ("of configured", "%", lambda s: _mean(s.percent_configured)),
    ("CPU time of ksmd", "s", lambda s: _mean(s.ksmd_cpu_seconds)),
    ("saved per CPU second", "MiB/s", lambda s: _mean(s.saved_per_cpu_second)),
    ("95 % after", "s", lambda s: s.seconds_to_95 and s.seconds_to_95.restricted_mean),
    ("throughput per guest", "bogo ops/s", lambda s: _mean(s.throughput)),
)
OVER_TIME = (
    "A line is the mean of the runs of a setting, at the ends of intervals. To draw others, choose "
    "them in the table “Every setting”."
)
EACH = (
    "One point for each setting: savings at the end of the run, against the CPU time of ksmd. "
    "Values are means of repetitions. Higher and further left is better."
)


def is_large(measured: Sequence[Measured], settings: Sequence[Setting]) -> bool:
    """Whether there are too many settings, or runs, for lines of each."""
    return len(settings) > MOST or any(isinstance(each.run, Reduced) for each in measured)


def listed(items: Sequence[Any], more: Callable[[int], Any]) -> list[Any]:
    """Return the first items, and at the end `more(n)`, if `n` are left out."""
    left = len(items) - SHOWN
    return [*items[:SHOWN], *([more(left)] if left > 0 else [])]


def top(settings: list[Setting], first: Setting | None) -> list[Setting]:
    """Return `first` and the settings that save most, in the order of the plan."""
    best = sorted(settings, key=lambda s: -s.saved_mib.mean if s.saved_mib else np.inf)[:SHOWN]
    chosen = {id(setting) for setting in (*best, first)}
    return [setting for setting in settings if id(setting) in chosen]


def sections_of(
    settings: list[Setting], measured: list[Measured], first: Setting | None
) -> tuple[Figure | None, list[Section]]:
    """Return the picture of all settings, and sections of figures of bounded size."""
    known = [s for s in shared(settings) if s.saved_mib]
    picture = _each(known)
    found = grouped(measured)
    by_factor = [f for factor in ("guests", "workload", "host") for f in _by(known, factor)]
    chosen = [s for s in settings if s is first] or settings[:1]
    alone = [_over_time(metric, chosen, found) for metric in METRICS]
    sections = (
        Section("savings", "What is saved", "A point is a setting.", tuple(by_factor)),
        Section("cells", "Chosen settings", OVER_TIME, tuple(each for each in alone if each)),
    )
    return picture, [section for section in sections if section.figures]


def table_of(settings: list[Setting], measured: list[Measured]) -> dict[str, Any]:
    """Return the table of all settings, and their curves, for the page's script.

    `factors`: for each factor its name, its values, and for each setting the index of its value.
    `columns`: title, unit, and the values. `curves`: for each metric of METRICS, and for seconds,
    float32 in base64: `points` for each setting. `colours`: those of curves.
    """
    factors = {
        name: list(dict.fromkeys(str(getattr(setting, name)) for setting in settings))
        for name in CELL
    }
    columns = [
        {"title": title, "unit": unit, "values": [_rounded(of(s)) for s in settings]}
        for title, unit, of in COLUMNS
    ]
    found = grouped(measured)
    wide = 4 * (1 + len(METRICS)) * 4 / 3  # bytes of a point
    points = int(max(LEAST, min(POINTS, BYTES / wide / max(1, len(settings)))))
    drawn = [_curves(found[_cell(setting)], points) for setting in settings]
    return {
        "factors": [
            {
                "name": name,
                "values": values,
                "of": _indices(values, [str(getattr(setting, name)) for setting in settings]),
            }
            for name, values in factors.items()
        ],
        "columns": [column for column in columns if any(v is not None for v in column["values"])],
        "points": points,
        "colours": drawing.COLOURS,
        "curves": {
            name: base64.b64encode(
                np.concatenate([each[name] for each in drawn]).astype("<f4").tobytes()
            ).decode()
            for name in ("seconds", *METRICS)
        },
    }


def _indices(values: list[str], of: list[str]) -> list[int]:
    place = {value: index for index, value in enumerate(values)}
    return [place[value] for value in of]


def _curves(runs: InBlocks, points: int) -> dict[str, Any]:
    """Return the mean curves of the runs of a setting, at `points` of the first run's times."""
    every = [curves(each) for each, _ in runs]
    first = np.array(every[0]["seconds"])
    at = first[np.linspace(0, len(first) - 1, points).round().astype(int)]
    return {"seconds": at} | {
        name: np.mean([_at(at, each, name) for each in every], axis=0) for name in METRICS
    }


def _at(seconds: Any, curve: dict[str, list[float]], name: str) -> Any:
    return np.interp(seconds, curve["seconds"], curve[name])


def _cell(setting: Setting) -> Cell:
    return Cell(*(getattr(setting, name) for name in Cell._fields))


def _mean(found: Estimate | None) -> float | None:
    return found.mean if found else None


def _half(found: Estimate | None) -> float | None:
    return found.high - found.mean if found and found.high is not None else None


def _rounded(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else float(f"{value:.5g}")


# --- figures --------------------------------------------------------------------------------------


def _metric(name: str) -> catalog.Metric:
    return next(metric for metric in catalog.HOST if metric.name == name)


def _named(setting: Setting) -> str:
    return join(guest_word(setting.guests), setting.workload, setting.knobs)


def _scatter(settings: list[Setting], x: list[Any], name: str, index: int) -> dict[str, Any]:
    """Make a trace with a point for each setting."""
    look = drawing.style(index, index)
    return {
        "type": "scatter",
        "x": x,
        "y": [_rounded(_mean(s.saved_mib)) for s in settings],
        "customdata": [drawing.text(_named(each)) for each in settings],
        "mode": "markers",
        "name": drawing.text(name or "settings"),
        "marker": look["marker"] | {"size": 6, "opacity": 0.6},
        "hovertemplate": "%{customdata}: %{y:,.4~g} MiB<extra></extra>",
        "meta": {
            "by": {
                factor: [getattr(s, factor) for s in settings] for factor in (*FACTORS, "guests")
            }
        },
    }


def _groups(settings: list[Setting]) -> list[tuple[str, list[Setting]]]:
    """Group settings by their workload, or host, if it has a few values."""
    for factor in ("workload", "host"):
        found: dict[str, list[Setting]] = {}
        for setting in settings:
            found.setdefault(getattr(setting, factor), []).append(setting)
        if 1 < len(found) <= TRACES:
            return list(found.items())
    return [("", settings)]


def _each(settings: list[Setting]) -> Figure | None:
    """Draw savings against cost: a point for each setting."""
    known = [s for s in settings if s.cost_seconds and not s.off]
    if not known:
        return None
    figure = drawing.figure(_metric("reclaimed_mib"))
    for index, (name, group) in enumerate(_groups(known)):
        cost = [_rounded(_mean(s.cost_seconds)) for s in group]
        figure["data"].append(_scatter(group, cost, name, index))
    figure["layout"]["xaxis"] |= {"title": "CPU seconds of ksmd and policy", "rangemode": "tozero"}
    figure["layout"]["yaxis"]["title"] = "MiB saved at the end"
    panels = drawing.finished([("", figure)])
    return Figure("savings-against-cost", "Savings against cost", EACH, tuple(panels), wide=True)


def _by(settings: list[Setting], factor: str) -> list[Figure]:
    """Draw savings against a factor, if it varies and has few values."""
    values = sorted({getattr(s, factor) for s in settings})
    if not 1 < len(values) <= SHOWN:
        return []
    figure = drawing.figure(_metric("reclaimed_mib"))
    x = [getattr(s, factor) for s in settings]
    figure["data"].append(_scatter(settings, x, "", 0))
    figure["layout"]["yaxis"]["title"] = "MiB saved at the end"
    if factor == "guests":
        guests_axis(figure, pd.Series(values))
    else:
        figure["layout"]["xaxis"] |= {"title": factor, "type": "category"}
    help_ = f"One point for each setting, at its {factor}. Values are means of repetitions."
    panels = drawing.finished([("", figure)])
    title = f"Savings by {'number of guests' if factor == 'guests' else factor}"
    return [Figure(f"saved-by-{factor}", title, help_, tuple(panels), wide=True)]


def _over_time(name: str, settings: list[Setting], found: dict[Cell, InBlocks]) -> Figure | None:
    """Draw a metric of a few settings over time; the page adds those that the reader chooses."""
    metric, figure = _metric(name), drawing.figure(_metric(name))
    for index, setting in enumerate(settings):
        curve = _curves(found[_cell(setting)], POINTS)
        values = drawing.shown(metric, pd.Series(curve[name]))
        figure["data"].append(
            {
                "x": curve["seconds"].tolist(),
                "y": values.to_list(),
                "name": drawing.text(_named(setting)),
                "mode": "lines",
                "hovertemplate": "%{x:,.0f} s: %{y:,.6~g}<extra>%{fullData.name}</extra>",
                "meta": {factor: getattr(setting, factor) for factor in (*FACTORS, "guests")},
                **drawing.style(index, 0),
            }
        )
    figure["layout"]["xaxis"] |= {"title": "seconds", "rangemode": "tozero"}
    scale = 2**20 if metric.unit == "bytes" else 1
    figure["layout"]["meta"] = {"curve": name, "scale": scale}
    panels = drawing.finished([("", figure)])
    return Figure(f"cell-{name}", metric.label, f"{metric.help} {OVER_TIME}", tuple(panels))
