"""Facts without names of hosts, guests, processes and users. Pure.

What is not named here does not pass: neither other keys, nor other texts. What programs are called,
and versions of kernels, are kept: findings need them.
"""

import re
from collections.abc import Callable
from typing import Any

from ksm_analysis.doctor.fixes import manager
from ksm_analysis.doctor.shape import ANY, KINDS, SUMS

REDACTED = "redacted"


def _only(*words: str) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, words)))


# Which texts pass, by key. Numbers, truth and null always do. ANY: every key.
NONE, ALL = re.compile("(?!)"), re.compile(".*", re.DOTALL)
# Users and groups that packages make; others are somebody's.
USER = _only("root", "kvm", "qemu", "libvirt-qemu", "libvirt", "libvirtdbus", "render", "nobody")
VMM = _only(
    *("qemu", "cloud-hypervisor", "firecracker", "crosvm", "kvmtool", "virtualbox", "vmware"),
    "unknown",
)
PROCESS = {
    **dict.fromkeys(("pid", "name", "uid", "age", "mapped_guest", "page_size"), NONE),
    "memory": {kind: dict.fromkeys(SUMS, NONE) for kind in KINDS},
    "ksm_stat": {ANY: ALL},
    **dict.fromkeys(("pinned", "vfio_files"), NONE),
}
BACKEND = {
    "type": re.compile(r"memory-backend-(ram|file|memfd|shm|epc)|memory(-zone)?"),
    **dict.fromkeys(("size", "share", "merge", "hugetlb", "mem_path"), NONE),
}
SETTINGS = {
    **dict.fromkeys(("name", "id", "uuid", "memory_bytes", "mem_merge", "encrypted"), NONE),
    "backends": [BACKEND],
    **dict.fromkeys(("mem_path", "mem_lock"), NONE),
    "vfio": [re.compile(r"vfio(-(pci(-nohotplug)?|ap|ccw|platform|amd-xgbe|calxeda-xgmac))?")],
    **dict.fromkeys(("vhost_user", "balloon"), NONE),
}
XML = {
    **dict.fromkeys(("name", "uuid", "nosharepages", "hugepages", "locked"), NONE),
    "source": _only("file", "anonymous", "memfd"),
    "access": _only("shared", "private"),
    **dict.fromkeys(("shared_cells", "hostdevs"), NONE),
    "memballoon": re.compile("none|xen|virtio(-(non-)?transitional)?"),
}
DOMAIN = {
    **PROCESS,
    "vmm": VMM,
    "platform": _only("libvirt", "proxmox", "kubevirt", "incus", "lxd", "kata", "kubernetes"),
    "libvirt": XML,
    "settings": SETTINGS,
    "counted_by_ksmtuned": NONE,
}
HOST = {
    "kernel": ALL,
    "config_ksm": _only("y", "n"),
    **dict.fromkeys(("page_size", "memory_bytes", "numa_nodes", "root", "uptime", "cpus"), NONE),
    "memory": dict.fromkeys(
        ("MemFree", "MemAvailable", "Buffers", "Cached", "SwapTotal", "SwapFree"), NONE
    ),
    "distribution": ALL,
    **dict.fromkeys(("systemd", "proxmox"), NONE),
}
THRESHOLDS = {
    "ksmtuned": {
        "file": _only("/etc/ksmtuned.conf", "/etc/sysconfig/ksmtuned", "/etc/default/ksmtuned"),
        **dict.fromkeys(("coefficient", "constant_kib", "by_command_line"), NONE),
        # It may name guests.
        "pattern": re.compile(r"(qemu|system|x86_64|kvm|enable|[\^$.*+?|()\[\]\\/ -])*"),
    },
    "momd": {
        "file": re.compile(r"/etc/momd?\.rules|/etc/(vdsm/mom\.d|mom\.d|mom)/ksm\.rules"),
        "part": NONE,
    },
    "tuned": {"profile": NONE, "knobs": {ANY: re.compile("[0-9]*")}},
}
READING = {
    "monotonic": NONE,
    "ksm": {ANY: ALL},
    "ksm_unreadable": [ALL],
    "uksm": {ANY: ALL},
    "ksmd_cpu_ns": NONE,
    "vmstat": dict.fromkeys(("thp_collapse_alloc", "thp_split_page"), NONE),
}
SERVICE = _only(
    *("ksmtuned", "momd", "supervdsmd", "kata-ksm-throttler", "virt-handler", "tuned"),
    "harvester-node-manager",
)
FACTS = {
    "format": NONE,
    "host": HOST,
    "kvm": {
        "mode": re.compile("[0-7]{4}"),
        **dict.fromkeys(("owner", "group", "user"), USER),
        "groups": [USER],
        "opens": NONE,
    },
    "huge_pages": {"enabled": _only("always", "madvise", "never"), "khugepaged": {ANY: ALL}},
    "services": [{"name": SERVICE, "pid": NONE}],
    "thresholds": THRESHOLDS,
    "programs": [_only("numad", "uksmd")],
    "units": dict.fromkeys(("ksm.service", "ksmtuned.service"), _only("active")),
    **dict.fromkeys(("ksmd", "visible_processes"), NONE),
    "domains": [DOMAIN],
    "processes": [PROCESS],
    "unreadable": [{"pid": NONE, "name": NONE, "vmm": VMM}],
    "unreadable_processes": NONE,
    "domains_from": _only("libvirt", "proc"),
    "libvirt": _only("not used", "it does not answer"),
    "readings": [READING],
}
# What an error is called, by a part of it.
ERRORS = (
    ("no facts of this host in the file", "no facts of this host in the file"),
    ("^(facts|format|no facts)", "its facts cannot be used"),
    ("Python is too old", "its Python is too old"),
    ("permission denied|password|authentic|publickey", "permission denied"),
    ("reach|connect|resolve|refused|timed out|no route", "not reached"),
)


def counter(noun: str) -> Callable[[Any], str]:
    """Return a function that numbers what it is given: the same gets the same number."""
    known: dict[Any, str] = {}
    return lambda given: known.setdefault(given, f"{noun}-{len(known) + 1}")


def hosts(names: list[str]) -> dict[str, str]:
    """Return another name for each host."""
    number = counter("host")
    return {name: number(name) for name in names}


def reason(error: str) -> str:
    """Return the kind of an error, without its words: they may name hosts, users and files."""
    kinds = (kind for part, kind in ERRORS if re.search(part, error, re.IGNORECASE))
    return next(kinds, "cannot be read")


def redact(facts: dict[str, Any]) -> dict[str, Any]:
    """Return complete facts without names."""
    why_not = facts["libvirt"] and facts["libvirt"].partition(":")[0]
    made: dict[str, Any] = _shown({**facts, "libvirt": why_not}, FACTS)
    guest, process, user, space = map(counter, ("guest", "process", "user", "namespace"))
    for each, given in zip(made["domains"], facts["domains"], strict=True):
        settings, xml = each["settings"], each["libvirt"]
        name = guest(each["pid"])
        if manager(facts, given) == "kubevirt" and "_" in given["name"]:
            name = f"{space(given['name'].partition('_')[0])}_{name}"
        each["name"] = name
        each["uid"] = None if each["uid"] is None else user(given["uid"])
        settings |= {"name": name if settings["name"] else None, "uuid": None}
        settings["id"] = "VMID" if settings["id"] else None
        if xml:
            xml |= {"name": name, "uuid": None}
    for each, given in zip(made["processes"], facts["processes"], strict=True):
        each["name"] = process(each["pid"])
        each["uid"] = None if each["uid"] is None else user(given["uid"])
    for each in made["unreadable"]:
        each["name"] = guest(each["pid"])
    return made


def _shown(value: Any, rule: Any) -> Any:
    """Return what a rule lets pass of a value: of objects, its keys; of texts, those it matches."""
    if isinstance(value, dict):
        if not isinstance(rule, dict):
            return None
        known = value.keys() if ANY in rule else value.keys() & rule.keys()
        return {
            key: _shown(value[key], rule.get(key, rule.get(ANY))) for key in value if key in known
        }
    if isinstance(value, list):
        return [_shown(each, rule[0]) for each in value] if isinstance(rule, list) else None
    if isinstance(value, str) and value:
        return value if isinstance(rule, re.Pattern) and rule.fullmatch(value) else REDACTED
    return value
