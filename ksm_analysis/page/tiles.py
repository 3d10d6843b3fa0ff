"""The figures of merit at the top of the page: a few tiles for each setting."""

# ruff: noqa: RUF001

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ksm_analysis.analysis import price
from ksm_analysis.analysis.answer import saved_of, shared
from ksm_analysis.analysis.density import Fit
from ksm_analysis.analysis.price import Price
from ksm_analysis.analysis.settings import InBlocks, Setting, grouped
from ksm_analysis.analysis.statistics import Estimate, Times, estimate
from ksm_analysis.analysis.verdict import prices_of
from ksm_analysis.analysis.words import NO_INTERVAL, guest_word, join, number
from ksm_analysis.metrics import curves as thinned
from ksm_analysis.metrics import efficiency, phase_lock
from ksm_analysis.metrics.measurement import Measured
from ksm_analysis.metrics.values import Ends, reclaimed_mib
from ksm_analysis.page import sparks
from ksm_analysis.page.changes import attributes
from ksm_analysis.page.sparks import Curve
from ksm_analysis.results.reduced import Reduced
from ksm_analysis.results.run import Cell

MOST = 60  # settings with tiles; the page stays small
CPU = "ksmd_cpu_percent"
VERDICTS = {
    price.COSTS: "shown",
    price.GAINS: "shown",
    price.NOTHING: f"shown to be less than {100 * price.BOUND:g} %",
    price.UNSURE: "these runs cannot tell",
    price.TOO_FEW: "too few runs to tell",
}


@dataclass(frozen=True)
class Tile:
    """A figure of merit: `value` and `unit`, its interval in words, more words, and a spark."""

    label: str
    value: str
    unit: str
    interval: str
    more: str = ""
    spark: str = ""


@dataclass(frozen=True)
class Tiles:
    """The tiles of one setting, its name, and the attributes that the page's filters read."""

    name: str
    factors: dict[str, Any]
    tiles: tuple[Tile, ...]


def of_settings(
    first: Setting | None, settings: list[Setting], prices: list[Price], measured: list[Measured]
) -> list[Tiles]:
    """Return the tiles of each setting with KSM on: `first`, then by guests and savings.

    The page shows the first of those that pass its filters.
    """
    found = grouped(measured)
    by_savings = sorted(
        shared(settings), key=lambda s: (-s.guests, -s.saved_mib.mean if s.saved_mib else 0.0)
    )
    ordered = sorted(by_savings, key=lambda s: s is not first)
    factors = [name for name in Cell._fields if len({getattr(s, name) for s in settings}) > 1]
    return [
        Tiles(
            _name(setting, factors),
            attributes(_cell(setting)),
            tuple(_tiles(setting, settings, prices_of(setting, prices), found[_cell(setting)])),
        )
        for setting in ordered[:MOST]
    ]


def _cell(setting: Setting) -> Cell:
    return Cell(*(getattr(setting, name) for name in Cell._fields))


def _name(setting: Setting, factors: list[str]) -> str:
    """Name a setting by what differs between settings."""
    names = {name: str(getattr(setting, name)) for name in factors}
    return join(
        guest_word(setting.guests) if "guests" in factors else "",
        *(names[name] for name in ("workload", "knobs", "host") if name in factors),
    )


def _tiles(
    setting: Setting, every: list[Setting], prices: list[Price], runs: InBlocks
) -> Iterator[Tile]:
    measured = [each for each, _ in runs]
    curves = [_saved(each) for each in measured]
    yield _merged(setting, every, curves)
    yield from _share(setting, measured)
    yield from _cpu(setting, measured)
    yield from map(_price, prices[:1])
    yield from _soon(setting, curves)
    yield from _predicted(measured)


def _saved(measured: Measured) -> Curve:
    """Return seconds and saved MiB of a run at each sample, or at what its reduction has."""
    run = measured.run
    if isinstance(run, Reduced):
        return _thinned(measured, "reclaimed_mib")
    seconds = run.samples["seconds"].to_numpy(dtype=float)
    return seconds, reclaimed_mib(Ends(run, run.samples)).to_numpy(dtype=float)


def _thinned(measured: Measured, name: str) -> Curve:
    known = thinned.curves(measured)
    return np.array(known["seconds"]), np.array(known[name])


def _merged(setting: Setting, every: list[Setting], curves: list[Curve]) -> Tile:
    """Say what merging saves, and what the host has more of, if that was measured."""
    freed = setting.freed_mib
    more = f"freed, as measured: {_number(freed.mean)} MiB" if freed else "at the end of the run"
    return _tile("Saved", saved_of(setting, every), "MiB", more, sparks.curve(curves))


def _share(setting: Setting, measured: list[Measured]) -> Iterator[Tile]:
    """Say of how much memory that is: of the guests', or of what could be saved."""
    guests, resident = setting.percent_configured, setting.percent_resident
    could = setting.efficiency_percent
    if guests:
        more = f"{number(could.mean)} % of what could be saved" if could else ""
        more = more or (f"{number(resident.mean)} % of resident" if resident else "")
        yield _tile("Of guest memory", guests, "%", more, sparks.share(guests.mean))
        return
    known = [efficiency.of_run(each.run).get(efficiency.NAME, np.nan) for each in measured]
    for share, more in (
        (could, "according to the last census"),
        (estimate(known), "on average over the run"),
    ):
        if share:
            yield _tile("Of what could be saved", share, "%", more, sparks.share(share.mean))
            return


def _cpu(setting: Setting, measured: list[Measured]) -> Iterator[Tile]:
    if setting.ksmd_cpu_percent is None:
        return
    cost = setting.cost_seconds
    more = f"{number(cost.mean)} CPU seconds in the whole run" if cost else ""
    lines = [
        _thinned(each, CPU)
        if isinstance(each.run, Reduced)
        else (each.host.index.to_numpy(dtype=float), each.host[CPU].to_numpy(dtype=float))
        for each in measured
    ]
    spark = sparks.curve(lines)
    yield _tile("Cost of ksmd", setting.ksmd_cpu_percent, "% of a CPU", more, spark)


def _price(each: Price) -> Tile:
    """Show one price: that which is shown to be lost, if there is any."""
    loss, unit = (each.percent, "%") if each.percent else (each.absolute, each.unit)
    label = {"higher": "Throughput lost", "lower": "Time added"}.get(each.better, "Lost")
    nothing = 100 * price.BOUND if each.percent else 0.0
    words = f"{VERDICTS[each.verdict]}: {each.metric}"
    return _tile(label, loss, unit, words, sparks.interval(loss, nothing))


def _soon(setting: Setting, curves: list[Curve]) -> Iterator[Tile]:
    times = setting.seconds_to_95
    if times is None:
        return
    label, total = "95 % of it after", "of the final savings"
    if times.mean is None:
        median = "not reached" if times.median is None else number(times.median)
        missing = f"not reached in {times.runs - times.reached} of {times.runs} runs"
        unit = "s (median)" if times.median is not None else ""
        yield Tile(label, median, unit, missing, "savings still changed", sparks.curve(curves))
        return
    seconds = Estimate(times.mean, times.low, times.high, times.runs)
    spark = sparks.curve(curves, mark=times.mean)
    if setting.within(times):
        yield Tile(label, f"≤ {number(setting.period)}", "s", _runs(times), total, spark)
    else:
        yield _tile(label, seconds, "s", total, spark)


def _predicted(measured: list[Measured]) -> Iterator[Tile]:
    """Say at how many distances smart_scan merged what its rule says."""
    found = [counts for each in measured if (counts := phase_lock.of_run(each.run))]
    if found:
        certain, right = (int(sum(each[name] for each in found)) for name in phase_lock.COLUMNS)
        share = sparks.share(100 * right / certain) if certain else ""
        words = "distances at which it is certain"
        yield Tile("As the rule predicts", f"{right} of {certain}", "", words, "", share)


def _runs(value: Estimate | Times) -> str:
    return f"{value.runs} {'run' if value.runs == 1 else 'runs'}"


def _tile(label: str, value: Estimate | None, unit: str, more: str, spark: str) -> Tile:
    if value is None:
        return Tile(label, "not known", "", "", more, spark)
    words = NO_INTERVAL
    if value.low is not None and value.high is not None and np.isfinite(value.high):
        words = f"{_number(value.low)} to {_number(value.high)}, {_runs(value)}"
    elif value.runs > 1:
        words = _runs(value)
    return Tile(label, _number(value.mean), unit, words, more, spark)


def _number(value: float) -> str:
    words = number(value)
    return "0" if words == "-0" else words.replace("-", "−")


# --- how many fit ---------------------------------------------------------------------------------


def of_fits(fits: Sequence[Fit]) -> list[Tiles]:
    """Return one tile for each setting of a density, of all of them together: they are compared."""
    tiles = []
    for fit in sorted(fits, key=lambda fit: not fit.off)[:5]:
        name = "without KSM" if fit.off else f"with {fit.knobs}"
        killed = f"{number(fit.killed.mean)} killed when all wrote" if fit.killed else ""
        most = max(other.copies.mean for other in fits) or 1
        value = _tile(f"Fit {name}", fit.copies, fit.of, killed, "")
        at_least = "≥ " if fit.at_least else ""
        spark = sparks.share(100 * fit.copies.mean / most)
        tiles.append(
            Tile(value.label, at_least + value.value, value.unit, value.interval, killed, spark)
        )
    return [Tiles("", {}, tuple(tiles))] if tiles else []
