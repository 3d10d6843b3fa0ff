"""Two arrays without guests: the counters of KSM and the counts of a census are known exactly."""

import json

import pytest
from machine import Run, assert_restored, census_of, knobs, saved_by_the_kernel, unexpected

from ksm_analysis.results.reader import read_run

pytestmark = pytest.mark.host
COUNTERS = ("pages_shared", "pages_sharing", "pages_unshared")
# 4,000,000 bytes are 977 pages. With max_page_sharing 256, 488 equal pages are kept in two copies.
MERGED = (977, 977, 0)
AFTERWARDS = {
    "single": (977, 976, 1),
    "half-same": (979, 974, 1),
    "half-distinct": (977, 488, 489),
}


def counters(sample: dict, before: dict) -> tuple[int, ...]:
    """Return the counters minus those before the run."""
    return tuple(sample["ksm"][name] - before["ksm"][name] for name in COUNTERS)


DEFINITION = """\
knobs: [{run: 1, pages_to_scan: 1000, sleep_millisecs: 50, max_page_sharing: 256}]
knobs_if_present: {smart_scan: 0}
workloads:
  - {name: single, arrays: {change: single, second: 1, changed: 2.5}}
  - {name: half-same, arrays: {change: half-same, second: 1, changed: 2.5}}
  - {name: half-distinct, arrays: {change: half-distinct, second: 1, changed: 2.5}}
sampling: {interval: 1, intervals: 5, period: 0.25}
census: [end, every: 2, at-scan-boundary]
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Run all changes in one experiment; the host is restored."""
    directory, before = tmp_path_factory.mktemp("arrays"), knobs()
    definition = directory / "arrays.yml"
    definition.write_text(DEFINITION)
    run = Run(str(definition), "--results", str(directory), log=directory / "log")
    assert run.wait() == 0, run.output
    assert_restored(before)
    return directory / "arrays"


@pytest.mark.parametrize("change", AFTERWARDS)
def test_the_counters_are_exact(change, results):
    directory = results / f"g00-k1-{change}-r1"
    lines = [json.loads(line) for line in (directory / "samples.jsonl").open()]
    samples = [line for line in lines if line["kind"] == "sample"]
    events = {
        (event["event"], event.get("array")): event["monotonic"]
        for event in map(json.loads, (directory / "arrays.jsonl").open())
    }
    changed = events["array changed", None]
    begun = lines[0]["monotonic"]
    assert events["array written", 1] - begun == pytest.approx(0, abs=0.5)
    assert events["array written", 2] - begun == pytest.approx(1, abs=0.5)
    assert changed - begun == pytest.approx(2.5, abs=0.5)

    # While ksmd looks at a page, it is in neither tree, and counts as volatile.
    settled = [sample for sample in samples if sample["ksm"]["pages_volatile"] == 0]
    merged = [sample for sample in settled if sample["monotonic"] < changed - 0.5][-1]
    assert counters(merged, samples[0]) == MERGED
    assert settled[-1]["n"] > samples[-1]["n"] - 8, "it is settled at the end"
    assert counters(settled[-1], samples[0]) == AFTERWARDS[change]
    (process,) = samples[-1]["guests"].values()
    assert process["ksm_rmap_items"] == 2 * 977
    assert process["ksm_merging_pages"] == sum(AFTERWARDS[change][:2])


def test_a_census_counts_to_the_page(results):
    run = read_run(results / "g00-k1-single-r1")
    rows = run.census.rows

    assert unexpected(run.warnings) == []
    at_scans = rows["moment"] == "scan"
    assert rows["moment"][~at_scans].to_list() == ["every", "every", "end"]
    assert rows["seconds"][~at_scans].to_list() == pytest.approx([2, 4, 5], abs=0.5)
    scans = rows["ksm.full_scans"][at_scans]
    assert len(scans) > 1
    assert scans.is_monotonic_increasing
    assert scans.is_unique
    # Two arrays of 977 pages, of which the second is all one content, and the first but one page
    assert (
        rows["limit_pages"].iloc[-1]
        == rows["present_pages"].iloc[-1] - rows["distinct_contents"].iloc[-1]
    )
    last = census_of(run.path)
    before, after = (saved_by_the_kernel(last[key]) for key in ("ksm", "ksm_after"))
    assert min(before, after) <= last["saved_pages"] <= max(before, after)
    assert last["guests"].keys() == {"arrays"}
    summary = json.loads((run.path / "census.json").read_text())["summary"]
    assert summary["censuses"] == len(rows)
