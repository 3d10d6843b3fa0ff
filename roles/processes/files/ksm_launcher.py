#!/usr/bin/env python3
"""Run copies of a service or a command, each in a cgroup of its own, with mergeable memory.

Standard library only, Python 3.9 or newer, so that it can be copied to any host. Beside it:
ksm_copies.py, how copies start, fail and end; ksm_density.py, which adds copies until they no
longer fit; ksm_services.py, which knows the services; ksm_workers.py and ksm_contents.py, which are
two of them; and ksm_output.py, which records what a command prints.
"""

import sys

if sys.version_info < (3, 9):  # before anything that an older Python does not have
    sys.exit("ksm_launcher.py needs Python 3.9 or newer; this is {}.{}".format(*sys.version_info))

import argparse
import contextlib
import ctypes
import json
import os
import signal
import time
from pathlib import Path

from ksm_copies import (
    POLL_SECONDS,
    Copies,
    limit,
    make_parent,
    new_state,
    out_of_memory,
    remove,
    require_prctl,
    tell,
    write,
)
from ksm_density import add_until_it_breaks
from ksm_output import Output
from ksm_services import FailedError

SIGNALS = (signal.SIGTERM, signal.SIGINT)
EXIT_FAILED = 2
PR_SET_CHILD_SUBREAPER = 36  # orphaned workers become children of this program, which reaps them
READY, BEGIN = "processes.ready", "processes.begin"
FOREVER = float("inf")
# Options that may be left out
OPTIONAL = (
    *("service", "contents", "command", "check", "metrics"),
    *("arrivals", "lifetimes", "density"),
)

HELP = """\
run starts all copies, waits until each answers, and holds them until SIGTERM. Then, or if one
fails, it ends all of them and removes their cgroups. --directory gets
  process-NN.pid, process-NN-wM.pid   process ids of a copy and of its workers
  processes.jsonl                     events, with wall and monotonic, in seconds. With metrics,
                                      what the copies print, a line for each of theirs
  processes.ready                     {"error": null, or why the copies are not ready}
  processes.state                     what remove must remove, if this program was killed
remove does that. It touches nothing that processes.state does not name.

--options is JSON: count, service (see ksm_services.py) or command, check, merge (prctl,
madvise, none), memory_mib, data, data_mib, workers, preload, ready_seconds, contents (of memory;
see ksm_contents.py), arrivals, lifetimes (seconds from the begin of the run, and from its arrival,
one of each copy; or null), density (see ksm_density.py; or null). With the last three, the begin of
the run is the number (monotonic seconds) in a file processes.begin, which is waited for. With
metrics (not null), what the copies print is recorded.

exit status:
  2    wrong arguments, or a copy failed    143  ended by SIGTERM
"""


class Stopped(Exception):  # noqa: N818 - not an error: it ends any wait
    """A signal has requested the end. The argument is its number."""


def hold(asked, directory, output):
    """Start all copies, wait until they are ready, and hold them until one fails or a signal."""
    require_prctl(asked)
    state = new_state()
    make_parent(state, directory)
    copies = Copies(asked, state, directory, output)
    times = asked["arrivals"] or [0] * asked["count"]
    if asked["density"]:
        limit(state, state["cgroup"], asked["density"]["memory_mib"], swap=False)
    start_first(copies, [number for number, at in enumerate(times, start=1) if at == 0])
    write(directory / READY, {"error": None})
    if asked["density"]:
        add_until_it_breaks(copies, begin_of_run(copies))
        while True:
            signal.pause()  # whatever happens to the copies now is no longer part of the result
    elif asked["arrivals"] or asked["lifetimes"]:
        come_and_go(copies, begin_of_run(copies))
    copies.watch(FOREVER)


def start_first(copies, numbers):
    """Start the copies that are there before the run begins, and wait until they are ready."""
    try:
        for number in numbers:
            copies.start(number)
        copies.wait_ready()
    except FailedError as error:
        density = copies.asked["density"]
        if density and any(out_of_memory(copy["group"]) for copy in copies.there):
            what = "one copy" if len(numbers) == 1 else f"the first {len(numbers)} copies"
            few = f"the budget of {density['memory_mib']} MiB is too small for {what}"
            raise FailedError(f"{few}: {error}") from error
        raise


def begin_of_run(copies):
    """Return the monotonic time at which the run begins, as soon as it is known."""
    path = copies.directory / BEGIN
    while not path.exists():
        copies.watch(time.monotonic() + POLL_SECONDS)
    return float(path.read_text())


def changes(times, lifetimes):
    """Return (seconds, whether it arrives, number) of all arrivals and departures, in order."""
    numbered = list(enumerate(times, start=1))
    arrive = [(at, True, number) for number, at in numbered if at > 0]
    leave = [(at + lifetimes[number - 1], False, number) for number, at in numbered if lifetimes]
    return sorted(arrive + leave)


def come_and_go(copies, begin):
    """Start and end copies at their times."""
    times = copies.asked["arrivals"] or [0] * copies.asked["count"]
    for at, arrives, number in changes(times, copies.asked["lifetimes"]):
        copies.watch(begin + at)
        if arrives:
            copies.start(number)
        else:
            copy = next(copy for copy in copies.there if copy["number"] == number)
            copies.leave(copy, "its lifetime is over")


# --- the program ----------------------------------------------------------------------------------


def run(asked, directory):
    """Hold the copies; clean up, however this ends. Returns the exit status."""
    output = Output(directory / "processes.jsonl") if asked["metrics"] else None
    try:
        hold(asked, directory, output)
    except Stopped as stopped:
        return 128 + stopped.args[0]
    except (FailedError, OSError) as error:
        ignore_signals()
        tell(directory, event="processes failed", reason=str(error))
        clean(directory)
        write(directory / READY, {"error": str(error)})  # last: it tells others to go on
        raise FailedError(str(error)) from error
    finally:
        ignore_signals()  # a signal must not interrupt this
        clean(directory)
        if output:
            output.close()


def clean(directory):
    """End the copies, and remove their cgroups and their files, except what they have told.

    Returns whether there was anything to remove.
    """
    found = remove(directory)
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    for path in directory.glob("process-*.pid"):
        path.unlink()
    return found


def ignore_signals():
    """Ignore further signals."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)


def stop(number, _frame):
    """Handle a signal: end at once."""
    ignore_signals()
    raise Stopped(number)


def parse_arguments(argv):
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="ksm_launcher.py",
        description=__doc__.partition("\n")[0],
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("action", choices=["run", "remove"])
    parser.add_argument("--directory", type=Path, required=True, metavar="DIR")
    parser.add_argument("--options", type=json.loads, default={}, metavar="JSON")
    return parser.parse_args(argv)


def main(argv=None):
    """Run the command line; return the exit status."""
    arguments = parse_arguments(argv)
    try:
        if arguments.action == "remove":
            if clean(arguments.directory):
                print("removed")
            return 0
        for number in SIGNALS:
            signal.signal(number, stop)
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        return run({**dict.fromkeys(OPTIONAL), **arguments.options}, arguments.directory)
    except FailedError as error:
        print(f"ksm_launcher.py: error: {error}", file=sys.stderr)
        return EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
