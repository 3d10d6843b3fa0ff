"""The command line: `python -m ksm_analysis COMMAND`."""

import argparse
import sys

from ksm_analysis.commands import plan, report, summary
from ksm_analysis.errors import InputError

EXAMPLES = """\
examples:
  python -m ksm_analysis plan experiments/quick.yml     which runs, how many, how long
  python -m ksm_analysis report results/quick           writes results/quick/report.html
  python -m ksm_analysis summary results/quick --csv    one row a run, for a spreadsheet

Each command explains itself: python -m ksm_analysis COMMAND --help
"""


def parser() -> argparse.ArgumentParser:
    """Every command's arguments; what they import beyond argparse waits until they run."""
    top = argparse.ArgumentParser(
        prog="ksm_analysis",
        description="What Kernel Samepage Merging saves and costs: experiments in, figures out.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    for command in (plan, report, summary):
        command.add_to(commands)
    return top


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0, or 2 if what was given cannot be used."""
    arguments = parser().parse_args(argv)
    try:
        return arguments.run(arguments)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader (head, less) has had enough. Python would complain again while it exits.
        sys.stderr.close()
        return 0


if __name__ == "__main__":
    sys.exit(main())
