#!/usr/bin/python
"""Wait for the agents of guests, or run commands in them."""

from __future__ import annotations

DOCUMENTATION = r"""
module: guest_agent
short_description: Wait for guests, or run commands in them, through their agents
description:
  - With O(guests), waits until the QEMU guest agent of each answers.
  - With O(silent), waits until guests without an agent have run for some time.
  - With O(commands), runs each command in its guest, and waits until all have ended. This needs no
    network and no login. A command that fails is an error.
  - Each guest has its own thread, so that all commands start at the same time.
options:
  guests:
    description: Names of libvirt domains to wait for.
    type: list
    elements: str
    default: []
  silent:
    description: Names of libvirt domains without an agent, and how many seconds each must have run.
    type: dict
    default: {}
  since:
    description: >-
      With O(guests) or O(silent), when their start began, on the host's CLOCK_MONOTONIC. Their
      seconds count from this time. By default the start of this module.
    type: float
  commands:
    description: Commands to run in guests.
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
          When to start it, on the host's CLOCK_MONOTONIC; a past time means now. Nothing is started
          if the domain has ended by then, even if another domain with its name runs.
        type: float
        default: 0
      seconds:
        description: >-
          How long the command takes. The agent is not polled before that, because polling disturbs
          the guest.
        type: float
        default: 0
      success:
        description: Exit codes that mean success.
        type: list
        elements: int
        default: [0]
  timeout:
    description: >-
      A guest that has not answered after so many seconds is an error. So is a command that has not
      ended so long after its C(seconds).
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
    details: Runs no command and does not wait.
author: [The KSM testbed authors (@ksm-testbed)]
"""

EXAMPLES = r"""
- name: Wait until the guests answer
  ksm.testbed.guest_agent:
    guests: [ksm-guest-01, ksm-guest-02]

- name: Load the memory of one for ten seconds
  ksm.testbed.guest_agent:
    commands:
      - guest: ksm-guest-01
        argv: [/usr/bin/stress-ng, --vm, "1", --timeout, 10s]
        seconds: 10
"""

RETURN = r"""
guests:
  description: >-
    One entry per guest or command: name, error (empty on success), started and stopped
    ({wall, monotonic}, seconds), seconds; and for a command that was started argv, exitcode,
    stdout and stderr.
  type: list
  elements: dict
  returned: always
"""

from functools import partial

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.ksm.testbed.plugins.module_utils import guest_agents


def jobs(connection, params):
    """Return a list of (domain, function to call with it)."""
    timeout = params["timeout"]
    ready = partial(guest_agents.wait_ready, guest_agents.now()["monotonic"] + timeout)
    found = [(guest_agents.domain(connection, name), ready) for name in params["guests"]]
    since = params["since"] or guest_agents.now()["monotonic"]
    found += [
        (
            guest_agents.domain(connection, name),
            partial(guest_agents.wait_running, since + float(seconds)),
        )
        for name, seconds in params["silent"].items()
    ]
    return found + [
        (
            guest_agents.domain(connection, command["guest"]),
            partial(guest_agents.execute, command, timeout, never, started),
        )
        for command in params["commands"]
    ]


def never():
    """No command stops early."""
    return False


def started(when):
    """Ignore that a command has started."""


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
            "silent": {"type": "dict", "default": {}},
            "since": {"type": "float"},
            "commands": {"type": "list", "elements": "dict", "options": command, "default": []},
            "timeout": {"type": "float", "default": 300},
            "uri": {"type": "str", "default": "qemu:///system"},
        },
        supports_check_mode=True,
    )
    if guest_agents.LIBVIRT_ERROR:
        module.fail_json(
            msg=missing_required_lib("python3-libvirt"), exception=guest_agents.LIBVIRT_ERROR
        )
    if module.check_mode:
        module.exit_json(changed=bool(module.params["commands"]), guests=[])
    try:
        todo = jobs(guest_agents.connect(module.params["uri"]), module.params)
    except guest_agents.GuestError as error:
        module.fail_json(msg=str(error), guests=[])
    outcomes = guest_agents.serve_all(todo, module.params["since"])
    errors = [outcome["error"] for outcome in outcomes if outcome["error"]]
    if errors:
        module.fail_json(msg="; ".join(errors), guests=outcomes)
    module.exit_json(changed=bool(module.params["commands"]), guests=outcomes)


if __name__ == "__main__":
    main()
