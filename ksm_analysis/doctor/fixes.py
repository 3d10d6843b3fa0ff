"""Fixes that suit a host: its kernel, its managers of guests, and the memory that is there. Pure.

No fix unmerges pages or starts a guest anew unless the memory for it is available, and each says
what it costs.
"""

import shlex
from collections.abc import Callable

from ksm_analysis.doctor.facts import (
    Facts,
    available,
    guest_bytes,
    has_prctl,
    kernel,
    ksm,
    resident,
    saved_bytes,
    service_names,
)
from ksm_analysis.doctor.finding import KSM, mib

# systemd 254 and 255 fail with EINVAL to start a unit with MemoryKSM= (systemd 31683). Until Linux
# 6.7, execve drops what prctl has set, so that a program would have to set it itself.
MEMORY_KSM_SYSTEMD, MEMORY_KSM_KERNEL = 256, (6, 7)


def after_unmerging(facts: Facts, *commands: str) -> str:
    """Return commands that need all pages unmerged, or why that cannot be done now."""
    needed, there = saved_bytes(facts), available(facts)
    run = ksm(facts).get("run", 0)
    steps = "\n".join(
        [f"echo 2 > {KSM}/run", *commands, *([f"echo 1 > {KSM}/run"] if run == 1 else [])]
    )
    if not needed:
        return steps
    if there is None:
        return (
            f"first see that {mib(needed)} are available (MemAvailable of /proc/meminfo): all "
            f"pages "
            f"are unmerged, and merged again only after some scans. Then:\n{steps}"
        )
    if needed > there:
        return (
            f"not now: all pages would have to be unmerged, which needs {mib(needed)}, and "
            f"{mib(there)} are available. First migrate or stop guests, or set it at the next "
            f"boot, "
            f"before ksmd runs: {'; '.join(commands)}"
        )
    return (
        f"{steps}\n# this unmerges all pages: it needs {mib(needed)} of memory ({mib(there)} are "
        "available) until they are merged again, some scans later"
    )


def with_restart(facts: Facts, domain: Facts, change: str, restart: str) -> str:
    """Return a change of a guest that needs a restart, with what the restart needs and costs."""
    pool = domain["memory"]["hugetlb"]["resident"]  # goes back to the pool, and not to the host
    freed = max(0, resident(domain) - pool)
    needed, there = guest_bytes(domain), available(facts)
    cost = f"# the guest is down meanwhile, and then needs up to {mib(needed)} until pages merge"
    if there is None:
        return f"{change}\n{restart}\n{cost}"
    if needed > there + freed:
        return (
            f"{change}\nthen shut it down and start it, but not now: it may need {mib(needed)}, "
            f"and "
            f"{mib(there + freed)} would be available. First free {mib(needed - there - freed)}"
        )
    return f"{change}\n{restart}\n{cost}; {mib(there + freed)} are there"


# --- guests ---------------------------------------------------------------------------------------


def manager(facts: Facts, domain: Facts) -> str:
    """Return what manages a guest: its settings are changed there."""
    if domain["libvirt"]:
        return "libvirt"
    if "virt-handler" in service_names(facts) or domain["platform"] == "kubevirt":
        return "kubevirt"
    if domain["platform"] in ("libvirt", "proxmox", "incus", "lxd", "kata"):
        return str(domain["platform"])
    if facts["host"]["proxmox"] and domain["settings"]["id"]:
        return "proxmox"
    return str(domain["vmm"])


def change(facts: Facts, domain: Facts, what: str) -> str:
    """Return how to change a guest: offer, exclude, hugetlb, shared, or vfio."""
    makers: dict[str, Callable[[Facts, Facts, str], str]] = {
        "libvirt": _libvirt,
        "proxmox": _proxmox,
        "kubevirt": _kubevirt,
        "incus": _incus,
        "lxd": _incus,
        "kata": _kata,
        "cloud-hypervisor": _cloud_hypervisor,
        "firecracker": _firecracker,
        "crosvm": _crosvm,
        "qemu": _qemu,
    }
    return makers.get(manager(facts, domain), _other)(facts, domain, what)


def _libvirt(facts: Facts, domain: Facts, what: str) -> str:
    name = shlex.quote(str((domain["libvirt"] or domain)["name"]))
    first = ""
    if {"momd", "supervdsmd"} & set(service_names(facts)):
        first = "# oVirt writes the XML anew at each start: change the VM there\n"
    text = {
        "offer": "# remove <nosharepages/> of <memoryBacking>",
        "exclude": "<memoryBacking><nosharepages/></memoryBacking>",
        "hugetlb": "# remove <hugepages/> of <memoryBacking>",
        "shared": "# remove <source type='memfd'/> and <access mode='shared'/> of <memoryBacking>; "
        "replace with:\n    <source type='anonymous'/>\n    <access mode='private'/>",
        "vfio": "# remove the <hostdev>; use a virtio device",
    }[what]
    restart = f"virsh shutdown {name}; virsh start {name}"
    return with_restart(facts, domain, f"{first}virsh edit {name}\n{text}", restart)


def _proxmox(facts: Facts, domain: Facts, what: str) -> str:
    number = shlex.quote(domain["settings"]["id"] or "VMID")
    text = {
        "offer": f"qm set {number} --allow-ksm 1",
        "exclude": f"qm set {number} --allow-ksm 0",
        "hugetlb": f"qm set {number} --delete hugepages",
        "shared": f"qm config {number} | grep -E 'virtiofs|args|numa'    # what shares the memory; "
        f"qm set {number} --delete virtiofs0, for instance",
        "vfio": f"qm set {number} --delete hostpci0    # and use a virtio device",
    }[what]
    return with_restart(facts, domain, text, f"qm shutdown {number} && qm start {number}")


def _kubevirt(facts: Facts, domain: Facts, what: str) -> str:
    text = {
        "offer": "in the VirtualMachine, remove spec.template.spec.domain.cpu.realtime, for which "
        "KubeVirt sets <nosharepages/>",
        "exclude": "KubeVirt has no setting for one guest. To keep KSM from this node, let "
        "spec.configuration.ksmConfiguration.nodeLabelSelector of the KubeVirt object not "
        "select it",
        "hugetlb": "in the VirtualMachine, remove spec.template.spec.domain.memory.hugepages",
        "shared": "in the VirtualMachine, remove what needs shared memory: virtiofs file systems "
        "(spec.template.spec.domain.devices.filesystems) and vhost-user interfaces",
        "vfio": "in the VirtualMachine, remove spec.template.spec.domain.devices.hostDevices, gpus "
        "and SR-IOV interfaces",
    }[what]
    if what == "exclude":
        return text
    return with_restart(facts, domain, text, "virtctl restart NAME")


def _incus(facts: Facts, domain: Facts, what: str) -> str:
    tool = "incus" if domain["platform"] == "incus" else "lxc"
    name = shlex.quote(domain["settings"]["name"] or "NAME")
    keys = "'[machine]\nmem-merge = \"{}\"'"
    text = {
        "offer": f"{tool} config set {name} raw.qemu.conf={keys.format('on')}",
        "exclude": f"{tool} config set {name} raw.qemu.conf={keys.format('off')}",
        "hugetlb": f"{tool} config unset {name} limits.memory.hugepages",
        "shared": f"{tool} backs guests with shared memory (a memfd), which virtiofs needs. "
        "Replace "
        f'the object of the memory by raw.qemu.conf of {name}: qom-type = "memory-backend-ram", '
        'share = "off"; directories then come by 9p only',
        "vfio": f"{tool} config device remove {name} DEVICE    # the gpu, pci or nic that is "
        "passed",
    }[what]
    return with_restart(facts, domain, text, f"{tool} restart {name}")


def _kata(facts: Facts, domain: Facts, what: str) -> str:
    text = {
        "offer": "in Kata's configuration.toml, let the hypervisor offer the memory",
        "exclude": "Kata has no setting for one guest; use another runtime class",
        "hugetlb": "in Kata's configuration.toml: enable_hugepages = false",
        "shared": 'in Kata\'s configuration.toml: shared_fs = "none" or "virtio-9p", as virtiofs '
        "needs shared memory, and enable_vhost_user_store = false",
        "vfio": "start the pod without the device",
    }[what]
    return with_restart(facts, domain, text, "start the pod anew")


def _cloud_hypervisor(facts: Facts, domain: Facts, what: str) -> str:
    text = {
        "offer": "start its cloud-hypervisor with mergeable=on and without shared=on: --memory "
        "size=…,mergeable=on,shared=off",
        "exclude": "start its cloud-hypervisor with --memory mergeable=off, which is the default",
        "hugetlb": "start its cloud-hypervisor with --memory hugepages=off,mergeable=on",
        "shared": "start its cloud-hypervisor with --memory shared=off,mergeable=on. virtiofs "
        "(--fs)"
        " and vhost-user devices need shared=on: it is either them or KSM",
        "vfio": "start its cloud-hypervisor without --device",
    }[what]
    return with_restart(facts, domain, text, "shut the guest down and start it")


def _firecracker(facts: Facts, domain: Facts, what: str) -> str:
    text = {
        "offer": f"Firecracker has no option for it. {offer(facts)}",
        "exclude": "start its Firecracker without PR_SET_MEMORY_MERGE (MemoryKSM=no)",
        "hugetlb": "remove huge_pages from its machine configuration (PUT /machine-config)",
        "shared": "use block devices instead of vhost-user devices, which need shared memory",
        "vfio": "start it without the device",
    }[what]
    return with_restart(facts, domain, text, "shut the guest down and start it")


def _crosvm(facts: Facts, domain: Facts, what: str) -> str:
    if what == "shared":
        return (
            "none in crosvm: it always backs guests with a shared memfd, which KSM never merges. "
            "Use another program, such as QEMU or cloud-hypervisor with mergeable=on"
        )
    return _other(facts, domain, what)


def _qemu(facts: Facts, domain: Facts, what: str) -> str:
    text = {
        "offer": "start its QEMU without mem-merge=off (-machine) and merge=off (-object); on is "
        "usual",
        "exclude": "start its QEMU with -machine mem-merge=off",
        "hugetlb": "start its QEMU with memory-backend-ram, without -mem-path and hugetlb=on. "
        "Transparent huge pages can be merged",
        "shared": "start its QEMU with memory-backend-ram,share=off, not with share=on or a memfd",
        "vfio": "give the guest a virtio device instead: start its QEMU without -device vfio-…",
    }[what]
    return with_restart(facts, domain, text, "shut the guest down and start it")


def _other(facts: Facts, domain: Facts, what: str) -> str:
    text = {
        "offer": f"see whether the program has an option to offer memory. {offer(facts)}",
        "exclude": "start it without the option or the prctl that offers its memory",
        "hugetlb": "start it without huge pages of hugetlbfs",
        "shared": "start it with private memory, not with a memfd or a file, if it has an option",
        "vfio": "start it without the assigned device",
    }[what]
    return with_restart(facts, domain, text, "shut the guest down and start it")


# --- processes ------------------------------------------------------------------------------------


def offer(facts: Facts) -> str:
    """Return how a program's memory can be offered to KSM on this host."""
    version, systemd = ".".join(map(str, kernel(facts))), facts["host"]["systemd"]
    if not has_prctl(facts):
        return (
            f"Linux {version} has no PR_SET_MEMORY_MERGE, which came with 6.4: the program itself "
            "must call madvise(MADV_MERGEABLE), or a preloaded library must (LD_PRELOAD)."
        )
    if kernel(facts) < MEMORY_KSM_KERNEL:
        return (
            "The program must call prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0) itself, or a preloaded "
            f"library must (LD_PRELOAD): before Linux 6.7, and this is {version}, execve drops it, "
            "so that it cannot be set from outside, as MemoryKSM=yes of systemd does."
        )
    if systemd is None:
        return (
            "With systemd 256 or newer (see systemctl --version; 254 and 255 may fail to start the "
            "service with EINVAL), set in the unit:\n[Service]\nMemoryKSM=yes\n"
            "Otherwise call prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0) before the program is executed."
        )
    if systemd < MEMORY_KSM_SYSTEMD:
        fault = "may fail to start a unit with MemoryKSM=yes (EINVAL); 256 is mended"
        fault = fault if systemd >= 254 else "has no MemoryKSM=; 256 has"
        return (
            f"Call prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0) before the program is executed: systemd "
            f"{systemd} {fault}."
        )
    return "Set in the unit of the service:\n[Service]\nMemoryKSM=yes"
