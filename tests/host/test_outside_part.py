"""A part outside the repository, made as in docs/extending.md, up to the page."""

from __future__ import annotations

import json
import os
import textwrap
from pathlib import Path

import pytest
from machine import Run

pytestmark = pytest.mark.host
DEFINITION = """\
knobs: [{run: 1, pages_to_scan: 5000, sleep_millisecs: 10}]
workloads: [{name: two, arrays: {change: single, ints: 5000, second: 1, changed: 2}}]
sampling: {interval: 1, intervals: 4, period: 0.5}
probe: {period: 0.25}
"""
PART = """
from typing import Any

import pandas as pd
from ksm_analysis.definition.part import Part


class Probe(Part):
    name = "probe"
    role = "part_probe"
    key = dict[str, float]
    description = "How often the probe looks at MemAvailable."
    title = "Memory that the probe saw"

    def table(self, runs: Any) -> pd.DataFrame:
        rows = [{"run": run.id, "looks": len(run.lines("probe"))} for run in runs]
        return pd.DataFrame(rows)


PROBE = Probe()
"""
PROGRAM = """
import json, sys, time

path, period, start, seconds = sys.argv[1], *map(float, sys.argv[2:])
with open(path, "x") as file:
    for n in range(round(seconds / period)):
        time.sleep(max(0, start + n * period - time.monotonic()))
        with open("/proc/meminfo") as meminfo:
            available = int(meminfo.read().split("MemAvailable:")[1].split()[0])
        line = {"n": n, "monotonic": time.monotonic(), "available_kib": available}
        file.write(json.dumps(line) + "\\\\n")
        file.flush()
print(json.dumps({"looks": n + 1}))
"""
TASKS = {
    "install": """
        - name: Install the probe
          ansible.builtin.copy:
            content: "{{ lookup('ansible.builtin.file', role_path ~ '/files/probe.py') }}"
            dest: "{{ testbed_directory }}/probe.py"
            mode: "0755"
    """,
    "start": """
        - name: Start the probe
          ksm.testbed.background:
            name: probe
            directory: "{{ part_directory }}"
            argv:
              - /usr/bin/python3
              - "{{ testbed_directory }}/probe.py"
              - "{{ part_directory }}/probe.jsonl"
              - "{{ part_options.period }}"
              - "{{ part_start }}"
              - "{{ part_seconds }}"
            seconds: "{{ part_seconds | float + 60 }}"
    """,
    "wait": """
        - name: Wait for the probe
          ksm.testbed.background_wait:
            name: probe
            directory: "{{ part_directory }}"
          register: part_probe_ended
    """,
    "stop": """
        - name: Stop the probe
          ksm.testbed.background: {name: probe, directory: "{{ part_directory }}", state: stopped}
    """,
}


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """Install the part: a role on the roles path, and a package with an entry point."""
    role = tmp_path / "roles/part_probe"
    for name, text in TASKS.items():
        write(role / f"tasks/{name}.yml", "---" + textwrap.dedent(text))
    write(role / "meta/main.yml", "---\ndependencies: [ksm.testbed.testbed]\n")
    write(role / "files/probe.py", PROGRAM.replace("\\\\n", "\\n"))
    write(tmp_path / "python/ksm_probe.py", PART)
    info = tmp_path / "python/ksm_probe-1.0.dist-info"
    write(info / "METADATA", "Metadata-Version: 2.1\nName: ksm-probe\nVersion: 1.0\n")
    write(info / "entry_points.txt", "[ksm_analysis.parts]\nprobe = ksm_probe:PROBE\n")
    monkeypatch.setenv("ANSIBLE_ROLES_PATH", str(tmp_path / "roles"))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'python'}{os.pathsep}{Path.cwd()}")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.usefixtures("outside", "restored")
def test_its_output_is_on_the_page(tmp_path):
    definition = tmp_path / "probed.yml"
    definition.write_text(DEFINITION)
    run = Run(str(definition), "--results", str(tmp_path / "results"), log=tmp_path / "log")
    assert run.wait() == 0, run.output

    directory = tmp_path / "results/probed/g00-k1-two-r1"
    planned = json.loads((directory / "run.json").read_text())["run"]["parts"]
    assert planned[-1] == {"name": "probe", "role": "part_probe", "options": {"period": 0.25}}
    lines = [json.loads(line) for line in (directory / "probe.jsonl").open()]
    header = json.loads((directory / "samples.jsonl").open().readline())
    assert len(lines) == 16
    assert lines[0]["monotonic"] == pytest.approx(header["monotonic"], abs=0.3), (
        "they begin together"
    )
    assert json.loads((directory / "probe.json").read_text())["summary"] == {"looks": 16}
    page = (tmp_path / "results/probed/report.html").read_text()
    assert "Memory that the probe saw" in page
    assert '<th scope="row">g00-k1-two-r1</th><td>16</td>' in page
