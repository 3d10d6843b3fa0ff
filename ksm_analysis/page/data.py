"""The data that the template of the page shows, by name."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from ksm_analysis.analysis import density, observations, price, recommendation, validity, verdict
from ksm_analysis.analysis.answer import headline
from ksm_analysis.analysis.best import best_of
from ksm_analysis.analysis.settings import settings_of
from ksm_analysis.definition.part import outside
from ksm_analysis.metrics import catalog, measurement
from ksm_analysis.metrics.catalog import Metric
from ksm_analysis.metrics.measurement import Measured
from ksm_analysis.page import (
    census_figures,
    changes,
    findings,
    large,
    picture,
    policy_figures,
    tables,
    tiles,
    words,
)
from ksm_analysis.page.sections import sections_of
from ksm_analysis.results import provenance
from ksm_analysis.results.run import Results, Run

MORE_WARNINGS = "and {} more, which the command summary prints"
FIRST = ("pages_sharing", "general_profit", "ksmd_cpu_percent", "ksm_merging_pages")


def data_of(results: Results) -> dict[str, Any]:
    """Collect the data from all runs of the results."""
    usable = results.usable
    measured = [measurement.measure(run) for run in usable]
    settings = settings_of(measured)
    prices = price.prices(measured)
    fits = density.fits(usable)
    saving = density.beside(settings, fits)
    best = best_of(saving)
    facts = provenance.facts(results.runs)
    first = verdict.named(saving, best)
    checks = observations.checks(measured)
    many = large.is_large(measured, settings)
    listed = large.top(saving, first) if many else saving
    if many:
        figure, sections = large.sections_of(saving, measured, first)
    else:
        figure, sections = picture.chosen(
            sections_of(measured) if measured else [], saving, fits, measured
        )
    warnings = [*results.warnings, *validity.warnings_of(measured)]
    notes = (run.plan.note for run in results.runs)
    return {
        "title": title(results),
        "notes": list(dict.fromkeys(filter(None, notes))),
        "headlines": [
            *density.in_words(fits),
            *([headline(saving)] if saving or not fits else []),
        ],
        "best": best if not many else best[: large.SHOWN],
        "words": words.in_words(usable),
        "warnings": large.listed(warnings, MORE_WARNINGS.format) if many else warnings,
        "answer": tables.of_settings(large.top(settings, first) if many else settings, best),
        "most": large.SHOWN if many else 0,
        "cells": large.table_of(settings, measured) if many else None,
        "prices_missing": price.missing(measured, prices),
        "changes": [
            *policy_figures.table(measured),
            *_of_prices(prices),
            *changes.sections_of(measured, fits),
        ],
        "checks": checks,
        "findings": findings.of_sections(saving, best, prices, fits, checks, results.runs),
        "picture_shows": findings.of_picture(figure.id, checks, measured) if figure else "",
        "summary": None if many else tables.of_runs(measured),
        "simulated": words.simulated(results.runs),
        "tried": words.tried(usable),
        "verdict": verdict.verdict(saving, best, prices, fits),
        "tiles": [
            *tiles.of_fits(fits),
            *tiles.of_settings(first, listed, prices, measured),
        ],
        "picture": figure,
        "sections": sections,
        **choices(measured, [] if many else measured),
        "guests": tables.of_guests(recommendation.cells(measured)),
        "rule": recommendation.RULE,
        "runs": [tables.how_it_went(run) for run in _to_list(results, many)],
        "parts": list(_of_parts(results)),
        "facts": [_brief(fact) for fact in facts] if many else facts,
        "differing": [fact.name for fact in facts if fact.differs],
        "definitions": definitions(measured),
    }


def _of_prices(prices: list[price.Price]) -> Iterator[changes.Table]:
    """Yield the table of what KSM costs, if anything was measured with KSM off, too."""
    if prices:
        yield changes.Table("price", "What it costs", tables.COSTS, **tables.of_prices(prices))


def _of_parts(results: Results) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Yield name, title and table of each external part that has rows to show."""
    for part in outside():
        table = part.table([run for run in results.usable if run.options(part.name) is not None])
        if table is not None and len(table):
            yield part.name, part.title or part.name, table


def title(results: Results) -> str:
    """Return the names of the experiments, or of the directory if there is no run."""
    names = dict.fromkeys(run.record.experiment for run in results.runs)
    return ", ".join(names) if names else results.path.name


def definitions(measured: list[Measured]) -> list[Metric]:
    """List the metrics that the page defines; those of censuses only if a run has one."""
    counted = census_figures.counted(measured)
    of_census = [*catalog.CENSUS, *catalog.CENSUS_GUEST] if counted else []
    return [*catalog.HOST, *catalog.GUEST, *of_census]


def _to_list(results: Results, many: bool) -> Sequence[Run]:
    """Return the runs that the page lists: if there are many, only those that failed."""
    return [run for run in results.runs if not run.complete] if many else results.runs


def _brief(fact: provenance.Fact) -> provenance.Fact:
    """Name only a few of the runs that have a value, and only some of many values."""
    values = [
        (value, tuple(large.listed(ids, lambda left: f"and {left} more")))
        for value, ids in fact.values
    ]
    few = large.listed(values, lambda left: (f"and {left} more values", ()))
    return replace(fact, values=tuple(few))


def choices(measured: list[Measured], drawn: list[Measured]) -> dict[str, Any]:
    """Return what the reader can choose, and what is chosen when the page opens.

    `filters`: the values of each factor that varies. `choices`: metrics that have a figure and a
    value; those of `drawn` have. `chosen`: names of the metrics that are shown when the page opens.
    """
    cells = [{"host": each.run.host, **each.run.factors} for each in measured]
    values = {factor: sorted({cell[factor] for cell in cells}) for factor in tables.FACTORS}
    shown = [
        metric
        for table, frames in (
            (catalog.HOST, [each.host for each in drawn]),
            (catalog.GUEST, [each.guest for each in drawn]),
        )
        for metric in table
        if metric.figure and not metric.beside and _has_values(frames, metric.name)
    ]
    return {
        "filters": {factor: each for factor, each in values.items() if len(each) > 1},
        "choices": shown,
        "chosen": [metric.name for metric in shown if metric.name in FIRST],
    }


def _has_values(frames: list[pd.DataFrame], name: str) -> bool:
    return any(frame[name].notna().any() for frame in frames)
