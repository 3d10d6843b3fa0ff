"""Derive findings from the facts of a host, the worst first. Pure."""

from ksm_analysis.doctor import domain_rules, host_rules
from ksm_analysis.doctor.facts import Facts
from ksm_analysis.doctor.finding import NOTE, SEVERITIES, Finding


def findings(facts: Facts) -> list[Finding]:
    """Return all findings, the worst first."""
    found = [*host_rules.host(facts)]
    for each in facts["domains"]:
        found += domain_rules.domain(facts, each)
    for process in facts["processes"]:
        found += domain_rules.unprofitable(facts, process, "process")
    found += host_rules.nothing_offered(facts, found)
    return sorted(found, key=lambda each: SEVERITIES.index(each.severity))


def is_wrong(found: list[Finding]) -> bool:
    """Whether any finding is more than a note."""
    return any(each.severity != NOTE for each in found)
