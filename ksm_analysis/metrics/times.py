"""How soon a run saved what it saves, and whether it was long enough to tell."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ksm_analysis.metrics.measurement import Measured
from ksm_analysis.metrics.values import Ends, saved_pages
from ksm_analysis.results import cells
from ksm_analysis.results.once import once

Floats = NDArray[np.float64]
FLAT = 0.05  # on a plateau, savings change by at most this share in the last quarter
SHARES = {f"seconds_to_{percent}": percent / 100 for percent in (50, 90, 95)}


class Reached(NamedTuple):
    """Seconds until a run reached a share of what it saves.

    If `yes` is false, it never did, and `seconds` is how long it was watched. `seconds` is NaN if
    savings are not known.
    """

    seconds: float
    yes: bool


def reached(share: float) -> Callable[[Measured], Reached]:
    """Return a function of a run: when its savings reached one of SHARES of their plateau.

    From this time on, they stayed at or above it: an early peak does not count. Seconds count from
    the first sample. Without a plateau, or with nothing saved, the share was not reached.
    """
    return lambda measured: _times(measured)[f"{share:g}"]


@once(lambda found: {share: Reached(*each) for share, each in found.items()})
def _times(measured: Measured) -> dict[str, Reached]:
    """Return when each of SHARES was reached."""
    if cells.is_off(measured.run) or "ksm.pages_sharing" not in measured.run.samples:
        return dict.fromkeys((f"{share:g}" for share in SHARES.values()), Reached(np.nan, False))
    at, pages = _sharing(measured)
    return {f"{share:g}": _reached(measured, share, at, pages) for share in SHARES.values()}


def _reached(measured: Measured, share: float, at: Floats, pages: Floats) -> Reached:
    if not len(pages):
        return Reached(np.nan, False)
    if not (has_plateau(measured) and pages[-1] > 0):
        return Reached(float(at[-1]), False)
    below = np.flatnonzero(~(pages >= share * pages[-1]))
    if not len(below) and measured.run.imported and _had_scanned(measured):
        return Reached(np.nan, False)  # nobody watched when it was reached
    return Reached(float(at[below[-1] + 1] if len(below) else at[0]), True)


def _had_scanned(measured: Measured) -> bool:
    """Whether ksmd had scanned before the first sample, as on a host that runs for long."""
    scans = Ends(measured.run, measured.run.samples).column("ksm.full_scans")
    return bool(scans.iloc[0] > 0)


def _sharing(measured: Measured) -> tuple[Floats, Floats]:
    """Return seconds since the first sample, and saved pages, until the interval for the run.

    Seconds are the planned times of samples. An imported run has no sample before its first
    interval, so its seconds count from the beginning of this interval.
    """
    samples, sampling = measured.run.samples, measured.run.plan.sampling
    upto = samples.index <= measured.last * round(sampling.interval / sampling.period)
    seconds = samples.index.to_numpy()[upto] * sampling.period
    pages = saved_pages(Ends(measured.run, samples)).to_numpy(dtype=float)[upto]
    known = ~np.isnan(pages)
    return seconds[known], pages[known]


@once()
def has_plateau(measured: Measured) -> bool:
    """Whether savings no longer changed when the run ended.

    There is no plateau before enough full scans. A run that should end when steady has recorded
    whether it was. In other runs, savings must have changed by at most 5 % of their last value in
    the last quarter of the time.
    """
    if not scanned_enough(measured):
        return False
    if measured.run.converged is not None:
        return measured.run.converged
    if "ksm.pages_sharing" not in measured.run.samples:
        return False
    at, pages = _sharing(measured)
    if not len(pages):
        return False
    late = pages[at >= 0.75 * at[-1]]
    return bool(np.ptp(late) <= FLAT * abs(pages[-1]))


def scans_needed(measured: Measured) -> int:
    """Return how many full scans a run needs before it shows what KSM can merge.

    ksmd merges a page that looks the same in two scans. With smart_scan, it skips a page that did
    not merge in more and more scans: after ten scans, it has checked each page five times. With a
    policy, how often ksmd scans is what the run shows, so none are needed.
    """
    if measured.run.plan.policy:
        return 0
    return 10 if str(measured.run.record.knobs.during.get("smart_scan", 0)) == "1" else 3


def scanned_enough(measured: Measured) -> bool:
    """Whether ksmd scanned all memory often enough."""
    return measured.final["full_scans"] >= scans_needed(measured)
