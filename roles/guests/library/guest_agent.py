#!/usr/bin/python
"""Wait for the agents of guests, or run a command in all of them at once."""

from __future__ import annotations

DOCUMENTATION = r"""
module: guest_agent
short_description: Wait for guests, or run a command in all of them at once, through their agents
description:
  - Without O(argv), waits until the QEMU guest agent of every guest answers.
  - With O(argv), starts the command in every guest at the same time and waits until it has ended
    in all of them. No network and no login is needed. A command that fails is an error.
  - The guests are served by one thread each, so that the last does not start later than the first.
options:
  guests:
    description: Names of libvirt domains.
    type: list
    elements: str
    required: true
  argv:
    description: Program and arguments. The program is an absolute path in the guest.
    type: list
    elements: str
  delay:
    description: Seconds to wait before the command starts.
    type: float
    default: 0
  expect_seconds:
    description: >-
      Seconds that the command is known to take. It is not asked about before that, so that asking
      does not disturb the guest.
    type: float
    default: 0
  timeout:
    description: Seconds after which a guest that has not answered, or not finished, is an error.
    type: float
    default: 300
  uri:
    description: Address of libvirt.
    type: str
    default: qemu:///system
requirements: [python3-libvirt]
attributes:
  check_mode: {support: full, details: Nothing is run and nothing is waited for.}
author: [The KSM testbed authors]
"""

EXAMPLES = r"""
- name: Wait until the guests answer
  guest_agent:
    guests: [ksm-guest-01, ksm-guest-02]

- name: Load the memory of both for ten seconds
  guest_agent:
    guests: [ksm-guest-01, ksm-guest-02]
    argv: [/usr/bin/stress-ng, --vm, "1", --timeout, 10s]
    expect_seconds: 10
"""

RETURN = r"""
guests:
  description: >-
    One entry a guest: name, error (empty if all went well), started and stopped
    ({wall, monotonic}, seconds), seconds, and of a command exitcode, stdout and stderr.
  type: list
  elements: dict
  returned: always
"""

import base64
import json
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

try:
    import libvirt
    import libvirt_qemu
except ImportError:
    LIBVIRT_ERROR = traceback.format_exc()
else:
    LIBVIRT_ERROR = None

POLL_SECONDS = 0.25
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
    """Whether a domain still runs; a libvirtd that is gone counts as not."""
    try:
        return guest.isActive()
    except libvirt.libvirtError:
        return False


def wait_ready(guest, deadline):
    """Wait until the agent answers a ping."""

    def ping():
        ask(guest, "guest-ping")
        return True

    poll(guest, deadline, ping, "waiting for its agent to answer")
    return {}


def execute(guest, deadline, argv, expect_seconds):
    """Run a command in a guest and return its exit code and output."""
    try:
        process = ask(guest, "guest-exec", path=argv[0], arg=argv[1:], **{"capture-output": True})[
            "pid"
        ]
    except libvirt.libvirtError as error:
        raise GuestError(f"{guest.name()}: cannot start {argv[0]}: {error}") from error
    time.sleep(expect_seconds)

    def ended():
        status = ask(guest, "guest-exec-status", pid=process)
        return status if status["exited"] else None

    status = poll(guest, deadline, ended, f"waiting for {argv[0]} to end")
    exitcode = status.get("exitcode", -status.get("signal", 0))
    stderr = decoded(status, "err-data")
    return {
        "error": f"{guest.name()}: {argv[0]} ended with {exitcode}: {stderr}" if exitcode else "",
        "exitcode": exitcode,
        "stdout": decoded(status, "out-data"),
        "stderr": stderr,
    }


def decoded(status, key):
    """Output of a command as text."""
    return base64.b64decode(status.get(key, "")).decode(errors="replace")


def serve(connection, name, params):
    """Do what was asked with one guest. Errors are returned, so that one guest hides no other."""
    started = now()
    outcome = {"name": name, "error": "", "started": started}
    try:
        guest = domain(connection, name)
        deadline = started["monotonic"] + params["timeout"]
        if params["argv"]:
            outcome |= execute(guest, deadline, params["argv"], params["expect_seconds"])
        else:
            outcome |= wait_ready(guest, deadline)
    except (GuestError, libvirt.libvirtError) as error:
        outcome["error"] = str(error)
    outcome["stopped"] = now()
    outcome["seconds"] = outcome["stopped"]["monotonic"] - started["monotonic"]
    return outcome


def main():
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "guests": {"type": "list", "elements": "str", "required": True},
            "argv": {"type": "list", "elements": "str"},
            "delay": {"type": "float", "default": 0},
            "expect_seconds": {"type": "float", "default": 0},
            "timeout": {"type": "float", "default": 300},
            "uri": {"type": "str", "default": "qemu:///system"},
        },
        supports_check_mode=True,
    )
    if LIBVIRT_ERROR:
        module.fail_json(msg=missing_required_lib("python3-libvirt"), exception=LIBVIRT_ERROR)
    names = module.params["guests"]
    if module.check_mode or not names:
        module.exit_json(changed=bool(module.params["argv"] and names), guests=[])
    # libvirt prints every error on stderr by itself; they are all in the result.
    libvirt.registerErrorHandler(lambda *_: None, None)
    try:
        connection = libvirt.open(module.params["uri"])
    except libvirt.libvirtError as error:
        module.fail_json(msg=f"libvirt does not answer: {error}", guests=[])
    time.sleep(module.params["delay"])
    with ThreadPoolExecutor(len(names)) as pool:
        outcomes = list(pool.map(lambda name: serve(connection, name, module.params), names))
    errors = [outcome["error"] for outcome in outcomes if outcome["error"]]
    if errors:
        module.fail_json(msg="; ".join(errors), guests=outcomes)
    module.exit_json(changed=bool(module.params["argv"]), guests=outcomes)


if __name__ == "__main__":
    main()
