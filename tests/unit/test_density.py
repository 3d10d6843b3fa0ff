"""The budget of copies that are added until they do not fit, with files in place of cgroups."""

import sys
from types import SimpleNamespace

import pytest
from programs import ROLES, load

FILES = ROLES / "processes/files"
sys.path.insert(0, str(FILES))
copies = load(FILES / "ksm_copies.py")
density = load(FILES / "ksm_density.py")
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
        asked={"density": {"settle_seconds": 0.0, "psi_full": psi_full, "answer_seconds": 1}},
        state={"version": 2, "cgroup": str(group)},
        there=[],
        watch=lambda _until: path.write_text(PRESSURE.format(1_000_000 + int(seconds * 1e6))),
    )


def test_waiting_for_memory_is_a_criterion(tmp_path):
    with pytest.raises(density.FailedError, match=r"PSI full [0-9.]+ % > 10 %"):
        density.settle(stalling(tmp_path, 9, psi_full=10))
    density.settle(stalling(tmp_path, 0, psi_full=0))
    density.settle(stalling(tmp_path, 9, psi_full=None))
