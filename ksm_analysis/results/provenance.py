"""Provenance: what the numbers of runs depend on, and how runs differ in it."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ksm_analysis.results.run import Run

DETAILS = re.compile(r"(image( [^.]+)?\.(packages|inputs)|kernel\.config|knobs before)\.")


@dataclass(frozen=True)
class Fact:
    """One line of provenance: its values, and the ids of the runs that have each."""

    name: str
    values: tuple[tuple[str, tuple[str, ...]], ...]

    @property
    def differs(self) -> bool:
        """Whether runs differ in it."""
        return len(self.values) > 1

    @property
    def detail(self) -> bool:
        """Whether readers need it only to find the cause of a problem."""
        return not self.differs and DETAILS.match(self.name) is not None


def facts(runs: Sequence[Run]) -> list[Fact]:
    """List all facts that runs depend on, and which runs have which value."""
    found: dict[str, dict[str, list[str]]] = {}
    for run in runs:
        record = run.record
        parts = {
            **record.provenance,
            "knobs": record.knobs.during,
            "knobs before": record.knobs.before,
            "guests": {k: v for k, v in run.plan.guests.asked().items() if k != "count"},
            "sampling": run.plan.sampling.asked(),
            "census": run.options("census") or {},
            "host": run.host,
            **({"simulated": record.simulated.asked()} if record.simulated else {}),
        }
        for name, value in _flat("", parts):
            found.setdefault(name, {}).setdefault(value, []).append(run.id)
    return [
        Fact(name, tuple((value, tuple(ids)) for value, ids in values.items()))
        for name, values in found.items()
    ]


def _flat(name: str, value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(f"{name}.{key}" if name else str(key), inner)
    else:
        yield name, value if isinstance(value, str) else json.dumps(value)
