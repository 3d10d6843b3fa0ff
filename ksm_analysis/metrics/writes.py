"""What a write costs, by the kind of its page and the phase of the run."""

from typing import Any

import pandas as pd

from ksm_analysis.results.once import once
from ksm_analysis.results.run import Run
from ksm_analysis.results.writes import LATE, PHASES

MEASURED = ("merged", "unmerged", "plain")
PERCENTILES = {"p50": 0.5, "p99": 0.99, "p999": 0.999}
COLUMNS = (
    "write_phase",
    *(f"write_{kind}_{of}" for kind in MEASURED for of in ("n", *(f"{p}_us" for p in PERCENTILES))),
    *(f"write_difference_{p}_us" for p in PERCENTILES),
    *(f"write_late_{p}_us" for p in PERCENTILES),
    "write_moved_n",
    "write_clock_p50_us",
)


def percentiles(ns: pd.Series) -> dict[str, float]:
    """Return n and percentiles in µs. One that fewer than one write is expected beyond is NaN."""
    of = {
        f"{name}_us": float(ns.quantile(q)) / 1000
        if len(ns) * (1 - q) >= 1 - 1e-9
        else float("nan")
        for name, q in PERCENTILES.items()
    }
    return {"n": len(ns), **of}


def by_phase(run: Run) -> pd.DataFrame:
    """Return a row for each phase and kind: phase, kind, n, p50_us, p99_us, p999_us.

    Phases are in their order in a run. Empty without writes.
    """
    if run.writes is None:
        return pd.DataFrame()
    rows = [
        {"phase": phase, "kind": kind, **percentiles(part["ns"])}
        for (phase, kind), part in run.writes.rows.groupby(["phase", "kind"])
    ]
    return pd.DataFrame(rows).sort_values(
        ["phase", "kind"], key=lambda names: names.map(_place), ignore_index=True
    )


def _place(name: str) -> int:
    return [*PHASES, *MEASURED, "moved", LATE].index(name)


def mergeable_us(run: Run, percentile: str) -> float:
    """Return a percentile of the time of writes to mergeable memory, merged or not, in µs.

    It is that of the last phase; NaN if there are too few writes. With KSM off, nothing is merged.
    """
    if run.writes is None:
        return float("nan")
    rows = run.writes.rows[run.writes.rows["kind"].isin(["merged", "unmerged"])]
    last = max(rows["phase"], key=PHASES.index, default="")
    return percentiles(rows.loc[rows["phase"] == last, "ns"])[f"{percentile}_us"]


@once()
def in_last_phase(run: Run) -> dict[str, Any]:
    """Return COLUMNS of the phase that stands for a run: its last. Empty without writes.

    A difference is that of merged and plain writes of the same run and phase.
    """
    table = by_phase(run)
    if table.empty or run.writes is None:
        return {}
    phase = table["phase"].iloc[-1]
    kinds = table[table["phase"] == phase].drop(columns="phase").set_index("kind")
    kinds = kinds.reindex([*MEASURED, "moved", LATE])
    kinds["n"] = kinds["n"].fillna(0)
    found: dict[str, Any] = {"write_phase": phase}
    for kind in MEASURED:
        found |= {f"write_{kind}_{name}": value for name, value in kinds.loc[kind].items()}
    for name in PERCENTILES:
        column = kinds[f"{name}_us"]
        found[f"write_difference_{name}_us"] = column["merged"] - column["plain"]
    for name in PERCENTILES:
        found[f"write_late_{name}_us"] = kinds.loc[LATE, f"{name}_us"]
    clock = run.writes.clock.get("p50_ns")
    found["write_moved_n"] = kinds.loc["moved", "n"]
    found["write_clock_p50_us"] = clock / 1000 if isinstance(clock, int | float) else float("nan")
    return found
