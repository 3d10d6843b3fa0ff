"""The answer in a sentence: what was saved, and what it cost."""

from operator import itemgetter

from ksm_analysis.analysis.settings import Setting
from ksm_analysis.analysis.statistics import Estimate, estimate
from ksm_analysis.analysis.words import number, spoken

EARLY = "It is too early to judge: ksmd did not scan all memory often enough."
TOLD = 0.01  # a difference between what is saved and what KSM counts that readers must know


def headline(every: list[Setting]) -> str:
    """Say what was saved and what it cost, for the setting that saves most with the most guests."""
    every = [s for s in every if not s.control]
    top = top_of(every)
    if top is None or not top.saved_mib:
        return nothing(every)
    saved = saved_of(top, every) or top.saved_mib
    hosts = len({s.host for s in every}) > 1
    words = f"With {top.scenario(hosts)}: KSM saves {spoken(saved, 'MiB')}"
    if top.counted_mib and abs(top.counted_mib.mean - saved.mean) > TOLD * saved.mean:
        words += f" (KSM counts {number(top.counted_mib.mean)} MiB)"
    if top.percent_configured and top.percent_resident:
        words += (
            f", which is {number(top.percent_configured.mean)} % of configured and "
            f"{number(top.percent_resident.mean)} % of resident guest memory"
        )
    if top.efficiency_percent:
        words += (
            f"; according to the census, {number(top.efficiency_percent.mean)} % of what perfect "
            "merging would save is saved"
        )
    if top.ksmd_cpu_seconds and top.ksmd_cpu_percent:
        words += (
            f"; ksmd takes {number(top.ksmd_cpu_seconds.mean)} CPU seconds for it, "
            f"{number(top.ksmd_cpu_percent.mean)} % of one CPU"
        )
    return f"{words}. {_how_soon(top, saved)}".strip()


def top_of(every: list[Setting]) -> Setting | None:
    """Return the setting that saves most with the most guests; None if no savings are known."""
    known = [(s.guests, s.saved_mib.mean, s) for s in shared(every) if s.saved_mib]
    return max(known, key=itemgetter(0, 1))[2] if known else None


def saved_of(top: Setting, every: list[Setting]) -> Estimate | None:
    """Estimate what a setting saves that was selected, because it saves most with its guests."""
    return estimate(top.savings, chosen_of=sum(s.guests == top.guests for s in shared(every)))


def shared(every: list[Setting]) -> list[Setting]:
    """Return the settings with KSM on that have known savings, without the control."""
    return [s for s in every if not (s.off or s.control) and s.saved_mib]


def nothing(every: list[Setting]) -> str:
    """Say why nothing is known to be saved."""
    if any(not (s.off or s.control) for s in every):
        return "The savings are not known: no run has a value in its last interval."
    return "KSM was off in every run." if every else "No run can be used."


def _how_soon(setting: Setting, saved: Estimate) -> str:
    if not setting.scanned:
        return EARLY
    if not saved.mean > 0:
        return "Nothing is merged."
    if not setting.plateaued:
        return "Sharing was still changing when the run ended: a longer run is needed."
    times = setting.seconds_to_95
    if times is None:
        return ""
    if times.mean is None:
        return f"95 % of that was not reached in {times.runs - times.reached} of {times.runs} runs."
    if setting.within(times):
        return f"95 % of that is reached within {number(setting.period)} s."
    return f"95 % of that is reached after {number(times.mean)} s."
