"""The page of many settings has a bounded size, and all settings are in it."""

import base64
import json
import re

import numpy as np
import pytest
from made_up_runs import run_record

from ksm_analysis.analysis.settings import settings_of
from ksm_analysis.metrics.measurement import measure
from ksm_analysis.page import large, render
from ksm_analysis.results.reader import read_results


@pytest.fixture
def results(write_run, monkeypatch):
    """Read results of six settings, where three are many."""
    monkeypatch.setattr(large, "MOST", 3)
    for guests in (1, 2, 3):
        for setting in (1, 2):
            record = run_record(guests)
            record["run"]["factors"]["knobs"] = f"pages_to_scan={100 * setting}"
            record["run"]["knobs"]["pages_to_scan"] = 100 * setting
            record["run"]["id"] = f"g{guests:02}-k{setting}-idle-r1"
            path = write_run(record)
    write_run(run_record(guests=4, status="failed", reason="<b>"))
    return read_results(path.parent)


def cells_of(page):
    return json.loads(re.search(r'id="cell-data">(.*?)</script>', page, re.S)[1])


def test_every_setting_is_in_the_table_with_its_curves(results):
    page = render.page(results)
    cells, every = cells_of(page), settings_of([measure(run) for run in results.usable])

    named = [
        tuple(factor["values"][factor["of"][n]] for factor in cells["factors"])
        for n in range(len(every))
    ]
    assert named == [(str(s.guests), s.host, s.workload, s.knobs) for s in every]
    saved = next(column for column in cells["columns"] if column["title"] == "saved")
    assert saved["values"] == pytest.approx([s.saved_mib.mean for s in every], rel=1e-4)
    packed = np.frombuffer(base64.b64decode(cells["curves"]["reclaimed_mib"]), "<f4")
    ends = packed.reshape(len(every), cells["points"])[:, -1]
    assert ends == pytest.approx(np.array(saved["values"]), rel=1e-4)


def test_figures_have_points_for_settings_and_no_lines_for_runs(results):
    page = render.page(results)

    assert 'id="savings-against-cost"' in page
    assert 'id="saved-by-guests"' in page
    assert 'id="cell-reclaimed_mib"' in page
    assert "-by-interval" not in page
    assert "Every run" not in page


def test_the_setting_of_the_verdict_is_among_those_listed(results, monkeypatch):
    monkeypatch.setattr(large, "SHOWN", 2)
    settings = settings_of([measure(run) for run in results.usable])
    least = min(settings, key=lambda s: s.saved_mib.mean)

    assert least in large.top(settings, least)
    assert len(large.top(settings, least)) == 3


def test_only_runs_that_failed_are_listed(results):
    listed = re.search(r'<section id="runs">.*?</section>', render.page(results), re.S)[0]

    assert listed.count("<tr data-guests") == 1
    assert "&lt;b&gt;" in listed


def test_what_is_listed_has_an_end():
    assert large.listed([1, 2], str) == [1, 2]
    assert large.listed(range(large.SHOWN + 7), str)[-1] == "7"
