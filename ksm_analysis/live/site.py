"""The pages of a launch: as it goes, with the figures of runs that have ended; then its report."""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from ksm_analysis.errors import InputError
from ksm_analysis.live.state import State
from ksm_analysis.page import render
from ksm_analysis.page.drawing import COLOURS
from ksm_analysis.results import reader
from ksm_analysis.results.record import UnreadableError
from ksm_analysis.results.run import Results, Run

READ_SECONDS = 5.0  # a page that is open has asked within this time
PART = 0.05  # of the time, at most, is spent on figures
MOST = 200  # runs: the figures of more come with the report
MOST_BYTES = 256 * 2**20  # of raw samples: what was read of them stays in memory
MISSING = " are missing: "  # what the warning says of runs that were not done
DONE = "report"  # the version of the page that is the report


class Site:
    """What is served. Only reads the results; a run is read once, when it has ended."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._state = State(directory.name)
        self._changed = threading.Condition()
        self._asked = -READ_SECONDS
        self._runs: dict[Path, Run] = {}
        self._figures: dict[str, Any] = {}  # the data of the page of runs that have ended
        self._made, self._next = 0, 0.0  # the runs that had ended then; when to make the next
        self._problem = ""

    def take(self, notice: dict[str, Any]) -> None:
        """Take a notice of the launch."""
        with self._changed:
            self._state.take(notice)
            self._changed.notify()

    @property
    def open(self) -> bool:
        """Whether a page is open somewhere."""
        return time.monotonic() - self._asked < READ_SECONDS

    def state(self) -> dict[str, Any]:
        """Return what changes, for a page that is open."""
        with self._changed:
            self._asked = time.monotonic()
            self._changed.notify()
            shown = self._state.shown(time.time())
            return {**shown, "version": self._version(), "problem": self._problem}

    def page(self) -> bytes:
        """Return the page as it is now: the report, if there is one."""
        state = self.state()
        if state["version"] == DONE:
            try:
                return Path(self._state.report).read_bytes()
            except OSError as error:
                state["problem"] = f"{self._state.report}: cannot be read: {error.strerror}"
        own = {**state, "colours": COLOURS}
        live = {"live": own, "javascript_of_live": render.source("live.js")}
        with self._changed:
            figures, name = self._figures, self._state.name
        if figures:
            return render.render("live.html.j2", figures | live).encode()
        first = {
            "name": name,
            "tried": "No run has ended yet.",
            "verdict": "There are no figures yet.",
            "links": [],
            "warnings": [],
            "tiles": [],
        }
        return render.render("live_first.html.j2", first | live).encode()

    def _version(self) -> str:
        done = self._state.over and self._state.report and Path(self._state.report).is_file()
        return DONE if done else str(self._made)

    # --- figures of runs that have ended ----------------------------------------------------------

    def make_figures(self) -> None:
        """Make the figures anew when a run has ended and a page is open. Does not return."""
        while True:
            with self._changed:
                while not self._is_due():
                    self._changed.wait(1.0)
                ended = len(self._state.ended)
            began = time.monotonic()
            figures, problem = self._figures_now()
            took = time.monotonic() - began
            with self._changed:
                self._figures, self._problem = figures or self._figures, problem
                self._made, self._next = ended, time.monotonic() + took / PART

    def _is_due(self) -> bool:
        new = len(self._state.ended) > self._made and self._version() != DONE
        return new and self.open and time.monotonic() >= self._next

    def _figures_now(self) -> tuple[dict[str, Any], str]:
        """Return the data of the page, or what is wrong."""
        try:
            if problem := _too_much(self._directory):
                self._runs.clear()
                pa.default_memory_pool().release_unused()  # to the host
                return {}, problem
            results = reader.read_results(self._directory, self._read)
            return render.data_with_scripts(_as_far(results)), ""
        except InputError as error:
            return {}, str(error)
        except Exception as error:  # whatever a damaged run causes, the experiment goes on
            return {}, f"the figures cannot be made: {type(error).__name__}: {error}"

    def _read(self, paths: list[Path]) -> Iterator[tuple[Run | None, str]]:
        for path in paths:
            if _is_partial(path) or not (path / "run.json").exists():
                continue
            try:
                if path not in self._runs:
                    self._runs[path] = reader.read_run(path, keep=False)
                yield self._runs[path], ""
            except UnreadableError as error:
                yield None, f"{path.name}: left out, since {error}"


def _too_much(directory: Path) -> str:
    """Say why the figures have to wait for the report, which is empty if they need not."""
    runs = [run.parent for run in directory.glob("*/run.json") if not _is_partial(run.parent)]
    if len(runs) > MOST:
        return f"figures of more than {MOST} runs come with the report"
    files = (run / "samples.jsonl" for run in runs)
    if sum(file.stat().st_size for file in files if file.exists()) > MOST_BYTES:
        return f"figures of more than {MOST_BYTES >> 20} MiB of samples come with the report"
    return ""


def _is_partial(run: Path) -> bool:
    """Whether a run is still being collected."""
    return run.name.endswith(reader.PARTIAL)


def _as_far(results: Results) -> Results:
    """Leave out the warning that runs are missing: they are still to come."""
    warnings = tuple(text for text in results.warnings if MISSING not in text)
    return replace(results, warnings=warnings)


def as_json(state: dict[str, Any]) -> bytes:
    """Return a state for the page."""
    return json.dumps(state).encode()
