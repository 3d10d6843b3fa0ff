#!/usr/bin/python
"""Lock a host for one experiment at a time. The lock names its holder."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_lock
short_description: Acquire, renew and release the lock of a host
description:
  - The lock is a file that names its holder. A holder is dead if its process has ended (if it ran
    on this machine since its last boot, and not in a container), or if the lock has expired without
    renewal. The lock of a dead holder is taken over.
options:
  path:
    description: The lock file.
    type: path
    required: true
  state:
    description: >-
      V(present) acquires or renews the lock; V(absent) releases it. The lock of another holder is
      released only if the holder is dead or O(force) is set.
    type: str
    choices: [present, absent]
    default: present
  holder:
    description: >-
      The holder. C(machine) (its boot id and PID namespace) and C(pid) are the same in all tasks of
      one C(ansible-playbook). C(what) is used in messages.
    type: dict
    required: true
  seconds:
    description: Time until the lock expires without renewal.
    type: float
    default: 3600
  force:
    description: Release the lock even if another holder is alive.
    type: bool
    default: false
attributes:
  check_mode:
    description: Says what would change, and changes nothing.
    support: full
author: [The KSM testbed authors (@ksm-testbed)]
"""

EXAMPLES = r"""
- name: Lock the host for ten minutes
  ksm.testbed.host_lock:
    path: /var/lib/ksm-testbed/lock.json
    holder: {machine: "3f… pid:[4026531836]", pid: 4242, what: ansible-playbook site.yml}
    seconds: 600
"""

RETURN = r"""
taken_over:
  description: The dead holder whose lock was taken over, or null.
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
    """Allow one process at a time to read and change the lock."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def machine_id():
    """Return boot id and PID namespace. A process id is unique only within both."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {Path('/proc/self/ns/pid').readlink()}"


def process_start(pid):
    """Return the start time of a process, or None. It distinguishes processes with the same id."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None


def current(path):
    """Return the holder, or None. An unreadable lock was never completely written."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None


def dead(holder):
    """Whether a holder is dead."""
    if holder["machine"] == machine_id():
        return process_start(holder["pid"]) != holder["process_start"]
    return time.time() > holder["until"]


def same(held, mine):
    """Whether two holders are the same process of the same boot."""
    return all(held[key] == mine[key] for key in ("machine", "pid", "process_start"))


def describe(holder):
    """Describe a holder."""
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder["since"]))
    return f"{holder['what']} (process {holder['pid']}), since {since}"


def write(path, holder):
    """Replace the lock atomically."""
    partial = path.with_suffix(".partial")
    partial.touch(mode=0o600)  # other users must not read the command line
    partial.write_text(json.dumps(holder))
    partial.replace(path)


def take(module, path, held, mine):
    """Acquire or renew the lock. If another holder has it, fail and name the holder."""
    taken_over = None
    if held and not same(held, mine):
        if not dead(held):
            module.fail_json(
                msg=f"this host is locked by {describe(held)}. If that is dead: "
                "ansible-playbook playbooks/teardown.yml -e keep_image=true -e force=true"
            )
        taken_over = held
    new = held is None or taken_over is not None
    if not module.check_mode:
        since = time.time() if new else held["since"]
        write(path, mine | {"since": since})
    module.exit_json(changed=new, taken_over=taken_over)


def release(module, path, held, mine):
    """Remove the lock if it is ours, if its holder is dead, or with force."""
    if held and not same(held, mine) and not dead(held) and not module.params["force"]:
        module.fail_json(
            msg=f"this host is locked by {describe(held)}; force: true breaks the lock"
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
    # The start time of the controller's process is readable only if the controller is this machine.
    mine["process_start"] = process_start(mine["pid"]) if mine["machine"] == machine_id() else None
    act = take if module.params["state"] == "present" else release
    if module.check_mode and not path.parent.is_dir():
        new = module.params["state"] == "present"
        module.exit_json(changed=new, taken_over=None, own=False)
    with alone(path):
        act(module, path, current(path), mine)


if __name__ == "__main__":
    main()
