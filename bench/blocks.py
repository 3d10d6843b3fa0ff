#!/usr/bin/env python3
"""Measure what repetitions allow to say about settings: rates of false and of true statements.

Simulates experiments with several settings, in blocks that differ by 50 %, as `answer` and `report`
judge them: tests within blocks, the settings that may be best, the interval of the best after its
selection, ties, and the front of savings against cost. Every rate has a standard error. A rate of
false statements has a limit of 5 %; "no limit" marks power, and cases that are known to be hard.
"""

import argparse
import sys
import warnings
from types import SimpleNamespace

import numpy as np
from false_positives import alarms, in_blocks, narrow, normal, report, share, skewed

from ksm_analysis.analysis import statistics
from ksm_analysis.analysis.blocks import Block
from ksm_analysis.analysis.front import on_front

LEVEL = 1 - statistics.CONFIDENCE
SETTINGS, FEW, SCATTER = (2, 4, 10), (3, 5), 0.01
UNPAIRED = 50  # experiments of ten settings: the test without blocks takes a fifth of a second each


def pairs(generator, times):
    """Print false alarms of the paired test, and its power beside that of the unpaired one."""
    beyond = 0
    for kind in (normal, skewed):
        for count in (3, 5, 10):
            found = share(paired_alarms(in_blocks(generator, (times, count, 2), kind)))
            beyond += report(f"pairs, {kind.__name__}, {count} blocks", found)
    for count in (3, 5, 10):
        tables = in_blocks(generator, (times // 2, count, 2), narrow)
        tables[..., 1] *= 1.05
        report(f"5 % more is found in {count} pairs", share(paired_alarms(tables)), None)
        few = tables[: times // (2 if count < statistics.MANY else 20)]
        found = share(alarms(few[..., 0], few[..., 1]))
        report(f"the same, without pairs, {count} runs a side", found, None)
    for count in (3, 5, 10):
        tables = normal(generator, (times // 2, count, 2))
        tables[..., 1] *= 1.25
        report(f"no blocks: 25 % more in {count} pairs", share(paired_alarms(tables)), None)
        few = tables[: times // (2 if count < statistics.MANY else 20)]
        report("the same, without pairs", share(alarms(few[..., 0], few[..., 1])), None)
    return beyond


def paired_alarms(tables):
    """Whether each experiment has p below 0.05; the last axes are blocks and two settings."""
    return [statistics.paired(*table.T).p < LEVEL for table in tables]


# --- the best -------------------------------------------------------------------------------------


def best(generator, times):
    """Print how often equal settings are separated, and how often the true best is found."""
    beyond = 0
    for settings in SETTINGS:
        for count in FEW:
            tables = in_blocks(generator, (times, count, settings), narrow)
            chosen = [statistics.may_be_greatest_in_blocks(table) for table in tables]
            words = f"{settings} equal settings, {count} blocks"
            false = share([sum(each) == 1 for each in chosen])
            beyond += report(f"{words}: one is called the best", false)
            beyond += report(f"{words}: any is excluded", share([not all(c) for c in chosen]))
    for settings in SETTINGS:
        for words, spreads in unequal(settings):
            noise = 0.01 * spreads * generator.normal(size=(times, 5, settings))
            found = [
                not all(statistics.may_be_greatest_in_blocks(each)) for each in 100 * np.exp(noise)
            ]
            report(f"{settings} equal settings, 5 blocks, {words}: excluded", share(found), None)
    for settings in SETTINGS:
        few = UNPAIRED if settings > 4 else times // 5
        for count in FEW:
            tables = in_blocks(generator, (times // 5, count, settings), narrow)
            tables[..., 0] *= 1.05
            words = f"the best of {settings}, by 5 %, {count} repetitions"
            report(words, share(found_best(statistics.may_be_greatest_in_blocks, tables)), None)
            found = found_best(lambda t: statistics.may_be_greatest(t.T), tables[:few])
            report("the same, without blocks", share(found), None)
    return beyond


def unequal(settings):
    """Yield cases of unequal spreads, in percent."""
    odd = np.ones(settings)
    odd[0] = 10
    yield "1 to 3 %", np.linspace(1, 3, settings)
    yield "one 10 %", odd


def found_best(test, tables):
    """Whether each test finds that the first setting is the only best."""
    return [test(table) == [True] + [False] * (table.shape[1] - 1) for table in tables]


def covered(generator, times, settings, runs, apart):
    """Whether the interval of the greatest mean has its true mean; without and with correction.

    The true means are from 100 to 100 + `apart`, in standard errors of a mean, in equal steps.
    """
    true = 100 + apart * SCATTER * 100 / np.sqrt(runs) * np.linspace(0, 1, settings)
    values = generator.normal(true, 100 * SCATTER, (times, runs, settings))
    first = values.mean(axis=1).argmax(axis=1)
    found = []
    for table, chosen in zip(values, first, strict=True):
        plain, fair = (statistics.estimate(table[:, chosen], n) for n in (1, settings))
        found.append([each.low <= true[chosen] <= each.high for each in (plain, fair)])
    return np.array(found).T


def selected(generator, times):
    """Print how often the interval of the selected setting has its true mean."""
    beyond = 0
    for settings in SETTINGS:
        for runs in FEW:
            for apart in (0, 1, 3, 30):
                plain, fair = covered(generator, times, settings, runs, apart)
                words = f"best of {settings}, {runs} runs, {apart} errors apart: not covered"
                beyond += report(words, share(~fair))
                if not apart:
                    report("the same, without the correction (not done)", share(~plain), None)
    return beyond


# --- ties and the front ---------------------------------------------------------------------------


def ties(generator, times):
    """Print how often what differs by the margin is called the same, and what is equal."""
    beyond = 0
    for runs in FEW:
        for difference, limit in ((0.01, LEVEL), (-0.01, LEVEL), (0, None)):
            tables = in_blocks(generator, (times, runs, 2), lambda g, s: g.lognormal(0, 0.003, s))
            tables[..., 1] *= 1 + difference
            found = [statistics.equivalence(*t.T, 0.01, in_blocks=True) < LEVEL for t in tables]
            words = f"{difference:+.0%} is called the same within 1 %, {runs}"
            beyond += report(f"{words} blocks", share(found), limit)
            a, b = generator.normal([[100]] * 2, 0.3, (times, 2, runs)).transpose(1, 0, 2)
            b += 100 * difference
            both = zip(a, b, strict=True)
            found = [statistics.equivalence(*each, 0.01) < LEVEL for each in both]
            beyond += report(f"{words} runs a side", share(found), limit)
    return beyond


def made(table, costs):
    """Make what on_front needs of settings: the columns of both tables."""
    blocks = tuple(Block("simulated", "host", n) for n in range(len(table)))
    none = (None,) * len(table)
    return [
        SimpleNamespace(savings=tuple(s), cpu_seconds=tuple(c), throughputs=none, blocks=blocks)
        for s, c in zip(table.T, costs.T, strict=True)
    ]


def front(generator, times):
    """Print how often a setting that nothing beats is excluded, and how often one is that is."""
    beyond = 0
    for settings in (2, 4):
        for count in FEW:
            for words, step in (("equal costs", 0), ("costs 20 % apart", 0.2)):
                shape = (times, count, settings)
                saved, cost = (in_blocks(generator, shape, narrow) for _ in "sc")
                cost = cost * (1 + step * np.arange(settings))
                found = [not all(on_front(made(*each))) for each in zip(saved, cost, strict=True)]
                words = f"front, {settings} settings, {count} blocks, {words}: excluded"
                beyond += report(words, share(found))
            saved[..., 0] *= 1.05
            found = [on_front(made(*each)) for each in zip(saved, cost, strict=True)]
            wanted = [True] + [False] * (settings - 1)
            words = f"front, {settings}, {count} blocks, one beats all: found"
            report(words, share([each == wanted for each in found]), None)
    return beyond


SECTIONS = {each.__name__: each for each in (pairs, best, selected, ties, front)}


def main():
    """Print the rates. Exits 1 if a rate of false statements exceeds 5 % by more than its error."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help=f"any of: {', '.join(SECTIONS)} (default: all)")
    add("--times", type=int, default=500, help="experiments each (default: 500)")
    arguments = parser.parse_args()
    if arguments.times < 200:
        parser.error("--times: fewer than 200 say nothing")
    if unknown := set(arguments.names) - set(SECTIONS):
        parser.error(f"no section {', '.join(sorted(unknown))}")
    warnings.simplefilter("error")
    statistics.RESAMPLES = 999  # fewer permutations make p coarser, but not biased
    generator = np.random.default_rng(1)
    names = arguments.names or list(SECTIONS)
    return 1 if sum(SECTIONS[name](generator, arguments.times) for name in names) else 0


if __name__ == "__main__":
    sys.exit(main())
