"""The role host: packages, the directory, libvirt, and the acceleration that works."""

import json


def test_packages_are_installed(host):
    for name in ("libvirt-daemon-system", "mmdebstrap", "python3-libvirt", "qemu-system-x86"):
        assert host.package(name).is_installed


def test_libvirt_answers(host):
    assert host.file("/run/libvirt/libvirt-sock").is_socket
    assert host.run("virsh --connect qemu:///system version").succeeded


def test_root_owns_the_directory_and_others_can_pass_through(host):
    directory = host.file("/var/lib/ksm-testbed")
    assert directory.is_directory
    assert (directory.user, directory.group, directory.mode) == ("root", "root", 0o755)


def test_acceleration_was_found_by_booting(host):
    found = json.loads(host.file("/var/lib/ksm-testbed/acceleration.json").content)
    assert found["acceleration"] in ("kvm", "tcg")
    assert found["evidence"]
