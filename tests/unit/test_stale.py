"""Merged pages that were written to, until ksmd looks at them again."""

import numpy as np
import pytest

from ksm_analysis.metrics.stale import stale_pages

PAGES = 5000


@pytest.mark.parametrize("visits", [20, 300, 4000])
@pytest.mark.parametrize("rests", [False, True])
def test_it_is_what_pages_that_are_written_at_random_show(visits, rests):
    draw = np.random.default_rng(1)
    merged, stale = np.ones(PAGES, dtype=bool), np.zeros(PAGES, dtype=bool)
    seen, broken, counted = [0.0], [0.0], [0]
    for step in range(200):
        written = draw.integers(0, PAGES, 30)
        hit = np.unique(written[merged[written] & ~stale[written]])
        stale[hit] = True
        there = visits if not rests or step % 60 < 20 else 0
        visited = (int(seen[-1]) + np.arange(there)) % PAGES
        merged[visited], stale[visited] = ~stale[visited], False
        seen.append(seen[-1] + there)
        broken.append(broken[-1] + len(hit))
        counted.append(stale.sum())
    found = stale_pages(np.array(seen), np.array(broken), np.full(201, float(PAGES)))
    assert found == pytest.approx(np.array(counted), abs=0.02 * PAGES)


def test_without_visits_all_that_broke_is_stale():
    assert [*stale_pages(np.zeros(3), np.array([7.0, 9.0, 12.0]), np.full(3, 10.0))] == [0, 2, 5]


def test_what_was_visited_once_more_is_not():
    visits, broken = np.array([0.0, 0, 10, 20]), np.array([0.0, 4, 4, 4])
    assert [*stale_pages(visits, broken, np.full(4, 10.0))] == [0, 4, 0, 0]


def test_without_pages_nothing_is_stale():
    assert [*stale_pages(np.array([0.0, 5]), np.array([2.0, 2]), np.zeros(2))] == [0, 0]
