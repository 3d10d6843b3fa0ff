"""Import programs of hosts and Ansible plugins, which are not in a package, for the tests."""

import importlib.util
import os
import subprocess
import sys
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


def run_playbook(*arguments: str) -> str:
    """Run ansible-playbook, which must succeed, and return what it has printed."""
    done = subprocess.run(
        ["ansible-playbook", *arguments],
        cwd=PLUGINS.parent,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
