"""A redacted page has no name of a machine and no command line."""

import pytest
from made_up_runs import run_record, sample_lines

from ksm_analysis.__main__ import main
from ksm_analysis.page.redact import redact
from ksm_analysis.results.reader import read_results

SECRET = "fetch --token s3cr3t"


@pytest.fixture
def directory(write_run):
    record = run_record(guests=1, workload="busy", host="db7.example")
    record["run"]["workload"]["parts"] = [
        {"guests": [1], "command": SECRET.split(), "start": 0.0, "stop": 2.0}
    ]
    record["run"]["guests"] |= {
        "image": "own",
        "images": [{"name": "own", "file": "/srv/secret-image", "agent": False}],
    }
    record["provenance"]["kernel"]["cmdline"] = "root=UUID=secret-disk"
    stopped = {"event": "workload stopped", "guest": "ksm-guest-01", "exitcode": 3, "stdout": ""}
    happened = [
        {
            "event": "workload started",
            "guest": "ksm-guest-01",
            "argv": SECRET.split(),
            "monotonic": 5_000.1,
        },
        {**stopped, "stderr": "cannot reach vault.example", "monotonic": 5_002.0},
    ]
    lines = sample_lines(record)
    stranger = {"pid": 9, "name": "secret-service", "ksm_rmap_items": 10**6}
    lines[-1]["others"] = {"ksm_rmap_items": 10**6, "processes": [stranger]}
    write_run(record, lines, happened=happened)
    other = run_record(guests=2, host="db7.example.org", status="failed")
    other["reason"] = "db7.example.org: cannot reach vault.example."
    imported = {"file": "db7.log", "header": ["cmd='secret'"], "other": [], "cut_short": None}
    log = run_record(guests=1, host="imported", imported=imported)
    log["run"]["factors"]["workload"] = SECRET
    log["run"]["id"] = "db7-log-of-may"
    write_run(log, name="log")
    return write_run(other).parent


def test_names_and_commands_are_on_no_page(directory):
    assert main(["report", str(directory), "-o", str(directory / "open.html")]) == 0
    assert main(["report", str(directory), "--redact", "-o", str(directory / "page.html")]) == 0
    names = ("db7.example", "s3cr3t", "vault.example", "secret-disk", "db7.log", "db7-log-of-may")
    names += ("secret-service", "secret-image")
    pages = [(directory / name).read_text() for name in ("open.html", "page.html")]

    assert all(name in pages[0] for name in names)
    assert not [name for name in names if name in pages[1]]


def test_numbers_take_their_place(directory):
    runs = {run.path.name: run for run in redact(read_results(directory)).runs}

    assert runs["g01-k1-busy-r1"].host == "host 1"
    assert runs["g02-k1-idle-r1"].host == "host 2"
    assert runs["g02-k1-idle-r1"].record.reason == "host 2"  # what failed
    assert runs["log"].factors["workload"] == "command 1"  # it is the same
    assert runs["log"].host == "imported"
    assert runs["log"].id == "log 1"
    assert "the workload of guest ksm-guest-01 ended with code 3" in runs["g01-k1-busy-r1"].warnings


def test_a_name_with_a_domain_at_the_end_of_a_sentence_is_replaced(write_run):
    record = run_record(guests=1, host="node1", status="failed")
    record["reason"] = "Boot guests: no way to node1. ssh: node1.corp.example port 22, 10.1.2.3"
    results = redact(read_results(write_run(record).parent))

    assert results.runs[0].record.reason == "Boot guests"
    assert results.warnings == ("g01-k1-idle-r1: left out, since the run failed: Boot guests",)


def test_nothing_else_changes(directory):
    open_runs, redacted = (
        results.runs for results in (read_results(directory), redact(read_results(directory)))
    )

    for one, other in zip(open_runs, redacted, strict=True):
        assert one.id == other.id or one.imported
        assert one.samples.equals(other.samples)
        assert one.record.knobs == other.record.knobs


def test_a_name_within_another_word_stays(write_run):
    record = run_record(guests=1, host="idle")
    run = redact(read_results(write_run(record).parent)).runs[0]

    assert run.host == "host 1"
    assert run.factors["workload"] == "idle"
