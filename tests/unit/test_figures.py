"""Traces, names and scales of figures."""

from dataclasses import replace

import numpy as np
import pytest
from made_up_runs import MONOTONIC, run_record, sample_lines

from ksm_analysis.metrics import catalog, measurement
from ksm_analysis.page import drawing, figures, tails
from ksm_analysis.page.published import PUBLISHED
from ksm_analysis.results.reader import read_run

HOST = {metric.name: metric for metric in catalog.HOST}
GUEST = {metric.name: metric for metric in catalog.GUEST}


@pytest.fixture
def load(write_run):
    def load(*runs):
        return figures.load(
            [measurement.measure(read_run(write_run(**factors), keep=False)) for factors in runs]
        )

    return load


def names(figure):
    return [trace.name for trace in figure.data if trace.showlegend is not False]


def test_a_line_for_each_cell(load):
    data = load(
        *({"guests": g, "workload": w} for g in (1, 2) for w in ("idle", "stress")),
    )
    ((title, figure),) = figures.by_interval(data, HOST["pages_sharing"])

    assert title == ""
    assert names(figure) == [
        "1 guest · idle",
        "2 guests · idle",
        "1 guest · stress",
        "2 guests · stress",
    ]
    assert list(figure.data[0].x) == [1, 2, 3, 4]
    assert list(figure.data[1].y) == [10_000, 20_000, 26_667, 26_667]
    assert figure.layout.xaxis.title.text == "interval (1 s each)"
    assert figure.layout.yaxis.title.text == "pages"
    # guests differ in colour and marker, workloads in dash
    assert figure.data[0].line.color != figure.data[1].line.color
    assert figure.data[0].marker.symbol != figure.data[1].marker.symbol
    assert figure.data[0].line.dash != figure.data[2].line.dash


def test_intervals_of_different_length_are_shown_by_their_ends(load):
    data = load(
        {"guests": 1, "workload": "idle", "interval": 1.0},
        {"guests": 1, "workload": "stress", "interval": 2.0},
    )
    ((_, figure),) = figures.by_interval(data, HOST["pages_sharing"])
    ((_, guest),) = figures.by_interval_of_guests(data, GUEST["ksm_merging_pages"])[:1]

    assert [list(trace.x) for trace in figure.data] == [[1, 2, 3, 4], [2, 4, 6, 8]]
    assert list(guest.data[0].x) == [1, 2, 3, 4]
    assert figure.layout.xaxis.title.text == "seconds"
    assert figure.layout.xaxis.range == (0, 8.16)
    # what stress-ng did from 0.1 s on is marked there
    assert figure.layout.shapes[0].x0 == pytest.approx(0.1)


def test_colours_tell_workloads_where_all_runs_have_as_many_guests(load):
    data = load(*({"guests": 2, "workload": workload} for workload in ("idle", "stress")))
    ((_, figure),) = figures.by_interval(data, HOST["pages_sharing"])

    assert figure.data[0].line.color != figure.data[1].line.color


def test_cells_without_values_have_neither_line_nor_panel(write_run):
    record = run_record(guests=1)
    lines = sample_lines(record)
    for line in lines[1:-1]:
        line["ksmd"]["cpu_ns"] = None
        del line["guests"]["ksm-guest-01"]["ksm_merging_pages"]
    paths = write_run(record, lines), write_run(guests=2)
    data = figures.load([measurement.measure(read_run(path)) for path in paths])
    ((_, figure),) = figures.by_interval(data, HOST["ksmd_cpu_percent"])
    panels = figures.by_interval_of_guests(data, GUEST["ksm_merging_pages"])

    assert names(figure) == ["2 guests"]
    assert [title for title, _ in panels] == ["2 guests"]


def test_events_of_arrays_are_labelled_lines(write_run):
    record = run_record(guests=0, workload="single", interval=2.0)
    happened = [
        {"event": "array written", "array": 2, "monotonic": MONOTONIC + 3.001},
        {"event": "array changed", "change": "single", "monotonic": MONOTONIC + 8.0},
    ]
    run = read_run(write_run(record, happened=happened))
    ((_, figure),) = figures.by_interval(
        figures.load([measurement.measure(run)]), HOST["full_scans"]
    )

    # in intervals of 2 s; the last has its words to the left, so that they are within the figure
    assert [line.x0 for line in figure.layout.shapes] == [1.5, 4.0]
    words = [(note.text, note.xanchor) for note in figure.layout.annotations]
    assert words == [("array 2", "left"), ("array 1 changed", "right")]


def test_events_at_about_the_same_time_are_one_mark(write_run):
    measured = []
    for repetition, late in ((1, 0.0), (2, 0.2), (3, 30.0)):
        record = run_record(guests=0, workload=f"change-{repetition}", interval=25.0)
        happened = [{"event": "array written", "array": 2, "monotonic": MONOTONIC + 50 + late}]
        measured.append(measurement.measure(read_run(write_run(record, happened=happened))))
    ((_, figure),) = figures.by_time(figures.load(measured), HOST["full_scans"])

    assert [line.x0 for line in figure.layout.shapes] == [50.0, 80.0]


def test_the_window_follows_the_events(load):
    data = load({"guests": 1, "workload": "stress", "interval": 2.0})
    ((_, figure),) = figures.by_interval(data, HOST["pages_sharing"])
    (band,) = figure.layout.shapes

    # from 0.1 s to 4.1 s, in intervals of 2 s
    assert (band.x0, band.x1) == pytest.approx((0.05, 2.05))


def test_no_window_without_a_workload(load):
    ((_, figure),) = figures.by_interval(load({"guests": 1}), HOST["pages_sharing"])

    assert not figure.layout.shapes


def test_repetitions_are_averaged_and_each_is_shown(write_run):
    measured = []
    for repetition, factor in ((1, 1), (2, 3)):
        record = run_record(guests=1, repetition=repetition)
        lines = sample_lines(record)
        for line in lines[1:-1]:
            line["ksm"]["pages_shared"] = 100 * factor
        measured.append(measurement.measure(read_run(write_run(record, lines))))
    ((_, figure),) = figures.by_guests(figures.load(measured), HOST["pages_shared"])
    points, line = figure.data

    assert list(points.y) == [100, 300]
    assert list(line.y) == [200]
    assert list(line.customdata) == [2]
    assert "mean of %{customdata} runs" in line.hovertemplate


def test_runs_of_different_hosts_are_not_averaged(write_run):
    records = [
        run_record(guests=1, repetition=1, host="alpha"),
        run_record(guests=1, repetition=2, host="beta"),
    ]
    data = figures.load([measurement.measure(read_run(write_run(record))) for record in records])
    ((_, figure),) = figures.by_guests(data, HOST["pages_shared"])

    assert names(figure) == ["alpha", "beta"]


def test_more_lines_than_can_be_told_apart_are_spread_over_panels_of_one_scale(load):
    counts = range(1, 11)
    data = load(*({"guests": g, "workload": w} for g in counts for w in ("idle", "stress")))
    panels = figures.by_interval(data, HOST["pages_sharing"])

    assert [title for title, _ in panels] == ["idle", "stress"]
    assert len({figure.layout.yaxis.range for _, figure in panels}) == 1
    looks = [(t.line.color, t.marker.symbol) for t in panels[0][1].data]
    assert len(set(looks)) == 10


def test_panels_of_percentages_have_one_scale(load):
    workloads = ("idle", "a", "b", "c")
    data = load(*({"guests": 2, "workload": workload} for workload in workloads))
    for whole in ("configured", "resident"):
        panels = figures.percent_by_guests(data, whole)

        assert [title for title, _ in panels] == list(workloads)
        ((low, high),) = {figure.layout.yaxis.range for _, figure in panels}
        assert low == 0
        assert high > max(panels[0][1].data[0].y)


def test_a_panel_for_each_cell_with_a_line_for_each_guest(load):
    data = load({"guests": 1}, {"guests": 3})
    panels = figures.by_interval_of_guests(data, GUEST["ksm_process_profit"])

    assert [title for title, _ in panels] == ["1 guest", "3 guests"]
    assert names(panels[1][1]) == ["ksm-guest-01", "ksm-guest-02", "ksm-guest-03"]
    assert panels[0][1].layout.yaxis.title.text == "MiB"
    assert panels[0][1].layout.yaxis.range == panels[1][1].layout.yaxis.range


def test_amounts_start_at_zero_and_profit_may_be_negative(write_run):
    record = run_record(guests=1)
    lines = sample_lines(record)
    for line in lines[1:-1]:
        line["guests"]["ksm-guest-01"]["ksm_process_profit"] = -(2**20)
    data = figures.load(
        [
            measurement.measure(read_run(write_run(record, lines))),
            measurement.measure(read_run(write_run(guests=2))),
        ]
    )
    merging = figures.by_interval_of_guests(data, GUEST["ksm_merging_pages"])[0][1]
    profit = figures.by_interval_of_guests(data, GUEST["ksm_process_profit"])[0][1]

    assert merging.layout.yaxis.range[0] == 0
    assert profit.layout.yaxis.range[0] < -1
    ((_, figure),) = figures.by_guests(data, HOST["host_cpu_percent"])
    assert figure.layout.yaxis.rangemode == "tozero"


def test_published_points_are_distinct_from_measured_ones(load):
    ((_, figure),) = figures.percent_by_guests(load({"guests": 2}), "configured")
    own = [t for t in figure.data if "published" not in t.meta]
    others = [t for t in figure.data if "published" in t.meta]

    assert [t.name for t in own] == ["Shared", "Reclaimed", "Shared minus reclaimed"]
    assert [t.name for t in others] == [
        f"{part} · {published.name}"
        for published in PUBLISHED
        for part in ("Shared", "Reclaimed", "Difference")
    ]
    assert all(t.marker.symbol.endswith("-open") for t in others)
    # the page shows them when asked for
    assert not any(t.visible for t in others)
    assert list(others[0].y[:3]) == [19.6, 54.7, 56.2]
    assert list(others[2].y[:3]) == [1.8, 18.6, 13.2]
    assert list(others[3].x) == [10]


def test_published_points_are_percent_of_configured_memory_alone(load):
    ((_, figure),) = figures.percent_by_guests(load({"guests": 2}), "resident")

    assert len(figure.data) == 3


def test_a_metric_without_values_has_no_entry_in_the_legend(write_run):
    record = run_record(guests=2)
    lines = sample_lines(record)
    for line in lines[1:-1]:
        line["guests"] = {}
    data = figures.load([measurement.measure(read_run(write_run(record, lines)))])
    ((_, figure),) = figures.memory_by_guests(data)
    own = [trace for trace in figure.data if trace.mode != "markers"]

    assert [t.name for t in own] == [
        "Guest memory, configured",
        "Shared memory",
        "Reclaimed memory",
    ]
    # as in figures that have all four, and as the published points
    assert own[1].line.color == drawing.COLOURS[2]


def test_memory_has_the_published_points_when_asked_for(load):
    ((_, figure),) = figures.memory_by_guests(load({"guests": 2}))
    asked = [t for t in figure.data if t.visible is False]

    # 19.6 % of one guest of 512 MiB, 54.7 % of two
    assert list(asked[0].y[:2]) == pytest.approx([100.352, 560.128])


def test_a_further_source_of_published_values_needs_no_other_change(load, monkeypatch):
    third = replace(PUBLISHED[1], name="Third", marker="diamond-open")
    monkeypatch.setattr(figures, "PUBLISHED", (*PUBLISHED, third))
    ((_, figure),) = figures.percent_by_guests(load({"guests": 2}), "configured")
    markers = {t.name: t.marker.symbol for t in figure.data if "published" in t.meta}

    assert markers["Shared · Third"] == "diamond-open"
    assert markers["Shared · VMware ESX, 2002"] == "star-open"


def test_names_are_text_to_plotly(write_run):
    record = run_record(guests=1)
    lines = sample_lines(record)
    for line in lines[:-1]:
        line["guests"] = {'<b>"&': line["guests"]["ksm-guest-01"]}
    data = figures.load([measurement.measure(read_run(write_run(record, lines)))])
    ((_, figure),) = figures.by_interval_of_guests(data, GUEST["ksm_rmap_items"])

    assert names(figure) == ['&lt;b&gt;"&amp;']


def test_a_mean_has_a_gap_where_a_repetition_has_ended(write_run):
    record = run_record(guests=1, repetition=2, converged=True)
    header, *samples, end = sample_lines(record)
    short = [header, *samples[:9], end | {"reason": "steady"}]
    paths = write_run(guests=1), write_run(record, short)
    data = figures.load([measurement.measure(read_run(path)) for path in paths])
    ((_, figure),) = figures.by_interval(data, HOST["pages_shared"])

    assert list(figure.data[0].y)[:2] == [3_750, 7_500]
    assert all(value is None or value != value for value in figure.data[0].y[2:])


def test_a_log_that_is_cut_short_is_not_a_repetition_of_a_complete_one(write_run):
    cut = run_record(guests=1, repetition=2, imported={"cut_short": "ends within interval 2 of 4"})
    header, *samples, end = sample_lines(cut)
    whole = run_record(guests=1, imported={"cut_short": None})
    paths = write_run(whole), write_run(cut, [header, *samples[:5], end])
    data = figures.load([measurement.measure(read_run(path)) for path in paths])
    ((_, figure),) = figures.by_guests(data, HOST["pages_shared"])

    assert [list(trace.y) for trace in figure.data if trace.mode != "markers"] == [[10_000]]


def test_nine_numbers_of_guests_differ_not_only_by_colour(load):
    data = load(*({"guests": count} for count in range(1, 10)))
    ((_, figure),) = figures.by_interval(data, HOST["full_scans"])
    looks = {(t.line.color, t.line.dash) for t in figure.data}

    assert len(looks) == 9


# --- filters of the page ------------------------------------------------------------------------


def test_a_line_names_the_factors_that_its_points_have_in_common(load):
    data = load(*({"guests": g, "workload": w} for g in (1, 2) for w in ("idle", "stress")))
    every = {"knobs": "run=1, pages_to_scan=1000", "host": "localhost"}
    ((_, over_time),) = figures.by_interval(data, HOST["pages_sharing"])
    ((_, at_every_sample),) = figures.by_time(data, HOST["pages_sharing"])
    ((_, against_guests),) = figures.by_guests(data, HOST["pages_sharing"])

    cells = [every | {"workload": w, "guests": g} for w in ("idle", "stress") for g in (1, 2)]
    assert [trace.meta for trace in over_time.data] == cells
    ids = [f"g0{cell['guests']}-k1-{cell['workload']}-r1" for cell in cells]
    guests = {1: "1 guest", 2: "2 guests"}
    assert [trace.meta for trace in at_every_sample.data] == [
        cell | {"line": f"{guests[cell['guests']]} · {cell['workload']}, {name}"}
        for cell, name in zip(cells, ids, strict=True)
    ]
    # these have many numbers of guests, which the axis tells
    assert [t.meta for t in against_guests.data] == [
        every | {"workload": workload} for workload in ("idle", "stress")
    ]
    assert against_guests.layout.meta["x"] == "guests"


# --- every sample ---------------------------------------------------------------------------------


def test_every_sample_is_drawn_where_there_are_few(load):
    data = load({"guests": 1, "interval": 2.0})
    ((_, figure),) = figures.by_time(data, HOST["pages_sharing"])

    assert list(figure.data[0].x) == [n / 2 for n in range(1, 17)]
    assert figure.data[0].y[-1] == 10_000
    assert figure.layout.xaxis.title.text == "seconds"
    assert figure.layout.meta["points"] == 16


def test_many_samples_are_thinned_and_their_peaks_stay(write_run):
    record = run_record(guests=1, intervals=1000)
    lines = sample_lines(record)
    lines[2345]["ksm"]["pages_shared"] = 99_999
    lines[3456]["ksm"]["pages_shared"] = 3
    data = figures.load([measurement.measure(read_run(write_run(record, lines)))])
    ((_, figure),) = figures.by_time(data, HOST["pages_shared"])
    (line,) = figure.data

    assert len(line.x) <= figures.POINTS
    assert figure.layout.meta["points"] == 4000
    points = dict(zip(line.x.tolist(), line.y.tolist(), strict=True))
    assert points[2344 / 4] == 99_999
    assert points[3455 / 4] == 3


def test_repetitions_have_a_line_each_and_one_name(load):
    data = load({"guests": 1, "repetition": 1}, {"guests": 1, "repetition": 2})
    ((_, figure),) = figures.by_time(data, HOST["pages_shared"])

    assert len(figure.data) == 2
    assert names(figure) == ["1 guest"]
    assert len({trace.legendgroup for trace in figure.data}) == 1


def test_counters_are_labelled_as_differences_between_samples(load):
    ((_, figure),) = figures.by_time(load({"guests": 1}), HOST["pages_scanned"])

    assert figure.layout.yaxis.title.text == "pages from sample to sample"
    assert set(figure.data[0].y) == {12_000}


def test_windows_and_marks_are_in_seconds_there(load):
    data = load({"guests": 1, "workload": "stress", "interval": 2.0})
    ((_, figure),) = figures.by_time(data, HOST["pages_sharing"])

    assert (figure.layout.shapes[0].x0, figure.layout.shapes[0].x1) == pytest.approx((0.1, 4.1))


# --- many guests ----------------------------------------------------------------------------------


def many_guests(write_run, count=9):
    """Write a run in which guest number i has i hundred merged pages more than the one before."""
    record = run_record(guests=count)
    lines = sample_lines(record)
    for line in lines[1:-1]:
        for number, name in enumerate(line["guests"]):
            pages = 1000 + 100 * number + line["n"]
            line["guests"][name] = line["guests"][name] | {"ksm_merging_pages": pages}
    return figures.load([measurement.measure(read_run(write_run(record, lines)))])


@pytest.mark.parametrize("draw", [figures.by_interval_of_guests, figures.by_time_of_guests])
def test_more_than_eight_guests_are_a_band_with_highlights(write_run, draw):
    ((title, figure),) = draw(many_guests(write_run), GUEST["ksm_merging_pages"])
    lower, upper, lowest, middle, highest = figure.data

    assert title == "9 guests"
    assert (lower.y[-1], upper.y[-1]) == (1016, 1816)
    assert upper.fill == "tonexty"
    assert names(figure) == [
        "all 9 guests",
        "ksm-guest-01, ends lowest",
        "ksm-guest-05, ends in the middle",
        "ksm-guest-09, ends highest",
    ]
    assert (lowest.y[-1], middle.y[-1], highest.y[-1]) == (1016, 1416, 1816)
    assert figure.layout.meta["points"] == 9 * len(lowest.x)
    assert all(trace.meta["guests"] == 9 for trace in figure.data)


@pytest.mark.parametrize("draw", [figures.by_interval_of_guests, figures.by_time_of_guests])
def test_eight_guests_have_a_line_each(write_run, draw):
    ((_, figure),) = draw(many_guests(write_run, 8), GUEST["ksm_merging_pages"])

    assert names(figure) == [f"ksm-guest-{i:02}" for i in range(1, 9)]


def test_marks_do_not_depend_on_the_order_of_runs(write_run):
    runs = []
    for repetition, at in ((1, 1.0), (2, 3.0)):
        record = run_record(guests=0, repetition=repetition)
        changed = {"event": "array changed", "monotonic": MONOTONIC + at}
        runs.append(measurement.measure(read_run(write_run(record, happened=[changed]))))

    marks = [figures.load(each).marks["seconds"] for each in (runs, runs[::-1])]

    assert marks[0] == marks[1] == {"idle": ((1.0, "array 1 changed"), (3.0, "array 1 changed"))}


def test_a_tail_has_the_share_that_is_as_long_or_longer():
    x, y = tails.tail(np.array([1.0, 5.0, 1.0, 900.0]), np.array([500, 400, 90, 10]))
    assert x == [1.0, 5.0, 900.0]
    assert y == pytest.approx([100, 41, 1])
    x, y = tails.tail(np.array([0.0, 2.0, 2.0001]), np.array([1, 1, 2]))
    assert (x, y) == ([tails.SHORTEST, 2.0], [100, 75])
