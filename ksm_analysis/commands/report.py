"""`report DIR` writes the page of figures."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ksm_analysis.commands import RESULTS, add_scheduler
from ksm_analysis.errors import InputError
from ksm_analysis.results import location

if TYPE_CHECKING:
    from ksm_analysis.results.run import Results

HELP = "write one page with all figures and tables, which works without a network"
DETAILS = """\
Reads all runs of an experiment and writes one HTML file: savings and costs of each setting,
figures, tables, provenance and warnings. Prints the path of the file. With --export it writes the
figures as pictures instead, one file per panel, drawn by Chromium (apt-get install chromium), and
prints their paths.

examples:
  python -m ksm_analysis report results/quick                  writes results/quick/report.html
  python -m ksm_analysis report results/quick -o /tmp/ksm.html
  python -m ksm_analysis report results/quick --redact -o for-others.html
  python -m ksm_analysis report --export pdf results/quick     writes results/quick/figures/*.pdf
  python -m ksm_analysis report results/original-* -o originals.html
                          several experiments together: their names distinguish equal settings
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    add = parser.add_argument
    add("directories", metavar="DIR", type=location.place, nargs="+", help=RESULTS)
    add(
        "-o",
        "--output",
        metavar="PATH",
        type=Path,
        help="output (default: DIR/report.html; with --export the directory DIR/figures). Required "
        "for several DIR",
    )
    add_scheduler(parser)
    add("--export", choices=("png", "svg", "pdf"), help="write pictures of the figures instead")
    add(
        "--redact",
        action="store_true",
        help="remove names of hosts and command lines, to share the page",
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the page, or the pictures."""
    from ksm_analysis.analysis import reduction
    from ksm_analysis.page import redact

    if len(arguments.directories) > 1 and not arguments.output:
        raise InputError("a report of several directories needs an output path: use -o")
    elsewhere = [each for each in arguments.directories if isinstance(each, str)]
    if elsewhere and not arguments.output:
        raise InputError(f"{location.shown(elsewhere[0])}: nothing is written there: use -o")
    arguments.directories = location.locals_of(arguments.directories)
    results = reduction.read_results(arguments.directories, arguments.scheduler)
    if arguments.redact:
        results = redact.redact(results)
    paths = (_pictures if arguments.export else _page)(results, arguments)
    for path in paths:
        print(path)
    return 0


def _page(results: "Results", arguments: argparse.Namespace) -> list[Path]:
    from ksm_analysis.page import render

    path = arguments.output or arguments.directories[0] / "report.html"
    try:
        render.write(results, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None
    return [path]


def _pictures(results: "Results", arguments: argparse.Namespace) -> list[Path]:
    import sys

    from ksm_analysis.metrics import measurement
    from ksm_analysis.page import export
    from ksm_analysis.page.sections import sections_of

    directory = arguments.output or arguments.directories[0] / "figures"
    measured = [measurement.measure(run) for run in results.usable]
    if not measured:
        raise InputError(f"{arguments.directories[0]}: no usable run: there are no figures")
    figures = sections_of(measured)
    print(f"drawing {export.count(figures)} pictures, each takes a moment ...", file=sys.stderr)
    try:
        return export.write(figures, directory, arguments.export)
    except OSError as error:
        raise InputError(f"{directory}: cannot be written: {error.strerror}") from None
