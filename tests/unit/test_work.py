"""What the host did in a run apart from ksmd, from the end line to the summary."""

import json
import math

import pytest
from made_up_runs import run_record, sample_lines

from ksm_analysis.__main__ import main
from ksm_analysis.metrics import measurement, summary, work
from ksm_analysis.results.reader import read_run

WORK = {"seconds": 2.0, "tlb_shootdowns": 30, "page_faults": 500, "khugepaged_cpu_ns": 4 * 10**7}


@pytest.fixture
def read(write_run):
    """Return a function that reads a run whose end line has this work."""

    def make(more):
        record = run_record(guests=1, interval=0.5, intervals=2)
        lines = sample_lines(record)
        lines[-1] |= more
        return read_run(write_run(record, lines=lines))

    return make


def test_counts_become_means(read):
    run = read({"work": WORK})
    row = summary.summary([measurement.measure(run)]).iloc[0]
    assert row["tlb_shootdowns_per_second"] == pytest.approx(15)
    assert row["page_faults_per_second"] == pytest.approx(250)
    assert row["khugepaged_cpu_percent"] == pytest.approx(2)
    assert math.isnan(row["function_calls_per_second"]), "the kernel does not tell"
    assert tuple(row.index[-len(work.COLUMNS) :]) == work.COLUMNS


@pytest.mark.parametrize(
    "more",
    [{}, {"work": {}}, {"work": {"seconds": 0, "page_faults": 3}}, {"work": {"page_faults": 3}}],
)
def test_without_a_time_there_is_none(read, more):
    assert work.of_run(read(more)) == {}


def test_they_can_be_compared(write_run, capsys):
    for repetition in (1, 2, 3):
        for count in (1, 2):
            record = run_record(guests=count, repetition=repetition)
            lines = sample_lines(record)
            lines[-1]["work"] = {**WORK, "page_faults": 500 * count + repetition}
            write_run(record, lines)
    results = str(write_run.directory)
    names = ("page_faults_per_second", "write_merged_p50_us", "freed_mib")
    metrics = [word for name in names for word in ("--metric", name)]
    assert main(["compare", results, results, "--by", "guests", "--json", *metrics]) == 0
    told = json.loads(capsys.readouterr().out)
    (one,) = told["comparisons"]
    assert (one["metric"], one["unit"], one["verdict"]) == (names[0], "faults/s", "higher")
    assert [each["metric"] for each in told["left_out"]] == [*names[1:]], "they have no value"
