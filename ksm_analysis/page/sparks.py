"""Small pictures beside numbers, as SVG within the page: no script, and colours of the theme.

A spark repeats what the words beside it say, so it is hidden from readers that speak the page.
"""

from collections.abc import Sequence

import numpy as np

from ksm_analysis.analysis.statistics import Estimate
from ksm_analysis.metrics.times import Floats

WIDTH, HEIGHT, POINTS = 200, 32, 48
Curve = tuple[Floats, Floats]  # x and y of one run


def curve(runs: Sequence[Curve], mark: float | None = None) -> str:
    """Draw the mean of runs, and the band of all runs; empty without values.

    `mark`: the x at which the mean gets a dot.
    """
    known = [(x[there], y[there]) for x, y in runs if (there := ~np.isnan(y)).sum() > 1]
    last = max((float(x[-1]) for x, _ in known), default=0.0)
    if last <= 0:
        return ""
    at = np.linspace(0, last, POINTS)
    every = np.array([np.interp(at, x, y, right=np.nan) for x, y in known])
    low, mean, high = np.nanmin(every, 0), np.nanmean(every, 0), np.nanmax(every, 0)
    bottom, top = min(0.0, float(low.min())), max(0.0, float(high.max()))

    def place(x: Floats, y: Floats) -> list[str]:
        down = 3 + (HEIGHT - 6) * (top - y) / ((top - bottom) or 1)
        return [f"{a:.0f},{b:.1f}" for a, b in zip(WIDTH * x / last, down, strict=True)]

    around = place(at, high) + place(at, low)[::-1]
    band = f'<polygon points="{" ".join(around)}"/>' if len(known) > 1 else ""
    line = f'<polyline points="{" ".join(place(at, mean))}"/>'
    if mark is None or not 0 <= mark <= last:
        return _svg(band + line)
    x = np.array([mark])
    return _svg(f'{band}{line}<path class="dot" d="M{place(x, np.interp(x, at, mean))[0]}v0"/>')


def share(percent: float) -> str:
    """Draw how much of a whole something is; empty if it is not between nothing and all of it."""
    if not 0 <= percent <= 100:
        return ""
    bar = '<rect class="{}" y="12" width="{:.1f}" height="10" rx="2"/>'
    return _svg(bar.format("whole", WIDTH) + bar.format("part", WIDTH * percent / 100))


def interval(value: Estimate, nothing: float) -> str:
    """Draw an estimate with its interval beside zero, and the band that counts as nothing."""
    low, high = (value.mean if each is None else each for each in (value.low, value.high))
    reach = 1.1 * max(abs(low), abs(high), nothing) or 1.0

    def place(x: float) -> str:
        return f"{WIDTH * (0.5 + x / reach / 2):.1f}"

    wide = f"{WIDTH * nothing / reach:.1f}"
    return _svg(
        f'<rect class="whole" x="{place(-nothing)}" y="4" width="{wide}" height="24"/>'
        f'<path class="zero" d="M{place(0)},0V{HEIGHT}"/>'
        f'<path d="M{place(low)},16H{place(high)}"/>'
        f'<path class="dot" d="M{place(value.mean)},16h0"/>'
    )


def _svg(inner: str) -> str:
    return (
        f'<svg class="spark" viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" '
        f'aria-hidden="true">{inner}</svg>'
    )
