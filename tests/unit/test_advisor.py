"""The kernel's advisor: its whole numbers, its fixed points, and what a run has seen of it."""

from __future__ import annotations

import itertools

import pytest
from made_up_runs import run_record, sample_lines

from ksm_analysis.metrics.advisor import replay
from ksm_analysis.results.reader import read_run
from ksm_analysis.simulator import advisor
from ksm_analysis.simulator.advisor import Advisor, Host, State, advise

# 768 MiB; each page takes 1.2 µs, and ksmd really sleeps 20.7 ms
HOST = Host(196_608, 1.2e-6, 1e-5, 0.0207)


def after(host, asked, scans):
    return next(itertools.islice(advisor.course(host, asked), scans - 1, None))[1]


@pytest.mark.parametrize(
    ("state", "seconds", "cpu", "pages"),
    [
        (State(500), 100.9, 1.0, 5000),  # the least use of a CPU: 1 % is 500 pages
        (State(2000, 100, 200), 400, 60.0, 5200),  # twice the target, twice the last: 2 x 1.3
        (State(2000, 100, 200), 100, 15.0, 1330),  # half of it is less than 10 % of a CPU
        (State(500), 0.3, 25.0, 10),  # 2500 % of a CPU, of all that ksmd has ever used
        (State(20000, 100, 400), 400, 40.0, 30000),  # the most pages
        (State(2000, 100, 200), 200, 190.0, 1470),  # 95 % of a CPU, of which it may have 70
    ],
)
def test_a_step_in_whole_numbers(state, seconds, cpu, pages):
    assert advise(state, seconds, cpu, Advisor()).pages_to_scan == pages


def test_changes_are_smoothed():
    """30 % of what the last scan took in percent of the one before."""
    state = advise(State(500), 10, 0.1, Advisor())
    assert (state.change, state.scan_time) == (30, 10)
    assert advise(state, 20.9, 0.1, Advisor()).change == (70 * 30 + 30 * 200) // 100


def test_where_it_stays():
    calm = Host(20_000_000, 1.2e-6, 1e-5, 0.0207)  # 76 GiB
    pages = [after(calm, Advisor(), scans).pages_to_scan for scans in (3, 4, 5, 6)]
    assert pages == [2080] * 4
    seconds, cpu = advisor.scan(calm, 2080)
    assert int(100 * cpu / seconds) == advisor.LEAST_CPU


def test_the_first_scan_counts_all_that_ksmd_has_ever_used():
    first = Advisor()
    assert after(HOST, first, 1).pages_to_scan == 2500
    assert after(HOST._replace(used=25), first, 1).pages_to_scan == 10
    at, _ = next(itertools.islice(advisor.course(HOST._replace(used=25), first), 1, None))
    assert at > 400


def test_a_run_is_replayed(write_run):
    """The run is made up from the course; the CPU time before it is that of ksmd in its samples."""
    asked = Advisor(target_scan_time=5)
    record = run_record(guests=0, interval=1.0, intervals=60)
    record["knobs"]["during"] |= {"advisor_mode": "scan-time", "sleep_millisecs": 20}
    for name, value in asked._asdict().items():
        record["knobs"]["during"][f"advisor_{name}"] = value
    lines = sample_lines(record)
    course = list(itertools.islice(advisor.course(HOST._replace(used=5), asked), 40))
    for line in lines[1:-1]:
        at = line["n"] / 4
        ended = [state for end, state in course if end + 0.02 * 2 < at]
        line["ksm"]["full_scans"] = len(ended)
        line["ksm"]["pages_to_scan"] = ended[-1].pages_to_scan if ended else 500
        _, cpu = advisor.scan(HOST, 1000)
        line["ksmd"]["cpu_ns"] = int(1e9 * (5 + cpu * len(ended)))
    found = replay(read_run(write_run(record, lines)))
    assert len(found) > 5
    for scan in found:
        low, high = scan.predicted
        assert low <= scan.pages_to_scan <= high
    assert replay(read_run(write_run(guests=1))) == []
