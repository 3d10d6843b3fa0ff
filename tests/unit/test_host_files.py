"""Files on a host and on the controller: written once, compared truly, looked for, set aside."""

from __future__ import annotations

import os

import pytest
import yaml
from programs import run_playbook


@pytest.fixture
def play(tmp_path):
    """Return a function that runs tasks, and says what Ansible has printed."""
    playbook = tmp_path / "play.yml"

    def run(*tasks: dict, options: tuple[str, ...] = ()) -> str:
        plays = [{"hosts": "localhost", "gather_facts": False, "tasks": [*tasks]}]
        playbook.write_text(yaml.safe_dump(plays))
        return run_playbook(*options, str(playbook))

    return run


@pytest.fixture
def files(tmp_path) -> dict:
    """Make the task that writes two programs and a text."""
    for name in ("one.py", "two.py"):
        (tmp_path / name).write_text(f"# {name}\n")
    return {
        "ksm.testbed.host_files": {
            "directory": str(tmp_path / "a b/programs"),
            "src": [str(tmp_path / "one.py"), str(tmp_path / "two.py")],
            "content": {"empty": "", "three": "é\n"},
        }
    }


def test_files_are_written_once_and_repaired(play, files, tmp_path):
    place = tmp_path / "a b/programs"
    assert "changed=1" in play(files)
    (place / "other").touch()
    (place / "one.py").write_text("# damaged\n")
    (place / "two.py").chmod(0o600)
    (place / "three").unlink()
    (place / "three").symlink_to("one.py")
    place.chmod(0o700)
    said = play(files, files, options=("--diff",))
    assert "changed=1" in said, "the second task changes nothing"
    assert "-0600 0:0 regular file" in said, "the mode that was found"
    assert "+0755 0:0 regular file" in said
    assert "empty" not in said, "it is as it should be"
    assert {path.name for path in place.iterdir()} == {
        "one.py",
        "two.py",
        "empty",
        "three",
        "other",
    }
    assert (place / "one.py").read_text() == "# one.py\n"
    assert (place / "three").read_text() == "é\n"
    assert not (place / "three").is_symlink()
    assert {oct(path.stat().st_mode & 0o777) for path in (place, place / "two.py")} == {"0o755"}


def test_check_mode_says_what_would_be_written_and_writes_nothing(play, files, tmp_path):
    said = play(files, options=("--check", "--diff"))
    assert "changed=1" in said
    assert "one.py" in said
    assert not (tmp_path / "a b").exists()


def test_a_directory_that_cannot_be_made_is_an_error(play, tmp_path):
    (tmp_path / "file").touch()
    task = {"ksm.testbed.host_files": {"directory": str(tmp_path / "file/below")}}
    check = {"that": "'Not a directory' in ansible_failed_result.msg"}
    said = play({"block": [task], "rescue": [{"ansible.builtin.assert": check}]})
    assert "rescued=1" in said


def test_what_exists_is_found_and_read_without_a_module(play, tmp_path):
    (tmp_path / "a 'b'").touch()
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "text").write_text("é\n: 1\n")
    (tmp_path / "damaged").write_bytes(b"\xff")
    paths = [str(tmp_path / name) for name in ("a 'b'", "nothing", "link", "text", "damaged", "no")]
    look = {"paths": paths[:3], "read": paths[3:]}
    wanted = {
        "existing": [paths[0], *paths[2:5]],
        "contents": {paths[3]: "é\n: 1\n", paths[4]: "\ufffd"},
    }
    tasks = (
        {"ksm.testbed.paths_info": look, "register": "seen"},
        {
            "ansible.builtin.assert": {
                "that": ["seen.existing == wanted.existing", "seen.contents == wanted.contents"]
            },
            "vars": {"wanted": wanted},
        },
    )
    assert "Using module file" not in play(*tasks, options=("-vvv",))


def test_what_cannot_be_read_exists_without_a_text(play, tmp_path):
    """An interrupted run whose record cannot be read must not keep the rest from being restored."""
    look = {"ksm.testbed.paths_info": {"read": [str(tmp_path)]}, "register": "seen"}
    check = {"that": ["seen.existing | length == 1", "seen.contents == {}"]}
    play(look, {"ansible.builtin.assert": check})


def test_lines_that_the_shell_of_the_host_prints_are_no_answers(play, files, tmp_path):
    shell = tmp_path / "shell"
    shell.write_text("#!/bin/sh\necho 'warning: cannot change locale'\nexec /bin/sh \"$@\"\n")
    shell.chmod(0o755)
    (tmp_path / "text").write_text("1\n")
    look = {"paths": ["/nothing", str(tmp_path)], "read": [str(tmp_path / "text")]}
    check = {"that": ["seen.existing | length == 2", "seen.contents.values() | list == ['1\n']"]}
    said = play(
        {"ansible.builtin.set_fact": {"ansible_shell_executable": str(shell)}},
        {"ksm.testbed.paths_info": look, "register": "seen"},
        {"ansible.builtin.assert": check},
        files,
        files,
    )
    assert "changed=1" in said


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"mode": "rwx"}, "mode must be an octal number such as 0755, and is rwx"),
        (
            {"directory_mode": 493},
            "directory_mode must be an octal number such as 0755, and is 493",
        ),
        ({"content": {"two words": ""}}, "a name of a file must not have spaces: two words"),
    ],
)
def test_what_host_files_refuses(play, files, tmp_path, wrong, words):
    files["ksm.testbed.host_files"] |= wrong
    check = {"that": f"'{words}' in ansible_failed_result.msg"}
    assert "rescued=1" in play({"block": [files], "rescue": [{"ansible.builtin.assert": check}]})
    assert not (tmp_path / "a b").exists()


def test_earlier_results_are_set_aside_and_never_overwritten(play, tmp_path):
    results = tmp_path / "results"
    results.mkdir()
    (results / "plan.json").write_text("old\n")
    os.utime(results, (1e9, 1e9))
    tasks = (
        {"ksm.testbed.set_aside": {"path": str(results), "aside": f"{tmp_path}/.aside/results"}},
        {"ksm.testbed.run_directory": {"path": str(results), "files": {"plan.json": "new\n"}}},
    )
    said = play(*tasks, options=("--check", "--diff"))
    assert "changed=2" in said
    assert "+new" in said
    assert (results / "plan.json").read_text() == "old\n"
    assert "changed=2" in play(*tasks)
    (aside,) = tmp_path.glob(".aside/results.2001*")
    assert (aside / "plan.json").read_text() == "old\n"
    assert (results / "plan.json").read_text() == "new\n"
    assert "changed=0" in play(tasks[1])


def test_what_guests_have_left_is_removed_and_nothing_else(play, tmp_path):
    place = tmp_path / "guests"
    place.mkdir()
    for name in ("g-01.qcow2", "g-01.console.log", "g-02.qcow2.old", "xg-03.qcow2"):
        (place / name).touch()
    task = {
        "ksm.testbed.guest_disks": {
            "state": "absent",
            "directory": str(place),
            "pattern": r"g-\d\d|h-\d",
        }
    }
    said = play(task, options=("--check", "--diff"))
    assert "-" + str(place / "g-01.qcow2") in said
    assert len([*place.iterdir()]) == 4
    assert "changed=1" in play(task)
    assert {path.name for path in place.iterdir()} == {"g-02.qcow2.old", "xg-03.qcow2"}
    for path in place.iterdir():
        path.unlink()
    assert "changed=1" in play(task, task)
    assert not place.exists()
