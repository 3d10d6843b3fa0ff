"""The command line: `python -m ksm_analysis COMMAND`."""

import argparse
import importlib
import sys
from types import ModuleType

from ksm_analysis.errors import InputError

# In the words of each command's own HELP: a list of them is shown without reading any of them.
COMMANDS = {
    "plan": "show the runs of an experiment, their number and their time; starts nothing",
    "run": "do the runs of an experiment; --resume continues an interrupted one",
    "simulate": "simulate the runs of an experiment right to the page, without KSM or root",
    "report": "write one page with all figures and tables, which works without a network",
    "answer": "say what each setting saves and costs, and which is best",
    "recommend": "say what to set on a host, as commands: knobs, the kernel's advisor, ksmtuned",
    "summary": "show one row per run: factors, and every metric at the end of the run",
    "compare": "test whether two sets of runs differ, by how much, and with which confidence",
    "import": "convert logs, tables and dumps of others, or ranges of a Prometheus, to runs",
    "doctor": "explain why nothing merges, and how to fix it; changes nothing on any host",
    "assess": "forecast what KSM would free on a host, how soon and at which cost; changes nothing",
    "schema": "print the JSON Schema of experiment files, for editors",
}
EXAMPLES = """\
examples:
  python -m ksm_analysis plan experiments/quick.yml     which runs, how many, how long
  python -m ksm_analysis run experiments/quick.yml      does them; --resume continues it
  python -m ksm_analysis simulate experiments/arrays-single.yml    the same, without KSM
  python -m ksm_analysis report results/quick           writes results/quick/report.html
  python -m ksm_analysis answer results/quick           what was saved, at which cost; which is best
  python -m ksm_analysis recommend results/quick        the commands that set what is best
  python -m ksm_analysis summary results/quick --csv    one row per run, for a spreadsheet
  python -m ksm_analysis compare results/old results/new    do they differ, and how sure is that
  python -m ksm_analysis import *.log --results old     the original framework's logs, as runs
  python -m ksm_analysis doctor                         why does nothing merge on this host
  python -m ksm_analysis assess                         what would KSM free on this host

Each command explains itself: python -m ksm_analysis COMMAND --help
"""


def parser(asked: str | None) -> argparse.ArgumentParser:
    """Every command by name; only the one that is asked for is imported and has its arguments."""
    top = argparse.ArgumentParser(
        prog="ksm_analysis",
        description="What Kernel Samepage Merging saves and costs: experiments in, figures out.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    for name, text in COMMANDS.items():
        if name != asked:
            commands.add_parser(name, help=text)
            continue
        command = module(name)
        its = commands.add_parser(
            name,
            help=text,
            description=command.DETAILS,
            epilog=getattr(command, "EXAMPLES", None),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        its.set_defaults(run=command.run)
        command.add_arguments(its)
    return top


def module(command: str) -> ModuleType:
    """Import a command. `import` is a word of Python's, so that its file has another name."""
    return importlib.import_module(f"ksm_analysis.commands.{command.replace('import', 'import_')}")


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns its exit status; 2 if what was given cannot be used."""
    argv = sys.argv[1:] if argv is None else argv
    asked = next((word for word in argv if not word.startswith("-")), None)
    arguments = parser(asked).parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader (head, less) has had enough. Python would complain again while it exits.
        sys.stderr.close()
        return 0


if __name__ == "__main__":
    sys.exit(main())
