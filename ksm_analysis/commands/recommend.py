"""`recommend DIR` says what to set on a host, for those who run no daemon."""

import argparse

from ksm_analysis.commands import RESULTS
from ksm_analysis.results import location

HELP = "say what to set on a host, as commands: knobs, the kernel's advisor, ksmtuned"
DETAILS = """\
For each host, number of guests and workload of which several settings were measured, takes the
cheapest setting of those that may save most, leaves one that is shown to cost the workload for
last, and prints the ways to set it: knobs now and at each boot, and the kernel's advisor and
ksmtuned, told so that ksmd scans as fast. What the advisor will do is predicted by its formula.
Changes nothing.

examples:
  python -m ksm_analysis recommend results/quick
  python -m ksm_analysis recommend results/policies-s1-arrivals --json

exit status: 0, or 1 if the runs are too few or too short to recommend anything
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("directories", metavar="DIR", type=location.place, nargs="+", help=RESULTS)
    parser.add_argument("--json", action="store_true", help="for programs")


def run(arguments: argparse.Namespace) -> int:
    """Print the advice."""
    import json
    import textwrap
    from dataclasses import asdict

    from ksm_analysis.analysis.advice import advise
    from ksm_analysis.metrics import measurement
    from ksm_analysis.results.together import read_together

    results = read_together(location.locals_of(arguments.directories))
    found = advise([measurement.measure(each) for each in results.usable])
    if arguments.json:
        print(json.dumps([asdict(each) for each in found], indent=2, ensure_ascii=False))
        return 0 if found else 1
    if not found:
        print(
            "Nothing can be recommended: it takes several settings of the same guests and workload,"
            "\n3 repetitions of each, and enough full scans in each. `answer` says what is missing."
        )
        return 1
    for each in found:
        print(f"{each.scenario}: {each.setting}")
        for sentence in each.why:
            print(textwrap.indent(textwrap.fill(sentence, 96, break_on_hyphens=False), "  "))
        for title, lines in each.ways:
            print(f"\n  {title}")
            print(textwrap.indent("\n".join(lines), "    "))
        print()
    return 0
