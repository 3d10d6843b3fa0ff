"""`run FILE` does the runs of an experiment and shows the progress.

With --json, standard output has one object per line. Each has `event` and `time` (seconds since the
epoch). Events of a host have `host`, and events of a run have `run`, its id:

plan         `plan` (docs/data.md), `hosts` (names), `results` (directory of the experiment)
run started  `index` and `of` (among the runs of the host), `factors`, `seconds` (estimate for the
             run), `left` (estimate for all remaining runs)
serving      `url` of the live page, with --serve
phase        `phase`, as text; `run` is null outside of a run
sampling     `seconds` of `of` are sampled; the counters of the kernel, in its units, and
             `page_size` in bytes
run ended    `status` (complete or failed), `reason`
message      `text`, and `failed`: whether it reports a failure; `host` may be null
report       `path` of the page
end          `exit` (the exit status); ids of planned runs: `complete`, `failed`, `missing`;
             `log`: path of Ansible's output, or null
"""

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ksm_analysis.errors import InputError

if TYPE_CHECKING:
    from ksm_analysis.campaign.campaign import Asked
    from ksm_analysis.campaign.views import View

HELP = "do the runs of an experiment; --resume continues an interrupted one"
DETAILS = """\
Provisions the hosts, builds the image, does the runs of an experiment, and writes its page. On a
terminal it shows the current run live; otherwise it prints a line for each event.

Ctrl-C (or SIGTERM) ends the current run and restores the hosts; the image is kept. A second Ctrl-C
ends without restoring the hosts and prints the command that restores them. If this program is
killed, Ansible ends too. The next experiment, or playbooks/teardown.yml, then restores the hosts.

--serve shows the runs as they go on a page, at an address of this machine that is printed once: the
savings of the current run, what remains, and the figures of runs that have ended. When all is done,
the page is the report. On a terminal it then stays until Ctrl-C; otherwise, as in CI, it ends with
the experiment. From elsewhere: ssh -L 8000:127.0.0.1:8000 HOST, with --serve 8000.

--resume does only the runs that are missing or failed in DIR/<experiment>, and keeps complete runs.
Without it, all runs are done, and earlier results are moved aside, never deleted.
"""
EXAMPLES = """\
examples:
  python -m ksm_analysis run experiments/quick.yml
  python -m ksm_analysis run experiments/quick.yml --dry-run        show the plan
  python -m ksm_analysis run experiments/quick.yml --resume         remaining runs
  python -m ksm_analysis run experiments/original-1.yml --interval 2
  python -m ksm_analysis run experiments/quick.yml --inventory inventory/mine.yml --limit lab
  python -m ksm_analysis run experiments/quick.yml -e guests_batch=2
  python -m ksm_analysis run experiments/quick.yml --serve          as a page, live
  python -m ksm_analysis run experiments/quick.yml --json | jq -r 'select(.event=="run ended").run'

exit status:
  0  all planned runs are complete
  1  a run failed or is missing; --resume repeats it
  2  wrong arguments; nothing was started
  130  interrupted

events of --json, one object per line, each with `event` and `time`:
  plan, serving, run started, phase, sampling, run ended, message, report, end
"""
# These variables have their own options, or are derived from them.
TAKEN = {
    "experiment": "FILE",
    "results": "--results",
    "resume": "--resume",
    "interval": "--interval",
    "intervals": "--intervals",
    "ksm_limit": "--limit",
    "ksm_plan": "FILE",
    "ksm_plan_whole": "FILE",
    "ksm_version": "nothing: it is determined automatically",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    option = parser.add_argument
    option("file", metavar="FILE", help="the experiment, a YAML file")
    option("--results", metavar="DIR", default="results", help="default: results")
    option("--inventory", metavar="I", help="default: inventory/localhost.yml of the testbed")
    option("--limit", metavar="H", help="only these hosts of ksm_hosts: an Ansible pattern")
    option("--resume", action="store_true", help="only runs that are missing or failed")
    option("--dry-run", action="store_true", help="show the plan and start nothing")
    option("--interval", metavar="S", type=float, help="seconds of an interval, overrides the file")
    option("--intervals", metavar="N", type=int, help="intervals of a run, overrides the file")
    option(
        "--serve",
        metavar="PORT",
        nargs="?",
        const=0,
        type=_port,
        help="show the runs as they go on a page at 127.0.0.1 (default: any free port)",
    )
    option("--json", action="store_true", help="for programs: events, one JSON object per line")
    option(
        "-e",
        "--extra-vars",
        metavar="VARS",
        action="append",
        default=[],
        help="variables for Ansible: NAME=VALUE, JSON or @FILE; may be repeated",
    )


def _port(text: str) -> int:
    if not (text.isdecimal() and 0 <= int(text) < 65536):
        raise argparse.ArgumentTypeError(f"{text} is not a port from 0 to 65535; FILE comes first")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """Run the experiment. Returns the exit status."""
    try:
        return _run(arguments)
    except KeyboardInterrupt:  # nothing was started yet
        return 130


def _run(arguments: argparse.Namespace) -> int:
    from ksm_analysis.campaign.campaign import Campaign
    from ksm_analysis.commands import plan

    view = _view(arguments.json)
    everything, planned = plan.plans(arguments)
    if not planned["runs"]:
        return _nothing_left(everything, arguments)
    asked = _asked(arguments, everything, planned, view.report_seconds)
    if arguments.dry_run:
        return _dry_run(asked, arguments)
    if arguments.serve is not None:
        return _served(asked, view, arguments)
    return Campaign(asked, view).run()


def _served(asked: "Asked", view: "type[View]", arguments: argparse.Namespace) -> int:
    """Run the experiment beside its live page, which stays on a terminal until Ctrl-C."""
    import sys

    from ksm_analysis.campaign.campaign import INTERRUPTED, Campaign
    from ksm_analysis.live.serving import Served, Serving

    with Serving(asked.directory, arguments.serve) as serving:
        code = Campaign(asked, lambda progress: Served(view(progress), progress, serving)).run()
        if code != INTERRUPTED and sys.stdout.isatty() and not arguments.json:
            print(f"the page stays at {serving.url} until Ctrl-C")
            serving.stay()
    return code


def _asked(
    arguments: argparse.Namespace,
    whole: dict[str, Any],
    planned: dict[str, Any],
    report_seconds: int,
) -> "Asked":
    """Check all arguments except the definition. Raises InputError."""
    from ksm_analysis.campaign import launch
    from ksm_analysis.campaign.campaign import Asked

    if not (launch.ROOT / "site.yml").is_file():
        raise InputError(
            f"{launch.ROOT}: no site.yml here. `run` needs the playbooks: use it from a clone of "
            "the repository"
        )
    inventory = Path(arguments.inventory or launch.ROOT / "inventory/localhost.yml").absolute()
    if not inventory.exists():
        raise InputError(f"{inventory}: no such inventory")
    more = tuple(_variables(text) for text in arguments.extra_vars)
    return Asked(
        plan=planned,
        whole=whole,
        file=Path(arguments.file).absolute(),
        root=launch.ROOT,
        inventory=inventory,
        hosts=launch.hosts(launch.ROOT, inventory, arguments.limit),
        limited=arguments.limit is not None,
        results=Path(arguments.results).absolute(),
        resume=arguments.resume,
        more=more,
        report_seconds=report_seconds,
        again=_again(arguments),
    )


def _variables(text: str) -> str:
    """Check one argument of -e, and make the path of a file absolute."""
    if text.startswith("@"):
        if not Path(text[1:]).is_file():
            raise InputError(f"-e {text}: no such file")
        return f"@{Path(text[1:]).absolute()}"
    for name in _names(text):
        if name in TAKEN:
            raise InputError(f"-e {text}: {name} cannot be given here. Use {TAKEN[name]}")
    return text


def _names(text: str) -> list[str]:
    import yaml

    try:
        if text.lstrip().startswith("{"):
            return list(yaml.safe_load(text))
        words = shlex.split(text)
    except (yaml.YAMLError, ValueError):
        words = []
    if not words or not all("=" in word for word in words):
        raise InputError(f"-e {text}: must be NAME=VALUE, a JSON object or @FILE")
    return [word.split("=")[0] for word in words]


def _again(arguments: argparse.Namespace) -> str:
    """Return the command that does the remaining runs."""
    words = ["python", "-m", "ksm_analysis", "run", arguments.file]
    if arguments.results != "results":
        words += ["--results", arguments.results]
    for name in ("inventory", "limit", "interval", "intervals"):
        if (value := getattr(arguments, name)) is not None:
            words += [f"--{name}", f"{value:g}" if isinstance(value, float) else str(value)]
    for text in arguments.extra_vars:
        words += ["-e", text]
    return shlex.join([*words, "--resume"])


def _view(as_json: bool) -> "type[View]":
    import os
    import sys

    from ksm_analysis.campaign import views

    if as_json:
        return views.JsonView
    live = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    return views.LiveView if live else views.PlainView


def _nothing_left(everything: dict[str, Any], arguments: argparse.Namespace) -> int:
    directory = Path(arguments.results, everything["experiment"])
    runs = [each["id"] for each in everything["runs"]]
    text = f"nothing is left to run: all of {directory} is complete ({len(runs)})"
    if not arguments.json:
        print(text)
        return 0
    notices = (
        {"event": "message", "host": None, "failed": False, "text": text},
        {"event": "end", "exit": 0, "complete": runs, "failed": [], "missing": [], "log": None},
    )
    from ksm_analysis.campaign.views import JsonView

    for notice in notices:
        JsonView().show(notice)
    return 0


def _dry_run(asked: "Asked", arguments: argparse.Namespace) -> int:
    """Show the plan without starting it."""
    from ksm_analysis.commands import plan

    if arguments.json:
        from ksm_analysis.campaign.views import JsonView

        results = str(asked.directory)
        notice = {"event": "plan", "plan": asked.plan, "hosts": asked.hosts, "results": results}
        JsonView().show(notice)
        return 0
    plan.show(arguments)
    print(f"would be run by: {asked.root / 'site.yml'}")
    print(f"inventory:       {asked.inventory}")
    print(f"hosts:           {', '.join(asked.hosts)}")
    print(f"results:         {asked.directory}")
    return 0
