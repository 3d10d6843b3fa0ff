"""Rules about who turns the knobs; docs/doctor.md explains each finding. Pure."""

from collections.abc import Iterator

from ksm_analysis.doctor import rulers
from ksm_analysis.doctor.facts import (
    Facts,
    advised,
    counters,
    ksm,
    seconds_between,
    some,
)
from ksm_analysis.doctor.finding import COSTS, HOST, KSM, LIMITS, NOTE, Finding

# Writable files of the directory; docs/metrics.md lists the counters.
KNOBS = (
    *("run", "pages_to_scan", "sleep_millisecs", "merge_across_nodes", "use_zero_pages"),
    *("max_page_sharing", "stable_node_chains_prune_millisecs", "smart_scan", "advisor_mode"),
    *("advisor_max_cpu", "advisor_target_scan_time"),
    *("advisor_min_pages_to_scan", "advisor_max_pages_to_scan"),
)


def ruled(facts: Facts) -> Iterator[Finding]:
    """Yield findings about the programs that write to the knobs."""
    if facts["readings"][-1]["ksm"] is None:
        yield from _in_vain(facts)
        return
    yield from _rulers(facts)
    yield from _blind(facts)
    yield from _changing(facts)


def _pids(facts: Facts) -> dict[str, int]:
    return {service["name"]: service["pid"] for service in facts["services"]}


def _in_vain(facts: Facts) -> Iterator[Finding]:
    names = ", ".join(rulers.names(facts))
    if not names:
        return
    yield Finding(
        "ruler-in-vain",
        COSTS,
        f"{names} runs, and there is no KSM to control",
        HOST,
        _pids(facts),
        f"It writes to files of {KSM}, which does not exist, and logs an error each time.",
        f"systemctl disable --now {names.replace(',', '')}",
    )


def _rulers(facts: Facts) -> Iterator[Finding]:
    services, advisor = rulers.names(facts), advised(facts)
    names = ", ".join(services)
    evidence = {**some(ksm(facts), "run", "advisor_mode", "pages_to_scan"), **_pids(facts)}
    wishes = [(name, rulers.wish(facts, name)) for name in services]
    says = "".join(f" {name}: {wish.says}." for name, wish in wishes if wish)
    if (services and advisor) or len(services) > 1:
        advice = "While the advisor is on, the kernel refuses writes of the service (EINVAL) and "
        advice += "sets pages_to_scan itself after each scan."
        yield Finding(
            "two-rulers",
            LIMITS,
            f"{names} and the kernel's advisor both control pages_to_scan"
            if advisor
            else f"several programs control the knobs: {names}",
            HOST,
            evidence,
            (advice if advisor else "Each overwrites what the others set.") + says,
            f"keep one of them: systemctl disable --now {services[0]}"
            + (f"\nor\necho none > {KSM}/advisor_mode" if advisor else ""),
        )
    elif services or advisor:
        yield Finding(
            "ruled",
            NOTE,
            f"the knobs are controlled by {names or 'the advisor of the kernel'}",
            HOST,
            evidence,
            f"Your settings will be overwritten.{says}",
            rulers.configure(facts, services[0])
            if services
            else f"echo none > {KSM}/advisor_mode    # then pages_to_scan stays as it is",
        )


def _blind(facts: Facts) -> Iterator[Finding]:
    """Yield a finding if ksmtuned counts too few QEMUs: Debian's, with guests of libvirt."""
    guests = [each for each in facts["domains"] if each["vmm"] == "qemu"]
    missed = [each for each in guests if each["counted_by_ksmtuned"] is False]
    if "ksmtuned" not in rulers.names(facts) or not missed:
        return
    rule = facts["thresholds"].get("ksmtuned") or {}
    stopped = ksm(facts).get("run") != 1
    yield Finding(
        "ksmtuned-blind",
        LIMITS if stopped else NOTE,
        f"ksmtuned does not count {len(missed)} of {len(guests)} QEMUs",
        HOST,
        {"pattern": rule.get("pattern"), "not_counted": [each["name"] for each in missed]},
        "It starts ksmd when QEMUs use too much of the memory, but counts only those whose command "
        f"line matches {rule.get('pattern')}. libvirt writes the path of the program, and "
        f"-accel kvm "
        "or accel=kvm, not -enable-kvm. So it starts ksmd only when the memory is nearly used up.",
        "correct the pattern of pgrep in ksmtuned (committed_memory), for instance "
        "'^(/[^ ]*/)?qemu-system', then systemctl restart ksmtuned; or raise KSM_THRES_COEF",
    )


def _changing(facts: Facts) -> Iterator[Finding]:
    """Yield a finding for knobs that changed between the readings, except by the advisor."""
    first, last = (counters(reading) for reading in facts["readings"])
    ruled = {"pages_to_scan"} if advised(facts) else set()
    knobs = [name for name in KNOBS if name in last and name in first and first[name] != last[name]]
    changed = {name: [first[name], last[name]] for name in knobs if name not in ruled}
    if not changed:
        return
    names = rulers.names(facts)
    fix = (
        rulers.configure(facts, names[0])
        if names
        else (
            "find out what writes them: ksmtuned, oVirt's MOM, KubeVirt's virt-handler, an "
            "experiment, "
            f"or a user:\npgrep -af 'ksm|mom|virt-handler'; fuser -v {KSM}/run"
        )
    )
    yield Finding(
        "knobs-change",
        LIMITS,
        f"{', '.join(names) or 'another program or user'} changes the knobs: {', '.join(changed)}",
        HOST,
        {**changed, "seconds": round(seconds_between(facts), 1), **_pids(facts)},
        "The two readings differ. Your settings will be overwritten.",
        fix,
    )
