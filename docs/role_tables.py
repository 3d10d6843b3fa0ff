"""The tables of entry points and variables in the roles' READMEs, from their argument specs.

Ansible itself reads the specs (`ansible-doc`). `make role-docs` writes the tables; a test compares.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

from jinja2 import Environment

ROOT = Path(__file__).parents[1]
PREFIX = "ksm.testbed."
BEGIN, END = "<!-- from meta/argument_specs.yml, by `make role-docs` -->", "<!-- to here -->"
TABLES = """\
## Entry points

| entry point | what it does |
| --- | --- |
{% for name, spec in entry_points.items() -%}
| `{{ name }}` | {{ spec | purpose }} |
{% endfor %}
{%- if variables %}
## Variables

| variable | type | default | entry points | meaning |
| --- | --- | --- | --- | --- |
{% for name, option, used in variables -%}
| {{ name }} | {{ option | kind }} | {{ option | default_value }} | {{ used }} \
| {{ option.description | text }} |
{% endfor %}
{%- endif %}"""


def documented(*roles: str) -> dict[str, dict]:
    """Entry points of roles, as `ansible-doc` reads their argument specs: all roles, or some."""
    names = roles or sorted(path.parent.parent.name for path in ROOT.glob("roles/*/meta/arg*"))
    command = ["ansible-doc", "--type", "role", "--json", *(f"{PREFIX}{name}" for name in names)]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    return {
        name.removeprefix(PREFIX): main_first(role["entry_points"]) for name, role in found.items()
    }


def main_first(entry_points: dict) -> dict:
    """Order entry points as a reader looks for them."""
    return dict(sorted(entry_points.items(), key=lambda item: (item[0] != "main", item[0])))


def tables(entry_points: dict) -> str:
    """Markdown of what a role can be asked for, and of its variables."""
    environment = Environment(keep_trailing_newline=True)
    filters = (text, purpose, kind, default_value)
    environment.filters |= {function.__name__: function for function in filters}
    rows = [row for name in names(entry_points) for row in variable(name, entry_points)]
    return environment.from_string(TABLES).render(entry_points=entry_points, variables=rows)


def names(entry_points: dict) -> list[str]:
    """Return the variables of all entry points."""
    return sorted({name for spec in entry_points.values() for name in spec.get("options", {})})


def variable(name: str, entry_points: dict) -> list[tuple[str, dict, str]]:
    """Rows of a variable, which means the same in all its entry points, and of what it holds."""
    specs = {entry: spec.get("options", {}) for entry, spec in entry_points.items()}
    used = [entry for entry, options in specs.items() if name in options]
    option = specs[used[0]][name]
    inner = [(f"`{name}.{key}`", value, "") for key, value in option.get("options", {}).items()]
    return [(f"`{name}`", option, ", ".join(used)), *inner]


def text(description: str | list[str]) -> str:
    """Turn a description into one line of Markdown."""
    words = description if isinstance(description, str) else " ".join(description)
    return re.sub(r"\b[CVO]\(([^)]*)\)", r"`\1`", words).replace("|", "\\|").strip()


def purpose(spec: dict) -> str:
    """Say what an entry point does: its title, and what more there is to it."""
    return text([f"**{spec['short_description']}.**", text(spec.get("description", ""))])


def kind(option: dict) -> str:
    """Type of a variable, or the values that it may have."""
    if "choices" in option:
        return " or ".join(f"`{choice}`" for choice in option["choices"])
    of = f" of {option['elements']}" if "elements" in option else ""
    return option["type"] + of


def default_value(option: dict) -> str:
    """Default of a variable, as it would be written in YAML."""
    if option.get("required"):
        return "required"
    if "default" not in option:
        return ""
    value = option["default"]
    return f"`{value if isinstance(value, str) and value else json.dumps(value)}`"


def with_tables(readme: str, entry_points: dict) -> str:
    """Return a README with its tables made anew."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{tables(entry_points)}\n{END}{after}"


def main() -> None:
    """Write the tables of all roles."""
    for role, entry_points in documented().items():
        readme = ROOT / "roles" / role / "README.md"
        readme.write_text(with_tables(readme.read_text(), entry_points))


if __name__ == "__main__":
    main()
