"""Results of format 1 stay readable, with the same summary.

tests/data/format-1 has shortened results of the last version that wrote format 1: guests with a
workload and a census, arrays, and an imported log. Beside each is the output of `summary --json` of
that version.
"""

import json
import shutil
from pathlib import Path

import pytest

from ksm_analysis.__main__ import main
from ksm_analysis.page import render
from ksm_analysis.results.reader import read_results

DATA = Path(__file__).parents[1] / "data" / "format-1"


@pytest.fixture
def directory(request, tmp_path):
    """Copy results, because reading writes converted files beside them."""
    return Path(shutil.copytree(DATA / request.param, tmp_path / request.param))


every = pytest.mark.parametrize("directory", ["guests", "arrays", "imported"], indirect=True)


@every
def test_the_summary_is_the_same_as_in_the_version_that_wrote_it(directory, capsys):
    assert main(["summary", "--json", str(directory)]) == 0

    expected = json.loads((DATA / f"{directory.name}.json").read_text())
    found = json.loads(capsys.readouterr().out)
    assert [{key: run[key] for key in old} for run, old in zip(found, expected, strict=True)] == [
        pytest.approx(old) for old in expected
    ]


@every
def test_a_page_is_written(directory):
    results = read_results(directory)

    assert len(results.usable) == len(results.runs)
    assert all(run.id in render.page(results) for run in results.runs)


@pytest.mark.parametrize(
    ("directory", "parts", "events"),
    [
        ("guests", {"sampler", "census", "workload"}, {"workload started", "workload stopped"}),
        ("arrays", {"sampler", "arrays"}, {"array written", "array changed"}),
        ("imported", {"sampler"}, set()),
    ],
    indirect=["directory"],
)
def test_options_are_converted_to_parts(directory, parts, events):
    for run in read_results(directory).runs:
        assert {part.name for part in run.plan.parts} == parts
        assert {event["event"] for event in run.events} - {"knobs set"} == events
        assert (run.census is not None) == ("census" in parts)
