#!/usr/bin/env python3
"""Add guests of libvirt to a budget of memory until they no longer fit.

Standard library only, Python 3.9 or newer, so that it can be copied to any host. Beside it:
ksm_density.py, which adds them; ksm_arrivals.py, which asks libvirt; ksm_copies.py, which knows
cgroups, and ksm_services.py, which that needs.
"""

import sys

if sys.version_info < (3, 9):  # before anything that an older Python does not have
    sys.exit(
        "ksm_guest_density.py needs Python 3.9 or newer; this is {}.{}".format(*sys.version_info)
    )

import argparse
import contextlib
import json
import math
import os
import signal
import subprocess
import time
from pathlib import Path

import ksm_arrivals
from ksm_copies import end, limit, members, memory_controller, remove_group, write
from ksm_density import add_until_it_breaks
from ksm_services import FailedError

SIGNALS = (signal.SIGTERM, signal.SIGINT)
EXIT_FAILED = 2
POLL_SECONDS = 0.5
READY_SECONDS = 300.0  # for a boot
PARTITION = "ksmtestbed"  # what the domains have as their partition, without characters to escape
STATE, READY, BEGIN = "density.state", "density.ready", "density.begin"

HELP = """\
run makes the budget, a cgroup, starts the first guests, and waits until their agents answer. Then
it waits for the file density.begin, adds guests until one fails, and holds those that fit until
SIGTERM. Then it ends all of them and removes the budget. The guests are defined already, with the
partition /ksmtestbed. --directory gets
  NAME.pid         the process id of a guest, while it runs
  density.jsonl    events, with wall and monotonic, in seconds; metrics
  density.ready    {"error": null, or why the first guests are not ready}
  density.state    what remove must remove, if this program was killed
remove does that. It touches nothing that density.state does not name.

--options is JSON: guests (names), count (how many are there at first), and those of `density` in
docs/experiments.md.

exit status:
  2    wrong arguments, or the first guests do not fit    143  ended by SIGTERM
"""


class Stopped(Exception):  # noqa: N818 - not an error: it ends any wait
    """A signal has requested the end. The argument is its number."""


# --- the budget -----------------------------------------------------------------------------------


def hierarchies(text):
    """Return the mount point of each hierarchy of cgroups that libvirt uses."""
    lines = [line.split() for line in text.splitlines()]
    return [
        Path(point)
        for _, point, kind, options, *_ in lines
        if kind == "cgroup2" or (kind == "cgroup" and "name=" not in options)
    ]


def budget_of(text, systemd):
    """Return the state of a budget, from the text of /proc/mounts: which cgroups, which slice.

    libvirt calls a partition a slice under systemd. Otherwise it must exist in each hierarchy.
    """
    version, memory = memory_controller(text)
    if systemd:
        name = f"{PARTITION}.slice"
        own = {"cgroup": f"{memory}/{name}", "slice": name, "groups": [], "control": None}
        return {"version": version, **own}
    name = f"{PARTITION}.partition"
    own = {"cgroup": f"{memory}/{name}", "slice": None, "control": None}
    own["groups"] = [str(point / name) for point in hierarchies(text)]
    control = Path(memory, "cgroup.subtree_control")
    if version == 2 and "memory" not in control.read_text().split():
        own["control"] = str(control)  # is changed
    return {"version": version, **own}


def make_budget(state, mib, directory):
    """Make the cgroup of all guests, with a limit of memory and swap. Record it before."""
    taken = [group for group in {state["cgroup"], *state["groups"]} if Path(group).exists()]
    if taken:
        raise FailedError(f"cgroup {min(taken)} exists already, and this run has not made it")
    write(directory / STATE, state)
    if state["slice"]:
        values = [f"MemoryMax={mib}M", "MemorySwapMax=0"]
        systemctl("set-property", "--runtime", state["slice"], *values)
        systemctl("start", state["slice"])
    try:
        if state["control"]:
            Path(state["control"]).write_text("+memory")
        for group in map(Path, state["groups"]):
            make_group(group)
    except OSError as error:
        raise FailedError(f"cgroup {state['cgroup']} cannot be made: {error}") from error
    limit(state, state["cgroup"], mib, swap=False)


def make_group(group):
    """Make a cgroup that guests can be in: as its parent lets it, with its processors and nodes."""
    group.mkdir()
    for name in ("cpuset.cpus", "cpuset.mems"):  # version 1: a new one has none
        if (group / name).exists() and (group.parent / name).exists():
            (group / name).write_text((group.parent / name).read_text())


def systemctl(*words):
    """Run systemctl, and require that it succeeds."""
    done = subprocess.run(["systemctl", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise FailedError(f"systemctl {' '.join(words)}: {done.stderr.strip()}")


def below(group):
    """Return a cgroup and all below it, the deepest first."""
    return [Path(path) for path, *_ in os.walk(group, topdown=False)]


def remove(directory):
    """End the guests in the budget that the state file names, and remove it.

    Returns whether there was anything to remove.
    """
    path = directory / STATE
    try:
        state = json.loads(path.read_text())
    except FileNotFoundError:
        return False
    except ValueError:
        raise FailedError(f"{path} is damaged, so cgroups may be left") from None
    end(below(state["cgroup"]))
    if state["slice"]:
        systemctl("stop", state["slice"])
        systemctl("revert", state["slice"])
    for group in state["groups"]:
        for each in below(group):
            remove_group(each)
    if state["control"]:
        with contextlib.suppress(OSError):  # others use it by now
            Path(state["control"]).write_text("-memory")
    path.unlink()
    return True


# --- the guests -----------------------------------------------------------------------------------


class Guests:
    """The guests that run, in the order of their start, with what ksm_density.py needs.

    `there` has a dictionary for each: its name, its process (an id; None until it has one), `until`
    when it must be ready, and `pids`, the process by its name; empty until it is ready.
    """

    unit = "guests"

    def __init__(self, options, state, directory):
        self.asked = {"density": options}
        self.state, self.directory, self.there = state, directory, []
        self.killed_before = oom_kills()

    def start(self, number):
        """Start a guest. Its memory counts from its first page."""
        name = self.asked["density"]["guests"][number - 1]
        guest = {"name": name, "process": None, "pids": {}}
        guest["until"] = time.monotonic() + READY_SECONDS
        self.there.append(guest)
        self.tell(event="guest arrived", guest=name)
        try:
            ksm_arrivals.arrive(name, self.directory)
        except ksm_arrivals.FailedError as error:
            raise FailedError(str(error)) from error
        guest["process"] = int((self.directory / f"{name}.pid").read_text())
        if not any(guest["process"] in members(group) for group in below(self.state["cgroup"])):
            raise MisplacedError(f"libvirt has not started {name} in {self.state['cgroup']}")

    def look(self):
        """Find out which guests are ready by now. Raises FailedError if one has failed."""
        for guest in self.there:
            if self.has_ended(guest):
                raise FailedError(f"{guest['name']} has ended")
            if guest["pids"]:
                continue
            if self.answers(guest, 1):
                guest["pids"] = {guest["name"]: guest["process"]}
                self.tell(event="guest ready", guest=guest["name"])
            elif time.monotonic() > guest["until"]:
                seconds = f"{READY_SECONDS:g} s"
                raise FailedError(f"{guest['name']}: its agent has not answered within {seconds}")

    def wait_ready(self):
        """Wait until all are ready."""
        while not all(guest["pids"] for guest in self.there):
            self.look()
            time.sleep(POLL_SECONDS)

    def watch(self, until):
        """Look at all until a monotonic time."""
        while True:
            self.look()
            left = until - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(POLL_SECONDS, left))

    def answers(self, guest, seconds):
        """Whether the agent of a guest answers within some seconds."""
        with contextlib.suppress(ksm_arrivals.FailedError):
            return ksm_arrivals.answers(guest["name"], math.ceil(seconds))
        return False

    def has_ended(self, guest):
        """Whether QEMU does not run."""
        return guest["process"] is None or not runs(guest["process"])

    def was_killed(self, guest):
        """Whether QEMU does not run, and the kernel has killed a process for want of memory."""
        return self.has_ended(guest) and oom_kills() > self.killed_before

    def leave(self, guest, reason):
        """Stop a guest."""
        self.tell(event="guest left", guest=guest["name"], reason=reason)  # before memory is freed
        with contextlib.suppress(ksm_arrivals.FailedError):  # it runs no more
            ksm_arrivals.leave(guest["name"], self.directory)
        with contextlib.suppress(FileNotFoundError):
            (self.directory / f"{guest['name']}.pid").unlink()
        self.there.remove(guest)

    def tell(self, **line):
        """Add a line to what is recorded of the run."""
        with (self.directory / "density.jsonl").open("a") as file:
            file.write(json.dumps({**line, **ksm_arrivals.now()}) + "\n")


class MisplacedError(Exception):
    """A guest is not in the budget, so nothing can be said; the message is for the user."""


def oom_kills():
    """Return how many processes the kernel has killed, on the whole host, for want of memory.

    libvirt removes the cgroup of a guest that was killed, and its counter with it.
    """
    words = dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    return int(words["oom_kill"])


def runs(pid):
    """Whether a process runs."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(") ")[2][0] not in "ZX"


# --- the program ----------------------------------------------------------------------------------


def hold(options, directory):
    """Make the budget, start the first guests, add more when the run has begun, and hold them."""
    state = budget_of(Path("/proc/mounts").read_text(), Path("/run/systemd/system").exists())
    make_budget(state, options["memory_mib"], directory)
    guests = Guests(options, state, directory)
    try:
        for number in range(1, options["count"] + 1):
            guests.start(number)
        guests.wait_ready()
    except FailedError as error:
        if oom_kills() == guests.killed_before:
            raise
        few = f"the budget of {options['memory_mib']} MiB is too small for the first guests"
        raise FailedError(f"{few}: {error}") from error
    write(directory / READY, {"error": None})
    while not (directory / BEGIN).exists():
        guests.watch(time.monotonic() + POLL_SECONDS)
    add_until_it_breaks(guests, float((directory / BEGIN).read_text()))
    while True:
        signal.pause()  # whatever happens to the guests now is no longer part of the result


def run(options, directory):
    """Hold the guests; clean up, however this ends. Returns the exit status."""
    try:
        hold(options, directory)
    except Stopped as stopped:
        return 128 + stopped.args[0]
    except (FailedError, MisplacedError, OSError) as error:
        ignore_signals()
        clean(directory)
        write(directory / READY, {"error": str(error)})  # last: it tells others to go on
        raise FailedError(str(error)) from error
    finally:
        ignore_signals()  # a signal must not interrupt this
        clean(directory)


def clean(directory):
    """End the guests and remove the budget. Returns whether there was anything to remove."""
    found = remove(directory)
    for path in directory.glob("ksm-guest-*.pid"):
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
        prog="ksm_guest_density.py",
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
        return run(arguments.options, arguments.directory)
    except FailedError as error:
        print(f"ksm_guest_density.py: error: {error}", file=sys.stderr)
        return EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
