"""Metrics compared with values that were computed by hand."""

import json
import math
from pathlib import Path

import pandas as pd
import pytest
from made_up_runs import PAGE, events, run_record, sample_lines

from ksm_analysis.metrics import catalog, measurement, summary
from ksm_analysis.results.reader import read_run

ROOT = Path(__file__).parents[2]


@pytest.fixture
def measured(write_run):
    return measurement.measure(read_run(write_run(guests=2)))


def measure_lines(write_run, change, **factors):
    record = run_record(**factors)
    lines = sample_lines(record)
    lines = [line for line in lines if line["kind"] != "sample" or change(line) is not False]
    return measurement.measure(read_run(write_run(record, lines)))


def test_one_row_an_interval(measured):
    assert list(measured.host.index) == [1, 2, 3, 4]
    assert list(measured.guest["interval"]) == [1, 2, 3, 4] * 2


def test_a_gauge_is_the_last_sample_of_the_interval(measured):
    # 10,000 pages at 1.5 times the progress: sample 4 of 16, then 8, then done
    assert list(measured.host["pages_shared"]) == [3_750, 7_500, 10_000, 10_000]
    # 20,000 * 4 / 3 at the end
    assert list(measured.host["pages_sharing"]) == [10_000, 20_000, 26_667, 26_667]


def test_a_counter_is_the_difference_over_the_interval(measured):
    assert list(measured.host["pages_scanned"]) == [48_000] * 4
    assert list(measured.host["cow_ksm"]) == [4] * 4


def test_a_total_counts_from_the_first_sample(measured):
    # 1,000 + n // 3 at samples 4, 8, 12, 16
    assert list(measured.host["full_scans"]) == [1, 2, 4, 5]
    assert list(measured.host["ksmd_cpu_seconds"]) == pytest.approx([0.2, 0.4, 0.6, 0.8])


def test_cpu_use(measured):
    # a sample adds 30 + 10 busy ticks and 55 + 5 idle ones
    assert list(measured.host["host_cpu_percent"]) == pytest.approx([40.0] * 4)
    assert list(measured.host["ksmd_cpu_percent"]) == pytest.approx([20.0] * 4)
    # 6 ticks of 10 ms each quarter of a second, in each of two guests
    assert list(measured.guest["guest_cpu_percent"]) == pytest.approx([24.0] * 8)
    assert list(measured.host["guests_cpu_percent"]) == pytest.approx([48.0] * 4)


def test_stolen_time_counts_neither_as_use_nor_as_idle(write_run):
    def steal(line):
        line["cpu"]["steal"] = 100 * line["n"]

    host = measure_lines(write_run, steal).host
    assert list(host["host_cpu_percent"]) == pytest.approx([40.0] * 4)


def test_memory_under_both_denominators(measured):
    last = measured.host.iloc[-1]

    assert last["guest_memory_configured_mib"] == 1024
    assert last["guest_memory_resident_mib"] == pytest.approx(2 * 90_000 / 256)
    assert last["reclaimed_mib"] == pytest.approx(26_667 / 256)
    assert last["shared_mib"] == pytest.approx(36_667 / 256)
    assert last["shared_percent_configured"] == pytest.approx(100 * 36_667 / 262_144)
    assert last["reclaimed_percent_configured"] == pytest.approx(100 * 26_667 / 262_144)
    assert last["difference_percent_configured"] == pytest.approx(100 * 10_000 / 262_144)
    assert last["shared_percent_resident"] == pytest.approx(100 * 36_667 / 180_000)
    assert last["reclaimed_percent_resident"] == pytest.approx(100 * 26_667 / 180_000)
    assert last["difference_percent_resident"] == pytest.approx(100 * 10_000 / 180_000)


def test_the_published_point_for_three_guests_follows_from_its_counters(write_run):
    """52,378 and 166,342 pages of three guests of 512 MiB: 55.6 % shared, 42.3 % reclaimed."""

    def set_counters(line):
        line["ksm"] |= {"pages_shared": 52_378, "pages_sharing": 166_342}

    last = measure_lines(write_run, set_counters, guests=3).host.iloc[-1]
    assert round(last["shared_percent_configured"], 1) == 55.6
    assert round(last["reclaimed_percent_configured"], 1) == 42.3


def test_general_profit_is_signed_and_not_the_sum_of_the_guests(measured):
    first = measured.host["general_profit"].iloc[0]
    assert first == 10_000 * PAGE - 80_000 * 64

    summed = measured.guest[measured.guest["interval"] == 4]["ksm_process_profit"].sum()
    assert summed > measured.host["general_profit"].iloc[-1]


def test_a_negative_profit(write_run):
    def nothing_merged(line):
        line["ksm"]["general_profit"] = -5_120_000

    assert list(measure_lines(write_run, nothing_merged).host["general_profit"]) == [-5_120_000] * 4


def test_the_last_sample_that_was_not_missed_ends_an_interval(write_run):
    host = measure_lines(write_run, lambda line: line["n"] not in {3, 4}).host

    # sample 2 ends interval 1, so that 2 and then 6 samples' worth are counted
    assert list(host["pages_scanned"]) == [24_000, 72_000, 48_000, 48_000]
    # over the time that really passed
    assert list(host["ksmd_cpu_percent"]) == pytest.approx([20.0] * 4)


def test_an_interval_without_samples_has_no_value(write_run):
    host = measure_lines(write_run, lambda line: line["n"] not in {5, 6, 7, 8}).host

    assert list(host["pages_shared"].isna()) == [False, True, False, False]
    assert list(host["pages_scanned"].isna()) == [False, True, True, False]


def test_the_first_sample_is_the_baseline_even_if_it_is_late(write_run):
    host = measure_lines(write_run, lambda line: line["n"] not in {0, 1}).host

    assert host["pages_scanned"].iloc[0] == 24_000


def test_a_run_that_was_cut_short(write_run):
    host = measure_lines(write_run, lambda line: line["n"] <= 8).host

    assert list(host["pages_shared"].isna()) == [False, False], "no interval that was not sampled"


def test_counters_that_the_kernel_lacks_have_no_value(measured):
    assert measured.host["pages_skipped"].isna().all()


def test_a_guest_that_has_ended_has_no_further_values(write_run):
    def lose(line):
        if line["n"] > 8:
            line["guests"]["ksm-guest-02"] = None

    measured = measure_lines(write_run, lose, guests=2)
    lost = measured.guest[measured.guest["guest"] == "ksm-guest-02"]

    assert list(lost["ksm_merging_pages"].isna()) == [False, False, True, True]
    assert measured.host["guest_memory_resident_mib"].iloc[-1] == pytest.approx(90_000 / 256)


# --- throughput and summary -----------------------------------------------------------------------


def stopped(stdout):
    return [{"event": "workload stopped", "guest": "g", "monotonic": 5001.0, "stdout": stdout}]


@pytest.mark.parametrize(
    ("stdout", "rates"),
    [
        ("---\nmetrics:\n- {stressor: vm, bogo-ops-per-second-real-time: 2.5}\n...\n", [2.5]),
        (
            "noise: [\n---\nmetrics:\n- {bogo-ops-per-second-real-time: 1}\n"
            "- {bogo-ops-per-second-real-time: 2}\n\n...\nmore noise: [\n",
            [3.0],
        ),
        ("---\nmetrics:\n", []),
        ("---\nsystem-info: {}\n", []),
        ("killed: [", []),
        ("", []),
        (None, []),
    ],
)
def test_throughput_of_a_guest(write_run, stdout, rates):
    assert summary.throughput(read_run(write_run(happened=stopped(stdout)))) == rates


def test_a_summary_has_a_row_for_each_run(write_run):
    record = run_record(guests=2, workload="stress")
    runs = [write_run(guests=1), write_run(record, happened=events(record))]
    table = summary.summary([measurement.measure(read_run(path)) for path in runs])

    assert list(table["run"]) == ["g01-k1-idle-r1", "g02-k1-stress-r1"]
    assert list(table["guests"]) == [1, 2]
    assert list(table["full_scans"]) == [5, 5]
    assert list(table["ksmd_cpu_seconds"]) == pytest.approx([0.8, 0.8])
    assert math.isnan(table["bogo_ops_per_second_sum"][0])
    assert table["bogo_ops_per_second_sum"][1] == 2100
    assert table["bogo_ops_per_second_mean"][1] == 1050
    assert {m.name for m in catalog.HOST} <= set(table)


def test_the_summary_without_runs_is_empty():
    assert isinstance(summary.summary([]), pd.DataFrame)
    assert summary.summary([]).empty


# --- the table ------------------------------------------------------------------------------------


EVERY = [*catalog.HOST, *catalog.GUEST, *catalog.CENSUS, *catalog.CENSUS_GUEST]


def test_metrics_have_unique_names_and_known_kinds():
    assert len({metric.name for metric in EVERY}) == len(EVERY)
    assert {metric.kind for metric in EVERY} <= {"gauge", "counter", "total", "derived"}


@pytest.mark.parametrize("metric", EVERY, ids=lambda m: m.name)
def test_metrics_are_documented(metric):
    row = f"| `{metric.name}` | {metric.unit} | {metric.kind} | {metric.help} |"

    assert row in (ROOT / "docs/metrics.md").read_text().splitlines()


def steady_run(write_run, samples=9):
    """Write a run that was steady after so many of its 17 samples."""
    record = run_record(converged=True)
    header, *taken, end = sample_lines(record)
    return write_run(record, [header, *taken[:samples], end | {"reason": "steady"}])


def test_a_run_that_ended_when_steady_has_only_the_intervals_it_had(write_run):
    measured = measurement.measure(read_run(steady_run(write_run)))

    assert list(measured.host.index) == [1, 2]
    assert list(measured.guest["interval"]) == [1, 2] * 2
    row = summary.summary([measured]).iloc[0]
    assert row["pages_shared"] == 7_500
    assert (row["seconds"], row["converged"]) == (2.0, "yes")


def imported(write_run):
    """Write a run of three intervals like an imported log: without a sample before the first."""
    record = run_record(guests=1, intervals=3, imported={"cut_short": None})
    record["run"]["sampling"] |= {"period": 1.0, "samples": 3}
    lines = [
        {"kind": "header", "format": 1, "wall": None, "monotonic": 0.0, "page_size": PAGE},
        *(
            {
                "kind": "sample",
                "n": n,
                "monotonic": float(n),
                "ksm": {
                    "full_scans": 100 + n * n,
                    "pages_scanned": 10_000 + 700 * n,
                    "pages_shared": 10 * n,
                    "pages_sharing": 20 * n,
                },
                "original": {"average_cpu_usage": 1.5 * n},
                "guests": {"vm-1": {"ksm_rmap_items": 50, "ksm_merging_pages": 30 * n}},
            }
            for n in (1, 2, 3)
        ),
        {"kind": "end", "samples": 3, "missed": 0, "reason": "finished", "gone": {}},
    ]
    return read_run(write_run(record, lines, happened=[]))


def test_an_imported_run_has_a_first_interval_but_no_baseline(write_run):
    run = imported(write_run)
    measured = measurement.measure(run)

    assert run.warnings == ()
    assert list(measured.host["pages_shared"]) == [10, 20, 30]
    assert list(measured.host["host_cpu_percent"]) == [1.5, 3.0, 4.5]
    assert list(measured.host["full_scans"]) == [0, 3, 8], "from the first value that there is"
    assert measured.host["pages_scanned"].fillna(-1).tolist() == [-1, 700, 700]
    assert list(measured.guest["ksm_merging_pages"]) == [30, 60, 90]
    assert measured.host["ksmd_cpu_seconds"].isna().all()


def test_without_guests_there_is_no_percentage_of_their_memory(write_run):
    record = run_record(guests=0)
    record["run"]["guests"]["memory_mib"] = 0
    lines = sample_lines(record)
    for line in lines[1:-1]:
        line["guests"] = {"arrays": {"ksm_merging_pages": 5, "resident_pages": 900, "utime": 1}}
    measured = measurement.measure(read_run(write_run(record, lines)))
    of_guests = [name for name in measured.host if "percent_" in name or "guest" in name]

    assert len(of_guests) == 9
    assert measured.host[of_guests].isna().all(axis=None)
    assert measured.host["pages_shared"].notna().all()
    assert measured.guest["ksm_merging_pages"].tolist() == [5] * 4


def test_what_was_logged_after_the_end_of_all_processes_does_not_stand_for_the_run(write_run):
    path = imported(write_run).path
    record = json.loads((path / "run.json").read_text())
    lines = [json.loads(line) for line in (path / "samples.jsonl").open()]
    lines[3]["guests"]["vm-1"] = None
    lines[3]["ksm"] |= {"pages_shared": 0, "pages_sharing": 0}
    measured = measurement.measure(read_run(write_run(record, lines, happened=[], name="gone")))

    assert measured.last == 2
    assert summary.summary([measured]).iloc[0]["pages_sharing"] == 40


def test_values_at_the_end_of_a_scan_are_those_before_full_scans_rises(write_run):
    record = run_record(guests=1)
    lines = sample_lines(record)
    for n, line in enumerate(lines[1:-1]):
        line["ksm"] |= {"full_scans": 10 + (n >= 5) + (n >= 9), "pages_unshared": 100 + n}
    host, _ = measurement.every_sample(read_run(write_run(record, lines)))
    values = host["pages_unshared_at_scan_end"]

    assert values.loc[:4].isna().all()
    assert values.loc[5:8].tolist() == [104] * 4
    assert values.loc[9:].tolist() == [108] * 8


def test_no_end_of_a_scan_is_seen_where_several_pass_between_samples(write_run):
    record = run_record(guests=1)
    lines = sample_lines(record)
    for n, line in enumerate(lines[1:-1]):
        line["ksm"]["full_scans"] = 10 + (n >= 3) + 2 * (n >= 5) + (n >= 9)
    host, _ = measurement.every_sample(read_run(write_run(record, lines)))
    known = host["pages_volatile_at_scan_end"].notna()

    assert known[known].index.tolist() == [3, 4, 9, 10, 11, 12, 13, 14, 15, 16]


def test_every_sample_has_the_values_that_intervals_of_one_sample_would_have(write_run):
    run = read_run(write_run(guests=2, interval=1.0))
    host, guest = measurement.every_sample(run)
    ends = measurement.measure(run).host

    assert host.loc[[4, 8, 12, 16], "pages_sharing"].tolist() == ends["pages_sharing"].tolist()
    assert host["pages_scanned"].tolist() == [12_000] * 16
    assert host["seconds"].tolist() == [n / 4 for n in range(1, 17)]
    assert guest.groupby("guest")["n"].count().tolist() == [16, 16]
