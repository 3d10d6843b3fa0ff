"""After teardown, the machines are in the state they had before."""

import os
from pathlib import Path


def test_the_testbed_s_directory_is_gone(host):
    assert not host.file("/var/lib/ksm-testbed").exists


def test_every_knob_is_restored(host):
    name = host.backend.host.rpartition("@")[2]
    file = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"], f"knobs-{name}")
    before = dict(line.rsplit(":", 1) for line in file.read_text().splitlines())
    writable = host.check_output("find /sys/kernel/mm/ksm -type f -perm -200").split()
    assert len(writable) > 5
    assert {path: host.file(path).content_string.strip() for path in writable} == {
        path: before[path] for path in writable
    }
