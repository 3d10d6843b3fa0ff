"""The role part_arrays: two equal arrays, one element changed. The counters are known exactly."""

import time

# 4,000,000 bytes are 977 pages. Of 2 x 977 pages, the changed one no longer has an equal.
AFTERWARDS = {"ksm_rmap_items": 2 * 977, "ksm_merging_pages": 2 * 977 - 1}


def process(host) -> str:
    return host.file("/var/lib/ksm-testbed/run/arrays.pid").content_string.strip()


def of_process(host) -> dict[str, int]:
    """KSM counters of this process alone, not of the whole machine."""
    lines = host.file(f"/proc/{process(host)}/ksm_stat").content_string.splitlines()
    return {name: int(value) for name, value in map(str.split, lines) if name in AFTERWARDS}


def test_the_program_runs(host):
    assert host.process.get(pid=process(host)).args.split()[1].endswith("/ksm_arrays.py")


def test_the_counters_are_exact(host):
    deadline = time.monotonic() + 60
    while of_process(host) != AFTERWARDS and time.monotonic() < deadline:
        time.sleep(1)
    assert of_process(host) == AFTERWARDS
