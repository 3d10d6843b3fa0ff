"""Names, numbers and estimates as text, for findings, tables and figures."""

# ruff: noqa: RUF001

import math

from ksm_analysis.analysis.statistics import Estimate

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
