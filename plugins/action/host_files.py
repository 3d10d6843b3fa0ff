"""Make a directory with files on a host."""

from __future__ import annotations

import hashlib
import io
import re
import shlex
import tarfile
import time
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

# A plugin of the controller and not a module: one command reads what there is, and a second one
# writes what differs. A module starts Python on the host, and copies one file each time.

ARGUMENTS = {
    "directory": {"type": "str", "required": True},
    "directory_mode": {"type": "str", "default": "0755"},
    "src": {"type": "list", "elements": "str", "default": []},
    "content": {"type": "dict", "default": {}},
    "mode": {"type": "str", "default": "0755"},
}


class ActionModule(ActionBase):
    """See plugins/modules/host_files.py for arguments and result."""

    _requires_connection = True
    _supports_check_mode = True

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Compare, and write what differs."""
        super().run(tmp, task_vars)
        _, asked = self.validate_argument_spec(ARGUMENTS)
        directory, texts = asked["directory"], self._texts(asked["src"], asked["content"])
        modes = octal(asked, "directory_mode"), octal(asked, "mode")
        target = wanted(texts, *modes)
        found = states(self._do(look(directory, [*texts])))
        differing = [name for name in target if found.get(name) != target[name]]
        files = [name for name in differing if name != "."]
        if differing and not self._task.check_mode:
            archive = packed({name: texts[name] for name in files}, modes[1])
            self._do(write(directory, modes[0]), archive)
        diff = {"before": lines(found, differing), "after": lines(target, differing)}
        headers = {"before_header": directory, "after_header": directory}
        return {"changed": bool(differing), "files": files, "diff": diff | headers}

    def _texts(self, sources: list[str], content: dict[str, Any]) -> dict[str, bytes]:
        """Return the content of each file by its name."""
        paths = [Path(self._find_needle("files", source)) for source in sources]
        texts = {path.name: path.read_bytes() for path in paths}
        texts |= {name: str(text).encode() for name, text in content.items()}
        for name in texts:
            if len(name.split()) != 1:
                raise AnsibleActionFail(f"a name of a file must not have spaces: {name}")
        return texts

    def _do(self, command: str, data: bytes | None = None) -> str:
        """Run a command on the host; return what it prints."""
        done = self._low_level_execute_command(command, in_data=data)
        if done["rc"] != 0:
            said = (done["stderr"] or done["stdout"]).strip().splitlines()
            raise AnsibleActionFail(said[-1] if said else f"exit status {done['rc']}")
        return str(done["stdout"])


def octal(asked: dict[str, Any], name: str) -> int:
    """Return a mode. 0755 without quotes is 493 in YAML, and refused."""
    if not re.fullmatch("0?[0-7]{3}", asked[name]):
        raise AnsibleActionFail(
            f"{name} must be an octal number such as 0755, and is {asked[name]}. Quote it in YAML."
        )
    return int(asked[name], 8)


def wanted(texts: dict[str, bytes], directory_mode: int, mode: int) -> dict[str, str]:
    """Return the state of the directory, which is named `.`, and of each file."""
    target = {".": f"{directory_mode:04o} 0:0 directory"}
    for name, text in texts.items():
        kind = "regular file" if text else "regular empty file"
        target[name] = f"{mode:04o} 0:0 {kind} {hashlib.sha256(text).hexdigest()}"
    return target


def look(directory: str, names: list[str]) -> str:
    """Return a command that prints the same of what there is."""
    stat = shlex.join(["stat", "--printf", r"%n %04a %u:%g %F\n", "--", ".", *names])
    sums = shlex.join(["sha256sum", "--", *names]) if names else "true"
    # Over ssh, there is a terminal, which mixes the two outputs.
    return f"{{ cd {shlex.quote(directory)} && {{ {stat}; echo; {sums}; }}; }} 2>/dev/null; true"


def states(said: str) -> dict[str, str]:
    """Return the states that the command has printed. What is not there is left out."""
    each, _, sums = "\n".join(said.splitlines()).partition("\n\n")
    checksum = {name: word for word, name in map(str.split, sums.splitlines())}
    rows = (row.partition(" ") for row in each.splitlines())
    return {name: f"{state} {checksum.get(name, '')}".strip() for name, _, state in rows}


def packed(texts: dict[str, bytes], mode: int) -> bytes:
    """Return an archive of files of root."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, text in texts.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode, member.mtime = len(text), mode, int(time.time())
            tar.addfile(member, io.BytesIO(text))
    return archive.getvalue()


def write(directory: str, mode: int) -> str:
    """Return a command that makes the directory, and replaces files by those of an archive."""
    place = shlex.quote(directory)
    return (
        f"install -d -m {mode:04o} -o 0 -g 0 {place} && cd {place} && "
        "new=$(mktemp -d .new.XXXXXXXX) && trap 'rm -rf \"$new\"' EXIT && "
        'tar -x --same-owner --same-permissions -C "$new" && '
        "find \"$new\" -type f -exec mv -f -t . '{}' +"
    )


def lines(each: dict[str, str], names: list[str]) -> str:
    """Return states as text, for the diff."""
    return "".join(f"{each[name]} {name}\n" for name in names if name in each)
