"""The picture of an experiment: the figure at the top of the page, chosen by what was varied."""

from collections.abc import Sequence
from dataclasses import replace

from ksm_analysis.analysis.answer import shared
from ksm_analysis.analysis.density import Fit
from ksm_analysis.analysis.settings import Setting
from ksm_analysis.analysis.words import join
from ksm_analysis.metrics.catalog import Metric
from ksm_analysis.metrics.measurement import Measured
from ksm_analysis.metrics.values import gauge
from ksm_analysis.page import drawing, figures
from ksm_analysis.page.drawing import COLOURS, GREY, text
from ksm_analysis.page.sections import Figure, Section

HEIGHT = 270  # pixels, without the legend: the top of the page fits a screen
# Figures that show what a special experiment is for, if they are there
SPECIAL = ("phase-lock", "writes-distribution", "load-latencies")


def chosen(
    sections: list[Section], settings: list[Setting], fits: Sequence[Fit], measured: list[Measured]
) -> tuple[Figure | None, list[Section]]:
    """Return the picture, and the sections without it: no figure is on the page twice."""
    figure = _picture({f.id: f for s in sections for f in s.figures}, settings, fits, measured)
    if figure is None:
        return None, sections
    left = [
        replace(section, figures=tuple(f for f in section.figures if f.id != figure.id))
        for section in sections
    ]
    return _flat(figure), [section for section in left if section.figures]


def _flat(figure: Figure) -> Figure:
    """Return the figure in the height of the top, if it does not have one of its own."""
    for _, panel in figure.panels:
        panel.layout.meta = {"height": HEIGHT, **(panel.layout.meta or {})}
    return replace(figure, wide=True, metric="")


def _picture(
    there: dict[str, Figure],
    settings: list[Setting],
    fits: Sequence[Fit],
    measured: list[Measured],
) -> Figure | None:
    if fits:
        return _of_fits(fits)
    if special := next((there[name] for name in SPECIAL if name in there), None):
        return special
    known, over_time = shared(settings), there.get("saved-by-time")
    if any(each.run.plan.policy for each in measured):
        return there.get("saved-and-limit", over_time)
    if "saved-by-guests" in there:
        return there["saved-by-guests"]
    if len({(s.workload, s.knobs, s.host) for s in known}) > 1:
        return there.get("savings-against-cost", over_time)
    return there.get("census-by-kind", over_time)


def _of_fits(fits: Sequence[Fit]) -> Figure:
    figure = drawing.figure(Metric("fit", fits[0].of, "derived", "", "", gauge("")))
    ordered = sorted(fits, key=lambda fit: not fit.off)
    figure["data"].append(
        {
            "type": "bar",
            "x": [text(join(_load(fit, fits), _way(fit))) for fit in ordered],
            "y": [fit.copies.mean for fit in ordered],
            "error_y": figures.bars([fit.copies for fit in ordered], {"line": {"color": GREY}}),
            "name": "how many fit",
            "marker": {"color": COLOURS[0]},
            "hovertemplate": "%{x}: %{y:,.3~g}<extra></extra>",
            "meta": {
                "by": {
                    name: [getattr(fit, name) for fit in ordered]
                    for name in ("host", "workload", "knobs")
                }
            },
        }
    )
    figure["layout"]["xaxis"] |= {"type": "category"}
    figure["layout"] |= {"showlegend": False, "bargap": 0.6}
    help_ = "How many were there before one was killed or no longer answered; 95 % intervals."
    return Figure("fit-by-setting", "How many fit", help_, tuple(drawing.finished([("", figure)])))


def _load(fit: Fit, fits: Sequence[Fit]) -> str:
    return fit.workload if len({each.workload for each in fits}) > 1 else ""


def _way(fit: Fit) -> str:
    return "KSM off" if fit.off else fit.knobs
