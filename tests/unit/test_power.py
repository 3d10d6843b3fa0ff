"""How many repetitions a difference needs: `plan FILE --power PERCENT --pilot DIR`."""

import json
import math
import re

import numpy as np
import pytest
from made_up_runs import Writer, events, run_record, sample_lines
from scipy import stats

from ksm_analysis.__main__ import main

FILE = "guests: {count: 1}\nsampling: {interval: 1, intervals: 4}\nrepetitions: 3\n"


@pytest.fixture
def pilot(tmp_path):
    """Write runs: for each setting, pages_sharing (and throughput) of each repetition."""

    def pilot(settings, rates=None):
        for number, saved in enumerate(settings):
            for row, pages in enumerate(saved):
                record = run_record(1, "stress" if rates else "idle", row + 1)
                record["run"]["factors"]["knobs"] = f"setting {number}"
                lines, happened = sample_lines(record), events(record)
                for line in lines[1:-1]:
                    line["ksm"]["pages_sharing"] = int(pages)
                for event in happened:
                    if "stdout" in event:
                        new = rf"\1 {rates[number][row]}"
                        event["stdout"] = re.sub(r"(real-time:) [\d.]+", new, event["stdout"])
                Writer(tmp_path / "pilot")(record, lines, happened, name=f"{number}-{row}")
        return tmp_path / "pilot"

    return pilot


@pytest.fixture
def power(tmp_path, capsys):
    """Ask for repetitions; return the exit status, the output (JSON is parsed), and the errors."""
    (tmp_path / "x.yml").write_text(FILE)

    def power(*options):
        try:
            status = main(["plan", str(tmp_path / "x.yml"), *map(str, options)])
        except SystemExit as ended:
            status = ended.code
        said = capsys.readouterr()
        out = json.loads(said.out) if "--json" in options and said.out else said.out
        return status, out, said.err

    return power


def test_repetitions_are_those_that_the_paired_test_needs(pilot, power):
    a, b = [10_000, 20_000, 30_000, 15_000], [10_400, 20_100, 30_900, 16_100]
    status, found, _ = power("--power", "5%", "--pilot", pilot([a, b]), "--json")
    (one,) = found["needs"]
    spread = np.std(np.log(np.divide(a, b)), ddof=1)

    assert status == 0
    assert (one["quantity"], one["in_blocks"], one["freedom"]) == ("savings", True, 3)
    assert one["spread"] == pytest.approx(spread)
    assert (found["repetitions"], found["repetitions_of_file"]) == (one["repetitions"], 3)
    draws = np.random.default_rng(1).normal(math.log(1.05), spread, (20_000, one["repetitions"]))
    detected = np.mean(stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05)
    assert 0.79 < detected < 0.95


def test_throughput_is_asked_for_where_there_is_one(pilot, power):
    rates = [[1_000, 1_100, 1_050], [1_000, 1_000, 1_100]]
    directory = pilot([[1_000, 1_010, 990], [1_100, 1_110, 1_095]], rates)
    _, text, _ = power("--power", "5", "--pilot", directory)

    assert text.startswith("To show a difference of 5 % 4 times in 5 (paired t-test at 5 %):\n")
    assert re.search(r"\n  savings, 1 guest, stress: 3 repetitions \(in the pilot, ratios", text)
    assert re.search(r"\n  throughput, 1 guest, stress: [12]\d repetitions \(in the pilot", text)
    assert text.endswith("x.yml has 3.\n")


def test_a_smaller_difference_needs_more_repetitions(pilot, power):
    directory = pilot([[1_000, 1_010, 990], [1_100, 1_150, 1_095]])
    small, large = (
        power("--power", percent, "--pilot", directory, "--json")[1]["repetitions"]
        for percent in ("1%", "2%")
    )

    assert small > 3 * large > 10


def test_a_pilot_of_one_setting_has_the_spread_of_its_runs(pilot, power):
    saved = [1_000, 1_100, 1_050]
    _, found, _ = power("--power", "5%", "--pilot", pilot([saved]), "--json")
    (one,) = found["needs"]

    assert not one["in_blocks"]
    assert one["spread"] == pytest.approx(math.sqrt(2) * np.std(np.log(saved), ddof=1))
    assert "there are no complete blocks" in power("--power", "5%", "--pilot", pilot([]))[1]


def test_equal_runs_need_the_fewest(pilot, power):
    directory = pilot([[1_000] * 3, [2_000] * 3])

    assert power("--power", "5%", "--pilot", directory, "--json")[1]["repetitions"] == 3


@pytest.mark.parametrize("percent", ["five", "0", "-5%", "inf", "nan", "%", "5%%"])
def test_what_is_not_a_percentage_is_refused(power, percent):
    status, _, err = power("--power", percent, "--pilot", "x")

    assert status == 2
    assert "is not a percentage above 0" in err or "expected one argument" in err


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ([[1_000]], "there is only one run, so the spread of runs is not known"),
        ([[1_000], [1_100]], "no setting there has two runs with savings or throughput above 0"),
        ([[0, 0, 0]], "no setting there has two runs with savings or throughput above 0"),
    ],
)
def test_a_pilot_without_a_spread_is_refused(pilot, power, settings, words):
    status, out, err = power("--power", "5%", "--pilot", pilot(settings))

    assert (status, out) == (2, "")
    assert words in err


def test_no_pilot_is_refused(power, tmp_path):
    (tmp_path / "empty").mkdir()

    assert "no runs here" in power("--power", "5%", "--pilot", tmp_path / "empty")[2]
    assert "cannot be read" in power("--power", "5%", "--pilot", tmp_path / "none")[2]
    assert power("--power", "5%")[::2] == (
        2,
        "--power and --pilot belong together: give both\n",
    )
    assert power("--pilot", tmp_path)[0] == 2
