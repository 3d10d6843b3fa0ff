"""Frames to Plotly figures, one function a figure, each of one or more panels.

Colour and marker tell the first thing apart (the number of guests, or a guest), the dash tells the
rest (workload, knobs, host). Nothing is told by colour alone. Titles and definitions belong to the
page; colours of text and axes belong to its theme.
"""

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

import pandas as pd
import plotly.graph_objects as go

from ksm_analysis import metrics
from ksm_analysis.metrics import MIB, Measured, Metric
from ksm_analysis.published import PUBLISHED, Published
from ksm_analysis.runs import Run

# Okabe and Ito's colours, which people with any colour vision tell apart; black, and yellow, which
# is faint on white, are left out since pages are light or dark.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8a8a8a")
MARKERS = ("circle", "square", "diamond", "triangle-up", "x", "star", "triangle-down", "pentagon")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
LINE_LENGTH = 36  # characters of a legend's line, so that it fits a telephone's screen
LINES = 9  # more than these in one panel cannot be told apart
Panel = tuple[str, go.Figure]  # with its title, which is empty if there is only one
MEMORY = (
    "guest_memory_configured_mib",
    "guest_memory_resident_mib",
    "shared_mib",
    "reclaimed_mib",
)
HOLLOW = ("circle-open", "star-open")  # one for each of PUBLISHED


@dataclass(frozen=True)
class Data:
    """What figures are made of.

    `host`: one row a run and interval; `guest`: one row a run, interval and guest. Both have the
    factors (host, guests, knobs, workload, repetition), `run`, `interval`, and the metrics; that of
    the host also `last`, which is true where the values stand for the run.
    `windows`: when each workload ran, in intervals, and `marks`: what happened in it, and when.
    `interval`: their length in seconds, None if runs differ.
    """

    host: pd.DataFrame
    guest: pd.DataFrame
    windows: dict[str, tuple[float, float]]
    marks: dict[str, tuple[tuple[float, str], ...]]
    interval: float | None


def load(measured: list[Measured]) -> Data:
    """Put the values of all runs together."""
    runs = [each.run for each in measured]
    lengths = {run.record["run"]["sampling"]["interval"] for run in runs}
    whole = {_cell(run) for run in runs if not _cut_short(run)}
    hosts = []
    for each in measured:
        # The last value of a log that is cut short is not that of a repetition which is whole
        stands = not _cut_short(each.run) or _cell(each.run) not in whole
        last = (each.host.index == each.last) & stands
        hosts.append(each.host.reset_index().assign(last=last))
    return Data(
        _stack(runs, hosts),
        _stack(runs, [each.guest for each in measured]),
        _windows(runs),
        {run.factors["workload"]: tuple(_marks(run)) for run in runs},
        lengths.pop() if len(lengths) == 1 else None,
    )


def _cut_short(run: Run) -> bool:
    return bool(run.record.get("imported", {}).get("cut_short"))


def _cell(run: Run) -> tuple:
    return (run.host, *(run.factors[name] for name in ("guests", "knobs", "workload")))


def _stack(runs: list[Run], tables: list[pd.DataFrame]) -> pd.DataFrame:
    tables = [
        table.assign(run=run.id, host=run.host, **run.factors)
        for run, table in zip(runs, tables, strict=True)
    ]
    return pd.concat([t for t in tables if len(t)] or tables, ignore_index=True)


def _windows(runs: list[Run]) -> dict[str, tuple[float, float]]:
    windows = {}
    for run in runs:
        if window := run.window():
            length = run.record["run"]["sampling"]["interval"]
            start, stop = (seconds / length for seconds in window)
            name = run.factors["workload"]
            first, last = windows.get(name, (start, stop))
            windows[name] = min(first, start), max(last, stop)
    return windows


def _marks(run: Run) -> Iterator[tuple[float, str]]:
    """Yield what was done to the arrays, with its time in intervals."""
    for event in run.events:
        words = {
            "array written": f"array {event.get('array')}",
            "array changed": "array 1 changed",
        }.get(event["event"])
        if words:
            seconds = event["monotonic"] - run.header["monotonic"]
            # Runs differ by milliseconds, which nobody can see
            yield round(seconds / run.record["run"]["sampling"]["interval"], 1), words


# --- names ----------------------------------------------------------------------------------------


def text(value: object) -> str:
    """Make text of a name: Plotly would read `<b>` in it as markup, and cut off what is long."""
    lines = textwrap.wrap(str(value), LINE_LENGTH) or [""]
    return "<br>".join(escape(line, quote=False) for line in lines)


def _join(*names: str) -> str:
    return " · ".join(filter(None, names))


def guest_word(count: int) -> str:
    """Write `1 guest`, `2 guests`; nothing without guests."""
    return {0: "", 1: "1 guest"}.get(count, f"{count} guests")


def _series(data: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Split by what varies besides guests and repetitions, each part with its name."""
    factors = [f for f in ("workload", "knobs", "host") if data[f].nunique() > 1]
    if not factors:
        return [("", data)]
    groups = data.groupby(factors, sort=False)
    return [(" · ".join(map(str, key)), part) for key, part in groups]


def _panels(series: list, lines: int) -> list[tuple[str, list]]:
    """Put all series into one panel, or each into its own if that would be too many lines."""
    if len(series) * lines <= LINES:
        return [("", series)]
    return [(name, [("", part)]) for name, part in series]


# --- values by interval ---------------------------------------------------------------------------


def by_interval(data: Data, metric: Metric) -> list[Panel]:
    """One metric of the host against the interval: a line for each cell, mean of repetitions."""
    panels = []
    counts = sorted(data.host["guests"].unique())
    for title, together in _panels(_series(data.host), len(counts)):
        figure = _figure(metric)
        for series, (name, part) in enumerate(together):
            for count, cell in _cells(part, metric):
                label = _join(guest_word(count), name) or "measured"
                line = _mean_line(cell, "interval", metric, label)
                # Colours tell numbers of guests; if there is but one, they are free to tell more
                colour = counts.index(count) if len(counts) > 1 else series
                figure.add_scatter(**line, **_style(colour, series))
        _interval_axis(figure, data, {w for _, part in together for w in part["workload"]})
        if figure.data:
            panels.append((title, figure))
    return _same_scale(panels, _shown(metric, data.host[metric.name]))


def by_interval_of_guests(data: Data, metric: Metric) -> list[Panel]:
    """One metric of each guest against the interval: a panel for each cell."""
    panels = []
    guests = sorted(data.guest["guest"].unique())
    for name, part in _series(data.guest):
        for count, cell in _cells(part, metric):
            figure = _figure(metric)
            for guest, rows in cell.groupby("guest"):
                line = _mean_line(rows, "interval", metric, guest)
                figure.add_scatter(**line, **_style(guests.index(guest), 0))
            _interval_axis(figure, data, set(cell["workload"]))
            panels.append((_join(guest_word(count), name), figure))
    return _same_scale(panels, _shown(metric, data.guest[metric.name]))


def _cells(part: pd.DataFrame, metric: Metric) -> Iterator[tuple[int, pd.DataFrame]]:
    """Split by number of guests; a cell without any value of the metric is left out."""
    for count, cell in part.groupby("guests"):
        if cell[metric.name].notna().any():
            yield count, cell


def _same_scale(panels: list[Panel], values: pd.Series) -> list[Panel]:
    """Let panels be compared by eye; zero is always on the scale."""
    low, high = min(0.0, values.min()), max(0.0, values.max())
    margin = 0.05 * (high - low) or 1.0
    if len(panels) > 1:
        for _, figure in panels:
            figure.update_yaxes(range=[low - margin if low < 0 else 0, high + margin])
    return panels


def _interval_axis(figure: go.Figure, data: Data, workloads: set[str]) -> None:
    """Count the intervals, and shade the time that the workloads were active."""
    last = int(data.host["interval"].max())
    length = f" ({data.interval:g} s each)" if data.interval else ""
    figure.update_xaxes(title=f"interval{length}", range=[0, last + 0.4])
    figure.update_xaxes(dtick=1 if last <= 6 else None, tickformat="d")
    for workload, (start, stop) in data.windows.items():
        if workload in workloads:
            figure.add_vrect(
                x0=start,
                x1=stop,
                fillcolor="#8a8a8a",
                opacity=0.18,
                line_width=0,
                layer="below",
                annotation={
                    "text": f"{text(workload)} active",
                    "xanchor": "left",
                    "yanchor": "bottom",
                    "font_size": 11,
                },
                annotation_position="top left",
            )
    for at, words in sorted({mark for w in workloads for mark in data.marks.get(w, ())}):
        figure.add_vline(
            x=at,
            line={"color": "#8a8a8a", "width": 1, "dash": "dot"},
            annotation={"text": text(words), "font_size": 11, "yanchor": "bottom"},
            annotation_position="top left" if at > 0.8 * last else "top right",
        )


# --- values by number of guests -------------------------------------------------------------------


def by_guests(data: Data, metric: Metric) -> list[Panel]:
    """One metric in the last interval against the number of guests."""
    figure = _figure(metric)
    last = _last(data.host)
    for series, (name, part) in enumerate(_series(last)):
        _runs_as_points(figure, part, metric, series)
        line = _mean_line(part, "guests", metric, name or "measured")
        figure.add_scatter(**line, **_style(series, series))
    _guests_axis(figure, last["guests"])
    return [("", figure)]


def memory_by_guests(data: Data) -> list[Panel]:
    """Memory in MiB against the number of guests: configured, resident, shared, reclaimed."""
    panels = _several_by_guests(data, MEMORY)
    for marker, published in zip(HOLLOW, PUBLISHED, strict=True):
        if published.memory_mib:
            mib = [n * published.memory_mib / 100 for n in published.guests]
            for index, part in ((2, "shared"), (3, "reclaimed")):
                values = [p * m for p, m in zip(getattr(published, part), mib, strict=True)]
                # Ten guests beside two or three would leave these no room: shown when asked for
                _overlay(panels, published, part, values, index, marker, visible="legendonly")
    return panels


def percent_by_guests(data: Data, whole: str) -> list[Panel]:
    """Shared, reclaimed and their difference, in percent of `configured` or `resident` memory.

    Published values are percent of configured memory, and laid over that alone.
    """
    parts = ("shared", "reclaimed", "difference")
    names = [f"{part}_percent_{whole}" for part in parts]
    panels = _several_by_guests(data, names)
    values = _last(data.host)[names].stack()
    for marker, published in zip(HOLLOW, PUBLISHED, strict=True):
        if whole == "configured":
            values = pd.concat([values, pd.Series(published.shared)])
            pairs = zip(published.shared, published.reclaimed, strict=True)
            kept = [round(shared - reclaimed, 1) for shared, reclaimed in pairs]
            for index, part in enumerate((published.shared, published.reclaimed, kept)):
                _overlay(panels, published, parts[index], list(part), index, marker)
    return _same_scale(panels, values)


def _several_by_guests(data: Data, names: tuple[str, ...]) -> list[Panel]:
    """Several metrics of one unit: colour and marker tell the metric, the dash the rest.

    A metric without any value is left out; the others keep their colours.
    """
    panels = []
    table = [m for name in names for m in metrics.HOST if m.name == name]
    last = _last(data.host)
    table = {i: metric for i, metric in enumerate(table) if data.host[metric.name].notna().any()}
    for title, together in _panels(_series(last), len(table)):
        figure = _figure(next(iter(table.values())))
        for series, (name, part) in enumerate(together):
            for index, metric in table.items():
                _runs_as_points(figure, part, metric, index)
                label = _join(metric.label.split(", of ")[0], name)
                line = _mean_line(part, "guests", metric, label)
                figure.add_scatter(**line, **_style(index, series))
        _guests_axis(figure, last["guests"])
        panels.append((title, figure))
    return panels


def _last(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["last"]]


def _runs_as_points(figure: go.Figure, part: pd.DataFrame, metric: Metric, index: int) -> None:
    """Show each run, if the line shows means: how far repetitions differ is part of the answer."""
    if part["repetition"].nunique() > 1:
        figure.add_scatter(
            x=part["guests"],
            y=_shown(metric, part[metric.name]),
            customdata=part["run"].map(text),
            mode="markers",
            showlegend=False,
            marker={"color": COLOURS[index % len(COLOURS)], "symbol": "line-ew-open", "size": 9},
            hovertemplate="%{customdata}: %{y:,.6~g}<extra></extra>",
        )


def _overlay(panels: list[Panel], published: Published, part: str, values, index, marker, **more):
    for _, figure in panels:
        figure.add_scatter(
            x=list(published.guests),
            y=values,
            name=f"{part.capitalize()} · {published.name}",
            mode="markers",
            marker={"color": COLOURS[index], "symbol": marker, "size": 10, "line_width": 1.5},
            hovertemplate="%{y:,.4~g}<extra>%{fullData.name}</extra>",
            **more,
        )


def _guests_axis(figure: go.Figure, counts: pd.Series) -> None:
    figure.update_xaxes(title="guests", rangemode="tozero", tickformat="d")
    figure.update_xaxes(dtick=1 if counts.max() <= 12 else None)


# --- what all figures share -----------------------------------------------------------------------


def _figure(metric: Metric) -> go.Figure:
    unit = "MiB" if metric.unit == "bytes" else metric.unit
    figure = go.Figure(layout={"template": {}})
    figure.update_layout(
        margin={"l": 12, "r": 12, "t": 28, "b": 12},
        hovermode="closest",
        showlegend=True,
        legend={
            "orientation": "h",
            "yref": "container",
            "y": 0,
            "yanchor": "bottom",
            "x": 0,
            "itemwidth": 44,
            "maxheight": 0.9,  # else a long legend scrolls within itself
        },
    )
    figure.update_xaxes(automargin=True, zeroline=False, ticks="outside")
    figure.update_yaxes(
        title=unit,
        automargin=True,
        rangemode="tozero",
        separatethousands=True,
        exponentformat="none",
    )
    return figure


def _shown(metric: Metric, values: pd.Series) -> pd.Series:
    return values / MIB if metric.unit == "bytes" else values


def _mean_line(rows: pd.DataFrame, x: str, metric: Metric, label: str) -> dict:
    """Mean over repetitions at each x; the number of runs is in the hover text, and gaps stay.

    Against time, there is a gap as well where not all runs have a value: where one ends before the
    others, the mean of the rest would jump although no run does.
    """
    groups = _shown(metric, rows[metric.name]).groupby(rows[x])
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


def _style(index: int, series: int) -> dict:
    colour = COLOURS[index % len(COLOURS)]
    # Where colours begin again, the dash tells the second of a colour from the first
    dash = DASHES[(series + index // len(COLOURS)) % len(DASHES)]
    return {
        "line": {"color": colour, "dash": dash, "width": 2},
        "marker": {"color": colour, "symbol": MARKERS[index % len(MARKERS)], "size": 7},
    }
