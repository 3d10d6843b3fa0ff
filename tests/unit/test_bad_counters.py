"""Counters that cannot be right: a clear word for each, and no number where none is known."""

import json

import pytest
from made_up_runs import run_record, sample_lines

from ksm_analysis.__main__ import main

UNKNOWN = "The savings are not known"


@pytest.fixture
def answer(write_run, capsys):
    """Write a run whose samples are changed; return what all commands say of it."""

    def answer(change=None, header=None, samples=None, page=False):
        record = run_record(intervals=8)
        first, *taken, end = sample_lines(record)
        for n, sample in enumerate(taken):
            if change:
                change(sample, n)
        lines = [first | (header or {}), *taken[:samples], end]
        path = write_run(record, json.loads(json.dumps(lines))).parent
        if page:
            assert main(["report", str(path)]) == 0
            capsys.readouterr()
        assert main(["summary", str(path), "--json"]) == 0
        rows = json.loads(capsys.readouterr().out)
        assert main(["answer", str(path), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        words = "\n".join([found["headline"], *found["warnings"]])
        return (rows[0] if rows else None), words

    return answer


def set_ksm(**values):
    return lambda sample, _: sample["ksm"].update(values)


@pytest.mark.parametrize("name", ["pages_sharing", "ksm_zero_pages"])
@pytest.mark.parametrize("value", [-3, 2**64 - 3])
def test_pages_below_zero_are_not_known(answer, name, value):
    row, words = answer(set_ksm(**{name: value}), page=value < 0)
    assert row[name] is None
    assert row["reclaimed_mib"] is None
    assert UNKNOWN in words
    assert f"{name} was below zero" in words


def test_a_profit_may_be_below_zero(answer):
    row, words = answer(set_ksm(general_profit=-4096))
    assert row["general_profit"] == -4096
    assert "below zero" not in words


def test_cpu_time_that_falls_is_not_known(answer):
    row, words = answer(lambda sample, n: sample["ksmd"].update(cpu_ns=10**9 * abs(10 - n)))
    assert row["ksmd_cpu_seconds"] is None
    assert "CPU seconds" not in words
    assert "ksmd.cpu_ns fell" in words


def test_scans_are_counted_on_after_a_restart(answer):
    row, words = answer(lambda sample, n: sample["ksm"].update(full_scans=50 if n < 9 else n - 9))
    assert row["full_scans"] == 32 - 9
    assert "full_scans restarted" in words


@pytest.mark.parametrize("scans", [0, 7])
def test_without_a_full_scan_there_is_no_verdict(answer, scans):
    row, words = answer(set_ksm(full_scans=scans))
    assert row["full_scans"] == 0
    assert "too early to judge" in words
    assert "Nothing is merged" not in words
    assert "95 %" not in words


def test_all_counters_are_zero(answer):
    names = ("pages_shared", "pages_sharing", "pages_unshared", "pages_volatile", "full_scans")
    row, words = answer(set_ksm(**dict.fromkeys(names, 0)))
    assert row["reclaimed_mib"] == 0
    assert "too early to judge" in words


def test_one_sample_shows_no_change(answer):
    row, words = answer(samples=1, page=True)
    assert row is None
    assert "No run can be used" in words
    assert "left out, since one sample shows no change" in words


def test_a_host_that_rebooted_in_mid_run(answer):
    row, words = answer(lambda sample, n: sample.update(monotonic=5_000 + n if n < 9 else n))
    assert row is None
    assert "samples.jsonl is not of one boot: its time goes back" in words


def test_pages_of_64_kib(answer):
    row, _ = answer(header={"page_size": 65_536})
    assert row["reclaimed_mib"] == row["pages_sharing"] / 16


def test_a_kernel_without_anonymous_huge_pages(answer):
    row, _ = answer(lambda sample, _: sample["meminfo"].pop("AnonHugePages", None))
    assert row["reclaimed_mib"] > 0
    assert row.get("freed_mib") is None
