#!/usr/bin/env python3
"""Measure the time until guests are ready, compared with the same QEMU started by hand.

  role     ansible-playbook with the guests role: overlays, definition, start, until all agents
           answer; with Ansible's own start
  by hand  short command lines of QEMU for the same domains, all started at once, and their agents
           polled over their sockets

Needs root and a provisioned host with an image (playbooks/host.yml, playbooks/guest_image.yml). The
host should be idle, because booting needs its processors.
"""

import argparse
import contextlib
import json
import socket
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
IMAGE = Path("/var/lib/ksm-testbed/images/current")
CMDLINE = "root=/dev/vda rw console=ttyS0 quiet no_timer_check"
PROBED = Path("/var/lib/ksm-testbed/acceleration.json")
POLL_SECONDS = 0.25


def acceleration():
    """Return the result of the probe."""
    return json.loads(PROBED.read_text())["acceleration"]


def playbook(entry, count):
    """Run one entry point of the role; return seconds."""
    variables = {
        "entry": entry,
        "count": count,
        "guests_acceleration": acceleration(),
    }
    start = time.monotonic()
    subprocess.run(
        ["ansible-playbook", "bench/guests.yml", "-e", json.dumps(variables)],
        check=True,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
    )
    return time.monotonic() - start


def by_role(count):
    """Return the seconds until the role reports that all guests are ready."""
    try:
        return playbook("main", count)
    finally:
        playbook("remove", count)


def command(directory, name):
    """Return a QEMU command line for one guest, like the domain template."""
    kvm = acceleration() == "kvm"
    return [
        *(
            "qemu-system-x86_64",
            "-name",
            name,
            "-machine",
            "q35",
            "-nodefaults",
            "-display",
            "none",
        ),
        *("-accel", "kvm" if kvm else "tcg,tb-size=64", "-cpu", "host" if kvm else "qemu64"),
        *("-m", "512", "-smp", "1", "-kernel", IMAGE / "vmlinuz", "-initrd", IMAGE / "initrd.img"),
        *("-append", f"{CMDLINE} systemd.hostname={name}"),
        *("-drive", f"file={directory / name}.qcow2,if=virtio,cache=unsafe"),
        *("-serial", f"file:{directory / name}.log", "-device", "virtio-serial-pci"),
        *("-chardev", f"socket,path={directory / name}.sock,server=on,wait=off,id=agent"),
        *("-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"),
    ]


def answers(path):
    """Whether an agent answers on its socket."""
    with socket.socket(socket.AF_UNIX) as agent, contextlib.suppress(OSError):
        agent.settimeout(1)
        agent.connect(str(path))
        agent.sendall(b'{"execute": "guest-ping"}\n')
        return b"return" in agent.recv(4096)
    return False


def by_hand(count):
    """Return the seconds until all agents answer."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        names = [f"hand-{number}" for number in range(count)]
        start = time.monotonic()
        for guest in names:
            overlay = ["-q", "-f", "qcow2", "-F", "qcow2", "-b", IMAGE / "root.qcow2"]
            subprocess.run(
                ["qemu-img", "create", *overlay, directory / f"{guest}.qcow2"], check=True
            )
            process = subprocess.Popen(command(directory, guest))
            stack.callback(process.wait)
            stack.callback(process.kill)
        for guest in names:
            while not answers(directory / f"{guest}.sock"):
                time.sleep(POLL_SECONDS)
        return time.monotonic() - start


def main():
    """Print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="boots each way (default: 3)")
    parser.add_argument("--count", type=int, default=3, help="guests (default: 3)")
    arguments = parser.parse_args()
    if not PROBED.exists():
        parser.error("no image yet: ansible-playbook playbooks/host.yml playbooks/guest_image.yml")
    role, hand = [], []
    for _ in range(arguments.rounds):
        role.append(by_role(arguments.count))
        hand.append(by_hand(arguments.count))
    ratio = statistics.median(a / b for a, b in zip(role, hand, strict=True))
    print(
        f"{arguments.count} guests ready: role {statistics.median(role):.1f} s, "
        f"by hand {statistics.median(hand):.1f} s, ratio {ratio:.2f} (target: at most 1.3)"
    )


if __name__ == "__main__":
    main()
