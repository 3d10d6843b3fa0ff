"""What rests in the memory of a host, and what changes: from what was seen at some moments."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ksm_analysis.assess.seen import Contents, Seen
from ksm_analysis.doctor.facts import kernel
from ksm_analysis.results.traces import HUGE, ZERO_FRAME

ZERO, ABSENT = 0, -1
SPLITS_FREE_ZEROS = (6, 12)  # since this Linux, a split of a huge page gives up its zeros
Mask = NDArray[np.bool_]


class Churn(NamedTuple):
    """How pages of a process change, as parts of its pages.

    `rate`: pages that are written a second and get back what they had, `dwell` seconds later.
    `hot`: pages that had another content each time, `hot_rate`: how often one of them changes a
    second. `lasting`: pages a second that change for good.
    """

    rate: float
    dwell: float
    hot: float
    hot_rate: float
    lasting: float


@dataclass(frozen=True, eq=False)
class Population:
    """The pages of a host at rest.

    `rest`: the content of each page, 0 is zeros, -1 none. `hot`: pages that never rest.
    `split_zeros`: zeros in huge pages, which the kernel gives up when it splits them. `churn`: by
    process. `changing`: the part of the pages that were seen to change at all, by process.
    `given_up`: pages that KSM has replaced by the kernel's zero page, which are not in `rest`.
    """

    names: list[str]
    owner: Contents
    rest: Contents
    hot: Mask
    split_zeros: Mask
    churn: list[Churn]
    changing: list[float]
    given_up: NDArray[np.int64]

    def pages(self, process: int) -> NDArray[np.int64]:
        """Return how many pages are in memory: of a process."""
        found: NDArray[np.int64] = np.flatnonzero((self.owner == process) & (self.rest != ABSENT))
        return found


def of(seen: Seen) -> Population:
    """Return the pages at rest, of all moments together."""
    contents = np.where(seen.flags & ZERO_FRAME, ABSENT, seen.contents)
    rest = at_rest(contents)
    rest[contents[-1] == ABSENT] = ABSENT
    compared = (contents != ABSENT).all(axis=0)
    changes = compared & (contents != contents[0]).any(axis=0)
    hot = compared & _all_differ(contents)
    churns, changing = [], []
    for process in range(len(seen.names)):
        own = compared & (seen.owner == process)
        one = churn(contents[:, own], seen.seconds)
        if not one.hot:
            hot[own] = False
        churns.append(one)
        changing.append(float(changes[own].mean()) if own.any() else 0.0)
    splits = kernel(seen.facts) >= SPLITS_FREE_ZEROS
    huge = (seen.flags[-1] & HUGE) != 0
    return Population(
        seen.names,
        seen.owner,
        rest,
        hot,
        huge & (rest == ZERO) & splits,
        churns,
        changing,
        np.array([_replaced(seen, name) for name in seen.names], np.int64),
    )


def _replaced(seen: Seen, name: str) -> int:
    """Return what the kernel says it has replaced by its zero page (Linux 6.6 and newer)."""
    told = seen.moments[-1]["guests"].get(name, {"ksm_stat": {}})["ksm_stat"]
    return int(told.get("ksm_zero_pages", 0))


def at_rest(contents: Contents) -> Contents:
    """Return the content that each page had most often; of several, the latest."""
    often = np.array([(contents == each).sum(axis=0) for each in contents])
    often[contents == ABSENT] = 0
    latest = len(contents) - 1 - np.argmax(often[::-1], axis=0)
    found: Contents = np.take_along_axis(contents, latest[None], axis=0)[0].copy()
    return found


def _all_differ(contents: Contents) -> Mask:
    """Whether pages had another content at all moments but the second, which is soon."""
    far = np.delete(contents, 1, axis=0) if len(contents) > 2 else contents
    found = np.ones(contents.shape[1], bool)
    for n, each in enumerate(far):
        for other in far[:n]:
            found &= each != other
    return found


def churn(contents: Contents, seconds: list[float]) -> Churn:
    """Estimate how pages that were in memory at all moments change.

    Pages that were written and then restored are those that differ at a moment between two with
    the same content. Their part is rate x dwell, if the moments are far apart. In a short time,
    as many pages are written as are restored, so twice the rate changes.
    """
    pages = contents.shape[1]
    if len(contents) < 4 or not pages:
        return Churn(0.0, 0.0, 0.0, 0.0, 0.0)
    first, second, third, last = contents
    passing = float(np.mean((third != first) & (last == first)))
    differ = _all_differ(contents)
    hot = float(differ.mean())
    if hot <= 2 * 3 * passing**2:  # as many as one would see if pages of the others met by chance
        hot, differ = 0.0, np.zeros(pages, bool)
    soon, far = seconds[1] - seconds[0], seconds[3] - seconds[0]
    changed = np.mean(first[differ] != second[differ]) if hot else 0.0
    hot_rate = -np.log(max(1 - changed, 1 / (1 + differ.sum()))) / soon if hot else 0.0
    hot_rate = max(hot_rate, 2 / far) if hot else 0.0
    rate = float(np.mean((first != second) & ~differ)) / 2 / soon if passing else 0.0
    rate = max(rate, passing / far)  # else it would rest for longer than was looked
    dwell = passing / rate if rate else 0.0
    lasting = max(0.0, float(np.mean((first != last) & ~differ)) - 2 * passing) / far
    return Churn(rate, dwell, hot, float(hot_rate), lasting)
