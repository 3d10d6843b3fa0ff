"""Compare two directories of results: pairs, verdicts and exit status."""

import json
import re

import pytest
from made_up_runs import Writer, run_record, sample_lines

from ksm_analysis.__main__ import main


@pytest.fixture
def write(tmp_path):
    """Write runs of idle guests: directory, pages_sharing of each run, and other values."""

    def write(name, *sharing, index=0, **other):
        for repetition, pages in enumerate(sharing, start=1):
            record = run_record(
                repetition=repetition,
                **{k: v for k, v in other.items() if k in ("guests", "workload", "interval")},
            )
            record["run"]["guests"] |= other.get("made", {})
            record["run"]["sampling"] |= other.get("sampling", {})
            knobs = other.get("knobs", {})
            record["run"]["knobs"] |= knobs
            record |= {key: other[key] for key in ("host", "status", "reason") if key in other}
            record["provenance"]["image"]["packages"] = other.get("packages", {})
            if kernel := other.get("kernel"):
                record["provenance"]["kernel"]["release"] = kernel
            lines = sample_lines(record)
            for line in lines[1:-1]:
                line["ksm"]["pages_sharing"] = pages * (line["n"] if other.get("rising") else 1)
                line["ksm"]["ksm_zero_pages"] = other.get("zeros", 0)
                line["ksm"]["general_profit"] = other.get("profit", 0) + pages
            Writer(tmp_path / name)(record, lines, name=f"run-{index}-{repetition}")
        return str(tmp_path / name)

    return write


@pytest.fixture
def compare(capsys):
    """Compare, and return the exit status and the output; JSON is parsed."""

    def compare(*arguments):
        status = main(["compare", *arguments])
        said = capsys.readouterr()
        out = json.loads(said.out) if "--json" in arguments and said.out else said.out
        return status, out, said.err

    return compare


SHARING = ("--metric", "pages_sharing", "--json")


def test_a_difference_is_reported_with_its_evidence(write, compare):
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
    for words in ("pages_sharing", "1,500 ± 2", "+50.0%", "higher", "1 comparison (Holm)"):
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
def test_too_few_runs_have_no_verdict_and_a_reason(write, compare, sharing, words):
    a, b = write("a", *sharing), write("b", *sharing)
    status, found, _ = compare(a, b, *SHARING, "--fail-on-difference")

    assert status == 0
    assert found["comparisons"][0]["verdict"] == "no verdict"
    assert found["comparisons"][0]["reason"] == words
    assert found["comparisons"][0]["p"] is None
    assert "3 runs on each side are needed" in compare(a, b)[1]


def test_noise_is_no_difference_and_the_needed_runs_are_estimated(write, compare):
    a, b = write("a", 1000, 1100, 900), write("b", 1010, 1100, 920)
    (one,) = compare(a, b, *SHARING)[1]["comparisons"]

    assert one["verdict"] == "no difference shown"
    assert one["reason"].startswith("about 1,")
    assert one["reason"].endswith("runs per side would decide")


def test_exact_counters_are_the_same_or_not(write, compare):
    a, b, c = write("a", *[977] * 3), write("b", *[977] * 3), write("c", *[990] * 3)

    assert compare(a, b, *SHARING)[1]["comparisons"][0]["verdict"] == "the same"
    assert compare(a, c, *SHARING)[1]["comparisons"][0]["verdict"] == "higher"


def test_only_equal_cells_are_compared(write, compare):
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


def test_knobs_are_compared_by_value_and_not_by_label(write, compare):
    """The label names the differences within one experiment, so two experiments may share it."""
    a, b = write("a", 1, 2, 3), write("b", 1, 2, 3, knobs={"pages_to_scan": 5000})
    status, _, err = compare(a, b, *SHARING)

    assert status == 2
    assert "knobs: A has pages_to_scan=1000; B has pages_to_scan=5000   <- never equal" in err
    assert "--by knobs" in err
    status, found, _ = compare(a, b, *SHARING, "--by", "knobs")
    assert status == 0
    assert found["comparisons"][0]["a"]["knobs"] == "pages_to_scan=1000"


def test_guests_are_equal_if_their_configuration_is(write, compare):
    a, b = write("a", 1, 2, 3), write("b", 1, 2, 3, made={"memory_mib": 2048})
    status, _, err = compare(a, b, *SHARING)

    assert status == 2
    assert "guests: A has 2, memory_mib=512; B has 2, memory_mib=2048   <- never equal" in err
    found = compare(a, b, *SHARING, "--by", "guests")[1]["comparisons"]
    assert found[0]["b"]["guests"] == "2, memory_mib=2048"


def test_cells_that_differ_in_several_factors_cannot_be_compared(write, compare):
    a = write("a", 1, 2, 3, host="alpha")
    b = write("b", 1, 2, 3, host="beta", knobs={"pages_to_scan": 5000})
    for options in ((), ("--by", "knobs")):
        status, out, err = compare(a, b, *options)

        assert (status, out) == (2, "")
        assert "the most similar cells differ in host and knobs: a comparison would not" in err
        assert "--by" not in err


def test_cells_that_do_not_differ_in_what_is_asked_for_are_no_comparison(write, compare):
    a, b = write("a", 1, 2, 3), write("b", 1, 2, 3)
    status, _, err = compare(a, b, "--by", "workload")

    assert status == 2
    assert "they do not differ in workload" in err


def test_knobs_of_imported_runs_are_from_their_logs(compare, tmp_path, capsys):
    text = (
        "num_intervals=1\ninterval_duration=60\nvm_pid_array=1\nInterval 1:"
        " average_cpu_usage=1\n[BEGIN] Logging ksm system parameters\nfull_scans=1\nrun=1\n"
        "pages_to_scan={}\nsleep_millisecs=20\npages_sharing=5\n"
        "[END] Logging ksm system parameters\n/proc/1/ksm_stat=ksm_rmap_items 9\n"
    )
    for name, knob in (("a", 100), ("b", 1000)):
        log = tmp_path / f"{name}.log"
        log.write_text(text.format(knob))
        assert main(["import", str(log), "--results", str(tmp_path / name)]) == 0
    capsys.readouterr()
    a, b = str(tmp_path / "a"), str(tmp_path / "b")

    assert compare(a, b, *SHARING)[0] == 2
    found = compare(a, b, *SHARING, "--by", "knobs")[1]["comparisons"]
    labels = found[0]["a"]["knobs"], found[0]["b"]["knobs"]
    assert labels == ("pages_to_scan=100", "pages_to_scan=1000")


def test_one_directory_is_compared_within_itself_each_pair_once(write, compare):
    for index, guests in enumerate((1, 2, 3)):
        a = write("a", 100, 101, 99, index=index, guests=guests)
    found = compare(a, a, *SHARING, "--by", "guests")[1]["comparisons"]

    pairs = [(one["a"]["guests"], one["b"]["guests"]) for one in found]
    assert pairs == [("1", "2"), ("1", "3"), ("2", "3")]
    status, _, err = compare(a, a)
    assert status == 2
    assert "A and B are the same runs: choose the factor to compare them by" in err


def test_hosts_are_not_compared_unless_asked_for(write, compare):
    a, b = write("a", 1, 2, 3, host="alpha"), write("b", 1, 2, 3, host="beta")

    assert compare(a, b, *SHARING)[0] == 2
    assert compare(a, b, *SHARING, "--by", "host")[0] == 0


def test_totals_of_unequal_lengths_do_not_compare(write, compare):
    a, b = write("a", 1, 2, 3), write("b", 1, 2, 3, interval=2.0)

    assert "sampling" in compare(a, b, *SHARING)[2]
    found = compare(a, b, "--json", "--by", "sampling")[1]["comparisons"]
    assert {one["metric"] for one in found} == {"saved_mib"}


def test_failed_runs_are_left_out_with_a_warning(write, compare):
    a = write("a", 1, 2, 3)
    write("b", 9, index=7, guests=5, status="failed", reason="no memory")
    b = write("b", 1, 2, 3)
    status, found, err = compare(a, b, *SHARING)

    assert status == 0
    assert len(found["comparisons"]) == 1
    assert "the run failed: no memory" in err


def test_other_differences_are_reported(write, compare):
    a, b = write("a", 1, 2, 3), write("b", 1, 2, 3, kernel="6.18.0", knobs={"pages_to_scan": 9})
    _, found, _ = compare(a, b, *SHARING, "--by", "knobs")

    assert found["unlike"] == {"kernel.release": ["6.1.0", "6.18.0"]}
    assert (
        "A and B also differ in kernel.release: 6.1.0 / 6.18.0" in compare(a, b, "--by", "knobs")[1]
    )


def test_more_comparisons_make_each_harder(write, compare):
    a, b = write("a", 1000, 1010, 990), write("b", 1030, 1020, 1040)
    alone = compare(a, b, *SHARING)[1]["comparisons"][0]
    several = compare(a, b, *SHARING, "--metric", "pages_shared", "--metric", "full_scans")[1]

    assert alone["p_holm"] == alone["p"]
    assert several["comparisons"][0]["p_holm"] == pytest.approx(3 * alone["p"])


def test_metrics_without_a_value_are_left_out_and_named(write, compare):
    a, b = write("a", 1, 2, 3), write("b", 1, 2, 3)
    found = compare(a, b, "--json")[1]

    # idle guests have no throughput
    metrics = [one["metric"] for one in found["comparisons"]]
    assert metrics == ["saved_mib", "ksmd_cpu_seconds", "seconds_to_95"]
    why = "no run of A or of B has a value"
    rate = "bogo_ops_per_second_mean"
    assert found["left_out"] == [{"metric": rate, "why": why, "pairs": 1}]
    assert f"{rate} is left out of 1 pair: {why}" in compare(a, b)[1]


def test_a_run_that_still_rises_is_not_left_out_of_the_times(write, compare):
    write("a", 1000, 1010)
    a = write("a", 990, index=1, rising=True)
    b = write("b", 1000, 1010, 990)
    (one,) = compare(a, b, "--json", "--metric", "seconds_to_95")[1]["comparisons"]

    assert (one["a"]["n"], one["not_reached"]) == (3, [1, 0])
    assert max(one["a"]["values"]) == 4.0, "the whole run"
    assert one["reason"].endswith("not reached in 1 run of A: at least the time shown")
    never = compare(write("c", 1, rising=True), write("d", 2, rising=True), "--json")[1]
    why = "no run of A or of B reached it"
    assert {"metric": "seconds_to_95", "why": why, "pairs": 1} in never["left_out"]


def test_savings_include_zero_pages(write, compare):
    a, b = write("a", 1000, 1010, 990), write("b", 1000, 1010, 990, zeros=500)
    found = compare(a, b, "--json")[1]["comparisons"]

    assert [one["verdict"] for one in found if one["metric"] == "saved_mib"] == ["higher"]


def test_profit_of_either_sign_is_compared_without_a_ratio(write, compare):
    a, b = write("a", 10, 20, 30, profit=-1000), write("b", 10, 20, 30, profit=2000)
    options = ("--metric", "general_profit")
    (one,) = compare(a, b, *options, "--json")[1]["comparisons"]

    assert (one["absolute"], one["change"], one["verdict"]) == (3000, None, "higher")
    assert one["absolute_interval"][0] < 3000 < one["absolute_interval"][1]
    assert "+3,000" in compare(a, b, *options)[1]
    assert "relative to the larger mean" in one["reason"]


def test_what_is_counted_over_an_interval_needs_equal_intervals(write, compare):
    a, b = write("a", 1, 2, 3), write("b", 1, 2, 3, interval=2.0)
    _, found, err = compare(
        a, b, "--json", "--by", "sampling", "--metric", "pages_scanned", "--metric", "full_scans"
    )

    assert found["comparisons"] == []
    assert [each["metric"] for each in found["left_out"]] == ["pages_scanned", "full_scans"]
    assert "were not sampled for the same time" in found["left_out"][1]["why"]
    assert "warning: A and B are sampled differently" in err


def test_a_rule_for_ending_early_is_part_of_the_sampling(write, compare):
    steady = {"scans": 3, "seconds": 60.0, "percent": 1.0, "after": 22.5}
    a = write("a", 1, 2, 3, sampling={"steady": steady})
    later = write("later", 1, 2, 3, sampling={"steady": steady | {"after": 0.0}})
    fixed = write("fixed", 1, 2, 3)

    assert compare(a, later, *SHARING)[0] == 0
    assert compare(a, fixed, *SHARING)[0] == 2


def test_a_hundred_packages_that_differ_do_not_fill_the_screen(write, compare):
    a, b = (
        write(name, 1, 2, 3, packages={f"p{n}": version * 90 for n in range(100)})
        for name, version in (("a", "1"), ("b", "2"))
    )
    text = compare(a, b)[1]

    assert text.count("A and B also differ in image.packages.p") == 20
    assert "and in 80 more values" in text
    assert len(compare(a, b, *SHARING)[1]["unlike"]) == 100


def test_differences_between_repetitions_are_reported(write, compare):
    write("a", 1, 2, kernel="6.1.0")
    a, b = write("a", 3, index=1, kernel="6.18.0"), write("b", 1, 2, 3)

    assert compare(a, b, *SHARING)[1]["unlike"] == {"kernel.release": ["6.1.0; 6.18.0", "6.1.0"]}


def test_numbers_are_never_cut_off(write, compare, monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    a, b = write("a", 123456, 123457, 123458), write("b", 223456, 223457, 223458)
    text = compare(a, b, "--metric", "pages_sharing")[1]

    assert re.search(r"123,457\S* ± 2\.", text)
    assert re.search(r"223,457\S* ± 2\.", text)
    assert "…" not in text


def settings(write, name, **sharing):
    """Write two settings to one directory: `a` and `b`, with pages_sharing of each repetition."""
    for index, side in enumerate("ab"):
        knobs = {"pages_to_scan": 1000 * (index + 1)}
        for host, pages in sharing.items():
            pair = pages[index]
            written = write(name, *pair, index=f"{host}-{side}", host=host, knobs=knobs)
    return written


@pytest.mark.parametrize("more", [1.1, 0.9])
def test_hosts_with_one_repetition_each_are_blocks(write, compare, more):
    hosts = {f"h{n}": ([1000 * n], [round(1000 * n * more)]) for n in range(1, 7)}
    directory = settings(write, "x", **hosts)
    _, found, err = compare(directory, directory, *SHARING, "--by", "knobs")
    (one,) = found["comparisons"]

    assert one["verdict"] == ("higher" if more > 1 else "lower")
    assert (one["pairs"], one["method"]) == (6, "paired ratios")
    assert one["change"] == pytest.approx(more - 1)
    assert one["a"]["host"] == "6 hosts"
    assert "no counterpart" not in err
    assert compare(directory, directory, *SHARING, "--by", "host")[0] == 0


def test_a_drift_over_repetitions_does_not_hide_a_difference(write, compare):
    drift = [1000, 2000, 3000, 4000, 5000]
    directory = settings(write, "x", one=(drift, [round(1.05 * pages) for pages in drift]))
    (one,) = compare(directory, directory, *SHARING, "--by", "knobs")[1]["comparisons"]

    assert one["verdict"] == "higher"
    assert one["p"] < 0.001
    assert one["change"] == pytest.approx(0.05)


def test_incomplete_pairs_do_not_count(write, compare):
    directory = settings(write, "x", one=([1000, 1010, 990], [1100, 1115, 1085, 9, 9]))
    (one,) = compare(directory, directory, *SHARING, "--by", "knobs")[1]["comparisons"]

    assert (one["pairs"], one["b"]["n"], len(one["b"]["runs"])) == (3, 3, 5)
    assert one["verdict"] == "higher"
    assert "n=3 of 5" in compare(directory, directory, "--by", "knobs")[1]


def test_fewer_than_three_pairs_have_no_verdict(write, compare):
    directory = settings(write, "x", one=([1000, 1010], [1100, 1115, 1085, 1090]))
    (one,) = compare(directory, directory, *SHARING, "--by", "knobs")[1]["comparisons"]

    assert (one["verdict"], one["p"], one["pairs"]) == ("no verdict", None, 2)
    assert one["reason"] == "1 more pair of runs with the same host and repetition needed"


def test_zeros_are_compared_by_differences(write, compare):
    directory = settings(write, "x", one=([0, 100, 200], [50, 152, 249]))
    (one,) = compare(directory, directory, *SHARING, "--by", "knobs")[1]["comparisons"]

    assert (one["method"], one["verdict"]) == ("paired differences", "higher")
    assert one["absolute"] == pytest.approx(50.33, abs=0.01)
    assert one["change"] is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--metric", "pages"), "--metric pages: there is no such metric. Metrics are: "),
        (("--by", "moon"), "invalid choice: 'moon'"),
        (("--smallest", "-1"), "-1 is not a percentage of 0 or more"),
        (("--smallest", "many"), "many is not a percentage of 0 or more"),
    ],
)
def test_wrong_arguments_are_refused(write, compare, capsys, arguments, words):
    a = write("a", 1)
    try:
        status, _, err = compare(a, a, *arguments)
    except SystemExit as ended:
        status, err = ended.code, capsys.readouterr().err

    assert status == 2
    assert words in err


# --- as a page ------------------------------------------------------------------------------------


def test_the_page_has_each_difference_with_its_interval(write, compare, tmp_path):
    a, b = write("a", 1000, 1010, 990, kernel="6.1"), write("b", 1500, 1490, 1510, kernel="6.2")
    write("b", 7, index=1, guests=9)
    page = tmp_path / "page.html"
    status, _, err = compare(a, b, "--metric", "pages_sharing", "--html", str(page))
    text = page.read_text()
    found = re.search(r'class="around" style="left: ([\d.]+)%; width: ([\d.]+)%"', text)
    left, wide = map(float, found.groups())
    (dot,) = map(float, re.findall(r'class="dot" style="left: ([\d.]+)%"', text))
    (zero,) = map(float, re.findall(r'class="zero" style="left: ([\d.]+)%"', text))

    assert status == 0
    assert f"wrote {page}" in err
    assert "pages_sharing is higher, by +50.0%" in text
    assert zero < left < dot < left + wide <= 96
    assert "only in " in text
    assert ">6.1<" in text
    assert ">6.2<" in text


@pytest.mark.parametrize(
    ("sharing", "words"),
    [((1, 1), "No verdict: 3 runs on each side are needed."), ((1, 2, 3), "no difference shown")],
)
def test_the_page_says_no_more_than_the_runs(write, compare, tmp_path, sharing, words):
    page = tmp_path / "page.html"
    compare(write("a", *sharing), write("b", *sharing), "--html", str(page))

    assert words in page.read_text()
    assert '<li class="shown">' not in page.read_text()


def test_a_redacted_comparison_has_no_name_of_a_host(write, compare, tmp_path):
    a, b = (write(name, 1, 2, 3, host="db7.example") for name in "ab")
    write("b", 1, index=1, host="db8.example")
    page = tmp_path / "page.html"
    _, text, err = compare(a, b, "--redact", "--html", str(page))

    for said in (text, err, page.read_text()):
        assert "example" not in said
    assert "only in b: host host 2" in err
    assert str(tmp_path) not in page.read_text()


@pytest.mark.parametrize(
    ("file", "words"),
    [("", "empty"), ("missing/page.html", "no directory"), (".", "a directory")],
)
def test_a_page_that_cannot_be_written_is_refused_first(compare, tmp_path, file, words):
    status, _, err = compare("nothing", "nothing", "--html", file and str(tmp_path / file))

    assert status == 2
    assert "--html" in err
    assert words in err


def test_no_results_are_refused(compare, tmp_path):
    status, _, err = compare(str(tmp_path), str(tmp_path))

    assert status == 2
    assert "no runs here" in err
