"""`plan FILE` shows the runs of an experiment, their number and their time.

With `--power`, it shows how many repetitions a difference needs.
"""

import argparse
from typing import TYPE_CHECKING, Any

from ksm_analysis.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

HELP = "show the runs of an experiment, their number and their time; starts nothing"
DETAILS = """\
Reads an experiment file, checks every key and value in it, and shows the planned runs. Nothing is
started. docs/experiments.md explains the keys of the file.

With --power, it shows instead how many repetitions it takes to show a difference of so many percent
4 times in 5, with the paired t-test at 5 %. The spread of runs is that of the results in --pilot.

With --confirm, it prints another definition: FILE with so many repetitions of only those settings
that the results in --pilot cannot distinguish from the best, and of `run: 0`. Selected settings are
rather too good in the runs that selected them. Fresh runs are not, so their verdict stands alone.

examples:
  python -m ksm_analysis plan experiments/quick.yml
  python -m ksm_analysis plan experiments/quick.yml --json | jq '.runs[].id'
  python -m ksm_analysis plan experiments/original-1.yml --interval 2    shorter intervals
  python -m ksm_analysis plan experiments/quick.yml --resume             remaining runs
  python -m ksm_analysis plan experiments/quick.yml --power 5% --pilot results/quick
  python -m ksm_analysis plan a.yml --confirm 5 --pilot results/a > b.yml
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("file", metavar="FILE", help="the experiment, a YAML file")
    parser.add_argument("--json", action="store_true", help="for programs: the plan as JSON")
    parser.add_argument(
        "--interval", metavar="S", type=float, help="seconds of an interval, overrides the file"
    )
    parser.add_argument(
        "--intervals", metavar="N", type=int, help="intervals of a run, overrides the file"
    )
    parser.add_argument(
        "--results",
        metavar="DIR",
        default="results",
        help="directory of results, for --resume (default: results)",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="only runs that are missing or failed in DIR/<experiment>",
    )
    parser.add_argument(
        "--power",
        metavar="PERCENT",
        type=_percent,
        help="show how many repetitions a difference of so many percent needs; requires --pilot",
    )
    parser.add_argument(
        "--pilot",
        metavar="DIR",
        help="for --power: results of a similar experiment, to estimate the spread of runs; for "
        "--confirm: the results of FILE",
    )
    parser.add_argument(
        "--confirm",
        metavar="N",
        type=_repetitions,
        help="print a definition with N fresh repetitions of the settings that may be best; "
        "requires --pilot",
    )


def _repetitions(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1000:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1 to 1000")
    return int(text)


def _percent(text: str) -> float:
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        value = -1
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a percentage above 0, such as 5%")
    return value


def run(arguments: argparse.Namespace) -> int:
    """Print the plan, how many repetitions a difference needs, or a definition that confirms."""
    if arguments.confirm is not None:
        return _confirm(arguments)
    if arguments.power is not None or arguments.pilot is not None:
        return _power(arguments)
    return show(arguments)


def show(arguments: argparse.Namespace) -> int:
    """Print the plan."""
    import json

    everything, planned = plans(arguments)
    if arguments.json:
        print(json.dumps(planned, indent=2))
    else:
        _show(planned, of=len(everything["runs"]) if arguments.resume else None)
    return 0


def plans(arguments: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the whole plan, and the plan of the runs to do now (with --resume, what is left)."""
    from pathlib import Path

    from ksm_analysis.campaign import resume
    from ksm_analysis.definition import experiment

    file, options = arguments.file, (arguments.interval, arguments.intervals)
    everything = experiment.plan(experiment.parse(read(Path(file)), file, *options), file)
    if any(part["name"] == "population" for run in everything["runs"] for part in run["parts"]):
        raise InputError(
            f"{file}: population: guests of a trace are only simulated. Use `simulate {file}`"
        )
    if not arguments.resume:
        return everything, everything
    records = resume.records(Path(arguments.results, everything["experiment"]))
    left = resume.pending(everything, resume.finished(records))
    return everything, left | {"earlier": resume.earlier(everything, records)}


def read(path: "Path") -> str:
    """Return the text of an experiment. Raises InputError if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: cannot be read: not UTF-8 text") from None


def _power(arguments: argparse.Namespace) -> int:
    """Print how many repetitions a difference needs."""
    import dataclasses
    import json
    from pathlib import Path

    if arguments.power is None or arguments.pilot is None:
        raise InputError("--power and --pilot belong together: give both")

    from ksm_analysis.analysis import power
    from ksm_analysis.analysis.words import guest_word
    from ksm_analysis.definition import experiment
    from ksm_analysis.metrics import measurement
    from ksm_analysis.results import reader

    file, options = arguments.file, (arguments.interval, arguments.intervals)
    asked = experiment.parse(read(Path(file)), file, *options).repetitions
    pilot = [measurement.measure(run) for run in reader.read_results(Path(arguments.pilot)).usable]
    found = power.needs(pilot, arguments.power / 100)
    if arguments.json:
        document = {
            "difference_percent": arguments.power,
            "repetitions": max(each.repetitions for each in found),
            "repetitions_of_file": asked,
            "needs": [dataclasses.asdict(each) for each in found],
        }
        print(json.dumps(document, indent=2))
        return 0
    print(f"To show a difference of {arguments.power:g} % 4 times in 5 (paired t-test at 5 %):")
    for each in found:
        scenario = ", ".join(filter(None, (guest_word(each.guests), each.workload)))
        source = "" if each.in_blocks else ", from single settings: there are no complete blocks"
        print(
            f"  {each.quantity}, {scenario}: {each.repetitions:,} repetitions (in the pilot, ratios"
            f" of two settings scatter by {each.spread:.2%}{source})"
        )
    print(f"{file} has {asked}.")
    return 0


def _confirm(arguments: argparse.Namespace) -> int:
    """Print the definition of an experiment that confirms the best settings."""
    from pathlib import Path

    import yaml

    if arguments.pilot is None or arguments.power is not None:
        raise InputError("--confirm needs --pilot, the results of the file, and not --power")
    for name in ("json", "interval", "intervals", "resume"):
        if getattr(arguments, name):
            raise InputError(f"--{name}: not with --confirm, which prints a definition")

    from ksm_analysis.analysis import confirmation
    from ksm_analysis.definition import experiment
    from ksm_analysis.metrics import measurement
    from ksm_analysis.results import reader

    text = read(Path(arguments.file))
    experiment.parse(text, arguments.file)
    measured = [
        measurement.measure(run) for run in reader.read_results(Path(arguments.pilot)).usable
    ]
    found = confirmation.definition(yaml.safe_load(text), measured, arguments.confirm)
    print(yaml.safe_dump(found, sort_keys=False, allow_unicode=True, width=100), end="")
    return 0


def _show(planned: dict[str, Any], of: int | None) -> None:
    """Print a table. `of` is the number of all runs, if the plan has only the remaining ones."""
    import math

    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # Text and not str for text from the file: rich would read [these] as markup
    table = Table(box=box.SIMPLE_HEAD, title=Text(planned["experiment"]), title_justify="left")
    for heading in ("", "run", "guests", "workload", "knobs", "seconds"):
        table.add_column(
            heading, justify="right" if heading in {"", "guests", "seconds"} else "left"
        )
    for each in planned["runs"]:
        factors = each["factors"]
        cells = (each["index"], each["id"], factors["guests"], factors["workload"])
        row = (*cells, factors["knobs"], round(each["seconds"]))
        table.add_row(*(Text(str(cell)) for cell in row))
    console = Console()
    if planned["note"]:
        console.print(Text(planned["note"]), "")
    if planned["runs"]:
        console.print(table)
        for part in planned["runs"][0]["parts"]:
            if part["name"] == "census":
                console.print(_census(part["options"]))
        for note, names in _notes(planned["runs"]).items():
            console.print(Text(f"Note: {note} ({_some(names)})."))
    minutes = math.ceil(planned["seconds"] / 60)
    console.print(f"{_count(len(planned['runs']), of)}, about {minutes} min in all")


def _notes(runs: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Return what there is to know of some runs before they are started, and their names."""
    found: dict[str, list[str]] = {}
    for each in runs:
        for note in each.get("notes", []):
            found.setdefault(note, []).append(each["id"])
    return found


def _some(names: list[str]) -> str:
    more = f", and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _census(asked: dict[str, Any]) -> str:
    """Describe the moments of the census, which are the same in all runs of an experiment."""
    start = "at the start" if asked["start"] else ""
    every = f"every {asked['every']:g} s" if asked["every"] else ""
    boundary = "whenever a scan has ended" if asked["at_scan_boundary"] else ""
    moments = filter(None, (start, every, boundary, "at the end" if asked["end"] else ""))
    pause = "; the guests are stopped while they are read" if asked["pause"] else ""
    trace = "; with a trace of the contents" if asked.get("trace") else ""
    return f"Census of all mergeable memory in each run: {', '.join(moments)}{pause}{trace}"


def _count(runs: int, of: int | None) -> str:
    if of is not None:
        return f"{runs} of {_count(of, None)} left"
    return "1 run" if runs == 1 else f"{runs} runs"
