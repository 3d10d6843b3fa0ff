"""Start a program in the background, and stop it."""

from __future__ import annotations

import json
import shlex
from pathlib import PurePosixPath
from typing import Any

from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    """Runs the module of this name, unless the program to stop has ended, which a command shows."""

    _requires_connection = True
    _supports_check_mode = True

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Look for the end in the record, and run the module if there is none."""
        super().run(tmp, task_vars)
        asked = self._task.args
        if asked.get("state") == "stopped":
            record = self._record(str(asked.get("directory")), str(asked.get("name")))
            if "ended" in record:
                return {"changed": False, "record": record}
        return self._execute_module(module_name="ksm.testbed.background", task_vars=task_vars)

    def _record(self, directory: str, name: str) -> dict[str, Any]:
        """Return the record of the program; empty if it cannot be read."""
        path = shlex.quote(str(PurePosixPath(directory) / f"{name}.json"))
        done = self._low_level_execute_command(f"cat {path} 2>/dev/null; true")
        try:
            record = json.loads(done["stdout"])
        except ValueError:
            return {}
        return record if isinstance(record, dict) else {}
