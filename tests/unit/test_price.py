"""What KSM costs: losses against KSM off within repetitions, and what is said about them."""

import json

import numpy as np
import pytest
from made_up_runs import MONOTONIC, WALL, Writer, events, json_lines, run_record, sample_lines

from ksm_analysis.__main__ import main
from ksm_analysis.analysis import price
from ksm_analysis.analysis.price import COSTS, GAINS, NOTHING, TOO_FEW, UNSURE
from ksm_analysis.metrics import measurement, reported
from ksm_analysis.page import render, reported_figures, sections, tables
from ksm_analysis.page.redact import redact
from ksm_analysis.results.reader import read_results
from ksm_analysis.results.record import upgraded

ON, OFF = "run=1", "run=0"


def reports(name, values, unit="", better=None, start=0.0):
    """Make lines of a metric, one each second."""
    return [
        {"metric": name, "value": float(value), "unit": unit, "better": better, "of": "process-01",
         "wall": WALL + start + n, "monotonic": MONOTONIC + start + n}
        for n, value in enumerate(values, start=1)
    ]  # fmt: skip


@pytest.fixture
def write(tmp_path):
    """Write a run that reports these lines; return the directory of results."""

    def write(lines, knobs, repetition, host="localhost"):
        made_up = run_record(guests=0, repetition=repetition, host=host)
        made_up["run"] |= {"id": f"{knobs}-r{repetition}", "knobs": {"run": int(knobs[-1])}}
        made_up["run"]["factors"]["knobs"] = knobs
        made_up["knobs"]["during"]["run"] = int(knobs[-1])
        samples = sample_lines(made_up)
        for line in samples[1:-1]:
            line["ksm"]["run"] = int(knobs[-1])
            if knobs == OFF:
                line["ksm"] |= {"full_scans": 1_000, "pages_sharing": 0}
            else:
                line["ksm"]["pages_sharing"] = 25_600  # 100 MiB
        record = upgraded(made_up)
        record["run"]["parts"].append({"name": "load", "role": "", "options": {}})
        path = Writer(tmp_path / "results")(record, samples, events(made_up))
        (path / "load.jsonl").write_text(json_lines(lines))
        return path.parent

    return write


@pytest.fixture
def costs(write):
    """Write pairs of runs, and return their prices: values of KSM off, and of KSM on."""

    def costs(off, on, **of):
        for repetition, (without, with_ksm) in enumerate(zip(off, on, strict=True), start=1):
            for knobs, value in ((OFF, without), (ON, with_ksm)):
                lines = reports("rate", [value] * 3, **{"unit": "1/s", "better": "higher"} | of)
                results = write(lines, knobs, repetition)
        return price.prices([measurement.measure(run) for run in read_results(results).usable])

    return costs


def test_a_loss_is_shown_with_its_interval_and_what_is_freed_for_it(costs):
    (one,) = costs([1000, 2000, 3000], [900, 1798, 2703])
    assert one.verdict == COSTS
    assert one.percent.mean == pytest.approx(10, abs=0.2)
    assert one.percent.low < 10 < one.percent.high
    assert (one.off.mean, one.pairs) == (2000, 3)
    assert (one.freed_mib, one.freed, one.per) == (100, False, "%")
    assert one.mib_per.mean == pytest.approx(100 / one.percent.mean)
    assert one.mib_per.low == pytest.approx(100 / one.percent.high)
    assert price.in_words(one).startswith("KSM costs 10 % (9.")
    assert price.in_words(one).endswith(" in 3 pairs")
    assert price.exchanged(one).endswith(") are saved for each percent of it that is lost")


def test_a_time_that_is_longer_is_a_loss_in_its_unit(costs):
    (one,) = costs([500, 510, 490], [1000, 1020, 981], unit="µs", better="lower")
    assert one.verdict == COSTS
    assert one.absolute.mean == pytest.approx(500, rel=0.01)
    assert one.per == "µs"
    assert one.mib_per.mean == pytest.approx(100 / 500, rel=0.01)
    assert "are saved for each µs that it gets longer" in price.exchanged(one)


def test_nothing_is_said_to_be_lost_only_if_that_is_shown(costs):
    (same,) = costs([1000, 2000, 3000], [1001, 1998, 3003])
    assert same.verdict == NOTHING
    assert same.p_same < 0.05
    assert price.in_words(same).startswith("KSM costs you nothing measurable here (less than 5 %)")


def test_no_difference_shown_is_not_no_difference(costs):
    (one,) = costs([1000, 1000, 1000], [900, 1100, 980])
    assert one.verdict == UNSURE
    assert one.mib_per is None
    words = price.in_words(one)
    assert words.startswith("cannot tell: ")
    assert f"about {one.needed:,} repetitions would show 5 %" in words
    assert one.needed > 3
    assert price.exchanged(one).startswith("at least ")


def test_a_loss_that_is_shown_to_be_small_is_told_with_its_size(costs):
    (one,) = costs([1000, 1000, 1000], [980, 981, 979])
    assert one.verdict == COSTS
    assert price.in_words(one).endswith("in 3 pairs, which is less than 5 %")


def test_a_gain(costs):
    (one,) = costs([1000, 2000, 3000], [1100, 2204, 3298])
    assert one.verdict == GAINS
    assert price.in_words(one).startswith("KSM makes it better by 10")
    assert one.percent.mean < 0
    assert price.exchanged(one) == ""


@pytest.mark.parametrize(("pairs", "words"), [(1, "2 more repetitions"), (2, "1 more repetition ")])
def test_few_pairs_have_no_verdict(pairs, words, costs):
    (one,) = costs([1000] * pairs, [500] * pairs)
    assert one.verdict == TOO_FEW
    assert words in price.in_words(one)
    assert one.percent.low is None


def test_a_metric_of_which_no_side_is_better_has_no_price(costs):
    assert costs([1, 2, 3], [2, 3, 4], better=None) == []


def test_verdicts_allow_for_the_number_of_prices(write):
    def found(count):
        for repetition, with_ksm in enumerate((900, 910, 870), 1):
            for knobs, value in ((OFF, 1000), (ON, with_ksm)):
                lines = [
                    line
                    for n in range(count)
                    for line in reports(f"rate_{n:02}", [value], "1/s", "higher")
                ]
                path = write(lines, knobs, repetition + 10 * count) / "load.jsonl"
        runs = read_results(path.parent).usable
        runs = [run for run in runs if run.repetition > 10 * count]
        return price.prices([measurement.measure(run) for run in runs])

    (alone,) = found(1)
    assert alone.verdict == COSTS
    among = found(20)
    assert [one.verdict for one in among] == [UNSURE] * 20
    words = f"p is {alone.p:.3f} alone: not significant among 20 prices"
    assert words in price.in_words(among[0])
    assert among[0].needed > price.statistics.pairs_needed(0.03, 0.05)


def test_hosts_with_too_few_pairs_are_compared_together_and_each_within_itself(write):
    for n, speed in enumerate((1, 5, 20), start=1):
        for knobs, value in ((OFF, 1000), (ON, 900 + n)):
            lines = reports("rate", [value * speed] * 3, "1/s", "higher")
            results = write(lines, knobs, n, host=f"host-{n}")
    (one,) = price.prices([measurement.measure(run) for run in read_results(results).usable])
    assert (one.host, one.pairs, one.verdict) == ("3 hosts", 3, COSTS)
    assert one.percent.mean == pytest.approx(9.8, abs=0.1)


@pytest.mark.parametrize(
    ("errors", "names"),
    [(0, {"load_p50_ms"}), (1, {"load_p50_ms", "load_throughput", "load_errors_percent"})],
)
def test_what_the_rate_determines_is_no_price_of_a_load_that_was_answered(errors, names, write):
    for repetition in (1, 2, 3):
        for knobs in (OFF, ON):
            times = {"reads": {"1000000": 50}, "writes": {}, "late": {"1000": 50}}
            line = {"kind": "requests", "warmup": False, "seconds": 1.0, "cpu_seconds": 0.1}
            line |= {"errors": errors, "waiting": 0, "wall": WALL + 1, "monotonic": MONOTONIC + 1}
            results = write([{"kind": "header", "format": 1}, line | times], knobs, repetition)
    every = price.prices([measurement.measure(run) for run in read_results(results).usable])
    assert {one.metric for one in every} == names


def test_compare_takes_the_values_of_the_same_time_as_the_prices(write, capsys):
    for repetition in (1, 2, 3):
        for knobs in (OFF, ON):
            lines = reports("rate", [10, 1000 + repetition, 1001 + repetition], "1/s", "higher")
            results = write(lines, knobs, repetition)
    argv = ["compare", *[str(results)] * 2, "--by", "knobs", "--metric", "rate", "--json"]
    assert main(argv) == 0
    (one,) = json.loads(capsys.readouterr().out)["comparisons"]
    assert one["change"] == pytest.approx(0)


def test_the_time_before_the_settled_phase_counts_on_neither_side(write):
    for repetition in (1, 2, 3):
        for knobs in (OFF, ON):
            # the service is slow in its first second, whatever KSM does
            lines = reports("rate", [10 + repetition, 1000 + repetition, 1001 + repetition],
                            "1/s", "higher")  # fmt: skip
            results = write(lines, knobs, repetition)
    (one,) = price.prices([measurement.measure(run) for run in read_results(results).usable])
    assert one.percent.mean == pytest.approx(0)
    assert one.verdict == NOTHING


def test_without_runs_with_ksm_off_it_says_what_is_missing(write, capsys):
    for repetition in (1, 2, 3):
        results = write(reports("rate", [5, 6], "1/s", "higher"), ON, repetition)
    assert main(["answer", str(results)]) == 0
    assert "What KSM costs is not known: that needs runs with KSM off" in " ".join(
        capsys.readouterr().out.split()
    )


def test_without_a_usable_run_there_is_no_price():
    assert price.prices([]) == []
    assert price.missing([], []) == ""


def test_no_price_and_nothing_missing_without_metrics(write):
    results = write([], ON, 1)
    measured = [measurement.measure(run) for run in read_results(results).usable]
    assert price.prices(measured) == []
    assert price.missing(measured, []) == ""


def test_the_answer_and_the_page_have_the_prices(costs, tmp_path, capsys):
    costs([1000, 2000, 3000], [900, 1798, 2703])
    results = tmp_path / "results"
    assert main(["answer", str(results)]) == 0
    assert "run=1: rate: KSM costs 10 %" in " ".join(capsys.readouterr().out.split())
    assert main(["answer", str(results), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (one,) = found["prices"]
    assert found["bound_percent"] == 5
    assert one["percent"]["mean"] == pytest.approx(10, abs=0.2)
    assert one["verdict"] == "costs"
    assert one["words"].startswith("KSM costs 10 %")
    page = render.page(redact(read_results(results)))
    assert "What it costs" in page
    assert "KSM costs 10 %" in page
    assert 'id="reported-rate"' in page


def test_a_hostile_unit_or_name_is_text(costs, tmp_path):
    costs([1, 2, 3], [2, 3, 4], unit="<script>alert(1)</script>")
    page = render.page(read_results(tmp_path / "results"))
    assert "<script>alert" not in page


def test_the_figures_have_the_values(costs, tmp_path):
    costs([1000, 2000, 3000], [900, 1798, 2703])
    measured = [measurement.measure(run) for run in read_results(tmp_path / "results").usable]
    shown = {section.id: section for section in sections.sections_of(measured)}
    (figure,) = shown["reported"].figures
    (_, by_setting), (_, over_time) = figure.panels
    assert by_setting.layout.yaxis.title.text == "1/s"
    runs, median = by_setting.data
    assert dict(zip(median.x, median.y, strict=True)) == {ON: 1798, OFF: 2000}
    assert sorted(runs.y) == [900, 1000, 1798, 2000, 2703, 3000]
    assert len(over_time.data) == 6
    assert np.allclose(over_time.data[0].x, [1, 2, 3])


def test_a_metric_with_a_value_for_each_run_has_no_figure_over_time(write):
    results = write(reports("rate", [5], "1/s"), ON, 1)
    measured = [measurement.measure(run) for run in read_results(results).usable]
    (metric,) = reported.metrics_of([each.run for each in measured])
    ((title, _),) = reported_figures.panels_of(measured, metric)
    assert title == ""


def test_the_table_leaves_out_what_does_not_vary(costs):
    table = tables.of_prices(costs([1000, 2000, 3000], [1001, 1998, 3003]))
    titles = [heading["title"] for heading in table["headings"]]
    assert titles[:4] == ["metric", "KSM off", "with KSM", "what it costs"]
