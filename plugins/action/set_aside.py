"""Move earlier results aside on the controller."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    """See plugins/modules/set_aside.py for arguments and result."""

    _requires_connection = False
    _supports_check_mode = True
    _VALID_ARGS = frozenset(("path", "aside"))

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Move, if there is anything."""
        super().run(tmp, task_vars)
        path, aside = Path(self._task.args["path"]), self._task.args["aside"]
        try:
            if not path.exists():
                return {"changed": False}
            changed = time.strftime("%Y%m%dT%H%M%S", time.localtime(path.stat().st_mtime))
            target = Path(f"{aside}.{changed}")
            if target.exists():
                raise AnsibleActionFail(f"{target} already exists and is not overwritten")
            if not self._task.check_mode:
                target.parent.mkdir(parents=True, exist_ok=True)
                path.rename(target)
        except OSError as error:
            raise AnsibleActionFail(f"{error.filename or path}: {error.strerror}") from error
        diff = {"before": f"{path}\n", "after": f"{target}\n"}
        return {"changed": True, "moved_to": str(target), "diff": diff}
