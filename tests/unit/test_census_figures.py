"""Figures of censuses, and recommendations from them."""

import copy

import pytest
from made_up_runs import PAGE, census_lines, run_record

from ksm_analysis.analysis import recommendation
from ksm_analysis.metrics import measurement
from ksm_analysis.page import census_figures, figures, redact, render, tables
from ksm_analysis.results.reader import read_results, read_run

MIB = 2**20


@pytest.fixture
def measure(write_run):
    """Measure a run with censuses; `change` is a function of its lines, `changed` of its record."""

    def measure(change=None, changed=None, progress=(0.5, 1.0), **factors):
        record = run_record(**factors)
        record["run"]["census"] = {"end": True, "every": 2.0}
        if changed:
            changed(record)
        every = max(
            2.0, record["run"]["sampling"]["seconds"] / len(progress)
        )  # the last at the end
        lines = copy.deepcopy(census_lines(record, progress, every))
        if change:
            change(lines)
        return measurement.measure(read_run(write_run(record, census=lines), keep=False))

    return measure


def lines_of(panels):
    return [trace for _, figure in panels for trace in figure.data]


# --- efficiency -----------------------------------------------------------------------------------


def test_efficiency_over_time_has_a_point_for_each_census(measure):
    measured = [measure(guests=g, progress=(0.1, 0.5, 0.9)) for g in (1, 2)]
    panels = census_figures.efficiency_over_time(figures.load(measured), measured)
    one, two = lines_of(panels)

    assert (one.name, two.name) == ("1 guest", "2 guests")
    assert list(one.x) == [2.0, 4.0, 6.0]
    assert list(one.y) == pytest.approx([10, 50, 90])
    assert one.mode == "lines+markers"
    assert one.meta["guests"] == 1


def test_one_census_per_run_gives_no_figure_over_time(measure):
    measured = [measure(progress=(1.0,))]

    assert census_figures.efficiency_over_time(figures.load(measured), measured) == []


def test_efficiency_by_rate_has_a_line_for_whatever_else_was_varied(measure):
    def told(pages, smart):
        def knobs(record):
            record["run"]["id"] = f"g02-{pages}-{smart}"
            record["run"]["knobs"] |= {"pages_to_scan": pages, "smart_scan": smart}
            record["run"]["factors"]["knobs"] = f"pages_to_scan={pages}, smart_scan={smart}"

        def read(lines):
            for line in lines[1:-1]:
                line["ksm"] |= {"pages_to_scan": pages, "sleep_millisecs": 20}

        return {"changed": knobs, "change": read, "progress": (pages / 10_000,)}

    measured = [measure(**told(pages, smart)) for smart in (0, 1) for pages in (10_000, 1_000)]
    ((_, figure),) = census_figures.efficiency_by_rate(measured)

    assert [line.name for line in figure.data] == [
        "2 guests · smart_scan=0",
        "2 guests · smart_scan=1",
    ]
    assert list(figure.data[0].x) == [50_000, 500_000]
    assert list(figure.data[0].y) == pytest.approx([10, 100])
    assert figure.data[0].meta["by"]["knobs"] == [
        "pages_to_scan=1000, smart_scan=0",
        "pages_to_scan=10000, smart_scan=0",
    ]
    assert figure.data[0].line.dash != figure.data[1].line.dash


def test_one_rate_is_no_figure_of_rates(measure):
    assert census_figures.efficiency_by_rate([measure(), measure(guests=1)]) == []


def test_efficiency_by_guests_has_a_line_for_each_setting(measure):
    measured = [
        measure(guests=g, workload=w, progress=(part,))
        for w, part in (("idle", 1.0), ("stress", 0.5))
        for g in (1, 2)
    ]
    panels = census_figures.efficiency_by_guests(figures.load(measured), measured)
    idle, stress = lines_of(panels)

    assert (idle.name, stress.name) == ("idle", "stress")
    assert list(idle.x) == [1, 2]
    assert list(idle.y) == [100, 100]
    assert list(stress.y) == [50, 50]
    assert panels[0][1].layout.meta["x"] == "guests"


# --- kinds ----------------------------------------------------------------------------------------


def test_kinds_stand_on_one_another_and_are_what_was_counted(measure):
    panels = census_figures.by_kind([measure(guests=g, progress=(0.5,)) for g in (1, 3)])
    limit, saved = lines_of(panels)[:3], lines_of(panels)[3:]
    mib = [pages * PAGE / MIB for pages in (30_000, 15_000, 80_000)]

    assert [bar.meta["line"].partition(": ")[0] for bar in (limit[0], saved[0])] == [
        "could be saved",
        "is saved",
    ]
    assert list(limit[0].x) == ["1 guest", "3 guests"]
    assert [bar.y[1] for bar in limit] == pytest.approx(mib)
    assert [bar.y[1] for bar in saved] == pytest.approx([each / 2 for each in mib])
    assert [bar.base[1] for bar in limit] == pytest.approx([0, mib[0], mib[0] + mib[1]])
    assert limit[0].customdata[1] == "30,000 pages"
    assert limit[0].meta["by"] == {"guests": [1, 3]}
    assert len({(bar.marker.color, bar.marker.pattern.shape) for bar in limit}) == 3
    assert limit[0].opacity < saved[0].opacity
    assert limit[0].offset + limit[0].width < saved[0].offset, "beside, not behind"


def test_zeros_that_splits_gave_up_are_saved_zeros(measure):
    def split(lines):
        lines[-2] |= {"saved_split_zero_pages": 700}

    both = [measure(guests=1), measure(split, guests=1, repetition=2)]
    plain, more = (census_figures.by_kind([each]) for each in both)
    assert lines_of(more)[3].y[0] == pytest.approx(lines_of(plain)[3].y[0] + 700 * PAGE / MIB)


def test_kinds_are_means_of_repetitions(measure):
    panels = census_figures.by_kind(
        [measure(guests=1, repetition=r, progress=(part,)) for r, part in ((1, 0.4), (2, 0.8))]
    )

    assert lines_of(panels)[3].y[0] == pytest.approx(6_000 * PAGE / MIB)


# --- who shares with whom -------------------------------------------------------------------------


def test_a_heat_map_has_every_pair(measure):
    def uneven(lines):
        lines[-2]["matrix"]["pages"] = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]

    ((_, figure),) = census_figures.who_shares([measure(guests=3, change=uneven)])
    (heat,) = figure.data
    pairs = {(y[-1], x[-1]): z for y, x, z in zip(heat.y, heat.x, heat.z, strict=True)}

    assert pairs["1", "2"] == 2, "pages of the first whose frame the second has"
    assert pairs["2", "1"] == 4
    assert pairs["3", "3"] == 9
    assert (heat.zmin, heat.zmax) == (0, 9)
    assert heat.texttemplate
    assert figure.layout.yaxis.autorange == "reversed", "the first guest is above"


def test_heat_maps_have_one_scale_and_a_panel_for_each_cell(measure):
    runs = [(g, r) for g in (1, 2, 3) for r in (1, 2)]
    panels = census_figures.who_shares([measure(guests=g, repetition=r) for g, r in runs])

    assert [title for title, _ in panels] == ["2 guests", "3 guests"]
    assert {heat.zmax for heat in lines_of(panels)} == {40_000}


def test_many_guests_have_no_numbers_in_their_heat_map(measure):
    ((_, figure),) = census_figures.who_shares([measure(guests=9)])

    assert not figure.data[0].texttemplate
    assert figure.layout.meta["height"] > 310


def test_names_of_guests_are_escaped(measure):
    def rename(lines):
        lines[-2]["matrix"]["guests"] = ["<b>one</b>", "two"]

    ((_, figure),) = census_figures.who_shares([measure(change=rename)])

    assert figure.data[0].x[0] == "&lt;b&gt;one&lt;/b&gt;"


# --- guests ---------------------------------------------------------------------------------------


def with_profit(lines):
    for guest in lines[-2]["guests"].values():
        guest["ksm_stat"]["ksm_process_profit"] = 200 * MIB


def test_attribution_is_shown_with_the_profit_of_the_kernel(measure):
    attributed, profit = lines_of(census_figures.attribution([measure(change=with_profit)]))

    assert list(attributed.x) == ["ksm-guest-01", "ksm-guest-02"]
    assert sum(attributed.y) == pytest.approx(70_000 * PAGE / MIB), "exactly what is saved"
    assert list(profit.y) == [200, 200]


def test_a_kernel_without_ksm_stat_has_no_profit(measure):
    (attributed,) = lines_of(census_figures.attribution([measure()]))

    assert attributed.name == "attributed savings"


def test_what_changed_is_a_line_for_each_guest(measure):
    measured = [measure(progress=(0.5, 0.7, 1.0))]
    panels = census_figures.changed_over_time(figures.load(measured), measured)
    one, two = lines_of(panels)

    assert list(one.x) == [4.0, 6.0], "the first census has nothing before it"
    assert list(one.y) == [1, 1]
    assert list(two.y) == [2, 2]


# --- recommendations ------------------------------------------------------------------------------


def worthless(number):
    def change(lines):
        for line in lines[1:-1]:
            every = list(line["guests"].values())
            moved = every[number - 1]["attributed_bytes"] - PAGE
            every[number - 1]["attributed_bytes"] -= moved
            every[number - 2]["attributed_bytes"] += moved
            every[number - 1] |= {"zero_pages": 0, "unique_pages": 100_000, "duplicate_pages": 0}

    return change


def advice(measured):
    (cell,) = recommendation.cells(measured)
    return cell


def scanned(record):
    record["run"]["sampling"] |= {"intervals": 12, "samples": 49, "seconds": 12.0}


def test_a_guest_that_saves_is_merged(measure):
    cell = advice([measure(changed=scanned)])

    assert [guest.verdict for guest in cell.guests] == ["merge", "merge"]
    assert (cell.advice, cell.test) == ("merge all", "")
    first = cell.guests[0]
    net = first.attributed - 90_000 * 64 / MIB
    assert first.net_percent == pytest.approx(100 * net / (100_000 * PAGE / MIB))


def test_a_guest_that_saves_nothing_is_better_excluded(measure):
    cell = advice([measure(guests=3, change=worthless(2), changed=scanned, workload="stress")])

    assert [guest.verdict for guest in cell.guests] == ["merge", "exclude", "merge"]
    assert (cell.advice, cell.test) == ("exclude ksm-guest-02", "nosharepages: [2]")


def test_an_excluded_guest_stays_excluded(measure):
    def changed(record):
        scanned(record)
        record["run"]["guests"]["nosharepages"] = [3]

    def excluded(lines):
        worthless(2)(lines)
        for line in lines[1:-1]:
            del line["guests"]["ksm-guest-03"]

    cell = advice([measure(guests=3, change=excluded, changed=changed, workload="stress")])

    assert [guest.verdict for guest in cell.guests] == ["merge", "exclude", "excluded already"]
    assert cell.test == "nosharepages: [2, 3]"
    (table,) = tables.of_guests([cell])
    assert tables.UNKNOWN not in table["rows"][-1]


def test_a_guest_that_the_setting_does_not_merge_is_not_excluded(measure):
    def unmerged(lines):
        for line in lines[1:-1]:
            line["guests"]["ksm-guest-02"]["attributed_bytes"] = 0

    guest = advice([measure(change=unmerged, changed=scanned)]).guests[1]

    assert guest.potential == pytest.approx(60_000 * PAGE / MIB)
    assert guest.verdict == "too early to say"
    assert guest.why.startswith("Up to 234 MiB of it could be merged.")


def test_changing_equal_pages_are_no_reason_to_merge(measure):
    def unmerged(lines):
        for line in lines[2:-1]:
            guest = line["guests"]["ksm-guest-02"]
            guest |= {"attributed_bytes": 0, "changed_pages": 99_000}

    assert advice([measure(change=unmerged, changed=scanned)]).guests[1].verdict == "exclude"


def test_the_test_of_idle_guests_is_a_separate_workload(measure):
    cell = advice([measure(change=worthless(2), changed=scanned, workload="idle")])

    assert cell.test == "{name: idle-apart, nosharepages: [2]}"


def test_kinds_have_a_legend_where_frames_are_hidden(measure):
    def hidden(lines):
        lines[-2] |= dict.fromkeys(("saved_zero_pages", "saved_within_pages"))
        lines[-2] |= dict.fromkeys(("saved_between_pages", "saved_pages", "efficiency"))

    bars = lines_of(census_figures.by_kind([measure(change=hidden)]))

    assert [bar.name for bar in bars if bar.showlegend] == [
        "zeros",
        "within guests",
        "between guests",
    ]


def test_all_guests_are_named_if_all_should_be_excluded(measure):
    def nothing(lines):
        for guest in lines[-2]["guests"].values():
            guest |= {"attributed_bytes": 0, "zero_pages": 0, "duplicate_pages": 0}

    cell = advice([measure(change=nothing, changed=scanned, workload="stress")])
    assert cell.test == "nosharepages: all"


def test_no_guest_is_excluded_before_a_few_scans(measure):
    measured = measure(guests=3, change=worthless(2), changed=scanned)
    scans = measured.run.samples["ksm.full_scans"].iloc[0] + 2
    measured.run.census.rows["ksm.full_scans"] = scans
    cell = advice([measured])

    assert cell.advice == "merge or too early to say"
    assert cell.guests[1].verdict == "too early to say"
    assert cell.guests[1].why == "ksmd scanned all memory 2 times, but 3 times are needed."


def test_a_census_long_before_the_end_excludes_no_guest(measure):
    def early(lines):
        worthless(2)(lines)
        for line in lines[1:-1]:
            line["monotonic"] -= 4

    cell = advice([measure(guests=3, change=early, changed=scanned)])

    assert cell.guests[1].verdict == "too early to say"
    assert cell.guests[1].why == "The last census was taken long before the end."


def test_no_guest_is_excluded_while_sharing_rises(measure):
    def changed(record):
        scanned(record)
        record["converged"] = False

    cell = advice([measure(guests=3, change=worthless(2), changed=changed)])

    assert cell.guests[1].verdict == "too early to say"


def test_uncounted_guests_are_not_judged(measure):
    def hidden(lines):
        for guest in lines[-2]["guests"].values():
            guest["attributed_bytes"] = None

    cell = advice([measure(change=hidden, changed=scanned)])

    assert [guest.verdict for guest in cell.guests] == ["not known", "not known"]


def test_advice_is_for_guests_of_runs_with_ksm_on(measure):
    off = measure(changed=lambda record: record["run"].update(knobs={"run": 0}))

    assert recommendation.cells([off, measure(guests=0, workload="arrays")]) == []


def test_the_table_of_guests_sums_up(measure):
    (table,) = tables.of_guests([advice([measure(change=with_profit, changed=scanned)])])
    names = [heading["title"] for heading in table["headings"]]
    *guests, every = [dict(zip(names, row, strict=True)) for row in table["rows"]]

    assert [guest["guest"] for guest in guests] == ["ksm-guest-01", "ksm-guest-02"]
    assert every["guest"] == "all"
    assert every["attributed savings"] == "273"
    assert every["ksm_process_profit"] == "400"
    assert every["advice"] == ""


def test_columns_without_values_are_left_out(measure):
    (table,) = tables.of_guests([advice([measure(progress=(1.0,), changed=scanned)])])
    titles = [heading["title"] for heading in table["headings"]]

    assert "changed" not in titles, "there is one census"
    assert "ksm_process_profit" not in titles
    assert all(len(row) == len(titles) for row in table["rows"])


# --- the page -------------------------------------------------------------------------------------


def test_the_page_has_a_section_of_censuses(write_run):
    record = run_record(guests=3, intervals=12)
    lines = copy.deepcopy(census_lines(record, every=6.0))
    worthless(2)(lines)
    lines[1]["complaints"] = ["guest <i>x</i> on localhost-7 went away"]
    write_run(record, census=lines)
    results = read_results(write_run(guests=1).parent)
    page = render.page(results)

    assert '<section id="census"' in page
    assert '<figure id="who-shares"' in page
    assert "nosharepages: [2]" in page
    assert "<dt><code>limit_pages</code>" in page
    assert "guest &lt;i&gt;x&lt;/i&gt; on localhost-7 went away (in 1 of 2 censuses)" in page
    assert "2 censuses, 0.70 s of a CPU" in page


def test_complaints_are_redacted_as_all_warnings_are(write_run):
    record = run_record(host="secret-host")
    lines = copy.deepcopy(census_lines(record))
    lines[1]["complaints"] = ["secret-host hides its frames"]
    path = write_run(record, census=lines)
    page = render.page(redact.redact(read_results(path.parent)))

    assert "secret-host" not in page
    assert "host 1 hides its frames" in page


def test_a_page_without_census_has_no_section(write_run):
    page = render.page(read_results(write_run(guests=2).parent))

    assert 'id="census"' not in page
    assert "limit_pages" not in page
    assert "Which guests to merge" not in page
