"""Find the remaining runs of an experiment, and refuse different ones."""

import copy
import json

import pytest

from ksm_analysis.campaign import resume
from ksm_analysis.definition import experiment
from ksm_analysis.errors import InputError

TEXT = """\
guests: {count: [1, 2], network: {network: lan}}
knobs: [{pages_to_scan: 100}]
knobs_if_present: {smart_scan: 0}
workloads:
  - idle
  - {name: busy, mixed: [{command: [/x, "1"]}, idle], nosharepages: [1]}
sampling: {interval: 1, intervals: 4}
"""


@pytest.fixture
def planned():
    return experiment.plan(experiment.parse(TEXT, "a.yml"), "a.yml")


def record(run, **other):
    return {"run": copy.deepcopy(run), "status": "complete"} | other


def finished(planned, *numbers):
    return {planned["runs"][n]["id"]: record(planned["runs"][n]) for n in numbers}


def test_runs_that_have_finished_are_left_out(planned):
    left = resume.pending(planned, finished(planned, 0, 2))

    assert [run["id"] for run in left["runs"]] == ["g01-k1-busy-r1", "g02-k1-busy-r1"]
    assert [run["index"] for run in left["runs"]] == [2, 4]
    assert left["seconds"] == sum(run["seconds"] for run in left["runs"]) < planned["seconds"]
    assert len(planned["runs"]) == 4
    assert {**left, "runs": 0, "seconds": 0} == {**planned, "runs": 0, "seconds": 0}


def test_all_no_and_other_runs_have_finished(planned):
    assert resume.pending(planned, {}) == planned
    assert resume.pending(planned, finished(planned, 0, 1, 2, 3))["runs"] == []
    other = {"g09-k1-idle-r1": record(planned["runs"][0])}
    assert resume.pending(planned, other) == planned


def test_index_note_and_estimate_of_a_run_may_differ(planned):
    done = finished(planned, 0)
    done["g01-k1-idle-r1"]["run"] |= {"index": 9, "note": "other words", "seconds": 1.0}

    assert len(resume.pending(planned, done)["runs"]) == 3


def tasks(run):
    """Return the tasks of the guests of a run."""
    return run["parts"][-1]["options"]["tasks"]


def test_empty_values_equal_absent_ones(planned):
    done = finished(planned, 0)
    run = done["g01-k1-idle-r1"]["run"]
    del run["guests"]["nosharepages"], run["parts"][0]["options"]["steady"]
    run["sampling"]["steady"] = None

    assert len(resume.pending(planned, done)["runs"]) == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda run: run["knobs"].update(pages_to_scan=7),
            "knobs.pages_to_scan: recorded 7, planned 100",
        ),
        (lambda run: run["knobs"].update(extra="x"), 'knobs.extra: recorded "x", planned nothing'),
        (lambda run: run["knobs_if_present"].clear(), "smart_scan: recorded nothing, planned 0"),
        (
            lambda run: run["guests"].update(network=None),
            'network: recorded nothing, planned "lan"',
        ),
        (lambda run: run["guests"].update(nosharepages=[2]), "pages: recorded [2], planned [1]"),
        (
            lambda run: run["sampling"].update(steady={"scans": 3}),
            "sampling.steady.scans: recorded 3, planned nothing",
        ),
        (
            lambda run: tasks(run)[0].update(stop=2.0),
            "parts[1].options.tasks[0].stop: recorded 2.0, planned 4.0",
        ),
        (
            lambda run: tasks(run)[0].update(command=["/x", "2"]),
            'parts[1].options.tasks[0].command: recorded ["/x", "2"], planned ["/x", "1"]',
        ),
        (
            lambda run: tasks(run).append({"guests": [2]}),
            "parts[1].options.tasks[1].guests: recorded [2], planned nothing",
        ),
    ],
)
def test_a_different_run_with_the_same_id_is_refused(planned, change, words):
    done = finished(planned, 1)
    change(done["g01-k1-busy-r1"]["run"])

    with pytest.raises(InputError) as caught:
        resume.pending(planned, done)
    said = str(caught.value)
    assert said.startswith("a/g01-k1-busy-r1 has finished, but differs from the experiment file: ")
    assert words in said
    assert "another --results, or omit --resume" in said


def test_complete_runs_are_read(tmp_path, planned):
    one, two, three, *_ = planned["runs"]
    written = {
        one["id"]: json.dumps(record(one)),
        two["id"]: json.dumps(record(two, status="failed")),
        f"{three['id']}.partial": json.dumps(record(three)),
        "no-json": "{",
        "no-object": "[]",
        "no-run": '{"status": "complete"}',
        "no-text": b"\xff\xfe",
    }
    for name, text in written.items():
        (tmp_path / name).mkdir()
        data = text if isinstance(text, bytes) else text.encode()
        (tmp_path / name / "run.json").write_bytes(data)
    (tmp_path / "empty").mkdir()
    (tmp_path / "report.html").write_text("")

    found = resume.finished(resume.records(tmp_path))
    assert found[one["id"]] == record(one)
    assert [run["id"] for run in resume.pending(planned, found)["runs"]] == [
        run["id"] for run in planned["runs"][1:]
    ]


def test_no_results_yet(tmp_path):
    assert resume.records(tmp_path / "absent") == {}


def test_unreadable_results_are_not_treated_as_missing(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file: cannot be read: Not a directory"):
        resume.records(tmp_path / "file")


def test_earlier_runs_are_passed_to_the_assignment(planned):
    first, second, *_ = planned["runs"]
    records = {
        first["id"]: record(first, host="a"),
        second["id"]: record(second, host="b", status="failed"),
        "another": record(first, host="c"),
    }

    assert resume.earlier(planned, records) == {
        first["id"]: {"host": "a", "status": "complete", "factors": first["factors"]},
        second["id"]: {"host": "b", "status": "failed", "factors": second["factors"]},
    }
