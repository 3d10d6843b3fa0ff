"""What to set on a host, from measured runs: knobs, the kernel's advisor, ksmtuned."""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ksm_analysis.analysis import price
from ksm_analysis.analysis.best import Best, best_of
from ksm_analysis.analysis.settings import Setting, settings_of
from ksm_analysis.analysis.statistics import FEWEST
from ksm_analysis.analysis.words import number, spoken
from ksm_analysis.metrics.measurement import Measured
from ksm_analysis.metrics.values import Ends
from ksm_analysis.results.run import Run
from ksm_analysis.simulator import advisor

KSM = "/sys/kernel/mm/ksm"
SCANNED = ("pages_shared", "pages_sharing", "pages_unshared", "pages_volatile")
RATE = ("pages_to_scan", "sleep_millisecs")
KSMTUNED_BYTES = 16 * 2**30  # the memory of the host for which KSM_SLEEP_MSEC is
KSMTUNED_LEAST_SLEEP = 10
SCANS = 60  # of the advisor, after which its pages_to_scan no longer change much
CLOSE = 0.1  # of the rate that is wanted


@dataclass(frozen=True)
class Rate:
    """How ksmd scanned in the runs of a setting; means over them.

    `pages` may be merged or are. `seconds` is the length of a full scan, `cpu_percent` the CPU time
    of ksmd, in percent of one CPU, and `page_seconds` that of a page.
    """

    pages: float
    seconds: float
    cpu_percent: float
    page_seconds: float


@dataclass(frozen=True)
class Advice:
    """What to do for one scenario. `why` are sentences; `ways` are titles with lines to execute."""

    scenario: str
    setting: str
    why: tuple[str, ...]
    ways: tuple[tuple[str, tuple[str, ...]], ...]


def advise(measured: list[Measured]) -> list[Advice]:
    """Return an advice for each host, guests and workload of which several settings are known."""
    runs = {each.run.id: each.run for each in measured}
    prices = price.prices(measured)
    return [
        _advice(best, chosen, runs, prices)
        for best in best_of(settings_of(measured))
        if (chosen := _chosen(best, prices)) is not None
    ]


def _chosen(best: Best, prices: list[price.Price]) -> Setting | None:
    """Choose the cheapest of those that may save most; one that costs the workload comes last.

    With fewer than 3 runs of each, the runs tell nothing.
    """
    if any(len(each.runs) < FEWEST for each in best.settings):
        return None
    return min(best.settings, key=lambda setting: bool(_costs(setting, prices)), default=None)


def _costs(setting: Setting, prices: list[price.Price]) -> list[price.Price]:
    """Return the prices of a setting that are shown, of the same guests and workload."""
    alike = (setting.guests, setting.workload, setting.knobs)
    return [
        each
        for each in prices
        if each.verdict == price.COSTS and (each.guests, each.workload, each.knobs) == alike
    ]


def _advice(best: Best, chosen: Setting, runs: dict[str, Run], prices: list[price.Price]) -> Advice:
    others = [each.knobs for each in best.settings if each is not chosen]
    why = [
        f"It saves {spoken(chosen.saved_mib, 'MiB')}"
        f" for {spoken(chosen.cost_seconds, 's')} of CPU time a run.",
        f"The runs cannot tell it from {', '.join(others)}; of these, it is the cheapest."
        if others
        else "The runs show that it saves most."
        if best.confident
        else best.why,
        *(price.in_words(each) for each in _costs(chosen, prices)),
    ]
    of_it = [runs[name] for name in chosen.runs if name in runs]
    return Advice(best.scenario, chosen.knobs, tuple(why), tuple(ways(of_it)))


# --- ways to get it -------------------------------------------------------------------------------


def ways(of_it: list[Run]) -> list[tuple[str, tuple[str, ...]]]:
    """Return the ways to set what these runs of one setting had."""
    if not of_it:
        return []
    plan = of_it[0].plan
    policy, knobs = plan.policy, {**plan.knobs_if_present, **plan.knobs}
    if policy and policy.kind == "governor":
        options = "".join(f" -e governor_{name}={v}" for name, v in policy.settings.items())
        return [("The governor", (f"ansible-playbook playbooks/governor.yml{options}",))]
    if policy and policy.kind == "ksmtuned":
        lines = (f"{name}={value}" for name, value in policy.settings.items())
        return [("ksmtuned: /etc/ksmtuned.conf", (*lines, "systemctl restart ksmtuned"))]
    if policy and policy.kind == "kubevirt":
        return [_kubevirt(policy.settings)]
    if policy and policy.settings == {"mode": "auto"}:
        return [("Kata Containers' ksm-throttler", ("systemctl enable --now vc-throttler",))]
    if policy and policy.kind not in ("none", "advisor"):
        return [(f"The policy {policy.name}", ("it runs only in experiments",))]
    if policy and policy.kind == "advisor":
        told = {f"advisor_{name}": value for name, value in policy.settings.items()}
        knobs = _beside(knobs) | told | {"advisor_mode": "scan-time"}
    fixed = ordered(knobs)
    found = [
        ("Now, until the next boot", tuple(f"echo {v} > {KSM}/{k}" for k, v in fixed.items())),
        (
            "At each boot: /etc/tmpfiles.d/ksm.conf",
            tuple(f"w {KSM}/{k} - - - - {v}" for k, v in fixed.items()),
        ),
    ]
    if policy and policy.kind == "advisor":
        return found
    if (rate := rate_of(of_it)) and set(RATE) <= set(knobs):
        found += [_advisor(rate, knobs), _ksmtuned(of_it[0], knobs)]
    return found


def _kubevirt(settings: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    """Return what makes virt-handler control KSM on a node, with these settings."""
    annotations = [
        f"kubevirt.io/ksm-{name.replace('_', '-')}-override={value}"
        for name, value in settings.items()
        if name != "interval"  # which virt-handler has as a constant
    ]
    all_nodes = '{"spec":{"configuration":{"ksmConfiguration":{"nodeLabelSelector":{}}}}}'
    return "KubeVirt, on all nodes; NODE is each of them", (
        f"kubectl --namespace kubevirt patch kubevirt kubevirt --type merge --patch '{all_nodes}'",
        f"kubectl annotate node NODE {' '.join(annotations)}",
    )


def _beside(knobs: dict[str, int | str]) -> dict[str, int | str]:
    """Return the knobs that do not say how fast ksmd scans, such as smart_scan."""
    return {name: value for name, value in knobs.items() if name not in (*RATE, "run")}


def ordered(knobs: dict[str, int | str]) -> dict[str, int | str]:
    """Return knobs in the order of writing: ksmd starts last."""
    return {**{k: v for k, v in knobs.items() if k != "run"}, "run": knobs.get("run", 1)}


def rate_of(of_it: list[Run]) -> Rate | None:
    """Measure how ksmd scanned; None if a run does not tell, or has no full scan."""
    found = []
    for run in of_it:
        samples = run.samples
        if samples.empty or not {"ksm.full_scans", "ksm.pages_scanned"} <= set(samples):
            return None
        ends = Ends(run, samples)
        pages = sum(ends.column(f"ksm.{name}").to_numpy(dtype=float)[-1] for name in SCANNED)
        seconds = float(np.ptp(samples["seconds"]))
        scans = float(np.ptp(samples["ksm.full_scans"]))
        cpu = float(np.ptp(ends.column("ksmd.cpu_ns").to_numpy(dtype=float))) / 1e9
        scanned = float(np.ptp(samples["ksm.pages_scanned"]))
        if not (scans and seconds and scanned and pages > 0 and math.isfinite(cpu)):
            return None
        found.append((pages, seconds / scans, 100 * cpu / seconds, cpu / scanned))
    return Rate(*(float(np.mean(each)) for each in zip(*found, strict=True)))


def _advisor(rate: Rate, knobs: dict[str, int | str]) -> tuple[str, tuple[str, ...]]:
    """Return the advisor's knobs that come closest, with what it then does, as predicted."""
    pages, sleep = int(knobs["pages_to_scan"]), int(knobs["sleep_millisecs"]) / 1000
    host = advisor.Host(round(rate.pages), rate.page_seconds, sleep_seconds=sleep)
    seconds, cpu = advisor.scan(host, pages)
    asked = advisor.Advisor(
        target_scan_time=max(1, round(seconds)),
        max_cpu=min(100, max(advisor.LEAST_CPU, math.ceil(100 * cpu / seconds))),
        max_pages_to_scan=max(pages, 1),
        min_pages_to_scan=min(pages, 500),
    )
    _, state = next(itertools.islice(advisor.course(host, asked), SCANS, None))
    would, used = advisor.scan(host, state.pages_to_scan)
    close = abs(state.pages_to_scan - pages) <= CLOSE * pages
    title = f"The kernel's advisor (Linux 6.8 and newer): predicted, {number(would)} s a scan"
    title += f" with {number(100 * used / would)} % of a CPU"
    if not close:
        title += (
            f"; it cannot come closer to {number(seconds)} s with {number(100 * cpu / seconds)} %"
        )
    lines = _beside(knobs)
    lines |= {f"advisor_{name}": value for name, value in asked._asdict().items()}
    lines |= {"sleep_millisecs": knobs["sleep_millisecs"], "advisor_mode": "scan-time", "run": 1}
    return title, tuple(f"echo {value} > {KSM}/{name}" for name, value in lines.items())


def _ksmtuned(run: Run, knobs: dict[str, int | str]) -> tuple[str, tuple[str, ...]]:
    """Return what makes ksmtuned scan as fast, always."""
    total = int(run.record.provenance.get("memory_bytes") or KSMTUNED_BYTES)
    pages, sleep = int(knobs["pages_to_scan"]), int(knobs["sleep_millisecs"])
    at_16_gib = math.ceil(max(sleep, KSMTUNED_LEAST_SLEEP) * total / KSMTUNED_BYTES)
    return "ksmtuned: /etc/ksmtuned.conf, then systemctl restart ksmtuned", (
        f"KSM_NPAGES_MIN={pages}",
        f"KSM_NPAGES_MAX={pages}",
        f"KSM_SLEEP_MSEC={at_16_gib}    # {number(total / 2**30)} GiB of memory",
        "KSM_THRES_COEF=100    # always; it does not count the memory of libvirt's guests",
        *(f"# and {KSM}/{name}: {value}" for name, value in _beside(knobs).items()),
    )
