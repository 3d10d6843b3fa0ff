"""Write a run directory on the controller."""

from __future__ import annotations

from pathlib import Path

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    """See plugins/modules/run_directory.py for arguments."""

    _requires_connection = False
    _supports_check_mode = True
    _VALID_ARGS = frozenset(("path", "files", "rename"))

    def run(self, tmp=None, task_vars=None):
        """Write the files that differ and rename the directory."""
        super().run(tmp, task_vars)
        path, target = Path(self._task.args["path"]), self._task.args.get("rename")
        files = {path / name: text for name, text in self._task.args.get("files", {}).items()}
        try:
            was = {file: found(file) for file in files}
            new = {file: text for file, text in files.items() if was[file] != text}
            changed = bool(new or target or not path.is_dir())
            if not self._task.check_mode:
                path.mkdir(parents=True, exist_ok=True)
                for file, text in new.items():
                    file.write_text(text, encoding="utf-8")
                if target:
                    rename(path, Path(target))
        except OSError as error:
            raise AnsibleActionFail(f"{error.filename or path}: {error.strerror}") from error
        diff = [
            {"before": was[file] or "", "after": text, "after_header": str(file)}
            for file, text in new.items()
        ]
        return {"changed": changed, "diff": diff}


def found(path):
    """Return the text of a file, also of a damaged one, or None if there is none."""
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else None


def rename(path, target):
    """Rename a directory, but never over an existing one."""
    if target.exists():
        raise AnsibleActionFail(f"{target} already exists and is not overwritten")
    path.rename(target)
