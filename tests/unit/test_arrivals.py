"""Definitions of copies that come and go within a run, or are added until they do not fit."""

from __future__ import annotations

import sys

import pytest
from programs import ROLES, load

from ksm_analysis.definition import experiment
from ksm_analysis.errors import InputError

FILES = ROLES / "processes/files"
sys.path.insert(0, str(FILES))
launcher = load(FILES / "ksm_launcher.py")
PYTHON = "service: python, workers: 1"
SAMPLING = "sampling: {interval: 1, intervals: 60}\n"


def parts(text):
    """Return the parts of the first run, by name."""
    text = f"{text}\n{SAMPLING}"
    run = experiment.plan(experiment.parse(text, "file.yml"), "file.yml")["runs"][0]
    found = {part["name"]: part for part in run["parts"]}
    return found | {"factors": run["factors"], "guests": run["guests"]}


def test_one_after_the_other():
    found = parts(f"processes: {{count: 3, {PYTHON}, arrivals: {{every: 10}}, lifetimes: 15}}")
    options = found["processes"]["options"]
    assert options["arrivals"] == [0, 10, 20]
    assert options["lifetimes"] == [15, 15, 15]
    assert found["sampler"]["options"]["transient"] == found["processes"]["processes"]


def test_a_smaller_count_has_the_first_times():
    text = f"processes: {{count: [2, 3], {PYTHON}, arrivals: [0, 4, 8], lifetimes: [9, 8, 7]}}"
    options = parts(text)["processes"]["options"]
    assert options["arrivals"] == [0, 4]
    assert options["lifetimes"] == [9, 8]


def test_without_either_nothing_is_transient():
    found = parts(f"processes: {{count: 2, {PYTHON}}}")
    assert "transient" not in found["sampler"]["options"]
    assert found["processes"]["options"]["arrivals"] is None


def test_guests_that_come_later_are_only_defined_before_the_run():
    found = parts("guests: {count: 3, arrivals: {every: 20}, lifetimes: 30}")
    changes = found["arrivals"]["options"]["changes"]
    assert [(each["at"], each["guest"][-2:], each["arrives"]) for each in changes] == [
        (20, "02", True),
        (30, "01", False),
        (40, "03", True),
        (50, "02", False),  # the third leaves after the end
    ]
    assert found["arrivals"]["processes"] == ["ksm-guest-02", "ksm-guest-03"]
    assert found["guests"]["later"] == [2, 3]
    transient = found["sampler"]["options"]["transient"]
    assert sorted(transient) == ["ksm-guest-01", "ksm-guest-02", "ksm-guest-03"]


def test_guests_that_stay_need_no_part():
    found = parts("guests: {count: 3}")
    assert "arrivals" not in found
    assert "later" not in found["guests"]


def test_the_order_of_changes():
    assert launcher.changes([0, 10, 20], [15, 5, 100]) == [
        (10, True, 2),
        (15, False, 1),
        (15, False, 2),
        (20, True, 3),
        (120, False, 3),
    ]
    assert launcher.changes([0, 10], None) == [(10, True, 2)]


def test_density():
    text = f"processes: {{count: 1, {PYTHON}}}\ndensity: {{memory_mib: 200, limit: 100}}"
    found = parts(text)
    assert found["processes"]["options"]["density"]["memory_mib"] == 200
    names = found["processes"]["processes"]
    assert names[-1] == "process-100-w1"
    assert found["sampler"]["options"]["transient"] == names
    assert found["factors"]["workload"] == "python in 200 MiB"


def test_density_of_guests():
    found = parts("guests: {count: 2, memory_mib: 256}\ndensity: {memory_mib: 900, limit: 3}")
    names = ["ksm-guest-01", "ksm-guest-02", "ksm-guest-03"]
    assert found["density"]["options"]["guests"] == found["density"]["processes"] == names
    assert found["density"]["options"]["count"] == found["factors"]["guests"] == 2
    assert found["sampler"]["options"]["transient"] == names
    assert found["guests"]["count"] == 3
    assert found["guests"]["later"] == [1, 2, 3]  # the part starts also the first ones
    assert found["guests"]["partition"] == "/ksmtestbed"
    assert found["factors"]["workload"] == "guests of 256 MiB in 900 MiB"


ARRIVALS = f"processes: {{{{count: 2, {PYTHON}, {{}}}}}}".format
GUESTS = "guests: {{count: 2, {}}}".format
FITTING = "guests: {{{}}}\ndensity: {{memory_mib: 400, {}}}".format
DENSITY = f"processes: {{{{count: 1, {PYTHON}}}}}\ndensity: {{}}".format


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (ARRIVALS("arrivals: [0]"), "processes.arrivals: has 1 times for 2: it needs one for each"),
        (ARRIVALS("arrivals: [9, 0]"), "processes.arrivals: times must be in order"),
        (ARRIVALS("arrivals: {every: 60}"), "the last one comes at 60 s: this must be before 60 s"),
        (ARRIVALS("arrivals: [0, 99]"), "the last one comes at 99 s"),
        (ARRIVALS("arrivals: {every: 0}"), "every: must be a number of seconds from 1 to 86400"),
        (ARRIVALS("arrivals: 5"), "processes.arrivals: must be"),
        (ARRIVALS("arrivals: [-1, 3]"), "a number of seconds from 0 to"),
        (ARRIVALS("lifetimes: [1, 2, 3]"), "processes.lifetimes: has 3 times for 2"),
        (ARRIVALS("lifetimes: 0"), "a number of seconds from 1 to"),
        (ARRIVALS("lifetimes: 5") + "\ncensus: [end]", "census: cannot go with arrivals"),
        (ARRIVALS("lifetimes: 5") + "\nstop: steady", "stop: must be fixed with arrivals"),
        (DENSITY("{}"), "density.memory_mib: this key is required"),
        (DENSITY("{memory_mib: 4}"), "density.memory_mib: must be a whole number from 8"),
        (DENSITY("{memory_mib: 40, psi_full: 101}"), "must be a number from 0 to 100"),
        (DENSITY("{memory_mib: 40}") + "\ncensus: [end]", "census: cannot go with density"),
        (DENSITY("{memory_mib: 40}").replace("count: 1", "count: [1, 2]"), "needs one 'count'"),
        (DENSITY("{memory_mib: 40}").replace("count: 1", "count: 99"), "'limit' (99) must be more"),
        (
            DENSITY("{memory_mib: 40, storm: true}").replace(PYTHON, "service: redis"),
            "density: 'storm' is only for 'service: python'",
        ),
        (
            DENSITY("{memory_mib: 40}").replace(PYTHON, f"{PYTHON}, lifetimes: 3"),
            "density: cannot go with 'arrivals' and 'lifetimes'",
        ),
        (GUESTS("arrivals: [1, 2]"), "guests.arrivals: the first guest must be there"),
        (GUESTS("lifetimes: [1, 2, 3]"), "guests.lifetimes: has 3 times for 2"),
        (GUESTS("lifetimes: 5, balloon_mib: 256"), "guests.balloon_mib: cannot go with arrivals"),
        (GUESTS("lifetimes: 5") + "\ncensus: [end]", "census: cannot go with arrivals"),
        (
            GUESTS("lifetimes: 5") + "\nworkloads: [{name: a, command: ls}]",
            "workloads: guests with arrivals, lifetimes or a density can only be idle",
        ),
        (FITTING("count: [1, 2]", "limit: 9"), "needs one 'count' of guests"),
        (FITTING("count: 9", "limit: 9"), "'limit' (9) must be more than 'count' of guests (9)"),
        (FITTING("count: 1", "limit: 100"), "density.limit: must be at most 99 for guests"),
        (FITTING("count: 1", "storm: true"), "density: 'storm' is only for"),
        (FITTING("count: 1", "answer_p99_ms: 9"), "is only for a 'service'"),
        (FITTING("count: 1, lifetimes: 3", "limit: 9"), "density: cannot go with 'arrivals'"),
        (FITTING("count: 1, balloon_mib: 99", "limit: 9"), "density: cannot go with 'balloon_mib'"),
        (FITTING("count: 1, backing: hugepages", "limit: 9"), "which no budget counts"),
        (
            FITTING("count: 1, image: own", "limit: 9")
            + "\nimages: [{name: own, file: /own.qcow2, agent: false}]",
            "density: image 'own' has no agent to answer",
        ),
        (
            FITTING("count: 1", "limit: 9") + "\nworkloads: [{name: a, command: ls}]",
            "workloads: guests with arrivals, lifetimes or a density can only be idle",
        ),
    ],
)
def test_a_wrong_definition(text, words):
    with pytest.raises(InputError, match=r"^file\.yml:") as caught:
        parts(text)
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
