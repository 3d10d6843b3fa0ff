"""Launch playbooks with ansible-runner and receive their events. No process outlives us."""

import collections
import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import yaml

from ksm_analysis.errors import InputError

if TYPE_CHECKING:
    from ansible_runner import Runner

ROOT = Path(__file__).parents[2]
GROUP = "ksm_hosts"
# The kernel sends the playbook SIGTERM when this program ends, even by SIGKILL. On SIGTERM
# ansible-playbook also ends its workers. The end of the thread that started the playbook counts.
END_WITH_US = ("setpriv", "--pdeathsig", "TERM", "--")
TICK_SECONDS = 0.5
# Seconds until a playbook that was signalled to end is signalled again, and until it is killed.
REPEAT_SECONDS = 3.0
KILL_SECONDS = 9.0
# Two quick presses of Ctrl-C count as one.
SAME_GESTURE_SECONDS = 1.0


def environment() -> dict[str, str]:
    """Return an environment that finds Ansible's programs next to this Python."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    # ansible-runner drops results of tasks that are longer than this. A host with many guests
    # exceeds the default.
    longest = {"MAX_EVENT_RES": str(2**30)}
    return {"PATH": path, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0", **longest}


def hosts(root: Path, inventory: Path, limit: str | None, option: str = "--limit") -> list[str]:
    """Return the names of the hosts for runs, in the order of the inventory.

    Raises InputError if there are none. `option` is the option with which `limit` was given.
    """
    listed = _list(root, inventory, limit)
    if names := _names(listed):
        return names
    if limit is None:
        why = next((line for line in listed.stderr.splitlines() if "parse" in line), "")
        raise InputError(f"{inventory}: no host in the group {GROUP}. {why}".strip())
    every = ", ".join(_names(_list(root, inventory, None))) or "none"
    raise InputError(
        f"{option} {limit}: no such host in {GROUP} of {inventory}. There are: {every}"
    )


def _list(root: Path, inventory: Path, limit: str | None) -> subprocess.CompletedProcess[str]:
    command = ["ansible", GROUP, "--list-hosts", "-i", str(inventory)]
    return subprocess.run(
        [*command, *(["--limit", limit] if limit else [])],
        cwd=root,
        env={**os.environ, **environment()},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def _names(listed: subprocess.CompletedProcess[str]) -> list[str]:
    """Return the names of hosts in the output of --list-hosts, below its heading."""
    return [line.strip() for line in listed.stdout.splitlines()[1:] if line.strip()]


def pattern(names: list[str]) -> str:
    """Return one host pattern for these hosts."""
    # A list with commas or colons would be split within ksm_hosts:&PATTERN.
    return names[0] if len(names) == 1 else f"~^({'|'.join(map(re.escape, names))})$"


def version(root: Path) -> str:
    """Return the version of the testbed."""
    command = ["git", "describe", "--always", "--dirty"]
    try:
        described = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    except OSError:  # no git
        return "unknown"
    return described.stdout.strip() or "unknown"


class Launcher:
    """Runs playbooks, one after the other, and ends them on request.

    `name` is part of the command line, which the lock of a host shows as its holder. `take` is
    called with every event of ansible-runner; `tick` is called twice a second. If one of them
    raises, the playbook is ended, the exception is kept in `error`, and they are not called again.
    `asked` counts the requests to end, from signals or such an error.
    """

    def __init__(
        self,
        root: Path,
        inventory: Path,
        name: str,
        take: Callable[[dict[str, Any]], None],
        tick: Callable[[], None],
    ):
        self.asked = 0
        self.error: Exception | None = None
        self._root, self._inventory, self._name = root, inventory, name
        self._take, self._tick = take, tick
        self._ignored = 0
        self._asked_at = -SAME_GESTURE_SECONDS
        self._told: float | None = None
        self._doomed: dict[int, str | None] = {}  # processes and their start times
        self._repeated = 0.0
        self._mine: set[int] = set()

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """Make SIGINT, SIGTERM and a closed terminal requests to end."""
        wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        # A signal that is already ignored (nohup) stays ignored.
        before = {each: signal.getsignal(each) for each in wanted}
        caught = {each for each in wanted if before[each] is not signal.SIG_IGN}
        for each in caught:
            signal.signal(each, self._on_signal)
        try:
            yield
        finally:
            for each in caught:
                signal.signal(each, before[each])

    def play(
        self, playbook: str, variables: dict[str, Any], more: tuple[str, ...] = (), ignored: int = 0
    ) -> int | None:
        """Run a playbook and return its exit status.

        `variables` are not templated: what looks like a template in them is text. `more` are
        arguments of -e, which `variables` override. The playbook is ended after more than `ignored`
        requests to end; the result is None if it was not started for that reason. Must be called
        from the main thread. Raises InputError if temporary files cannot be written.
        """
        self._ignored, self._told = ignored, None
        if self.asked > ignored:
            return None
        try:
            with tempfile.TemporaryDirectory(prefix="ksm-") as private:
                return self._run(self._runner(playbook, Path(private), variables, more))
        except OSError as error:
            where = tempfile.gettempdir()
            raise InputError(f"Ansible cannot be run with {where}: {error.strerror}") from None

    def _run(self, runner: "Runner") -> int | None:
        from pexpect import TIMEOUT

        self._mine = set(_children()[os.getpid()])
        marker = _marker(runner.config.command)
        # ansible-runner does not notice the end while other processes hold its terminal.
        with contextlib.suppress(TIMEOUT):
            runner.run()
        if self._told is not None:
            _signal(
                {pid for pid in self._doomed if _born(pid) == self._doomed[pid]}, signal.SIGKILL
            )
            # A worker that was forked while the playbook ended is in no list and has no parent.
            kill_marked(marker)
        return None if runner.rc is None else int(runner.rc)

    def _runner(
        self, playbook: str, private: Path, variables: dict[str, Any], more: tuple[str, ...]
    ) -> "Runner":
        from ansible_runner.interface import init_runner

        runner = init_runner(
            private_data_dir=str(private),
            project_dir=str(self._root),
            playbook=playbook,
            inventory=str(self._inventory),
            cmdline=_arguments(private / f"{self._name}.yml", variables, more),
            envvars=environment(),
            settings={"pexpect_timeout": TICK_SECONDS, "suppress_output_file": True},
            fact_cache_type="memory",
            quiet=True,
            event_handler=self._on_event,
            cancel_callback=self._on_tick,
        )
        if "ANSIBLE_HOST_KEY_CHECKING" not in os.environ:
            # ansible-runner turns this off, but the user's configuration decides.
            runner.config.env.pop("ANSIBLE_HOST_KEY_CHECKING", None)
        runner.config.command = [*END_WITH_US, *runner.config.command]
        return runner

    # --- what comes from outside ------------------------------------------------------------------

    def _on_event(self, event: dict[str, Any]) -> bool:
        self.attempt(lambda: self._take(event))
        return False  # do not keep events on disk

    def _on_tick(self) -> bool:
        self.attempt(self._tick)
        if self.asked > self._ignored:
            self._end()
        return False  # ansible-runner's cancellation would leave workers running

    def attempt(self, call: Callable[[], None]) -> None:
        """Call a function that may fail; an error requests the end, but does not raise."""
        if self.error:
            return
        try:
            call()
        except Exception as error:
            self.error = error
            if not self.asked:
                self._ask()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        # A closed terminal causes both a signal and an error, but counts as one request.
        if time.monotonic() - self._asked_at >= SAME_GESTURE_SECONDS:
            self._ask()

    def _ask(self) -> None:
        self._asked_at = time.monotonic()
        self.asked += 1
        if self.asked > self._ignored:
            self._end()

    # --- ending -----------------------------------------------------------------------------------

    def _end(self) -> None:
        """Signal the playbook to end, again if it was just starting; finally, kill it."""
        playbook, now = set(_children()[os.getpid()]) - self._mine, time.monotonic()
        if not playbook:
            return
        if self._told is None:
            self._told, self._repeated = now, -REPEAT_SECONDS
        if now - self._told > KILL_SECONDS:
            _signal(_tree(playbook), signal.SIGKILL)
        elif now - self._repeated >= REPEAT_SECONDS:
            self._repeated = now
            self._doomed |= {pid: _born(pid) for pid in _tree(playbook)}
            _signal(playbook, signal.SIGTERM)


def _arguments(file: Path, variables: dict[str, Any], more: tuple[str, ...]) -> str:
    """Return arguments for ansible-playbook. Variables are in a file, because plans can be long."""
    flow = yaml.safe_dump(variables, default_flow_style=True, width=float("inf"))
    file.write_text(f"!unsafe {flow}", encoding="utf-8")
    return shlex.join(word for given in (*more, f"@{file}") for word in ("-e", given))


def _signal(pids: set[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _marker(command: list[str]) -> bytes:
    """Return the argument that only this playbook has: its file of variables."""
    return next(word for word in command if word.startswith(f"@{tempfile.gettempdir()}")).encode()


def kill_marked(marker: bytes) -> None:
    """Kill every process with this argument, until none is left."""
    while found := {pid for pid, words in _arguments_of_all() if marker in words}:
        _signal(found, signal.SIGKILL)
        time.sleep(0.02)


def _arguments_of_all() -> Iterator[tuple[int, list[bytes]]]:
    """Yield each process with its arguments. Ended processes and zombies have none."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield int(path.parent.name), path.read_bytes().split(b"\0")


def _born(pid: int) -> str | None:
    """Return the start time of a process in clock ticks since boot; None if it has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return None


def _tree(pids: set[int]) -> set[int]:
    """Return these processes and all descendants: workers have their own sessions."""
    children, found, new = _children(), set(), set(pids)
    while new:
        found |= new
        new = {child for pid in new for child in children[pid]} - found
    return found


def _children() -> dict[int, list[int]]:
    """Return the children of each process that has any."""
    found = collections.defaultdict(list)
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            found[parent].append(int(path.parent.name))
    return found
