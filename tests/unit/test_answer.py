"""Savings and costs of each setting, the best setting, and the texts about them."""

# ruff: noqa: RUF001

import functools
import itertools
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from made_up_runs import PAGE, Writer, events, run_record, sample_lines
from scipy import stats

from ksm_analysis.analysis.answer import headline
from ksm_analysis.analysis.best import best_of
from ksm_analysis.analysis.settings import settings_of
from ksm_analysis.analysis.statistics import Estimate
from ksm_analysis.analysis.words import number, short, spoken
from ksm_analysis.analysis.words import times as written
from ksm_analysis.metrics import measurement
from ksm_analysis.results.reader import read_run

MIB = 256  # pages
ON, FAST, OFF = "run=1, pages_to_scan=1000", "run=1, pages_to_scan=4000", "run=0"
RISING = tuple(100 * n for n in range(17))
FLAT = (1_000,) * 17


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """Write a run of 17 samples in 4 s and measure it; equal runs are cached.

    `sharing` is pages_sharing: one number, or one for each sample. `cpu` is the CPU time of ksmd in
    seconds. `rate` is the throughput of each guest. `change` is a function of all lines.
    """
    write_run, number = Writer(tmp_path_factory.mktemp("results")), itertools.count()

    @functools.cache
    def make(*, sharing=None, cpu=0.8, rate=None, knobs=ON, change=list, guests=1, **factors):
        record = run_record(guests=guests, **factors)
        record["run"]["factors"]["knobs"] = knobs
        record["run"]["knobs"] = {k: int(v) for k, v in re.findall(r"(\w+)=(\d+)", knobs)}
        record["knobs"]["during"] = record["knobs"]["during"] | record["run"]["knobs"]
        record["run"]["id"] = f"run-{next(number)}"
        lines = change(sample_lines(record))
        for line in lines[1:-1]:
            n = line["n"]
            if sharing is not None:
                line["ksm"]["pages_sharing"] = int(sharing[n] if np.ndim(sharing) else sharing)
            line["ksmd"] = {"cpu_ns": None if cpu is None else round(5e9 + cpu * 1e9 * n / 16)}
        happened = events(record)
        for event in happened:
            if rate is not None and "stdout" in event:
                event["stdout"] = re.sub(r"(real-time:) [\d.]+", rf"\1 {rate}", event["stdout"])
        return measurement.measure(read_run(write_run(record, lines, happened), keep=False))

    return make


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """Write a run with intervals of 1 s like an imported log, and measure it."""
    write_run, number = Writer(tmp_path_factory.mktemp("results")), itertools.count()

    def imported(*sharing, run=1, label="pages_to_scan=1000"):
        count = len(sharing)
        record = run_record(guests=1, intervals=count, imported={"cut_short": None})
        record |= {"host": "imported", "converged": None, "provenance": {"page_size": PAGE}}
        record["knobs"] = {"before": {}, "during": {"run": run}, "after": {}}
        record["run"]["id"] = f"log-{next(number)}"
        record["run"]["knobs"] = {}
        record["run"]["factors"]["knobs"] = label
        record["run"]["sampling"] |= {"period": 1.0, "samples": count}
        lines = [{"kind": "header", "format": 1, "wall": None, "monotonic": 0.0, "page_size": PAGE}]
        lines += [
            {
                "kind": "sample",
                "n": n,
                "monotonic": float(n),
                "ksm": {"full_scans": n, "pages_shared": 10 * n, "pages_sharing": pages},
                "original": {"average_cpu_usage": 2.0},
                "guests": {"vm-1": {"ksm_rmap_items": 50, "ksm_merging_pages": 30}},
            }
            for n, pages in enumerate(sharing, start=1)
        ]
        lines += [{"kind": "end", "samples": count, "missed": 0, "reason": "finished", "gone": {}}]
        return measurement.measure(read_run(write_run(record, lines, happened=[]), keep=False))

    return imported


@pytest.fixture
def repeat(make):
    """Repeat a run with different savings, in MiB."""

    def repeat(*saved, **factors):
        return [
            make(sharing=mib * MIB, repetition=number, **factors)
            for number, mib in enumerate(saved, start=1)
        ]

    return repeat


def only(measured):
    (setting,) = settings_of(measured)
    return setting


def the_best(measured):
    (best,) = best_of(settings_of(measured))
    return best


def student(values):
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    return pytest.approx((np.mean(values), np.mean(values) - half, np.mean(values) + half))


def bounds(estimate):
    return estimate.mean, estimate.low, estimate.high


# --- settings -------------------------------------------------------------------------------------


def test_there_is_a_setting_for_each_cell_in_the_order_of_the_plan(make):
    cells = [(1, FAST), (1, ON), (2, FAST), (2, ON)]
    measured = [
        make(guests=guests, knobs=knobs, repetition=repetition)
        for repetition in (1, 2)
        for guests, knobs in cells
    ]
    settings = settings_of(measured)

    assert [(s.guests, s.knobs) for s in settings] == cells
    ids = [each.run.id for each in measured]
    assert [s.runs for s in settings] == [*zip(ids[:4], ids[4:], strict=True)]
    assert {(s.host, s.workload, s.off) for s in settings} == {("localhost", "idle", False)}


def test_workloads_are_settings_of_their_own(make):
    settings = settings_of([make(workload="stress"), make(workload="idle")])

    assert [s.workload for s in settings] == ["stress", "idle"]


def test_no_runs_no_settings():
    assert settings_of([]) == []


def test_repetitions_are_pooled_with_the_interval_of_student(repeat):
    setting = only(repeat(100, 110, 135))

    assert bounds(setting.saved_mib) == student([100, 110, 135])
    assert bounds(setting.percent_configured) == student([100 / 5.12, 110 / 5.12, 135 / 5.12])
    assert setting.saved_mib.runs == 3


def test_one_run_has_values_but_no_interval(make):
    setting = only([make(sharing=128 * MIB, cpu=0.5)])

    assert setting.saved_mib == Estimate(128, None, None, 1)
    assert setting.percent_configured == Estimate(25, None, None, 1)
    # 90,000 pages are resident
    assert setting.percent_resident.mean == pytest.approx(100 * 128 * MIB / 90_000)
    assert setting.ksmd_cpu_seconds.mean == pytest.approx(0.5)
    assert setting.ksmd_cpu_percent.mean == pytest.approx(12.5)
    assert setting.saved_per_cpu_second.mean == pytest.approx(256)


def test_hosts_are_not_pooled(repeat):
    measured = repeat(100, 102, host="alpha") + repeat(200, 204, host="beta")
    settings = settings_of(measured)

    assert [(s.host, s.saved_mib.mean) for s in settings] == [("alpha", 101), ("beta", 202)]


def test_savings_for_each_second_of_ksmd_are_a_mean_over_runs(make):
    measured = [make(sharing=100 * MIB, cpu=0.5), make(sharing=100 * MIB, cpu=1.0, repetition=2)]

    assert only(measured).saved_per_cpu_second.mean == pytest.approx((200 + 100) / 2)


def test_without_cpu_time_of_ksmd_there_are_no_savings_for_each_second(make):
    setting = only([make(cpu=0.0)])

    assert setting.ksmd_cpu_seconds.mean == 0
    assert setting.saved_per_cpu_second is None


def test_values_missing_in_a_log_are_none_and_not_zero(imported):
    setting = only([imported(100 * MIB, 110 * MIB, 112 * MIB)])

    assert setting.saved_mib == Estimate(112, None, None, 1)
    assert setting.percent_configured.mean == pytest.approx(112 / 5.12)
    unknown = (
        "percent_resident ksmd_cpu_seconds ksmd_cpu_percent throughput throughput_vs_off_percent "
        "saved_per_cpu_second"
    )
    assert [getattr(setting, name) for name in unknown.split()] == [None] * 6


def test_a_run_without_cpu_time_of_ksmd_counts_for_all_else(make):
    setting = only([make(sharing=100 * MIB, cpu=None), make(sharing=110 * MIB, repetition=2)])

    assert setting.saved_mib.runs == 2
    assert setting.ksmd_cpu_seconds == Estimate(pytest.approx(0.8), None, None, 1)
    assert only([make(cpu=None)]).ksmd_cpu_percent is None


def test_arrays_save_mib_and_no_percentages(make):
    def one_process(lines):
        for line in lines[1:-1]:
            line["guests"] = {"arrays": {"ksm_merging_pages": 5, "resident_pages": 900, "utime": 1}}
        return lines

    setting = only([make(guests=0, workload="single", change=one_process, sharing=64 * MIB)])

    assert setting.saved_mib.mean == 64
    assert setting.percent_configured is None
    assert setting.percent_resident is None
    assert setting.ksmd_cpu_seconds.mean == pytest.approx(0.8)


# --- the baseline ---------------------------------------------------------------------------------


def test_ksm_is_off_with_run_0_alone(make):
    settings = settings_of([make(knobs=OFF), make(knobs=ON), make(knobs="run=2")])

    assert [s.off for s in settings] == [True, False, False]
    assert settings[0].saved_per_cpu_second is None


def test_a_log_of_a_run_with_ksm_off_is_a_baseline(imported):
    assert only([imported(0, 0, run=0, label="run=0")]).off


def test_throughput_is_the_mean_over_guests_and_runs(make):
    # 1,000 and 1,100 of two guests
    measured = [
        make(guests=2, workload="stress"),
        make(guests=2, workload="stress", repetition=2, rate=950),
    ]

    assert only(measured).throughput.mean == (1_050 + 950) / 2
    assert only(measured).throughput.runs == 2
    assert only([make(guests=2)]).throughput is None


def test_throughput_of_single_runs_against_the_baseline(make):
    measured = [
        make(workload="stress", knobs=OFF, rate=1_000),
        make(workload="stress", knobs=ON, rate=900),
        make(workload="stress", knobs=FAST, rate=1_050),
    ]
    off, slow, fast = settings_of(measured)

    assert off.throughput_vs_off_percent is None
    assert slow.throughput_vs_off_percent == Estimate(pytest.approx(-10), None, None, 1)
    assert fast.throughput_vs_off_percent == Estimate(pytest.approx(5), None, None, 1)


def test_throughput_of_repetitions_against_the_baseline_is_compared_within_repetitions(make):
    off, on = np.array([1_000.0, 1_100, 1_200]), np.array([900.0, 980, 1_090, 2_000])
    measured = [
        make(workload="stress", knobs=knobs, rate=rate, repetition=number)
        for knobs, rates in ((OFF, off), (ON, on))
        for number, rate in enumerate(rates, start=1)
    ]
    found = settings_of(measured)[1].throughput_vs_off_percent

    # Student's t of the logarithms of ratios; the fourth repetition has no counterpart
    logs = np.log(on[:3] / off)
    half = stats.t.ppf(0.975, 2) * logs.std(ddof=1) / math.sqrt(3)
    bounds = [100 * np.expm1(logs.mean() + shift) for shift in (0, -half, half)]
    assert (found.mean, found.low, found.high) == pytest.approx(bounds)
    assert found.runs == 3
    assert found.high < 0, "the drift does not hide it"


def test_repetitions_on_one_side_alone_give_no_interval(make):
    measured = [
        make(workload="stress", knobs=OFF, rate=1_000),
        make(workload="stress", knobs=ON, rate=900),
        make(workload="stress", knobs=ON, rate=1_000, repetition=2),
    ]
    found = settings_of(measured)[1].throughput_vs_off_percent

    assert found == Estimate(pytest.approx(-5), None, None, 1)


@pytest.mark.parametrize(
    "other", [{"host": "beta"}, {"guests": 2}, {"workload": "other"}], ids=lambda o: next(iter(o))
)
def test_a_baseline_of_something_else_is_none(make, other):
    measured = [
        make(**{"workload": "stress", "knobs": OFF, **other}),
        make(workload="stress", knobs=ON),
    ]

    assert settings_of(measured)[1].throughput_vs_off_percent is None


def test_without_a_workload_throughput_is_not_compared(make):
    assert settings_of([make(knobs=OFF), make()])[1].throughput_vs_off_percent is None


@pytest.mark.filterwarnings("ignore:Precision loss")
def test_repetitions_without_any_spread_have_an_interval_without_width(make):
    measured = [
        make(workload="stress", knobs=knobs, rate=rate, repetition=number)
        for knobs, rate in ((OFF, 1_000), (ON, 900))
        for number in (1, 2, 3)
    ]
    found = settings_of(measured)[1].throughput_vs_off_percent

    assert bounds(found) == pytest.approx((-10, -10, -10))


@pytest.mark.filterwarnings("ignore:invalid value", "ignore:divide by")
def test_nothing_is_relative_to_a_baseline_that_did_nothing(make):
    measured = [make(workload="stress", knobs=k, rate=r) for k, r in ((OFF, 0.0), (ON, 900))]

    assert settings_of(measured)[1].throughput_vs_off_percent is None


# --- how soon -------------------------------------------------------------------------------------


def times(setting):
    every = setting.seconds_to_50, setting.seconds_to_90, setting.seconds_to_95
    return [each and each.mean for each in every]


def test_times_to_a_share_of_what_was_reached(make):
    # a tenth each quarter of a second, and then flat
    sharing = tuple(min(1_000, 100 * n) for n in range(17))

    assert times(only([make(sharing=sharing)])) == [1.25, 2.25, 2.5]


def test_times_are_of_what_the_run_ended_at_and_not_of_its_peak(make):
    sharing = (0, 400, 1_200, 2_000, *[1_000] * 13)

    assert times(only([make(sharing=sharing)])) == [0.5, 0.5, 0.5]


def test_an_early_peak_does_not_count(make):
    sharing = (0, 10_000, 500, 2_000, *[5_000] * 13)

    assert times(only([make(sharing=sharing)])) == [1.0, 1.0, 1.0]


def test_pages_of_zeros_are_saved_too(make):
    """With use_zero_pages they count in ksm_zero_pages, and not in pages_sharing."""

    def zeros(lines):
        for line in lines[1:-1]:
            line["ksm"]["ksm_zero_pages"] = 10 * MIB if line["n"] >= 4 else 0
        return lines

    setting = only([make(sharing=30 * MIB, change=zeros)])

    assert setting.saved_mib.mean == 40
    assert setting.seconds_to_95.mean == 1.0


def test_a_count_below_zero_is_not_known(make):
    """Some kernels decrement ksm_zero_pages too often."""

    def wrap(lines):
        for line in lines[1:-1]:
            line["ksm"]["ksm_zero_pages"] = 2**64 - 3
        return lines

    measured = make(sharing=30 * MIB, change=wrap)

    assert only([measured]).saved_mib is None
    assert (
        "ksm_zero_pages was below zero: the kernel counts it incorrectly" in measured.run.warnings
    )
    assert measured.host["ksm_zero_pages"].isna().all()


@pytest.mark.parametrize(
    ("smart_scan", "done", "plateau"), [(0, 2, False), (0, 3, True), (1, 9, False), (1, 10, True)]
)
def test_there_is_no_plateau_before_enough_scans(make, smart_scan, done, plateau):
    knobs = f"run=1, smart_scan={smart_scan}"
    measured = make(sharing=FLAT, knobs=knobs, change=scans(5, 5 + done))

    assert only([measured]).plateaued is plateau
    assert ("too early to judge" in headline(settings_of([measured]))) is not plateau


def test_times_count_from_the_first_sample(make):
    def begin_late(lines):
        for line in lines[1:-1]:
            line["monotonic"] += 7
        return lines

    sharing = tuple(min(1_000, 100 * n) for n in range(17))

    assert times(only([make(sharing=sharing, change=begin_late)])) == [1.25, 2.25, 2.5]


def test_times_of_a_log_count_from_its_beginning(imported):
    assert times(only([imported(400, 500, 900, 1_000, 1_000)])) == [2.0, 3.0, 4.0]


def test_times_are_means_over_runs(make):
    shapes = ((0,) * 4 + (1_000,) * 13, (0,) * 8 + (1_000,) * 9)
    measured = [make(sharing=each, repetition=n) for n, each in enumerate(shapes, start=1)]
    found = only(measured).seconds_to_95

    assert bounds(found) == student([1.0, 2.0])


@pytest.mark.parametrize("sharing", [0, RISING], ids=["nothing saved", "still rising"])
def test_a_share_that_is_never_reached_has_no_mean(make, sharing):
    found = only([make(sharing=sharing)]).seconds_to_95

    assert (found.mean, found.median, found.runs, found.reached) == (None, None, 1, 0)
    assert (found.restricted_mean, found.until) == (4.0, 4.0)
    assert written(found) == "not reached within 4"


def test_with_ksm_off_there_are_no_times(make):
    assert only([make(knobs=OFF)]).seconds_to_95 is None


def test_runs_that_never_got_there_are_censored_and_not_left_out(make):
    shapes = [(0,) * 4 + (1_000,) * 13, (0,) * 8 + (1_000,) * 9, RISING]
    found = only([make(sharing=s, repetition=n) for n, s in enumerate(shapes)]).seconds_to_95

    assert (found.mean, found.runs, found.reached) == (None, 3, 2)
    assert (found.median, found.until) == (2.0, 4.0)
    assert found.restricted_mean == pytest.approx((1 + 2 + 4) / 3)
    assert written(found) == ("median 2; not reached in 1 of 3 runs; mean, restricted to 4: 2.33")


# --- plateaus -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sharing", "plateau"),
    [
        (FLAT, True),
        (RISING, False),
        (RISING[::-1], False),
        ((0,) * 12 + (9_600, 10_000, 10_000, 10_000, 10_000), True),
        ((0,) * 12 + (9_400, 10_000, 10_000, 10_000, 10_000), False),
        ((0,) * 12 + (10_000, 9_000, 10_000, 9_000, 10_000), False),
        ((0,) * 17, True),
    ],
    ids=["flat", "rises", "falls", "4 percent", "6 percent", "up and down", "nothing"],
)
def test_a_plateau_is_little_change_in_the_last_quarter(make, sharing, plateau):
    assert only([make(sharing=sharing)]).plateaued is plateau


@pytest.mark.parametrize("sharing", [FLAT, RISING], ids=["flat", "rising"])
@pytest.mark.parametrize("converged", [True, False])
def test_a_run_that_ends_when_steady_has_a_plateau_if_converged(make, sharing, converged):
    assert only([make(sharing=sharing, converged=converged)]).plateaued is converged


def test_every_run_has_to_have_a_plateau(make):
    flat = [make(sharing=FLAT, repetition=number) for number in (1, 2)]

    assert only(flat).plateaued
    assert not only([*flat, make(sharing=RISING, repetition=3)]).plateaued


def test_a_plateau_of_a_log(imported):
    assert only([imported(10, 500, 980, 1_000)]).plateaued
    assert not only([imported(10, 200, 600, 1_000)]).plateaued


# --- the best -------------------------------------------------------------------------------------


def test_a_setting_that_is_shown_to_save_most_is_the_best_whatever_it_costs(repeat):
    measured = repeat(100, 102, 98, knobs=ON, cpu=0.2) + repeat(120, 121, 119, knobs=FAST, cpu=3.2)
    best = the_best(measured)

    assert best.scenario == "1 guest, idle"
    assert best.confident
    assert [setting.knobs for setting in best.settings] == [FAST]
    assert best.why == (
        "It saves most: 120 MiB (118 to 122, 3 runs). The next is run=1, pages_to_scan=1000 with "
        "100 MiB (95 to 105, 3 runs). Within 3 blocks, it saves 20 % more (16.6 to 23.5). It was "
        "selected from 2: its mean is rather too high, and its interval allows for that. It costs "
        "3.2 CPU seconds of ksmd. The next costs 0.2. No setting is shown to save less and cost "
        "more than another."
    )


def test_the_next_best_is_the_one_that_saves_second_most(repeat):
    measured = [
        run
        for mib in (100, 300, 200)
        for run in repeat(mib, mib + 1, mib - 1, knobs=f"run=1, pages_to_scan={mib}", cpu=mib / 100)
    ]
    best = the_best(measured)

    assert [setting.knobs for setting in best.settings] == ["run=1, pages_to_scan=300"]
    assert "The next is run=1, pages_to_scan=200 with 200 MiB" in best.why
    assert "Within 3 blocks, it saves 50 % more (49.4 to 50.6)." in best.why
    assert "It costs 3 CPU seconds of ksmd. The next costs 2." in best.why


def test_single_runs_never_show_a_best(make):
    best = the_best(
        [make(sharing=1_000 * MIB, cpu=3.2, knobs=FAST), make(sharing=100 * MIB, cpu=0.8)]
    )

    assert not best.confident
    assert [setting.knobs for setting in best.settings] == [ON, FAST], "the cheapest first"
    assert best.why == (
        "These runs do not show which of 2 settings saves most: run=1, pages_to_scan=1000 "
        "saves 100 MiB (1 run: no interval); run=1, pages_to_scan=4000 saves 1,000 MiB (1 run: no "
        "interval). Each needs at least 3 runs, and one of them has only 1. Of these, run=1, "
        "pages_to_scan=1000 costs the least: 0.8 CPU seconds of ksmd. No setting is shown to save "
        "less and cost more than another."
    )


def test_an_uncertain_difference_leaves_both(repeat):
    measured = repeat(100, 110, 120, knobs=FAST, cpu=1.6) + repeat(60, 80, 115, knobs=ON, cpu=0.4)
    best = the_best(measured)

    assert [setting.knobs for setting in best.settings] == [ON, FAST]
    assert "Nor do they show that these save the same within 1 %. More runs may." in best.why
    assert not best.equal


def test_settings_that_are_shown_to_save_less_are_not_among_the_best(repeat):
    measured = repeat(480, 500, 520, knobs=FAST, cpu=1.6)
    measured += repeat(470, 495, 530, knobs="run=1, pages_to_scan=2000", cpu=1.0)
    measured += repeat(410, 412, 408, knobs=ON, cpu=0.4)
    best = the_best(measured)

    assert [setting.knobs for setting in best.settings] == ["run=1, pages_to_scan=2000", FAST]


def test_settings_that_save_the_same_are_a_tie(repeat):
    measured = repeat(1000, 1001, 999, knobs=FAST, cpu=1.6) + repeat(1001, 999, 1000, cpu=0.4)
    best = the_best(measured)

    assert [setting.knobs for setting in best.settings] == [ON, FAST]
    assert best.equal
    assert "They are shown to save the same within 1 %." in best.why


def test_a_best_that_hardly_saves_more_says_so(repeat):
    best = the_best(repeat(1000, 1001, 999, knobs=ON) + repeat(1003, 1004, 1002, knobs=FAST))

    assert best.confident
    assert "That is less than 1 %, so it hardly matters." in best.why


def test_the_interval_of_the_best_allows_for_its_selection(repeat):
    """Among ten, the lower bound of the greatest is that of the level 0.95^(1/10)."""
    measured = [
        run
        for n in range(10)
        for run in repeat(100, 110, 120 + n, knobs=f"run=1, pages_to_scan={n + 1}")
    ]
    best = the_best(measured)
    values = [100, 110, 129]
    error = np.std(values, ddof=1) / math.sqrt(3)
    found = next(s.saved_mib for s in best.settings if s.knobs == "run=1, pages_to_scan=10")

    assert found.low == pytest.approx(np.mean(values) - error * stats.t.ppf(0.95**0.1, 2))
    assert found.high == pytest.approx(np.mean(values) + error * stats.t.ppf(0.975, 2))
    assert spoken(found, "MiB") in headline(settings_of(measured))


def test_a_setting_that_saves_less_and_costs_more_is_off_the_front(make):
    """Costs scatter by 1 %, which the constant costs of `repeat` do not."""
    measured = [
        make(sharing=(mib + n) * MIB, cpu=cpu * (1 + 0.01 * n), knobs=knobs, repetition=n)
        for knobs, mib, cpu in (
            (ON, 500, 1.0),
            (FAST, 400, 2.0),
            ("run=1, sleep_millisecs=9", 300, 0.2),
        )
        for n in (1, 2, 3)
    ]
    settings = settings_of(measured)
    (best,) = best_of(settings)

    assert [s.knobs for s in best.front] == ["run=1, sleep_millisecs=9", ON]
    assert [best.has_on_front(s) for s in settings] == [True, False, True]
    assert best.has_on_front(replace(settings[0], guests=7)) is None
    assert best.why.endswith(
        "Settings that no other beats in savings and cost: run=1, sleep_millisecs=9; "
        "run=1, pages_to_scan=1000."
    )


def test_a_single_setting_on_the_front(make):
    measured = [
        make(sharing=(mib + n) * MIB, cpu=cpu * (1 + 0.01 * n), knobs=knobs, repetition=n)
        for knobs, mib, cpu in ((ON, 500, 1.0), (FAST, 400, 2.0))
        for n in (1, 2, 3)
    ]

    assert the_best(measured).why.endswith("Every other setting saves less and costs more.")


def test_equal_runs_need_no_test(repeat):
    measured = repeat(100, 100, 100, knobs=FAST) + repeat(90, 90, 90, knobs=ON)

    assert the_best(measured).confident
    equal = repeat(100, 100, 100, knobs=FAST) + repeat(100, 100, 100, knobs=ON)
    assert len(the_best(equal).settings) == 2


def test_where_nothing_is_saved_ksm_does_not_pay(make):
    best = the_best([make(sharing=0, cpu=3.2, knobs=FAST), make(sharing=0, cpu=0.8)])

    assert best.settings[0].knobs == ON
    assert "KSM does not pay" in best.why


def scans(first, last):
    """Make full_scans rise from `first` to `last` during the run."""

    def change(lines):
        for line in lines[1:-1]:
            line["ksm"]["full_scans"] = first + round((last - first) * line["n"] / 16)
        return lines

    return change


FEW, ENOUGH = scans(7, 9), scans(7, 10)


def test_a_setting_with_too_few_scans_does_not_compete(repeat):
    slow, *others = (
        repeat(*saved, knobs=knobs, change=change)
        for saved, knobs, change in (
            ((100, 101, 99), "run=1, pages_to_scan=100", FEW),
            ((50, 51, 49), ON, ENOUGH),
            ((70, 71, 69), FAST, ENOUGH),
        )
    )
    best = the_best([*slow, *others[0], *others[1]])

    assert [setting.knobs for setting in best.settings] == [FAST]
    assert best.why.endswith(
        "Too early to judge: ksmd did not scan all memory often enough with run=1, "
        "pages_to_scan=100."
    )
    early = the_best([*slow, *others[0]])
    assert (early.settings, early.confident) == ((), False)
    assert early.why.startswith("Too early to judge")


def test_a_single_setting_is_not_the_best_of_anything(repeat):
    assert best_of(settings_of(repeat(100, 110))) == []
    assert best_of([]) == []


def test_settings_with_ksm_off_do_not_compete(make):
    measured = [make(sharing=500 * MIB, knobs=OFF), make(sharing=100 * MIB)]

    assert best_of(settings_of(measured)) == []


def test_settings_compete_within_equal_hosts_guests_and_workloads(make):
    cells = [
        {"guests": 1, "workload": "idle", "host": "alpha"},
        {"guests": 2, "workload": "idle", "host": "alpha"},
        {"guests": 1, "workload": "stress", "host": "alpha"},
        {"guests": 1, "workload": "idle", "host": "beta"},
    ]
    alone = settings_of([make(**cell) for cell in cells])
    both = settings_of([make(knobs=knobs, **cell) for cell in cells for knobs in (ON, FAST)])

    assert best_of(alone) == []
    assert [best.scenario for best in best_of(both)] == [
        "2 guests, idle, alpha",
        "1 guest, idle, alpha",
        "1 guest, stress, alpha",
        "1 guest, idle, beta",
    ]


def test_a_drift_over_repetitions_does_not_hide_the_best(repeat):
    measured = repeat(100, 200, 300, knobs=ON) + repeat(105, 210, 315, knobs=FAST)

    assert [setting.knobs for setting in the_best(measured).settings] == [FAST]
    shifted = repeat(100, 200, 300, knobs=ON) + repeat(315, 105, 210, knobs=FAST)
    assert len(the_best(shifted).settings) == 2


def test_hosts_with_a_run_each_are_blocks_of_one_best(make):
    measured = [
        make(sharing=mib * (11 if knobs == FAST else 10) // 10 * MIB, knobs=knobs, host=host)
        for host, mib in (("alpha", 100), ("beta", 200), ("gamma", 500))
        for knobs in (ON, FAST)
    ]
    best = the_best(measured)

    assert best.scenario == "1 guest, idle, 3 hosts"
    assert [setting.knobs for setting in best.settings] == [FAST]
    assert "Within 3 blocks, it saves 10 % more (10 to 10)." in best.why
    incomplete = best_of(settings_of(measured[:-1]))
    assert [each.scenario for each in incomplete] == ["1 guest, idle, alpha", "1 guest, idle, beta"]


def test_a_control_is_never_the_best(make):
    def control(measured):
        plan = measured.run.plan.model_copy(update={"control": True})
        record = measured.run.record.model_copy(update={"run": plan})
        return replace(measured, run=replace(measured.run, record=record))

    label = f"{ON}, control"
    runs = [
        (make(sharing=n + mib * MIB, knobs=knobs, repetition=n), knobs == label)
        for knobs, mib in ((ON, 100), (FAST, 110), (label, 500))
        for n in (1, 2, 3)
    ]
    settings = settings_of([control(each) if of_control else each for each, of_control in runs])

    assert [s.control for s in settings] == [False, False, True]
    (best,) = best_of(settings)
    assert [setting.knobs for setting in best.settings] == [FAST]
    assert "KSM saves 110 MiB" in headline(settings)


def test_the_best_of_logs_has_no_cost(imported):
    rising = (25 * MIB, 50 * MIB, 75 * MIB)
    best = the_best(
        [
            imported(*rising, 100 * MIB, label="slow"),
            imported(*rising, 200 * MIB, label="fast"),
        ]
    )

    assert {setting.knobs for setting in best.settings} == {"slow", "fast"}
    assert "CPU seconds" not in best.why


def test_an_unknown_cost_is_not_the_lowest(make):
    best = the_best([make(sharing=FLAT, cpu=None, knobs=FAST), make(sharing=FLAT, cpu=0.8)])

    assert best.settings[0].knobs == ON


# --- words ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "0"),
        (0.12345, "0.123"),
        (1.0, "1"),
        (12.345, "12.3"),
        (99.94, "99.9"),
        (99.96, "100"),
        (100.4, "100"),
        (1_234_567.8, "1,234,568"),
        (-4.884, "-4.88"),
        (-1_234, "-1,234"),
    ],
)
def test_numbers_have_three_digits_or_all_before_the_point(value, words):
    assert number(value) == words


def test_estimates_in_sentences():
    assert spoken(Estimate(123.4, 118, 128.2, 3), "MiB") == "123 MiB (118 to 128, 3 runs)"
    assert spoken(Estimate(1.5, None, None, 1), "s") == "1.5 s (1 run: no interval)"
    assert spoken(None, "s") == "not known"


def test_estimates_in_tables():
    assert short(Estimate(1_234.5, 1_222.5, 1_246.5, 3)) == "1,234 ± 12"
    assert short(Estimate(123.4, 118.4, 128.4, 3)) == "123.4 ± 5.0"
    assert short(Estimate(1_234, None, None, 1)) == "1,234"
    assert short(None) == "–"


def test_an_interval_without_width_takes_no_digits_from_the_mean():
    assert short(Estimate(0.4, 0.4, 0.4, 2)).startswith("0.4")


# --- the headline ---------------------------------------------------------------------------------


def test_the_headline_is_of_the_most_guests(make):
    settings = settings_of(
        [make(guests=1), make(guests=2), make(guests=1, knobs=FAST, sharing=300 * MIB)]
    )

    # 26,667 pages of two guests of 512 MiB, of which 90,000 pages each are resident
    assert headline(settings) == (
        "With 2 guests, idle: KSM saves 104 MiB (1 run: no interval), which is 10.2 % of "
        "configured and 14.8 % of resident guest memory; ksmd takes 0.8 CPU seconds for it, 20 % "
        "of one CPU. 95 % of that is reached after 2.75 s."
    )


def test_of_settings_with_as_many_guests_the_headline_is_of_the_one_that_saves_most(make):
    settings = settings_of(
        [make(sharing=100 * MIB), make(sharing=300 * MIB, knobs=FAST), make(knobs=OFF)]
    )

    assert headline(settings).startswith("With 1 guest, idle: KSM saves 300 MiB")


def test_the_headline_has_the_interval_of_repetitions(repeat):
    words = headline(settings_of(repeat(90, 100, 110)))

    assert words.startswith("With 1 guest, idle: KSM saves 100 MiB (75.2 to 125, 3 runs), which")


def test_the_headline_names_the_host_where_there_are_several(make):
    settings = settings_of([make(host="alpha"), make(host="beta", guests=2)])

    assert headline(settings).startswith("With 2 guests, idle, beta: KSM saves")


def test_the_headline_of_no_runs():
    assert headline([]) == "No run can be used."


def test_the_headline_where_ksm_was_off(make):
    assert headline(settings_of([make(knobs=OFF)])) == "KSM was off in every run."


def test_the_headline_of_arrays_has_no_percentages(make):
    settings = settings_of([make(guests=0, workload="single", sharing=64 * MIB)])

    assert headline(settings) == (
        "With single: KSM saves 64 MiB (1 run: no interval); ksmd takes 0.8 CPU seconds for it, "
        "20 % of one CPU. 95 % of that is reached within 0.25 s."
    )


def test_the_headline_of_a_log_has_no_cost(imported):
    settings = settings_of([imported(400 * MIB, 500 * MIB, 990 * MIB, 1_000 * MIB)])

    assert headline(settings) == (
        "With 1 guest, idle: KSM saves 1,000 MiB (1 run: no interval). 95 % of that is reached "
        "after 3 s."
    )


def test_the_headline_reports_a_run_that_was_too_short(make):
    words = headline(settings_of([make(sharing=RISING)]))

    assert words.endswith("Sharing was still changing when the run ended: a longer run is needed.")
    assert "95 %" not in words


def test_the_headline_reports_that_nothing_is_merged(make):
    words = headline(settings_of([make(sharing=0)]))

    assert "KSM saves 0 MiB" in words
    assert words.endswith(". Nothing is merged.")


def test_the_headline_of_a_run_whose_sampler_was_ended_does_not_say_that_ksm_was_off(make):
    def end_early(lines):
        return [*lines[:10], lines[-1] | {"samples": 9, "reason": "SIGTERM"}]

    measured = make(change=end_early)

    assert measured.run.usable
    assert "off" not in headline(settings_of([measured]))


def test_runs_that_differ_in_a_factor_that_is_not_known_are_not_averaged(write_run):
    measured = []
    for policy in ("none", "governor"):
        record = run_record(guests=1)
        record["run"]["factors"]["policy"] = policy
        measured.append(measurement.measure(read_run(write_run(record, name=policy))))
    settings = settings_of(measured)

    assert len(settings) == 2
    assert {s.knobs.rpartition(", ")[2] for s in settings} == {"policy=none", "policy=governor"}
