"""Derive findings from the facts of a host, the worst first. Pure."""

from ksm_analysis.doctor import (
    domain_rules,
    ksmd_rules,
    kvm_rules,
    ruler_rules,
    saving_rules,
    shape,
    visibility_rules,
)
from ksm_analysis.doctor.facts import Facts
from ksm_analysis.doctor.finding import NOTE, SEVERITIES, Finding


def findings(facts: Facts) -> list[Finding]:
    """Return all findings, the worst first. Raises InputError if these are no facts."""
    facts = shape.complete(facts)
    found = [
        *visibility_rules.seen(facts),
        *kvm_rules.closed(facts),
        *ruler_rules.ruled(facts),
        *ksmd_rules.ksmd(facts),
        *saving_rules.saving(facts),
    ]
    if not visibility_rules.absent(facts):
        for each in facts["domains"]:
            found += domain_rules.domain(facts, each)
        for process in facts["processes"]:
            found += domain_rules.unprofitable(facts, process, "process")
    found += visibility_rules.nothing_offered(facts, found)
    return sorted(found, key=lambda each: SEVERITIES.index(each.severity))


def is_wrong(found: list[Finding]) -> bool:
    """Whether any finding is more than a note."""
    return any(each.severity != NOTE for each in found)
