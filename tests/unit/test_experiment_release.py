"""The playbook releases the lock of each host, even if the host cannot be restored."""

from __future__ import annotations

import yaml
from programs import ROLES

PLAYS = yaml.safe_load((ROLES.with_name("playbooks") / "experiment.yml").read_text())


def included(task):
    role = task.get("ansible.builtin.include_role", {})
    return role.get("name"), role.get("tasks_from", "main")


def endings():
    """Return the last tasks of plays with a locked host: rescue and always."""
    plays = {play.get("name"): play for play in PLAYS}
    prepare = plays["Lock and prepare the hosts"]["tasks"][-1]
    run = plays["Run the experiment"]["tasks"][-1]
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
