"""The simulator beside the real ksmd: some of the cases of `python -m bench simulator`."""

import subprocess
import sys

import pytest
from machine import ROOT

pytestmark = pytest.mark.host


def test_all_counters_are_those_of_the_real_ksmd_after_each_scan(restored):
    command = [sys.executable, "bench/simulator.py", "--cases", "24", "--scans", "8", "--why"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "24 cases, 192 scans: 0 cases differ" in ran.stdout
