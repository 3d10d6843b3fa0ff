"""`compare A B` tests whether two sets of runs differ."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ksm_analysis.commands import add_scheduler

if TYPE_CHECKING:
    from ksm_analysis.analysis.comparison import Cell, Comparison
    from ksm_analysis.analysis.statistics import Estimate

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
  python -m ksm_analysis compare old new --json --fail-on-difference || echo "exit status 3"
"""
MOST_LINES, LONGEST = 20, 80  # lines of other differences, and their length, on the screen
FACTORS = ("host", "guests", "knobs", "workload", "sampling")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    add = parser.add_argument
    add("a", metavar="A", type=Path, help="results of an experiment, the baseline")
    add("b", metavar="B", type=Path, help="results to compare with A")
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
    import sys

    from ksm_analysis.analysis import comparison, reduction, statistics
    from ksm_analysis.metrics import measurement, reported

    names = arguments.metric or list(comparison.DEFAULT)
    same = arguments.a.resolve() == arguments.b.resolve()
    measured = []
    for directory in (arguments.a,) if same else (arguments.a, arguments.b):
        results = reduction.read_results([directory], arguments.scheduler)
        for warning in dict.fromkeys((*results.warnings, *reported.warnings_of(results.usable))):
            print(f"warning: {directory}: {warning}", file=sys.stderr)
        measured.append([measurement.measure(run) for run in results.usable])
    sides = comparison.group(*measured) * (2 if same else 1)
    comparison.check_metrics(names, [cell for side in sides for cell in side])
    pairs = comparison.pair(sides[0], sides[1], arguments.by, same)
    _tell_unpaired(arguments, sides, pairs)
    _warn_of_lengths(pairs)
    made, left_out = comparison.compare(pairs, names, arguments.by, arguments.smallest / 100)
    show = _print_json if arguments.json else _show
    show(arguments, made, left_out, comparison.unlike(pairs, arguments.by))
    differs = any(one.verdict in (statistics.HIGHER, statistics.LOWER) for one in made)
    return 3 if arguments.fail_on_difference and differs else 0


def _tell_unpaired(arguments: argparse.Namespace, sides: list[Any], pairs: list[Any]) -> None:
    """Print to standard error the cells without a counterpart."""
    import sys

    used = {id(cell) for both in pairs for cell in both}
    same = sides[0] is sides[1]
    for directory, side in list(zip((arguments.a, arguments.b), sides, strict=True))[: 2 - same]:
        for cell in side:
            if id(cell) not in used:
                words = ", ".join(f"{name} {value}" for name, value in cell.labels.items())
                why = f"no counterpart in {directory}" if same else f"only in {directory}"
                print(f"{why}: {words}", file=sys.stderr)


def _warn_of_lengths(pairs: list[Any]) -> None:
    import sys

    if any(a.labels["sampling"] != b.labels["sampling"] for a, b in pairs):
        print(
            "warning: A and B are sampled differently. Their final values are comparable only if "
            "both were steady",
            file=sys.stderr,
        )


# --- output ---------------------------------------------------------------------------------------


def _print_json(
    arguments: argparse.Namespace, made: list[Any], left_out: list[Any], unlike: dict[str, Any]
) -> None:
    import dataclasses
    import json

    document = {
        "a": str(arguments.a),
        "b": str(arguments.b),
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
        "reason": reason(one),
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


def reason(one: "Comparison") -> str:
    """Return the reason of a verdict, or what is missing for one, and runs that are censored."""
    never = [
        f"{count} {'run' if count == 1 else 'runs'} of {side}"
        for count, side in zip(one.not_reached, "AB", strict=True)
        if count
    ]
    censored = f"not reached in {' and '.join(never)}: at least the time shown" if never else ""
    return "; ".join(filter(None, (_why(one), censored)))


def _why(one: "Comparison") -> str:
    from ksm_analysis.analysis import statistics

    found = one.found
    if one.pairs is not None and any(one.missing):
        count = one.missing[0]
        words = "1 more pair" if count == 1 else f"{count} more pairs"
        return f"{words} of runs with the same host and repetition needed"
    if any(one.missing):
        sides = [
            f"{count} more {'run' if count == 1 else 'runs'} of {side}"
            for count, side in zip(one.missing, "AB", strict=True)
            if count
        ]
        return f"{' and '.join(sides)} needed"
    if found.method == "constant":
        return "all runs of a side have the same value: nothing to test"
    if one.verdict != statistics.NOT_SHOWN:
        return "" if found.ratio else "relative to the larger mean, as not all values are positive"
    p, p_holm = found.p, one.p_holm
    if p is not None and p_holm is not None and p < 1 - statistics.CONFIDENCE <= p_holm:
        return f"p is {p:.3f} alone: not significant among so many comparisons"
    if one.needed and one.needed > max(found.a.runs, found.b.runs):
        unit = "runs per side" if one.pairs is None else "pairs"
        return f"about {one.needed:,} {unit} would decide"
    return ""


def _show(
    arguments: argparse.Namespace, made: list[Any], left_out: list[Any], unlike: dict[str, Any]
) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from ksm_analysis.analysis import comparison

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
    console.print(f"A: {arguments.a}   B: {arguments.b}", highlight=False)
    console.print(shown)
    console.print(_footer(arguments, made), highlight=False)
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
    from ksm_analysis.analysis.words import short

    found = one.found
    sides = [
        f"{short(side)}\nn={side.runs}"
        + (f" of {len(cell.runs)}" if side.runs < len(cell.runs) else "")
        for side, cell in ((found.a, one.a), (found.b, one.b))
    ]
    if found.change is not None:
        change = f"{found.change:+.1%}"
        if found.low is not None and found.method != "constant":
            change += f"\n{found.low:+.1%} to {found.high:+.1%}"
    else:
        change = f"{found.absolute:+,.4g}"
        if found.absolute_low is not None and found.method != "constant":
            change += f"\n{found.absolute_low:+,.4g} to {found.absolute_high:+,.4g}"
    p = "" if one.p_holm is None else f"{one.p_holm:.3f}" if one.p_holm >= 0.001 else "<0.001"
    words = reason(one)
    return [*sides, change, p, one.verdict + (f"\n{words}" if words else "")]


def _footer(arguments: argparse.Namespace, made: list[Any]) -> str:
    tested = sum(one.p_holm is not None for one in made)
    if not tested:
        return "No verdict: 3 runs on each side are needed (`repetitions: 3` in the experiment)."
    return (
        f"p is adjusted for {tested} {'comparison' if tested == 1 else 'comparisons'} (Holm); "
        f"95 % intervals are not. Less than {arguments.smallest:g} % does not matter."
    )
