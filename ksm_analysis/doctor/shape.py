"""The shape of facts: of any version, made into those of this one. Pure."""

import math
from typing import Any

from ksm_analysis.doctor.facts import Facts, is_impossible
from ksm_analysis.errors import InputError

FORMAT = 2
MOST_NESTED = 20  # levels
BEYOND = 2**64  # no number of a kernel is as large
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
LATER_BACKEND: Facts = {
    "size": None,
    "share": False,
    "merge": True,
    "hugetlb": False,
    "mem_path": None,
}
LATER_XML: Facts = {
    **dict.fromkeys(("name", "uuid", "source", "access", "memballoon")),
    **dict.fromkeys(("nosharepages", "hugepages", "locked"), False),
    **dict.fromkeys(("shared_cells", "hostdevs"), 0),
}
KINDS = ("mergeable", "shared", "hugetlb", "private", "unknown")
SUMS = dict.fromkeys(
    [
        *("mappings", "size", "resident", "anonymous", "huge", "ksm", "swapped", "locked"),
        "advised_huge",
    ],
    0,
)

# Kinds of values, by key: a type or several; a list of one kind; a dict by key. ANY: every key.
ANY = "*"
NONE = type(None)
WORDS, NUMBER = [str], (int, float)
BACKEND = {
    "type": str,
    "size": (int, NONE),
    "share": bool,
    "merge": bool,
    "hugetlb": bool,
    "mem_path": (str, NONE),
}
SETTINGS: Facts = {
    **dict.fromkeys(("name", "id", "uuid", "mem_path"), (str, NONE)),
    **dict.fromkeys(("encrypted", "mem_lock", "vhost_user", "balloon"), bool),
    "memory_bytes": (int, NONE),
    "mem_merge": (bool, NONE),
    "backends": [BACKEND],
    "vfio": WORDS,
}
PROCESS: Facts = {
    **dict.fromkeys(("pid", "pinned", "vfio_files", "mapped_guest"), int),
    "name": str,
    "uid": (int, str, NONE),
    "age": (*NUMBER, NONE),
    "memory": {ANY: {ANY: int}},
    "ksm_stat": {ANY: (int, str)},
}
DOMAIN: Facts = {
    **PROCESS,
    "vmm": str,
    "platform": (str, NONE),
    "page_size": (int, NONE),
    "counted_by_ksmtuned": (bool, NONE),
    "settings": SETTINGS,
}
READING: Facts = {
    "monotonic": NUMBER,
    "ksm_unreadable": WORDS,
    "ksmd_cpu_ns": (int, NONE),
    "vmstat": {ANY: int},
}
HOST: Facts = {
    "kernel": str,
    **dict.fromkeys(("config_ksm", "distribution"), (str, NONE)),
    **dict.fromkeys(("page_size", "numa_nodes"), int),
    **dict.fromkeys(("memory_bytes", "systemd", "cpus"), (int, NONE)),
    "uptime": (*NUMBER, NONE),
    "memory": {ANY: int},
    **dict.fromkeys(("root", "proxmox"), bool),
}
SHAPE: Facts = {
    "host": HOST,
    "readings": [READING],
    "domains": [DOMAIN],
    "processes": [PROCESS],
    "services": [{"name": str, "pid": (int, NONE)}],
    "unreadable": [{"pid": (int, NONE), **dict.fromkeys(("name", "vmm"), (str, NONE))}],
    "unreadable_processes": int,
    "programs": WORDS,
    "ksmd": (int, NONE),
    "domains_from": str,
    "libvirt": (str, NONE),
}
KSMTUNED = {
    "file": (str, NONE),
    "coefficient": int,
    "constant_kib": int,
    "pattern": (str, NONE),
}
# Kinds of values that may be null, or missing
OPTIONAL: Facts = {
    "kvm": {"mode": str, "user": (str, NONE), "opens": bool, "groups": WORDS},
    "huge_pages": {"enabled": str},
    "thresholds": {},
    "units": {},
}
XML: Facts = {
    **dict.fromkeys(("name", "uuid", "source", "access", "memballoon"), (str, NONE)),
    **dict.fromkeys(("nosharepages", "hugepages", "locked"), bool),
    **dict.fromkeys(("shared_cells", "hostdevs"), int),
}


def complete(given: Any) -> Facts:
    """Return facts with all keys of this version. Raises InputError if these are no facts."""
    if not isinstance(given, dict) or not isinstance(given.get("readings"), list):
        raise InputError("no facts of a host: expected an object with host, domains and readings")
    if not isinstance(given.get("format"), int) or not 1 <= given["format"] <= FORMAT:
        raise InputError(f"format {given.get('format')!r} of the facts: 1 to {FORMAT} can be read")
    _check_numbers(given)
    facts = {**LATER_KEYS, **given}
    facts["host"] = _filled(LATER_HOST, facts.get("host"), "host")
    facts["host"]["page_size"] = facts["host"]["page_size"] or 4096
    facts["readings"] = _each(facts, "readings", _reading)
    facts["domains"] = _each(facts, "domains", _domain)
    facts["processes"] = _each(facts, "processes", _process)
    facts["services"] = _each(facts, "services", lambda each, at: _filled({"pid": None}, each, at))
    unread = {"pid": None, "name": None}
    facts["unreadable"] = _each(facts, "unreadable", lambda each, at: _filled(unread, each, at))
    _check(facts, SHAPE, "facts")
    _check_optional(facts)
    if len(facts["readings"]) != 2:
        raise InputError(f"facts with {len(facts['readings'])} readings: expected 2")
    if facts["host"]["page_size"] < 1024:
        raise InputError(f"facts.host.page_size: {facts['host']['page_size']} is no size of a page")
    for process in facts["domains"] + facts["processes"]:
        stat = process["ksm_stat"]
        process["ksm_stat"] = {key: stat[key] for key in stat if not is_impossible(key, stat[key])}
    return facts


def _each(facts: Facts, key: str, make: Any) -> list[Facts]:
    if not isinstance(facts.get(key), list):
        raise InputError(f"facts.{key}: expected a list, not {facts.get(key)!r:.40}")
    return [make(each, f"{key}[{index}]") for index, each in enumerate(facts[key])]


def _filled(defaults: Facts, given: Any, at: str) -> Facts:
    if not isinstance(given, dict):
        raise InputError(f"facts.{at}: expected an object, not {given!r:.40}")
    return {**defaults, **given}


def _reading(given: Any, at: str) -> Facts:
    reading = _filled(LATER_READING, given, at)
    for key in ("ksm", "uksm"):
        if reading[key] is not None:
            reading[key] = _filled({}, reading[key], f"{at}.{key}")
    return reading


def _process(given: Any, at: str) -> Facts:
    process = _filled(LATER_PROCESS, given, at)
    memory = _filled({kind: {} for kind in KINDS}, process.get("memory"), f"{at}.memory")
    sums = {kind: _filled(SUMS, memory[kind], f"{at}.memory.{kind}") for kind in KINDS}
    return {**process, "memory": sums}


def _domain(given: Any, at: str) -> Facts:
    domain = {**LATER_DOMAIN, **_process(given, at)}
    settings = domain.pop("qemu", None) or domain.get("settings") or {}  # format 1: qemu
    settings = _filled(LATER_SETTINGS, settings, f"{at}.settings")
    at_backend = f"{at}.settings.backends"
    if isinstance(settings["backends"], list):
        backends = [_filled(LATER_BACKEND, each, at_backend) for each in settings["backends"]]
        settings["backends"] = backends
    domain["settings"] = settings
    if domain["libvirt"] is not None:
        xml = _filled(LATER_XML, domain["libvirt"], f"{at}.libvirt")
        _check(xml, XML, f"facts.{at}.libvirt")
        domain["libvirt"] = {**xml, "name": xml["name"] or domain["name"]}
    return domain


def _check_numbers(given: Any) -> None:
    """Raise InputError at a number that JSON or no kernel has, and where values nest too deep."""
    left: list[tuple[Any, str, int]] = [(given, "facts", 0)]
    while left:
        value, at, level = left.pop()
        if level > MOST_NESTED:
            raise InputError(f"{at:.60}: nested too deep: at most {MOST_NESTED} levels")
        if isinstance(value, dict):
            left += [(each, f"{at}.{key}", level + 1) for key, each in value.items()]
        elif isinstance(value, list):
            left += [(each, f"{at}[{index}]", level + 1) for index, each in enumerate(value)]
        elif isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{at}: {value} is no finite number")
        elif isinstance(value, int) and abs(value) >= BEYOND:
            raise InputError(f"{at}: beyond 64 bits")


def _check(value: Any, shape: Any, at: str) -> None:
    """Raise InputError at the first value that has not the kind that the shape gives."""
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            raise InputError(f"{at}: expected an object, not {value!r:.40}")
        for key, kind in shape.items():
            for found in value if key == ANY else [key]:
                _check(value.get(found), kind, f"{at}.{found}")
    elif isinstance(shape, list):
        if not isinstance(value, list):
            raise InputError(f"{at}: expected a list, not {value!r:.40}")
        for index, each in enumerate(value):
            _check(each, shape[0], f"{at}[{index}]")
    else:
        kinds = shape if isinstance(shape, tuple) else (shape,)
        # In Python, True is an int
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            names = " or ".join("null" if kind is NONE else kind.__name__ for kind in kinds)
            raise InputError(f"{at}: expected {names}, not {value!r:.40}")


def _check_optional(facts: Facts) -> None:
    for key, shape in OPTIONAL.items():
        value = facts[key]
        if value is None and key in ("kvm", "huge_pages"):
            continue
        _check(value, {}, f"facts.{key}")
        present = {name: kind for name, kind in shape.items() if name in value}
        _check(value, present, f"facts.{key}")
    khugepaged = (facts["huge_pages"] or {}).get("khugepaged")
    if khugepaged is not None:
        _check(khugepaged, {ANY: (int, str, NONE)}, "facts.huge_pages.khugepaged")
    for name, shape in (
        ("ksmtuned", KSMTUNED),
        ("momd", {"file": (str, NONE), "part": NUMBER}),
        ("tuned", {"profile": (str, NONE), "knobs": {ANY: str}}),
    ):
        if facts["thresholds"].get(name) is not None:
            _check(facts["thresholds"][name], shape, f"facts.thresholds.{name}")
