"""Censuses of a run: reading, checks and values."""

import pytest
from made_up_runs import PAGE, census_lines, run_record

from ksm_analysis.analysis import comparison
from ksm_analysis.metrics import measurement, summary
from ksm_analysis.results.reader import read_run

NAN = pytest.approx(float("nan"), nan_ok=True)
ASKED = {"end": True, "at_scan_boundary": False, "every": 2.0, "pause": False}


def counted(guests=2, **factors):
    record = run_record(guests=guests, **factors)
    record["run"]["census"] = ASKED
    return record


@pytest.fixture
def read(write_run):
    def read(record=None, lines=None, change=None):
        record = record or counted()
        lines = census_lines(record) if lines is None else lines
        if change:
            change(lines)
        return read_run(write_run(record, census=lines))

    return read


# --- read -----------------------------------------------------------------------------------------


def test_one_row_a_census_and_guest(read):
    census = read().census

    assert census.rows["moment"].to_list() == ["every", "end"]
    assert census.rows["seconds"].to_list() == [2.0, 4.0]
    assert census.rows["saved_pages"].to_list() == [35_000, 70_000]
    assert census.rows["ksm_after.full_scans"].to_list() == [1010, 1011]
    assert census.guests["guest"].to_list() == ["ksm-guest-01", "ksm-guest-02"] * 2
    assert census.guests["ksm_stat.ksm_rmap_items"].to_list() == [90_000] * 4
    assert census.guests["changed_pages"].isna().to_list() == [True, True, False, False]
    assert census.matrix.loc["ksm-guest-01", "ksm-guest-02"] == 40_000
    assert census.warnings == ()


def test_no_census_was_asked_for(write_run):
    run = read_run(write_run())

    assert run.census is None
    assert run.warnings == ()


def test_a_census_that_was_asked_for_and_is_missing(write_run):
    assert read_run(write_run(counted())).warnings == ("a census was asked for, but there is none",)


def test_unknown_values_are_empty(read):
    def hide(lines):
        for line in lines[1:-1]:
            hidden = dict.fromkeys([key for key in line if key.startswith("saved")])
            line |= hidden | {"efficiency": None, "matrix": None, "frames_visible": False}
            line["complaints"] = ["frames are hidden: CAP_SYS_ADMIN is missing"]
            for guest in line["guests"].values():
                guest["attributed_bytes"] = None

    run = read(change=hide)

    assert run.census.rows["saved_pages"].isna().all()
    assert run.census.rows["limit_pages"].notna().all()
    assert run.census.matrix.empty
    assert run.warnings == (
        "census: frames are hidden: CAP_SYS_ADMIN is missing (in 2 of 2 censuses)",
    )


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("limit_zero_pages", "limit_pages is not limit_zero_pages + limit_within_pages + limit_"),
        ("saved_between_pages", "saved_ksm_pages is not saved_within_pages + saved_between_pages"),
        ("page_size", "the sum of attributed_bytes is not the size of saved_pages"),
    ],
)
def test_wrong_sums_are_reported(read, key, words):
    def change(lines):
        lines[2][key] += 1

    (warning,) = read(change=change).warnings

    assert words in warning
    assert warning.endswith("it cannot be trusted (in 1 of 2 censuses)")


def test_a_census_killed_while_writing_a_line(write_run):
    path = write_run(counted(), census=census_lines(counted()))
    file = path / "census.jsonl"
    file.write_text(file.read_text()[:-200])
    run = read_run(path)

    assert len(run.census.rows) == 1
    assert "the last line of census.jsonl is torn" in run.warnings[0]
    assert "the census program was killed: its end line is missing" in run.warnings


@pytest.mark.parametrize("line", ["null", "[]", '{"kind": "census"}', '{"kind": "census", "n": 1}'])
def test_lines_that_are_not_a_census_are_skipped(write_run, line):
    path = write_run(counted(), census=census_lines(counted()))
    file = path / "census.jsonl"
    file.write_text(file.read_text().replace("\n", f"\n{line}\n", 1))
    run = read_run(path)

    assert len(run.census.rows) == 2
    assert len(run.warnings) == 1


def test_a_guest_that_ended_is_left_out_and_reported(read):
    def change(lines):
        gone = {"pid": 4243, "complaint": "it has ended; it is left out"}
        lines[2]["guests"]["ksm-guest-02"] = gone
        lines[2]["complaints"] = ["ksm-guest-02: it has ended; it is left out"]
        lines[2]["saved_pages"] = lines[2]["saved_pages"] // 2
        lines[2]["saved_ksm_pages"] = lines[2]["saved_within_pages"] = 25_000
        lines[2]["saved_between_pages"] = 0
        lines[2]["saved_zero_pages"] = 10_000

    run = read(change=change)

    assert run.census.guests["present_pages"].isna().sum() == 1
    assert run.warnings == (
        "census: ksm-guest-02: it has ended; it is left out (in 1 of 2 censuses)",
    )


def test_missed_censuses_are_reported(read):
    (warning,) = read(change=lambda lines: lines[-1].update(missed=3)).warnings

    assert warning == "3 censuses were missed because the previous census took too long"


def test_censuses_of_an_unknown_format_are_left_out(read):
    run = read(change=lambda lines: lines[0].update(format=2))

    assert run.census is None
    assert run.usable
    assert "format 2 of census.jsonl is not known" in run.warnings[0]


@pytest.mark.parametrize("row", [[1], [1, 2, 3], [], None, 5])
def test_a_matrix_that_is_not_square_is_left_out(read, row):
    run = read(change=lambda lines: lines[-2]["matrix"]["pages"].__setitem__(0, row))

    assert run.census is None
    assert run.usable
    assert "its censuses are left out, since they cannot be read" in run.warnings[0]


def test_a_damaged_first_line_loses_only_itself(read):
    run = read(change=lambda lines: lines.__setitem__(0, None))

    assert run.census is not None
    assert "line 1 of census.jsonl is not a JSON object; it is skipped" in run.warnings


def test_no_complete_census_in_the_file(read):
    run = read(lines=[])

    assert run.census is None
    assert run.warnings == ("census.jsonl has no complete census",)


# --- values ---------------------------------------------------------------------------------------


def test_values_of_a_census(read):
    measured = measurement.measure(read())

    assert measured.census["efficiency_percent"].to_list() == [50.0, 100.0]
    assert measured.census["changed_percent"].to_list() == [
        pytest.approx(float("nan"), nan_ok=True),
        1.5,
    ]
    assert measured.last_census["limit_pages"] == 70_000
    last = measured.census_guest[measured.census_guest["n"] == 1]
    assert last["attributed_bytes"].sum() == 70_000 * PAGE
    assert last["guest_changed_percent"].to_list() == [1.0, 2.0]
    assert last["unmerged_percent"].to_list() == pytest.approx([40.0, 40.0])


def test_nothing_to_save_has_no_efficiency(read):
    def change(lines):
        for line in lines[1:-1]:
            for key in line:
                if key.startswith(("limit_", "saved_")):
                    line[key] = 0
            for guest in line["guests"].values():
                guest["attributed_bytes"] = 0

    assert measurement.measure(read(change=change)).census["efficiency_percent"].isna().all()


def test_the_summary_has_the_last_census_if_there_is_one(read, write_run):
    without = measurement.measure(read_run(write_run(guests=1)))
    table = summary.summary([measurement.measure(read()), without])

    assert table["efficiency_percent"].to_list() == [
        100.0,
        pytest.approx(float("nan"), nan_ok=True),
    ]
    assert "efficiency_percent" not in summary.summary([without])


def test_censuses_are_compared(write_run):
    sides = []
    for part, name in ((1.0, "a"), (0.5, "b")):
        side = []
        for repetition in (1, 2, 3):
            record = counted(repetition=repetition)
            lines = census_lines(record, progress=(part - 0.01 * repetition,))
            path = write_run(record, census=lines, name=f"{name}{repetition}")
            side.append(measurement.measure(read_run(path)))
        sides.append(side)
    pairs = comparison.pair(*comparison.group(*sides), None, False)
    (made,), _ = comparison.compare(pairs, ["efficiency_percent"], None, 0.01)

    assert made.verdict == "lower"
    assert made.unit == "%"
