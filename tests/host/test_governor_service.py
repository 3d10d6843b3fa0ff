"""The governor's service under a real systemd, in a container with its own copy of the knobs."""

import json

import pytest
from container import Container, booted
from machine import until

pytestmark = [pytest.mark.host, pytest.mark.beside]
KSM = "/sys/kernel/mm/ksm"
UNIT = "/etc/systemd/system/ksm-governor.service"
PLACES = (UNIT, "/usr/local/lib/ksm-governor", "/var/lib/ksm-governor")
LINK = "/var/lib/prometheus/node-exporter/ksm_governor.prom"
# Other tests use those of this machine.
OWN_KNOBS = f"cp -r {KSM} /run/ksm && mount --bind /run/ksm {KSM} && echo 0 >{KSM}/run"


class Governed(Container):
    """A container with the governor."""

    def value(self, knob):
        return self.run("cat", f"{KSM}/{knob}").strip()

    def state(self):
        return self.run("systemctl", "is-active", "ksm-governor", check=False).strip()

    def pid(self):
        return int(self.run("systemctl", "show", "--property=MainPID", "--value", "ksm-governor"))


@pytest.fixture(scope="module")
def container():
    """Boot a container."""
    with booted(Governed) as found:
        found.run("bash", "-ec", OWN_KNOBS)
        yield found


@pytest.fixture(scope="module")
def installed(container):
    """Install the service."""
    _, changed, failed = container.play("governor", "--check")
    assert (changed > 0, failed) == (True, 0)
    assert not any(map(container.exists, (*PLACES, LINK)))
    _, changed, failed = container.play("governor")
    assert (changed > 0, failed) == (True, 0)


@pytest.fixture
def service(container, installed):
    """Start the service if a test has stopped it."""
    container.run("systemctl", "start", "ksm-governor")
    until(lambda: container.value("run") == "1")
    return container


def test_it_is_installed_once(service):
    pid = service.pid()
    assert service.play("governor")[1:] == (0, 0)
    assert service.pid() == pid
    assert service.run("systemctl", "is-enabled", "ksm-governor") == "enabled\n"
    assert "ksm_governor_scanning 1\n" in service.run("cat", LINK)


def test_a_wrong_price_is_refused(service):
    text, changed, failed = service.play("governor", "-e", "governor_price=0")
    assert (changed, failed) == (0, 1)
    assert "governor_price is 0, and must be from 0.001 to 1000" in text


def test_the_unit_is_valid_and_hardened(service):
    assert service.run("systemd-analyze", "verify", UNIT) == ""
    # In tenths. Most of the exposure is that it is root, without any capability.
    service.run("systemd-analyze", "security", "--offline=yes", "--threshold=20", UNIT)
    status = service.run("cat", f"/proc/{service.pid()}/status")
    for kind in ("Prm", "Eff", "Bnd", "Amb"):
        assert f"Cap{kind}:\t{0:016x}" in status
    mounts = service.run("cat", f"/proc/{service.pid()}/mounts")
    options = {line.split()[1]: line.split()[3].split(",") for line in mounts.splitlines()}
    assert "ro" in options["/"]
    assert "rw" in options[KSM]


def test_the_knobs_are_restored_when_it_stops(service):
    service.run("systemctl", "stop", "ksm-governor")
    assert service.value("run") == "0"
    assert "Result=success" in service.run("systemctl", "show", "ksm-governor")


def test_the_knobs_are_restored_when_all_of_it_is_killed(service):
    service.run("systemctl", "kill", "--signal=KILL", "ksm-governor")
    until(lambda: service.value("run") == "0")
    until(lambda: not service.exists("/run/ksm-governor/knobs.json"))
    until(lambda: service.state() == "activating")  # to start again later
    service.run("systemctl", "stop", "ksm-governor")


def test_beside_the_advisor_it_does_not_start(service):
    service.run("systemctl", "stop", "ksm-governor")
    service.run("bash", "-ec", f"echo 'none [scan-time]' >{KSM}/advisor_mode")
    service.run("systemctl", "start", "ksm-governor")
    until(lambda: service.state() == "failed")
    journal = service.run("journalctl", "--unit=ksm-governor", "--output=json")
    said = [json.loads(line)["MESSAGE"] for line in journal.splitlines()]
    assert any("advisor (advisor_mode) controls KSM" in each for each in said)
    service.run("bash", "-ec", f"echo '[none] scan-time' >{KSM}/advisor_mode")
    service.run("systemctl", "reset-failed", "ksm-governor")


def test_it_is_removed(service):
    absent = ("-e", "governor_state=absent")
    _, changed, failed = service.play("governor", *absent, "--check")
    assert (changed > 0, failed) == (True, 0)
    assert all(map(service.exists, (*PLACES, LINK)))
    assert service.play("governor", *absent)[2] == 0
    assert not any(map(service.exists, (*PLACES, LINK)))
    assert service.value("run") == "0"
    assert service.play("governor", *absent)[1:] == (0, 0)
