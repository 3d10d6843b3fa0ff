"""The budget of copies that are added until they do not fit, with files in place of cgroups."""

import sys
import time
from types import SimpleNamespace

import pytest
from programs import ROLES, load

FILES = ROLES / "processes/files"
sys.path.insert(0, str(FILES))
copies = load(FILES / "ksm_copies.py")
density = load(FILES / "ksm_density.py")
sys.path.insert(0, str(ROLES / "part_arrivals/files"))
guests = load(ROLES / "part_density/files/ksm_guest_density.py")
ASKED = {"settle_seconds": 0.0, "answer_seconds": 1, "answer_p99_ms": None, "psi_full": None}
PRESSURE = "some avg10=0.00 total=900000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total={}\n"


def test_a_budget_is_of_memory_and_swap_together(tmp_path):
    (tmp_path / "memory.swap.max").write_text("max")
    copies.limit({"version": 2}, tmp_path, 64, swap=False)
    assert (tmp_path / "memory.max").read_text() == str(64 * 2**20)
    assert (tmp_path / "memory.swap.max").read_text() == "0"
    (tmp_path / "memory.memsw.limit_in_bytes").write_text("9")
    copies.limit({"version": 1}, tmp_path, 64, swap=False)
    for name in ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"):
        assert (tmp_path / name).read_text() == str(64 * 2**20)


def test_a_copy_alone_may_swap(tmp_path):
    (tmp_path / "memory.swap.max").write_text("max")
    copies.limit({"version": 2}, tmp_path, 64)
    assert (tmp_path / "memory.swap.max").read_text() == "max"


def stalling(group, seconds, psi_full):
    """Make copies that wait for memory for some seconds while they are watched."""
    path = group / "memory.pressure"
    path.write_text(PRESSURE.format(1_000_000))
    return SimpleNamespace(
        asked={"density": {**ASKED, "psi_full": psi_full}},
        state={"version": 2, "cgroup": str(group)},
        there=[],
        watch=lambda _until: path.write_text(PRESSURE.format(1_000_000 + int(seconds * 1e6))),
    )


def test_waiting_for_memory_is_a_criterion(tmp_path):
    with pytest.raises(density.FailedError, match=r"PSI full [0-9.]+ % > 10 %"):
        density.settle(stalling(tmp_path, 9, psi_full=10))
    density.settle(stalling(tmp_path, 0, psi_full=0))
    density.settle(stalling(tmp_path, 9, psi_full=None))


def answering(slow, answer_p99_ms):
    """Make a copy that takes 20 ms for the first answers."""
    waits = iter([0.02] * slow + [0] * 200)
    return SimpleNamespace(
        asked={"density": {**ASKED, "answer_p99_ms": answer_p99_ms}},
        there=[{"name": "process-01"}],
        answers=lambda _copy, _seconds: time.sleep(next(waits)) is None,
        has_ended=lambda _copy: False,
    )


def test_the_time_of_answers_is_a_criterion():
    with pytest.raises(density.FailedError, match=r"process-01: p99 of answers [0-9.]+ ms > 19 ms"):
        density.require_p99(answering(2, 19))
    density.require_p99(answering(0, 1000))


def test_a_copy_that_does_not_answer_is_over_each_limit():
    silent = answering(0, 1000)
    silent.asked["density"]["answer_seconds"] = 0
    silent.answers = lambda _copy, _seconds: False
    silent.has_ended = lambda _copy: True
    with pytest.raises(density.FailedError, match="inf ms > 1000 ms"):
        density.require_p99(silent)


V1 = """\
tmpfs /sys/fs/cgroup tmpfs rw 0 0
cgroup /v1/cpuset cgroup rw,cpuset 0 0
cgroup /v1/memory cgroup rw,memory 0 0
cgroup /v1/systemd cgroup rw,name=systemd 0 0
"""


def test_a_budget_of_guests_is_a_partition_in_each_hierarchy():
    budget = guests.budget_of(V1, systemd=False)
    assert budget["cgroup"] == "/v1/memory/ksmtestbed.partition"
    assert budget["groups"] == ["/v1/cpuset/ksmtestbed.partition", budget["cgroup"]]
    assert budget["slice"] is None


@pytest.mark.parametrize(("enabled", "changes"), [("memory pids", False), ("pids", True)])
def test_a_budget_of_version_2_enables_the_memory_controller(enabled, changes, tmp_path):
    (tmp_path / "cgroup.controllers").write_text("memory pids")
    (tmp_path / "cgroup.subtree_control").write_text(enabled)
    budget = guests.budget_of(f"cgroup2 {tmp_path} cgroup2 rw 0 0\n", systemd=False)
    assert budget["groups"] == [budget["cgroup"]] == [f"{tmp_path}/ksmtestbed.partition"]
    assert (budget["control"] is not None) == changes


def test_a_budget_of_guests_under_systemd_is_a_slice():
    budget = guests.budget_of(V1, systemd=True)
    assert budget["cgroup"] == "/v1/memory/ksmtestbed.slice"
    assert (budget["slice"], budget["groups"]) == ("ksmtestbed.slice", [])
