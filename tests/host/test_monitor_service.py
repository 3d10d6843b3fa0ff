"""The monitor service under a real systemd, with guests of a real libvirt, in a container."""

from __future__ import annotations

import json
import re
import subprocess
import time

import pytest
from container import HAS_SYSTEMD, Container, booted
from machine import ROOT, until

pytestmark = [pytest.mark.host, pytest.mark.beside]
STATE = "/var/lib/ksm-monitor"
PLACES = (STATE, "/usr/local/lib/ksm-monitor", "/etc/systemd/system/ksm-monitor.service")
LINK = "/var/lib/prometheus/node-exporter/ksm.prom"
QUICK = ("-e", "monitor_service_period=0.5")
DOMAIN = """
<domain type="qemu">
  <name>{name}</name>
  <memory unit="MiB">32</memory>
  <memoryBacking><nosharepages/></memoryBacking>
  <os><type arch="x86_64">hvm</type></os>
  <devices><controller type="usb" model="none"/><memballoon model="none"/></devices>
</domain>
"""


class Monitored(Container):
    """A container with the monitor service."""

    def pid(self):
        """Return the process id of the service in the container; 0 if it does not run."""
        return int(self.run("systemctl", "show", "--property=MainPID", "--value", "ksm-monitor"))

    def lines(self, name="samples.jsonl"):
        """Return the lines of a file of samples."""
        return [json.loads(line) for line in self.run("cat", f"{STATE}/{name}").splitlines()]

    def guests(self):
        """Return the guests in the metrics."""
        text = self.run("cat", f"{STATE}/ksm.prom")
        return set(re.findall(r'^ksm_guest_rmap_items\{guest="(.*)"\}', text, re.M))


@pytest.fixture(scope="module")
def container(only_libvirtd):
    """Boot a container."""
    with booted(Monitored) as found:
        yield found


@pytest.fixture(scope="module")
def libvirt(container):
    """Run libvirt in the container."""
    container.run("systemctl", "start", "libvirtd")
    container.run("virsh", "list")


@pytest.fixture(scope="module")
def installed(container, libvirt):
    """Install the service."""
    _, changed, failed = container.play("monitor", *QUICK)
    assert (changed > 0, failed) == (True, 0)


@pytest.fixture
def service(container, installed):
    """Start the service if a test has stopped it."""
    container.run("systemctl", "start", "ksm-monitor")
    until(container.lines)
    return container


@pytest.mark.skipif(HAS_SYSTEMD, reason="this machine runs systemd")
def test_a_machine_without_systemd_is_refused():
    done = subprocess.run(
        ["ansible-playbook", "--check", "playbooks/monitor.yml"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "not systemd, which the monitor service needs" in " ".join(done.stdout.split())


def test_a_host_without_libvirt_is_refused(container):
    text, changed, failed = container.play("monitor")
    assert (changed, failed) == (0, 1)
    assert "has no /run/libvirt/qemu, which libvirt's daemon makes when it starts" in text


def test_check_mode_installs_nothing(container, libvirt):
    _, changed, failed = container.play("monitor", "--check", *QUICK)
    assert changed > 0
    assert failed == 0
    assert not any(map(container.exists, (*PLACES, LINK)))


def test_it_is_installed_once(service):
    assert service.run("systemctl", "is-enabled", "ksm-monitor") == "enabled\n"
    assert service.run("systemctl", "is-active", "ksm-monitor") == "active\n"
    assert service.run("stat", "--format=%U %a", f"{STATE}/samples.jsonl") == "ksm-monitor 600\n"
    assert service.run("stat", "--format=%a", "--dereference", LINK) == "644\n"
    pid = service.pid()
    for more in ((), ("--check",)):
        assert service.play("monitor", *QUICK, *more)[1:] == (0, 0)
    assert service.pid() == pid


def test_a_change_restarts_it(service):
    pid = service.pid()
    for more in (["--check"], []):
        _, changed, failed = service.play("monitor", "-e", "monitor_service_period=0.25", *more)
        assert (changed, failed) == (2, 0)  # the unit, and the restart
    assert service.pid() != pid
    assert until(service.lines)[0]["period"] == 0.25


def test_the_unit_is_valid_and_hardened(service):
    unit = PLACES[-1]
    assert service.run("systemd-analyze", "verify", unit) == ""
    # In tenths. Most of the exposure is needed: it reads other users' processes in /proc.
    service.run("systemd-analyze", "security", "--offline=yes", "--threshold=9", unit)


def test_it_sees_little_and_can_change_nothing(service):
    pid = service.pid()
    status = service.run("cat", f"/proc/{pid}/status")
    for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb"):
        assert f"Cap{kind}:\t{1 << 2:016x}" in status, "CAP_DAC_READ_SEARCH and no other"
    assert "NoNewPrivs:\t1" in status
    root = f"/proc/{pid}/root"
    assert service.run("ls", f"{root}/etc") == ""
    assert service.run("ls", f"{root}/var/lib") == "ksm-monitor\n"
    assert service.run("ls", f"{root}/usr") == "bin\nlib\nlib64\nlocal\n"
    assert set(service.run("ls", f"{root}/run").split()) == {"libvirt", "systemd"}
    mounts = [line.split() for line in service.run("cat", f"/proc/{pid}/mounts").splitlines()]
    options = {mount[1]: mount[3].split(",") for mount in mounts}
    for path in ("/", "/usr/bin", "/sys/kernel", "/proc/sys", "/run/libvirt/qemu"):
        assert "ro" in options[path]
    assert "rw" in options[STATE]


def test_guests_start_and_end(service):
    name = 'a "b" & c, d'
    for each in (name.replace("&", "&amp;"), "other"):
        service.run("virsh", "create", "/dev/stdin", stdin=DOMAIN.format(name=each))
    escaped = name.replace('"', r"\"")
    until(lambda: service.guests() == {escaped, "other"})
    text = service.run("cat", f"{STATE}/ksm.prom")
    assert f'ksm_guest_mergeable{{guest="{escaped}"}} 0' in text, "KSM here is not affected"
    resident = re.search(r'ksm_guest_resident_bytes\{guest="other"\} ([0-9]+)', text)
    assert int(resident[1]) > 8 << 20
    service.run("virsh", "destroy", "other")
    until(lambda: service.guests() == {escaped})
    # The process dies while libvirt does not run and cannot clean up.
    service.run("systemctl", "stop", "libvirtd.socket", "libvirtd")
    service.run("pkill", "--full", "--signal", "KILL", "qemu.*guest=a ")
    until(lambda: service.guests() == set())
    assert "&amp; c, d.pid" in service.run("ls", "/run/libvirt/qemu")
    service.run("systemctl", "start", "libvirtd")
    until(lambda: service.lines()[-1].get("guests") == {})
    found = [line["guests"] for line in service.lines()[1:]]
    assert found.count({name: None}) == 1, "null in one sample, and absent in the next"


def test_it_is_started_again_when_it_dies(service):
    pid = service.pid()
    until(lambda: len(service.lines()) > 3)
    service.run("kill", "-KILL", pid)
    left = service.lines()
    assert left[-1]["kind"] == "sample", "it had no time for an end line"
    until(lambda: service.pid() not in (0, pid))
    until(lambda: service.lines("samples.1.jsonl") == left)
    assert until(service.lines)[0]["kind"] == "header"


def test_it_is_started_again_when_it_hangs(service):
    pid = service.pid()
    service.run("mkdir", "-p", "/run/systemd/system/ksm-monitor.service.d")
    drop_in = "/run/systemd/system/ksm-monitor.service.d/sooner.conf"
    service.run("tee", drop_in, stdin="[Service]\nWatchdogSec=2\nRestartSec=1\n")
    service.run("systemctl", "daemon-reload")
    service.run("systemctl", "restart", "ksm-monitor")
    pid = service.pid()
    time.sleep(5)
    assert service.pid() == pid, "each sample resets the watchdog"
    service.run("kill", "-STOP", pid)
    until(lambda: service.pid() not in (0, pid))
    service.run("rm", drop_in)
    service.run("systemctl", "daemon-reload")


def test_a_reload_begins_a_new_file(service):
    until(lambda: len(service.lines()) > 2)
    service.run("systemctl", "reload", "ksm-monitor")
    until(lambda: service.lines("samples.1.jsonl")[-1].get("reason") == "SIGHUP")


def test_when_it_is_stopped_it_ends_its_file(service):
    until(lambda: len(service.lines()) > 2)
    service.run("systemctl", "stop", "ksm-monitor")
    assert service.lines()[-1]["reason"] == "SIGTERM"
    assert "Result=success" in service.run("systemctl", "show", "ksm-monitor")
    assert "ksm_run " not in service.run("cat", f"{STATE}/ksm.prom")


def test_the_testbed_does_not_affect_it(service):
    pid, directory = service.pid(), "/var/lib/ksm-testbed/run"
    service.run("mkdir", "-p", directory)
    run = {"id": "interrupted", "parts": [{"name": "sampler", "role": "ksm.testbed.part_sampler"}]}
    service.run("tee", f"{directory}/run.json", stdin=json.dumps(run))
    sampler = ["/usr/bin/python3", str(ROOT / "roles/part_sampler/files/ksm_sampler.py")]
    sampler += ["--output", f"{directory}/samples.jsonl", "--samples", "100000"]
    program = json.dumps({"name": "sampler", "directory": directory, "argv": sampler})
    service.run("ansible", "localhost", "-m", "ksm.testbed.background", "-a", program)
    of_run = json.loads(service.run("cat", f"{directory}/sampler.json"))["pid"]
    assert service.exists(f"/proc/{of_run}")
    text, _, failed = service.play("teardown", "-e", "force=true")
    assert failed == 0, text
    assert not service.exists(f"/proc/{of_run}")
    assert not service.exists("/var/lib/ksm-testbed")
    assert service.pid() == pid


def test_it_is_removed_completely(service):
    assert all(map(service.exists, (*PLACES, LINK)))
    absent = ("-e", "monitor_service_state=absent")
    _, changed, failed = service.play("monitor", *absent, "--check")
    assert (changed > 0, failed) == (True, 0)
    assert service.run("systemctl", "is-active", "ksm-monitor") == "active\n"
    assert service.play("monitor", *absent)[2] == 0
    assert not any(map(service.exists, (*PLACES, LINK)))
    assert service.run("getent", "passwd", "ksm-monitor", check=False) == ""
    assert "ksm-monitor" not in service.run("systemctl", "list-unit-files")
    assert service.play("monitor", *absent)[1:] == (0, 0)
