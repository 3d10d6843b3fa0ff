"""Read what commands print as metrics: JSON lines, or the output of a well-known program.

A reader gets the lines of one command, and yields the number of the line and the metric: `metric`,
`value`, `unit`, `better`, and `seconds` since the command began, if the output says so.
"""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ksm_analysis.results.reported import HIGHER, LOWER, count, shown
from ksm_analysis.results.run import Run

Metric = dict[str, Any]
Found = Iterator[tuple[int, Metric]]
KEYS = ("metric", "value", "unit", "better")
NAMED = 3  # guests or processes that a warning names
PERCENTILES = {"p50": 0.5, "p99": 0.99, "p999": 0.999}


class Line(NamedTuple):
    """A line that a command printed, and when it was seen, on the host's CLOCK_MONOTONIC."""

    text: str
    monotonic: float


class Output(NamedTuple):
    """What one command printed. `of` names its guest or process, `form` is one of READERS.

    `began` is when it began, if its lines were seen only when it had ended.
    """

    form: str
    of: str
    lines: list[Line]
    began: float | None = None

    @property
    def printed(self) -> list[Line]:
        """The lines that are not empty."""
        return [line for line in self.lines if line.text.strip()]


def of_run(run: Run) -> tuple[list[Metric], list[str]]:
    """Return what the commands of a run have printed as lines of metrics, and warnings.

    Only what the definition asks for is read: `metrics` of a task of the guests, or of processes.
    """
    outputs = [*_of_guests(run), *_of_processes(run)]
    unknown = {each.form for each in outputs} - {*READERS}
    warnings = [f"this version cannot read metrics of {shown(form)}" for form in sorted(unknown)]
    known = [each for each in outputs if each.form in READERS]
    read = [metrics_of(each) for each in known]
    warnings += [*_faults(known, read), *_cut(run)]
    return [metric for found in read for metric in found], warnings


def _cut(run: Run) -> Iterator[str]:
    for event in run.events:
        if event["event"] == "output cut":
            yield f"{shown(event.get('process'))} printed too much: the rest was not kept"


def _of_guests(run: Run) -> Iterator[Output]:
    """Yield what the commands of guests printed."""
    forms = {
        number: str(task["metrics"])
        for task in run.tasks
        for number in task["guests"]
        if task.get("metrics")
    }
    began = {e.get("guest"): e["monotonic"] for e in run.events if e["event"] == "workload started"}
    for event in run.events:
        guest, at = event.get("guest") or "", event["monotonic"]
        form = forms.get(_number_of(guest))
        if event["event"] == "workload stopped" and form:
            lines = [
                Line(text.rstrip("\r"), at) for text in (event.get("stdout") or "").split("\n")
            ]
            yield Output(form, guest, lines, began.get(guest, at))


def _number_of(guest: str) -> int:
    """Return the number of a guest, with which its name ends."""
    digits = re.search(r"[0-9]{1,9}$", guest)
    return int(digits[0]) if digits else 0


def _of_processes(run: Run) -> Iterator[Output]:
    """Yield what the copies of a command printed, with the time of each line."""
    form = (run.options("processes") or {}).get("metrics")
    if not form:
        return
    lines: dict[str, list[Line]] = {
        str(e.get("process")): [] for e in run.events if e["event"] == "process ready"
    }
    for line in run.lines("processes"):
        text, of, at = line.get("output"), line.get("process"), line.get("monotonic")
        if isinstance(text, str) and isinstance(of, str) and isinstance(at, int | float):
            lines.setdefault(of, []).append(Line(text, at))
    yield from (Output(str(form), of, printed) for of, printed in lines.items())


def metrics_of(output: Output) -> list[Metric]:
    """Return the metrics that were printed as lines, as docs/data.md has them."""
    lines = output.printed
    found: list[Metric] = []
    until: dict[str, float] = {}
    for place, metric in READERS[output.form]([line.text for line in lines]):
        seconds = metric.pop("seconds", None)
        since = at = lines[place].monotonic
        if output.began is not None:
            since = output.began
            if seconds is not None:
                since = until.get(metric["metric"], since)
                at = until[metric["metric"]] = output.began + seconds
        found.append({**metric, "monotonic": at, "since": since, "of": output.of})
    return found


def _faults(outputs: list[Output], read: list[list[Metric]]) -> Iterator[str]:
    """Yield warnings about outputs that are not what was to be read, or have nothing of it."""
    if silent := [each.of for each in outputs if not each.printed]:
        yield f"{_named(silent)} printed nothing, though metrics were to be read"
    lines = [
        (each.of, line.text) for each in outputs if each.form == "json" for line in each.printed
    ]
    if bad := [(of, text) for of, text in lines if _object(text) is None]:
        verb = "is" if len(bad) == 1 else "are"
        yield (
            f"{len(bad)} of {count(len(lines), 'line')} that commands printed {verb} no JSON with "
            f"a metric, and {verb} skipped; the first, of {bad[0][0]}: {shown(bad[0][1])}"
        )
    pairs = zip(outputs, read, strict=True)
    if none := [
        each for each, found in pairs if each.printed and not found and each.form != "json"
    ]:
        yield (
            f"{_named([each.of for each in none])} printed no result of {none[0].form}; the first "
            f"line, of {none[0].of}: {shown(none[0].printed[0].text)}"
        )


def _named(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{more}"


# --- JSON -----------------------------------------------------------------------------------------


def _object(text: str) -> Metric | None:
    """Return the object in a line that has a metric; None if it is something else."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("metric"), str) else None


def _json(texts: list[str]) -> Found:
    for place, text in enumerate(texts):
        if found := _object(text):
            metric = {key: found[key] for key in KEYS if key in found}
            seconds = found.get("seconds")
            timed = isinstance(seconds, int | float) and 0 <= seconds < 1e9
            yield place, metric | ({"seconds": seconds} if timed else {})


# --- programs -------------------------------------------------------------------------------------


def _metric(name: str, value: object, unit: str, better: str) -> Metric:
    """Make a metric; any name becomes one of small letters, digits and underscores."""
    plain = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    plain = plain if plain[:1].isalpha() else f"of_{plain}"
    return {"metric": plain[:60], "value": value, "unit": unit, "better": better}


def _number(text: str) -> float | str:
    """Return a number; other text stays, and is told as a fault of its metric."""
    try:
        return float(text)
    except ValueError:
        return text


REQUESTS = {"rps": ("requests/s", HIGHER)} | {
    f"{name}_latency_ms": ("ms", LOWER) for name in ("avg", "p50", "p95", "p99", "max")
}


def _redis_benchmark(texts: list[str]) -> Found:
    """Read `redis-benchmark --csv`. Versions before 6.2 print only the name and the rate."""
    columns = ["test", "rps"]
    for place, text in enumerate(texts):
        cells = re.findall(r'"([^"]*)"', text)
        if cells[:2] == ["test", "rps"]:
            columns = cells
        elif len(cells) == len(columns):
            for column, cell in zip(columns[1:], cells[1:], strict=True):
                if column in REQUESTS:
                    name = f"{cells[0]}_{column.removesuffix('_latency_ms')}"
                    yield place, _metric(name, _number(cell), *REQUESTS[column])


PERIOD = re.compile(
    r"\[ (?P<seconds>\d{1,9})s \] thds: \d+ (?P<rate>eps|tps): (?P<value>[\d.]+)"
    r".* lat \(ms,(?P<percent>\d+)%\): (?P<latency>[\d.]+)"
)
RATES = {"eps": "events_per_second", "tps": "transactions_per_second"}
TOTALS = (  # of sysbench: what it prints, name, unit, better
    (r"events per second: +([\d.]+)", "events_per_second", "events/s", HIGHER),
    (r"transactions: +\d+ +\(([\d.]+) per sec", "transactions_per_second", "1/s", HIGHER),
    (r"queries: +\d+ +\(([\d.]+) per sec", "queries_per_second", "1/s", HIGHER),
    (r"Total operations: \d+ \( *([\d.]+) per second", "operations_per_second", "1/s", HIGHER),
    (r"transferred \(([\d.]+) MiB/sec", "mib_per_second", "MiB/s", HIGHER),
    (r" avg: +([\d.]+)", "latency_avg", "ms", LOWER),
    (r" max: +([\d.]+)", "latency_max", "ms", LOWER),
    (r" (\d+)th percentile: +([\d.]+)", "latency_p", "ms", LOWER),
)


def _sysbench(texts: list[str]) -> Found:
    """Read the report of sysbench. Of rates and percentiles, those of its periods come first."""
    by_period = set()
    for place, text in enumerate(texts):
        if period := PERIOD.search(text):
            seconds = {"seconds": int(period["seconds"])}
            rate, percentile = RATES[period["rate"]], f"latency_p{period['percent']}"
            unit = "events/s" if period["rate"] == "eps" else "1/s"
            by_period |= {rate, percentile}
            yield place, _metric(rate, _number(period["value"]), unit, HIGHER) | seconds
            yield place, _metric(percentile, _number(period["latency"]), "ms", LOWER) | seconds
        for pattern, name, unit, better in TOTALS:
            if total := re.search(pattern, text):
                *percent, value = total.groups()
                if (whole := "".join([name, *percent])) not in by_period:
                    yield place, _metric(whole, _number(value), unit, better)


THREAD = re.compile(
    r"T: *(\d{1,9}) .* C: *(\d{1,18}) Min: *\d+ Act: *-?\d+ Avg: *(\d{1,18}) Max: *(\d{1,18})$"
)
BUCKET = re.compile(r"(\d{6})((?:\s\d{1,18})+)$")
SUMMARY = re.compile(
    r"# (Total|Avg Latencies|Max Latencies|Histogram Overflows):((?: +\d{1,18})+)$"
)


def _cyclictest(texts: list[str]) -> Found:
    """Read the last lines of the threads of cyclictest, or its histogram, which has percentiles."""
    threads: dict[str, tuple[int, int, float, float]] = {}
    buckets: dict[int, int] = {}
    summary: dict[str, list[int]] = {}
    for place, text in enumerate(texts):
        if thread := THREAD.search(text):
            number, counted, average, most = thread[1], *map(int, thread.groups()[1:])
            if number in threads and counted <= threads[number][1]:
                yield from _of_threads(threads)  # it was started again
                threads = {}
            threads[number] = place, counted, average, most
        elif bucket := BUCKET.match(text):
            buckets[int(bucket[1])] = sum(map(int, bucket[2].split()))
        elif line := SUMMARY.match(text):
            summary[line[1]] = [*map(int, line[2].split())]
            if line[1] == "Histogram Overflows":
                yield from ((place, each) for each in _of_histogram(buckets, summary))
                threads, buckets, summary = {}, {}, {}
    yield from _of_threads(threads)


def _of_threads(threads: dict[str, tuple[int, int, float, float]]) -> Found:
    places, _, averages, most = zip(*threads.values(), strict=True) if threads else [()] * 4
    if places:
        average = sum(averages) / len(averages)
        yield max(places), _metric("latency_avg", average, "µs", LOWER)
        yield max(places), _metric("latency_max", float(max(most)), "µs", LOWER)


def _of_histogram(buckets: dict[int, int], summary: dict[str, list[int]]) -> Iterator[Metric]:
    if averages := summary.get("Avg Latencies"):
        yield _metric("latency_avg", sum(averages) / len(averages), "µs", LOWER)
    if most := summary.get("Max Latencies"):
        yield _metric("latency_max", float(max(most)), "µs", LOWER)
    total = sum(buckets.values()) + sum(summary["Histogram Overflows"])
    for name, share in PERCENTILES.items():
        # One that fewer than one value is expected beyond is not known
        if total * (1 - share) >= 1 - 1e-9 and (at := _at(buckets, share * total)) is not None:
            yield _metric(f"latency_{name}", float(at), "µs", LOWER)


def _at(buckets: dict[int, int], wanted: float) -> int | None:
    """Return the bucket that has the value of that rank; None if it is in no bucket."""
    seen = 0
    for latency, often in sorted(buckets.items()):
        seen += often
        if seen >= wanted:
            return latency
    return None


def _stress_ng(texts: list[str]) -> Found:
    """Read `stress-ng --metrics --yaml=/dev/stdout`: the rate of each stressor."""
    stressor = ""
    for place, text in enumerate(texts):
        if named := re.match(r" +- stressor: *(\S+)", text):
            stressor = named[1]
        elif rate := re.match(r" +bogo-ops-per-second-real-time: *(\S+)", text):
            name = f"{stressor}_bogo_ops_per_second"
            yield place, _metric(name, _number(rate[1]), "bogo ops/s", HIGHER)


def _fio(texts: list[str]) -> Found:
    """Read `fio --output-format=json`: rates and completion latencies of each direction."""
    start = None
    for place, text in enumerate(texts):
        if text == "{":
            start = place
        elif text == "}" and start is not None:
            try:
                document = json.loads("\n".join(texts[start : place + 1]))
                metrics = [*_of_jobs(document["jobs"])]
            except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
                metrics = []  # of something else
            yield from ((place, metric) for metric in metrics)
            start = None


def _of_jobs(jobs: list[dict[str, Any]]) -> Iterator[Metric]:
    several = len({job["jobname"] for job in jobs}) > 1
    for job in jobs:
        for way in ("read", "write", "trim"):
            done = job.get(way) or {}
            if done.get("total_ios"):
                name = f"{job['jobname']}_{way}" if several else way
                yield _metric(f"{name}_iops", done["iops"], "IO/s", HIGHER)
                rate = done["bw_bytes"] / 2**20
                yield _metric(f"{name}_mib_per_second", rate, "MiB/s", HIGHER)
                percentiles = done.get("clat_ns", {}).get("percentile", {})
                for short, share in PERCENTILES.items():
                    if (taken := percentiles.get(f"{100 * share:.6f}")) is not None:
                        yield _metric(f"{name}_{short}", taken / 1000, "µs", LOWER)


READERS: dict[str, Callable[[list[str]], Found]] = {
    "json": _json,
    "redis-benchmark": _redis_benchmark,
    "sysbench": _sysbench,
    "cyclictest": _cyclictest,
    "stress-ng": _stress_ng,
    "fio": _fio,
}
