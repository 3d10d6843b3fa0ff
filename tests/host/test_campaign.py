"""A campaign is interrupted in many ways: finished runs are kept, and it can be continued."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from machine import (
    Playbook,
    Run,
    assert_restored,
    guests,
    knobs,
    processes,
    sampled,
    sampling,
)

pytestmark = [pytest.mark.host, pytest.mark.usefixtures("host")]
# Two arrays need no guest, so a run takes seconds. Guests are in the last test.
DEFINITION = """\
knobs: [{{run: 1, pages_to_scan: 2000, sleep_millisecs: 10, max_page_sharing: 128}}]
workloads: [{{name: work, arrays: {{change: single, ints: 100000, second: 1, changed: 2}}}}]
sampling: {{interval: 1, intervals: 4, period: 0.25}}
repetitions: {repetitions}
"""
# The agent is needed in the middle of each run, and libvirt at its end.
WITH_GUESTS = """\
guests: {count: 1}
knobs: [{run: 1, pages_to_scan: 2000, sleep_millisecs: 10}]
workloads: [{name: work, command: sleep 2, active: {from: 4, to: 7}}]
sampling: {interval: 1, intervals: 9, period: 0.25}
repetitions: 3
"""
PLAYBOOK = r"ansible-playbook .*/campaign\.yml .*site\.yml"
FIRST, SECOND = "g00-k1-work-r1", "g00-k1-work-r2"


class Campaign:
    """An experiment of two runs, the first of which is finished."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.definition = directory / "campaign.yml"
        self.results = directory / "results" / "campaign"
        self.found = knobs()
        self.started: list[Run] = []
        self.address, self.live = "", {}  # of the live page of the first run, and what it showed

    def run(self, *more: str) -> Run:
        """Start or continue it."""
        log = self.directory / f"run-{len(self.started)}.log"
        place = ("--results", str(self.results.parent))
        self.started.append(Run(str(self.definition), *place, *more, log=log))
        return self.started[-1]

    def cut(self) -> Run:
        """Continue it; return when its second run is being sampled."""
        run = self.run("--resume")
        run.until(sampling)
        assert knobs() != self.found, "the run has changed the host"
        return run

    def end(self) -> None:
        """End what a failed test has left running: it would hold the lock of the host."""
        for run in self.started:
            if run.process.poll() is None:
                run.process.terminate()
                run.wait()

    def record(self, run: str) -> dict:
        return json.loads((self.results / run / "run.json").read_text())

    def finished(self) -> dict[str, str]:
        """Return checksums of all files of the first run."""
        files = sorted((self.results / FIRST).iterdir())
        return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.fixture(scope="module")
def campaign(host, tmp_path_factory):
    """Do the first run, on a separate file system."""
    directory = tmp_path_factory.mktemp("campaign")
    made = Campaign(directory)
    made.results.parent.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=32m", "ksm-campaign", made.results.parent]
    subprocess.run(mount, check=True)
    try:
        made.definition.write_text(DEFINITION.format(repetitions=1))
        first = made.run("--serve")
        first.until(lambda: "live page: " in first.output)
        made.address = first.output.partition("live page: ")[2].split()[0]
        first.until(lambda: any(curve["points"] for curve in live(made.address)["curves"]))
        made.live = live(made.address)
        assert first.wait() == 0, first.output
        assert_restored(made.found)
        made.definition.write_text(DEFINITION.format(repetitions=2))
        yield made
    finally:
        made.end()
        subprocess.run(["umount", made.results.parent], check=True)


@pytest.fixture(autouse=True)
def untouched(campaign):
    """Check that the finished run is not changed, and the host is restored."""
    before = campaign.finished()
    yield
    campaign.end()
    assert campaign.finished() == before
    assert_restored(campaign.found)


def teardown(directory: Path) -> None:
    """Restore the host, as a user would, once."""
    playbook = Playbook("playbooks/teardown.yml", "-e", "keep_image=true", log=directory / "down")
    assert playbook.wait() == 0, playbook.output


def live(address: str) -> dict:
    """Ask the live page for its state."""
    with urllib.request.urlopen(f"{address}state", timeout=60) as answer:
        return json.load(answer)


def test_the_live_page_had_the_samples_and_ended_with_the_run(campaign):
    (curve,) = campaign.live["curves"]
    assert curve["name"].startswith(FIRST)
    assert all(0 <= seconds <= 5 and saved >= 0 for seconds, saved in curve["points"])
    with pytest.raises(urllib.error.URLError, match="refused"):
        live(campaign.address)


def test_the_controller_is_killed(campaign, tmp_path):
    run = campaign.cut()
    assert processes(PLAYBOOK), "the search below would find it"
    os.kill(run.process.pid, signal.SIGKILL)
    run.process.wait()
    deadline = time.monotonic() + 10
    while processes(PLAYBOOK):
        assert time.monotonic() < deadline, "the playbook ends too"
        time.sleep(0.1)
    teardown(tmp_path)
    assert_restored(campaign.found)


def test_the_disk_of_results_is_full(campaign):
    run = campaign.cut()
    filler = campaign.results.parent / "filler"
    subprocess.run(["dd", "if=/dev/zero", f"of={filler}", "bs=4k"], check=False)
    assert shutil.disk_usage(filler.parent).free == 0
    assert run.wait() == 1, run.output
    assert_restored(campaign.found)
    assert "No space left on device" in run.output
    assert "Traceback" not in run.output
    filler.unlink()


def test_the_campaign_can_be_completed(campaign):
    """The campaign can be completed after all interruptions."""
    last = campaign.run("--resume")
    assert last.wait() == 0, last.output
    assert campaign.record(SECOND)["status"] == "complete"
    assert {path.name for path in campaign.results.iterdir() if path.is_dir()} == {
        FIRST,
        SECOND,
        ".aside",
    }
    asides = [path.name for path in (campaign.results / ".aside").iterdir()]
    assert len(asides) >= 2, "interrupted runs are kept"
    page = campaign.results / "report.html"
    assert page.stat().st_mtime > time.time() - 60
    nothing = campaign.run("--resume")
    assert nothing.wait() == 0
    assert "provisioning the host" not in nothing.output, "nothing is left to do"


def test_guests_agent_and_libvirt_are_lost_one_after_another(campaign, tmp_path):
    """Each failure ends its own run, and the next one has all of them again."""
    definition = tmp_path / "lost.yml"
    definition.write_text(WITH_GUESTS)
    run = Run(str(definition), "--results", str(tmp_path), log=tmp_path / "log")
    campaign.started.append(run)
    ids = [f"g01-k1-work-r{n}" for n in (1, 2, 3)]

    run.until(lambda: sampled(ids[0]))
    assert knobs() != campaign.found, "the run has changed the host"
    os.kill(int(Path("/run/libvirt/qemu/ksm-guest-01.pid").read_text()), signal.SIGKILL)

    run.until(lambda: sampled(ids[1]))
    stop = {"path": "/bin/systemctl", "arg": ["stop", "--no-block", "qemu-guest-agent"]}
    ask = json.dumps({"execute": "guest-exec", "arguments": stop})
    subprocess.run(["virsh", "qemu-agent-command", "ksm-guest-01", ask], check=True)

    run.until(lambda: sampled(ids[2]))
    os.kill(int(Path("/run/libvirtd.pid").read_text()), signal.SIGKILL)

    assert run.wait() == 1, run.output
    assert_restored(campaign.found)
    assert guests() == []
    results = tmp_path / "lost"
    records = [json.loads((results / each / "run.json").read_text()) for each in ids]
    assert {record["status"] for record in records} == {"failed"}
    assert "ksm-guest-01" in records[0]["reason"]
    assert "ksm-guest-01" in records[1]["reason"]
    assert "agent" in records[1]["reason"]
    lines = (results / ids[0] / "samples.jsonl").read_text().splitlines()
    assert json.loads(lines[-2])["guests"] == {"ksm-guest-01": None}, "sampling continues"
