"""Several experiments in one report: different settings get names, equal ones are repetitions."""

import pytest
from made_up_runs import Writer, run_record

from ksm_analysis.__main__ import main
from ksm_analysis.results.reader import read_results
from ksm_analysis.results.together import together


@pytest.fixture
def write(tmp_path):
    """Write runs of experiments; return a function that reads all of them."""

    def write(
        experiment, guests=1, workload="idle", pages=1000, options=None, images="base", **other
    ):
        record = run_record(guests=guests, workload=workload, experiment=experiment, **other)
        record["run"]["knobs"]["pages_to_scan"] = pages
        record["run"]["guests"]["image"] = images
        for part in record["run"]["workload"]["parts"]:
            part["stress_ng"] = options
        Writer(tmp_path / experiment)(record)

    write.read = lambda *names: together([read_results(tmp_path / name) for name in names])
    write.directory = tmp_path
    return write


def test_one_experiment_stays_as_it_is(write):
    write("one", guests=1)
    write("one", guests=2)
    alone = read_results(write.directory / "one")

    assert [r.record for r in write.read("one").runs] == [r.record for r in alone.runs]


def test_guests_of_other_images_are_another_cell(write):
    one = {"hash": "abc"}
    for name, other in (("one", "def"), ("two", "123")):
        provenance = {"image base": one, "image web": {"hash": other}}
        write(name, provenance=provenance, images="base+web")

    assert [run.factors["knobs"] for run in write.read("one", "two").runs] == [
        "image=abc+def",
        "image=abc+123",
    ]


def test_knobs_are_named_by_what_differs_between_experiments(write):
    write("one", pages=1000)
    write("two", pages=5000)

    assert [run.factors["knobs"] for run in write.read("one", "two").runs] == [
        "pages_to_scan=1000",
        "pages_to_scan=5000",
    ]


def test_knobs_that_do_not_differ_keep_their_name(write):
    write("one")
    write("two")

    names = {run.factors["knobs"] for run in write.read("one", "two").runs}
    assert names == {"run=1, pages_to_scan=1000"}


def test_guests_of_different_sizes_are_different_cells(write):
    write("one")
    record = run_record(guests=1, experiment="two")
    record["run"]["guests"]["memory_mib"] = 1024
    Writer(write.directory / "two")(record)

    runs = write.read("one", "two").runs
    labels = [run.factors["knobs"] for run in runs]
    assert labels == ["guest memory_mib=512", "guest memory_mib=1024"]
    assert len({run.cell for run in runs}) == 2


def test_an_unknown_factor_separates_runs(write, tmp_path):
    """It is one of a later version. Runs that differ in it are not repetitions of one another."""
    for experiment, policies in (("one", ("none", "governor")), ("two", ("none",))):
        for policy in policies:
            record = run_record(guests=1, experiment=experiment)
            record["run"]["factors"]["policy"] = policy
            Writer(tmp_path / experiment)(record, name=policy)

    assert len({run.cell for run in read_results(tmp_path / "one").runs}) == 2
    runs = write.read("one", "two").runs
    assert [(run.factors["knobs"], run.factors["repetition"]) for run in runs] == [
        ("policy=governor", 1),
        ("policy=none", 1),
        ("policy=none", 2),
    ]


def test_different_workloads_of_one_name_get_distinct_names(write):
    for experiment, advice in (
        ("one", "mergeable"),
        ("two", "unmergeable"),
        ("three", "mergeable"),
    ):
        write(experiment, workload="stress", options={"vm": 2, "vm_madvise": advice})
        write(experiment)
    runs = write.read("one", "two", "three").runs

    assert [run.factors["workload"] for run in runs if run.factors["workload"] != "idle"] == [
        "stress of one",
        "stress of two",
        "stress of one",
    ]
    assert [run.factors["repetition"] for run in runs if run.factors["workload"] == "idle"] == [
        1,
        2,
        3,
    ]


def test_differently_sampled_workloads_get_distinct_names(write):
    write("one", interval=1.0)
    write("two", interval=60.0)

    names = [run.factors["workload"] for run in write.read("one", "two").runs]
    assert names == ["idle of one", "idle of two"]


def test_ids_stay_unique_and_runs_in_order(write):
    for experiment in ("one", "two"):
        write(experiment, guests=1)
    write("two", guests=2)
    runs = write.read("two", "one").runs

    assert [run.id for run in runs] == [
        "two/g01-k1-idle-r1",
        "g02-k1-idle-r1",
        "one/g01-k1-idle-r1",
    ]
    assert [run.plan.index for run in runs] == [1, 2, 3]


def test_failed_runs_do_not_count_as_repetitions(write):
    write("one", status="failed", reason="no memory")
    write("two")
    runs = write.read("one", "two").runs

    assert [run.factors["repetition"] for run in runs if run.usable] == [1]


def test_warnings_name_their_experiment(write):
    write("one", status="failed", reason="no memory")
    write("two")

    assert write.read("one", "two").warnings == (
        "one: g01-k1-idle-r1: left out, since the run failed: no memory",
    )


def test_several_directories_make_one_page_with_an_output_path(write, capsys):
    write("one", pages=1000)
    write("two", pages=5000)
    directories = [str(write.directory / name) for name in ("one", "two")]

    assert main(["report", *directories]) == 2
    assert "needs an output path: use -o" in capsys.readouterr().err
    assert main(["report", *directories, "-o", str(write.directory / "page.html")]) == 0
    page = (write.directory / "page.html").read_text()
    assert "one, two" in page
    assert "No setting is shown to be the best for 1 guest, idle." in page


def test_a_directory_that_is_given_twice_is_refused(capsys, write_run):
    path = str(write_run().parent)

    assert main(["report", path, f"{path}/../made-up", "-o", "x.html"]) == 2
    assert "given twice" in capsys.readouterr().err


def test_an_experiment_that_was_run_again_is_another_one(write_run, tmp_path):
    first = write_run(guests=1).parent
    again = first.rename(first.with_name("made-up.20260101T000000"))
    write_run(guests=1)
    both = together([read_results(again), read_results(first)])

    assert [run.record.experiment for run in both.runs] == [again.name, first.name]
    assert len({run.id for run in both.runs}) == 2
