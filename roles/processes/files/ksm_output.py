#!/usr/bin/env python3
"""Record what the copies of ksm_launcher.py print, each line with the time at which it was seen.

It is a program of its own, so that lines get their time while the launcher waits for something
else. Standard library only, Python 3.9 or newer.
"""

import sys

if sys.version_info < (3, 9):  # before anything that an older Python does not have
    sys.exit("ksm_output.py needs Python 3.9 or newer; this is {}.{}".format(*sys.version_info))

import json
import os
import selectors
import signal
import socket
import subprocess
import time

LONGEST = 8192  # bytes of a line; the rest of it is cut off
MOST = 8 * 2**20  # bytes of a copy, in the file; what it prints after that is not kept
BESIDE = 100  # bytes of a line in the file beside its text
END_SECONDS = 5


class Output:
    """The running program, as the launcher uses it."""

    def __init__(self, path):
        """Start the program, which adds lines to the file."""
        self._control, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with other:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(path)], stdin=other, start_new_session=True
            )

    def pipe(self, name):
        """Return the end of a new pipe that a copy of that name can write to."""
        reads, writes = os.pipe()
        socket.send_fds(self._control, [name.encode()], [reads])
        os.close(reads)
        return writes

    def close(self):
        """Wait until all is recorded. All copies must have ended."""
        self._control.close()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Copy:
    """What one copy has printed: the start of its last line, and how much more is kept."""

    def __init__(self, name):
        self.name = name
        self.begun = b""
        self.left = MOST

    def lines(self, data):
        """Return the lines that are complete with this data; at its end (no data), also the last.

        Nothing is returned once there is too much. Then `left` is below 0.
        """
        if self.left < 0:
            return []
        self.left -= len(data) + BESIDE * data.count(b"\n")
        *lines, self.begun = (self.begun + (data or b"\n")).split(b"\n")
        self.begun = self.begun[:LONGEST]
        return [line[:LONGEST].decode(errors="replace") for line in lines if line or data]


def record(control, file):
    """Add to a file what comes from the pipes that `control` hands over, until all are closed."""
    with selectors.DefaultSelector() as waiting:
        waiting.register(control, selectors.EVENT_READ)
        while waiting.get_map():
            for key, _ in waiting.select():
                if key.data is None:
                    name, pipes, *_ = socket.recv_fds(control, 256, 1)
                    if pipes:
                        waiting.register(pipes[0], selectors.EVENT_READ, Copy(name.decode()))
                    else:
                        waiting.unregister(control)
                elif not passed_on(key.fd, key.data, file):
                    waiting.unregister(key.fd)
                    os.close(key.fd)


def passed_on(pipe, copy, file):
    """Write the lines that are in a pipe; return whether more may come."""
    data = os.read(pipe, 65536)
    fits = copy.left >= 0
    told = [{"output": line, "process": copy.name} for line in copy.lines(data)]
    if fits and copy.left < 0:
        told.append({"event": "output cut", "process": copy.name})
    now = {"wall": time.time(), "monotonic": time.monotonic()}
    text = "".join(json.dumps({**line, **now}) + "\n" for line in told)
    os.write(file, text.encode())  # all at once, since the launcher writes to the file too
    return bool(data)


def main():
    """Record until the launcher and all copies have ended. No signal ends it earlier."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    file = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    record(socket.socket(fileno=0), file)


if __name__ == "__main__":
    main()
