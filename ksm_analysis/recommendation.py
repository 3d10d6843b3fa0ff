"""Which guests are worth merging: what each saves, against what ksmd does for it in vain."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ksm_analysis import answer
from ksm_analysis.metrics import MIB, Measured

WORTH = 1.0  # percent of its present memory: a guest that saves less is not worth scanning
LATE = 0.75  # of a run's time: what had come to rest at its end may still have changed before
SCANS = 3  # a page is merged when it looks the same in two scans, so that fewer tell nothing
RMAP_ITEM = 64  # bytes of a struct ksm_rmap_item, on 64-bit kernels
MERGE, EXCLUDE, EARLY = "merge", "exclude", "too early to say"
EXCLUDED, UNKNOWN = "excluded already", "not known"
VALUES = (
    "present",
    "attributed",
    "profit",
    "rmap_items",
    "net_percent",
    "unmerged_percent",
    "changed_percent",
)
RULE = (
    f"A guest is worth merging if its attributed savings, less {RMAP_ITEM} B for each of its "
    f"rmap_items, are at least {WORTH:g} % of its present memory; else it is better excluded with "
    "nosharepages. That loses at most twice what is attributed to it, since of a page that two "
    f"guests share each has half. Before {SCANS} full scans, or while pages_sharing still changes, "
    "nobody is excluded. Scanned in vain are pages that are not merged, of which some have changed "
    "since the census before. Means over the runs of a setting, in the last census of each."
)


@dataclass(frozen=True)
class Guest:
    """One guest of a cell, in the last census; means over the cell's runs, NaN if not known.

    Sizes are MiB. `profit` is the kernel's ksm_process_profit, `rmap_items` what those take, and
    `net_percent` what is attributed less that, of what is present. `why` says why it is too early.
    """

    name: str
    number: int
    present: float
    attributed: float
    profit: float
    rmap_items: float
    net_percent: float
    unmerged_percent: float
    changed_percent: float
    verdict: str
    why: str


@dataclass(frozen=True)
class Cell:
    """All guests of one host, number, workload and setting. `hidden`: those excluded already."""

    factors: dict
    guests: tuple[Guest, ...]
    hidden: tuple[int, ...]

    @property
    def excluded(self) -> tuple[str, ...]:
        """Names of the guests that it is better not to merge."""
        return tuple(guest.name for guest in self.guests if guest.verdict == EXCLUDE)

    @property
    def advice(self) -> str:
        """What is advised, in a few words."""
        if self.excluded:
            return f"exclude {', '.join(self.excluded)}"
        verdicts = {guest.verdict for guest in self.guests} - {EXCLUDED}
        return " or ".join(sorted(verdicts)) if verdicts != {MERGE} else "merge all"

    @property
    def test(self) -> str:
        """What to write into the definition to test the advice; empty if it excludes nobody."""
        if not self.excluded:
            return ""
        advised = [guest.number for guest in self.guests if guest.name in self.excluded]
        numbers = sorted({*advised, *self.hidden})
        every = len(numbers) == len(self.guests)
        return f"nosharepages: {'all' if every else numbers}"


def cells(measured: list[Measured]) -> list[Cell]:
    """Look at each cell that has guests and a census, save those with KSM off."""
    found: dict[tuple, list[Measured]] = {}
    for each in measured:
        if each.run.factors["guests"] and len(each.census) and not answer.is_off(each):
            factors = {"host": each.run.host, **each.run.factors}
            del factors["repetition"]
            found.setdefault(tuple(factors.items()), []).append(each)
    return [_cell(dict(key), runs) for key, runs in found.items()]


def _cell(factors: dict, runs: list[Measured]) -> Cell:
    run = runs[0].run
    hidden = tuple(run.record["run"]["guests"].get("nosharepages") or ())
    table = pd.concat([_last(each) for each in runs])
    table = table.groupby("guest").mean(numeric_only=True)
    early = next(filter(None, map(_too_early, runs)), "")
    numbers = {name: number for number, name in enumerate(run.header["guests"], start=1)}
    guests = [
        _guest(name, numbers.get(name, 0), table.loc[name], early, numbers.get(name) in hidden)
        for name in table.index
    ]
    return Cell(factors, tuple(guests), hidden)


def _last(measured: Measured) -> pd.DataFrame:
    """One row a guest: its counts in the last census, and the values made of them."""
    raw, page = measured.run.census.guests, measured.run.header["page_size"]
    values = measured.census_guest
    table = pd.DataFrame(
        {
            "guest": raw["guest"],
            "present": raw.get("present_pages", np.nan) * page / MIB,
            "attributed": values["attributed_bytes"] / MIB,
            "profit": raw.get("ksm_stat.ksm_process_profit", np.nan) / MIB,
            "rmap_items": raw.get("ksm_stat.ksm_rmap_items", np.nan) * RMAP_ITEM / MIB,
            "unmerged_percent": values["unmerged_percent"],
            "changed_percent": values["guest_changed_percent"],
        }
    )
    table["net_percent"] = 100 * (table["attributed"] - table["rmap_items"]) / table["present"]
    return table[raw["n"] == measured.census.index[-1]].replace([np.inf, -np.inf], np.nan)


def _too_early(measured: Measured) -> str:
    """Say why a run tells nothing against a guest, if it does not."""
    census, samples = measured.run.census.rows.iloc[-1], measured.run.samples
    scans = "full_scans"
    if f"ksm.{scans}" not in samples or f"ksm.{scans}" not in census:
        return "The kernel does not tell how often ksmd has been through all memory."
    done = census[f"ksm.{scans}"] - samples[f"ksm.{scans}"].iloc[0]
    if not done >= SCANS:
        return f"ksmd had been through all memory {done:.0f} times, and it takes {SCANS}."
    if census["seconds"] < LATE * samples["seconds"].iloc[-1]:
        return "The last census was taken long before the end."
    return "" if answer.has_plateau(measured) else "pages_sharing still changed at the end."


def _guest(name: str, number: int, row: pd.Series, early: str, hidden: bool) -> Guest:
    verdict = EXCLUDED if hidden else _verdict(row, early)
    values = {key: float(row[key]) for key in VALUES}
    return Guest(name, number, **values, verdict=verdict, why=early if verdict == EARLY else "")


def _verdict(row: pd.Series, early: str) -> str:
    if np.isnan(row["net_percent"]):
        return UNKNOWN
    if row["net_percent"] >= WORTH:
        return MERGE
    return EARLY if early else EXCLUDE
