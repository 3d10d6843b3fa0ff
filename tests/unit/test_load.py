"""The load: its definition, its generator with a real server, and what is read of it."""

from __future__ import annotations

import json
import random
import socket
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from textwrap import dedent

import pytest
from made_up_runs import events, run_record, sample_lines
from programs import ROLES, load

from ksm_analysis.definition import experiment
from ksm_analysis.errors import InputError
from ksm_analysis.metrics import load as metrics
from ksm_analysis.metrics import measurement, reported
from ksm_analysis.page import load_figures
from ksm_analysis.results import load as loads
from ksm_analysis.results.reader import read_run
from ksm_analysis.results.record import upgraded

sys.path.insert(0, str(ROLES / "processes/files"))
program = load(ROLES / "part_load/files/ksm_load.py")
SAMPLING = "sampling: {interval: 1, intervals: 4}\n"
ASKED = json.loads(
    """{"service": "memcached", "data": "same", "data_mib": 1, "rate": 500, "arrivals": "poisson",
    "connections": 2, "write_percent": 25, "keys": "uniform", "warmup": 0.2, "seed": 3}"""
)


# --- the definition -------------------------------------------------------------------------------


def plan(load_, processes="{count: [1, 3], service: redis}"):
    text = f"processes: {processes}\nworkloads: [{{name: gets, load: {load_}}}]\n{SAMPLING}"
    return experiment.plan(experiment.parse(text, "file.yml"), "file.yml")["runs"]


def test_the_load_starts_after_the_sampler():
    run = plan("{rate: 100, warmup: 1}")[0]
    assert [part["name"] for part in run["parts"]] == ["processes", "sampler", "load"]
    options = run["parts"][-1]["options"]
    assert options["rate"] == 100
    assert options["service"] == "redis"
    assert run["factors"]["workload"] == "1 × redis, gets"  # noqa: RUF001


@pytest.mark.parametrize(
    ("asked", "processes", "words"),
    [
        ("{rate: 0}", "{count: 1, service: redis}", "load.rate: must be a number from 0.1"),
        ("{}", "{count: 1, service: redis}", "load.rate"),
        ("{rate: 9, keys: hot}", "{count: 1, service: redis}", "one of uniform, zipf"),
        ("{rate: 9}", "{count: 1, command: /bin/cat}", "load: goes with 'processes' that have"),
        ("{rate: 9000}", "{count: [1, 3], service: redis}", "3 copies × 9000 are more than 20000"),  # noqa: RUF001
        ("{rate: 9}", "{count: 2, service: redis, arrivals: {every: 1}}", "copies must be there"),
        ("{rate: 9, arrivals: constant}", "{count: 1, service: postgres}", "must be poisson for"),
        ("{rate: 9}", "{count: 1, service: nginx}", "'write_percent' must be 0 for nginx"),
        (
            "{rate: 9, warmup: 3, stop_ksmd: 2.5}",
            "{count: 1, service: redis}",
            "stop_ksmd: must be at most 2 s: a second before the end of the warm-up",
        ),
        ("{rate: 9, warmup: 4}", "{count: 1, service: redis}", "warmup: must be less than 4 s"),
    ],
)
def test_a_wrong_definition(asked, processes, words):
    with pytest.raises(InputError, match=r"^file\.yml:") as caught:
        plan(asked, processes)
    assert words in str(caught.value)


def test_a_load_needs_processes():
    text = f"workloads: [{{name: gets, load: {{rate: 1}}}}]\n{SAMPLING}"
    with pytest.raises(InputError, match="goes with 'processes' that have a 'service'"):
        experiment.parse(text, "file.yml")


# --- requests and answers -------------------------------------------------------------------------


def requests(**asked):
    copies = [{"number": n, "name": f"process-{n:02}"} for n in (1, 2)]
    return program.Requests(ASKED | asked, copies, 100.0)


def taken(made, count=4000):
    return [made.next() for _ in range(count)]


def test_times_follow_the_rate_and_the_seed_alone():
    some = taken(requests())
    assert some == taken(requests())
    assert some != taken(requests(seed=4))
    assert (some[-1][0] - 100) / 4000 == pytest.approx(1 / 1000, rel=0.1)
    assert sum(writes for _, _, writes, _ in some) / 4000 == pytest.approx(0.25, abs=0.05)
    steady = taken(requests(arrivals="constant"), 4)
    assert [round(at - 100, 6) for at, *_ in steady] == [0.001, 0.002, 0.003, 0.004]
    assert [place for _, place, *_ in steady] == [0, 1, 0, 1]


def test_repetitions_differ_and_the_settings_of_one_do_not():
    text = f"""\
        processes: {{count: 1, service: redis}}
        knobs: [{{run: 0}}, {{run: 1}}]
        workloads: [{{name: gets, load: {{rate: 1, warmup: 1, seed: 7}}}}]
        repetitions: 2
        {SAMPLING}"""
    runs = experiment.plan(experiment.parse(dedent(text), "file.yml"), "file.yml")["runs"]
    seeds = {(r["factors"]["repetition"], r["parts"][-1]["options"]["seed"]) for r in runs}
    assert len(runs) == 4
    assert seeds == {(1, 7), (2, 8)}


def test_frequent_keys():
    made = requests(keys="zipf")
    keys = [made.key() for _ in range(20_000)]
    often = [keys.count(rank * program.SPREAD % made.keys) for rank in (0, 1)]
    assert often[0] == pytest.approx(2 * often[1], rel=0.2)
    assert 0 <= min(keys) <= max(keys) < made.keys


@pytest.mark.parametrize(
    ("service", "answer", "good"),
    [
        ("redis", b"$3\r\nabc\r\n", True),
        ("redis", b"$3\r\na\r\n", None),
        ("redis", b"$-1\r\n", False),
        ("redis", b"+OK\r\n", True),
        ("redis", b"-ERR no\r\n", False),
        ("redis", b"", None),
        ("memcached", b"VALUE key:1 0 1\r\na\r\nEND\r\n", True),
        ("memcached", b"VALUE key:1 0 1\r\na\r\n", None),
        ("memcached", b"END\r\n", False),
        ("memcached", b"STORED\r\n", True),
        ("memcached", b"SERVER_ERROR out of memory\r\n", False),
        ("nginx", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab", True),
        ("nginx", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na", None),
        ("nginx", b"HTTP/1.1 200 OK\r\nContent-Le", None),
        ("nginx", b"HTTP/1.1 404 Not Found\r\nContent-Length: 1\r\n\r\na", False),
        ("python", b"ready 5\n", True),
        ("python", b"rea", None),
        ("python", b"what\n", False),
    ],
)
def test_answers(service, answer, good):
    assert program.PROTOCOLS[service]().answered(answer) is good


def test_times_are_counted_with_three_digits():
    for _ in range(200):
        ns, counts = int(10 ** random.uniform(0, 11)), {}
        program.add(counts, ns / 1e9)
        ((kept, count),) = counts.items()
        assert count == 1
        assert ns * 0.999 - 2 <= kept <= ns


# --- the generator --------------------------------------------------------------------------------


@contextmanager
def served(tmp_path, delay=0.0, close_after=10**9):
    """Serve memcached's protocol by a thread for each connection; yield the path of the socket."""
    listener = socket.socket(socket.AF_UNIX)
    path = tmp_path / "socket"
    listener.bind(str(path))
    listener.listen(64)
    lock, asked = threading.Lock(), []

    def talk(client):
        with client, suppress(OSError):
            while question := client.recv(65536):
                asked.append(question)
                if len(asked) > close_after:
                    listener.close()
                    return
                with lock:  # one request at a time
                    time.sleep(delay)
                answer = b"STORED\r\n" if question[:3] == b"set" else b"VALUE a 0 1\r\na\r\nEND\r\n"
                client.sendall(answer)

    def accept():
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=talk, args=(client,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield path
    listener.close()


def generate(path, tmp_path, seconds=1.0, **asked):
    """Run the load in this process; return its lines."""
    copies = [{"number": 1, "name": "process-01", "scratch": str(path.parent)}]
    with program.opened(tmp_path / "load.jsonl") as output:
        start = time.monotonic()
        program.Load(ASKED | asked, copies, output, start).run(start + seconds)
    return [json.loads(line) for line in (tmp_path / "load.jsonl").read_text().splitlines()]


def test_all_requests_are_counted_once(tmp_path, monkeypatch):
    monkeypatch.setattr(program, "DRAIN", 60)  # the server may have to wait for a processor
    with served(tmp_path) as path:
        lines = generate(path, tmp_path)
    assert lines[0]["warmup"] is True
    # a machine that is very busy may have no second line
    assert sorted((line["warmup"] for line in lines), reverse=True) == [
        line["warmup"] for line in lines
    ]
    number = {kind: sum(sum(line[kind].values()) for line in lines) for kind in loads.KINDS}
    expected = len([at for at, *_ in taken(requests_of_one(), 2000) if at < 101])
    assert number["late"] == expected
    assert number["reads"] + number["writes"] == expected
    assert sum(line["errors"] for line in lines) == 0


def requests_of_one():
    return program.Requests(ASKED, [{"number": 1, "name": "process-01"}], 100.0)


def test_a_slow_server_cannot_hide_what_waits(tmp_path):
    # 500 requests a second to a server that takes at least 10 ms for each
    with served(tmp_path, delay=0.01) as path:
        lines = generate(path, tmp_path, arrivals="constant")
    times = [int(ns) for line in lines for kind in ("reads", "writes") for ns in line[kind]]
    assert max(times) > 0.5e9  # a closed loop would have seen 20 ms
    assert lines[-1]["waiting"] > 100
    assert lines[-1]["errors"] >= lines[-1]["waiting"]


def test_a_server_that_ends_is_no_latency(tmp_path):
    with served(tmp_path, close_after=50) as path, pytest.raises(program.Ended) as caught:
        generate(path, tmp_path)
    assert caught.value.args == (0, "Connection refused")


def test_a_rate_that_cannot_be_made(tmp_path, monkeypatch):
    monkeypatch.setattr(program, "BEHIND", 0.01)
    monkeypatch.setattr(program, "BEHIND_WINDOWS", 1)
    with (
        served(tmp_path) as path,
        pytest.raises(program.UnusableError, match="cannot make 1e\\+06"),
    ):
        generate(path, tmp_path, seconds=5, rate=1e6, warmup=0)


def test_the_reason_of_an_end_is_that_of_the_launcher(tmp_path):
    (tmp_path / "processes.ready").write_text('{"error": "process-01 was ended by signal 9"}')
    assert program.reason(tmp_path) == "process-01 was ended by signal 9"
    with pytest.raises(program.UnusableError, match="no copies of a service run"):
        program.copies_of(tmp_path)


# --- what is read of it ---------------------------------------------------------------------------


def line(at, reads, warmup=False, **other):
    base = {"kind": "requests", "seconds": 1.0, "writes": {}, "late": {"1000": 1}, "errors": 0}
    base |= {"waiting": 0, "cpu_seconds": 0.1, "warmup": warmup, "wall": 0.0}
    return base | {"monotonic": 5000.0 + at, "reads": reads} | other


def read(write_run, lines):
    """Read a made-up run of 4 s, in intervals of 1 s, with these lines."""
    made_up = run_record(guests=0, workload="gets", intervals=4)
    record = upgraded(made_up)
    record["run"]["parts"].append({"name": "load", "role": "", "options": {"rate": 9}})
    path = write_run(record, sample_lines(made_up), events(made_up))
    (path / "load.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    return read_run(path)


def test_the_value_of_a_run_is_of_all_answers_of_the_settled_phase(write_run):
    many, few = {"1000000": 9900}, {"50000000": 60}
    lines = [line(1, {"900000000": 5}, warmup=True), line(2, few), line(3, few), line(4, many)]
    run = read(write_run, [{"kind": "header", "format": 1}, *lines, {"kind": "end"}])
    assert run.warnings == ()
    assert sorted({*run.reported["seconds"]}) == [2, 3, 4]
    values = {each.name: reported.value(run, each) for each in reported.metrics_of([run])}
    assert values["load_p99_ms"] == pytest.approx(1, rel=0.002)  # 0.6 % are 50 ms
    assert values["load_p999_ms"] == pytest.approx(50, rel=0.002)
    assert values["load_throughput"] == pytest.approx((60 + 9900) / 2)
    assert values["load_cpu_percent"] == pytest.approx(10)
    assert values["load_errors_percent"] == 0
    assert "load_write_p99_ms" not in values


def test_the_figure_has_the_share_that_took_longer(write_run):
    lines = [line(3, {"1000000": 990}), line(4, {"50000000": 8}, writes={"900000000": 2})]
    first = line(2, {"1000": 9})  # before the settled phase
    run = read(write_run, [{"kind": "header", "format": 1}, first, *lines, {"kind": "end"}])
    ((title, figure),) = load_figures.latencies([measurement.measure(run)])
    (drawn,) = figure.data
    assert title == ""
    assert list(drawn.x) == [1, 50, 900]
    assert list(drawn.y) == pytest.approx([100, 1, 0.2])
    assert figure.layout.xaxis.type == figure.layout.yaxis.type == "log"
    assert "1,000)" in drawn.name


def test_intervals_that_begin_a_little_earlier_than_those_of_the_other_run_count(write_run):
    lines = [line(at, {str(at * 1000): 100}, monotonic=5000 + at) for at in (2, 3, 4)]
    run = read(write_run, [{"kind": "header", "format": 1}, *lines, {"kind": "end"}])
    run = replace(run, reported=run.reported.assign(settled=False))
    assert metrics.counted(run, 2.003).counts["reads"] == {3000: 100, 4000: 100}
    assert metrics.counted(run, 2.2).counts["reads"] == {4000: 100}


def test_a_line_that_ends_late_belongs_to_the_interval_of_most_of_its_time():
    lines = [line(at + 0.01, {"1000": 1}) for at in (1, 2, 3, 4)]
    found = loads.of_lines(lines, 5000.0, 2.0)
    assert [each.ended - 5000 for each in found.intervals] == pytest.approx([2.01, 4.01])


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([line(1, {"5": 1}), line(2, {"x": 1})], "1 of the lines of its load are damaged"),
        ([line(1, {"5": 1}), line(2, [])], "1 of the lines of its load are damaged"),
        ([line(1, {"5": 1}), line(-1, {}, errors=True)], "1 of the lines of its load are damaged"),
        ([line(1, {"5": 3}, errors=1)], "1 requests of its load failed or had no answer (25 %"),
        ([line(1, {"5": 3}, waiting=7), {"kind": "end"}], "did not keep up with the load: at its"),
        ([line(1, {"2000": 200}, late={"1500": 200})], "the load generator itself was late"),
        ([line(1, {"5": 1}, warmup=True)], "load.jsonl has no answers after the warm-up"),
        ([{"kind": "header", "format": 2}], "its load is left out"),
        ([], "answers to a load were to be measured, but there are none"),
    ],
)
def test_what_the_reader_of_the_numbers_must_know(write_run, lines, words):
    assert any(words in warning for warning in read(write_run, lines).warnings)


def test_the_log_of_pgbench_becomes_windows(tmp_path):
    # client, transaction, µs, script (1 writes), end in s and µs of the wall clock, µs late
    log = (
        "0 1 250 0 1700000001 100000 20\n1 1 900 1 1700000002 600000 30\n1 2 skipped 0 1 1 1\n0 1 2"
    )
    (tmp_path / "pgbench.4242").write_text(log)
    (tmp_path / "pgbench.stderr").write_text("")
    found = list(program.logged([{"scratch": str(tmp_path)}], offset=1_699_999_000))
    assert found == [
        (pytest.approx(1001.1), pytest.approx(250e-6), pytest.approx(20e-6), False),
        (pytest.approx(1002.6), pytest.approx(900e-6), pytest.approx(30e-6), True),
    ]
    with program.opened(tmp_path / "load.jsonl") as output:
        program.write_windows(ASKED | {"warmup": 1.5}, found, output, 1000.0, 4.0, 0.5)
    first, second = map(json.loads, (tmp_path / "load.jsonl").read_text().splitlines())
    assert (first["warmup"], first["monotonic"], first["seconds"]) == (True, 1001.5, 0.5)
    assert (second["warmup"], second["monotonic"], second["seconds"]) == (False, 1003, 1)
    assert second["cpu_seconds"] == 0.5
    assert sum(first["reads"].values()) == sum(second["writes"].values()) == 1
    assert 899_000 < int(next(iter(second["writes"]))) <= 900_000
