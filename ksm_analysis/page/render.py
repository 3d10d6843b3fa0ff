"""Rendering of the templates into one page that needs only a browser."""

import os
from pathlib import Path

import jinja2
from plotly.offline import get_plotlyjs

from ksm_analysis.page.data import data_of
from ksm_analysis.results.run import Results


def write(results: Results, path: Path) -> None:
    """Write the page. If this fails, no incomplete file is left."""
    text = page(results)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def page(results: Results) -> str:
    """Return the page as text."""
    loader = jinja2.PackageLoader("ksm_analysis.page")
    environment = jinja2.Environment(
        loader=loader,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    css, javascript = (
        loader.get_source(environment, f"report.{kind}")[0] for kind in ("css", "js")
    )
    return environment.get_template("report.html.j2").render(
        data_of(results), css=css, javascript=javascript, plotly=get_plotlyjs()
    )
