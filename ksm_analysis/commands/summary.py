"""`summary DIR` shows one row per run."""

import argparse
from typing import TYPE_CHECKING

from ksm_analysis.commands import RESULTS, add_scheduler
from ksm_analysis.results import location

if TYPE_CHECKING:
    import pandas as pd

    from ksm_analysis.metrics.reported import Reported

HELP = "show one row per run: factors, and every metric at the end of the run"
DETAILS = """\
Shows one row per run: its factors, the value of every metric in its last interval, CPU seconds of
ksmd over the whole run, the throughput of the workload, and the metrics that a command in the run
reported itself. docs/metrics.md defines each column.
"> 60" in the time to 95 % of the savings: it was not reached in the 60 s that the run was watched.
Failed runs are left out and reported on standard error.

examples:
  python -m ksm_analysis summary results/quick                    the main columns
  python -m ksm_analysis summary results/quick --csv > quick.csv  every column
  python -m ksm_analysis summary results/quick --json | jq '.[].shared_percent_configured'
"""
# Columns that fit on a screen, with heading and format.
SHOWN = (
    ("host", "host", "{}"),
    ("guests", "guests", "{}"),
    ("knobs", "knobs", "{}"),
    ("workload", "workload", "{}"),
    ("repetition", "rep.", "{}"),
    ("simulated", "simu-\nlated", "{}"),
    ("seconds", "seconds", "{:g}"),
    ("converged", "con-\nverged", "{}"),
    ("seconds_to_95", "95 %\nafter s", "{:,.3g}"),
    ("saved_mib", "saved\nMiB", "{:,.1f}"),
    ("pages_shared", "pages\nshared", "{:,.0f}"),
    ("pages_sharing", "pages\nsharing", "{:,.0f}"),
    ("pages_unshared", "pages\nunshared", "{:,.0f}"),
    ("full_scans", "full\nscans", "{:,.0f}"),
    ("ksmd_cpu_seconds", "ksmd\nCPU s", "{:.2f}"),
    ("shared_percent_configured", "shared %\nconfigured", "{:.1f}"),
    ("reclaimed_percent_configured", "reclaimed %\nconfigured", "{:.1f}"),
    ("shared_percent_resident", "shared %\nresident", "{:.1f}"),
    ("reclaimed_percent_resident", "reclaimed %\nresident", "{:.1f}"),
    ("efficiency_percent", "saved %\nof limit", "{:.1f}"),
    ("bogo_ops_per_second_sum", "bogo ops/s\nall guests", "{:,.0f}"),
)
LONGEST = 40  # characters of a line of text in the table; commands can be longer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("directory", metavar="DIR", type=location.place, help=RESULTS)
    add_scheduler(parser)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="for programs: a list of objects")
    form.add_argument("--csv", action="store_true", help="for spreadsheets")


def run(arguments: argparse.Namespace) -> int:
    """Print the summary."""
    import sys

    from ksm_analysis.analysis import reduction
    from ksm_analysis.metrics import measurement, reported, summary

    results = reduction.read_results([location.local(arguments.directory)], arguments.scheduler)
    for warning in (*results.warnings, *reported.warnings_of(results.usable)):
        print(f"warning: {warning}", file=sys.stderr)
    table = summary.summary([measurement.measure(run) for run in results.usable])
    if arguments.json:
        print(table.to_json(orient="records", indent=2, double_precision=15))
    elif arguments.csv:
        print(table.to_csv(index=False), end="")
    else:
        _show(table, location.shown(arguments.directory), reported.metrics_of(results.usable))
    return 0


def _says_something(table: "pd.DataFrame", name: str) -> bool:
    """Whether a column has values, and they vary."""
    if name not in table:
        return False  # there was no census
    values = table[name]
    if name == "guests":
        return bool(values.any())
    if name == "seconds" and (table["converged"] != "").any():
        return True
    once = name in ("host", "knobs", "repetition", "seconds")
    return bool((values.notna() & (values != "")).any() and not (once and values.nunique() == 1))


def _show(table: "pd.DataFrame", title: str, own: "list[Reported]") -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from ksm_analysis.metrics import summary

    if table.empty:
        print("no run can be used")
        return
    named = [(each.column, f"{each.column}\n{each.unit}".strip(), "{:,.4g}") for each in own]
    columns = [column for column in (*SHOWN, *named) if _says_something(table, column[0])]
    shown = Table(box=box.SIMPLE_HEAD, title=Text(title), title_justify="left")
    for name, heading, _ in columns:
        if table[name].dtype == "str":
            shown.add_column(heading, max_width=LONGEST)
        else:
            shown.add_column(heading, justify="right")
    for row in table.to_dict("records"):
        over = "> " if summary.not_reached(row) else ""
        cells = (
            (over if n.startswith("seconds_to") else "") + form.format(row[n])
            if row[n] == row[n]
            else ""
            for n, _, form in columns
        )
        shown.add_row(*map(Text, cells))
    console = Console()
    # Truncated numbers would be worse than long lines
    console.width = max(
        console.width, console.measure(shown, options=console.options.update(width=1000)).maximum
    )
    console.print(shown)
