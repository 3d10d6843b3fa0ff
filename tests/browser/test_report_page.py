"""The page in a real browser: drawn whole, at home on small and large screens, and offline."""

import pytest

pytestmark = pytest.mark.browser

DRAWN = "() => [...document.querySelectorAll('.plot')].every((plot) => plot.dataset.drawn)"
# Each figure with the number of its traces, and of those that have left something to see
TRACES = """() => [...document.querySelectorAll('.plot')].map((plot) => ({
  figure: plot.closest('figure').id,
  traces: plot.data.filter((trace) => trace.visible !== 'legendonly').length,
  points: plot.querySelectorAll('.scatterlayer .trace .points path').length,
  legend: [...plot.querySelectorAll('.legend .traces')].every((entry) => {
    const [box, frame] = [entry.getBoundingClientRect(), plot.getBoundingClientRect()];
    return box.bottom <= frame.bottom + 1 && box.right <= frame.right + 1;
  }),
  height: plot._fullLayout._size.h,
}))"""

FITS = """() => [...document.querySelectorAll('.plot')].every((plot) => {
  const [svg, box] = [plot.querySelector('.main-svg'), plot].map((e) => e.getBoundingClientRect());
  return svg.width === plot.clientWidth && Math.abs(svg.height - box.height) < 5;
})"""


class Opened:
    """A page that was opened, with all that it said and asked for."""

    def __init__(self, browser, file, width, scheme="light"):
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
        # as before printing: figures far below the screen are drawn only when they come near
        self.page.evaluate("dispatchEvent(new Event('beforeprint'))")
        self.page.wait_for_function(DRAWN, timeout=120_000)


@pytest.fixture(scope="module", params=[(1280, "light"), (390, "dark")], ids=["large", "small"])
def opened(request, browser, page_file):
    opened = Opened(browser, page_file, *request.param)
    yield opened
    opened.context.close()


def test_every_figure_is_drawn(opened):
    plots = opened.page.evaluate(TRACES)

    assert len(plots) > 30
    for plot in plots:
        assert plot["traces"] > 0, plot
        assert plot["points"] > 0, plot
        assert plot["height"] > 150, plot


def test_legends_stay_within_their_figures(opened):
    assert [p["figure"] for p in opened.page.evaluate(TRACES) if not p["legend"]] == []


def test_nothing_goes_wrong_and_no_name_runs(opened):
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
    last = page.locator(".plot").last
    page.wait_for_function("() => document.querySelector('.plot').dataset.drawn")
    assert last.get_attribute("data-drawn") is None

    last.scroll_into_view_if_needed()
    page.wait_for_function("() => [...document.querySelectorAll('.plot')].at(-1).dataset.drawn")
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


def test_a_click_in_the_legend_hides_published_points(browser, page_file):
    opened = Opened(browser, page_file, 1280)
    plot = opened.page.locator("#percent-of-configured-by-guests .plot").first
    entry = plot.locator(".legend .traces").filter(has_text="VMware ESX").first
    name = entry.text_content().strip()
    entry.locator(".legendtoggle").click()
    hidden = "(plot, name) => plot.data.find((t) => t.name === name).visible === 'legendonly'"
    opened.page.wait_for_timeout(600)  # Plotly waits whether it was a double click

    assert plot.evaluate(hidden, name)
    opened.context.close()


@pytest.mark.parametrize("width", [1280, 390])
def test_runs_without_guests_and_imported_logs_are_at_home_too(browser, other_page_file, width):
    opened = Opened(browser, other_page_file, width)
    page, plots = opened.page, opened.page.evaluate(TRACES)

    assert opened.said == []
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert [p["figure"] for p in plots if not (p["legend"] and p["points"])] == []
    assert page.get_by_role("heading", name="Each guest or process over time").count() == 1
    marks = page.locator("#pages_shared-by-interval .annotation-text").all_text_contents()
    assert marks == ["array 1", "array 2", "array 1 changed"]
    command = page.locator("#summary td.text span").filter(has_text="--vm-option-29").bounding_box()
    assert command["width"] <= 400
    opened.context.close()
