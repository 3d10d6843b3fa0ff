"""Read ranges of counters from a Prometheus server, or from one that speaks its HTTP API."""

import hashlib
import http.client
import json
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ksm_analysis.errors import InputError
from ksm_analysis.results.imports.counters import Column, column
from ksm_analysis.results.imports.log import PAGE_SIZE, Log, Values, printable
from ksm_analysis.results.imports.series import Options, Row, log_of, number

QUERY = '{__name__=~"(node_ksmd|ksm)_.+"}'
POINTS = 10_000  # of a series at a time: Prometheus refuses more than 11,000
TIMEOUT = 60  # seconds, of one request
NAMED = re.compile(r"([a-z_]+)=(?![=~])(.+)")
# of the monitor of this project; a stopped one leaves its last values to node_exporter
PAGE_SIZE_NAME, SAMPLED_NAME = ABOUT = (
    "ksm_page_size_bytes",
    "ksm_monitor_last_sample_timestamp_seconds",
)
STALE = 300  # seconds

Series = dict[str, Any]  # of the API: metric and values


@dataclass(frozen=True)
class Range:
    """What is asked: `start` and `end` in seconds since 1970, every `step` seconds."""

    start: float
    end: float
    step: float


def fetch(url: str, query: str, asked: Range) -> list[Series]:
    """Ask for the series of a query. Raises InputError with what the server says."""
    found: dict[str, Series] = {}
    for start, end in _spans(asked):
        part = {"query": query, "start": start, "end": end, "step": asked.step}
        for series in _ask(url, part):
            key = json.dumps(series["metric"], sort_keys=True)
            found.setdefault(key, {**series, "values": []})["values"] += series["values"]
    return list(found.values())


def _spans(asked: Range) -> Iterator[tuple[float, float]]:
    start = asked.start
    while start <= asked.end:
        yield start, min(asked.end, start + (POINTS - 1) * asked.step)
        start += POINTS * asked.step


def _ask(url: str, query: dict[str, Any]) -> list[Series]:
    address = f"{url.rstrip('/')}/api/v1/query_range?{urllib.parse.urlencode(query)}"
    if not address.startswith(("http://", "https://")):
        raise InputError(f"{url}: must begin with http:// or https://")
    try:
        with urllib.request.urlopen(address, timeout=TIMEOUT) as answer:
            found = json.load(answer)
    except urllib.error.HTTPError as error:
        raise InputError(f"{url}: {_refused(error)}") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise InputError(f"{url}: no answer of a Prometheus: {printable(str(error))}") from None
    try:
        data = found["data"]
        if data["resultType"] != "matrix":
            raise InputError(f"{url}: the query gives no series, but a {data['resultType']}")
        return [
            {
                "metric": {str(name): str(value) for name, value in series["metric"].items()},
                "values": [(float(at), str(value)) for at, value in series["values"]],
            }
            for series in data["result"]
        ]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise InputError(f"{url}: the answer is not one of a Prometheus") from None


def _refused(error: urllib.error.HTTPError) -> str:
    """Return what the server says, or the status."""
    try:
        return printable(str(json.load(error)["error"]))
    except (OSError, ValueError, KeyError, TypeError):
        return f"HTTP status {error.code}"


# --- what the series mean -------------------------------------------------------------------------


def named(query: str) -> tuple[str | None, str]:
    """Return the counter that NAME=EXPR names, and the expression; None if it is only one."""
    match = NAMED.fullmatch(query.strip())
    if not match or not column(match[1]):
        return None, query
    return match[1], match[2]


def logs(
    answers: Sequence[tuple[str | None, Sequence[Series]]], options: Options, step: float
) -> list[Log]:
    """Make a log of each machine (label `instance`). Raises InputError if there is no counter.

    Each answer has the name of its counter, or None: then each series has its own.
    """
    machines: dict[str, dict[str, list[Series]]] = {}
    skipped: dict[str, None] = {}
    for name, several in answers:
        for series in several:
            each = name or series["metric"].get("__name__", "")
            if "guest" in series["metric"] or not (column(each) or each in ABOUT):
                skipped[each or "a series without a name"] = None
                continue
            machine = machines.setdefault(series["metric"].get("instance", "prometheus"), {})
            machine.setdefault(each, []).append(series)
    made = [_log(*each, options, step) for each in sorted(machines.items())]
    if not made:
        there = f"; there are: {', '.join(map(printable, skipped))}" if skipped else ""
        raise InputError(f"no series is a counter of KSM in this range{there}")
    return made


def _log(instance: str, several: dict[str, list[Series]], options: Options, step: float) -> Log:
    """Make the log of one machine. Raises InputError if a counter has two series."""
    for name, found in several.items():
        if len(found) > 1:
            labels = " and ".join(printable(json.dumps(each["metric"])) for each in found[:2])
            raise InputError(
                f"{instance}: {len(found)} series of {name}: {labels}. Select one by a label, such "
                'as {job="node"}'
            )
    values = {name: dict(found[0]["values"]) for name, found in several.items()}
    size = options.page_size or _page_size(values.get(PAGE_SIZE_NAME, {}))
    columns, notes = _columns(values, instance)
    sampled = values.get(SAMPLED_NAME, {})
    rows: dict[float, Values] = {}
    fractions = stale = 0
    for name, it in columns.items():
        for at, text in values[name].items():
            if name.startswith("ksm_") and at - float(sampled.get(at, at)) > STALE:
                stale += 1
                continue
            value = it.value(number(text), size or PAGE_SIZE)
            fractions += isinstance(value, float)
            rows.setdefault(at, {})[it.name] = round(value) if isinstance(value, float) else value
    if fractions:
        notes.append(f"{fractions} values are no whole numbers, as averages are; they are rounded")
    if stale:
        notes.append(f"{stale} values are of a monitor that had stopped; they are left out")
    text = json.dumps(several, sort_keys=True)
    asked = Options(period=step, page_size=size)
    return log_of(
        [Row(0, at, found) for at, found in sorted(rows.items())],
        printable(instance),
        asked,
        sha256=hashlib.sha256(text.encode()).hexdigest(),
        host=printable(instance),
        notes=notes,
    )


def _columns(names: Iterable[str], instance: str) -> tuple[dict[str, Column], list[str]]:
    """Return the metric to use for each counter, by its name, and notes.

    node_exporter reads the kernel when it is asked, so its metrics come before those of a monitor.
    """
    known = {name: it for name in names if (it := column(name))}
    kernel = {it.name: name for name, it in known.items() if name.startswith("node_ksmd_")}
    chosen = {name: it for name, it in known.items() if kernel.get(it.name, name) == name}
    for name, it in chosen.items():
        for other in [each for each in chosen if chosen[each].name == it.name and each != name]:
            raise InputError(f"{instance}: {name} and {other} are both {it.name}. Select one")
    left = len(known) - len(chosen)
    both = f"{left} counters are of node_exporter and of the monitor; node_exporter's are used"
    return chosen, [both] if left else []


def _page_size(values: dict[float, str]) -> int | None:
    """Return the last value of the metric that has the page size, in bytes."""
    sizes = [number(value) for value in values.values()]
    return next((size for size in reversed(sizes) if isinstance(size, int) and size > 0), None)
