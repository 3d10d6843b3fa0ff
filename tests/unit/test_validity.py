"""Warnings about a drift over time, and about a control that differs from its twin."""

import itertools
import json
import re

import numpy as np
import pytest
from made_up_runs import WALL, Writer, events, run_record, sample_lines
from scipy import stats

from ksm_analysis.__main__ import main
from ksm_analysis.analysis import statistics, validity
from ksm_analysis.metrics import measurement
from ksm_analysis.results.reader import read_results

LABELS = ("pages_to_scan=1000", "pages_to_scan=2000", "pages_to_scan=1000, control")


@pytest.fixture
def write(tmp_path):
    """Write runs of three settings, the last of them a control; return their directory.

    `saved` and `rate` have a row for each repetition and a column for each setting. Runs are made
    row by row.
    """
    write_run = Writer(tmp_path / "x")

    def write(saved, rate=None, host="localhost"):
        cells = itertools.product(range(len(saved)), range(len(saved[0])))
        for n, (row, column) in enumerate(cells):
            workload = "idle" if rate is None else "stress"
            record = run_record(1, workload, row + 1, host=host, started=WALL + 60 * n)
            run, label = record["run"], LABELS[column]
            run["factors"]["knobs"] = label
            run["knobs"]["pages_to_scan"] = int(re.search(r"\d+", label)[0])
            run |= {"control": True} if "control" in label else {}
            record["knobs"]["during"] = record["knobs"]["during"] | run["knobs"]
            lines, happened = sample_lines(record), events(record)
            for line in lines[1:-1]:
                line["ksm"]["pages_sharing"] = int(saved[row][column])
            for event in happened:
                if "stdout" in event:
                    new = rf"\1 {rate[row][column]}"
                    event["stdout"] = re.sub(r"(real-time:) [\d.]+", new, event["stdout"])
            write_run(record, lines, happened, name=f"{host}-{row}-{column}")
        return write_run.directory

    return write


def warnings_of(directory):
    runs = read_results(directory).usable
    return validity.warnings_of([measurement.measure(run) for run in runs])


def noise(rows, columns, seed=1):
    return np.random.default_rng(seed).normal(10_000, 100, (rows, columns))


# --- drift ----------------------------------------------------------------------------------------


def test_savings_that_rise_over_the_repetitions_are_a_drift(write):
    drift = noise(5, 2) + 300 * np.arange(5)[:, None]
    (warning,) = warnings_of(write(drift))

    assert warning == (
        "made-up, localhost: savings rose with time within settings (10 runs, p = 0.0001): "
        "something other than the settings changed. Trust only comparisons within repetitions"
    )


def test_throughput_that_falls_is_a_drift(write):
    falling = 1_000 - 50.0 * np.arange(5)[:, None] + noise(5, 2) / 100
    (warning,) = warnings_of(write(noise(5, 2), falling))

    assert "throughput fell with time" in warning


@pytest.mark.parametrize("rows", [3, 5])
def test_noise_and_differences_between_settings_are_no_drift(write, rows):
    assert warnings_of(write(noise(rows, 2) + np.array([0, 5_000]))) == []


def test_fewer_than_eight_runs_show_no_drift(write):
    assert warnings_of(write([[100 * n, 100 * n] for n in range(1, 4)])) == []


@pytest.mark.parametrize(("settings", "runs"), [(1, 8), (2, 4), (3, 3), (4, 3), (8, 2), (4, 6)])
@pytest.mark.parametrize("kind", ["normal", "lognormal"])
def test_noise_rarely_looks_like_a_drift(monkeypatch, settings, runs, kind):
    monkeypatch.setattr(statistics, "SHUFFLES", 1_999)
    generator = np.random.default_rng(runs)
    spreads = np.arange(1, settings + 1)
    alarms = []
    for _ in range(300):
        values = 10 + getattr(generator, kind)(size=(runs, settings)) * spreads
        times = np.arange(values.size).reshape(values.shape)
        alarms.append(statistics.trend([*zip(times.T, values.T, strict=True)])[1] < validity.DRIFT)

    assert sum(alarms) <= stats.binom.ppf(0.999, len(alarms), 0.01)


@pytest.mark.parametrize(("settings", "runs"), [(1, 8), (2, 4), (3, 3), (4, 3), (8, 2), (4, 6)])
def test_a_plain_drift_is_found_with_eight_runs(settings, runs):
    times = np.arange(runs * settings).reshape(runs, settings)
    values = 100.0 + 10 * np.arange(settings) + times
    score, p, count = statistics.trend([*zip(times.T, values.T, strict=True)])

    assert score > 0
    assert p < 0.01
    assert count == runs * settings
    assert statistics.trend([*zip(times.T, -values.T, strict=True)])[0] < 0


def test_what_cannot_change_shows_no_trend():
    assert statistics.trend([]) == (0, 1, 0)
    assert statistics.trend([([1, 2, 3], [5, 5, 5]), ([4], [7.0])]) == (0, 1, 0)
    assert statistics.trend([([1, 2, 3], [5, np.nan, 6])])[2] == 2


# --- control --------------------------------------------------------------------------------------


def test_a_control_that_differs_from_its_twin_is_a_warning(write, capsys):
    saved = noise(4, 1) * [1, 1.5, 1.1] + noise(4, 3) / 1_000
    directory = write(saved)
    (warning,) = warnings_of(directory)

    assert warning.startswith(
        "the control differs from pages_to_scan=1000, with the same knobs (1 guest, idle): savings "
        "+10."
    )
    assert "4 pairs" in warning
    assert main(["answer", str(directory), "--json"]) == 0
    assert warning in json.loads(capsys.readouterr().out)["warnings"]


def test_a_control_that_is_like_its_twin_is_no_warning(write):
    assert warnings_of(write(noise(6, 3) * [1, 1.5, 1])) == []
    assert warnings_of(write(noise(6, 2), host="other")) == []


def test_a_control_is_compared_over_all_hosts_together(write):
    for n in range(1, 5):
        directory = write([[1_000 * n, 2_000 * n, 1_100 * n]], host=f"host-{n}")
    (warning,) = warnings_of(directory)

    assert "savings +10.0% (4 pairs" in warning


def test_a_control_is_a_setting_of_its_own(write, capsys):
    directory = str(
        write([[100_000 + 10 * n, 90_000 + 11 * n, 120_000 + 12 * n] for n in range(4)])
    )
    assert main(["answer", directory, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)

    assert [setting["knobs"] for setting in found["settings"]] == list(LABELS)
    assert [setting["control"] for setting in found["settings"]] == [False, False, True]
    assert found["best"][0]["knobs"] == [LABELS[0]]
    assert "391 MiB" in found["headline"]
    assert main(["compare", directory, directory, "--by", "knobs", "--json"]) == 0
    compared = json.loads(capsys.readouterr().out)["comparisons"]
    assert {one["b"]["knobs"] for one in compared} == {
        "pages_to_scan=1000, control=yes",
        "pages_to_scan=2000",
    }
