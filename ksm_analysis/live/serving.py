"""The side of the launch: starts the server, and tells it what happens, without waiting for it."""

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

import ksm_analysis
from ksm_analysis.campaign.progress import Progress
from ksm_analysis.campaign.views import View
from ksm_analysis.errors import InputError

SERVER = "ksm_analysis.live.server"
LOOPBACK = "127.0.0.1"
END_SECONDS = 10.0  # for the server to end by itself
MOST_WAITING = 2**24  # bytes for a server that does not read: then it is given up


class Serving:
    """A server of the live page, from the results in `directory`. It ends with this context.

    Raises InputError if the port (0: any) cannot be used.
    """

    def __init__(self, directory: Path, port: int) -> None:
        self._directory = directory
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((LOOPBACK, port))
            self._socket.listen()
        except OSError as error:
            self._socket.close()
            raise InputError(
                f"--serve {port}: port {port} of {LOOPBACK}: {error.strerror}"
            ) from None
        self.url = f"http://{LOOPBACK}:{self._socket.getsockname()[1]}/"  # of the page
        self._waiting = bytearray()

    def __enter__(self) -> Self:
        place = str(Path(ksm_analysis.__file__).parents[1])
        path = os.pathsep.join(filter(None, [place, os.environ.get("PYTHONPATH")]))
        descriptor = self._socket.fileno()
        self._process = subprocess.Popen(
            [sys.executable, "-m", SERVER, str(descriptor), str(self._directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=[descriptor],
            start_new_session=True,  # Ctrl-C is for the launch, whose end is that of the server
            env={**os.environ, "PYTHONPATH": path},
        )
        assert self._process.stdin  # which is a pipe
        self._stdin = self._process.stdin
        self._pipe = self._stdin.fileno()
        os.set_blocking(self._pipe, False)
        return self

    def __exit__(self, *_: object) -> None:
        deadline = time.monotonic() + END_SECONDS
        while self._waiting and (left := deadline - time.monotonic()) > 0:
            select.select([], [self._pipe], [], left)  # until the server has read, or ended
            self._write()
        with contextlib.suppress(OSError):
            self._stdin.close()
        self._socket.close()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def stay(self) -> None:
        """Wait until Ctrl-C, or the end of the server."""
        with contextlib.suppress(KeyboardInterrupt):
            self._process.wait()

    def tell(self, notice: dict[str, Any]) -> None:
        """Tell the server a notice, sooner or later. Never waits, and never fails."""
        self._waiting += json.dumps(notice).encode() + b"\n"
        self._write()

    def _write(self) -> None:
        """Write what the pipe takes. If the server has died, the launch goes on without it."""
        try:
            while self._waiting:
                del self._waiting[: os.write(self._pipe, self._waiting)]
        except BlockingIOError:
            if len(self._waiting) > MOST_WAITING:
                self._process.kill()
        except OSError:
            self._waiting.clear()


class Served:
    """A view of a campaign that also tells the server what it shows."""

    def __init__(self, view: View, progress: Progress, serving: Serving) -> None:
        self.report_seconds = view.report_seconds
        self._view, self._progress, self._serving = view, progress, serving

    def __enter__(self) -> Self:
        self._view.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._view.__exit__(*error)

    def show(self, notice: dict[str, Any]) -> None:
        """Show it, and tell it with the time and what is left; of a plan, only the runs."""
        self._view.show(notice)
        told = notice
        if notice["event"] == "plan":
            self._view.show({"event": "serving", "url": self._serving.url})
            plan = notice["plan"]
            runs = [run["id"] for run in plan["runs"]]
            told = {**notice, "plan": {"experiment": plan["experiment"], "runs": runs}}
        left = self._progress.left(time.monotonic())
        self._serving.tell({**told, "time": time.time(), "left": left})

    def tick(self) -> None:
        """Update what depends on the time; a page does that by itself."""
        self._view.tick()
