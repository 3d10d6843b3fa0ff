"""Memory that KSM really freed in a run, and what it consists of."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from ksm_analysis.metrics.measurement import Measured
from ksm_analysis.metrics.values import MIB, Ends
from ksm_analysis.results import cells
from ksm_analysis.results.caveats import RMAP_ITEM
from ksm_analysis.results.once import once
from ksm_analysis.results.run import Run

STABLE_NODE = 64  # bytes of a struct ksm_stable_node, on 64-bit kernels
NAN = float("nan")


class Freed(NamedTuple):
    """What the host has more of at the end of a run than at its start, in MiB.

    freed = merged + zero + split_zero - grown - overhead + residual. If split_zero and grown are
    not known (NaN), they are in the residual.
    """

    freed_mib: float
    """Measured: the sampled processes have so much less anonymous memory, less the overhead."""
    host_freed_mib: float
    """The same, as the whole host sees it: AnonPages and PageTables fell by this."""
    merged_mib: float
    """Pages that share a page of KSM instead of their own."""
    zero_mib: float
    """Pages of zeros that ksmd replaced by the kernel's zero page (use_zero_pages=1)."""
    split_zero_mib: float
    """Pages of zeros that the kernel gave up when it split huge pages (Linux 6.12 and newer)."""
    grown_mib: float
    """Memory that the sampled processes took meanwhile; negative if they gave some back."""
    overhead_mib: float
    """Memory of KSM's structures: rmap_items of the processes, and stable nodes of the host."""
    residual_mib: float
    """What none of these explains, such as memory of the processes that is not mergeable."""


PARTS = Freed._fields
UNKNOWN = Freed(*[NAN] * len(PARTS))


@once(lambda found: Freed(*found))
def freed(measured: Measured) -> Freed:
    """Measure what a run freed; freed_mib is NaN if the memory of its processes is not known.

    With a census of the start and a later one, page tables say what was merged and given up.
    Otherwise the counters of KSM do, which are stale under writes, and do not see splits.
    """
    run = measured.run
    if run.imported or len(run.samples) < 2:
        return UNKNOWN
    both = Ends(run, run.samples.iloc[[0, -1]])
    overhead = _overhead_mib(both)
    host = -_risen(both.sum("meminfo.AnonPages", "meminfo.PageTables")) / 1024 - overhead
    counted = _by_page_tables(measured) or _by_counters(both)
    found = _given_back(run) - overhead
    explained = np.nansum([*counted.values()]) - 2 * np.nansum([counted["grown_mib"]]) - overhead
    return Freed(
        freed_mib=found,
        host_freed_mib=host,
        **counted,
        overhead_mib=overhead,
        residual_mib=float(found - explained),
    )


def saved_mib(measured: Measured) -> float:
    """Return what merging saved at the end of a run, in MiB; NaN if it is not known.

    A census of the end decides: pages_sharing is stale under writes, and no counter has the pages
    of zeros that splits gave up, which a census of the start makes visible.
    """
    found = census_mib(measured)
    return counted_mib(measured) if np.isnan(found) else found


@once()
def census_mib(measured: Measured) -> float:
    """Return what the census of the end of a run found saved, in MiB; NaN without one."""
    rows = measured.run.census.rows if measured.run.census else pd.DataFrame()
    if (
        rows.empty
        or rows["moment"].iloc[-1] != "end"
        or not {"saved_pages", "page_size"} <= {*rows}
    ):
        return NAN
    return float(rows["saved_pages"].iloc[-1] * rows["page_size"].iloc[-1] / MIB)


def counted_mib(measured: Measured) -> float:
    """Return what KSM counts as saved at the end of a run, in MiB; NaN if it is not known."""
    return measured.final["reclaimed_mib"]


def _given_back(run: Run) -> float:
    """Return how much less anonymous memory the processes have at the end, in MiB.

    A page that n processes share counts 1/n in each (Pss_Anon), so that shared pages count once.
    """
    start, end = (
        pd.Series(line.get("pss_anon") or {}, dtype=float) for line in (run.header, run.end)
    )
    return float((start - end).sum(skipna=False)) / 1024 if len(start) else NAN


def _risen(values: pd.Series) -> float:
    return float(values.iloc[-1] - values.iloc[0])


def _overhead_mib(ends: Ends) -> float:
    """Return the size of KSM's structures at the end less that at the start, in MiB."""
    first, last = (ends.run.over_guests("ksm_rmap_items", n) for n in ends.rows.index)
    nodes = ends.column("ksm.pages_shared") + ends.column("ksm.stable_node_chains").fillna(0)
    return ((last - first) * RMAP_ITEM + _risen(nodes) * STABLE_NODE) / MIB


def _by_counters(ends: Ends) -> dict[str, float]:
    """Return the parts that KSM counts."""
    zero = ends.mib(ends.column("ksm.ksm_zero_pages").fillna(0))
    return {
        "merged_mib": _risen(ends.mib(ends.column("ksm.pages_sharing"))),
        "zero_mib": _risen(zero),
        "split_zero_mib": NAN,
        "grown_mib": NAN,
    }


def _by_page_tables(measured: Measured) -> dict[str, float]:
    """Return the parts as the last census counts them; empty if it is not compared with a start."""
    rows = measured.run.census.rows if measured.run.census else pd.DataFrame()
    since = rows[rows["saved_split_zero_pages"].notna()] if {*rows} >= SINCE else rows.iloc[:0]
    if since.empty:
        return {}
    last = since.iloc[-1]
    return {part: float(last[name] * last["page_size"] / MIB) for part, name in COUNTS.items()}


COUNTS = {
    "merged_mib": "saved_ksm_pages",
    "zero_mib": "saved_zero_pages",
    "split_zero_mib": "saved_split_zero_pages",
    "grown_mib": "grown_pages",
}
SINCE = {*COUNTS.values(), "page_size"}


def against_off(several: list[Measured]) -> pd.Series:
    """Return freed_mib less that of the run without KSM (run=0), which removes what guests do.

    One value for each run, in MiB; NaN if there is no run that differs only in its knobs.
    The run of the same repetition is used if there is one, otherwise the mean of all.
    """
    rows = pd.DataFrame(
        {
            "cell": [each.run.cell._replace(knobs="") for each in several],
            "repetition": [each.run.factors["repetition"] for each in several],
            "off": np.array([cells.is_off(each.run) for each in several], dtype=bool),
            "freed": [freed(each).freed_mib for each in several],
        }
    )
    off = rows[rows["off"]]
    same = off.groupby(["cell", "repetition"])["freed"].mean()
    every = off.groupby("cell")["freed"].mean()
    baseline = [
        same.get((row.cell, row.repetition), every.get(row.cell, NAN)) for row in rows.itertuples()
    ]
    return rows["freed"] - pd.Series(baseline, rows.index, dtype=float)
