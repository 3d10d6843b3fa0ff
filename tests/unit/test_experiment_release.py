"""Playbooks that change a host lock it, and release it even if they fail."""

from __future__ import annotations

import pytest
import yaml
from programs import ROLES


def plays(name):
    return yaml.safe_load((ROLES.with_name("playbooks") / f"{name}.yml").read_text())


def included(task):
    role = task.get("ansible.builtin.include_role", {})
    return role.get("name"), role.get("tasks_from", "main")


def endings():
    """Return the last tasks of plays with a locked host: rescue and always."""
    experiment = {play.get("name"): play for play in plays("experiment")}
    prepare = experiment["Lock and prepare the hosts"]["tasks"][-1]
    run = experiment["Run the experiment"]["tasks"][-1]
    return [prepare["rescue"], run["always"]]


def test_a_host_is_released_even_if_it_cannot_be_restored():
    for tasks in endings():
        (both,) = [task for task in tasks if "block" in task]
        assert [included(task) for task in both["block"]] == [("ksm.testbed.run", "recover")]
        assert [included(task) for task in both["always"]] == [("ksm.testbed.lock", "release")]


def test_a_host_locked_by_another_holder_is_not_touched():
    for tasks in endings():
        both = next(i for i, task in enumerate(tasks) if "block" in task)
        assert ("ksm.testbed.lock", "main") in [included(task) for task in tasks[:both]]


@pytest.mark.parametrize("name", ["host", "guest_image"])
def test_a_playbook_of_one_step_locks_the_host_meanwhile(name):
    (play,) = plays(name)
    *_, lock, both = play["tasks"]
    assert included(lock) == ("ksm.testbed.lock", "main")
    assert [included(task) for task in both["always"]] == [("ksm.testbed.lock", "release")]
