"""The program that measures writes, and what is read from its file."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from made_up_runs import MONOTONIC, events, run_record, sample_lines
from programs import ROLES, load

from ksm_analysis.metrics import measurement, summary, writes
from ksm_analysis.page import sections
from ksm_analysis.results import reader
from ksm_analysis.results.record import upgraded
from ksm_analysis.results.writes import of_lines

PROGRAM = ROLES / "part_write_probe/files/ksm_write_probe.py"
probe = load(PROGRAM)
OPTIONS = {
    "mib": 1,
    "equal": True,
    "rate": 300.0,
    "ksmd": "other",
    "stop_ksmd": 3.0,
    "seed": 0,
}


# --- the program ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mergeable", "was_ksm", "before", "after", "kind"),
    [
        (True, True, 5, 6, "merged"),
        (True, False, 5, 5, "unmerged"),
        (False, False, 5, 5, "plain"),
        (True, False, 5, 6, "moved"),  # ksmd merged the page before the write
        (True, True, 5, 5, "moved"),
        (True, False, 0, 6, "moved"),  # it was not in memory
    ],
)
def test_a_write_is_named_by_the_frames_of_its_page(mergeable, was_ksm, before, after, kind):
    assert probe.kind_of(mergeable, was_ksm, before, after) == kind


def test_contents():
    equal = [probe.content(page, True) for page in range(64)]
    assert {len(each) for each in equal} == {probe.PAGE}
    assert len(set(equal)) == 64 / probe.COPIES
    assert len({probe.content(page, False) for page in range(64)}) == 64
    assert bytes(probe.PAGE) not in equal


def run(*arguments):
    return subprocess.run(
        [sys.executable, PROGRAM, "--mib", "1", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may read frames")
def test_memory_that_cannot_merge_is_never_merged_and_keeps_its_contents():
    done = run("--seconds", "1.2", "--rate", "500")
    assert done.returncode == 0, done.stderr
    header, *batches, end = map(json.loads, done.stdout.splitlines())
    assert (header["kind"], header["pages"], end["kind"]) == ("header", 256, "end")
    assert 0 < header["clock"]["p50_ns"] <= header["clock"]["p99_ns"]
    count = {kind: sum(len(batch[kind]) for batch in batches) for kind in probe.KINDS}
    assert count["merged"] == count["moved"] == 0
    assert count["unmerged"] == count["plain"] == pytest.approx(600, abs=150)
    assert len(batches) == 2
    assert sum(len(batch["late"]) for batch in batches) == count["plain"]


@pytest.mark.host  # its memory is mergeable
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may read frames")
def test_a_write_stores_what_is_there():
    asked = probe.parse_arguments(["--mib", "1", "--equal"])
    measured = probe.Probe(asked)
    before = {merge: bytes(region.memory) for merge, region in measured.regions.items()}
    kinds = [kind for _ in range(200) for kind, _ in measured.both()]
    assert set(kinds) <= {"merged", "unmerged", "plain"}
    assert kinds.count("plain") == 200
    assert before == {merge: bytes(region.memory) for merge, region in measured.regions.items()}


@pytest.mark.host  # its memory is mergeable
def test_its_pid_file_goes_when_it_is_ended(tmp_path):
    output, pid = tmp_path / "probe.jsonl", tmp_path / "probe.pid"
    command = [sys.executable, PROGRAM, "--mib", "1", "--output", output, "--pid-file", pid]
    process = subprocess.Popen(command)
    try:
        while not pid.exists():
            assert process.poll() is None
        assert output.stat().st_mode & 0o777 == 0o600
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(10) == 143
        assert not pid.exists()
    finally:
        process.kill()


@pytest.mark.parametrize("wrong", [("--mib", "0"), ("--rate", "0"), ("--ksmd", "here")])
def test_wrong_arguments_are_refused(wrong):
    done = run(*wrong)
    assert done.returncode == 2
    assert wrong[0] in done.stderr
    assert "Traceback" not in done.stderr


# --- what is read from its file -------------------------------------------------------------------


def batch(seconds, run, scans, **kinds):
    times = {name: kinds.get(name, []) for name in probe.LISTS}
    state = {"run": run, "full_scans": scans, "merging_pages": 0}
    return {"kind": "writes", **times, "ksm": state, "monotonic": MONOTONIC + seconds}


LINES = [
    {
        "kind": "header",
        "format": 1,
        "clock": {"n": 10000, "p50_ns": 50, "p99_ns": 60, "p999_ns": 90},
        "ksm": {"run": 1, "full_scans": 7, "merging_pages": 0},
    },
    batch(1, 1, 8, unmerged=[400] * 100, plain=[300] * 100),
    batch(2, 1, 9, merged=[6000] * 10, unmerged=[400] * 90, plain=[300] * 100),
    batch(3, 1, 11, merged=[*range(1000, 2001)], plain=[200] * 1001, moved=[1]),
    {"event": "ksmd stopped", "wall": 1.0, "monotonic": MONOTONIC + 3},
    batch(4, 0, 11, merged=[3000] * 150, plain=[500] * 150, late=[70_000] * 150),
]


@pytest.fixture
def read(write_run):
    """Read a run whose probe has written these lines."""

    def read(lines, samples=None, **options):
        made_up = run_record(guests=0, workload="probe", intervals=4)
        record = upgraded(made_up)
        record["run"]["parts"].append(
            {"name": "write_probe", "role": "", "options": {**OPTIONS, **options}}
        )
        path = write_run(record, samples or sample_lines(made_up), events(made_up))
        text = "".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines)
        (path / "write_probe.jsonl").write_text(text)
        return reader.read_run(path)

    return read


def test_percentiles_of_each_phase_and_kind(read):
    table = writes.by_phase(read(LINES)).set_index(["phase", "kind"])
    assert list(table.index) == [
        ("first scans", "merged"),
        ("first scans", "unmerged"),
        ("first scans", "plain"),
        ("settled", "merged"),
        ("settled", "plain"),
        ("settled", "moved"),
        ("ksmd stopped", "merged"),
        ("ksmd stopped", "plain"),
        ("ksmd stopped", "late"),
    ]
    settled = table.loc["settled", "merged"]
    assert settled.to_dict() == pytest.approx(
        {"n": 1001, "p50_us": 1.5, "p99_us": 1.99, "p999_us": 1.999}
    )
    few = table.loc["first scans", "merged"]
    assert (few["n"], few["p50_us"]) == (10, 6)
    assert few[["p99_us", "p999_us"]].isna().all(), "no p99 of ten writes"


def test_the_last_phase_stands_for_the_run(read):
    row = summary.summary([measurement.measure(read(LINES))]).iloc[0]
    assert row["write_phase"] == "ksmd stopped"
    assert (row["write_merged_n"], row["write_unmerged_n"], row["write_moved_n"]) == (150, 0, 0)
    assert row["write_difference_p50_us"] == pytest.approx(2.5)
    assert row["write_difference_p99_us"] == pytest.approx(2.5)
    assert row["write_late_p99_us"] == pytest.approx(70)
    assert row["write_clock_p50_us"] == pytest.approx(0.05)
    assert tuple(name for name in row.index if name.startswith("write_")) == writes.COLUMNS


def test_without_ksm_there_is_one_phase(read):
    header = {**LINES[0], "ksm": {"run": 0, "full_scans": 7, "merging_pages": 0}}
    found = read([header, batch(1, 0, 7, plain=[1]), batch(2, 0, 7, plain=[2])]).writes
    assert set(found.rows["phase"]) == {"KSM off"}
    assert found.rows["seconds"].to_list() == [1, 2]


@pytest.mark.parametrize(
    "damaged",
    [
        batch(3, 1, 9) | {"merged": [-1]},
        batch(3, 1, 9) | {"merged": ["x"]},
        batch(3, 1, 9) | {"plain": None},
        batch(3, 1, 9) | {"late": 7},
        batch(3, 1, 9) | {"ksm": {"run": "1"}},
        batch(3, 1, 9) | {"monotonic": None},
    ],
)
def test_a_damaged_line_loses_only_its_own_writes(damaged, read):
    found = read([*LINES, damaged])
    assert len(found.writes.rows) == len(read_rows := found.writes.rows) == 2853
    assert read_rows["ns"].min() > 0
    assert any("1 of the lines of its writes" in warning for warning in found.warnings)


@pytest.mark.parametrize("lines", [[], ["not json\n"], [LINES[0]], [{"kind": "header"}]])
def test_without_writes_there_is_a_warning(lines, read):
    found = read(lines)
    assert found.writes is None
    assert any("write" in warning for warning in found.warnings)
    assert summary.summary([measurement.measure(found)]).filter(like="write_").empty


def test_figures_have_the_numbers(read):
    shown = {
        section.id: section for section in sections.sections_of([measurement.measure(read(LINES))])
    }
    percentiles, distribution = shown["writes"].figures
    ((_, points),) = percentiles.panels
    merged = next(trace for trace in points.data if trace.name == "merged, p50")
    assert dict(zip(merged.x, merged.y, strict=True)) == {
        "first scans": 6,
        "settled": 1.5,
        "ksmd stopped": 3,
    }
    ((_, tails),) = distribution.panels
    assert all(trace.y[0] == 100 for trace in tails.data)
    merged = next(t for t in tails.data if t.name.startswith("merged · ksmd stopped (n = 150"))
    assert (list(merged.x), list(merged.y)) == ([3], [100])


@pytest.mark.parametrize(("stop", "warned"), [(3.0, False), (0.0, True)])
def test_only_a_probe_that_is_to_stop_ksmd_may_do_so_without_a_warning(stop, warned, read):
    samples = sample_lines(run_record(guests=0, workload="probe", intervals=4))
    for line in samples:
        if line["kind"] == "sample":
            line["ksm"]["run"] = int(line["n"] < 3)
    found = read(LINES, samples, stop_ksmd=stop)
    assert any("knob run was 0" in warning for warning in found.warnings) == warned


def test_ksmd_that_stopped_before_its_first_scan_is_not_called_off():
    found = of_lines([batch(n, run, 7, plain=[300]) for n, run in ((1, 1), (2, 0))], MONOTONIC)
    assert found.rows["phase"].tolist() == ["first scans", "ksmd stopped"]
    off = of_lines([batch(n, 0, 7, plain=[300]) for n in (1, 2)], MONOTONIC)
    assert set(off.rows["phase"]) == {"KSM off"}


def test_without_a_state_in_the_header_scans_count_from_the_first_line():
    lines = [batch(1, 1, 8, plain=[300]), batch(2, 1, 20, plain=[300]), batch(3, 1, 21, plain=[1])]
    assert of_lines(lines, MONOTONIC).rows["phase"].tolist() == [
        "first scans",
        "first scans",
        "settled",
    ]


def test_a_rate_that_cannot_be_kept_changes_no_times(monkeypatch, tmp_path):
    """Each pair of writes takes 2 ms, and 10,000 a second are asked for."""

    class Slow:
        pages = 1

        def __init__(self, asked):
            self.random = random.Random(0)

        def both(self):
            time.sleep(0.002)
            yield "plain", 1

    stopped = []
    monkeypatch.setattr(probe, "Probe", Slow)
    monkeypatch.setattr(probe, "stop_ksmd", lambda _: stopped.append(time.monotonic()))
    arguments = ["--rate", "10000", "--seconds", "1.5", "--stop-ksmd", "0.5"]
    begun = time.monotonic()
    with (tmp_path / "lines").open("wb") as file:
        probe.work(probe.parse_arguments(arguments), file.fileno())
    assert time.monotonic() - begun < 2.5
    assert stopped[0] - begun == pytest.approx(0.5, abs=0.3)
