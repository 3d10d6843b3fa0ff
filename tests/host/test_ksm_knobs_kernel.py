"""The module ksm_knobs with the real kernel."""

import json
import mmap
import time
from pathlib import Path

import pytest
from machine import KSM, Playbook, knobs

pytestmark = pytest.mark.host


@pytest.fixture
def remember(tmp_path, module):
    """Return a file for saved knobs, and always restore them."""
    path = tmp_path / "knobs.json"
    before = knobs()
    yield path
    module("ksm_knobs", {"state": "restored", "remember": str(path)})
    assert knobs() == before


@pytest.fixture
def merged_memory():
    """Hold 200 identical mergeable pages."""
    with mmap.mmap(-1, 200 * mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_MERGEABLE)
        memory.write(b"k" * len(memory))
        yield


def pages_shared() -> int:
    return int((KSM / "pages_shared").read_text())


def wait_until_shared() -> None:
    deadline = time.monotonic() + 30
    while pages_shared() == 0:
        assert time.monotonic() < deadline, "ksmd has merged nothing"
        time.sleep(0.1)


def test_sets_and_restores(module, remember):
    asked = {"knobs": {"pages_to_scan": 777, "sleep_millisecs": 11}, "remember": str(remember)}
    first = module("ksm_knobs", asked)
    assert first["changed"]
    assert knobs()["pages_to_scan"] == "777\n"
    assert not module("ksm_knobs", asked)["changed"]
    restored = module("ksm_knobs", {"state": "restored", "remember": str(remember)})
    assert restored["changed"]
    assert restored["after"] == first["before"]
    assert not remember.exists()
    again = module("ksm_knobs", {"state": "restored", "remember": str(remember)})
    assert not again["changed"]


def test_the_first_change_is_saved(module, remember):
    found = module("ksm_knobs", {"knobs": {"pages_to_scan": 777}, "remember": str(remember)})
    module("ksm_knobs", {"knobs": {"pages_to_scan": 888}, "remember": str(remember)})
    restored = module("ksm_knobs", {"state": "restored", "remember": str(remember)})
    assert restored["after"] == found["before"]


def test_check_mode_predicts_the_change_and_changes_nothing(module, remember):
    before = knobs()
    asked = {"knobs": {"pages_to_scan": 777}, "remember": str(remember)}
    checked = module("ksm_knobs", asked, check=True)
    assert checked["changed"]
    assert checked["after"]["pages_to_scan"] == 777
    assert knobs() == before
    assert not remember.exists()


def test_refuses_an_unknown_knob_with_the_list(module):
    before = knobs()
    refused = module("ksm_knobs", {"knobs": {"pages_to_skan": 1, "run": 1}})
    assert "pages_to_skan" in refused["msg"]
    assert "pages_to_scan" in refused["msg"].partition("it has:")[2]
    assert knobs() == before


def test_reports_what_the_kernel_refuses(module, remember):
    refused = module("ksm_knobs", {"knobs": {"run": 7}, "remember": str(remember)})
    assert "run=7" in refused["msg"]
    assert "does not allow" in refused["msg"]


def test_max_page_sharing_changes_while_pages_are_shared(module, remember, merged_memory):
    scan = {"run": 1, "pages_to_scan": 5000, "smart_scan": 0}
    module("ksm_knobs", {"knobs": scan, "remember": str(remember)})
    wait_until_shared()
    done = module("ksm_knobs", {"knobs": {"max_page_sharing": 16}, "remember": str(remember)})
    assert done["after"]["max_page_sharing"] == 16
    assert done["after"]["run"] == 1, "ksmd continues after the unmerging that the change needs"


def test_unmerges_and_waits(module, remember, merged_memory):
    scan = {"run": 1, "pages_to_scan": 5000, "smart_scan": 0}
    module("ksm_knobs", {"knobs": scan, "remember": str(remember)})
    wait_until_shared()
    done = module("ksm_knobs", {"knobs": {"run": 0}, "unmerge": True, "remember": str(remember)})
    assert done["changed"]
    assert pages_shared() == 0


@pytest.mark.skipif(not (KSM / "advisor_mode").exists(), reason="no advisor before Linux 6.8")
def test_the_advisor_is_turned_off_and_on_around_pages_to_scan(module, remember):
    advised = {"knobs": {"advisor_mode": "scan-time"}, "remember": str(remember)}
    assert module("ksm_knobs", advised)["after"]["advisor_mode"] == "scan-time"
    refused = module("ksm_knobs", {"knobs": {"pages_to_scan": 777}, "remember": str(remember)})
    assert "advisor_mode: none" in refused["msg"]
    both = {"knobs": {"advisor_mode": "none", "pages_to_scan": 777}, "remember": str(remember)}
    assert module("ksm_knobs", both)["after"]["pages_to_scan"] == 777


@pytest.mark.skipif(not (KSM / "advisor_mode").exists(), reason="no advisor before Linux 6.8")
def test_a_change_of_pages_to_scan_by_the_advisor_is_undone(module, remember, tmp_path):
    set_first = {"knobs": {"pages_to_scan": 500}, "remember": str(remember)}
    module("ksm_knobs", set_first)
    inner = str(tmp_path / "inner.json")
    module("ksm_knobs", {"knobs": {"advisor_mode": "scan-time"}, "remember": inner})
    restored = module("ksm_knobs", {"state": "restored", "remember": inner})
    assert restored["after"]["advisor_mode"] == "none"
    assert restored["after"]["pages_to_scan"] == 500


THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")
ROLE = """
- hosts: ksm_hosts
  gather_facts: false
  tasks:
    - ansible.builtin.include_role: {name: ksm.testbed.ksm, tasks_from: %s}
"""


@pytest.mark.skipif(not THP.exists(), reason="this kernel has no transparent huge pages")
def test_huge_pages_are_restored_even_if_the_knobs_cannot_be(tmp_path):
    found = THP.read_text()
    asked = "always" if "[never]" in found else "never"
    saved = {name: str(tmp_path / f"{name}.json") for name in ("knobs", "huge_pages")}
    variables = {"ksm_remember": saved["knobs"], "ksm_thp_remember": saved["huge_pages"]}

    def play(entry: str, **more: object) -> Playbook:
        (tmp_path / "play.yml").write_text(ROLE % entry)
        extra = json.dumps({**variables, **more})
        done = Playbook(str(tmp_path / "play.yml"), "-e", extra, log=tmp_path / f"{entry}.log")
        done.wait()
        return done

    try:
        assert play("huge_pages", ksm_thp={"enabled": asked}).process.returncode == 0
        assert f"[{asked}]" in THP.read_text()
        Path(saved["knobs"]).write_text("damaged")
        refused = play("restore")
        assert refused.process.returncode != 0
        assert "knobs.json is damaged" in refused.output
        assert THP.read_text() == found
        assert not Path(saved["huge_pages"]).exists()
    finally:
        THP.write_text(found[found.index("[") + 1 : found.index("]")])
