"""Programs of the roles whose code the simulator shares: what is in memory, and the governor."""

import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType

from ksm_analysis.errors import InputError

ROLES = Path(__file__).parents[2] / "roles"
ARRAYS, CONTENTS = "part_arrays/files/ksm_arrays.py", "processes/files/ksm_contents.py"
MEMORY, GOVERNOR = "part_memory/files/ksm_memory.py", "governor/files/ksm_governor.py"
POLICY = "part_policy/files/ksm_policy.py"


@cache
def program(path: str) -> ModuleType:
    """Import a program by its path among the roles.

    Raises InputError if there is none: the package alone does not have the roles.
    """
    file = ROLES / path
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if not file.is_file() or spec is None or spec.loader is None:
        raise InputError(
            f"{file}: no such file. `simulate` needs the roles: use it from a clone of the "
            "repository"
        )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
