"""Run playbooks on this machine, with its ksmd, its libvirt and real guests."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
KSM = Path("/sys/kernel/mm/ksm")
STATE = Path("/var/lib/ksm-testbed")
SHORT = """\
guests: {{count: {count}, memory_mib: 512}}
knobs:
  - {{run: 1, pages_to_scan: 2000, sleep_millisecs: 10, smart_scan: 0}}
workloads: [{workload}]
sampling: {{interval: 1, intervals: {intervals}, period: 0.25}}
"""


def until(condition, seconds: float = 60):
    """Wait until a condition holds, and return its value. Where it cannot be read, it does not."""
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError):
            if found := condition():
                return found
        assert time.monotonic() < deadline, "timeout"
        time.sleep(0.1)


def knobs() -> dict[str, str]:
    """Return the current knobs of this kernel."""
    return {path.name: path.read_text() for path in KSM.iterdir() if path.stat().st_mode & 0o200}


def guests() -> list[str]:
    """Return the domains of the testbed, running or not; without libvirt, their processes."""
    listed = subprocess.run(
        ["virsh", "--connect", "qemu:///system", "list", "--all", "--name"],
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        return processes("guest=ksm-guest-")
    return [name for name in listed.stdout.split() if name.startswith("ksm-guest-")]


def processes(pattern: str) -> list[str]:
    """Return ids of processes whose command line matches."""
    found = subprocess.run(
        ["pgrep", "--full", pattern], capture_output=True, text=True, check=False
    )
    return found.stdout.split()


def samplers() -> list[str]:
    """Return ids of running samplers."""
    return processes(f"{STATE}/sampler/ksm_sampler.py --output")


def censuses() -> list[str]:
    """Return ids of running census programs."""
    return processes(f"{STATE}/census/ksm_census.py --output")


def is_python(pid: str) -> bool:
    """Whether this is the program itself, and not its parent with the same command line."""
    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return words[1].endswith((b"/ksm_sampler.py", b"/ksm_census.py"))


def assert_restored(knobs_before: dict[str, str]) -> None:
    """Nothing of a run is left on this machine."""
    assert knobs() == knobs_before
    assert guests() == []
    assert samplers() == []
    assert censuses() == []
    assert processes(f"{STATE}/arrays/ksm_arrays.py") == []
    assert processes(f"{STATE}/memory/ksm_memory.py") == []
    assert not (STATE / "guests").exists()
    assert not (STATE / "run").exists()
    assert not (STATE / "lock.json").exists()
    assert not (STATE / "knobs.json").exists()
    assert not (STATE / "huge_pages.json").exists()
    assert not (STATE / "hugetlb.json").exists()
    assert not (STATE / "swap.json").exists()
    if knobs_before["run"] != "1\n":
        gauges = ("pages_shared", "pages_sharing", "pages_unshared", "pages_volatile")
        assert {(KSM / name).read_text() for name in gauges} == {"0\n"}


def unexpected(warnings) -> list[str]:
    """Return warnings, except those that this machine is itself a guest whose CPUs are shared."""
    return [warning for warning in warnings if "of the CPU time was stolen" not in warning]


class Command:
    """A process in its own process group, whose output goes to a file."""

    def __init__(self, *argv: str, log: Path) -> None:
        self.log = log
        with log.open("w") as file:
            self.process = subprocess.Popen(
                argv,
                cwd=ROOT,
                stdout=file,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def wait(self, timeout: float = 600) -> int:
        """Wait until it ends and return its exit code."""
        return self.process.wait(timeout)

    @property
    def output(self) -> str:
        """Return its output so far on one line, so that wrapped messages are found."""
        return " ".join(self.log.read_text().split())

    def until(self, condition, timeout: float = 240) -> None:
        """Wait until a condition holds; fail if the play ends before it does."""
        deadline = time.monotonic() + timeout
        while not condition():
            assert self.process.poll() is None, f"the play has ended: {self.log.read_text()}"
            assert time.monotonic() < deadline, f"timeout: {self.log.read_text()}"
            time.sleep(0.1)

    def kill(self) -> None:
        """Kill it and all its workers, like a crash."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Playbook(Command):
    """One ansible-playbook."""

    def __init__(self, *arguments: str, log: Path) -> None:
        super().__init__("ansible-playbook", *arguments, log=log)


def teardown(log: Path, *more: str) -> None:
    """Restore this machine, even if an experiment runs."""
    playbook = Playbook("playbooks/teardown.yml", "-e", "force=true", *more, log=log)
    assert playbook.wait() == 0, playbook.log.read_text()


class Run(Command):
    """One `python -m ksm_analysis run`."""

    def __init__(self, *arguments: str, log: Path) -> None:
        super().__init__(sys.executable, "-m", "ksm_analysis", "run", *arguments, log=log)


def sampling() -> bool:
    """Whether a run is being sampled."""
    path = STATE / "run" / "samples.jsonl"
    return path.exists() and path.read_bytes().count(b"\n") > 4


def sampled(run: str) -> bool:
    """Whether this run is being sampled."""
    with contextlib.suppress(FileNotFoundError):  # the run before has just ended
        return sampling() and json.loads((STATE / "run/run.json").read_text())["id"] == run
    return False


def saved_by_the_kernel(counters: dict) -> int:
    """Return the pages that the kernel says are saved."""
    return counters["pages_sharing"] + counters.get("ksm_zero_pages", 0)


def census_of(path: Path) -> dict:
    """Return the last census of a run."""
    lines = map(json.loads, (path / "census.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] == "census"][-1]
