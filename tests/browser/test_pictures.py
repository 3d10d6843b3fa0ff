"""The pictures of the page in the documents, from results that are in the repository."""

from pathlib import Path

import pytest
from programs import load

pytestmark = pytest.mark.browser
DOCS = Path(__file__).parents[2] / "docs"
pictures = load(DOCS / "pictures.py")


def test_a_picture_is_made_of_the_page_as_it_is(browser, tmp_path):
    archive = DOCS / "results/arrays-half-same.tar.xz"
    path = pictures.picture(archive, tmp_path, browser)

    assert path.name == "arrays-half-same.png"
    assert path.read_bytes().startswith(b"\x89PNG")
    assert 50_000 < path.stat().st_size < 150_000


def test_all_results_have_a_picture():
    archives = {path.name.removesuffix(".tar.xz") for path in DOCS.glob("results/*")}
    assert archives == {path.stem for path in DOCS.glob("pictures/*.png")}
    text = (DOCS / "page.md").read_text()
    assert all(f"pictures/{name}.png" in text for name in archives)
