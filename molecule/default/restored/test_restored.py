"""After cleanup, the machine is in the state it had before."""

import json
import os
from pathlib import Path

import pytest

KSM = "/sys/kernel/mm/ksm"
STATE = "/var/lib/ksm-testbed"


@pytest.fixture(scope="module")
def before():
    found = json.loads(Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"], "before.json").read_text())
    found["image"] |= os.environ.get("KSM_KEEP_IMAGE") == "true"  # other tests will use it
    return found


def test_every_knob_is_restored(host, before):
    found = dict(line.split(":", 1) for line in before["knobs"])
    writable = host.check_output(f"find {KSM} -type f -perm -200").split()
    assert len(writable) > 5
    now = {path: host.file(path).content_string.strip() for path in writable}
    assert now == {path: found[path] for path in writable}


def test_only_an_image_that_existed_before_is_left(host, before):
    assert host.file(f"{STATE}/images/current").exists == before["image"]
    if not before["image"]:
        assert not host.file(STATE).exists


def test_no_guest_and_no_process_is_left(host):
    for name in ("guests", "run", "knobs.json", "lock.json"):
        assert not host.file(f"{STATE}/{name}").exists
    running = host.check_output("ps -eo args")
    assert "guest=ksm-guest-" not in running
    assert f"{STATE}/sampler/ksm_sampler.py" not in running
    assert f"{STATE}/arrays/ksm_arrays.py" not in running
    assert f"{STATE}/census/ksm_census.py" not in running


def test_libvirt_runs_only_if_it_ran_or_an_image_existed_before(host, before):
    if not before["libvirt"] and not before["image"]:
        assert not host.run("virsh --connect qemu:///system version").succeeded
