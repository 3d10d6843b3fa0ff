"""Fixtures for tests of the page in a real Chromium."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))

from made_up_runs import MONOTONIC, Writer, run_record, sample_lines
from test_original_logs import head, interval, text
from trees import Tree, guest

from ksm_analysis.__main__ import main
from ksm_analysis.page import render
from ksm_analysis.results.reader import read_results

COMMAND = f"'stress-ng {' '.join(f'--vm-option-{n} 1' for n in range(30))}'"
CHROMIUM = "/usr/bin/chromium"
EVIL = "<img src=x onerror=alert(1)></script><script>alert(2)</script>"


@pytest.fixture(scope="session")
def page_file(tmp_path_factory):
    """Write a report of two workloads, two settings and repetitions, with a malicious name."""
    directory = tmp_path_factory.mktemp("results") / "made-up"
    write, index = Writer(directory), 0
    for repetition in (1, 2):
        for guests in (1, 2, 3):
            for workload in ("idle", "stress"):
                for setting, pages in enumerate((100, 1000), start=1):
                    index += 1
                    write(_cell(index, guests, workload, setting, pages, repetition))
    record = run_record(guests=4)
    record["run"]["id"] = "evil"
    lines = sample_lines(record)
    for line in lines[:-1]:
        line["guests"][EVIL] = line["guests"].pop("ksm-guest-04")
    write(record, lines, name="evil")
    write(run_record(guests=5, status="failed", reason=EVIL))
    render.write(read_results(directory), directory / "report.html")
    return directory / "report.html"


def _cell(index, guests, workload, setting, pages, repetition):
    record = run_record(guests, workload, repetition, interval=3.0, intervals=15)
    run = record["run"]
    run |= {"id": f"g{guests:02}-k{setting}-{workload}-r{repetition}", "index": index}
    run["factors"]["knobs"] = f"pages_to_scan={pages}"
    run["knobs"]["pages_to_scan"] = record["knobs"]["during"]["pages_to_scan"] = pages
    return record


@pytest.fixture(scope="session")
def other_page_file(tmp_path_factory):
    """Write a report of arrays, without guests, beside logs that were imported."""
    directory = tmp_path_factory.mktemp("results") / "others"
    write = Writer(directory)
    for index, change in enumerate(("single", "half-same")):
        write(*_arrays(index, change))
    log = directory.parent / "stress.log"
    log.write_bytes(text(head(command_executed_in_vms=COMMAND), interval(1), interval(2)))
    assert main(["import", str(log), "--results", str(directory)]) == 0
    render.write(read_results(directory), directory / "report.html")
    return directory / "report.html"


def _arrays(index, change):
    """Make the record, the samples and the events of a run of arrays."""
    record = run_record(guests=0, workload=change, intervals=35)
    record["run"] |= {"index": index, "workload": {"name": change, "parts": []}}
    record["run"]["guests"]["memory_mib"] = 0
    lines = sample_lines(record)
    process = {"ksm_merging_pages": 977, "ksm_rmap_items": 1954, "ksm_process_profit": -5}
    for line in lines[1:-1]:
        line["guests"] = {"arrays": {**process, "utime": 1, "stime": 1, "resident_pages": 3000}}
    written = [
        {"event": "array written", "array": array, "pages": 977, "monotonic": MONOTONIC + at}
        for array, at in ((1, 0.0), (2, 10.0))
    ]
    changed = {"event": "array changed", "change": change, "monotonic": MONOTONIC + 20}
    return record, lines, [*written, changed]


@pytest.fixture(scope="session")
def plain_page_files(page_file, tmp_path_factory):
    """Write the pages without scripts: of a comparison, and of a diagnosis."""
    directory, results = tmp_path_factory.mktemp("plain"), str(page_file.parent)
    pages = [directory / "differences.html", directory / "doctor.html"]
    assert main(["compare", results, results, "--by", "knobs", "--html", str(pages[0])]) == 0
    tree = Tree(directory / "machine", run=0)
    guest(tree, name=EVIL)
    assert main(["doctor", "--root", str(tree.root), "--html", str(pages[1])]) == 1
    return pages


@pytest.fixture(scope="session")
def long_page_file(tmp_path_factory):
    """Write a report of one long run of many guests."""
    directory = tmp_path_factory.mktemp("results") / "long"
    Writer(directory)(run_record(guests=9, intervals=1000))
    render.write(read_results(directory), directory / "report.html")
    return directory / "report.html"


@pytest.fixture(scope="session")
def browser():
    """Start Chromium."""
    playwright = pytest.importorskip("playwright.sync_api")
    if not Path(CHROMIUM).exists():
        pytest.skip(f"no {CHROMIUM}: apt-get install chromium")
    with playwright.sync_playwright() as started:
        # The sandbox of Chromium refuses root, and containers have a small /dev/shm
        options = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=options)
        yield chromium
        chromium.close()
