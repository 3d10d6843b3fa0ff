"""The service whose memory has known contents: definitions, contents, writes."""

from __future__ import annotations

import collections

import pytest
from programs import ROLES, load

from ksm_analysis.definition import experiment
from ksm_analysis.errors import InputError

contents = load(ROLES / "processes/files/ksm_contents.py")
ASKED = {"copy": 1, "data_mib": 4, "merge": "none", "huge_pages": False}
ASKED |= {"equal_percent": 50, "zero_percent": 10}
PAGES = 1024


def plan(processes, more=""):
    text = f"processes: {processes}\nsampling: {{interval: 1, intervals: 9}}\n{more}"
    return experiment.plan(experiment.parse(text, "file.yml"), "file.yml")["runs"]


def pages(memory):
    return [memory.memory[at : at + contents.PAGE] for at in range(0, 4 * 2**20, contents.PAGE)]


def made(copy=1, write_percent=0, rest_seconds=0, **asked):
    writes = {"write_percent": write_percent, "rest_seconds": rest_seconds}
    return contents.Contents({**ASKED, **writes, **asked, "copy": copy})


def test_the_plan_has_all_contents():
    (run,) = plan("{count: 2, service: memory, contents: {zero_percent: 20}}")
    options = run["parts"][0]["options"]
    written = {"write_percent": 0, "rest_seconds": 0, "huge_pages": False}
    assert options["contents"] == {"equal_percent": 50, "zero_percent": 20, **written}
    assert run["parts"][0]["processes"] == ["process-01", "process-02"]
    assert plan("{count: 2, service: memory}")[0]["parts"][0]["options"]["contents"]
    assert "contents" not in plan("{count: 2, service: redis}")[0]["parts"][0]["options"]


@pytest.mark.parametrize(
    ("processes", "words"),
    [
        ("contents: {equal_percent: 60, zero_percent: 50}", "must be at most 100 together"),
        ("contents: {write_percent: 10, rest_seconds: 10}", "must be at most 90"),
        ("data: same", "processes.data: goes with 'service', except for memory"),
        ("workers: 1", "processes.workers: goes with 'service: python'"),
    ],
)
def test_a_wrong_definition(processes, words):
    with pytest.raises(InputError, match=r"^file\.yml:") as caught:
        plan(f"{{count: 1, service: memory, {processes}}}")
    assert words in str(caught.value)


def test_contents_are_of_memory():
    with pytest.raises(InputError, match=r"processes\.contents: goes with 'service: memory'"):
        plan("{count: 1, service: redis, contents: {}}")
    with pytest.raises(InputError, match="answers no requests"):
        plan("{count: 1, service: memory}", "workloads: [{name: a, load: {rate: 1}}]")


def test_copies_have_equal_zero_and_unique_pages():
    first, second = (collections.Counter(pages(made(copy))) for copy in (1, 2))
    zeros = bytes(contents.PAGE)
    assert first.pop(zeros) == second.pop(zeros) == 102
    assert set(first.values()) == set(second.values()) == {1}
    assert len(first.keys() & second.keys()) == 512
    assert pages(made()) == pages(made())


def test_equal_pages_have_the_same_place_in_each_copy():
    first, second = pages(made(1)), pages(made(2))
    same = sum(one == other for one, other in zip(first, second, strict=True))
    assert same == 512 + 102


def changed(memory, before):
    return sum(one != other for one, other in zip(pages(memory), before, strict=True))


def test_pages_that_are_written_come_to_rest_later():
    memory = made(write_percent=5, rest_seconds=4)
    before = pages(memory)
    for seconds, passing in ((0, 0), (1, 51), (2, 102), (4, 204), (4.1, 204), (60, 204)):
        memory.write_until(seconds)
        assert changed(memory, before) == passing
    assert memory.written == int(60 * PAGES * 0.05)
    assert len(set(pages(memory))) >= len(set(before))


def test_a_page_without_rest_has_its_content_at_once():
    memory = made(write_percent=50)
    before = pages(memory)
    memory.write_until(2)
    assert memory.written == PAGES
    assert changed(memory, before) == 0
