"""Converted samples give the same frames as the raw file, and never replace it."""

import contextlib
import json
import os
import resource

import pandas as pd
import pytest
from made_up_runs import run_record, sample_lines

from ksm_analysis.results import parquet
from ksm_analysis.results.reader import read_run

FILES = ("samples.parquet", "guests.parquet")


def twice(path):
    """Read a run from its raw file, and again from the converted file."""
    first = read_run(path)
    assert all((path / name).exists() for name in FILES)
    # a raw file that is not read need not be readable: only its size and time of change count
    stat = (path / "samples.jsonl").stat()
    (path / "samples.jsonl").write_bytes(b"?" * stat.st_size)
    os.utime(path / "samples.jsonl", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    return first, read_run(path)


def assert_same(first, second):
    pd.testing.assert_frame_equal(first.samples, second.samples)
    pd.testing.assert_frame_equal(first.guests, second.guests)
    assert (first.header, first.end, first.warnings) == (second.header, second.end, second.warnings)


def test_a_converted_run_is_the_same(write_run):
    first, second = twice(write_run(guests=3, workload="stress"))

    assert len(first.samples) == 17
    assert_same(first, second)


def test_a_converted_run_with_gaps_and_ended_guests_is_the_same(write_run):
    record = run_record(guests=2)
    header, *samples, end = sample_lines(record)
    for line in samples[7:]:
        line["guests"]["ksm-guest-02"] = None
        line["ksmd"]["cpu_ns"] = None
    end["gone"] = {"ksm-guest-02": 5_002.0}
    first, second = twice(write_run(record, [header, *samples[:3], *samples[5:], end]))

    assert any("gone" in warning for warning in first.warnings)
    assert_same(first, second)


def test_a_converted_run_of_arrays_is_the_same(write_run):
    record = run_record(guests=0)
    record["run"]["guests"]["memory_mib"] = 0
    first, second = twice(write_run(record))

    assert first.guests.empty
    assert_same(first, second)


def test_problems_of_the_raw_file_are_reported_each_time(write_run):
    path = write_run()
    with (path / "samples.jsonl").open("a") as file:
        file.write('{"kind": "sam')
    first, second = twice(path)

    assert any("is torn" in warning for warning in first.warnings)
    assert_same(first, second)


def test_a_raw_file_that_has_changed_is_read_again(write_run):
    path = write_run(guests=1)
    read_run(path)
    lines = (path / "samples.jsonl").read_text().splitlines(keepends=True)
    sample = json.loads(lines[-2])
    sample["ksm"]["pages_shared"] = 4242
    lines[-2] = json.dumps(sample) + "\n"
    (path / "samples.jsonl").write_text("".join(lines))

    assert read_run(path).samples["ksm.pages_shared"].iloc[-1] == 4242
    assert read_run(path).samples["ksm.pages_shared"].iloc[-1] == 4242


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", [None, b"", b"PAR1 and no more", b"\0" * 4000])
def test_a_damaged_or_missing_converted_file_is_rewritten(write_run, name, content):
    path = write_run()
    first = read_run(path)
    if content is None:
        (path / name).unlink()
    else:
        (path / name).write_bytes(content)
    second = read_run(path)

    assert_same(first, second)
    assert (path / name).stat().st_size > 1000


@pytest.mark.parametrize("name", FILES)
def test_no_byte_of_a_converted_value_can_change_unnoticed(write_run, name):
    path = write_run()
    first = read_run(path)
    content = (path / name).read_bytes()
    footer = int.from_bytes(content[-8:-4], "little")
    for at in range(4, len(content) - 8 - footer, 97):
        damaged = bytearray(content)
        damaged[at] ^= 0x10
        (path / name).write_bytes(damaged)
        assert_same(first, read_run(path))


def test_a_file_that_changes_while_it_is_read_is_read_again(write_run):
    raw = write_run() / "samples.jsonl"
    read_run(raw.parent)
    before = parquet.source(raw)
    sampled = parquet.load(raw, before)
    with raw.open("a") as file:
        file.write("more")
    parquet.save(raw, before, sampled)

    assert parquet.load(raw, parquet.source(raw)) is None


def test_a_current_run_is_not_converted(write_run):
    path = write_run(name="g02-k1-idle-r1.partial")

    assert len(read_run(path).samples) == 17
    assert not any((path / name).exists() for name in FILES)


@contextlib.contextmanager
def little_space(size):
    """Limit the size of files, so that larger writes fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 1_000, 8_000])
def test_a_partially_written_file_is_removed(write_run, size):
    path = write_run()
    with little_space(size):
        run = read_run(path)
    left = {file.name for file in path.iterdir()} - {"events.jsonl", "run.json", "samples.jsonl"}

    assert len(run.samples) == 17
    assert left < set(FILES)
    assert_same(run, read_run(path))


def test_the_raw_file_suffices_if_nothing_can_be_written(write_run):
    path = write_run()
    for name in FILES:
        (path / name).mkdir()  # not even root can replace it
    run = read_run(path)

    assert len(run.samples) == 17
    assert sorted(file.name for file in path.iterdir()) == sorted(
        [*FILES, "events.jsonl", "run.json", "samples.jsonl"]
    )


def test_samples_that_cannot_be_read_are_not_converted(write_run):
    path = write_run()
    (path / "samples.jsonl").write_text("no sample\n")
    run = read_run(path)

    assert not run.usable
    assert not any((path / name).exists() for name in FILES)
