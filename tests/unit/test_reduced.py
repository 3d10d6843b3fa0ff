"""Reductions say the same as the raw files of large results, and never replace them."""

import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pandas as pd
import pytest

from ksm_analysis.__main__ import main
from ksm_analysis.analysis import reduction
from ksm_analysis.metrics.measurement import measure
from ksm_analysis.results import index, reduced
from ksm_analysis.results.reader import read_run

SHIPPED = Path(__file__).parents[2] / "docs/results"


@pytest.fixture
def shipped(tmp_path):
    """Unpack results that come with the documents."""

    def unpack(name):
        with tarfile.open(SHIPPED / f"{name}.tar.xz") as file:
            file.extractall(tmp_path, filter="data")
        return tmp_path / name

    return unpack


@pytest.fixture
def large(monkeypatch):
    """Treat all results as large."""
    monkeypatch.setattr(reduction, "MANY", 0)


def runs_of(directory):
    return sorted(path.parent for path in directory.glob("*/run.json"))


def make(paths):
    """Make the reductions of run directories, without other processes."""
    for path, content in map(reduction.reduce, paths):
        reduced.save(path, content)


def hide_samples(paths):
    """Make raw samples unreadable without a trace in their size and their time of change."""
    for path in paths:
        stat = (path / "samples.jsonl").stat()
        (path / "samples.jsonl").write_bytes(b"?" * stat.st_size)
        os.utime(path / "samples.jsonl", ns=(stat.st_atime_ns, stat.st_mtime_ns))
        for name in ("samples.parquet", "guests.parquet"):
            (path / name).unlink(missing_ok=True)


def said(capsys, directory):
    """Return what commands print about results."""
    for command in (
        ["summary", str(directory), "--json"],
        ["answer", str(directory), "--json"],
        ["compare", str(directory), str(directory), "--by", "knobs", "--json"],
    ):
        main(command)
    captured = capsys.readouterr()
    return captured.out, captured.err


@pytest.mark.parametrize("name", ["arrays-half-same", "policies-s1-arrivals"])
def test_reductions_alone_say_the_same_as_raw_files(shipped, capsys, monkeypatch, name):
    directory = shipped(name)
    raw = said(capsys, directory)
    make(runs_of(directory))
    hide_samples(runs_of(directory))
    monkeypatch.setattr(reduction, "MANY", 0)

    assert said(capsys, directory) == raw


def test_processes_make_what_is_missing_and_say_what_they_cannot_read(write_run, large, capsys):
    for repetition in (1, 2):
        write_run(guests=2, repetition=repetition)
    directory = runs_of(write_run(guests=1).parent)[0].parent
    (directory / "broken").mkdir()
    (directory / "broken" / "run.json").write_text("{")
    (directory / "g01-k9-idle-r1.partial").mkdir()

    results = reduction.read_results([directory])

    assert [type(run) for run in results.runs] == [reduced.Reduced] * 3
    assert [w for w in results.warnings if "broken: left out, since run.json" in w]
    assert [w for w in results.warnings if "cut off" in w]
    assert all(reduced.load(path) for path in runs_of(directory) if path.name != "broken")


def test_what_a_reduction_does_not_have_is_read_from_the_raw_files(write_run):
    path = write_run(guests=2)
    make([path])
    run, raw = reduced.load(path), read_run(path)

    assert "whole" not in vars(run)
    pd.testing.assert_frame_equal(run.samples, raw.samples)
    pd.testing.assert_frame_equal(run.guests, raw.guests)


@pytest.mark.parametrize("damage", [b"", b"PAR1 and no more", b"\0" * 4000, None])
def test_a_damaged_reduction_is_none(write_run, damage):
    path = write_run()
    make([path])
    file = path / reduced.NAME
    content = file.read_bytes()
    file.write_bytes(content[:-100] if damage is None else damage)

    assert reduced.load(path) is None


def test_no_value_of_a_reduction_can_change_unnoticed(write_run):
    path = write_run()
    make([path])
    good, file = reduced.load(path), path / reduced.NAME
    content = file.read_bytes()
    host = good.host_frame
    for at in range(4, len(content) - 8, 97):
        damaged = bytearray(content)
        damaged[at] ^= 0x10
        file.write_bytes(damaged)
        found = reduced.load(path)
        if found is not None:
            assert (found.known, found.header) == (good.known, good.header)
            pd.testing.assert_frame_equal(measure(found).host, host)


def test_only_changed_contents_make_a_reduction_old(write_run):
    path = write_run(guests=1)
    make([path])
    os.utime(path / "samples.jsonl", ns=(1, 1))
    assert reduced.load(path)

    with (path / "events.jsonl").open("a") as file:
        file.write("{}\n")
    assert reduced.load(path) is None


def test_other_code_makes_a_reduction_old(write_run, monkeypatch):
    path = write_run()
    make([path])
    monkeypatch.setattr(reduced, "code", lambda: "other")

    assert reduced.load(path) is None


def test_metrics_are_those_of_the_reduction_that_was_believed(write_run, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    other, path = write_run(guests=1), write_run(guests=2)
    make([other, path])
    good = reduced.load(path).host_frame
    mine, users = reduced.places(path)
    users.parent.mkdir(parents=True)
    users.write_bytes(mine.read_bytes())
    mine.write_bytes((other / reduced.NAME).read_bytes())
    pd.testing.assert_frame_equal(reduced.load(path).host_frame, good)


def test_without_leave_to_write_reductions_are_in_the_cache_of_the_user(
    write_run, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = write_run()
    (path / reduced.NAME).mkdir()  # root may write to a directory that is read-only
    make([path])

    assert len([*(tmp_path / "cache").rglob("*.parquet")]) == 1
    assert reduced.load(path)


POOL = """
import os, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from ksm_analysis import tasks

if __name__ == "__main__":
    with ProcessPoolExecutor(1, get_context("spawn"), tasks._end_with_parent) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        time.sleep(3600)
"""


def test_processes_end_with_their_parent(tmp_path):
    script = tmp_path / "pool.py"
    script.write_text(POOL)
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE) as parent:
        child = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 60
    while Path(f"/proc/{child}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_scheduler_that_small_results_do_not_need_is_named(write_run, capsys):
    path = write_run()
    reduction.read_results([path.parent], "tcp://127.0.0.1:1")

    assert "--scheduler was not used" in capsys.readouterr().err


def test_an_index_that_is_stale_damaged_or_removed_changes_nothing(write_run, large, capsys):
    for repetition in (1, 2, 3):
        path = write_run(guests=2, repetition=repetition)
    directory, place = path.parent, path.parent / index.NAME
    make(runs_of(directory))
    expected = said(capsys, directory)
    content = place.read_bytes()
    assert said(capsys, directory) == expected

    for damaged in (b"", content[:-9], content.replace(b"localhost", b"elsewhere"), None):
        place.unlink() if damaged is None else place.write_bytes(damaged)
        assert said(capsys, directory) == expected
        assert place.read_bytes() == content

    with (path / "events.jsonl").open("a") as file:
        file.write("{\n")
    assert "events.jsonl" in said(capsys, directory)[1]


@pytest.mark.parametrize("damage", ["removed", "short", "a bit"])
def test_a_reduction_that_is_missing_or_damaged_is_made_again_despite_the_index(
    write_run, large, tmp_path, monkeypatch, damage
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = write_run(guests=1)
    make([path])
    for _ in range(2):
        reduction.read_results([path.parent])
    file = path / reduced.NAME
    content = bytearray(file.read_bytes())
    if damage == "removed":
        file.unlink()
    elif damage == "short":
        file.write_bytes(content[:-100])
    else:
        content[40] ^= 0x10  # within a page
        file.write_bytes(content)
    monkeypatch.setattr(reduction, "_made", lambda paths, _: map(reduction.reduce, paths))

    (run,) = reduction.read_results([path.parent]).runs

    assert run.host_frame is not None
    assert reduced.load(path).host_frame is not None


def test_a_copy_is_hashed_only_once(write_run, large, monkeypatch):
    path = write_run()
    make([path])
    os.utime(path / "samples.jsonl", ns=(1, 1))
    asked = []
    hashed = reduced.contents_of
    monkeypatch.setattr(reduced, "contents_of", lambda path: asked.append(path) or hashed(path))
    for _ in range(2):
        reduction.read_results([path.parent])

    assert asked == [path]


def test_the_index_spares_opening_reductions(write_run, large, monkeypatch):
    path = write_run()
    make([path])
    first = reduction.read_results([path.parent])
    monkeypatch.delattr(reduced.parquet, "ParquetFile")

    again = reduction.read_results([path.parent])

    assert again.runs[0].known == first.runs[0].known
    assert again.runs[0].record == first.runs[0].record
