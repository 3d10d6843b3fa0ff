"""Figures, tables and words to one page that needs nothing but a browser."""

# ruff: noqa: RUF001

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from plotly.offline import get_plotlyjs

from ksm_analysis.analysis import observations, recommendation
from ksm_analysis.analysis.answer import headline
from ksm_analysis.analysis.best import best_of
from ksm_analysis.analysis.settings import settings_of
from ksm_analysis.definition.part import outside
from ksm_analysis.metrics import metrics
from ksm_analysis.page import census_figures, figures, tables, words
from ksm_analysis.page.published import PUBLISHED
from ksm_analysis.results import provenance
from ksm_analysis.results.run import Results

KINDS = (
    "To the left, faint: what perfect merging would save (limit_pages), of which zeros are pages "
    "full of zeros, within guests is what merging inside each guest alone would save of the "
    "others, and between guests what merging across them adds. To the right: what is saved, in "
    "which zeros are pages on the kernel's zero page: without use_zero_pages ksmd merges pages "
    "full of zeros like all others, and they are saved within and between guests. Means of "
    "repetitions, in the last census."
)
WHO = (
    "Pages of one guest (row) whose frame another (column) has as well; where a guest meets "
    "itself, pages whose frame it has more than once. A panel is the first run of its kind. Pages "
    "on the kernel's zero page are nobody's, and not in it."
)
ATTRIBUTION = (
    f"{metrics.CENSUS_GUEST[0].help} ksm_process_profit is not that: it counts every page that is "
    "merged, the frame that is kept included, so that its sum over guests has the frames that are "
    "kept (pages_shared) on top of what is saved, and pages that have been written to since, until "
    "ksmd comes by; and it takes off 64 B for each rmap_item of the guest, merged or not. Means of "
    "repetitions, in the last census."
)
RATE = (
    "The rate is pages_to_scan / sleep_millisecs, as they were in the last census. ksmd sleeps so "
    "long after it has looked at so many, so that it scans fewer: what each batch takes comes on "
    "top. A line is whatever else was varied."
)
CHANGED = (
    f"Of one guest: {metrics.CENSUS[-1].help} What changes from scan to scan is scanned in vain. A "
    "panel is the first run of its kind."
)
FIRST = ("pages_sharing", "general_profit", "ksmd_cpu_percent", "ksm_merging_pages")


@dataclass(frozen=True)
class Figure:
    """A figure as the page shows it: one panel, or several with titles of their own.

    `metric` is by whose choice it is shown; those without are always shown.
    """

    id: str
    title: str
    help: str
    panels: tuple[figures.Panel, ...]
    metric: str = ""
    note: str = ""
    wide: bool = False

    def scripts(self) -> list[tuple[str, str]]:
        """Write panels as JSON; Plotly writes < and > such that no name in it can end a script."""
        return [(title, figure.to_json()) for title, figure in self.panels]


@dataclass(frozen=True)
class Section:
    """Figures under one heading."""

    id: str
    title: str
    intro: str
    figures: tuple[Figure, ...]


def write(results: Results, path: Path) -> None:
    """Write the page, whole or not at all."""
    page = render(results)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(page, encoding="utf-8")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def render(results: Results) -> str:
    """Make the page, as text."""
    usable = results.usable
    measured = [metrics.measure(run) for run in usable]
    settings = settings_of(measured)
    facts = provenance.facts(results.runs)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ksm_analysis.page"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    css, javascript = (
        environment.loader.get_source(environment, f"report.{kind}")[0] for kind in ("css", "js")
    )
    return environment.get_template("report.html.j2").render(
        title=title(results),
        notes=list(
            dict.fromkeys(filter(None, (r.record["run"].get("note") for r in results.runs)))
        ),
        headline=headline(settings),
        best=best_of(settings),
        words=words.in_words(usable),
        warnings=results.warnings,
        answer=tables.of_settings(settings),
        checks=observations.checks(measured),
        summary=tables.of_runs(measured),
        sections=sections(measured) if measured else [],
        **choices(measured),
        guests=tables.of_guests(recommendation.cells(measured)),
        rule=recommendation.RULE,
        runs=[tables.how_it_went(run) for run in results.runs],
        parts=list(_of_parts(results)),
        facts=facts,
        differing=[fact.name for fact in facts if fact.differs],
        definitions=definitions(measured),
        published=PUBLISHED,
        css=css,
        javascript=javascript,
        plotly=get_plotlyjs(),
    )


def _of_parts(results: Results) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Yield name, title and table of each part from outside that has something to show."""
    for part in outside():
        table = part.table([run for run in results.usable if run.options(part.name) is not None])
        if table is not None and len(table):
            yield part.name, part.title or part.name, table


def title(results: Results) -> str:
    """Name the experiments; the directory, if no run tells."""
    names = dict.fromkeys(run.record.get("experiment", "") for run in results.runs)
    return ", ".join(names) if names else results.path.name


def definitions(measured: list[metrics.Measured]) -> list[metrics.Metric]:
    """List what the page explains; censuses only where there are any."""
    counted = census_figures.counted(measured)
    of_census = [*metrics.CENSUS, *metrics.CENSUS_GUEST] if counted else []
    return [*metrics.HOST, *metrics.GUEST, *of_census]


# --- figures --------------------------------------------------------------------------------------


def choices(measured: list[metrics.Measured]) -> dict[str, Any]:
    """Say what there is to choose from, and what is chosen at first.

    `filters`: the values of each factor that varies; `choices`: metrics that have a figure and a
    value; `chosen`: names of those that are shown at first.
    """
    cells = [{"host": each.run.host, **each.run.factors} for each in measured]
    values = {factor: sorted({cell[factor] for cell in cells}) for factor in tables.FACTORS}
    shown = [
        metric
        for table, frames in (
            (metrics.HOST, [each.host for each in measured]),
            (metrics.GUEST, [each.guest for each in measured]),
        )
        for metric in table
        if metric.figure and not metric.beside and _has_values(frames, metric.name)
    ]
    return {
        "filters": {factor: each for factor, each in values.items() if len(each) > 1},
        "choices": shown,
        "chosen": [metric.name for metric in shown if metric.name in FIRST],
    }


def _has_values(frames: list[pd.DataFrame], name: str) -> bool:
    return any(frame[name].notna().any() for frame in frames)


def sections(measured: list[metrics.Measured]) -> list[Section]:
    """Make all figures. A metric without any value, or a section without figures, is left out."""
    data = figures.load(measured)
    with_guests = (data.host["guests"] > 0).any()
    shown = [m for m in metrics.HOST if m.figure and data.host[m.name].notna().any()]
    of_guests = [m for m in metrics.GUEST if m.figure and data.guest[m.name].notna().any()]
    last = "Values of the last interval. "
    every = (
        Section(
            "savings",
            "What is saved",
            f"{last}Published values (hollow markers) can be laid over: choose what is shown.",
            tuple(_savings(data, measured, with_guests)),
        ),
        Section(
            "census",
            "What could be saved",
            "Censuses read the contents and the frames of all mergeable memory: what perfect "
            "merging would save, what is saved of that, and who shares with whom. The last census "
            "stands for a run.",
            tuple(_census(data, census_figures.counted(measured))),
        ),
        Section(
            "intervals",
            "Over time",
            f"{_times(data)}A point stands at the end of its interval.",
            tuple(_of(m, "by-interval", figures.by_interval(data, m)) for m in shown),
        ),
        Section(
            "guests",
            f"{_whose(data)} over time",
            f"One panel for each {'number of guests, ' if with_guests else ''}workload and "
            f"setting, all to the same scale. {_bands(data)}",
            tuple(_of(m, "by-interval", figures.by_interval_of_guests(data, m)) for m in of_guests),
        ),
        Section(
            "counts",
            "Against the number of guests",
            last,
            tuple(_of(m, "by-guests", figures.by_guests(data, m)) for m in shown if with_guests),
        ),
        Section(
            "samples",
            "Every sample",
            f"{_times(data)}Each line is one run; a panel of guests is of the first run of its "
            "kind. Lines of many samples keep the least and the greatest of each stretch, so that "
            "no peak is lost.",
            tuple(_by_time(data, shown, of_guests)),
        ),
    )
    return [section for section in every if section.figures]


def _by_time(data: figures.Data, shown: list[Any], of_guests: list[Any]) -> Iterator[Figure]:
    if _denser_than_intervals(data):
        yield from (_of(m, "by-time", figures.by_time(data, m)) for m in shown)
        yield from (_of(m, "by-time", figures.by_time_of_guests(data, m)) for m in of_guests)


def _denser_than_intervals(data: figures.Data) -> bool:
    """Whether samples tell more than the ends of intervals do; those of imported logs do not."""
    return any(len(each.host) > each.run.intervals for each in data.samples)


def _bands(data: figures.Data) -> str:
    most = data.guest.groupby("run")["guest"].nunique().max()
    if most <= figures.GUESTS:
        return ""
    return (
        f"More than {figures.GUESTS} guests are a band from the lowest to the highest, with those "
        "that end lowest, in the middle and highest."
    )


def _whose(data: figures.Data) -> str:
    """Name what has values of its own: guests, the process of arrays, or both."""
    there = data.guest["guests"] > 0
    if there.all():
        return "Each guest"
    return "Each guest or process" if there.any() else "The process"


def _times(data: figures.Data) -> str:
    """Explain what figures against time have besides lines."""
    band = (
        "The grey band is the time in which the workload was active, by the host's clock. "
        if data.windows["seconds"]
        else ""
    )
    lines = "Dotted lines are when arrays were written and changed. "
    return band + (lines if any(data.marks["seconds"].values()) else "")


def _census(data: figures.Data, counted: list[metrics.Measured]) -> Iterator[Figure]:
    """Make the figures of censuses; of those without values, none."""
    efficiency = census_figures.EFFICIENCY.help
    of_settings = census_figures.efficiency_by_guests(data, counted)
    of_rates = census_figures.efficiency_by_rate(counted)
    of_runs = census_figures.efficiency_over_time(data, counted)
    changed = census_figures.changed_over_time(data, counted)
    every = {
        ("census-by-kind", "What could be saved, and what is", KINDS): census_figures.by_kind,
        ("who-shares", "Who shares with whom", WHO): census_figures.who_shares,
        ("attribution", "Savings of each guest", ATTRIBUTION): census_figures.attribution,
    }
    every = {key: function(counted) for key, function in every.items()} | {
        ("efficiency-by-guests", "Efficiency by number of guests", efficiency): of_settings,
        ("efficiency-by-rate", "Efficiency by scan rate", f"{efficiency} {RATE}"): of_rates,
        ("efficiency-by-time", "Efficiency over time", f"{efficiency} A line is a run."): of_runs,
        ("changed-by-time", "Pages that change", CHANGED): changed,
    }
    yield from (Figure(*key, tuple(panels)) for key, panels in every.items() if panels)


def _of(metric: metrics.Metric, against: str, panels: list[figures.Panel]) -> Figure:
    name = f"{metric.name}-{against}"
    return Figure(name, metric.label, metric.help, tuple(panels), metric.chosen_with)


def _savings(data: figures.Data, measured: list[Any], with_guests: bool) -> Iterator[Figure]:
    by_name = {m.name: m for m in metrics.HOST}
    if panels := figures.savings_against_cost(settings_of(measured)):
        yield Figure(
            "savings-against-cost",
            "Savings against cost",
            "A point for each setting: what is saved at the end of the run, against the CPU time "
            "that ksmd has used in the whole run. Means of repetitions with 95 % intervals; "
            "without strokes it is 1 run. A line leads from few guests to many. Up and to the "
            "left is better.",
            tuple(panels),
            wide=True,
        )
    if not with_guests:
        return
    for whole in ("configured", "resident"):
        if data.host[f"shared_percent_{whole}"].notna().any():
            yield Figure(
                f"percent-of-{whole}-by-guests",
                f"Shared and reclaimed, in percent of {whole} guest memory",
                "Shared: (pages_shared + pages_sharing) × page size. Reclaimed: pages_sharing × "
                f"page size. {metrics.WHOLE[whole]} {metrics.ZERO_PAGES}",
                tuple(figures.percent_by_guests(data, whole)),
                note=" ".join(f"{p.name}: {p.source}" for p in PUBLISHED if whole == "configured"),
                wide=whole == "configured",
            )
    yield Figure(
        "memory-by-guests",
        "Guest memory, shared and reclaimed, in MiB",
        " ".join(f"{m.label}: {m.help}" for m in map(by_name.get, figures.MEMORY)),
        tuple(figures.memory_by_guests(data)),
        note="Published values in MiB are their percentages times the memory of their guests.",
    )
