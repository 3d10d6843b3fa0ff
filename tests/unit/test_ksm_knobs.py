"""The module ksm_knobs: waiting, saved knobs, and whether unmerged pages fit into memory."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from programs import PLUGINS, load

MODULE = PLUGINS / "modules/ksm_knobs.py"
knobs = load(MODULE)
BOOT_ID = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
MORE_THAN_ANY_HOST = 2**50


@pytest.fixture
def host(tmp_path):
    """Make a directory like that of the kernel: three knobs and two counters."""
    directory = tmp_path / "ksm"
    directory.mkdir()
    for name, value in {"run": 1, "pages_to_scan": 500, "max_page_sharing": 256}.items():
        (directory / name).write_text(str(value))
    for name, value in {"pages_shared": 0, "pages_sharing": 0}.items():
        (directory / name).write_text(str(value))
        (directory / name).chmod(0o444)
    return directory


@pytest.fixture
def call(host):
    """Return a function that calls the module."""

    def run(check=False, **params):
        arguments = {"directory": str(host), "_ansible_check_mode": check, **params}
        text = json.dumps({"ANSIBLE_MODULE_ARGS": arguments})
        done = subprocess.run(
            [sys.executable, str(MODULE)],
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        return json.loads(done.stdout)

    return run


def values(directory):
    return {path.name: path.read_text() for path in directory.iterdir()}


def counters(directory, **values):
    for name, value in values.items():
        (directory / name).chmod(0o644)
        (directory / name).write_text(str(value))
        (directory / name).chmod(0o444)


def save(path, **found):
    path.write_text(json.dumps({"boot_id": BOOT_ID, "knobs": found}))
    return str(path)


def test_check_mode_does_not_wait(call):
    began = time.monotonic()
    assert call(check=True, at=began + 300, knobs={"run": 0})["changed"]
    assert time.monotonic() - began < 100


def test_without_check_mode_it_waits(call):
    at = time.monotonic() + 3
    assert call(at=at, knobs={"run": 0})["monotonic"] >= at


@pytest.mark.parametrize("check", [False, True])
def test_a_time_too_far_ahead_is_refused(call, host, check):
    before = values(host)
    answer = call(check=check, at=time.monotonic() + 700, knobs={"run": 0})
    assert "at most 600 s" in answer["msg"]
    assert values(host) == before


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"boot_id": "x"}',
        '{"boot_id": "x", "knobs": [1]}',
        '{"boot_id": 1, "knobs": {}}',
        '{"boot_id": "x", "knobs": {"run": null}}',
        "\udcff",
    ],
)
@pytest.mark.parametrize("state", ["set", "restored"])
def test_a_damaged_file_is_reported_and_nothing_changes(call, host, tmp_path, text, state):
    path = tmp_path / "knobs.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    before = values(host)
    answer = call(state=state, remember=str(path), knobs={"run": 0})
    assert answer["failed"]
    assert answer["msg"].startswith(f"{path} is damaged")
    assert values(host) == before
    assert path.exists()


def test_merged_pages_must_fit_into_the_available_memory_minus_a_margin():
    meminfo = {"MemTotal": 1000, "MemAvailable": 150}  # KiB: 50 are the margin, 100 remain
    assert knobs.shortfall({"pages_sharing": 20, "ksm_zero_pages": 5}, 4096, meminfo) is None
    text = knobs.shortfall({"pages_sharing": 20, "ksm_zero_pages": 6}, 4096, meminfo)
    assert "104 KiB" in text
    assert "100 KiB" in text
    assert knobs.shortfall({"pages_sharing": 25}, 4096, meminfo) is None


@pytest.mark.parametrize("params", [{"unmerge": True}, {"knobs": {"run": 2}}])
@pytest.mark.parametrize("check", [False, True])
def test_set_refuses_to_unmerge_more_than_fits(call, host, tmp_path, params, check):
    counters(host, pages_sharing=MORE_THAN_ANY_HOST)
    before = values(host)
    path = tmp_path / "knobs.json"
    answer = call(check=check, remember=str(path), **params)
    assert "KiB" in answer["msg"]
    assert values(host) == before
    assert not path.exists()


def test_set_refuses_a_knob_for_which_more_would_be_unmerged_than_fits(call, host):
    counters(host, pages_shared=1, pages_sharing=MORE_THAN_ANY_HOST)
    before = values(host)
    assert "KiB" in call(knobs={"max_page_sharing": 2})["msg"]
    assert values(host) == before


def test_restored_leaves_pages_merged_that_do_not_fit(call, host, tmp_path):
    counters(host, pages_sharing=MORE_THAN_ANY_HOST)
    path = save(tmp_path / "knobs.json", run=0, pages_to_scan=100, max_page_sharing=256)
    answer = call(state="restored", remember=path)
    assert answer["after"] == {"run": 0, "pages_to_scan": 100, "max_page_sharing": 256}
    assert "not unmerged" in json.dumps(answer["warnings"])
    assert not Path(path).exists()


def test_knobs_that_could_not_be_restored_stay_saved(call, host, tmp_path):
    counters(host, pages_shared=1, pages_sharing=MORE_THAN_ANY_HOST)
    path = save(tmp_path / "knobs.json", run=0, pages_to_scan=100, max_page_sharing=100)
    answer = call(state="restored", remember=path)
    assert answer["after"] == {"run": 0, "pages_to_scan": 100, "max_page_sharing": 256}
    assert "max_page_sharing" in json.dumps(answer["warnings"])
    assert Path(path).exists()


def test_restored_unmerges_what_fits(call, host, tmp_path):
    path = save(tmp_path / "knobs.json", run=0, pages_to_scan=100, max_page_sharing=256)
    answer = call(state="restored", remember=path)
    assert answer["after"]["run"] == 0
    assert "warnings" not in answer


# --- transparent huge pages -----------------------------------------------------------------------


@pytest.fixture
def huge_pages(tmp_path):
    """Make a directory like that of transparent huge pages."""
    directory = tmp_path / "transparent_hugepage"
    (directory / "khugepaged").mkdir(parents=True)
    (directory / "enabled").write_text("always [madvise] never\n")
    (directory / "khugepaged/max_ptes_none").write_text("511\n")
    (directory / "hpage_pmd_size").write_text("2097152\n")
    (directory / "hpage_pmd_size").chmod(0o444)
    return directory


def test_huge_pages_are_set_and_restored(call, huge_pages, tmp_path):
    place = {"directory": str(huge_pages), "remember": str(tmp_path / "saved.json")}
    asked = {"enabled": "never", "khugepaged/max_ptes_none": 0}
    done = call(knobs=asked, **place)
    assert done["changed"]
    assert done["before"] == {"enabled": "madvise", "khugepaged/max_ptes_none": 511}
    assert (huge_pages / "enabled").read_text() == "never"
    assert not call(knobs=asked, **place)["changed"]
    restored = call(state="restored", **place)
    assert restored["after"] == done["before"]
    assert (huge_pages / "enabled").read_text() == "madvise"
    assert not (tmp_path / "saved.json").exists()


def test_an_unknown_knob_of_huge_pages_is_refused(call, huge_pages):
    refused = call(directory=str(huge_pages), knobs={"enable": "never"})
    assert refused["msg"] == (
        "this kernel has no knob enable; it has: enabled, khugepaged/max_ptes_none"
    )
