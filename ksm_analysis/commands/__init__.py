"""One file per command, with HELP, DETAILS, `add_arguments` and `run`.

Heavy imports are delayed until `run`.
"""

import argparse
import os
from pathlib import Path

from ksm_analysis.errors import InputError

RESULTS = "results of an experiment: a directory, or an address such as s3://bucket/results/quick"


def add_scheduler(
    parser: argparse.ArgumentParser,
    does: str = "read large results",
    must: str = "see the results under the same path",
) -> None:
    """Add the option of commands whose work a cluster can do."""
    parser.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        default="",
        help=f"let a Dask cluster {does}, such as tcp://127.0.0.1:8786 (default: the processors "
        f"of this machine). Its workers must {must}",
    )


def add_html(parser: argparse.ArgumentParser) -> None:
    """Add the option of commands that can also write a page."""
    parser.add_argument(
        "--html", metavar="FILE", help="also write one page, which works without a network"
    )


def check_output(option: str, file: str | None) -> None:
    """Raise InputError if a file cannot be written there, before anything is read. None: no file.

    A file is written beside its name, then renamed, so its directory must be writable.
    """
    if file is None:
        return
    if not file:
        raise InputError(f"{option}: expected a path, not an empty text")
    path = Path(file).absolute()
    if path.is_dir():
        raise InputError(f"{option} {file}: this is a directory; give a file in it")
    if not path.parent.is_dir():
        raise InputError(f"{option} {file}: there is no directory {path.parent}")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputError(f"{option} {file}: {path.parent} cannot be written")


def write_page(text: str, file: str | Path) -> None:
    """Write a page, and say so. Raises InputError."""
    import sys

    from ksm_analysis.page.render import write_text

    try:
        write_text(text, Path(file))
    except OSError as error:
        raise InputError(f"{file}: {error.strerror or error}") from None
    print(f"wrote {file}", file=sys.stderr)
