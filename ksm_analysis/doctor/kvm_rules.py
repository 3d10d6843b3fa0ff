"""Rule for the device of KVM; docs/doctor.md explains the finding. Pure."""

from collections.abc import Iterator

from ksm_analysis.doctor.facts import Facts, some
from ksm_analysis.doctor.finding import COSTS, HOST, Finding


def closed(facts: Facts) -> Iterator[Finding]:
    """Yield a finding if root can open /dev/kvm but QEMU's user cannot."""
    device = facts.get("kvm")  # missing on hosts without KVM, and in facts of earlier versions
    if not device or not device.get("user") or device.get("opens"):
        return
    yield Finding(
        "kvm-closed",
        COSTS,
        f"root can open /dev/kvm, and {device['user']}, the user of QEMU, cannot",
        HOST,
        some(device, "mode", "owner", "group", "user", "groups"),
        "libvirt probes QEMU as root and finds KVM, then sees that QEMU cannot use it, discards "
        "the result and probes again (about 4 s) each time. Guests start slowly, and run without "
        "KVM.",
        "chgrp kvm /dev/kvm; chmod 0660 /dev/kvm\n"
        "To make this permanent with udev, in /etc/udev/rules.d/65-kvm.rules:\n"
        'KERNEL=="kvm", GROUP="kvm", MODE="0660"\n'
        f"If this is already set: usermod -aG kvm {device['user']}. Then restart libvirt.",
    )
