"""Two directories of results, compared: what pairs up, what is said, and how it exits."""

import json

import pytest
from made_up_runs import Writer, run_record, sample_lines

from ksm_analysis.__main__ import main


@pytest.fixture
def write(tmp_path):
    """Write runs of idle guests: the directory, pages_sharing of each run, and what is other."""

    def write(name, *sharing, index=0, **other):
        for repetition, pages in enumerate(sharing, start=1):
            record = run_record(
                repetition=repetition,
                **{k: v for k, v in other.items() if k in ("guests", "workload", "interval")},
            )
            knobs = other.get("knobs", {})
            record["run"]["knobs"] |= knobs
            record |= {key: other[key] for key in ("host", "status", "reason") if key in other}
            if kernel := other.get("kernel"):
                record["provenance"]["kernel"]["release"] = kernel
            lines = sample_lines(record)
            for line in lines[1:-1]:
                line["ksm"]["pages_sharing"] = pages
            Writer(tmp_path / name)(record, lines, name=f"run-{index}-{repetition}")
        return str(tmp_path / name)

    return write


@pytest.fixture
def compare(capsys):
    """Compare, and return the exit status and what was printed; as JSON, read."""

    def compare(*arguments):
        status = main(["compare", *arguments])
        said = capsys.readouterr()
        out = json.loads(said.out) if "--json" in arguments and said.out else said.out
        return status, out, said.err

    return compare


SHARING = ("--metric", "pages_sharing", "--json")


def test_a_difference_is_told_with_all_that_it_rests_on(write, compare):
    a, b = write("a", 1000, 1010, 990), write("b", 1500, 1490, 1510)
    status, found, err = compare(a, b, *SHARING)
    (one,) = found["comparisons"]

    assert (status, err) == (0, "")
    assert (one["verdict"], one["method"]) == ("higher", "Welch")
    assert one["change"] == pytest.approx(0.5)
    assert one["change_interval"][0] < 0.5 < one["change_interval"][1]
    assert (one["a"]["mean"], one["b"]["mean"]) == (1000, 1500)
    assert one["a"]["n"] == 3
    assert one["a"]["runs"] == [f"g02-k1-idle-r{n}" for n in (1, 2, 3)]
    assert one["p"] == one["p_holm"] < 0.001
    assert one["unit"] == "pages"


def test_the_table_says_the_same_in_words(write, compare):
    a, b = write("a", 1000, 1010, 990), write("b", 1500, 1490, 1510)
    status, text, _ = compare(a, b, "--metric", "pages_sharing")

    assert status == 0
    for words in ("pages_sharing", "1,500 ± 24.8", "+50.0%", "higher", "1 comparison (Holm)"):
        assert words in text


def test_a_difference_fails_only_if_that_is_asked_for(write, compare):
    a, b = write("a", 1000, 1010, 990), write("b", 1500, 1490, 1510)

    assert compare(a, b, *SHARING, "--fail-on-difference")[0] == 3
    assert compare(a, b, *SHARING)[0] == 0
    assert (
        compare(a, a.replace("/a", "/b"), *SHARING, "--smallest", "60", "--fail-on-difference")[0]
        == 0
    )


@pytest.mark.parametrize(
    ("sharing", "words"),
    [
        ((1500,), "2 more runs of A and 2 more runs of B needed"),
        ((1500, 1501), "1 more run of A and 1 more run of B needed"),
    ],
)
def test_too_few_runs_have_no_verdict_but_what_they_lack(write, compare, sharing, words):
    a, b = write("a", *sharing), write("b", *sharing)
    status, found, _ = compare(a, b, *SHARING, "--fail-on-difference")

    assert status == 0
    assert found["comparisons"][0]["verdict"] == "no verdict"
    assert found["comparisons"][0]["reason"] == words
    assert found["comparisons"][0]["p"] is None
    assert "it takes 3 runs on each side" in compare(a, b)[1]


def test_noise_is_no_difference_and_the_runs_that_would_tell_are_estimated(write, compare):
    a, b = write("a", 1000, 1100, 900), write("b", 1010, 1100, 920)
    (one,) = compare(a, b, *SHARING)[1]["comparisons"]

    assert one["verdict"] == "no difference shown"
    assert one["reason"].startswith("about 1,")
    assert one["reason"].endswith("runs a side would tell")


def test_exact_counters_are_the_same_or_not(write, compare):
    a, b, c = write("a", *[977] * 3), write("b", *[977] * 3), write("c", *[990] * 3)

    assert compare(a, b, *SHARING)[1]["comparisons"][0]["verdict"] == "the same"
    assert compare(a, c, *SHARING)[1]["comparisons"][0]["verdict"] == "higher"


def test_cells_are_compared_with_their_equals_alone(write, compare):
    for name in ("a", "b"):
        for index, guests in enumerate((1, 2)):
            write(name, 100 * guests, 101 * guests, 99 * guests, index=index, guests=guests)
    a, b = write("a", 5, index=3, guests=3), write("b", 5, index=4, guests=4)
    _, found, err = compare(a, b, *SHARING)

    assert [(one["a"]["guests"], one["b"]["guests"]) for one in found["comparisons"]] == [
        ("1", "1"),
        ("2", "2"),
    ]
    assert "only in" in err
    assert "guests 3" in err
    assert "guests 4" in err


def test_knobs_are_those_that_were_asked_for_and_not_their_label(write, compare):
    """The label names what differs within an experiment: two experiments may share it."""
    a, b = write("a", 1, 2, 3), write("b", 1, 2, 3, knobs={"pages_to_scan": 5000})
    status, _, err = compare(a, b, *SHARING)

    assert status == 2
    assert "knobs: A has pages_to_scan=1000; B has pages_to_scan=5000   <- never equal" in err
    assert "--by knobs" in err
    status, found, _ = compare(a, b, *SHARING, "--by", "knobs")
    assert status == 0
    assert found["comparisons"][0]["a"]["knobs"] == "pages_to_scan=1000"


def test_one_directory_is_compared_within_itself_each_pair_once(write, compare):
    for index, guests in enumerate((1, 2, 3)):
        a = write("a", 100, 101, 99, index=index, guests=guests)
    found = compare(a, a, *SHARING, "--by", "guests")[1]["comparisons"]

    pairs = [(one["a"]["guests"], one["b"]["guests"]) for one in found]
    assert pairs == [("1", "2"), ("1", "3"), ("2", "3")]
    status, _, err = compare(a, a)
    assert status == 2
    assert "A and B are the same runs: say in what to compare them" in err


def test_hosts_are_not_compared_unless_asked_for(write, compare):
    a, b = write("a", 1, 2, 3, host="alpha"), write("b", 1, 2, 3, host="beta")

    assert compare(a, b, *SHARING)[0] == 2
    assert compare(a, b, *SHARING, "--by", "host")[0] == 0


def test_totals_of_unequal_lengths_do_not_compare(write, compare):
    a, b = write("a", 1, 2, 3), write("b", 1, 2, 3, interval=2.0)

    assert "sampling" in compare(a, b, *SHARING)[2]
    found = compare(a, b, "--json", "--by", "sampling")[1]["comparisons"]
    assert {one["metric"] for one in found} == {"pages_sharing", "seconds_to_95"}


def test_failed_runs_are_left_out_with_a_warning(write, compare):
    a = write("a", 1, 2, 3)
    write("b", 9, index=7, guests=5, status="failed", reason="no memory")
    b = write("b", 1, 2, 3)
    status, found, err = compare(a, b, *SHARING)

    assert status == 0
    assert len(found["comparisons"]) == 1
    assert "the run failed: no memory" in err


def test_what_else_differs_is_told(write, compare):
    a, b = write("a", 1, 2, 3), write("b", 1, 2, 3, kernel="6.18.0", knobs={"pages_to_scan": 9})
    _, found, _ = compare(a, b, *SHARING, "--by", "knobs")

    assert found["unlike"] == {"kernel.release": ["6.1.0", "6.18.0"]}
    assert "they differ in kernel.release too: 6.1.0 / 6.18.0" in compare(a, b, "--by", "knobs")[1]


def test_more_comparisons_make_each_harder(write, compare):
    a, b = write("a", 1000, 1010, 990), write("b", 1030, 1020, 1040)
    alone = compare(a, b, *SHARING)[1]["comparisons"][0]
    several = compare(a, b, *SHARING, "--metric", "pages_shared", "--metric", "full_scans")[1]

    assert alone["p_holm"] == alone["p"]
    assert several["comparisons"][0]["p_holm"] == pytest.approx(3 * alone["p"])


def test_metrics_that_are_nowhere_known_are_left_out(write, compare):
    a, b = write("a", 1, 2, 3), write("b", 1, 2, 3)
    found = compare(a, b, "--json")[1]["comparisons"]

    # idle guests have no throughput
    metrics = [one["metric"] for one in found]
    assert metrics == ["pages_sharing", "ksmd_cpu_seconds", "seconds_to_95"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--metric", "pages"), "--metric pages: there is no such metric. There are: "),
        (("--by", "moon"), "invalid choice: 'moon'"),
        (("--smallest", "-1"), "-1 is not a percentage of 0 or more"),
        (("--smallest", "many"), "many is not a percentage of 0 or more"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(write, compare, capsys, arguments, words):
    a = write("a", 1)
    try:
        status, _, err = compare(a, a, *arguments)
    except SystemExit as ended:
        status, err = ended.code, capsys.readouterr().err

    assert status == 2
    assert words in err


def test_no_results_are_refused(compare, tmp_path):
    status, _, err = compare(str(tmp_path), str(tmp_path))

    assert status == 2
    assert "no runs here" in err
