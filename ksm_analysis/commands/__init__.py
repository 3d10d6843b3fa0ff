"""One file per command, with HELP, DETAILS, `add_arguments` and `run`.

Heavy imports are delayed until `run`.
"""

import argparse


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
