"""Tables of copies that came and went within runs, and of those that fit into a budget."""

# ruff: noqa: RUF001

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ksm_analysis.analysis.density import Fit
from ksm_analysis.analysis.statistics import estimate, times_of
from ksm_analysis.analysis.words import number, short, times
from ksm_analysis.metrics.arrivals import Arrival, arrivals
from ksm_analysis.metrics.measurement import Measured
from ksm_analysis.metrics.values import MIB
from ksm_analysis.results.run import Cell

ARRIVALS = (
    "For each guest or process that came within a run: when it was started, and how soon it was "
    "ready. Savings before are those when it was started, and after those just before the next one "
    "came or went, or the run ended. A newcomer is merged when savings have risen by 95 % of the "
    "difference, and stay there; seconds count from its start. This was not reached if savings "
    "still changed then, by more than 5 % of the difference in the last quarter of the time, or "
    "after too few full scans (3, or 10 with smart_scan). It is not known if nothing more was "
    "saved. Values are means of repetitions."
)
DENSITY = (
    "Copies or guests are added to the budget of memory and swap until one is killed, or no longer "
    "answers. How many fit is how many there were before. ≥: none were added after them, so more "
    "may fit. Values are means of repetitions with 95 % intervals."
)


@dataclass(frozen=True)
class Table:
    """A table with a heading of its own. `rows` and `headings` are as in page.tables."""

    id: str
    title: str
    help: str
    headings: list[dict[str, Any]]
    rows: list[dict[str, Any]]


def sections_of(measured: list[Measured], fits: list[Fit]) -> list[Table]:
    """Return the tables that have rows."""
    every = (
        Table("density", "How many fit", DENSITY, **of_fits(fits)),
        Table("arrivals", "Newcomers", ARRIVALS, **of_arrivals(measured)),
    )
    return [table for table in every if table.rows]


def heading(title: str, unit: str = "", text: bool = False) -> dict[str, Any]:
    """Make the heading of a column."""
    return {"title": title, "unit": unit, "text": text}


def of_arrivals(measured: list[Measured]) -> dict[str, Any]:
    """Make headings and rows of text: a row for each setting and arrival; empty without arrivals.

    Repetitions are put together by the number of the arrival.
    """
    found: dict[tuple[Cell, int], list[tuple[Arrival, Measured]]] = {}
    for each in measured:
        for arrival in arrivals(each):
            found.setdefault((each.run.cell, arrival.number), []).append((arrival, each))
    shown = varied([cell for cell, _ in found])
    return {
        "headings": [
            *(heading(name, text=True) for name in shown),
            heading("who", text=True),
            heading("came at", "s"),
            heading("ready after", "s"),
            heading("saved before", "MiB"),
            heading("saved after", "MiB"),
            heading("95 % of that after", "s", text=True),
        ],
        "rows": [
            {"factors": attributes(cell), "cells": _row(cell, shown, several)}
            for (cell, _), several in found.items()
        ],
    }


def _row(cell: Cell, shown: list[str], several: list[tuple[Arrival, Measured]]) -> list[str]:
    every = [arrival for arrival, _ in several]
    size = several[0][1].run.header["page_size"] / MIB
    known = [each.to_95 for each in every if not np.isnan(each.to_95.seconds)]
    to_95 = times_of([each.seconds for each in known], [each.yes for each in known])
    return [
        *(str(getattr(cell, name)) for name in shown),
        every[0].name,
        short(estimate([each.seconds for each in every])),
        short(estimate([each.ready for each in every])),
        short(estimate([each.before * size for each in every])),
        short(estimate([each.after * size for each in every])),
        times(to_95) if to_95 else "–",
    ]


def of_fits(found: list[Fit]) -> dict[str, Any]:
    """Make headings and rows of text: how many copies fit with each setting."""
    shown = varied([Cell(0, fit.host, fit.workload, fit.knobs) for fit in found])
    storm = any(fit.killed for fit in found)
    return {
        "headings": [
            *(heading(name, text=True) for name in shown),
            heading("runs"),
            heading("how many fit"),
            heading("and then", text=True),
            *([heading("killed when all write", text=True)] if storm else []),
        ],
        "rows": [
            {
                "factors": attributes(Cell(0, fit.host, fit.workload, fit.knobs)),
                "cells": [
                    *(str(getattr(fit, name)) for name in shown),
                    str(len(fit.runs)),
                    ("≥ " if fit.at_least else "") + short(fit.copies),
                    ", ".join(f"{reason} ({count})" for reason, count in fit.reasons),
                    *([_killed(fit)] if storm else []),
                ],
            }
            for fit in found
        ],
    }


def _killed(fit: Fit) -> str:
    if not fit.killed or not fit.stormed:
        return "–"
    return f"{short(fit.killed)} of {number(fit.stormed.mean)}"


def varied(cells: list[Cell]) -> list[str]:
    """Name the factors that differ, and the knobs."""
    table = pd.DataFrame(cells, columns=Cell._fields)
    return [name for name in Cell._fields if name == "knobs" or table[name].nunique() > 1]


def attributes(cell: Cell) -> dict[str, Any]:
    """Make the HTML attributes that the page's filters read."""
    return {f"data-{name}": str(value) for name, value in cell._asdict().items()}
