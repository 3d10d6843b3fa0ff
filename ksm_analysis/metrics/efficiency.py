"""How much of what could be saved was saved, where the contents of all mergeable memory are known.

They are those of copies of the service `memory` of `processes`, or of the workload `memory`.
"""

import contextlib
import math
from typing import Any, NamedTuple

import numpy as np

from ksm_analysis.metrics.stale import stale_pages
from ksm_analysis.metrics.times import Floats
from ksm_analysis.metrics.values import Ends, saved_pages
from ksm_analysis.results.once import once
from ksm_analysis.results.run import Run

NAME = "mean_efficiency_percent"
UNITS = {NAME: "%"}
MIB = 2**20
MAX_PAGE_SHARING = 256  # of kernels that do not tell
# Parts whose memory has other contents
UNKNOWN = ("arrays", "arrivals", "write_probe", "phase_lock", "population")


class Known(NamedTuple):
    """Mergeable memory of known contents.

    Each copy has `pages`. Of these, all others have the `equal` ones, too, each once (or, in a
    single process, all with the same content), `zero` are zeros, and nobody else has the rest.
    `there` has by name when each copy came and went, in seconds. `written` is the share of its
    pages that are written each second; they rest again `rest` seconds later.
    """

    pages: int
    equal: int
    zero: int
    there: dict[str, tuple[float, float]]
    written: float = 0.0
    rest: float = 0.0
    within: bool = False


def known(run: Run) -> Known | None:
    """Return what is known of the mergeable memory of a run; None if some of it is unknown."""
    options = {part.name: part.options for part in run.plan.parts}
    if run.plan.guests.count or not run.header or {*options} & {*UNKNOWN}:
        return None
    with contextlib.suppress(KeyError, TypeError, ValueError):  # a damaged file
        match options:
            case {"processes": _, "memory": _}:
                return None
            case {"processes": of}:
                return _copies(run, of)
            case {"memory": of}:
                return _workload(run, of)
    return None


def _workload(run: Run, options: dict[str, Any]) -> Known | None:
    event = next((each for each in run.events if each["event"] == "memory written"), None)
    if event is None or options["huge_pages"]:  # splits save what nobody counts
        return None
    there = {"": (-math.inf, math.inf)}
    equal, zero = event["equal_pages"], event["zero_pages"]
    return Known(event["pages"], equal, zero, there, within=True)


def _copies(run: Run, options: dict[str, Any]) -> Known | None:
    contents = options.get("contents")
    if not contents or options.get("merge") == "prctl" or options.get("density"):
        return None
    if contents.get("huge_pages"):  # splits save what nobody counts
        return None
    pages = options["data_mib"] * MIB // run.header["page_size"]
    equal, zero = (int(pages * contents[f"{kind}_percent"] / 100) for kind in ("equal", "zero"))
    left = _times(run, "process left")
    came = _times(run, "process ready").items()
    there = {name: (at, left.get(name, math.inf)) for name, at in came}
    writes = contents["write_percent"] / 100, contents["rest_seconds"]
    return Known(pages, equal, zero, there, *writes)


def _times(run: Run, name: str) -> dict[str, float]:
    start = run.header["monotonic"]
    return {
        each["process"]: each["monotonic"] - start for each in run.events if each["event"] == name
    }


def limit_pages(run: Run, memory: Known, seconds: Floats) -> Floats:
    """Return how many pages perfect merging would save at each time.

    A frame is shared by at most max_page_sharing pages. With use_zero_pages, pages of zeros need no
    frame. Pages that do not rest save nothing: their expected number counts.
    """
    knobs = run.record.knobs.during
    most = int(knobs.get("max_page_sharing") or MAX_PAGE_SHARING)
    resting = np.array(
        [_resting(memory, came, left, seconds) for came, left in memory.there.values()]
    )
    if not len(resting):
        return np.zeros(len(seconds))
    copies = resting.sum(axis=0)
    zeros = memory.zero * copies
    if str(knobs.get("use_zero_pages")) != "1":
        zeros = _saved(zeros, most)
    if memory.within:
        return np.asarray(zeros + _saved(memory.equal * copies, most))
    one = 1 - np.prod(1 - resting, axis=0)  # the chance that a page rests in any copy
    frames = np.where(copies > most, np.ceil(copies / most), one)
    return np.asarray(zeros + memory.equal * (copies - frames))


def _resting(memory: Known, came: float, left: float, seconds: Floats) -> Floats:
    """Return which share of the pages of a copy is there and rests at each time."""
    passing = memory.written * np.clip(seconds - came, 0, memory.rest)
    return np.where((seconds >= came) & (seconds < left), 1 - passing, 0.0)


def _saved(pages: Floats, most: int) -> Floats:
    """Return how many pages are saved if so many have the same content."""
    return np.maximum(0, pages - np.ceil(pages / most))


def over_time(run: Run) -> tuple[Floats, Floats, Floats] | None:
    """Return seconds, saved pages and their limit at each sample; None if it is not known.

    Pages that KSM still counts as saved, but that were written to or whose process has left since
    ksmd last visited them, do not count, if the kernel tells its visits (pages_scanned).
    """
    if "ksm.pages_sharing" not in run.samples or (memory := known(run)) is None:
        return None
    seconds = run.samples["seconds"].to_numpy(dtype=float)
    counters, limit = Ends(run, run.samples), limit_pages(run, memory, seconds)
    saved = saved_pages(counters).to_numpy(dtype=float)
    if "ksm.pages_scanned" not in run.samples:  # an older kernel: it is not known what is stale
        return seconds, saved, limit
    # smart_scan skips pages, which ends their sharing, too, if a write broke it
    skipped = counters.column("ksm.pages_skipped").fillna(0)
    visits = (counters.column("ksm.pages_scanned") + skipped).to_numpy(dtype=float)
    saved = saved - _left_pages(run, memory, visits)
    if memory.written and "vmstat.cow_ksm" in run.samples:
        there = [(seconds >= came) & (seconds < left) for came, left in memory.there.values()]
        pages = memory.pages * np.sum(there, axis=0, dtype=float)
        saved -= stale_pages(visits, counters.column("vmstat.cow_ksm").to_numpy(dtype=float), pages)
    return seconds, saved, limit


def _left_pages(run: Run, memory: Known, visits: Floats) -> Floats:
    """Return how many merged pages of copies that left are counted until ksmd works again."""
    seconds, found = run.samples["seconds"].to_numpy(dtype=float), np.zeros(len(visits))
    if "ksm_merging_pages" not in run.guests:
        return found
    for name, (_, left) in memory.there.items():
        first = int(np.searchsorted(seconds, left))
        before = run.guests[(run.guests["guest"] == name) & (run.guests["seconds"] < left)]
        if first < len(visits) and len(before):
            since = np.arange(len(visits)) >= first
            found[since & (visits == visits[first])] += before["ksm_merging_pages"].iloc[-1]
    return found


@once()
def of_run(run: Run) -> dict[str, float]:
    """Return the column of a run in `summary`: NaN if nothing could be saved.

    Empty if the limit is not known. Between two samples, both are taken to change evenly.
    """
    found = over_time(run)
    if found is None:
        return {}
    seconds, saved, limit = found
    could = float(np.trapezoid(limit, seconds))
    return {NAME: 100 * float(np.trapezoid(saved, seconds)) / could if could > 0 else math.nan}
