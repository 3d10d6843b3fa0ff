"""Export of figures to files for papers; Chromium draws them."""

import math
import re
from collections.abc import Iterator
from pathlib import Path

import kaleido
from kaleido.errors import BrowserFailedError, ChromeNotFoundError
from plotly import graph_objects as go

from ksm_analysis.errors import InputError
from ksm_analysis.page.sections import Section

FORMATS = ("png", "svg", "pdf")
WIDTH = 900  # pixels
INK, GRID = "#1b1f23", "#e4e8ec"


def count(sections: list[Section]) -> int:
    """Count the files that `write` makes."""
    return sum(len(figure.panels) for section in sections for figure in section.figures)


def write(sections: list[Section], directory: Path, form: str) -> list[Path]:
    """Write each panel of each figure to a file, such as pages_sharing-by-interval.png.

    Panels of one figure are numbered. `form` is one of FORMATS. Return the paths of the files.
    Raise InputError if there is no Chromium or it does not start, and OSError if a file cannot be
    written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    written = [(directory / f"{name}.{form}", figure) for name, figure in _named(sections)]
    specs = [
        {
            "fig": figure.to_plotly_json(),
            "path": path,
            "opts": {
                "format": form,
                "width": WIDTH,
                "height": figure.layout.height,
                "scale": 2 if form == "png" else 1,
            },
        }
        for path, figure in written
    ]
    try:
        # Kaleido would load MathJax over the network, and no figure has a formula
        kaleido.write_fig_from_object_sync(specs, kopts={"mathjax": False})
    except (ChromeNotFoundError, BrowserFailedError) as error:
        raise InputError(
            f"no browser to draw with ({type(error).__name__}): apt-get install chromium"
        ) from None
    return [path for path, _ in written]


def _named(sections: list[Section]) -> Iterator[tuple[str, go.Figure]]:
    for section in sections:
        for figure in section.figures:
            for number, (title, panel) in enumerate(figure.panels, start=1):
                suffix = f"-{number}" if len(figure.panels) > 1 else ""
                yield f"{figure.id}{suffix}", on_paper(panel, title)


def on_paper(figure: go.Figure, title: str) -> go.Figure:
    """Copy a figure with colours for paper, space for its legend, and its title if it has one."""
    copy = go.Figure(figure)
    copy.update_layout(
        paper_bgcolor="white",
        plot_bgcolor="white",
        font_color=INK,
        height=310 + _legend_height(figure),
    )
    if title:
        copy.update_layout(title={"text": title.replace("<", "&lt;"), "font_size": 13})
        copy.update_layout(margin_t=60)
    copy.update_xaxes(gridcolor=GRID, linecolor=INK)
    copy.update_yaxes(gridcolor=GRID, linecolor=INK)
    return copy


def _legend_height(figure: go.Figure) -> int:
    """Estimate the height of the legend from its names, in pixels, as the page does."""
    shown = [t for t in figure.data if t.showlegend is not False and t.visible is not False]
    lines = [re.split("<br>", trace.name) for trace in shown]
    widest = max((len(line) for name in lines for line in name), default=0) * 6.6 + 64
    rows = math.ceil(len(shown) / max(1, math.floor((WIDTH - 24) / widest)))
    return (5 + 15 * max(map(len, lines), default=1)) * rows
