#!/usr/bin/env python3
"""Start and stop guests of libvirt at their times, and tell when each answers.

One file, standard library only, Python 3.9 or newer, so that it can be copied to any host.
"""

import sys

if sys.version_info < (3, 9):  # before anything that an older Python does not have
    sys.exit("ksm_arrivals.py needs Python 3.9 or newer; this is {}.{}".format(*sys.version_info))

import argparse
import contextlib
import json
import signal
import subprocess
import time
from pathlib import Path

SIGNALS = (signal.SIGTERM, signal.SIGINT)
EXIT_FAILED = 2
VIRSH = ("virsh", "--connect", "qemu:///system")
PIDS = Path("/run/libvirt/qemu")
PING = '{"execute": "guest-ping"}'
POLL_SECONDS = 0.5
VIRSH_SECONDS = 60

HELP = """\
--changes is a JSON list of {"at": seconds, "guest": name, "arrives": true or false}. Seconds count
from --start. The guests are defined already. --directory gets
  NAME.pid         the process id of a guest that was started, until it is stopped
  arrivals.jsonl   events: guest arrived, guest ready (its agent answers), guest left

exit status:
  0    all changes are made, and all guests that arrived and stay have answered
  2    a guest cannot be started or stopped
  130  ended by SIGINT    143  ended by SIGTERM
"""


class FailedError(Exception):
    """A guest cannot be started or stopped; the message is for the user."""


class Stopped(Exception):  # noqa: N818 - not an error: it ends any wait
    """A signal has requested the end. The argument is its number."""


def virsh(*words):
    """Run virsh; return its result."""
    try:
        return subprocess.run(
            [*VIRSH, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=VIRSH_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FailedError(f"virsh {words[0]} {words[1]}: {error}") from error


def change(words, name):
    """Run virsh, and require that it succeeds."""
    done = virsh(words, name)
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise FailedError(f"virsh {words} {name}: {said[0]}")


def answers(name, seconds=1):
    """Whether the agent of a guest answers within whole seconds."""
    return virsh("qemu-agent-command", name, PING, "--timeout", str(seconds)).returncode == 0


def arrive(name, directory):
    """Start a guest, and tell its process id."""
    change("start", name)
    partial = directory / f".{name}.pid"
    partial.write_text((PIDS / f"{name}.pid").read_text())
    partial.replace(directory / f"{name}.pid")


def leave(name, directory):
    """Stop a guest at once."""
    change("destroy", name)
    with contextlib.suppress(FileNotFoundError):
        (directory / f"{name}.pid").unlink()


def follow(changes, start, directory):
    """Make all changes at their times, and wait until those that arrived answer."""
    todo, waiting = sorted(changes, key=lambda each: each["at"]), []
    while todo or waiting:
        if todo and start + todo[0]["at"] <= time.monotonic():
            name, arrives = todo[0]["guest"], todo[0]["arrives"]
            todo.pop(0)
            event = {"event": "guest arrived" if arrives else "guest left", "guest": name, **now()}
            (arrive if arrives else leave)(name, directory)
            tell(directory, **event)
            waiting = [other for other in waiting if other != name] + [name] * arrives
            continue
        for name in [name for name in waiting if answers(name)]:
            tell(directory, event="guest ready", guest=name, **now())
            waiting.remove(name)
        next_one = start + todo[0]["at"] - time.monotonic() if todo else POLL_SECONDS
        time.sleep(max(0, min(POLL_SECONDS, next_one)))


def now():
    """Return the time of an event: when it begins, since its memory is given back meanwhile."""
    return {"wall": time.time(), "monotonic": time.monotonic()}


def tell(directory, **event):
    """Add an event."""
    with (directory / "arrivals.jsonl").open("a") as file:
        file.write(json.dumps(event) + "\n")


def stop(number, _frame):
    """Handle a signal: end at once."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise Stopped(number)


def parse_arguments(argv):
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="ksm_arrivals.py",
        description=__doc__.partition("\n")[0],
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--changes", type=json.loads, required=True, metavar="JSON")
    parser.add_argument("--directory", type=Path, required=True, metavar="DIR")
    parser.add_argument("--start", type=float, required=True, metavar="S")
    return parser.parse_args(argv)


def main(argv=None):
    """Run the command line; return the exit status."""
    arguments = parse_arguments(argv)
    for number in SIGNALS:
        signal.signal(number, stop)
    try:
        follow(arguments.changes, arguments.start, arguments.directory)
    except Stopped as stopped:
        return 128 + stopped.args[0]
    except (FailedError, OSError) as error:
        print(f"ksm_arrivals.py: error: {error}", file=sys.stderr)
        return EXIT_FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
