"""Views of the progress: live on a terminal, as plain lines, or as JSON for programs.

A view is a context manager. `show(notice)` is called for each event and `tick()` a few times a
second. It writes to standard output and knows the `Progress` that it shows. `report_seconds` is the
time between its reports of the sampling.
"""

import contextlib
import json
import math
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from ksm_analysis.campaign.progress import SAMPLING, Host, Progress

if TYPE_CHECKING:
    from rich.console import Group

MIB = 1024 * 1024


class View(Protocol):
    """A view of a campaign."""

    report_seconds: int

    def __init__(self, progress: Progress): ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
        /,
    ) -> None: ...

    def show(self, notice: dict[str, Any]) -> None:
        """Show a notice."""

    def tick(self) -> None:
        """Update what depends on the time."""


class JsonView:
    """One JSON object per line: every notice, with `time` in seconds since the epoch."""

    report_seconds = 1

    def __init__(self, progress: Progress | None = None):
        """`progress` is not used: the notices have everything."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, notice: dict[str, Any]) -> None:
        """Print it."""
        print(json.dumps({**notice, "time": round(time.time(), 3)}), flush=True)

    def tick(self) -> None:
        """Do nothing: time is not an event."""


class PlainView:
    """A line for each event, with the time of day."""

    report_seconds = 2

    def __init__(self, progress: Progress):
        self._progress = progress
        self._tenths: dict[tuple[str, str], int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, notice: dict[str, Any]) -> None:
        """Print the notice; of the sampling, only some."""
        text = self._sampling(notice) if notice["event"] == SAMPLING else sentence(notice)
        if text:
            host = _prefix(notice, self._progress)
            print(f"{time.strftime('%H:%M:%S')} {host}{text}", flush=True)

    def tick(self) -> None:
        """Do nothing: printed lines do not change."""

    def _sampling(self, notice: dict[str, Any]) -> str | None:
        of, seconds = notice.get("of") or 0, notice.get("seconds") or 0
        tenth = int(10 * seconds / of + 1e-9) if of else 0
        key = notice["host"], notice["run"]
        if tenth <= self._tenths.get(key, 0):
            return None
        self._tenths[key] = tenth
        return f"sampling {sampled(notice)}"


class LiveView:
    """The current state, redrawn; ended runs and failures stay above it."""

    report_seconds = 1

    def __init__(self, progress: Progress):
        from rich.console import Console
        from rich.live import Live

        self._progress = progress
        # Draw only in the main thread: a program with threads must not fork.
        self._console = Console(highlight=False)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):  # the terminal may have been closed
            self._live.__exit__(kind, error, where)

    def show(self, notice: dict[str, Any]) -> None:
        """Print lasting notices, and redraw."""
        from rich.text import Text

        passing = notice["event"] in {"run started", "phase", SAMPLING}
        if not passing and (words := sentence(notice)):
            text = f"{_prefix(notice, self._progress)}{words}"
            self._console.print(Text(text, style=_style(notice)))
        self.tick()

    def tick(self) -> None:
        """Redraw the state."""
        self._live.update(self._drawn(time.monotonic()), refresh=True)

    def _drawn(self, now: float) -> "Group":
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        progress = self._progress
        elapsed, left = now - progress.began, progress.left(now)
        head = Table.grid(padding=(0, 2), expand=False)
        bar = ProgressBar(total=max(elapsed + left, 1.0), completed=elapsed, width=24)
        times = f"{clock(elapsed)} elapsed{f', about {duration(left)} left' if left else ''}"
        head.add_row(Text(progress.plan["experiment"], style="bold"), bar, Text(times))
        hosts = list(progress.hosts.values())
        lines = (status(host, len(hosts) > 1) for host in hosts)
        return Group(head, *(Text(line, no_wrap=True, overflow="ellipsis") for line in lines))


def status(host: Host, named: bool) -> str:
    """Return one line about the state of a host."""
    name = f"{host.name}: " if named else ""
    if not host.run:
        return f"{name}{host.phase}"
    run = f"run {host.run['index']} of {host.run['of']}: {factors(host.run['factors'])}"
    counters = f" {sampled(host.sample)}" if host.phase == SAMPLING and host.sample else ""
    return f"{name}{run} · {host.phase}{counters}"


def sentence(notice: dict[str, Any]) -> str:
    """Return one line about a notice; empty if it is only for programs."""
    event = notice["event"]
    if event == "plan":
        runs, minutes = len(notice["plan"]["runs"]), duration(notice["plan"]["seconds"])
        hosts = ", ".join(notice["hosts"])
        name = notice["plan"]["experiment"]
        return f"experiment {name}: {count(runs)} on {hosts}, about {minutes} after provisioning"
    if event == "run started":
        place = f"run {notice['index']} of {notice['of']}"
        left = f"about {duration(notice['left'])} left"
        return f"{place} ({notice['run']}): {factors(notice['factors'])}; {left}"
    if event == "run ended":
        reason = f": {notice['reason']}" if notice["reason"] else ""
        return f"{notice['run']} {notice['status']}{reason}"
    if event == "serving":
        return f"live page: {notice['url']}"
    if event == "report":
        return f"page: {notice['path']}"
    return str(notice["phase"] if event == "phase" else notice.get("text", ""))


def factors(values: dict[str, Any]) -> str:
    """Format the factors of a run."""
    words = dict(values)
    guests, repetition = words.pop("guests", None), words.pop("repetition", 1)
    copies = words.pop("processes", 0)  # the label of the workload has them, too
    parts = [] if guests is None or (copies and not guests) else [_guests(guests)]
    parts += [words.pop("workload", ""), words.pop("knobs", "")]
    parts += [f"{key} {value}" for key, value in words.items()]
    parts += [f"repetition {repetition}"] if repetition != 1 else []
    return ", ".join(filter(None, parts))


def sampled(values: dict[str, Any]) -> str:
    """Format the progress of the sampling, and its counters."""
    parts = [f"{values.get('seconds', 0):.0f} of {values.get('of', 0):.0f} s"]
    if "full_scans" in values:
        parts.append(f"{values['full_scans']} scans")
    if "pages_sharing" in values:
        pages = values["pages_sharing"]
        parts.append(f"pages_sharing {pages:,} ({pages * values['page_size'] / MIB:,.1f} MiB)")
    if "general_profit" in values:
        parts.append(f"general_profit {values['general_profit'] / MIB:+,.1f} MiB")
    return ", ".join(parts)


def count(runs: int) -> str:
    """Format a number of runs."""
    return "1 run" if runs == 1 else f"{runs} runs"


def duration(seconds: float) -> str:
    """Format an estimate with suitable precision."""
    if seconds < 60:
        return f"{math.ceil(seconds)} s"
    minutes = math.ceil(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02} min"


def clock(seconds: float) -> str:
    """Format elapsed time, as 1:02:03 or 2:03."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _guests(number: int) -> str:
    return {0: "no guests", 1: "1 guest"}.get(number, f"{number} guests")


def _prefix(notice: dict[str, Any], progress: Progress) -> str:
    """Return the name of the host as a prefix, if there are several."""
    host = notice.get("host")
    return f"{host}: " if host and len(progress.hosts) > 1 else ""


def _style(notice: dict[str, Any]) -> str:
    if notice["event"] == "run ended":
        return "green" if notice["status"] == "complete" else "red"
    return "red" if notice.get("failed") else ""
