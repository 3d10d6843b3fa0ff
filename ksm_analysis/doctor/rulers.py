"""Programs that turn the knobs: when each lets ksmd run, and where it is configured. Pure."""

from dataclasses import dataclass

from ksm_analysis.doctor.facts import Facts, resident, service_names
from ksm_analysis.doctor.finding import KSM, mib


@dataclass(frozen=True)
class Wish:
    """What a program wants of ksmd now."""

    run: bool
    says: str  # the threshold, and what it is compared with


def names(facts: Facts) -> list[str]:
    """Return the programs that rule. supervdsmd writes what MOM decides: they are one."""
    found = service_names(facts)
    return [name for name in found if name != "supervdsmd" or "momd" not in found]


def wish(facts: Facts, name: str) -> Wish | None:
    """Return what a program wants; None if it has no threshold, or memory is not known."""
    total, memory = facts["host"]["memory_bytes"], facts["host"]["memory"]
    if not total or "MemFree" not in memory:
        return None
    cached = sum(int(memory.get(each, 0)) for each in ("MemFree", "Buffers", "Cached"))
    available = int(memory.get("MemAvailable", cached))
    if name == "ksmtuned":
        return _ksmtuned(facts, total, cached)
    if name in ("momd", "supervdsmd"):
        rule = facts["thresholds"].get("momd") or {}
        return _below(float(rule.get("part") or 0.2), cached, total, "free or cached")
    if name in ("virt-handler", "harvester-node-manager"):
        return _below(0.2, available, total, "available")
    return None


def _below(part: float, free: int, total: int, word: str) -> Wish:
    now = f"now {free / total:.0%} is"
    says = f"it starts ksmd when less than {part:.0%} of the memory is {word}; {now}"
    return Wish(free < part * total, says)


def _ksmtuned(facts: Facts, total: int, free: int) -> Wish:
    rule = facts["thresholds"].get("ksmtuned") or {}
    part = int(rule.get("coefficient", 20))
    threshold = max(total * part // 100, int(rule.get("constant_kib", 2048)) * 1024)
    guests = [each for each in facts["domains"] if each["counted_by_ksmtuned"] is not False]
    committed = sum(resident(each) for each in guests if each["vmm"] == "qemu")
    run = committed + threshold >= total or free <= threshold
    says = (
        f"it starts ksmd when less than {part} % of the memory ({mib(threshold)}) is free or "
        f"cached, "
        f"or QEMUs leave less than that: now {free / total:.0%} ({mib(free)}) is, and QEMUs use "
        f"{mib(committed)} of {mib(total)}"
    )
    return Wish(run, says)


def configure(facts: Facts, name: str) -> str:
    """Return how to make a program merge more or less, or how to end its rule."""
    own = f"\nOr turn the knobs yourself:\nsystemctl disable --now {name}\necho 1 > {KSM}/run"
    if name == "ksmtuned":
        rule = facts["thresholds"].get("ksmtuned") or {}
        file, part = rule.get("file") or "/etc/ksmtuned.conf", rule.get("coefficient", 20)
        return (
            f"to merge earlier, raise KSM_THRES_COEF in {file} (now {part}; 100: always), then "
            f"systemctl restart ksmtuned{own}"
        )
    if name in ("momd", "supervdsmd"):
        file = (facts["thresholds"].get("momd") or {}).get("file") or "/etc/vdsm/mom.d/"
        return (
            "in oVirt: Compute > Clusters > Edit > Optimization > Enable KSM (and for the host: "
            "MOM "
            f"policy). To merge earlier, raise ksm_free_percent in {file}, then systemctl restart "
            "mom-vdsm. What is written to the knobs by hand is overwritten"
        )
    if name == "virt-handler":
        return (
            "select the node: spec.configuration.ksmConfiguration.nodeLabelSelector of the "
            "KubeVirt "
            "object (kubectl edit kubevirt -n kubevirt). To merge earlier:\n"
            "kubectl annotate node NODE --overwrite kubevirt.io/ksm-free-percent-override=1.0\n"
            "What is written to the knobs by hand is overwritten within minutes"
        )
    if name == "harvester-node-manager":
        return (
            "kubectl edit ksmtuned NODE    # spec.run: run; spec.thresholdCoef: the % below "
            "which it "
            "starts (or in the UI: Hosts > NODE > Ksmtuned). What is written to the knobs by hand "
            "is overwritten"
        )
    if name == "kata-ksm-throttler":
        return f"it starts ksmd when containers start, and slows it down later{own}"
    if name == "tuned":
        rule = facts["thresholds"].get("tuned") or {}
        knobs = ", ".join(f"{knob}={value}" for knob, value in (rule.get("knobs") or {}).items())
        return (
            f"the profile {rule.get('profile')} of tuned sets {knobs}: change it in a profile of "
            "your own that includes it, then tuned-adm profile NAME"
        )
    return f"systemctl disable --now {name}"
