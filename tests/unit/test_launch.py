"""Small playbooks, launched like those of an experiment, and ended in every way."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from ksm_analysis.__main__ import main, parser
from ksm_analysis.campaign import launch
from ksm_analysis.campaign.campaign import Asked, Campaign, Log
from ksm_analysis.campaign.views import JsonView
from ksm_analysis.commands import run as command
from ksm_analysis.definition import experiment
from ksm_analysis.errors import InputError

CONFIGURATION = """
[defaults]
roles_path = roles
[connection]
pipelining = true
"""
INVENTORY = """
ksm_hosts:
  hosts:
    one: &local {ansible_connection: local, ansible_python_interpreter: /usr/bin/python3}
    two-2: *local
elsewhere: {hosts: {three: *local}}
"""
PLAY = """
- name: Play
  hosts: "ksm_hosts:&{{ ksm_limit | default('all') }}"
  gather_facts: false
  tasks:
"""
# A run, as the role run reports it and leaves its files.
RUN = """
    - name: Record which run this is
      ansible.builtin.set_fact:
        run_current: {id: r1, index: 1, of: 1, share: [r1], factors: {guests: 1}, seconds: 9.0}
    - name: Show the variables
      ansible.builtin.debug: {msg: "note={{ ksm_plan.note }} more={{ more | default('') }}"}
    - name: Sample
      say: {line: "sampling: host=one run=r1 seconds=3.0 of=9.0 pages_sharing=7 page_size=4096"}
    - name: Write a run
      ansible.builtin.copy:
        dest: "{{ results }}/quick/r1/run.json"
        content: '{"status": "complete"}'
        mode: "0644"
    - name: Write the page
      ansible.builtin.copy: {dest: "{{ results }}/quick/report.html", content: "", mode: "0644"}
    - name: Record how the run ended
      ansible.builtin.set_fact:
        run_ended: {id: r1, status: complete, reason: ""}
"""
SAY = """
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

class ActionModule(ActionBase):
    _VALID_ARGS = frozenset(("line",))

    def run(self, tmp=None, task_vars=None):
        Display().display(self._task.args["line"])
        return {"changed": False}
"""
REFUSE = """
    - name: Lock the host
      ansible.builtin.fail: {msg: this host is locked by another (process 1)}
"""
WAIT = """
    - name: Lock the host
      ansible.builtin.include_role: {name: lock}
    - name: Report the start
      ansible.builtin.copy: {dest: "{{ results }}/begun", content: "", mode: "0644"}
    - name: Wait
      ansible.builtin.command: {argv: [sleep, "300"]}
"""
RESTORE = """
    - name: Restore
      ansible.builtin.copy:
        dest: "{{ playbook_dir }}/restored"
        content: "{{ given }}"
        mode: "0644"
      vars:
        given: "{{ ksm_limit }} keep_image={{ keep_image }} force={{ force | default(false) }}"
"""
DRIVER = """
import sys
from pathlib import Path
from test_launch import asked
from ksm_analysis.campaign.campaign import Campaign
from ksm_analysis.campaign.views import JsonView
sys.exit(Campaign(asked(Path(sys.argv[1])), JsonView).run())
"""


@pytest.fixture
def site(tmp_path):
    """Make a repository with playbooks that a test may replace."""
    (tmp_path / "playbooks").mkdir()
    (tmp_path / "action_plugins").mkdir()
    (tmp_path / "roles/lock/tasks").mkdir(parents=True)
    (tmp_path / "roles/lock/tasks/main.yml").write_text("- ansible.builtin.debug:\n")
    (tmp_path / "action_plugins/say.py").write_text(SAY)
    (tmp_path / "results/quick/r1").mkdir(parents=True)
    (tmp_path / "ansible.cfg").write_text(CONFIGURATION)
    (tmp_path / "inventory.yml").write_text(INVENTORY)
    (tmp_path / "playbooks/teardown.yml").write_text(PLAY + RESTORE)
    return tmp_path


def asked(site, **values):
    run = {"id": "r1", "index": 1, "seconds": 9.0, "factors": {"guests": 1}}
    plan = {"experiment": "quick", "note": "{{ no template }}", "seconds": 9.0, "runs": [run]}
    given = {
        "plan": plan,
        "whole": plan,
        "file": site / "quick.yml",
        "root": site,
        "inventory": site / "inventory.yml",
        "hosts": ["one"],
        "limited": True,
        "results": site / "results",
        "resume": False,
        "more": (),
        "report_seconds": 1,
        "again": "run --resume",
    }
    return Asked(**{**given, **values})


def notices(text, event="message"):
    read = [json.loads(line) for line in text.splitlines()]
    return [each for each in read if each["event"] == event]


def texts(text):
    return [each["text"] for each in notices(text)]


# --- to the end -----------------------------------------------------------------------------------


def test_a_campaign_that_succeeds(site, capsys):
    (site / "site.yml").write_text(PLAY + RUN)
    code = Campaign(asked(site, more=("more=a", '{"more": "b"}')), JsonView).run()
    out = capsys.readouterr().out
    events = [json.loads(line)["event"] for line in out.splitlines()]
    (end,) = notices(out, "end")

    assert code == end["exit"] == 0
    assert events == ["plan", "run started", "sampling", "run ended", "report", "message", "end"]
    assert notices(out, "sampling")[0]["pages_sharing"] == 7
    assert end["complete"] == ["r1"]
    # a template in a plan is text; the last -e counts
    assert "note={{ no template }} more=b" in (site / "results/quick.log").read_text()


def test_a_campaign_on_a_locked_host(site, capsys):
    (site / "site.yml").write_text(PLAY + REFUSE)
    (site / "results/quick/r1/run.json").write_text('{"status": "complete"}')
    code = Campaign(asked(site), JsonView).run()
    out = capsys.readouterr().out
    (end,) = notices(out, "end")

    # earlier results do not belong to this launch
    assert code == 1
    assert end["missing"] == ["r1"]
    assert texts(out) == [
        "Lock the host: this host is locked by another (process 1)",
        "0 of 1 run complete; missing: r1",
        "to do the remaining runs: run --resume",
        f"full output of Ansible: {site / 'results/quick.log'}",
    ]


def test_a_playbook_that_cannot_start(site, capsys):
    (site / "site.yml").write_text("- hosts: [")

    assert Campaign(asked(site), JsonView).run() == 1
    assert texts(capsys.readouterr().out)[0].startswith("YAML parsing failed")


# --- ended ----------------------------------------------------------------------------------------


class Program:
    """A launch in a separate process; all descendants have its marker."""

    def __init__(self, site):
        self.mark = f"KSM_TEST_MARK={uuid.uuid4()}"
        name, value = self.mark.split("=")
        here = Path(__file__).parent
        (site / "tmp").mkdir()  # files that are left after a kill are removed with the test
        paths = {"PYTHONPATH": f"{here}:{here.parents[1]}", "TMPDIR": f"{site}/tmp", name: value}
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(site)],
            env={**os.environ, **paths},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(self, number=None):
        """Send a signal and return exit status and output."""
        if number:
            self.process.send_signal(number)
        out, err = self.process.communicate(timeout=30)
        assert "Traceback" not in err
        return self.process.returncode, out

    def left(self):
        """Return the command lines of its remaining processes."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if self.mark.encode() in (path / "environ").read_bytes():
                    found.append((path / "cmdline").read_bytes().replace(b"\0", b" "))
        return found

    def has_ended(self):
        until(lambda: not self.left(), seconds=15)


def restored(site):
    return (site / "playbooks/restored").read_text()


def until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def waiting(site):
    """Start a launch whose playbook waits in a task."""
    (site / "site.yml").write_text(PLAY + WAIT)
    program = Program(site)
    until((site / "results/begun").exists)
    until(lambda: any(b"sleep 300" in line for line in program.left()))
    yield program
    if program.process.poll() is None:
        program.process.kill()
        program.has_ended()


def test_ctrl_c_ends_the_playbook_and_restores_the_host(site, waiting):
    code, out = waiting.end(signal.SIGINT)

    assert code == 130
    assert waiting.left() == []
    assert restored(site) == "one keep_image=True force=True"
    assert notices(out, "end")[0]["exit"] == 130
    assert texts(out)[1:] == [
        "the host is restored",
        "finished: 0 of 1 run: none",
        "to continue: run --resume",
    ]


def test_a_second_ctrl_c_leaves_the_host(site, waiting):
    wait_again = WAIT.replace("{{ results }}/begun", "{{ playbook_dir }}/giving-back")
    (site / "playbooks/teardown.yml").write_text(PLAY + wait_again)
    waiting.process.send_signal(signal.SIGINT)
    time.sleep(0.1)
    waiting.process.send_signal(signal.SIGINT)  # quickly repeated: counts once
    until((site / "playbooks/giving-back").exists)
    code, out = waiting.end(signal.SIGINT)

    assert code == 130
    assert waiting.left() == []
    assert texts(out)[1] == (
        "the host may not be restored; to restore it: ansible-playbook playbooks/teardown.yml "
        f"-i {site}/inventory.yml -e keep_image=true -e ksm_limit=one -e force=true"
    )


def test_a_kill_leaves_no_process(site, waiting):
    assert any(b"ansible-playbook" in line for line in waiting.left())
    waiting.process.kill()
    waiting.process.communicate()

    waiting.has_ended()
    assert not (site / "playbooks/restored").exists()


def test_a_signal_before_ansible_has_said_anything(site):
    (site / "site.yml").write_text(PLAY + WAIT)
    program = Program(site)
    assert json.loads(program.process.stdout.readline())["event"] == "plan"
    code, _ = program.end(signal.SIGTERM)

    assert code == 130
    assert program.left() == []
    # a lock that is not ours must not be broken
    assert restored(site) == "one keep_image=True force=False"


def test_the_host_is_restored_when_the_output_is_closed(site):
    (site / "site.yml").write_text(PLAY + RUN + WAIT)
    program = Program(site)
    program.process.stdout.readline()
    program.process.stdout.close()

    assert program.process.wait(timeout=30) == 130
    assert program.process.stderr.read() == ""
    assert program.left() == []
    assert (site / "playbooks/restored").exists()


# --- what is checked before -----------------------------------------------------------------------


def test_several_hosts_are_one_pattern_within_the_group(site):
    names = launch.pattern(["one", "two-2", "three"])

    assert launch.pattern(["one"]) == "one"
    assert launch.hosts(site, site / "inventory.yml", f"all:&{names}") == ["one", "two-2"]


@pytest.mark.parametrize("text", ["a=1", "a=1 b='x y'", '{"a": {"b": 1}}'])
def test_variables_are_accepted(text):
    assert command._variables(text) == text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("guests", "must be NAME=VALUE"),
        ("a='1", "must be NAME=VALUE"),
        ("{a", "must be NAME=VALUE"),
        ("@missing.yml", "no such file"),
        ("results=/x", "Use --results"),
        ('{"ksm_limit": "a"}', "Use --limit"),
    ],
)
def test_wrong_variables_are_refused(text, why):
    with pytest.raises(InputError, match=why):
        command._variables(text)


def test_the_command_that_continues_repeats_what_was_given():
    words = ["run", "a b.yml", "--results", "/r", "--interval", "2", "--limit", "x", "-e", "a=1"]
    again = command._again(parser("run").parse_args(words))

    assert again == (
        "python -m ksm_analysis run 'a b.yml' --results /r --limit x --interval 2 -e a=1 --resume"
    )


# --- the command line -----------------------------------------------------------------------------


@pytest.fixture
def quick(tmp_path):
    """Make an experiment file and a directory for its results."""
    file = tmp_path / "quick.yml"
    file.write_text("guests: {count: [1, 2]}\nsampling: {interval: 1, intervals: 2}\n")
    return [str(file), "--results", str(tmp_path / "results")]


def test_dry_run_shows_the_plan_and_starts_nothing(quick, tmp_path, capsys):
    assert main(["run", *quick, "--dry-run"]) == 0
    out = capsys.readouterr().out

    assert "g02-k1-idle-r1" in out
    assert f"results:         {tmp_path}/results/quick\n" in out
    assert not (tmp_path / "results").exists()


def test_nothing_is_left_to_do(quick, tmp_path, capsys):
    planned = experiment.plan(experiment.parse(Path(quick[0]).read_text(), quick[0]), quick[0])
    for each in planned["runs"]:
        path = tmp_path / "results/quick" / each["id"] / "run.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"status": "complete", "run": each}))

    assert main(["run", *quick, "--resume"]) == 0
    assert capsys.readouterr().out.startswith("nothing is left to run: ")
    assert main(["run", *quick, "--resume", "--json"]) == 0
    assert notices(capsys.readouterr().out, "end")[0]["complete"] == [
        "g01-k1-idle-r1",
        "g02-k1-idle-r1",
    ]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--inventory", "missing.yml"], "missing.yml: no such inventory"),
        (["--limit", "nowhere"], "inventory/localhost.yml. There are: localhost\n"),
        (["--interval", "-1"], "interval"),
        (["-e", "resume=true"], "Use --resume"),
    ],
)
def test_wrong_arguments_are_reported_before_anything_starts(quick, capsys, options, why):
    assert main(["run", *quick, *options]) == 2
    assert why in capsys.readouterr().err


# --- the log --------------------------------------------------------------------------------------


def test_a_full_disk_loses_only_the_log():
    with Log(Path("/dev/full")) as log:
        said = [log.write("a line"), log.write("another")]

    assert said == ["/dev/full: cannot be written: No space left on device", ""]
    assert log.path is None


def test_results_that_cannot_be_written_are_refused(tmp_path):
    (tmp_path / "results").write_text("a file")

    with pytest.raises(InputError, match="results: cannot be written: File exists"):
        Log(tmp_path / "results/quick.log")


def test_an_orphaned_worker_is_killed(tmp_path):
    """A worker that was forked while its playbook ended has no parent, and ignores signals."""
    marker = f"@{tmp_path}/quick.yml"
    orphan = (
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "os.fork() and os._exit(0)\n"
        "os.setsid()\n"
        "print(os.getpid(), flush=True)\n"
        "time.sleep(60)\n"
    )
    started = subprocess.Popen(
        [sys.executable, "-c", orphan, "-e", marker], stdout=subprocess.PIPE, text=True
    )
    pid = int(started.stdout.readline())
    other = subprocess.Popen(["/bin/sleep", "60"])
    try:
        launch.kill_marked(marker.encode())
        assert (
            not Path(f"/proc/{pid}/cmdline").exists()
            or not Path(f"/proc/{pid}/cmdline").read_bytes()
        )
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()
        started.wait()
