"""Start the launcher of processes on this machine, and look for what it leaves."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path

from machine import until

PROGRAM = Path(__file__).parents[2] / "roles/processes/files/ksm_launcher.py"
OPTIONS = json.loads(
    """{"count": 2, "service": null, "command": null, "check": null, "merge": "none",
    "memory_mib": 128, "data": "same", "data_mib": 4, "workers": 2, "preload": false,
    "ready_seconds": 10, "contents": {"equal_percent": 50, "zero_percent": 10,
    "write_percent": 5, "rest_seconds": 1, "huge_pages": false}}"""
)


def left():
    """Return cgroups and directories of processes."""
    places = (Path("/run"), *Path("/sys/fs/cgroup").glob("*"), Path("/sys/fs/cgroup"))
    return [path for place in places if place.is_dir() for path in place.glob("ksm-testbed-*")]


def runs(pid):
    """Whether a process runs: one that has only not been reaped by its parent does not."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


@contextlib.contextmanager
def started(directory, **options):
    """Run the program until its copies are ready or have failed."""
    argv = [sys.executable, str(PROGRAM), "run", "--directory", str(directory), "--options"]
    asked = json.dumps(OPTIONS | options)
    with subprocess.Popen([*argv, asked], stderr=subprocess.PIPE, text=True) as process:
        until((directory / "processes.ready").exists, 60)
        yield process
        process.terminate()
    assert left() == []
    assert list(directory.glob("*.pid")) == []
