"""What a run freed, and the parts that explain it."""

import copy
from dataclasses import replace

import pytest
from made_up_runs import PAGE, census_lines, run_record, sample_lines

from ksm_analysis.analysis.answer import headline
from ksm_analysis.analysis.settings import settings_of
from ksm_analysis.analysis.words import number
from ksm_analysis.metrics import freed, measurement, summary
from ksm_analysis.page import freed_figures
from ksm_analysis.results.reader import read_run

MIB = 2**20
PROFIT = ["ksm.general_profit"]
ANON = 400_000  # KiB at the start


@pytest.fixture
def measure(write_run):
    """Measure a run whose memory fell by some KiB; `census` changes lines of its census."""

    def measure(fell=50_000, census=None, knobs=None, **factors):
        record = run_record(**factors)
        if knobs:
            record["run"]["knobs"] |= knobs
            record["run"]["factors"]["knobs"] = str(knobs)
            record["run"]["id"] += "-".join(map(str, knobs.values()))
        header, *samples, end = copy.deepcopy(sample_lines(record))
        for n, sample in enumerate(samples):
            part = n / (len(samples) - 1)
            sample["meminfo"] |= {"AnonPages": ANON - round(fell * part), "PageTables": 1_000}
        names = list(header["guests"])
        header["pss_anon"] = dict.fromkeys(names, ANON)
        end["pss_anon"] = dict.fromkeys(names, ANON) | {names[0]: ANON - fell}
        lines = None
        if census is not None:
            record["run"]["census"] = {"end": True, "every": 0}
            lines = copy.deepcopy(census_lines(record, (0.0, 1.0)))
            lines[1]["moment"] = "start"
            lines[2] |= census
        return measurement.measure(
            read_run(write_run(record, [header, *samples, end], census=lines))
        )

    return measure


def counted(measured):
    """Return what the counters say of the last sample: saved pages, and bytes of structures."""
    last = measured.run.samples.iloc[-1]
    first = measured.run.samples.iloc[0]
    items = 80_000 * 64  # rmap_items do not change
    nodes = 64 * (last["ksm.pages_shared"] - first["ksm.pages_shared"])
    assert last["ksm.pages_sharing"] * PAGE - last["ksm.general_profit"] == items
    return last["ksm.pages_sharing"] - first["ksm.pages_sharing"], nodes


def test_without_a_census_the_counters_explain_it(measure):
    measured = measure()
    found = freed.freed(measured)
    sharing, nodes = counted(measured)
    assert found.merged_mib == pytest.approx(sharing * PAGE / MIB)
    assert found.overhead_mib == pytest.approx(nodes / MIB)
    assert found.freed_mib == pytest.approx(50_000 / 1024 - nodes / MIB)
    assert found.host_freed_mib == pytest.approx(found.freed_mib)
    assert found.residual_mib == pytest.approx(50_000 / 1024 - sharing * PAGE / MIB)
    assert found.zero_mib == 0
    assert found.split_zero_mib != found.split_zero_mib, "unknown"


def test_the_overhead_needs_no_general_profit(measure):
    """Linux 6.1 has ksm_rmap_items of each process, and no general_profit."""
    measured = measure()
    rows = measured.run.guests
    rows.loc[rows["n"] == rows["n"].max(), "ksm_rmap_items"] += 1000
    fewer = replace(
        measured, run=replace(measured.run, samples=measured.run.samples.drop(columns=PROFIT))
    )
    _, nodes = counted(measured)
    assert freed.freed(fewer).overhead_mib == pytest.approx((nodes + 2 * 1000 * 64) / MIB)


def test_a_census_of_the_start_knows_splits_and_growth(measure):
    census = {
        "saved_pages": 100 + 20 + 3000,
        "saved_ksm_pages": 100,
        "saved_zero_pages": 20,
        "saved_split_zero_pages": 3000,
        "grown_pages": 500,
    }
    found = freed.freed(measure(fell=4 * 2_700, census=census))
    assert found.merged_mib == 100 * PAGE / MIB
    assert found.zero_mib == 20 * PAGE / MIB
    assert found.split_zero_mib == 3000 * PAGE / MIB
    assert found.grown_mib == 500 * PAGE / MIB
    assert found.residual_mib == pytest.approx((2_700 - (100 + 20 + 3000 - 500)) * PAGE / MIB)


def test_the_parts_add_up(measure):
    found = freed.freed(measure(census={"saved_split_zero_pages": 10, "grown_pages": -5}))
    gains = found.merged_mib + found.zero_mib + found.split_zero_mib + found.residual_mib
    assert found.freed_mib == pytest.approx(gains - found.grown_mib - found.overhead_mib)


def test_a_process_that_has_ended_makes_it_unknown(measure):
    measured = measure(guests=2)
    measured.run.end["pss_anon"]["ksm-guest-02"] = None
    assert freed.freed(measured).freed_mib != freed.freed(measured).freed_mib


def test_a_kernel_without_these_numbers(write_run):
    measured = measurement.measure(read_run(write_run()))
    assert freed.freed(measured).freed_mib != freed.freed(measured).freed_mib
    assert "freed_mib" not in summary.summary([measured])
    assert freed_figures.of_parts([measured]) == []


def test_ksm_off_shows_what_guests_do_by_themselves(measure):
    off = [measure(fell=1_024 * n, knobs={"run": 0}, repetition=n) for n in (1, 2)]
    on = [measure(fell=10_240, repetition=n) for n in (1, 2, 3)]
    against = freed.against_off([*off, *on])
    alone = [freed.freed(each).freed_mib for each in on]
    assert against.to_list()[:2] == [0, 0]
    twins = [freed.freed(each).freed_mib for each in off]
    expected = [alone[0] - twins[0], alone[1] - twins[1], alone[2] - sum(twins) / 2]
    assert against.to_list()[2:] == pytest.approx(expected), "the same repetition, or the mean"
    table = summary.summary([*off, *on])
    assert table["freed_against_off_mib"].to_list() == pytest.approx(against.to_list())


def test_a_census_of_the_end_decides_what_was_saved(measure):
    measured = measure(census={"saved_pages": 25_600, "grown_pages": 0})
    (setting,) = settings_of([measured])
    assert freed.saved_mib(measured) == 100
    assert setting.saved_mib.mean == 100
    assert setting.percent_configured.mean == pytest.approx(100 * 100 / 1024)
    assert setting.counted_mib.mean == freed.counted_mib(measured) != 100
    words = headline([setting])
    assert "KSM saves 100 MiB" in words
    assert f"(KSM counts {number(setting.counted_mib.mean)} MiB)" in words


def test_without_a_census_the_counters_decide(measure):
    measured = measure()
    (setting,) = settings_of([measured])
    assert setting.saved_mib.mean == freed.counted_mib(measured)
    assert setting.counted_mib is None
    assert "KSM counts" not in headline([setting])


def test_the_figure_has_a_bar_for_each_part(measure):
    measured = [
        measure(guests=n, census={"saved_split_zero_pages": 7, "grown_pages": 2}) for n in (1, 2)
    ]
    ((title, figure),) = freed_figures.of_parts(measured)
    assert title == ""
    bars = {each.name: each for each in figure.data}
    assert list(bars["merged"].x) == ["1 guest", "2 guests"]
    assert bars["zeros, by splits"].y[0] == pytest.approx(7 * PAGE / MIB)
    assert bars["growth of processes"].y[0] == pytest.approx(-2 * PAGE / MIB)
    assert bars["freed, measured"].y[0] == pytest.approx(freed.freed(measured[0]).freed_mib)
    assert figure.data[0].meta["by"] == {
        "guests": [1, 2],
        "knobs": ["run=1, pages_to_scan=1000"] * 2,
    }
