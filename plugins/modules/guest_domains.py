#!/usr/bin/python
"""Start, define or remove many libvirt domains at once."""

from __future__ import annotations

DOCUMENTATION = r"""
module: guest_domains
short_description: Start, define or remove many libvirt domains at once
description:
  - Defines and starts all domains of O(xml), or stops and removes all whose names match O(pattern),
    in parallel. A loop of M(community.libvirt.virt) handles one domain after the other. That takes
    about a second per guest, while the earlier guests already keep the processors busy.
options:
  state:
    description:
      - V(running) defines and starts the domains of O(xml). Running domains are not changed; if the
        memory, its backing, processors, NUMA nodes, kernel, disks, networks or merging of one
        differ from O(xml), the module fails and changes nothing.
      - V(defined) does the same without starting the domains, so that others can do that later.
      - V(absent) destroys and undefines every domain whose whole name matches O(pattern).
    type: str
    choices: [running, defined, absent]
    default: running
  xml:
    description: An element with one C(<domain>) for each guest.
    type: str
  pattern:
    description: Regular expression for whole names.
    type: str
  uri:
    description: Address of libvirt.
    type: str
    default: qemu:///system
requirements: [python3-libvirt]
attributes:
  check_mode:
    description: Says what would change, and changes nothing.
    support: full
  diff_mode:
    description: Shows what changes.
    support: full
    details: Names of the domains that run, or exist.
author: [The KSM testbed authors (@ksm-testbed)]
"""

EXAMPLES = r"""
- name: Start two guests
  ksm.testbed.guest_domains:
    xml: <domains><domain><name>a</name>…</domain><domain><name>b</name>…</domain></domains>

- name: Remove the guests
  ksm.testbed.guest_domains:
    state: absent
    pattern: "[ab]"
"""

RETURN = r"""
domains:
  description: Names of the domains that were started, defined or removed.
  type: list
  elements: str
  returned: always
monotonic:
  description: Start of the module, on the host's CLOCK_MONOTONIC. Guests boot while others start.
  type: float
  returned: always
"""

import re
import time
import traceback
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

try:
    import libvirt
except ImportError:
    LIBVIRT_ERROR = traceback.format_exc()
else:
    LIBVIRT_ERROR = None


# Bytes of a unit of memory, as libvirt reads them.
UNITS = {"b": 1, "bytes": 1}
for power, letter in enumerate("KMGT", start=1):
    UNITS |= {f"{letter}B": 1000**power, f"{letter}iB": 1024**power}
    UNITS["k" if letter == "K" else letter] = 1024**power


def side_by_side(function, items):
    """Call a function for all items in parallel; raise the first error when all have ended."""
    with ThreadPoolExecutor(max(1, len(items))) as pool:
        calls = [pool.submit(function, item) for item in items]
    for call in calls:
        call.result()


def wanted_domains(text):
    """Return {name: xml} of the domains in a document."""
    domains = ElementTree.fromstring(text).iter("domain")
    return {domain.findtext("name"): ElementTree.tostring(domain, "unicode") for domain in domains}


def network(interface):
    """Return the type of a network card, and what it is connected to."""
    source = interface.find("source")
    names = {} if source is None else source.attrib
    return " ".join(
        filter(None, [interface.get("type"), names.get("network", names.get("bridge"))])
    )


def definition(domain):
    """Return what tells guests of one name apart, from the XML of a domain."""
    memory = domain.find("memory")
    return {
        "memory": f"{int(memory.text) * UNITS[memory.get('unit', 'KiB')] // 2**20} MiB",
        "processors": domain.findtext("vcpu"),
        "nodes": len(domain.findall("cpu/numa/cell")),
        "kernel": domain.findtext("os/kernel"),
        "disks": [source.get("file") for source in domain.findall("devices/disk/source")],
        "networks": [network(interface) for interface in domain.findall("devices/interface")],
        "merging": domain.find("memoryBacking/nosharepages") is None,
        "backing": sorted(
            each.tag for each in domain.findall("memoryBacking/*") if each.tag != "nosharepages"
        ),
    }


def unlike(domain, wanted):
    """Say how a running domain differs from the one that is wanted; empty if it does not."""
    found, asked = (definition(ElementTree.fromstring(xml)) for xml in (domain.XMLDesc(), wanted))
    differs = [f"{key} {found[key]}, not {asked[key]}" for key in asked if found[key] != asked[key]]
    return f"{domain.name()} runs with {', '.join(differs)}" if differs else ""


def start(module, connection):
    """Define and start missing domains; return (names before, names after, changed names).

    With `state: defined`, they are not started.
    """
    wanted = wanted_domains(module.params["xml"])
    active = libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE
    domains = [d for d in connection.listAllDomains(active) if d.name() in wanted]
    if differ := [words for d in domains if (words := unlike(d, wanted[d.name()]))]:
        module.fail_json(msg="; ".join(differ) + ". Remove these guests first")
    running = {domain.name() for domain in domains}
    missing = sorted(set(wanted) - running)
    if not module.check_mode:
        defined = [connection.defineXML(wanted[name]) for name in missing]
        if module.params["state"] == "running":
            side_by_side(lambda domain: domain.create(), defined)
    return running, set(wanted), missing


def end(domain):
    """Stop a domain, if it still runs, and undefine it."""
    try:
        domain.destroy()
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID:
            raise
    domain.undefine()


def remove(module, connection):
    """Stop and undefine matching domains; return (names before, names after, changed names)."""
    pattern = re.compile(module.params["pattern"])
    matching = [d for d in connection.listAllDomains() if pattern.fullmatch(d.name())]
    names = sorted(domain.name() for domain in matching)
    if not module.check_mode:
        side_by_side(end, matching)
    return set(names), set(), names


def main():
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "state": {
                "type": "str",
                "choices": ["running", "defined", "absent"],
                "default": "running",
            },
            "xml": {"type": "str"},
            "pattern": {"type": "str"},
            "uri": {"type": "str", "default": "qemu:///system"},
        },
        required_if=[
            ("state", "running", ["xml"]),
            ("state", "defined", ["xml"]),
            ("state", "absent", ["pattern"]),
        ],
        supports_check_mode=True,
    )
    if LIBVIRT_ERROR:
        module.fail_json(msg=missing_required_lib("python3-libvirt"), exception=LIBVIRT_ERROR)
    # Keep libvirt from printing errors on stderr; the result has them all.
    libvirt.registerErrorHandler(lambda *_: None, None)
    began = time.monotonic()
    act = remove if module.params["state"] == "absent" else start
    try:
        before, after, changed = act(module, libvirt.open(module.params["uri"]))
    except (libvirt.libvirtError, ElementTree.ParseError, re.error) as error:
        module.fail_json(msg=str(error))
    diff = {
        key: "".join(f"{name}\n" for name in sorted(names))
        for key, names in (("before", before), ("after", after))
    }
    module.exit_json(changed=bool(changed), domains=changed, monotonic=began, diff=diff)


if __name__ == "__main__":
    main()
