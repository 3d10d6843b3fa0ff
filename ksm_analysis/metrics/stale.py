"""Merged pages that were written to and that KSM still counts as saved.

A write breaks the sharing of a merged page at once (cow_ksm), but pages_sharing falls only when
ksmd visits the page again. Under writes, above all while a policy rests, it is too high.
"""

import numpy as np

from ksm_analysis.metrics.times import Floats


def stale_pages(visits: Floats, broken: Floats, pages: Floats) -> Floats:
    """Return how many pages are counted as saved at each sample and are not, since the first one.

    `visits` has all visits of ksmd to pages so far, `broken` all merged pages that writes broke so
    far, and `pages` how many are mergeable at that sample. Writes are taken to hit any of these
    with the same chance. ksmd visits them in turn, so the last visits to them are evenly spread
    over its last `pages` visits; what broke later is stale.
    """
    first = np.maximum(visits - pages, visits[0])  # pages that were not yet visited: at the start
    seen = _area(visits, broken, visits) - _area(visits, broken, first)
    seen += (pages - (visits - first)) * broken[0]
    return np.asarray(broken - np.divide(seen, pages, out=broken.copy(), where=pages > 0))


def _area(x: Floats, y: Floats, upto: Floats) -> Floats:
    """Return the area under y(x), which is linear between its points, from x[0] to each `upto`."""
    whole = np.concatenate([[0.0], np.cumsum((y[1:] + y[:-1]) / 2 * np.diff(x))])
    last = np.clip(np.searchsorted(x, upto, side="right") - 1, 0, len(x) - 1)
    beyond = upto - x[last]
    return np.asarray(whole[last] + beyond * (y[last] + np.interp(upto, x, y)) / 2)
