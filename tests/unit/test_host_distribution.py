"""The role host refuses a distribution on which it is not tested, unless allowed."""

from __future__ import annotations

import subprocess

import pytest
import yaml
from programs import ROLES

ROLE = yaml.safe_load((ROLES / "host/tasks/preflight.yml").read_text())
(TASK,) = [task for task in ROLE if task["name"] == "Require a tested distribution"]


@pytest.mark.parametrize(
    ("distribution", "allowed", "guests", "status"),
    [
        ("Debian 12", False, True, 0),
        ("Debian 13", False, True, 2),
        ("Debian 13", True, True, 0),
        ("Fedora 42", False, False, 0),
    ],
)
def test_an_untested_distribution_must_be_allowed(distribution, allowed, guests, status, tmp_path):
    name, version = distribution.split()
    variables = {"host_guests": guests, "host_allow_untested": allowed}
    play = {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "vars_files": [str(ROLES / "host/vars/main.yml")],
        "vars": variables
        | {"ansible_facts": {"distribution": name, "distribution_major_version": version}},
        "tasks": [TASK],
    }
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))
    done = subprocess.run(
        ["ansible-playbook", "play.yml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == status, done.stdout + done.stderr
    assert ("is not tested" in done.stdout + done.stderr) == (status != 0)
