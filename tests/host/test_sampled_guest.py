"""A guest that is sampled, on a host where only root could open /dev/kvm before.

libvirt uses KVM consistently, and the guest exposes no port, no screen, no network card and no file
to other users.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from machine import (
    SHORT,
    STATE,
    Playbook,
    Run,
    assert_restored,
    knobs,
    samplers,
    sampling,
)

pytestmark = [pytest.mark.host, pytest.mark.usefixtures("sampled")]

GUEST = "ksm-guest-01"
DEVICE = Path("/dev/kvm")
NOBODY = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--")
ACCESS = "import json, os, sys; print(json.dumps([os.access(p, os.{}_OK) for p in sys.argv[1:]]))"
IMAGE = {
    f"images/current/{name}" for name in ("initrd.img", "manifest.json", "root.qcow2", "vmlinuz")
}
# Other users may read programs and these: they have no data of guests, and not who measures what.
PUBLIC = {"acceleration.json", "host.json", "knobs.json", "kvm.json"} | IMAGE
PRIVATE = {
    *(f"guests/{GUEST}.qcow2", f"run/{GUEST}.console.log", "lock.json"),
    *("run/samples.jsonl", "run/sampler.json", "run/run.json"),
}
# All devices of a guest. Mouse and keyboard belong to q35, and nothing is connected to them.
DEVICES = {"emulator", "disk", "controller", "serial", "console", "channel", "input"}
ABSENT = {"audio": {"type": "none"}, "memballoon": {"model": "none"}}
OPENED_TO_OTHERS = {"-vnc", "-spice", "-netdev", "-nic", "-net", "-gdb", "-s", "-incoming"}


class Probes(threading.Thread):
    """Counts how often libvirt probes QEMU, which takes seconds each time."""

    def __init__(self):
        super().__init__(daemon=True)
        self.found: set[str] = set()
        self._ended = threading.Event()

    def run(self):
        while not self._ended.wait(0.2):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    words = path.read_bytes().split(b"\0")
                except OSError:
                    continue
                if words[0].endswith(b"qemu-system-x86_64") and b"none,accel=kvm:tcg" in words:
                    self.found.add(path.parent.name)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        self.join()


@pytest.fixture(scope="module")
def root_alone(host, only_libvirtd):
    """Make the device accessible only to root, as without udev; libvirt has not probed QEMU yet."""
    if not DEVICE.exists():
        yield
        return
    found = DEVICE.stat()
    record = STATE / "kvm.json"
    kept = record.read_bytes() if record.exists() else None
    for service in ("libvirtd", "virtlogd"):
        subprocess.run(["service", service, "stop"], check=True, capture_output=True)
    shutil.rmtree("/var/cache/libvirt/qemu/capabilities", ignore_errors=True)
    os.chown(DEVICE, 0, 0)
    DEVICE.chmod(0o600)
    yield
    os.chown(DEVICE, found.st_uid, found.st_gid)
    DEVICE.chmod(found.st_mode & 0o777)
    record.unlink(missing_ok=True)
    if kept is not None:
        record.write_bytes(kept)


@pytest.fixture(scope="module")
def sampled(root_alone, tmp_path_factory):
    """Keep a sampled guest running during the tests; yield the probes of QEMU until then."""
    found, directory = knobs(), tmp_path_factory.mktemp("sampled")
    definition = directory / "short.yml"
    definition.write_text(SHORT.format(count=1, intervals=600, workload="idle"))
    with Probes() as probes:
        results = ("--results", str(directory / "results"))
        run = Run(str(definition), *results, log=directory / "log")
        try:
            run.until(sampling)
            yield probes
            assert run.process.poll() is None, "it was still sampled at the end of the tests"
        finally:
            run.process.send_signal(signal.SIGINT)
            assert run.wait() == 130, run.output
            assert_restored(found)
            assert "--resume" in run.output
            (kept,) = (STATE / "uncollected").glob("g01-k1-idle-r1-*")
            assert (kept / "samples.jsonl").exists(), "the raw files of an interrupted run"
            shutil.rmtree(kept)


def output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def virsh(*command: str) -> str:
    return output("virsh", "--connect", "qemu:///system", *command)


def nobody_may(mode: str, *paths: Path) -> set[Path]:
    """Return the paths that an unprivileged user can read (R) or write (W)."""
    answers = output(*NOBODY, "/usr/bin/python3", "-c", ACCESS.format(mode), *map(str, paths))
    return {path for path, may in zip(paths, json.loads(answers), strict=True) if may}


def files() -> dict[Path, str]:
    """Return every file of the testbed on the host, with its name below the directory."""
    image = (STATE / "images/current").resolve()
    paths = [path for path in STATE.rglob("*") if path.is_file() and not path.is_symlink()]
    return {
        path: str(path.relative_to(STATE)).replace(image.name, "current")
        for path in paths
        if "images/current" not in str(path)
    }


def domain() -> ElementTree.Element:
    return ElementTree.fromstring(virsh("dumpxml", GUEST))


def process() -> Path:
    """Return the directory of QEMU's process."""
    return Path("/proc") / Path(f"/run/libvirt/qemu/{GUEST}.pid").read_text().strip()


def in_guest(module, *argv: str) -> str:
    """Return the output of a command in the guest."""
    done = module("guest_agent", {"commands": [{"guest": GUEST, "argv": argv}]})
    return done["guests"][0]["stdout"]


def test_other_users_cannot_read_files_of_guests():
    there = files()
    assert set(there.values()) >= PRIVATE | IMAGE, "these files are checked"
    programs = (".py", ".java")
    readable = {there[path] for path in nobody_may("R", *there) if path.suffix not in programs}
    assert readable <= PUBLIC


def test_other_users_cannot_write():
    paths = [STATE, *(path for path in STATE.rglob("*") if not path.is_symlink())]
    assert nobody_may("W", *paths) == set()


def test_a_guest_cannot_write_to_the_shared_image():
    disk = STATE / "images/current/root.qcow2"
    assert disk.stat().st_uid == 0, "not QEMU's user"
    assert disk.stat().st_mode & 0o022 == 0
    assert process().stat().st_uid != 0


def test_nothing_listens_on_a_network():
    pids = {process().name, *samplers()}
    options = ("--no-header", "--listening", "--tcp", "--udp", "--raw", "--processes")
    lines = output("ss", *options).splitlines()
    assert [line for line in lines if '"libvirtd"' in line or '"virtlogd"' in line] == []
    assert [line for line in lines for pid in pids if f"pid={pid}," in line] == []


def test_a_guest_has_neither_screen_nor_network_card():
    for device in domain().find("devices"):
        assert device.tag in DEVICES or device.attrib.items() >= ABSENT[device.tag].items()
    words = (process() / "cmdline").read_text().split("\0")
    assert OPENED_TO_OTHERS & set(words) == set()
    assert words[words.index("-display") + 1] == "none"
    assert words[words.index("-sandbox") + 1].startswith("on,")


def test_console_and_agent_are_local_and_private():
    wires = [wire for kind in ("serial", "console", "channel") for wire in domain().iter(kind)]
    assert {wire.get("type") for wire in wires} == {"pty", "unix"}
    sources = [Path(wire.find("source").get("path")) for wire in wires]
    assert all(path.exists() for path in sources)
    assert nobody_may("R", *sources) | nobody_may("W", *sources) == set()


def test_other_users_cannot_end_a_guest():
    command = [*NOBODY, "virsh", "--connect", "qemu:///system", "destroy", GUEST]
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0
    assert GUEST in virsh("list", "--name").split()


def test_no_network_was_started():
    assert virsh("net-list", "--name").split() == []


def test_no_user_can_log_in_to_a_guest(module):
    shadow = in_guest(module, "/usr/bin/cat", "/etc/shadow")
    passwords = dict(line.split(":")[:2] for line in shadow.splitlines())
    assert "root" in passwords
    assert {user for user in passwords if passwords[user][:1] not in ("!", "*")} == set()
    keys = in_guest(module, "/usr/bin/find", "/root", "/home", "/etc/ssh", "-name", "*key*")
    assert keys == ""


def test_a_guest_has_no_network(module):
    assert in_guest(module, "/usr/bin/ls", "/sys/class/net") == "lo\n"
    for protocol in ("tcp", "tcp6", "udp", "udp6"):
        table = in_guest(module, "/usr/bin/cat", f"/proc/net/{protocol}")
        assert len(table.splitlines()) == 1, "its header, and no socket"


@pytest.mark.skipif(not DEVICE.exists(), reason="there is no /dev/kvm")
def test_qemu_is_probed_at_most_twice_and_the_device_is_restored(sampled, tmp_path):
    """Must be the last test here: it makes the device accessible only to root again."""
    assert len(sampled.found) <= 2
    assert (DEVICE.stat().st_mode & 0o777, DEVICE.group()) == (0o660, "kvm")

    remembered = tmp_path / "remembered"
    remembered.mkdir()
    task = "{name: ksm.testbed.host, tasks_from: remove}"
    play = remembered / "remove.yml"
    # Of `remove`, only what concerns the device: the image is needed by the tests that follow.
    play.write_text(
        "- hosts: ksm_hosts\n  tasks:\n    - ansible.builtin.include_role: " + task + "\n"
        "      vars: {testbed_directory: " + str(remembered) + "}\n"
    )
    shutil.copy(STATE / "kvm.json", remembered / "kvm.json")
    restored = Playbook(str(play), log=tmp_path / "restored.log")
    assert restored.wait() == 0, restored.output

    now = DEVICE.stat()
    assert (now.st_uid, now.st_gid, now.st_mode & 0o777) == (0, 0, 0o600)
