"""Read what affects KSM on a host, without leaving or changing anything on it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

# A plugin of the controller and not a module: a module is unpacked into files on the host, where
# this one goes to the standard input of the host's Python, and is gone when it ends.

PROGRAM = Path(__file__).resolve().parents[2] / "roles/doctor/files/ksm_facts.py"
PYTHON = "/usr/bin/python3"  # if the inventory does not name one


class ActionModule(ActionBase):
    """See plugins/modules/ksm_info.py for arguments and result."""

    _requires_connection = True
    _supports_check_mode = True
    _VALID_ARGS = frozenset(("seconds",))

    def run(self, tmp=None, task_vars=None):
        """Read."""
        super().run(tmp, task_vars)
        # Isolated mode, and without writing byte code of imported modules.
        words = [self._python(task_vars), "-I", "-B", "-", "--seconds"]
        command = shlex.join([*words, str(self._task.args["seconds"])])
        done = self._low_level_execute_command(command, in_data=PROGRAM.read_bytes())
        try:
            return {"changed": False, "facts": json.loads(done["stdout"])}
        except ValueError:
            said = (done["stderr"] or done["stdout"]).strip().splitlines()
            why = said[-1] if said else f"exit status {done['rc']}"
            if "SyntaxError" in why:
                why = f"this Python is too old; 3.6 or newer is needed ({why})"
            raise AnsibleActionFail(f"cannot read this host with {words[0]}: {why}") from None

    def _python(self, task_vars):
        """Return the Python of the host: the one of the inventory, if it is a path."""
        named = str(self._templar.template(task_vars.get("ansible_python_interpreter", "")))
        return PYTHON if named == "" or named.startswith("auto") else named
