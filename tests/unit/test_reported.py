"""Metrics that a part of a run reports: read, reduced to a value of a run, compared."""

import json
import math

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_runs import MONOTONIC, WALL, Writer, events, json_lines, run_record, sample_lines

from ksm_analysis.__main__ import main
from ksm_analysis.analysis import comparison
from ksm_analysis.metrics import measurement, reported, summary
from ksm_analysis.results import reader
from ksm_analysis.results.record import upgraded
from ksm_analysis.results.reported import MOST, of_lines

# full_scans of the made-up samples rises every three samples, and a sample is taken every 0.25 s
SETTLED = 1.5


def line(metric="set_p99", value=1.0, at=2.0, **other):
    return {
        "metric": metric,
        "value": value,
        "wall": WALL + at,
        "monotonic": MONOTONIC + at,
    } | other


@pytest.fixture
def write(tmp_path):
    """Write a run whose part `own` has written these lines; return its directory."""

    def write(lines, directory="results", **factors):
        made_up = run_record(guests=0, workload="load", **factors)
        record = upgraded(made_up)
        record["run"]["parts"].append({"name": "own", "role": "", "options": {}})
        writer = Writer(tmp_path / directory)
        path = writer(record, sample_lines(made_up), events(made_up))
        text = "".join(each if isinstance(each, str) else json_lines([each]) for each in lines)
        (path / "own.jsonl").write_text(text)
        return path

    return write


@pytest.fixture
def read(write):
    return lambda lines, **factors: reader.read_run(write(lines, **factors))


def row(run):
    return summary.summary([measurement.measure(run)]).iloc[0]


def test_lines_become_rows_in_the_order_of_time(read):
    run = read([
        line(value=2, at=3, unit="ms", better="lower", of="process-02", since=MONOTONIC + 2),
        line(value=1.5, at=1, unit="ms"),
    ])  # fmt: skip
    assert run.warnings == ()
    assert run.reported.to_dict("records") == [
        {"seconds": 1, "since": 1, "metric": "set_p99", "value": 1.5, "unit": "ms", "better": "",
         "of": "", "settled": False},
        {"seconds": 3, "since": 2, "metric": "set_p99", "value": 2, "unit": "ms",
         "better": "lower", "of": "process-02", "settled": True},
    ]  # fmt: skip


def test_the_settled_phase_stands_for_a_run(read):
    run = read([line(value=9, at=0.2), line(value=2, at=SETTLED), line(value=4, at=3)])
    assert row(run)[["set_p99", "reported_phase"]].to_list() == [3, "settled"]


def test_a_value_that_covers_more_than_the_settled_phase_is_not_settled(read):
    run = read([line(value=9, at=3.5, since=MONOTONIC), line("rps", 5, at=3)])
    assert row(run)["set_p99"] == 9
    assert row(run)["reported_phase"] == "settled; whole run: set_p99"


def test_without_ksm_the_whole_run_counts(write):
    path = write([line(value=1, at=1), line(value=2, at=3)])
    samples = path / "samples.jsonl"
    samples.write_text(samples.read_text().replace('"run": 1', '"run": 0'))
    assert row(reader.read_run(path))[["set_p99", "reported_phase"]].to_list() == [1.5, "whole run"]


def test_each_guest_or_process_counts_as_much(read):
    lines = [line(value=value, of="process-01") for value in (1, 1, 1)]
    assert row(read([*lines, line(value=4, of="process-02")]))["set_p99"] == 2.5


@pytest.mark.parametrize(
    ("damaged", "words"),
    [
        (line("Set p99"), "'metric' must be at most 60 small letters"),
        (line(None), "'metric' must be"),
        (line("a" * 61), "'metric' must be"),
        (line(value="fast"), "'value' must be a finite number"),
        (line(value=None), "'value' must be"),
        (line(value=True), "'value' must be"),
        (line(value=math.inf), "'value' must be"),
        (line(value=10**400), "'value' must be"),
        (line() | {"monotonic": None}, "'monotonic' must be a time"),
        (line(since="x"), "'monotonic' must be a time"),
        (line(unit=7), "'unit' and 'of' must be text"),
        (line(unit="m" * 61), "'unit' must have at most"),
        (line(of="a\nb"), "'unit' and 'of' must be text"),
        (line(better="more"), "'better' must be lower, higher or null"),
    ],
)
def test_a_damaged_line_loses_only_itself(damaged, words, read):
    run = read([line(value=1), damaged, line(value=3)])
    assert run.reported["value"].to_list() == [1, 3]
    (warning,) = run.warnings
    assert warning.startswith(f"1 line with a metric cannot be used and is skipped: {words}")


def test_a_line_that_is_no_json_and_a_torn_one(read):
    run = read([line(), "fast!\n", '{"metric": "set_p9'])
    assert len(run.reported) == 1
    assert [w.partition(" of own")[0] for w in run.warnings] == [
        "the last line",
        "line 2",
    ]


def test_another_unit_and_values_from_before_the_run_are_left_out_with_a_warning(read):
    run = read([
        line(value=1, unit="ms"), line(value=1000, unit="µs"),
        line("early", at=-3), line("both", at=-3), line("both", value=7),
    ])  # fmt: skip
    assert dict(zip(run.reported["metric"], run.reported["value"], strict=True)) == {
        "set_p99": 1,
        "both": 7,
    }
    assert run.warnings == (
        "early was reported only before the run began, so it has no value",
        "set_p99 is in ms at first: 1 value in another unit, such as µs, is left out",
    )


def test_made_up_names_do_not_fill_the_page(read):
    run = read([line(f"m{number}") for number in range(MOST + 5)])
    assert run.reported["metric"].nunique() == MOST
    assert run.warnings == (
        f"{MOST + 5} metrics are reported; those after the first {MOST} are left out: m{MOST} and "
        "so on",
    )


def test_a_name_of_the_project_is_kept_under_another(read):
    run = read([line("saved_mib", 7), line("knobs", 8), line("reported_saved_mib", 9)])
    found = row(run)
    assert found["reported_saved_mib"] == 7
    assert found["reported_knobs"] == 8
    assert found["reported_reported_saved_mib"] == 9
    assert found["saved_mib"] != 7
    assert next(iter(reported.warnings_of([run]))) == (
        "a run reports saved_mib, which is a name of the project's own: it is shown as "
        "reported_saved_mib"
    )


def test_every_name_of_the_project_is_taken(read):
    every = summary.summary([measurement.measure(read([line()]))]).columns
    taken = {*every, *comparison.UNITS} - {"set_p99", reported.PHASE}
    assert taken <= reported.BUILT_IN


def test_runs_that_disagree(read):
    runs = [
        read([line(unit="ms", better="lower", value=1)], repetition=1),
        read([line(unit="s", better="higher", value=2)], repetition=2),
    ]
    (metric,) = reported.metrics_of(runs)
    assert (metric.unit, metric.better) == ("ms", "")
    values = [reported.value(run, metric) for run in runs]
    assert values[0] == 1
    assert math.isnan(values[1])
    assert [*reported.warnings_of(runs)] == [
        "set_p99 is in ms in one run and in s in another: only the first of them is used",
        "runs disagree on whether a lower or a higher set_p99 is better",
    ]


def test_summary_has_columns(write, capsys):
    directory = write([line(value=1.25, unit="ms")], repetition=1).parent
    write([], repetition=2)
    assert main(["summary", str(directory), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [each["set_p99"] for each in rows] == [1.25, None]
    assert [each["reported_phase"] for each in rows] == ["settled", ""]
    assert main(["summary", str(directory)]) == 0
    shown = capsys.readouterr().out
    assert "set_p99" in shown
    assert "1.25" in shown


def test_without_reports_there_are_no_columns(read):
    run = read([])
    assert run.reported.empty
    assert not [name for name in row(run).index if name.startswith("reported")]


def test_compare_takes_reported_metrics(write, capsys):
    for directory, value in (("a", 10.0), ("b", 20.0)):
        for repetition in (1, 2, 3):
            reports = [line("rps", value + 0.1 * repetition, unit="requests/s")]
            write(reports, directory, repetition=repetition)
    results = write([], "a", repetition=4).parent
    others = results.with_name("b")
    assert main(["compare", str(results), str(others), "--metric", "rps", "--json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)["comparisons"]
    assert (one["metric"], one["unit"], one["verdict"]) == ("rps", "requests/s", "higher")
    assert one["change"] == pytest.approx(10 / 10.2)
    assert one["a"]["n"] == 3
    assert main(["compare", str(results), str(others), "--metric", "rsp"]) == 2
    assert capsys.readouterr().err.strip().endswith("These runs report: rps")


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.just([])
LINES = st.dictionaries(
    st.sampled_from(["metric", "value", "unit", "better", "of", "monotonic", "since", "event"]),
    VALUES | st.sampled_from(["a", "b_1", "lower", 1.0, 5_001.0]),
)


@settings(deadline=None, database=None)
@given(lines=st.lists(LINES, max_size=20))
def test_any_lines_are_read_or_skipped_with_a_warning(lines):
    samples = pd.DataFrame({"seconds": [0.0, 1.0, 2.0], "ksm.full_scans": [1, 3, 4]})
    found = of_lines(lines, MONOTONIC, samples)
    assert found.rows["value"].map(math.isfinite).all()
    named = [each for each in lines if "metric" in each]
    early = [each for each in named if isinstance(at := each.get("monotonic"), int | float)
             and at < MONOTONIC]  # fmt: skip
    assert len(found.rows) + len(early) >= len(named) or found.warnings
