"""Reading of complete and incomplete run directories."""

import json
import re

import pandas as pd
import pytest
from made_up_runs import MONOTONIC, WALL, events, run_record, sample_lines

from ksm_analysis.errors import InputError
from ksm_analysis.results import reader
from ksm_analysis.results.reader import read_results, read_run


def warnings(path):
    return list(read_run(path).warnings)


def test_a_complete_run(write_run):
    run = read_run(write_run(guests=2, workload="stress"))

    assert run.warnings == ()
    assert run.usable
    assert list(run.samples.index) == list(range(17))
    assert run.samples.loc[4, "seconds"] == 1.0
    assert run.samples.loc[4, "ksm.pages_scanned"] == 10**9 + 48_000
    assert run.samples["ksm.general_profit"].iloc[0] == -80_000 * 64
    assert run.samples["ksm.general_profit"].dtype == "int64"
    assert set(run.samples["ksm.advisor_mode"]) == {"[none] scan-time"}
    assert run.samples["meminfo.Active(anon)"].iloc[0] == 1_000
    assert len(run.guests) == 2 * 17
    assert set(run.guests["guest"]) == {"ksm-guest-01", "ksm-guest-02"}
    assert run.end["cpu_seconds"] == 0.1
    assert run.window() == pytest.approx((0.1, 2.1))


def test_an_idle_run_has_no_window(write_run):
    assert read_run(write_run(workload="idle")).window() is None


def test_a_workload_that_is_not_known_to_have_stopped_lasts_to_the_end(write_run):
    record = run_record(guests=1, workload="stress")
    happened = [e for e in events(record) if e["event"] != "workload stopped"]
    run = read_run(write_run(record, happened=happened))

    assert run.window() == pytest.approx((0.1, 4.0))
    assert run.warnings == ("the workload of guest ksm-guest-01 has no record of its end",)


def test_a_torn_last_line_does_not_count(write_run):
    path = write_run()
    file = path / "samples.jsonl"
    file.write_bytes(file.read_bytes().rsplit(b"\n", 3)[0] + b'\n{"kind": "sample", "n": 16, "wa')
    run = read_run(path)

    assert run.samples.index[-1] == 15
    assert run.usable
    assert run.warnings[0].startswith("the last line of samples.jsonl is torn (31 bytes")


def test_a_line_without_its_newline_does_not_count(write_run):
    path = write_run()
    file = path / "samples.jsonl"
    file.write_bytes(file.read_bytes()[:-1])

    assert "the sampler was killed: its end line is missing" in warnings(path)


def test_no_end_line(write_run):
    record = run_record()
    path = write_run(record, lines=sample_lines(record)[:-5])

    assert warnings(path) == [
        "the sampler was killed: its end line is missing",
        "sampling stopped after 13 of 17 samples",
    ]


def test_sampling_that_was_ended_by_a_signal(write_run):
    record = run_record()
    lines = sample_lines(record)
    lines[-1]["reason"] = "SIGTERM"

    assert warnings(write_run(record, lines)) == ["sampling was ended early by SIGTERM"]


def test_missed_samples(write_run):
    record = run_record()
    lines = [line for line in sample_lines(record) if line.get("n") not in {3, 4, 9}]
    run = read_run(write_run(record, lines))

    assert run.warnings == ("3 of 17 samples were missed: the host was too busy",)
    assert len(run.samples) == 14


def test_a_guest_that_is_gone(write_run):
    record = run_record(guests=2)
    lines = sample_lines(record)
    for line in lines[10:-1]:
        line["guests"]["ksm-guest-02"] = None
    lines[-1]["gone"] = {"ksm-guest-02": MONOTONIC + 2.25}
    run = read_run(write_run(record, lines))

    assert run.warnings == ("guest ksm-guest-02 was gone after 2.2 s",)
    assert run.guests.groupby("guest")["n"].max().to_dict() == {
        "ksm-guest-01": 16,
        "ksm-guest-02": 8,
    }


def test_missing_guests_and_no_guests(write_run):
    record = run_record(guests=1)
    lines = sample_lines(record)
    for line in lines[1:-1]:
        line["guests"]["ksm-guest-01"] = None
    run = read_run(write_run(record, lines, name="one"))
    assert run.guests.empty
    assert run.warnings == ("guest ksm-guest-01 was gone from the beginning",)

    for line in lines[:-1]:
        line["guests"] = {}
    run = read_run(write_run(record, lines, name="none"))
    assert run.guests.empty
    assert run.usable


def test_an_old_kernel_without_some_counters(write_run):
    record = run_record(guests=1)
    lines = sample_lines(record)
    for line in lines[1:-1]:
        del line["ksm"]["general_profit"]
        line["ksmd"]["cpu_ns"] = None
        line["guests"]["ksm-guest-01"] = {"utime": 1, "stime": 1, "resident_pages": 5}
    run = read_run(write_run(record, lines))

    assert run.warnings == ()
    assert "ksm.general_profit" not in run.samples
    assert run.samples["ksmd.cpu_ns"].isna().all()


def test_a_counter_that_is_null_in_every_sample_is_not_known(write_run):
    lines = sample_lines(run_record())
    for line in lines[1:-1]:
        line["ksm"]["full_scans"] = None
    run = read_run(write_run(lines=lines))
    assert run.usable
    assert run.samples["ksm.full_scans"].isna().all()


def test_a_counter_of_a_guest_that_is_text_affects_only_its_run(write_run):
    lines = sample_lines(run_record())
    for line in lines[1:-1]:
        next(iter(line["guests"].values()))["utime"] = "text"
    run = read_run(write_run(lines=lines))
    assert not run.usable
    assert run.warnings == (
        "left out, since its samples cannot be read: utime of samples.jsonl is not a number",
    )


def test_clock_ticks_that_are_no_number_affect_only_their_run(write_run):
    lines = sample_lines(run_record())
    lines[0]["clock_ticks"] = "text"
    run = read_run(write_run(lines=lines))
    assert not run.usable
    assert "clock_ticks" in run.warnings[0]


def test_a_guest_with_any_name(write_run):
    record = run_record(guests=1)
    lines = sample_lines(record)
    name = 'a.b <script>"'
    for line in lines[:-1]:
        line["guests"] = {name: line["guests"]["ksm-guest-01"]}

    assert set(read_run(write_run(record, lines)).guests["guest"]) == {name}


def test_a_line_that_is_not_a_sample_is_skipped(write_run):
    path = write_run()
    file = path / "samples.jsonl"
    lines = file.read_text().splitlines()
    lines[5] = lines[5][:40]
    file.write_text("\n".join(lines) + "\n")
    run = read_run(path)

    assert len(run.samples) == 16
    assert run.warnings[0] == "1 of the lines of samples.jsonl are not samples; they are skipped"


@pytest.mark.parametrize(
    "line", ["{}", "", "[]", "null", '{"kind": "sample"}', '{"kind": "other", "n": 3}', "\0\0"]
)
@pytest.mark.parametrize("at", [1, 9])
def test_a_line_of_anything_else_is_skipped(write_run, line, at):
    path = write_run(guests=1)
    whole = read_run(path)
    lines = (path / "samples.jsonl").read_text().splitlines()
    lines.insert(at, line)
    (path / "samples.jsonl").write_text("\n".join(lines) + "\n")
    run = read_run(path)

    pd.testing.assert_frame_equal(run.samples, whole.samples)
    pd.testing.assert_frame_equal(run.guests, whole.guests)
    told = ("1 of the lines of samples.jsonl are not samples; they are skipped",)
    assert run.warnings == (told if line else ())  # a line without anything is none


@pytest.mark.parametrize(("line", "passed_over"), [("", 1), ('["end"]', 2), ("{}", 2)])
def test_a_line_after_the_end_line_hides_it(write_run, line, passed_over):
    path = write_run(guests=1)
    with (path / "samples.jsonl").open("a") as file:
        file.write(line + "\n")
    run = read_run(path)

    assert list(run.samples.index) == list(range(17))
    assert run.warnings == (
        f"{passed_over} of the lines of samples.jsonl are not samples; they are skipped",
        "the sampler was killed: its end line is missing",
    )


def test_a_line_that_is_longer_than_a_block(write_run, monkeypatch):
    path = write_run(guests=2)
    whole = read_run(path)
    (path / "samples.parquet").unlink()
    monkeypatch.setattr(reader, "BLOCK", 500)
    run = read_run(path)

    pd.testing.assert_frame_equal(run.samples, whole.samples)
    assert run.warnings == ()


def test_an_incomplete_line_is_reported_even_if_nothing_is_readable(write_run):
    path = write_run()
    (path / "samples.jsonl").write_text('not json\n{"kind": "sam')

    assert [warning.split(",")[0] for warning in warnings(path)] == [
        "the last line of samples.jsonl is torn (13 bytes without a newline) and is not counted",
        "left out",
    ]


@pytest.mark.parametrize(
    "content", [b"", b"{}\n", b"5\n", b"not json\n", b'{"kind": "header", "format": 1}\n']
)
def test_samples_that_cannot_be_read(write_run, content):
    path = write_run()
    (path / "samples.jsonl").write_bytes(content)
    run = read_run(path)

    assert not run.usable
    assert run.warnings[0].startswith("left out, since its samples cannot be read")


def test_a_workload_that_failed(write_run):
    record = run_record(guests=1, workload="stress")
    happened = events(record)
    happened[-1] |= {"exitcode": 2, "stderr": "first\nno memory\n"}

    assert warnings(write_run(record, happened=happened)) == [
        "the workload of guest ksm-guest-01 ended with code 2: no memory"
    ]


def test_knobs_that_changed_during_the_run(write_run):
    record = run_record()
    lines = sample_lines(record)
    lines[1]["ksm"]["run"] = 0  # before the knobs were set, at 0.1 s
    lines[-2]["ksm"]["run"] = 2
    happened = [{"event": "knobs set", "wall": WALL + 0.1, "monotonic": MONOTONIC + 0.1}]

    assert warnings(write_run(record, lines=lines, happened=happened)) == [
        "knob run was 2 at times in the run, though 1 was asked for"
    ]


def test_knobs_that_were_not_as_asked_or_not_restored(write_run):
    record = run_record()
    record["run"]["knobs"]["advisor_mode"] = "none"
    record["knobs"]["during"]["pages_to_scan"] = 50
    record["knobs"]["after"]["run"] = 1

    assert warnings(write_run(record)) == [
        "knob pages_to_scan was 50 during the run, though 1000 was asked for",
        "knob run was 0 before the run and is 1 after it",
    ]


# --- results of an experiment ---------------------------------------------------------------------


def test_failed_and_interrupted_runs_are_left_out_and_named(write_run):
    write_run(guests=1)
    record = run_record(guests=2, status="failed", reason="guest ksm-guest-02 never answered")
    path = write_run(record)
    (path / "samples.jsonl").unlink()
    (path / "events.jsonl").unlink()
    write_run(guests=3, name="g03-k1-idle-r1.partial")
    results = read_results(path.parent)

    assert [run.id for run in results.usable] == ["g01-k1-idle-r1"]
    assert [run.id for run in results.runs] == ["g01-k1-idle-r1", "g02-k1-idle-r1"]
    assert results.warnings[:2] == (
        "g03-k1-idle-r1.partial: left out, since the run was cut off before it ended",
        "g02-k1-idle-r1: left out, since the run failed: guest ksm-guest-02 never answered",
    )


def test_runs_come_in_the_order_of_the_plan(write_run):
    for guests in (10, 9):
        path = write_run(guests=guests)

    assert [run.factors["guests"] for run in read_results(path.parent).runs] == [9, 10]


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 1}', '{"format": 1, "run": 5}'])
def test_an_incomplete_record(write_run, text):
    write_run(guests=1)
    path = write_run(guests=2)
    (path / "run.json").write_text(text)
    results = read_results(path.parent)

    assert len(results.runs) == 1
    assert results.warnings[0].startswith("g02-k1-idle-r1: left out, since ")
    assert "run.json" in results.warnings[0]


def test_a_run_of_an_unknown_format_does_not_affect_others(write_run):
    write_run(guests=1)
    path = write_run(run_record(guests=2, format=7))
    results = read_results(path.parent)

    assert [run.id for run in results.runs] == ["g01-k1-idle-r1"]
    assert re.search("format 7 of run.json is not known: .* up to 2", results.warnings[0])


def test_a_directory_without_runs(tmp_path):
    with pytest.raises(InputError, match="no runs here"):
        read_results(tmp_path)
    with pytest.raises(InputError, match="No such file or directory"):
        read_results(tmp_path / "absent")


def test_only_converted_samples_are_written(write_run):
    path = write_run()
    before = {file: file.stat().st_mtime_ns for file in path.iterdir()}
    read_results(path.parent)
    after = {file: file.stat().st_mtime_ns for file in path.iterdir()}

    assert before.items() <= after.items()
    assert {file.name for file in after.keys() - before.keys()} == {
        "samples.parquet",
        "guests.parquet",
    }
    assert json.loads((path / "run.json").read_text()) == run_record()


def test_a_run_that_ended_when_it_was_steady_lacks_nothing(write_run):
    record = run_record(converged=True)
    header, *samples, end = sample_lines(record)
    run = read_run(write_run(record, [header, *samples[:9], end | {"reason": "steady"}]))

    assert run.warnings == ()
    assert run.intervals == 2


def test_a_run_that_was_not_steady_at_its_limit_is_usable_and_says_so(write_run):
    run = read_run(write_run(run_record(converged=False)))

    assert run.warnings == ("not converged: savings were not steady within 4 s",)
    assert run.usable


def test_a_log_that_was_cut_short_says_so(write_run):
    record = run_record(imported={"cut_short": "ends within interval 2 of 4"})
    header, *samples, end = sample_lines(record)
    run = read_run(write_run(record, [header, *samples[:5], end | {"reason": "cut short"}]))

    assert run.warnings == ("the log ends within interval 2 of 4",)
    assert run.intervals == 1


def test_a_workload_that_was_interrupted_since_the_run_was_steady_did_not_fail(write_run):
    record = run_record(guests=1, workload="stress")
    happened = events(record)
    happened[-1] |= {"exitcode": 2, "stopped_early": True}

    assert read_run(write_run(record, happened=happened)).warnings == ()


def test_guests_of_which_a_workload_was_expected_and_never_started(write_run):
    record = run_record(guests=3, workload="stress")
    record["run"]["workload"]["parts"][0]["guests"] = [1, 3]
    happened = [e for e in events(record) if e.get("guest") == "ksm-guest-01"]

    assert warnings(write_run(record, happened=happened)) == [
        "the workload of guest ksm-guest-03 was never started"
    ]


def test_a_workload_that_was_to_start_after_the_run_was_steady_is_not_missed(write_run):
    record = run_record(guests=1, workload="stress", converged=True)
    header, *samples, end = sample_lines(record)
    lines = [header, *samples[:9], end | {"reason": "steady"}]  # 2 s
    part = record["run"]["workload"]["parts"][0]

    part["start"] = 2.5
    assert warnings(write_run(record, lines, happened=[], name="later")) == []
    part["start"] = 1.5
    assert warnings(write_run(record, lines, happened=[], name="sooner")) == [
        "the workload of guest ksm-guest-01 was never started"
    ]


def test_an_optional_knob_is_checked_if_it_exists(write_run):
    record = run_record()
    record["run"]["knobs_if_present"] = {"smart_scan": 0, "no_such_knob": 1}
    record["knobs"]["during"]["smart_scan"] = 1

    assert read_run(write_run(record)).warnings == (
        "knob smart_scan was 1 during the run, though 0 was asked for",
    )
