"""Freed memory, from a real run to the page: a process of known contents, in huge pages or not."""

import math
from pathlib import Path

import pytest
from machine import ROOT, Run, assert_restored, knobs, unexpected

from ksm_analysis.metrics import measurement, summary
from ksm_analysis.results.reader import read_results

pytestmark = pytest.mark.host
THP = Path("/sys/kernel/mm/transparent_hugepage")
PAGES, ZERO, EQUAL = 16384, 8192, 2048
MIB = 256  # pages


def merged(equal):
    """Return how many of so many equal pages are saved: each KSM page is shared 256 times."""
    return equal - -(-equal // 256)


# setting: merged pages, and pages of zeros that were given up
EXPECTED = {
    "use_zero_pages=0, thp enabled=always": (merged(EQUAL), ZERO),
    "use_zero_pages=0, thp enabled=never": (merged(EQUAL) + merged(ZERO), 0),
    "use_zero_pages=1, thp enabled=always": (merged(EQUAL), ZERO),
    "use_zero_pages=1, thp enabled=never": (merged(EQUAL), ZERO),
}


def huge_pages():
    names = ("enabled", "shmem_enabled", "khugepaged/defrag", "khugepaged/max_ptes_none")
    return [(THP / name).read_text() for name in names]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Run the experiment of the project; the host is restored."""
    directory, before, found = tmp_path_factory.mktemp("freed"), knobs(), huge_pages()
    definition = ROOT / "experiments/thp-zeros.yml"
    short = ("--intervals", "3")  # a scan takes a tenth of a second
    run = Run(str(definition), "--results", str(directory), *short, log=directory / "log")
    assert run.wait() == 0, run.output
    assert_restored(before)
    assert huge_pages() == found
    return directory / "thp-zeros"


@pytest.fixture(scope="module")
def rows(results):
    """Return the rows of the summary, by setting."""
    found = read_results(results)
    assert unexpected(found.warnings) == []
    table = summary.summary([measurement.measure(run) for run in found.usable])
    return {row["knobs"]: row for row in table.to_dict("records")}


@pytest.mark.parametrize("setting", EXPECTED)
def test_parts_are_exact_and_add_up_to_what_the_process_gave_back(setting, rows):
    row = rows[setting]
    merged_pages, zeros = EXPECTED[setting]
    assert row["merged_mib"] * MIB == merged_pages
    assert (row["zero_mib"] + row["split_zero_mib"]) * MIB == zeros
    if setting.startswith("use_zero_pages=0"):
        assert row["split_zero_mib"] * MIB == zeros
    if setting.endswith("never"):
        assert row["split_zero_mib"] == 0
    assert row["grown_mib"] == 0
    freed = row["merged_mib"] + row["zero_mib"] + row["split_zero_mib"] - row["overhead_mib"]
    assert row["freed_mib"] == pytest.approx(freed, abs=0.1)
    assert row["residual_mib"] == pytest.approx(0, abs=0.1)
    # Other programs on this host, such as other tests, take and give back memory, too.
    assert not math.isnan(row["host_freed_mib"])


def test_the_page_shows_the_parts(results):
    page = (results / "report.html").read_text()
    assert '<figure id="freed"' in page
    assert "zeros, by splits" in page
