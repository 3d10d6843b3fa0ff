"""The front of savings against cost: settings that no other setting beats in both."""

from itertools import combinations, starmap

import numpy as np
from numpy.typing import NDArray

from ksm_analysis.analysis.blocks import shared
from ksm_analysis.analysis.settings import Setting
from ksm_analysis.analysis.statistics import (
    CONFIDENCE,
    FEWEST,
    MARGIN,
    Difference,
    Floats,
    difference,
    holm,
    not_less,
    paired,
    within_blocks,
)


def on_front(rivals: list[Setting]) -> list[bool]:
    """Return for each setting whether it is on the front, as far as the runs tell.

    It is not, if the runs show that another setting saves more and takes less CPU time of ksmd. If
    throughput is known, they must also show that the other does not lose 1 % of it. If no setting
    is beaten by another in truth, the chance that any is excluded is at most 5 %.

    Each of the tests of a pair must show its part, so the p of a pair is the greatest of theirs.
    Pairs are adjusted by Holm's method.
    """
    pairs = list(combinations(range(len(rivals)), 2))
    found = list(starmap(_beats, ((rivals[n], rivals[m]) for n, m in pairs)))
    beaten = {
        (m if first else n)
        for (n, m), (first, _), p in zip(pairs, found, holm([p for _, p in found]), strict=True)
        if p < 1 - CONFIDENCE
    }
    return [n not in beaten for n in range(len(rivals))]


def _beats(a: Setting, b: Setting) -> tuple[bool, float]:
    """Return whether it is A that beats B, and the p for it; 1 if neither does."""
    places = np.array(shared([a.blocks, b.blocks]), dtype=int).reshape(-1, 2)
    both = [_both(a, b, name, places) for name in ("savings", "cpu_seconds")]
    if all(in_blocks for *_, in_blocks in both) and np.prod([_side(*each) for each in both]) >= 0:
        return False, 1.0  # without a test, which takes a hundred times as long
    savings, cost = (_compared(*each) for each in both)
    if savings is None or cost is None or savings.p is None or cost.p is None:
        return False, 1.0
    if savings.absolute * cost.absolute >= 0:
        return False, 1.0
    first = savings.absolute < 0
    sides = (b, a, places[:, ::-1]) if first else (a, b, places)
    rates = _both(*sides[:2], "throughputs", sides[2])
    loses_none = 0.0
    if any(value is not None for value in (*a.throughputs, *b.throughputs)):
        p = not_less(*rates[:2], MARGIN, rates[2])
        loses_none = 1.0 if p is None else p
    return first, max(savings.p, cost.p, loses_none)


def _both(
    a: Setting, b: Setting, name: str, places: NDArray[np.int_]
) -> tuple[Floats, Floats, bool]:
    """Return the values of A and B, and whether they are pairs of the same blocks.

    `places` says where the runs of each block are that both have.
    """
    ours, theirs = (np.array(getattr(each, name), dtype=np.float64) for each in (a, b))
    pairs = np.column_stack([ours[places[:, 0]], theirs[places[:, 1]]])
    if (~np.isnan(pairs).any(axis=1)).sum() < FEWEST:
        return ours, theirs, False
    return pairs[:, 0], pairs[:, 1], True


def _side(a: Floats, b: Floats, in_blocks: bool) -> float:
    """Return on which side of A the values of B are within blocks: below zero if they are less."""
    whole = ~(np.isnan(a) | np.isnan(b))
    return float(np.sign(within_blocks(a[whole], b[whole]).mean())) if in_blocks else np.nan


def _compared(a: Floats, b: Floats, in_blocks: bool) -> Difference | None:
    return paired(a, b) if in_blocks else difference(a, b)
