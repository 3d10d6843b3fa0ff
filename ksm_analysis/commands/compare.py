"""`compare A B` tests whether two sets of runs differ."""

import argparse
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from ksm_analysis.commands import RESULTS, add_html, add_scheduler, check_output, write_page
from ksm_analysis.results import location

if TYPE_CHECKING:
    from ksm_analysis.analysis.comparison import Cell, Comparison
    from ksm_analysis.analysis.statistics import Estimate
    from ksm_analysis.results.run import Results

HELP = "test whether two sets of runs differ, by how much, and with which confidence"
DETAILS = """\
Compares results cell by cell: runs of A with runs of B that have the same host, guests, knobs,
workload and sampling. With --by, they differ in that factor, and A and B may be the same directory.
The run is the unit, because samples within a run do not show the differences between runs.

If A and B are the same directory, runs are compared within blocks: each repetition on each host.
The test is Student's t of the logarithms of the ratios, or of the differences where a value is 0.
With fewer than 3 complete pairs there is no verdict. If a host alone has fewer, all hosts are
compared together, each within itself.

In different directories, fewer than 3 runs on a side have no verdict. Up to 7 runs, the test is
Welch's t-test. From 8 runs on, the interval is from a bootstrap of the ratio of means, and a
permutation test must confirm p.

p is adjusted for the number of comparisons (Holm). A difference that is smaller than --smallest
does not matter: that it is smaller must be shown by two one-sided tests (TOST). A run that did not
reach a share of its plateau counts with the time that it was watched, and is named.
docs/metrics.md, "Comparing", explains each verdict.

examples:
  python -m ksm_analysis compare results/before results/after
  python -m ksm_analysis compare results/original-1 results/original-2 --by knobs
  python -m ksm_analysis compare results/quick results/quick --by workload --metric pages_sharing
  python -m ksm_analysis compare old new --html differences.html
  python -m ksm_analysis compare old new --json --fail-on-difference || echo "exit status 3"
"""
MOST_LINES, LONGEST = 20, 80  # lines of other differences, and their length, on the screen
FACTORS = ("host", "guests", "knobs", "workload", "sampling")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    add = parser.add_argument
    add("a", metavar="A", type=location.place, help=f"the baseline: {RESULTS}")
    add("b", metavar="B", type=location.place, help="results to compare with A")
    add("--by", choices=FACTORS, help="compare runs that differ only in this factor")
    add(
        "--metric",
        metavar="NAME",
        action="append",
        help="what to compare; may be repeated (default: saved_mib, "
        "ksmd_cpu_seconds, seconds_to_95, bogo_ops_per_second_mean). It may be one that the runs "
        "reported themselves. Each additional metric makes differences harder to show",
    )
    add(
        "--smallest",
        metavar="PERCENT",
        type=_percent,
        default=1.0,
        help="smallest difference that matters, in percent of A's mean (default: 1)",
    )
    add_scheduler(parser)
    add_html(parser)
    add("--redact", action="store_true", help="replace names of hosts and command lines")
    add("--json", action="store_true", help="for programs")
    add("--fail-on-difference", action="store_true", help="exit with 3 if anything differs")


def _percent(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a percentage of 0 or more")
    return value


def run(arguments: argparse.Namespace) -> int:
    """Compare. Returns 3 with --fail-on-difference if something is higher or lower."""
    from ksm_analysis.analysis import comparison, statistics
    from ksm_analysis.metrics import measurement

    check_output("--html", arguments.html)
    names = arguments.metric or list(comparison.DEFAULT)
    arguments.shown = location.shown(arguments.a), location.shown(arguments.b)
    arguments.a, arguments.b = map(location.local, (arguments.a, arguments.b))
    same = arguments.a.resolve() == arguments.b.resolve()
    results = _read(arguments, same)
    said = _tell(_warnings(arguments, results))
    measured = [[measurement.measure(run) for run in each.usable] for each in results]
    sides = comparison.group(*measured) * (2 if same else 1)
    comparison.check_metrics(names, [cell for side in sides for cell in side])
    pairs = comparison.pair(sides[0], sides[1], arguments.by, same)
    said += _tell(_unpaired(arguments, sides, pairs))
    made, left_out = comparison.compare(pairs, names, arguments.by, arguments.smallest / 100)
    unlike = comparison.unlike(pairs, arguments.by)
    if arguments.html:
        _page(arguments, made, left_out, unlike, said)
    show = _print_json if arguments.json else _show
    show(arguments, made, left_out, unlike)
    differs = any(one.verdict in (statistics.HIGHER, statistics.LOWER) for one in made)
    return 3 if arguments.fail_on_difference and differs else 0


def _read(arguments: argparse.Namespace, same: bool) -> "list[Results]":
    from ksm_analysis.analysis import reduction

    directories = (arguments.a,) if same else (arguments.a, arguments.b)
    results = [reduction.read_results([each], arguments.scheduler) for each in directories]
    if arguments.redact:
        from ksm_analysis.page import redact

        results = redact.together(results)
    return results


def _called(arguments: argparse.Namespace) -> tuple[str, str]:
    """Return the names of A and B: their paths, or without directories above if redacted."""
    if not arguments.redact:
        shown: tuple[str, str] = arguments.shown
        return shown
    return arguments.a.resolve().name, arguments.b.resolve().name


def _tell(lines: Iterable[str]) -> list[str]:
    """Print to standard error, and return the same."""
    import sys

    told = list(lines)
    for line in told:
        print(line, file=sys.stderr)
    return told


def _warnings(arguments: argparse.Namespace, results: "list[Results]") -> Iterator[str]:
    from ksm_analysis.metrics import reported

    for name, each in zip(_called(arguments), results, strict=False):
        for warning in dict.fromkeys((*each.warnings, *reported.warnings_of(each.usable))):
            yield f"warning: {name}: {warning}"


def _unpaired(arguments: argparse.Namespace, sides: list[Any], pairs: list[Any]) -> Iterator[str]:
    """Yield the cells without a counterpart, and whether sides are sampled differently."""
    used = {id(cell) for both in pairs for cell in both}
    same = sides[0] is sides[1]
    for directory, side in list(zip(_called(arguments), sides, strict=True))[: 2 - same]:
        for cell in side:
            if id(cell) not in used:
                words = ", ".join(f"{name} {value}" for name, value in cell.labels.items())
                why = f"no counterpart in {directory}" if same else f"only in {directory}"
                yield f"{why}: {words}"
    if any(a.labels["sampling"] != b.labels["sampling"] for a, b in pairs):
        yield (
            "warning: A and B are sampled differently. Their final values are comparable only if "
            "both were steady"
        )


def _page(
    arguments: argparse.Namespace,
    made: list[Any],
    left_out: list[Any],
    unlike: dict[str, Any],
    said: list[str],
) -> None:
    from ksm_analysis.page import differences

    a, b = _called(arguments)
    warnings = [line.removeprefix("warning: ") for line in said]
    given = differences.Compared(
        a, b, arguments.by, arguments.smallest, made, left_out, unlike, warnings
    )
    write_page(differences.page(given), arguments.html)


# --- output ---------------------------------------------------------------------------------------


def _print_json(
    arguments: argparse.Namespace, made: list[Any], left_out: list[Any], unlike: dict[str, Any]
) -> None:
    import dataclasses
    import json

    document = {
        **dict(zip("ab", _called(arguments), strict=True)),
        "by": arguments.by,
        "smallest_percent": arguments.smallest,
        "confidence": 0.95,
        "allowed_for": sum(one.p_holm is not None for one in made),
        "comparisons": [_plain(one) for one in made],
        "left_out": [dataclasses.asdict(each) for each in left_out],
        "unlike": {name: list(values) for name, values in unlike.items()},
    }
    print(json.dumps(document, indent=2, allow_nan=False))


def _plain(one: "Comparison") -> dict[str, Any]:
    from ksm_analysis.analysis import compared

    found = one.found
    return {
        "metric": one.metric,
        "unit": one.unit,
        "a": _side(one.a, one.metric, found.a),
        "b": _side(one.b, one.metric, found.b),
        "absolute": found.absolute,
        "absolute_interval": [found.absolute_low, found.absolute_high],
        "change": found.change,
        "change_interval": [found.low, found.high] if found.ratio else [None, None],
        "p": found.p,
        "p_holm": one.p_holm,
        "method": found.method,
        "p_same": one.p_same,
        "pairs": one.pairs,
        "not_reached": list(one.not_reached),
        "verdict": one.verdict,
        "reason": compared.reason(one),
    }


def _side(cell: "Cell", metric: str, estimate: "Estimate") -> dict[str, Any]:
    return {
        **cell.labels,
        "runs": [each.run.id for each in cell.runs],
        "values": [None if value != value else value for value in cell.values(metric)],
        "n": estimate.runs,
        "mean": estimate.mean,
        "interval": [estimate.low, estimate.high],
    }


def _show(
    arguments: argparse.Namespace, made: list[Any], left_out: list[Any], unlike: dict[str, Any]
) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from ksm_analysis.analysis import compared, comparison

    console = Console()
    shown = Table(box=box.SIMPLE_HEAD)
    factors = [f for f in comparison.FACTORS if f != arguments.by and _varies(made, f)]
    for heading in (*factors, *([arguments.by] if arguments.by else []), "metric"):
        shown.add_column(heading, max_width=44)
    for heading in ("A", "B", "B against A", "p"):
        shown.add_column(heading, justify="right")
    shown.add_column("verdict on B", max_width=40)
    for one in made:
        by = ["\n".join(one.by)] if one.by else []
        cell = [one.a.labels[factor] for factor in factors]
        shown.add_row(*map(Text, [*cell, *by, f"{one.metric}\n{one.unit}", *_numbers(one)]))
    wanted = console.measure(shown, options=console.options.update(width=1000)).maximum
    console.width = max(console.width, wanted)
    console.print("A: {}   B: {}".format(*_called(arguments)), highlight=False)
    console.print(shown)
    console.print(compared.allowed_for(made, arguments.smallest), highlight=False)
    for each in left_out:
        pairs = "1 pair" if each.pairs == 1 else f"{each.pairs} pairs"
        console.print(Text(f"{each.metric} is left out of {pairs}: {each.why}"))
    for line in _unlike_lines(unlike):
        console.print(Text(line))


def _unlike_lines(unlike: dict[str, Any]) -> Iterator[str]:
    """Yield other differences, shortened: two images can differ in a hundred packages."""
    for name, values in list(unlike.items())[:MOST_LINES]:
        ours, theirs = (v if len(v) <= LONGEST else f"{v[:LONGEST]}…" for v in values)
        yield f"A and B also differ in {name}: {ours} / {theirs}"
    if len(unlike) > MOST_LINES:
        yield f"and in {len(unlike) - MOST_LINES} more values, which --json lists"


def _varies(made: list[Any], factor: str) -> bool:
    return len({one.a.labels[factor] for one in made}) > 1


def _numbers(one: "Comparison") -> list[str]:
    """Return the cells of a row: means and change with intervals, p after Holm, verdict."""
    from ksm_analysis.analysis import compared
    from ksm_analysis.analysis.words import short

    sides = [
        f"{short(side)}\nn={side.runs}"
        + (f" of {len(cell.runs)}" if side.runs < len(cell.runs) else "")
        for side, cell in ((one.found.a, one.a), (one.found.b, one.b))
    ]
    p, words = compared.p_value(one), compared.reason(one)
    change = "\n".join(filter(None, compared.change(one)))
    return [*sides, change, p, one.verdict + (f"\n{words}" if words else "")]
