"""Facts in files: of one host, or of several in a bundle; from this version or an earlier one."""

import json
from pathlib import Path
from typing import Any

from ksm_analysis.doctor.facts import Facts, is_impossible
from ksm_analysis.errors import InputError

FORMAT = 2
# What newer facts have. Earlier ones are completed with it.
LATER_KEYS: Facts = {
    "kvm": None,
    "huge_pages": None,
    "services": [],
    "thresholds": {},
    "programs": [],
    "units": {},
    "ksmd": 0,  # not known whether it can be seen
    "visible_processes": None,
    "processes": [],
    "unreadable": [],
    "unreadable_processes": 0,
    "domains_from": "proc",
    "libvirt": None,
}
LATER_HOST: Facts = {
    "kernel": "unknown",
    "config_ksm": None,
    "page_size": 4096,
    "memory_bytes": None,
    "memory": {},
    "numa_nodes": 1,
    "root": True,
    "uptime": None,
    "cpus": None,
    "distribution": None,
    "systemd": None,
    "proxmox": False,
}
LATER_READING: Facts = {
    "ksm": None,
    "vmstat": {},
    "ksm_unreadable": [],
    "uksm": None,
    "ksmd_cpu_ns": None,
}
LATER_PROCESS: Facts = {
    "name": "?",
    "uid": None,
    "age": None,
    "ksm_stat": {},
    "pinned": 0,
    "vfio_files": 0,
    "mapped_guest": 0,
}
LATER_DOMAIN: Facts = {
    "vmm": "qemu",
    "platform": None,
    "libvirt": None,
    "counted_by_ksmtuned": None,
}
LATER_SETTINGS: Facts = {
    "name": None,
    "id": None,
    "uuid": None,
    "memory_bytes": None,
    "mem_merge": None,
    "encrypted": False,
    "backends": [],
    "mem_path": None,
    "mem_lock": False,
    "vfio": [],
    "vhost_user": False,
    "balloon": False,
}
KINDS = ("mergeable", "shared", "hugetlb", "private", "unknown")
SUMS = dict.fromkeys(
    [
        *("mappings", "size", "resident", "anonymous", "huge", "ksm", "swapped", "locked"),
        "advised_huge",
    ],
    0,
)


def complete(given: Any) -> Facts:
    """Return facts with all keys of this version. Raises InputError if these are no facts."""
    if not isinstance(given, dict) or not isinstance(given.get("readings"), list):
        raise InputError("no facts of a host: expected an object with host, domains and readings")
    if not isinstance(given.get("format"), int) or not 1 <= given["format"] <= FORMAT:
        raise InputError(f"format {given.get('format')!r} of the facts: 1 to {FORMAT} can be read")
    found = {**LATER_KEYS, **given}
    _expect(found, "host", dict)
    _expect(found, "domains", list)
    for key in ("services", "programs", "processes", "unreadable"):
        _expect(found, key, list)
    for key in ("thresholds", "units"):
        _expect(found, key, dict)
    _whole(found, "unreadable_processes")
    for key in ("kvm", "huge_pages"):
        if found[key] is not None:
            _expect(found, key, dict)
    if len(found["readings"]) != 2:
        raise InputError(f"facts with {len(found['readings'])} readings: expected 2")
    found["host"] = _host(found["host"])
    found["readings"] = [_reading(each) for each in found["readings"]]
    found["domains"] = [_domain(each) for each in found["domains"]]
    found["processes"] = [_process(each) for each in found["processes"]]
    for each in found["services"]:
        if not isinstance(each, dict) or not isinstance(each.get("name"), str):
            raise InputError("services of the facts: expected objects with name and pid")
    found["services"] = [{"pid": None, **each} for each in found["services"]]
    for each in found["unreadable"]:
        if not isinstance(each, dict):
            raise InputError("unreadable of the facts: expected objects with pid and name")
    found["unreadable"] = [{"pid": None, "name": None, **each} for each in found["unreadable"]]
    return found


def _expect(values: Facts, key: str, kind: type) -> None:
    if not isinstance(values.get(key), kind):
        noun = "a list" if kind is list else "an object"
        raise InputError(f"{key} of the facts: expected {noun}, not {values.get(key)!r:.40}")


def _whole(values: Facts, *keys: str) -> None:
    for key in keys:
        if not isinstance(values.get(key), int | float):
            raise InputError(f"{key} of the facts: expected a number, not {values.get(key)!r:.40}")


def _host(given: Facts) -> Facts:
    host = {**LATER_HOST, **given}
    host["page_size"] = host["page_size"] or 4096
    _whole(host, "page_size", "numa_nodes")
    _expect(host, "memory", dict)
    if host["page_size"] < 1024:
        raise InputError(f"page_size of the facts: {host['page_size']} is no size of a page")
    return host


def _reading(given: Any) -> Facts:
    if not isinstance(given, dict):
        raise InputError("a reading of the facts: expected an object")
    reading = {**LATER_READING, **given}
    _whole(reading, "monotonic")
    if reading["ksm"] is not None:
        _expect(reading, "ksm", dict)
    _expect(reading, "vmstat", dict)
    return reading


def _process(given: Any) -> Facts:
    if not isinstance(given, dict):
        raise InputError("a process of the facts: expected an object")
    process = {**LATER_PROCESS, **given}
    _expect(process, "memory", dict)
    _expect(process, "ksm_stat", dict)
    _whole(process, "pid", "pinned", "vfio_files", "mapped_guest")
    process["ksm_stat"] = {
        name: value for name, value in process["ksm_stat"].items() if not is_impossible(name, value)
    }
    memory = {}
    for kind in KINDS:
        sums = {**SUMS, **(process["memory"].get(kind) or {})}
        _whole(sums, *SUMS)
        memory[kind] = sums
    return {**process, "memory": memory}


def _domain(given: Any) -> Facts:
    process = _process(given)
    settings = process.pop("qemu", None) or process.get("settings") or {}
    domain = {**LATER_DOMAIN, **process, "settings": {**LATER_SETTINGS, **settings}}
    if domain["settings"]["memory_bytes"] is not None:
        _whole(domain["settings"], "memory_bytes")
    return domain


def load(path: Path) -> dict[str, Facts]:
    """Return the facts of each host in a file, by name. Raises InputError.

    The file is a bundle of `doctor --collect`, the output of `doctor --json`, or that of
    ksm_facts.py, which is one host's facts.
    """
    try:
        given = json.loads(path.read_text())
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: no JSON: {error}") from None
    if isinstance(given, dict) and isinstance(given.get("hosts"), dict):
        hosts = {
            name: each["facts"] if isinstance(each, dict) and "facts" in each else each
            for name, each in given["hosts"].items()
        }
        if not hosts:
            raise InputError(f"{path}: a bundle without hosts")
        return hosts
    if isinstance(given, dict) and "readings" in given:
        return {path.stem: given}
    raise InputError(
        f"{path}: neither a bundle of `doctor --collect`, nor output of `doctor --json` or "
        "ksm_facts.py"
    )


def dump(hosts: dict[str, Any]) -> str:
    """Return a bundle of facts by host as text. Hosts without facts are left out."""
    known = {name: facts for name, facts in hosts.items() if facts is not None}
    return json.dumps({"format": FORMAT, "hosts": known}, indent=1, allow_nan=False) + "\n"
