"""Policies: what a definition may have, what is planned, and how those that are ported decide."""

from __future__ import annotations

import itertools
import json
import math
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from made_up_runs import MONOTONIC, events, run_record, sample_lines
from programs import ROLES, load

from ksm_analysis.analysis import confirmation
from ksm_analysis.analysis.settings import settings_of
from ksm_analysis.definition import experiment
from ksm_analysis.errors import InputError
from ksm_analysis.metrics import policies, reported, summary
from ksm_analysis.metrics.measurement import measure
from ksm_analysis.metrics.times import scans_needed
from ksm_analysis.page import policy_figures
from ksm_analysis.page.redact import redact
from ksm_analysis.results import cells
from ksm_analysis.results.reader import read_run
from ksm_analysis.results.record import upgraded
from ksm_analysis.results.run import Results
from ksm_analysis.simulator import ksmtuned

PROGRAM = ROLES / "part_policy/files/ksm_policy.py"
program = load(PROGRAM)
ORIGINALS = json.loads((Path(__file__).parents[1] / "data/policies.json").read_text())
BASE = (
    "processes: {count: 2, service: python}\n"
    "sampling: {interval: 1, intervals: 60}\n"
    "repetitions: 2\n"
)


def plan(text: str) -> list[dict]:
    return experiment.plan(experiment.parse(text, "file.yml"), "file.yml")["runs"]


def part(run: dict) -> dict | None:
    return next((each for each in run["parts"] if each["name"] == "policy"), None)


# --- the definition -------------------------------------------------------------------------------


def test_each_policy_is_a_setting_with_each_entry_of_knobs_that_scans():
    knobs = "knobs: [{run: 0}, {run: 1, pages_to_scan: 500}, {run: 1, pages_to_scan: 900}]\n"
    runs = plan(BASE + knobs + "policies: [none, kata]\n")
    found = [(run["id"], run["factors"]["knobs"]) for run in runs[:5]]
    assert found == [
        ("p002-k1-idle-r1", "run=0, policy=none, pages_to_scan as found"),
        ("p002-k2-idle-r1", "run=1, policy=none, pages_to_scan=500"),
        ("p002-k3-idle-r1", "run=1, policy=kata, pages_to_scan=500"),
        ("p002-k4-idle-r1", "run=1, policy=none, pages_to_scan=900"),
        ("p002-k5-idle-r1", "run=1, policy=kata, pages_to_scan=900"),
    ]
    assert [part(run) is not None for run in runs[:5]] == [False, False, True, False, True]
    assert [run.get("policy", {}).get("name") for run in runs[:3]] == [None, None, "kata"]


def test_without_a_policy_plans_are_as_before():
    assert plan(BASE + "policies: [none]") == plan(BASE)


def test_a_single_setting_names_its_policy():
    (run, *_) = plan(BASE + "policies: [kata]")
    assert run["factors"]["knobs"] == "run=1, policy=kata"


@pytest.mark.parametrize(
    ("policy", "label", "kind", "settings"),
    [
        ("kata", "kata", "kata", {"mode": "auto"}),
        ("{kata: slow}", "kata slow", "kata", {"mode": "slow"}),
        ("ksmtuned", "ksmtuned", "ksmtuned", {}),
        ("proxmox", "proxmox", "ksmtuned", {"KSM_SLEEP_MSEC": 100}),
        (
            "{ksmtuned: {KSM_THRES_COEF: 100, KSM_MONITOR_INTERVAL: 5}}",
            "ksmtuned(KSM_MONITOR_INTERVAL=5 KSM_THRES_COEF=100)",
            "ksmtuned",
            {"KSM_MONITOR_INTERVAL": 5, "KSM_THRES_COEF": 100},
        ),
        ("{command: [/bin/x, '5']}", "command", "command", {"argv": ["/bin/x", "5"]}),
        ("{name: own, command: x 5}", "own", "command", {"argv": ["/bin/sh", "-c", "x 5"]}),
        ("{governor: {price: 5}}", "governor(price=5)", "governor", {"price": 5}),
    ],
)
def test_a_policy_with_a_program_is_the_last_part(policy, label, kind, settings):
    (run, *_) = plan(BASE + f"policies: [{policy}]")
    assert run["policy"]["name"] == label
    assert run["policy"]["full"].startswith(kind)
    assert run["parts"][-1]["options"] == {"kind": kind, "settings": settings}
    assert run["parts"][-1]["role"] == "ksm.testbed.part_policy"
    # while the advisor is on, no program can write pages_to_scan
    assert run["knobs_if_present"] == {"advisor_mode": "none"}
    scan = ["run", "pages_to_scan", "sleep_millisecs"]
    turns = {"command": None, "governor": [*scan, "smart_scan"]}.get(kind, scan)
    assert run["policy"].get("turns") == turns
    assert any("ksmtuned counts only" in note for note in run.get("notes", [])) == (
        kind == "ksmtuned"
    )


def test_the_values_of_kubevirt_are_those_of_its_annotations():
    (run, *_) = plan(BASE + "policies: [{kubevirt: {pages_max: 5000}}]")
    assert run["policy"]["name"] == "kubevirt(pages_max=5000)"
    settings = part(run)["options"]["settings"]
    assert (settings["interval"], settings["pages_max"], settings["pages_boost"]) == (
        180,
        5000,
        300,
    )


def test_the_advisor_is_knobs_and_no_part():
    (run, *_) = plan(BASE + "policies: [{advisor: {target_scan_time: 60, max_cpu: 90}}]")
    assert run["knobs"] == {
        "run": 1,
        "advisor_mode": "scan-time",
        "advisor_target_scan_time": 60,
        "advisor_max_cpu": 90,
    }
    assert run["policy"]["turns"] == ["pages_to_scan"]
    assert part(run) is None
    assert run["knobs_if_present"] == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("policies: [katta]", "must be none, advisor, ksmtuned, proxmox, kata, kubevirt, governor"),
        ("policies: [{}]", "must be none, advisor"),
        ("policies: [{name: x}]", "needs one of advisor, ksmtuned, kata"),
        ("policies: [{kata: auto, kubevirt: {}}]", "has kata, kubevirt: needs one of"),
        ("policies: [{kata: fast}]", "one of auto, aggressive, standard, slow"),
        ("policies: [{command: x}, {command: y}]", "two are called command: give one of them"),
        ("policies: [{kubevirt: {pages_init: 5}}]", "needs pages_min ≤ pages_init ≤ pages_max"),
        ("policies: [{ksmtuned: {KSM_BOOST: 5}}]", "unknown key"),
        ("policies: [kata]\nknobs: [{run: 0}]", "with run: 1, and there is none"),
        ("policies: [kata]\nknobs: [{advisor_mode: scan-time}]", "cannot go with advisor_mode"),
        ("policies: [kata]\nknobs_if_present: {advisor_mode: scan-time}", "go with advisor_mode"),
        ("policies: [advisor]\nknobs: [{advisor_max_cpu: 5}]", "give advisor_max_cpu to it"),
        ("policies: [kata]\nstop: steady", "must be fixed with policies"),
    ],
)
def test_what_makes_no_sense_is_refused(text, said):
    with pytest.raises(InputError, match=re.escape(said)):
        plan(BASE + text)


def test_a_probe_that_stops_ksmd_is_refused():
    text = "workloads: [{name: w, write_probe: {stop_ksmd: 5}}]\npolicies: [kata]\n"
    with pytest.raises(InputError, match="stop_ksmd"):
        plan(text + "sampling: {interval: 1, intervals: 60}")


# --- those that are ported ------------------------------------------------------------------------


@pytest.mark.parametrize("case", ORIGINALS["kubevirt"]["cases"])
def test_kubevirt_decides_as_the_original(case):
    wrote = case.pop("wrote")
    assert dict(program.kubevirt_writes(**case)) == wrote
    case["wrote"] = wrote


@pytest.mark.parametrize("case", ORIGINALS["kata"]["cases"])
def test_kata_sets_modes_as_the_original(case):
    writes = program.kata_writes(case["mode"], case["anon_kib"], 4096)
    assert writes[0] == ("run", 0), "it stops ksmd first"
    assert dict(writes) == case["wrote"]


@pytest.mark.parametrize("case", ORIGINALS["ksmtuned"]["cases"])
def test_ksmtuned_decides_as_the_script_of_debian(case):
    """That of the simulator: a real run has the script itself."""
    settings, pages = ksmtuned.Settings(**case["settings"]), 0
    for step in case["steps"]:
        memory = case["total"], step["committed"], step["free"]
        wrote = dict(ksmtuned.adjust(settings, pages, *memory))
        assert wrote == step["wrote"]
        pages = wrote.get("pages_to_scan", pages)


def modes_over_time(kicks: list[int], until: float = 700) -> list[tuple[float, str]]:
    """Let the port decide at each time at which something happens; return changes of the mode."""
    state, found, kicks = program.kata_start(0.0), [], list(kicks)
    while (now := min([state.due, *kicks[:1]])) < until:
        kicked = kicks[:1] == [now]
        kicks = kicks[kicked:]
        state, mode = program.kata_next(state, now, kicked)
        if mode and [each for _, each in found[-1:]] != [mode]:
            found.append((now, mode))
    return found


@pytest.mark.parametrize("case", ORIGINALS["kata_over_time"]["cases"])
def test_kata_falls_and_is_kicked_as_the_original(case):
    found = modes_over_time(case["kicks"])
    assert [mode for _, mode in found] == [mode for _, mode in case["seen"]]
    for (at, _), (seen, _) in zip(found, case["seen"], strict=True):
        assert abs(at - seen) <= 5  # the clock of the original was 40 times as fast


# --- the program ----------------------------------------------------------------------------------


def test_newcomers_are_found_by_the_files_with_their_process_ids(tmp_path):
    (tmp_path / "a.pid").write_text("1\n")
    arrivals = program.Arrivals({name: str(tmp_path / f"{name}.pid") for name in "abc"})
    assert arrivals.new() == ["a"]
    assert arrivals.new() == []
    (tmp_path / "b.partial").write_text("2\n")
    (tmp_path / "b.partial").rename(tmp_path / "b.pid")
    assert arrivals.new() == ["b"]
    (tmp_path / "a.pid").unlink()
    assert arrivals.new() == []


@pytest.mark.parametrize(
    ("text", "value"),
    [("100\n", 100), ("[none] scan-time\n", "none"), ("none [scan-time]\n", "scan-time")],
)
def test_values_of_knobs(text, value):
    assert program.knob_value(text) == value


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"Fri Nov 27 17:44:05 UTC 2026: 5 < 6, boost", "5 < 6, boost"),
        (b"Fri Nov  7 17:44:05 CEST 2026: KSMCTL start 64 10", "KSMCTL start 64 10"),
        (b"plain \x1b[1mwords\xff", "plain  [1mwords�"),
    ],
)
def test_words_of_messages(line, words):
    assert program.words_of(line) == words


def test_a_configuration_of_the_host_is_refused(tmp_path, monkeypatch):
    conf = tmp_path / "ksmtuned.conf"
    monkeypatch.setattr(program, "KSMTUNED_CONF", conf)
    program.refuse_conf()
    conf.write_text("# KSM_SLEEP_MSEC=10\n")  # as Debian ships it
    program.refuse_conf()
    conf.write_text("KSM_SLEEP_MSEC=10\n DEBUG=1\n")
    with pytest.raises(program.UnusableError, match="sets KSM_SLEEP_MSEC, DEBUG"):
        program.refuse_conf()


TREE = """\
trap '' TERM
(setsid sleep 60 &)
sleep 60 &
echo ready
wait
"""
WATCHER = f"""\
import sys, time
sys.path.insert(0, {str(PROGRAM.parent)!r})
import ksm_policy
program = ksm_policy.Program(["/bin/bash", "-c", sys.argv[1]], {{}}, sys.argv[2])
while "ready" not in program.said():
    time.sleep(0.01)
print(len(ksm_policy.descendants()), flush=True)
sys.stdin.read()
ksm_policy.GRACE = 1
program.end()
print(len(ksm_policy.descendants()), program.ended())
"""


def watcher(mark: str) -> subprocess.Popen:
    """Start a watcher of a program that ignores SIGTERM and has put a process into a session."""
    return subprocess.Popen(
        [sys.executable, "-c", WATCHER, TREE, mark],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def marked(mark: str) -> list[int]:
    return program.marked(f"{program.PROCESS}={mark}".encode())


def test_a_program_ends_with_all_its_processes(tmp_path):
    mark = f"{tmp_path}:1"
    process = watcher(mark)
    assert int(process.stdout.readline()) == 3
    out, _ = process.communicate("", timeout=60)
    assert out.split()[0] == "0"
    assert marked(mark) == []


def test_what_a_killed_watcher_has_left_is_ended(tmp_path):
    mark = f"{tmp_path}:2"
    process = watcher(mark)
    process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    assert len(marked(mark)) == 3
    (tmp_path / "policy.mark").write_text(mark)
    for words in ("ended\n", ""):  # the second time, there is nothing to do
        command = [sys.executable, PROGRAM, "--directory", tmp_path, "--end"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout == words
        assert marked(mark) == []


def test_the_cpu_time_of_a_program_is_that_of_all_its_processes(tmp_path):
    busy = f"{sys.executable} -c 'import time\nwhile time.process_time() < 0.3: pass\n"
    tree = f"{busy}'; {busy}time.sleep(60)' & sleep 60"
    script = WATCHER.replace(
        """while "ready" not in program.said():
    time.sleep(0.01)""",
        """while ksm_policy.used(True)[0] < 0.55:
    time.sleep(0.01)""",
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, tree, f"{tmp_path}:3"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert int(process.stdout.readline()) == 3  # and not one that has ended
    process.communicate("", timeout=60)


def test_decisions_of_a_program_are_copied_line_by_line(tmp_path):
    source, target = tmp_path / "decisions", tmp_path / "policy.jsonl"
    lines = [{"event": "decision", "reason": str(n), "knobs": {"run": n}} for n in range(3)]
    with target.open("wb") as file:
        assert program.copy_decisions(source, 0, file.fileno()) == 0
        source.write_text(json.dumps(lines[0]) + "\nno JSON\n" + json.dumps(lines[1])[:9])
        read = program.copy_decisions(source, 0, file.fileno())
        with source.open("a") as more:
            more.write(json.dumps(lines[1])[9:] + "\n" + json.dumps(lines[2]) + "\n")
        read = program.copy_decisions(source, read, file.fileno())
    assert [json.loads(line) for line in target.read_text().splitlines()] == lines
    assert read == source.stat().st_size


# --- what is read from runs -----------------------------------------------------------------------

AT = MONOTONIC + 0.3
TURNED = [
    {"event": "policy started", "kind": "kata", "knobs": {"run": 1}, "monotonic": AT},
    {
        "event": "decision",
        "reason": "memory came: aggressive",
        "knobs": {"run": 1, "pages_to_scan": 9000, "sleep_millisecs": 1},
        "monotonic": AT,
    },
    {"event": "policy used", "cpu_seconds": 0.25, "peak_rss_kib": 9000, "monotonic": AT + 3},
]
KATA = {
    "name": "kata",
    "full": "kata",
    "kind": "kata",
    "settings": {"mode": "auto"},
    "turns": ["run", "pages_to_scan", "sleep_millisecs"],
}
COMMAND = {
    "name": "mine",
    "full": "command /srv/secret s3cr3t",
    "kind": "command",
    "settings": {"argv": ["/srv/secret", "s3cr3t"]},
}


@pytest.fixture
def write(write_run):
    """Write a run in which a policy scans 9000 pages from the second sample on."""
    numbers = itertools.count()

    def write(policy=None, lines=(), repetition=1, **values):
        made_up = run_record(guests=1, repetition=repetition)
        record = upgraded(made_up)
        run = record["run"]
        run["id"] = f"g01-k1-idle-{next(numbers)}"
        run["factors"]["knobs"] = f"run=1, policy={policy['name'] if policy else 'none'}"
        run["knobs"] |= {"use_zero_pages": 0}
        if policy:
            run["policy"] = policy
            options = {"kind": policy["kind"], "settings": policy["settings"]}
            run["parts"].append({"name": "policy", "role": "", "options": options})
        samples = sample_lines(made_up)
        for line in samples[1:-1]:
            acts = policy and line["n"] >= 2
            line["ksm"] |= {"pages_to_scan": 9000 if acts else 1000, "use_zero_pages": 0, **values}
        path = write_run(record, samples, events(made_up), name=run["id"])
        text = "".join(json.dumps({"wall": 1.0, **line}) + "\n" for line in lines)
        (path / "policy.jsonl").write_text(text)
        return read_run(path)

    return write


def test_the_knobs_that_a_policy_turns_are_no_drift(write):
    (said,) = [w for w in write(None, pages_to_scan=7).warnings if "knob" in w]
    assert "pages_to_scan was 7 at times" in said
    assert not [w for w in write(KATA, TURNED).warnings if "knob" in w]
    (said,) = [w for w in write(KATA, TURNED, use_zero_pages=1).warnings if "knob" in w]
    assert "use_zero_pages was 1 at times" in said
    assert not [w for w in write(COMMAND, TURNED, use_zero_pages=1).warnings if "knob" in w]


def test_a_policy_that_did_nothing_or_was_refused_is_told(write):
    assert any("decided nothing" in words for words in write(KATA, TURNED[:1]).warnings)
    refused = {**TURNED[1], "refused": "pages_to_scan=9: Invalid argument"}
    (said,) = [w for w in write(KATA, [*TURNED, refused]).warnings if "refused" in w]
    assert said.endswith(
        "1 of 2 decisions of the policy, the first pages_to_scan=9: Invalid argument"
    )


def test_policies_are_told_apart_by_all_that_they_were_told(write):
    slow = {**KATA, "full": "kata slow"}  # with the same name
    auto, other = (cells.knobs(write(policy, TURNED)) for policy in (KATA, slow))
    assert auto["policy"] != other["policy"]
    assert "policy" not in cells.knobs(write(None))


def test_the_cost_of_a_policy_is_in_summary_and_in_the_front(write):
    runs = [measure(write(None)), measure(write(KATA, TURNED)), measure(write(COMMAND, TURNED[:2]))]
    table = summary.summary(runs)
    assert table["policy_cpu_seconds"].fillna(-1).to_list() == [0, 0.25, -1]
    none, kata, cut_off = settings_of(runs)
    assert kata.cost_seconds.mean == pytest.approx(kata.ksmd_cpu_seconds.mean + 0.25)
    assert none.cost_seconds.mean == none.ksmd_cpu_seconds.mean
    assert cut_off.cost_seconds is None
    assert "policy_cpu_seconds" not in summary.summary(runs[:1])


def test_the_page_shows_policies_side_by_side(write):
    runs = [write(None)] + [write(KATA, TURNED, repetition=n) for n in (1, 2)]
    (table,) = policy_figures.table([measure(run) for run in runs])
    titles = [each["title"] for each in table.headings]
    cells_of = {row["cells"][0]: dict(zip(titles, row["cells"], strict=True)) for row in table.rows}
    kata = cells_of["run=1, policy=kata"]
    assert (kata["runs"], kata["decisions"], kata["CPU time of the policy"]) == (
        "2",
        "1 ± 0",
        "0.25 ± 0",
    )
    assert cells_of["run=1, policy=none"]["CPU time of the policy"] == "0"
    assert policy_figures.table([measure(runs[0])]) == []


def test_decisions_are_shown_with_their_reasons(write):
    ((title, figure),) = policy_figures.decisions([measure(write(KATA, TURNED))])
    assert title == "pages_to_scan"
    line, points = figure.data
    assert [*line.y] == [1000, 9000, 9000]
    assert (points.x[0], points.y[0]) == (pytest.approx(0.3), 9000)
    assert "memory came" in points.customdata[0].replace("<br>", " ")
    assert policy_figures.decisions([measure(write(None))]) == []


def test_a_redacted_page_has_nothing_of_a_program(write):
    said = [{**TURNED[1], "reason": "token s3cr3t"}]
    run = write(COMMAND, said)
    (shown,) = redact(Results(run.path.parent, (run,), ())).runs
    assert "s3cr3t" not in str((shown.plan.policy, shown.events, cells.knobs(shown)))
    assert "s3cr3t" in str(run.events)


@pytest.mark.parametrize(
    ("saved", "expected"),
    [
        # of copies that come at 0, 4 and 8 s, the second and the third add 100 equal pages
        ({0: 0, 5: 95, 9: 189, 10: 190}, [None, 1, 2]),
        ({0: 0, 5: 94, 9: 200}, [None, None, 1]),
        ({0: 0, 5: 95, 6: 0, 7: 100, 8.5: 0}, [None, 3, None]),
    ],
)
def test_how_soon_the_limit_is_reached_after_each_arrival(write_run, saved, expected):
    record = run_record(guests=0, intervals=12)
    contents = {"equal_percent": 39.0625, "zero_percent": 0, "write_percent": 0, "rest_seconds": 0}
    options = {"service": "memory", "data_mib": 1, "merge": "madvise", "contents": contents}
    options["arrivals"] = [0, 4, 8]
    record["run"]["parts"] = [{"name": "processes", "options": options}]
    record["format"] = 2
    lines = sample_lines(record)
    for line in lines[1:-1]:
        line["ksm"]["pages_sharing"] = saved[max(at for at in saved if at <= line["n"] / 4)]
    ready = [
        {"event": "process ready", "process": f"p{at}", "wall": 1.0, "monotonic": MONOTONIC + at}
        for at in (0, 4, 8)
    ]
    found = policies.to_95_of_limit(read_run(write_run(record, lines, ready)))
    assert [None if math.isnan(each) else each for each in found] == expected


def test_with_a_policy_no_number_of_scans_is_needed(write):
    assert scans_needed(measure(write(KATA, TURNED))) == 0
    assert scans_needed(measure(write(None))) == 3


def test_names_of_columns_are_not_taken_by_metrics_of_runs():
    for name in ("policy_cpu_seconds", "seconds_to_95_of_limit_2"):
        assert reported.column(name) == f"reported_{name}"


def test_only_a_policy_that_may_be_best_is_confirmed(write):
    runs = []
    for n, share in enumerate((0.99, 1, 1.01), start=1):
        runs.append(write(None, repetition=n, pages_sharing=round(5000 * share)))
        runs.append(write(KATA, TURNED, repetition=n, pages_sharing=round(9000 * share)))
    knobs = [{"run": 1, "pages_to_scan": 1000, "use_zero_pages": 0}]
    first = {"knobs": knobs, "policies": ["none", {"kata": "auto"}, {"kata": "slow"}]}
    found = confirmation.definition(first, [measure(run) for run in runs], 5)
    assert found["policies"] == [{"kata": "auto"}]
    assert found["knobs"] == knobs
