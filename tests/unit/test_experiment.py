"""Definitions to plans, and what is said about wrong ones."""

from pathlib import Path

import pytest

from ksm_analysis import experiment
from ksm_analysis.errors import InputError

ROOT = Path(__file__).parents[2]
DEFINITION = """\
note: Two of everything.
guests:
  count: [1, 12]
knobs:
  - {pages_to_scan: 100, smart_scan: 0, advisor_mode: none}
  - {pages_to_scan: 1000, smart_scan: 0}
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


def plan(text, file="experiments/two.yml"):
    return experiment.plan(experiment.parse(text, file), file)


def errors(text):
    with pytest.raises(InputError) as caught:
        experiment.parse(text, "file.yml")
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


def test_a_run_is_as_the_contract_has_it():
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
        "guests": {"count": 1, "memory_mib": 512, "disk_gib": 4, "vcpus": 1, "network": None},
        "knobs": {"run": 1, "pages_to_scan": 1000, "smart_scan": 0},
        "workload": {
            "name": "stress",
            "stress_ng": {"vm": 2, "vm_bytes": "64M", "vm_keep": True},
            "start": 0.0,
            "stop": 22.5,
        },
        "sampling": {
            "interval": 3.0,
            "intervals": 15,
            "period": 0.25,
            "samples": 181,
            "seconds": 45.0,
        },
        "note": "Two of everything.",
        "seconds": experiment.RUN_SECONDS + experiment.GUEST_SECONDS + 45.0,
    }


def test_the_time_of_a_plan_is_that_of_its_runs():
    planned = plan(DEFINITION)

    assert planned["seconds"] == sum(run["seconds"] for run in planned["runs"])
    assert planned["experiment"] == "two"


def test_the_only_setting_is_named_in_full():
    runs = plan(SHORT + "knobs: [{run: 0, sleep_millisecs: 5}]")["runs"]

    assert runs[0]["factors"]["knobs"] == "run=0, sleep_millisecs=5"
    assert runs[0]["knobs"] == {"run": 0, "sleep_millisecs": 5}


def test_defaults_are_one_idle_run_with_ksmd_on():
    (run,) = plan(SHORT)["runs"]

    assert run["workload"] == {"name": "idle"}
    assert run["knobs"] == {"run": 1}


@pytest.mark.parametrize(
    ("network", "planned"),
    [("none", None), ("user", "user"), ("{network: default}", "default")],
)
def test_networks(network, planned):
    text = f"guests: {{count: 1, network: {network}}}\nsampling: {{interval: 1, intervals: 4}}"

    assert plan(text)["runs"][0]["guests"]["network"] == planned


def test_a_window_in_seconds():
    text = SHORT + "workloads: [{name: s, stress_ng: {vm: 1}, active: {from: 1.5, to: 4}}]"
    workload = plan(text)["runs"][0]["workload"]

    assert (workload["start"], workload["stop"]) == (1.5, 4.0)


@pytest.mark.parametrize("file", sorted((ROOT / "experiments").glob("*.yml")), ids=lambda p: p.stem)
def test_experiments_of_the_project_are_valid(file):
    assert plan(file.read_text(), str(file))["runs"]


def test_all_errors_are_told_with_line_key_and_what_is_allowed():
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
    assert "Did you mean guests? Allowed: note, guests," in found[0]
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
        ("", 1, "a mapping with the keys note, guests"),
        ("- 1", 1, "a mapping with the keys note, guests"),
        (SHORT + "guests: {count: 2}", 3, "guests: this key is there twice"),
        (
            SHORT + "workloads:\n- name: s\n  stress_ng: {vm: 1}\n  name: s",
            6,
            "name: this key is there twice",
        ),
        (SHORT + "knobs: []", 3, "at least one entry"),
        (SHORT + "knobs: {run: 1}", 3, "must be a list"),
        (SHORT + "knobs: [{run: 1}, {run: 1}]", 3, "is repeated"),
        (SHORT + "workloads: [idle, idle]", 3, "idle is repeated"),
        (SHORT + "workloads: [{name: idle, stress_ng: {vm: 1}}]", 3, "a name of its own"),
        (SHORT + "workloads: [{name: s}]", 3, "needs 'stress_ng'"),
        (SHORT + "workloads: [busy]", 3, "a mapping with the keys name, stress_ng, active"),
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
    with pytest.raises(InputError, match="the file's name"):
        plan(SHORT, "experiments/my file.yml")


# --- docs/experiments.md says what the models say -------------------------------------------------

DOCUMENTED = {
    cells[1].strip("` "): cells
    for line in (ROOT / "docs/experiments.md").read_text().splitlines()
    if line.startswith("| `") and len(cells := [cell.strip() for cell in line.split("|")]) == 6
}


def keys(model=experiment.Experiment, path=""):
    for name, field in model.model_fields.items():
        key = f"{path}{field.alias or name}"
        yield key, field
        if inner := experiment._model_in(field.annotation):
            listed = isinstance(field.default, list) and key == "workloads"
            yield from keys(inner, f"{key}[]." if listed else f"{key}.")


def test_every_key_is_documented_and_no_other():
    assert {key for key, _ in keys()} == DOCUMENTED.keys()


@pytest.mark.parametrize(("key", "field"), list(keys()), ids=lambda value: str(value)[:40])
def test_defaults_are_as_documented(key, field):
    default = DOCUMENTED[key][3]

    # no workload without it, save idle, which is a word
    if field.is_required() or key == "workloads[].stress_ng":
        assert default == "required"
    elif isinstance(field.default, bool):
        assert default == str(field.default).lower()
    elif isinstance(field.default, int | float) or field.default == "whole":
        assert default == str(field.default)
    else:
        assert default != "required"


@pytest.mark.parametrize("key", [key for key, _ in keys()])
def test_limits_are_as_documented(key):
    """What an error says is allowed is what the document says, to the word."""
    *above, last = key.split(".")
    text = f"{{{last}: {'wrong' if key in {'knobs', 'workloads'} else '[[wrong]]'}}}"
    for part in reversed(above):
        text = f"{{{part[:-2]}: [{text}]}}" if part.endswith("[]") else f"{{{part}: {text}}}"
    (said,) = [line for line in errors(text) if f": {key}" in line and ": must be" in line]

    documented = DOCUMENTED[key][2].split(", or a list")[0].removesuffix(" of mappings")
    assert f"must be {documented}" in said
