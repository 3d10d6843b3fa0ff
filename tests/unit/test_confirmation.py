"""A second experiment of the best settings: `plan FILE --confirm N --pilot DIR`."""

from pathlib import Path

import pytest
import yaml
from made_up_runs import Writer, run_record, sample_lines

from ksm_analysis.__main__ import main
from ksm_analysis.analysis import best
from ksm_analysis.analysis.settings import settings_of
from ksm_analysis.definition import experiment
from ksm_analysis.metrics.measurement import measure
from ksm_analysis.results.reader import read_results

FILE = """\
note: Which is best?
guests: {count: [1], memory_mib: 512}
knobs:  # three rates, and the baseline
  - {pages_to_scan: 100}
  - {run: 1, pages_to_scan: 1000}
  - {run: 1, pages_to_scan: 4000}
  - {run: 0}
sampling: {interval: 1, intervals: 4}
repetitions: 3
control: true
"""
RATES = {100: 5_000, 1000: 10_000, 4000: 10_010}  # pages_to_scan: pages saved


@pytest.fixture
def pilot(tmp_path):
    """Write runs of the rates, each with three repetitions that scatter by 1 %."""

    def pilot(rates=RATES):
        for rate, pages in rates.items():
            for repetition, share in enumerate((1, 0.99, 1.01), start=1):
                record = run_record(guests=1, repetition=repetition)
                record["run"]["knobs"] = {"run": 1, "pages_to_scan": rate}
                record["run"]["factors"]["knobs"] = f"run=1, pages_to_scan={rate}"
                lines = sample_lines(record)
                for line in lines[1:-1]:
                    other = 1 + 0.001 * (rate == 4000) * (-1) ** repetition
                    line["ksm"]["pages_sharing"] = round(pages * share * other)
                Writer(tmp_path / "first")(record, lines, name=f"{rate}-{repetition}")
        return str(tmp_path / "first")

    return pilot


@pytest.fixture
def confirm(tmp_path, capsys):
    """Write a definition, and return the exit status and the output."""

    def confirm(*options, text=FILE):
        file = tmp_path / "first.yml"
        file.write_text(text)
        status = main(["plan", str(file), *options])
        said = capsys.readouterr()
        return status, said.out, said.err

    return confirm


def test_only_what_may_be_best_is_run_again_and_the_baseline(pilot, confirm):
    status, text, err = confirm("--confirm", "5", "--pilot", pilot())
    second = yaml.safe_load(text)

    assert (status, err) == (0, "")
    assert second["knobs"] == [
        {"run": 1, "pages_to_scan": 1000},
        {"run": 1, "pages_to_scan": 4000},
        {"run": 0},
    ]
    assert second["note"] == "Which is best? Confirms the best settings with 5 fresh repetitions."
    unchanged = yaml.safe_load(FILE)
    for key in ("guests", "sampling", "control"):
        assert second[key] == unchanged[key]


def test_what_it_prints_is_a_definition(pilot, confirm):
    text = confirm("--confirm", "5", "--pilot", pilot())[1]
    runs = experiment.plan(experiment.parse(text, "second.yml"), "second.yml")["runs"]

    assert len(runs) == 5 * 4, "two settings, the baseline and the control"
    assert {run["knobs"].get("pages_to_scan") for run in runs} == {1000, 4000, None}


def test_a_single_best_setting_is_confirmed_alone(pilot, confirm):
    rates = RATES | {4000: 20_000}
    text = confirm("--confirm", "3", "--pilot", pilot(rates))[1]

    assert yaml.safe_load(text)["knobs"] == [{"run": 1, "pages_to_scan": 4000}, {"run": 0}]


@pytest.mark.parametrize(
    ("rates", "text", "words"),
    [
        ({100: 5_000}, FILE, "no settings there can be compared"),
        (RATES, FILE.replace("4000", "4001"), "pages_to_scan: 4000, run: 1} in 'knobs'"),
    ],
    ids=["one setting", "another definition"],
)
def test_what_cannot_be_confirmed_is_refused(pilot, confirm, rates, text, words):
    status, out, err = confirm("--confirm", "3", "--pilot", pilot(rates), text=text)

    assert (status, out) == (2, "")
    assert words in err


@pytest.mark.parametrize("count", ["0", "-1", "2.5", "many", "1001"])
def test_what_is_no_number_of_repetitions_is_refused(confirm, count):
    with pytest.raises(SystemExit):
        confirm("--confirm", count, "--pilot", "x")


def test_it_needs_the_results(confirm):
    assert "--confirm needs --pilot" in confirm("--confirm", "3")[2]


def test_a_setting_that_may_save_most_is_always_on_the_front(pilot, monkeypatch):
    monkeypatch.setattr(best, "on_front", lambda rivals: [False] * len(rivals))
    measured = [measure(run) for run in read_results(Path(pilot())).usable]
    (found,) = best.best_of(settings_of(measured))
    assert len(found.settings) == 2
    assert set(found.front) == set(found.settings)


@pytest.mark.parametrize("options", [("--json",), ("--interval", "9"), ("--intervals", "9")])
def test_options_that_would_be_ignored_are_refused(pilot, confirm, options):
    status, _, err = confirm("--confirm", "5", "--pilot", pilot(), *options)
    assert status == 2
    assert f"{options[0]}: not with --confirm" in err
