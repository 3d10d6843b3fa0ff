"""What the live page shows, from the notices of a launch. Pure: no clock, no I/O."""

import math
from dataclasses import dataclass, field
from typing import Any

from ksm_analysis.campaign.progress import SAMPLING
from ksm_analysis.campaign.views import MIB, count, duration, factors, sampled

MOST_POINTS = 400  # of a curve; then every second point is left out
EARLIER = 12  # curves of ended runs that stay
MESSAGES = 5
LAST = 50  # runs that are listed when they have ended
FAILED = 200  # runs that are listed if they failed, the last ones


@dataclass
class Curve:
    """Savings of a run over time: seconds since its first sample, and MiB."""

    run: str
    name: str
    points: list[tuple[float, float]] = field(default_factory=list)
    step: int = 1
    seen: int = 0

    def add(self, sample: dict[str, Any]) -> None:
        """Add a sample; of a long run, the points become fewer."""
        pages = sample.get("pages_sharing", 0) + sample.get("ksm_zero_pages", 0)
        if self.seen % self.step == 0:
            saved = pages * sample.get("page_size", 0) / MIB
            self.points.append((round(sample["seconds"], 1), round(saved, 3)))
        self.seen += 1
        if len(self.points) > MOST_POINTS:
            self.points, self.step = self.points[::2], 2 * self.step


@dataclass
class Host:
    """What a host does now."""

    phase: str = "starting"
    run: dict[str, Any] | None = None  # the notice that it started
    sample: dict[str, Any] | None = None
    curve: Curve | None = None


class State:
    """The state of a launch. Times are seconds since the epoch."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.planned = 0
        self.hosts: dict[str, Host] = {}
        self.ended: dict[str, tuple[str, str]] = {}  # run: status and reason
        self.messages: list[str] = []
        self.report = ""  # the path of the report that this launch has made
        self.over = False
        self._earlier: list[Curve] = []
        self._began = math.inf  # until there is a plan, no time has passed
        self._left = self._at = 0.0

    def take(self, notice: dict[str, Any]) -> None:
        """Take a notice of `run --json`, with `left`: the estimate of all that remains."""
        self._at, self._left = notice["time"], notice.get("left", 0.0)
        host = self.hosts.setdefault(notice["host"], Host()) if notice.get("host") else None
        match notice["event"]:
            case "plan":
                self.planned = len(notice["plan"]["runs"])
                self.hosts = {name: Host() for name in notice["hosts"]}
                self._began = self._at
            case "message":
                self.messages = [*self.messages, notice["text"]][-MESSAGES:]
            case "report":
                self.report = notice["path"]
            case "end":
                self.over = True
            case _ if host:
                self._of_host(host, notice)

    def _of_host(self, host: Host, notice: dict[str, Any]) -> None:
        match notice["event"]:
            case "phase":
                host.phase = notice["phase"]
            case "run started":
                words = factors(notice["factors"])
                host.run, host.sample = notice, None
                host.curve = Curve(notice["run"], f"{notice['run']}: {words}")
            case "run ended":
                self.ended[notice["run"]] = (notice["status"], notice["reason"])
                if host.curve and host.curve.points:
                    self._earlier = [*self._earlier, host.curve][-EARLIER:]
                host.run = host.sample = host.curve = None
            case event if event == SAMPLING and host.curve and "seconds" in notice:
                host.sample = notice
                host.curve.add(notice)

    def shown(self, now: float) -> dict[str, Any]:
        """Return what the page shows, in words and numbers."""
        left = max(0.0, self._left - (now - self._at))
        return {
            "head": self._head(left),
            "elapsed": max(0.0, now - self._began),
            "left": left,
            "over": self.over,
            "hosts": [(name, _line(host)) for name, host in self.hosts.items() if not self.over],
            "curves": [
                *({"name": c.name, "now": False, "points": c.points} for c in self._earlier),
                *(
                    {"name": host.curve.name, "now": True, "points": host.curve.points}
                    for host in self.hosts.values()
                    if host.curve
                ),
            ],
            **self._listed(),
            "messages": self.messages,
        }

    def _listed(self) -> dict[str, Any]:
        """Return the last runs that have ended, those that failed, and how many more there are."""
        failed = [run for run, (status, _) in self.ended.items() if status != "complete"]
        listed = {*list(self.ended)[-LAST:], *failed[-FAILED:]}
        return {
            "runs": [(run, *how) for run, how in self.ended.items() if run in listed],
            "ended": len(self.ended),
            "unlisted": len(self.ended) - len(listed),
            "unlisted_failed": sum(run not in listed for run in failed),
        }

    def _head(self, left: float) -> str:
        failed = sum(status != "complete" for status, _ in self.ended.values())
        words = f"{len(self.ended)} of {count(self.planned)} ended"
        words += f", {failed} failed" if failed else ""
        if self.over:
            return f"The experiment has ended: {words}"
        return f"{words}; about {duration(left)} left" if left else words


def _line(host: Host) -> str:
    """Say what a host does."""
    if not host.run:
        return host.phase
    run = f"run {host.run['index']} of {host.run['of']}: {factors(host.run['factors'])}"
    now = f" {sampled(host.sample)}" if host.phase == SAMPLING and host.sample else ""
    return f"{run} · {host.phase}{now}"
