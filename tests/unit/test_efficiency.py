"""Efficiency where contents are known: the limit in closed form, areas, the figure."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from made_up_runs import MONOTONIC, WALL, run_record, sample_lines

from ksm_analysis.metrics import efficiency, measurement, summary
from ksm_analysis.page import efficiency_figures
from ksm_analysis.results.reader import read_run

CONTENTS = {"equal_percent": 50, "zero_percent": 10, "write_percent": 0, "rest_seconds": 0}
EQUAL, ZERO = 12288, 2457  # of the 24576 pages of 96 MiB


def event(name, at, **more):
    return {"event": name, **more, "wall": WALL + at, "monotonic": MONOTONIC + at}


def ready(*times):
    return [event("process ready", at, process=f"p{n}") for n, at in enumerate(times)]


def made(write_run, happened, saved=lambda _: 0, knobs=(), merge="madvise", also=(), **contents):
    """Read a run of 12 s with four samples a second."""
    several = write_run.directory.exists() and len([*write_run.directory.iterdir()])
    record = run_record(guests=0, intervals=12, repetition=several + 1)
    options = {"service": "memory", "data_mib": 96, "merge": merge, "contents": CONTENTS | contents}
    record["run"]["parts"] = [{"name": "processes", "options": options}, *also]
    record["format"] = 2
    record["knobs"]["during"] |= dict(knobs)
    lines = sample_lines(record)
    for line in lines[1:-1]:
        line["ksm"]["pages_sharing"] = saved(line["n"] / 4)
    return read_run(write_run(record, lines, happened))


def limit(run, *seconds):
    memory = efficiency.known(run)
    return efficiency.limit_pages(run, memory, np.array(seconds, dtype=float)).tolist()


def test_the_limit_of_copies_at_rest(write_run):
    eight = made(write_run, ready(*[-1] * 8))
    assert limit(eight, 0) == [7 * EQUAL + 8 * ZERO - 77] == [105595]
    zeros = made(write_run, ready(*[-1] * 8), knobs={"use_zero_pages": 1})
    assert limit(zeros, 0) == [7 * EQUAL + 8 * ZERO]
    four = made(write_run, ready(*[-1] * 8), knobs={"max_page_sharing": 4}, zero_percent=0)
    assert limit(four, 0) == [6 * EQUAL]


def test_what_splits_of_huge_pages_save_is_not_known(write_run):
    assert efficiency.known(made(write_run, ready(-1), huge_pages=True)) is None


def test_the_limit_follows_who_comes_and_goes(write_run):
    run = made(
        write_run,
        [*ready(-1, 2, 5), event("process left", 7, process="p0")],
        zero_percent=0,
    )
    assert limit(run, 0, 1.9, 2, 5, 6.9, 7) == [0, 0, EQUAL, 2 * EQUAL, 2 * EQUAL, EQUAL]


def test_pages_that_do_not_rest_save_nothing(write_run):
    """Drawn at random, and compared with the expected number."""
    run = made(write_run, ready(-9, -9, 2), write_percent=10, rest_seconds=4, zero_percent=0)
    draw = np.random.default_rng(1)
    rest = draw.random((3, EQUAL)) < np.array([[0.6], [0.6], [0.8]])
    count = rest.sum(axis=0)
    assert limit(run, 4)[0] == pytest.approx((count - (count > 0)).sum(), rel=0.02)


def test_the_mean_is_a_ratio_of_areas(write_run):
    def saved(seconds):  # half of the limit from 6 s on
        return EQUAL // 2 if seconds >= 6 else 0

    run = made(write_run, ready(-1, -1), saved, zero_percent=0)
    found = efficiency.of_run(run)[efficiency.NAME]
    assert found == pytest.approx(100 * 0.5 * 6.125 / 12)
    measured = measurement.measure(run)
    assert summary.summary([measured])[efficiency.NAME].to_list() == [found]


def test_without_pages_scanned_counters_count_as_they_are(write_run):
    run = made(write_run, ready(-1, -1), lambda _: EQUAL // 2, write_percent=1, rest_seconds=1)
    older = replace(run, samples=run.samples.drop(columns="ksm.pages_scanned"))
    _, stale, _ = efficiency.over_time(run)
    _, saved, _ = efficiency.over_time(older)
    assert stale[-1] < saved[-1] == EQUAL // 2


def test_nothing_to_save_has_no_efficiency(write_run):
    run = made(write_run, ready(-1, -1), equal_percent=0, zero_percent=0)
    assert math.isnan(efficiency.of_run(run)[efficiency.NAME])


def test_memory_of_unknown_contents_has_no_limit(write_run):
    assert efficiency.of_run(made(write_run, ready(-1), merge="prctl")) == {}
    assert efficiency.of_run(read_run(write_run(guests=1))) == {}
    assert efficiency.of_run(made(write_run, [event("process ready", -1)])) == {}
    guests = {"name": "population", "options": {"trace": "redis", "guests": 1}}
    assert efficiency.of_run(made(write_run, ready(-1, -1), also=[guests])) == {}


def test_the_workload_memory(write_run):
    record = run_record(guests=0, intervals=12)
    record["run"]["parts"] = [{"name": "memory", "options": {"huge_pages": False}}]
    record["format"] = 2
    written = event("memory written", -1, pages=900, equal_pages=600, zero_pages=100)
    run = read_run(write_run(record, sample_lines(record), [written]))
    assert limit(run, 0) == [600 - 3 + 99]


def test_the_figure_has_a_line_for_each_run_and_the_limit(write_run):
    run = made(write_run, ready(-1, 6), lambda seconds: int(100 * seconds), zero_percent=0)
    ((_, figure),) = efficiency_figures.saved_and_limit([measurement.measure(run)])
    saved, most = figure.data
    assert saved.y[-1] == 1200
    assert (most.name, most.y[0], most.y[-1]) == ("limit", 0, EQUAL)
    assert efficiency_figures.saved_and_limit([]) == []
