"""The repository is the collection ksm.testbed: documented, and usable from any playbook."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import tarfile
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
    """Run an Ansible program that finds collections only in one directory."""
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
    """Return the documentation of all plugins of a kind, read by Ansible."""
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


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    """Build the collection."""
    place = tmp_path_factory.mktemp("built")
    done = run(
        *("ansible-galaxy", "collection", "build", "--output-path", str(place)),
        cwd=ROOT,
        collections=place,
    )
    assert done.returncode == 0, done.stderr
    (archive,) = place.glob("ksm-testbed-*.tar.gz")
    return archive


@pytest.fixture(scope="module")
def installed(archive, tmp_path_factory) -> Path:
    """Install the collection into an empty directory, without a network."""
    place = tmp_path_factory.mktemp("collections")
    done = run(
        *("ansible-galaxy", "collection", "install", "--offline", "--no-deps"),
        *("--collections-path", str(place), str(archive)),
        cwd=place,
        collections=place,
    )
    assert done.returncode == 0, done.stderr
    return place


def play(installed: Path, plays: list[dict], cwd: Path, *options: str) -> str:
    """Run a playbook that finds only the installed collection."""
    (cwd / "ansible.cfg").touch()
    (cwd / "play.yml").write_text(yaml.safe_dump(plays))
    command = ["ansible-playbook", "--inventory", "localhost,", *options, "play.yml"]
    done = run(*command, cwd=cwd, collections=installed)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_archive_has_what_a_playbook_uses_and_nothing_else(archive):
    with tarfile.open(archive) as packed:
        names = packed.getnames()
    found = {name.split("/")[0] for name in names}
    wanted = {"meta", "playbooks", "plugins", "roles"}
    assert wanted <= found
    left_out = {".git", ".venv", "bench", "collections", "molecule", "results", "tests"}
    assert found & left_out == set()
    assert [name for name in found if name.startswith(".")] == []
    assert not any("__pycache__" in name for name in names)


@pytest.fixture
def knobs(tmp_path) -> Path:
    """Make a directory with two knobs of KSM and a counter."""
    directory = tmp_path / "ksm"
    directory.mkdir()
    for name, value in {"run": 0, "pages_to_scan": 100, "pages_shared": 0}.items():
        (directory / name).write_text(f"{value}\n")
    (directory / "pages_shared").chmod(0o444)
    return directory


def tasks(knobs: Path, *steps: dict) -> list[dict]:
    return [
        {
            "name": "Play from elsewhere",
            "hosts": "localhost",
            "connection": "local",
            "gather_facts": False,
            "vars": {"ansible_python_interpreter": "{{ ansible_playbook_python }}"},
            "module_defaults": {"ksm.testbed.ksm_knobs": {"directory": str(knobs)}},
            "tasks": list(steps),
        }
    ]


ROLE = {
    "ansible.builtin.include_role": {"name": "ksm.testbed.ksm"},
    "vars": {"ksm_knobs": {"run": 1, "pages_to_scan": 300}},
}
MODULE = {"ksm.testbed.ksm_knobs": {"knobs": {"run": 1, "pages_to_scan": 300}}}


@pytest.mark.parametrize("step", [ROLE, MODULE], ids=["role", "module"])
def test_it_works_in_a_foreign_playbook(step, installed, knobs, tmp_path):
    plays = tasks(knobs, step)
    said = play(installed, plays, tmp_path, "--check", "--diff")
    assert "changed=1" in said
    assert "300" in said
    assert (knobs / "pages_to_scan").read_text() == "100\n", "check mode changes nothing"


FOREIGN = {
    "role": [{"hosts": "localhost", "roles": ["ksm.testbed.doctor"]}],
    "playbook": [{"import_playbook": "ksm.testbed.monitor"}],
}


@pytest.mark.parametrize("plays", FOREIGN.values(), ids=FOREIGN)
def test_it_is_found_in_a_foreign_playbook(plays, installed, tmp_path):
    play(installed, plays, tmp_path, "--syntax-check")
