"""The lookup controller returns the identity of the process that runs the playbook."""

from __future__ import annotations

DOCUMENTATION = r"""
name: controller
short_description: Identity of the process that runs the playbook
version_added: 0.1.0
description:
  - Returns the boot id of the controller's machine with its PID namespace (C(machine)), the process
    id of the running C(ansible-playbook) (C(pid)) and its command line (C(what)).
author: [The KSM testbed authors (@ksm-testbed)]
"""

EXAMPLES = r"""
- ansible.builtin.debug:
    msg: "{{ lookup('ksm.testbed.controller') }}"
"""

RETURN = r"""
_raw:
  description: One dict with C(machine), C(pid) and C(what).
  type: list
  elements: dict
"""

import multiprocessing
import os
from pathlib import Path

from ansible.plugins.lookup import LookupBase


class LookupModule(LookupBase):
    """Tasks are worker processes; their parent ansible-playbook lives as long as the play."""

    def run(self, terms, variables=None, **kwargs):
        """Return the identity."""
        parent = multiprocessing.parent_process()
        pid = parent.pid if parent else os.getpid()
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        # The first word is the Python interpreter.
        what = " ".join([Path(words[1]).name, *words[2:]]).strip()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # A container has the boot id of its host, and process ids of its own.
        machine = f"{boot} {Path('/proc/self/ns/pid').readlink()}"
        return [{"machine": machine, "pid": pid, "what": what}]
