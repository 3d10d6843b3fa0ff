"""Figures, tables and words to one page that needs nothing but a browser."""

# ruff: noqa: RUF001

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import jinja2
import pandas as pd
from plotly.offline import get_plotlyjs

from ksm_analysis import answer, figures, metrics, observations, provenance
from ksm_analysis.published import PUBLISHED
from ksm_analysis.runs import Results, Run

FACTORS = ("guests", "host", "workload", "knobs")  # what the page filters by
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
    settings = answer.settings(measured)
    facts = provenance.facts(results.runs)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ksm_analysis"),
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
        headline=answer.headline(settings),
        best=answer.best(settings),
        words=in_words(usable),
        warnings=results.warnings,
        answer=answer_table(settings),
        checks=observations.checks(measured),
        summary=summary_table(measured),
        sections=sections(measured) if measured else [],
        **choices(measured),
        runs=[run_row(run) for run in results.runs],
        facts=facts,
        differing=[fact.name for fact in facts if fact.differs],
        definitions=[*metrics.HOST, *metrics.GUEST],
        published=PUBLISHED,
        css=css,
        javascript=javascript,
        plotly=get_plotlyjs(),
    )


def title(results: Results) -> str:
    """Name the experiments; the directory, if no run tells."""
    names = dict.fromkeys(run.record.get("experiment", "") for run in results.runs)
    return ", ".join(names) if names else results.path.name


# --- words ----------------------------------------------------------------------------------------


def in_words(runs: tuple[Run, ...]) -> str:
    """Say what was run, in one sentence."""
    if not runs:
        return "No run can be used: there is nothing to show but why."
    values = {
        factor: sorted({run.factors[factor] for run in runs})
        for factor in ("guests", "workload", "knobs", "repetition")
    }
    repetitions = len(values["repetition"])
    return (
        f"{len(runs)} {'run' if len(runs) == 1 else 'runs'} {_guests(runs)}; "
        f"workload: {_list(values['workload'])}; knobs: {_list(values['knobs'], '; ')}. "
        f"Sampled {_sampling(runs)}{_ending(runs)}. "
        + (
            "Each cell was run once, so nothing is known of how much repetitions would differ."
            if repetitions == 1
            else f"Each cell was run up to {repetitions} times; lines are means of runs, "
            "and the short strokes beside them are single runs."
        )
        + _origin(runs)
    )


def _guests(runs: tuple[Run, ...]) -> str:
    """Say how many guests there were, and their memory."""
    asked = [run.record["run"]["guests"] for run in runs if run.factors["guests"]]
    words = ["without guests"] if len(asked) < len(runs) else []
    if asked:
        counts = sorted({run.factors["guests"] for run in runs} - {0})
        noun = "guest" if counts == [1] else "guests"
        sizes = sorted({guests["memory_mib"] for guests in asked})
        words.append(f"with {_list(counts)} {noun} of {_list(sizes, ' or ')} MiB")
    return " and ".join(words)


def _sampling(runs: tuple[Run, ...]) -> str:
    """Say how often and how long; of many ways, from what to what."""
    every = [run.record["run"]["sampling"] for run in runs]
    ways = list(
        dict.fromkeys(
            f"every {s['period']:g} s for {s['intervals']} intervals of {s['interval']:g} s"
            for s in every
        )
    )
    if len(ways) <= 3:
        return _list(ways, ", or ")
    counts, lengths = ([s[key] for s in every] for key in ("intervals", "interval"))
    return f"for {min(counts)} to {max(counts)} intervals of {min(lengths):g} to {max(lengths):g} s"


def _origin(runs: tuple[Run, ...]) -> str:
    """Say of imported runs that they are, and what their logs do not tell."""
    assumed = [run.record["imported"].get("assumed", {}) for run in runs if run.imported]
    if not assumed:
        return ""
    values = sorted({f"{name} {value}" for each in assumed for name, value in each.items()})
    many = "1 run was" if len(assumed) == 1 else f"{len(assumed)} runs were"
    return f" {many} imported from logs; assumed: {', '.join(values)}."


def _ending(runs: tuple[Run, ...]) -> str:
    """Say of runs that may end early how they did."""
    judged = [run for run in runs if run.converged is not None]
    steady = sum(run.converged for run in judged)
    if not judged:
        return ""
    return f", or until pages_sharing was steady, which it was in {steady} of {len(judged)} runs"


def _list(values: list, last: str = " and ") -> str:
    *most, end = map(str, values)
    return f"{', '.join(most)}{last}{end}" if most else end


# --- figures --------------------------------------------------------------------------------------


def choices(measured: list[metrics.Measured]) -> dict:
    """Say what there is to choose from, and what is chosen at first.

    `filters`: the values of each factor that varies; `choices`: metrics that have a figure and a
    value; `chosen`: names of those that are shown at first.
    """
    cells = [{"host": each.run.host, **each.run.factors} for each in measured]
    values = {factor: sorted({cell[factor] for cell in cells}) for factor in FACTORS}
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


def _by_time(data: figures.Data, shown: list, of_guests: list) -> Iterator[Figure]:
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


def _of(metric: metrics.Metric, against: str, panels: list[figures.Panel]) -> Figure:
    name = f"{metric.name}-{against}"
    return Figure(name, metric.label, metric.help, tuple(panels), metric.chosen_with)


def _savings(data: figures.Data, measured: list, with_guests: bool) -> Iterator[Figure]:
    by_name = {m.name: m for m in metrics.HOST}
    if panels := figures.savings_against_cost(answer.settings(measured)):
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


# --- tables ---------------------------------------------------------------------------------------


ANSWER = (  # of Setting: heading, unit
    ("guests", "guests", ""),
    ("host", "host", ""),
    ("workload", "workload", ""),
    ("knobs", "knobs", ""),
    ("runs", "runs", ""),
    ("saved_mib", "saved", "MiB"),
    ("percent_configured", "saved, of configured", "%"),
    ("percent_resident", "saved, of resident", "%"),
    ("ksmd_cpu_seconds", "CPU time of ksmd", "s"),
    ("ksmd_cpu_percent", "CPU use of ksmd", "% of one CPU"),
    ("throughput", "throughput per guest", "bogo ops/s"),
    ("throughput_vs_off_percent", "throughput against KSM off", "%"),
    ("saved_per_cpu_second", "saved per CPU second", "MiB/s"),
    ("seconds_to_50", "50 % after", "s"),
    ("seconds_to_90", "90 % after", "s"),
    ("seconds_to_95", "95 % after", "s"),
)


def answer_table(settings: list[answer.Setting]) -> dict:
    """Make headings and rows of text, without what is nowhere known, or does not vary."""
    columns = [column for column in ANSWER if _tells(settings, column[0])]
    rising = [s for s in settings if not s.off and not s.plateaued]
    return {
        "headings": [
            {"title": title, "unit": unit, "text": name in FACTORS} for name, title, unit in columns
        ],
        "rows": [
            {
                "factors": _attributes({factor: getattr(s, factor) for factor in FACTORS}),
                "off": s.off,
                "cells": [_answer_cell(s, name) for name, _, _ in columns],
            }
            for s in settings
        ],
        "rising": "* pages_sharing was still changing when the run ended: there is no plateau, and "
        "the times are those to shares of what it had reached."
        if rising
        else "",
    }


def _tells(settings: list[answer.Setting], name: str) -> bool:
    values = [getattr(s, name) for s in settings]
    if name in ("host", "knobs"):
        return len(set(values)) > 1
    return name in ("workload", "runs") or any(value is not None and value != 0 for value in values)


def _answer_cell(setting: answer.Setting, name: str) -> str:
    value = getattr(setting, name)
    if name == "runs":
        return str(len(value))
    if name in FACTORS:
        return str(value)
    star = "*" if name.startswith("seconds_to") and not setting.plateaued and value else ""
    return answer.short(value) + star


def _attributes(factors: dict) -> dict:
    """Make HTML attributes that the page's filters look at."""
    return {f"data-{name}": str(value) for name, value in factors.items()}


def summary_table(measured: list[metrics.Measured]) -> dict:
    """Make headings and rows of text, without what has no value in any run, or never varies."""
    table = metrics.summary(measured)
    known = {m.name: m for m in metrics.HOST}
    headings, rows = [], [[] for _ in measured]
    for name in table:
        constant = name in ("host", "knobs", "repetition") and table[name].nunique() == 1
        none = table[name].isna().all() or (table[name] == "").all()
        if constant or none or (name == "guests" and not table[name].any()):
            continue
        metric = known.get(name)
        headings.append(
            {
                "title": metric.label if metric else name.replace("_", " "),
                "text": table[name].dtype == "str",
                "unit": metric.unit if metric else "",
                "help": metric.help if metric else "",
            }
        )
        for row, value in zip(rows, table[name], strict=True):
            row.append(_cell(value))
    factors = [_attributes({**e.run.factors, "host": e.run.host}) for e in measured]
    return {
        "headings": headings,
        "rows": [{"factors": f, "cells": row} for f, row in zip(factors, rows, strict=True)],
    }


def _cell(value: object) -> str:
    if isinstance(value, str | int):
        return str(value)
    if pd.isna(value):
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 or value == round(value) else f"{value:,.4g}"


def run_row(run: Run) -> dict:
    """Make a line of the table of runs: how each went."""
    sampling, end = run.record["run"]["sampling"], run.end
    took = end.get("cpu_seconds")
    started = run.record.get("started")
    return {
        "id": run.id,
        "host": run.host,
        "status": run.record["status"],
        "reason": run.record.get("reason") or "",
        "origin": f", from {run.record['imported'].get('file')}" if run.imported else "",
        "started": _time(started) if started else "",
        "samples": f"{len(run.samples)} of {sampling['samples']}"
        + (", steady" if run.end.get("reason") == "steady" else ""),
        "sampler": f"{100 * took / (run.intervals * sampling['interval']):.2f} %"
        if took is not None
        else "",
    }


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
