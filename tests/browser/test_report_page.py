"""The page in a real browser: complete, on small and large screens, and offline."""

import csv
from pathlib import Path

import pytest

axe = pytest.importorskip("axe_playwright_python.sync_playwright")
pytestmark = pytest.mark.browser

DRAWN = """() => [...document.querySelectorAll('figure:not([hidden]) .plot')].every(
  (plot) => plot.dataset.drawn || plot.parentElement.hidden)"""
# Each figure with the number of its traces, and of visible ones
TRACES = """() => [...document.querySelectorAll('.plot')].map((plot) => ({
  figure: plot.closest('figure').id,
  traces: plot.data.filter((trace) => trace.visible !== 'legendonly').length,
  mode: plot.data[0].mode,
  paths: plot.querySelectorAll('.scatterlayer .trace path').length,
  points: plot.querySelectorAll('.scatterlayer .trace .points path').length,
  legend: [...plot.querySelectorAll('.legend .traces')].every((entry) => {
    const [box, frame] = [entry.getBoundingClientRect(), plot.getBoundingClientRect()];
    return box.bottom <= frame.bottom + 1 && box.right <= frame.right + 1;
  }),
  height: plot._fullLayout._size.h,
}))"""

LINES = """(id) => [...document.querySelectorAll(`#${id} .plot`)]
  .filter((plot) => !plot.parentElement.hidden)
  .flatMap((plot) => plot._fullData.map((trace) => [trace.name, [...trace.x]]))"""

HOVER = """([event, workload]) => document.querySelector('#saved-by-guests .plot')
  .emit(event, {points: [{data: {meta: {workload}}}]})"""
# The opacity of lines in all figures that are drawn, by workload
FAINT = """() => Object.fromEntries(['idle', 'stress'].map((workload) => [workload, [...new Set(
  [...document.querySelectorAll('.plot[data-drawn]')].flatMap((plot) => plot.data
    .filter((trace) => trace.meta?.workload === workload)
    .map(({uid}) => plot.querySelector(`.scatterlayer .trace${CSS.escape(uid)}`))
    .map((line) => line?.style.opacity ?? ''))
)]]))"""
FILTERED = ("guests", "workload", "knobs", "metric")
FITS = """() => [...document.querySelectorAll('figure:not([hidden]) .plot')].every((plot) => {
  const [svg, box] = [plot.querySelector('.main-svg'), plot].map((e) => e.getBoundingClientRect());
  return svg.width === plot.clientWidth && Math.abs(svg.height - box.height) < 5;
})"""


def accessibility(page):
    """Return what axe-core finds in both themes, moderate findings included."""
    found = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        every = axe.Axe().run(page).response["violations"]
        found += [(scheme, each["id"], each["nodes"][0]["html"]) for each in every]
    return found


class Opened:
    """An open page, with its messages and requests."""

    def __init__(self, browser, file, width, scheme="light", every_metric=False):
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme
        )
        self.page = self.context.new_page()
        self.said, self.asked = [], []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.said.append(dialog.message), dialog.dismiss()))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(file.as_uri())
        if every_metric:
            self.choose("All metrics")
        self.draw()

    def choose(self, *labels, keep=True):
        """Check or uncheck filters."""
        for label in labels:
            box = self.page.get_by_label(label, exact=True)
            menu = self.page.locator("#filters .menu").filter(has=box)
            if menu.get_attribute("open") is None:
                menu.locator("summary").click()
            menu.get_by_label(label, exact=True).set_checked(keep)
        self.page.keyboard.press("Escape")

    def draw(self):
        """Draw all figures, as before printing; otherwise those outside of the screen wait."""
        self.page.evaluate("dispatchEvent(new Event('beforeprint'))")
        self.page.wait_for_function(DRAWN, timeout=120_000)

    def lines(self, figure):
        """Return names and x values of the visible lines of a figure."""
        return self.page.evaluate(LINES, figure)


@pytest.fixture(scope="module", params=[(1280, "light"), (390, "dark")], ids=["large", "small"])
def opened(request, browser, page_file):
    opened = Opened(browser, page_file, *request.param, every_metric=True)
    yield opened
    opened.context.close()


def test_every_figure_is_drawn(opened):
    plots = opened.page.evaluate(TRACES)

    assert len(plots) > 50
    for plot in plots:
        assert plot["traces"] > 0, plot
        assert plot["points" if "markers" in plot["mode"] else "paths"] > 0, plot
        assert plot["height"] > 150, plot


def test_legends_stay_within_their_figures(opened):
    assert [p["figure"] for p in opened.page.evaluate(TRACES) if not p["legend"]] == []


def test_no_error_occurs_and_no_name_is_executed(opened):
    assert opened.said == []
    assert opened.page.locator("img").count() == 0
    assert opened.page.get_by_text("onerror=alert(1)").count() > 0


def test_no_request_leaves_the_page(opened, page_file):
    own = page_file.as_uri()

    assert [url for url in opened.asked if not url.startswith((own, "data:", "blob:"))] == []


def test_nothing_is_wider_than_the_screen(opened):
    page = opened.page

    assert page.evaluate("document.documentElement.scrollWidth") == page.viewport_size["width"]


def test_the_summary_scrolls_within_itself(opened):
    table = opened.page.locator("#summary .scroll")

    assert table.evaluate("(box) => box.scrollWidth > box.clientWidth")


def test_navigation_leads_to_every_section(opened):
    targets = opened.page.locator("nav a").evaluate_all("(all) => all.map((a) => a.hash)")

    assert len(targets) >= 8
    assert all(opened.page.locator(target).count() == 1 for target in targets)


def test_figures_wait_until_they_come_near(browser, page_file):
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.goto(page_file.as_uri())
    last = page.locator("figure:not([hidden]) .plot").last
    page.locator("figure:not([hidden]) .plot").first.scroll_into_view_if_needed()
    page.locator(".plot[data-drawn]").first.wait_for()
    assert last.get_attribute("data-drawn") is None

    last.scroll_into_view_if_needed()
    last.and_(page.locator("[data-drawn]")).wait_for()
    context.close()


def test_figures_follow_the_width_of_the_window(browser, page_file):
    opened = Opened(browser, page_file, 1280)
    for width in (390, 1000):
        opened.page.set_viewport_size({"width": width, "height": 900})
        opened.page.wait_for_function(FITS)

        assert opened.page.evaluate("document.documentElement.scrollWidth") == width
    opened.context.close()


def test_colours_follow_the_theme_at_once(browser, page_file):
    opened = Opened(browser, page_file, 1280)
    ink = "document.querySelector('.plot')._fullLayout.font.color"
    paper = "getComputedStyle(document.body).backgroundColor"
    light = opened.page.evaluate(ink), opened.page.evaluate(paper)
    opened.page.emulate_media(color_scheme="dark")
    opened.page.wait_for_function(f"() => {ink} !== '{light[0]}'")

    assert opened.page.evaluate(paper) != light[1]
    opened.context.close()


# --- what is chosen -------------------------------------------------------------------------------


@pytest.fixture
def fresh(browser, page_file):
    opened = Opened(browser, page_file, 1280)
    yield opened
    opened.context.close()


def test_few_metrics_are_shown_until_more_are_chosen(fresh):
    shown = fresh.page.locator("figure:not([hidden])")
    few = shown.count()
    fresh.choose("pages_shared")

    assert fresh.page.locator("#pages_shared-by-interval").is_visible()
    assert shown.count() == few + 3  # over time, against guests, every sample
    fresh.choose("All metrics")
    assert fresh.page.locator("figure[hidden]").count() == 0
    fresh.choose("All metrics", keep=False)
    assert fresh.page.locator("#intervals .none").is_visible()


def test_values_at_scan_ends_are_shown_with_raw_values(fresh):
    fresh.choose("pages_unshared")

    assert fresh.page.locator("#pages_unshared-by-time").is_visible()
    assert fresh.page.locator("#pages_unshared_at_scan_end-by-time").is_visible()


def test_a_number_of_guests_is_filtered_from_every_figure_and_table(fresh):
    before = fresh.lines("pages_sharing-by-interval")
    rows = fresh.page.locator("#summary tbody tr:not([hidden])").count()
    fresh.choose("2", keep=False)
    fresh.draw()

    after = fresh.lines("pages_sharing-by-interval")
    assert 0 < len(after) < len(before)
    assert not [name for name, _ in after if name.startswith("2 guests")]
    assert all(2 not in x for _, x in fresh.lines("pages_sharing-by-guests"))
    assert all(2 not in x for _, x in fresh.lines("percent-of-configured-by-guests"))
    assert not [n for n, _ in fresh.lines("pages_sharing-by-time") if n.startswith("2 guests")]
    headings = fresh.page.locator("#ksm_merging_pages-by-interval h4:visible").all_text_contents()
    assert headings
    assert not [heading for heading in headings if heading.startswith("2 guests")]
    assert fresh.page.locator("#summary tbody tr:not([hidden])").count() == rows - 8
    assert fresh.page.locator("#answer tbody tr[data-guests='2']:not([hidden])").count() == 0
    assert "numbers of guests: 1 left out" in fresh.page.locator("#filters output").text_content()
    # sentences and tests do not follow, and say so
    assert fresh.page.locator("#checks .whole").is_visible()
    assert "guests-=2" in fresh.page.url


def test_what_is_chosen_is_in_the_address(browser, page_file):
    """A link opens the same view; links within the page and a reset keep or drop it."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.goto(f"{page_file.as_uri()}#guests=3&knobs=pages_to_scan%3D100&metric=pages_shared")
    boxes = "(all) => all.filter((box) => box.checked).map((box) => box.value)"
    names = {n: page.locator(f"input[name={n}]").evaluate_all(boxes) for n in FILTERED}
    shown = page.locator("#answer tbody tr:not([hidden])")

    assert names == {
        "guests": ["3"],
        "workload": ["idle", "stress"],
        "knobs": ["pages_to_scan=100"],
        "metric": ["pages_shared"],
    }
    assert shown.count() == 2
    assert page.locator("#pages_shared-by-interval").is_visible()
    assert accessibility(page) == []
    page.get_by_role("link", name="Samples").click()
    assert page.url.endswith("&at=samples")
    assert "guests=3" in page.url
    assert page.evaluate("document.activeElement.id") == "samples"
    page.get_by_role("button", name="Reset choices").click()
    page.wait_for_function("() => !location.hash")
    assert shown.count() == 13
    page.evaluate("location.hash = 'guests=3&knobs=of-another-page'")
    page.wait_for_function(
        f"() => ({boxes})([...document.querySelectorAll('[name=guests]')]) == '3'"
    )
    assert shown.count() > 2, "a value that this page does not have chooses nothing"
    context.close()


def test_a_setting_is_isolated_everywhere_by_a_click(browser, page_file):
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.goto(page_file.as_uri())
    rows = "#answer tbody tr:not([hidden])"
    page.locator(f"{rows} .only").first.click()

    assert page.locator(rows).count() == 1
    (of,) = page.locator(rows).evaluate_all("(rows) => rows.map((row) => ({...row.dataset}))")
    tiles = page.locator(".merit:not([hidden])")
    assert tiles.evaluate("(tiles) => ({...tiles.dataset})") == of
    assert page.locator(f"{rows} .only").get_attribute("aria-pressed") == "true"
    page.locator(f"{rows} .only").click()
    assert page.locator(rows).count() == 13
    page.locator("#saved-by-guests .plot[data-drawn]").wait_for()
    # while the pointer is on a line, those of other settings are faint in all figures
    page.evaluate(HOVER, ["plotly_hover", "idle"])
    assert page.evaluate(FAINT) == {"idle": [""], "stress": ["0.15"]}
    page.evaluate(HOVER, ["plotly_unhover", "idle"])
    assert page.evaluate(FAINT) == {"idle": [""], "stress": [""]}
    # so does a name in a legend
    page.locator("#saved-by-guests .legendtoggle").first.click()
    page.wait_for_function("() => location.hash.includes('workload=idle')")
    left = page.locator(rows).evaluate_all("(all) => all.map((row) => row.dataset.workload)")
    assert left == ["idle"] * 3
    context.close()


def test_back_undoes_what_was_chosen_step_by_step(browser, page_file):
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.goto("about:blank")
    page.goto(page_file.as_uri())
    rows, buttons = page.locator("#answer tbody tr:not([hidden])"), page.locator("#answer .only")
    everything = rows.count()
    buttons.first.click()
    page.locator("#filters summary").first.click()
    page.locator("#filters [name=guests]").nth(1).check()
    page.locator("#filters [name=guests]").nth(2).check()
    chosen = rows.count()
    page.get_by_role("link", name="Samples").click()
    steps = []
    for _ in range(3):
        page.go_back()
        steps.append(rows.count())
    page.go_back()

    assert 1 < chosen < everything
    assert steps == [chosen, 1, everything]
    assert page.url == "about:blank"
    context.close()


def test_eight_figures_are_shown_before_more(browser, page_file):
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme="dark")
    page = context.new_page()
    page.goto(page_file.as_uri())
    shown = page.locator("figure:not([hidden])")
    inside = "(e) => e.getBoundingClientRect().bottom <= innerHeight"

    assert shown.count() == 8
    assert page.locator(".verdict").evaluate(inside)
    assert page.locator(".merit:not([hidden])").evaluate(inside)
    page.locator("#filters summary").first.click()
    assert accessibility(page) == []
    page.keyboard.press("Escape")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert shown.count() > 8
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert shown.count() == 8, "what printing has shown is hidden again"
    page.get_by_role("button", name="more figures").click()
    assert shown.count() > 8
    assert not page.locator("#more").is_visible()
    context.close()


def test_a_workload_is_filtered_and_comes_back(fresh):
    figure = "pages_sharing-by-interval"
    before = fresh.lines(figure)
    fresh.choose("idle", keep=False)
    fresh.draw()
    without = fresh.lines(figure)
    fresh.page.get_by_role("button", name="Reset choices").click()
    fresh.page.wait_for_function("() => !document.querySelector('#summary tr[hidden]')")
    fresh.draw()

    assert 0 < len(without) < len(before)
    assert fresh.lines(figure) == before


def test_the_window_of_a_workload_is_hidden_with_its_lines(fresh):
    shown = """() => [...document.querySelectorAll('#pages_sharing-by-time .plot')]
      .filter((plot) => !plot.parentElement.hidden)
      .flatMap(({ layout }) => [...(layout.shapes ?? []), ...(layout.annotations ?? [])]).length"""
    assert fresh.page.evaluate(shown) > 0
    fresh.choose("stress", keep=False)
    fresh.draw()
    headings = fresh.page.locator("#pages_sharing-by-time h4:visible").all_text_contents()

    assert fresh.page.evaluate(shown) == 0
    assert not [heading for heading in headings if "stress" in heading]


def test_a_figure_without_lines_is_hidden(fresh):
    fresh.choose("idle", "stress", keep=False)

    assert fresh.page.locator("figure:not([hidden])").count() == 0
    assert fresh.page.locator("#intervals .none").is_visible()


def test_the_box_for_all_metrics_shows_whether_all_are_chosen(fresh):
    box = fresh.page.get_by_label("All metrics")
    fresh.choose("All metrics")
    fresh.choose("pages_shared", keep=False)

    assert not box.is_checked()


def test_published_values_are_shown_on_request(fresh):
    figure = "percent-of-configured-by-guests"
    own = fresh.lines(figure)
    fresh.choose("published values")
    fresh.draw()
    more = fresh.lines(figure)

    assert not [name for name, _ in own if "VMware" in name]
    assert ["Shared · VMware ESX, 2002", [10]] in more
    # which is as high as any panel has to be for it
    tops = "[...document.querySelectorAll('#%s .plot')].map((p) => p._fullLayout.yaxis.range[1])"
    assert min(fresh.page.evaluate(tops % figure)) > 67
    assert "points shown" in fresh.page.locator(f"#{figure} .count").text_content()


# --- the same numbers -----------------------------------------------------------------------------


def test_the_table_has_the_numbers_of_the_figure(fresh):
    figure = fresh.page.locator("#pages_sharing-by-interval")
    button = figure.get_by_role("button", name="Table of pages_sharing")
    button.click()
    rows = figure.locator(".values tbody tr")

    assert button.get_attribute("aria-expanded") == "true"
    lines = fresh.lines("pages_sharing-by-interval")
    assert rows.count() == sum(len(x) for _, x in lines)
    assert rows.first.locator("td").all_text_contents()[1:3] == [lines[0][0], "3"]
    headings = figure.locator(".values th").all_text_contents()
    assert headings[2:] == ["seconds", "pages"]  # when intervals end: runs differ in their length
    button.click()
    assert not figure.locator(".values").is_visible()


def test_the_csv_file_has_the_numbers_of_the_table(browser, long_page_file):
    fresh = Opened(browser, long_page_file, 1280)
    figure = fresh.page.locator("#ksm_merging_pages-by-time")
    figure.get_by_role("button", name="Table").click()
    table = figure.locator(".values tr").evaluate_all(
        "(rows) => rows.map((row) => [...row.cells].map((cell) => cell.textContent))"
    )
    with fresh.page.expect_download() as download:
        figure.get_by_role("button", name="CSV").click()
    file_name = download.value.suggested_filename
    caption = figure.locator(".values caption").text_content()
    with Path(download.value.path()).open(newline="") as file:
        rows = list(csv.reader(file))

    fresh.context.close()

    assert file_name == "ksm_merging_pages-by-time.csv"
    assert len(rows) > 2001
    # a table has no more rows than a page can hold, and says so
    assert rows[: len(table)] == table
    assert f"2000 of {len(rows) - 1} rows" in caption


@pytest.mark.parametrize(("kind", "begin"), [("png", b"\x89PNG"), ("svg", b"<svg")])
def test_pictures_of_a_figure_can_be_saved(fresh, kind, begin):
    figure = fresh.page.locator("#general_profit-by-interval")
    with fresh.page.expect_download() as download:
        figure.get_by_role("button", name=f"as {kind.upper()}").click()
    picture = Path(download.value.path()).read_bytes()

    assert download.value.suggested_filename.endswith(f".{kind}")
    assert picture.startswith(begin)
    assert len(picture) > 5000


def test_a_figure_says_how_many_of_its_points_are_shown(browser, long_page_file):
    opened = Opened(browser, long_page_file, 1280)
    words = opened.page.locator("#pages_sharing-by-time .count").text_content()
    shown, points = (int(word.replace(",", "")) for word in words.split(" points")[0].split(" of "))

    assert points == 4000
    assert 500 < shown <= 1000
    opened.context.close()


def test_nine_guests_are_a_band(browser, long_page_file):
    opened = Opened(browser, long_page_file, 390)
    names = [name for name, _ in opened.lines("ksm_merging_pages-by-interval")]

    assert "all 9 guests" in names
    assert len(names) == 5
    opened.context.close()


# --- for all --------------------------------------------------------------------------------------


def test_all_elements_are_reachable_and_have_a_name(fresh):
    page = fresh.page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "To the answer"
    page.locator("#filters summary").first.focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert page.evaluate("[document.activeElement.type, document.activeElement.checked]") == [
        "checkbox",
        False,
    ]
    nameless = """() => [...document.querySelectorAll('button, input, [role], a')].filter((e) =>
      !(e.getAttribute('aria-label') || e.textContent.trim() || e.labels?.[0]?.textContent.trim()))
      .map((e) => e.outerHTML)"""
    assert page.evaluate(nameless) == []
    assert page.locator(".plot:not([role=group][aria-label])").count() == 0


def test_tables_of_bands_and_costs_label_each_row(browser, long_page_file):
    opened = Opened(browser, long_page_file, 1280)
    cells = set()
    for figure in ("ksm_merging_pages-by-interval", "savings-against-cost"):
        opened.page.locator(f"#{figure}").get_by_role("button", name="Table").click()
        cells |= set(opened.page.locator(f"#{figure} .values tbody td").all_text_contents())
    opened.context.close()

    assert {"lowest of all 9 guests", "highest of all 9 guests", "9 guests"} <= cells


def test_print_omits_interactive_elements(fresh):
    fresh.page.set_viewport_size({"width": 1040, "height": 720})  # A4 across, without its margins
    fresh.page.emulate_media(media="print")
    wide = """() => [...document.querySelectorAll('table')]
      .filter((table) => table.getBoundingClientRect().right > innerWidth + 1)
      .map((table) => table.parentElement.getAttribute('aria-label'))"""

    assert fresh.page.evaluate(wide) == []

    assert not fresh.page.locator("nav").is_visible()
    assert not fresh.page.locator("#filters").is_visible()
    assert not fresh.page.locator(".tools").first.is_visible()
    assert fresh.page.locator("#answer table").is_visible()
    assert len(fresh.page.pdf()) > 50_000


def test_the_answer_is_visible_before_any_figure(browser, page_file):
    """The answer does not wait for a figure; a benchmark measures the time."""
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(page_file.as_uri())

    assert page.locator("#answer tbody tr").count() == 13
    assert page.locator(".headline").is_visible()
    context.close()


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_shows_runs_without_guests_and_imported_logs(browser, other_page_file, width):
    opened = Opened(browser, other_page_file, width, every_metric=True)
    page, plots = opened.page, opened.page.evaluate(TRACES)

    assert opened.said == []
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert [p["figure"] for p in plots if not (p["legend"] and p["paths"])] == []
    assert page.get_by_role("heading", name="Each guest or process over time").count() == 1
    marks = page.locator("#pages_shared-by-interval .annotation-text").all_text_contents()
    assert marks == ["array 1", "array 2", "array 1 changed"]
    command = page.locator("#summary td.text span").filter(has_text="--vm-option-29").bounding_box()
    assert command["width"] <= 400
    opened.context.close()


def test_pages_without_scripts_fit_the_screen_and_can_be_read(browser, plain_page_files):
    for file in plain_page_files:
        for width, scheme in ((1280, "light"), (390, "dark")):
            context = browser.new_context(
                viewport={"width": width, "height": 900}, color_scheme=scheme
            )
            page = context.new_page()
            page.goto(file.as_uri())
            wide = page.evaluate("document.documentElement.scrollWidth")
            found = axe.Axe().run(page).response["violations"]

            assert (file.name, wide, [each["id"] for each in found]) == (file.name, width, [])
            context.close()
