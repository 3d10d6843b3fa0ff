#!/usr/bin/python
"""Wait for the agents of guests, or run commands in them."""

from __future__ import annotations

DOCUMENTATION = r"""
module: guest_agent
short_description: Wait for guests, or run commands in them, through their agents
description:
  - With O(guests), waits until the QEMU guest agent of each answers.
  - With O(commands), runs each command in its guest, and waits until all have ended. No network and
    no login is needed. A command that fails is an error.
  - The guests are served by one thread each, so that the last does not start later than the first.
options:
  guests:
    description: Names of libvirt domains to wait for.
    type: list
    elements: str
    default: []
  since:
    description: >-
      With O(guests), when they were begun to be started, on the host's CLOCK_MONOTONIC: their
      seconds count from then. The start of this module if it is not given.
    type: float
  commands:
    description: What to run in which guest.
    type: list
    elements: dict
    default: []
    suboptions:
      guest:
        description: Name of a libvirt domain.
        type: str
        required: true
      argv:
        description: Program and arguments. The program is an absolute path in the guest.
        type: list
        elements: str
        required: true
      at:
        description: >-
          When to start it, on the host's CLOCK_MONOTONIC; a time that has passed means now. Nothing
          is started if the domain has ended by then, even if another of its name runs.
        type: float
        default: 0
      seconds:
        description: >-
          How long the command is known to take. It is not asked about before that, so that asking
          does not disturb the guest.
        type: float
        default: 0
      success:
        description: Exit codes that are no error.
        type: list
        elements: int
        default: [0]
  stop:
    description: >-
      A file. When it appears on the host, commands that have not ended are interrupted, those that
      have not started never are, and how they end is no error.
    type: path
  timeout:
    description: >-
      Seconds after which a guest that has not answered, or a command that has not ended although
      its C(seconds) have passed, is an error.
    type: float
    default: 300
  uri:
    description: Address of libvirt.
    type: str
    default: qemu:///system
requirements: [python3-libvirt]
attributes:
  check_mode:
    description: Says what would change, and changes nothing.
    support: full
    details: Nothing is run and nothing is waited for.
author: [The KSM testbed authors]
"""

EXAMPLES = r"""
- name: Wait until the guests answer
  guest_agent:
    guests: [ksm-guest-01, ksm-guest-02]

- name: Load the memory of one for ten seconds
  guest_agent:
    commands:
      - guest: ksm-guest-01
        argv: [/usr/bin/stress-ng, --vm, "1", --timeout, 10s]
        seconds: 10
"""

RETURN = r"""
guests:
  description: >-
    One entry a guest or command: name, error (empty if all went well), started and stopped
    ({wall, monotonic}, seconds), seconds, and of a command that was started argv, exitcode, stdout,
    stderr and stopped_early (whether it was interrupted since O(stop) appeared).
  type: list
  elements: dict
  returned: always
"""

import base64
import json
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

try:
    import libvirt
    import libvirt_qemu
except ImportError:
    LIBVIRT_ERROR = traceback.format_exc()
else:
    LIBVIRT_ERROR = None

POLL_SECONDS = 0.25
SLEEP_SECONDS = 1
AGENT_SECONDS = 10  # how long libvirt waits for one answer


class GuestError(Exception):
    """A guest did not do what was asked, in words for the user."""


def now():
    """Both clocks of the host."""
    return {"wall": time.time(), "monotonic": time.monotonic()}


def domain(connection, name):
    """Look a domain up; it must be running."""
    try:
        found = connection.lookupByName(name)
    except libvirt.libvirtError as error:
        raise GuestError(f"there is no domain {name}") from error
    if not found.isActive():
        raise GuestError(f"{name} is not running")
    return found


def ask(guest, command, **arguments):
    """Send one command to the agent of a domain and return its answer."""
    request = json.dumps({"execute": command, "arguments": arguments})
    return json.loads(libvirt_qemu.qemuAgentCommand(guest, request, AGENT_SECONDS, 0))["return"]


def poll(guest, deadline, attempt, what):
    """Call `attempt` until it returns something true; a guest that died ends the wait at once."""
    while True:
        try:
            answer = attempt()
            if answer:
                return answer
        except libvirt.libvirtError as error:
            if not alive(guest):
                raise GuestError(f"{guest.name()} stopped while {what}") from error
        if time.monotonic() > deadline:
            raise GuestError(f"{guest.name()}: time is up while {what}")
        time.sleep(POLL_SECONDS)


def alive(guest):
    """Whether the domain that was looked up still runs, and not another of its name."""
    try:
        return guest.connect().lookupByUUID(guest.UUID()).ID() == guest.ID()
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return False
        raise


def wait_ready(deadline, guest):
    """Wait until the agent answers a ping."""

    def ping():
        ask(guest, "guest-ping")
        return True

    poll(guest, deadline, ping, "waiting for its agent to answer")


def sleep_until(guest, until, stop):
    """Sleep for as long as the guest lives, without disturbing it; return whether to stop early."""
    while not (stop and stop.exists()):
        left = until - time.monotonic()
        if left <= 0:
            return False
        if not alive(guest):
            raise GuestError(f"{guest.name()} has ended")
        time.sleep(min(left, SLEEP_SECONDS))
    return True


def execute(command, timeout, stop, guest):
    """Run a command in a guest; return when it started, its exit code and its output."""
    argv = command["argv"]
    if sleep_until(guest, command["at"], stop):
        return {}
    started = now()
    try:
        process = ask(guest, "guest-exec", path=argv[0], arg=argv[1:], **{"capture-output": True})[
            "pid"
        ]
    except libvirt.libvirtError as error:
        raise GuestError(f"{guest.name()}: cannot start {argv[0]}: {error}") from error

    def ended():
        status = ask(guest, "guest-exec-status", pid=process)
        return status if status["exited"] else None

    stopping = sleep_until(guest, started["monotonic"] + command["seconds"], stop)
    # One that has ended by itself before is judged by how it did. The agent tells that only once.
    status = ended() if stopping else None
    early = stopping and status is None
    if early:
        interrupt(guest, process)
    deadline = time.monotonic() + timeout
    status = status or poll(guest, deadline, ended, f"waiting for {argv[0]} to end")
    exitcode = status.get("exitcode", -status.get("signal", 0))
    stderr = decoded(status, "err-data")
    good = early or exitcode in command["success"]
    return {
        "error": "" if good else f"{guest.name()}: {argv[0]} ended with {exitcode}: {stderr}",
        "started": started,
        "argv": argv,
        "exitcode": exitcode,
        "stdout": decoded(status, "out-data"),
        "stderr": stderr,
        "stopped_early": early,
    }


def interrupt(guest, process):
    """Ask a process in a guest to end, as Ctrl-C would."""
    argv = {"path": "/bin/sh", "arg": ["-c", 'kill -INT "$0"', str(process)]}
    ask(guest, "guest-exec", **argv)


def decoded(status, key):
    """Output of a command as text."""
    return base64.b64decode(status.get(key, "")).decode(errors="replace")


def serve(guest, act, since):
    """Do something with one guest. Errors are returned, so that one guest hides no other."""
    outcome = {"name": guest.name(), "error": "", "started": now()}
    since = outcome["started"]["monotonic"] if since is None else since
    try:
        outcome |= act(guest) or {}
    except (GuestError, libvirt.libvirtError) as error:
        outcome["error"] = str(error)
    outcome["stopped"] = now()
    outcome["seconds"] = outcome["stopped"]["monotonic"] - since
    return outcome


def jobs(connection, params):
    """What to do with which domain: a list of (domain, function of it)."""
    timeout, stop = params["timeout"], params["stop"] and Path(params["stop"])
    deadline = time.monotonic() + timeout
    ready = [(domain(connection, name), partial(wait_ready, deadline)) for name in params["guests"]]
    return ready + [
        (domain(connection, command["guest"]), partial(execute, command, timeout, stop))
        for command in params["commands"]
    ]


def main():
    """Entry point."""
    command = {
        "guest": {"type": "str", "required": True},
        "argv": {"type": "list", "elements": "str", "required": True},
        "at": {"type": "float", "default": 0},
        "seconds": {"type": "float", "default": 0},
        "success": {"type": "list", "elements": "int", "default": [0]},
    }
    module = AnsibleModule(
        argument_spec={
            "guests": {"type": "list", "elements": "str", "default": []},
            "since": {"type": "float"},
            "commands": {"type": "list", "elements": "dict", "options": command, "default": []},
            "stop": {"type": "path"},
            "timeout": {"type": "float", "default": 300},
            "uri": {"type": "str", "default": "qemu:///system"},
        },
        supports_check_mode=True,
    )
    if LIBVIRT_ERROR:
        module.fail_json(msg=missing_required_lib("python3-libvirt"), exception=LIBVIRT_ERROR)
    if module.check_mode:
        module.exit_json(changed=bool(module.params["commands"]), guests=[])
    # libvirt prints every error on stderr by itself; they are all in the result.
    libvirt.registerErrorHandler(lambda *_: None, None)
    try:
        todo = jobs(libvirt.open(module.params["uri"]), module.params)
    except (GuestError, libvirt.libvirtError) as error:
        module.fail_json(msg=str(error), guests=[])
    with ThreadPoolExecutor(max(1, len(todo))) as pool:
        outcomes = list(pool.map(lambda job: serve(*job, module.params["since"]), todo))
    errors = [outcome["error"] for outcome in outcomes if outcome["error"]]
    if errors:
        module.fail_json(msg="; ".join(errors), guests=outcomes)
    module.exit_json(changed=bool(module.params["commands"]), guests=outcomes)


if __name__ == "__main__":
    main()
