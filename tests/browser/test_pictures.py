"""The pictures of the page in the documents, from results that are in the repository."""

import re
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


def test_each_picture_in_the_documents_is_made_from_results():
    archives = {path.name.removesuffix(".tar.xz") for path in DOCS.glob("results/*")}
    assert archives == {path.stem for path in DOCS.glob("pictures/*.png")}
    documents = [DOCS.parent / "README.md", *DOCS.glob("**/*.md")]
    shown = (re.findall(r"\]\(\S*?(\w[\w-]*)\.png\)", path.read_text()) for path in documents)
    assert archives == set().union(*shown)
