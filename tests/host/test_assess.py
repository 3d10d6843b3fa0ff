"""A host is the same before and after it was assessed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from machine import KSM, ROOT
from test_doctor import OFFERS, READ_ONLY

pytestmark = pytest.mark.host
PROGRAM = ROOT / "roles/assess/files/ksm_assess.py"
BESIDE = (ROOT / "roles/part_census/files", ROOT / "roles/doctor/files")
PLACES = ("/etc", "/run", "/var/lib", "/opt", "/usr/local")
SETTINGS = ("/sys/kernel/mm", "/proc/sys/vm", "/sys/fs/cgroup")


@pytest.fixture
def offers():
    """Start two processes that offer the same memory to KSM; return their ids."""
    held = OFFERS.replace("os.urandom(4096)", "b'x' * 4096")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", held, "equal"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(2)
    ]
    try:
        assert all(each.stdout.readline() == b"offered\n" for each in processes)
        yield [each.pid for each in processes]
    finally:
        for each in processes:
            each.communicate()


def host(pids: list[int]) -> dict:
    """Return what an assessment must not change: knobs, counters, files, what a process has."""
    found = {str(path): path.read_bytes() for path in KSM.iterdir()}
    for place in SETTINGS:
        for path in Path(place).glob("*"):
            found[str(path)] = path.stat().st_mode
    for place in PLACES:
        for path in Path(place).rglob("*"):
            found[str(path)] = path.lstat().st_mtime_ns if path.is_file() else None
    found["mounts"] = Path("/proc/self/mounts").read_text()
    for pid in pids:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        # its state, faults, scheduling; not the time that it has used
        found[str(pid)] = (stat[0], stat[7], stat[9], stat[15], stat[16])
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        found[f"memory of {pid}"] = [
            line for line in lines if line.startswith(("Vm", "Rss", "Threads", "TracerPid"))
        ]
    return found


def test_the_host_is_as_it_was(offers, tmp_path):
    before, own = host(offers), [f"--guest={pid}" for pid in offers]
    command = [sys.executable, "-m", "ksm_analysis", "assess", "--json", "--minutes", "0.1"]
    done = subprocess.run([*command, *own], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)["hosts"].values()
    assert found["read"]["bytes"] >= 128 * 2**20
    # equal pages of both: one frame for each 256 of them
    assert found["freed"]["merged"] == pytest.approx(128 * 2**20 * 255 / 256, rel=0.01)
    assert host(offers) == before


def test_nothing_can_be_written_and_it_still_works(offers):
    command = ["unshare", "--mount", "bash", "-ec", READ_ONLY, "bash", sys.executable]
    done = subprocess.run(
        [*command, "-B", PROGRAM, "--seconds=1", *(f"--guest={pid}" for pid in offers)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, BESIDE))},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.count('{"kind":"moment"') == 4
