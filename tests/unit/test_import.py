"""The command `import` converts all logs to run directories, or none."""

import errno
import hashlib
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from test_original_logs import HEADER, interval, text

from ksm_analysis.__main__ import main
from ksm_analysis.commands.import_ import names
from ksm_analysis.metrics import measurement
from ksm_analysis.results import reader

ROOT = Path(__file__).parents[2]


@pytest.fixture
def write_log(tmp_path):
    """Write a log of two intervals of 60 s; return its path. Header lines can be changed."""

    def write(name, *, intervals=2, **changed):
        path = tmp_path / "logs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        header = [f"{key}={value}" for key, value in {**HEADER, **changed}.items()]
        path.write_bytes(text(header, *(interval(n + 1) for n in range(intervals))))
        return path

    return write


@pytest.fixture
def results(tmp_path):
    return tmp_path / "results" / "old"


def record(results, run_id):
    return json.loads((results / run_id / "run.json").read_text())


def bring(*logs, to, options=()):
    return main(["import", *map(str, logs), "--results", str(to), *options])


def test_a_log_becomes_a_run(capsys, write_log, results):
    path = write_log("Idle 2 VMs.log")
    assert bring(path, to=results) == 0
    captured = capsys.readouterr()
    found = record(results, "idle-2-vms")

    assert captured.out.startswith(
        "idle-2-vms: 2 guests, 2 intervals of 60 s, pages of 4096 bytes (assumed)\n"
    )
    assert f"python -m ksm_analysis report {results}\n" in captured.out
    assert captured.err == ""
    assert sorted(p.name for p in results.iterdir()) == ["idle-2-vms"]
    files = sorted(p.name for p in (results / "idle-2-vms").iterdir())
    assert files == ["events.jsonl", "run.json", "samples.jsonl"]
    assert found["experiment"] == "old"
    assert found["run"]["sampling"] == {
        "interval": 60.0,
        "intervals": 2,
        "period": 60.0,
        "samples": 2,
        "seconds": 120.0,
    }
    assert found["knobs"]["during"] == {"run": 1, "pages_to_scan": 1000, "sleep_millisecs": 20}
    assert found["imported"] == {
        "file": "Idle 2 VMs.log",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "header": HEADER,
        "other": [],
        "cut_short": None,
        "assumed": {"memory_mib": 512, "page_size": 4096},
    }


def test_an_imported_run_is_read_as_any_run_is(write_log, results):
    assert bring(write_log("a.log"), to=results, options=["--memory-mib", "1024"]) == 0
    (run,) = reader.read_results(results).runs
    measured = measurement.measure(run)

    assert run.usable
    assert run.samples["ksm.full_scans"].tolist() == [3308, 3308]
    assert run.guests["ksm_rmap_items"].tolist() == [5, 5]
    assert measured.host["host_cpu_percent"].tolist() == [7.03, 7.03]
    assert measured.host["guest_memory_configured_mib"].tolist() == [2048, 2048]


@pytest.mark.parametrize("kind", ["no guests", "no ksm_stat", "no cpu"])
def test_the_reader_accepts_old_logs_with_missing_values(tmp_path, results, kind):
    header = {**HEADER, "vm_pid_array": ""} if kind == "no guests" else HEADER
    lines = [interval(n, "" if kind == "no cpu" else "1", stats=()) for n in (1, 2)]
    path = tmp_path / "a.log"
    path.write_bytes(text([f"{key}={value}" for key, value in header.items()], *lines))
    assert bring(path, to=results) == 0
    (run,) = reader.read_results(results).runs

    assert run.usable
    assert run.warnings == ()


def test_a_single_interval_is_enough(write_log, results):
    assert bring(write_log("a.log", intervals=1, num_intervals=1), to=results) == 0
    (run,) = reader.read_results(results).usable

    assert measurement.measure(run).host["host_cpu_percent"].tolist() == [7.03]


def test_repetitions_and_indexes_continue_after_existing_runs(write_log, results):
    assert bring(write_log("b.log"), write_log("a.log"), to=results) == 0
    stress = write_log("d.log", command_executed_in_vms="'stress-ng'")
    assert bring(write_log("c.log"), stress, to=results) == 0
    found = {run_id: record(results, run_id)["run"] for run_id in "badc"}

    assert {i: run["index"] for i, run in found.items()} == {"b": 1, "a": 2, "c": 3, "d": 4}
    repetitions = {i: run["factors"]["repetition"] for i, run in found.items()}
    assert repetitions == {"b": 1, "a": 2, "c": 3, "d": 1}
    assert found["d"]["factors"]["workload"] == "stress-ng"


def test_a_log_that_is_imported_twice_is_reported(capsys, write_log, results):
    first, second, third = (write_log(f"{name}.log") for name in "abc")
    assert bring(first, second, to=results) == 0
    assert f"{second}: identical to {first}" in capsys.readouterr().err
    assert bring(third, to=results) == 0
    assert f"{third}: identical to a" in capsys.readouterr().err


def test_problems_of_a_log_are_reported_and_recorded(capsys, write_log, results):
    path = write_log("a.log", num_intervals=30, interval_duration="")
    with path.open("a") as file:
        file.write("cat: no such file\nInterval 3: average_cpu_")
    assert bring(path, to=results) == 0
    told, imported = capsys.readouterr().err, record(results, "a")["imported"]

    assert f"warning: {path}: the log ends after interval 2 of 30" in told
    assert f"warning: {path}: no usable interval_duration: 1 is assumed" in told
    assert "1 line has an unknown form, kept in run.json: cat: no such file" in told
    assert imported["cut_short"] == "ends after interval 2 of 30"
    assert imported["assumed"]["interval_duration"] == 1
    assert imported["other"] == ["cat: no such file"]
    assert "a: the log ends after interval 2 of 30" in reader.read_results(results).warnings


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("paths", "ids"),
    [
        (["x/idle.log"], ["idle"]),
        (["x/1000x20.run1.log", "x/Größe.LOG"], ["1000x20-run1", "groe"]),
        (["x/日本.log"], ["log"]),
        (["x/idle.log", "y/idle.log", "y/z.log"], ["x-idle", "y-idle", "z"]),
        (["x/a.log", "x/a.txt", "x/a.log"], ["x-a", "x-a-2", "x-a-3"]),
        (["x/a.log", "y/a.log", "q/x-a.log"], ["x-a-2", "y-a", "x-a"]),
    ],
)
def test_ids_follow_from_file_names(paths, ids):
    assert names([Path(path) for path in paths]) == ids


def test_an_existing_run_is_never_overwritten(capsys, write_log, results):
    path = write_log("a.log")
    assert bring(path, to=results) == 0
    before = (results / "a" / "run.json").read_bytes()
    capsys.readouterr()

    assert bring(write_log("b.log"), path, to=results, options=["--memory-mib", "7"]) == 2
    assert f"{path}: {results / 'a'} exists" in capsys.readouterr().err
    assert (results / "a" / "run.json").read_bytes() == before
    assert [p.name for p in results.iterdir()] == ["a"]


def test_the_rest_of_an_interrupted_import_is_reported(capsys, write_log, results):
    (results / "a.partial").mkdir(parents=True)

    assert bring(write_log("a.log"), to=results) == 2
    assert f"{results / 'a.partial'} is left" in capsys.readouterr().err
    assert (results / "a.partial").is_dir()


# --- all or none ----------------------------------------------------------------------------------


def test_all_problems_are_reported_and_nothing_is_written(capsys, tmp_path, write_log, results):
    (tmp_path / "none.log").write_text("hello\n")
    bad = [tmp_path / "none.log", tmp_path / "absent.log", tmp_path / "logs"]

    assert bring(write_log("a.log"), *bad, to=results) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"{bad[0]}: this begins with hello, and is in no known form: a log of" in captured.err
    assert f"{bad[1]}: cannot be read: No such file" in captured.err
    assert f"{bad[2]}: cannot be read: Is a directory" in captured.err
    assert "nothing was imported" in captured.err
    assert not results.exists()


def test_a_full_disk_leaves_no_partial_run(write_log, results):
    small, large = write_log("a.log"), write_log("b.log", intervals=200, num_intervals=200)
    done = subprocess.run(
        [sys.executable, "-m", "ksm_analysis", "import", small, large, "--results", results],
        cwd=ROOT,
        text=True,
        capture_output=True,
        check=False,
        # files cannot grow beyond this, as on a disk that is full
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192)),
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )

    assert done.returncode == 2
    assert f"cannot be written: {os.strerror(errno.EFBIG)}" in done.stderr
    assert list(results.iterdir()) == []


def test_results_is_not_a_directory(capsys, write_log, tmp_path):
    (tmp_path / "file").touch()

    assert bring(write_log("a.log"), to=tmp_path / "file") == 2
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("size", ["0", "-1", "1.5", "big"])
def test_memory_is_a_whole_number(capsys, write_log, results, size):
    with pytest.raises(SystemExit) as ended:
        bring(write_log("a.log"), to=results, options=[f"--memory-mib={size}"])

    assert ended.value.code == 2
    assert "must be a whole number of MiB" in capsys.readouterr().err


def test_nothing_heavy_is_imported(write_log, results):
    code = (
        "import sys, ksm_analysis.__main__ as m; m.main(sys.argv[1:]); "
        "print({'pandas', 'pyarrow', 'pydantic', 'yaml', 'rich'} & sys.modules.keys() or 'light')"
    )
    command = ["import", write_log("a.log"), "--results", results]
    done = subprocess.run(
        [sys.executable, "-c", code, *command],
        cwd=ROOT,
        text=True,
        capture_output=True,
        check=True,
    )

    assert done.stdout.splitlines()[-1] == "light"
