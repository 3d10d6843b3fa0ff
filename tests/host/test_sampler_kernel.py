"""The sampler with the real kernel, ksmd and processes."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from machine import KSM, knobs
from programs import ROLES, load

pytestmark = pytest.mark.host

SAMPLER = ROLES / "part_sampler/files/ksm_sampler.py"
HOLD_MERGEABLE = """
import mmap, sys, time
memory = mmap.mmap(-1, 400 * mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.madvise(mmap.MADV_MERGEABLE)
memory.write(b"k" * len(memory))
print("ready", flush=True)
time.sleep(600)
"""


ksm_sampler = load(SAMPLER)


@contextlib.contextmanager
def ended(*command):
    """Start a process, and always end it."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def ksm_at_rest():
    """Require that no process uses KSM, and restore the knobs, `run` first."""
    before = knobs()
    if before["run"] != "0\n":
        pytest.skip("KSM is used on this machine: the knob run is not 0")
    yield
    (KSM / "run").write_text("2")  # unmerge, for some knobs cannot be written before
    for name, value in before.items():
        if (KSM / name).read_text() != value:
            (KSM / name).write_text(value)
    assert knobs() == before


@pytest.fixture
def mergeable():
    """Start a process with 400 identical mergeable pages."""
    with ended(sys.executable, "-c", HOLD_MERGEABLE) as process:
        assert process.stdout.readline() == "ready\n"
        yield process


def command(*arguments):
    return [sys.executable, SAMPLER, "--output", "-", *map(str, arguments)]


def sample(*arguments):
    """Return header, samples and end line of a complete run."""
    done = subprocess.run(
        command(*arguments), stdout=subprocess.PIPE, text=True, check=True, timeout=60
    )
    header, *samples, end = map(json.loads, done.stdout.splitlines())
    return header, samples, end


def until(process, condition, seconds=60):
    """Read lines of a sampler until one meets a condition."""
    deadline = time.monotonic() + seconds
    for text in process.stdout:
        line = json.loads(text)
        if condition(line):
            return line
        assert time.monotonic() < deadline, f"timeout; the last line: {line}"
    raise AssertionError("the sampler has ended")


def files_of_ksm():
    texts = {path.name: path.read_text().strip() for path in KSM.iterdir()}
    return {name: int(text) if text.lstrip("-").isdigit() else text for name, text in texts.items()}


def test_every_file_of_ksm_with_the_value_it_has(ksm_at_rest):
    before = files_of_ksm()
    _, samples, _ = sample("--samples", 2, "--period", 0.05)
    assert files_of_ksm() == before, "KSM was in use"
    assert [line["ksm"] for line in samples] == [before, before]
    assert len(before) >= 16  # the files of the oldest supported kernel


def test_the_header_has_the_values_of_the_kernel():
    header, _, _ = sample("--samples", 1)
    assert header["kernel"] == os.uname().release
    assert header["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert Path(f"/proc/{header['ksmd_pid']}/comm").read_text() == "ksmd\n"


def test_the_kernel_prints_its_files_again_for_every_pread(ksm_at_rest):
    reader, _ = ksm_sampler.open_reader(Path("/"), [("self", os.getpid())])
    fds = list(reader.fds)
    (KSM / "pages_to_scan").write_text("123")
    first = json.loads(reader.line(0, 0, 0))
    (KSM / "pages_to_scan").write_text("4567")
    grown = bytearray(b"x") * (64 << 20)
    spent = time.process_time() + 0.1
    while time.process_time() < spent:
        pass
    second = json.loads(reader.line(1, 0, 0))
    assert reader.fds == fds
    assert (first["ksm"]["pages_to_scan"], second["ksm"]["pages_to_scan"]) == (123, 4567)
    before, after = (line["guests"]["self"] for line in (first, second))
    assert after["resident_pages"] - before["resident_pages"] > len(grown) // (2 * 4096)
    assert after["utime"] > before["utime"]
    for name in ("user", "idle", "system"):
        assert second["cpu"][name] >= first["cpu"][name]
    assert sum(second["cpu"].values()) > sum(first["cpu"].values())


@pytest.mark.parametrize(("path", "field"), [("/proc/kallsyms", 2), ("/proc/vmstat", 0)])
def test_the_kernel_returns_long_files_in_pieces(path, field):
    fd = os.open(path, os.O_RDONLY)
    try:
        text = list(ksm_sampler.pieces(fd))
    finally:
        os.close(fd)
    if path == "/proc/kallsyms":
        assert max(map(len, text)) < ksm_sampler.BUFFER, "a short read was mistaken for the end"
    names = [line.split()[field] for line in b"".join(text).splitlines()]
    assert names == [line.split()[field] for line in Path(path).read_bytes().splitlines()]


def test_values_of_meminfo_and_vmstat_match_the_kernel():
    _, samples, _ = sample("--samples", 1)
    meminfo = dict(line.split()[:2] for line in Path("/proc/meminfo").read_text().splitlines())
    vmstat = dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    assert samples[0]["meminfo"]["MemTotal"] == int(meminfo["MemTotal:"])
    wanted = {name.decode() for name in ksm_sampler.MEMINFO}
    assert set(samples[0]["meminfo"]) == wanted & {name.rstrip(":") for name in meminfo}
    wanted = {name.decode() for name in ksm_sampler.VMSTAT}
    assert set(samples[0]["vmstat"]) == wanted & set(vmstat)
    assert samples[0]["vmstat"]["cow_ksm"] <= int(vmstat["cow_ksm"])


def test_merged_memory_is_visible(ksm_at_rest, mergeable):
    knob = {"pages_to_scan": "1000", "sleep_millisecs": "10", "smart_scan": "0", "run": "1"}
    options = ["--samples", 100000, "--period", 0.05, "--guest", f"a={mergeable.pid}"]
    with ended(*command(*options)) as sampler:
        first = until(sampler, lambda line: line["kind"] == "sample")
        for name, value in knob.items():
            if (KSM / name).exists():
                (KSM / name).write_text(value)
        # Of each 256 pages (max_page_sharing) all but one are saved.
        merged = until(sampler, lambda line: line["guests"]["a"]["ksm_merging_pages"] >= 390)
    assert first["guests"]["a"]["ksm_merging_pages"] == 0
    assert first["guests"]["a"]["ksm_mergeable"] == "yes"
    assert merged["guests"]["a"]["ksm_rmap_items"] >= 400
    assert merged["guests"]["a"]["ksm_process_profit"] > 0
    assert merged["ksm"]["pages_sharing"] >= 390
    for counter in ("full_scans", "pages_scanned"):
        assert merged["ksm"][counter] > first["ksm"][counter]
    assert merged["ksmd"]["cpu_ns"] > first["ksmd"]["cpu_ns"]


@pytest.mark.parametrize("reaped", [True, False])
def test_a_guest_that_dies_is_null_and_sampling_continues(reaped):
    with ended("sleep", "600") as dying, ended("sleep", "600") as living:
        guests = ["--guest", f"dying={dying.pid}", "--guest", f"living={living.pid}"]
        with ended(*command("--samples", 100000, "--period", 0.02, *guests)) as sampler:
            alive = until(sampler, lambda line: line["kind"] == "sample")
            assert alive["guests"]["dying"]["resident_pages"] > 0
            dying.kill()
            if reaped:
                dying.wait()
            gone = until(sampler, lambda line: line["guests"]["dying"] is None)
            for _ in range(3):
                line = json.loads(sampler.stdout.readline())
                assert line["guests"]["dying"] is None
                assert line["guests"]["living"]["resident_pages"] > 0
            sampler.send_signal(signal.SIGTERM)
            end = until(sampler, lambda line: line["kind"] == "end")
    assert list(end["gone"]) == ["dying"]
    assert end["gone"]["dying"] >= gone["monotonic"]
    assert end["reason"] == "SIGTERM"


def test_a_reused_pid_is_not_mistaken_for_the_guest():
    last_pid = Path("/proc/sys/kernel/ns_last_pid")
    with ended("sleep", "600") as dying:
        reader, _ = ksm_sampler.open_reader(Path("/"), [("a", dying.pid)])
        dying.kill()
        dying.wait()
        for _ in range(20):  # another process may start in between
            last_pid.write_text(str(dying.pid - 1))
            with ended("sleep", "600") as successor:
                if successor.pid == dying.pid:
                    assert json.loads(reader.line(0, 0, 0))["guests"] == {"a": None}
                    return
    pytest.skip("the pid could not be reused")


def test_100_hz():
    header, samples, end = sample("--samples", 300, "--period", 0.01)
    assert end["samples"] == len(samples) > 0
    assert end["samples"] + end["missed"] == 300
    for line in samples:
        late = line["monotonic"] - header["monotonic"] - line["n"] * 0.01
        assert -1e-6 < late < 0.01 + 1e-6  # otherwise it belongs to the next deadline
    assert end["cpu_seconds"] < samples[-1]["monotonic"] - header["monotonic"] + 0.01
