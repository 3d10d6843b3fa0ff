"""The census of processes with known contents, compared with the counters of the kernel."""

import contextlib
import json
import math
import mmap
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest
from machine import KSM, knobs
from programs import ROLES

from ksm_analysis.results import traces

pytestmark = pytest.mark.host

CENSUS = ROLES / "part_census/files/ksm_census.py"
MEMORY = ROLES / "part_memory/files/ksm_memory.py"
RELEASE = tuple(map(int, re.findall(r"\d+", os.uname().release)[:2]))
PROGRAM = Path(__file__).with_name("mergeable.py")
PAGE = mmap.PAGESIZE
HUGE = Path("/proc/sys/vm/nr_hugepages")
ON_HUGE_PAGES = """
import mmap, sys, time
memory = mmap.mmap(-1, 2 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40000)
memory[0] = 1
if len(sys.argv) > 1:
    rom = mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    rom.madvise(mmap.MADV_MERGEABLE)
    rom[0] = 1
print("ready", flush=True)
time.sleep(600)
"""

MERGEABLE_TOO = """
import mmap, time
memory = mmap.mmap(-1, 400 * mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(mmap.MADV_MERGEABLE)
memory.write(b"k" * len(memory))
print("ready", flush=True)
time.sleep(600)
"""

THREADS = """
import mmap, threading
memory = mmap.mmap(-1, 100 * mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(mmap.MADV_MERGEABLE)
memory.write(b"k" * len(memory))
print("ready", flush=True)
while True:
    threads = [threading.Thread(target=int) for _ in range(20)]
    for thread in threads:
        thread.start()
"""
ALL_MERGEABLE = """
import ctypes, mmap, time
assert ctypes.CDLL(None).prctl(67, 1, 0, 0, 0) == 0  # PR_SET_MEMORY_MERGE
memory = mmap.mmap(-1, 300 * mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.write(b"k" * len(memory))
print("ready", flush=True)
time.sleep(600)
"""
IN_A_HUGE_PAGE = """
import ctypes, mmap, random, time
HUGE, PAGE = 2 << 20, mmap.PAGESIZE
memory = mmap.mmap(-1, 3 * HUGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(mmap.MADV_HUGEPAGE)
memory.madvise(mmap.MADV_MERGEABLE)
first = -ctypes.addressof(ctypes.c_char.from_buffer(memory)) % HUGE
half = HUGE // PAGE // 2
memory[first : first + HUGE] = random.randbytes(PAGE) * half + random.randbytes(PAGE * half)
print("ready", flush=True)
time.sleep(600)
"""


@dataclass(frozen=True)
class Pages:
    """How many pages of each kind a process has."""

    zero: int
    common: int
    own: int
    unique: int

    @property
    def all(self):
        return self.zero + self.common + self.own + self.unique


UNLIKE = (Pages(300, 500, 40, 200), Pages(100, 7, 513, 90), Pages(0, 260, 2, 1))
ALONE = (Pages(300, 500, 40, 200),)


@pytest.fixture
def ksm():
    """Write knobs and restore them; no other process may use KSM."""
    before = knobs()
    if before["run"] != "0\n" or (KSM / "pages_shared").read_text() != "0\n":
        pytest.skip("another process uses KSM on this machine")

    def write(**values):
        for name, value in values.items():
            (KSM / name).write_text(str(value))

    yield write
    write(run=2)
    for name, value in before.items():
        if (KSM / name).read_text() != value:
            (KSM / name).write_text(value)
    assert knobs() == before


@contextlib.contextmanager
def processes(*every):
    """Start a process for each, and always end them."""
    with contextlib.ExitStack() as stack:
        started = {}
        for seed, pages in enumerate(every, 1):
            numbers = (pages.zero, pages.common, pages.own, pages.unique, seed)
            started[f"p{seed}"] = stack.enter_context(running(PROGRAM, *map(str, numbers)))
        yield started


@contextlib.contextmanager
def running(*arguments):
    process = subprocess.Popen(
        [sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def tell(process, line):
    process.stdin.write(f"{line}\n")
    process.stdin.flush()
    assert process.stdout.readline() == "ready\n"


def command(started, *more, output="-"):
    named = [f"--process={name}={process.pid}" for name, process in started.items()]
    return ["/usr/bin/python3", str(CENSUS), *named, "--output", str(output), *more]


def census(started, *more, before=()):
    """Return the line of a single census."""
    done = subprocess.run(
        [*before, *command(started, *more)], stdout=subprocess.PIPE, text=True, check=True
    )
    (line,) = done.stdout.splitlines()
    return json.loads(line)


def counter(name):
    return int((KSM / name).read_text())


def merge_until_nothing_moves(ksm):
    """Let ksmd run until no counter has changed in four scans; then stop it."""
    ksm(run=1)
    seen, scans = None, counter("full_scans")
    while True:
        time.sleep(0.05)
        now = tuple(map(counter, ("pages_shared", "pages_sharing", "ksm_zero_pages")))
        if now != seen:
            seen, scans = now, counter("full_scans")
        elif counter("full_scans") > scans + 4:
            break
    ksm(run=0)


def frames(equal, largest):
    """Return how many KSM pages so many equal pages need."""
    return math.ceil(equal / largest)


def contents_of(every):
    """Return how often each content occurs, as a list of counts per process."""
    zeros = [pages.zero for pages in every]
    common = [pages.common for pages in every]
    own = [[p.own if p is pages else 0 for p in every] for pages in every]
    return zeros, [common, *own]


@pytest.mark.parametrize("every", [ALONE, UNLIKE], ids=["alone", "unlike"])
@pytest.mark.parametrize("use_zero_pages", [0, 1])
@pytest.mark.parametrize("largest", [2, 7, 256, 5000])
def test_closed_form_before_during_and_after_merging(ksm, every, use_zero_pages, largest):
    zeros, others = contents_of(every)
    zero = sum(zeros)
    limit = {
        "present_pages": sum(pages.all for pages in every),
        "swapped_pages": 0,
        "unwritten_pages": 0,
        "fork_shared_pages": 0,
        "outside_mappings": 0,
        "zero_pages": zero,
        "unique_pages": sum(pages.unique for pages in every),
        "duplicate_pages": sum(map(sum, others)),
        "distinct_contents": 1 + len(others) + sum(pages.unique for pages in every),
        "limit_zero_pages": zero if use_zero_pages else zero - 1,
        "limit_within_pages": sum(n - 1 for counts in others for n in counts if n),
        "limit_between_pages": sum(sum(n > 0 for n in counts) - 1 for counts in others),
        "max_page_sharing_pages": sum(frames(sum(counts), largest) - 1 for counts in others)
        + (0 if use_zero_pages else frames(zero, largest) - 1),
    }
    limit["limit_pages"] = sum(
        limit[f"limit_{kind}_pages"] for kind in ("zero", "within", "between")
    )
    ksm(run=2, smart_scan=0, sleep_millisecs=1, pages_to_scan=100)
    ksm(use_zero_pages=use_zero_pages, max_page_sharing=largest)
    with processes(*every) as started:
        before = census(started)
        assert {name: before[name] for name in limit} == limit
        assert (before["saved_pages"], before["efficiency"], before["ksm_frames"]) == (0, 0, 0)
        assert_guests(before, every, others)

        ksm(run=1)
        while counter("pages_sharing") < 20:
            time.sleep(0.001)
        ksm(run=0)
        during = census(started)
        assert {name: during[name] for name in limit} == limit
        assert_agrees(during)
        assert 0 < during["efficiency"] < 1

        merge_until_nothing_moves(ksm)
        copied = copies()
        after = census(started)
        assert {name: after[name] for name in limit} == limit
        assert_agrees(after)
        merged = others if use_zero_pages else [zeros, *others]
        saved = sum(sum(counts) - frames(sum(counts), largest) for counts in merged)
        assert after["saved_ksm_pages"] == saved
        assert after["saved_zero_pages"] == (zero if use_zero_pages else 0)
        assert after["saved_pages"] == limit["limit_pages"] - limit["max_page_sharing_pages"]
        if largest == 5000:
            assert after["matrix"]["pages"] == matrix(merged)
            assert_attributed(after, merged, zeros if use_zero_pages else [0] * len(every))
        assert_agrees(census(started))
        assert copies() == copied, "reading has unmerged nothing"


def assert_guests(line, every, others):
    for number, (pages, counts) in enumerate(zip(every, line["guests"].values(), strict=True)):
        mine = [content[number] for content in others if content[number]]
        again = [content for content in others if sum(content) > 1]
        assert counts["present_pages"] == pages.all
        assert counts["zero_pages"] == pages.zero
        assert counts["unique_pages"] == pages.unique
        assert counts["duplicate_pages"] == sum(content[number] for content in again)
        assert counts["own_duplicate_pages"] == sum(n for n in mine if n > 1)


def assert_agrees(line):
    """The counts match the kernel exactly."""
    assert line["ksm"] == line["ksm_after"], "ksmd does not run"
    assert line["complaints"] == []
    assert line["saved_ksm_pages"] == line["ksm"]["pages_sharing"]
    assert line["saved_zero_pages"] == line["ksm"]["ksm_zero_pages"]
    assert line["ksm_frames"] == line["ksm"]["pages_shared"]
    parts = line["saved_within_pages"] + line["saved_between_pages"]
    assert parts == line["saved_ksm_pages"]
    for guest in line["guests"].values():
        assert guest["ksm_pages"] == guest["ksm_stat"]["ksm_merging_pages"]
        assert guest["zero_frame_pages"] == guest["ksm_stat"]["ksm_zero_pages"]
    attributed = sum(guest["attributed_bytes"] for guest in line["guests"].values())
    assert attributed == line["saved_pages"] * line["page_size"]


def matrix(merged):
    """Row A, column B: pages of A whose content B also has; in A, A: those it has repeatedly."""
    every = range(len(merged[0]))
    return [
        [sum(n[a] for n in merged if (n[a] > 1 if a == b else n[b] > 0)) for b in every]
        for a in every
    ]


def assert_attributed(line, merged, given_up):
    """Each of n equal pages saves (n - 1) / n of a page, and a page of zeros a whole page."""
    for number, guest in enumerate(line["guests"].values()):
        exact = given_up[number] + sum(
            Fraction(counts[number] * (sum(counts) - 1), sum(counts)) for counts in merged
        )
        assert abs(guest["attributed_bytes"] - exact * PAGE) < 1


def copies():
    lines = Path("/proc/vmstat").read_text().splitlines()
    return [line for line in lines if line.startswith("cow_ksm")]


def resident(process):
    return Path(f"/proc/{process.pid}/statm").read_text().split()[1]


def test_no_page_is_faulted_in(ksm):
    with processes(Pages(10, 10, 10, 10)) as started:
        was = resident(started["p1"])
        line = census(started)
        assert line["present_pages"] == 40, "half of its memory was never touched"
        assert resident(started["p1"]) == was


def test_pages_that_were_only_read_are_not_counted(ksm):
    with processes(Pages(10, 0, 0, 20)) as started:
        tell(started["p1"], "read 7")
        line = census(started)
        assert line["unwritten_pages"] == 7
        assert (line["present_pages"], line["zero_pages"], line["limit_pages"]) == (30, 10, 9)

        ksm(run=2, use_zero_pages=1, smart_scan=0, sleep_millisecs=1)
        merge_until_nothing_moves(ksm)
        line = census(started)
        assert line["ksm"]["ksm_zero_pages"] == line["saved_zero_pages"] == 10
        assert (line["unwritten_pages"], line["present_pages"]) == (7, 30)


@contextlib.contextmanager
def known_memory(tmp_path, *arguments):
    """Run the program of part_memory; yield it, and what it says it has written."""
    said, pid = tmp_path / "memory.jsonl", tmp_path / "memory.pid"
    where = ("--output", said, "--pid-file", pid, "--seconds", "600")
    process = subprocess.Popen([sys.executable, MEMORY, *where, *arguments])
    try:
        until(pid.exists)
        yield {"p1": process}, json.loads(said.read_text())
    finally:
        process.kill()
        process.wait()


def anonymous_pages(process):
    """Return the anonymous memory of a process, a shared page divided by those who share it."""
    text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    found = re.search(r"^Pss_Anon: +(\d+) kB", text, re.MULTILINE)
    return int(found[1]) * 1024 // PAGE


@pytest.mark.parametrize("use_zero_pages", [0, 1])
@pytest.mark.parametrize("huge", [True, False], ids=["huge", "small"])
def test_what_splits_of_huge_pages_free_is_told_from_what_was_never_written(
    ksm, tmp_path, huge, use_zero_pages
):
    """Since Linux 6.12, a split maps pages of zeros to the zero page, and no counter has them."""
    ksm(run=2, smart_scan=0, sleep_millisecs=1, pages_to_scan=2000)
    ksm(use_zero_pages=use_zero_pages, max_page_sharing=256)
    with known_memory(tmp_path, *["--huge-pages"] * huge) as (started, written):
        assert written["huge_kib"] == (64 * 1024 if huge else 0)
        start, output = tmp_path / "start", tmp_path / "census.jsonl"
        subprocess.run(command(started, "--save-start", output=start), check=True)
        before = anonymous_pages(started["p1"])
        merge_until_nothing_moves(ksm)
        freed = before - anonymous_pages(started["p1"])
        since = ("--since", start, "--end", "--seconds", "0")
        subprocess.run(command(started, *since, output=output), check=True, stdout=subprocess.PIPE)
        without = census(started)

    _, first, last, _ = map(json.loads, output.read_text().splitlines())
    assert [first["moment"], last["moment"], last["n"]] == ["start", "end", 1]
    zero, equal = written["zero_pages"], written["equal_pages"]
    splits = huge and RELEASE >= (6, 12)
    merged = equal - frames(equal, 256)
    if not splits and not use_zero_pages:
        merged += zero - frames(zero, 256)
    given_up = zero if splits or use_zero_pages else 0
    for line in (first, last):
        assert line["present_pages"] == written["pages"]
        assert line["zero_pages"] == zero
        assert line["unwritten_pages"] == 0
        assert line["complaints"] == []
    assert last["grown_pages"] == 0
    assert last["saved_ksm_pages"] == merged
    assert last["saved_zero_pages"] + last["saved_split_zero_pages"] == given_up
    assert last["saved_zero_pages"] == last["ksm"]["ksm_zero_pages"]
    assert last["saved_split_zero_pages"] == 0 or splits
    assert last["saved_pages"] == merged + given_up
    attributed = sum(guest["attributed_bytes"] for guest in last["guests"].values())
    assert attributed == last["saved_pages"] * PAGE
    assert freed == pytest.approx(merged + given_up, abs=5), "the host has them back"
    # without the start, they look like pages that were never written
    assert without["unwritten_pages"] == last["saved_split_zero_pages"]


def test_growth_since_the_start(ksm, tmp_path):
    start, output = tmp_path / "start", tmp_path / "census.jsonl"
    with processes(Pages(10, 0, 0, 20)) as started:
        subprocess.run(command(started, "--save-start", output=start), check=True)
        assert start.stat().st_mode & 0o777 == 0o600
        tell(started["p1"], "read 7")
        with processes(Pages(1, 2, 0, 0)) as (others):
            both = {"p1": started["p1"], "new": others["p1"]}
            since = ("--since", start, "--end", "--seconds", "0")
            subprocess.run(command(both, *since, output=output), check=True, stdout=subprocess.PIPE)
        refused = subprocess.run(
            command({"p1": others["p1"]}, *since), check=False, capture_output=True, text=True
        )
    assert refused.returncode == 2
    _, _, last, _ = map(json.loads, output.read_text().splitlines())
    assert last["unwritten_pages"] == 7, "these were not in memory at the start"
    assert last["saved_split_zero_pages"] == 0
    assert last["grown_pages"] == 3
    assert last["guests"]["p1"]["grown_pages"] == 0


def test_a_trace_from_before_ksmd_to_after(ksm, tmp_path):
    """Contents have the same numbers before and after, and are in the order of their bytes."""
    start, output, key = tmp_path / "start", tmp_path / "census.jsonl", tmp_path / "key"
    traced = ("--trace", tmp_path / traces.RAW, "--key", key, "--pause")
    ksm(run=2, smart_scan=0, sleep_millisecs=1, pages_to_scan=2000, max_page_sharing=256)
    with processes(*UNLIKE) as started:
        # A seed of the environment is not that of the key.
        seeded = {**os.environ, "PYTHONHASHSEED": "0"}
        first = command(started, "--save-start", *traced, output=start)
        subprocess.run(first, env=seeded, check=True)
        assert key.stat().st_mode & 0o777 == 0o600
        merge_until_nothing_moves(ksm)
        since = ("--since", start, "--end", "--seconds", "0", *traced)
        subprocess.run(command(started, *since, output=output), check=True, stdout=subprocess.PIPE)
        pages = [page for process in started.values() for page in mergeable_pages(process)]
    assert not key.exists()
    _, _, last, _ = map(json.loads, output.read_text().splitlines())
    trace = traces.read_trace(tmp_path)
    before, after = trace.contents
    assert trace.moments["moment"].to_list() == ["start", "end"]
    assert (trace.moments["paused_seconds"] > trace.moments["read_seconds"]).all()
    assert (before == after).all()
    assert len(pages) == len(after)
    known = {}
    for page, content in zip(pages, after, strict=True):
        assert known.setdefault(content, page) == page
    distinct = sorted({content for content in known if content >= 0}, key=known.__getitem__)
    assert len({known[content] for content in distinct}) == len(distinct)
    assert len(distinct) == last["distinct_contents"]
    assert trace.order["rank"][distinct].to_list() == list(range(len(distinct)))
    assert trace.order["exact"].all()
    for one, other in pairwise(distinct):
        same = trace.order["lcp"][other]
        assert known[one][:same] == known[other][:same]
        assert known[one][same] < known[other][same]
    merged = (trace.flags & traces.MERGED > 0).sum(axis=1)
    assert merged.tolist() == [0, sum(guest["ksm_pages"] for guest in last["guests"].values())]


def mergeable_pages(process):
    """Return the contents of all mergeable pages of a process, zeros for what is not in memory."""
    mapped = re.findall(
        r"^([0-9a-f]+)-([0-9a-f]+) [^\0]*?^VmFlags: (.*)$",
        Path(f"/proc/{process.pid}/smaps").read_text(),
        re.MULTILINE,
    )
    pages = []
    with Path(f"/proc/{process.pid}/mem").open("rb", buffering=0) as memory:
        for first, end, flags in mapped:
            if "mg" in flags.split():
                memory.seek(int(first, 16))
                whole = memory.read(int(end, 16) - int(first, 16))
                pages += [whole[at : at + PAGE] for at in range(0, len(whole), PAGE)]
    return pages


def test_a_damaged_start_is_refused(tmp_path):
    for content in (b"", b"{}", b'{"guests": {}}\n[]\nx', b"\xff\n\n"):
        (tmp_path / "start").write_bytes(content)
        with running("-c", "print('ready', flush=True); input()") as process:
            since = ("--since", tmp_path / "start", "--end", "--seconds", "0")
            done = subprocess.run(
                command({"p1": process}, *since), check=False, capture_output=True, text=True
            )
        assert done.returncode == 2
        assert "was not written by --save-start" in done.stderr


def test_changes_between_two_censuses(ksm, tmp_path):
    output = tmp_path / "census.jsonl"
    with processes(Pages(0, 5, 0, 100), Pages(3, 0, 0, 50)) as started:
        moments = ("--every", "1", "--seconds", "60", "--end")
        with subprocess.Popen(command(started, *moments, output=output)) as running_census:
            wait_for_lines(output, 2)
            tell(started["p1"], "change 17")
            running_census.terminate()
        assert running_census.returncode == 128 + signal.SIGTERM
    header, *lines, end = map(json.loads, output.read_text().splitlines())
    assert (header["kind"], end["kind"], end["reason"]) == ("header", "end", "SIGTERM")
    assert [line["moment"] for line in lines][-1] == "end"
    assert end["censuses"] == len(lines)
    assert lines[0]["changed_pages"] is None
    assert sum(line["changed_pages"] for line in lines[1:]) == 17
    assert {line["compared_pages"] for line in lines[1:]} == {158}
    assert sum(line["guests"]["p1"]["changed_pages"] for line in lines[1:]) == 17


def wait_for_lines(path, number, seconds=20):
    deadline = time.monotonic() + seconds
    while not path.exists() or path.read_bytes().count(b"\n") < number:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_censuses_are_taken_on_time(ksm, tmp_path):
    output = tmp_path / "census.jsonl"
    with processes(*ALONE) as started:
        begun = time.monotonic() + 1
        moments = ("--every", "2", "--seconds", "8", "--end", "--start", str(begun))
        subprocess.run(command(started, *moments, output=output), check=True)
    header, *lines, end = map(json.loads, output.read_text().splitlines())
    assert header["monotonic"] == pytest.approx(begun)
    assert [line["moment"] for line in lines] == ["every"] * 3 + ["end"]
    due = [begun + 2 * n for n in range(1, 5)]
    assert [line["monotonic"] for line in lines] == pytest.approx(due, abs=0.3)
    assert all(line["monotonic"] >= at for line, at in zip(lines, due, strict=True))
    assert (end["reason"], end["missed"]) == ("finished", 0)


def test_a_census_for_each_scan(ksm, tmp_path):
    output = tmp_path / "census.jsonl"
    # Scans of 2 s, so that a census takes less than its tenth of them on a busy machine, too
    ksm(run=2, smart_scan=0, sleep_millisecs=2000, pages_to_scan=1050)
    with processes(*ALONE) as started:
        moments = ("--at-scan-boundary", "--seconds", "600")
        with subprocess.Popen(command(started, *moments, output=output)) as counting:
            wait_for_lines(output, 1)
            ksm(run=1)
            wait_for_lines(output, 6, seconds=60)
            counting.send_signal(signal.SIGINT)
    _, *lines, _ = map(json.loads, output.read_text().splitlines())
    scans = [line["ksm"]["full_scans"] for line in lines]
    assert len(scans) > 3
    assert scans == list(range(scans[0], scans[0] + len(scans))), "each once and none missed"
    assert {line["moment"] for line in lines} == {"scan"}


def test_paused_processes_are_stopped_and_continue(ksm):
    with processes(*UNLIKE) as started:
        line = census(started, "--pause")
        assert line["read_seconds"] < line["paused_seconds"] < line["read_seconds"] + 0.5
        assert [state(process) for process in started.values()] == ["S"] * 3
        tell(started["p1"], "change 1")


def test_a_process_that_was_stopped_before_stays_stopped(ksm):
    with processes(*UNLIKE) as started:
        started["p2"].send_signal(signal.SIGSTOP)
        census(started, "--pause")
        assert [state(process) for process in started.values()] == ["S", "T", "S"]


def test_paused_processes_continue_when_the_census_is_killed(ksm):
    with processes(Pages(0, 0, 0, 60_000)) as started:
        (process,) = started.values()
        counting = subprocess.Popen(command(started, "--pause"), stdout=subprocess.DEVNULL)
        try:
            until(lambda: state(process) == "T")
        finally:
            counting.kill()
            counting.wait()
        until(lambda: state(process) == "S")


def state(process):
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]


def until(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline


def test_a_process_that_ends_is_left_out_and_the_others_are_exact(ksm, tmp_path):
    output = tmp_path / "census.jsonl"
    with processes(*UNLIKE) as started:
        moments = ("--every", "0.5", "--seconds", "60", "--end")
        with subprocess.Popen(command(started, *moments, output=output)) as counting:
            wait_for_lines(output, 2)
            started["p2"].kill()
            started["p2"].wait()
            time.sleep(0.6)
            counting.terminate()
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    last = lines[-2]
    assert last["moment"] == "end"
    assert last["present_pages"] == UNLIKE[0].all + UNLIKE[2].all
    assert set(last["guests"]["p2"]) == {"pid", "complaint"}
    assert "left out" in last["guests"]["p2"]["complaint"]
    assert len(last["complaints"]) == 1
    assert last["matrix"]["guests"] == ["p1", "p3"]


def test_a_process_that_becomes_another_program_is_left_out(tmp_path):
    output = tmp_path / "census.jsonl"
    another = [sys.executable, "-c", MERGEABLE_TOO]
    becoming = f"{PROGRAM.read_text()}\n    import os\n    os.execv({another[0]!r}, {another})\n"
    with running("-c", becoming, "5", "0", "0", "20", "1") as process:
        moments = ("--every", "0.5", "--seconds", "60", "--end")
        with subprocess.Popen(command({"p": process}, *moments, output=output)) as counting:
            wait_for_lines(output, 2)
            process.stdin.close()
            process.stdin = None
            assert process.stdout.readline() == "ready\n"
            counting.terminate()
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert lines[1]["present_pages"] == 25
    assert "another program" in lines[-2]["guests"]["p"]["complaint"]
    assert lines[-2]["present_pages"] == 0


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one process reads alone")
def test_an_incompletely_read_process_is_not_counted(ksm):
    with processes(Pages(0, 0, 0, 100_000)) as started:
        counting = subprocess.Popen(command(started), stdout=subprocess.PIPE)
        children = Path(f"/proc/{counting.pid}/task/{counting.pid}/children")
        until(children.read_text)
        os.kill(int(children.read_text()), signal.SIGKILL)
        line = json.loads(counting.communicate()[0])
    assert line["present_pages"] == line["limit_pages"] == 0
    assert line["complaints"] == ["p1: its reader failed or was killed; it is left out"]


def test_without_cap_sys_admin_only_the_limit_is_known(ksm):
    ksm(run=2, smart_scan=0, sleep_millisecs=1)
    with processes(*UNLIKE) as started:
        merge_until_nothing_moves(ksm)
        whole = census(started)
        line = census(started, before=("setpriv", "--bounding-set=-sys_admin"))
    assert line["frames_visible"] is False
    assert "CAP_SYS_ADMIN" in " ".join(line["complaints"])
    same = ("present_pages", "zero_pages", "unique_pages", "duplicate_pages", "limit_pages")
    assert [line[name] for name in same] == [whole[name] for name in same]
    assert whole["saved_pages"] > 0
    unknown = ("saved_pages", "saved_ksm_pages", "saved_zero_pages", "efficiency", "matrix")
    assert [line[name] for name in unknown] == [None] * 5
    assert {guest["attributed_bytes"] for guest in line["guests"].values()} == {None}


@pytest.mark.parametrize("mergeable", [0, 1])
def test_memory_on_hugepages_is_reported(ksm, mergeable):
    """A guest on hugepages still has some mergeable memory: its ROMs."""
    before = HUGE.read_text()
    HUGE.write_text(str(int(before) + 4))
    try:
        if int(HUGE.read_text()) < int(before) + 1:
            pytest.skip("the kernel has no huge page to give")
        more = ["with a ROM"] * mergeable
        with running("-c", ON_HUGE_PAGES, *more) as huge, processes(*ALONE) as started:
            line = census({**started, "huge": huge})
    finally:
        HUGE.write_text(before)
    words = line["guests"]["huge"]["complaint"]
    assert "2 MiB of its memory are on hugepages" in words
    assert ("left out" in words) == (not mergeable)
    assert line["complaints"] == [f"huge: {words}"]
    assert line["present_pages"] == ALONE[0].all + mergeable


def test_shared_memory_is_reported(ksm):
    shared = ON_HUGE_PAGES.replace("MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40000", "MAP_SHARED")
    with running("-c", shared, "with a ROM") as guest:
        line = census({"guest": guest})
    assert "2 MiB are shared, which KSM does not merge" in line["guests"]["guest"]["complaint"]


def test_threads_may_end_meanwhile(ksm, tmp_path):
    output = tmp_path / "census.jsonl"
    with running("-c", THREADS) as guest:
        moments = ("--pause", "--every", "0.02", "--seconds", "3")
        subprocess.run(command({"guest": guest}, *moments, output=output), check=True)
    assert json.loads(output.read_text().splitlines()[-1])["kind"] == "end"


def test_a_census_ignores_ctrl_z_while_others_are_stopped(ksm):
    with processes(Pages(0, 0, 0, 60_000)) as started:
        (process,) = started.values()
        counting = subprocess.Popen(command(started, "--pause"), stdout=subprocess.DEVNULL)
        until(lambda: state(process) == "T")
        counting.send_signal(signal.SIGTSTP)
        assert counting.wait(20) == 0
        assert state(process) == "S"


def test_a_process_that_is_mergeable_as_a_whole(ksm):
    ksm(run=2, smart_scan=0, sleep_millisecs=1)
    with running("-c", ALL_MERGEABLE) as process:
        assert census({"p": process})["limit_within_pages"] >= 299
        merge_until_nothing_moves(ksm)
        line = census({"p": process})
        assert_agrees(line)
        assert line["saved_within_pages"] >= 298


def test_pages_of_a_huge_page_are_pages(ksm):
    if "[never]" in Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text():
        pytest.skip("the kernel gives no huge pages")
    ksm(run=2, smart_scan=0, sleep_millisecs=1)
    with running("-c", IN_A_HUGE_PAGE) as process:
        smaps = Path(f"/proc/{process.pid}/smaps").read_text()
        assert "AnonHugePages:      2048 kB" in smaps
        line = census({"p": process})
        assert (line["present_pages"], line["unique_pages"], line["limit_pages"]) == (512, 256, 255)
        merge_until_nothing_moves(ksm)
        line = census({"p": process})
        assert_agrees(line)
        assert line["saved_pages"] == 255


def test_mappings_of_other_processes_are_counted_separately(ksm):
    ksm(run=2, smart_scan=0, sleep_millisecs=1)
    ksm(use_zero_pages=1, max_page_sharing=1000)  # all in one frame
    with processes(*[Pages(50, 200, 0, 10)] * 3) as started:
        merge_until_nothing_moves(ksm)
        whole = census(started)
        some = census({name: started[name] for name in ("p1", "p2")})
    assert_agrees(whole)
    assert (some["ksm"]["pages_sharing"], some["ksm"]["ksm_zero_pages"]) == (599, 150)
    assert (some["saved_ksm_pages"], some["saved_zero_pages"]) == (399, 100)
    assert some["outside_mappings"] == 200
    attributed = sum(guest["attributed_bytes"] for guest in some["guests"].values())
    assert attributed == 499 * PAGE


def test_pages_shared_after_a_fork_do_not_count_as_ksm(ksm):
    forking = PROGRAM.read_text().replace(
        'print("ready", flush=True)\n    for',
        'import os\n    pid = os.fork()\n    print("ready" * (pid > 0), flush=True)\n    for',
        1,
    )
    with running("-c", forking, "5", "0", "0", "20", "1") as parent:
        line = census({"parent": parent})
    assert (line["present_pages"], line["fork_shared_pages"], line["saved_pages"]) == (25, 25, 0)
    assert line["complaints"] == [
        "25 pages share frames after a fork and not by KSM: they are in the limit"
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--process", "a=999999999"], "process a: there is no process 999999999"),
        (["--process", "a"], "'a' is not NAME=PID or NAME=PIDFILE"),
        (["--process", "a=/nowhere"], "the pid file /nowhere cannot be read"),
        (["--process", "a=1", "--process", "a=1"], "a name is given twice"),
        (["--process", "a=1", "--every", "0", "--seconds", "1"], "--every: must be more than 0"),
        (["--process", "a=1", "--every", "5"], "--seconds goes with --every"),
        ([], "required: --process"),
    ],
)
def test_bad_arguments_are_reported_and_nothing_is_written(arguments, words, tmp_path):
    output = tmp_path / "census.jsonl"
    done = subprocess.run(
        ["/usr/bin/python3", CENSUS, *arguments, "--output", output],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert words in done.stderr
    assert not output.exists()


def test_a_file_is_never_overwritten(tmp_path):
    output = tmp_path / "census.jsonl"
    output.write_text("raw facts")
    with processes(*ALONE) as started:
        done = subprocess.run(command(started, output=output), check=False, capture_output=True)
    assert done.returncode == 2
    assert output.read_text() == "raw facts"


def test_counts_do_not_depend_on_the_hash_key(ksm):
    seeded = {**os.environ, "PYTHONHASHSEED": "0"}
    with processes(*UNLIKE) as started:
        run = subprocess.run(command(started), env=seeded, capture_output=True, check=True)
        line, again = json.loads(run.stdout), census(started)
    differ = {name for name in line if line[name] != again[name]}
    timed = {"wall", "monotonic", "read_seconds", "cpu_seconds", "guests"}
    assert differ <= timed
