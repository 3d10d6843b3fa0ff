"""Figures of censuses: what could be merged, what is merged, and who shares with whom.

They are made like the figures of figures.py, with the same `meta`. The last census stands for a
run, as its last interval does.
"""

from dataclasses import replace
from itertools import chain
from typing import Any

import pandas as pd

from ksm_analysis.analysis.words import guest_word, join
from ksm_analysis.metrics import catalog
from ksm_analysis.metrics.measurement import Measured
from ksm_analysis.metrics.values import MIB
from ksm_analysis.page import drawing, figures
from ksm_analysis.page.drawing import COLOURS, Panel, pattern, text
from ksm_analysis.page.figures import Data, Sampled, add_meta, by_count, meta_of, series_of, stack
from ksm_analysis.results import cells

CENSUS = {metric.name: metric for metric in catalog.CENSUS}
GUEST = {metric.name: metric for metric in catalog.CENSUS_GUEST}
EFFICIENCY, CHANGED = CENSUS["efficiency_percent"], GUEST["guest_changed_percent"]
KINDS = ("zero", "within", "between")
WORDS = {"zero": "zeros", "within": "within guests", "between": "between guests"}
PATTERNS = {"zero": "", "within": "/", "between": "x"}
SIDES = {"limit": "could be saved", "saved": "is saved"}
NAMED = 8  # a heat map of more guests has no space for numbers
FEW = 40  # a line with at most so many points has markers
RATE = ("pages_to_scan", "sleep_millisecs")


def counted(measured: list[Measured]) -> list[Measured]:
    """Return the runs that have a census."""
    return [each for each in measured if len(each.census)]


def _has(table: pd.DataFrame, name: str) -> bool:
    return name in table and bool(table[name].notna().any())


# --- efficiency -----------------------------------------------------------------------------------


def efficiency_over_time(data: Data, measured: list[Measured]) -> list[Panel]:
    """Draw the efficiency at each census: a line for each run with more than one census."""
    several = [each for each in measured if each.census[EFFICIENCY.name].count() > 1]
    samples = tuple(Sampled(each.run, each.census, {}) for each in several)
    return _marked(figures.by_time(replace(data, samples=samples), EFFICIENCY)) if several else []


def _marked(panels: list[Panel]) -> list[Panel]:
    """Add markers to lines that have few points."""
    for _, figure in panels:
        for line in figure.data:
            if line.mode == "lines" and len(line.x) <= FEW and line.line.width:
                line.mode = "lines+markers"
    return panels


def efficiency_by_guests(data: Data, measured: list[Measured]) -> list[Panel]:
    """Draw the efficiency in the last census by number of guests: a line for each setting."""
    last = _last(measured)
    last = last[last["guests"] > 0] if len(last) else last
    if not _has(last, EFFICIENCY.name):
        return []
    return figures.by_guests(replace(data, host=last), EFFICIENCY)


def efficiency_by_rate(measured: list[Measured]) -> list[Panel]:
    """Draw the efficiency in the last census against the scan rate that the knobs ask for.

    There is a line for each combination of the other factors.
    """
    last = _last(measured)
    if not _has(last, EFFICIENCY.name):
        return []
    last = last.assign(rate=list(map(_rate, measured)), others=_other_knobs(measured))
    last = last[last["rate"].notna() & last[EFFICIENCY.name].notna()]
    if last["rate"].nunique() < 2:
        return []
    figure, counts = drawing.figure(EFFICIENCY), sorted(last["guests"].unique())
    varied = [name for name in ("host", "workload", "others") if last[name].nunique() > 1]
    series = last.groupby(varied, sort=False) if varied else [((), last)]
    for index, (names, together) in enumerate(series):
        for count, part in by_count(together):
            label = join(guest_word(count), *map(str, names))
            line = drawing.mean_line(part, "rate", EFFICIENCY, label)
            knobs = part.groupby("rate")["knobs"].first().to_list()
            meta = {key: meta_of(part, "guests")[key] for key in ("host", "workload", "guests")}
            look = drawing.style(counts.index(count), index)
            figure["data"].append(line | look | {"meta": meta | {"by": {"knobs": knobs}}})
    figure["layout"]["xaxis"] |= {
        "type": "log",
        "title": "pages_to_scan / sleep_millisecs, in pages per second",
        "tickvals": sorted(last["rate"].unique()),
        "tickformat": ",.0f",
    }
    return drawing.finished([("", figure)])


def _rate(measured: Measured) -> float:
    """Return pages per second by the knobs in the last census; NaN if ksmd does not sleep."""
    row = measured.censuses.rows.iloc[-1]
    pages, sleep = (row.get(f"ksm.{name}", float("nan")) for name in RATE)
    return 1000 * pages / sleep if sleep else float("nan")


def _other_knobs(measured: list[Measured]) -> list[str]:
    """Return labels of the knobs that differ between runs, without those of the rate."""
    knobs = [cells.knobs(each.run) for each in measured]
    names = [name for name in dict.fromkeys(chain(*knobs)) if name not in RATE]
    differ = [name for name in names if len({str(each.get(name)) for each in knobs}) > 1]
    return [", ".join(f"{name}={each.get(name)}" for name in differ) for each in knobs]


def _last(measured: list[Measured]) -> pd.DataFrame:
    """Return one row for each run: its factors and its last census."""
    rows = [each.census.tail(1).assign(last=True, page=_page(each)) for each in measured]
    return stack([each.run for each in measured], rows) if rows else pd.DataFrame()


def _page(measured: Measured) -> int:
    return int(measured.run.header["page_size"])


# --- kinds ----------------------------------------------------------------------------------------


def by_kind(measured: list[Measured]) -> list[Panel]:
    """Draw what could be saved beside what is saved: stacks of zeros, within and between guests."""
    last = _last(measured)
    if not _has(last, "limit_zero_pages"):
        return []
    # Zeros are zeros, whoever gave them up
    split = last["saved_split_zero_pages"].fillna(0)
    last = last.assign(saved_zero_pages=last["saved_zero_pages"] + split)
    panels = []
    for name, part in series_of(last):
        figure = drawing.figure(GUEST["attributed_bytes"])
        known = [side for side in SIDES if _has(part, f"{side}_zero_pages")]
        for side in known:
            figure["data"] += _stacked(part, side, in_legend=side == known[-1])
        figure["layout"]["xaxis"] |= {"type": "category"}
        figure["layout"]["barmode"] = "overlay"  # `base` puts each bar on top of the one before
        add_meta(figure, meta_of(part))
        panels.append((name, figure))
    most = last[["limit_pages", "saved_pages"]].max(axis=1) * last["page"] / MIB
    return drawing.finished(panels, most)


def _stacked(part: pd.DataFrame, side: str, in_legend: bool) -> list[dict[str, Any]]:
    """Make one bar for each number of guests and kind. Bars of the same number are stacked."""
    names = [f"{side}_{kind}_pages" for kind in KINDS]
    means = part.groupby("guests")[[*names, "page"]].mean().dropna()
    bars, base = [], 0 * means["page"]
    for index, (kind, name) in enumerate(zip(KINDS, names, strict=True)):
        mib = means[name] * means["page"] / MIB
        words = f"{SIDES[side]}: {WORDS[kind]}"
        bars.append(
            {
                "type": "bar",
                "x": [guest_word(count) or "no guests" for count in means.index],
                "y": mib.to_list(),
                "base": base.to_list(),
                "width": 0.38,
                "offset": -0.4 if side == "limit" else 0.02,
                "name": WORDS[kind],
                "customdata": [f"{pages:,.0f} pages" for pages in means[name]],
                "marker": {"color": COLOURS[index], "pattern": pattern(PATTERNS[kind])},
                "opacity": 0.4 if side == "limit" else 1,
                "legendgroup": kind,
                "showlegend": in_legend,
                "hovertemplate": f"%{{x}}: %{{customdata}}<extra>{words}</extra>",
                "meta": {"by": {"guests": means.index.to_list()}, "line": words},
            }
        )
        base = base + mib
    return bars


# --- who shares with whom -------------------------------------------------------------------------


def who_shares(measured: list[Measured]) -> list[Panel]:
    """Draw the pages that each two guests share: a heat map for the first run of each cell."""
    shared = [each for each in measured if len(each.censuses.matrix) > 1]
    panels = []
    most = max((each.censuses.matrix.max().max() for each in shared), default=0)
    for name, part in series_of(_cells(shared)) if shared else ():
        for index in part.index:
            cell, matrix = part.loc[[index]], shared[index].censuses.matrix
            figure = drawing.figure(CENSUS["saved_pages"])
            figure["data"].append(_heat(matrix, most))
            add_meta(figure, meta_of(cell, "guests"))
            sides = {"type": "category", "showgrid": False}
            figure["layout"]["xaxis"] |= sides | {"title": "shared with"}
            figure["layout"]["yaxis"] |= sides | {
                "title": {"text": "pages of", "standoff": 14},
                "autorange": "reversed",
            }
            figure["layout"]["meta"] = {"height": min(700, max(310, 110 + 26 * len(matrix)))}
            panels.append((join(guest_word(cell["guests"].iloc[0]), name), figure))
    return drawing.finished(panels)


def _heat(matrix: pd.DataFrame, most: float) -> dict[str, Any]:
    return {
        "type": "heatmap",
        "y": [text(guest) for guest in matrix.index for _ in matrix.columns],
        "x": [text(other) for _ in matrix.index for other in matrix.columns],
        "z": matrix.to_numpy().ravel().tolist(),
        "name": "pages shared",
        "colorscale": "Cividis",
        "colorbar": {
            "title": {"text": "pages"},
            "thickness": 12,
            "separatethousands": True,
            "exponentformat": "none",
        },
        "zmin": 0,
        "zmax": most or 1,  # the same scale for all, so that readers can compare them
        "xgap": 1,
        "ygap": 1,
        "showlegend": False,
        "texttemplate": "%{z:,}" if len(matrix) <= NAMED else "",
        "hovertemplate": "%{y} shares %{z:,} pages with %{x}<extra></extra>",
    }


def _cells(measured: list[Measured]) -> pd.DataFrame:
    """Return the factors of the first run of each cell, indexed by its position."""
    rows = [{"host": each.run.host, "run": each.run.id, **each.run.factors} for each in measured]
    return pd.DataFrame(rows).drop_duplicates(["guests", *figures.FACTORS])


# --- guests ---------------------------------------------------------------------------------------


def attribution(measured: list[Measured]) -> list[Panel]:
    """Draw the savings of each guest beside its ksm_process_profit: a panel for each cell."""
    last = _last_of_guests(measured)
    if not _has(last, "attributed_bytes"):
        return []
    panels = []
    bars = {"attributed_bytes": "attributed savings", "ksm_process_profit": "ksm_process_profit"}
    bars = {name: words for name, words in bars.items() if _has(last, name)}
    for name, part in series_of(last):
        for count, cell in by_count(part):
            means = cell.groupby("guest")[list(bars)].mean() / MIB
            figure = drawing.figure(GUEST["attributed_bytes"])
            figure["data"] = [
                {
                    "type": "bar",
                    "x": [text(guest) for guest in means.index],
                    "y": means[column].to_list(),
                    "name": words,
                    "marker": {
                        "color": COLOURS[index],
                        "pattern": pattern("/" if index else ""),
                    },
                    "hovertemplate": "%{x}: %{y:,.4~g} MiB<extra>%{fullData.name}</extra>",
                }
                for index, (column, words) in enumerate(bars.items())
            ]
            figure["layout"]["xaxis"] |= {"type": "category"}
            figure["layout"]["barmode"] = "group"
            add_meta(figure, meta_of(cell, "guests"))
            panels.append((join(guest_word(count), name), figure))
    return drawing.finished(panels, last[list(bars)].melt()["value"] / MIB)


def _last_of_guests(measured: list[Measured]) -> pd.DataFrame:
    """Return one row for each run and guest: factors, and values in the last census."""
    tables = []
    for each in measured:
        profit = each.censuses.guests.get("ksm_stat.ksm_process_profit")
        table = each.census_guest.assign(ksm_process_profit=profit)
        tables.append(table[table["n"] == each.census.index[-1]])
    return stack([each.run for each in measured], tables) if tables else pd.DataFrame()


def changed_over_time(data: Data, measured: list[Measured]) -> list[Panel]:
    """Draw each guest's pages that changed since the previous census: a panel for each cell."""
    samples = []
    for each in measured:
        changed = each.census_guest.dropna(subset=[CHANGED.name])
        if len(changed):
            wide = changed.pivot_table(CHANGED.name, "seconds", "guest")
            samples.append(Sampled(each.run, each.census, {CHANGED.name: wide}))
    if not samples:
        return []
    return _marked(figures.by_time_of_guests(replace(data, samples=tuple(samples)), CHANGED))
