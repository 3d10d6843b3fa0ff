"""Facts without names of hosts, guests, processes and users. Pure.

What programs are called, and versions of kernels, are kept: findings need them.
"""

import copy
from collections.abc import Callable
from typing import Any

from ksm_analysis.doctor.fixes import manager

REDACTED = "redacted"
# Users and groups that packages make; others are somebody's.
USUAL_USERS = {"root", "kvm", "qemu", "libvirt-qemu", "libvirt", "libvirtdbus", "render", "nobody"}


def counter(noun: str) -> Callable[[Any], str]:
    """Return a function that numbers what it is given: the same gets the same number."""
    known: dict[Any, str] = {}
    return lambda given: known.setdefault(given, f"{noun}-{len(known) + 1}")


def hosts(names: list[str]) -> dict[str, str]:
    """Return another name for each host."""
    number = counter("host")
    return {name: number(name) for name in names}


def redact(facts: dict[str, Any]) -> dict[str, Any]:
    """Return complete facts without names."""
    made = copy.deepcopy(facts)
    guest, process, user, space = map(counter, ("guest", "process", "user", "namespace"))
    for each in made["domains"]:
        settings, xml = each["settings"], each["libvirt"]
        name = guest(each["pid"])
        if manager(facts, each) == "kubevirt" and "_" in each["name"]:
            name = f"{space(each['name'].partition('_')[0])}_{name}"
        each["name"] = name
        each["uid"] = None if each["uid"] is None else user(each["uid"])
        settings |= {"name": name if settings["name"] else None, "uuid": None}
        settings["mem_path"] = REDACTED if settings["mem_path"] else None
        for backend in settings["backends"]:
            backend["mem_path"] = REDACTED if backend.get("mem_path") else None
        if xml:
            xml |= {"name": name, "uuid": None}
    for each in made["processes"]:
        each["name"] = process(each["pid"])
        each["uid"] = None if each["uid"] is None else user(each["uid"])
    for each in made["unreadable"]:
        each["name"] = guest(each["pid"])
    if made["kvm"]:
        made["kvm"] = {key: _user(value) for key, value in made["kvm"].items()}
    rule = made["thresholds"].get("tuned")
    if rule and rule.get("profile"):
        rule["profile"] = REDACTED
    return made


def _user(value: Any) -> Any:
    if isinstance(value, list):
        return [_user(each) for each in value]
    usual = not isinstance(value, str) or value in USUAL_USERS or value.isdigit()
    return value if usual else REDACTED
