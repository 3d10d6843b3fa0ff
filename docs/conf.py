"""The documents as a site: `make site`.

The documents are Markdown, and a Git host shows them as they are. Sphinx reads them where they are,
so links between docs/ and roles/ hold in both.
"""

import contextlib
import io
import os
import re
from typing import Any
from urllib.parse import urlsplit

from sphinx.application import Sphinx
from sphinx.util import logging

from ksm_analysis.__main__ import COMMANDS, main

project = html_title = "KSM testbed"
root_doc = "README"
include_patterns = [f"{place}*.md" for place in ("", "docs/", "docs/tutorial/", "roles/*/")]
# collections has a link to this directory.
exclude_patterns = [".*", "build", "collections", "results", "tests"]
extensions = ["myst_parser"]
myst_heading_anchors = 4  # with the names that Git hosts give them

html_theme = "furo"
html_copy_source = html_show_copyright = html_show_sphinx = False
html_static_path = ["site.css"]
html_css_files = ["site.css"]

# The entries of their lists are the navigation, too.
LISTS = [
    "README",
    "docs/tutorial",
    "docs/how-to",
    "docs/reference",
    "docs/roles",
    "docs/explanation",
]
ENTRY = re.compile(r"^- \**\[[^]]+\]\(([\w./-]+\.md)\)", re.MULTILINE)
FILE_NAME = re.compile(r"\[[\w./-]+\.md\]\(")
ADDRESS = re.compile(r"\]\((\w+:[^)\s]*)")


def read(app: Sphinx, name: str, source: list[str]) -> None:
    """Add what the site has and a Git host has not, and warn of addresses that cannot be."""
    text = source[0]
    for address in ADDRESS.findall(text):
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or "." not in (parts.hostname or ""):
            logging.getLogger(__name__).warning("%s is no address", address, location=name)
    if name in LISTS:
        entries = "\n".join(ENTRY.findall(text))
        text += f"\n\n```{{toctree}}\n:hidden:\n{entries}\n```\n"
    if name == "docs/commands":
        text += "".join(f"\n## {command}\n\n```text\n{usage(command)}```\n" for command in COMMANDS)
    # Links that are named by a file get the title of what they lead to.
    source[0] = FILE_NAME.sub("[](", text)


def usage(command: str) -> str:
    """Return what `python -m ksm_analysis COMMAND --help` prints."""
    os.environ["COLUMNS"] = "90"
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.suppress(SystemExit):
        main([command, "--help"])
    return printed.getvalue()


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect `read`, which keeps nothing between documents."""
    app.connect("source-read", read)
    return {"parallel_read_safe": True}
