"""How soon newcomers of a run were merged, and how many copies fit into a budget."""

import math

import pytest
from made_up_runs import MONOTONIC, WALL, run_record, sample_lines

from ksm_analysis.analysis import density
from ksm_analysis.metrics import arrivals, measurement
from ksm_analysis.page import changes, figures, render
from ksm_analysis.results import caveats
from ksm_analysis.results.reader import read_results, read_run
from ksm_analysis.results.record import Part

KNOBS = "run=1, pages_to_scan=1000"


def event(name, at, **more):
    return {"event": name, **more, "wall": WALL + at, "monotonic": MONOTONIC + at}


CAME = [event("process arrived", at, process=f"process-{n}") for n, at in ((1, -9), (2, 2), (3, 6))]
READY = [event("process ready", 3, process="process-2")]
LEFT = [event("process left", 10, process="process-1")]


def made(write_run, pages, happened, off=False, scans=2, repetition=1):
    """Measure a run of 12 s with four samples a second; `pages` is pages_sharing at a time."""
    record = run_record(guests=0, intervals=12, repetition=repetition)
    if off:
        record["run"]["knobs"]["run"] = 0
    lines = sample_lines(record)
    for line in lines[1:-1]:
        line["ksm"]["pages_sharing"] = pages(line["n"] / 4)
        line["ksm"]["full_scans"] = int(scans * line["n"] / 4)
    return measurement.measure(read_run(write_run(record, lines, happened)))


def step(seconds):
    """Rise by 1000 pages from 2.5 to 3 s and by 500 from 7 s on; 300 are lost after 10 s."""
    first = 1000 * min(1, max(0, 2 * (seconds - 2.5)))
    return int(200 + first + 500 * (seconds >= 7) - 300 * (seconds > 10))


def test_each_arrival_counts_from_its_start_to_the_next_change(write_run):
    second, third = arrivals.arrivals(made(write_run, step, [*CAME, *READY, *LEFT]))
    assert (second.number, second.name, second.ready) == (1, "process-2", pytest.approx(1))
    assert (second.before, second.after) == (200, 1200)
    assert second.to_95 == (pytest.approx(1.0), True)
    assert (third.before, third.after) == (1200, 1700)
    assert third.to_95 == (pytest.approx(1.0), True)
    assert math.isnan(third.ready)


def only(write_run, pages, **more):
    """Return when the newcomer at 6 s was merged."""
    return arrivals.arrivals(made(write_run, pages, [CAME[2]], **more))[0].to_95


def test_what_still_changes_was_not_reached(write_run):
    assert only(write_run, lambda at: int(100 * at)) == (pytest.approx(6.0), False)


def test_too_few_scans_tell_nothing(write_run):
    assert only(write_run, step, scans=0.4) == (pytest.approx(6.0), False)


def test_an_early_peak_does_not_count(write_run):
    seconds, yes = only(write_run, lambda at: 500 * (6.2 < at < 6.6) + 500 * (at > 8))
    assert (seconds, yes) == (pytest.approx(2.25), True)


def test_nothing_more_saved_is_not_known(write_run):
    assert math.isnan(only(write_run, lambda at: 700).seconds)
    assert math.isnan(only(write_run, lambda at: 700 - 100 * (at > 7), repetition=2).seconds)


def test_with_ksm_off_it_is_not_known(write_run):
    assert math.isnan(only(write_run, step, off=True).seconds)


def test_a_run_without_changes_has_none(write_run):
    measured = made(write_run, step, [CAME[0], event("process ready", -1, process="process-1")])
    assert arrivals.arrivals(measured) == []
    assert arrivals.of_run(measured) == {}


def test_columns_of_the_summary(write_run):
    found = arrivals.of_run(made(write_run, step, CAME, scans=0.6))
    assert math.isnan(found["arrival_1_seconds_to_95"])  # too few scans
    assert found["arrival_2_seconds_to_95"] == pytest.approx(1.0)


def test_figures_mark_who_comes_and_goes(write_run):
    data = figures.load([made(write_run, step, [*CAME, *LEFT])])
    words = [words for _, words in data.marks["seconds"]["idle"]]
    assert words == ["+2", "+3", f"{figures.WENT}1"]


def test_the_table_puts_repetitions_together(write_run):
    runs = [made(write_run, step, [CAME[1]], repetition=n) for n in (1, 2)]
    (table,) = changes.sections_of(runs, [])
    (row,) = table.rows
    assert row["cells"][:3] == [KNOBS, "process-2", "2 ± 0"]
    assert table.id == "arrivals"


def test_the_page_has_both(write_run):
    made(write_run, step, [*CAME, event("density ended", 5, copies=3, reason="<b>", broke=True)])
    text = render.page(read_results(write_run.directory))
    assert "Newcomers</h2>" in text
    assert "How many fit</h2>" in text
    assert "3 copies (1 run: no interval) fit with" in text
    assert "Dotted lines show when guests and processes came" in text
    assert "<b>" not in text.split("<script")[0]


# --- density --------------------------------------------------------------------------------------


def fit(write_run, copies, reason, broke=True, storm=None, **more):
    happened = [event("density ended", 5, copies=copies, reason=reason, broke=broke)]
    if storm is not None:
        happened.append(event("density storm ended", 6, copies=copies, killed=storm))
    return made(write_run, step, happened, **more).run


def test_how_many_fit_and_why_not_more(write_run):
    runs = [
        fit(write_run, 8, "an OOM kill in process-03", storm=6),
        fit(write_run, 9, "an OOM kill in process-10, process-02", storm=6, repetition=2),
        fit(write_run, 10, "process-11 did not answer within 5 s", storm=6, repetition=3),
    ]
    (found,) = density.fits(runs)
    assert found.copies.mean == 9
    assert found.reasons == (("an OOM kill in a copy", 2), ("a copy did not answer within 5 s", 1))
    assert not found.at_least
    (words,) = density.in_words([found])
    assert words == (
        f"idle: 9 copies (6.52 to 11.5, 3 runs) fit with {KNOBS}. Then came an OOM kill in a copy "
        "(2 of 3), a copy did not answer within 5 s (1 of 3). When all write to all of their data "
        "at once, 6 of 9 are killed."
    )
    (table,) = changes.sections_of([], [found])
    assert table.rows[0]["cells"][-1] == "6 ± 0 of 9"


def test_guests_that_fit_are_called_so(write_run):
    run = fit(write_run, 4, "an OOM kill in ksm-guest-05, ksm-guest-06", broke=False)
    run.plan.parts.append(
        Part(name="density", role="ksm.testbed.part_density", options={"count": 1})
    )
    (words,) = density.in_words(density.fits([run]))
    assert "at least 4 guests (1 run: no interval) fit with" in words
    assert "Then came an OOM kill in a guest." in words
    assert "at least 4 guests fit" in " ".join(caveats.of_run(run))


def test_a_limit_is_not_a_break(write_run):
    run = fit(write_run, 40, "the limit of 40", broke=False)
    (words,) = density.in_words(density.fits([run]))
    assert "at least 40 copies" in words
    assert "Then came the limit of 40." in words


def test_without_ksm_comes_first(write_run):
    runs = [fit(write_run, 9, "x"), fit(write_run, 4, "y", off=True, repetition=2)]
    found = density.fits([runs[0]]) + density.fits([runs[1]])
    (words,) = density.in_words(found)
    assert words.index("without KSM, and then came y") < words.index("and then came x")


@pytest.mark.parametrize("copies", [None, "many", True, 1.5, [3]])
def test_a_damaged_event_is_no_result(write_run, copies):
    assert density.fits([fit(write_run, copies, "x")]) == []
