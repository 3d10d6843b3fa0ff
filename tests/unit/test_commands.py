"""The command line, as it is called."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from made_up_runs import run_record

from ksm_analysis.__main__ import main

ROOT = Path(__file__).parents[2]
QUICK = str(ROOT / "experiments/quick.yml")


@pytest.fixture
def results(write_run):
    for guests in (1, 2):
        path = write_run(guests=guests, workload="stress")
    write_run(run_record(guests=3, status="failed", reason="no answer"))
    return path.parent


def call(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "ksm_analysis", *arguments],
        cwd=ROOT,
        text=True,
        capture_output=True,
        check=False,
    )


def test_plan_for_people(capsys):
    assert main(["plan", QUICK]) == 0
    out = capsys.readouterr().out

    assert "g03-k1-stress-r1" in out
    assert "6 runs, about 10 min in all" in out


def test_plan_for_programs(capsys):
    assert main(["plan", QUICK, "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)

    assert planned["experiment"] == "quick"
    assert planned["file"] == QUICK
    assert len(planned["runs"]) == 6


def test_words_of_a_definition_are_no_markup(capsys, tmp_path):
    file = tmp_path / "a.yml"
    file.write_text(
        "note: '[red]loud[/]'\nguests: {count: 1}\nsampling: {interval: 1, intervals: 1}"
    )

    assert main(["plan", str(file)]) == 0
    assert "[red]loud[/]" in capsys.readouterr().out


def test_a_wrong_definition_ends_with_2_and_words(tmp_path):
    file = tmp_path / "wrong.yml"
    file.write_text("guests: {cuont: 1}\nsampling: {interval: 1, intervals: 1}")
    done = call("plan", str(file), "--json")

    assert done.returncode == 2
    assert done.stdout == ""
    assert f"{file}:1: guests.cuont: unknown key. Did you mean count?" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["play"],
        ["plan"],
        ["plan", "absent.yml"],
        ["plan", "."],
        ["plan", "/proc/self/exe"],
        ["summary", "absent"],
        ["summary", "docs"],
        ["summary", QUICK],
        ["summary", "docs", "--csv", "--json"],
        ["report", "docs"],
        ["report", "absent", "-o", "page.html"],
    ],
)
def test_what_cannot_be_used_ends_with_2_and_words(arguments):
    done = call(*arguments)

    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr) > 20
    assert "Traceback" not in done.stderr


def test_a_format_that_is_not_known_is_refused(capsys, write_run):
    path = write_run(run_record(format=7))

    assert main(["summary", str(path.parent)]) == 2
    assert "format 7 is not known" in capsys.readouterr().err


def test_summary_for_people(capsys, results):
    assert main(["summary", str(results)]) == 0
    captured = capsys.readouterr()

    assert "26,667" in captured.out
    assert "2,100" in captured.out
    assert "warning: g03-k1-idle-r1: left out, since the run failed: no answer" in captured.err


def test_summary_for_programs(capsys, results):
    assert main(["summary", str(results), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert main(["summary", str(results), "--csv"]) == 0
    table = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))

    assert [row["run"] for row in rows] == ["g01-k1-stress-r1", "g02-k1-stress-r1"]
    assert rows[1]["pages_sharing"] == 26_667
    assert rows[1]["pages_skipped"] is None
    assert [row["run"] for row in table] == [row["run"] for row in rows]
    assert float(table[1]["shared_percent_configured"]) == rows[1]["shared_percent_configured"]
    assert table[1].keys() == rows[1].keys()


@pytest.mark.parametrize("form", [[], ["--json"], ["--csv"]])
def test_summary_of_failed_runs_alone(capsys, write_run, form):
    path = write_run(run_record(status="failed", reason="no answer"))

    assert main(["summary", str(path.parent), *form]) == 0
    assert "no answer" in capsys.readouterr().err


def test_report_says_where_it_is(capsys, results, tmp_path):
    assert main(["report", str(results)]) == 0
    assert capsys.readouterr().out == f"{results / 'report.html'}\n"
    assert main(["report", str(results), "-o", str(tmp_path / "page.html")]) == 0

    assert (results / "report.html").read_bytes() == (tmp_path / "page.html").read_bytes()


def test_report_to_where_nothing_can_be_written(capsys, results):
    assert main(["report", str(results), "-o", "/absent/page.html"]) == 2
    assert "/absent/page.html: cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["", "plan", "report", "summary"])
def test_help_teaches_and_is_quick(command):
    done = call(*filter(None, [command]), "--help")
    assert done.returncode == 0
    assert "examples:" in done.stdout

    heavy = "{'pandas', 'plotly', 'pydantic', 'pyarrow', 'rich', 'yaml', 'jinja2'}"
    code = (
        "import sys, ksm_analysis.__main__ as m\n"
        "try: m.main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        f"print({heavy} & sys.modules.keys() or 'light', file=sys.stderr)"
    )
    arguments = [*filter(None, [command]), "--help"]
    loaded = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        text=True,
        capture_output=True,
        check=True,
    )
    assert loaded.stderr.strip() == "light"


def test_a_reader_that_has_had_enough():
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m ksm_analysis plan {QUICK} --json | head -1"],
        cwd=ROOT,
        text=True,
        capture_output=True,
        check=True,
    )
    assert done.stdout == "{\n"
    assert done.stderr == ""
