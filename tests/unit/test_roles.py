"""Specs, defaults, READMEs and modules of roles agree."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import warnings
from pathlib import Path

import jinja2
import pytest
import yaml
from ansible.errors import AnsibleUndefinedVariable
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader
from ansible.template import Templar
from programs import PLUGINS, ROLES, load

init_plugin_loader([str(ROLES.parent / "collections")])  # modules import from the collection
role_tables = load(ROLES.parent / "docs/role_tables.py")

ROLE_NAMES = sorted(path.name for path in ROLES.iterdir() if (path / "tasks").is_dir())
PREFIX = "ksm.testbed."
# Variables that the role run passes to every part, without a default; see docs/extending.md.
OF_PARTS = {
    *("part_name", "part_options", "part_start", "part_seconds", "part_directory"),
    *("part_processes", "part_label", "part_early"),
}
# Those without a main() are the documentation of action plugins.
MODULES = sorted(path for path in PLUGINS.glob("modules/*.py") if "def main(" in path.read_text())
CONDITIONS = ("when", "that", "changed_when", "failed_when", "until")
SPEC_KEYS = ("type", "elements", "choices", "default", "required", "aliases")
each_role = pytest.mark.parametrize("role", ROLE_NAMES)


@functools.cache
def documented() -> dict:
    """Return the specs of all roles, read by Ansible."""
    return role_tables.documented(*ROLE_NAMES)


def options(role: str, entry_point: str) -> dict:
    return documented()[role][entry_point].get("options", {})


def read(path: Path) -> object:
    return (yaml.safe_load(path.read_text()) or {}) if path.exists() else {}


def entries(value: object) -> list[tuple[str, object]]:
    """Return every key with its value, also nested ones."""
    if isinstance(value, dict):
        return [*value.items(), *(pair for inner in value.values() for pair in entries(inner))]
    if isinstance(value, list):
        return [pair for inner in value for pair in entries(inner)]
    return []


def under(files: list, *keys: str) -> list:
    """Return the values of some keys, with long or short names of modules."""
    return [value for key, value in entries(files) if str(key).rpartition(".")[2] in keys]


def names(value: object, condition: bool = False) -> set[str]:
    """Return the variables in the templates and conditions of a value."""
    if isinstance(value, dict):
        return set().union(*(names(inner, key in CONDITIONS) for key, inner in value.items()))
    if isinstance(value, list):
        return set().union(*(names(inner, condition) for inner in value))
    if not isinstance(value, str):
        return set()
    with warnings.catch_warnings(action="ignore"):  # regular expressions look like bad escapes
        parsed = jinja2.Environment().parse(f"{{{{ {value} }}}}" if condition else value)
    return {name.name for name in parsed.find_all(jinja2.nodes.Name) if name.ctx == "load"}


def files_of(role: str, entry_point: str) -> list:
    """Return the files of an entry point: its tasks, included tasks, handlers and templates."""
    tasks = ROLES / role / "tasks"
    found, todo = {}, {tasks / f"{entry_point}.yml"}
    while todo:
        found |= {path: read(path) for path in todo}
        included = under([*found.values()], "include_tasks", "import_tasks")
        patterns = [re.sub("{{.*?}}", "*", name) for name in included]
        todo = {path for pattern in patterns for path in tasks.glob(pattern)} - set(found)
    files = [*found.values()]
    if under(files, "notify"):
        files.append(read(ROLES / role / "handlers/main.yml"))
    templates = set(re.findall(r"[\w.-]+\.j2", str(files)))
    return files + [(ROLES / role / "templates" / name).read_text() for name in templates]


def facts(role: str) -> set[str]:
    """Return the public facts that the tasks of a role set."""
    files = [read(path) for path in (ROLES / role / "tasks").iterdir()]
    left = {
        *under(files, "register"),
        *(name for set_ in under(files, "set_fact") for name in set_),
    }
    return {name for name in left if name.startswith(f"{role}_")}


def used(role: str, entry_point: str) -> set[str]:
    """Return the public variables of a role that an entry point uses, also indirectly."""
    files = files_of(role, entry_point)
    values = read(ROLES / role / "vars/main.yml") | read(ROLES / role / "defaults/main.yml")
    given = {name for variables in under(files, "vars") for name in variables}
    found, todo = set(), names(files)
    while todo:
        found |= todo
        todo = names([values.get(name) for name in todo - given]) - found
    own = {name for name in found if name.startswith(f"{role}_")} - facts(role)
    is_part = role.startswith("part_") or role == "processes"
    return own | (found & OF_PARTS if is_part else set())


@each_role
def test_the_readme_has_the_tables_of_the_specs(role):
    readme = (ROLES / role / "README.md").read_text()
    made = role_tables.with_tables(readme, documented()[role])
    assert readme == made, "`make role-docs` updates the tables"


@each_role
def test_an_entry_point_has_the_variables_that_it_uses_and_no_others(role):
    if role == "testbed":
        return  # other roles use its variables
    for entry_point in documented()[role]:
        assert used(role, entry_point) == set(options(role, entry_point)), entry_point


@each_role
def test_a_variable_has_the_same_spec_everywhere(role):
    seen = {}
    for entry_point in documented()[role]:
        for name, option in options(role, entry_point).items():
            assert seen.setdefault(name, option) == option, f"{name} of {entry_point}"


@each_role
def test_defaults_match_the_specs(role):
    path = ROLES / role / "defaults/main.yml"
    written = DataLoader().load_from_file(str(path), trusted_as_template=True) or {}
    templar = Templar(DataLoader(), variables=written)
    defaults = {}
    for name, value in written.items():
        try:
            defaults[name] = templar.template(value)
        except AnsibleUndefinedVariable:
            continue  # it depends on the host: the spec describes it
    specs = {name: o for entry in documented()[role] for name, o in options(role, entry).items()}
    assert set(written) == {name for name, o in specs.items() if not o.get("required")}
    assert defaults == {name: o["default"] for name, o in specs.items() if "default" in o}


@each_role
def test_every_default_has_a_comment(role):
    text = (ROLES / role / "defaults/main.yml").read_text()
    paragraphs = [paragraph.strip("-\n ") for paragraph in text.split("\n\n")]
    assert [paragraph for paragraph in paragraphs if paragraph[:2] != "# "] == []


@each_role
def test_facts_are_documented(role):
    told = str(documented()[role])
    assert {fact for fact in facts(role) if f"`{fact}`" not in told} == set()


def internal(asked: dict) -> bool:
    """Whether a role includes its own tasks."""
    return asked["name"] == f"{PREFIX}run" and asked.get("tasks_from") == "remove_guests"


def test_callers_use_existing_entry_points_and_variables():
    project = ROLES.parent
    plays = [*project.glob("playbooks/**/*.yml"), *project.glob("roles/*/tasks/*.yml")]
    asked = [
        value for play in plays for value in under([read(play)], "include_role", "import_role")
    ]
    assert len(asked) > 20, "callers are found"
    asked = [each for each in asked if "{{" not in each["name"] and not internal(each)]
    wrong = [
        each
        for each in asked
        if each.get("tasks_from", "main") not in documented()[each["name"].removeprefix(PREFIX)]
    ]
    assert wrong == []


def examples(role: str) -> list[dict]:
    """Return the plays in the README of a role."""
    blocks = re.findall("```yaml\n(.*?)```", (ROLES / role / "README.md").read_text(), re.DOTALL)
    return [play for block in blocks for play in yaml.safe_load(block)]


@each_role
def test_examples_use_existing_variables(role):
    there_are = {name for entry_point in documented()[role] for name in options(role, entry_point)}
    given = [name for variables in under(examples(role), "vars") for name in variables]
    assert given, "an example sets at least one"
    assert {name for name in given if name.startswith(f"{role}_")} <= there_are


def test_each_role_works_alone(tmp_path):
    """With only `collections_path` set, everything that each and its examples use is found.

    One start of Ansible reads a playbook for each, since the start takes most of the time.
    """
    (tmp_path / "ansible.cfg").touch()
    for role in ROLE_NAMES:
        tasks = [
            {"ansible.builtin.import_role": {"name": f"{PREFIX}{role}", "tasks_from": path.stem}}
            for path in (ROLES / role / "tasks").iterdir()
        ]
        plays = [{"name": "Alone", "hosts": "localhost", "tasks": tasks}, *examples(role)]
        (tmp_path / f"{role}.yml").write_text(yaml.safe_dump(plays))
    books = [f"{role}.yml" for role in ROLE_NAMES]
    done = subprocess.run(
        ["ansible-playbook", "--syntax-check", *books],
        cwd=tmp_path,
        env=os.environ | {"ANSIBLE_COLLECTIONS_PATH": str(ROLES.parent / "collections")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.findall("playbook: (.*)", done.stdout) == books


def told_to_ansible(module, monkeypatch) -> dict:
    """Return the arguments of a module to AnsibleModule."""
    told = {}

    def tell(**arguments):
        told.update(arguments)
        raise SystemExit

    monkeypatch.setattr(module, "AnsibleModule", tell)
    with pytest.raises(SystemExit):
        module.main()
    return told


def spec_of(documentation: dict) -> dict:
    """Return the argument spec of a documentation."""
    return {
        name: {key: option[key] for key in SPEC_KEYS if key in option}
        | ({"options": spec_of(option["suboptions"])} if "suboptions" in option else {})
        for name, option in documentation.items()
    }


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_module_matches_its_documentation(path, monkeypatch):
    module = load(path)
    told = told_to_ansible(module, monkeypatch)
    documentation = yaml.safe_load(module.DOCUMENTATION)
    assert documentation["module"] == path.stem
    assert documentation["attributes"]["check_mode"]["support"] == "full"
    assert told["supports_check_mode"]
    assert spec_of(documentation["options"]) == told["argument_spec"]
    for example in yaml.safe_load(module.EXAMPLES):
        assert set(example[f"{PREFIX}{path.stem}"]) <= set(told["argument_spec"])
    assert all("returned" in value for value in yaml.safe_load(module.RETURN).values())
