"""Read what is in memory that KSM may merge, without leaving or changing anything on the host."""

from __future__ import annotations

import contextlib
import os
import shlex
import tempfile
from pathlib import Path

from ansible.errors import AnsibleActionFail
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible_collections.ksm.testbed.plugins.action.ksm_info import ActionModule as HostReader

ROLES = Path(__file__).resolve().parents[2] / "roles"
PROGRAMS = (
    "doctor/files/ksm_facts.py",
    "part_census/files/ksm_census.py",
    "assess/files/ksm_assess.py",
)
# All go to the standard input of the host's Python together: each is a module of its own.
LOADER = """
import sys, types
for name, text in {texts!r}.items():
    sys.modules[name] = module = types.ModuleType(name)
    exec(compile(text, name + ".py", "exec"), module.__dict__)
sys.exit(module.main())
"""


class ActionModule(HostReader):
    """See plugins/modules/ksm_memory_info.py for arguments and result."""

    _requires_connection = True
    _supports_check_mode = True
    _VALID_ARGS = frozenset(
        ("dest", "seconds", "guests", "as_if_mergeable", "memory_mib", "cpu_percent")
    )

    def run(self, tmp=None, task_vars=None):
        """Read."""
        ActionBase.run(self, tmp, task_vars)  # that of HostReader would read
        asked, dest = self._task.args, Path(self._task.args["dest"])
        if self._task.check_mode:
            return {"changed": False, "skipped": True, "msg": "check mode reads nothing"}
        # Isolated mode: a PYTHONHASHSEED does not count, by which contents could be guessed
        words = [self._python(task_vars), "-I", "-B", "-", "--seconds", str(asked["seconds"])]
        words += ["--memory", str(asked["memory_mib"]), "--cpu", str(asked["cpu_percent"])]
        words += [word for name in asked["guests"] for word in ("--guest", str(name))]
        words += ["--as-if-mergeable"] if boolean(asked["as_if_mergeable"]) else []
        texts = {Path(name).stem: (ROLES / name).read_text() for name in PROGRAMS}
        program = LOADER.format(texts=texts).encode()
        dest.parent.mkdir(parents=True, exist_ok=True)
        # for its owner alone, and before the reading, which takes long
        file, fresh = tempfile.mkstemp(dir=dest.parent, prefix=f".{dest.name}.")
        with contextlib.ExitStack() as stack:
            stack.callback(Path(fresh).unlink, missing_ok=True)
            with os.fdopen(file, "w") as output:
                output.write(self._read(words, program))
            Path(fresh).replace(dest)
        return {"changed": False, "dest": str(dest)}

    def _read(self, words, program):
        """Return what the program on the host tells."""
        done = self._low_level_execute_command(shlex.join(words), in_data=program)
        if done["rc"] != 0:
            said = (done["stderr"] or done["stdout"]).strip().splitlines()
            why = said[-1] if said else f"exit status {done['rc']}"
            raise AnsibleActionFail(why.removeprefix("ksm_assess.py: error: "))
        return done["stdout"]
