"""What a comparison shows, in words: change, p, reason, summary of all."""

from collections import Counter
from collections.abc import Sequence

from ksm_analysis.analysis import statistics
from ksm_analysis.analysis.comparison import Comparison

TOO_FEW = "No verdict: 3 runs on each side are needed (`repetitions: 3` in the experiment)."


def change(one: Comparison) -> tuple[str, str]:
    """Return the difference and its interval: in percent of A, or in the unit of the metric."""
    found = one.found
    tested = found.method != "constant"
    if found.change is not None:
        around = f"{found.low:+.1%} to {found.high:+.1%}" if found.low is not None else ""
        return f"{found.change:+.1%}", around if tested else ""
    low, high = found.absolute_low, found.absolute_high
    around = f"{low:+,.4g} to {high:+,.4g}" if low is not None else ""
    return f"{found.absolute:+,.4g}", around if tested else ""


def p_value(one: Comparison) -> str:
    """Return p after Holm; empty without one."""
    p = one.p_holm
    return "" if p is None else f"{p:.3f}" if p >= 0.001 else "<0.001"


def allowed_for(made: Sequence[Comparison], smallest: float) -> str:
    """Say what p is adjusted for; `smallest` is in percent."""
    tested = sum(one.p_holm is not None for one in made)
    if not tested:
        return TOO_FEW
    return (
        f"p is adjusted for {tested} {'comparison' if tested == 1 else 'comparisons'} (Holm); "
        f"95 % intervals are not. Less than {smallest:g} % does not matter."
    )


def summary(made: Sequence[Comparison]) -> str:
    """Say in one sentence what is shown, metric by metric."""
    if not any(one.p_holm is not None for one in made):
        return TOO_FEW.partition(" (")[0] + "."
    by_metric: dict[str, list[Comparison]] = {}
    for one in made:
        by_metric.setdefault(one.metric, []).append(one)
    return f"B against A: {'; '.join(map(_of_metric, by_metric.values()))}."


def _of_metric(every: list[Comparison]) -> str:
    first = every[0]
    if len(every) > 1:
        return f"{first.metric} is {counted(every)} of {len(every)} pairs"
    if first.verdict not in (statistics.HIGHER, statistics.LOWER):
        return f"{first.metric}: {first.verdict}"
    by, around = change(first)
    unit = "" if by.endswith("%") else f" {first.unit}"
    return f"{first.metric} is {first.verdict}, by {by}{unit}{f' ({around})' if around else ''}"


def counted(every: Sequence[Comparison]) -> str:
    """Count the verdicts of several pairs: `higher in 4, the same in 1`."""
    found = Counter(one.verdict for one in every)
    return ", ".join(f"{verdict} in {count}" for verdict, count in found.most_common())


def reason(one: Comparison) -> str:
    """Return the reason of a verdict, or what is missing for one, and runs that are censored."""
    never = [
        f"{count} {'run' if count == 1 else 'runs'} of {side}"
        for count, side in zip(one.not_reached, "AB", strict=True)
        if count
    ]
    censored = f"not reached in {' and '.join(never)}: at least the time shown" if never else ""
    return "; ".join(filter(None, (_why(one), censored)))


def _why(one: Comparison) -> str:
    found = one.found
    if one.pairs is not None and any(one.missing):
        count = one.missing[0]
        words = "1 more pair" if count == 1 else f"{count} more pairs"
        return f"{words} of runs with the same host and repetition needed"
    if any(one.missing):
        sides = [
            f"{count} more {'run' if count == 1 else 'runs'} of {side}"
            for count, side in zip(one.missing, "AB", strict=True)
            if count
        ]
        return f"{' and '.join(sides)} needed"
    if found.method == "constant":
        return "all runs of a side have the same value: nothing to test"
    if one.verdict != statistics.NOT_SHOWN:
        return "" if found.ratio else "relative to the larger mean, as not all values are positive"
    p, p_holm = found.p, one.p_holm
    if p is not None and p_holm is not None and p < 1 - statistics.CONFIDENCE <= p_holm:
        return f"p is {p:.3f} alone: not significant among so many comparisons"
    if one.needed and one.needed > max(found.a.runs, found.b.runs):
        unit = "runs per side" if one.pairs is None else "pairs"
        return f"about {one.needed:,} {unit} would decide"
    return ""
