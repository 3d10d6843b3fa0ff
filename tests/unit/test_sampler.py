"""The sampler with test trees; no test needs KSM, root or a guest."""

import ast
import json
import os
import random
import resource
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from programs import ROLES, load

SAMPLER = ROLES / "part_sampler/files/ksm_sampler.py"
KSM = "sys/kernel/mm/ksm"
STAT = "4242 (qemu) (x86 Z) S 1 1 1 0 -1 4 9 0 0 0 57 21 0 0 20 0 4 0 100 999 888\n"
KSM_STAT = """\
ksm_rmap_items 100
ksm_zero_pages 0
ksm_merging_pages 40
ksm_process_profit -6400
ksm_merge_any: no
ksm_mergeable: yes
"""
TREE = {
    f"{KSM}/full_scans": "12\n",
    f"{KSM}/general_profit": "-64\n",
    f"{KSM}/advisor_mode": "[none] scan-time\n",
    "proc/sys/kernel/random/boot_id": "0b00\n",
    "proc/sys/kernel/osrelease": "6.1.0\n",
    "proc/stat": "cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 1 2 3 4 5 6 7 8 9 10\nintr 5 0 0\n",
    "proc/meminfo": "MemTotal:       1024 kB\nNobody:   1 kB\nInactive(anon):    7 kB\n",
    "proc/vmstat": "nr_free_pages 1\npswpin 3\npswpout 4\nksm_swpin_copy 5\ncow_ksm 6\nlast 7\n",
    "proc/36/comm": "ksmd\n",
    "proc/36/cmdline": "/usr/bin/ksmd\0",
    "proc/37/comm": "ksmd\n",
    "proc/37/cmdline": "",
    "proc/37/schedstat": "5000000 252176 2\n",
    "proc/37/stat": "37 (ksmd) S 2 0 0 0 -1 2097216 0 0 0 0 0 12 0 0 25 5 1 0 26\n",
    "proc/4242/ksm_stat": KSM_STAT,
    "proc/4242/stat": STAT,
    "proc/4242/statm": "1000 900 80 5 0 123 0\n",
}
GUEST = {
    "ksm_rmap_items": 100,
    "ksm_zero_pages": 0,
    "ksm_merging_pages": 40,
    "ksm_process_profit": -6400,
    "ksm_merge_any": "no",
    "ksm_mergeable": "yes",
    "utime": 57,
    "stime": 21,
    "resident_pages": 900,
}


ksm_sampler = load(SAMPLER)


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "root"
    for path, text in TREE.items():
        put(root, path, text)
    return root


def put(root, path, text):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def command(tree, *arguments, output="-"):
    return [sys.executable, SAMPLER, "--root", tree, "--output", output, *map(str, arguments)]


def run(tree, *arguments, **options):
    return subprocess.run(
        command(tree, *arguments, **options), capture_output=True, text=True, timeout=60
    )


def parse(text):
    header, *samples, end = map(json.loads, text.splitlines())
    assert [header["kind"], end["kind"]] == ["header", "end"]
    assert {sample["kind"] for sample in samples} <= {"sample"}
    return header, samples, end


def one_sample(tree, *arguments):
    return parse(run(tree, "--samples", 1, *arguments).stdout)[1][0]


def reader(tree, **guests):
    return ksm_sampler.open_reader(tree, list(guests.items()))[0]


def read(a_reader):
    line = a_reader.line(0, 1, 1)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    return json.loads(line)


# Output


def test_header(tree):
    header, _, _ = parse(run(tree, "--samples", 2, "--period", 0.02, "--guest", "a=4242").stdout)
    assert time.time() - 60 < header.pop("wall") <= time.time()
    assert time.monotonic() - 60 < header.pop("monotonic") <= time.monotonic()
    assert header == {
        "kind": "header",
        "format": 1,
        "pss_anon": {"a": None},
        "period": 0.02,
        "samples": 2,
        "page_size": os.sysconf("SC_PAGE_SIZE"),
        "clock_ticks": os.sysconf("SC_CLK_TCK"),
        "boot_id": "0b00",
        "kernel": "6.1.0",
        "ksmd_pid": 37,
        "guests": {"a": 4242},
    }


def test_strain_of_all_cpus_and_memory(tree):
    text = "some avg10=0.00 avg60=0.00 avg300=0.00 total=41\nfull avg10=0.00 total=7\n"
    put(tree, "proc/pressure/memory", text)
    for cpu, count in ((0, 2), (1, 3), (10, 4)):
        throttle = f"sys/devices/system/cpu/cpu{cpu}/thermal_throttle/core_throttle_count"
        put(tree, throttle, f"{count}\n")
    header, _, end = parse(run(tree, "--samples", 1).stdout)

    assert header["strain"] == {"memory_some_us": 41, "memory_full_us": 7, "throttled": 9}
    assert end["strain"] == header["strain"]


INTERRUPTS = """\
           CPU0       CPU1
 CAL:     {calls}         20   Function call interrupts
 TLB:          3          4   TLB shootdowns
"""


def test_the_work_of_the_host_is_counted_between_the_first_and_the_last_sample(tree):
    put(tree, "proc/interrupts", INTERRUPTS.format(calls=10))
    put(tree, "proc/vmstat", "pgfault 100\n")
    put(tree, "proc/38/comm", "khugepaged\n")
    put(tree, "proc/38/cmdline", "")
    put(tree, "proc/38/schedstat", "5000 1 2\n")
    process, lines = start(tree, "--samples", 10, "--period", 1000)
    put(tree, "proc/interrupts", INTERRUPTS.format(calls=15))
    put(tree, "proc/vmstat", "pgfault 107\n")
    put(tree, "proc/38/schedstat", "5400 1 2\n")
    process.terminate()
    _, _, end = parse("".join(lines) + process.communicate(timeout=60)[0])

    assert end["work"].pop("seconds") > 0
    assert end["work"] == {
        "tlb_shootdowns": 0,
        "function_calls": 5,
        "page_faults": 7,
        "khugepaged_cpu_ns": 400,
    }


def test_work_that_the_kernel_does_not_count_is_absent(tree):
    _, _, end = parse(run(tree, "--samples", 1).stdout)
    assert "work" not in end


def test_strain_is_read_again_at_the_end(tree):
    put(tree, "proc/pressure/memory", "some avg10=0.00 total=41\n")
    process, lines = start(tree, "--samples", 10, "--period", 1000)
    put(tree, "proc/pressure/memory", "some avg10=9.00 total=5000041\n")
    process.terminate()
    header, _, end = parse("".join(lines) + process.communicate(timeout=60)[0])

    assert header["strain"] == {"memory_some_us": 41}
    assert end["strain"] == {"memory_some_us": 5_000_041}


@pytest.mark.parametrize(
    "text", ["", "some avg10=0.00 total=\n", "some", "\n", "other total=5\n", "some total=-1\n"]
)
def test_strain_that_the_kernel_lacks_is_absent(tree, text):
    put(tree, "proc/pressure/memory", text)
    header, _, end = parse(run(tree, "--samples", 1).stdout)

    assert "strain" not in header
    assert "strain" not in end


def test_sample(tree):
    sample = one_sample(tree, "--guest", "a=4242")
    assert time.time() - 60 < sample.pop("wall") <= time.time()
    assert time.monotonic() - 60 < sample.pop("monotonic") <= time.monotonic()
    assert sample == {
        "kind": "sample",
        "n": 0,
        "ksm": {"advisor_mode": "[none] scan-time", "full_scans": 12, "general_profit": -64},
        "cpu": {
            "user": 1,
            "nice": 2,
            "system": 3,
            "idle": 4,
            "iowait": 5,
            "irq": 6,
            "softirq": 7,
            "steal": 8,
            "guest": 9,
            "guest_nice": 10,
        },
        "meminfo": {"MemTotal": 1024, "Inactive(anon)": 7},
        "vmstat": {"pswpin": 3, "pswpout": 4, "ksm_swpin_copy": 5, "cow_ksm": 6},
        "ksmd": {"cpu_ns": 5000000},
        "guests": {"a": GUEST},
    }


def test_end(tree):
    _, samples, end = parse(run(tree, "--samples", 3, "--period", 0.05, "--guest", "a=4242").stdout)
    assert end.pop("cpu_seconds") > 0
    assert len(samples) == end.pop("samples")
    nothing = {"gone": {}, "pss_anon": {"a": None}}
    nothing["others"] = {"ksm_rmap_items": 0, "processes": []}
    assert end == {"kind": "end", "missed": 3 - len(samples), "reason": "finished", **nothing}


def test_anonymous_memory_of_guests_before_and_after(tree):
    (tree / "proc/4242/smaps_rollup").write_text(
        "Rss: 9 kB\nPss_Anon:     123 kB\nPss_File: 1 kB\n"
    )
    header, _, end = parse(run(tree, "--samples", 1, "--guest", "a=4242").stdout)
    assert header["pss_anon"] == end["pss_anon"] == {"a": 123}


def test_the_end_line_names_other_processes_that_are_merged(tree):
    for pid, items in ((50, 0), (51, 7), (52, 9), *((60 + n, 1) for n in range(5))):
        other = tree / f"proc/{pid}"
        other.mkdir()
        (other / "ksm_stat").write_text(f"ksm_rmap_items {items}\nksm_merging_pages 1\n")
        (other / "comm").write_text("java\n")
    *_, end = parse(run(tree, "--samples", 1, "--guest", "a=4242").stdout)
    assert end["others"]["ksm_rmap_items"] == 7 + 9 + 5
    most = [(each["pid"], each["ksm_rmap_items"]) for each in end["others"]["processes"]]
    assert most == [(52, 9), (51, 7), (64, 1), (63, 1), (62, 1)]
    assert end["others"]["processes"][0]["name"] == "java"


def test_children_of_sampled_processes_are_no_others(tree):
    for pid, parent in ((50, 4242), (51, 50), (52, 1)):
        other = tree / f"proc/{pid}"
        other.mkdir()
        (other / "ksm_stat").write_text("ksm_rmap_items 7\n")
        (other / "comm").write_text("postgres\n")
        (other / "stat").write_text(f"{pid} (post) gres) S {parent} 1 1\n")
    *_, end = parse(run(tree, "--samples", 1, "--guest", "a=4242").stdout)
    assert [each["pid"] for each in end["others"]["processes"]] == [52]


def test_end_line_goes_to_stdout_as_well(tree, tmp_path):
    done = run(tree, "--samples", 1, output=tmp_path / "out")
    lines = (tmp_path / "out").read_text().splitlines()
    assert done.stdout.splitlines() == lines[-1:]
    assert len(lines) == 3
    assert done.returncode == 0


def test_no_sample_is_early(tree):
    header, samples, _ = parse(run(tree, "--samples", 10, "--period", 0.01).stdout)
    ns = [sample["n"] for sample in samples]
    assert ns == sorted(set(ns))
    for sample in samples:
        due = header["monotonic"] + sample["n"] * 0.01
        assert sample["monotonic"] > due - 1e-6


def test_wall_and_monotonic_time_advance_equally(tree):
    _, samples, _ = parse(run(tree, "--samples", 2, "--period", 0.3).stdout)
    walls, monotonics = ([sample[clock] for sample in samples] for clock in ("wall", "monotonic"))
    assert walls[1] - walls[0] == pytest.approx(monotonics[1] - monotonics[0], abs=0.1)


# Differences between kernels


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0\n", 0),
        ("18446744073709551615\n", 18446744073709551615),
        ("7", 7),
        ("none [scan-time]\n", "none [scan-time]"),
        ('a "quoted" \\ 100%\n', 'a "quoted" \\ 100%'),
        ("two\nlines\n", "two\nlines"),
        ("007\n", "007"),
        ("-0\n", "-0"),
        ("5 6\n", "5 6"),
        ("n\u00e4her\n", "n\u00e4her"),
        ("x" * 20000 + "\n", "x" * 20000),
    ],
)
def test_unknown_ksm_file(tree, text, value):
    put(tree, f"{KSM}/new_thing", text)
    sample = one_sample(tree)
    assert sample["ksm"]["new_thing"] == value
    assert sample["ksm"]["full_scans"] == 12


def test_values_without_newline_are_not_joined(tree):
    put(tree, f"{KSM}/a", "12")
    put(tree, f"{KSM}/b", "34\n")
    ksm = one_sample(tree)["ksm"]
    assert (ksm["a"], ksm["b"]) == (12, 34)


def test_unknown_lines_of_ksm_stat(tree):
    put(tree, "proc/4242/ksm_stat", KSM_STAT + "ksm_new 5\nksm_state: half done\n?\n")
    guest = one_sample(tree, "--guest", "a=4242")["guests"]["a"]
    assert guest == {**GUEST, "ksm_new": 5, "ksm_state": "half done"}


def test_kernel_without_ksm_stat(tree):
    (tree / "proc/4242/ksm_stat").unlink()
    put(tree, "proc/4242/ksm_merging_pages", "41\n")
    guest = one_sample(tree, "--guest", "a=4242")["guests"]["a"]
    assert guest == {"ksm_merging_pages": 41, "utime": 57, "stime": 21, "resident_pages": 900}


def test_ksm_merging_pages_is_read_only_once(tree):
    put(tree, "proc/4242/ksm_merging_pages", "41\n")
    assert one_sample(tree, "--guest", "a=4242")["guests"]["a"] == GUEST


def test_values_that_the_kernel_lacks_are_absent(tree):
    for path in ("vmstat", "meminfo", "stat", "37/comm", "sys/kernel/random/boot_id"):
        (tree / "proc" / path).unlink()
    header, samples, _ = parse(run(tree, "--samples", 1).stdout)
    assert (header["ksmd_pid"], header["boot_id"]) == (None, None)
    sample = samples[0]
    assert (sample["vmstat"], sample["meminfo"], sample["cpu"]) == ({}, {}, {})
    assert sample["ksmd"] == {"cpu_ns": None}
    assert sample["guests"] == {}


@pytest.mark.parametrize("ticks", [0, 12, 1234567])
@pytest.mark.parametrize("schedstat", [None, "0 0 0\n"])
def test_ksmd_cpu_from_clock_ticks(tree, ticks, schedstat):
    (tree / "proc/37/schedstat").unlink()
    if schedstat:
        put(tree, "proc/37/schedstat", schedstat)
    stat = TREE["proc/37/stat"].replace(" 0 12 ", f" 0 {ticks} ")
    put(tree, "proc/37/stat", stat)
    assert one_sample(tree)["ksmd"] == {"cpu_ns": ticks * 10_000_000}


def test_old_proc_stat_with_fewer_columns(tree):
    put(tree, "proc/stat", "cpu  1 2 3 4\ncpu0 1 2 3 4\n")
    assert one_sample(tree)["cpu"] == {"user": 1, "nice": 2, "system": 3, "idle": 4}


def test_new_proc_stat_with_more_columns(tree):
    put(tree, "proc/stat", "cpu  1 2 3 4 5 6 7 8 9 10 11 12\ncpu0 1\n")
    assert list(one_sample(tree)["cpu"].values()) == list(range(1, 11))


# Changes during sampling


@pytest.mark.parametrize(
    ("path", "text", "where", "value"),
    [
        (f"{KSM}/full_scans", "1234567\n", ("ksm", "full_scans"), 1234567),
        (f"{KSM}/general_profit", "64\n", ("ksm", "general_profit"), 64),
        (f"{KSM}/full_scans", "many\n", ("ksm", "full_scans"), "many"),
        (f"{KSM}/full_scans", '"\n', ("ksm", "full_scans"), '"'),
        (f"{KSM}/full_scans", "08\n", ("ksm", "full_scans"), "08"),
        (f"{KSM}/full_scans", "9" * 4000 + "\n", ("ksm", "full_scans"), int("9" * 4000)),
        (f"{KSM}/advisor_mode", "x" * 9000 + "\n", ("ksm", "advisor_mode"), "x" * 9000),
        (f"{KSM}/advisor_mode", "none [scan-time]\n", ("ksm", "advisor_mode"), "none [scan-time]"),
        (f"{KSM}/advisor_mode", "5\n", ("ksm", "advisor_mode"), 5),
        (f"{KSM}/advisor_mode", "5 \\\n", ("ksm", "advisor_mode"), "5 \\"),
        ("proc/meminfo", "Buffers: 5 kB\nMemTotal: 123456789 kB\n", ("meminfo", "Buffers"), 5),
        ("proc/meminfo", "MemTotal: 123456789 kB\n", ("meminfo",), {"MemTotal": 123456789}),
        ("proc/vmstat", "cow_ksm 9\npswpin 8\n", ("vmstat",), {"cow_ksm": 9, "pswpin": 8}),
        ("proc/stat", "cpu  9 9 9 9\n", ("cpu", "idle"), 9),
        ("proc/4242/ksm_stat", KSM_STAT + "ksm_new 5\n", ("guests", "a", "ksm_new"), 5),
        ("proc/4242/ksm_stat", "ksm_rmap_items 1\n", ("guests", "a", "ksm_rmap_items"), 1),
        ("proc/4242/stat", STAT.replace("Z) S", "\n) R"), ("guests", "a"), GUEST),
        ("proc/4242/stat", STAT.replace(" 57 ", " 99999 "), ("guests", "a", "utime"), 99999),
    ],
)
def test_a_file_that_changes(tree, path, text, where, value):
    sampled = reader(tree, a=4242)
    read(sampled)
    put(tree, path, text)
    for _ in range(2):
        found = read(sampled)
        for key in where:
            found = found[key]
        assert found == value


def test_a_change_does_not_affect_other_values(tree):
    sampled = reader(tree, a=4242)
    before = read(sampled)
    put(tree, f"{KSM}/full_scans", "many\n")
    after = read(sampled)
    assert after["ksm"].pop("full_scans") == "many"
    assert before["ksm"].pop("full_scans") == 12
    assert after == before


def test_a_layout_is_learned_only_when_it_changes(tree, monkeypatch):
    sampled = reader(tree, a=4242)
    learned = []
    learn = sampled.learn
    monkeypatch.setattr(sampled, "learn", lambda: learned.append(1) or learn())
    put(tree, f"{KSM}/full_scans", "13\n")
    put(tree, f"{KSM}/advisor_mode", "none [scan-time]\n")
    read(sampled)
    assert learned == []
    put(tree, f"{KSM}/full_scans", "many\n")
    read(sampled)
    read(sampled)
    assert learned == [1]


def test_a_file_that_becomes_empty_is_left_out(tree):
    sampled = reader(tree)
    put(tree, f"{KSM}/full_scans", "")
    put(tree, "proc/37/schedstat", "")
    sample = read(sampled)
    assert set(sample["ksm"]) == {"advisor_mode", "general_profit"}
    assert sample["ksmd"] == {"cpu_ns": None}


def test_a_file_that_becomes_unreadable_is_left_out(tree):
    sampled = reader(tree)
    hole = os.open("/", os.O_RDONLY)  # pread of a directory fails, like that of a removed file
    os.dup2(hole, sampled.fds[1])
    os.close(hole)
    assert set(read(sampled)["ksm"]) == {"advisor_mode", "general_profit"}


@pytest.mark.parametrize("size", [16, 64])
def test_reads_may_be_partial(tree, monkeypatch, size):
    whole = read(reader(tree, a=4242))
    monkeypatch.setattr(ksm_sampler, "BUFFER", size)
    sampled = reader(tree, a=4242)
    assert read(sampled) == whole
    monkeypatch.setattr(sampled, "learn", None)  # it must not learn again
    put(tree, "proc/vmstat", TREE["proc/vmstat"].replace("cow_ksm 6", "cow_ksm 66"))
    assert read(sampled)["vmstat"]["cow_ksm"] == 66


def test_only_files_that_need_it_are_read_in_pieces(tree):
    put(tree, "proc/stat", TREE["proc/stat"] + "intr" + " 0" * 20000 + "\n")
    put(tree, "proc/vmstat", "".join(f"nr_{n} 0\n" for n in range(2000)) + "cow_ksm 5\n")
    sampled = reader(tree, a=4242)
    sample = read(sampled)
    assert sample["vmstat"] == {"cow_ksm": 5}
    assert sample["cpu"]["user"] == 1
    assert [Path(f"/proc/self/fd/{fd}").readlink() for fd in sampled.long] == [tree / "proc/vmstat"]


# Guests


def test_guests_by_pid_and_by_pid_file(tree, tmp_path):
    (tmp_path / "b.pid").write_text("4242\n")
    guests = one_sample(tree, "--guest", "a=4242", "--guest", f"b={tmp_path}/b.pid")["guests"]
    assert guests == {"a": GUEST, "b": GUEST}


def test_names_of_guests_may_contain_anything(tree):
    name = 'a "b" 100%d \\ ä'
    assert one_sample(tree, "--guest", f"{name}=4242")["guests"] == {name: GUEST}


@pytest.mark.parametrize("state", ["Z", "X"])
def test_a_guest_that_is_a_zombie_has_ended(tree, state):
    put(tree, "proc/4243/stat", STAT)
    put(tree, "proc/4243/statm", TREE["proc/4242/statm"])
    sampled = reader(tree, a=4242, b=4243)
    assert read(sampled)["guests"]["b"] is not None
    put(tree, "proc/4243/stat", STAT.replace("Z) S", f"Z) {state}"))
    for _ in range(2):
        assert read(sampled)["guests"] == {"a": GUEST, "b": None}
    assert list(sampled.gone) == ["b"]


def test_a_guest_with_empty_ksm_stat_has_ended(tree):
    sampled = reader(tree, a=4242)
    put(tree, "proc/4242/ksm_stat", "")
    assert read(sampled)["guests"] == {"a": None}
    put(tree, "proc/4242/ksm_stat", KSM_STAT)
    put(tree, f"{KSM}/full_scans", "many\n")  # which makes it read everything again
    assert read(sampled)["guests"] == {"a": None}


def test_a_process_that_comes_and_goes(tree, tmp_path):
    files = [("b", tmp_path / "b.pid"), ("c", tmp_path / "c.pid")]
    sampled = ksm_sampler.open_reader(tree, [("a", 4242)], files)[0]
    assert read(sampled)["guests"] == {"a": GUEST}
    (tmp_path / "b.pid").write_text("")  # not complete yet
    assert read(sampled)["guests"] == {"a": GUEST}
    (tmp_path / "b.pid").write_text("4243\n")  # has no process yet
    assert read(sampled)["guests"] == {"a": GUEST}
    for name in ("stat", "statm", "ksm_stat"):
        put(tree, f"proc/4243/{name}", TREE[f"proc/4242/{name}"])
    for _ in range(2):
        assert read(sampled)["guests"] == {"a": GUEST, "b": GUEST}
    put(tree, "proc/4243/stat", STAT.replace("Z) S", "Z) Z"))
    assert read(sampled)["guests"] == {"a": GUEST, "b": None}
    assert list(sampled.transient.arrived) == ["b"]


def test_a_process_that_comes_and_goes_is_not_missed(tree, tmp_path):
    (tmp_path / "b.pid").write_text("4242\n")
    asked = [f"--transient={name}={tmp_path}/{name}.pid" for name in "bc"]
    header, samples, end = parse(run(tree, "--samples", 1, *asked).stdout)
    assert header["guests"] == {}
    assert samples[0]["guests"] == {"b": GUEST}
    assert list(end["arrived"]) == ["b"]
    assert end["gone"] == end["left"] == {}


# End


def start(tree, *arguments):
    process = subprocess.Popen(command(tree, *arguments), stdout=subprocess.PIPE, text=True)
    lines = [process.stdout.readline(), process.stdout.readline()]
    assert json.loads(lines[1])["n"] == 0
    return process, lines


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_ends_it_at_once(tree, name, status):
    process, lines = start(tree, "--samples", 10, "--period", 1000)
    process.send_signal(signal.Signals[name])
    text = "".join(lines) + process.communicate(timeout=60)[0]
    _, samples, end = parse(text)
    assert (end["reason"], end["samples"], end["missed"]) == (name, 1, 0)
    assert len(samples) == 1
    assert process.returncode == status


class Interrupted:
    """A reader that gets a signal during a sample."""

    def line(self, n, _wall, _monotonic):
        self.sampler.stop(signal.SIGTERM, None)
        return b"a whole line\n"


def test_a_signal_within_a_sample_waits_for_its_end(tmp_path):
    output = ksm_sampler.Output(tmp_path / "out")
    reader = Interrupted()
    reader.sampler = ksm_sampler.Sampler(reader, output, 10_000_000, 100)
    assert reader.sampler.run(time.monotonic_ns()) == 0
    assert (reader.sampler.taken, reader.sampler.reason) == (1, "SIGTERM")
    assert (tmp_path / "out").read_bytes() == b"a whole line\n"


def test_a_second_signal_does_not_interrupt_the_end():
    sampler = ksm_sampler.Sampler(None, None, 10**12, 100)
    sampler.asleep = True
    with pytest.raises(ksm_sampler.Stopped):
        sampler.stop(signal.SIGTERM, None)
    sampler.stop(signal.SIGTERM, None)


def test_a_second_signal_after_one_within_a_sample_is_ignored():
    sampler = ksm_sampler.Sampler(None, None, 10**12, 100)
    sampler.stop(signal.SIGTERM, None)
    with pytest.raises(ksm_sampler.Stopped):
        sampler.sleep_until(0)
    sampler.stop(signal.SIGTERM, None)


def test_missed_deadlines_are_counted_and_skipped(tree):
    process, lines = start(tree, "--samples", 100, "--period", 0.02)
    process.send_signal(signal.SIGSTOP)
    time.sleep(0.5)
    process.send_signal(signal.SIGCONT)
    header, samples, end = parse("".join(lines) + process.communicate(timeout=60)[0])
    assert len(samples) == end["samples"] == 100 - end["missed"]
    assert end["missed"] >= 20
    for sample in samples:  # a late sample has the number of the next deadline that it can meet
        assert sample["n"] == int((sample["monotonic"] - header["monotonic"]) / 0.02 + 1e-6)
    assert process.returncode == 0


def test_no_space_left(tree):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command(tree, "--samples", 5),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert done.returncode == 1
    assert done.stderr.endswith(
        "cannot write to standard output after 0 samples: No space left on device\n"
    )


def test_only_the_last_line_may_be_incomplete(tree, tmp_path):
    output = tmp_path / "out"
    done = subprocess.run(
        command(tree, "--samples", 50, "--period", 0.01, output=output),
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000)),
    )
    assert done.returncode == 1
    assert f"cannot write to {output} after" in done.stderr
    assert output.stat().st_size == 3000
    *lines, torn = output.read_text().split("\n")
    assert [json.loads(line)["kind"] for line in lines[:2]] == ["header", "sample"]
    assert all(json.loads(line) for line in lines)
    assert torn


def test_a_short_write_is_completed(tmp_path, monkeypatch):
    output = ksm_sampler.Output(tmp_path / "out")
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:7]))
    output.write(b"a line that is longer\n")
    assert (tmp_path / "out").read_bytes() == b"a line that is longer\n"


def test_a_line_is_one_write(tree, tmp_path, monkeypatch):
    output = ksm_sampler.Output(tmp_path / "out")
    sizes = []
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: sizes.append(len(data)) or write(fd, data))
    sampler = ksm_sampler.Sampler(reader(tree), output, 10_000_000, 3)
    sampler.run(time.monotonic_ns())
    assert len(sizes) == sampler.taken
    assert sizes == [len(line) + 1 for line in (tmp_path / "out").read_text().splitlines()]


# Start


def test_the_first_deadline_can_be_set(tree):
    start = time.monotonic() + 0.5
    header, samples, _ = parse(
        run(tree, "--samples", 5, "--period", 0.05, "--start", f"{start:.9f}").stdout
    )
    assert header["monotonic"] == pytest.approx(start, abs=1e-6)
    assert samples[0]["n"] == 0
    for sample in samples:
        late = sample["monotonic"] - header["monotonic"] - sample["n"] * header["period"]
        assert -1e-6 < late < header["period"]
    wall, monotonic = (samples[0][clock] - header[clock] for clock in ("wall", "monotonic"))
    assert wall == pytest.approx(monotonic, abs=0.1)


def test_a_past_start_means_now(tree):
    before = time.monotonic()
    header, samples, end = parse(run(tree, "--samples", 2, "--period", 0.3, "--start", 5).stdout)
    assert before < header["monotonic"] < samples[0]["monotonic"]
    assert [samples[0]["n"], end["missed"]] == [0, 0]


def test_the_header_is_there_before_the_start(tree):
    start = time.monotonic() + 1000
    arguments = command(tree, "--samples", 5, "--start", start)
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    header = process.stdout.readline()
    assert json.loads(header)["monotonic"] == pytest.approx(start, abs=1e-3)
    assert json.loads(header)["wall"] == pytest.approx(time.time() + 1000, abs=60)
    process.terminate()
    _, samples, end = parse(header + process.communicate(timeout=60)[0])
    assert samples == []
    assert (end["samples"], end["missed"], end["reason"]) == (0, 0, "SIGTERM")
    assert process.returncode == 143


# Steady


def steady_at(samples, **rule):
    """Return the index of the sample (seconds, full_scans, pages_sharing) that ends sampling."""
    asked = ksm_sampler.Steady(**{"scans": 3, "seconds": 0, "percent": 1} | rule)
    for index, sample in enumerate(samples):
        asked.add(*sample)
        if asked.reached():
            return index
    return None


def flat(count, pages=1000, scans=1):
    """Return one sample per second, with so many scans in between."""
    return [(float(n), 5 + n * scans, pages) for n in range(count)]


def test_steady_needs_complete_scans():
    assert steady_at(flat(10), scans=3) == 4
    assert steady_at(flat(10), scans=5) == 6
    assert steady_at(flat(10, scans=2), scans=3) == 2


def test_before_the_first_sample_nothing_was_scanned():
    assert steady_at([(float(n), n, 0) for n in range(10)], scans=3) == 3


def test_after_that_the_first_sample_is_one_of_many():
    samples = [(float(n), n, 100 if n else 0) for n in range(10)]
    assert steady_at(samples, scans=3) == 5


def test_steady_needs_the_seconds():
    assert steady_at(flat(100, scans=9), seconds=60) == 60
    assert steady_at(flat(100, scans=9), seconds=60.5) == 61


def test_steady_needs_the_scans_independent_of_their_duration():
    slow = [(float(n), n // 50, 1000) for n in range(500)]
    assert steady_at(slow, seconds=60, scans=3) == 150
    assert steady_at([(float(n), 7, 1000) for n in range(500)], seconds=60) is None


@pytest.mark.parametrize(
    ("percent", "pages", "steady"),
    [
        (1, [1000, 990], True),
        (1, [990, 1000], True),
        (1, [1000, 989], False),
        (1, [989, 1000], False),
        (1, [1000, 995, 989], False),
        (0, [1000, 1000], True),
        (0, [1000, 999], False),
        (0, [0, 0], True),
        (100, [1000, 0], True),
    ],
)
def test_what_is_flat(percent, pages, steady):
    samples = [(float(n), 5 + n, pages[n % len(pages)]) for n in range(40)]
    assert (steady_at(samples, percent=percent) is not None) is steady


def test_a_slow_rise_is_not_flat():
    samples = [(float(n), 5 + n, 1000 + n * 6) for n in range(60)]
    assert steady_at(samples, seconds=3) is None
    assert steady_at(samples, seconds=3, percent=5) is None, "5 % in 8 s are 20 % in 10 scans"
    assert steady_at(samples, seconds=3, percent=20) is not None


@pytest.mark.parametrize("scan", [1, 6, 20, 300])
@pytest.mark.parametrize("sign", [1, -1])
def test_54_percent_an_hour_are_not_steady(scan, sign):
    samples = [(float(n), n // scan, 1e6 * (1 + sign * 0.009 * n / 60)) for n in range(3600)]
    assert steady_at(samples, seconds=60) is None


@pytest.mark.parametrize("scan", [1, 20, 60])
def test_the_slope_is_judged_against_the_scan_time(scan):
    """1 % in ten scans, or in ten minutes if that is longer, is the limit."""
    longest = max(600, 10 * scan)
    for share, steady in ((0.95, True), (1.05, False)):
        rise = share * 0.01 / longest
        samples = [(float(n), n // scan, round(1e9 * (1 + rise * n))) for n in range(300)]
        assert (steady_at(samples, seconds=60) is not None) is steady


def test_noise_within_the_range_is_steady():
    chance = random.Random(1)
    samples = [(n / 4, n // 8, 100_000 + chance.randint(-400, 400)) for n in range(2400)]
    found = steady_at(samples, seconds=60)
    assert found is not None
    assert samples[found][0] < 120


def test_what_was_before_the_rise_does_not_count():
    rise = [(float(n), 5 + n, min(100 * n, 1000)) for n in range(100)]
    assert steady_at(rise, seconds=20) == 30


def test_what_was_before_its_time_does_not_count():
    assert steady_at(flat(100), seconds=20, after=30) == 50
    assert steady_at(flat(100), scans=20, after=30) == 51


def test_a_drop_restarts_the_rule():
    samples = [*flat(20), *[(20.0 + n, 25 + n, 0) for n in range(40)]]
    assert steady_at(samples, seconds=30) == 50


def test_a_reset_of_full_scans_restarts_the_rule():
    samples = [(float(n), n if n < 20 else n - 20, 1000) for n in range(100)]
    assert steady_at(samples, seconds=30) == 50
    assert steady_at(samples, scans=30) == 51


def long_enough(samples, scans, seconds, percent, after):
    """Whether samples end steady, directly from the definition."""
    begun = max(n for n, each in enumerate(samples) if n == 0 or each[1] < samples[n - 1][1])
    for n in range(begun, len(samples)):
        needed = scans + (n > 0 or samples[0][1] > 0)
        pages = [each[2] for each in samples[n:]]
        if (
            samples[n][0] >= after
            and samples[-1][0] - samples[n][0] >= seconds
            and samples[-1][1] - samples[n][1] >= needed
            and max(pages) - min(pages) <= percent / 100 * max(pages)
        ):  # the longest such stretch is judged
            taken = samples[-1][1] - samples[n][1]
            ahead = 10 * max(seconds, (samples[-1][0] - samples[n][0]) / max(taken, 1))
            rise = slope([each[0] for each in samples[n:]], pages) * ahead
            # At the limit itself, rounding decides
            return abs(rise) <= percent / 100 * max(pages) * (1 + 1e-9)
    return False


def slope(seconds, pages):
    """Return the slope of least squares, in pages a second."""
    if len(seconds) < 2:
        return 0.0
    return statistics.linear_regression(seconds, pages).slope


def drift(chance, calm):
    """Return random samples with all kinds of changes."""
    pick = chance.choice
    seconds, scans, pages = 0, pick([0, 0, 4]), pick([0, 100])
    for _ in range(chance.randint(1, 40)):
        yield seconds, scans, pages
        seconds += pick([1, 1, 1, 2])
        scans = 0 if chance.random() < 0.03 else scans + pick([0, 0, 1, 1, 2])
        pages = max(0, pages + (pick([0, 0, 1, -1]) if chance.random() < calm else pick([-30, 30])))


@pytest.mark.parametrize("seed", range(4))
def test_the_rule_matches_its_definition(seed):
    chance = random.Random(seed)
    steady = 0
    for _ in range(200):
        pick = chance.choice
        asked = (pick([1, 2, 3]), pick([0, 1, 3, 6]), pick([0, 1, 10, 50]), pick([0, 0, 2, 5]))
        rule, samples = ksm_sampler.Steady(*asked), []
        for sample in drift(chance, calm=0.95):
            samples.append(sample)
            rule.add(*sample)
            assert rule.reached() == long_enough(samples, *asked), (asked, samples)
            steady += rule.reached()
    assert steady > 100


def test_an_endless_scan_needs_no_memory():
    rule = ksm_sampler.Steady(3, 60, 1)
    for n in range(100_000):
        rule.add(n / 4, 0, 46920 + n % 7)
    assert len(rule.highs) + len(rule.lows) <= 14


class Ksmd(threading.Thread):
    """Counts scans in a tree, in place, so that no reader finds an empty file.

    In the first `rising` scans, pages_sharing rises too much to be flat.
    """

    def __init__(self, tree, rising=0):
        super().__init__(daemon=True)
        self.rising = rising
        put(tree, f"{KSM}/full_scans", "100\n")
        put(tree, f"{KSM}/pages_sharing", "1000\n")
        files = [tree / KSM / name for name in ("full_scans", "pages_sharing")]
        self.fds = [os.open(file, os.O_WRONLY) for file in files]
        self.over = threading.Event()

    def run(self):
        for scan in range(900):
            os.pwrite(self.fds[0], b"%d" % (100 + scan), 0)
            if scan < self.rising:
                os.pwrite(self.fds[1], b"%d" % (1100 + 100 * scan), 0)
            if self.over.wait(0.02):
                break

    def __enter__(self):
        self.start()

    def __exit__(self, *_):
        self.over.set()
        self.join()
        for fd in self.fds:
            os.close(fd)


STEADY = ["--period", 0.02, "--steady-scans", 2, "--steady-seconds", 0.3]


def test_it_ends_when_it_is_steady(tree):
    with Ksmd(tree):
        done = run(tree, "--samples", 400, *STEADY, "--steady-every", 50)
    _, samples, end = parse(done.stdout)
    assert (end["reason"], end["converged"], end["samples"]) == ("steady", True, len(samples))
    assert samples[-1]["n"] % 50 == 0
    assert samples[-1]["monotonic"] - samples[0]["monotonic"] >= 0.3
    assert samples[-1]["ksm"]["full_scans"] - samples[0]["ksm"]["full_scans"] >= 3
    assert end["missed"] == samples[-1]["n"] + 1 - len(samples)
    assert done.returncode == 0


def test_it_is_not_steady_while_sharing_rises(tree):
    ksmd = Ksmd(tree, rising=40)
    process, lines = start(tree, "--samples", 400, *STEADY)
    with ksmd:
        _, samples, end = parse("".join(lines) + process.communicate(timeout=60)[0])
    assert (end["reason"], end["converged"]) == ("steady", True)
    seen = [sample["ksm"]["pages_sharing"] for sample in samples]
    assert (seen[0], seen[-1]) == (1000, 5000)
    risen = samples[seen.index(5000)]["monotonic"]
    assert samples[-1]["monotonic"] - risen >= 0.3


def test_with_smart_scan_it_needs_ten_scans(tree):
    put(tree, f"{KSM}/smart_scan", "1\n")
    with Ksmd(tree):
        done = run(tree, "--samples", 2000, *STEADY)
    _, samples, end = parse(done.stdout)
    assert end["reason"] == "steady"
    assert samples[-1]["ksm"]["full_scans"] - samples[0]["ksm"]["full_scans"] >= 10


def test_zero_pages_count_as_saved():
    line = b'{"ksm":{"full_scans":%d,"pages_sharing":0,"ksm_zero_pages":%d}}'
    steady = ksm_sampler.Steady(3, 0, 1)
    sampler = ksm_sampler.Sampler(None, None, 1, 100, steady)
    assert not any(sampler.is_steady(n, n, line % (n, 1000 * n)) for n in range(20))
    assert any(sampler.is_steady(n, n, line % (n, 20_000)) for n in range(20, 40))
    below_zero = [sampler.is_steady(n, n, line % (n, 2**64 - n)) for n in range(40, 60)]
    assert any(below_zero), "such a count is ignored"


def test_it_is_not_steady_before_its_time(tree):
    with Ksmd(tree):
        done = run(tree, "--samples", 400, *STEADY, "--steady-after", 0.4)
    header, samples, end = parse(done.stdout)
    assert end["reason"] == "steady"
    assert samples[-1]["monotonic"] - header["monotonic"] >= 0.7


@pytest.mark.parametrize(("pages", "converged"), [("1000\n", True), ("", False)])
def test_it_is_not_steady_without_values(tree, pages, converged):
    with Ksmd(tree):
        put(tree, f"{KSM}/pages_sharing", pages)
        end = parse(run(tree, "--samples", 50, *STEADY).stdout)[2]
    assert end["converged"] is converged


def test_it_has_not_converged_at_the_limit(tree):
    put(tree, f"{KSM}/pages_sharing", "1000\n")
    done = run(tree, "--samples", 30, *STEADY)
    _, _, end = parse(done.stdout)
    assert (end["reason"], end["converged"]) == ("finished", False)
    assert done.returncode == 0


def test_it_has_not_converged_when_a_signal_ends_it(tree):
    put(tree, f"{KSM}/pages_sharing", "1000\n")
    process, lines = start(tree, "--samples", 10, "--period", 1000, "--steady-scans", 3)
    process.terminate()
    _, _, end = parse("".join(lines) + process.communicate(timeout=60)[0])
    assert (end["reason"], end["converged"]) == ("SIGTERM", False)
    assert process.returncode == 143


def test_a_signal_has_priority_over_steady(tmp_path):
    class SteadyNow(Interrupted):
        def line(self, *arguments):
            super().line(*arguments)
            return b'{"full_scans":0,"pages_sharing":9}'

    output = ksm_sampler.Output(tmp_path / "out")
    reader = SteadyNow()
    steady = ksm_sampler.Steady(0, 0, 1)
    reader.sampler = ksm_sampler.Sampler(reader, output, 10_000_000, 100, steady)
    reader.sampler.run(time.monotonic_ns())
    assert steady.reached()
    assert (reader.sampler.taken, reader.sampler.reason) == (1, "SIGTERM")


def test_without_a_rule_there_is_no_converged(tree):
    with Ksmd(tree):
        end = parse(run(tree, "--samples", 30, "--period", 0.02).stdout)[2]
    assert end["reason"] == "finished"
    assert "converged" not in end


# Refused arguments


def ksm_is_missing(tree, tmp_path):
    (tree / "sys/kernel/mm/ksm").rename(tree / "elsewhere")
    return []


def ksm_is_empty(tree, tmp_path):
    for file in (tree / KSM).iterdir():
        file.unlink()
    return []


def pid_file_holds_no_pid(tree, tmp_path):
    (tmp_path / "pid").write_text("running\n")
    return ["--guest", f"a={tmp_path}/pid"]


def guest_is_a_zombie(tree, tmp_path):
    put(tree, "proc/4242/stat", STAT.replace("Z) S", "Z) Z"))
    return ["--guest", "a=4242"]


def guest_without_stat(tree, tmp_path):
    (tree / "proc/4242/stat").unlink()
    return ["--guest", "a=4242"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (ksm_is_missing, "the kernel must be built with CONFIG_KSM"),
        (ksm_is_empty, "the kernel must be built with CONFIG_KSM"),
        (pid_file_holds_no_pid, "holds 'running', not a pid"),
        (guest_is_a_zombie, "guest a: process 4242 has ended"),
        (guest_without_stat, "has no stat or statm"),
        (["--guest", "a=999"], "guest a: there is no process 999"),
        (["--guest", "a=/nowhere/a.pid"], "the pid file /nowhere/a.pid cannot be read"),
        (["--guest", "a"], "is not NAME=PID or NAME=PIDFILE"),
        (["--guest", "=4242"], "is not NAME=PID or NAME=PIDFILE"),
        (["--guest", "a=4242", "--guest", "a=4242"], "a name is given twice"),
        (["--transient", "a=/tmp/a", "--guest", "a=4242"], "a name is given twice"),
        (["--transient", "a=/nowhere/a"], "process a: there is no directory of /nowhere/a"),
        (["--transient", "a"], "is not NAME=PIDFILE"),
        (["--period", "0.009"], "0.009 is not a period: 0.01 seconds or more"),
        (["--period", "nan"], "nan is not a period"),
        (["--period", "inf"], "inf is not a period"),
        (["--period", "often"], "invalid"),
        (["--samples", "0"], "0 is not a whole number of 1 or more"),
        (["--start", "soon"], "invalid"),
        (["--start", "-1"], "-1 is not a number of 0 or more"),
        (["--start", "nan"], "nan is not a number of 0 or more"),
        (["--start", str(time.monotonic() + 7200)], "--start: more than 3600 s ahead"),
        (["--steady-scans", "0"], "0 is not a whole number of 1 or more"),
        (["--steady-seconds", "-1"], "-1 is not a number of 0 or more"),
        (["--steady-percent", "inf"], "inf is not a number of 0 or more"),
        (["--steady-every", "0"], "0 is not a whole number of 1 or more"),
    ],
)
def test_refused_before_anything_is_written(tree, tmp_path, arguments, message):
    if callable(arguments):
        arguments = arguments(tree, tmp_path)
    output = tmp_path / "out"
    done = run(tree, "--samples", 1, *arguments, output=output)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not output.exists()


def test_never_overwrites(tree, tmp_path):
    (tmp_path / "out").write_text("precious")
    done = run(tree, "--samples", 1, output=tmp_path / "out")
    assert done.returncode == 2
    assert f"{tmp_path}/out already exists and is not overwritten" in done.stderr
    assert (tmp_path / "out").read_text() == "precious"


def test_output_that_cannot_be_created(tree, tmp_path):
    done = run(tree, "--samples", 1, output=tmp_path / "no/such/out")
    assert done.returncode == 2
    assert f"cannot create {tmp_path}/no/such/out: No such file or directory" in done.stderr


# Properties of the file


def test_help_names_every_field(tree):
    text = run(tree, "--help").stdout
    put(tree, "proc/pressure/memory", "some total=41\nfull total=7\n")
    put(tree, "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count", "5\n")
    put(tree, "proc/interrupts", INTERRUPTS.format(calls=10))
    asked = ["--samples", 1, "--steady-scans", 1, "--guest", "a=4242", "--transient", "b=/tmp/b"]
    header, samples, end = parse(run(tree, *asked).stdout)
    named = {*header, *samples[0], *samples[0]["meminfo"], *samples[0]["vmstat"], *end}
    named |= {*header["strain"]}
    named |= {*end["work"]}
    assert len(header["strain"]) == 3
    assert len(end["work"]) > 1
    assert sorted(word for word in named if word not in text) == []


def test_it_is_one_file_for_python_3_9_without_dependencies():
    module = ast.parse(SAMPLER.read_text(), feature_version=(3, 9))
    imported = {
        name.split(".")[0]
        for node in ast.walk(module)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported <= set(sys.stdlib_module_names)
