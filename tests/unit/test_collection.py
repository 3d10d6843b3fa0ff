"""The repository is the collection ksm.testbed: documented, and usable from any playbook."""

from __future__ import annotations

import functools
import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml
from programs import PLUGINS

ROOT = PLUGINS.parent
KINDS = {"filter": "filter", "lookup": "lookup", "module": "modules"}
DOCUMENTED = [
    (kind, f"ksm.testbed.{path.stem}")
    for kind, directory in KINDS.items()
    for path in sorted(PLUGINS.joinpath(directory).glob("*.py"))
] + [("filter", "ksm.testbed.jsonl")]


def run(*command: str, cwd: Path, collections: Path) -> subprocess.CompletedProcess[str]:
    """Run a program of Ansible that finds collections in one directory only."""
    environment = {key: value for key, value in os.environ.items() if key[:8] != "ANSIBLE_"}
    return subprocess.run(
        command,
        cwd=cwd,
        env=environment | {"ANSIBLE_COLLECTIONS_PATH": str(collections)},
        capture_output=True,
        text=True,
        check=False,
    )


@functools.cache
def documentation(kind: str) -> dict:
    """Return the documentation of all plugins of a kind, as Ansible reads it."""
    names = [name for each, name in DOCUMENTED if each == kind]
    done = run(
        *("ansible-doc", "--json", "--type", kind, *names),
        cwd=ROOT,
        collections=ROOT / "collections",
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(("kind", "name"), DOCUMENTED)
def test_a_plugin_is_documented(kind, name):
    found = documentation(kind)[name]
    assert found["doc"]["module" if kind == "module" else "name"] == name.split(".")[-1]
    assert found["doc"]["short_description"]
    assert yaml.safe_load(found["examples"])


def test_an_action_plugin_has_a_module_that_documents_it():
    actions = {path.name for path in PLUGINS.glob("action/*.py")}
    assert actions <= {path.name for path in PLUGINS.glob("modules/*.py")}
