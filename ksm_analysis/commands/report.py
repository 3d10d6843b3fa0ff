"""`report DIR`: the page of figures."""

import argparse
from pathlib import Path

from ksm_analysis.errors import InputError

HELP = "make one page with all figures and tables, which works without a network"
DETAILS = """\
Reads every run of an experiment's results and writes one HTML file: figures, tables, where the
numbers come from, and warnings about runs that are not whole. Prints the file's path.

examples:
  python -m ksm_analysis report results/quick                  writes results/quick/report.html
  python -m ksm_analysis report results/quick -o /tmp/ksm.html
"""


def add_to(commands) -> None:
    """Add this command to the command line."""
    parser = commands.add_parser(
        "report",
        help=HELP,
        description=DETAILS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("directory", metavar="DIR", type=Path, help="results of an experiment")
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=Path, help="where to (default: DIR/report.html)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the page."""
    from ksm_analysis import report, runs

    results = runs.read_results(arguments.directory)
    path = arguments.output or arguments.directory / "report.html"
    try:
        report.write(results, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None
    print(path)
    return 0
