"""Write a run directory on the controller."""

from __future__ import annotations

from pathlib import Path

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    """See plugins/modules/run_directory.py for arguments."""

    _requires_connection = False
    _supports_check_mode = False
    _VALID_ARGS = frozenset(("path", "files", "rename"))

    def run(self, tmp=None, task_vars=None):
        """Write the files and rename the directory."""
        super().run(tmp, task_vars)
        path = Path(self._task.args["path"])
        try:
            path.mkdir(parents=True, exist_ok=True)
            for name, text in self._task.args.get("files", {}).items():
                (path / name).write_text(text, encoding="utf-8")
            if target := self._task.args.get("rename"):
                rename(path, Path(target))
        except OSError as error:
            raise AnsibleActionFail(f"{error.filename or path}: {error.strerror}") from error
        return {"changed": True}


def rename(path, target):
    """Rename a directory, but never over an existing one."""
    if target.exists():
        raise AnsibleActionFail(f"{target} already exists and is not overwritten")
    path.rename(target)
