"""Tables of the page, as rows of text."""

# ruff: noqa: RUF001

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from ksm_analysis.analysis import price, recommendation
from ksm_analysis.analysis.best import Best
from ksm_analysis.analysis.settings import Setting
from ksm_analysis.analysis.statistics import Times
from ksm_analysis.analysis.words import guest_word, number, short, times
from ksm_analysis.metrics import catalog, measurement, reported, summary
from ksm_analysis.results.run import Cell, Run

FACTORS = Cell._fields  # what the page filters by
ANSWER = (  # of Setting: heading, unit
    ("guests", "guests", ""),
    ("host", "host", ""),
    ("workload", "workload", ""),
    ("knobs", "knobs", ""),
    ("runs", "runs", ""),
    ("front", "on the front", ""),
    ("saved_mib", "saved", "MiB"),
    ("counted_mib", "counted by KSM", "MiB"),
    ("freed_mib", "freed", "MiB"),
    ("percent_configured", "saved, of configured", "%"),
    ("percent_resident", "saved, of resident", "%"),
    ("efficiency_percent", "saved, of what could be", "%"),
    ("ksmd_cpu_seconds", "CPU time of ksmd", "s"),
    ("ksmd_cpu_percent", "CPU use of ksmd", "% of one CPU"),
    ("throughput", "throughput per guest", "bogo ops/s"),
    ("throughput_vs_off_percent", "throughput against KSM off", "%"),
    ("saved_per_cpu_second", "saved per CPU second", "MiB/s"),
    ("seconds_to_50", "50 % after", "s"),
    ("seconds_to_90", "90 % after", "s"),
    ("seconds_to_95", "95 % after", "s"),
)


def of_text(
    heads: Sequence[str], rows: Sequence[Sequence[str]], text: Collection[int] = (0,)
) -> dict[str, Any]:
    """Make a table of rows that are text already; `text` are the columns that are no numbers."""
    return {
        "headings": [
            {"title": head, "unit": "", "text": n in text} for n, head in enumerate(heads)
        ],
        "rows": [{"factors": {}, "cells": row} for row in rows],
    }


def of_settings(settings: list[Setting], best: list[Best]) -> dict[str, Any]:
    """Make headings and rows of text, without columns that have no value or do not vary.

    One column says which settings are on the front of their rivals.
    """
    front = [_front(setting, best) for setting in settings]
    columns = [
        column
        for column in ANSWER
        if (any(front) if column[0] == "front" else _tells(settings, column[0]))
    ]
    rising = [s for s in settings if not s.off and not s.plateaued]
    return {
        "headings": [
            {"title": title, "unit": unit, "text": name in FACTORS or _in_words(settings, name)}
            for name, title, unit in columns
        ],
        "rows": [
            {
                "factors": _attributes({factor: getattr(s, factor) for factor in FACTORS}),
                "off": s.off,
                "cells": [
                    there if name == "front" else _answer_cell(s, name) for name, _, _ in columns
                ],
            }
            for s, there in zip(settings, front, strict=True)
        ],
        "rising": "Savings were still changing when some runs ended, so they reached no plateau. "
        "They count for as long as they were watched (Kaplan and Meier). A restricted mean counts "
        "times up to the end of the longest run."
        if rising
        else "",
    }


COSTS = (
    "What throughput and latencies lose, against the runs of the same repetitions with KSM off. "
    "Losses are positive, with 95 % intervals. That KSM costs nothing measurable is said only if "
    f"two one-sided tests show that the difference is less than {100 * price.BOUND:g} %. Verdicts "
    "allow for the number of rows (Holm). Writes are those of the probe to mergeable memory."
)
PRICE = (  # of Price: heading, whether it is text
    ("guests", "guests", False),
    ("host", "host", True),
    ("workload", "workload", True),
    ("knobs", "knobs", True),
    ("metric", "metric", True),
    ("off", "KSM off", False),
    ("on", "with KSM", False),
    ("words", "what it costs", True),
    ("exchanged", "for what is lost", True),
)


def of_prices(prices: list[price.Price]) -> dict[str, Any]:
    """Make headings and rows of text, without factors that do not vary and empty columns."""
    columns = [
        (name, title, text)
        for name, title, text in PRICE
        if len(cells := {_price_cell(each, name) for each in prices}) > 1
        or (name not in FACTORS and cells - {""})
    ]
    return {
        "headings": [{"title": title, "unit": "", "text": text} for _, title, text in columns],
        "rows": [
            {
                "factors": _attributes({factor: getattr(each, factor) for factor in FACTORS}),
                "cells": [_price_cell(each, name) for name, _, _ in columns],
            }
            for each in prices
        ],
    }


def _price_cell(each: price.Price, name: str) -> str:
    if name in ("off", "on"):
        return f"{short(getattr(each, name))} {each.unit}".strip()
    words = {"words": price.in_words, "exchanged": price.exchanged}.get(name)
    return words(each) if words else str(getattr(each, name))


def _in_words(settings: list[Setting], name: str) -> bool:
    """Whether a column has times that some runs did not reach, which takes words."""
    values = [getattr(setting, name, None) for setting in settings]
    return any(isinstance(value, Times) and value.mean is None for value in values)


def _front(setting: Setting, best: list[Best]) -> str:
    """Say whether a setting is on the front of its rivals; empty if it has none."""
    said = (each.has_on_front(setting) for each in best if each.front)
    return next(("yes" if there else "no" for there in said if there is not None), "")


def _tells(settings: list[Setting], name: str) -> bool:
    values = [getattr(s, name) for s in settings]
    if name in FACTORS:
        varied = [f for f in FACTORS if len({getattr(s, f) for s in settings}) > 1]
        return name in (varied or ["workload"])
    return name == "runs" or any(value is not None and value != 0 for value in values)


def _answer_cell(setting: Setting, name: str) -> str:
    value = getattr(setting, name)
    if name == "runs":
        return str(len(value))
    if name in FACTORS:
        return str(value)
    if isinstance(value, Times):
        return f"≤ {number(setting.period)}" if setting.within(value) else times(value)
    return short(value)


def _attributes(factors: dict[str, Any]) -> dict[str, Any]:
    """Make the HTML attributes that the page's filters read."""
    return {f"data-{name}": str(value) for name, value in factors.items()}


def of_runs(measured: list[measurement.Measured]) -> dict[str, Any]:
    """Make headings and rows of text, without columns that have no value or do not vary."""
    table = summary.summary(measured)
    records = table.to_dict("records")
    known = {m.name: m for m in (*catalog.HOST, *catalog.CENSUS)}
    own = {m.column: m.unit for m in reported.metrics_of([each.run for each in measured])}
    headings: list[dict[str, Any]] = []
    rows: list[list[str]] = [[] for _ in measured]
    for name in table.columns:
        constant = name in ("host", "knobs", "repetition") and table[name].nunique() == 1
        none = table[name].isna().all() or (table[name] == "").all()
        if constant or none or (name == "guests" and not table[name].any()):
            continue
        metric = known.get(name)
        headings.append(
            {
                "title": metric.label if metric else name.replace("_", " "),
                "text": table[name].dtype == "str",
                "unit": metric.unit if metric else own.get(name, ""),
                "help": metric.help if metric else "",
            }
        )
        over = [name.startswith("seconds_to") and summary.not_reached(r) for r in records]
        for row, value, more in zip(rows, table[name], over, strict=True):
            row.append(("> " if more else "") + _cell(value))
    factors = [_attributes({**e.run.factors, "host": e.run.host}) for e in measured]
    return {
        "headings": headings,
        "rows": [{"factors": f, "cells": row} for f, row in zip(factors, rows, strict=True)],
    }


def _cell(value: Any) -> str:
    if isinstance(value, str | int):
        return str(value)
    if pd.isna(value):
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 or value == round(value) else f"{value:,.4g}"


GUESTS = (  # of recommendation.Guest: heading, unit
    ("name", "guest", ""),
    ("present", "present", "MiB"),
    ("attributed", "attributed savings", "MiB"),
    ("potential", "could be merged, at most", "MiB"),
    ("rmap_items", "rmap_items", "MiB"),
    ("net_percent", "net savings", "% of present"),
    ("profit", "ksm_process_profit", "MiB"),
    ("unmerged_percent", "not merged", "%"),
    ("changed_percent", "changed since the previous census", "%"),
    ("verdict", "advice", ""),
)
UNKNOWN = "–"
ADDED = ("present", "attributed", "profit", "rmap_items")  # columns with a sum over guests


def of_guests(cells: list[recommendation.Cell]) -> list[dict[str, Any]]:
    """Make a table for each cell: one row for each guest, with the advice, and one with the sums.

    Columns without any known value are left out.
    """
    named = [f for f in FACTORS if len({cell.factors[f] for cell in cells}) > 1]
    guests = [guest for cell in cells for guest in cell.guests]
    columns = [c for c in GUESTS if any(_guest_cell(g, c[0]) != UNKNOWN for g in guests)]
    names = [name for name, _, _ in columns]
    return [
        {
            "factors": _attributes({factor: cell.factors[factor] for factor in FACTORS}),
            "title": ", ".join(_named(cell.factors, named)),
            "headings": [
                {"title": title, "unit": unit, "text": name in ("name", "verdict")}
                for name, title, unit in columns
            ],
            "rows": [
                *([_guest_cell(guest, name) for name in names] for guest in cell.guests),
                *([_sums(cell.guests, names)] if len(cell.guests) > 1 else []),
            ],
            "advice": cell.advice,
            "test": cell.test,
        }
        for cell in cells
    ]


def _named(factors: dict[str, Any], names: list[str]) -> list[str]:
    guests = guest_word(factors["guests"])
    return [guests, *(factors[name] for name in ("workload", "knobs", "host") if name in names)]


def _sums(guests: tuple[recommendation.Guest, ...], names: list[str]) -> list[str]:
    counted = [guest for guest in guests if guest.verdict != recommendation.EXCLUDED]
    sums = {name: sum(getattr(guest, name) for guest in counted) for name in ADDED}
    return ["all", *(_number(sums[name]) if name in sums else "" for name in names[1:])]


def _guest_cell(guest: recommendation.Guest, name: str) -> str:
    value = getattr(guest, name)
    if name == "verdict" and guest.why:
        return f"{value}: {guest.why}"
    return value if isinstance(value, str) else _number(value)


def _number(value: float) -> str:
    return UNKNOWN if pd.isna(value) else number(value)


def how_it_went(run: Run) -> dict[str, Any]:
    """Make a row of the table of runs: how the run went."""
    record, took = run.record, run.end.get("cpu_seconds")
    return {
        "factors": _attributes({**run.factors, "host": run.host}),
        "id": run.id,
        "host": run.host,
        "status": record.status,
        "reason": record.reason or "",
        "origin": _origin(run),
        "started": _time(record.started) if record.started else "",
        "samples": f"{run.sampled} of {run.plan.sampling.samples}"
        + (", steady" if run.end.get("reason") == "steady" else ""),
        "sampler": f"{100 * took / run.seconds:.2f} %" if took is not None and run.seconds else "",
        "census": _census_cost(run),
    }


def _origin(run: Run) -> str:
    if run.record.imported:
        return f", from {run.record.imported.file}"
    return ", simulated" if run.simulated else ""


def _census_cost(run: Run) -> str:
    """Say how many censuses there were, and what they cost; empty if none was requested."""
    if run.census is None:
        return "none" if run.options("census") else ""
    rows = run.census.rows
    took = rows.reindex(columns=["cpu_seconds", "paused_seconds"]).sum()
    paused = f", guests paused {took['paused_seconds']:.2f} s" if took["paused_seconds"] else ""
    many = "1 census" if len(rows) == 1 else f"{len(rows)} censuses"
    return f"{many}, {took['cpu_seconds']:.2f} s of a CPU{paused}"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
