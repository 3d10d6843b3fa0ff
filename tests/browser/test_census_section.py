"""The section of censuses in a real browser: bars, heat maps and advice, drawn and filtered."""

import pytest
from made_up_runs import Writer, census_lines, run_record
from test_report_page import Opened

from ksm_analysis.page import render
from ksm_analysis.results.reader import read_results

pytestmark = pytest.mark.browser
FIGURES = {
    "census-by-kind": ".bars path",
    "who-shares": ".heatmaplayer image",
    "attribution": ".bars path",
    "efficiency-by-guests": ".points path",
    "efficiency-by-time": ".points path",
    "changed-by-time": ".points path",
}


@pytest.fixture(scope="module")
def counted_page_file(tmp_path_factory):
    """Write a report of runs that have censuses."""
    directory = tmp_path_factory.mktemp("results") / "counted"
    write = Writer(directory)
    for guests in (1, 2, 10):
        for workload in ("idle", "stress"):
            record = run_record(guests=guests, workload=workload, intervals=8)
            write(record, census=census_lines(record, progress=(0.2, 0.6, 0.9)))
    render.write(read_results(directory), directory / "report.html")
    return directory / "report.html"


@pytest.fixture(params=[(1280, "light"), (390, "dark")], ids=["large", "small"])
def opened(request, browser, counted_page_file):
    opened = Opened(browser, counted_page_file, *request.param)
    yield opened
    opened.context.close()


def test_every_figure_of_a_census_is_drawn(opened):
    for figure, marks in FIGURES.items():
        plots = opened.page.locator(f"#{figure} .plot")
        assert plots.count() > 0
        for plot in plots.all():
            assert plot.locator(marks).count() > 0, figure
    assert opened.said == []
    assert (
        opened.page.evaluate("document.documentElement.scrollWidth")
        <= (opened.page.viewport_size["width"])
    )


def test_the_table_of_a_heat_map_has_its_numbers(opened):
    figure = opened.page.locator("#who-shares")
    figure.get_by_role("button", name="Table of").click()
    head, first, *rest = [
        row.locator("th, td").all_inner_texts() for row in figure.locator("table tr").all()
    ]

    assert head[-1] == "pages shared"
    assert first[-1] == "9000", "its own duplicates"
    assert len(rest) + 1 == 2 * (2 * 2 + 10 * 10)


def test_filtered_bars_are_removed_with_their_bases(opened):
    bars = """() => [...document.querySelector('#census-by-kind .plot')._fullData].map(
      (trace) => [trace.x.length, trace.y.length, trace.base.length])"""
    assert opened.page.evaluate(bars)[2] == [3, 3, 3]

    opened.choose("2", keep=False)
    opened.draw()
    assert opened.page.evaluate(bars)[2] == [2, 2, 2]
    hidden = opened.page.locator('#census details[data-guests="2"]')
    assert [each.is_visible() for each in hidden.all()] == [False, False]


def test_advice_can_be_opened_and_read(opened):
    each = opened.page.locator('#census details[data-guests="10"]').first
    each.locator("summary").click()

    assert each.locator("tbody tr").count() == 11, "ten guests and their sum"
    assert each.get_by_text("merge", exact=True).count() == 10
