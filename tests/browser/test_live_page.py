"""The live page in a real browser: it follows a launch by itself, and becomes the report."""

import shutil
import sys
import tarfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from test_live import ARCHIVE, ended, notice, plan, sample, started

from ksm_analysis.live.serving import Serving

axe = pytest.importorskip("axe_playwright_python.sync_playwright")
pytestmark = pytest.mark.browser
RUN = "p004-k3-idle-r1"
WAIT = {"timeout": 120_000}


def test_the_page_follows_the_runs_and_becomes_the_report(browser, page_file, tmp_path):
    results = tmp_path / "results"
    results.mkdir()
    context = browser.new_context(viewport={"width": 390, "height": 800}, color_scheme="dark")
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    with Serving(results, 0) as serving:
        for each in (plan(RUN, "r2"), started(RUN), sample(0.0, 0, RUN), sample(2.0, 9, RUN)):
            serving.tell(each)
        page.goto(serving.url)
        page.locator("#live polyline").wait_for(state="attached", **WAIT)
        assert "run 1 of 2" in page.locator("#live .hosts").inner_text()
        assert page.locator(".plot").count() == 0

        with tarfile.open(ARCHIVE) as packed:
            packed.extractall(tmp_path, filter="data")
        shutil.copytree(tmp_path / "scan-rates" / RUN, results / RUN)
        serving.tell(ended(RUN))
        page.locator("#top .plot[data-drawn]").wait_for(state="attached", **WAIT)
        wide = page.evaluate("document.documentElement.scrollWidth")
        found = axe.Axe().run(page).response["violations"]
        assert (wide, [each["id"] for each in found]) == (390, [])
        assert page.evaluate("scrollY") == 0

        serving.tell(notice("report", None, path=str(page_file)))
        serving.tell(notice("end", None, exit=0))
        page.locator("#live").wait_for(state="detached", **WAIT)
        page.get_by_role("heading", name="made-up").wait_for(**WAIT)
    assert page.locator("#answer").is_visible(), "it stays without its server"
    assert said == []
    context.close()
