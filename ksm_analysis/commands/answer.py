"""`answer DIR` says what each setting saves and costs, and which is best."""

import argparse
from typing import TYPE_CHECKING, Any

from ksm_analysis.commands import RESULTS, add_scheduler
from ksm_analysis.results import location

if TYPE_CHECKING:
    from ksm_analysis.analysis.best import Best
    from ksm_analysis.analysis.density import Fit
    from ksm_analysis.analysis.settings import Setting

HELP = "say what each setting saves and costs, and which is best"
DETAILS = """\
Prints what the page of `report` says first: what was saved and what it cost, the settings that
cannot be told from the best, and warnings.

With --json it prints one object:
  headline  a sentence, or several
  fits      with a density, one object per setting: its factors, `runs` (ids), how many `copies` fit
            (an estimate; they are `of` copies or guests), `at_least` (none were added until it
            broke), `reasons` why it broke (with the number of runs), and how many of those that
            `stormed` were `killed`
  settings  one object per setting: its factors, `runs` (ids), `scanned` (ksmd has been through all
            memory often enough to judge it), `plateaued`, `control`, `savings` in MiB and their
            `blocks` (experiment, host, number), and estimates: `mean`, `low`, `high` (95 %
            confidence; null with one run), `runs`. Times `seconds_to_50`, `_90`, `_95` of savings:
            `reached` in how many of the `runs`, `median` (null: not reached), `restricted_mean` (of
            times up to `until`), and `mean` only if each run reached it
  best      one object per host, guests and workload with several settings: `scenario`, `knobs` (a
            list: all that cannot be told from the best, the cheapest first), their `saved_mib`
            (estimates; intervals allow for the selection), `confident` (there is one, and it is
            shown to save most), `equal` (there are several, and they are shown to save the same
            within `margin_percent`), `front` (settings that no other is shown to beat in both
            savings and cost), `why`
  prices    what each setting loses against KSM off, one object per setting and metric that has a
            better side: throughput, writes, and what the runs reported. Losses are positive:
            `percent` and `absolute` (estimates over `pairs`), `p` of a difference by itself and
            `p_holm` among all `tested` prices, `p_same` (of the test that it is less than
            `bound_percent`, among all), `verdict`, `freed_mib` (`freed`: measured), `mib_per` of
            `per` (% or the unit of a time), and `words`. `prices_missing` says why there are none
  warnings  a list of sentences

examples:
  python -m ksm_analysis answer results/quick
  python -m ksm_analysis answer results/original-1 results/original-2 --json | jq '.best[].knobs'
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("directories", metavar="DIR", type=location.place, nargs="+", help=RESULTS)
    add_scheduler(parser)
    parser.add_argument("--json", action="store_true", help="for programs")


def run(arguments: argparse.Namespace) -> int:
    """Print the answer."""
    from dataclasses import asdict

    from ksm_analysis.analysis import density, price, reduction
    from ksm_analysis.analysis.answer import headline
    from ksm_analysis.analysis.best import best_of
    from ksm_analysis.analysis.settings import settings_of
    from ksm_analysis.analysis.validity import warnings_of
    from ksm_analysis.metrics import measurement

    directories = location.locals_of(arguments.directories)
    results = reduction.read_results(directories, arguments.scheduler)
    measured = [measurement.measure(run) for run in results.usable]
    settings = settings_of(measured)
    fits = density.fits(results.usable)
    saving = density.beside(settings, fits)
    best = best_of(saving)
    warnings = [*results.warnings, *warnings_of(measured)]
    words = [*density.in_words(fits), *([headline(saving)] if saving or not fits else [])]
    prices = price.prices(measured)
    missing = price.missing(measured, prices)
    if arguments.json:
        costs = {
            "bound_percent": 100 * price.BOUND,
            "prices": [{**asdict(each), "words": price.in_words(each)} for each in prices],
            "prices_missing": missing,
        }
        _print_json(" ".join(words), fits, settings, best, costs, warnings)
    else:
        _print([*words, *price.sentences(prices), *filter(None, [missing])], best, warnings)
    return 0


def _print_json(
    words: str,
    fits: list["Fit"],
    settings: list["Setting"],
    best: list["Best"],
    costs: dict[str, Any],
    warnings: list[str],
) -> None:
    import json
    from dataclasses import asdict

    from ksm_analysis.analysis.statistics import MARGIN

    found: dict[str, Any] = {
        "headline": words,
        "fits": [asdict(fit) for fit in fits],
        "settings": [asdict(setting) for setting in settings],
        "best": [
            {
                "scenario": each.scenario,
                "knobs": [setting.knobs for setting in each.settings],
                "saved_mib": [asdict(s.saved_mib) if s.saved_mib else None for s in each.settings],
                "confident": each.confident,
                "equal": each.equal,
                "margin_percent": 100 * MARGIN,
                "front": [setting.knobs for setting in each.front],
                "why": each.why,
            }
            for each in best
        ],
        **costs,
        "warnings": warnings,
    }
    print(json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False))


def _print(words: list[str], best: list["Best"], warnings: list[str]) -> None:
    import textwrap

    lines = words
    for each in best:
        title = (
            f"{each.settings[0].knobs} is the best"
            if each.confident
            else "no setting is shown to be the best"
        )
        lines.append(f"{each.scenario}: {title}. {each.why}")
    lines += [f"warning: {warning}" for warning in warnings]
    for line in lines:
        print(textwrap.fill(line, 100, subsequent_indent="  ", break_on_hyphens=False))
