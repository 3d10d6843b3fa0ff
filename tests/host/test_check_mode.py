"""Check mode reports all changes and makes none."""

from __future__ import annotations

import re

import pytest
from machine import SHORT, STATE, Playbook, assert_restored, knobs

pytestmark = pytest.mark.host


def there() -> dict:
    """Return every file of the testbed on the host, and its time of change."""
    return {path: path.lstat().st_mtime_ns for path in [STATE, *STATE.rglob("*")] if path.exists()}


def changed(play: Playbook) -> int:
    """Return the number of tasks that would change the host."""
    return int(re.search(r"^localhost .* changed=(\d+)", play.log.read_text(), re.MULTILINE)[1])


def check(tmp_path, *arguments: str) -> Playbook:
    """Run a playbook in check mode, and check that it changes nothing."""
    found, before = knobs(), there()
    results = ("-e", f"results={tmp_path / 'results'}")
    play = Playbook(*arguments, "--check", "--diff", *results, log=tmp_path / "log")
    assert play.wait() == 0, play.log.read_text()
    assert_restored(found)
    assert there() == before
    assert not (tmp_path / "results").exists()
    return play


def test_an_experiment_on_a_provisioned_host(host, tmp_path):
    definition = tmp_path / "census.yml"
    definition.write_text(SHORT.format(count=1, intervals=3, workload="idle") + "census: [end]\n")
    play = check(tmp_path, "site.yml", "-e", f"experiment={definition}")
    assert "g01-k1-idle-r1" in play.output, "the run that would be done is named"
    assert "+++ after" in play.output, "what would be written is shown"
    changes = {
        name: part.count("\nchanged: ")
        for name, part in re.findall(
            r"^PLAY \[(.+?)\] (.*?)(?=^PLAY |\Z)", play.log.read_text(), re.MULTILINE | re.DOTALL
        )
    }
    assert changes["Make Debian machines hosts for KSM experiments"] == 0
    assert changes["Build the image that guests boot from"] == 0
    assert changes["Assign the runs to hosts"] > 0, "results would be written"


def test_teardown_reports_what_it_would_remove(host, tmp_path):
    play = check(tmp_path, "playbooks/teardown.yml")
    assert f"{STATE}/images" in play.output
    assert changed(play) > 0
