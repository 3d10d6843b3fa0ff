#!/usr/bin/env python3
"""Compare who turns the knobs of KSM: fixed settings, the kernel's advisor, and the governor.

Processes with known contents come and go at native speed, one run for each scenario, policy and
round; the order of the policies changes from round to round. Printed are medians, with the range:
  efficiency   what was saved over what could be saved at most, as areas over time
  ksmd         CPU seconds of ksmd
  policy       CPU seconds of the program that turns the knobs
  95 %         seconds from each arrival until 95 % of what can be saved is saved; - if never

It sets knobs of KSM, and restores them. Nothing else may use KSM meanwhile.
"""

import argparse
import contextlib
import itertools
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

BENCH = Path(__file__).resolve().parent
GOVERNOR = BENCH.parent / "roles/governor/files/ksm_governor.py"
CONTENTS = BENCH.parent / "roles/processes/files/ksm_contents.py"
PYTHON = "/usr/bin/python3"  # what runs programs on a Debian host
KSM = Path("/sys/kernel/mm/ksm")
MIB = 96  # of a process
PAGES = MIB * 2**20 // os.sysconf("SC_PAGE_SIZE")
PERIOD = 0.05


class Held(NamedTuple):
    """Memory of a process, in percent of its pages; written pages rest again after some time."""

    equal_percent: float = 50
    zero_percent: float = 10
    write_percent: float = 0
    rest_seconds: float = 0


class Scenario(NamedTuple):
    """Processes by the second of their arrival, and how long it all takes."""

    arrivals: dict
    seconds: float
    what: str


USUAL, UNIQUE = Held(), Held(equal_percent=0, zero_percent=0)
SCENARIOS = {
    "s1": Scenario({0: [USUAL] * 3, 50: [USUAL] * 3, 100: [USUAL] * 2}, 150, "arrivals"),
    "s2": Scenario(
        {0: [Held(write_percent=5, rest_seconds=3)] * 8}, 60, "5 % of the pages change a second"
    ),
    "s3": Scenario({0: [USUAL] * 3}, 1800, "a long rest"),
    "s4": Scenario({0: [UNIQUE] * 4, 30: [UNIQUE] * 4}, 120, "nothing to merge"),
    "s5": Scenario(
        {0: [UNIQUE._replace(write_percent=25, rest_seconds=4)] * 8},
        120,
        "all changes, nothing to merge",
    ),
}
FIXED = {
    "default": {"pages_to_scan": 100, "sleep_millisecs": 20, "smart_scan": 1},
    "1000": {"pages_to_scan": 1000, "sleep_millisecs": 20, "smart_scan": 0},
    "10000": {"pages_to_scan": 10000, "sleep_millisecs": 20, "smart_scan": 0},
    "10000-smart": {"pages_to_scan": 10000, "sleep_millisecs": 20, "smart_scan": 1},
    "advisor": {"smart_scan": 1, "advisor_mode": "scan-time"},
}
POLICIES = (*FIXED, "governor")


class Result(NamedTuple):
    """What one run has shown."""

    efficiency: float
    ksmd: float
    policy: float
    to_95: tuple

    @property
    def cpu(self):
        """CPU seconds of both."""
        return self.ksmd + self.policy


def number(name):
    """Return a counter of KSM."""
    return int((KSM / name).read_text())


def write(knobs):
    """Set knobs."""
    for name, value in knobs.items():
        (KSM / name).write_text(str(value))


@contextlib.contextmanager
def restored():
    """Restore the knobs, on unmerged memory."""
    names = ("smart_scan", "pages_to_scan", "sleep_millisecs", "advisor_mode", "run")
    found = {name: (KSM / name).read_text().strip() for name in names if (KSM / name).exists()}
    if "advisor_mode" in found:
        found["advisor_mode"] = found["advisor_mode"].partition("[")[2].partition("]")[0]
    try:
        yield found
    finally:
        write({**({"advisor_mode": "none"} if "advisor_mode" in found else {}), "run": 2, **found})


def ksmd_seconds(pid):
    """Return the CPU time of ksmd."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


@contextlib.contextmanager
def policy(name, price):
    """Start a policy; yield the process, if it has one."""
    if name in FIXED:
        write({**FIXED[name], "run": 1})
        yield None
        return
    with tempfile.TemporaryDirectory() as state:
        command = [PYTHON, GOVERNOR, "--state", state, "--price", str(price)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            yield process
        finally:
            process.terminate()
            process.wait()


def limit(held):
    """Return how many pages can be saved with max_page_sharing, for processes with this memory."""
    most = number("max_page_sharing")
    zeros = sum(int(PAGES * each.zero_percent / 100) for each in held)
    equal = [int(PAGES * each.equal_percent / 100) for each in held]
    common = sum(sorted(equal)[:-1])
    return common + max(0, zeros - -(-zeros // most))


def run(scenario, name, price):
    """Run a scenario once."""
    ksmd = subprocess.run(["pgrep", "-x", "ksmd"], capture_output=True, text=True, check=True)
    pid = ksmd.stdout.strip()
    held, points = [], []
    with contextlib.ExitStack() as stack:
        stack.enter_context(restored())
        write({"run": 2})
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))

        def arrive(memory):
            held.append(memory)
            asked = {"copy": len(held), "data_mib": MIB, "merge": "madvise", **memory._asdict()}
            environment = {**os.environ, "KSM_SOCKET": str(scratch / str(len(held)))}
            command = [PYTHON, CONTENTS, json.dumps(asked)]
            process = stack.enter_context(subprocess.Popen(command, env=environment))
            stack.callback(process.kill)

        arrivals = dict(scenario.arrivals)
        for memory in arrivals.pop(0, []):
            arrive(memory)
        for copy in range(1, len(held) + 1):
            until_ready(scratch / str(copy))
        before = ksmd_seconds(pid)
        started = stack.enter_context(policy(name, price))
        begin = time.monotonic()
        for tick in itertools.count():
            now = time.monotonic() - begin
            for at in [at for at in arrivals if at <= now]:
                for memory in arrivals.pop(at):
                    arrive(memory)
            saved = number("pages_sharing") + number("ksm_zero_pages")
            points.append((now, saved, limit(held)))
            if now >= scenario.seconds:
                break
            time.sleep(max(0, begin + (tick + 1) * PERIOD - time.monotonic()))
        ksmd_used = ksmd_seconds(pid) - before
        used = own_seconds(started.pid) if started else 0.0
    return Result(area(points), ksmd_used, used, tuple(times(points, scenario)))


def until_ready(path):
    """Wait until a process answers on its socket: its memory is written."""
    while True:
        with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(OSError):
            client.connect(str(path))
            return
        time.sleep(PERIOD)


def own_seconds(pid):
    """Return the CPU time of a process with a single thread."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def area(points):
    """Return the saved over the possible, as areas; NaN if nothing is possible."""
    saved = possible = 0.0
    for (start, *_), (end, pages, most) in itertools.pairwise(points):
        saved += (end - start) * pages
        possible += (end - start) * most
    return saved / possible if possible else float("nan")


def times(points, scenario):
    """Yield the seconds to 95 % after each arrival; infinity if not before the next."""
    ends = [*list(scenario.arrivals)[1:], scenario.seconds + 1]
    for at, end in zip(scenario.arrivals, ends, strict=True):
        within = [each for each in points if at <= each[0] < end]
        below = [when for when, saved, most in within if saved < 0.95 * most]
        yield (below[-1] - at if below[-1] < within[-1][0] else float("inf")) if below else 0.0


def spread(values, digits=3):
    """Write the median and the range."""
    middle, low, high = statistics.median(values), min(values), max(values)
    if low == high:
        return f"{middle:.{digits}f}"
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def show(scenario, results):
    """Print a scenario."""
    for name, found in results.items():
        arrivals = [statistics.median(each) for each in zip(*(r.to_95 for r in found), strict=True)]
        after = ", ".join("-" if each == float("inf") else f"{each:.1f}" for each in arrivals)
        print(
            f"{scenario:3} {name:12} efficiency {spread([r.efficiency for r in found])}"
            f"   ksmd {spread([r.ksmd for r in found], 2)} s"
            f"   policy {spread([r.policy for r in found], 2)} s   95 % {after}",
            flush=True,
        )


def main():
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--rounds", type=int, default=5, metavar="N", help="(default: %(default)s)")
    add("--scenarios", nargs="+", choices=SCENARIOS, default=["s1", "s2", "s4", "s5"])
    add("--policies", nargs="+", choices=POLICIES, default=list(POLICIES))
    add("--price", type=float, default=0.25, metavar="CPUS", help="of the governor (%(default)s)")
    asked = parser.parse_args()
    if os.geteuid():
        sys.exit("policies.py: only root may set the knobs")
    for name in asked.scenarios:
        results = {each: [] for each in asked.policies}
        for turn in range(asked.rounds):
            shift = turn % len(asked.policies)
            for each in asked.policies[shift:] + asked.policies[:shift]:
                results[each].append(run(SCENARIOS[name], each, asked.price))
        print(f"{name}: {SCENARIOS[name].what}, {SCENARIOS[name].seconds} s")
        show(name, results)


if __name__ == "__main__":
    main()
