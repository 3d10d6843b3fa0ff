"""`plan FILE`: the runs of an experiment, their count and their time."""

import argparse
import math
from pathlib import Path

from ksm_analysis.errors import InputError

HELP = "show the runs of an experiment, their count and their time; starts nothing"
DETAILS = """\
Reads an experiment file, checks every key and value in it, and shows the runs it stands for.
Nothing is started. docs/experiments.md explains the keys of the file.

examples:
  python -m ksm_analysis plan experiments/quick.yml
  python -m ksm_analysis plan experiments/quick.yml --json | jq '.runs[].id'
"""


def add_to(commands) -> None:
    """Add this command to the command line."""
    parser = commands.add_parser(
        "plan",
        help=HELP,
        description=DETAILS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", metavar="FILE", help="the experiment, a YAML file")
    parser.add_argument("--json", action="store_true", help="for programs: the plan as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the plan."""
    import json

    from ksm_analysis import experiment

    text = _read(arguments.file)
    planned = experiment.plan(experiment.parse(text, arguments.file), arguments.file)
    if arguments.json:
        print(json.dumps(planned, indent=2))
    else:
        _show(planned)
    return 0


def _read(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{file}: cannot be read: not UTF-8 text") from None


def _show(planned: dict) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # Text, not str, wherever the file's own words are shown: rich would read [these] as markup
    table = Table(box=box.SIMPLE_HEAD, title=Text(planned["experiment"]), title_justify="left")
    for heading in ("", "run", "guests", "workload", "knobs", "seconds"):
        table.add_column(heading, justify="right" if heading in {"", "guests", "seconds"} else None)
    for each in planned["runs"]:
        factors = each["factors"]
        cells = (each["index"], each["id"], factors["guests"], factors["workload"])
        row = (*cells, factors["knobs"], round(each["seconds"]))
        table.add_row(*(Text(str(cell)) for cell in row))
    console = Console()
    if planned["note"]:
        console.print(Text(planned["note"]), "")
    console.print(table)
    runs = "1 run" if len(planned["runs"]) == 1 else f"{len(planned['runs'])} runs"
    console.print(f"{runs}, about {math.ceil(planned['seconds'] / 60)} min in all")
