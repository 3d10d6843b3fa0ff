"""Plays on localhost: `--limit` must not exclude them, and they never become another user."""

from __future__ import annotations

import subprocess

from programs import ROLES

PROJECT = ROLES.parent


def plan(*options: str) -> subprocess.CompletedProcess[str]:
    """Run the playbook that plans; it contacts no host."""
    command = ["ansible-playbook", "-i", "inventory/fleet.yml", "--check", *options]
    return subprocess.run(
        [*command, "playbooks/plan.yml"], cwd=PROJECT, capture_output=True, text=True, check=False
    )


def test_a_limit_without_localhost_is_refused_before_anything_changes():
    done = plan("--limit", "lab-1")
    assert done.returncode == 2
    assert "Use -e ksm_limit='lab-1'" in done.stdout + done.stderr
    assert "unreachable=0" in done.stdout


def test_a_limit_that_keeps_localhost_is_accepted():
    done = plan("--limit", "lab-1,localhost")
    assert done.returncode == 0, done.stdout + done.stderr


def test_localhost_plans_without_become_in_any_inventory_and_with_ksm_limit(tmp_path):
    inventory = tmp_path / "inventory.yml"
    inventory.write_text("all: {vars: {ansible_become: true, ansible_become_method: missing}}\n")
    done = plan("-i", str(inventory), "-e", "ksm_limit=lab-1")
    assert done.returncode == 0, done.stdout + done.stderr
