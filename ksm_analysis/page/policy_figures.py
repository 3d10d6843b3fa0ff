"""What policies did in runs: the knobs that they turned over time, and what each policy cost."""

# ruff: noqa: RUF001

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from ksm_analysis.analysis.settings import grouped
from ksm_analysis.analysis.statistics import estimate, times_of
from ksm_analysis.analysis.words import guest_word, join, short, times
from ksm_analysis.metrics import efficiency, policies
from ksm_analysis.metrics.arrivals import arrivals
from ksm_analysis.metrics.catalog import Metric
from ksm_analysis.metrics.freed import saved_mib
from ksm_analysis.metrics.measurement import Measured
from ksm_analysis.metrics.values import gauge
from ksm_analysis.page import drawing
from ksm_analysis.page.changes import Table, attributes, heading, varied
from ksm_analysis.page.drawing import Panel, style, text
from ksm_analysis.page.figures import factors_of_runs, meta_of, series_of
from ksm_analysis.results.run import Run

POLICIES = (
    "Who turned the knobs, and what came of it: what was saved at the end, how much of what could "
    "be saved was saved over the run (where the contents of all memory are known), the CPU time "
    "of ksmd and of the policy itself, and how soon 95 % of what could be saved was saved, after "
    "each time at which copies came; –: not in each run, before more came. If the contents are not "
    "known: how soon 95 % of what each newcomer added was saved. Values are means of repetitions "
    "with 95 % intervals."
)
DID = (
    "Each line is one run: the knob as it was sampled; 0 pages while ksmd was stopped (run=0). The "
    "points are decisions of the policy, with its reason."
)
KNOBS = {"pages_to_scan": "pages", "sleep_millisecs": "ms"}
REASON = 200  # characters of a reason that are shown


def has_policies(measured: list[Measured]) -> bool:
    """Whether anybody turned knobs in any run."""
    return any(each.run.plan.policy for each in measured)


# --- over time ------------------------------------------------------------------------------------


def decisions(measured: list[Measured]) -> list[Panel]:
    """Draw each knob that policies turn, over time: a line for each run, a point for a decision."""
    if not has_policies(measured):
        return []
    runs = [each.run for each in measured]
    panels = []
    for knob, unit in KNOBS.items():
        shown = [run for run in runs if f"ksm.{knob}" in run.samples]
        if shown:
            panels.append((knob, _over_time(shown, knob, unit)))
    return drawing.finished(panels)


def _over_time(runs: list[Run], knob: str, unit: str) -> dict[str, Any]:
    figure = drawing.figure(Metric(knob, unit, "gauge", knob, "", gauge("")))
    for index, (name, part) in enumerate(series_of(factors_of_runs(runs))):
        for place, row in enumerate(part.index):
            run, cell = runs[row], part.loc[[row]]
            label = join(guest_word(run.plan.factors.guests), name) or "measured"
            meta = meta_of(cell, "guests") | {"line": f"{label}, {run.id}"}
            more = {"legendgroup": label, "name": text(label), "meta": meta} | style(index, index)
            seconds, values = _steps(run, knob)
            line = {"x": seconds, "y": values, "mode": "lines", "showlegend": place == 0}
            line |= {"hovertemplate": "%{x:,.1f} s: %{y:,.6~g}<extra>%{fullData.name}</extra>"}
            line_look = {"line": more["line"] | {"shape": "hv", "width": 1.5}}
            figure["data"].append(more | line | line_look)
            points = _points(run, knob)
            if len(points["x"]):
                points |= {"meta": meta | {"line": f"{label}, {run.id}, decisions"}}
                figure["data"].append(more | points | {"mode": "markers", "showlegend": False})
    figure["layout"]["xaxis"] |= {"title": "seconds", "separatethousands": True}
    return figure


def _value(knob: str, values: pd.Series, run: pd.Series) -> pd.Series:
    """Return the values of a knob; no pages are scanned while ksmd is stopped."""
    known = pd.to_numeric(values, errors="coerce")
    return known.where(run != 0, 0) if knob == "pages_to_scan" else known


def _steps(run: Run, knob: str) -> tuple[list[float], list[float]]:
    """Return when a knob changed and its values, as sampled, with the last sample."""
    on = run.samples["ksm.run"] if "ksm.run" in run.samples else pd.Series(1, run.samples.index)
    values = _value(knob, run.samples[f"ksm.{knob}"], pd.to_numeric(on, errors="coerce"))
    kept = np.flatnonzero(values.ne(values.shift()).to_numpy() | (values.index == values.index[-1]))
    return run.samples["seconds"].iloc[kept].to_list(), values.iloc[kept].to_list()


def _points(run: Run, knob: str) -> dict[str, Any]:
    """Return the decisions of a policy as points, at the value that the knob had after them."""
    seconds, values = (np.array(each, dtype=float) for each in _steps(run, knob))
    found = [event for event in run.events if event["event"] == "decision"]
    at = [event["monotonic"] - run.header["monotonic"] for event in found]
    # the next sample has the value that a decision has set
    place = np.minimum(np.searchsorted(seconds, at), len(values) - 1)
    soon = np.abs(seconds[place] - at) <= run.plan.sampling.period
    place = np.where(soon, place, np.maximum(0, place - 1))
    return {
        "x": at,
        "y": values[place].tolist(),
        "customdata": [_reason(event) for event in found],
        "hovertemplate": "%{x:,.1f} s: %{customdata}<extra>%{fullData.name}</extra>",
    }


def _reason(event: dict[str, Any]) -> str:
    knobs = event.get("knobs")
    turned = ", ".join(f"{k}={v}" for k, v in knobs.items()) if isinstance(knobs, dict) else ""
    refused = f" (refused: {event['refused']})" if "refused" in event else ""
    return text(f"{turned}: {str(event.get('reason', ''))[:REASON]}{refused}")


# --- side by side ---------------------------------------------------------------------------------


def table(measured: list[Measured]) -> list[Table]:
    """Make the table of policies: a row for each setting; none if nobody turned knobs."""
    if not has_policies(measured):
        return []
    cells = {cell: [each for each, _ in runs] for cell, runs in grouped(measured).items()}
    most = max(len(policies.to_95_of_limit(each.run)) for each in measured)
    came = 0 if most else max(len(arrivals(each)) for each in measured)
    columns: list[tuple[str, str, Callable[[list[Measured]], str]]] = [
        ("runs", "", lambda runs: str(len(runs))),
        ("saved", "MiB", _mean(saved_mib)),
        ("mean efficiency", "%", _mean(_efficiency)),
        ("CPU time of ksmd", "s", _mean(_ksmd)),
        ("CPU time of the policy", "s", _mean(lambda each: policies.cpu_seconds(each.run))),
        ("decisions", "", _mean(_decisions)),
        *((f"95 % of the limit, arrival {n + 1}", "s", _limit(n)) for n in range(most)),
        *((f"95 % of newcomer {n + 1}", "s", _to_95(n)) for n in range(came)),
    ]
    shown = varied([*cells])
    rows = [
        {
            "factors": attributes(cell),
            "cells": [
                *(str(getattr(cell, name)) for name in shown),
                *(words(runs) for _, _, words in columns),
            ],
        }
        for cell, runs in cells.items()
    ]
    headings = [*(heading(name, text=True) for name in shown)]
    headings += [heading(name, unit) for name, unit, _ in columns]
    return [_without_empty(Table("policies", "Policies", POLICIES, headings, rows))]


def _without_empty(table: Table) -> Table:
    """Leave out columns without any value."""
    kept = [n for n in range(len(table.headings)) if any(r["cells"][n] != "–" for r in table.rows)]
    rows = [{**row, "cells": [row["cells"][n] for n in kept]} for row in table.rows]
    return Table(table.id, table.title, table.help, [table.headings[n] for n in kept], rows)


def _mean(value: Callable[[Measured], float]) -> Callable[[list[Measured]], str]:
    return lambda runs: short(estimate([value(each) for each in runs]))


def _efficiency(measured: Measured) -> float:
    return float(efficiency.of_run(measured.run).get(efficiency.NAME, np.nan))


def _ksmd(measured: Measured) -> float:
    return float(measured.host["ksmd_cpu_seconds"].loc[measured.last])


def _decisions(measured: Measured) -> float:
    if measured.run.options("policy") is None:
        return np.nan
    return float(sum(event["event"] == "decision" for event in measured.run.events))


def _limit(number: int) -> Callable[[list[Measured]], str]:
    """Return a function of repetitions: how soon the limit was reached after an arrival."""

    def words(runs: list[Measured]) -> str:
        every = [policies.to_95_of_limit(each.run)[number : number + 1] for each in runs]
        known = [each[0] for each in every if each and not np.isnan(each[0])]
        return short(estimate(known)) if len(known) == len(runs) else "–"

    return words


def _to_95(number: int) -> Callable[[list[Measured]], str]:
    """Return a function of repetitions: how soon the newcomer of that number was merged."""

    def words(runs: list[Measured]) -> str:
        every = [found[number].to_95 for each in runs if len(found := arrivals(each)) > number]
        known = [each for each in every if not np.isnan(each.seconds)]
        to_95 = times_of([each.seconds for each in known], [each.yes for each in known])
        return times(to_95) if to_95 else "–"

    return words
