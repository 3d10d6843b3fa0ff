"""`doctor` explains why a host, or a domain on it, does not merge.

With --json, standard output is one object, `hosts`, with an object for each host:

facts     the facts (docs/doctor.md), or null
findings  the worst first; each has finding (its name), severity, what, where (kind, name, pid),
          evidence, why, fix
wrong     whether any finding is more than a note
error     why the host could not be read, or null
"""

import argparse
from typing import TYPE_CHECKING, Any

from ksm_analysis.commands import add_html, check_output, write_page
from ksm_analysis.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

HELP = "explain why nothing merges, and how to fix it; changes nothing on any host"
DETAILS = """\
Reads hosts and every guest there, of QEMU, cloud-hypervisor, Firecracker and others, and reports
what prevents KSM from merging: ksmd is stopped, memory is not offered or is of the wrong kind, a
scan takes hours, and so on. Each finding has its evidence, its reason, and a command or setting
that fixes it on this host. The worst come first: what endangers the host, what blocks merging, what
limits it, what wastes memory or time, and what is not visible. A note is for information only.

Nothing is written on the hosts, not even a temporary file, and nothing is started there: libvirt is
used only if its daemon already runs, otherwise /proc. The hosts need not be provisioned. The
command reads the counters twice, --seconds apart, and takes a few seconds more. Only root sees all
processes. docs/doctor.md lists every finding, its threshold and its source.

A host need not be here: --collect writes what was read to a file, which --facts judges anywhere;
--root judges copies of a machine's files. --redact replaces names of hosts, guests, processes and
users, and tells only the kind of an error; in the file, too.
"""
EXAMPLES = """\
examples:
  python -m ksm_analysis doctor                              all hosts of inventory/localhost.yml
  python -m ksm_analysis doctor --inventory inventory/mine.yml --host lab
  python -m ksm_analysis doctor --seconds 60                 longer, for a slow scan
  python -m ksm_analysis doctor --redact --collect host.json   to send to somebody
  python -m ksm_analysis doctor --facts host.json              what they do with it
  python -m ksm_analysis doctor --html doctor.html           one page
  python -m ksm_analysis doctor --root copy --later copy2 --seconds 60
  python -m ksm_analysis doctor --json | jq '.hosts[].findings[] | {finding, what, fix}'
  python -m ksm_analysis doctor --json | jq '.hosts[].facts.domains[].memory.mergeable'

exit status:
  0  nothing is wrong
  1  something is wrong: at least one finding is more than a note
  2  wrong arguments, or a host could not be read
  130  interrupted
"""
MOST_SECONDS = 3600
USUAL_SECONDS = 5.0
STYLES = {
    "danger": "bold red",
    "blocks": "bold red",
    "limits": "yellow",
    "costs": "yellow",
    "unseen": "magenta",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    option = parser.add_argument
    option("--host", metavar="H", help="only these hosts of ksm_hosts: an Ansible pattern")
    option("--inventory", metavar="I", help="default: inventory/localhost.yml of the testbed")
    option(
        "--seconds",
        metavar="S",
        type=_seconds,
        help="time between two readings of the counters (default: 5); between --root and --later "
        "(default: the difference of their proc/uptime)",
    )
    from_where = parser.add_mutually_exclusive_group()
    from_where.add_argument("--facts", metavar="FILE", help="judge what --collect has written")
    from_where.add_argument(
        "--root",
        metavar="TREE",
        help="judge a directory with copies of a machine's proc and sys; without --later, no rates",
    )
    option("--later", metavar="TREE", help="a later copy: the second reading of the counters")
    option("--collect", metavar="FILE", help="also write the facts of all hosts to a file")
    add_html(parser)
    option("--redact", action="store_true", help="replace names of hosts, guests, processes, users")
    option("--json", action="store_true", help="for programs: all facts and findings")


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value <= MOST_SECONDS:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 to {MOST_SECONDS}")
    return value


def run(arguments: argparse.Namespace) -> int:
    """Read the hosts and print findings. Returns the exit status."""
    try:
        return _run(arguments)
    except KeyboardInterrupt:  # no playbook runs
        return 130


def _run(arguments: argparse.Namespace) -> int:
    from ksm_analysis.doctor import diagnosis

    check_output("--html", arguments.html)
    given, errors = _given(arguments)
    if errors is None:
        return 130
    asked = _usable(given, errors)
    if arguments.redact:
        asked, errors = _redacted(asked, errors)
    if arguments.collect is not None:
        _collect(arguments.collect, asked)
    hosts = {
        name: (facts, diagnosis.findings(facts) if facts else []) for name, facts in asked.items()
    }
    if arguments.html and any(facts for facts, _ in hosts.values()):
        from ksm_analysis.doctor import page

        write_page(page.page(hosts, errors), arguments.html)
    (_print_json if arguments.json else _show)(hosts, errors)
    if errors:
        return 2
    return 1 if any(diagnosis.is_wrong(found) for _, found in hosts.values()) else 0


def _given(arguments: argparse.Namespace) -> tuple[dict[str, Any], dict[str, str] | None]:
    """Return the facts of each host as they were read, and errors; None if interrupted."""
    from pathlib import Path

    if arguments.later is not None and arguments.root is None:
        raise InputError("--later: only with --root")
    for option in ("facts", "root", "later", "collect", "inventory"):
        if getattr(arguments, option) == "":
            raise InputError(f"--{option}: expected a path, not an empty text")
    if arguments.root is None and arguments.facts is None:
        from ksm_analysis.campaign import reading

        seconds = USUAL_SECONDS if arguments.seconds is None else arguments.seconds
        variables = {"doctor_seconds": seconds}
        return reading.ask("doctor", "facts", variables, arguments.host, arguments.inventory)
    for option in ("host", "inventory"):
        if getattr(arguments, option) is not None:
            raise InputError(f"--{option}: not with --root or --facts, which ask no host")
    if arguments.facts is not None:
        from ksm_analysis.doctor import bundle

        if arguments.seconds is not None:
            raise InputError("--seconds: not with --facts, which have the time between readings")
        return dict(bundle.load(Path(arguments.facts))), {}
    from ksm_analysis.doctor import tree

    root, later = Path(arguments.root), None
    if arguments.later is not None:
        later = Path(arguments.later)
    elif arguments.seconds is not None:
        raise InputError("--seconds: with --root, only with --later, the second reading")
    return {root.name or "host": tree.read(root, later, arguments.seconds)}, {}


def _usable(given: dict[str, Any], errors: dict[str, str]) -> dict[str, Any]:
    """Return complete facts by host. What cannot be used becomes None, and an error of its own."""
    from ksm_analysis.doctor import shape

    asked: dict[str, Any] = {}
    for name, facts in given.items():
        try:
            asked[name] = None if facts is None else shape.complete(facts)
        except InputError as error:
            asked[name], errors[name] = None, str(error)
        if asked[name] is None:
            errors.setdefault(name, "no facts of this host in the file")
    return asked


def _redacted(
    asked: dict[str, Any], errors: dict[str, str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return facts and errors without names."""
    from ksm_analysis.doctor import redaction

    names = redaction.hosts([*asked])
    told = {names[name]: redaction.reason(error) for name, error in errors.items()}
    return {names[name]: each and redaction.redact(each) for name, each in asked.items()}, told


def _collect(file: str, asked: dict[str, Any]) -> None:
    """Write a bundle. Raises InputError."""
    import sys
    from pathlib import Path

    from ksm_analysis.doctor import bundle
    from ksm_analysis.doctor.words import count

    known = sum(facts is not None for facts in asked.values())
    if not known:
        return  # the errors say why
    try:
        Path(file).write_text(bundle.dump(asked))
    except OSError as error:
        raise InputError(f"--collect {file}: {error.strerror or error}") from None
    print(f"{file}: the facts of {count(known, 'host')}", file=sys.stderr)


# --- telling --------------------------------------------------------------------------------------


def _print_json(hosts: dict[str, Any], errors: dict[str, Any]) -> None:
    import json

    from ksm_analysis.doctor import diagnosis

    document = {
        name: {
            "facts": facts,
            "findings": [each.plain() for each in found],
            "wrong": diagnosis.is_wrong(found),
            "error": errors.get(name),
        }
        for name, (facts, found) in hosts.items()
    }
    print(json.dumps({"hosts": document}, indent=2, allow_nan=False))


def _show(hosts: dict[str, Any], errors: dict[str, Any]) -> None:
    import sys

    from rich.console import Console
    from rich.text import Text

    from ksm_analysis.doctor import diagnosis
    from ksm_analysis.doctor.finding import SEVERITIES
    from ksm_analysis.doctor.words import count, healthy, looked_at, printable

    console = Console(highlight=False)
    for name, (facts, found) in hosts.items():
        if facts is None:
            print(printable(f"{name}: cannot be read: {errors[name]}"), file=sys.stderr)
            continue
        console.print(Text(printable(name), style="bold"), Text(looked_at(facts)), sep="  ")
        wrong = sum(diagnosis.is_wrong([each]) for each in found)
        if wrong:
            console.print(Text(f"{count(wrong, 'finding')}, the worst first.", style="bold"))
        else:
            console.print(Text(f"Nothing is wrong. {healthy(facts)}", style="green"))
        for severity in SEVERITIES:
            _show_severity(console, severity, [each for each in found if each.severity == severity])
        console.print()


def _show_severity(console: "Console", severity: str, found: list[Any]) -> None:
    """Print the findings of a severity. Domains with the same finding share its reason and fix."""
    from rich.text import Text

    from ksm_analysis.doctor.words import TITLES, alike, evidence, place

    style = STYLES.get(severity, "")
    for same in alike(found):
        console.print()
        console.print(Text(TITLES[severity], style=style), Text(f"({same[0].finding})"), sep=" ")
        for each in same:
            console.print(_row("", f"{place(each.where)}: {each.what}"))
            console.print(_row("evidence", evidence(each.evidence)))
        console.print(_row("why", same[0].why))
        for fix in dict.fromkeys(each.fix for each in same):
            console.print(_row("fix", fix))


def _row(heading: str, text: str) -> "Table":
    """Return one line of a finding, with wrapped lines indented."""
    from rich.table import Table
    from rich.text import Text

    from ksm_analysis.doctor.words import printable

    row = Table.grid(padding=(0, 2))
    row.add_column(width=8, justify="right", style="dim")
    row.add_column(overflow="fold")
    row.add_row(Text(heading), Text(printable(text)))
    return row
