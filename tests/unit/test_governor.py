"""The governor's decisions, against the simulator of ksmd; its files, in a directory."""

import itertools
import json
import os
import random
import select
import shutil
from types import SimpleNamespace

import pytest
from governed import GOVERNOR, SCALE, Governed, copy
from hypothesis import given, settings
from hypothesis import strategies as some

from ksm_analysis.simulator.ksmd import Costs, Ksmd

Seen, Settings, State = GOVERNOR.Seen, GOVERNOR.Settings, GOVERNOR.State


def arrive(*numbers, **contents):
    """An event: copies come, each with the number that makes its own pages."""
    return lambda ksmd: [ksmd.arrive(copy(number, **contents)) for number in numbers]


ARRIVALS = [(0.1, arrive(1, 2, 3)), (50, arrive(4, 5, 6)), (100, arrive(7, 8))]


# --- scenarios ------------------------------------------------------------------------------------


def test_newcomers_are_merged_at_once_and_then_it_rests():
    host = Governed().run(150, ARRIVALS)
    assert host.ksmd.saved == host.ksmd.limit()
    assert host.efficiency > 0.98
    # of four series of two passes each, most had half of the memory
    assert host.ksmd.scanned < 7 * 8 * 384
    assert host.ksmd.knobs["run"] == 0


def test_at_rest_it_uses_next_to_no_cpu_time():
    host = Governed().run(10, ARRIVALS[:1])
    spent = host.cpu
    host.run(30 * 60)
    assert host.cpu - spent < 0.001 * 30 * 60


@pytest.mark.parametrize("every", [10, 30])
def test_memory_that_never_merges_is_given_up(every):
    """Newcomers of unique memory: less and less is tried for them."""
    comes = [(60 + every * n, arrive(n, equal=0, zero=0)) for n in range(300 // every)]
    host = Governed().run(60, [(0.1, arrive(999, equal=0, zero=0))])
    spent = host.cpu
    host.run(360, comes)
    assert host.cpu - spent < 0.01 * 300


def test_memory_that_always_changes_is_given_up():
    rng, alone = random.Random(1), itertools.count(10_000)

    def churn(ksmd):
        for process in ksmd.processes:
            pages = rng.sample(range(process.size), process.size // 4)
            ksmd.write(process, pages, [-next(alone) for _ in pages])

    churns = [(n / 2, churn) for n in range(2 * 360)]
    host = Governed().run(60, [(0.1, arrive(1, 2, 3, equal=0, zero=0)), *churns])
    spent = host.cpu
    host.run(360, churns[2 * 60 :])
    assert host.cpu - spent < 0.01 * 300


def churned(price):
    """A host of which 5 % of the pages change each second, and come to rest 3 s later."""
    rng, alone, rests = random.Random(1), itertools.count(10_000), []

    def churn(ksmd):
        every = [(process, page) for process in ksmd.processes for page in range(process.size)]
        for process, page in rng.sample(every, len(every) // 80):
            rests.append((ksmd.clock + 3, process, page, ksmd.content[process.start + page]))
            ksmd.write(process, [page], [-next(alone)])
        while rests[0][0] <= ksmd.clock:
            _, process, page, content = rests.pop(0)
            ksmd.write(process, [page], [content])

    events = [(5 + n / 4, churn) for n in range(4 * 45)]
    return Governed(settings=Settings(price=price)).run(50, [(0.1, arrive(1, 2, 3, 4)), *events])


def test_a_higher_price_saves_more_for_more_cpu_time():
    hosts = [churned(price) for price in (0.01, 0.1, 10)]
    for low, high in itertools.pairwise(hosts):
        assert high.efficiency > low.efficiency
        assert high.cpu > low.cpu
    assert hosts[-1].efficiency > 0.85


def test_pages_that_become_equal_late_are_found_without_a_sign():
    """Two old processes become equal in place: no page comes, so only a probe can tell."""
    host = Governed().run(5, [(0.1, arrive(1, 2, equal=0, zero=0))])
    for process in host.ksmd.processes:
        host.ksmd.write(process, range(384), range(1, 385))
    host.run(2 * 60 * 60)
    assert host.ksmd.saved == host.ksmd.limit() == 384


def test_old_pages_meet_new_ones():
    """One copy alone is old when the second comes: with smart_scan alone, they might never meet."""
    host = Governed().run(310, [(0.1, arrive(1)), (300, arrive(2))])
    assert host.ksmd.saved == host.ksmd.limit()


def test_a_scan_that_was_cut_off_ends_first():
    """Newcomers come before the cursor of a cut-off scan, which does not reach them."""
    host = Governed().run(10, ARRIVALS[:1])
    host.ksmd.cursor, host.ksmd.page = 1, 100
    host.state = host.state._replace(between=False)
    host.run(20, [(10, arrive(4, 5))])
    assert host.ksmd.saved == host.ksmd.limit()


def test_a_scan_that_somebody_else_began_ends_first():
    host = Governed()
    host.ksmd.broken = 10_000
    arrive(1, 2, 3)(host.ksmd)
    host.ksmd.set({"run": 1, "pages_to_scan": 10})
    host.ksmd.advance(1)
    host.run(3)
    assert host.ksmd.saved == host.ksmd.limit()
    assert host.state.totals[1] == host.ksmd.saved * SCALE  # not what was broken before


def test_each_pass_has_the_rate_that_fits_its_pages():
    """A page that is compared with others costs more than one that only gets a checksum."""
    costs = Costs(changed=1e-6, merged=1e-6, alone=8e-6, merging=8e-6, skipped=0.0)
    host = Governed(ksmd=Ksmd(costs=costs)).run(150, ARRIVALS)
    rates = [decision.knobs.get("pages_to_scan", 0) for _, decision in host.decisions]
    *_, checksums, compared = filter(None, rates)
    assert checksums > 2 * compared


def test_it_waits_while_memory_still_grows():
    """A process that fills its memory for a second is scanned once, not four times."""
    grows = [(1 + n / 10, arrive(n, pages=96)) for n in range(10)]
    host = Governed().run(20, grows)
    assert host.ksmd.saved == host.ksmd.limit()
    series = [decision for _, decision in host.decisions if decision.knobs.get("run") == 1]
    assert len(series) <= 3


def test_under_memory_pressure_it_acts_sooner():
    def first(pressure):
        host = Governed(memory_pressure=pressure).run(30, [(0.1, arrive(1, 2, 3))])
        host.run(400, [(30 + 2 * n, arrive(9 + n, pages=4)) for n in range(150)])
        return next(at for at, decision in host.decisions if at > 30 and "run" in decision.knobs)

    assert first(50.0) < first(0.0)


def test_cpu_time_costs_less_if_no_task_waits():
    assert GOVERNOR.weight(Governed(cpu_pressure=0).look()) == GOVERNOR.IDLE_COST
    assert GOVERNOR.weight(Governed(cpu_pressure=50).look()) == 1


@given(
    some.lists(
        some.tuples(
            some.floats(0.001, 100),  # seconds
            some.integers(-10_000, 10_000),  # candidates
            some.integers(0, 10_000),  # broken pages
            some.integers(-10_000, 10_000),  # saved pages
            some.integers(0, 10_000),  # scanned pages
            some.integers(0, 2),  # full scans
            some.floats(0, 100),  # CPU seconds
            some.floats(0, 100),
            some.floats(0, 100),
        ),
        max_size=60,
    )
)
@settings(max_examples=300, deadline=None)
def test_whatever_is_seen(steps):
    """It runs ksmd exactly during a series of passes, and sets knobs to values that are allowed."""
    state, run = State(), 0
    seen = Seen(0.0, 100_000, 0, 0, 0, 0, 0, 0.0, 0.0, 0.0)
    for seconds, candidates, broken, saved, scanned, scans, cpu, memory, busy in steps:
        state, decision = GOVERNOR.decide(state, seen, Settings())
        if decision:
            assert decision.reason
            assert 0 <= decision.knobs.get("smart_scan", 0) <= 1
            assert 100 <= decision.knobs.get("pages_to_scan", 100) <= 2**22
            run = decision.knobs.get("run", run)
        assert run == bool(state.passes)
        assert 0 < state.gains <= 1
        assert len(state.passes) <= 3
        seen = Seen(
            seen.seconds + seconds,
            max(0, seen.candidates + candidates),
            seen.broken + broken,
            max(0, seen.saved + saved),
            scanned,
            seen.scanned + scanned,
            seen.full_scans + scans,
            seen.cpu + cpu,
            memory,
            busy,
        )


# --- files ----------------------------------------------------------------------------------------


@pytest.fixture
def kernel(tmp_path):
    """The files of a kernel with KSM, made up."""
    files = {
        "sys/kernel/mm/ksm/run": 0,
        "sys/kernel/mm/ksm/smart_scan": 1,
        "sys/kernel/mm/ksm/pages_to_scan": 100,
        "sys/kernel/mm/ksm/sleep_millisecs": 20,
        "sys/kernel/mm/ksm/advisor_mode": "[none] scan-time",
        "sys/kernel/mm/ksm/full_scans": 7,
        "sys/kernel/mm/ksm/pages_sharing": 30,
        "sys/kernel/mm/ksm/ksm_zero_pages": 4,
        "proc/meminfo": "MemTotal: 8000 kB\nAnonPages:          4000 kB\nMapped: 1 kB",
        "proc/vmstat": "pgfault 7\ncow_ksm 30",
        "proc/pressure/memory": "some avg10=1.50 avg60=0.00 avg300=0.00 total=0\n",
        "proc/40/comm": "ksmd",
        "proc/40/schedstat": "2500000000 1 2",
    }
    for name, value in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")
    return GOVERNOR.Kernel(tmp_path)


KNOBS = {"run": 1, "smart_scan": 1, "pages_to_scan": 4096, "sleep_millisecs": 20}


def test_a_look_reads_the_counters(kernel):
    seen = kernel.look()
    pages = 4000 * 1024 // (GOVERNOR.PAGE)
    # a made-up process does not tell whose memory may be merged; without PSI of CPUs, they are busy
    assert seen[1:-1] == (pages + 34 - 30, 30, 34, 0, 0, 7, 2.5, 1.5, 100.0)


def test_memory_that_may_be_merged_is_that_of_its_processes(kernel, tmp_path):
    proc = tmp_path / "proc"
    for pid, told, statm in (
        (os.getpid(), "no", "900 800 1 0 0 0 0"),
        (50, "yes", "900 500 100 0 0 0 0"),
        (51, "no", "900 700 100 0 0 0 0"),
    ):
        (proc / str(pid)).mkdir()
        (proc / str(pid) / "ksm_stat").write_text(f"ksm_rmap_items 0\nksm_mergeable: {told}\n")
        (proc / str(pid) / "statm").write_text(statm)
    kernel = GOVERNOR.Kernel(tmp_path)
    assert kernel.candidates.count(0.0, 34) == 400
    assert kernel.candidates.broken == 30
    # what is young may say so later; of what is old, it is found out less often
    (proc / "51/ksm_stat").write_text("ksm_mergeable: yes\n")
    assert kernel.candidates.count(1.0, 34) == 400  # AnonPages has not changed
    assert kernel.candidates.count(GOVERNOR.NEAR, 34) == 1000
    shutil.rmtree(proc / "50")
    assert kernel.candidates.count(2 * GOVERNOR.NEAR, 34) == 600


def test_rest_ends_when_memory_grows(kernel, tmp_path):
    kernel.look()
    waits = []
    kernel.trigger = SimpleNamespace(poll=waits.append)
    kernel.rest(3)
    assert len(waits) == 3
    (tmp_path / "proc/meminfo").write_text("AnonPages: 40000 kB\n")
    kernel.rest(3)
    assert len(waits) == 4


def test_the_kernel_tells_at_once_that_memory_gets_short(kernel, tmp_path):
    kernel.listen(tmp_path / "none")  # as on a kernel that does not
    kernel.rest()
    assert kernel.look().memory_pressure == 1.5
    reads, writes = os.pipe()
    kernel.trigger.register(reads, select.POLLIN)
    os.write(writes, b"x")
    kernel.rest()
    assert kernel.look().memory_pressure == GOVERNOR.PRESSED


def test_knobs_are_restored_by_who_comes_next(kernel, tmp_path):
    first = GOVERNOR.Knobs(kernel, tmp_path / "state")
    found = kernel.knobs()
    first.write(KNOBS)
    assert kernel.knobs() == KNOBS
    with pytest.raises(GOVERNOR.UnusableError, match="another governor"):
        GOVERNOR.Knobs(kernel, tmp_path / "state")
    GOVERNOR.os.close(first.lock)  # as after a crash
    second = GOVERNOR.Knobs(kernel, tmp_path / "state")
    assert kernel.knobs() == second.found == found


def test_what_somebody_else_has_set_stays(kernel, tmp_path):
    knobs = GOVERNOR.Knobs(kernel, tmp_path / "state")
    knobs.write(KNOBS)
    assert knobs.foreign() == {}
    kernel.write("pages_to_scan", 555)
    assert knobs.foreign() == {"pages_to_scan": 555}
    knobs.restore()
    assert kernel.knobs() == {"run": 0, "smart_scan": 1, "pages_to_scan": 555} | {
        "sleep_millisecs": 20
    }


def test_a_kernel_without_smart_scan(kernel, tmp_path):
    (kernel.ksm / "smart_scan").unlink()
    kernel = GOVERNOR.Kernel(tmp_path)
    knobs = GOVERNOR.Knobs(kernel, tmp_path / "state")
    knobs.write(KNOBS)
    assert not (kernel.ksm / "smart_scan").exists()
    assert kernel.knobs()["run"] == 1


def test_who_else_controls_ksm_is_named(kernel, tmp_path):
    assert [*GOVERNOR.others(kernel, tmp_path / "proc")] == []
    (kernel.ksm / "advisor_mode").write_text("none [scan-time]\n")
    (tmp_path / "proc/40/comm").write_text("ksmtuned\n")
    advisor, ksmtuned = GOVERNOR.others(kernel, tmp_path / "proc")
    assert "advisor" in advisor
    assert "ksmtuned (process 40)" in ksmtuned


def test_without_ksmd_in_sight_its_cpu_time_is_estimated(kernel, tmp_path):
    (tmp_path / "proc/40/comm").write_text("other\n")
    (kernel.ksm / "pages_scanned").write_text("1000\n")
    assert GOVERNOR.Kernel(tmp_path).look().cpu == 1000 * GOVERNOR.PAGE_SECONDS


def test_no_kernel_with_ksm(tmp_path):
    with pytest.raises(GOVERNOR.UnusableError, match="no KSM"):
        GOVERNOR.Kernel(tmp_path)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--price", "0"], "--price must be a number from 0.001 to 1000"),
        (["--price", "nan"], "--price must be a number from 0.001 to 1000"),
        (["--max-cpu", "100"], "--max-cpu must be a number from 1 to 99"),
        (["--price", "x"], "argument --price: invalid float value: 'x'"),
    ],
)
def test_wrong_arguments(wrong, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        GOVERNOR.main(wrong)
    assert message in capsys.readouterr().err


def test_metrics_and_decisions(tmp_path):
    told = GOVERNOR.Told(tmp_path / "decisions", tmp_path / "ksm.prom")
    host = Governed().run(10, ARRIVALS[:1])
    told.decision("why", {"run": 1}, host.state)
    line = json.loads((tmp_path / "decisions").read_text())
    assert (line["event"], line["reason"], line["knobs"]) == ("decision", "why", {"run": 1})
    text = (tmp_path / "ksm.prom").read_text()
    assert f"ksm_governor_saved_pages_total {host.ksmd.saved * SCALE}\n" in text
    assert "ksm_governor_scanning 0\n" in text
