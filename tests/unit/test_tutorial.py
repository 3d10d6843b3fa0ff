"""The lesson that needs no host, up to its real run, prints what it says."""

import re
from pathlib import Path

from ksm_analysis.__main__ import main

LESSON = (Path(__file__).parents[2] / "docs/tutorial/experiment.md").read_text()


def test_the_commands_of_the_lesson_print_what_it_shows(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    definition, *steps = re.split(r"^    python -m ksm_analysis (.*)\n", LESSON, flags=re.MULTILINE)
    Path("mine.yml").write_text(block("yaml", definition))
    for command, text in zip(steps[::2], steps[1::2], strict=True):
        if command.startswith("run "):
            break
        assert main(command.split()) == 0
        done = capsys.readouterr()
        printed = words(done.out + done.err)
        for part in words(block("text", text)).split("…"):
            assert part.strip() in printed, command
    assert command.startswith("run ")
    assert Path("results/simulated/mine/report.html").exists()


def block(language, text):
    """Return the first block of code in a language, or nothing."""
    found = re.search(rf"```{language}\n(.*?)```", text, re.DOTALL)
    return found[1] if found else ""


def words(text):
    """Return text without what depends on the width of a terminal."""
    return " ".join(text.replace("─", "").split())
