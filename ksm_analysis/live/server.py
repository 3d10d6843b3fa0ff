"""Serves the live page: a process of its own, which only reads.

A thread would share Python's lock with the launch, and a program with threads must not fork. The
launch writes its notices to standard input, one JSON object a line. At their end, the server ends.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from ksm_analysis.live.site import Site, as_json

NAMES = {"127.0.0.1", "localhost"}  # of this server, in the addresses of its pages
LAST_SECONDS = 3.0  # for open pages, to become the report
HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Handler(BaseHTTPRequestHandler):
    """Two addresses: the page, and what changes. Nothing else is found, and nothing is written."""

    server: "Server"
    server_version, sys_version = "ksm-testbed", ""
    timeout = 30  # seconds for a request to come

    def do_GET(self) -> None:
        """Answer, unless the page was asked for by another name.

        A page of elsewhere whose name leads here (DNS rebinding) could read the answer.
        """
        if self.headers.get("Host", "").partition(":")[0] not in NAMES:
            self._answer(421, b"this server is 127.0.0.1\n", "text/plain")
        elif self.path == "/":
            self._answer(200, self.server.site.page(), "text/html")
        elif self.path == "/state":
            self._answer(200, as_json(self.server.site.state()), "application/json")
        else:
            self._answer(404, b"there is only /\n", "text/plain")

    def _answer(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # the reader has gone
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing: standard error is that of the launch."""


class Server(ThreadingHTTPServer):
    """Serves a site on a socket that listens already."""

    daemon_threads = True

    def __init__(self, listening: socket.socket, site: Site) -> None:
        super().__init__(listening.getsockname(), Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening
        self.site = site

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a reader that leaves is no error."""


def main(descriptor: str, directory: str) -> None:
    """Serve until standard input ends."""
    os.nice(19)  # the host may be this machine, and is being measured
    site = Site(Path(directory))
    server = Server(socket.socket(fileno=int(descriptor)), site)
    for target in (server.serve_forever, site.make_figures):
        threading.Thread(target=target, daemon=True).start()
    for line in sys.stdin:
        site.take(json.loads(line))
    if site.open:
        time.sleep(LAST_SECONDS)
    os._exit(0)  # whatever a thread computes, nobody waits for it


if __name__ == "__main__":
    main(*sys.argv[1:])
