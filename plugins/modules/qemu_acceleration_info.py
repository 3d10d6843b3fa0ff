#!/usr/bin/python
"""Boot a kernel to find out whether KVM works."""

from __future__ import annotations

DOCUMENTATION = r"""
module: qemu_acceleration_info
short_description: Boot a kernel to find out whether KVM works
description:
  - Boots a kernel under KVM, without a disk, and waits on the serial console until it has booted.
    A C(/dev/kvm) that opens, and a libvirt that lists C(kvm), do not prove that a guest boots.
  - Changes nothing.
options:
  kernel:
    description: A Linux kernel image.
    type: path
    required: true
  timeout:
    description: Seconds that the kernel may take to boot.
    type: float
    default: 15
attributes:
  check_mode:
    description: Says what would change, and changes nothing.
    support: full
author: [The KSM testbed authors (@ksm-testbed)]
"""

EXAMPLES = r"""
- name: Probe
  ksm.testbed.qemu_acceleration_info:
    kernel: /var/lib/ksm-testbed/images/current/vmlinuz
"""

RETURN = r"""
acceleration: {description: kvm or tcg, type: str, returned: always}
evidence: {description: The reason, type: str, returned: always}
"""

import select
import subprocess
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

BOOTED = b"Unable to mount root fs"  # how a kernel without a disk ends its boot
KVM = Path("/dev/kvm")


def boots(command, timeout):
    """Return whether the kernel boots in time, and its output.

    Its first lines prove nothing: some kernels hang after these.
    """
    # AnsibleModule.run_command would wait until QEMU ends.
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    seen = b""
    deadline = time.monotonic() + timeout
    try:
        while BOOTED not in seen and (left := deadline - time.monotonic()) > 0:
            if not select.select([process.stdout], [], [], left)[0]:
                break
            chunk = process.stdout.read1(65536)
            if not chunk:
                break
            seen += chunk
    finally:
        process.kill()
        process.wait()
    return BOOTED in seen, seen


def last_line(output):
    """Return the last printable line of a console."""
    lines = output.decode(errors="replace").replace("\r", "\n").split("\n")
    printable = ["".join(c for c in line if c.isprintable()).strip() for line in lines]
    return next((line for line in reversed(printable) if line), "nothing")


def probe(kernel, timeout):
    """Return (acceleration, evidence)."""
    if not KVM.exists():
        return "tcg", f"there is no {KVM}"
    command = [
        *("qemu-system-x86_64", "-accel", "kvm", "-machine", "q35", "-cpu", "host", "-m", "256"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot"),
        *("-kernel", kernel, "-append", "console=ttyS0 panic=-1"),
        # The same sandbox that libvirt uses.
        *("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"),
    ]
    booted, output = boots(command, timeout)
    if booted:
        return "kvm", "the guest kernel boots under KVM"
    return (
        "tcg",
        f"the guest kernel does not boot under KVM (waited up to {timeout:g} s); last seen: "
        + last_line(output),
    )


def main():
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "kernel": {"type": "path", "required": True},
            "timeout": {"type": "float", "default": 15},
        },
        supports_check_mode=True,
    )
    try:
        acceleration, evidence = probe(module.params["kernel"], module.params["timeout"])
    except OSError as error:
        module.fail_json(msg=f"cannot probe: {error}")
    module.exit_json(changed=False, acceleration=acceleration, evidence=evidence)


if __name__ == "__main__":
    main()
