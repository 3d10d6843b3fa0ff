"""`import` of tables, dumps, older logs of the original framework, and ranges of a Prometheus."""

import http.server
import json
import threading

import pytest

from ksm_analysis.__main__ import main
from ksm_analysis.metrics import measurement
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
    _, run, _ = imported("node_ksmd_sleep_seconds,node_ksmd_run\n0.02,1\n")
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


@pytest.mark.parametrize(
    ("status", "text", "words"),
    [
        (200, "hello", "no answer of a Prometheus"),
        (200, "{}", "the answer is not one of a Prometheus"),
        (200, '{"data": {"resultType": "scalar", "result": []}}', "but a scalar"),
        (200, '{"data": {"resultType": "matrix", "result": []}}', "no series is a counter of KSM"),
        (400, '{"error": "parse \\u001b error"}', "parse \\x1b error"),
        (503, "down", "HTTP status 503"),
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


def test_no_server_and_unknown_kinds(tmp_path, capsys):
    for arguments, words in (
        (["--from", "prometheus", "http://127.0.0.1:9"], "no answer of a Prometheus"),
        (["--from", "prometheus", "file:///etc/passwd"], "must begin with http"),
        (["--from", "influx", "http://127.0.0.1:9"], "There is: prometheus"),
        ([], "name files to import"),
    ):
        assert main(["import", *arguments, "--results", str(tmp_path / "r")]) == 2
        assert words in capsys.readouterr().err
