"""The command line."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from made_up_runs import run_record

from ksm_analysis.__main__ import COMMANDS, main, module

ROOT = Path(__file__).parents[2]
QUICK = str(ROOT / "experiments/quick.yml")


@pytest.fixture
def results(write_run):
    for guests in (1, 2):
        path = write_run(guests=guests, workload="stress")
    write_run(run_record(guests=3, status="failed", reason="no answer"))
    return path.parent


def call(*arguments):
    """Run a command in another process, as people do."""
    return subprocess.run(
        [sys.executable, "-m", "ksm_analysis", *arguments],
        cwd=ROOT,
        text=True,
        capture_output=True,
        check=False,
    )


@pytest.fixture
def refused(capsys, monkeypatch):
    """Run a command that is refused, in this process; return what it says."""
    monkeypatch.chdir(ROOT)

    def run(*arguments):
        try:
            status = main([*arguments])
        except SystemExit as ended:
            status = ended.code
        said = capsys.readouterr()
        assert (status, said.out) == (2, "")
        return said.err

    return run


def test_plan_for_people(capsys):
    assert main(["plan", QUICK]) == 0
    out = capsys.readouterr().out

    assert "g03-k1-stress-r1" in out
    assert "6 runs, about 10 min in all" in out


def test_plan_shows_the_census(capsys, tmp_path):
    file = tmp_path / "counted.yml"
    census = "{moments: [end, every: 20, at-scan-boundary], pause: true}"
    sampling = "sampling: {interval: 1, intervals: 60}"
    file.write_text(f"guests: {{count: 1}}\n{sampling}\ncensus: {census}\n")

    assert main(["plan", str(file)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "in each run: every 20 s, whenever a scan has ended, at the end; the guests are" in out


def test_plan_says_what_cannot_merge(capsys, tmp_path):
    file = tmp_path / "shared.yml"
    file.write_text(
        "guests: {count: 1, backing: [shared, locked]}\nsampling: {interval: 1, intervals: 4}"
    )

    assert main(["plan", str(file)]) == 0

    shown = " ".join(capsys.readouterr().out.split())
    assert "KSM cannot merge the memory of these guests: it is shared memory" in shown
    assert "(g01-v1-k1-idle-r1)." in shown


def test_plan_for_programs(capsys):
    assert main(["plan", QUICK, "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)

    assert planned["experiment"] == "quick"
    assert planned["file"] == QUICK
    assert len(planned["runs"]) == 6


def test_plan_with_shorter_intervals(capsys):
    options = ["--interval", "1", "--intervals", "20", "--json"]
    assert main(["plan", QUICK, *options]) == 0
    planned = json.loads(capsys.readouterr().out)

    assert {run["sampling"]["seconds"] for run in planned["runs"]} == {20.0}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--interval", "0.1"], "--interval: must be a whole multiple of 'period' (0.25 s)"),
        (["--interval", "x"], "--interval: invalid float value: 'x'"),
        (["--intervals", "0"], "--intervals: must be a whole number from 1 to 100000, not 0"),
        (["--intervals", "1.5"], "--intervals: invalid int value: '1.5'"),
    ],
)
def test_wrong_options_are_named(options, words, refused):
    assert words in refused("plan", QUICK, *options)


@pytest.fixture
def interrupted(capsys, tmp_path):
    """Write results of the quick experiment: of six runs, four are complete and one failed."""
    assert main(["plan", QUICK, "--json"]) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    for run in runs[:5]:
        directory = tmp_path / "quick" / run["id"]
        directory.mkdir(parents=True)
        status = "failed" if run["index"] == 2 else "complete"
        record = {"format": 2, "experiment": "quick", "run": run, "status": status}
        (directory / "run.json").write_text(json.dumps(record))
    return str(tmp_path)


def test_plan_of_the_remaining_runs(capsys, interrupted):
    assert main(["plan", QUICK, "--results", interrupted, "--resume"]) == 0
    shown = capsys.readouterr().out
    assert main(["plan", QUICK, "--results", interrupted, "--resume", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)

    assert "2 of 6 runs left, about 4 min in all" in shown
    assert "g03-k1-stress-r1" in shown
    assert "g02-k1-idle-r1" not in shown
    assert [run["index"] for run in planned["runs"]] == [2, 6]


def test_a_plan_that_does_not_resume_has_all_runs(capsys, interrupted):
    assert main(["plan", QUICK, "--results", interrupted]) == 0
    assert "6 runs, about 10 min in all" in capsys.readouterr().out


def test_nothing_is_left(capsys, interrupted):
    for path in Path(interrupted).glob("quick/*/run.json"):
        path.write_text(path.read_text().replace('"failed"', '"complete"'))
    options = ["--results", interrupted, "--resume"]
    run = Path(interrupted, "quick/g03-k1-stress-r1")
    run.mkdir()
    assert main(["plan", QUICK, *options, "--json"]) == 0
    (last,) = json.loads(capsys.readouterr().out)["runs"]
    (run / "run.json").write_text(json.dumps({"run": last, "status": "complete"}))

    assert main(["plan", QUICK, *options]) == 0
    assert "0 of 6 runs left, about 0 min in all" in capsys.readouterr().out


def test_a_finished_run_that_differs_is_refused(interrupted, refused):
    options = ["--results", interrupted, "--resume", "--intervals", "20"]

    assert "sampling.intervals: recorded 15, planned 20" in refused("plan", QUICK, *options)


def test_the_schema_of_the_project_is_up_to_date(capsys):
    assert main(["schema"]) == 0
    assert capsys.readouterr().out == (ROOT / "experiments/experiment.schema.json").read_text()


def test_text_of_a_definition_is_not_markup(capsys, tmp_path):
    file = tmp_path / "a.yml"
    file.write_text(
        "note: '[red]loud[/]'\nguests: {count: 1}\nsampling: {interval: 1, intervals: 1}"
    )

    assert main(["plan", str(file)]) == 0
    assert "[red]loud[/]" in capsys.readouterr().out


def test_a_wrong_definition_ends_with_2_and_a_message(tmp_path):
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
        ["answer", "absent"],
        ["summary", "absent"],
        ["summary", "docs"],
        ["summary", QUICK],
        ["summary", "docs", "--csv", "--json"],
        ["report", "docs"],
        ["report", "absent", "-o", "page.html"],
    ],
)
def test_unusable_arguments_end_with_2_and_a_message(arguments, refused):
    assert len(refused(*arguments)) > 20


def test_an_unknown_format_is_reported(capsys, write_run):
    path = write_run(run_record(format=7))

    assert main(["summary", str(path.parent)]) == 0
    captured = capsys.readouterr()
    assert "format 7 of run.json is not known" in captured.out + captured.err


def test_answer_for_people(capsys, results):
    assert main(["answer", str(results)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.startswith("With 2 guests, stress: KSM saves")
    assert "warning: " in printed


def test_answer_for_programs(capsys, write_run):
    for pages in (1000, 4000):
        for repetition in (1, 2, 3):
            record = run_record(guests=1, repetition=repetition)
            record["run"]["factors"]["knobs"] = f"pages_to_scan={pages}"
            path = write_run(record, name=f"{pages}-{repetition}")

    assert main(["answer", str(path.parent), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["headline"].startswith("With 1 guest, idle: KSM saves")
    assert [setting["knobs"] for setting in found["settings"]] == [
        "pages_to_scan=1000",
        "pages_to_scan=4000",
    ]
    assert found["settings"][0]["saved_mib"]["runs"] == 3
    (best,) = found["best"]
    assert (best["scenario"], best["confident"]) == ("1 guest, idle", False)
    assert len(best["knobs"]) == 2, "equal settings are not told apart"
    assert best["equal"], "equal runs are shown to save the same"
    assert (best["margin_percent"], best["front"]) == (1, best["knobs"])
    assert best["saved_mib"] == [setting["saved_mib"] for setting in found["settings"]]
    assert found["settings"][0]["seconds_to_95"]["reached"] == 3
    assert isinstance(found["warnings"], list)


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


def test_report_to_an_unwritable_path(capsys, results):
    assert main(["report", str(results), "-o", "/absent/page.html"]) == 2
    assert "/absent/page.html: cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_the_list_of_commands_has_their_help(command):
    assert COMMANDS[command] == module(command).HELP


def test_the_list_of_commands_is_complete():
    files = (ROOT / "ksm_analysis/commands").glob("[a-z]*.py")

    assert {file.stem.rstrip("_") for file in files} == COMMANDS.keys()


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_has_examples_and_is_fast(command):
    heavy = "{'pandas', 'plotly', 'pydantic', 'pyarrow', 'rich', 'yaml', 'jinja2'}"
    code = (
        "import sys, ksm_analysis.__main__ as m\n"
        "try: m.main(sys.argv[1:])\n"
        "except SystemExit as ended: print(ended.code)\n"
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
    assert "examples:" in loaded.stdout
    assert loaded.stdout.endswith("\n0\n")


def test_a_reader_that_stops_reading():
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m ksm_analysis plan {QUICK} --json | head -1"],
        cwd=ROOT,
        text=True,
        capture_output=True,
        check=True,
    )
    assert done.stdout == "{\n"
    assert done.stderr == ""
