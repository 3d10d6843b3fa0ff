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

from ksm_analysis.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

HELP = "explain why nothing merges, and how to fix it; changes nothing on any host"
DETAILS = """\
Reads hosts and every QEMU process there, and reports what prevents KSM from merging: ksmd is
stopped, memory is not offered or is of the wrong kind, a scan takes hours, and so on. Each finding
has its evidence, its reason, and a command or XML that fixes it. The worst come first: what blocks
merging, what limits it, what wastes memory or time, and what could not be checked. A note is for
information only.

Nothing is written on the hosts, not even a temporary file, and nothing is started there: libvirt is
used only if its daemon already runs, otherwise /proc. The hosts need not be provisioned. The
command reads the counters twice, --seconds apart, and takes a few seconds more. Only root sees all
processes. docs/doctor.md lists every finding, its threshold and its source.
"""
EXAMPLES = """\
examples:
  python -m ksm_analysis doctor                              all hosts of inventory/localhost.yml
  python -m ksm_analysis doctor --inventory inventory/mine.yml --host lab
  python -m ksm_analysis doctor --seconds 60                 longer, for a slow scan
  python -m ksm_analysis doctor --json | jq '.hosts[].findings[] | {finding, what, fix}'
  python -m ksm_analysis doctor --json | jq '.hosts[].facts.domains[].memory.mergeable'

exit status:
  0  nothing is wrong
  1  something is wrong: at least one finding is more than a note
  2  wrong arguments, or a host could not be read
  130  interrupted
"""
MOST_SECONDS = 3600
TITLES = {
    "blocks": "keeps pages from merging",
    "limits": "merges less, or later",
    "costs": "wastes memory or time",
    "unseen": "could not be checked",
    "note": "for information",
}
STYLES = {"blocks": "bold red", "limits": "yellow", "costs": "yellow", "unseen": "magenta"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    option = parser.add_argument
    option("--host", metavar="H", help="only these hosts of ksm_hosts: an Ansible pattern")
    option("--inventory", metavar="I", help="default: inventory/localhost.yml of the testbed")
    option(
        "--seconds",
        metavar="S",
        type=_seconds,
        default=5.0,
        help="time between two readings of the counters (default: 5)",
    )
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

    asked, errors = _asked(arguments)
    if errors is None:
        return 130
    hosts = {
        name: (asked[name], diagnosis.findings(asked[name]) if asked[name] else [])
        for name in asked
    }
    (_print_json if arguments.json else _show)(hosts, errors)
    if errors:
        return 2
    return 1 if any(diagnosis.is_wrong(found) for _, found in hosts.values()) else 0


# --- asking ---------------------------------------------------------------------------------------


def _asked(arguments: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return the facts of each host, or None; and errors by host, or None if interrupted."""
    from pathlib import Path

    from ksm_analysis.campaign import launch

    playbook = "playbooks/doctor.yml"
    if not (launch.ROOT / playbook).is_file():
        raise InputError(
            f"{launch.ROOT}: no {playbook} here: use it from a clone of the repository"
        )
    inventory = Path(arguments.inventory or launch.ROOT / "inventory/localhost.yml").absolute()
    if not inventory.exists():
        raise InputError(f"{inventory}: no such inventory")
    names = launch.hosts(launch.ROOT, inventory, arguments.host, option="--host")
    listener = Listener(names)
    launcher = launch.Launcher(launch.ROOT, inventory, "doctor", listener.take, lambda: None)
    variables = {"ksm_limit": launch.pattern(names), "doctor_seconds": arguments.seconds}
    with launcher.signals():
        launcher.play(playbook, variables)
    if launcher.error:
        raise launcher.error
    if launcher.asked:
        return listener.facts, None
    return listener.facts, listener.errors()


class Listener:
    """Receives the events of the playbook; `facts` has the facts of each host, or None."""

    def __init__(self, names: list[str]):
        self.facts: dict[str, dict[str, Any] | None] = dict.fromkeys(names)
        self._said: dict[str, str] = {}
        self._last = ""

    def take(self, event: dict[str, Any]) -> None:
        """Handle one event of ansible-runner."""
        data = event.get("event_data") or {}
        host, result = data.get("host") or "", data.get("res") or {}
        if event["event"] == "runner_on_ok" and "facts" in result:
            self.facts[host] = result["facts"]
        elif event["event"] in ("runner_on_failed", "runner_on_unreachable"):
            self._said[host] = " ".join(str(result.get("msg", "no reason given")).split())
        elif not host:
            self._last = event.get("stdout", "").strip() or self._last

    def errors(self) -> dict[str, str]:
        """Return why hosts were not read, by name."""
        return {
            name: self._said.get(name, f"Ansible did not reach the host. {self._last}".strip())
            for name, facts in self.facts.items()
            if facts is None
        }


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

    console = Console(highlight=False)
    for name, (facts, found) in hosts.items():
        if facts is None:
            print(f"{name}: cannot be read: {errors[name]}", file=sys.stderr)
            continue
        console.print(Text(name, style="bold"), Text(looked_at(facts)), sep="  ")
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

    style = STYLES.get(severity, "")
    alike: dict[tuple[Any, ...], list[Any]] = {}
    for each in found:
        alike.setdefault((each.finding, each.why), []).append(each)
    for same in alike.values():
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

    row = Table.grid(padding=(0, 2))
    row.add_column(width=8, justify="right", style="dim")
    row.add_column(overflow="fold")
    row.add_row(Text(heading), Text(text))
    return row


def looked_at(facts: dict[str, Any]) -> str:
    """Describe what was read, and how."""
    from ksm_analysis.doctor.facts import seconds_between

    domains, others = facts["domains"], facts["processes"]
    way = "libvirt and /proc" if facts["domains_from"] == "libvirt" else "/proc"
    why = f"; libvirt: {facts['libvirt']}" if facts["libvirt"] else ""
    return (
        f"Linux {facts['host']['kernel']}; {count(len(domains), 'domain')} (by {way}{why}), "
        f"{count(len(others), 'other process', 'es')} with mergeable memory; "
        f"read twice, {seconds_between(facts):.0f} s apart"
    )


def healthy(facts: dict[str, Any]) -> str:
    """Describe why nothing is wrong."""
    from ksm_analysis.doctor import facts as read
    from ksm_analysis.doctor.finding import mib

    counters = read.ksm(facts)
    measured = read.measured_scan_seconds(facts)
    seconds = read.nominal_scan_seconds(facts) if measured is None else measured
    size = mib(read.mergeable(facts, "anonymous"))
    return (
        f"ksmd runs; {size} are mergeable and present; a full scan of them takes {seconds:,.0f} s; "
        f"pages_sharing={counters['pages_sharing']:,}, full_scans={counters['full_scans']:,}."
    )


def count(number: int, noun: str, plural: str = "s") -> str:
    """Format a number and its noun."""
    return f"{number} {noun}{'' if number == 1 else plural}"


def place(where: dict[str, Any]) -> str:
    """Return the place of a finding."""
    return (
        "host" if where["kind"] == "host" else f"{where['kind']} {where['name']} ({where['pid']})"
    )


def evidence(values: dict[str, Any]) -> str:
    """Format names and values as the kernel does."""
    import json

    return " ".join(
        f"{name}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in values.items()
    )
