"""`assess` says what KSM would do on a host, from what is in memory there; it changes nothing.

With --json, standard output is one object: `hosts` has the assessment of each host that was read
(docs/assess.md), and `errors` why others could not be.
"""

import argparse
from typing import TYPE_CHECKING, Any

from ksm_analysis.commands import check_output, write_page
from ksm_analysis.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rich.console import Console

HELP = "forecast what KSM would free on a host, how soon and at which cost; changes nothing"
DETAILS = """\
Reads the memory of all guests and processes of a host that offer it to KSM, at four moments, and
says what KSM would free if it ran: by guest, by pair of guests, and how soon and for how much CPU
time with each of up to 15 settings and policies; what is at risk, which guests to exclude, what to
set.

Nothing on the host is changed or written, no service is started, and no guest is paused. For the
time of the assessment, one program runs there, of low priority and with ceilings for memory and
CPU time. Reading marks pages as accessed. Needs root with CAP_SYS_ADMIN. Contents do not leave the
host; hashes do, with a key that is nowhere kept. docs/assess.md says how it works, and how well
forecasts were met.
"""
EXAMPLES = """\
examples:
  python -m ksm_analysis assess                           five minutes, on this machine
  python -m ksm_analysis assess --inventory inventory/mine.yml --host lab --minutes 30
  python -m ksm_analysis assess --as-if-mergeable         also memory that is not offered today
  python -m ksm_analysis assess --guest web1 --guest web2 --html assessment.html
  python -m ksm_analysis assess --results build/assess    a page of each host, and what was read
  python -m ksm_analysis assess --from build/assess/lab.assess --json

exit status:
  0  all hosts were assessed
  2  wrong arguments, or a host could not be read
  130  interrupted
"""
LEAST, MOST = 0.1, 1440.0
# How hosts are asked: options with what they are by default
ASKED: dict[str, Any] = {
    "host": None,
    "inventory": None,
    "minutes": 5.0,
    "guest": [],
    "as_if_mergeable": False,
    "memory": 1024.0,
    "cpu": 50.0,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    option = parser.add_argument
    option("--host", metavar="H", help="only these hosts of ksm_hosts: an Ansible pattern")
    option("--inventory", metavar="I", help="default: inventory/localhost.yml of the testbed")
    option(
        "--minutes",
        metavar="M",
        type=_number(LEAST, MOST),
        default=5.0,
        help="from the first to the last reading of memory (default: 5)",
    )
    option("--guest", metavar="NAME", action="append", default=[], help="only this one; repeatable")
    option("--as-if-mergeable", action="store_true", help="also memory that is not offered to KSM")
    option(
        "--memory",
        metavar="MIB",
        type=_number(1, 2**20),
        default=1024.0,
        help="ceiling of memory for reading (default: 1024); 56 bytes for each page",
    )
    option(
        "--cpu",
        metavar="PERCENT",
        type=_number(1, 200),
        default=50.0,
        help="ceiling of CPU time for reading, of one CPU (default: 50)",
    )
    option("--from", metavar="FILE", dest="source", help="assess what --results has kept")
    option("--html", metavar="FILE", help="write one page; with one host")
    option("--results", metavar="DIR", help="write a page for each host, and keep what was read")
    option("--json", action="store_true", help="for programs: all of it")


def _number(low: float, high: float) -> Any:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} is not a number from {low:g} to {high:g}")
        return value

    return parse


def run(arguments: argparse.Namespace) -> int:
    """Read the hosts, and print what KSM would do. Returns the exit status."""
    import tempfile
    from pathlib import Path

    check_output("--html", arguments.html)
    for name in ("host", "inventory", "source", "results"):
        if getattr(arguments, name) == "":
            raise InputError(f"--{name}: expected a name, not an empty text")
    if arguments.source and (ignored := _of_hosts(arguments)):
        raise InputError(f"--from: not with {', '.join(ignored)}, since no host is asked")
    if arguments.results:
        _writable(Path(arguments.results))
    if arguments.source:
        return _tell({Path(arguments.source).stem: Path(arguments.source)}, {}, arguments)
    with tempfile.TemporaryDirectory(prefix="ksm-assess-") as private:
        from ksm_analysis.campaign import reading

        if arguments.html and len(reading.names(arguments.host, arguments.inventory)) > 1:
            raise InputError("--html: one page is of one host; --results DIR writes one for each")
        dest = Path(arguments.results or private).absolute()
        try:
            found, errors = reading.ask(
                "assess", "dest", _variables(arguments, dest), arguments.host, arguments.inventory
            )
        except KeyboardInterrupt:
            return 130
        if errors is None:
            return 130
        files = {name: Path(path) for name, path in found.items() if path}
        return _tell(files, errors, arguments)


def _of_hosts(arguments: argparse.Namespace) -> list[str]:
    """Return the options that were given and say how hosts are asked."""
    given = vars(arguments)
    return [f"--{name.replace('_', '-')}" for name, value in ASKED.items() if given[name] != value]


def _writable(directory: "Path") -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--results {directory}: {error.strerror}") from None


def _variables(arguments: argparse.Namespace, dest: "Path") -> dict[str, Any]:
    return {
        "assess_dest": str(dest),
        "assess_seconds": 60 * arguments.minutes,
        "assess_guests": arguments.guest,
        "assess_as_if_mergeable": arguments.as_if_mergeable,
        "assess_memory_mib": arguments.memory,
        "assess_cpu_percent": arguments.cpu,
    }


def _tell(files: dict[str, "Path"], errors: dict[str, str], arguments: argparse.Namespace) -> int:
    import json
    import sys

    from ksm_analysis.assess import assessment, page, seen

    found = {}
    for name, path in files.items():
        try:
            found[name] = assessment.assess(seen.load(path))
        except InputError as error:
            errors = {**errors, name: str(error)}
    for name, each in found.items():
        for path in _pages(name, arguments):
            write_page(page.page(name, each), path)
    if arguments.json:
        print(json.dumps({"hosts": found, "errors": errors}, indent=2, allow_nan=False))
    else:
        for name, each in found.items():
            show(name, each)
    for name, why in errors.items():
        print(f"{name}: cannot be assessed: {why}", file=sys.stderr)
    return 2 if errors else 0


def _pages(name: str, arguments: argparse.Namespace) -> "Iterator[Path]":
    """Yield where the page of a host is to be written."""
    from pathlib import Path

    if arguments.html:
        yield Path(arguments.html)
    if arguments.results:
        yield Path(arguments.results) / f"{name}.html"


def show(name: str, found: dict[str, Any]) -> None:
    """Print the assessment of a host."""
    from rich.console import Console
    from rich.text import Text

    from ksm_analysis.assess import words
    from ksm_analysis.doctor.words import printable

    console = Console(highlight=False)

    def line(text: str, style: str = "") -> None:
        console.print(Text(printable(text), style=style))

    line(f"{name}  Linux {found['kernel']}", "bold")
    line(words.verdict(found), "bold")
    for text in (words.parts(found), words.uncertain(), words.how(found)):
        line(text)
    _table(console, words.SETTING, [words.setting(row) for row in found["settings"]])
    _table(console, words.GUEST, [words.guest(each) for each in found["guests"]])
    for guest, how in words.to_exclude(found):
        line(f"Exclude {guest}: it frees too little for its scans. {how}")
    for pair in found["pairs"]:
        common = f"{words.size(pair['bytes'])} in common, of both together"
        line(f"{' and '.join(pair['guests'])} have {common}")
    for best in found["best"]:
        line(f"What to set, {best['title']}: {best['name']}", "bold")
        for text in best["lines"]:
            line(f"    {text}")
    for text in (words.risk(found), words.tenants(found), *found["read"]["complaints"]):
        line(text)
    wrong = [each for each in found["findings"] if each["severity"] != "note"]
    for each in wrong:
        line(f"{each['severity']} ({each['finding']}): {each['what']}", "yellow")
    console.print()


def _table(console: "Console", heads: tuple[str, ...], rows: list[list[str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    from ksm_analysis.doctor.words import printable

    table = Table(box=None, pad_edge=False)
    for n, head in enumerate(heads):
        table.add_column(head, justify="right" if n else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    console.print(table)
