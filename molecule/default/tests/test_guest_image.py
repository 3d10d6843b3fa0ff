"""The role guest_image: a disk that matches its manifest, with kernel and initrd beside it."""

import json

CURRENT = "/var/lib/ksm-testbed/images/current"


def test_the_link_names_the_hash_of_the_inputs(host):
    manifest = json.loads(host.file(f"{CURRENT}/manifest.json").content)
    assert host.file(CURRENT).linked_to.endswith(manifest["hash"])
    assert {"stress-ng", "qemu-guest-agent"} <= set(manifest["packages"])


def test_the_disk_has_the_checksum_of_the_manifest(host):
    manifest = json.loads(host.file(f"{CURRENT}/manifest.json").content)
    assert host.file(f"{CURRENT}/root.qcow2").sha256sum == manifest["sha256"]


def test_kernel_and_initrd(host):
    for name in ("vmlinuz", "initrd.img"):
        assert host.file(f"{CURRENT}/{name}").size > 1_000_000


def test_no_partial_build_is_left(host):
    assert "partial" not in host.check_output("ls /var/lib/ksm-testbed/images")
