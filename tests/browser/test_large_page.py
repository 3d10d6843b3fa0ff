"""The page of many settings: the table of all of them, and single ones on demand."""

import pytest
from test_report_page import accessibility

from ksm_analysis.page import large, render
from ksm_analysis.results.reader import read_results

pytestmark = pytest.mark.browser
LINES = "() => document.querySelector('#cell-reclaimed_mib .plot').data.map((line) => line.name)"


@pytest.fixture
def page(page_file, browser, tmp_path, monkeypatch):
    """Open a page of twelve settings, where three are many."""
    monkeypatch.setattr(large, "MOST", 3)
    render.write(read_results(page_file.parent), tmp_path / "large.html")
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    errors = []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.goto((tmp_path / "large.html").as_uri())
    yield tab
    tab.close()
    assert errors == []


def test_settings_are_sorted_filtered_and_drawn_on_demand(page):
    rows = page.locator("#cell-table tbody tr")
    every = rows.count()
    page.get_by_role("button", name="saved, MiB").click()
    saved = [float(row.locator("td").nth(1).inner_text().replace(",", "")) for row in rows.all()]
    assert saved == sorted(saved, reverse=True)

    page.locator("#cells").scroll_into_view_if_needed()
    page.locator("#cell-reclaimed_mib .plot[data-drawn]").wait_for()
    first = page.evaluate(LINES)
    other = page.locator("#cell-table button[aria-pressed=false]").first
    other.click()
    page.wait_for_function(f"({LINES})().length === 2")
    assert page.evaluate(LINES)[0] == first[0]
    assert page.locator("#cell-table button[aria-pressed=true]").count() == 2

    page.locator("#filters summary").first.click()
    page.locator("#filters input[name=guests]").first.uncheck()
    assert 0 < rows.count() < every
    assert accessibility(page) == []
