"""What is certain, as the end of a heading: readers who look at headings only have the answer."""

from collections import Counter

from ksm_analysis.analysis import observations, price
from ksm_analysis.analysis.best import Best
from ksm_analysis.analysis.density import Fit
from ksm_analysis.analysis.observations import Check
from ksm_analysis.analysis.price import Price
from ksm_analysis.analysis.settings import Setting
from ksm_analysis.analysis.words import number
from ksm_analysis.metrics import phase_lock
from ksm_analysis.metrics.measurement import Measured
from ksm_analysis.results.run import Run

GROWS = "grows-with-guests"


def of_sections(
    settings: list[Setting],
    best: list[Best],
    prices: list[Price],
    fits: list[Fit],
    checks: list[Check],
    runs: tuple[Run, ...],
) -> dict[str, str]:
    """Return what is certain, by the id of the section; nothing where nothing is."""
    found = {
        "answer": _of_best(best),
        "price": _of_prices(prices),
        "density": _of_fits(fits),
        "checks": _of_checks(checks),
        "census": _of_census(settings),
        "runs": _of_runs(runs),
    }
    return {name: words for name, words in found.items() if words}


def _of_best(best: list[Best]) -> str:
    if len(best) != 1:
        return ""
    if best[0].confident:
        return f"{best[0].settings[0].knobs} saves most"
    return f"{len(best[0].settings)} settings save the same" if best[0].equal else ""


def _of_prices(prices: list[Price]) -> str:
    counted = Counter(each.verdict for each in prices)
    certain = (
        (price.COSTS, "a loss is shown in"),
        (price.GAINS, "a gain is shown in"),
        (price.NOTHING, "nothing measurable in"),
    )
    words = [f"{said} {counted[verdict]}" for verdict, said in certain if counted[verdict]]
    return f"{', '.join(words)} of {len(prices)}" if words else ""


def _of_fits(fits: list[Fit]) -> str:
    """Say how many more fit with KSM, if the intervals of a single setting leave no doubt."""
    off, on = ([fit for fit in fits if fit.off is there] for there in (True, False))
    if len(off) != 1 or len(on) != 1:
        return ""
    more, few = on[0].copies, off[0].copies
    if more.low is None or few.high is None or more.low <= few.high:
        return ""
    return f"{number(more.mean - few.mean)} more with KSM"


def _of_checks(checks: list[Check]) -> str:
    counted = Counter(check.verdict for check in checks)
    verdicts = (observations.HOLDS, observations.FAILS, observations.UNTESTED)
    plural = {observations.HOLDS: "hold", observations.FAILS: "do not hold"}
    words = [
        f"{counted[each]} {each if counted[each] == 1 else plural.get(each, each)}"
        for each in verdicts
        if counted[each]
    ]
    return ", ".join(words)


def _of_census(settings: list[Setting]) -> str:
    shares = [s.efficiency_percent.mean for s in settings if s.efficiency_percent]
    if not shares:
        return ""
    low, high = number(min(shares)), number(max(shares))
    return f"{low} % of it" if low == high else f"{low} to {high} % of it"


def _of_runs(runs: tuple[Run, ...]) -> str:
    failed = sum(run.record.status != "complete" for run in runs)
    if failed:
        return f"{failed} of {len(runs)} failed"
    return "it is complete" if len(runs) == 1 else f"all {len(runs)} are complete"


def of_picture(name: str, checks: list[Check], measured: list[Measured]) -> str:
    """Return what the picture of the experiment is certain to show; empty otherwise."""
    if name == "saved-by-guests":
        grows = next((check for check in checks if check.name == GROWS), None)
        return "they grow" if grows and grows.verdict == observations.HOLDS else ""
    if name == "phase-lock":
        counts = [found for each in measured if (found := phase_lock.of_run(each.run))]
        certain, right = (
            int(sum(each[column] for each in counts)) for column in phase_lock.COLUMNS
        )
        return f"as predicted at {right} of {certain} distances" if certain else ""
    return ""
