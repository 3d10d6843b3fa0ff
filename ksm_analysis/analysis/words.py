"""Names, numbers and estimates as text, for findings, tables and figures."""

# ruff: noqa: RUF001

import math

from ksm_analysis.analysis.statistics import Estimate, Times

NO_INTERVAL = "1 run: no interval"


def join(*names: str) -> str:
    """Join names with dots; empty ones are left out."""
    return " · ".join(filter(None, names))


def guest_word(count: int) -> str:
    """Write `1 guest`, `2 guests`; nothing without guests."""
    return {0: "", 1: "1 guest"}.get(count, f"{count} guests")


def number(value: float) -> str:
    """Write a number with three significant digits; from 100 on, as a whole number."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.3g}"


def spoken(value: Estimate | None, unit: str) -> str:
    """Write an estimate in a sentence: `123 MiB (118 to 128, 3 runs)`."""
    if value is None:
        return "not known"
    if value.low is None or value.high is None:
        return f"{number(value.mean)} {unit} ({NO_INTERVAL})"
    low, high = number(value.low), number(value.high)
    return f"{number(value.mean)} {unit} ({low} to {high}, {value.runs} runs)"


def times(value: Times) -> str:
    """Write times for a table. Runs that never got there are named, not left out."""
    if value.mean is not None:
        return short(Estimate(value.mean, value.low, value.high, value.runs))
    if not value.reached:
        return f"not reached within {number(value.until)}"
    median = "not reached" if value.median is None else number(value.median)
    return (
        f"median {median}; not reached in {value.runs - value.reached} of {value.runs} runs; "
        f"mean, restricted to {number(value.until)}: {number(value.restricted_mean)}"
    )


def short(value: Estimate | None) -> str:
    """Write an estimate for a table: `123.4 ± 5.1`; a single run has no ±."""
    if value is None:
        return "–"
    if value.high is None or not math.isfinite(value.high):
        return number(value.mean)
    half = value.high - value.mean
    if not half:
        return f"{number(value.mean)} ± 0"
    # Two digits of the interval; more digits of the mean would mean nothing
    digits = max(0, 1 - math.floor(math.log10(half)))
    return f"{value.mean:,.{digits}f} ± {half:,.{digits}f}" if digits < 6 else number(value.mean)
