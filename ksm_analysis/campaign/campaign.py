"""One launch of an experiment: start it, show it, end it, and check its results."""

import errno
import json
import os
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TextIO

from ksm_analysis.campaign import launch
from ksm_analysis.campaign.progress import Progress
from ksm_analysis.campaign.views import View, count
from ksm_analysis.errors import InputError

DONE, FAILED, INTERRUPTED = 0, 1, 130
TEARDOWN = "playbooks/teardown.yml"
DISK_FULL = {errno.ENOSPC, errno.EDQUOT}


@dataclass(frozen=True)
class Asked:
    """The request. Paths are absolute.

    `plan` is the part of the `whole` plan to do now; `hosts` are names of hosts, not all of the
    inventory if `limited` is true; `more` are arguments of -e; `report_seconds` is the time between
    reports of the sampling; `again` is the command that does the remaining runs.
    """

    plan: dict[str, Any]
    whole: dict[str, Any]
    file: Path
    root: Path
    inventory: Path
    hosts: list[str]
    limited: bool
    results: Path
    resume: bool
    more: tuple[str, ...]
    report_seconds: int
    again: str

    @property
    def directory(self) -> Path:
        """Return the directory of results of this experiment."""
        return self.results / str(self.plan["experiment"])

    def variables(self) -> dict[str, Any]:
        """Return the variables of the playbook."""
        limit = {"ksm_limit": launch.pattern(self.hosts)} if self.limited else {}
        return {
            "ksm_plan": self.plan,
            "ksm_plan_whole": self.whole,
            "ksm_version": launch.version(self.root),
            "experiment": str(self.file),
            "results": str(self.results),
            "resume": self.resume,
            "part_sampler_report_seconds": self.report_seconds,
            **limit,
        }


class Campaign:
    """One launch. `view` makes a view of the Progress that it shows."""

    def __init__(self, asked: Asked, view: Callable[[Progress], View]):
        self._asked = asked
        self._log = Log(asked.results / f"{asked.plan['experiment']}.log")
        self._progress = Progress(asked.plan, asked.hosts, time.monotonic())
        self._view = view(self._progress)
        self._launcher = launch.Launcher(
            asked.root, asked.inventory, asked.plan["experiment"], self._take, self._view.tick
        )
        self._before = {path: _stamp(path) for path in self._products()}

    def run(self) -> int:
        """Run the experiment, show everything, and return the exit status."""
        with self._view, self._launcher.signals(), self._log:
            self._tell(self._plan())
            status = self._launcher.play("site.yml", self._asked.variables(), self._asked.more)
            code = self._interrupted() if self._launcher.asked else self._concluded(status)
        if self._launcher.error:
            _no_reader_or_raise(self._launcher.error)
        return code

    def _plan(self) -> dict[str, Any]:
        asked = self._asked
        place = {"hosts": asked.hosts, "results": str(asked.directory)}
        return {"event": "plan", "plan": asked.plan, **place}

    def _take(self, event: dict[str, Any]) -> None:
        if problem := self._log.write(event.get("stdout", "")):
            self._view.show(_message(f"{problem}; continuing without it"))
        for notice in self._progress.take(event, time.monotonic()):
            self._view.show(notice)

    def _tell(self, notice: dict[str, Any]) -> None:
        self._launcher.attempt(lambda: self._view.show(notice))

    # --- the end ----------------------------------------------------------------------------------

    def _concluded(self, status: int | None) -> int:
        if self._progress.held:
            self._restore("Ansible ended early")
        runs = self._runs()
        code = DONE if len(runs["complete"]) == len(self._asked.plan["runs"]) else FAILED
        if status != 0 and not self._progress.ended and (notice := self._progress.unexplained()):
            self._tell(notice)
        if self._is_new(self._report()):
            self._tell({"event": "report", "path": str(self._report())})
        self._tell(_message(self._verdict(runs), failed=code != DONE))
        if code != DONE:
            self._tell(_message(f"to do the remaining runs: {self._asked.again}"))
        if (code != DONE or status != 0) and self._log.path:
            self._tell(_message(f"full output of Ansible: {self._log.path}"))
        return self._end(code, runs)

    def _interrupted(self) -> int:
        runs = self._runs()
        self._restore("interrupted")
        done = ", ".join(runs["complete"]) or "none"
        of = count(len(self._asked.plan["runs"]))
        self._tell(_message(f"finished: {len(runs['complete'])} of {of}: {done}"))
        self._tell(_message(f"to continue: {self._asked.again}"))
        return self._end(INTERRUPTED, runs)

    def _end(self, code: int, runs: dict[str, Any]) -> int:
        log = str(self._log.path) if self._log.path else None
        self._tell({"event": "end", "exit": code, **runs, "log": log})
        return code

    def _restore(self, why: str) -> None:
        """Restore the hosts, unless another request to end comes."""
        asked_before = self._launcher.asked
        phases = self._progress.interrupted()
        held = [name for name in self._asked.hosts if name in self._progress.held]
        # The lock on a remote host cannot know that its holder has ended.
        force = {"force": True} if held else {}
        limit = launch.pattern(held or self._asked.hosts)
        variables = {"keep_image": True, "ksm_limit": limit, **force}
        if asked_before <= 1:
            text = f"{why}: restoring the host; Ctrl-C now would skip this"
            for each in (_message(text), *phases):
                self._tell(each)
        ignored = min(1, asked_before)
        status = self._launcher.play(TEARDOWN, variables, self._asked.more, ignored=ignored)
        if status == 0:
            self._tell(_message("the host is restored"))
            return
        if self._launcher.asked == asked_before and (notice := self._progress.unexplained()):
            self._tell(notice)
        command = ["ansible-playbook", TEARDOWN, "-i", str(self._asked.inventory)]
        for name, value in variables.items():
            command += ["-e", f"{name}={str(value).lower() if value is True else value}"]
        text = f"the host may not be restored; to restore it: {shlex.join(command)}"
        self._tell(_message(text, failed=True))

    # --- what is left -----------------------------------------------------------------------------

    def _products(self) -> list[Path]:
        """Return the files that this launch should write."""
        runs = [self._record(run["id"]) for run in self._asked.plan["runs"]]
        return [*runs, self._report()]

    def _record(self, run: str) -> Path:
        return self._asked.directory / run / "run.json"

    def _report(self) -> Path:
        return self._asked.directory / "report.html"

    def _is_new(self, path: Path) -> bool:
        """Whether this launch wrote the file, and not an earlier one."""
        return _stamp(path) not in {None, self._before[path]}

    def _runs(self) -> dict[str, list[str]]:
        """Return the ids of the planned runs by their status."""
        found: dict[str, list[str]] = {"complete": [], "failed": [], "missing": []}
        for run in self._asked.plan["runs"]:
            path = self._record(run["id"])
            found[_status(path) if self._is_new(path) else "missing"].append(run["id"])
        return found

    def _verdict(self, runs: dict[str, list[str]]) -> str:
        """Return the status of the runs as text."""
        total = len(self._asked.plan["runs"])
        if len(runs["complete"]) == total:
            every = "1 run is" if total == 1 else f"all {total} runs are"
            return f"{every} complete: {self._asked.directory}"
        parts = [f"{key}: {', '.join(runs[key])}" for key in ("failed", "missing") if runs[key]]
        return f"{len(runs['complete'])} of {count(total)} complete; {'; '.join(parts)}"


class Log:
    """Appends the output of Ansible to a file; `path` is None if it cannot be written.

    The output of earlier launches is kept, because it may explain why a run failed. Raises
    InputError if the directory is not writable either. A full disk is not an error: it may have
    space again when the first run ends.
    """

    def __init__(self, path: Path):
        self.path: Path | None = path
        self._file: TextIO | None = None
        self._problem = ""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a", encoding="utf-8", errors="replace", buffering=1)
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise InputError(f"{path.parent}: cannot be written: {error.strerror}") from None
            self._stop(error)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def write(self, text: str) -> str:
        """Append output. Returns the problem with the log, if any, once."""
        if self._file and text:
            try:
                self._file.write(text.replace("\r", "") + "\n")
            except OSError as error:
                self._close()
                self._stop(error)
        problem, self._problem = self._problem, ""
        return problem

    def _stop(self, error: OSError) -> None:
        self._problem = f"{self.path}: cannot be written: {error.strerror}"
        self.path, self._file = None, None

    def _close(self) -> None:
        try:
            if self._file:
                self._file.close()
        except OSError:
            # The rest cannot be written; the file is closed anyway.
            return


def _message(text: str, failed: bool = False) -> dict[str, Any]:
    return {"event": "message", "host": None, "failed": failed, "text": text}


def _stamp(path: Path) -> tuple[int, int] | None:
    """Return what distinguishes a file from another with its name; None if it does not exist."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _status(path: Path) -> str:
    """Return the status in a run.json: complete or failed. An unreadable file means failed."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return "complete" if record["status"] == "complete" else "failed"
    except (OSError, ValueError, KeyError, TypeError):
        return "failed"


def _no_reader_or_raise(error: Exception) -> None:
    """Ignore an error because the reader of our output is gone; raise any other error."""
    if not isinstance(error, OSError):
        raise error
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
