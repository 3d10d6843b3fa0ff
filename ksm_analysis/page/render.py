"""Rendering of the templates into one page that needs only a browser."""

import os
from pathlib import Path
from typing import Any

import jinja2
from plotly.offline import get_plotlyjs

from ksm_analysis.page.data import data_of
from ksm_analysis.results.run import Results


def write(results: Results, path: Path) -> None:
    """Write the page. If this fails, no incomplete file is left."""
    write_text(page(results), path)


def write_text(text: str, path: Path) -> None:
    """Write a page. If this fails, no incomplete file is left."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def page(results: Results) -> str:
    """Return the page as text."""
    return render("report.html.j2", data_with_scripts(results))


def data_with_scripts(results: Results) -> dict[str, Any]:
    """Return all that the template of the report shows and does."""
    return {**data_of(results), "javascript": source("report.js"), "plotly": get_plotlyjs()}


def render(template: str, data: dict[str, Any]) -> str:
    """Render a template, which gets the style of all pages as `css`."""
    css = source("report.css")
    return environment().get_template(template).render(data, css=css)


def environment() -> jinja2.Environment:
    """Return where templates are."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("ksm_analysis.page"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def source(name: str) -> str:
    """Return the text of a file beside the templates."""
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")
