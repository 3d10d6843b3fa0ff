"""Runs on real guests, and the state of the host when they are interrupted."""

import json
import shutil
import subprocess
import time
from itertools import pairwise
from pathlib import Path

import pytest
from machine import (
    KSM,
    ROOT,
    SHORT,
    STATE,
    Run,
    census_of,
    guests,
    knobs,
    sampling,
    saved_by_the_kernel,
    unexpected,
)

from ksm_analysis.metrics import measurement
from ksm_analysis.results.reader import read_run

pytestmark = [pytest.mark.host, pytest.mark.usefixtures("host")]


def record(results: Path, run: str) -> dict:
    return json.loads((results / run / "run.json").read_text())


def samples(results: Path, run: str) -> list[dict]:
    lines = (results / run / "samples.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == "sample"]


def runs(results: Path) -> list[Path]:
    return [path for path in results.iterdir() if path.is_dir()]


def counters() -> dict[str, int]:
    """Read counters that only grow."""
    return {name: int((KSM / name).read_text()) for name in ("full_scans", "pages_scanned")}


def events(results: Path, run: str) -> list[dict]:
    files = [results / run / f"{name}.jsonl" for name in ("events", "workload")]
    return [json.loads(row) for file in files if file.exists() for row in file.open()]


def test_two_guests_under_stress(experiment, restored, tmp_path):
    workload = "{name: stress, stress_ng: {vm: 1, vm_bytes: 32M}, active: {from: 0, to: 6}}"
    text = SHORT.format(count=2, intervals=18, workload=workload) + "census: [end]\n"
    play = experiment(text=text)
    play.until(sampling)
    seen = [(time.monotonic(), counters()) for _ in range(8) if not time.sleep(0.3)]
    other = ("experiments/arrays-single.yml", "--results", str(tmp_path / "other"))
    refused = Run(*other, log=tmp_path / "refused")
    assert refused.wait() == 1
    assert "this host is locked by ansible-playbook" in refused.output
    assert f"(process {play.process.pid})" in refused.output
    assert sampling(), "the run that holds the lock continues"
    assert play.wait() == 0, play.log.read_text()

    run = "g02-k1-stress-r1"
    assert record(experiment.results, run)["status"] == "complete"
    taken = samples(experiment.results, run)
    assert [sample["n"] for sample in taken] == list(range(73))
    assert_agrees(taken, seen)
    first, last = taken[0], taken[-1]
    assert first["ksm"]["run"] == 0
    assert first["ksm"]["full_scans"] == first["ksm"]["pages_unshared"] == 0, "from nothing"
    assert last["ksm"]["run"] == 1
    assert last["ksm"]["pages_to_scan"] == 2000
    assert last["ksm"]["pages_sharing"] > 0
    assert set(last["guests"]) == {"ksm-guest-01", "ksm-guest-02"}
    assert all(guest["resident_pages"] > 10_000 for guest in last["guests"].values())
    assert_worked(events(experiment.results, run), taken)
    assert_counted(experiment.results / run)
    assert '<figure id="who-shares"' in (experiment.results / "report.html").read_text()


def assert_agrees(taken, seen):
    """A counter that was read in parallel lies between the samples around it."""
    checked = 0
    for moment, read in seen:
        for before, after in pairwise(taken):
            # A sample is not taken in one instant: skip the time between samples.
            if before["monotonic"] + 0.05 < moment < after["monotonic"] - 0.05:
                for name, value in read.items():
                    assert before["ksm"][name] <= value <= after["ksm"][name]
                    checked += 1
    assert checked > 0


def assert_worked(happened, taken):
    """Both guests worked, stopped before the end, and report their throughput."""
    started = [event for event in happened if event["event"] == "workload started"]
    stopped = [event for event in happened if event["event"] == "workload stopped"]
    assert {event["guest"] for event in started} == {"ksm-guest-01", "ksm-guest-02"}
    assert len(stopped) == 2
    for event in stopped:
        assert event["exitcode"] == 0
        assert "bogo-ops-per-second-real-time" in event["stdout"]
        assert taken[0]["monotonic"] < event["monotonic"] < taken[-1]["monotonic"]


def assert_counted(directory):
    """The census agrees with the counters of the kernel."""
    run = read_run(directory)
    census, last = census_of(directory), run.samples.iloc[-1]
    assert unexpected(run.warnings) == []
    assert census["monotonic"] - run.header["monotonic"] == pytest.approx(18, abs=1)
    # ksmd runs between the last sample and the census, and during the census
    sampled = last["ksm.pages_sharing"] + last.get("ksm.ksm_zero_pages", 0)
    assert sampled > 10_000
    assert census["saved_pages"] == pytest.approx(sampled, rel=0.03)
    around = [saved_by_the_kernel(census[key]) for key in ("ksm", "ksm_after")]
    assert min(around) * 0.99 <= census["saved_pages"] <= max(around) * 1.01
    assert 0 < census["efficiency"] <= 1
    attributed = [guest["attributed_bytes"] for guest in census["guests"].values()]
    assert sum(attributed) == census["saved_pages"] * census["page_size"]
    # What the kernel calls profit counts the frames that are kept, and takes off its rmap_items
    stats = [guest["ksm_stat"] for guest in census["guests"].values()]
    kept = census["ksm_frames"] * census["page_size"]
    items = sum(stat["ksm_rmap_items"] for stat in stats) * 64
    profit = sum(stat["ksm_process_profit"] for stat in stats)
    assert sum(attributed) + kept - items == pytest.approx(profit, rel=0.01)
    assert census["guests"].keys() == {"ksm-guest-01", "ksm-guest-02"}
    shared = census["matrix"]["pages"]
    assert shared[0][1] > 1000
    assert shared[1][0] > 1000
    efficiency = measurement.measure(run).last_census["efficiency_percent"]
    assert efficiency == pytest.approx(100 * census["efficiency"])


MIXED = """\
guests: {count: 2, balloon_mib: 320, vcpus: 2, numa: 2}
processes: {count: 1, service: python, data_mib: 4, workers: 1}
knobs: [{pages_to_scan: 5000, sleep_millisecs: 10}]
knobs_if_present: {smart_scan: 0, no_kernel_has_this: 1}
workloads:
  - name: mixed
    mixed:
      - stress_ng: {vm: 1, vm_bytes: 32M}
      - command: cat /sys/devices/system/node/online; grep MemTotal /proc/meminfo; sleep 90
    nosharepages: [2]
  - {name: broken, command: exit 3}
sampling: {interval: 1, intervals: 60, period: 0.25}
stop: {steady: {scans: 3, seconds: 4, percent: 50}}
"""


def test_a_run_of_different_guests_ends_when_it_is_steady(experiment, restored):
    play = experiment(text=MIXED)
    assert play.wait() != 0
    broken = record(experiment.results, "g02-p001-k1-broken-r1")
    assert broken["status"] == "failed", "an early end does not hide it"
    assert "/usr/bin/timeout ended with 3" in broken["reason"]
    kept = record(experiment.results, "g02-p001-k1-mixed-r1")
    assert kept["status"] == "complete", kept["reason"]
    sampler = experiment.results / "g02-p001-k1-mixed-r1/sampler.json"
    assert json.loads(sampler.read_text())["summary"]["converged"] is True
    assert kept["knobs"]["during"]["smart_scan"] == 0
    taken = samples(experiment.results, "g02-p001-k1-mixed-r1")
    assert 16 < len(taken) < 200, "it has ended early"
    assert (len(taken) - 1) % 4 == 0, "at the end of an interval"
    last = taken[-1]["guests"]
    assert last["ksm-guest-01"]["ksm_merging_pages"] > 0
    assert last["ksm-guest-02"]["ksm_merging_pages"] == 0, "nosharepages"
    assert last["process-01-w1"]["ksm_rmap_items"] > 1000, "a process beside the guests"
    happened = events(experiment.results, "g02-p001-k1-mixed-r1")
    ended = {e["guest"]: e for e in happened if e["event"] == "workload stopped"}
    assert all(event["stopped_early"] for event in ended.values())
    assert "bogo-ops-per-second-real-time" in ended["ksm-guest-01"]["stdout"]
    nodes, memory = ended["ksm-guest-02"]["stdout"].splitlines()
    assert nodes == "0-1"
    assert 200 * 1024 < int(memory.split()[1]) <= 320 * 1024, "the balloon has taken the rest"
    began = {e["guest"]: e["monotonic"] for e in happened if e["event"] == "workload started"}
    assert all(abs(at - taken[0]["monotonic"]) < 0.5 for at in began.values())


ARRAYS = """\
workloads: [{name: two, arrays: {change: single, second: 0.5, changed: 1}}]
knobs: [{run: 1}, {max_page_sharing: 1}, {run: 0}]
sampling: {interval: 1, intervals: 2, period: 0.5}
"""


@pytest.fixture
def tiny(module):
    """Make an image of one's own: a boot sector that fills 512 KiB of memory and stops."""
    disk, images = STATE / "tiny.raw", STATE / "images"
    code = "fa bb0010 8ec3 31ff b8a5a5 b90080 fc f3ab 81c30010 81fb0090 72e9 f4 ebfd"
    disk.write_bytes((bytes.fromhex(code).ljust(510, b"\0") + b"\x55\xaa").ljust(2**20, b"\0"))
    found = disk.with_suffix(".qcow2")
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", disk, found], check=True)
    definition = {"name": "tiny", "file": str(found), "agent": False, "ready_seconds": 1}
    role = json.dumps({"guest_image_definition": definition})
    ansible = ("ansible", "localhost", "-m", "include_role", "-a", "name=ksm.testbed.guest_image")
    subprocess.run([*ansible, "-e", role], check=True, cwd=ROOT, capture_output=True)
    yield definition
    shutil.rmtree((images / "tiny").resolve())
    for path in (images / "tiny", disk, found):
        path.unlink()


def hugetlb() -> dict[str, int]:
    """Return how many huge pages are reserved, and how many of these are free."""
    rows = [line.split() for line in Path("/proc/meminfo").read_text().splitlines()]
    return {
        row[0]: int(row[1]) for row in rows if row[0] in ("HugePages_Total:", "HugePages_Free:")
    }


CUT = """\
images: [{}]
guests:
  count: 3
  memory_mib: 256
  image: [[base, tiny]]
  backing: hugepages
  arrivals: [0, 1, 50]
  lifetimes: [99, 3, 99]
swap: {{zram_mib: 64}}
sampling: {{interval: 1, intervals: 60, period: 0.25}}
"""


def test_the_lock_of_a_dead_experiment_is_taken_over(experiment, tiny, restored):
    """Of one whose guests came and went, in huge pages, and with other swap space.

    tests/host/test_campaign.py restores by teardown instead.
    """
    before, pages, swaps = knobs(), hugetlb(), Path("/proc/swaps").read_text()
    told = STATE / "run/arrivals.jsonl"
    cut = experiment(text=CUT.format(json.dumps(tiny)))
    cut.until(sampling)
    assert guests() == ["ksm-guest-01", "ksm-guest-02", "ksm-guest-03"], "some are only defined"
    cut.until(lambda: told.exists() and "guest left" in told.read_text())
    time.sleep(0.5)  # two samples
    cut.kill()
    assert knobs() != before, "the run has changed the host"
    assert hugetlb()["HugePages_Total:"] == pages["HugePages_Total:"] + 3 * 128
    assert hugetlb()["HugePages_Free:"] < pages["HugePages_Free:"] + 3 * 128, "guests are in them"
    assert "/dev/zram" in Path("/proc/swaps").read_text()
    (left,) = runs(experiment.results)
    assert left.name == "g03-k1-idle-r1.partial"
    after = experiment(text=ARRAYS)
    assert after.wait() != 0
    assert_others_go_on_after_a_failed_run(experiment.results)
    assert hugetlb() == pages
    assert Path("/proc/swaps").read_text() == swaps
    (kept,) = (STATE / "uncollected").glob("g03-k1-idle-r1-*")
    there = [each["guests"] for each in samples(kept.parent, kept.name)]
    assert "ksm-guest-02" not in there[0]
    assert any(each.get("ksm-guest-02") for each in there)
    assert there[-1]["ksm-guest-01"]
    assert there[-1]["ksm-guest-02"] is None
    shutil.rmtree(kept)


def assert_others_go_on_after_a_failed_run(results):
    kept = {path.name: record(results, path.name) for path in runs(results)}
    assert [kept[name]["status"] for name in sorted(kept)] == ["complete", "failed", "complete"]
    assert "max_page_sharing=1: Invalid argument" in kept["g00-k2-two-r1"]["reason"]
    baseline = samples(results, "g00-k3-two-r1")
    assert {sample["ksm"]["pages_scanned"] for sample in baseline} == {
        baseline[0]["ksm"]["pages_scanned"]
    }, "run: 0 is KSM off"


def test_a_guest_that_never_answers(experiment, restored):
    play = experiment(more=("-e", "guests_ready_timeout=2"))
    assert play.wait() != 0
    kept = record(experiment.results, "g01-k1-idle-r1")
    assert kept["status"] == "failed"
    assert "ksm-guest-01: timeout while waiting for its agent to answer" in kept["reason"]
    assert (experiment.results / "g01-k1-idle-r1" / "ksm-guest-01.console.log").exists()


def test_an_unknown_knob_boots_no_guest(experiment, restored):
    experiment.results.mkdir(parents=True)
    (experiment.results / "precious").touch()
    text = "guests: {count: 1}\nknobs: [{run: 1, pages_to_skan: 5}]\nworkloads: [idle]\n"
    text += "sampling: {interval: 1, intervals: 2, period: 0.5}\n"
    play = experiment(text=text)
    assert play.wait() != 0
    assert "no knob pages_to_skan" in play.output
    assert (experiment.results / "precious").exists(), "a refused experiment moves nothing"
    assert "Start the guests" not in play.output


def test_a_package_that_the_image_lacks_boots_no_guest(experiment, restored):
    workload = "{name: cache, command: redis-server, requires: [redis-server, stress-ng]}"
    play = experiment(workload=workload)
    assert play.wait() != 0
    assert "Workload cache needs redis-server, which image base of localhost" in play.output
    assert "guest_image_extra_packages" in play.output
    assert "Start the guests" not in play.output


def test_guests_that_do_not_fit_are_refused_with_the_numbers():
    role = ("-m", "include_role", "-a", "name=ksm.testbed.guests tasks_from=preflight")
    asked = json.dumps({"guests_count": 1, "guests_overhead_mib": 100000000})
    argv = ["ansible", "localhost", *role, "-e", asked]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "1 guests do not fit" in done.stdout
    assert "(512 + 100000000 each)" in done.stdout


def test_an_error_in_the_definition_changes_nothing(experiment, restored):
    play = experiment(text="guests:\n  cuont: 3\n")
    assert play.wait() != 0
    assert "short.yml:2" in play.output
    assert "cuont" in play.output
    assert "Lock the host, or renew its lock" not in play.output
