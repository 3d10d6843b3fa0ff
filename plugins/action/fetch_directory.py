"""Copy a directory from a host to the controller."""

from __future__ import annotations

import hashlib
import shlex
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    """See plugins/modules/fetch_directory.py for arguments and result."""

    _requires_connection = True
    _supports_check_mode = False
    _VALID_ARGS = frozenset(("src", "dest", "remove"))

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Pack, copy, check, unpack, remove."""
        super().run(tmp, task_vars)
        source, dest = self._task.args["src"], Path(self._task.args["dest"])
        # Owned by the user who logs in: the connection copies files as that user, without become.
        place = self._do("mktemp -d -t ksm-fetch.XXXXXXXX", "make a directory", become=False)
        remote = f"{place}/archive.tar.gz"
        try:
            wanted = self._do(_pack(source, remote, place), f"pack {source}").split()[0]
            with tempfile.TemporaryDirectory(prefix="ksm-fetch-") as private:
                local = Path(private) / "archive.tar.gz"
                self._connection.fetch_file(remote, str(local))
                check(local, wanted)
                files = unpack(local, dest)
                if boolean(self._task.args.get("remove", False)):
                    self._do(f"rm -rf {shlex.quote(source)}", f"remove {source}")
                return {"changed": True, "files": files, "bytes": local.stat().st_size}
        except (OSError, tarfile.TarError) as error:
            raise AnsibleActionFail(f"cannot fetch {source}: {error}") from error
        finally:
            self._do(f"rm -rf {shlex.quote(place)}", "remove the archive")

    def _do(self, command: str, what: str, become: bool = True) -> str:
        """Run a command on the host; return the last line that it prints.

        The shell of the host may print lines of its own before it.
        """
        done = self._low_level_execute_command(command, sudoable=become)
        if done["rc"] != 0:
            said = (done["stderr"] or done["stdout"]).strip().splitlines()
            why = said[0] if said else f"exit status {done['rc']}"
            raise AnsibleActionFail(f"cannot {what} on the host: {why}")
        return str(done["stdout"]).strip().rpartition("\n")[2]


def _pack(source: str, archive: str, place: str) -> str:
    """Return a command that packs the archive for the owner of `place` and prints its checksum."""
    source, archive, place = (shlex.quote(each) for each in (source, archive, place))
    return (
        f"umask 077 && tar -c --use-compress-program='gzip -1' --file={archive} -C {source} . "
        f"&& chown --reference={place} {archive} && sha256sum {archive}"
    )


def check(archive: Path, wanted: str) -> None:
    """Require that the archive was copied without errors."""
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != wanted:
        raise AnsibleError(f"the archive was damaged in transfer: {found} is not {wanted}")


def unpack(archive: Path, dest: Path) -> list[str]:
    """Unpack regular files and directories; return the names of the files.

    Links, sockets and devices are not results. Owners and modes in the archive are ignored. Filters
    of tarfile could do that, but Debian 12's Python 3.11.2 does not have them.
    """
    dest.mkdir(parents=True, exist_ok=True)
    names = []
    with tarfile.open(archive, "r:gz") as packed:
        for member in packed:
            path = _inside(dest, member.name)
            if member.isdir():
                path.mkdir(parents=True, exist_ok=True)
            elif found := packed.extractfile(member) if member.isfile() else None:
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("wb") as file:
                    shutil.copyfileobj(found, file)
                names.append(member.name.removeprefix("./"))
    return sorted(names)


def _inside(dest: Path, name: str) -> Path:
    """Return the path of a member. Raises TarError if it leaves the directory."""
    path = (dest / name).resolve()
    if not path.is_relative_to(dest.resolve()):
        raise tarfile.TarError(f"the archive has a path outside of the directory: {name}")
    return path
