"""Warnings about a run."""

import json

import pytest
from made_up_runs import run_record, sample_lines

from ksm_analysis.results.reader import read_results, read_run


@pytest.fixture
def warnings(write_run):
    """Write a run with changed lines, and return its warnings."""

    def warnings(change, **strain):
        record = run_record(guests=1)
        lines = sample_lines(record)
        for n, line in enumerate(lines[1:-1]):
            change(n, line)
        if strain:
            lines[0]["strain"] = dict.fromkeys(strain, 1_000)
            lines[-1]["strain"] = {key: 1_000 + value for key, value in strain.items()}
        return list(read_run(write_run(record, lines)).warnings)

    return warnings


def nothing(_n, _line):
    pass


def test_a_good_run_has_no_warning(warnings):
    assert warnings(nothing) == []


def test_a_little_strain_causes_no_warning(warnings):
    # 4 s were sampled
    assert warnings(nothing, memory_some_us=39_000, memory_full_us=1, throttled=0) == []


def test_swapping_is_reported_with_its_pages(warnings):
    def swap(n, line):
        line["vmstat"] |= {"pswpout": 7 + 100 * n, "pswpin": 3 * (n > 9)}

    assert warnings(swap) == [
        "3 pages were read back from swap during the run",
        "1,600 pages were written to swap during the run",
    ]


def test_swapping_before_the_run_does_not_count(warnings):
    assert warnings(lambda n, line: line["vmstat"].update(pswpout=9_999)) == []


def test_a_host_that_is_short_of_memory(warnings):
    def short(n, line):
        line["meminfo"]["MemAvailable"] = 300_000 if n == 5 else 5_000_000

    assert warnings(short) == ["the host was short of memory: at one time, only 3.6% was available"]


def test_waiting_for_memory(warnings):
    assert warnings(nothing, memory_some_us=400_000, memory_full_us=200_000) == [
        "some task waited for memory for 10.0% of the time (PSI)",
        "all tasks waited for memory for 5.0% of the time (PSI)",
    ]


def test_throttling(warnings):
    assert warnings(nothing, throttled=12) == [
        "the CPUs were throttled because they were too hot: 12 times"
    ]


def test_stolen_time(warnings):
    def steal(n, line):
        line["cpu"]["steal"] = 5 * n

    # 5 of 30 + 10 + 55 + 5 + 5 ticks between two samples
    assert warnings(steal) == ["4.8% of the CPU time was stolen: the host is itself a guest"]


def test_old_runs_without_strain_have_no_warning(write_run):
    record = run_record()
    lines = sample_lines(record)
    lines[0]["strain"] = {"throttled": 5}  # a sampler that was killed has no end line

    assert not [w for w in read_run(write_run(record, lines[:-1])).warnings if "throttled" in w]


def tracked(write_run, items, machine="x86_64", others=None, **ksm):
    """Return the warnings of a run whose host tracks so many pages, 40,000 of them its guest's."""
    record = run_record(guests=1)
    record["provenance"]["kernel"]["machine"] = machine
    lines = sample_lines(record)
    for line in lines[1:-1]:
        kernel = line["ksm"]
        kernel |= {"ksm_zero_pages": 500, **ksm}
        saved = (kernel["pages_sharing"] + (kernel["ksm_zero_pages"] or 0)) * 4096
        kernel["general_profit"] = saved - items * 64
    if others:
        lines[-1]["others"] = {
            "ksm_rmap_items": sum(others.values()),
            "processes": [
                {"pid": pid, "name": name, "ksm_rmap_items": pages}
                for pid, (name, pages) in enumerate(others.items(), start=10)
            ],
        }
    return list(read_run(write_run(record, lines)).warnings)


def test_other_processes_that_are_merged_are_reported(write_run):
    assert tracked(write_run, 50_000) == [
        "other processes on this host are merged too: 39 MiB of mergeable pages (20%) are not of "
        "this run's processes; the counters include them"
    ]


def test_other_processes_are_named(write_run):
    (warning,) = tracked(write_run, 50_000, others={"java": 8_000, "qemu": 2_000})
    assert warning.endswith("include them: java (process 10) 31 MiB, qemu (process 11) 8 MiB")


def test_counters_below_zero_name_no_stranger(write_run):
    record = run_record(guests=1)
    lines = sample_lines(record)
    for line in lines[1:-1]:
        line["guests"]["ksm-guest-01"]["ksm_rmap_items"] = -5
    assert not [w for w in read_run(write_run(record, lines)).warnings if "other processes" in w]


def test_other_processes_are_found_where_general_profit_does_not_tell(write_run):
    (warning,) = tracked(write_run, 50_000, machine="armv7l", others={"java": 10_000})
    assert "39 MiB of mergeable pages (20%)" in warning
    assert warning.endswith("include them: java (process 10) 39 MiB")


def test_a_percent_of_other_pages_is_no_stranger(write_run):
    assert tracked(write_run, 40_400) == []


@pytest.mark.parametrize(
    "unknown",
    [{"machine": "armv7l"}, {"machine": None}, {"ksm_zero_pages": None}],
    ids=["32-bit", "unknown machine", "older kernel"],
)
def test_strangers_are_not_looked_for_where_a_number_is_missing(write_run, unknown):
    assert tracked(write_run, 50_000, **unknown) == []


def test_runs_that_are_missing_are_named(write_run):
    for guests, workload in ((1, "idle"), (1, "stress"), (2, "idle")):
        path = write_run(guests=guests, workload=workload)

    assert read_results(path.parent).warnings == (
        "1 of 4 combinations of factors are missing: guests 2, workload stress",
    )


def test_many_that_are_missing_are_counted(write_run):
    for number in range(1, 5):
        path = write_run(guests=number, workload=f"w{number}")
    (warning,) = read_results(path.parent).warnings

    assert warning.startswith("12 of 16 combinations of factors are missing: ")
    assert warning.endswith("; and 9 more")


def test_failed_runs_are_not_missing_and_neither_are_those_of_other_experiments(write_run):
    write_run(guests=1, workload="idle")
    write_run(guests=1, workload="stress", status="failed", reason="no memory")
    record = run_record(guests=5, workload="other", experiment="another")
    path = write_run(record)

    assert read_results(path.parent).warnings == (
        "g01-k1-stress-r1: left out, since the run failed: no memory",
    )


def plan_of(*runs: dict) -> str:
    return json.dumps({"runs": [record["run"] for record in runs]})


def test_the_plan_reveals_missing_runs(write_run):
    planned = [run_record(guests=guests, repetition=n) for guests in (1, 2) for n in (1, 2)]
    path = write_run(planned[0])
    write_run(planned[1])
    (path.parent / "plan.json").write_text(plan_of(*planned))

    assert read_results(path.parent).warnings == (
        "2 of 4 runs of the plan are missing: guests 2, repetition 1; guests 2, repetition 2",
    )


def test_runs_not_in_the_plan_are_not_missing(write_run):
    planned = [run_record(guests=1, workload="idle"), run_record(guests=2, workload="stress")]
    for record in planned:
        path = write_run(record)
    (path.parent / "plan.json").write_text(plan_of(*planned))

    assert read_results(path.parent).warnings == ()


@pytest.mark.parametrize("damaged", ["", "[]", '{"runs": [{}]}', '{"runs": 1}'])
def test_a_damaged_plan_is_reported_and_loses_no_run(write_run, damaged):
    path = write_run()
    (path.parent / "plan.json").write_text(damaged)
    results = read_results(path.parent)

    assert len(results.runs) == 1
    assert results.warnings[0].startswith("plan.json cannot be read, so missing runs are not found")


def test_different_hosts_are_reported_with_their_differences(write_run):
    path = write_run(repetition=1, host="a")
    small = run_record(repetition=2, host="b")
    small["provenance"] |= {"memory_bytes": 2**30, "acceleration": "kvm"}
    write_run(small)

    assert read_results(path.parent).warnings == (
        "hosts differ in memory: a 8,192 MiB; b 1,024 MiB. "
        "Each is shown separately, without averages",
        "hosts differ in acceleration: a tcg; b kvm. Each is shown separately, without averages",
    )


def test_a_setting_measured_on_one_host_only_is_reported(write_run):
    for guests, repetition, host in ((1, 1, "a"), (1, 2, "b"), (2, 1, "b"), (2, 2, "b")):
        path = write_run(guests=guests, repetition=repetition, host=host)

    assert read_results(path.parent).warnings == (
        "1 of 2 settings were not measured on every host: compare settings within a host, or use "
        "as many repetitions as there are hosts",
    )
