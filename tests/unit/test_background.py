"""Background programs: real processes are started, waited for and stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from programs import run_playbook

ROOT = Path(__file__).parents[2]
MODULE = ROOT / "plugins/modules/background.py"
IGNORES_TERM = """
import signal, subprocess, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen(['/bin/sleep', '61'])
time.sleep(60)
"""
ENDS_BY_CTRL_C = """
import time
try:
    time.sleep(60)
except KeyboardInterrupt:
    raise SystemExit(5)
"""


@pytest.fixture
def _ended(tmp_path):
    """Kill processes that a test has left."""
    yield
    for path in tmp_path.glob("*.json"):
        left = json.loads(path.read_text())
        if "ended" not in left and alive(left["pid"]):
            os.killpg(left["pid"], signal.SIGKILL)


@pytest.fixture
def background(tmp_path, _ended):
    """Return a function that calls the module."""

    def call(name="program", check=False, **params):
        arguments = {"name": name, "directory": str(tmp_path), "_ansible_check_mode": check}
        text = json.dumps({"ANSIBLE_MODULE_ARGS": {**arguments, **params}})
        command = [sys.executable, str(MODULE)]
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, check=False, timeout=60
        )
        return json.loads(done.stdout)

    return call


def python(code):
    return [sys.executable, "-c", code]


def record(directory, name="program"):
    return json.loads((directory / f"{name}.json").read_text())


def ended(directory, name="program"):
    """Wait until the end is recorded."""
    deadline = time.monotonic() + 30
    while "ended" not in (found := record(directory, name)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_it_returns_at_once_and_the_end_is_recorded(background, tmp_path):
    go_on = tmp_path.parent / f"{tmp_path.name}.go-on"
    waits = f"import os, sys, time\nwhile not os.path.exists({str(go_on)!r}): time.sleep(0.05)\n"
    code = waits + "print('{\"pages\": 3}'); sys.exit('seven')"

    began = time.monotonic()
    started = background(argv=python(code))

    assert started["changed"]
    assert "ended" not in started["record"]
    assert alive(started["record"]["pid"])
    go_on.touch()
    found = ended(tmp_path)
    assert (found["exit_code"], found["signal"]) == (1, None)
    assert found["summary"] == {"pages": 3}
    assert found["stderr"] == "seven\n"
    assert began < found["started"]["monotonic"] < found["ended"]["monotonic"]
    assert (tmp_path / "program.json").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["program.json"]


def test_output_that_is_not_one_json_object_is_no_summary(background, tmp_path):
    background(argv=python("print('[1]'); print('two')"))

    assert ended(tmp_path)["summary"] is None


def test_long_output_is_cut_to_its_end(background, tmp_path):
    background(argv=python("import sys; sys.stderr.write('x' * 10**6 + 'end'); print('y' * 10**7)"))

    found = ended(tmp_path)

    assert len(found["stderr"]) == 4096
    assert found["stderr"].endswith("xend")
    assert found["summary"] is None


def test_a_program_that_cannot_be_started_leaves_no_record(background, tmp_path):
    result = background(argv=["/no/such/program"])

    assert result["msg"] == "cannot start /no/such/program: No such file or directory"
    assert list(tmp_path.iterdir()) == []


def test_a_record_is_never_overwritten(background, tmp_path):
    background(argv=["/bin/true"])
    before = ended(tmp_path)

    assert "is not overwritten" in background(argv=["/bin/true"])["msg"]
    assert record(tmp_path) == before


@pytest.mark.parametrize("name", ["../x", "", "A", "a b"])
def test_a_name_is_a_word(background, name):
    assert "is not a word" in background(name, argv=["/bin/true"])["msg"]


def test_stopping_twice_changes_once(background, tmp_path):
    pid = background(argv=["/bin/sleep", "60"])["record"]["pid"]

    first, second = background(state="stopped"), background(state="stopped")

    assert not alive(pid)
    assert (first["changed"], second["changed"]) == (True, False)
    assert first["record"]["signal"] == "TERM"
    assert second["record"] == record(tmp_path) == first["record"]


def test_stopping_a_program_that_was_never_started_changes_nothing(background):
    assert background(state="stopped") == {
        "changed": False,
        "invocation": background(state="stopped")["invocation"],
    }


def test_the_signal_can_be_chosen(background, tmp_path):
    background(argv=python(ENDS_BY_CTRL_C))
    time.sleep(0.5)

    assert background(state="stopped", signal="INT")["record"]["exit_code"] == 5


def test_a_program_that_ignores_the_signal_is_killed_with_its_children(background, tmp_path):
    pid = background(argv=python(IGNORES_TERM))["record"]["pid"]
    time.sleep(0.7)
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()

    result = background(state="stopped", grace=0.3)

    assert result["record"]["signal"] == "KILL"
    assert not alive(pid)
    assert not alive(child)


def test_the_time_of_a_program_is_limited(background, tmp_path):
    background(argv=["/bin/sleep", "60"], seconds=0.3)

    assert ended(tmp_path)["signal"] == "TERM"


def test_a_process_with_a_reused_id_is_not_signalled(background, tmp_path):
    background(argv=["/bin/true"])
    ended(tmp_path)
    other = subprocess.Popen(["/bin/sleep", "60"])
    try:
        stale = {**record(tmp_path), "pid": other.pid}
        (tmp_path / "program.json").write_text(json.dumps(stale))

        assert not background(state="stopped")["changed"]
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_program_whose_supervisor_was_killed_is_stopped_and_recorded(background, tmp_path):
    started = background(argv=["/bin/sleep", "60"])["record"]
    os.kill(started["supervisor"]["pid"], signal.SIGKILL)

    result = background(state="stopped")

    assert result["changed"]
    assert not alive(started["pid"])
    assert record(tmp_path)["exit_code"] is None
    assert "ended" in record(tmp_path)


def test_check_mode_says_what_would_change(background, tmp_path):
    assert background(check=True, argv=["/bin/sleep", "60"])["changed"]
    assert list(tmp_path.iterdir()) == []

    pid = background(argv=["/bin/sleep", "60"])["record"]["pid"]

    assert background(check=True, state="stopped")["changed"]
    assert alive(pid)


def test_a_damaged_record_is_reported(background, tmp_path):
    (tmp_path / "program.json").write_text("{")

    assert "program.json is damaged" in background(state="stopped")["msg"]
    (tmp_path / "program.json").unlink()


# --- waiting --------------------------------------------------------------------------------------

GOOD = "import time; time.sleep(8); print('{\"a\": 1}')"
INVENTORY = "inventory/localhost.yml"
PLAY = """
- hosts: localhost
  gather_facts: false
  vars:
    programs: PROGRAMS
  tasks:
    # The first is started last: it must still run when it is waited for.
    - ksm.testbed.background:
        name: "{{ item.name }}"
        directory: DIRECTORY
        argv: "{{ item.argv }}"
      loop: "{{ programs | reverse }}"
    - ksm.testbed.background_wait:
        name: "{{ item.name }}"
        directory: DIRECTORY
        ready: "{{ item.ready | default(omit) }}"
        grace: "{{ item.grace | default(30) }}"
        samples: "{{ item.samples | default(omit) }}"
        label: "{{ item.label | default('') }}"
        seconds: "{{ item.seconds | default(0) }}"
        report: 0.3
      loop: "{{ programs }}"
      register: waited
      ignore_errors: true
    - ansible.builtin.copy: {content: "{{ waited.results | to_json }}", dest: DIRECTORY/waited}
"""


@pytest.mark.usefixtures("_ended")
def test_waiting_returns_the_record_or_says_how_it_failed(tmp_path):
    """One play for all cases, because starting Ansible is slow."""
    samples = tmp_path / "samples.jsonl"
    header = {"kind": "header", "monotonic": 10, "samples": 5, "period": 1, "page_size": 4096}
    sample = {"kind": "sample", "monotonic": 12.5, "ksm": {"full_scans": 2, "pages_sharing": 7}}
    samples.write_text(f"{json.dumps(header)}\n{json.dumps(sample)}\n")
    orphan = "import os, signal, time; os.kill(os.getppid(), signal.SIGKILL); time.sleep(5)"
    (tmp_path / "pid").write_text("4242\n")
    (tmp_path / "error").write_text('{"error": "no port"}')
    good = {"seconds": 8, "samples": str(samples), "label": "run-1"}
    programs = [
        {"name": "good", "argv": python(GOOD), **good},
        {"name": "bad", "argv": python("import sys; sys.exit('no room')")},
        {"name": "killed", "argv": python("import os; os.kill(os.getpid(), 9)")},
        {"name": "late", "argv": ["/bin/sleep", "60"], "grace": 0.3},
        {"name": "orphan", "argv": python(orphan)},
        {"name": "ready", "argv": ["/bin/sleep", "60"], "ready": str(tmp_path / "pid")},
        {"name": "unready", "argv": ["/bin/sleep", "60"], "ready": str(tmp_path / "error")},
        {"name": "gone", "argv": python("import sys; sys.stderr.write('no')"), "ready": "/no"},
        {"name": "slow", "argv": ["/bin/sleep", "60"], "ready": "/no", "grace": 0.3},
    ]
    playbook = tmp_path / "play.yml"
    playbook.write_text(
        PLAY.replace("DIRECTORY", str(tmp_path)).replace("PROGRAMS", json.dumps(programs))
    )
    printed = run_playbook("-i", INVENTORY, str(playbook))
    good, bad, killed, late, orphaned, *ready = json.loads((tmp_path / "waited").read_text())

    assert good["record"]["summary"] == {"a": 1}
    told = "sampling: host=localhost run=run-1 seconds=2.5 of=4 full_scans=2 pages_sharing=7"
    assert told in printed
    assert bad["msg"] == "the bad ended with exit code 1. no room"
    assert killed["msg"] == "the killed was killed by signal KILL"
    assert late["msg"] == "the late still runs 0.3 s after its end was due"
    assert orphaned["msg"] == "the orphan has lost its supervisor, so its exit status is unknown"

    assert ready[0]["ready"] == 4242
    assert [each["msg"] for each in ready[1:]] == [
        "no port",
        "the gone ended with exit code 0. no",
        "the slow was not ready within 0.3 s",
    ]


STOP = """
- hosts: localhost
  gather_facts: false
  tasks:
    - ksm.testbed.background: {name: NAME, directory: DIRECTORY, state: stopped}
      register: stopped
    - ansible.builtin.copy: {content: "{{ stopped | to_json }}", dest: DIRECTORY/said}
"""


@pytest.mark.usefixtures("_ended")
@pytest.mark.parametrize("runs", [True, False])
def test_a_play_stops_a_program_once(background, runs, tmp_path):
    background(argv=["/bin/sleep", "60" if runs else "0"])
    if not runs:
        ended(tmp_path)
    (tmp_path / "play.yml").write_text(
        STOP.replace("DIRECTORY", str(tmp_path)).replace("NAME", "program")
    )
    printed = run_playbook("-vvv", "-i", INVENTORY, str(tmp_path / "play.yml"))
    said = json.loads((tmp_path / "said").read_text())
    assert said["changed"] == runs
    assert said["record"]["signal"] == ("TERM" if runs else None)
    assert ("modules/background.py" in printed) == runs, "no module if it has ended"
