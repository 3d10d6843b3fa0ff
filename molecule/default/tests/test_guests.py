"""The role guests: an ordinary domain, reachable only through its agent."""

import base64
import json
import time

VIRSH = "virsh --connect qemu:///system"
GUEST = "ksm-guest-01"


def ask(host, command: str, **arguments) -> dict:
    """Ask the agent in the guest; returns its answer."""
    text = json.dumps({"execute": command, "arguments": arguments})
    return json.loads(host.check_output(f"{VIRSH} qemu-agent-command {GUEST} %s", text))["return"]


def test_the_guest_runs(host):
    assert host.check_output(f"{VIRSH} domstate {GUEST}").strip() == "running"


def test_a_command_runs_in_the_guest(host):
    pid = ask(host, "guest-exec", path="/bin/hostname", **{"capture-output": True})["pid"]
    deadline = time.monotonic() + 60
    while not (answer := ask(host, "guest-exec-status", pid=pid))["exited"]:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert base64.b64decode(answer["out-data"]) == f"{GUEST}\n".encode()


def test_the_guest_has_no_network_card_and_no_screen(host):
    xml = host.check_output(f"{VIRSH} dumpxml {GUEST}")
    assert "<interface" not in xml
    assert "<graphics" not in xml


def test_the_guest_has_nosharepages(host):
    assert "<nosharepages/>" in host.check_output(f"{VIRSH} dumpxml {GUEST}")
    pid = host.file(f"/run/libvirt/qemu/{GUEST}.pid").content_string.strip()
    assert host.file(f"/proc/{pid}/ksm_merging_pages").content_string == "0\n"
