"""The top of the page: the verdict, the tiles, and the picture of the experiment."""

import re

import pytest
from made_up_runs import Writer, run_record, sample_lines

from ksm_analysis.analysis import price, verdict
from ksm_analysis.analysis.best import best_of
from ksm_analysis.analysis.settings import settings_of
from ksm_analysis.metrics import measurement
from ksm_analysis.page import tiles
from ksm_analysis.page.data import data_of
from ksm_analysis.page.words import tried
from ksm_analysis.results.reader import read_results


def experiment(directory, levels, repetitions=1, guests=(2,), known=True):
    """Write runs that save a part of their memory with each knob; return what the page says first.

    `levels`: the part for each knob, or for each knob and repetition.
    """
    write, index = Writer(directory / "made-up"), 0
    for repetition in range(1, repetitions + 1):
        for count in guests:
            for knobs, level in levels.items():
                index += 1
                if isinstance(level, tuple):
                    level = level[repetition - 1]
                record = run_record(count, "stress", repetition, intervals=8)
                run = record["run"]
                run |= {"id": f"g{count}-{index}", "index": index}
                run["factors"]["knobs"] = knobs
                run["knobs"] = {"run": int(level > 0), "sleep_millisecs": len(knobs)}
                record["knobs"]["during"] |= run["knobs"]
                write(record, _lines(record, level, known))
    runs = read_results(write.directory).usable
    measured = [measurement.measure(run) for run in runs]
    settings = settings_of(measured)
    best, prices = best_of(settings), price.prices(measured)
    first = verdict.named(settings, best)
    return {
        "tried": tried(runs),
        "verdict": verdict.verdict(settings, best, prices, []),
        "tiles": tiles.of_settings(first, settings, prices, measured),
    }


def picture_of(directory):
    data = data_of(read_results(directory / "made-up"))
    everywhere = [figure.id for section in data["sections"] for figure in section.figures]
    assert data["picture"].id not in everywhere, "no figure is there twice"
    return data["picture"]


def _lines(record, level, known):
    lines = sample_lines(record)
    for line in lines[1:-1]:
        ksm = line["ksm"]
        ksm["pages_sharing"] = round(level * ksm["pages_sharing"])
        if not known:
            del ksm["pages_sharing"]
        line["ksmd"]["cpu_ns"] = 5_000_000_000 + round(level * line["n"] * 1e8)
    return lines


def labels(data):
    return [tile.label for tile in data["tiles"][0].tiles]


def test_one_setting_is_what_it_saves_and_costs(tmp_path):
    data = experiment(tmp_path, {"run=1": 1.0})

    assert re.fullmatch(
        r"KSM saves 104 MiB \(1 run: no interval\), 10\.\d % of guest memory, "
        r"for [\d.]+ % of a CPU\.",
        data["verdict"],
    )
    assert data["tried"] == "2 guests of 512 MiB · stress · run=1 · 1 run of 8 s · Linux 6.1.0"
    assert labels(data) == ["Saved", "Of guest memory", "Cost of ksmd", "95 % of it after"]
    assert picture_of(tmp_path).id == "saved-by-time"


def test_the_best_of_several_is_named_with_the_next(tmp_path):
    levels = {"run=0": 0, "slow": (0.5, 0.51, 0.49), "fast": (1.0, 1.01, 0.99)}
    data = experiment(tmp_path, levels, repetitions=3)

    assert data["verdict"].startswith("fast saves most of 2: 104 MiB (")
    assert "; the next saves 52.1 MiB for " in data["verdict"]
    assert data["verdict"].endswith("; it costs nothing measurable.")
    assert [group.factors["data-knobs"] for group in data["tiles"]] == ["fast", "slow"]
    assert "Throughput lost" in labels(data)
    assert data["tried"].endswith("slow against fast and KSM off · 9 runs of 8 s · Linux 6.1.0")
    assert picture_of(tmp_path).id == "savings-against-cost"


def test_too_few_runs_name_no_best(tmp_path):
    data = experiment(tmp_path, {"slow": 0.5, "fast": 1.0})

    assert data["verdict"].startswith("Too few runs to tell which of 2 settings saves most")
    assert data["tiles"][0].factors["data-knobs"] == "fast"


def test_settings_that_may_be_best_are_not_ranked(tmp_path):
    alike = {"one": (0.999, 1.0, 1.001), "another": (1.0, 1.001, 0.998)}
    data = experiment(tmp_path / "alike", alike, repetitions=3)

    assert data["verdict"].startswith("2 settings save the same within 1 %; another costs least: ")
    assert data["tiles"][0].factors["data-knobs"] == "another"
    unlike = {"one": (0.9, 1.0, 1.1), "another": (1.0, 1.1, 0.8)}
    data = experiment(tmp_path / "unlike", unlike, repetitions=3)
    assert data["verdict"].startswith("These runs do not show which of 2 settings saves most; ")


def test_guests_that_vary_are_the_axis_of_the_picture(tmp_path):
    data = experiment(tmp_path, {"run=1": 1.0}, guests=(1, 2, 3))

    assert data["verdict"].startswith("With 3 guests, stress: KSM saves")
    picture = picture_of(tmp_path)
    assert picture.id == "saved-by-guests"
    assert list(picture.panels[0][1].data[0].x) == [1, 2, 3]


@pytest.mark.parametrize(
    ("levels", "known", "words"),
    [
        ({"run=0": 0}, True, "KSM was off in every run."),
        ({"run=1": 1.0}, False, "The savings are not known: no run has a value"),
    ],
)
def test_without_savings_it_says_why(tmp_path, levels, known, words):
    data = experiment(tmp_path, levels, known=known)

    assert data["verdict"].startswith(words)
    assert data["tiles"] == []


def test_sparks_stay_within_their_box(tmp_path):
    data = experiment(tmp_path, {"run=0": 0, "run=1": 1.0}, repetitions=3)
    sparks = [tile.spark for tile in data["tiles"][0].tiles]

    assert all(spark.startswith("<svg") and 'aria-hidden="true"' in spark for spark in sparks)
    places = re.findall(r"(-?[\d.]+),(-?[\d.]+)", " ".join(sparks))
    assert len(places) > 100
    assert all(0 <= float(x) <= 200 and 0 <= float(y) <= 32 for x, y in places)
