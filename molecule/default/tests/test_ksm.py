"""The role ksm: the knobs are set, and their previous values are saved."""

import json
import os
import re
from pathlib import Path

KSM = "/sys/kernel/mm/ksm"


def test_the_knobs_are_set(host):
    asked = {
        "run": "1",
        "pages_to_scan": "2000",
        "sleep_millisecs": "10",
        "max_page_sharing": "256",
    }
    if host.file(f"{KSM}/smart_scan").exists:
        asked["smart_scan"] = "0"
    read = {name: host.file(f"{KSM}/{name}").content_string.strip() for name in asked}
    assert read == asked


def test_the_previous_knobs_are_saved(host):
    before = json.loads(Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"], "before.json").read_text())
    found = dict(line.removeprefix(f"{KSM}/").split(":", 1) for line in before["knobs"])
    remembered = json.loads(host.file("/var/lib/ksm-testbed/knobs.json").content)["knobs"]
    assert {"run", "pages_to_scan", "sleep_millisecs"} <= set(remembered)
    # the word in brackets is the current value
    chosen = {name: re.sub(r".*\[(.*)\].*", r"\1", found[name]) for name in remembered}
    assert {name: str(value) for name, value in remembered.items()} == chosen
