"""The verdict in one sentence: no more than the runs show."""

from collections.abc import Sequence

from ksm_analysis.analysis import density, price
from ksm_analysis.analysis.answer import EARLY, nothing, top_of
from ksm_analysis.analysis.best import Best
from ksm_analysis.analysis.density import Fit
from ksm_analysis.analysis.price import Price
from ksm_analysis.analysis.settings import Setting
from ksm_analysis.analysis.statistics import FEWEST, MARGIN
from ksm_analysis.analysis.words import number, spoken


def named(settings: list[Setting], best: list[Best]) -> Setting | None:
    """Return the setting that the verdict is about: the best, or the one that saves most.

    Of several that may be best, it is the cheapest, if there are runs enough to tell them from the
    others. None if no savings are known.
    """
    top = top_of(settings)
    if not best or not best[0].settings:
        return top
    chosen = _named(best[0])  # which may stand for several hosts
    return next((s for s in settings if _cell(s) == _cell(chosen)), top)


def _named(best: Best) -> Setting:
    if not _too_few(best):
        return best.settings[0]
    return max(best.rivals, key=lambda s: s.saved_mib.mean if s.saved_mib else 0.0)


def _too_few(best: Best) -> bool:
    return min(len(s.savings) for s in best.rivals) < FEWEST


def _cell(setting: Setting) -> tuple[int, str, str]:
    return setting.guests, setting.workload, setting.knobs


def verdict(
    settings: list[Setting], best: list[Best], prices: list[Price], fits: Sequence[Fit]
) -> str:
    """Say what came of it: how much is saved, with which setting, at what price."""
    if fits:
        return density.in_words(fits)[0]
    setting = named(settings, best)
    if setting is None:
        return nothing(settings)
    several = len({(s.host, s.guests, s.workload) for s in settings if not s.control}) > 1
    where = f"With {setting.scenario(False)}: " if several else ""
    found = best[0] if best else None
    if found and not found.settings:
        return f"{where}{EARLY}"
    said = _of_several(found) if found else _of_one(setting)
    said = f"{where}{said}{_at_price(setting, prices)}."
    return said if found and found.confident and not where else said[0].upper() + said[1:]


def _of_several(best: Best) -> str:
    chosen, rivals = _named(best), len(best.rivals)
    cost = f" for {number(chosen.cost_seconds.mean)} CPU seconds" if chosen.cost_seconds else ""
    if all(s.saved_mib and s.saved_mib.mean <= 0 for s in best.rivals):
        return f"none of {rivals} settings saves anything"
    if best.confident:
        others = [s for s in best.rivals if s.saved_mib and s is not chosen]
        second = max(others, key=lambda s: s.saved_mib.mean if s.saved_mib else 0.0, default=None)
        words = f"{chosen.knobs} saves most of {rivals}: {spoken(chosen.saved_mib, 'MiB')}{cost}"
        if second and second.saved_mib:
            price_ = f" for {number(second.cost_seconds.mean)}" if second.cost_seconds else ""
            words += f"; the next saves {number(second.saved_mib.mean)} MiB{price_}"
        return words
    many = len(best.settings)
    if _too_few(best):
        saved = f"the highest mean is {spoken(chosen.saved_mib, 'MiB')} with {chosen.knobs}"
        return f"too few runs to tell which of {rivals} settings saves most; {saved}"
    shown = f"{many} settings save the same within {100 * MARGIN:g} %"
    unknown = f"these runs do not show which of {many} settings saves most"
    cheapest = f"{chosen.knobs} costs least: {spoken(chosen.saved_mib, 'MiB')}{cost}"
    return f"{shown if best.equal else unknown}; {cheapest}"


def _of_one(setting: Setting) -> str:
    saved = setting.saved_mib
    if saved is None or saved.mean <= 0:
        return "KSM saves nothing"
    words = f"KSM saves {spoken(saved, 'MiB')}"
    if setting.percent_configured:
        words += f", {number(setting.percent_configured.mean)} % of guest memory"
    if setting.ksmd_cpu_percent:
        words += f", for {number(setting.ksmd_cpu_percent.mean)} % of a CPU"
    if not setting.scanned:
        return f"{words}, but ksmd did not scan all memory often enough to judge"
    return words if setting.plateaued else f"{words}, and savings still changed at the end"


def _at_price(setting: Setting, prices: list[Price]) -> str:
    """Name what is shown to be lost, or that nothing is; empty if the runs do not show it."""
    mine = prices_of(setting, prices)
    lost = [each for each in mine if each.verdict == price.COSTS]
    if lost:
        worst = lost[0]
        value, unit = (worst.percent, "%") if worst.percent else (worst.absolute, worst.unit)
        return f"; it costs {number(value.mean)} {unit} in {worst.metric}"
    if mine and all(each.verdict == price.NOTHING for each in mine):
        return "; it costs nothing measurable"
    return ""


def prices_of(setting: Setting, prices: list[Price]) -> list[Price]:
    """Return the prices of a setting: losses that are shown first, then the largest."""
    mine = [p for p in prices if (p.guests, p.workload, p.knobs) == _cell(setting)]
    return sorted(
        mine, key=lambda p: (p.verdict != price.COSTS, -p.percent.mean if p.percent else 0.0)
    )
