"""Which equal pages ksmd merges with smart_scan=1, by the scans between their first appearances.

Predicted by the rule of the kernel, and compared with what the part phase_lock has measured.
"""

from collections.abc import Iterator
from typing import NamedTuple

from ksm_analysis.results.once import once
from ksm_analysis.results.run import Run

COLUMNS = ("phase_lock_distances", "phase_lock_as_predicted")
UNITS = dict.fromkeys(COLUMNS, "distances")


class Outcome(NamedTuple):
    """What became of two equal sets of pages.

    `distance` is how often ksmd had scanned the first when the second appeared. `merged` pages of
    `pages` were merged after `scans` further scans, and `cured` after a few more without
    smart_scan. `certain` says that the second set appeared between two scans.
    """

    distance: int
    pages: int
    scans: int
    merged: int
    cured: int
    certain: bool
    predicted: int


def looks(scans: int) -> list[int]:
    """Return in which of so many scans smart_scan looks at a page that it cannot merge.

    The first scan that finds the page is 1. Source: should_skip_rmap_item() in mm/ksm.c, which
    counts the age of each page in scans, and how often it may still be skipped.
    """
    found, skips = [], 0
    for scan in range(1, scans + 1):
        age = scan - 1
        if age >= 3 and skips:
            skips -= 1
            continue
        found.append(scan)
        if age >= 3:
            skips = 1 if age <= 3 else 2 if age <= 5 else 4 if age <= 8 else 8
    return found


def meet(distance: int, scans: int, smart_scan: bool = True) -> bool:
    """Return whether two equal pages at rest are merged.

    The second appears when the first was scanned `distance` times, and `scans` scans follow. Pages
    meet in a scan that looks at both. In its first scan, a page has no checksum yet, so it is not
    compared with others. A page that is skipped is taken out of the unstable tree.
    """
    if not smart_scan:
        return scans >= 2
    first = {*looks(distance + scans)[1:]}
    return any(distance + scan in first for scan in looks(scans)[1:])


def outcomes(run: Run) -> list[Outcome]:
    """Return what a run has measured, by distance. Empty without the part phase_lock."""
    return sorted(_outcomes(run))


def _outcomes(run: Run) -> Iterator[Outcome]:
    smart = str(run.record.knobs.during.get("smart_scan")) == "1"
    for event in run.events:
        if event["event"] == "distance measured":
            names = ("distance", "pages", "scans", "merged", "merged_without_skips")
            numbers = [each for name in names if isinstance(each := event.get(name), int)]
            if len(numbers) == len(names):
                distance, pages, scans, merged, cured = numbers
                met = pages * meet(distance, scans, smart)
                certain = bool(event.get("certain"))
                yield Outcome(distance, pages, scans, merged, cured, certain, met)


@once()
def of_run(run: Run) -> dict[str, float]:
    """Return COLUMNS: at how many distances it is certain what was measured, and as predicted.

    Empty without the part phase_lock.
    """
    found = outcomes(run)
    certain = [each for each in found if each.certain]
    right = [each for each in certain if each.merged == each.predicted]
    return dict(zip(COLUMNS, (len(certain), len(right)), strict=True)) if found else {}
