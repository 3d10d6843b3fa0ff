"""Parsing of logs of the original framework, also incomplete ones."""

import json

import pytest

from ksm_analysis.errors import InputError
from ksm_analysis.results.imports import log as imported
from ksm_analysis.results.imports import original

BEGIN, END = original.BEGIN, original.END
HEADER = {
    "num_intervals": "2",
    "interval_duration": "60",
    "command_executed_in_vms": "''",
    "vm_pid_array": "11 22",
}
KSM = ("full_scans=3308", "general_profit=-64", "pages_to_scan=1000", "run=1", "sleep_millisecs=20")
STATS = ("/proc/11/ksm_stat=ksm_rmap_items 5 ksm_process_profit -320", "/proc/22/ksm_stat=")


def head(**changed):
    """Return header lines; a key that is None is left out."""
    return [f"{key}={value}" for key, value in {**HEADER, **changed}.items() if value is not None]


def interval(number, cpu="7.03", ksm=KSM, stats=STATS):
    return [f"Interval {number}: average_cpu_usage={cpu}", BEGIN, *ksm, END, *stats]


def text(*parts):
    return "".join(f"{line}\n" for part in parts for line in part).encode()


def parse(*parts):
    return original.parse(text(*parts), "a.log")


def kept(log):
    """Return the lines of samples.jsonl, as objects."""
    return [json.loads(line) for line in imported.samples(log)]


def test_every_value_of_a_log_arrives():
    log = parse(head(), interval(1), interval(2, "4", (*KSM[1:], "full_scans=3309")))
    header, first, second, end = kept(log)

    assert header["guests"] == {"vm-11": 11, "vm-22": 22}
    assert (header["samples"], header["period"], header["monotonic"]) == (2, 60, 0)
    assert first == {
        "kind": "sample",
        "n": 1,
        "monotonic": 60.0,
        "ksm": {
            "full_scans": 3308,
            "general_profit": -64,
            "pages_to_scan": 1000,
            "run": 1,
            "sleep_millisecs": 20,
        },
        "guests": {"vm-11": {"ksm_rmap_items": 5, "ksm_process_profit": -320}, "vm-22": None},
        "original": {"average_cpu_usage": 7.03},
    }
    assert (second["n"], second["monotonic"], second["ksm"]["full_scans"]) == (2, 120.0, 3309)
    assert end == {"kind": "end", "samples": 2, "missed": 0, "reason": "finished", "gone": {}}
    assert (log.header, log.other, log.cut_short, log.assumed) == (HEADER, [], None, {})


def test_carriage_returns_and_blank_lines_change_nothing():
    plain = parse(head(), interval(1), interval(2))
    data = text(head(), [""], interval(1), [" ", ""], interval(2)).replace(b"\n", b"\r\n")
    other = original.parse(b"\xef\xbb\xbf" + data, "a.log")

    assert kept(other) == kept(plain)
    assert (other.header, other.other, other.cut_short) == (HEADER, [], None)


def test_unknown_keys_are_kept_in_place():
    ksm = [*KSM, "advisor_mode=[none] scan-time", "new-thing=2.5"]
    stats = ["/proc/11/ksm_stat=ksm_zero_pages 3 ksm_merge_any: no ksm_mergeable yes", STATS[1]]
    log = parse(head(kernel="6.18"), interval(1, ksm=ksm, stats=stats), ["swap=7"], interval(2))
    sample = kept(log)[1]

    assert log.header["kernel"] == "6.18"
    assert sample["ksm"]["advisor_mode"] == "[none] scan-time"
    assert sample["ksm"]["new-thing"] == 2.5
    assert sample["guests"]["vm-11"] == {
        "ksm_zero_pages": 3,
        "ksm_merge_any": "no",
        "ksm_mergeable": "yes",
    }
    assert sample["original"] == {"average_cpu_usage": 7.03, "swap": 7}
    assert log.knobs["advisor_mode"] == "none"
    assert log.other == []


def test_lines_of_unknown_form_are_kept_unchanged():
    strange = ["cat: a=b: No such file", "=5", "run=0", "Interval one: x=2", "[WHAT]"]
    odd = "/proc/22/ksm_stat=ksm_rmap_items 5 ksm_merging_pages"
    stats = [STATS[0], STATS[0], odd]
    log = parse(["hello"], head(), interval(1, ksm=[*KSM, *strange], stats=stats), interval(2))

    assert log.other == ["hello", *strange, STATS[0], odd]
    assert kept(log)[1]["ksm"]["run"] == 1
    assert kept(log)[1]["guests"]["vm-22"] == {"ksm_rmap_items": 5}


@pytest.mark.parametrize(
    ("written", "value"),
    [("9,65", 9.65), ("4", 4), (".5", 0.5), ("1e1", 10.0), ("", None), ("-nan", None)],
)
def test_cpu_usage_as_any_locale_writes_it(written, value):
    log = parse(head(num_intervals=1), interval(1, written))

    assert kept(log)[1]["original"] == {"average_cpu_usage": value}
    assert len(log.other) == (written == "-nan")


@pytest.mark.parametrize("written", ["1_000", "nan", "inf", "1e999", "0x10", "1 2", "٣"])
def test_values_that_are_not_json_numbers_stay_text(written):
    log = parse(head(num_intervals=1), interval(1, ksm=[*KSM, f"strange={written}"]))

    assert kept(log)[1]["ksm"]["strange"] == written


def test_a_key_is_of_one_kind_in_all_intervals():
    bad = interval(2, ksm=["full_scans=n/a", "advisor_mode=none"], stats=STATS[:1] + STATS[:1])
    bad[-1] = "/proc/22/ksm_stat=ksm_rmap_items lots"
    good = interval(1, ksm=["full_scans=3", "advisor_mode=none"], stats=[STATS[0], *STATS[:1]])
    good[-1] = "/proc/22/ksm_stat=ksm_rmap_items 4"
    log = parse(head(), good, bad)

    assert [sample["ksm"]["full_scans"] for sample in kept(log)[1:3]] == [3, None]
    assert kept(log)[2]["ksm"]["advisor_mode"] == "none"
    assert kept(log)[2]["guests"]["vm-22"] == {"ksm_rmap_items": None}
    assert log.other == ["full_scans=n/a", "/proc/22/ksm_stat=ksm_rmap_items lots"]


def test_a_kernel_without_ksm_stat():
    log = parse(head(), interval(1, stats=()), interval(2, stats=()))

    assert log.cut_short is None
    assert imported.cell(log)["guests"] == 2
    assert kept(log)[0]["guests"] == {}


def test_no_guests_at_all():
    log = parse(head(vm_pid_array=""), interval(1, stats=()), interval(2, stats=()))

    assert imported.cell(log)["guests"] == 0
    assert kept(log)[1]["guests"] == {}
    assert log.cut_short is None


def test_a_header_that_does_not_say_how_many_or_how_long():
    log = parse(head(num_intervals=None, interval_duration="soon"), interval(1), interval(2))

    assert log.assumed == {"num_intervals": 2, "interval_duration": 1.0}
    assert (log.planned, log.seconds, log.cut_short) == (2, 1.0, None)
    assert log.header["interval_duration"] == "soon"


def test_an_interval_of_a_fraction_of_a_second():
    log = parse(head(interval_duration="0,5"), interval(1), interval(2))

    assert [sample["monotonic"] for sample in kept(log)[1:3]] == [0.5, 1.0]


@pytest.mark.parametrize(
    ("command", "workload"),
    [
        ("''", "idle"),
        ("", "idle"),
        (None, "idle"),
        ("'stress-ng --vm 2 --vm-bytes=64M'", "stress-ng --vm 2 --vm-bytes=64M"),
        ("'sh -c 'a=1; b=\"2\"''", "sh -c 'a=1; b=\"2\"'"),
        ("bare words", "bare words"),
    ],
)
def test_the_workload_is_the_command(command, workload):
    log = parse(head(num_intervals=1, command_executed_in_vms=command), interval(1))

    assert imported.cell(log)["workload"] == workload
    assert log.header.get("command_executed_in_vms") == command


@pytest.mark.parametrize(
    ("ksm", "label"),
    [
        (KSM, "pages_to_scan=1000, sleep_millisecs=20"),
        (("run=0", "pages_to_scan=1000"), "pages_to_scan=1000, run=0"),
        (("full_scans=1",), "unknown"),
    ],
)
def test_the_label_of_the_knobs(ksm, label):
    assert imported.cell(parse(head(num_intervals=1), interval(1, ksm=ksm)))["knobs"] == label


# --- cut short ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (interval(2), "ends after interval 2 of 3"),
        ([*interval(2), "Interval 3: average_cpu_usage=1"], "ends within interval 3 of 3"),
        ([*interval(2), *interval(3)[:-3]], "ends within interval 3 of 3"),
        ([*interval(2), *interval(3)[:-1]], "ends within interval 3 of 3"),
        ([*interval(2)[:-3], *interval(3)], "lacks all or part of interval 2"),
        (interval(2)[:4], "ends within interval 2 of 3"),
        (interval(3), "lacks all or part of interval 2"),
        (
            [*interval(2)[:4], *interval(3)[:4]],
            "lacks all or part of interval 2 and ends within interval 3 of 3",
        ),
    ],
)
def test_a_log_that_is_cut_short_says_where(lines, words):
    log = parse(head(num_intervals=3), interval(1), lines)

    assert log.cut_short == words
    assert log.planned == 3
    assert kept(log)[-1]["reason"] == "cut short"


def test_a_log_may_be_longer_than_it_says():
    log = parse(head(num_intervals=1), interval(1), interval(2))

    assert (log.planned, log.cut_short) == (2, None)


def test_missing_intervals_are_named_and_counted():
    log = parse(head(num_intervals=9), interval(4), interval(5), interval(7), interval(9))

    assert log.cut_short == "lacks all or part of interval 1-3, 6, 8"
    assert [sample["n"] for sample in kept(log)[1:-1]] == [4, 5, 7, 9]
    assert kept(log)[-1]["missed"] == 5


def test_cut_at_any_byte_no_value_is_wrong():
    """Every value from a truncated log equals the value from the complete log."""
    data = text(head(num_intervals=3), *(interval(n) for n in (1, 2, 3)))
    whole = kept(original.parse(data, "a.log"))[1:-1]
    lengths = set()
    for size in range(len(data)):
        try:
            log = original.parse(data[:size], "a.log")
        except InputError:
            continue
        found = kept(log)[1:-1]
        assert found == whole[: len(found)]
        assert log.cut_short
        lengths.add(len(found))
    assert lengths == {1, 2}


def test_the_last_line_without_a_newline_counts_only_if_complete():
    guestless = text(head(vm_pid_array="", num_intervals=1), interval(1, stats=()))

    assert original.parse(guestless[:-1], "a.log").cut_short is None
    with pytest.raises(InputError, match="no interval is complete"):
        original.parse(guestless[:-2], "a.log")
    torn = original.parse(guestless + b"comm", "a.log")
    assert torn.cut_short == "ends in a torn line"


# --- other files ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "a.log:1: not a log of the original framework: expected `Interval 1: "),
        (b"a=1\n\nhello\n", "a.log:3: not a log of the original framework: .*, not hello"),
        (text(head()), "a.log:5: not a log .* but the file ends"),
        (b"\x00\xff\x01\n", "a.log:1: not a log"),
        (text(head(), interval(1)[:-3]), r"a.log:11: no interval .* last, 1, lacks `\[END\] Log"),
        (text(head(), interval(1)[:-1]), "lacks `/proc/22/ksm_stat=…`"),
        (text(head(), interval(1, ksm=())), "lacks `a parameter before"),
        (text(head(), interval(1), interval(1)), "a.log:15: expected Interval 2, not 1"),
        (text(head(), interval(0)), "a.log:5: expected Interval 1, not 0"),
        (text(head(), interval(1), interval(200_000_000)), "expected Interval 2, not 200000000"),
    ],
)
def test_a_file_that_is_not_a_log_is_refused_with_its_line(data, words):
    with pytest.raises(InputError, match=words):
        original.parse(data, "a.log")
