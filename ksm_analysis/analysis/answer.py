"""The answer in a sentence: what was saved, and what it cost."""

from ksm_analysis.analysis.settings import Setting
from ksm_analysis.analysis.statistics import Estimate, estimate
from ksm_analysis.analysis.words import number, spoken

TOLD = 0.01  # a difference between what is saved and what KSM counts that readers must know


def headline(every: list[Setting]) -> str:
    """Say what was saved and what it cost, for the setting that saves most with the most guests."""
    every = [s for s in every if not s.control]
    shared = [(s, s.saved_mib) for s in every if not s.off and s.saved_mib]
    if not shared and any(not s.off for s in every):
        return "The savings are not known: no run has a value in its last interval."
    if not shared:
        return "KSM was off in every run." if every else "No run can be used."
    top, saved = max(shared, key=lambda pair: (pair[0].guests, pair[1].mean))
    rivals = sum(s.guests == top.guests for s, _ in shared)
    saved = estimate(top.savings, chosen_of=rivals) or saved
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


def _how_soon(setting: Setting, saved: Estimate) -> str:
    if not setting.scanned:
        return "It is too early to judge: ksmd did not scan all memory often enough."
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
