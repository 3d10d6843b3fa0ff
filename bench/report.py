#!/usr/bin/env python3
"""Measure the time to write the page of a large campaign, compared with a simple script.

  report   python -m ksm_analysis report, first from the raw files and then from Parquet
  by hand  pandas.read_json(lines=True) and json_normalize of each raw file, and per metric one
           px.line with every sample

The campaign is simulated: 8 settings x 10 guests x 30 minutes at 10 Hz, 1.44 million samples of
guests. Each method runs in a separate process; memory is its maximum resident size. Then a small
page is opened in Chromium, until its filters work, and until its first figure is drawn.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import _campaign

ROOT = Path(__file__).resolve().parents[1]
SECONDS, MEMORY_MB, PAGE_MB = 20, 1500, 12
FASTER, SMALLER = 5, 10
SMALL_MB, USABLE_SECONDS = 6, 2
HOST = (
    *(f"ksm.{name}" for name in ("pages_shared", "pages_sharing", "pages_unshared")),
    *(f"ksm.{name}" for name in ("pages_volatile", "general_profit", "full_scans")),
    *("ksm.pages_scanned", "cpu.idle", "ksmd.cpu_ns"),
)
GUEST = ("ksm_merging_pages", "ksm_rmap_items", "ksm_process_profit")


def by_hand(directory, output):
    """Write the page like a short script: read everything, one figure per metric."""
    import pandas as pd
    import plotly.express as px

    runs = []
    for path in sorted(directory.glob("*/samples.jsonl")):
        table = pd.read_json(path, lines=True)
        samples = table[table["kind"] == "sample"].to_dict("records")
        runs.append(pd.json_normalize(samples).assign(run=path.parent.name))
    table = pd.concat(runs)
    figures = [px.line(table, x="monotonic", y=name, color="run", title=name) for name in HOST]
    for name in GUEST:
        columns = [column for column in table if column.endswith(f".{name}")]
        long = table.melt(["run", "monotonic"], columns, "guest", name)
        long["line"] = long["run"] + " " + long["guest"]
        figures.append(px.line(long, x="monotonic", y=name, color="line", title=name))
    pages = (
        figure.to_html(full_html=False, include_plotlyjs=number == 0)
        for number, figure in enumerate(figures)
    )
    output.write_text("".join(pages))


def report(directory, output):
    """Write the page with this project."""
    from ksm_analysis.__main__ import main

    main(["report", str(directory), "-o", str(output)])


WAYS = {"report": report, "by-hand": by_hand}


def timed(way, directory, output):
    """Write a page in a separate process; return seconds and maximum resident MB."""
    command = [sys.executable, __file__, "--way", way, directory, output]
    began = time.monotonic()
    said = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    return time.monotonic() - began, json.loads(said.splitlines()[-1])


def peaks_kept(directory, page):
    """Whether the maximum pages_sharing of each run is a point of the page."""
    from ksm_analysis.results import reader

    greatest = {
        int(run.samples["ksm.pages_sharing"].iloc[1:].max())
        for run in reader.read_results(directory).usable
    }
    return greatest <= drawn_values(page, "pages_sharing-by-time")


def drawn_values(page, figure):
    """Return all y values of a figure of a page."""
    import base64
    import re

    import numpy as np

    text = page.read_text()
    text = text[text.index(f'<figure id="{figure}"') :]
    found = set()
    for script in re.findall(r"<script[^>]*>(.*?)</script>", text[: text.index("</figure>")], re.S):
        for trace in json.loads(script)["data"]:
            packed = trace["y"]
            values = np.frombuffer(base64.b64decode(packed["bdata"]), dtype=packed["dtype"])
            found |= set(map(int, values))
    return found


def opened(page):
    """Return the seconds until the filters of a page work in Chromium, and a figure is drawn."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=options)
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        began = time.monotonic()
        tab.goto(page.as_uri(), wait_until="commit")
        tab.locator("#filters .menu").filter(has=tab.locator("[name=metric]")).locator(
            "summary"
        ).click()
        tab.get_by_role("checkbox", name="pages_shared", exact=True).check()
        tab.locator("#pages_shared-by-interval:not([hidden])").wait_for(state="attached")
        usable = time.monotonic() - began
        tab.locator("figure:not([hidden]) .plot").first.scroll_into_view_if_needed()
        tab.locator(".plot[data-drawn]").first.wait_for()
        drawn = time.monotonic() - began
        browser.close()
    return usable, drawn


def told(words, value, unit, target, met):
    """Print one line; return whether the target was missed."""
    print(f"{words:44}{value:9.1f} {unit:3} target {target:14} {'met' if met else 'NOT met'}")
    return not met


def large(directory, arguments):
    """Compare both methods on a simulated campaign; return the number of missed targets."""
    samples = _campaign.write(directory, arguments.settings, 10, arguments.minutes, 10)
    print(f"{samples:,} samples of guests in {arguments.settings} runs")
    os.sync()  # otherwise pending writes would slow down the first method
    page, plain = directory / "page.html", directory / "plain.html"
    first, memory = timed("report", directory, page)
    again, _ = timed("report", directory, page)
    hand, hand_memory = timed("by-hand", directory, plain)
    size, plain_size = (path.stat().st_size / 1e6 for path in (page, plain))
    print(f"by hand: {hand:.1f} s, {hand_memory:.0f} MB, page {plain_size:.0f} MB")
    kept = peaks_kept(directory, page)
    return sum(
        (
            told("report, from raw files", first, "s", f"<= {SECONDS}", first <= SECONDS),
            told("  memory", memory, "MB", f"<= {MEMORY_MB}", memory <= MEMORY_MB),
            told("  page", size, "MB", f"<= {PAGE_MB}", size <= PAGE_MB),
            told("  by hand / report", hand / first, "x", f">= {FASTER}", hand >= FASTER * first),
            told("  page by hand / page", plain_size / size, "x", f">= {SMALLER}",
                 plain_size >= SMALLER * size),
            told("  peaks of pages_sharing kept", kept, "", "all", kept),
            told("report, from Parquet", again, "s", "less", again < first),
        )
    )  # fmt: skip


def small(directory):
    """Open the page of a small experiment; return the number of missed targets."""
    _campaign.write(directory, settings=2, guests=3, minutes=3, hertz=4)
    page = directory / "page.html"
    timed("report", directory, page)
    size, (usable, drawn) = page.stat().st_size / 1e6, opened(page)
    print(f"small page, first figure drawn after {drawn:.1f} s")
    return told("small page", size, "MB", f"<= {SMALL_MB}", size <= SMALL_MB) + told(
        "  usable after", usable, "s", f"<= {USABLE_SECONDS}", usable <= USABLE_SECONDS
    )


def main():
    """Print the figures; exit 1 if a target is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--settings", type=int, default=8, help="runs (default: 8)")
    parser.add_argument("--minutes", type=float, default=30, help="of each run (default: 30)")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("paths", nargs="*", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        WAYS[arguments.way](*arguments.paths)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6)
        return 0
    with tempfile.TemporaryDirectory() as large_one, tempfile.TemporaryDirectory() as small_one:
        return 1 if large(Path(large_one), arguments) + small(Path(small_one)) else 0


if __name__ == "__main__":
    sys.exit(main())
