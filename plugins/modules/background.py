#!/usr/bin/python
# Copyright: The KSM testbed authors
# MIT License (see LICENSE or https://opensource.org/license/mit)
"""Start a program in the background, and stop it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: background
short_description: Start a program in the background, and stop it
description:
  - Starts a program that outlives the task. The file C(NAME.json) in a directory records the
    program and how it ended.
  - Each program has a supervisor, which waits until the program ends.
    M(ksm.testbed.background_wait) waits until the supervisor has recorded that.
  - A program is identified by its process id and its start time, so that no other process is
    signalled.
version_added: 0.1.0
options:
  name:
    description: Name of the program. A word of a-z, 0-9, _ and -.
    type: str
    required: true
  directory:
    description: An existing directory. The record is written there.
    type: path
    required: true
  state:
    description:
      - V(started) starts the program. An existing record is an error, because results are never
        overwritten.
      - V(stopped) signals the program and waits until it has ended. Does nothing if it has ended or
        was never started.
    type: str
    choices: [started, stopped]
    default: started
  argv:
    description: Program and arguments. Required for O(state=started).
    type: list
    elements: str
  seconds:
    description: >-
      How long the program may run. After this time it gets SIGTERM, and SIGKILL if it has not ended
      within O(grace).
    type: float
    default: 86400
  signal:
    description: The signal that O(state=stopped) sends first.
    type: str
    choices: [TERM, INT]
    default: TERM
  grace:
    description: Seconds between the first signal and SIGKILL.
    type: float
    default: 10
attributes:
  check_mode:
    description: Says what would change, and changes nothing.
    support: full
  diff_mode:
    description: Shows what changes.
    support: none
  action:
    description: Has a part that works on the controller.
    support: full
    details: A plain command finds a program that has ended, so that nothing is started for it.
author: [The KSM testbed authors (@ksm-testbed)]
"""

EXAMPLES = r"""
- name: Start the sampler
  ksm.testbed.background:
    name: sampler
    directory: /var/lib/ksm-testbed/run
    argv: [/usr/bin/python3, /var/lib/ksm-testbed/sampler/ksm_sampler.py, --samples, "60"]
    seconds: 180

- name: Stop it
  ksm.testbed.background:
    name: sampler
    directory: /var/lib/ksm-testbed/run
    state: stopped
"""

RETURN = r"""
record:
  description: >-
    The record. name, argv, pid, process_start (clock ticks since boot), supervisor
    ({pid, process_start}) and started ({wall, monotonic}, seconds). After the program has ended,
    also ended ({wall, monotonic}), exit_code, signal (a name such as KILL; null if it exited),
    summary (its standard output, if that is one JSON object) and stderr (the last 4 KiB).
  type: dict
  returned: if the program was started
"""

import json
import os
import re
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

STDERR_BYTES = 4096
STDOUT_BYTES = 2**20
POLL_SECONDS = 0.05
KILL_SECONDS = 5.0  # how long the kernel may take to end a killed process


class BackgroundError(Exception):
    """A program cannot be started or stopped; the message is for the user."""


def clocks():
    """Return both clocks of the host, in seconds."""
    return {"wall": time.time(), "monotonic": time.monotonic()}


def process_start(pid):
    """Return the start time of a process in clock ticks since boot; None if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    state, *rest = fields.rpartition(")")[2].split()
    return None if state in "ZX" else rest[18]


def runs(process):
    """Whether a recorded process still runs, and not a later one with its id."""
    return process_start(process["pid"]) == process["process_start"]


def write(path, record):
    """Replace the record atomically. Only its owner can read it."""
    partial = path.with_suffix(".partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(record, file, indent=2)
        file.write("\n")
    partial.replace(path)


def read(path):
    """Return the record, or None if there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        raise BackgroundError(f"{path} is damaged: remove it when the program has ended") from None


# --- the supervisor -------------------------------------------------------------------------------


def supervise(path, params, report):
    """Start the program, record it, wait until it ends and record that. Runs in its own process.

    `report` is a pipe to the module. It gets the record, or the error.
    """
    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(null, descriptor)
    # Files without names: nothing is left of them, even after SIGKILL.
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        try:
            program = subprocess.Popen(
                params["argv"],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            why = f"cannot start {params['argv'][0]}: {error.strerror}"
            os.write(report, json.dumps({"error": why}).encode())
            return
        record = {
            "name": params["name"],
            "argv": params["argv"],
            "pid": program.pid,
            "process_start": process_start(program.pid),
            "supervisor": {"pid": os.getpid(), "process_start": process_start(os.getpid())},
            "started": clocks(),
        }
        write(path, record)
        os.write(report, json.dumps({"record": record}).encode())
        os.close(report)
        code = bounded(program, params["seconds"], params["grace"])
        ended = {"ended": clocks(), **outcome(code)}
        write(path, {**record, **ended, "summary": summary(stdout), "stderr": tail(stderr)})


def bounded(program, seconds, grace):
    """Wait until a program ends, and end it after its time."""
    for wait, number in ((seconds, signal.SIGTERM), (grace, signal.SIGKILL)):
        try:
            return program.wait(wait)
        except subprocess.TimeoutExpired:
            os.killpg(program.pid, number)
    return program.wait()


def outcome(code):
    """Return how a program ended, from its return code."""
    if code < 0:
        return {"exit_code": None, "signal": signal.Signals(-code).name.removeprefix("SIG")}
    return {"exit_code": code, "signal": None}


def summary(file):
    """Return the JSON object that a program has printed, or None."""
    file.seek(0)
    try:
        value = json.loads(file.read(STDOUT_BYTES))
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def tail(file):
    """Return the end of the output of a program, as text."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - STDERR_BYTES))
    return file.read().decode(errors="replace")


# --- the module -----------------------------------------------------------------------------------


def start(path, params):
    """Start the program; return its record."""
    if read(path):
        raise BackgroundError(f"{path} already exists and is not overwritten")
    if not path.parent.is_dir():
        raise BackgroundError(f"{path.parent} is not a directory")
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.close(reader)
        try:
            supervise(path, params, writer)
        finally:
            os._exit(0)  # the module's exit handlers must run only once
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as pipe:
        said = pipe.read()
    answer = json.loads(said) if said else {"error": f"{path} cannot be written"}
    if "error" in answer:
        raise BackgroundError(answer["error"])
    return answer["record"]


def stop(path, params, record):
    """End the program; return its record, which says how it ended."""
    try:
        os.kill(record["pid"], signal.Signals[f"SIG{params['signal']}"])
    except ProcessLookupError:
        return settled(path, record)
    if not wait_until(lambda: not runs(record), params["grace"]):
        os.killpg(record["pid"], signal.SIGKILL)
        if not wait_until(lambda: not runs(record), KILL_SECONDS):
            raise BackgroundError(f"{record['name']} (process {record['pid']}) cannot be killed")
    return settled(path, record)


def settled(path, record):
    """Wait until the end is recorded; record it if the supervisor has ended without doing so."""
    found = {}

    def recorded():
        found.update(read(path) or {})
        return "ended" in found or not runs(record["supervisor"])

    wait_until(recorded, KILL_SECONDS)
    if "ended" not in found:
        lost = {"ended": clocks(), "exit_code": None, "signal": None, "summary": None, "stderr": ""}
        found = {**record, **lost}
        write(path, found)
    return found


def wait_until(condition, seconds):
    """Poll; return whether the condition became true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def run(module):
    """Execute the module; return the result for exit_json."""
    params = module.params
    if not re.fullmatch(r"[a-z][a-z0-9_-]*", params["name"]):
        raise BackgroundError(f"name: {params['name']!r} is not a word of a-z, 0-9, _ and -")
    path = Path(params["directory"]) / f"{params['name']}.json"
    if params["state"] == "started":
        return {"changed": True} | ({} if module.check_mode else {"record": start(path, params)})
    record = read(path)
    if record is None:
        return {"changed": False}
    changed = runs(record)
    if changed and not module.check_mode:
        record = stop(path, params, record)
    elif not changed and "ended" not in record and not module.check_mode:
        record = settled(path, record)
    return {"changed": changed, "record": record}


def main():
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "directory": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["started", "stopped"], "default": "started"},
            "argv": {"type": "list", "elements": "str"},
            "seconds": {"type": "float", "default": 86400},
            "signal": {"type": "str", "choices": ["TERM", "INT"], "default": "TERM"},
            "grace": {"type": "float", "default": 10},
        },
        required_if=[("state", "started", ["argv"])],
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except (BackgroundError, OSError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
