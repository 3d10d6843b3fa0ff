"""What commands print becomes metrics: real output of programs, JSON, and anything else."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_runs import MONOTONIC, WALL, events, json_lines, run_record, sample_lines
from programs import ROLES, load

from ksm_analysis.definition import experiment
from ksm_analysis.errors import InputError
from ksm_analysis.page.redact import _words
from ksm_analysis.results import printed, reader
from ksm_analysis.results.printed import Line, Output, metrics_of
from ksm_analysis.results.record import upgraded
from ksm_analysis.results.reported import NAME

DATA = Path(__file__).parents[1] / "data/printed"
FIVE = "guests: {count: [1]}\nsampling: {interval: 1, intervals: 5}\n"


def values(form, file):
    """Return the metrics in a file of real output: value, unit and better of each."""
    lines = [Line(text, 7.0) for text in (DATA / file).read_text().split("\n")]
    found = metrics_of(Output(form, "g", lines))
    assert all(NAME.fullmatch(each["metric"]) for each in found)
    return {each["metric"]: (each["value"], each["unit"], each["better"]) for each in found}


def test_redis_benchmark():
    found = values("redis-benchmark", "redis-benchmark.csv")
    assert found["set_rps"] == (64935.07, "requests/s", "higher")
    assert found["get_p99"] == (0.199, "ms", "lower")
    every = ("rps", "avg", "p50", "p95", "p99", "max")
    assert found.keys() == {f"{test}_{of}" for test in ("set", "get") for of in every}


def test_redis_benchmark_of_older_versions():
    lines = [Line('"LPUSH (needed to benchmark LRANGE)","5000.00"', 7.0)]
    (found,) = metrics_of(Output("redis-benchmark", "g", lines))
    assert (found["metric"], found["value"]) == ("lpush_needed_to_benchmark_lrange_rps", 5000)


@pytest.mark.parametrize(
    ("file", "rate", "percentile"),
    [
        ("sysbench-cpu.txt", {"events_per_second": (10094.24, "events/s", "higher")}, 0.10),
        (
            "sysbench-memory.txt",
            {
                "operations_per_second": (4124908.85, "1/s", "higher"),
                "mib_per_second": (4028.23, "MiB/s", "higher"),
            },
            0.00,
        ),
    ],
)
def test_sysbench(file, rate, percentile):
    found = values("sysbench", file)
    assert found.pop("latency_p95") == (percentile, "ms", "lower")
    assert found.pop("latency_avg")[1:] == found.pop("latency_max")[1:] == ("ms", "lower")
    assert found == rate


def test_the_periods_of_sysbench_have_their_times():
    text = (DATA / "sysbench-periods.txt").read_text()
    lines = [Line(each, 103.1) for each in text.split("\n")]
    found = metrics_of(Output("sysbench", "g", lines, began=100.0))
    rates = [each for each in found if each["metric"] == "events_per_second"]
    assert [(each["since"], each["monotonic"], each["value"]) for each in rates] == [
        (100, 101, 1201.27),
        (101, 102, 1146.39),
        (102, 103, 1177.52),
    ]
    assert [each["value"] for each in found if each["metric"] == "latency_p99"] == [
        0.87,
        1.47,
        0.94,
    ]
    (whole,) = (each for each in found if each["metric"] == "latency_max")
    assert (whole["since"], whole["monotonic"]) == (100, 103.1)


def test_a_transaction_test_of_sysbench():
    text = "    transactions:  5234   (87.21 per sec.)\n    queries:  104680 (1744.23 per sec.)"
    lines = [Line(each, 7.0) for each in text.split("\n")]
    found = metrics_of(Output("sysbench", "g", lines))
    assert [(each["metric"], each["value"]) for each in found] == [
        ("transactions_per_second", 87.21),
        ("queries_per_second", 1744.23),
    ]


def test_cyclictest():
    assert values("cyclictest", "cyclictest.txt") == {
        "latency_avg": ((111 + 102) / 2, "µs", "lower"),
        "latency_max": (10431, "µs", "lower"),
    }


def test_the_histogram_of_cyclictest_has_percentiles():
    found = values("cyclictest", "cyclictest-histogram.txt")
    assert found["latency_avg"][0] == 70
    assert found["latency_max"][0] == 15740
    text = (DATA / "cyclictest-histogram.txt").read_text()
    every = [
        int(latency)
        for latency, often in (line.split() for line in text.split("\n") if line[:6].isdigit())
        for _ in range(int(often))
    ]
    total = len(every) + 4  # overflows
    for name, share in (("p50", 0.5), ("p99", 0.99), ("p999", 0.999)):
        latency = found[f"latency_{name}"][0]
        assert sum(each <= latency for each in every) >= share * total
        assert sum(each < latency for each in every) < share * total


def test_a_cyclictest_on_a_terminal_counts_once():
    assert values("cyclictest", "cyclictest-terminal.txt") == {
        "latency_avg": (163, "µs", "lower"),
        "latency_max": (1565, "µs", "lower"),
    }


def test_a_cyclictest_that_is_started_again_counts_again():
    text = (DATA / "cyclictest.txt").read_text()
    lines = [Line(each, at) for at in (7.0, 9.0) for each in text.split("\n")]
    found = metrics_of(Output("cyclictest", "g", lines))
    most = [each["monotonic"] for each in found if each["metric"] == "latency_max"]
    assert most == [7, 9]


def test_stress_ng():
    rate = (41976.151315, "bogo ops/s", "higher")
    assert values("stress-ng", "stress-ng.txt") == {"vm_bogo_ops_per_second": rate}


def test_fio():
    found = values("fio", "fio.json")
    assert found["read_iops"] == (10415.792104, "IO/s", "higher")
    assert found["read_mib_per_second"] == (pytest.approx(42663084 / 2**20), "MiB/s", "higher")
    assert found["read_p99"] == (111.104, "µs", "lower")
    assert found.keys() == {
        f"{way}_{of}"
        for way in ("read", "write")
        for of in ("iops", "mib_per_second", "p50", "p99", "p999")
    }


def test_fio_that_runs_again_and_says_something_between():
    text = (DATA / "fio.json").read_text()
    lines = [
        Line(each, at)
        for at, part in ((7.0, "fio: a note\n" + text), (9.0, text))
        for each in part.split("\n")
    ]
    found = metrics_of(Output("fio", "g", lines))
    assert [each["monotonic"] for each in found if each["metric"] == "read_p50"] == [7, 9]


def test_a_line_of_json_is_a_metric():
    lines = [
        Line('{"metric": "rps", "value": 5, "unit": "1/s", "better": "higher", "of": "x"}', 7.0),
        Line('{"metric": "rps", "value": 6, "seconds": 2.5}', 8.0),
    ]
    assert metrics_of(Output("json", "process-01", lines)) == [
        {"metric": "rps", "value": 5, "unit": "1/s", "better": "higher", "monotonic": 7.0,
         "since": 7.0, "of": "process-01"},
        {"metric": "rps", "value": 6, "monotonic": 8.0, "since": 8.0, "of": "process-01"},
    ]  # fmt: skip
    late = metrics_of(Output("json", "ksm-guest-01", lines, began=4.0))
    assert [(each["since"], each["monotonic"]) for each in late] == [(4, 7), (4, 6.5)]


@pytest.fixture
def read(write_run):
    """Read a run whose processes have printed these lines, each of (process, text)."""

    def read(lines, form="json", names=("process-01", "process-02"), more=()):
        made_up = run_record(guests=0, workload="idle")
        record = upgraded(made_up)
        record["run"]["parts"].append({"name": "processes", "options": {"metrics": form}})
        path = write_run(record, sample_lines(made_up), events(made_up))
        at = {"wall": WALL + 2, "monotonic": MONOTONIC + 2}
        ready = [{"event": "process ready", "process": name, **at} for name in names]
        output = [{"output": text, "process": of, **at} for of, text in lines]
        (path / "processes.jsonl").write_text(json_lines([*ready, *output, *more]))
        return reader.read_run(path)

    return read


GOOD = '{"metric": "rps", "value": 5}'


def test_what_is_no_json_is_counted_and_the_run_stays(read):
    run = read([
        ("process-01", "ready on host-7"), ("process-01", ""), ("process-01", GOOD),
        ("process-02", "{}"), ("process-02", GOOD), ("process-02", '{"metric": 7}'),
    ])  # fmt: skip
    assert run.usable
    assert run.reported["of"].to_list() == ["process-01", "process-02"]
    (warning,) = run.warnings
    assert warning == (
        "3 of 5 lines that commands printed are no JSON with a metric, and are skipped; the first, "
        "of process-01: ready on host-7"
    )
    assert "host-7" not in _words(warning, {})


def test_a_command_that_prints_nothing(read):
    assert read([("process-02", GOOD)]).warnings == (
        "process-01 printed nothing, though metrics were to be read",
    )


def test_a_command_that_prints_something_else(read):
    run = read([("process-01", "Segmentation fault"), ("process-02", "sh: x")], "sysbench")
    assert run.warnings == (
        "process-01, process-02 printed no result of sysbench; the first line, of process-01: "
        "Segmentation fault",
    )
    assert run.usable


def test_output_that_was_cut_is_told(read):
    at = {"wall": WALL, "monotonic": MONOTONIC}
    cut = {"event": "output cut", "process": "process-01", **at}
    run = read([("process-01", GOOD), ("process-02", GOOD)], more=[cut])
    assert run.warnings == ("process-01 printed too much: the rest was not kept",)


def test_a_form_of_a_later_version_is_told(read):
    assert read([("process-01", GOOD)], "wrk").warnings == (
        "this version cannot read metrics of wrk",
    )


def test_the_output_of_guests_is_read(write_run):
    made_up = run_record(guests=2, workload="stress")
    record = upgraded(made_up)
    task = {"command": ["/bin/x"], "metrics": "json", "guests": [2], "start": 0.0, "stop": 2.0}
    (part,) = (part for part in record["run"]["parts"] if part["name"] == "workload")
    part["options"] = {"tasks": [{**task, "guests": [1], "metrics": "fio"}, task]}
    happened = events(made_up)
    for event in happened:
        if event["event"] == "workload stopped" and event["guest"] == "ksm-guest-02":
            event["stdout"] = f'{GOOD}\n{GOOD[:-1]}, "seconds": 1.5}}\n'
    run = reader.read_run(write_run(record, sample_lines(made_up), happened))
    rows = run.reported[["seconds", "since", "of"]].round(6).to_dict("records")
    assert rows == [
        {"seconds": 1.6, "since": 0.1, "of": "ksm-guest-02"},
        {"seconds": 2.1, "since": 0.1, "of": "ksm-guest-02"},
    ]
    assert len(run.warnings) == 1
    assert run.warnings[0].startswith("ksm-guest-01 printed no result of fio; the first line")


PIECES = st.sampled_from([
    *(json.dumps(each) for each in ({}, [], {"metric": "a"}, {"jobs": [{}]}, {"jobs": 7})),
    *("{", "}", '"', '"test","rps"', '"SET","x"', '"SET","1","2"', "[" * 3000, "\x00", "\u2028"),
    *("T: 0 (1) P: 0 I:1 C: 5 Min: 1 Act: 2 Avg: 3 Max: 4", "000001 5", "# Max Latencies: 5"),
    *("# Histogram Overflows: 0", "# Avg Latencies:  ", " - stressor: vm", " avg: 1.2.3"),
    *(f"000001 {'9' * 5000}", f"[ {'9' * 5000}s ] thds: 1 eps: 1 lat (ms,9%): 1"),
    *(" bogo-ops-per-second-real-time: nan", '{"metric": "a", "value": 1, "seconds": 1e400}'),
    *("[ 1s ] thds: 1 eps: 1.1.1 lat (ms,99%): ..", '{"metric": "a", "value": 1, "seconds": 2}'),
]) | st.text(max_size=20)  # fmt: skip


@pytest.mark.parametrize("form", printed.READERS)
@settings(deadline=None, database=None, max_examples=30)
@given(texts=st.lists(PIECES, max_size=12))
def test_any_output_is_read_without_an_error(form, texts):
    found = metrics_of(Output(form, "g", [Line(text, 7.0) for text in texts], began=1.0))
    assert all(isinstance(each["metric"], str) for each in found)


def plan_of(text):
    made = experiment.plan(experiment.parse(text, "file.yml"), "file.yml")
    return {part["name"]: part["options"] for part in made["runs"][0]["parts"]}


def test_the_plan_says_how_to_read_what_a_command_prints():
    text = FIVE + "workloads: [{name: a, command: x, metrics: sysbench}]"
    assert plan_of(text)["workload"]["tasks"][0]["metrics"] == "sysbench"
    text = FIVE + "workloads: [{name: a, mixed: [{command: x, metrics: fio}]}]"
    assert plan_of(text)["workload"]["tasks"][0]["metrics"] == "fio"
    assert (
        "metrics"
        not in plan_of(FIVE + "workloads: [{name: a, command: x}]")["workload"]["tasks"][0]
    )
    text = "sampling: {interval: 1, intervals: 5}\n"
    text += "processes: {count: 1, command: x, metrics: json}"
    assert plan_of(text)["processes"]["metrics"] == "json"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("workloads: [{name: a, command: x, metrics: yaml}]", "one of json, redis-benchmark, sys"),
        ("workloads: [{name: a, stress_ng: {vm: 1}, metrics: json}]", "goes with 'command'"),
        ("workloads: [{name: a, mixed: [idle], metrics: json}]", "'command', in each part"),
        ("workloads: [{name: a, mixed: [{stress_ng: {vm: 1}, metrics: fio}]}]", "with 'command'"),
        ("processes: {count: 1, service: redis, metrics: json}", "goes with 'command'"),
    ],
)  # fmt: skip
def test_a_wrong_definition(text, words):
    with pytest.raises(InputError) as caught:
        plan_of(FIVE + text)
    assert words in str(caught.value)


# --- the program that records what processes print ----------------------------------------------

output = load(ROLES / "processes/files/ksm_output.py")


@pytest.fixture
def said(tmp_path):
    """Run shell commands with the recorder; return the lines that it has written."""

    def said(*commands):
        path = tmp_path / "processes.jsonl"
        recorder = output.Output(path)
        for number, command in enumerate(commands, start=1):
            pipe = recorder.pipe(f"process-{number:02}")
            subprocess.run(["/bin/sh", "-c", command], stdout=pipe, check=True)
            os.close(pipe)
        recorder.close()
        return [json.loads(line) for line in path.read_text().splitlines()]

    return said


def test_each_line_is_recorded_with_its_time(said):
    first, second, third = said("echo one; sleep 1; printf 'two\\377'", "echo three")
    assert [each["output"] for each in (first, second, third)] == ["one", "two\ufffd", "three"]
    assert [each["process"] for each in (first, third)] == ["process-01", "process-02"]
    assert first["monotonic"] < second["monotonic"] < third["monotonic"]
    assert first["wall"] < third["wall"]


def test_output_is_bounded(said):
    lines = said("head -c 20000 /dev/zero | tr '\\0' a; echo; yes | head -c 9000000", "echo last")
    assert len(lines[0]["output"]) == output.LONGEST
    *most, cut, last = lines
    assert cut["event"] == "output cut"
    assert cut["process"] == "process-01"
    assert output.MOST / 2 < sum(len(json.dumps(line)) for line in most) < 2 * output.MOST
    assert last["output"] == "last"


def test_the_recorder_ends_with_the_last_copy_if_the_launcher_was_killed(tmp_path):
    recorder = output.Output(tmp_path / "processes.jsonl")
    pipe = recorder.pipe("process-01")
    recorder._control.close()
    os.write(pipe, b"last words")
    os.close(pipe)
    assert recorder._process.wait(20) == 0
    assert "last words" in (tmp_path / "processes.jsonl").read_text()
