"""Events of ansible-runner become notices; the times are examples."""

import json
from pathlib import Path

import pytest

from ksm_analysis.campaign.progress import PART_PHASES, PHASES, Progress, failure
from ksm_analysis.campaign.views import (
    JsonView,
    LiveView,
    PlainView,
    duration,
    factors,
    sentence,
    status,
)

ROOT = Path(__file__).parents[2]


def plan(*seconds):
    runs = [
        {"id": f"r{i}", "seconds": s, "factors": {"guests": i}}
        for i, s in enumerate(seconds, start=1)
    ]
    return {"experiment": "quick", "seconds": sum(seconds), "runs": runs}


def event(kind, where="", host="h1", res=None, **more):
    data = {"host": host, "task": "A task", "task_path": f"/x/{where}:3", "res": res or {}, **more}
    return {"event": kind, "stdout": "", "event_data": data}


def begins(run="r1", index=1, of=2, seconds=100.0, host="h1", **values):
    facts = {"id": run, "index": index, "of": of, "seconds": seconds, "factors": {"guests": 1}}
    facts["share"] = [f"r{n}" for n in range(1, of + 1)]
    return event("runner_on_ok", host=host, res={"ansible_facts": {"run_current": facts | values}})


def ends(run="r1", status="complete", reason="", host="h1"):
    facts = {"run_ended": {"id": run, "status": status, "reason": reason}}
    return event("runner_on_ok", host=host, res={"ansible_facts": facts})


def sampling(seconds, host="h1", run="r1", counters=""):
    line = f"sampling: host={host} run={run} seconds={seconds} of=45.0 {counters}".strip()
    return {"event": "verbose", "stdout": f"{line}\r\n"}


SAMPLING = event("runner_on_start", "roles/part_sampler/tasks/wait.yml")


@pytest.fixture
def progress():
    return Progress(plan(100.0, 200.0), ["h1"], now=0.0)


def take(progress, *events, now=0.0):
    return [notice for each in events for notice in progress.take(each, now)]


def test_a_run_from_its_beginning_to_its_end(progress):
    notices = take(
        progress,
        begins(),
        event("runner_on_start", "roles/guests/tasks/boot.yml"),
        event("runner_on_start", "roles/guests/tasks/boot.yml"),
        SAMPLING,
        sampling(12.5, counters="full_scans=3 pages_sharing=24173 general_profit=-64"),
        ends(),
    )

    assert [n["event"] for n in notices] == [
        "run started", "phase", "phase", "sampling", "run ended",
    ]  # fmt: skip
    started, booting, _, sample, ended = notices
    assert (started["index"], started["of"], started["factors"]) == (1, 2, {"guests": 1})
    assert (booting["phase"], booting["run"]) == ("booting guests", "r1")
    assert (sample["seconds"], sample["of"]) == (12.5, 45.0)
    assert (sample["pages_sharing"], sample["general_profit"]) == (24173, -64)
    assert (ended["status"], ended["reason"]) == ("complete", "")


@pytest.mark.parametrize(
    ("where", "phase"),
    [
        ("roles/host/tasks/main.yml", "provisioning the host"),
        ("roles/guest_image/tasks/build.yml", "building the image"),
        ("roles/guest_image/tasks/main.yml", "checking the image"),
        ("roles/guests/tasks/main.yml", "booting guests"),
        ("roles/guests/tasks/remove.yml", "restoring the host"),
        ("roles/ksm/tasks/main.yml", "setting knobs"),
        ("roles/run/tasks/collect.yml", "collecting"),
        ("playbooks/report.yml", "writing the page"),
    ],
)
def test_phases_follow_from_the_place_of_a_task(progress, where, phase):
    (notice,) = take(progress, event("runner_on_start", where))

    assert notice["phase"] == phase


def test_tasks_between_phases_do_not_end_one(progress):
    take(progress, SAMPLING)

    assert take(progress, event("runner_on_start", "roles/lock/tasks/main.yml")) == []
    assert progress.hosts["h1"].phase == "sampling"


def test_a_failure_outside_of_a_run_is_reported_at_once(progress):
    res = {"msg": "this host is locked by quick (process 1)", "exception": "(traceback)"}
    (notice,) = take(progress, event("runner_on_failed", res=res))

    assert notice["text"] == "A task: this host is locked by quick (process 1)"
    assert notice["failed"]
    assert progress.unexplained() is None


def test_a_failure_within_a_run_is_reported_by_the_run(progress):
    take(progress, begins())

    assert take(progress, event("runner_on_failed", res={"msg": "no answer"})) == []
    (ended,) = take(progress, ends(status="failed", reason="Boot guests: no answer"))
    assert ended["reason"] == "Boot guests: no answer"


def test_an_interrupted_run_has_the_last_failure_as_its_reason(progress):
    take(progress, begins(), event("runner_on_failed", res={"msg": "no space left"}))
    (ended,) = take(progress, {"event": "playbook_on_stats", "event_data": {}})

    assert (ended["run"], ended["status"]) == ("r1", "failed")
    assert ended["reason"] == "A task: no space left"
    assert progress.ended == [("r1", "failed", "A task: no space left")]


def test_a_host_that_cannot_be_reached_ends_its_run(progress):
    take(progress, begins())
    ended, message = take(progress, event("runner_on_unreachable", res={"msg": "no route"}))

    assert (ended["event"], ended["reason"]) == ("run ended", "no route")
    assert message["text"] == "unreachable: no route"


def test_ignored_failures_and_the_verdict_are_not_reported(progress):
    ignored = event("runner_on_failed", res={"msg": "no"}, ignore_errors=True)
    verdict = event("runner_on_failed", task="Require that all runs succeeded")

    assert take(progress, ignored, verdict) == []


def test_without_a_failed_task_the_last_error_counts(progress):
    error = {"event": "error", "stdout": "[ERROR]: not a valid attribute\r\nOrigin: a\r\n\r\n1 - x"}
    take(progress, error)

    assert progress.unexplained()["text"] == "not a valid attribute\nOrigin: a"


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ({"msg": "no"}, "no"),
        ({"msg": ["no", "way"]}, "no way"),
        ({"msg": "non-zero return code", "stderr_lines": ["a", "b"]}, "non-zero return code: b"),
        ({"msg": "One failed", "results": [{"msg": "x", "failed": True}]}, "One failed: x"),
        ({"msg": "One failed", "results": [{"msg": "fine", "failed": False}]}, "One failed"),
        ({"censored": "hidden"}, "hidden"),
        ({}, "failed without a message"),
    ],
)
def test_the_message_of_a_failure(result, words):
    assert failure(result) == words


def test_the_message_of_a_failure_is_limited():
    assert len(failure({"msg": "x" * 100_000})) < 3000


def test_the_lock_is_held_until_it_is_released(progress):
    take(progress, event("runner_on_ok", "roles/lock/tasks/main.yml"))
    assert progress.held == {"h1"}

    take(progress, event("runner_on_ok", "roles/lock/tasks/release.yml"))
    assert progress.held == set()


# --- remaining time -------------------------------------------------------------------------------


def test_before_the_first_run_the_plan_is_the_estimate(progress):
    assert progress.left(now=30.0) == 300.0


def test_the_estimate_follows_the_actual_pace(progress):
    take(progress, begins(), now=0.0)
    assert progress.left(now=40.0) == 260.0

    take(progress, ends(), now=50.0)  # in half the time that was planned
    take(progress, begins("r2", index=2, seconds=200.0), now=50.0)
    assert progress.left(now=50.0) == 100.0
    assert progress.left(now=1000.0) == 0.0


def test_a_late_run_still_needs_its_sampling(progress):
    take(progress, begins("r2", index=2, seconds=200.0), SAMPLING, sampling(5.0), now=0.0)

    assert progress.left(now=190.0) == 40.0


def test_the_estimate_is_that_of_the_slowest_host():
    progress = Progress(plan(100.0, 10.0, 100.0, 10.0), ["h1", "h2"], now=0.0)
    assert progress.left(now=0.0) == 200.0

    # The runs were assigned differently from the guess.
    first = begins("r1", share=["r1", "r2"])
    second = begins("r3", share=["r3", "r4"], host="h2")
    take(progress, first, second, now=0.0)
    assert progress.left(now=60.0) == 50.0


# --- views ----------------------------------------------------------------------------------------


def test_plain_lines_report_each_tenth_of_the_sampling(progress, capsys):
    view = PlainView(progress)
    events = (begins(), SAMPLING, *(sampling(float(s)) for s in range(46)), ends())
    for notice in take(progress, *events):
        view.show(notice)
    lines = [line.split(" ", 1)[1] for line in capsys.readouterr().out.splitlines()]

    assert lines[:2] == ["run 1 of 2 (r1): 1 guest; about 5 min left", "sampling"]
    assert next(line for line in lines if line.startswith("sampling ")) == "sampling 5 of 45 s"
    assert sum(line.startswith("sampling ") for line in lines) == 10
    assert lines[-1] == "r1 complete"


def test_plain_lines_name_the_host_where_there_are_several(capsys):
    progress = Progress(plan(1.0, 1.0), ["h1", "h2"], now=0.0)
    view = PlainView(progress)
    for notice in take(progress, ends("r2", "failed", "no answer", host="h2")):
        view.show(notice)

    assert capsys.readouterr().out.endswith(" h2: r2 failed: no answer\n")


def test_json_is_one_object_a_line(progress, capsys):
    view = JsonView(progress)
    for notice in take(progress, begins(), sampling(1.0), ends()):
        view.show(notice)
    read = [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    assert [each["event"] for each in read] == ["run started", "sampling", "run ended"]
    assert all(each["time"] > 1e9 for each in read)


def test_live_keeps_ended_runs_and_draws_the_current_one(progress, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "160")
    counters = "pages_sharing=25600 page_size=4096 general_profit=-1048576"
    with LiveView(progress) as view:
        events = (begins(), ends(), begins("r2", index=2), SAMPLING, sampling(9.0, "h1", "r2"))
        for notice in take(progress, *events, sampling(10.0, "h1", "r2", counters)):
            view.show(notice)
    out = capsys.readouterr().out

    assert "r1 complete" in out
    assert "run 2 of 2: 1 guest · sampling 10 of 45 s" in out
    assert "pages_sharing 25,600 (100.0 MiB), general_profit -1.0 MiB" in out


def test_each_host_has_its_line():
    progress = Progress(plan(1.0, 1.0), ["h1", "h2"], now=0.0)
    take(progress, begins(of=1))

    assert [status(host, named=True) for host in progress.hosts.values()] == [
        "h1: run 1 of 1: 1 guest · starting",
        "h2: starting",
    ]


def test_words_of_factors_and_times():
    values = {"guests": 0, "workload": "single", "knobs": "smart_scan=0", "repetition": 2}

    assert factors(values) == "no guests, single, smart_scan=0, repetition 2"
    assert [duration(s) for s in (0.2, 59, 61, 7199, 7260)] == [
        "1 s", "59 s", "2 min", "2 h 00 min", "2 h 01 min",
    ]  # fmt: skip


def test_the_plan_is_one_line():
    notice = {"event": "plan", "plan": plan(60.0), "hosts": ["h1"], "results": "/r/quick"}

    assert sentence(notice) == "experiment quick: 1 run on h1, about 1 min after provisioning"


# --- phases and the repository --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["host", "left", "interrupted", "end", "_init__"])
def test_an_event_reaches_no_other_method(progress, name):
    assert take(progress, {"event": name, "event_data": {}}) == []


def test_every_phase_belongs_to_existing_tasks():
    for place in PHASES:
        role, _, file = place.partition("/")
        if role == "playbooks":
            assert (ROOT / "playbooks" / f"{file}.yml").exists(), place
        else:
            assert (ROOT / "roles" / role / "tasks" / f"{file or 'main'}.yml").exists(), place


def test_every_entry_point_of_every_part_has_a_phase():
    parts = [path.name for path in ROOT.glob("roles/part_*")]
    assert len(parts) >= 4
    for part in parts:
        files = {path.stem for path in (ROOT / "roles" / part / "tasks").iterdir()}
        assert set(PART_PHASES) - {"prepare"} <= files <= set(PART_PHASES), part
