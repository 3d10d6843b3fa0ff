"""Launch one playbook that only reads hosts, and keep what it returned for each."""

from pathlib import Path
from typing import Any

from ksm_analysis.campaign import launch
from ksm_analysis.errors import InputError


def ask(
    command: str,
    result: str,
    variables: dict[str, Any],
    host: str | None,
    inventory: str | None,
) -> tuple[dict[str, Any], dict[str, str] | None]:
    """Run the playbook of a command on hosts.

    Returns what the key `result` of a task's result had for each host, or None; and why hosts
    could not be read, by name, or None if it was interrupted. Raises InputError.
    """
    playbook = f"playbooks/{command}.yml"
    if not (launch.ROOT / playbook).is_file():
        raise InputError(
            f"{launch.ROOT}: no {playbook} here: use it from a clone of the repository"
        )
    every = names(host, inventory)
    listener = Listener(every, result)
    file = _inventory(inventory)
    launcher = launch.Launcher(launch.ROOT, file, command, listener.take, lambda: None)
    with launcher.signals():
        launcher.play(playbook, {"ksm_limit": launch.pattern(every), **variables})
    if launcher.error:
        raise launcher.error
    return listener.found, None if launcher.asked else listener.errors()


def names(host: str | None, inventory: str | None) -> list[str]:
    """Return the names of the hosts. Raises InputError if there are none, or no inventory."""
    return launch.hosts(launch.ROOT, _inventory(inventory), host, option="--host")


def _inventory(inventory: str | None) -> Path:
    file = Path(inventory or launch.ROOT / "inventory/localhost.yml").absolute()
    if not file.exists():
        raise InputError(f"{file}: no such inventory")
    return file


class Listener:
    """Receives the events of the playbook; `found` has the result of each host, or None."""

    def __init__(self, names: list[str], result: str):
        self.found: dict[str, Any] = dict.fromkeys(names)
        self._result = result
        self._said: dict[str, str] = {}
        self._last = ""

    def take(self, event: dict[str, Any]) -> None:
        """Handle one event of ansible-runner."""
        data = event.get("event_data") or {}
        host, result = data.get("host") or "", data.get("res") or {}
        if event["event"] == "runner_on_ok" and self._result in result:
            self.found[host] = result[self._result]
        elif event["event"] in ("runner_on_failed", "runner_on_unreachable"):
            self._said[host] = " ".join(str(result.get("msg", "no reason given")).split())
        elif not host:
            self._last = event.get("stdout", "").strip() or self._last

    def errors(self) -> dict[str, str]:
        """Return why hosts were not read, by name."""
        return {
            name: self._said.get(name, f"Ansible did not reach the host. {self._last}".strip())
            for name, found in self.found.items()
            if found is None
        }
