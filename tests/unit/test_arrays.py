"""The program of two arrays, as a real process with a few pages; no test waits for ksmd."""

import ast
import contextlib
import json
import mmap
import os
import re
import resource
import signal
import subprocess
import sys
import time
from array import array
from pathlib import Path

import pytest
from programs import ROLES, load

PROGRAM = ROLES / "part_arrays/files/ksm_arrays.py"
INTS = 4000  # 3.9 pages of 4 KiB: the last one is not full
PAGES = -(-INTS * 4 // mmap.PAGESIZE)
SIZE = PAGES * mmap.PAGESIZE

# Its memory is mergeable: it would be counted by tests that use KSM at the same time.
pytestmark = [
    pytest.mark.host,
    pytest.mark.skipif(
        not Path("/sys/kernel/mm/ksm").exists(), reason="the kernel is built without CONFIG_KSM"
    ),
]


ksm_arrays = load(PROGRAM)


def command(*arguments, change="single"):
    return [sys.executable, PROGRAM, "--change", change, "--ints", str(INTS), *map(str, arguments)]


def run(*arguments, **options):
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=60, **options
    )


@contextlib.contextmanager
def started(*arguments, **options):
    """Start the program; kill it at the end if it still runs."""
    process = subprocess.Popen(
        command(*arguments, **options), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def next_event(process):
    return json.loads(process.stdout.readline())


def mergeable(pid):
    """Return the mergeable address ranges of a process, with their flags."""
    areas, area = [], None
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            area = range(int(found[1], 16), int(found[2], 16))
        elif line.startswith("VmFlags:") and "mg" in line.split():
            areas.append((area, set(line.split()[1:])))
    return areas


def contents(pid):
    """Return the contents of all mergeable ranges, in the order of addresses."""
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        return [
            array("i", os.pread(memory.fileno(), SIZE, address))
            for area, _ in mergeable(pid)
            for address in area[::SIZE]
        ]


def numbers(whole):
    """Return the numbers of an array; the rest of its last page must be 0."""
    assert set(whole[INTS:]) <= {0}
    return list(whole[:INTS])


EQUAL = list(range(INTS))
CHANGED = {
    "single": [-1, *EQUAL[1:]],
    "half-same": [-1] * (INTS // 2) + EQUAL[INTS // 2 :],
    "half-distinct": [-i for i in EQUAL[: INTS // 2]] + EQUAL[INTS // 2 :],
}


# Function


@pytest.mark.parametrize("change", CHANGED)
def test_two_arrays_of_which_one_is_changed(change):
    with started("--second", 0, "--changed", 0, change=change) as process:
        for _ in range(3):
            next_event(process)
        arrays = sorted(map(numbers, contents(process.pid)))
    assert arrays == sorted([CHANGED[change], EQUAL])


def test_before_the_change_both_are_equal():
    with started("--second", 0, "--changed", 50) as process:
        next_event(process)
        next_event(process)
        assert [numbers(each) for each in contents(process.pid)] == [EQUAL, EQUAL]


def test_one_array_at_first():
    with started("--second", 50, "--changed", 50) as process:
        next_event(process)
        assert [numbers(each) for each in contents(process.pid)] == [EQUAL]


def test_nothing_else_of_it_is_mergeable():
    with started("--second", 0, "--changed", 0) as process:
        for _ in range(3):
            next_event(process)
        areas = mergeable(process.pid)
    assert sum(len(area) for area, _ in areas) == 2 * SIZE
    if Path("/sys/kernel/mm/transparent_hugepage").exists():
        assert all("nh" in flags for _, flags in areas)


def test_an_array_larger_than_one_piece(monkeypatch):
    monkeypatch.setattr(ksm_arrays, "PIECE", 7)
    memory = mmap.mmap(-1, 100 * ksm_arrays.INT)
    ksm_arrays.fill(memory, 100, range)
    ksm_arrays.fill(memory, *ksm_arrays.CHANGES["half-distinct"](100))
    written = array("i", memory[: 100 * ksm_arrays.INT])
    assert list(written) == [-i for i in range(50)] + list(range(50, 100))


# Times and events


def test_events():
    before = time.monotonic()
    done = run("--second", 0.2, "--changed", 0.5, "--seconds", 0.6)
    took = time.monotonic() - before
    events = [json.loads(line) for line in done.stdout.splitlines()]
    times = [event.pop("monotonic") for event in events]
    assert all(time.time() - 60 < event.pop("wall") <= time.time() for event in events)
    assert events == [
        {"event": "array written", "array": 1, "pages": PAGES},
        {"event": "array written", "array": 2, "pages": PAGES},
        {"event": "array changed", "change": "single"},
    ]
    assert before < times[0]
    # at least so late after the start; a busy machine may be later, also with one of them
    assert times[1] - before > 0.2
    assert times[2] - before > 0.5
    assert times == sorted(times)
    assert took > 0.6
    assert (done.returncode, done.stderr) == (0, "")


def test_all_times_are_from_the_start():
    start = time.monotonic() + 1
    done = run("--start", start, "--second", 0.1, "--changed", 0.2, "--seconds", 0.3)
    times = [json.loads(line)["monotonic"] for line in done.stdout.splitlines()]
    assert len(times) == 3
    assert all(at >= start + due for at, due in zip(times, (0, 0.1, 0.2), strict=True))
    assert time.monotonic() >= start + 0.3


def test_a_past_start_means_now():
    before = time.monotonic()
    done = run("--start", before - 100, "--second", 0.1, "--changed", 0.2, "--seconds", 0.3)
    times = [json.loads(line)["monotonic"] for line in done.stdout.splitlines()]
    assert times[2] - before >= 0.2


def test_pages_of_the_default_size():
    asked = ksm_arrays.parse_arguments(["--change", "single"])
    assert asked.ints == 1_000_000
    assert (asked.second, asked.changed) == (10, 20)


def test_the_pid_file_is_there_while_it_runs(tmp_path):
    file = tmp_path / "pid"
    with started(
        "--pid-file", file, "--second", 0.5, "--changed", 0.5, "--seconds", 0.5
    ) as process:
        next_event(process)
        assert file.read_text() == f"{process.pid}\n"
        assert process.wait(timeout=60) == 0
    assert list(tmp_path.iterdir()) == []


# End


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143), ("SIGINT", 130)])
@pytest.mark.parametrize("begun", [True, False])
def test_a_signal_ends_it_at_once(tmp_path, name, status, begun):
    file = tmp_path / "pid"
    times = ["--start", 0 if begun else time.monotonic() + 1000, "--seconds", 500]
    with started(*times, "--pid-file", file) as process:
        if begun:
            next_event(process)
        wait_for(file)
        process.send_signal(signal.Signals[name])
        assert process.communicate(timeout=60) == ("", "")
        assert process.returncode == status
    assert list(tmp_path.iterdir()) == []


def test_a_second_signal_does_not_interrupt_the_end():
    handlers = {number: signal.getsignal(number) for number in ksm_arrays.SIGNALS}
    try:
        with pytest.raises(ksm_arrays.Stopped):
            ksm_arrays.stop(signal.SIGTERM, None)
        for number in ksm_arrays.SIGNALS:
            assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def wait_for(file):
    until = time.monotonic() + 60
    while not file.exists() and time.monotonic() < until:
        time.sleep(0.01)
    assert file.exists()


def test_events_before_a_signal_are_complete():
    with started("--second", 500, "--changed", 500, "--seconds", 500) as process:
        told = next_event(process)
        process.terminate()
        assert process.communicate(timeout=60) == ("", "")
        assert process.returncode == 143
    assert told["event"] == "array written"


# Refused arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--change", "all"], "invalid choice: 'all'"),
        (["--ints", "1"], "1 is not from 2 to 2147483647"),
        (["--ints", "2147483648"], "2147483648 is not from 2 to 2147483647"),
        (["--ints", "many"], "invalid"),
        (["--second", "-1"], "-1 is not a number of seconds"),
        (["--changed", "nan"], "nan is not a number of seconds"),
        (["--seconds", "inf"], "inf is not a number of seconds"),
        (["--second", "30"], "the order is --second, --changed, --seconds"),
        (["--seconds", "15"], "the order is --second, --changed, --seconds"),
        (["--pid-file", "/nowhere/pid"], "cannot write /nowhere/pid: No such file or directory"),
    ],
)
def test_refused(arguments, message):
    done = run(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_the_change_is_a_required_argument():
    done = subprocess.run([sys.executable, PROGRAM], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "the following arguments are required: --change" in done.stderr


def test_a_pid_file_that_cannot_be_replaced(tmp_path):
    (tmp_path / "pid").mkdir()
    done = run("--pid-file", tmp_path / "pid")
    assert done.returncode == 2
    assert f"cannot write {tmp_path}/pid: Is a directory" in done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["pid"]


def test_too_little_memory(tmp_path):
    limits = (512 << 20, 512 << 20)
    done = run(
        *("--ints", 2**30, "--pid-file", tmp_path / "pid"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, limits),
    )
    assert done.returncode == 2
    assert "no memory for 1073741824 numbers: [Errno 12] Cannot allocate memory" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_kernel_without_madv_mergeable(monkeypatch):
    monkeypatch.setattr(mmap, "MADV_MERGEABLE", 9999)
    with pytest.raises(ksm_arrays.UnusableError, match=r"Invalid argument; .* CONFIG_KSM$"):
        ksm_arrays.mergeable(INTS)


def test_events_that_cannot_be_written():
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command(), stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False
        )
    assert done.returncode == 2
    assert done.stderr.endswith("cannot write an event: No space left on device\n")


# Properties of the file


def test_it_is_one_file_for_python_3_9_without_dependencies():
    module = ast.parse(PROGRAM.read_text(), feature_version=(3, 9))
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
