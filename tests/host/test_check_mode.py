"""Check mode tells what would be done, to the end, and does none of it."""

from __future__ import annotations

import re

import pytest
from machine import STATE, Playbook, assert_restored, knobs

pytestmark = pytest.mark.host


def there() -> dict:
    """Every file that the testbed keeps on the host, and when it was last changed."""
    return {path: path.lstat().st_mtime_ns for path in [STATE, *STATE.rglob("*")] if path.exists()}


def changed(play: Playbook) -> int:
    """How much would be changed on the host."""
    return int(re.search(r"^localhost .* changed=(\d+)", play.log.read_text(), re.MULTILINE)[1])


def rehearse(tmp_path, *arguments: str) -> Playbook:
    """Rehearse a playbook; it leaves everything as it is."""
    found, before = knobs(), there()
    results = ("-e", f"results={tmp_path / 'results'}")
    play = Playbook(*arguments, "--check", "--diff", *results, log=tmp_path / "log")
    assert play.wait() == 0, play.log.read_text()
    assert_restored(found)
    assert there() == before
    assert not (tmp_path / "results").exists()
    return play


def test_an_experiment(tmp_path):
    play = rehearse(tmp_path, "site.yml", "-e", "experiment=experiments/arrays-single.yml")
    assert "g00-k1-single-r1" in play.output, "the run that would be done is named"
    assert "+++ after" in play.output, "what would be written is shown"
    assert changed(play) > 0


def test_a_provisioned_host_needs_no_change(host, tmp_path):
    assert changed(rehearse(tmp_path, "playbooks/host.yml", "playbooks/guest_image.yml")) == 0


def test_teardown_reports_what_it_would_remove(host, tmp_path):
    play = rehearse(tmp_path, "playbooks/teardown.yml")
    assert f"{STATE}/images" in play.output
    assert changed(play) > 0
