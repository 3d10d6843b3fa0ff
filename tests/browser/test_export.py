"""Pictures for papers, drawn by Chromium."""

import re
from pathlib import Path

import pytest

from ksm_analysis.__main__ import main
from ksm_analysis.metrics import measurement
from ksm_analysis.page import export
from ksm_analysis.page.sections import Section, sections_of
from ksm_analysis.results.reader import read_results

pytestmark = pytest.mark.browser
CHROMIUM = Path("/usr/bin/chromium")


@pytest.fixture(scope="module")
def sections(page_file):
    """Make a few figures, among them one of several panels with a malicious name."""
    measured = [measurement.measure(run) for run in read_results(page_file.parent).usable]
    every = sections_of(measured)
    wanted = ("savings-against-cost", "general_profit-by-interval", "ksm_rmap_items-by-time")
    figures = tuple(f for section in every for f in section.figures if f.id in wanted)
    return [Section("some", "Some", "", figures)]


@pytest.mark.skipif(not CHROMIUM.exists(), reason="no Chromium")
@pytest.mark.parametrize(
    ("form", "begin"), [("png", rb"\x89PNG"), ("svg", rb"<svg"), ("pdf", rb"%PDF")]
)
def test_each_panel_is_a_file(sections, tmp_path, form, begin):
    few = [Section("few", "", "", (*sections[0].figures[:2],))]
    paths = export.write(few, tmp_path / "new" / form, form)

    assert len(paths) == export.count(few) == len(set(paths)) > 2
    assert "savings-against-cost" in paths[0].name
    for path in paths:
        assert re.match(begin, path.read_bytes())
        assert path.stat().st_size > 3000


def test_a_picture_is_for_paper_in_any_theme(sections):
    for figure in sections[0].figures:
        for title, panel in figure.panels:
            picture = export.on_paper(panel, title)

            assert picture.layout.paper_bgcolor == "white"
            assert picture.layout.height > 310
            assert panel.layout.paper_bgcolor is None  # the figure of the page is not changed


def test_results_without_a_usable_run_have_no_pictures(tmp_path, capsys):
    (tmp_path / "none.partial").mkdir()

    assert main(["report", str(tmp_path), "--export", "png"]) == 2
    assert "no usable run: there are no figures" in capsys.readouterr().err


def test_without_a_browser_it_says_what_to_install(page_file, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "absent"))

    status = main(["report", str(page_file.parent), "--export", "svg", "-o", str(tmp_path / "p")])
    assert status == 2
    assert "apt-get install chromium" in capsys.readouterr().err
