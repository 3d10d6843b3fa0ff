"""Which guests are worth merging: savings of each guest against the memory of its rmap_items."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ksm_analysis.analysis.settings import is_control, is_off
from ksm_analysis.metrics.measurement import Measured
from ksm_analysis.metrics.times import has_plateau, scans_needed
from ksm_analysis.metrics.values import MIB
from ksm_analysis.results import run

WORTH = 1.0  # percent of present memory: a guest that saves less is not worth scanning
LATE = 0.75  # of a run's time: a plateau is judged after this, so an earlier census may lack it
RMAP_ITEM = 64  # bytes of a struct ksm_rmap_item, on 64-bit kernels
MERGE, EXCLUDE, EARLY = "merge", "exclude", "too early to say"
EXCLUDED, UNKNOWN = "excluded already", "not known"
IDLE = "idle"
VALUES = (
    "present",
    "attributed",
    "potential",
    "profit",
    "rmap_items",
    "net_percent",
    "unmerged_percent",
    "changed_percent",
)
RULE = (
    f"A guest is worth merging if its attributed savings, minus {RMAP_ITEM} B for each of its "
    f"rmap_items, are at least {WORTH:g} % of its present memory. Otherwise it is better to "
    "exclude it with nosharepages. Excluding a guest loses at most twice the savings attributed to "
    "it: if two guests share a page, each is credited with half. No guest is excluded before "
    "enough full scans (3, or 10 with smart_scan=1), or while savings still change. A guest "
    "is also kept if enough of its pages could be merged but were not merged: then the setting is "
    "at fault. The pages that could be merged are zeros and pages that occur more than once, but "
    "at most as many as did not change since the previous census. Values are means over the runs "
    "of a setting, in the last census of each run."
)


@dataclass(frozen=True)
class Guest:
    """One guest of a cell, in the last census; means over the cell's runs, NaN if not known.

    Sizes are in MiB. `potential` is the most that could be merged: zeros and pages that occur more
    than once, unless they change. `profit` is the kernel's ksm_process_profit. `rmap_items` is the
    memory of the guest's rmap_items. `net_percent` is attributed savings minus this memory, in
    percent of present memory. `why` says why it is too early.
    """

    name: str
    number: int
    present: float
    attributed: float
    potential: float
    profit: float
    rmap_items: float
    net_percent: float
    unmerged_percent: float
    changed_percent: float
    verdict: str
    why: str


@dataclass(frozen=True)
class Cell:
    """All guests of one host, number, workload and setting. `hidden`: those already excluded."""

    factors: dict[str, Any]
    guests: tuple[Guest, ...]
    hidden: tuple[int, ...]

    @property
    def excluded(self) -> tuple[str, ...]:
        """Names of the guests that should be excluded."""
        return tuple(guest.name for guest in self.guests if guest.verdict == EXCLUDE)

    @property
    def advice(self) -> str:
        """The advice in a few words."""
        if self.excluded:
            return f"exclude {', '.join(self.excluded)}"
        verdicts = {guest.verdict for guest in self.guests} - {EXCLUDED}
        return " or ".join(sorted(verdicts)) if verdicts != {MERGE} else "merge all"

    @property
    def test(self) -> str:
        """What to write into the definition to test the advice; empty if no guest is excluded."""
        if not self.excluded:
            return ""
        advised = [guest.number for guest in self.guests if guest.name in self.excluded]
        numbers = sorted({*advised, *self.hidden})
        every = len(numbers) == len(self.guests)
        excluded = f"nosharepages: {'all' if every else numbers}"
        if self.factors["workload"] != IDLE:
            return excluded
        return f"{{name: {IDLE}-apart, {excluded}}}"  # `idle` itself cannot have keys


def cells(measured: list[Measured]) -> list[Cell]:
    """Return each cell that has guests and a census, except the control and with KSM off."""
    found: dict[run.Cell, list[Measured]] = {}
    for each in measured:
        if each.run.cell.guests and len(each.census) and not (is_off(each) or is_control(each)):
            found.setdefault(each.run.cell, []).append(each)
    return [_cell(cell._asdict(), runs) for cell, runs in found.items()]


def _cell(factors: dict[str, Any], runs: list[Measured]) -> Cell:
    run = runs[0].run
    hidden = tuple(run.plan.guests.nosharepages or ())
    table = pd.concat([_last(each) for each in runs])
    # An excluded guest has no mergeable memory, so it is in no census
    table = table.groupby("guest").mean(numeric_only=True).reindex(list(run.header["guests"]))
    early = next(filter(None, map(_too_early, runs)), "")
    numbers = {name: number for number, name in enumerate(run.header["guests"], start=1)}
    guests = [
        _guest(name, number, table.loc[name], early, number in hidden)
        for name, number in numbers.items()
    ]
    return Cell(factors, tuple(guests), hidden)


def _last(measured: Measured) -> pd.DataFrame:
    """Return one row for each guest: its counts in the last census, and the values from them."""
    raw, page = measured.censuses.guests, measured.run.header["page_size"]
    values = measured.census_guest
    table = pd.DataFrame(
        {
            "guest": raw["guest"],
            "present": raw.get("present_pages", np.nan) * page / MIB,
            "attributed": values["attributed_bytes"] / MIB,
            "potential": _potential(raw) * page / MIB,
            "profit": raw.get("ksm_stat.ksm_process_profit", np.nan) / MIB,
            "rmap_items": raw.get("ksm_stat.ksm_rmap_items", np.nan) * RMAP_ITEM / MIB,
            "unmerged_percent": values["unmerged_percent"],
            "changed_percent": values["guest_changed_percent"],
        }
    )
    table["net_percent"] = 100 * (table["attributed"] - table["rmap_items"]) / table["present"]
    return table[raw["n"].eq(measured.census.index[-1])].replace([np.inf, -np.inf], np.nan)


def _potential(raw: pd.DataFrame) -> pd.Series:
    """Return how many pages of each guest could be merged, at most.

    Only pages that did not change count, where this is known.
    """
    counts = raw.reindex(
        columns=["zero_pages", "duplicate_pages", "compared_pages", "changed_pages"]
    )
    equal = counts["zero_pages"] + counts["duplicate_pages"]
    still = counts["compared_pages"] - counts["changed_pages"]
    return pd.concat([equal, still], axis=1).min(axis=1)


def _too_early(measured: Measured) -> str:
    """Say why a run is no reason to exclude a guest; empty if it can be one."""
    census, samples = measured.censuses.rows.iloc[-1], measured.run.samples
    scans = "full_scans"
    if f"ksm.{scans}" not in samples or f"ksm.{scans}" not in census:
        return "The kernel does not report how often ksmd scanned all memory."
    done = census[f"ksm.{scans}"] - samples[f"ksm.{scans}"].iloc[0]
    if not done >= (needed := scans_needed(measured)):
        return f"ksmd scanned all memory {done:.0f} times, but {needed} times are needed."
    if census["seconds"] < LATE * samples["seconds"].iloc[-1]:
        return "The last census was taken long before the end."
    return "" if has_plateau(measured) else "Savings still changed at the end."


def _guest(name: str, number: int, row: pd.Series, early: str, hidden: bool) -> Guest:
    early = early or _unmerged(row)
    verdict = EXCLUDED if hidden else _verdict(row, early)
    values = {key: float(row[key]) for key in VALUES}
    return Guest(name, number, **values, verdict=verdict, why=early if verdict == EARLY else "")


def _unmerged(row: pd.Series) -> str:
    """Say how much of a guest could be merged, if that would be enough."""
    could = row["potential"]
    if not 100 * (could - row["rmap_items"]) >= WORTH * row["present"]:
        return ""
    return (
        f"Up to {could:,.0f} MiB of it could be merged. Try smart_scan=0, a faster scan or a "
        "longer run."
    )


def _verdict(row: pd.Series, early: str) -> str:
    if np.isnan(row["net_percent"]):
        return UNKNOWN
    if row["net_percent"] >= WORTH:
        return MERGE
    return EARLY if early else EXCLUDE
