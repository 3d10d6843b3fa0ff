"""libvirt uses KVM consistently, even if only root could open /dev/kvm before."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from pathlib import Path

import pytest
from machine import STATE, Playbook

DEVICE = Path("/dev/kvm")
pytestmark = [
    pytest.mark.host,
    pytest.mark.usefixtures("host", "only_libvirtd"),
    pytest.mark.skipif(not DEVICE.exists(), reason="there is no /dev/kvm"),
]


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


@pytest.fixture
def root_alone(host, tmp_path):
    """Make the device accessible only to root, as without udev; libvirt has not probed QEMU yet."""
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


@pytest.mark.usefixtures("root_alone", "restored")
def test_qemu_is_probed_at_most_twice_and_the_device_is_restored(experiment, tmp_path):
    with Probes() as probes:
        run = experiment(count=1, intervals=3)
        assert run.wait() == 0, run.output

    assert len(probes.found) <= 2
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
