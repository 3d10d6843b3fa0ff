"""The pictures of pages in the documents, from results of real and simulated runs: `make docs`.

docs/results has the results, one archive for each kind of experiment. The page is made of them, and
Chromium takes a picture of its top. So a picture shows what the page shows now.

    python docs/pictures.py [DIRECTORY]     default: docs/pictures
"""

import sys
import tarfile
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from ksm_analysis.page import render
from ksm_analysis.results.reader import read_results

DOCS = Path(__file__).parent
CHROMIUM = "/usr/bin/chromium"
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
SIZE = {"width": 1280, "height": 800}
DRAWN = "() => document.querySelector('#top .plot[data-drawn]')"


def picture(archive: Path, to: Path, browser: Browser) -> Path:
    """Write the picture of the top of the page of archived results; return its path."""
    name = archive.name.removesuffix(".tar.xz")
    with tempfile.TemporaryDirectory() as directory:
        with tarfile.open(archive) as packed:
            packed.extractall(directory, filter="data")
        page_file = Path(directory, "report.html")
        render.write(read_results(Path(directory, name)), page_file)
        context = browser.new_context(viewport=SIZE, color_scheme="light")
        page = context.new_page()
        page.goto(page_file.as_uri())
        page.wait_for_function(DRAWN)
        page.screenshot(path=to / f"{name}.png")
        context.close()
    return to / f"{name}.png"


def main(to: Path) -> None:
    """Write all pictures into a directory."""
    to.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        for archive in sorted(DOCS.glob("results/*.tar.xz")):
            print(picture(archive, to, browser))
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS / "pictures")
