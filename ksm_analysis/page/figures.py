"""Plotly figures of data frames: one function for each figure, with one or more panels.

Colour and marker show the number of guests, or the guest. The dash shows the other factors
(workload, knobs, host). No difference is shown by colour alone. Titles and definitions belong to
the page; colours of text and axes belong to its theme.

The page's filters use the `meta` of each trace. It has the factors that all points of the trace
have in common. Its `by` has the values of factors that differ between the points. Its `line` is the
name of the line in a table, if the name in the legend is not unique. The `meta` of the layout has
`points`, the number of points before thinning, and `x`, the factor on the x axis, if it is one.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from typing import Any

import pandas as pd

from ksm_analysis.analysis.settings import Setting
from ksm_analysis.analysis.statistics import Estimate
from ksm_analysis.analysis.words import guest_word, join, spoken
from ksm_analysis.metrics import arrivals, catalog, measurement
from ksm_analysis.metrics.catalog import Metric
from ksm_analysis.metrics.measurement import Measured
from ksm_analysis.page import drawing
from ksm_analysis.page.drawing import COLOURS, Panel, shown, style, text
from ksm_analysis.page.published import PUBLISHED, Published
from ksm_analysis.results.run import Run

LINES = 9  # readers cannot distinguish more lines in one panel
GUESTS = 8  # more guests in one panel are shown as a band
POINTS = 1000  # most points of a line of samples
ALL_POINTS = 16_000  # about the most points of all lines of samples in a figure
CAME, WENT = "+", "−"  # before the numbers of guests and processes  # noqa: RUF001
FACTORS = ("workload", "knobs", "host")  # what varies besides guests and repetitions
MEMORY = (
    "guest_memory_configured_mib",
    "guest_memory_resident_mib",
    "shared_mib",
    "reclaimed_mib",
)


@dataclass(frozen=True)
class Sampled:
    """A run with the values of every sample.

    `host`: the frame of measurement.every_sample. `guest`: one frame for each metric that has a
    figure, with a row for each sample, indexed by `seconds`, and a column for each guest. It is
    empty without guests.
    """

    run: Run
    host: pd.DataFrame
    guest: dict[str, pd.DataFrame]

    def has(self, metric: Metric) -> bool:
        """Whether any guest has any value of a metric."""
        return metric.name in self.guest and bool(self.guest[metric.name].notna().any(axis=None))


@dataclass(frozen=True)
class Data:
    """What figures are made of.

    `host`: one row for each run and interval. `guest`: one row for each run, interval and guest.
    Both have the factors (host, guests, knobs, workload, repetition), `run`, `interval` and the
    metrics. `host` also has `last`, which is true in the row that stands for the run.
    `samples`: the values of every sample, one item for each run.
    `windows`: when each workload was active. `marks`: what happened in it, and when. Both have one
    entry for each unit of time, `interval` and `seconds`.
    `interval`: the length of an interval in seconds. It is None if runs differ: then values are
    shown by `seconds`, the end of each interval.
    """

    host: pd.DataFrame
    guest: pd.DataFrame
    samples: tuple[Sampled, ...]
    windows: dict[str, dict[str, tuple[float, float]]]
    marks: dict[str, dict[str, tuple[tuple[float, str], ...]]]
    interval: float | None

    @cached_property
    def seconds(self) -> float:
        """When the last sample of all runs was taken."""
        return float(max(each.host["seconds"].iloc[-1] for each in self.samples if len(each.host)))

    @cached_property
    def intervals(self) -> float:
        """The last interval of all runs, in units of `along`."""
        return float(self.host[self.along].max())

    @property
    def along(self) -> str:
        """The column that values of intervals are shown against."""
        return "interval" if self.interval else "seconds"


def load(measured: list[Measured]) -> Data:
    """Combine the values of all runs."""
    runs = [each.run for each in measured]
    lengths = {_length(run) for run in runs}
    whole = {run.cell for run in runs if not _cut_short(run)}
    hosts = []
    for each in measured:
        # The last value of a log that is cut short is too early, if others of its cell are whole
        stands = not _cut_short(each.run) or each.run.cell not in whole
        last = (each.host.index == each.last) & stands
        hosts.append(_timed(each.run, each.host.reset_index().assign(last=last)))
    units = {"interval": _length, "seconds": lambda run: 1.0}
    return Data(
        stack(runs, hosts),
        stack(runs, [_timed(each.run, each.guest) for each in measured]),
        tuple(map(_sampled, runs)),
        {unit: _windows(runs, length) for unit, length in units.items()},
        {unit: _all_marks(runs, length) for unit, length in units.items()},
        lengths.pop() if len(lengths) == 1 else None,
    )


def _sampled(run: Run) -> Sampled:
    host, guest = measurement.every_sample(run)
    rows = guest.set_index("seconds").groupby("guest", observed=True)
    of_guests = dict(sorted(rows, key=itemgetter(0)))
    names = [metric.name for metric in catalog.GUEST if metric.figure and of_guests]
    # Concatenation takes a third of the time of a pivot
    wide = {
        name: pd.concat({guest: rows[name] for guest, rows in of_guests.items()}, axis=1, sort=True)
        for name in names
    }
    return Sampled(run, host, wide)


def _timed(run: Run, table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(seconds=table["interval"] * _length(run))


def _length(run: Run) -> float:
    return run.plan.sampling.interval


def _cut_short(run: Run) -> bool:
    return run.record.imported is not None and bool(run.record.imported.cut_short)


def stack(runs: list[Run], tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Concatenate the tables of all runs, and add the factors of each run."""
    tables = [
        table.assign(run=run.id, host=run.host, **run.factors)
        for run, table in zip(runs, tables, strict=True)
    ]
    return pd.concat([t for t in tables if len(t)] or tables, ignore_index=True)


def _windows(runs: list[Run], length: Callable[[Run], float]) -> dict[str, tuple[float, float]]:
    windows: dict[str, tuple[float, float]] = {}
    for run in runs:
        if window := run.window():
            start, stop = (seconds / length(run) for seconds in window)
            name = run.factors["workload"]
            first, last = windows.get(name, (start, stop))
            windows[name] = min(first, start), max(last, stop)
    return windows


def _all_marks(
    runs: Sequence[Run], length: Callable[[Run], float]
) -> dict[str, tuple[tuple[float, str], ...]]:
    """Return what happened, by workload, in any of its runs."""
    found: dict[str, set[tuple[float, str]]] = {}
    for run in runs:
        found.setdefault(run.factors["workload"], set()).update(_marks(run, length(run)))
    return {workload: tuple(sorted(marks)) for workload, marks in found.items()}


def _marks(run: Run, length: float) -> Iterator[tuple[float, str]]:
    """Yield what was done to the arrays, and who came and went, in units of `length` seconds."""
    for seconds, change, name in arrivals.changes(run):
        sign = CAME if change == arrivals.ARRIVED else WENT
        yield round(seconds / length, 1), f"{sign}{name.rpartition('-')[2]}"
    for event in run.events:
        words = {
            "array written": f"array {event.get('array')}",
            "array changed": "array 1 changed",
        }.get(event["event"])
        if words:
            # Rounded, because runs differ by milliseconds, which are not visible
            yield round((event["monotonic"] - run.header["monotonic"]) / length, 1), words


# --- what varies ----------------------------------------------------------------------------------


def series_of(data: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Split by the factors that vary besides guests and repetitions; return names and parts."""
    factors = [f for f in FACTORS if data[f].nunique() > 1]
    if not factors:
        return [("", data)]
    groups = data.groupby(factors, sort=False)
    return [(" · ".join(map(str, key)), part) for key, part in groups]


def by_count(part: pd.DataFrame) -> list[tuple[int, pd.DataFrame]]:
    """Split by the number of guests."""
    counts = sorted(part["guests"].unique().tolist())
    return [(count, part[part["guests"] == count]) for count in counts]


def meta_of(part: pd.DataFrame, *more: str) -> dict[str, Any]:
    """Name the factors that all rows have in common, for the page's filters."""
    return {factor: _plain(part[factor].iloc[0]) for factor in (*FACTORS, *more)}


def add_meta(figure: dict[str, Any], meta: dict[str, Any]) -> None:
    """Add what all lines of a figure have in common."""
    for line in figure["data"]:
        line["meta"] = line.get("meta", {}) | meta


def _plain(value: object) -> object:
    return value.item() if hasattr(value, "item") else value


def _panels(series: list[Any], lines: int) -> list[tuple[str, list[Any]]]:
    """Put all series into one panel, or each into its own panel if there are too many lines."""
    if len(series) * lines <= LINES:
        return [("", series)]
    return [(name, [("", part)]) for name, part in series]


def _points(figure: dict[str, Any], points: int) -> None:
    figure["layout"]["meta"] = {"points": points}


# --- values by interval ---------------------------------------------------------------------------


def by_interval(data: Data, metric: Metric) -> list[Panel]:
    """Draw one metric of the host over intervals: a line for each cell, the mean of repetitions."""
    panels = []
    counts = sorted(data.host["guests"].unique())
    for title, together in _panels(series_of(data.host), len(counts)):
        figure = drawing.figure(metric)
        for series, (name, part) in enumerate(together):
            for count, cell in _cells(part, metric):
                label = join(guest_word(count), name) or "measured"
                line = drawing.mean_line(cell, data.along, metric, label)
                # Colours show the number of guests; if that is constant, they show the series
                colour = counts.index(count) if len(counts) > 1 else series
                look = style(colour, series)
                figure["data"].append(line | look | {"meta": meta_of(cell, "guests")})
        _interval_axis(figure, data, {w for _, part in together for w in part["workload"]})
        if figure["data"]:
            panels.append((title, figure))
    return drawing.finished(panels, shown(metric, data.host[metric.name]))


def by_interval_of_guests(data: Data, metric: Metric) -> list[Panel]:
    """Draw one metric of each guest over intervals: a panel for each cell."""
    panels = []
    guests = sorted(data.guest["guest"].unique())
    for name, part in series_of(data.guest):
        for count, cell in _cells(part, metric):
            figure = drawing.figure(metric)
            if cell["guest"].nunique() > GUESTS:
                wide = cell.pivot_table(metric.name, data.along, "guest", observed=True)
                _band_of_guests(figure, shown(metric, wide), guests, POINTS)
            else:
                for guest, rows in cell.groupby("guest", observed=True):
                    line = drawing.mean_line(rows, data.along, metric, str(guest))
                    figure["data"].append(line | style(guests.index(guest), 0))
            add_meta(figure, meta_of(cell, "guests"))
            _points(figure, cell.groupby(["interval", "guest"], observed=True).ngroups)
            _interval_axis(figure, data, set(cell["workload"]))
            panels.append((join(guest_word(count), name), figure))
    return drawing.finished(panels, shown(metric, data.guest[metric.name]))


def _band_of_guests(
    figure: dict[str, Any], wide: pd.DataFrame, guests: list[Any], points: int
) -> None:
    """Draw a band from the lowest to the highest of many guests, and three single guests.

    `wide` has a row for each point of time and a column for each guest. The three guests are those
    that end lowest, in the middle and highest.
    """
    x, values = wide.index.to_numpy(), wide.to_numpy()
    label = f"all {len(wide.columns)} guests"
    low, high = wide.min(axis=1).to_numpy(), wide.max(axis=1).to_numpy()
    figure["data"] += drawing.band(x, low, high, label, points)
    order = wide.ffill().iloc[-1].to_numpy().argsort()
    names = ("ends lowest", "ends in the middle", "ends highest")
    for name, column in zip(names, order[[0, len(order) // 2, -1]], strict=True):
        guest = wide.columns[column]
        line = drawing.time_line(x, values[:, column], f"{guest}, {name}", points)
        figure["data"].append(line | style(guests.index(guest), 0))


def _cells(part: pd.DataFrame, metric: Metric) -> Iterator[tuple[int, pd.DataFrame]]:
    """Split by number of guests; leave out a cell without any value of the metric."""
    for count, cell in by_count(part):
        if cell[metric.name].notna().any():
            yield count, cell


def _interval_axis(figure: dict[str, Any], data: Data, workloads: set[str]) -> None:
    """Show the numbers or the ends of intervals on the x axis, and when workloads were active."""
    last = data.intervals
    counted = {
        "title": f"interval ({data.interval:g} s each)" if data.interval else "seconds",
        "range": [0, last + 0.4 if data.interval else 1.02 * last],
        "dtick": 1 if data.interval and last <= 6 else None,
        "tickformat": "d" if data.interval else "",
    }
    figure["layout"]["xaxis"] |= counted
    _events(figure, data, data.along, workloads, last)


def _events(
    figure: dict[str, Any], data: Data, unit: str, workloads: set[str], last: float
) -> None:
    """Shade the time in which workloads were active, and mark what happened."""
    for workload, (start, stop) in data.windows[unit].items():
        if workload in workloads:
            drawing.shade(figure, workload, start, stop, f"{text(workload)} active")
    for at, words in _once(data.marks[unit], workloads, last):
        drawing.mark(figure, at, text(words), "left" if at > 0.8 * last else "right")


def _once(marks: dict[str, Any], workloads: set[str], last: float) -> Iterator[tuple[float, str]]:
    """Yield what happened, in order. Equal events of runs at about the same time are one mark."""
    seen: dict[str, float] = {}
    for at, words in sorted({mark for w in workloads for mark in marks.get(w, ())}):
        if at - seen.get(words, -last) > 0.02 * last:
            yield at, words
            seen[words] = at


# --- values of every sample -----------------------------------------------------------------------


def by_time(data: Data, metric: Metric) -> list[Panel]:
    """Draw one metric of the host at every sample: a line for each run."""
    runs = [each for each in data.samples if each.host[metric.name].notna().any()]
    counts = sorted({each.run.factors["guests"] for each in runs})
    points = _points_of_a_line(len(runs))
    panels = []
    for title, together in _panels(series_of(factors_of(runs)), len(counts)):
        figure = _per_sample(metric)
        for series, (name, part) in enumerate(together):
            for index, row in part.iterrows():
                count = row["guests"]
                label = join(guest_word(count), name) or "measured"
                values = shown(metric, runs[index].host[metric.name]).to_numpy()
                seconds = runs[index].host["seconds"].to_numpy()
                line = drawing.time_line(seconds, values, label, points)
                colour = counts.index(count) if len(counts) > 1 else series
                first = part[part["guests"] == count].index[0] == index
                more = {"legendgroup": label, "showlegend": bool(first)}
                meta = meta_of(part.loc[[index]], "guests") | {"line": f"{label}, {row['run']}"}
                figure["data"].append(line | style(colour, series) | more | {"meta": meta})
        _points(figure, sum(len(runs[i].host) for _, part in together for i in part.index))
        _time_axis(figure, data, {w for _, part in together for w in part["workload"]})
        panels.append((title, figure))
    values = pd.concat([each.host[metric.name] for each in runs])
    return drawing.finished(panels, shown(metric, values))


def by_time_of_guests(data: Data, metric: Metric) -> list[Panel]:
    """Draw one metric of each guest at every sample: a panel for the first run of each cell."""
    runs = [each for each in data.samples if each.has(metric)]
    factors = factors_of(runs).drop_duplicates(["guests", *FACTORS])
    guests = sorted({name for i in factors.index for name in runs[i].guest[metric.name].columns})
    points = _points_of_a_line(len(factors) * min(len(guests), 4))
    panels, scale = [], []
    for name, part in series_of(factors):
        for index in part.index:
            cell = part.loc[[index]]
            count, workload = cell["guests"].iloc[0], cell["workload"].iloc[0]
            figure, wide = _per_sample(metric), shown(metric, runs[index].guest[metric.name])
            if len(wide.columns) > GUESTS:
                _band_of_guests(figure, wide, guests, points)
            else:
                for column in wide:
                    x, y = wide.index.to_numpy(), wide[column].to_numpy()
                    line = drawing.time_line(x, y, column, points)
                    figure["data"].append(line | style(guests.index(column), 0))
            add_meta(figure, meta_of(cell, "guests"))
            _points(figure, int(wide.count().sum()))
            _time_axis(figure, data, {workload})
            scale += [wide.min(axis=None), wide.max(axis=None)]
            panels.append((join(guest_word(count), name), figure))
    return drawing.finished(panels, pd.Series(scale))


def factors_of(runs: list[Sampled]) -> pd.DataFrame:
    """Return the factors of each run, one row for each, indexed by its position."""
    return factors_of_runs([each.run for each in runs])


def factors_of_runs(runs: list[Run]) -> pd.DataFrame:
    """Return the factors of each run, one row for each, indexed by its position."""
    return pd.DataFrame([{"host": run.host, "run": run.id, **run.factors} for run in runs])


def _points_of_a_line(lines: int) -> int:
    """Return how many points each line may have, so that the page stays small."""
    return max(POINTS // 5, min(POINTS, ALL_POINTS // max(1, lines)))


def _per_sample(metric: Metric) -> dict[str, Any]:
    figure = drawing.figure(metric)
    if metric.kind == "counter":
        figure["layout"]["yaxis"]["title"] = f"{metric.unit} from sample to sample"
    return figure


def _time_axis(figure: dict[str, Any], data: Data, workloads: set[str]) -> None:
    last = data.seconds
    axis = {"title": "seconds", "range": [0, 1.01 * last], "separatethousands": True}
    figure["layout"]["xaxis"] |= axis
    _events(figure, data, "seconds", workloads, last)


# --- values by number of guests -------------------------------------------------------------------


def by_guests(data: Data, metric: Metric) -> list[Panel]:
    """Draw one metric in the last interval against the number of guests."""
    figure = drawing.figure(metric)
    last = _last(data.host)
    for series, (name, part) in enumerate(series_of(last)):
        _runs_as_points(figure, part, metric, series)
        line = drawing.mean_line(part, "guests", metric, name or "measured")
        figure["data"].append(line | style(series, series) | {"meta": meta_of(part)})
    guests_axis(figure, last["guests"])
    return drawing.finished([("", figure)])


def memory_by_guests(data: Data) -> list[Panel]:
    """Draw MiB of memory against the number of guests: configured, resident, shared, reclaimed."""
    panels = _several_by_guests(data, MEMORY)
    for published in PUBLISHED:
        if published.memory_mib:
            mib = [n * published.memory_mib / 100 for n in published.guests]
            for index, part in ((2, "shared"), (3, "reclaimed")):
                values = [p * m for p, m in zip(getattr(published, part), mib, strict=True)]
                _overlay(panels, published, part, values, index)
    return drawing.finished(panels)


def percent_by_guests(data: Data, whole: str) -> list[Panel]:
    """Draw shared, reclaimed and their difference, in percent of configured or resident memory.

    `whole` is `configured` or `resident`. Published values are in percent of configured memory, so
    only that figure has them.
    """
    parts = ("shared", "reclaimed", "difference")
    names = [f"{part}_percent_{whole}" for part in parts]
    panels = _several_by_guests(data, names)
    for published in PUBLISHED:
        if whole == "configured":
            pairs = zip(published.shared, published.reclaimed, strict=True)
            kept = [round(shared - reclaimed, 1) for shared, reclaimed in pairs]
            for index, part in enumerate((published.shared, published.reclaimed, kept)):
                _overlay(panels, published, parts[index], list(part), index)
    return drawing.finished(panels, _last(data.host)[names].melt()["value"])


def _several_by_guests(data: Data, names: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    """Draw several metrics of one unit: colour and marker show the metric, the dash the rest.

    A metric without any value is left out. The others keep their colours.
    """
    panels = []
    by_name = {metric.name: metric for metric in catalog.HOST}
    last = _last(data.host)
    table = {i: by_name[n] for i, n in enumerate(names) if data.host[n].notna().any()}
    for title, together in _panels(series_of(last), len(table)):
        figure = drawing.figure(next(iter(table.values())))
        for series, (name, part) in enumerate(together):
            for index, metric in table.items():
                _runs_as_points(figure, part, metric, index)
                label = join(metric.label.split(", of ")[0], name)
                line = drawing.mean_line(part, "guests", metric, label)
                figure["data"].append(line | style(index, series) | {"meta": meta_of(part)})
        guests_axis(figure, last["guests"])
        panels.append((title, figure))
    return panels


def _last(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["last"]]


def _runs_as_points(figure: dict[str, Any], part: pd.DataFrame, metric: Metric, index: int) -> None:
    """Show each run if the line shows means: readers must see how much repetitions differ."""
    if part["repetition"].nunique() > 1:
        colour = COLOURS[index % len(COLOURS)]
        figure["data"].append(
            {
                "x": part["guests"].to_list(),
                "y": shown(metric, part[metric.name]).to_list(),
                "customdata": part["run"].map(text).to_list(),
                "name": "single runs",
                "mode": "markers",
                "showlegend": False,
                "marker": {"color": colour, "symbol": "line-ew-open", "size": 9},
                "hovertemplate": "%{customdata}: %{y:,.6~g}<extra></extra>",
                "meta": meta_of(part),
            }
        )


def _overlay(
    panels: list[tuple[str, dict[str, Any]]],
    published: Published,
    part: str,
    values: list[float],
    index: int,
) -> None:
    """Add published points to a figure. The page shows them only if they are chosen."""
    look = {"color": COLOURS[index], "symbol": published.marker, "size": 10, "line": {"width": 1.5}}
    points = {
        "x": list(published.guests),
        "y": values,
        "name": f"{part.capitalize()} · {published.name}",
        "mode": "markers",
        "marker": look,
        "hovertemplate": "%{y:,.4~g}<extra>%{fullData.name}</extra>",
        "visible": False,
        "meta": {"published": True},
    }
    for _, figure in panels:
        figure["data"].append(points)


def guests_axis(figure: dict[str, Any], counts: pd.Series) -> None:
    """Make the number of guests the x axis, and note this for the page's filters."""
    figure["layout"]["meta"] = {"x": "guests"}
    figure["layout"]["xaxis"] |= {
        "title": "guests",
        "rangemode": "tozero",
        "tickformat": "d",
        "dtick": 1 if counts.max() <= 12 else None,
    }


# --- savings -------------------------------------------------------------------------


def savings_against_cost(settings: list[Setting]) -> list[Panel]:
    """Draw MiB saved against CPU seconds of ksmd: a point for each setting, with intervals.

    A line connects the points of a series, ordered by number of guests. There is no panel if no
    cost is known, as for imported runs.
    """
    known = [s for s in settings if s.saved_mib and s.cost_seconds and not s.off]
    if not known:
        return []
    figure = drawing.figure(next(m for m in catalog.HOST if m.name == "reclaimed_mib"))
    table = pd.DataFrame([{f: getattr(s, f) for f in (*FACTORS, "guests")} for s in known])
    for index, (name, part) in enumerate(series_of(table)):
        part = part.sort_values("guests")
        look = style(index, index)
        figure["data"].append(
            {
                "x": [known[row].cost_seconds.mean for row in part.index],
                "y": [known[row].saved_mib.mean for row in part.index],
                "error_x": bars([known[row].cost_seconds for row in part.index], look),
                "error_y": bars([known[row].saved_mib for row in part.index], look),
                "customdata": [guest_word(count) for count in part["guests"]],
                "mode": "lines+markers" if len(part) > 1 else "markers",
                "name": text(name or "measured"),
                "line": {**look["line"], "width": 1},
                "marker": look["marker"] | {"size": 9},
                "hovertemplate": "%{y:,.4~g} MiB for %{x:,.3~g} CPU seconds, %{customdata}"
                "<extra>%{fullData.name}</extra>",
                "meta": meta_of(part) | {"by": {"guests": part["guests"].to_list()}},
            }
        )
    cost = {"title": "CPU seconds of ksmd and policy", "rangemode": "tozero"}
    figure["layout"]["xaxis"] |= cost
    figure["layout"]["yaxis"]["title"] = "MiB saved at the end"
    return drawing.finished([("", figure)])


def saved_by_guests(settings: list[Setting]) -> list[Panel]:
    """Draw MiB saved against the number of guests, with intervals: a line for each other factor.

    There is no panel if the number of guests varies in no series.
    """
    known = [s for s in settings if s.saved_mib and not (s.off or s.control)]
    figure = drawing.figure(next(m for m in catalog.HOST if m.name == "reclaimed_mib"))
    table = pd.DataFrame([{f: getattr(s, f) for f in (*FACTORS, "guests")} for s in known])
    series = series_of(table) if known else []
    if not any(part["guests"].nunique() > 1 for _, part in series):
        return []
    for index, (name, part) in enumerate(series):
        part = part.sort_values("guests")
        saved = [known[row].saved_mib for row in part.index]
        look = style(index, index)
        figure["data"].append(
            {
                "x": part["guests"].to_list(),
                "y": [each.mean for each in saved],
                "error_y": bars(saved, look),
                "customdata": [spoken(each, "MiB") for each in saved],
                "name": text(name or "saved"),
                "mode": "lines+markers" if len(part) > 1 else "markers",
                "hovertemplate": "%{customdata}<extra>%{fullData.name}</extra>",
                "meta": meta_of(part),
                **look,
            }
        )
    guests_axis(figure, table["guests"])
    figure["layout"]["yaxis"]["title"] = "MiB saved at the end"
    return drawing.finished([("", figure)])


def bars(estimates: list[Estimate], look: dict[str, Any]) -> dict[str, Any] | None:
    """Make error bars from the low to the high end of each interval; None without intervals."""
    if all(estimate.low is None for estimate in estimates):
        return None
    return {
        "type": "data",
        "array": [0 if e.high is None else e.high - e.mean for e in estimates],
        "arrayminus": [0 if e.low is None else e.mean - e.low for e in estimates],
        "thickness": 1.2,
        "color": look["line"]["color"],
    }
