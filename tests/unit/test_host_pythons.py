"""Programs that run on hosts say which Python they need, also to one that is older."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(ROOT.glob("roles/*/files/ksm_*.py"))
LIBRARIES = {  # others start them
    *("ksm_copies.py", "ksm_density.py", "ksm_output.py", "ksm_services.py", "ksm_workers.py"),
    *("ksm_contents.py", "ksm_processes.py", "ksm_prometheus.py"),
}
PROGRAMS = [path for path in FILES if path.name not in LIBRARIES]
OLDEST = (3, 6)
# Directories of modules that a program finds beside it on a host
BESIDE = {
    "ksm_guest_density.py": ("roles/part_arrivals/files", "roles/processes/files"),
    "ksm_assess.py": ("roles/part_census/files", "roles/doctor/files"),
    "ksm_load.py": ("roles/processes/files",),
    "ksm_monitor.py": ("roles/part_sampler/files",),
    "ksm_workload.py": ("plugins/module_utils",),
}


def interpreters():
    """Return the Pythons of this machine by their versions, without those of a test environment."""
    paths = [Path(sys.executable)]
    paths += [Path(found) for n in range(6, 20) if (found := shutil.which(f"python3.{n}"))]
    paths += Path.home().glob(".pyenv/versions/3.*/bin/python")
    found = {}
    for path in paths:
        ask = [path, "-c", "import sys; print(*sys.version_info[:2])"]
        done = subprocess.run(ask, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            found.setdefault(tuple(map(int, done.stdout.split())), path)
    return found


PYTHONS = interpreters()


def needed(path):
    """Return the Python that a program says it needs."""
    major, minor = re.search(r"Python (\d+)\.(\d+) or newer", path.read_text()).groups()
    return int(major), int(minor)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_oldest_python_can_parse_it_and_so_say_what_it_needs(path):
    text = path.read_text()
    ast.parse(text, feature_version=OLDEST)
    assert "from __future__" not in text


@pytest.mark.parametrize("version", PYTHONS, ids=lambda version: ".".join(map(str, version)))
@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.name)
def test_each_python_runs_it_or_is_told(path, version, tmp_path):
    shutil.copy(path, tmp_path)
    for file in path.parent.glob("ksm_*.py"):
        shutil.copy(file, tmp_path)
    for place in BESIDE.get(path.name, ()):
        shutil.copytree(ROOT / place, tmp_path, dirs_exist_ok=True)
    done = subprocess.run(
        [PYTHONS[version], "-B", tmp_path / path.name, "--help"],
        capture_output=True,
        text=True,
        check=False,
    )
    if version < needed(path):
        words = f"{path.name} needs Python {{}}.{{}} or newer".format(*needed(path))
        assert done.returncode == 1
        assert done.stderr.startswith(f"{words}; this is {{}}.{{}}".format(*version))
        assert len(done.stderr.splitlines()) == 1
        return
    missing = "No module named 'libvirt" in done.stderr
    assert done.returncode == 0 or missing, done.stderr
