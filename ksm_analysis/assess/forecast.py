"""What KSM would free of a population, in pages, and for whom. Pure."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from ksm_analysis.assess.population import ABSENT, ZERO, Population
from ksm_analysis.assess.seen import Contents

ITEM = 64  # bytes of a struct ksm_rmap_item, and of a struct ksm_stable_node
WORTH = 0.01  # of its pages: a guest that frees less, less its records, is not worth the scans
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Guest:
    """What KSM would free of one guest or process, in pages.

    `merged`, `zeros` and `split_zeros` are its part: what equal pages free is shared evenly among
    them. `loss` is what would not be freed without it. `alone` is what it frees by itself.
    `written` is the part of its pages that rest only for a while, `hot` that never rest.
    """

    name: str
    pages: int
    merged: float
    zeros: float
    split_zeros: float
    loss: float
    alone: float
    written: float
    hot: float
    lasting: float

    @property
    def freed(self) -> float:
        """Return all that it frees."""
        return self.merged + self.zeros + self.split_zeros

    def worth(self, page_size: int) -> bool:
        """Whether it frees more than it costs."""
        return self.freed - self.pages * ITEM / page_size >= WORTH * self.pages


@dataclass(frozen=True)
class Limit:
    """What KSM would free in the end, in pages, if ksmd came by each page at once.

    `pages`: in memory, or given up by KSM already, which counts as zeros here and in all below.
    `merged`, `zeros`, `split_zeros`: what it consists of. `low` and `high`: all of it, if no page
    that was seen to change could be merged; if all could. `records`: bytes of ksmd's own.
    `pairs`: guests x guests; pages of the one whose content the other has, too, without zeros; in
    the diagonal, pages whose content it has more than once.
    """

    pages: int
    merged: float
    zeros: float
    split_zeros: float
    low: float
    high: float
    records: int
    guests: tuple[Guest, ...]
    pairs: NDArray[np.int64]

    @property
    def freed(self) -> float:
        """Return all that it frees, without what its records take."""
        return self.merged + self.zeros + self.split_zeros

    def net(self, page_size: int, pages: float | None = None) -> float:
        """Return the bytes of all that is freed, or of so many pages, less the records."""
        return (self.freed if pages is None else pages) * page_size - self.records


def limit(population: Population, knobs: dict[str, int]) -> Limit:
    """Return what would be freed with these knobs (max_page_sharing, use_zero_pages)."""
    most, given_up = knobs["max_page_sharing"], bool(knobs["use_zero_pages"])
    rest, owner = population.rest, population.owner
    there = rest != ABSENT
    settled = there & ~population.hot
    numbers, counts = np.unique(rest[settled], return_counts=True)
    frames = -(-counts // most)
    frames[numbers == ZERO] = 0 if given_up else frames[numbers == ZERO]
    needed = np.ones(int(rest.max(initial=0)) + 2)
    needed[numbers] = frames / counts  # frames for each page of a content
    resting = np.array([1 - each.rate * each.dwell for each in population.churn])[owner]
    given = population.split_zeros & (np.count_nonzero(rest == ZERO) > 1)
    needed[numbers[counts == 1]] = 1.0
    kept = np.where(given, 0.0, np.where(settled, needed[rest], 1.0))
    given_up_now = int(population.given_up.sum())
    high = (1 - kept).sum() + given_up_now
    # while a page does not rest, it needs a frame beside that of those with its content
    shares = np.where(kept < 1, np.maximum(0.0, resting - kept), 0.0)
    kinds = np.where(population.split_zeros, 2, np.where(rest == ZERO, 1, 0))
    size = len(population.names)
    sums = np.zeros((3, size))
    np.add.at(sums, (kinds, owner), shares)
    sums[1] += population.given_up
    pairs, alone, losses = _pairs(population, settled, most)
    dropped = population.split_zeros | (given_up & (rest == ZERO))  # ksmd forgets them
    shared = int(frames[(counts > 1) & (numbers != ZERO)].sum())
    guests = tuple(
        Guest(
            name=name,
            pages=int(np.count_nonzero(there & (owner == n)) + population.given_up[n]),
            merged=float(sums[0, n]),
            zeros=float(sums[1, n]),
            split_zeros=float(sums[2, n]),
            loss=float(losses[n] + sums[1:, n].sum()),
            alone=float(alone[n] + sums[1:, n].sum()),
            written=population.churn[n].rate * population.churn[n].dwell,
            hot=population.churn[n].hot,
            lasting=population.churn[n].lasting,
        )
        for n, name in enumerate(population.names)
    )
    changing = np.array(population.changing)[owner]
    low = np.where(kept < 1, np.maximum(0.0, 1 - changing - kept), 0.0).sum() + given_up_now
    return Limit(
        pages=int(there.sum()) + given_up_now,
        merged=float(sums[0].sum()),
        zeros=float(sums[1].sum()),
        split_zeros=float(sums[2].sum()),
        low=float(low),
        high=float(high),
        records=ITEM * (int(np.count_nonzero(there & ~dropped)) + shared),
        guests=guests,
        pairs=pairs,
    )


def _pairs(
    population: Population, settled: NDArray[np.bool_], most: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """Return the pairs, what each frees by itself, and what is lost without each; no zeros."""
    at = settled & (population.rest > ZERO)
    counts = _incidence(population.rest[at], population.owner[at], len(population.names))
    some = counts.sign()
    pairs = (counts @ some.T).toarray()
    more = counts.copy()
    more.data = np.where(more.data > 1, more.data, 0)
    np.fill_diagonal(pairs, np.asarray(more.sum(axis=1)).ravel())
    total = np.asarray(counts.sum(axis=0)).ravel()
    own = counts.tocoo()
    frames = -(-own.data // most)
    alone = np.bincount(own.row, own.data - frames, minlength=len(population.names))
    left = total[own.col] - own.data
    lost = own.data - (-(-total[own.col] // most) - -(-left // most))
    losses = np.bincount(own.row, lost, minlength=len(population.names))
    return pairs.astype(np.int64), alone.astype(np.int64), losses.astype(float)


def _incidence(rest: Contents, owner: Contents, size: int) -> sparse.csr_matrix:
    """Return how many pages of each process (rows) have each content (columns)."""
    contents = int(rest.max(initial=0)) + 1
    ones = np.ones(len(rest), np.int64)
    return sparse.csr_matrix((ones, (owner, rest)), shape=(size, contents))
