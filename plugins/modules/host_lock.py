#!/usr/bin/python
"""One experiment at a time on a host, by a lock that says who holds it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_lock
short_description: Take, renew and release the lock of a host
description:
  - The lock is a file that names its holder. A holder is dead when its process has ended, if that
    process can be seen from here (it runs in this boot of this machine, and not in a container).
    Of any other holder, it is dead when the time it asked for has passed without renewal.
  - The lock of a dead holder is taken over.
options:
  path:
    description: The lock file.
    type: path
    required: true
  state:
    description: >-
      V(present) takes or renews the lock; V(absent) releases it. Another's lock is never released,
      unless its holder is dead or O(force) is set.
    type: str
    choices: [present, absent]
    default: present
  holder:
    description: >-
      Who asks. C(machine) (boot id and PID namespace) and C(pid) are the same at each call of
      one C(ansible-playbook), and C(what), for the message.
    type: dict
    required: true
  seconds:
    description: How long the lock holds without renewal.
    type: float
    default: 3600
  force:
    description: Release the lock whoever holds it.
    type: bool
    default: false
attributes:
  check_mode:
    description: Says what would change, and changes nothing.
    support: full
author: [The KSM testbed authors (@ksm-testbed)]
"""

EXAMPLES = r"""
- name: Take the lock for ten minutes
  ksm.testbed.host_lock:
    path: /var/lib/ksm-testbed/lock.json
    holder: {machine: "3f… pid:[4026531836]", pid: 4242, what: ansible-playbook site.yml}
    seconds: 600
"""

RETURN = r"""
taken_over:
  description: The dead holder whose lock was taken, or null.
  type: dict
  returned: when O(state=present)
own:
  description: Whether the lock that was released is that of O(holder).
  type: bool
  returned: when O(state=absent)
"""

import fcntl
import json
import os
import time
from contextlib import contextmanager
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule


@contextmanager
def alone(path):
    """Let one process at a time look at the lock and change it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def machine_id():
    """Identify this boot of this machine, and the PID namespace, in which a pid has a meaning."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {Path('/proc/self/ns/pid').readlink()}"


def process_start(pid):
    """Start time of a process in clock ticks, or None: tells a process from a later namesake."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None


def current(path):
    """Return the holder, or None. An unreadable lock is one that was never finished."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None


def dead(holder):
    """Whether a holder can no longer be at work."""
    if holder["machine"] == machine_id():
        return process_start(holder["pid"]) != holder["process_start"]
    return time.time() > holder["until"]


def same(held, mine):
    """Whether two holders are one: the same process of the same boot of the same machine."""
    return all(held[key] == mine[key] for key in ("machine", "pid", "process_start"))


def describe(holder):
    """Name a holder."""
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder["since"]))
    return f"{holder['what']} (process {holder['pid']}), since {since}"


def write(path, holder):
    """Replace the lock at once."""
    partial = path.with_suffix(".partial")
    partial.touch(mode=0o600)  # a command line is not for everybody
    partial.write_text(json.dumps(holder))
    partial.replace(path)


def take(module, path, held, mine):
    """Lock the host or renew its lock; fail, naming the holder, if another has it."""
    taken_over = None
    if held and not same(held, mine):
        if not dead(held):
            module.fail_json(
                msg=f"this host is busy with {describe(held)}. If that is dead: "
                "ansible-playbook playbooks/teardown.yml -e keep_image=true -e force=true"
            )
        taken_over = held
    new = held is None or taken_over is not None
    if not module.check_mode:
        since = time.time() if new else held["since"]
        write(path, mine | {"since": since})
    module.exit_json(changed=new, taken_over=taken_over)


def release(module, path, held, mine):
    """Remove the lock if it is ours, or its holder is dead, or we are told to."""
    if held and not same(held, mine) and not dead(held) and not module.params["force"]:
        module.fail_json(
            msg=f"this host is busy with {describe(held)}; force: true breaks its lock"
        )
    exists = path.exists()
    if exists and not module.check_mode:
        path.unlink()
    module.exit_json(changed=exists, own=bool(held) and same(held, mine))


def main():
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "holder": {"type": "dict", "required": True},
            "seconds": {"type": "float", "default": 3600},
            "force": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    path = Path(module.params["path"])
    mine = module.params["holder"] | {"until": time.time() + module.params["seconds"]}
    mine["pid"] = int(mine["pid"])
    # The controller's start time can be read here only if the controller is this machine.
    mine["process_start"] = process_start(mine["pid"]) if mine["machine"] == machine_id() else None
    act = take if module.params["state"] == "present" else release
    if module.check_mode and not path.parent.is_dir():
        new = module.params["state"] == "present"
        module.exit_json(changed=new, taken_over=None, own=False)
    with alone(path):
        act(module, path, current(path), mine)


if __name__ == "__main__":
    main()
