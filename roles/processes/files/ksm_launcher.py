#!/usr/bin/env python3
"""Run copies of a service or a command, each in a cgroup of its own, with mergeable memory.

Standard library only, Python 3.9 or newer, so that it can be copied to any host. Beside it:
ksm_services.py, which knows the services, and ksm_workers.py, which is one of them.
"""

import sys

if sys.version_info < (3, 9):  # before anything that an older Python does not have
    sys.exit("ksm_launcher.py needs Python 3.9 or newer; this is {}.{}".format(*sys.version_info))

import argparse
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

from ksm_services import FailedError, answers, command_of, environment, load

SIGNALS = (signal.SIGTERM, signal.SIGINT)
EXIT_FAILED = 2
PR_SET_CHILD_SUBREAPER = 36  # orphaned workers become children of this program, which reaps them
PR_SET_MEMORY_MERGE, PR_GET_MEMORY_MERGE = 67, 68
POLL_SECONDS = 0.1
GRACE_SECONDS = 5.0  # between SIGTERM and SIGKILL
STATE = "processes.state"
READY = "processes.ready"

HELP = """\
run starts all copies, waits until each answers, and holds them until SIGTERM. Then, or if one
fails, it ends all of them and removes their cgroups. --directory gets
  process-NN.pid, process-NN-wM.pid   process ids of a copy and of its workers
  processes.jsonl                     events, with wall and monotonic, in seconds
  processes.ready                     {"error": null, or why the copies are not ready}
  processes.state                     what remove must remove, if this program was killed
remove does that. It touches nothing that processes.state does not name.

--options is JSON: count, service (see ksm_services.py) or command, check, merge (prctl,
madvise, none), memory_mib, data, data_mib, workers, preload, ready_seconds.

exit status:
  2    wrong arguments, or a copy failed    143  ended by SIGTERM
"""


class Stopped(Exception):  # noqa: N818 - not an error: it ends any wait
    """A signal has requested the end. The argument is its number."""


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


def make_parent(state, directory):
    """Make the cgroup of all copies, and record before that it is ours, so that remove finds it."""
    write(directory / STATE, state)
    try:
        Path(state["cgroup"]).mkdir()
    except OSError as error:  # if it exists, it is not ours
        (directory / STATE).unlink()
        raise FailedError(f"cgroup {state['cgroup']} cannot be made: {error.strerror}") from error


def make_groups(state, names, memory_mib):
    """Make a cgroup with a memory limit for each copy; return their paths."""
    parent = Path(state["cgroup"])
    limit = "memory.max" if state["version"] == 2 else "memory.limit_in_bytes"
    try:
        if state["version"] == 2:
            if state["enabled"]:
                Path(parent.parent, "cgroup.subtree_control").write_text("+memory")
            Path(parent, "cgroup.subtree_control").write_text("+memory")
        for name in names:
            Path(parent, name).mkdir()
            Path(parent, name, limit).write_text(str(memory_mib * 2**20))
    except OSError as error:
        raise FailedError(f"a cgroup in {parent} cannot be made: {error}") from error
    return {name: parent / name for name in names}


def members(group):
    """Return the process ids of a cgroup, in order."""
    try:
        return sorted(map(int, Path(group, "cgroup.procs").read_text().split()))
    except OSError:
        return []


def out_of_memory(group):
    """Return how many processes of a cgroup were killed at its memory limit."""
    for name in ("memory.events", "memory.oom_control"):
        with contextlib.suppress(OSError):
            words = dict(line.split() for line in Path(group, name).read_text().splitlines())
            return int(words.get("oom_kill", 0))
    return 0


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


# --- copies ---------------------------------------------------------------------------------------


def start(asked, copy):
    """Start a copy in its cgroup. Children inherit the cgroup, and what the prctl has set."""
    libc = ctypes.CDLL(None, use_errno=True)

    def prepare():
        Path(copy["group"], "cgroup.procs").write_text(str(os.getpid()))
        if asked["merge"] == "prctl" and libc.prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "PR_SET_MEMORY_MERGE")

    argv = command_of(asked, copy)
    try:
        with Path(copy["scratch"], "stderr").open("wb") as stderr:
            return subprocess.Popen(
                argv,
                cwd=copy["scratch"],
                env=environment(copy),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
                preexec_fn=prepare,  # safe: this program has one thread
            )
    except (OSError, subprocess.SubprocessError) as error:
        raise FailedError(f"{copy['name']}: {argv[0]} cannot be started: {error}") from error


def require_prctl(asked):
    """Refuse a kernel that cannot make a whole process mergeable."""
    if asked["merge"] == "prctl" and ctypes.CDLL(None).prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0) < 0:
        raise FailedError(
            "merge: prctl needs Linux 6.4 or newer with CONFIG_KSM: this kernel,"
            f" {os.uname().release}, has no PR_SET_MEMORY_MERGE"
        )


def require_alive(copy):
    """Raise FailedError if the first process of a copy has ended."""
    code = copy["process"].poll()
    if code is None:
        return
    how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
    if out_of_memory(copy["group"]):
        how += " after it had reached its memory limit"
    said = Path(copy["scratch"], "stderr").read_text(errors="replace").strip().splitlines()[-1:]
    raise FailedError(": ".join([f"{copy['name']} {how}", *said]))


def wait_ready(asked, copy, until):
    """Wait until a copy answers its check."""
    while True:
        require_alive(copy)
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            if answers(asked, copy):
                return
        if time.monotonic() > until:
            raise FailedError(
                f"{copy['name']}: its check has not answered within {asked['ready_seconds']:g} s"
            )
        time.sleep(POLL_SECONDS)


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
    if asked["service"] == "python":
        others = [pid for pid in members(copy["group"]) if pid != copy["process"].pid]
        if len(others) != asked["workers"]:
            raise FailedError(f"{copy['name']} has {len(others)} workers, not {asked['workers']}")
        found |= {f"{copy['name']}-w{number}": pid for number, pid in enumerate(others, start=1)}
    return found


def hold(asked, directory):
    """Start all copies, wait until they are ready, and hold them until one fails or a signal."""
    require_prctl(asked)
    version, mount = memory_controller(Path("/proc/mounts").read_text())
    control = Path(mount, "cgroup.subtree_control")
    name = f"ksm-testbed-{secrets.token_hex(4)}"
    state = {
        "version": version,
        "cgroup": f"{mount}/{name}",
        "scratch": f"/run/{name}",
        "enabled": version == 2 and "memory" not in control.read_text().split(),
    }
    make_parent(state, directory)
    width = max(2, len(str(asked["count"])))
    names = [f"process-{number:0{width}}" for number in range(1, asked["count"] + 1)]
    groups = make_groups(state, names, asked["memory_mib"])
    copies = []
    for number, copy_name in enumerate(names, start=1):
        scratch = Path(state["scratch"], copy_name)
        scratch.mkdir(mode=0o700, parents=True)
        copy = {"name": copy_name, "number": number, "group": groups[copy_name]}
        copy |= {"scratch": str(scratch), "socket": str(scratch / "socket")}
        copy["process"] = start(asked, copy)
        copies.append(copy)
    get_ready(asked, copies, directory)
    while True:
        for copy in copies:
            require_alive(copy)
        time.sleep(POLL_SECONDS * 5)


def get_ready(asked, copies, directory):
    """Wait until all copies are ready, write their data sets and process ids, and say so."""
    until = time.monotonic() + asked["ready_seconds"]
    for copy in copies:
        wait_ready(asked, copy, until)
        try:
            load(asked, copy)
        except (OSError, FailedError) as error:
            require_alive(copy)
            raise FailedError(f"{copy['name']}: {error}") from error
    pids = {name: pid for copy in copies for name, pid in sampled(asked, copy).items()}
    for name, pid in pids.items():
        tell(directory, event="process ready", process=name, pid=pid, merge_any=merge_any(pid))
        (directory / f"{name}.pid").write_text(f"{pid}\n")
    write(directory / READY, {"error": None})


# --- the program ----------------------------------------------------------------------------------


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


def run(asked, directory):
    """Hold the copies; clean up, however this ends. Returns the exit status."""
    try:
        hold(asked, directory)
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
        return run(arguments.options, arguments.directory)
    except FailedError as error:
        print(f"ksm_launcher.py: error: {error}", file=sys.stderr)
        return EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
