"""Plans from definitions, and messages about wrong definitions."""

import itertools
import json
import re
from collections import Counter
from pathlib import Path

import jsonschema
import pytest
import yaml

from ksm_analysis.definition import definition, experiment, yaml_errors
from ksm_analysis.errors import InputError

ROOT = Path(__file__).parents[2]
DEFINITION = """\
note: Two of everything.
guests:
  count: [1, 12]
knobs:
  - {pages_to_scan: 100, smart_scan: 0, advisor_mode: none}
  - {pages_to_scan: 1000, smart_scan: 0}
knobs_if_present: {use_zero_pages: 0}
workloads:
  - idle
  - name: stress
    stress_ng: {vm: 2, vm_bytes: 64M, vm_keep: true, vm_locked: false}
    active: first-half
sampling:
  interval: 3
  intervals: 15
repetitions: 2
"""
SHORT = "guests: {count: 1}\nsampling: {interval: 1, intervals: 4}\n"
FIVE = "guests: {count: 5}\nsampling: {interval: 1, intervals: 40}\n"
ARRAYS = "sampling: {interval: 1, intervals: 40}\nworkloads: [{name: s, arrays: single}]\n"
EXPERIMENTS = sorted((ROOT / "experiments").glob("*.yml"))


def plan(text, file="experiments/two.yml", **options):
    return experiment.plan(experiment.parse(text, file, **options), file)


def errors(text, **options):
    with pytest.raises(InputError) as caught:
        experiment.parse(text, "file.yml", **options)
    return str(caught.value).splitlines()


def test_every_cell_is_run_once_a_repetition():
    runs = plan(DEFINITION)["runs"]

    assert [run["index"] for run in runs] == list(range(1, 17))
    assert [run["id"] for run in runs[:5]] == [
        "g01-k1-idle-r1",
        "g01-k1-stress-r1",
        "g01-k2-idle-r1",
        "g01-k2-stress-r1",
        "g12-k1-idle-r1",
    ]
    assert len({run["id"] for run in runs}) == 16
    assert [run["factors"]["repetition"] for run in runs] == [1] * 8 + [2] * 8


def options(run, part):
    """Return the options of a part of a planned run; None if the run does not have the part."""
    return next((each["options"] for each in run["parts"] if each["name"] == part), None)


def tasks(run):
    """Return the tasks of the guests of a planned run."""
    return (options(run, "workload") or {"tasks": []})["tasks"]


def test_a_run_matches_the_contract():
    run = plan(DEFINITION)["runs"][3]

    assert run == {
        "id": "g01-k2-stress-r1",
        "index": 4,
        "factors": {
            "guests": 1,
            "knobs": "pages_to_scan=1000, advisor_mode as found",
            "workload": "stress",
            "repetition": 1,
        },
        "guests": {
            "count": 1,
            "memory_mib": 512,
            "disk_gib": 4,
            "vcpus": 1,
            "network": None,
            "nosharepages": [],
        },
        "knobs": {"run": 1, "pages_to_scan": 1000, "smart_scan": 0},
        "knobs_if_present": {"use_zero_pages": 0},
        "thp": {},
        "workload": {"name": "stress"},
        "sampling": {
            "interval": 3.0,
            "intervals": 15,
            "period": 0.25,
            "samples": 181,
            "seconds": 45.0,
        },
        "parts": [
            {
                "name": "sampler",
                "role": "ksm.testbed.part_sampler",
                "options": {"period": 0.25, "samples": 181, "steady": {}},
            },
            {
                "name": "workload",
                "role": "ksm.testbed.part_workload",
                "options": {
                    "tasks": [
                        {
                            "guests": [1],
                            "stress_ng": {"vm": 2, "vm_bytes": "64M", "vm_keep": True},
                            "start": 0.0,
                            "stop": 22.5,
                        }
                    ]
                },
            },
        ],
        "note": "Two of everything.",
        "seconds": experiment.RUN_SECONDS + experiment.GUEST_SECONDS + 45.0,
    }


def test_the_time_of_a_plan_is_that_of_its_runs():
    planned = plan(DEFINITION)

    assert planned["seconds"] == sum(run["seconds"] for run in planned["runs"])
    assert planned["experiment"] == "two"
    assert planned["order"] == "balanced"


def test_the_only_setting_is_named_in_full():
    runs = plan(SHORT + "knobs: [{run: 0, sleep_millisecs: 5}]")["runs"]

    assert runs[0]["factors"]["knobs"] == "run=0, sleep_millisecs=5"
    assert runs[0]["knobs"] == {"run": 0, "sleep_millisecs": 5}


def test_defaults_are_one_idle_run_with_ksmd_on():
    (run,) = plan(SHORT)["runs"]

    assert run["workload"] == {"name": "idle"}
    assert [part["name"] for part in run["parts"]] == ["sampler"]
    assert run["knobs"] == {"run": 1}
    assert run["knobs_if_present"] == {}
    assert "steady" not in run["sampling"]


@pytest.mark.parametrize(
    ("network", "planned"),
    [("none", None), ("user", "user"), ("{network: default}", "default")],
)
def test_networks(network, planned):
    text = f"guests: {{count: 1, network: {network}}}\nsampling: {{interval: 1, intervals: 4}}"

    assert plan(text)["runs"][0]["guests"]["network"] == planned


def work(workload, count=5, more=""):
    """Plan one workload for some guests."""
    text = FIVE.replace("5", str(count)) + f"workloads: [{workload}]\n{more}"
    return plan(text)["runs"][0]


def test_a_window_in_seconds():
    run = work("{name: s, stress_ng: {vm: 1}, active: {from: 1.5, to: 4}}", count=2)

    assert tasks(run) == [{"guests": [1, 2], "stress_ng": {"vm": 1}, "start": 1.5, "stop": 4.0}]


def test_the_end_of_a_run_is_within_it_however_it_is_rounded():
    text = "guests: {count: 1}\nsampling: {interval: 0.7, intervals: 3, period: 0.1}\n"
    text += "workloads: [{name: s, stress_ng: {vm: 1}, active: {from: 0, to: 2.1}}]"

    assert plan(text)["runs"][0]["sampling"]["seconds"] == 2.1


@pytest.mark.parametrize(
    ("command", "argv"),
    [
        ("cd /tmp && ls", ["/bin/sh", "-c", "cd /tmp && ls"]),
        ("[/bin/sleep, '5']", ["/bin/sleep", "5"]),
    ],
)
def test_commands(command, argv):
    run = work(f"{{name: s, command: {command}, active: first-half}}", count=1)

    assert tasks(run) == [{"guests": [1], "command": argv, "start": 0.0, "stop": 20.0}]


MIXED = "{name: m, mixed: [{command: [/bin/a]}, idle, {stress_ng: {vm: 1}, active: first-half}]}"


def test_mixed_parts_go_around_the_guests():
    assert tasks(work(MIXED)) == [
        {"guests": [1, 4], "command": ["/bin/a"], "start": 0.0, "stop": 40.0},
        {"guests": [3], "stress_ng": {"vm": 1}, "start": 0.0, "stop": 20.0},
    ]
    assert [part["guests"] for part in tasks(work(MIXED, count=2))] == [[1]]


def test_equal_parts_are_one():
    run = work("{name: m, mixed: [{command: /x}, {command: /y}, {command: /x}]}")

    assert [part["guests"] for part in tasks(run)] == [[1, 3, 4], [2, 5]]


@pytest.mark.parametrize(
    ("given", "planned"), [("all", [1, 2, 3, 4, 5]), ("[7, 3, 1]", [1, 3]), ("[6]", [])]
)
def test_guests_whose_memory_is_not_merged(given, planned):
    idle = work(f"{{name: s, nosharepages: {given}}}")
    mixed = work(MIXED[:-1] + f", nosharepages: {given}}}")

    assert idle["guests"]["nosharepages"] == planned
    assert tasks(idle) == []
    assert mixed["guests"]["nosharepages"] == planned
    assert len(tasks(mixed)) == 2


def test_arrays_take_no_guests():
    (run,) = plan(ARRAYS)["runs"]

    assert run["id"] == "g00-k1-s-r1"
    assert run["factors"]["guests"] == 0
    assert run["guests"] == {
        "count": 0,
        "memory_mib": 0,
        "disk_gib": 0,
        "vcpus": 0,
        "network": None,
        "nosharepages": [],
    }
    assert [part["name"] for part in run["parts"]] == ["arrays", "sampler"], (
        "what is sampled is first"
    )
    told = {"change": "single", "ints": 1_000_000, "second": 10.0, "changed": 20.0}
    assert options(run, "arrays") == told
    assert run["parts"][0]["processes"] == ["arrays"]
    assert run["seconds"] == experiment.RUN_SECONDS + 40


def test_memory_is_written_before_the_run():
    text = ARRAYS.replace("arrays: single", "memory: {mib: 8, huge_pages: true}")
    (run,) = plan(text + "census: [start, end]\n")["runs"]
    first, sampler, census = run["parts"]
    told = {"mib": 8, "zero_percent": 50.0, "equal_percent": 12.5, "huge_pages": True}
    assert (first["name"], first["options"]) == ("memory", told)
    assert first["processes"] == ["memory"]
    assert [part.get("prepare", False) for part in run["parts"]] == [True, False, True]
    assert sampler["name"] == "sampler"
    assert census["options"]["start"]


def test_the_probe_is_sampled():
    text = ARRAYS.replace("arrays: single", "write_probe: {ksmd: other, stop_ksmd: 20}")
    (run,) = plan(text)["runs"]
    first, sampler = run["parts"]
    told = {"mib": 64, "equal": True, "rate": 300.0, "ksmd": "other", "stop_ksmd": 20, "seed": 0}
    assert (first["name"], first["options"]) == ("write_probe", told)
    assert first["processes"] == ["write_probe"]
    assert sampler["name"] == "sampler"


def test_each_setting_of_huge_pages_is_combined_with_each_of_the_knobs():
    thp = "thp: [{enabled: always}, {enabled: never, khugepaged/max_ptes_none: 0}]\n"
    runs = plan(SHORT + thp + "knobs: [{use_zero_pages: 0}, {use_zero_pages: 1}]\n")["runs"]
    found = [(run["id"], run["knobs"]["use_zero_pages"], run["thp"]) for run in runs]
    never = {"enabled": "never", "khugepaged/max_ptes_none": 0}
    assert found == [
        ("g01-k1-idle-r1", 0, {"enabled": "always"}),
        ("g01-k2-idle-r1", 0, never),
        ("g01-k3-idle-r1", 1, {"enabled": "always"}),
        ("g01-k4-idle-r1", 1, never),
    ]
    assert runs[0]["factors"]["knobs"] == (
        "use_zero_pages=0, thp enabled=always, thp khugepaged/max_ptes_none as found"
    )


def test_each_combination_of_what_guests_are_made_of_is_a_cell():
    made_of = "guests: {count: 2, vcpus: [1, 2], backing: [anonymous, shared]}\n"
    runs = plan(made_of + "sampling: {interval: 1, intervals: 40}\nknobs: [{run: 0}, {run: 1}]")[
        "runs"
    ]
    assert [run["id"] for run in runs] == [
        f"g02-v{variant}-k{setting}-idle-r1" for variant in (1, 2, 3, 4) for setting in (1, 2)
    ]
    assert runs[7]["factors"]["workload"] == "idle, vcpus=2, backing=shared"
    assert runs[7]["factors"]["knobs"] == "run=1"
    assert (runs[7]["guests"]["vcpus"], runs[7]["guests"]["backing"]) == (2, "shared")
    assert "backing" not in runs[0]["guests"], "plans of before are the same"
    assert [run["id"] for run in runs if "notes" in run] == [
        run["id"] for run in runs if run["guests"].get("backing") == "shared"
    ]


@pytest.mark.parametrize(
    ("guests", "workload", "note"),
    [
        ("backing: hugepages", "idle", "it is in huge pages of hugetlbfs"),
        ("backing: shared", "idle", "it is shared memory"),
        ("memory_mib: 64", "{name: n, nosharepages: all}", "nosharepages"),
    ],
)
def test_a_plan_says_what_cannot_merge(guests, workload, note):
    text = f"guests: {{count: 2, {guests}}}\nworkloads: [{workload}]\n"
    (run,) = plan(text + "sampling: {interval: 1, intervals: 4}")["runs"]
    (said,) = run["notes"]
    assert said.endswith(note)
    assert run["id"].startswith("g02-k1-"), "a single combination has no number"


def test_swap_space_is_part_of_the_setting():
    runs = plan(SHORT + "swap: [as-found, none, {zram_mib: 64}]\nknobs: [{run: 0}, {run: 1}]")[
        "runs"
    ]
    assert [run.get("swap", "as found") for run in runs] == ["as found", "none", 64] * 2
    assert [run["factors"]["knobs"] for run in runs[3:]] == [
        "run=1, swap as found",
        "run=1, swap=none",
        "run=1, swap=zram 64 MiB",
    ]
    assert [run["id"] for run in runs] == [f"g01-k{n}-idle-r1" for n in range(1, 7)]


IMAGES = """\
images:
  - {name: web, packages: [nginx-light]}
  - {name: own, file: /srv/own.qcow2, agent: false, ready_seconds: 5}
guests: {count: 2, image: [base, web, [base, own]]}
sampling: {interval: 1, intervals: 4}
"""


def test_guests_boot_from_an_image_or_from_several_in_turn():
    runs = plan(IMAGES)["runs"]
    labels = ["idle, image=base", "idle, image=web", "idle, image=base+own"]
    assert [run["factors"]["workload"] for run in runs] == labels
    assert "image" not in runs[0]["guests"], "the base image needs no definition"
    assert runs[1]["guests"]["images"] == [{"name": "web", "packages": ["nginx-light"]}]
    own = {"name": "own", "file": "/srv/own.qcow2", "agent": False, "ready_seconds": 5.0}
    assert runs[2]["guests"]["images"] == [{"name": "base"}, own]
    assert runs[2]["workload"] == {"name": "idle"}


def test_what_a_workload_requires_is_planned():
    run = work("{name: s, command: redis-server, requires: [redis-server]}")
    assert run["workload"] == {"name": "s", "requires": ["redis-server"]}


def wrong_image(right, wrong):
    return IMAGES.replace(right, wrong)


def test_arrays_in_full():
    mapping = "{change: half-distinct, ints: 5000, second: 1, changed: 2.5}"
    (run,) = plan(ARRAYS.replace("single", mapping))["runs"]

    assert options(run, "arrays") == {
        "change": "half-distinct",
        "ints": 5000,
        "second": 1.0,
        "changed": 2.5,
    }


# --- order ----------------------------------------------------------------------------------------


def ordered(order):
    text = DEFINITION.replace("repetitions: 2", f"repetitions: 3\norder: {order}")
    planned = plan(text)
    assert [run["index"] for run in planned["runs"]] == list(range(1, 25))
    assert len({run["id"] for run in planned["runs"]}) == 24
    return planned["order"], [tuple(run["id"].rsplit("-r", 1)) for run in planned["runs"]]


def test_as_written_is_each_cell_with_all_its_repetitions():
    words, runs = ordered("as-written")

    assert words == "as-written"
    assert [repetition for _, repetition in runs] == ["1", "2", "3"] * 8
    assert [cell for cell, _ in runs[::3]] == [cell for cell, _ in ordered("interleaved")[1][:8]]


def test_by_default_orders_are_balanced():
    words, runs = ordered("balanced")
    cells = [cell for cell, _ in runs]

    assert words == "balanced"
    assert runs[:8] == ordered("interleaved")[1][:8]
    assert cells[8:16] == cells[:8][::-1]
    assert len(set(map(tuple, (cells[:8], cells[8:16], cells[16:])))) == 3
    assert [repetition for _, repetition in runs] == ["1"] * 8 + ["2"] * 8 + ["3"] * 8
    text = DEFINITION.replace("repetitions: 2", "repetitions: 3")
    assert [run["id"] for run in plan(text)["runs"]] == [f"{c}-r{r}" for c, r in runs]


@pytest.mark.parametrize("count", range(1, 10))
def test_balanced_orders_have_each_cell_everywhere_and_after_each_other(count):
    rows = experiment.williams(count)
    places = Counter((place, cell) for row in rows for place, cell in enumerate(row))
    followers = Counter(both for row in rows for both in itertools.pairwise(row))

    assert rows[0] == list(range(count))
    assert all(sorted(row) == rows[0] for row in rows)
    assert len(rows) == (count if count % 2 == 0 or count == 1 else 2 * count)
    assert len(places) == count**2
    assert len(set(places.values())) == 1
    assert len(followers) == count * (count - 1)
    assert len(set(followers.values())) <= 1
    for row, reverse in zip(rows[::2], rows[1::2], strict=False):
        assert reverse == row[::-1]


def test_more_repetitions_than_balanced_orders_go_round():
    text = SHORT + "knobs: [{pages_to_scan: 1}, {pages_to_scan: 2}]\nrepetitions: 5"

    assert [run["id"][4:6] for run in plan(text)["runs"]] == (
        ["k1", "k2", "k2", "k1", "k1", "k2", "k2", "k1", "k1", "k2"]
    )


# --- control --------------------------------------------------------------------------------------


def test_a_control_is_the_first_setting_once_more_as_a_cell_of_its_own():
    text = SHORT + "knobs: [{pages_to_scan: 1}, {pages_to_scan: 2}]\ncontrol: true\nrepetitions: 2"
    runs = plan(text)["runs"]
    (first, *_), (control, other) = (
        [run for run in runs if marked == run.get("control", False)] for marked in (False, True)
    )

    assert len(runs) == 6
    assert (control["id"], other["id"]) == ("g01-control-idle-r1", "g01-control-idle-r2")
    assert control["factors"]["knobs"] == "pages_to_scan=1, control"
    assert control["knobs"] == first["knobs"]
    differ = {key for key in control if control[key] != first.get(key)}
    assert differ == {"id", "index", "factors", "control"}


def test_there_is_no_control_unless_asked_for():
    assert "control" not in plan(SHORT)["runs"][0]
    (one,) = (run for run in plan(SHORT + "control: true")["runs"] if "control" in run)
    assert one["factors"]["knobs"] == "run=1, control"
    assert errors(SHORT + "control: 3") == ["file.yml:3: control: must be true or false, not 3"]


@pytest.mark.parametrize("order", ["shuffled", "shuffled(0)", "{shuffled: 0}"])
def test_shuffled_is_the_same_for_a_seed(order):
    words, runs = ordered(order)

    assert words == "shuffled(0)"
    assert runs == ordered("shuffled")[1]
    assert runs != ordered("{shuffled: 1}")[1]
    assert [repetition for _, repetition in runs] == ["1"] * 8 + ["2"] * 8 + ["3"] * 8
    orders = [[cell for cell, _ in runs[start : start + 8]] for start in (0, 8, 16)]
    assert all(one != other for one, other in itertools.combinations(orders, 2))
    assert len({tuple(sorted(order)) for order in orders}) == 1


def test_a_seed_always_gives_the_same_order():
    """Otherwise, a continued experiment would change its order after a new release."""
    first = ["g12-k1-stress", "g01-k1-stress", "g01-k2-stress", "g01-k1-idle"]

    assert [cell for cell, _ in ordered("shuffled(7)")[1][:4]] == first


# --- stop -----------------------------------------------------------------------------------------


def steady(workload, stop="{steady: {seconds: 10}}", knobs="[{run: 1}]"):
    more = f"stop: {stop}\nknobs: {knobs}"
    return work(workload, more=more)["sampling"].get("steady")


def test_steady_by_default_and_in_full():
    minute = SHORT.replace("4", "60") + "stop: steady"
    full = "{steady: {scans: 5, seconds: 20, percent: 0.5}}"

    assert plan(minute)["runs"][0]["sampling"]["steady"] == {
        "scans": 3,
        "seconds": 60.0,
        "percent": 1.0,
        "after": 0.0,
    }
    assert steady("idle", full) == {"scans": 5, "seconds": 20.0, "percent": 0.5, "after": 0.0}
    assert steady("idle", "fixed") is None


@pytest.mark.parametrize(
    ("workload", "after"),
    [
        ("{name: s, command: x}", 0.0),
        ("{name: s, command: x, active: first-half}", 20.0),
        ("{name: s, mixed: [{command: x, active: {from: 1, to: 9}}, {command: x}, idle]}", 9.0),
    ],
)
def test_steady_is_checked_after_workloads_that_end_early(workload, after):
    assert steady(workload)["after"] == after


def test_steady_is_checked_after_the_arrays_have_changed():
    (run,) = plan(ARRAYS + "stop: {steady: {seconds: 20}}")["runs"]

    assert run["sampling"]["steady"]["after"] == 20.0


def test_without_scans_there_is_nothing_to_wait_for():
    assert steady("idle", knobs="[{run: 0}]") is None


# --- census ---------------------------------------------------------------------------------------


def test_no_census_unless_it_is_asked_for():
    assert all(options(run, "census") is None for run in plan(DEFINITION)["runs"])


@pytest.mark.parametrize(
    ("given", "planned"),
    [
        ("[end]", {"end": True}),
        ("[end, every: 60]", {"end": True, "every": 60.0}),
        ("[start, end]", {"start": True, "end": True}),
        ("[at-scan-boundary]", {"at_scan_boundary": True}),
        ("{moments: [every: 10], pause: true}", {"every": 10.0, "pause": True}),
        ("{moments: [every: 10], trace: true}", {"every": 10.0, "trace": True}),
    ],
)
def test_moments_of_a_census(given, planned):
    (run,) = plan(SHORT.replace("4", "60") + f"census: {given}")["runs"]
    nothing = {"start": False, "end": False, "at_scan_boundary": False, "every": 0, "pause": False}

    assert options(run, "census") == nothing | planned


# --- options of the command line ------------------------------------------------------------------


def test_options_override_the_file():
    sampling = plan(DEFINITION, interval=2, intervals=30)["runs"][1]["sampling"]

    assert (sampling["interval"], sampling["intervals"], sampling["samples"]) == (2, 30, 241)
    assert tasks(plan(DEFINITION, intervals=2)["runs"][1])[0]["stop"] == 3.0
    assert plan("guests: {count: 1}\nsampling: {interval: x, intervals: 2}", interval=3)["runs"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"interval": float("nan")}, "--interval: must be a number of seconds from 0.01 to 86400"),
        ({"interval": 0.3}, "--interval: must be a whole multiple of 'period' (0.25 s), not 0.3 s"),
        ({"interval": 0.1}, "--interval: must be a whole multiple of 'period' (0.25 s), not 0.1 s"),
        ({"intervals": 0}, "--intervals: must be a whole number from 1 to 100000, not 0"),
        ({"interval": 86400, "intervals": 9}, "--interval, --intervals: 3110401 samples a run"),
        (
            {"interval": 1, "intervals": 2},
            "file.yml:3: workloads[].active: 'to' must be at most 2 s, the length of a run's"
            " sampling with --interval and --intervals",
        ),
    ],
)
def test_errors_in_options_refer_to_the_options(options, words):
    text = SHORT + "workloads: [{name: s, command: x, active: {from: 1, to: 4}}]"
    (found,) = errors(text, **options)

    assert found.startswith(words)


def test_errors_in_the_file_refer_to_the_file():
    text = "guests: {count: 1}\nsampling: {intervals: x}"

    assert errors(text, interval=3)[0].startswith("file.yml:2: sampling.intervals: must be")
    assert errors("guests: {count: 1}", interval=3) == [
        "file.yml:1: sampling: this key is required"
    ]


# --- experiments of the project -------------------------------------------------------------------


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda path: path.stem)
def test_experiments_of_the_project_are_valid(file):
    assert plan(file.read_text(), str(file))["runs"]
    assert file.read_text().startswith("# yaml-language-server: $schema=experiment.schema.json\n")


STRESS = {"vm": 2, "vm_madvise": "unmergeable"}
MERGEABLE = {"vm": 2, "vm_madvise": "mergeable"}


@pytest.mark.parametrize(
    ("number", "counts", "rate", "stress_ng"),
    [
        (1, [1, 2, 3], 1000, None),
        (2, [1, 2, 3], 10000, None),
        (3, [1, 2, 3], 1000, STRESS),
        (4, [1, 2, 3], 10000, STRESS),
        (5, [1, 2, 3], 1000, MERGEABLE),
        (6, [1, 2, 3], 1000, MERGEABLE | {"vm_hang": 10}),
        (7, [1, 2, 3], 10000, MERGEABLE),
        (8, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 1000, None),
    ],
)
def test_experiments_of_the_original(number, counts, rate, stress_ng):
    file = ROOT / f"experiments/original-{number}.yml"
    planned = plan(file.read_text(), str(file))

    assert planned["note"]
    assert [run["guests"]["count"] for run in planned["runs"]] == counts
    for run in planned["runs"]:
        guests = range(1, run["guests"]["count"] + 1)
        part = {"guests": [*guests], "stress_ng": stress_ng, "start": 0.0, "stop": 900.0}
        assert run["guests"] == {
            "count": len(guests),
            "memory_mib": 512,
            "disk_gib": 4,
            "vcpus": 1,
            "network": None,
            "nosharepages": [],
        }
        assert run["knobs"] == {"run": 1, "pages_to_scan": rate, "sleep_millisecs": 20}
        assert run["knobs_if_present"] == {"smart_scan": 0}
        assert run["workload"] == {"name": "stress" if stress_ng else "idle"}
        assert tasks(run) == ([part] if stress_ng else [])
        sampling = run["sampling"]
        assert (sampling["interval"], sampling["intervals"], sampling["period"]) == (60, 30, 1)
        assert "steady" not in sampling


@pytest.mark.parametrize("number", range(1, 9))
def test_experiments_of_the_original_can_be_shortened(number):
    file = ROOT / f"experiments/original-{number}.yml"

    assert plan(file.read_text(), str(file), interval=2, intervals=30)["runs"]


# --- the JSON Schema ------------------------------------------------------------------------------

SCHEMA = json.loads((ROOT / "experiments/experiment.schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
EVERY_FORM = [
    DEFINITION,
    SHORT,
    FIVE + f"workloads: [{MIXED}, {{name: a, nosharepages: all}}, {{name: b, nosharepages: [1]}}]",
    FIVE + "workloads: [{name: a, command: x}, {name: b, command: [/x, '1']}, {name: idle}]",
    FIVE + "workloads: [{name: a, command: x, active: {from: 1, to: 2.5}}]",
    FIVE + "workloads: [{name: a, stress_ng: {vm: 1, vm_bytes: 50%}, nosharepages: all}]",
    FIVE + "workloads: [{name: a, stress_ng: {vm: 1, vm_bytes: 8192, vm_method: all}}]",
    ARRAYS,
    ARRAYS.replace("single", "{change: half-same, ints: 2}"),
    *(FIVE + f"order: {order}" for order in ("as-written", "shuffled", "shuffled(3)")),
    FIVE + "order: {shuffled: 3}",
    *(SHORT.replace("4", "60") + f"stop: {stop}" for stop in ("fixed", "steady", "{steady: {}}")),
    FIVE + "stop: {steady: {scans: 9, seconds: 1.5, percent: 0}}",
    FIVE + "census: [end, every: 2.5, at-scan-boundary]",
    FIVE + "census: {moments: [end], pause: true}",
    SHORT.replace("1}", "1, network: user}"),
    SHORT.replace("1}", "[1, 99], network: {network: default}}"),
]


def test_the_schema_is_up_to_date_and_valid():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert definition.json_schema() == SCHEMA


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda path: path.stem)
def test_the_schema_accepts_the_experiments_of_the_project(file):
    VALIDATOR.validate(yaml.safe_load(file.read_text()))


@pytest.mark.parametrize("text", EVERY_FORM)
def test_the_schema_accepts_valid_definitions(text):
    assert plan(text)["runs"]
    VALIDATOR.validate(yaml.safe_load(text))


@pytest.mark.parametrize(
    "wrong",
    [
        "gests: 1",
        "order: shuffeld",
        "order: shuffled(x)",
        "stop: {steady: {scnas: 3}}",
        "stop: {steady: {scans: 2}}",
        "knobs: [{run: [1]}]",
        "knobs: [{../run: 1}]",
        "workloads: [{name: Stress, command: x}]",
        "workloads: [{name: s, command: x, stress_ng: {vm: 1}}]",
        "workloads: [{name: s, command: [ls]}]",
        "workloads: [{name: s, command: []}]",
        "workloads: [{name: s, mixed: []}]",
        "workloads: [{name: s, mixed: [{active: whole}]}]",
        "workloads: [{name: s, nosharepages: [0]}]",
        "workloads: [{name: s, stress_ng: {vm: 1, vm_bytes: }}]",
        "census: end",
        "census: []",
        "census: [begin]",
        "census: [every: 0]",
        "census: {pause: true}",
        "repetitions: 0",
        "note: 5",
        "stop:",
    ],
)
def test_the_schema_and_the_models_refuse_what_is_wrong(wrong):
    text = FIVE + wrong

    assert errors(text)
    assert not VALIDATOR.is_valid(yaml.safe_load(text))


def described(schema):
    """Yield every property of the schema, as (key, its schema)."""
    for name, each in [("", SCHEMA), *schema["$defs"].items()]:
        for key, value in each.get("properties", {}).items():
            yield f"{name}.{key}", value


@pytest.mark.parametrize(("key", "schema"), list(described(SCHEMA)), ids=lambda v: str(v)[:30])
def test_the_schema_explains_every_key(key, schema):
    assert schema["description"]


# --- messages about wrong definitions -------------------------------------------------------------


def test_all_errors_have_line_key_and_allowed_values():
    found = errors(
        "gests: 1\n"
        "guests:\n"
        "  count: [1, 100]\n"
        "  memory_mb: 5\n"
        "knobs:\n"
        "  - {run: on}\n"
        "  - ../run: 1\n"
        "workloads:\n"
        "  - name: Stress\n"
        "    stress_ng: {vm_bytes: 64X}\n"
        "    active: {from: 3, to: 10, until: 4}\n"
        "sampling: {interval: 1, intervals: 4}\n"
        "repetitions: 0\n"
        "repetitions: 0\n"
    )

    assert [line.split(": ")[:2] for line in found] == [
        ["file.yml:1", "gests"],
        ["file.yml:3", "guests.count[]"],
        ["file.yml:4", "guests.memory_mb"],
        ["file.yml:6", "knobs[].run"],
        ["file.yml:7", "knobs[].../run"],
        ["file.yml:9", "workloads[].name"],
        ["file.yml:10", "workloads[].stress_ng.vm"],
        ["file.yml:10", "workloads[].stress_ng.vm_bytes"],
        ["file.yml:11", "workloads[].active.until"],
        ["file.yml:14", "repetitions"],
        ["file.yml:14", "repetitions"],
    ]
    assert "Did you mean guests? Allowed: note, images, guests," in found[0]
    assert "a whole number from 1 to 99, not 100" in found[1]
    assert "Did you mean memory_mib? Allowed: count, memory_mib, disk_gib" in found[2]
    assert "a whole number of 0 or more, or a word" in found[3]
    assert "the name of a file in /sys/kernel/mm/ksm" in found[4]
    assert "this key is required" in found[6]
    assert "a size such as 64M" in found[7]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("guests: [1", 1, "not valid YAML"),
        ("a: 1\n\tb: 2", 2, "not valid YAML"),
        ("note: 2001-99-99", 1, "not valid YAML"),
        ("!!python/object:os.system {}", 1, "not valid YAML"),
        ("[" * 3000, 1, "not valid YAML"),
        ("", 1, "a mapping with the keys note, images, guests"),
        ("- 1", 1, "a mapping with the keys note, images, guests"),
        (SHORT + "guests: {count: 2}", 3, "guests: this key is repeated"),
        (
            SHORT + "workloads:\n- name: s\n  stress_ng: {vm: 1}\n  name: s",
            6,
            "name: this key is repeated",
        ),
        (SHORT + "knobs: []", 3, "at least one entry"),
        (SHORT.replace("count: 1", "count: 1, vcpus: [1, 1]"), 1, "is repeated"),
        (
            SHORT.replace("count: 1", "count: 1, backing: [shared, swapped]"),
            1,
            "one of anonymous, hugepages",
        ),
        (
            SHORT.replace("count: 1", "count: 1, balloon_mib: [0, 512]"),
            1,
            "less than 'memory_mib' (512), not 512",
        ),
        (
            SHORT.replace("count: 1", "count: 1, balloon_mib: 64, backing: [locked]"),
            1,
            "'backing: locked'",
        ),
        (
            SHORT.replace("count: 1", "count: 1, numa: 2, vcpus: [2, 1]"),
            1,
            "as many 'vcpus', not 1",
        ),
        (SHORT + "swap: [none, none]", 3, "is repeated"),
        (SHORT + "swap: [some]", 3, "as-found, none or {zram_mib: N}"),
        (wrong_image("nginx-light", "Nginx"), 2, "a list of names of Debian packages"),
        (wrong_image("name: web", "name: base"), 2, "needs another name: 'base'"),
        (wrong_image("name: web", "name: own"), 1, "is repeated"),
        (wrong_image("packages: [nginx-light]", "suite: x, file: /x"), 2, "cannot go with 'file'"),
        (wrong_image(", packages: [nginx-light]", ""), 2, "needs 'packages', 'suite' or 'file'"),
        (wrong_image("packages: [nginx-light]", "suite: x, agent: false"), 2, "goes with 'file'"),
        (wrong_image(", agent: false", ""), 3, "goes with 'agent: false'"),
        (wrong_image("[base, own]]", "[own]]"), 4, "a list of two or more names"),
        (wrong_image("[base, own]]", "[base, wen]]"), 4, "there is no image 'wen' in 'images'"),
        (wrong_image("count: 2", "count: [2, 1]"), 4, "2 images in turn need as many guests"),
        (IMAGES + "workloads: [{name: s, command: a}]", 6, "image 'own' has no agent"),
        (ARRAYS + "images: [{name: a, suite: b}]", 3, "goes with 'guests'"),
        (ARRAYS.replace("single", "single, requires: [gcc]"), 2, "'requires' is for guests"),
        (SHORT + "thp: []", 3, "at least one entry"),
        (SHORT + "thp: [{}]", 3, "needs at least one knob"),
        (SHORT + "thp: [{enabled: sometimes}]", 3, "one of always, madvise, never"),
        (SHORT + "thp: [{defrag: 1}]", 3, "unknown key"),
        (SHORT + "thp: [{enabled: never}, {enabled: never}]", 3, "is repeated"),
        (SHORT + "census: [start]", 3, "a later census is needed"),
        (SHORT + "workloads: [{name: s, memory: {mib: 1}}]", 3, "without 'guests'"),
        (
            ARRAYS.replace("arrays: single", "memory: {zero_percent: 60, equal_percent: 41}"),
            2,
            "at most 100 together",
        ),
        (SHORT + "workloads: [{name: s, write_probe: {}}]", 3, "without 'guests'"),
        (
            ARRAYS.replace("arrays: single", "write_probe: {stop_ksmd: 50}"),
            2,
            "'stop_ksmd' (50 s) must be less than 40 s",
        ),
        (
            ARRAYS.replace("arrays: single", "write_probe: {ksmd: here}"),
            2,
            "one of any, same, other",
        ),
        (SHORT + "knobs: {run: 1}", 3, "must be a list"),
        (SHORT + "knobs: [{run: 1}, {run: 1}]", 3, "is repeated"),
        (SHORT + "workloads: [idle, idle]", 3, "idle is repeated"),
        (SHORT + "workloads: [{name: idle, stress_ng: {vm: 1}}]", 3, "needs another name"),
        (SHORT + "workloads: [{name: s}]", 3, "needs one of 'stress_ng', 'command'"),
        (SHORT + "workloads: [busy]", 3, "idle or a mapping with the keys name, stress_ng"),
        (SHORT + "workloads: [{name: s, stress_ng: {vm: 1, vm_bytes: 1K}}]", 3, "at least 4K"),
        (SHORT + "workloads: [{name: s, stress_ng: {vm: 1}, active: half}]", 3, "first-half"),
        (
            SHORT + "workloads:\n- name: s\n  stress_ng: {vm: 1}\n  active:\n    {from: 1, to: 5}",
            6,
            "'to' must be at most 4 s",
        ),
        (
            SHORT + "workloads: [{name: s, stress_ng: {vm: 1}, active: {from: 3, to: 2}}]",
            3,
            "'from' must be less than 'to'",
        ),
        (FIVE + "stop: {steady: {scnas: 3}}", 3, "steady.scnas: unknown key. Did you mean scans"),
        (FIVE + "census: end", 3, "census: must be a list of start, end, at-scan-boundary and"),
        (
            FIVE + "census:\n- end\n- begin",
            5,
            "census[]: must be start, end, at-scan-boundary or every",
        ),
        (FIVE + "census: [end, every: 41]", 3, "census: 'every' (41 s) must be at most 40 s"),
        (FIVE + "census: [every: 5, every: 6]", 3, "census: has 'every' more than once"),
        (FIVE + "census: [end, end]", 3, "census: entries must differ, but end is repeated"),
        (
            FIVE + "census: {moments: end}",
            3,
            "census.moments: must be a list of start, end, at-scan",
        ),
        (FIVE + "census: {moments: [end], pause: 1}", 3, "census.pause: must be true or false"),
        (FIVE + "stop: stedy", 3, "stop: must be fixed, steady or {steady: {scans: N, seconds"),
        (FIVE + "stop: {}", 3, "stop.steady: this key is required"),
        (FIVE + "stop: {steady: }", 3, "stop.steady: must be a mapping with the keys scans"),
        (FIVE + "stop: {steady: {scans: 2}}", 3, "a whole number from 3 to 1000000, not 2"),
        (FIVE + "stop: steady", 3, "stop: 'seconds' of steady (60 s) must be at most 40 s"),
        (
            FIVE + "stop: {steady: {seconds: 30}}\nworkloads:\n- idle\n"
            "- {name: s, command: x, active: first-half}",
            6,
            "workloads[]: ends at 20 s: this leaves 20 s of 40 s, the length of a run's sampling,"
            " but 'stop' needs 30 s",
        ),
        (FIVE + "order: shuffeld", 3, "order: must be balanced, as-written, interleaved, shuff"),
        (FIVE + "order: shuffled(99999999999999999999)", 3, "order: must be a whole number"),
        (FIVE + "order: {shuffled: }", 3, "order.shuffled: must be a whole number from 0 to"),
        (FIVE + "order: {shuffled: 1, x: 2}", 3, "order.x: unknown key. Allowed: shuffled"),
        (FIVE + "workloads: [{name: s, mixed: []}]", 3, "mixed: must be a list of parts, each"),
        (FIVE + "workloads: [{name: s, mixed: idle}]", 3, "mixed: must be a list of parts, each"),
        (FIVE + "workloads: [{name: s, mixed: [x]}]", 3, "mixed[]: must be idle or a mapping wi"),
        (FIVE + "workloads: [{name: s, mixed: [{}]}]", 3, "needs either 'stress_ng' or 'command'"),
        (
            FIVE + "workloads: [{name: s, mixed: [{stress_ng: {vm: 1}, command: /bin/x}]}]",
            3,
            "workloads[].mixed[]: needs either 'stress_ng' or 'command'",
        ),
        (
            FIVE + "workloads:\n- name: s\n  mixed:\n  - idle\n  - {comand: x, command: y}",
            7,
            "workloads[].mixed[].comand: unknown key. Did you mean command? Allowed: stress_ng,",
        ),
        (
            FIVE + "workloads: [{name: s, mixed: [{command: x, active: {from: 1, to: 50}}]}]",
            3,
            "workloads[].mixed[].active: 'to' must be at most 40 s",
        ),
        *(
            (FIVE + f"workloads: [{{name: s, command: {wrong}}}]", 3, "must be text for /bin/sh")
            for wrong in ("[]", "5", "''", "[ls, '5']", "[/bin/sleep, 5]", "{x: 1}", "")
        ),
        *(
            (FIVE + f"workloads: [{{name: s, nosharepages: {wrong}}}]", 3, "must be all, or a lis")
            for wrong in ("[]", "[0]", "1", "some", "[1, all]", "")
        ),
        (FIVE + "workloads: [{name: s, nosharepages: [1, 1]}]", 3, "1 is repeated"),
        (
            FIVE + "workloads: [{name: s, stress_ng: {vm: 1}, command: x, mixed: [idle]}]",
            3,
            "workloads[]: has stress_ng, command, mixed: only one of stress_ng, command,",
        ),
        (FIVE + "workloads: [{name: s, active: whole}]", 3, "needs one of 'stress_ng'"),
        (
            FIVE + "workloads: [{name: s, mixed: [idle], active: whole}]",
            3,
            "'active' goes with 'stress_ng' or 'command', in each part",
        ),
        (FIVE + "workloads: [{name: idle, nosharepages: all}]", 3, "needs another name"),
        (
            FIVE + "workloads: [{name: s, arrays: single}]",
            3,
            "arrays: is allowed only in an experiment without 'guests'",
        ),
        (ARRAYS.replace("single", "foo"), 2, "arrays: must be single, half-same, half-distinct"),
        (ARRAYS.replace("single", "{change: foo}"), 2, "arrays.change: must be one of single"),
        (ARRAYS.replace("single", "{ints: 5}"), 2, "arrays.change: this key is required"),
        (
            ARRAYS.replace("single", "{change: single, second: 20}"),
            2,
            "arrays: 'second' (20 s) must be less than 'changed' (20 s)",
        ),
        (
            ARRAYS.replace("40", "20"),
            2,
            "arrays: 'changed' (20 s) must be less than 20 s, the length of a run's sampling",
        ),
        (ARRAYS.replace("single", "single, active: whole"), 2, "arrays have 'second' and 'change"),
        (ARRAYS.replace("single", "single, nosharepages: all"), 2, "'nosharepages' is for guests"),
        ("sampling: {interval: 1, intervals: 4}", 1, "guests: this key is required: only workl"),
        (ARRAYS.replace("[{", "[idle, {"), 1, "guests: this key is required: only workloads of"),
        ("guests:\nsampling: {interval: 1, intervals: 4}", 1, "guests: must be a mapping with"),
        (FIVE + "knobs_if_present: {run: 0}", 3, "run: belongs in 'knobs'"),
        (
            FIVE + "knobs: [{smart_scan: 1}]\nknobs_if_present:\n  smart_scan: 0",
            5,
            "knobs_if_present.smart_scan: must be in 'knobs' or in 'knobs_if_present', not in both",
        ),
        (FIVE + "knobs_if_present: {a b: 0}", 3, "the name of a file in /sys/kernel/mm/ksm"),
        (
            "guests: {count: [1, 1]}\nsampling: {interval: 1, intervals: 4}",
            1,
            "1 is repeated",
        ),
        (
            "guests: {count: 1}\nsampling: {interval: 1, intervals: 4, period: 0.3}",
            2,
            "a whole multiple of 'period' (0.3 s), not 1 s",
        ),
        (
            "guests: {count: 1}\nsampling: {interval: .inf, intervals: 4}",
            2,
            "a number of seconds from 0.01",
        ),
        (
            "guests: {count: 1}\nsampling: {interval: 86400, intervals: 99999}",
            2,
            "at most 1000000 are allowed",
        ),
    ],
)
def test_one_error(text, line, words):
    (found,) = errors(text)

    assert found.startswith(f"file.yml:{line}: ")
    assert words in found


def test_a_period_that_is_no_binary_fraction_divides_an_interval():
    run = plan("guests: {count: 1}\nsampling: {interval: 0.3, intervals: 3, period: 0.1}")["runs"][
        0
    ]

    assert run["sampling"]["samples"] == 10


def test_a_file_whose_name_cannot_name_a_directory():
    with pytest.raises(InputError, match="the name of the file"):
        plan(SHORT, "experiments/my file.yml")


# --- docs/experiments.md matches the models -------------------------------------------------------

DOCUMENTED = {
    cells[1].strip("` "): cells
    for line in (ROOT / "docs/experiments.md").read_text().splitlines()
    if line.startswith("| `") and len(cells := [cell.strip() for cell in line.split("|")]) == 6
}
LISTS = {"images", "thp", "policies", "workloads", "workloads[].mixed", "census.moments"}


def keys(model=definition.Experiment, path="", seen=()):
    """Yield every key with its field; a model that is used twice is listed once."""
    inner = []
    for name, field in model.model_fields.items():
        key = f"{path}{field.alias or name}"
        yield key, field
        below = yaml_errors.model_in(field.annotation)
        if below and below not in seen:
            inner.append((below, f"{key}[]." if key in LISTS else f"{key}."))
    seen = {*seen, *(below for below, _ in inner)}
    for below, prefix in inner:
        yield from keys(below, prefix, seen)


def as_text(key, value):
    """Make a file with one key, which may be nested."""
    *above, last = key.split(".")
    text = f"{{{last}: {value}}}"
    for part in reversed(above):
        text = f"{{{part[:-2]}: [{text}]}}" if part.endswith("[]") else f"{{{part}: {text}}}"
    return text


def test_every_key_is_documented_and_no_other():
    assert {key for key, _ in keys()} == DOCUMENTED.keys()


@pytest.mark.parametrize(("key", "field"), list(keys()), ids=lambda value: str(value)[:40])
def test_keys_are_described_as_documented(key, field):
    assert field.description == DOCUMENTED[key][4].removesuffix(" See below.")


@pytest.mark.parametrize(("key", "field"), list(keys()), ids=lambda value: str(value)[:40])
def test_defaults_are_as_documented(key, field):
    default = DOCUMENTED[key][3]

    if field.is_required():
        assert default == "required"
    elif isinstance(field.default, bool):
        assert default == str(field.default).lower()
    elif isinstance(field.default, int | float) or (
        isinstance(field.default, str) and field.default
    ):
        assert default == str(field.default)
    else:
        assert default != "required"


@pytest.mark.parametrize("key", [key for key, _ in keys()])
def test_limits_are_as_documented(key):
    """The allowed values in an error are the same text as in the document."""
    lists = {"knobs", "census", "guests.arrivals", "processes.arrivals", *LISTS}
    found = errors(as_text(key, "wrong" if key in lists else "[[wrong]]"))
    (said,) = [line for line in found if re.search(rf": {re.escape(key)}(\[\])?: must be", line)]

    documented = DOCUMENTED[key][2].split(", or a list of such")[0].removesuffix(" of mappings")
    assert f"must be {documented}" in said


ODD = ["", "5", "-1", "1.5", ".nan", "true", "x", "''", "[]", "[[x]]", "[5, x]", "{}", "{x: 1}"]
ODD += ["{1: 2}", "2001-01-01", "!!binary aGk=", "!!set {a}", "&a [*a]", "&a {a: *a}"]


@pytest.mark.parametrize("key", [key for key, _ in keys()])
def test_any_value_gives_a_message_or_a_plan(key):
    for value in ODD:
        for line in errors(as_text(key, value)):
            assert re.match(r"file\.yml:1: [A-Za-z0-9_./\[\]]+: [a-z'(]", line), value
            assert not re.search("Input|valid|pydantic|NoneType|validator|Error", line), value
