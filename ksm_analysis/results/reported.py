"""Read the metrics that a part of a run reported itself, such as a command in a guest.

Their lines are described in docs/data.md. A damaged line loses only itself.
"""

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ksm_analysis.results.writes import SCANS

NAME = re.compile(r"[a-z][a-z0-9_]{0,59}")
LOWER, HIGHER = BETTER = ("lower", "higher")
MOST = 100  # metrics of a run; a command that makes up names must not fill the page
LONGEST = 60  # characters of a unit, or of what is shown of a line
COLUMNS = ("seconds", "since", "metric", "value", "unit", "better", "of", "settled")


@dataclass(frozen=True)
class Found:
    """What was reported, and warnings. `rows` is Run.reported."""

    rows: pd.DataFrame
    warnings: tuple[str, ...] = ()


def nothing() -> pd.DataFrame:
    """Return the frame of a run that reports nothing."""
    return pd.DataFrame(columns=list(COLUMNS))


def of_lines(lines: Iterable[dict[str, Any]], start: float, samples: pd.DataFrame) -> Found:
    """Make the frame of lines that have the key `metric`.

    `start` is the monotonic time at which `seconds` is 0. `samples` are those of the run. They say
    when ksmd had scanned all memory often enough to call a value settled.
    """
    lines = [line for line in lines if "metric" in line]
    good, faults = [], []
    for line in lines:
        if fault := _fault(line):
            faults.append((fault, line))
        else:
            good.append(line)
    if not good:
        return Found(nothing(), tuple(_of_faults(faults)))
    rows = pd.DataFrame(
        [_row(line, start) for line in sorted(good, key=lambda line: line["monotonic"])],
        columns=[name for name in COLUMNS if name != "settled"],
    )
    rows, warnings = _consistent(rows)
    settled = [*_settled(samples, rows["since"].to_numpy(dtype=float))]
    warnings = [*_of_faults(faults), *warnings]
    return Found(rows.assign(settled=pd.Series(settled, rows.index, dtype=bool)), tuple(warnings))


def _row(line: dict[str, Any], start: float) -> dict[str, Any]:
    return {
        "seconds": line["monotonic"] - start,
        "since": line.get("since", line["monotonic"]) - start,
        "metric": line["metric"],
        "value": float(line["value"]),
        "unit": line.get("unit") or "",
        "better": line.get("better") or "",
        "of": line.get("of") or "",
    }


def _fault(line: dict[str, Any]) -> str:
    """Say what is wrong with a line; empty if nothing is."""
    if not (isinstance(line["metric"], str) and NAME.fullmatch(line["metric"])):
        return "'metric' must be at most 60 small letters, digits and _, and begin with a letter"
    if not _is_number(line.get("value")):
        return "'value' must be a finite number"
    if not (_is_number(line.get("monotonic")) and _is_number(line.get("since", 0))):
        return "'monotonic' must be a time"
    unit, of = line.get("unit"), line.get("of")
    if not (_is_text(unit) and _is_text(of)):
        return "'unit' and 'of' must be text"
    if len(unit or "") > LONGEST:
        return f"'unit' must have at most {LONGEST} characters"
    if line.get("better") not in (None, *BETTER):
        return "'better' must be lower, higher or null"
    return ""


def _is_number(value: object) -> bool:
    """Whether a value is a number that a float can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def _is_text(value: object) -> bool:
    return value is None or (isinstance(value, str) and value.isprintable())


def _of_faults(faults: list[tuple[str, dict[str, Any]]]) -> Iterator[str]:
    if faults:
        fault, line = faults[0]
        yield (
            f"{count(len(faults), 'line')} with a metric cannot be used and "
            f"{'is' if len(faults) == 1 else 'are'} skipped: {fault}; the first: {shown(line)}"
        )


def count(number: int, noun: str) -> str:
    """Write `1 line`, `2 lines`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def shown(line: object) -> str:
    """Write a line in a warning: short, and printable."""
    text = "".join(each if each.isprintable() else "�" for each in str(line))
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _consistent(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Leave out what cannot be put together with the rest, with a warning for each."""
    names = list(dict.fromkeys(rows["metric"]))
    warnings = []
    if len(names) > MOST:
        warnings.append(
            f"{len(names)} metrics are reported; those after the first {MOST} are left out: "
            f"{names[MOST]} and so on"
        )
    rows = rows[rows["metric"].isin(names[:MOST])]
    early = rows["seconds"] < 0
    warnings += [
        f"{name} was reported only before the run began, so it has no value"
        for name in sorted({*rows.loc[early, "metric"]} - {*rows.loc[~early, "metric"]})
    ]
    rows = rows[~early]
    units = rows.groupby("metric")["unit"].transform("first")
    warnings += [
        f"{name} is in {unit or 'no unit'} at first: {count(len(other), 'value')} in another unit, "
        f"such as {other.iloc[0] or 'none'}, {'is' if len(other) == 1 else 'are'} left out"
        for (name, unit), other in rows[rows["unit"] != units].groupby(["metric", units])["unit"]
    ]
    return rows[rows["unit"] == units].reset_index(drop=True), warnings


def _settled(samples: pd.DataFrame, since: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """Return which times are after ksmd had scanned all memory twice, while it runs."""
    if not {"ksm.full_scans", "seconds"} <= {*samples} or samples.empty:
        return np.zeros(len(since), dtype=bool)
    scans = samples["ksm.full_scans"].to_numpy(dtype=float)
    risen = scans - scans[0] >= SCANS
    if "ksm.run" in samples:
        risen &= pd.to_numeric(samples["ksm.run"], errors="coerce").to_numpy(dtype=float) == 1
    place = np.searchsorted(samples["seconds"].to_numpy(dtype=float), since, side="right") - 1
    return np.where(place >= 0, risen[place], False)
