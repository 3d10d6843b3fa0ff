"""One file per command, with HELP, DETAILS, `add_arguments` and `run`.

Heavy imports are delayed until `run`.
"""

import argparse


def add_scheduler(parser: argparse.ArgumentParser) -> None:
    """Add the option of commands that read results of any size."""
    parser.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        default="",
        help="let a Dask cluster read large results, such as tcp://127.0.0.1:8786 (default: the "
        "processors of this machine). Its workers must see the results under the same path",
    )
