"""The role monitor: a sampler whose samples advance, and say what the kernel says."""

import json
import time

SAMPLES = "/var/lib/ksm-testbed/run/samples.jsonl"


def lines(host) -> list[dict]:
    return [json.loads(line) for line in host.file(SAMPLES).content_string.splitlines()]


def test_the_program_is_root_s(host):
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


def test_it_follows_the_arrays_and_the_guest(host):
    assert set(lines(host)[-1]["guests"]) == {"arrays", "ksm-guest-01"}


def test_counters_are_those_of_the_kernel(host):
    """full_scans only grows, so what is sampled now lies between two readings of the kernel."""
    low = int(host.file("/sys/kernel/mm/ksm/full_scans").content)
    time.sleep(1)
    sampled = lines(host)[-1]["ksm"]["full_scans"]
    assert low <= sampled <= int(host.file("/sys/kernel/mm/ksm/full_scans").content)
