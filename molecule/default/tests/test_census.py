"""The role part_census: two arrays, one element changed. All that can be merged is merged."""

import json
import time

CENSUSES = "/var/lib/ksm-testbed/run/census.jsonl"
# Two arrays of 977 pages; one pair of pages differs.
AFTERWARDS = {
    "present_pages": 2 * 977,
    "unique_pages": 2,
    "limit_pages": 976,
    "saved_pages": 976,
    "complaints": [],
}


def last(host) -> dict:
    """Return the last census."""
    line = json.loads(host.file(CENSUSES).content_string.splitlines()[-1])
    return {name: line.get(name) for name in AFTERWARDS}


def test_root_owns_the_program(host):
    file = host.file("/var/lib/ksm-testbed/census/ksm_census.py")
    assert (file.user, file.group, file.mode) == ("root", "root", 0o755)


def test_the_limit_is_known_and_reached(host):
    deadline = time.monotonic() + 60
    while last(host) != AFTERWARDS and time.monotonic() < deadline:
        time.sleep(1)
    assert last(host) == AFTERWARDS
