"""Find out which of some paths exist on a host, and read files."""

from __future__ import annotations

import base64
import re
import shlex
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

END = "looked"
ROW = re.compile(r"(\d+)(?: :([A-Za-z0-9+/=]*))?")
ARGUMENTS = {
    "paths": {"type": "list", "elements": "str", "default": []},
    "read": {"type": "list", "elements": "str", "default": []},
}


class ActionModule(ActionBase):
    """See plugins/modules/paths_info.py for arguments and result."""

    _requires_connection = True
    _supports_check_mode = True

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Look."""
        super().run(tmp, task_vars)
        _, asked = self.validate_argument_spec(ARGUMENTS)
        done = self._low_level_execute_command(look(asked["paths"], asked["read"]))
        *found, end = done["stdout"].splitlines() or [""]
        if end != END:  # an answer that was cut off must not mean that there is nothing
            raise AnsibleActionFail(f"cannot look: {done['stderr'].strip() or done['stdout']}")
        # The shell of the host may print lines of its own.
        rows = [(int(row[1]), row[2]) for row in map(ROW.fullmatch, found) if row]
        paths = asked["paths"] + asked["read"]
        return {
            "changed": False,
            "existing": [paths[number] for number, _ in rows],
            "contents": {paths[number]: decoded(text) for number, text in rows if text is not None},
        }


def look(paths: list[str], read: list[str]) -> str:
    """Return a command that prints the numbers of the paths that exist, and what is in files.

    Files are in base64, with a colon before it. One that cannot be read has only its number.
    """
    quoted = [shlex.quote(path) for path in [*paths, *read]]
    words = [f"echo {number}" for number in range(len(paths))]
    words += [
        f"if text=$(base64 -w 0 {quoted[number]} 2>/dev/null);"
        f" then echo {number} :$text; else echo {number}; fi"
        for number in range(len(paths), len(quoted))
    ]
    tests = (
        f"if test -e {path} || test -L {path}; then {word}; fi"
        for path, word in zip(quoted, words, strict=True)
    )
    return "; ".join([*tests, f"echo {END}"])


def decoded(text: str) -> str:
    """Return the text of a file, also of a damaged one."""
    return base64.b64decode(text).decode(errors="replace")
