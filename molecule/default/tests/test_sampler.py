"""The role part_sampler: samples advance, and match the counters of the kernel."""

import json
import time

SAMPLES = "/var/lib/ksm-testbed/run/samples.jsonl"


def lines(host) -> list[dict]:
    return [json.loads(line) for line in host.file(SAMPLES).content_string.splitlines()]


def test_root_owns_the_program(host):
    file = host.file("/var/lib/ksm-testbed/sampler/ksm_sampler.py")
    assert (file.user, file.group, file.mode) == ("root", "root", 0o755)


def test_samples_advance(host):
    first = lines(host)
    time.sleep(2)
    second = lines(host)
    assert first[0]["kind"] == "header"
    assert second[: len(first)] == first
    assert len(second) - len(first) >= 4
    times = [line["monotonic"] for line in second[1:]]
    assert times == sorted(set(times))


def test_it_samples_the_arrays_and_the_guest(host):
    assert set(lines(host)[-1]["guests"]) == {"arrays", "ksm-guest-01"}


def test_counters_match_the_kernel(host):
    """full_scans only grows, so a sample taken now lies between two readings."""
    low = int(host.file("/sys/kernel/mm/ksm/full_scans").content)
    time.sleep(1)
    sampled = lines(host)[-1]["ksm"]["full_scans"]
    assert low <= sampled <= int(host.file("/sys/kernel/mm/ksm/full_scans").content)
