"""Copies of a service or a command, each in a cgroup of its own: how they start, fail and end.

Standard library only, Python 3.9 or newer.
"""

import contextlib
import ctypes
import json
import os
import secrets
import shutil
import signal
import subprocess
import time
from pathlib import Path

from ksm_services import (
    POSTGRES_HELPERS,
    FailedError,
    answers,
    command_of,
    environment,
    load,
    workers_of,
)

PR_SET_MEMORY_MERGE, PR_GET_MEMORY_MERGE = 67, 68
POLL_SECONDS = 0.1
GRACE_SECONDS = 5.0  # between SIGTERM and SIGKILL
STATE = "processes.state"


# --- cgroups --------------------------------------------------------------------------------------


def memory_controller(mounts):
    """Return (version, mount point) of the memory controller, from the text of /proc/mounts."""
    lines = [line.split() for line in mounts.splitlines()]
    for _, point, kind, _options, *_ in lines:
        if kind == "cgroup2":
            with contextlib.suppress(OSError):
                if "memory" in Path(point, "cgroup.controllers").read_text().split():
                    return 2, point
    for _, point, kind, options, *_ in lines:
        if kind == "cgroup" and "memory" in options.split(","):
            return 1, point
    raise FailedError("the host has no memory controller, in neither version of cgroups")


def new_state():
    """Choose the cgroup of all copies, and the directory of their files."""
    version, mount = memory_controller(Path("/proc/mounts").read_text())
    control = Path(mount, "cgroup.subtree_control")
    name = f"ksm-testbed-{secrets.token_hex(4)}"
    return {
        "version": version,
        "cgroup": f"{mount}/{name}",
        "scratch": f"/run/{name}",
        "enabled": version == 2 and "memory" not in control.read_text().split(),
    }


def make_parent(state, directory):
    """Make the cgroup of all copies, and record before that it is ours, so that remove finds it."""
    write(directory / STATE, state)
    parent = Path(state["cgroup"])
    try:
        parent.mkdir()
    except OSError as error:  # if it exists, it is not ours
        (directory / STATE).unlink()
        raise FailedError(f"cgroup {parent} cannot be made: {error.strerror}") from error
    if state["version"] == 2:
        try:
            if state["enabled"]:
                Path(parent.parent, "cgroup.subtree_control").write_text("+memory")
            Path(parent, "cgroup.subtree_control").write_text("+memory")
        except OSError as error:
            raise FailedError(f"cgroup {parent} cannot have limits: {error}") from error


def limit(state, group, mib, swap=True):
    """Limit the memory of a cgroup, and with `swap=False` that of memory and swap together."""
    size = str(mib * 2**20)
    try:
        if state["version"] == 2:
            Path(group, "memory.max").write_text(size)
            if not swap and Path(group, "memory.swap.max").exists():
                Path(group, "memory.swap.max").write_text("0")
            return
        Path(group, "memory.limit_in_bytes").write_text(size)
        both = Path(group, "memory.memsw.limit_in_bytes")
        if not swap and both.exists():
            both.write_text(size)
    except OSError as error:
        raise FailedError(f"cgroup {group} cannot be limited to {mib} MiB: {error}") from error


def members(group):
    """Return the process ids of a cgroup, in order."""
    try:
        return sorted(map(int, Path(group, "cgroup.procs").read_text().split()))
    except OSError:
        return []


def out_of_memory(group):
    """Return how many processes of a cgroup were killed at its memory limit, or that above it."""
    for name in ("memory.events", "memory.oom_control"):
        with contextlib.suppress(OSError):
            words = dict(line.split() for line in Path(group, name).read_text().splitlines())
            return int(words.get("oom_kill", 0))
    return 0


def end(groups):
    """Send SIGTERM to all processes of cgroups, and later SIGKILL, until there are none."""
    started, sent = time.monotonic(), set()
    while True:
        left = {pid for group in groups for pid in members(group)}
        if not left:
            return
        late = time.monotonic() - started
        if late > 2 * GRACE_SECONDS:
            raise FailedError(f"processes {sorted(left)} cannot be killed")
        for pid in left if late > GRACE_SECONDS else left - sent:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL if late > GRACE_SECONDS else signal.SIGTERM)
        sent |= left
        time.sleep(POLL_SECONDS)


def remove_group(group):
    """Remove a cgroup. The kernel may need a moment after the last process has ended."""
    for _ in range(50):
        with contextlib.suppress(OSError):
            group.rmdir()
        if not group.exists():
            return
        time.sleep(POLL_SECONDS)
    raise FailedError(f"cgroup {group} cannot be removed")


def remove(directory):
    """End all processes of the cgroups that the state file names, and remove these cgroups.

    Returns whether there was anything to remove.
    """
    path = Path(directory, STATE)
    try:
        state = json.loads(path.read_text())
    except FileNotFoundError:
        return False
    except ValueError:
        raise FailedError(f"{path} is damaged, so cgroups may be left") from None
    parent = Path(state["cgroup"])
    groups = [entry for entry in parent.glob("*") if entry.is_dir()]
    end(groups)
    for group in (*groups, parent):
        remove_group(group)
    if state["enabled"]:
        with contextlib.suppress(OSError):  # others use it by now
            Path(parent.parent, "cgroup.subtree_control").write_text("-memory")
    shutil.rmtree(state["scratch"], ignore_errors=True)
    path.unlink()
    return True


# --- one copy -------------------------------------------------------------------------------------


def start(asked, copy, output):
    """Start a copy in its cgroup. Children inherit the cgroup, and what the prctl has set."""
    libc = ctypes.CDLL(None, use_errno=True)

    def prepare():
        Path(copy["group"], "cgroup.procs").write_text(str(os.getpid()))
        if asked["merge"] == "prctl" and libc.prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "PR_SET_MEMORY_MERGE")

    argv = command_of(asked, copy)
    stdout = output.pipe(copy["name"]) if output else subprocess.DEVNULL
    try:
        with Path(copy["scratch"], "stderr").open("wb") as stderr:
            return subprocess.Popen(
                argv,
                cwd=copy["scratch"],
                env=environment(copy),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
                preexec_fn=prepare,  # safe: this program has one thread
            )
    except (OSError, subprocess.SubprocessError) as error:
        raise FailedError(f"{copy['name']}: {argv[0]} cannot be started: {error}") from error
    finally:
        if output:
            os.close(stdout)


def require_prctl(asked):
    """Refuse a kernel that cannot make a whole process mergeable."""
    if asked["merge"] == "prctl" and ctypes.CDLL(None).prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0) < 0:
        raise FailedError(
            "merge: prctl needs Linux 6.4 or newer with CONFIG_KSM: this kernel,"
            f" {os.uname().release}, has no PR_SET_MEMORY_MERGE"
        )


def require_alive(copy):
    """Raise FailedError if the first process of a copy has ended, or one was out of memory."""
    code, killed = copy["process"].poll(), out_of_memory(copy["group"])
    if code is None and not killed:
        return
    how = f"was ended by signal {-code}" if code and code < 0 else f"ended with code {code}"
    if killed:
        how = "was killed after it had reached its memory limit"
    said = Path(copy["scratch"], "stderr").read_text(errors="replace").strip().splitlines()[-1:]
    raise FailedError(": ".join([f"{copy['name']} {how}", *said]))


def is_answering(asked, copy, seconds=2):
    """Whether a copy answers its check now."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        return answers(asked, copy, seconds)
    return False


def merge_any(pid):
    """Whether all memory of a process may be merged; None if the kernel does not say."""
    try:
        words = dict(
            line.replace(":", "").split()
            for line in Path(f"/proc/{pid}/ksm_stat").read_text().splitlines()
        )
    except (OSError, ValueError):
        return None
    return {"yes": True, "no": False}.get(words.get("ksm_merge_any"))


def sampled(asked, copy):
    """Return the processes of a copy that are sampled, by name: the first, and the workers."""
    found = {copy["name"]: copy["process"].pid}
    others = [pid for pid in members(copy["group"]) if pid != copy["process"].pid]
    workers = workers_of(asked, others)
    expected = {"python": asked["workers"], "postgres": len(POSTGRES_HELPERS), "nginx": 1}
    expected = expected.get(asked["service"], 0)
    if len(workers) != expected:
        raise FailedError(f"{copy['name']} has {len(workers)} workers, not {expected}")
    return found | {f"{copy['name']}-w{number}": pid for number, pid in enumerate(workers, start=1)}


# --- all copies -----------------------------------------------------------------------------------


class Copies:
    """The copies that run, in the order of their start.

    `asked` has the options of the launcher. `there` has a dictionary for each copy: its name,
    number, group, scratch, socket, process, `until` when it must be ready, and `pids`, the
    processes that are sampled, by name; empty until it is ready. `output` records what they print;
    without it, that is discarded.
    """

    unit = "copies"

    def __init__(self, asked, state, directory, output=None):
        self.output = output
        self.asked, self.state, self.directory, self.there = asked, state, directory, []
        most = (asked["density"] or {}).get("limit", asked["count"])
        self.width = max(2, len(str(most)))

    def start(self, number):
        """Start one copy, in a new cgroup."""
        name = f"process-{number:0{self.width}}"
        group, scratch = (Path(self.state[place], name) for place in ("cgroup", "scratch"))
        try:
            group.mkdir()
        except OSError as error:
            raise FailedError(f"cgroup {group} cannot be made: {error.strerror}") from error
        limit(self.state, group, self.asked["memory_mib"])
        scratch.mkdir(mode=0o700, parents=True)
        copy = {"name": name, "number": number, "group": group, "pids": {}}
        copy |= {"scratch": str(scratch), "socket": str(scratch / "socket")}
        copy["process"] = start(self.asked, copy, self.output)
        copy["until"] = time.monotonic() + self.asked["ready_seconds"]
        self.there.append(copy)
        self.tell(event="process arrived", process=name)

    def look(self):
        """Find out which copies are ready by now. Raises FailedError if one has failed."""
        for copy in self.there:
            require_alive(copy)
            if copy["pids"]:
                continue
            if is_answering(self.asked, copy):
                self.welcome(copy)
            elif time.monotonic() > copy["until"]:
                seconds = f"{self.asked['ready_seconds']:g} s"
                raise FailedError(f"{copy['name']}: its check has not answered within {seconds}")

    def welcome(self, copy):
        """Write the data set of a copy that answers, and tell its process ids to others."""
        try:
            load(self.asked, copy)
        except (OSError, FailedError) as error:
            require_alive(copy)
            raise FailedError(f"{copy['name']}: {error}") from error
        copy["pids"] = sampled(self.asked, copy)
        for name, pid in copy["pids"].items():
            self.tell(event="process ready", process=name, pid=pid, merge_any=merge_any(pid))
            write(self.directory / f"{name}.pid", pid)

    def wait_ready(self):
        """Wait until all are ready."""
        while not self.all_ready():
            self.look()
            time.sleep(POLL_SECONDS)

    def watch(self, until):
        """Look at all until a monotonic time."""
        while True:
            self.look()
            left = until - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(5 * POLL_SECONDS if self.all_ready() else POLL_SECONDS, left))

    def all_ready(self):
        """Whether none is still getting ready."""
        return all(copy["pids"] for copy in self.there)

    def answers(self, copy, seconds):
        """Whether a copy answers its check within some seconds."""
        return is_answering(self.asked, copy, seconds)

    def has_ended(self, copy):
        """Whether the first process of a copy has ended."""
        return copy["process"].poll() is not None

    def was_killed(self, copy):
        """Whether the kernel has killed a process of a copy, since there was no memory."""
        return bool(out_of_memory(copy["group"]))

    def leave(self, copy, reason):
        """End one copy, and remove its cgroup and its files."""
        # before its memory is given back
        self.tell(event="process left", process=copy["name"], reason=reason)
        end([copy["group"]])
        copy["process"].wait()
        for name in copy["pids"]:
            (self.directory / f"{name}.pid").unlink()
        remove_group(copy["group"])
        shutil.rmtree(copy["scratch"], ignore_errors=True)
        self.there.remove(copy)

    def tell(self, **line):
        """Add a line to what is recorded of the run."""
        tell(self.directory, **line)


def write(path, value):
    """Replace a file by JSON, atomically."""
    partial = path.with_name(f".{path.name}")
    partial.write_text(json.dumps(value) + "\n")
    partial.replace(path)


def tell(directory, **event):
    """Add an event with its time."""
    line = json.dumps({**event, "wall": time.time(), "monotonic": time.monotonic()}) + "\n"
    with (directory / "processes.jsonl").open("a") as file:
        file.write(line)
