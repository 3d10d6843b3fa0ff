"""One row for each run: its factors and its last values."""

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import yaml

from ksm_analysis.metrics import (
    arrivals,
    efficiency,
    freed,
    phase_lock,
    policies,
    reported,
    work,
    writes,
)
from ksm_analysis.metrics.catalog import CENSUS
from ksm_analysis.metrics.measurement import Measured
from ksm_analysis.metrics.times import SHARES, has_plateau, reached
from ksm_analysis.results import cells
from ksm_analysis.results.once import once
from ksm_analysis.results.run import Run

YES = {True: "yes", False: "no", None: ""}


@once()
def throughput(run: Run) -> list[float]:
    """Return bogo operations per second (real time) of each guest that reported them.

    They are read from stress-ng's YAML. The rates of several stressors of a guest are added.
    """
    return [
        rate
        for event in run.events
        if event["event"] == "workload stopped"
        and (rate := _bogo_rate(event.get("stdout") or "")) is not None
    ]


def _bogo_rate(text: str) -> float | None:
    # stress-ng may write messages before the YAML document
    document = text[text.find("---\n") :] if "---\n" in text else text
    try:
        stressors = yaml.safe_load(document.split("\n...")[0])["metrics"]
        return float(sum(each["bogo-ops-per-second-real-time"] for each in stressors))
    except (yaml.YAMLError, ValueError, TypeError, KeyError):
        return None


def summary(measured: list[Measured]) -> pd.DataFrame:
    """Return one row for each run: its factors, its last values and the guests' throughput.

    Columns: run, host, guests, knobs, workload, repetition, simulated (yes or no, if any run is),
    seconds (that were sampled), converged (yes, no, or empty if the run's length was fixed),
    plateau (yes, no, or empty with KSM off),
    seconds_to_50, _90 and _95 (without a plateau, or with nothing saved, a share was not reached:
    then it is how long the run was watched), saved_mib (of the census of the end if there is one),
    the metrics of HOST in the last interval,
    bogo_ops_per_second_sum and _mean over guests (NaN without a workload). If the host's memory was
    sampled, the parts of Freed follow, and freed_against_off_mib if there is a run with run=0. If
    any run has a census, the metrics of CENSUS follow, with the values of the last census. If any
    run has measured writes, the columns of metrics.writes follow. The columns of metrics.work are
    next, if any run knows them, policy_cpu_seconds if any has a policy, and then
    arrival_N_seconds_to_95 for each guest or process that came within a run (metrics.arrivals).
    mean_efficiency_percent is next, if it is known of any run (metrics.efficiency), and so are the
    columns of metrics.phase_lock. If any run reports metrics of its own, reported_phase and a
    column for each follow.
    """
    own = reported.metrics_of([each.run for each in measured])
    rows: list[dict[str, object]] = []
    any_simulated = any(each.run.simulated for each in measured)
    any_policy = any(each.run.plan.policy for each in measured)
    counted = [m.name for m in CENSUS if any(len(each.last_census) for each in measured)]
    for each in measured:
        rates = throughput(each.run)
        rows.append(
            {
                "run": each.run.id,
                "host": each.run.host,
                **each.run.factors,
                **({"simulated": YES[each.run.simulated]} if any_simulated else {}),
                "seconds": each.run.seconds,
                "converged": YES[each.run.converged],
                "plateau": YES[None if cells.is_off(each.run) else has_plateau(each)],
                **{name: reached(share)(each).seconds for name, share in SHARES.items()},
                "saved_mib": freed.saved_mib(each),
                **each.final,
                "bogo_ops_per_second_sum": float(np.sum(rates)) if rates else np.nan,
                "bogo_ops_per_second_mean": float(np.mean(rates)) if rates else np.nan,
                **freed.freed(each)._asdict(),
                **_named(each.last_census.reindex(counted).astype(float)),
                **writes.in_last_phase(each.run),
                **work.of_run(each.run),
                **(policies.of_run(each.run) if any_policy else {}),
                **arrivals.of_run(each),
                **efficiency.of_run(each.run),
                **phase_lock.of_run(each.run),
                **reported.of_run(each.run, own),
            }
        )
    table = pd.DataFrame(rows)
    return table if table.empty else _without_unknown(table, freed.against_off(measured))


def _without_unknown(table: pd.DataFrame, against_off: pd.Series) -> pd.DataFrame:
    """Add what was freed against KSM off, and drop what was freed where no run knows it."""
    if table["freed_mib"].isna().all():
        return table.drop(columns=[*freed.PARTS])
    if against_off.notna().any():
        table.insert([*table].index("freed_mib") + 1, "freed_against_off_mib", against_off)
    return table


def not_reached(row: Mapping[Hashable, Any]) -> bool:
    """Whether a row of the summary has times that the run did not reach."""
    return bool(row["plateau"] == "no" or (row["plateau"] == "yes" and not row["saved_mib"] > 0))


def _named(values: pd.Series) -> dict[str, object]:
    return {str(name): value for name, value in values.items()}
