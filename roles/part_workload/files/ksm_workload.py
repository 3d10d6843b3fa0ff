#!/usr/bin/env python3
"""Run commands in guests through their agents, each at its time, and record how they ended.

Needs python3-libvirt, and guest_agents.py beside it. Python 3.9 or newer.
"""

import sys

if sys.version_info < (3, 9):  # before anything that an older Python does not have
    sys.exit("ksm_workload.py needs Python 3.9 or newer; this is {}.{}".format(*sys.version_info))

import argparse
import json
import os
import signal
import threading
from functools import partial
from pathlib import Path

import guest_agents

SIGNALS = (signal.SIGTERM, signal.SIGINT)
EXIT_FAILED, EXIT_UNUSABLE = 1, 2
TIMEOUT = 120  # extra seconds until a command is overdue
ENDED = ("argv", "exitcode", "stdout", "stderr", "stopped_early")

HELP = """\
--commands is a JSON list. The module ksm.testbed.guest_agent describes its entries:
  [{"guest": "ksm-guest-01", "argv": ["/usr/bin/stress-ng", "--vm=1", "--timeout=10s"],
    "at": 123.4, "seconds": 10, "success": [0]}]

--output gets a line of JSON for each command that starts and for each that stops, with wall
(CLOCK_REALTIME) and monotonic, in seconds:
  {"event": "workload started", "guest": "ksm-guest-01", "argv": [...], ...}
  {"event": "workload stopped", "guest": "ksm-guest-01", "exitcode": 0, "stdout": "...", ...}

SIGTERM and SIGINT interrupt running commands. Their exit codes are then ignored.

exit status:
  0    all commands succeeded
  1    a command or a guest failed; standard error says which
  2    the commands cannot be read, or libvirt cannot be reached
"""


class Events:
    """A new file of events; safe to use from several threads."""

    def __init__(self, path):
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)

    def tell(self, event, when, **more):
        """Write one event with one write(), so that lines of threads do not mix."""
        line = {"event": event, "wall": when["wall"], "monotonic": when["monotonic"], **more}
        os.write(self._file, json.dumps(line).encode() + b"\n")

    def started(self, command, when):
        """Record that a command has started."""
        self.tell("workload started", when, argv=command["argv"], guest=command["guest"])

    def stopped(self, command, outcome):
        """Record that a command has stopped, unless it never started."""
        if "exitcode" in outcome:
            ended = {key: outcome[key] for key in ENDED}
            self.tell("workload stopped", outcome["stopped"], guest=command["guest"], **ended)


def work(commands, events, stop, uri):
    """Run all commands; return the error messages."""
    connection = guest_agents.connect(uri)
    outcomes = guest_agents.serve_all([_job(connection, each, events, stop) for each in commands])
    return [outcome["error"] for outcome in outcomes if outcome["error"]]


def _job(connection, command, events, stop):
    """Return the domain of a command, and the function to call with it."""
    started = partial(events.started, command)
    run = partial(guest_agents.execute, command, TIMEOUT, stop.is_set, started)

    def run_and_tell(guest):
        outcome = {**run(guest), "stopped": guest_agents.now()}
        events.stopped(command, outcome)
        return outcome

    return guest_agents.domain(connection, command["guest"]), run_and_tell


def main(argv=None):
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="ksm_workload.py",
        description=__doc__.partition("\n")[0],
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--commands", type=Path, required=True, metavar="FILE", help="commands and their guests")
    add("--output", required=True, metavar="FILE", help="new file for events")
    add("--uri", default="qemu:///system", help="address of libvirt (default: qemu:///system)")
    arguments = parser.parse_args(argv)
    stop = threading.Event()
    for number in SIGNALS:
        signal.signal(number, lambda *_: stop.set())
    try:
        if guest_agents.LIBVIRT_ERROR:
            raise guest_agents.GuestError("there is no python3-libvirt")
        commands = json.loads(arguments.commands.read_text(encoding="utf-8"))
        errors = work(commands, Events(arguments.output), stop, arguments.uri)
    except (OSError, ValueError, guest_agents.GuestError) as error:
        print(f"ksm_workload.py: error: {error}", file=sys.stderr)
        return EXIT_UNUSABLE
    if errors:
        print("; ".join(" ".join(error.split()) for error in errors), file=sys.stderr)
    return EXIT_FAILED if errors else 0


if __name__ == "__main__":
    sys.exit(main())
