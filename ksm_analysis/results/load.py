"""Read the load of a run: how long answers took, from when their requests were due.

The format is that of load.jsonl in docs/data.md. A damaged line loses only its own requests.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from hdrh.histogram import HdrHistogram

LOWEST, HIGHEST, DIGITS = 1_000, 10**12, 3  # ns, ns, significant digits of a histogram
READS, WRITES, LATE = KINDS = ("reads", "writes", "late")
PERCENTILES = {"p50": 50.0, "p99": 99.0, "p999": 99.9}
UNITS = {  # of what a run reports of its load, and which values are better
    "load_p50_ms": ("ms", "lower"),
    "load_p99_ms": ("ms", "lower"),
    "load_p999_ms": ("ms", "lower"),
    "load_write_p99_ms": ("ms", "lower"),
    "load_throughput": ("1/s", "higher"),
    "load_errors_percent": ("%", "lower"),
    "load_late_p99_ms": ("ms", ""),
    "load_cpu_percent": ("%", ""),
}


@dataclass
class Interval:
    """What was counted in a part of a run.

    `counts` has, for each of KINDS, times in ns and how often. `begun` and `ended` are monotonic
    times, `cpu` is CPU time of the generator, in seconds. `errors` are requests that failed.
    """

    begun: float
    ended: float
    counts: dict[str, Counter[int]] = field(default_factory=lambda: {k: Counter() for k in KINDS})
    seconds: float = 0.0
    cpu: float = 0.0
    errors: int = 0

    def add(self, other: "Interval") -> None:
        """Count what another interval has, too."""
        for kind, counts in other.counts.items():
            self.counts[kind].update(counts)
        self.begun, self.ended = min(self.begun, other.begun), max(self.ended, other.ended)
        self.seconds += other.seconds
        self.cpu += other.cpu
        self.errors += other.errors

    def values(self) -> dict[str, float]:
        """Return the metrics of UNITS that it has."""
        asked = self.counts[READS] + self.counts[WRITES]
        answered = asked.total()
        found = {f"load_{name}_ms": ms for name, ms in percentiles(asked).items()}
        for kind, name in ((WRITES, "load_write"), (LATE, "load_late")):
            found |= {f"{name}_{of}_ms": ms for of, ms in percentiles(self.counts[kind]).items()}
        if answered + self.errors:
            found["load_errors_percent"] = 100 * self.errors / (answered + self.errors)
        if self.seconds:
            found["load_throughput"] = answered / self.seconds
            found["load_cpu_percent"] = 100 * self.cpu / self.seconds
        return {name: found[name] for name in UNITS if name in found}


@dataclass(frozen=True)
class Load:
    """The load of a run after its warm-up, in the run's intervals.

    `answered`: all requests had a good answer, and none waited for a connection at the end.
    """

    intervals: tuple[Interval, ...]
    answered: bool = True
    warnings: tuple[str, ...] = ()

    def lines(self) -> Iterator[dict[str, Any]]:
        """Yield what the run reports: lines with `metric`, one for each interval."""
        for interval in self.intervals:
            at = {"since": interval.begun, "monotonic": interval.ended}
            for name, value in interval.values().items():
                unit, better = UNITS[name]
                yield {"metric": name, "value": value, "unit": unit, "better": better or None, **at}


def together(intervals: Iterable[Interval]) -> Interval:
    """Put intervals together: their histograms are added. Without any, it is empty."""
    first, *others = intervals
    merged = Interval(first.begun, first.ended)
    for each in (first, *others):
        merged.add(each)
    return merged


def percentiles(counts: Counter[int]) -> dict[str, float]:
    """Return percentiles in ms. One that fewer than one time is expected beyond is left out."""
    total = counts.total()
    names = {of: q for of, q in PERCENTILES.items() if total * (1 - q / 100) >= 1 - 1e-9}
    if not names:
        return {}
    histogram = HdrHistogram(LOWEST, HIGHEST, DIGITS)
    for ns, count in counts.items():
        histogram.record_value(min(max(ns, LOWEST), HIGHEST), count)
    found = histogram.get_percentile_to_value_dict([*names.values()])
    return {of: found[q] / 1e6 for of, q in names.items()}


def of_lines(lines: list[dict[str, Any]], start: float, interval: float) -> Load | None:
    """Read the lines of load.jsonl; None if none of them has requests after the warm-up.

    `start` is the monotonic time at which the run's intervals begin; they have that many seconds.
    """
    given = [line for line in lines if line.get("kind") == "requests"]
    whole = [line for line in given if _is_whole(line)]
    measured = [line for line in whole if line["warmup"] is False]
    if not measured:
        return None
    found: dict[int, Interval] = {}
    for line in measured:
        window = _window(line)
        middle = (window.begun + window.ended) / 2  # a line ends a little late
        place = max(0, math.floor((middle - start) / interval))
        if place in found:
            found[place].add(window)
        else:
            found[place] = window
    ended = any(line.get("kind") == "end" for line in lines)
    intervals = tuple(found[place] for place in sorted(found))
    bad = len(given) - len(whole)
    warnings = [f"{bad} of the lines of its load are damaged; they are skipped"] * bool(bad)
    every, waiting = together(intervals), whole[-1]["waiting"] if ended else 0
    warnings += _warnings(every, waiting)
    return Load(intervals, not every.errors and not waiting, tuple(warnings))


def _window(line: dict[str, Any]) -> Interval:
    """Make an interval of one line."""
    counts = {kind: Counter({int(ns): n for ns, n in line[kind].items()}) for kind in KINDS}
    ended = line["monotonic"]
    cpu, seconds = line["cpu_seconds"], line["seconds"]
    return Interval(ended - seconds, ended, counts, seconds, cpu, line["errors"])


def _is_whole(line: dict[str, Any]) -> bool:
    times = (line.get(key) for key in ("monotonic", "seconds", "cpu_seconds"))
    numbers = (line.get(key) for key in ("errors", "waiting"))
    return (
        isinstance(line.get("warmup"), bool)
        and all(_is_number(each, int, float) for each in times)
        and all(_is_number(each, int) for each in numbers)
        and all(_are_counts(line.get(kind)) for kind in KINDS)
    )


def _is_number(value: Any, *kinds: type) -> bool:
    return type(value) in kinds and 0 <= value < 2**63


def _are_counts(counts: object) -> bool:
    return isinstance(counts, dict) and all(
        ns.isdecimal() and ns.isascii() and len(ns) < 20 and type(n) is int and 0 < n < 2**63
        for ns, n in counts.items()
    )


def _warnings(every: Interval, waiting: int) -> Iterator[str]:
    """Yield what the reader of the numbers must know."""
    values = every.values()
    if every.errors:
        share = f"{values['load_errors_percent']:.2g} % of all"
        yield f"{every.errors} requests of its load failed or had no answer ({share})"
    if waiting:
        yield (
            f"the copies did not keep up with the load: at its end, {waiting} requests waited, so"
            " the latencies depend on the length of the run"
        )
    late, p99 = values.get("load_late_p99_ms", 0.0), values.get("load_p99_ms", math.inf)
    if late > p99 / 2:
        yield (
            f"the load generator itself was late by {late:.2g} ms (p99), more than half of the"
            f" latencies' p99 of {p99:.2g} ms: it waited for a processor, as the service may have"
        )
