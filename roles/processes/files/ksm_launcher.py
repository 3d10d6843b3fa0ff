#!/usr/bin/env python3
"""Run copies of a service or a command, each in a cgroup of its own, with mergeable memory.

One file, standard library only, Python 3.9 or newer, so that it can be copied to any host.
"""

import sys

if sys.version_info < (3, 9):  # before anything that an older Python does not have
    sys.exit("ksm_launcher.py needs Python 3.9 or newer; this is {}.{}".format(*sys.version_info))

import argparse
import contextlib
import ctypes
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

SIGNALS = (signal.SIGTERM, signal.SIGINT)
EXIT_FAILED = 2
PR_SET_CHILD_SUBREAPER = 36  # orphaned workers become children of this program, which reaps them
PR_SET_MEMORY_MERGE, PR_GET_MEMORY_MERGE = 67, 68
POLL_SECONDS = 0.1
GRACE_SECONDS = 5.0  # between SIGTERM and SIGKILL
STATE = "processes.state"
READY = "processes.ready"
VALUE_BYTES = 1000  # of one key of a data set
BATCH = 1000  # keys that are written at once

HELP = """\
run starts all copies, waits until each answers, and holds them until SIGTERM. Then, or if one
fails, it ends all of them and removes their cgroups. --directory gets
  process-NN.pid, process-NN-wM.pid   process ids of a copy and of its workers
  processes.jsonl                     events, with wall and monotonic, in seconds
  processes.ready                     {"error": null, or why the copies are not ready}
  processes.state                     what remove must remove, if this program was killed
remove does that. It touches nothing that processes.state does not name.

--options is JSON: count, service (python, redis, memcached) or command, check, merge (prctl,
madvise, none), memory_mib, data, data_mib, workers, preload, ready_seconds.

exit status:
  2    wrong arguments, or a copy failed    143  ended by SIGTERM
"""


class FailedError(Exception):
    """The copies cannot run; the message is for the user."""


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


# --- services -------------------------------------------------------------------------------------


def command_of(asked, copy):
    """Return the command line of a copy."""
    if asked["service"] == "python":
        program = Path(__file__).with_name("ksm_workers.py")
        options = {
            name: asked[name] for name in ("data", "data_mib", "merge", "preload", "workers")
        }
        return [sys.executable, str(program), json.dumps({**options, "copy": copy["number"]})]
    if asked["service"] == "redis":
        return ["/usr/bin/redis-server", "--port", "0", "--unixsocket", copy["socket"],
                "--save", "", "--appendonly", "no", "--dir", copy["scratch"]]  # fmt: skip
    if asked["service"] == "memcached":
        return ["/usr/bin/memcached", "-u", "root", "-s", copy["socket"], "-t", "1",
                "-m", str(2 * asked["data_mib"] + 64)]  # fmt: skip
    return asked["command"]


QUESTIONS = {
    "python": (b"0\n", b"ready"),
    "redis": (b"PING\r\n", b"+PONG"),
    "memcached": (b"version\r\n", b"VERSION"),
}


def answers(asked, copy):
    """Whether a copy answers its check."""
    if not asked["service"]:
        done = asked["check"] is None or subprocess.run(
            asked["check"],
            env=environment(copy),
            cwd=copy["scratch"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=asked["ready_seconds"],
            check=False,
        )
        return done is True or done.returncode == 0
    question, answer = QUESTIONS[asked["service"]]
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(2)
        client.connect(copy["socket"])
        client.sendall(question)
        return client.recv(100).startswith(answer)


def records(asked, number):
    """Yield (key, value) of the data set of a copy; see `data` in docs/experiments.md."""
    count = asked["data_mib"] * 2**20 // VALUE_BYTES
    seed = number if asked["data"] == "different" else 0
    order = list(range(count))
    if asked["data"] == "similar":
        random.Random(number).shuffle(order)
    for key in order:
        yield key, random.Random(f"{seed} {key}").randbytes(VALUE_BYTES // 2).hex()


def load(asked, copy):
    """Write the data set of a copy of redis or memcached, and require that all of it was taken."""
    form, good = {
        "redis": ("*3\r\n$3\r\nSET\r\n${size}\r\n{key}\r\n${length}\r\n{value}\r\n", b"+OK\r\n"),
        "memcached": ("set {key} 0 0 {length}\r\n{value}\r\n", b"STORED\r\n"),
    }[asked["service"]]
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        client.connect(copy["socket"])
        batch = []
        for key, value in records(asked, copy["number"]):
            name = f"key:{key:012}"
            batch.append(form.format(size=len(name), key=name, length=len(value), value=value))
            if len(batch) == BATCH:
                send(client, batch, good)
                batch = []
        send(client, batch, good)


def send(client, batch, good):
    """Send commands, and require the good answer to each."""
    client.sendall("".join(batch).encode())
    expected, got = good * len(batch), b""
    while len(got) < len(expected):
        more = client.recv(65536)
        got += more
        if not more or not expected.startswith(got):
            raise FailedError(f"does not take its data: {got[-100:].decode(errors='replace')!r}")


# --- copies ---------------------------------------------------------------------------------------


def environment(copy):
    """Return the environment of a copy and its check."""
    own = {"KSM_COPY": str(copy["number"]), "KSM_SOCKET": copy["socket"]}
    return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", **own}


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
            if asked["service"] in ("redis", "memcached"):
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
