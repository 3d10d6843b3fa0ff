"""`import` of tables, dumps, older logs of the original framework, and ranges of a Prometheus."""

import http.server
import json
import threading

import numpy as np
import pytest

from ksm_analysis.__main__ import main
from ksm_analysis.metrics import measurement
from ksm_analysis.metrics.times import reached
from ksm_analysis.results import reader
from ksm_analysis.results.imports.counters import Column, column

TABLE = "Timestamp,Pages_shared,Pages_sharing,full_scans,load\n"
ROWS = "1700000000,0,0,31,1\n1700000005,57,11617,48,2\n1700000010,2261,38171,50,3\n"
OLDER = """\
num_intervals=2
interval_duration=60
vm_pid_array=11
[BEGIN] Logging ksm system parameters
full_scans=847
pages_sharing=7
pages_to_scan=10000
run=1
sleep_millisecs=20
[END] Logging ksm system parameters
Interval 1: average_cpu_usage=4.47
Interval 1: pages_shared=4876
Interval 1: pages_sharing=20649
Interval 1: /proc/11/ksm_stat=ksm_rmap_items 90828 ksm_merging_pages 25525
Interval 2: average_cpu_usage=3.11
Interval 2: pages_shared=4573
Interval 2: pages_sharing=20621
Interval 2: /proc/11/ksm_stat=ksm_rmap_items 90828 ksm_merging_pages 25194
"""


@pytest.fixture
def imported(tmp_path, capsys):
    """Import a text; return the exit code, the run if there is one, and what was printed."""

    def imported(text, *options, name="a.txt"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        results = tmp_path / "results"
        status = main(["import", str(path), "--results", str(results), *options])
        runs = reader.read_results(results).runs if results.exists() else [None]
        captured = capsys.readouterr()
        return status, runs[0], captured.out + captured.err

    return imported


def counters(run, name):
    return run.samples[f"ksm.{name}"].tolist()


# --- older logs -----------------------------------------------------------------------------------


def test_an_older_log_has_its_knobs_and_a_baseline_before_the_first_interval(imported):
    status, run, words = imported(OLDER)
    assert status == 0
    assert "1 guest, 2 intervals of 60 s" in words
    assert "warning" not in words
    assert counters(run, "pages_sharing") == [20649, 20621]
    assert run.guests["ksm_merging_pages"].tolist() == [25525, 25194]
    assert run.record.knobs.during["pages_to_scan"] == 10000
    assert run.record.imported.baseline == {
        "full_scans": 847,
        "pages_sharing": 7,
        "pages_to_scan": 10000,
        "run": 1,
        "sleep_millisecs": 20,
    }
    assert measurement.measure(run).host["host_cpu_percent"].tolist() == [4.47, 3.11]


@pytest.mark.parametrize(
    "size", range(len(OLDER) - 1, OLDER.index("Interval 2: pages_shared"), -17)
)
def test_an_older_log_that_is_cut_short_keeps_its_complete_intervals(imported, size):
    status, run, words = imported(OLDER[:size])
    assert status == 0
    assert counters(run, "pages_sharing") == [20649]
    assert "ends within interval 2 of 2" in words


# --- tables ---------------------------------------------------------------------------------------


def test_a_table_is_a_run(imported):
    status, run, words = imported(TABLE + ROWS)
    assert status == 0
    assert "0 guests, 3 intervals of 5 s, pages of 4096 bytes (assumed)" in words
    assert "columns that are not counters of KSM are left out: load" in words
    assert counters(run, "pages_sharing") == [0, 11617, 38171]
    assert run.record.started == 1_700_000_000
    assert measurement.measure(run).host["reclaimed_mib"].iloc[-1] == 38171 / 256


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("pages_sharing", Column("pages_sharing")),
        (" PAGES_SHARING ", Column("pages_sharing")),
        ("node_ksmd_full_scans_total", Column("full_scans")),
        ("node_ksmd_sleep_seconds", Column("sleep_millisecs", 1000)),
        ("mem.ksm.run_state", Column("run")),
        ("mem.ksm.sleep_time", Column("sleep_millisecs")),
        ("/sys/kernel/mm/ksm/ksm_zero_pages", Column("ksm_zero_pages")),
        ("ksm_pages_sharing_bytes", Column("pages_sharing", in_bytes=True)),
        ("ksm_zero_pages_bytes", Column("ksm_zero_pages", in_bytes=True)),
        ("ksm_general_profit_bytes", Column("general_profit")),
        ("load", None),
        ("pages", None),
    ],
)
def test_names_of_others_are_known(name, known):
    assert column(name) == known


def test_columns_can_be_mapped_and_the_time_named(imported):
    text = "when;shared pages;pages_shared\n2026-01-01T00:00:00Z;5;x\n2026-01-01T00:01:00Z;6;x\n"
    options = ("--map", "shared pages=pages_shared", "--time", "when", "--page-size", "65536")
    status, run, words = imported(text, *options)
    assert status == 0
    assert "2 intervals of 60 s, pages of 65536 bytes (as told)" in words
    assert counters(run, "pages_shared") == [5, 6]
    assert run.header["page_size"] == 65536


def test_rows_without_a_time_are_a_period_apart(imported):
    status, run, _ = imported("pages_sharing\trun\n1\t1\n2\t1\n", "--period", "30")
    assert status == 0
    assert run.plan.sampling.interval == 30
    _, _, words = imported("pages_sharing,run\n1,1\n2,1\n", name="b.csv")
    assert "no usable period: 1 is assumed" in words


def test_a_missing_row_is_a_missed_sample(imported):
    _, run, _ = imported(TABLE + ROWS + "1700000020,3,4,51,1\n1700000025,3,5,52,1\n")
    assert run.samples.index.tolist() == [1, 2, 3, 5, 6]


def test_more_values_than_names_are_told(imported):
    status, run, words = imported("Time,PAGES_SHARING\n0,5,0.1\n30,6,0.1\n")
    assert status == 0
    assert counters(run, "pages_sharing") == [5, 6]
    assert "rows have 1 more values than the first line has names" in words


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        (TABLE + "yesterday,1,2,3,4\n", (), "a.txt:2: yesterday is not a time"),
        (TABLE + "5,1,2,3,4\n5,1,2,3,4\n", (), "a.txt:3: the time does not increase"),
        (TABLE, (), "a.txt: no values"),
        (TABLE + ROWS, ("--map", "nix=run"), "a.txt:1: no column nix. There are: Timestamp, "),
        (TABLE + ROWS, ("--time", "nix"), "a.txt:1: no column nix"),
        ("a,b\n1,2\n", (), "begins with a,b, and is in no known form"),
        ("", (), "is empty, and is in no known form"),
        ("run,RUN\n1,1\n", (), "a.txt:1: run and RUN are both run"),
    ],
    ids=["time", "time falls", "no rows", "map", "no time", "no counter", "empty", "twice"],
)
def test_tables_that_cannot_be_read(imported, text, options, words):
    status, _, told = imported(text, *options)
    assert status == 2
    assert words in told


def test_a_row_that_is_too_short_is_left_out_and_told(imported):
    status, run, words = imported(TABLE + ROWS + "17000")
    assert status == 0
    assert counters(run, "pages_sharing") == [0, 11617, 38171]
    assert "a.txt:5: 1 values, and 5 names; the row is left out" in words


@pytest.mark.parametrize(
    "text",
    [
        "time,pages_sharing\n1,50000\n2,60000\n3,7",
        "pages_sharing:50000\npages_sharing:60000\npages_sharing:7",
    ],
    ids=["table", "dump"],
)
def test_a_row_that_may_be_torn_is_left_out_and_told(imported, text):
    status, run, words = imported(text)
    assert status == 0
    assert counters(run, "pages_sharing") == [50000, 60000]
    assert "ends in a line without a newline, which may be torn" in words


def test_a_single_row_without_a_newline_is_kept(imported):
    _, run, words = imported("pages_sharing,run\n5,1")
    assert counters(run, "pages_sharing") == [5]
    assert "may be torn" in words


def test_times_that_jitter_are_regular(imported):
    _, run, _ = imported("time,pages_sharing\n0,1\n9.99,2\n19.98,3\n30.02,4\n")
    assert run.samples.index.tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("time,run,full_scans\n1,1,1\n2,1,2\n3,1,3\n3000000000,1,4\n", "a.txt:5: 2999999996 rows"),
        ("time,run,full_scans\n1,1,1\n1.0000001,1,2\n", "apart; are their times right?"),
        ("run,name\n7,a\n", "no counter of KSM has a value"),
        ("pages_sharing,run\n2.5,1\n", "no counter of KSM has a value"),
        ("time,pages_sharing\n1," + "9" * 400 + "\n", "is more than any kernel counts"),
        ("time,pages_sharing\n1," + "x" * 200_000 + "\n", "a.txt:2: no table"),
        ("\0" * 200_000, "is in no known form"),
    ],
    ids=["gap", "too close", "no counter", "fractions", "huge", "long field", "binary"],
)
def test_files_that_give_no_run_are_refused(imported, text, words):
    status, _, told = imported(text)
    assert status == 2
    assert words in told


def test_lines_may_end_in_a_carriage_return(imported):
    _, run, _ = imported("time,pages_sharing\r1,2\r2,3\r")
    assert counters(run, "pages_sharing") == [2, 3]


def test_a_column_may_be_named_interval(imported):
    status, run, _ = imported("Interval (s),pages_sharing\n0,5\n60,6\n", "--time", "Interval (s)")
    assert status == 0
    assert run.plan.sampling.interval == 60


def test_savings_that_were_there_before_the_first_sample_have_no_time(imported):
    rows = "".join(f"{1_700_000_000 + 60 * n},1,{5000 + n},{50_000 + n}\n" for n in range(20))
    _, run, _ = imported("time,run,full_scans,pages_sharing\n" + rows)
    measured = measurement.measure(run)
    assert np.isnan(reached(0.95)(measured).seconds)


# --- dumps ----------------------------------------------------------------------------------------

DUMP = "/sys/kernel/mm/ksm/full_scans:{}\n/sys/kernel/mm/ksm/pages_sharing:{}\n"


def test_dumps_in_a_series(imported):
    text = "".join(f"{1_700_000_000 + 60 * n}\n{DUMP.format(n, 10 * n)}" for n in range(3))
    status, run, words = imported(text)
    assert status == 0
    assert "3 intervals of 60 s" in words
    assert counters(run, "pages_sharing") == [0, 10, 20]


def test_dumps_without_times(imported):
    status, run, _ = imported(DUMP.format(1, 2) + DUMP.format(3, 4), "--period", "10")
    assert status == 0
    assert run.plan.sampling.interval == 10
    assert counters(run, "full_scans") == [1, 3]


# --- values that cannot be right ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("-1", "is below zero"),
        (str(2**64 - 3), "is below zero"),
        ("many", "is not a number"),
        ("1.5", "is not a whole number"),
        (str(2**41), "is more than any host has"),
    ],
)
def test_values_that_no_kernel_can_have_are_left_out_with_their_line(imported, value, why):
    status, run, words = imported(TABLE + ROWS + f"1700000015,1,{value},52,1\n")
    assert status == 0
    assert f"a.txt:5: pages_sharing {value} {why}; it is left out" in words
    assert run.samples["ksm.pages_sharing"].isna().tolist() == [False, False, False, True]


def test_a_knob_that_is_no_whole_number_is_left_out_too(imported):
    status, run, words = imported("pages_sharing,pages_to_scan,sleep_millisecs\n5,1.5,20\n")
    assert status == 0
    assert "a.txt:2: pages_to_scan 1.5 is not a whole number" in words
    assert run.record.knobs.during == {"sleep_millisecs": 20}


def test_seconds_become_milliseconds(imported):
    _, run, _ = imported("node_ksmd_sleep_seconds,node_ksmd_run,full_scans\n0.02,1,5\n")
    assert run.record.knobs.during == {"run": 1, "sleep_millisecs": 20}


def test_a_log_has_the_line_too(imported):
    _, run, words = imported(OLDER.replace("pages_sharing=20621", f"pages_sharing={2**64 - 1}"))
    assert "a.txt:17: pages_sharing 18446744073709551615 is below zero" in words
    assert run.samples["ksm.pages_sharing"].isna().tolist() == [False, True]


def test_nothing_controls_the_terminal(imported):
    evil = "\x1b]0;owned\x07\x1b[31m"
    for number, text in enumerate(
        (evil + TABLE, TABLE.replace("load", evil) + ROWS, OLDER + evil + "\n", evil)
    ):
        _, _, words = imported(text, name=f"{number}.txt")
        assert "\x1b" not in words
        assert "\x07" not in words


# --- page size ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [4096, 16384, 65536])
def test_profits_show_the_page_size(imported, size):
    profit = " ksm_process_profit {}"
    text = OLDER.replace("25525", "25525" + profit.format(25525 * size - 64 * 90828))
    text = text.replace("25194", "25194" + profit.format(25194 * size - 64 * 90828))
    _, run, words = imported(text)
    assert f"pages of {size} bytes (from profits)" in words
    assert run.header["page_size"] == size


def test_a_page_size_that_profits_contradict_is_told(imported):
    profit = " ksm_process_profit {}"
    text = OLDER.replace("25525", "25525" + profit.format(25525 * 65536 - 64 * 90828))
    _, run, words = imported(text, "--page-size", "4096")
    assert run.header["page_size"] == 4096
    assert "profits show pages of 65536 bytes, and not of 4096" in words


@pytest.mark.parametrize(("size", "how"), [(4096, "assumed"), (16384, "from profits")])
def test_the_profit_of_the_host_shows_a_size_above_4_kib(imported, size, how):
    text = f"pages_sharing,general_profit\n1000,{1000 * size - 64 * 20_000}\n"
    _, run, words = imported(text)
    assert f"pages of {size} bytes ({how})" in words
    assert run.header["page_size"] == size


@pytest.mark.parametrize("options", [("--page-size", "5000"), ("--period", "0"), ("--map", "a=b")])
def test_wrong_options(options):
    with pytest.raises(SystemExit, match="2"):
        main(["import", "a", "--results", "x", *options])


# --- servers that are no Prometheus; tests/host has a real one ------------------------------------


@pytest.fixture
def server():
    """Answer every request with one status and text; return its URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        status, text = 200, "hello"

        def do_GET(self):
            self.send_response(self.status)
            self.end_headers()
            self.wfile.write(self.text.encode())

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        Handler.url = f"http://127.0.0.1:{running.server_port}"
        yield Handler
        running.shutdown()


NO_PROMETHEUS = "the answer is not one of a Prometheus"


@pytest.mark.parametrize(
    ("status", "text", "words"),
    [
        (200, "hello", "no answer of a Prometheus"),
        (200, "{}", "the answer is not one of a Prometheus"),
        (200, '{"data": {"resultType": "scalar", "result": []}}', "but a scalar"),
        (200, '{"data": {"resultType": "matrix", "result": []}}', "no series is a counter of KSM"),
        (400, '{"error": "parse \\u001b error"}', "parse \\x1b error"),
        (503, "down", "HTTP status 503"),
        *(
            (200, json.dumps({"data": {"resultType": "matrix", "result": [series]}}), NO_PROMETHEUS)
            for series in (
                {"metric": "abc", "values": []},
                {"metric": {}, "values": [1]},
                {"metric": {}, "values": [["x", "1"]]},
            )
        ),
    ],
)
def test_servers_that_do_not_answer_well(server, tmp_path, capsys, status, text, words):
    server.status, server.text = status, text
    results = tmp_path / "results"
    arguments = ["import", "--from", "prometheus", server.url, "--results", str(results)]
    assert main(arguments) == 2
    assert words in capsys.readouterr().err
    assert not results.exists()


def test_two_series_of_a_counter_are_refused(server, tmp_path, capsys):
    labels = [{"__name__": "node_ksmd_run", "instance": "a", "job": job} for job in "xy"]
    result = [{"metric": each, "values": [[1.7e9, "1"]]} for each in labels]
    server.text = json.dumps({"data": {"resultType": "matrix", "result": result}})
    arguments = ["import", "--from", "prometheus", server.url, "--results", str(tmp_path / "r")]
    assert main(arguments) == 2
    assert "a: 2 series of node_ksmd_run" in capsys.readouterr().err


def matrix(**metrics):
    """Return an answer with values of one machine, 60 s apart, by the names of their metrics."""
    result = [
        {
            "metric": {"__name__": name, "instance": "a"},
            "values": [[1.7e9 + 60 * n, value] for n, value in enumerate(values)],
        }
        for name, values in metrics.items()
    ]
    return json.dumps({"data": {"resultType": "matrix", "result": result}})


@pytest.fixture
def asked(server, tmp_path, capsys):
    """Import an answer; return the run, and what was printed."""

    def asked(answer):
        server.text = answer
        arguments = ["import", "--from", "prometheus", server.url, "--start", "1.7e9", "--end"]
        assert main([*arguments, "1700000600", "--results", str(tmp_path / "r")]) == 0
        return reader.read_results(tmp_path / "r").runs[0], "".join(capsys.readouterr())

    return asked


def test_the_kernel_comes_before_a_monitor(asked):
    run, words = asked(
        matrix(
            node_ksmd_pages_sharing=["50000", "59000"],
            ksm_pages_sharing_bytes=["28672", "28672"],
            ksm_pages_scanned_total=["7", "8"],
        )
    )
    assert counters(run, "pages_sharing") == [50000, 59000]
    assert counters(run, "pages_scanned") == [7, 8]
    assert "1 counters are of node_exporter and of the monitor; node_exporter's are used" in words


def test_values_of_a_monitor_that_has_stopped_are_left_out(asked):
    last = "ksm_monitor_last_sample_timestamp_seconds"
    run, words = asked(
        matrix(
            node_ksmd_run=["1", "1"],
            ksm_full_scans_total=["3", "3"],
            **{last: [str(1.7e9 - 10), str(1.7e9 - 400)]},
        )
    )
    assert run.samples["ksm.full_scans"].isna().tolist() == [False, True]
    assert "1 values are of a monitor that had stopped" in words


def test_averages_are_rounded_and_told(asked):
    run, words = asked(matrix(node_ksmd_pages_sharing=["2.6", "3.4"]))
    assert counters(run, "pages_sharing") == [3, 3]
    assert "2 values are no whole numbers, as averages are; they are rounded" in words


@pytest.mark.parametrize("port", ["abc", "1"])
def test_a_wrong_address(tmp_path, capsys, port):
    url = f"http://127.0.0.1:{port}"
    assert main(["import", "--from", "prometheus", url, "--results", str(tmp_path / "r")]) == 2
    assert "no answer of a Prometheus" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["a", "--query", "x"], "--query: only with --from"),
        (["a", "--start", "0"], "--start: only with --from"),
        (["--from", "prometheus", "http://127.0.0.1:9", "--map", "a=run"], "--map: only for files"),
        (["--from", "prometheus", "http://127.0.0.1:9", "--period", "5"], "--period: only for"),
    ],
)
def test_options_that_would_be_ignored_are_refused(tmp_path, capsys, options, words):
    assert main(["import", *options, "--results", str(tmp_path / "r")]) == 2
    assert words in capsys.readouterr().err


def test_columns_of_what_is_no_table(imported):
    status, _, words = imported(DUMP.format(1, 2), "--time", "b")
    assert status == 2
    assert "--map and --time are only for tables" in words


def test_no_server_and_unknown_kinds(tmp_path, capsys):
    for arguments, words in (
        (["--from", "prometheus", "http://127.0.0.1:9"], "no answer of a Prometheus"),
        (["--from", "prometheus", "file:///etc/passwd"], "must begin with http"),
        (["--from", "influx", "http://127.0.0.1:9"], "There is: prometheus"),
        ([], "name files to import"),
    ):
        assert main(["import", *arguments, "--results", str(tmp_path / "r")]) == 2
        assert words in capsys.readouterr().err
