"""Guests that exist already: only those that are as asked for are left alone."""

import subprocess

import pytest

pytestmark = [pytest.mark.host, pytest.mark.usefixtures("host")]

# The driver of libvirt for tests has one running domain, `test`: 8 GiB, 2 processors.
DOMAIN = """\
<domain type='test'><name>test</name><memory>{}</memory><vcpu>{}</vcpu><devices>
  <disk type='file'><source file='/guest/diskimage1'/><target dev='vda'/></disk>
  <interface type='network'><source network='default'/></interface>
</devices></domain>
"""


@pytest.fixture
def disks(module, tmp_path):
    """Return a function that makes the disk of one guest."""
    for name in ("a", "b"):
        image = str(tmp_path / f"{name}.qcow2")
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "1G"], check=True)

    def make(image="a", gib=2):
        where = {"directory": str(tmp_path / "guests"), "image": str(tmp_path / f"{image}.qcow2")}
        return module("guest_disks", where | {"guests": ["one"], "gib": gib})

    return make


def test_a_disk_of_another_size_or_image_is_an_error(disks):
    assert disks()["changed"]
    assert not disks()["changed"], "it is as asked for"
    assert "it has 2 GiB, not 3 GiB. Remove these guests first" in disks(gib=3)["msg"]
    refused = disks(image="b")["msg"]
    assert "/a.qcow2, not " in refused
    assert "GiB" not in refused
    assert not disks()["changed"], "nothing was changed"


def test_a_domain_of_another_definition_is_an_error(module):
    def start(memory, processors, **more):
        xml = f"<domains>{DOMAIN.format(memory, processors)}</domains>"
        return module("guest_domains", {"xml": xml, "uri": "test:///default"} | more)

    assert not start(8 * 2**20, 2)["changed"], "it is as asked for"
    refused = start(4 * 2**20, 3)["msg"]
    assert refused == (
        "test runs with memory 8192 MiB, not 4096 MiB, processors 2, not 3. "
        "Remove these guests first"
    )
