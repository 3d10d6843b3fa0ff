#!/usr/bin/python
"""Read what a measurement on this host depends on."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_provenance_info
short_description: Read what a measurement on this host depends on
description: Changes nothing. Values that the host does not have are null.
options:
  packages:
    description: Debian packages whose versions are read.
    type: list
    elements: str
    default: []
  files:
    description: JSON files to include, by their key in the provenance.
    type: dict
    default: {}
attributes:
  check_mode:
    description: Says what would change, and changes nothing.
    support: full
author: [The KSM testbed authors (@ksm-testbed)]
"""

EXAMPLES = r"""
- name: Read
  ksm.testbed.host_provenance_info:
    packages: [qemu-system-x86]
"""

RETURN = r"""
provenance:
  description: >-
    kernel, cpu, memory_bytes, page_size, transparent_hugepage, swap_bytes, numa_nodes, versions,
    and the content of O(files)
  type: dict
  returned: always
wall: {description: CLOCK_REALTIME, type: float, returned: always}
monotonic: {description: CLOCK_MONOTONIC, type: float, returned: always}
"""

import gzip
import json
import os
import re
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

KERNEL_OPTIONS = (
    *("CONFIG_KSM", "CONFIG_PREEMPT", "CONFIG_PREEMPT_DYNAMIC", "CONFIG_HZ", "CONFIG_NUMA"),
    *("CONFIG_TRANSPARENT_HUGEPAGE", "CONFIG_PROC_PAGE_MONITOR", "CONFIG_SCHED_INFO"),
)


THP = Path("/sys/kernel/mm/transparent_hugepage")
THP_KNOBS = ("enabled", "shmem_enabled", "defrag", "khugepaged/defrag")
THP_KNOBS += ("khugepaged/max_ptes_none", "khugepaged/max_ptes_shared")


def text(path):
    """Return the content of a file without its last newline, or None."""
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def kernel_config(release):
    """Return the options of this kernel that affect KSM, from the kernel or /boot."""
    try:
        with gzip.open("/proc/config.gz", "rt") as file:
            config = file.read()
    except OSError:
        config = text(f"/boot/config-{release}")
    if config is None:
        return None
    found = dict(re.findall(r"^(CONFIG_\w+)=(.*)$", config, re.MULTILINE))
    return {name: found.get(name, "n") for name in KERNEL_OPTIONS}


def kernel():
    """Return release, build, command line and configuration."""
    name = os.uname()
    return {
        "release": name.release,
        "version": name.version,
        "machine": name.machine,
        "cmdline": text("/proc/cmdline"),
        "config": kernel_config(name.release),
    }


def cpu():
    """Return model, number and governor."""
    model = re.search(r"^model name\s*:\s*(.*)$", text("/proc/cpuinfo") or "", re.MULTILINE)
    return {
        "model": model[1] if model else None,
        "count": os.cpu_count(),
        "governor": text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
    }


def memory(key):
    """Return a value of /proc/meminfo, in bytes."""
    found = re.search(rf"^{key}:\s+(\d+) kB$", text("/proc/meminfo"), re.MULTILINE)
    return int(found[1]) * 1024


def package_versions(module, names):
    """Return the versions of Debian packages; None for a package that is not installed."""
    versions = dict.fromkeys(names)
    if names:
        _, out, _ = module.run_command(
            ["dpkg-query", "--show", "--showformat=${Package} ${Version}\n", *names]
        )
        versions.update(line.split() for line in out.splitlines() if len(line.split()) == 2)
    return versions


def contents(module, files):
    """Return the contents of the files."""
    try:
        return {name: json.loads(Path(path).read_text()) for name, path in files.items()}
    except (OSError, ValueError) as error:
        return module.fail_json(msg=f"cannot read what the measurement depends on: {error}")


def main():
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "packages": {"type": "list", "elements": "str", "default": []},
            "files": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    nodes = list(Path("/sys/devices/system/node").glob("node[0-9]*"))
    module.exit_json(
        changed=False,
        wall=time.time(),
        monotonic=time.monotonic(),
        provenance={
            "kernel": kernel(),
            "cpu": cpu(),
            "memory_bytes": memory("MemTotal"),
            "page_size": os.sysconf("SC_PAGESIZE"),
            "transparent_hugepage": {name: text(THP / name) for name in THP_KNOBS},
            "swap_bytes": memory("SwapTotal"),
            "numa_nodes": max(1, len(nodes)),
            "versions": package_versions(module, module.params["packages"]),
            **contents(module, module.params["files"]),
        },
    )


if __name__ == "__main__":
    main()
