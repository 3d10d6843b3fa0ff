"""Track the progress of an experiment from Ansible's events. Pure: no clock, no I/O.

`Progress.take` converts each event of ansible-runner to notices, which every view shows and
`run --json` prints. ksm_analysis/commands/run.py describes them.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

RESTORING = "restoring the host"
SAMPLING = "sampling"

# The place of a task determines the phase: role/file, or role. Other places do not change it.
PHASES = {
    "lock/check": "checking the host",
    "host": "provisioning the host",
    "host/acceleration": "finding out how guests are accelerated",
    "host/services": "starting libvirt",
    "host/remove": "removing the testbed",
    "guest_image": "checking the image",
    "guest_image/build": "building the image",
    "guests/preflight": "checking the host",
    "ksm/preflight": "checking the host",
    "run/prepare": "preparing",
    "guests": "booting guests",
    "ksm": "setting knobs",
    "part_sampler/wait": SAMPLING,
    "run/recover": RESTORING,
    "run/attempt": RESTORING,
    "run/remove_guests": RESTORING,
    "guests/remove": RESTORING,
    "ksm/restore": RESTORING,
    "run/collect": "collecting",
    "playbooks/report": "writing the page",
}
# The entry points of every part, with the name of the part
PART_PHASES = {
    "install": "installing the {}",
    "prepare": "preparing the {}",
    "start": "starting the {}",
    "wait": "waiting for the {}",
    "stop": RESTORING,
}
# The task that checks the runs. This program prints the same result at its end.
VERDICT = "Require that all runs succeeded"
ERROR = "[ERROR]: "  # prefix of Ansible's errors about a playbook
MAX_WORDS = 2000

_PLACE = re.compile(r"(?:^|/)(?:roles/([^/]+)/tasks|(playbooks))/([^/]+)\.ya?ml:\d+$")
_SAMPLE = re.compile(r"^sampling: host=(\S+) run=(\S+) (.*)$")
_NUMBER = re.compile(r"(\w+)=(-?\d+(?:\.\d+)?)(?!\S)")


@dataclass
class Host:
    """The state of one host. Times are the arguments of `Progress.take`.

    `run` is the fact `run_current` of the current run, or None; `sample` the last line of the
    sampler; `share` the runs of this host; `done` how many of them have ended; `failure` the error
    of the current run, which is reported when the run has ended.
    """

    name: str
    share: list[dict[str, Any]]
    phase: str = "starting"
    run: dict[str, Any] | None = None
    began: float = 0.0
    sample: dict[str, Any] = field(default_factory=dict)
    done: int = 0
    failure: str = ""


class Progress:
    """The state of one launch.

    `ended` lists (run id, status, reason) of the ended runs; `held` are the hosts whose lock it
    holds; `told` says whether a failure was reported.
    """

    def __init__(self, plan: dict[str, Any], hosts: list[str], now: float):
        self.plan = plan
        self.began = now
        self.hosts = {
            name: Host(name, plan["runs"][i :: len(hosts)]) for i, name in enumerate(hosts)
        }
        self.ended: list[tuple[str, str, str]] = []
        self.held: set[str] = set()
        self.told = False
        self._last_words = ""
        self._handlers = {
            "runner_on_start": self._runner_on_start,
            "runner_on_ok": self._runner_on_ok,
            "runner_on_failed": self._runner_on_failed,
            "runner_on_unreachable": self._runner_on_unreachable,
            "playbook_on_play_start": self._playbook_on_play_start,
            "playbook_on_stats": self._playbook_on_play_start,
            "verbose": self._verbose,
            "error": self._error,
        }
        # Actual and estimated time of all ended runs.
        self._took = self._expected = 0.0

    # --- events -----------------------------------------------------------------------------------

    def take(self, event: dict[str, Any], now: float) -> list[dict[str, Any]]:
        """Handle one event of ansible-runner and return its notices."""
        handler = self._handlers.get(event.get("event", ""))
        return list(handler(event, event.get("event_data") or {}, now)) if handler else []

    def _runner_on_start(
        self, event: dict[str, Any], data: dict[str, Any], now: float
    ) -> Iterator[dict[str, Any]]:
        phase = _phase(data.get("task_path", ""))
        host = self._host(data["host"])
        if phase and phase != host.phase:
            host.phase = phase
            yield {"event": "phase", "host": host.name, "run": _id(host), "phase": phase}

    def _runner_on_ok(
        self, event: dict[str, Any], data: dict[str, Any], now: float
    ) -> Iterator[dict[str, Any]]:
        host = self._host(data["host"])
        place = _place(data.get("task_path", ""))
        if place == "lock/main":
            self.held.add(host.name)
        elif place == "lock/release":
            self.held.discard(host.name)
        facts = (data.get("res") or {}).get("ansible_facts") or {}
        if "run_current" in facts:
            yield self._begin(host, facts["run_current"], now)
        if "run_ended" in facts:
            yield self._end(host, facts["run_ended"], now)

    def _runner_on_failed(
        self, event: dict[str, Any], data: dict[str, Any], now: float
    ) -> Iterator[dict[str, Any]]:
        if data.get("ignore_errors") or data.get("task") == VERDICT:
            return
        host, words = (
            self._host(data["host"]),
            f"{data.get('task')}: {failure(data.get('res') or {})}",
        )
        if host.run:
            host.failure = words  # reported when the run ends
        else:
            yield self._failed(host.name, words)

    def _runner_on_unreachable(
        self, event: dict[str, Any], data: dict[str, Any], now: float
    ) -> Iterator[dict[str, Any]]:
        host, words = self._host(data["host"]), failure(data.get("res") or {})
        yield from self._cut_off(host, now, words)
        yield self._failed(host.name, f"unreachable: {words}")

    def _playbook_on_play_start(
        self, event: dict[str, Any], data: dict[str, Any], now: float
    ) -> Iterator[dict[str, Any]]:
        for host in list(self.hosts.values()):
            yield from self._cut_off(host, now, host.failure)

    def _verbose(
        self, event: dict[str, Any], data: dict[str, Any], now: float
    ) -> Iterator[dict[str, Any]]:
        for line in event.get("stdout", "").splitlines():
            if match := _SAMPLE.match(line.strip()):
                yield self._sampled(*match.groups())
            elif line.strip() and not self._last_words.startswith(ERROR):
                self._last_words = line.strip()

    def _error(
        self, event: dict[str, Any], data: dict[str, Any], now: float
    ) -> Iterator[dict[str, Any]]:
        self._last_words = event.get("stdout", "").replace("\r", "").split("\n\n")[0].strip()
        yield from ()

    # --- runs -------------------------------------------------------------------------------------

    def _begin(self, host: Host, run: dict[str, Any], now: float) -> dict[str, Any]:
        host.run = {**run, "index": int(run["index"]), "of": int(run["of"])}
        host.began, host.sample, host.failure = now, {}, ""
        host.done = host.run["index"] - 1
        planned = {each["id"]: each for each in self.plan["runs"]}
        # The share of each host was a guess until the playbook has assigned the runs.
        host.share = [planned[name] for name in run["share"] if name in planned]
        keys = ("index", "of", "factors", "seconds")
        values = {key: host.run[key] for key in keys if key in host.run}
        values["left"] = self.left(now)
        return {"event": "run started", "host": host.name, "run": run["id"], **values}

    def _end(self, host: Host, ended: dict[str, Any], now: float) -> dict[str, Any]:
        if host.run:
            self._took += now - host.began
            self._expected += float(host.run["seconds"])
            host.done = host.run["index"]
        host.run, host.sample, host.failure = None, {}, ""
        self.ended.append((ended["id"], ended["status"], ended["reason"]))
        keys = ("status", "reason")
        values = {key: ended[key] for key in keys}
        return {"event": "run ended", "host": host.name, "run": ended["id"], **values}

    def _cut_off(self, host: Host, now: float, words: str) -> Iterator[dict[str, Any]]:
        """End a run that the host left without reporting its end."""
        if host.run:
            reason = words or "the run was interrupted"
            yield self._end(host, {"id": host.run["id"], "status": "failed", "reason": reason}, now)

    def _sampled(self, host: str, run: str, words: str) -> dict[str, Any]:
        numbers = {name: float(n) if "." in n else int(n) for name, n in _NUMBER.findall(words)}
        self._host(host).sample = numbers
        return {"event": SAMPLING, "host": host, "run": run, **numbers}

    def _failed(self, host: str | None, words: str) -> dict[str, Any]:
        self.told = True
        return {"event": "message", "host": host, "failed": True, "text": words}

    def _host(self, name: str) -> Host:
        """Find a host. The controller also does tasks; it is a host without runs."""
        return self.hosts.setdefault(name, Host(name, []))

    # --- what follows -----------------------------------------------------------------------------

    def unexplained(self) -> dict[str, Any] | None:
        """Return Ansible's last error if no task reported a failure; else None."""
        if self.told:
            return None
        words = self._last_words.removeprefix(ERROR) or "Ansible ended without a message"
        return self._failed(None, words)

    def interrupted(self) -> list[dict[str, Any]]:
        """Reset all runs and reported failures: from now on, the hosts are restored."""
        self.told = False
        for host in self.hosts.values():
            host.run, host.share, host.sample, host.failure = None, [], {}, ""
            host.phase = RESTORING
        return [
            {"event": "phase", "host": name, "run": None, "phase": RESTORING} for name in self.hosts
        ]

    def pace(self) -> float:
        """Return the ratio of actual to estimated time of the ended runs."""
        return self._took / self._expected if self._expected else 1.0

    def left(self, now: float) -> float:
        """Return the seconds that the slowest host still needs: the estimate at the pace so far."""
        return max((self._left(host, now) for host in self.hosts.values()), default=0.0)

    def _left(self, host: Host, now: float) -> float:
        running, rest = 0.0, host.share[host.done :]
        if host.run:
            rest = rest[1:]
            sampling = host.sample.get("of", 0.0) - host.sample.get("seconds", 0.0)
            planned = float(host.run["seconds"]) * self.pace() - (now - host.began)
            running = max(planned, sampling if host.phase == SAMPLING else 0.0, 0.0)
        return running + sum(float(run["seconds"]) for run in rest) * self.pace()


def failure(result: dict[str, Any]) -> str:
    """Return the error of a failed task: its message, messages of items, last line of stderr."""
    failed = [item for item in result.get("results") or () if item.get("failed")]
    words = [result.get("msg"), *(item.get("msg") for item in failed)]
    words += [(each.get("stderr_lines") or [""])[-1] for each in (result, *failed)]
    words.append(result.get("censored"))
    texts = (
        " ".join(map(str, word)) if isinstance(word, list) else str(word or "") for word in words
    )
    distinct = dict.fromkeys(text.strip() for text in texts if text.strip())
    text = ": ".join(distinct) or "failed without a message"
    return text if len(text) <= MAX_WORDS else f"{text[:MAX_WORDS]}…"


def _place(task_path: str) -> str:
    match = _PLACE.search(task_path)
    return f"{match[1] or match[2]}/{match[3]}" if match else ""


def _phase(task_path: str) -> str | None:
    place = _place(task_path)
    role, _, file = place.partition("/")
    if place not in PHASES and role.startswith("part_") and file in PART_PHASES:
        return PART_PHASES[file].format(role.removeprefix("part_"))
    return PHASES.get(place) or PHASES.get(role)


def _id(host: Host) -> str | None:
    return host.run["id"] if host.run else None
