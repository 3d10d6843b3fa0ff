"""Import programs of hosts and Ansible plugins, which are not in a package, for the tests."""

import importlib.util
from pathlib import Path
from types import ModuleType

ROLES = Path(__file__).parents[1] / "roles"
PLUGINS = ROLES.with_name("plugins")


def load(path: Path) -> ModuleType:
    """Import a file by its path."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
