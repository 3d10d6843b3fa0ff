"""The factors of an experiment: what is varied, and which runs are repetitions of one another."""

from collections.abc import Mapping
from typing import Any

FACTORS = ("guests", "workload", "knobs")
REPETITION = "repetition"


def swap_label(swap: str | int) -> str:
    """Name the swap space of a setting: `none`, or the size of a zram device in MiB."""
    return f"zram {swap} MiB" if isinstance(swap, int) else swap


def cell(factors: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return what the repetitions of a run have in common: all factors but the repetition.

    plugins/filter/assign_runs.py does the same on the controller, without this package.
    """
    return tuple((name, str(factors[name])) for name in sorted(factors) if name != REPETITION)
