"""Run the governor's core against the simulator of ksmd."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
from programs import ROLES, load

from ksm_analysis.simulator.ksmd import Costs, Ksmd

GOVERNOR = load(ROLES / "governor/files/ksm_governor.py")
SCALE = 64  # pages of the host for each simulated page
COSTS = Costs(*[2e-6] * 4, skipped=0.0)
RESTS = {"run": 0, "smart_scan": 1, "pages_to_scan": 100, "sleep_millisecs": 20}


@dataclass
class Governed:
    """A host whose governor has run for a while."""

    settings: object = field(default_factory=GOVERNOR.Settings)
    cpu_pressure: float = 0.0
    memory_pressure: float = 0.0
    ksmd: Ksmd = field(default_factory=lambda: Ksmd(costs=COSTS))
    state: object = field(default_factory=GOVERNOR.State)
    decisions: list[tuple[float, object]] = field(default_factory=list)
    saved: float = 0.0  # page seconds
    limit: float = 0.0

    def look(self):
        """What the governor sees."""
        ksmd = self.ksmd
        return GOVERNOR.Seen(
            ksmd.clock,
            ksmd.pages * SCALE,
            ksmd.broken * SCALE,
            ksmd.saved * SCALE,
            ksmd.volatile * SCALE,
            ksmd.scanned * SCALE,
            ksmd.full_scans,
            ksmd.cpu * SCALE,
            self.memory_pressure,
            self.cpu_pressure,
            GOVERNOR.STEP,
        )

    def run(self, until: float, events: Iterable[tuple[float, Callable[[Ksmd], object]]] = ()):
        """Let time pass to `until`. Events are (when, what to do with the memory), in order."""
        events = list(events)
        limit = self.ksmd.limit()
        while self.ksmd.clock < until:
            while events and events[0][0] <= self.ksmd.clock:
                events.pop(0)[1](self.ksmd)
                limit = self.ksmd.limit()
            self.state, decision = GOVERNOR.decide(self.state, self.look(), self.settings)
            if decision:
                self.decisions.append((self.ksmd.clock, decision))
                knobs = dict(decision.knobs)
                if "pages_to_scan" in knobs:
                    knobs["pages_to_scan"] = max(1, knobs["pages_to_scan"] // SCALE)
                self.ksmd.set(knobs)
            wait = GOVERNOR.STEP if self.state.passes else GOVERNOR.LOOK
            self.saved += wait * self.ksmd.freed
            self.limit += wait * limit
            self.ksmd.advance(wait)
        return self

    @property
    def efficiency(self):
        return self.saved / self.limit if self.limit else 1.0

    @property
    def cpu(self):
        return self.ksmd.cpu * SCALE


def copy(number, pages=384, equal=0.5, zero=0.1):
    """Contents of a process: some equal to those of others, some zeros, the rest unique."""
    equals, zeros = round(pages * equal), round(pages * zero)
    own = -1 - number * 1000 - np.arange(pages - equals - zeros)
    return np.concatenate([np.arange(1, equals + 1), np.zeros(zeros, int), own])
