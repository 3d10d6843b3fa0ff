"""Populations of a definition: guests drawn from a trace, for simulations only."""

import itertools
from typing import Annotated, Any

from pydantic import Field

from ksm_analysis.definition.values import OneOrList, OrLeftOut, Strict, Switch, number, says, whole


class Population(Strict):
    """How many guests, of which trace, and how much of their memory changes."""

    trace: OneOrList[
        Annotated[
            str,
            Field(pattern=r"^[^\x00]+$", strict=True),
            says("the name of a trace of the package, or a directory that has a trace"),
        ]
    ] = Field(
        description="Whose contents: the name of a trace that comes with the package, or a"
        " directory, such as that of a run; one cell for each."
    )
    guests: OneOrList[Annotated[int, whole(1, 1000)]] = Field(
        description="How many guests are drawn from the trace: one cell for each number."
    )
    hosts: OrLeftOut[Annotated[int, whole(1, 1000)]] = Field(
        default=None,
        description="How many hosts have so many guests each. A host is a repetition whose guests"
        " are drawn at random, whatever the others have drawn. Without, a repetition draws each"
        " guest of the trace equally often.",
    )
    churn_percent: OrLeftOut[OneOrList[Annotated[float, number(0, 50)]]] = Field(
        default=None,
        description="Part of the pages that is written from one full scan to the next, in percent:"
        " one cell for each number. Without, pages change as in the trace.",
    )
    count_bytes: Switch = Field(
        default=False,
        description="Count the bytes that ksmd compares, and what hashes would take instead.",
    )

    @property
    def variants(self) -> list[dict[str, Any]]:
        """All combinations of trace and churn, as a label names them."""
        return [
            {"trace": trace} | ({} if churn is None else {"churn": f"{churn:g} %"})
            for trace, churn in self._variants
        ]

    @property
    def _variants(self) -> list[tuple[str, float | None]]:
        churns: list[float | None] = [*self.churn_percent] if self.churn_percent else [None]
        return [*itertools.product(self.trace, churns)]

    def options(self, variant: int, guests: int) -> dict[str, Any]:
        """Return the options of the part for one of the variants."""
        trace, churn = self._variants[variant]
        counts = {"count_bytes": True} if self.count_bytes else {}
        hosts = {"hosts": self.hosts} if self.hosts else {}
        return {"trace": trace, "guests": guests, "churn_percent": churn, **hosts, **counts}
