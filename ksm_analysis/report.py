"""Figures, tables and words to one page that needs nothing but a browser."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import jinja2
import pandas as pd
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from ksm_analysis import figures, metrics
from ksm_analysis.published import PUBLISHED
from ksm_analysis.runs import Results, Run


@dataclass(frozen=True)
class Figure:
    """A figure as the page shows it: one panel, or several with titles of their own."""

    id: str
    title: str
    help: str
    panels: tuple[tuple[str, str], ...]
    note: str = ""


@dataclass(frozen=True)
class Section:
    """Figures under one heading."""

    id: str
    title: str
    intro: str
    figures: tuple[Figure, ...]


@dataclass(frozen=True)
class Fact:
    """One line of provenance: its values, and which runs have which if they differ."""

    name: str
    values: tuple[tuple[str, tuple[str, ...]], ...]

    @property
    def differs(self) -> bool:
        """Whether runs differ in it."""
        return len(self.values) > 1


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
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ksm_analysis"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        title=results.runs[0].record.get("experiment", "") if results.runs else results.path.name,
        notes=list(
            dict.fromkeys(filter(None, (r.record["run"].get("note") for r in results.runs)))
        ),
        words=in_words(usable),
        warnings=results.warnings,
        summary=summary_table(usable),
        sections=sections(usable) if usable else [],
        runs=[run_row(run) for run in results.runs],
        facts=provenance(results.runs),
        definitions=[*metrics.HOST, *metrics.GUEST],
        published=PUBLISHED,
        plotly=get_plotlyjs(),
    )


# --- words ----------------------------------------------------------------------------------------


def in_words(runs: tuple[Run, ...]) -> str:
    """Say what was run, in one sentence."""
    if not runs:
        return "No run can be used: there is nothing to show but why."
    values = {
        factor: sorted({run.factors[factor] for run in runs})
        for factor in ("guests", "workload", "knobs", "repetition")
    }
    counts = _list(values["guests"])
    sampling, size = runs[0].record["run"]["sampling"], runs[0].record["run"]["guests"]
    repetitions = len(values["repetition"])
    return (
        f"{len(runs)} {'run' if len(runs) == 1 else 'runs'} with {counts} "
        f"{'guest' if values['guests'] == [1] else 'guests'} of {size['memory_mib']} MiB; "
        f"workload: {_list(values['workload'])}; knobs: {_list(values['knobs'], '; ')}. "
        f"Sampled every {sampling['period']:g} s for {sampling['intervals']} intervals of "
        f"{sampling['interval']:g} s. "
        + (
            "Each cell was run once, so nothing is known of how much repetitions would differ."
            if repetitions == 1
            else f"Each cell was run up to {repetitions} times; lines are means of runs."
        )
    )


def _list(values: list, last: str = " and ") -> str:
    *most, end = map(str, values)
    return f"{', '.join(most)}{last}{end}" if most else end


# --- figures --------------------------------------------------------------------------------------


def sections(runs: tuple[Run, ...]) -> list[Section]:
    """Make all figures. A metric without any value, or a section without figures, is left out."""
    data = figures.load(runs)
    shown = [m for m in metrics.HOST if m.figure and data.host[m.name].notna().any()]
    of_guests = [m for m in metrics.GUEST if m.figure and data.guest[m.name].notna().any()]
    last = "Values of the last interval. "
    every = (
        Section(
            "savings",
            "What is saved",
            f"{last}Filled markers are this experiment, hollow ones are published: click a name "
            "in the legend to hide or show it.",
            tuple(_savings(data)),
        ),
        Section(
            "intervals",
            "Over time",
            "The grey band is the time in which the workload was active, by the host's clock. A "
            "point stands at the end of its interval.",
            tuple(_one(f"{m.name}-by-interval", m, figures.by_interval(data, m)) for m in shown),
        ),
        Section(
            "guests",
            "Each guest over time",
            "One panel for each number of guests and workload, all to the same scale.",
            tuple(
                Figure(
                    f"guest-{m.name}-by-interval",
                    m.label,
                    m.help,
                    tuple((t, _json(f)) for t, f in figures.guest_panels(data, m)),
                )
                for m in of_guests
            ),
        ),
        Section(
            "counts",
            "Against the number of guests",
            last,
            tuple(_one(f"{m.name}-by-guests", m, figures.by_guests(data, m)) for m in shown),
        ),
    )
    return [section for section in every if section.figures]


def _one(name: str, metric: metrics.Metric, figure: go.Figure) -> Figure:
    return Figure(name, metric.label, metric.help, (("", _json(figure)),))


def _savings(data: figures.Data) -> Iterator[Figure]:
    by_name = {m.name: m for m in metrics.HOST}
    sources = " ".join(f"{p.name}: {p.source}" for p in PUBLISHED)
    for whole in ("configured", "resident"):
        parts = [by_name[f"{part}_percent_{whole}"] for part in ("shared", "reclaimed")]
        if data.host[parts[0].name].notna().any():
            yield Figure(
                f"percent-of-{whole}-by-guests",
                f"Shared and reclaimed, in percent of {whole} guest memory",
                " ".join(m.help for m in parts),
                (("", _json(figures.percent_by_guests(data, whole))),),
                note=sources if whole == "configured" else "",
            )
    memory = [by_name[name] for name in figures.MEMORY]
    yield Figure(
        "memory-by-guests",
        "Guest memory, shared and reclaimed, in MiB",
        " ".join(f"{m.label}: {m.help}" for m in memory),
        (("", _json(figures.memory_by_guests(data))),),
        note="Published values in MiB are their percentages times the memory of their guests.",
    )


def _json(figure: go.Figure) -> str:
    """Write a figure as JSON that can stand in a script element, whatever names are in it."""
    return figure.to_json().replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


# --- tables ---------------------------------------------------------------------------------------


def summary_table(runs: tuple[Run, ...]) -> dict:
    """Make headings and rows of text, without metrics that have no value in any run."""
    table = metrics.summary(runs)
    known = {m.name: m for m in metrics.HOST}
    headings, rows = [], [[] for _ in runs]
    for name in table:
        if table[name].isna().all():
            continue
        metric = known.get(name)
        heading = (name.replace("_", " "), "", "") if metric is None else _heading(metric)
        headings.append({"title": heading[0], "unit": heading[1], "help": heading[2]})
        for row, value in zip(rows, table[name], strict=True):
            row.append(_cell(value))
    return {"headings": headings, "rows": rows}


def _heading(metric: metrics.Metric) -> tuple[str, str, str]:
    return metric.label, metric.unit, metric.help


def _cell(value: object) -> str:
    if isinstance(value, str | int):
        return str(value)
    if pd.isna(value):
        return "–"  # noqa: RUF001
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
        "started": _time(started) if started else "",
        "samples": f"{len(run.samples)} of {sampling['samples']}",
        "sampler": f"{100 * took / sampling['seconds']:.2f} %" if took is not None else "",
    }


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def provenance(runs: tuple[Run, ...]) -> list[Fact]:
    """List everything that runs depend on, with the values that runs differ in told apart."""
    found: dict[str, dict[str, list[str]]] = {}
    for run in runs:
        record = run.record
        parts = {
            **record.get("provenance", {}),
            "knobs": record.get("knobs", {}).get("during", {}),
            "knobs before": record.get("knobs", {}).get("before", {}),
            "guests": {k: v for k, v in record["run"]["guests"].items() if k != "count"},
            "sampling": record["run"]["sampling"],
            "host": run.host,
        }
        for name, value in _flat("", parts):
            found.setdefault(name, {}).setdefault(value, []).append(run.id)
    return [
        Fact(name, tuple((value, tuple(ids)) for value, ids in values.items()))
        for name, values in found.items()
    ]


def _flat(name: str, value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(f"{name}.{key}" if name else str(key), inner)
    else:
        yield name, value if isinstance(value, str) else json.dumps(value)
