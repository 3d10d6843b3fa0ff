"""The assessment of a host: all that is said of it, as plain values, in bytes and seconds."""

from typing import Any

import numpy as np

from ksm_analysis.analysis.advice import KSM, ordered
from ksm_analysis.assess import forecast, population, settings
from ksm_analysis.assess.forecast import Guest, Limit
from ksm_analysis.assess.seen import Seen
from ksm_analysis.assess.settings import Outcome
from ksm_analysis.definition.policies import NONE
from ksm_analysis.doctor import diagnosis, fixes, rulers
from ksm_analysis.doctor.facts import GOAL_SECONDS, available, kernel, ksm, saved_bytes, swap

FREED, SECONDS, CPU = 0.05, 0.25, 0.25
BUSY = 0.56
"""How far the CPU time of a program that turns the knobs was off on a busy machine."""
GUESTS = (1.5, 5)
"""How many times as long as forecast booted guests took."""
"""How far forecasts may be off, as parts of what then happened: docs/assess.md."""
HOUR = 3600.0
MOST_PAIRS, POINTS = 12, 60
CLOSE = 0.97  # a setting that frees this part of the most frees as much


def assess(seen: Seen) -> dict[str, Any]:
    """Return what KSM would do on a host; see docs/assess.md for the keys."""
    facts, page = seen.facts, int(seen.host["page_size"])
    found, knobs = population.of(seen), settings.usable(seen.facts)
    limit, host = forecast.limit(found, knobs), settings.host_of(seen)
    costs = settings.costs(seen.page_seconds)
    outcomes = [
        settings.simulate(each, found, host, costs, knobs, seen.host["hz"])
        for each in settings.OFFER
        if possible(each.name, facts)
    ]
    rows = [_row(each, limit, page) for each in outcomes]
    pids = dict(seen.host["processes"])
    guests = [_guest(facts, each, pids[each.name], page) for each in limit.guests if each.pages]
    return {
        "kernel": facts["host"]["kernel"],
        "read": _read(seen, limit, page),
        "freed": _freed(limit, facts, page),
        "guests": sorted(guests, key=lambda guest: -guest["freed"]),
        "pairs": _pairs(limit, page),
        "settings": rows,
        "curves": {each.setting.name: _curve(each, page) for each in outcomes},
        "best": _best(rows, outcomes, facts),
        "risk": _risk(limit, facts, page),
        "tenants": _tenants(limit, facts, page),
        "findings": [each.plain() for each in diagnosis.findings(facts)],
    }


def possible(name: str, facts: dict[str, Any]) -> bool:
    """Whether a host's kernel has what a setting needs."""
    return not name.startswith("advisor") or "advisor_mode" in ksm(facts) or kernel(facts) >= (6, 8)


def _read(seen: Seen, limit: Limit, page: int) -> dict[str, Any]:
    """Say what was read, and how: guests were not paused."""
    complaints = {text: None for each in seen.moments for text in each["complaints"]}
    told = seen.moments[-1]["guests"]
    return {
        "processes": len(seen.names),
        "bytes": limit.pages * page,
        "swapped_bytes": sum(each["swapped"] for each in told.values()) * page,
        "fork_shared_bytes": sum(each["fork_shared"] for each in told.values()) * page,
        "as_if_mergeable": seen.host["as_if_mergeable"],
        "seconds": seen.seconds,
        "read_seconds": [each["read_seconds"] for each in seen.moments],
        "cpu_seconds": seen.host["cpu_seconds"],
        "page_seconds": seen.page_seconds,
        "complaints": [*complaints],
    }


def _freed(limit: Limit, facts: dict[str, Any], page: int) -> dict[str, Any]:
    net = limit.net(page)
    return {
        "net": net,
        "low": min(limit.net(page, limit.low), net) * (1 - FREED),
        "high": max(limit.net(page, limit.high), net) * (1 + FREED),
        "merged": limit.merged * page,
        "zeros": limit.zeros * page,
        "split_zeros": limit.split_zeros * page,
        "records": limit.records,
        "now": saved_bytes(facts),
    }


def _guest(facts: dict[str, Any], guest: Guest, pid: int, page: int) -> dict[str, Any]:
    """Say what a guest frees, and how to exclude it if that is not worth its records."""
    domain = next((each for each in facts["domains"] if each["pid"] == pid), None)
    how = "start it without the option or the prctl that offers its memory"
    if domain:
        how = fixes.change(facts, domain, "exclude")
    return {
        "name": guest.name,
        "bytes": guest.pages * page,
        **{
            key: getattr(guest, key) * page
            for key in ("freed", "merged", "zeros", "split_zeros", "loss", "alone")
        },
        "records": guest.pages * forecast.ITEM,
        "written_percent": 100 * guest.written,
        "hot_percent": 100 * guest.hot,
        "lasting_percent_minute": 6000 * guest.lasting,
        "exclude": "" if guest.worth(page) else how,
    }


def _pairs(limit: Limit, page: int) -> list[dict[str, Any]]:
    """Return the pairs that have most in common, with what both have of it together."""
    names = [each.name for each in limit.guests]
    both = np.triu(limit.pairs + limit.pairs.T, 1)
    order = np.argsort(-both, axis=None)[:MOST_PAIRS]
    at = [(int(each) // len(names), int(each) % len(names)) for each in order]
    return [
        {"guests": [names[a], names[b]], "bytes": int(both[a, b]) * page}
        for a, b in at
        if both[a, b]
    ]


def _row(outcome: Outcome, limit: Limit, page: int) -> dict[str, Any]:
    soon = outcome.soon
    seconds, cpu = soon if soon else (None, None)
    later = outcome.later
    hour = None if cpu is None or seconds is None else cpu + later / 100 * max(0, HOUR - seconds)
    return {
        "name": outcome.setting.name,
        "note": outcome.setting.note,
        "freed": limit.net(page, outcome.final),
        "seconds_to_95": seconds,
        "cpu_seconds_to_95": cpu,
        "cpu_percent_later": later,
        "cpu_seconds_hour": hour,
        "settled": outcome.whole,
    }


def _curve(outcome: Outcome, page: int) -> list[list[float]]:
    """Return seconds and freed bytes, at fewer points."""
    at = np.unique(np.linspace(0, len(outcome.times) - 1, POINTS).astype(int))
    return [outcome.times[at].tolist(), (outcome.freed[at] * page).tolist()]


def _best(
    rows: list[dict[str, Any]], outcomes: list[Outcome], facts: dict[str, Any]
) -> list[dict[str, Any]]:
    """Choose what costs least in an hour of what frees as much in ten minutes: one of each way."""
    found = []
    for is_fixed, title in ((False, "with a program that turns the knobs"), (True, "with knobs")):
        there = [
            (row, outcome.setting)
            for row, outcome in zip(rows, outcomes, strict=True)
            if (outcome.setting.policy == NONE) == is_fixed
            and outcome.setting.note != settings.SHORT
            and outcome.setting.policy.kind != "kata"
            and row["seconds_to_95"] is not None
        ]
        most = max((row["freed"] for row, _ in there), default=0)
        if most <= 0:
            continue
        good = [each for each in there if each[0]["freed"] >= CLOSE * most] or there
        soon = [each for each in good if each[0]["seconds_to_95"] <= GOAL_SECONDS]
        if soon:
            row, setting = min(soon, key=lambda each: each[0]["cpu_seconds_hour"])
        else:
            row, setting = min(good, key=lambda each: each[0]["seconds_to_95"])
        found.append({"title": title, "name": row["name"], "lines": _lines(setting)})
    return found + [
        {
            "title": f"for {name}, which turns the knobs of this host",
            "name": "",
            "lines": rulers.configure(facts, name).splitlines(),
        }
        for name in rulers.names(facts)
    ]


def _lines(setting: settings.Setting) -> list[str]:
    policy = setting.policy
    if policy.governor:
        price = policy.governor.price
        return [
            "ansible-playbook -i INVENTORY playbooks/governor.yml"
            + (f" -e governor_price={price:g}" if price else "")
        ]
    knobs: dict[str, int | str] = {**setting.knobs, **policy.knobs}
    return [f"echo {value} > {KSM}/{name}" for name, value in ordered(knobs).items()]


def _risk(limit: Limit, facts: dict[str, Any], page: int) -> dict[str, Any]:
    """Say how much has to be there if all merged pages are written to."""
    needed = max(0.0, limit.freed * page)
    there = available(facts)
    now = saved_bytes(facts)
    return {
        "needed": needed,
        # what is available now is so without what is not freed yet
        "available_then": None if there is None else there + swap(facts) + needed - now,
        "swap": swap(facts),
    }


def _tenants(limit: Limit, facts: dict[str, Any], page: int) -> dict[str, Any]:
    """Say how much each could find out about others: the pages that it has in common with them."""
    common = limit.pairs - np.diag(np.diag(limit.pairs))
    owners = {each["uid"] for each in facts["domains"] if each["uid"] is not None}
    return {
        "guests": int(np.count_nonzero(common.sum(axis=1))),
        "owners": len(owners),
        "most": int(common.max(initial=0)) * page,
    }
