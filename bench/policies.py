#!/usr/bin/env python3
"""Compare who turns the knobs of KSM: fixed settings, the policies of an experiment, a simple loop.

Processes with known contents come and go at native speed, one run for each scenario, policy and
round; the order of the policies changes from round to round. Printed are medians, with the range:
  efficiency   what was saved over what could be saved at most, as areas over time
  CPU          seconds of ksmd, and of the program that turns the knobs
  bound        the CPU time of ksmd and program over that of two visits to each page, at the mean
               cost of a visit in the same run
  later        CPU time of both after some time, in percent of one CPU
  95 %         seconds from each arrival until 95 % of what can be saved is saved; - if never
A policy marked * is on the front: no other saves as much with less CPU time, or more with as much.

ksmtuned, proxmox and kubevirt are told that memory is always short; else they would never begin.
governor-1 and governor-4 have these prices.
It sets knobs of KSM, and restores them. Nothing else may use KSM meanwhile.
"""

import argparse
import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from ksm_analysis.definition.policies import Policy, word_or_policy

BENCH = Path(__file__).resolve().parent
ROLES = BENCH.parent / "roles"
PYTHON = "/usr/bin/python3"  # what runs programs on a Debian host
KSM = Path("/sys/kernel/mm/ksm")
CGROUPS = Path("/sys/fs/cgroup")
MIB = 96  # of a process
PAGE = os.sysconf("SC_PAGE_SIZE")
PAGES = MIB * 2**20 // PAGE
PERIOD = 0.05
LEAD = 1.0  # seconds in which the program of a policy starts
OWN_MIB, FILE_MIB = 16, 1024  # of a process besides; a file that fills a cgroup


class Held(NamedTuple):
    """Memory of a process, in percent of its pages; written pages rest again after some time."""

    equal_percent: float = 50
    zero_percent: float = 10
    write_percent: float = 0
    rest_seconds: float = 0
    huge_pages: bool = False


class Scenario(NamedTuple):
    """Processes by the second of their arrival, and how long it all takes."""

    arrivals: dict
    seconds: float
    what: str
    later: float  # CPU time is also measured from this second on
    full_from: float = 0  # the second in which the cgroup of the processes begins to fill up


USUAL, UNIQUE = Held(), Held(equal_percent=0, zero_percent=0)
SCENARIOS = {
    "s1": Scenario({0: [USUAL] * 3, 50: [USUAL] * 3, 100: [USUAL] * 2}, 150, "arrivals", 110),
    "s2": Scenario(
        {0: [Held(write_percent=5, rest_seconds=3)] * 8}, 60, "5 % of the pages change a second", 30
    ),
    "s3": Scenario({0: [USUAL] * 3}, 150, "a long rest", 60),
    "s4": Scenario({0: [UNIQUE] * 4, 30: [UNIQUE] * 4}, 90, "nothing to merge", 60),
    "s5": Scenario(
        {0: [UNIQUE._replace(write_percent=25, rest_seconds=4)] * 8},
        90,
        "all changes, nothing to merge",
        60,
    ),
    "s6": Scenario(
        {0: [Held(write_percent=1, rest_seconds=3)] * 8}, 60, "memory pressure from 30 s", 30, 30
    ),
    "s7": Scenario(
        {0: [Held(25, 50, huge_pages=True)] * 6}, 30, "huge pages, of which half are zeros", 20
    ),
}
FIXED = {
    "default": {"pages_to_scan": 100, "sleep_millisecs": 20, "smart_scan": 1},
    "1000": {"pages_to_scan": 1000, "sleep_millisecs": 20, "smart_scan": 0},
    "10000": {"pages_to_scan": 10000, "sleep_millisecs": 20, "smart_scan": 0},
    "10000-smart": {"pages_to_scan": 10000, "sleep_millisecs": 20, "smart_scan": 1},
    "advisor": {"smart_scan": 1, "advisor_mode": "scan-time"},
}
SHORT = {"KSM_THRES_COEF": 100}  # memory is always short
PROGRAMS = {
    "ksmtuned": Policy(ksmtuned=SHORT),
    "proxmox": Policy(ksmtuned={"KSM_SLEEP_MSEC": 100, **SHORT}),
    "kata": word_or_policy("kata"),
    "kubevirt": Policy(kubevirt={"free_percent": 1}),
    "loop": Policy(command=[PYTHON, str(BENCH / "_loop.py")]),
    "governor": word_or_policy("governor"),
    "governor-1": Policy(governor={"price": 1}),
    "governor-4": Policy(governor={"price": 4}),
}


class Result(NamedTuple):
    """What one run has shown."""

    scenario: str
    policy: str
    efficiency: float  # NaN if nothing can be saved
    ksmd: float
    program: float
    bound: float
    later: float
    to_95: tuple

    @property
    def cpu(self):
        """CPU seconds of both."""
        return self.ksmd + self.program


# --- the kernel -----------------------------------------------------------------------------------


def number(name):
    """Return a counter of KSM."""
    return int((KSM / name).read_text())


def write(knobs):
    """Set knobs."""
    for name, value in knobs.items():
        (KSM / name).write_text(str(value))


@contextlib.contextmanager
def restored():
    """Restore the knobs, on unmerged memory, also after SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    names = ("smart_scan", "pages_to_scan", "sleep_millisecs", "advisor_mode", "run")
    found = {name: (KSM / name).read_text().strip() for name in names if (KSM / name).exists()}
    if "advisor_mode" in found:
        found["advisor_mode"] = found["advisor_mode"].partition("[")[2].partition("]")[0]
    try:
        yield
    finally:
        write({**({"advisor_mode": "none"} if "advisor_mode" in found else {}), "run": 2})
        write(found)


def cpu_seconds(pid):
    """Return the CPU time of a process with a single thread, and of its children that ended."""
    with contextlib.suppress(OSError):
        gone = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[13:15]
        own = int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
        return own + sum(map(int, gone)) / os.sysconf("SC_CLK_TCK")
    return 0.0


def descendants(pid):
    """Yield the ids of all descendants of a process."""
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            yield child
            yield from descendants(child)


def anonymous(pid):
    """Return the anonymous pages of a process; the kernel's page of zeros is none."""
    resident, shared = Path(f"/proc/{pid}/statm").read_text().split()[1:3]
    return int(resident) - int(shared)


# --- policies -------------------------------------------------------------------------------------


def programs(directory, wanted):
    """Copy the programs of policies to a directory, as on a host of experiments."""
    for name in ("part_policy/files/ksm_policy.py", "governor/files/ksm_governor.py"):
        shutil.copy(ROLES / name, directory)
    if {"ksmtuned", "proxmox"} & wanted:
        (directory / "ksmtuned").mkdir()
        fetch = "apt-get -qq -o APT::Sandbox::User=root download ksmtuned && dpkg-deb -x *.deb ."
        subprocess.run(["/bin/sh", "-ec", fetch], cwd=directory / "ksmtuned", check=True)


class Acting:
    """A policy that acts from a moment on: knobs, or a program that the part `policy` runs."""

    def __init__(self, name, directory, begin, seconds):
        self.knobs = FIXED.get(name, FIXED["default"])
        self.process, self.is_port = None, name in ("kata", "kubevirt")
        if name in PROGRAMS:
            files = {str(copy): f"{directory}/{copy}.pid" for copy in range(99)}
            command = [PYTHON, directory.parent / "ksm_policy.py", "--directory", directory]
            command += ["--options", json.dumps(PROGRAMS[name].part), "--start", str(begin)]
            command += ["--processes", json.dumps(files), "--seconds", str(seconds)]
            self.process = subprocess.Popen(command)

    def cpu(self):
        """Return its CPU seconds; ported policies are in the program that runs the others."""
        if not self.process:
            return 0.0
        own = [self.process.pid] if self.is_port else descendants(self.process.pid)
        return sum(map(cpu_seconds, own))

    def end(self):
        """End it."""
        if not self.process:
            return
        failed = self.process.poll()
        self.process.terminate()
        self.process.wait()
        if failed is not None:
            raise RuntimeError(f"the policy has ended with {failed}")


# --- memory ---------------------------------------------------------------------------------------


class Memory:
    """The processes of a run, in a cgroup: what they hold, and what is saved of it."""

    def __init__(self, stack, directory):
        self.stack, self.directory = stack, directory
        self.held, self.pids, self.whole = [], [], 0
        self.cgroup = stack.enter_context(cgroup(directory))

    def arrive(self, memory):
        """Start a process."""
        self.held.append(memory)
        copy = len(self.held)
        asked = {"copy": copy, "data_mib": MIB, "merge": "madvise", **memory._asdict()}
        environment = {**os.environ, "KSM_SOCKET": str(self.directory / str(copy))}
        self.start([PYTHON, ROLES / "processes/files/ksm_contents.py", json.dumps(asked)],
                   env=environment)  # fmt: skip
        (self.directory / f"{copy}.pid").write_text(str(self.pids[-1]))

    def start(self, command, **options):
        """Start a process in the cgroup."""
        enter = f'echo $$ > {self.cgroup}/cgroup.procs; exec "$@"'
        command = ["/bin/sh", "-ec", enter, "sh", *command]
        process = self.stack.enter_context(subprocess.Popen(command, **options))
        self.stack.callback(process.kill)
        self.pids.append(process.pid)

    def until_ready(self):
        """Wait until all processes have written their memory."""
        for copy in range(1, len(self.held) + 1):
            while True:
                with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(OSError):
                    client.connect(str(self.directory / str(copy)))
                    break
                time.sleep(PERIOD)
        self.whole = sum(map(anonymous, self.pids))

    def fill(self):
        """Fill the cgroup with a file that is read all the time: its limit is what all may need."""
        names = ("memory.max", "memory.limit_in_bytes")
        limit = next(self.cgroup / name for name in names if (self.cgroup / name).exists())
        limit.write_text(str(len(self.held) * (MIB + OWN_MIB) * 2**20))
        file = self.directory / "file"
        file.touch()
        os.truncate(file, FILE_MIB * 2**20)
        for _ in range(2):
            self.start(["/bin/sh", "-ec", f"while cat {file}; do :; done"],
                       stdout=subprocess.DEVNULL)  # fmt: skip

    def saved(self):
        """Return the pages that are saved: those of the processes beyond those that the cgroup has.

        pages_sharing would count pages that were written to until ksmd looks at them again, and not
        the zeros that a split of huge pages has freed.
        """
        found = re.search(r"^(?:anon|rss) (\d+)", (self.cgroup / "memory.stat").read_text(), re.M)
        huge = self.held[0].huge_pages
        mapped = self.whole if huge else sum(map(anonymous, self.pids))
        return max(0, mapped - int(found[1]) // PAGE)

    def limit(self):
        """Return how many pages at rest can be saved with max_page_sharing, as expected."""

        def resting(each, percent):
            return PAGES * percent / 100 * (1 - each.write_percent * each.rest_seconds / 100)

        zeros = sum(resting(each, each.zero_percent) for each in self.held)
        equal = sum(resting(each, each.equal_percent) for each in self.held)
        # nearly always some copy of an equal page rests, and needs a frame
        frames = max(PAGES * each.equal_percent / 100 for each in self.held)
        kept = 0 if self.held[0].huge_pages else -(-zeros // number("max_page_sharing"))
        return max(0, equal - frames) + zeros - kept


@contextlib.contextmanager
def cgroup(directory):
    """Make a cgroup for memory, of version 1 or 2; remove it when its processes have ended."""
    root = CGROUPS / "memory" if (CGROUPS / "memory").is_dir() else CGROUPS
    made = root / f"ksm-bench-{directory.name}"
    made.mkdir()
    try:
        yield made
    finally:
        while (made / "cgroup.procs").read_text():
            for pid in (made / "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            time.sleep(PERIOD)
        made.rmdir()


# --- runs -----------------------------------------------------------------------------------------


def run(scenario_name, name, home):
    """Run a scenario once."""
    scenario, ksmd = SCENARIOS[scenario_name], subprocess.check_output(["pgrep", "-x", "ksmd"])
    ksmd, points, later = int(ksmd), [], None
    with contextlib.ExitStack() as stack:
        stack.enter_context(restored())
        write({"run": 2})
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=home)))
        memory, arrivals = Memory(stack, directory), dict(scenario.arrivals)
        for each in arrivals.pop(0):
            memory.arrive(each)
        memory.until_ready()
        begin, full_from = time.monotonic() + LEAD, scenario.full_from
        acting = Acting(name, directory, begin, scenario.seconds)
        stack.callback(acting.end)
        time.sleep(begin - time.monotonic())
        before, scanned = cpu_seconds(ksmd), number("pages_scanned")
        write({**acting.knobs, "run": 1})
        for tick in itertools.count(1):
            now = time.monotonic() - begin
            for at in [at for at in arrivals if at <= now]:
                for each in arrivals.pop(at):
                    memory.arrive(each)
            if full_from and now >= full_from:
                memory.fill()
                full_from = 0
            if later is None and now >= scenario.later:
                later = cpu_seconds(ksmd) + acting.cpu()
            points.append((now, memory.saved(), memory.limit()))
            if now >= scenario.seconds:
                break
            time.sleep(max(0, begin + tick * PERIOD - time.monotonic()))
        used, program, after = cpu_seconds(ksmd) - before, acting.cpu(), number("pages_scanned")
        two_visits = 2 * PAGES * len(memory.held) * used / max(1, after - scanned)
        rate = (before + used + program - later) / (scenario.seconds - scenario.later)
        bound = (used + program) / two_visits if two_visits else float("nan")
    found = (area(points), used, program, bound, 100 * rate, tuple(times(points, scenario)))
    return Result(scenario_name, name, *found)


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


# --- what is printed ------------------------------------------------------------------------------


def spread(values, digits):
    """Write the median and the range."""
    middle, low, high = statistics.median(values), min(values), max(values)
    if not low < high:
        return f"{middle:.{digits}f}"
    return f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def front(results):
    """Return the policies that no other is better than, by medians: {policy: its results}."""
    middle = {
        name: tuple(statistics.median(values) for values in zip(*pairs, strict=True))
        for name, found in results.items()
        if (pairs := [(-r.efficiency if r.efficiency == r.efficiency else 0, r.cpu) for r in found])
    }
    worse = {
        name
        for name, (loss, cpu) in middle.items()
        for other in middle.values()
        if other[0] <= loss and other[1] <= cpu and other != (loss, cpu)
    }
    return set(middle) - worse


def show(name, results):
    """Print a scenario."""
    scenario, best = SCENARIOS[name], front(results)
    print(f"\n{name}: {scenario.what}, {scenario.seconds} s; later: from {scenario.later} s on")
    for policy, found in results.items():
        arrivals = [statistics.median(each) for each in zip(*(r.to_95 for r in found), strict=True)]
        after = ", ".join("-" if each == float("inf") else f"{each:.1f}" for each in arrivals)
        columns = {
            "efficiency": spread([r.efficiency for r in found], 3),
            "ksmd": spread([r.ksmd for r in found], 2) + " s",
            "program": spread([r.program for r in found], 2) + " s",
            "bound": spread([r.bound for r in found], 1),
            "later": spread([r.later for r in found], 2) + " %",
            "95 %": after,
        }
        text = "  ".join(f"{key} {value:<22}" for key, value in columns.items())
        print(f"{'*' if policy in best else ' '} {policy:11} n={len(found)}  {text}".rstrip())


def runs(asked):
    """Yield the results: those in the file, then those of new runs."""
    if asked.file and asked.file.exists():
        for line in asked.file.read_text().splitlines():
            yield Result(**json.loads(line))
    with tempfile.TemporaryDirectory() as home:
        programs(Path(home), set(asked.policies) if asked.rounds else set())
        for turn, name in itertools.product(range(asked.rounds), asked.scenarios):
            shift = turn % len(asked.policies)
            for policy in asked.policies[shift:] + asked.policies[:shift]:
                found = run(name, policy, home)
                if asked.file:
                    with asked.file.open("a") as file:
                        file.write(json.dumps(found._asdict()) + "\n")
                yield found


def main():
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    every = [*FIXED, *PROGRAMS]
    scenarios, policies = ["s1", "s7"], ["10000", "loop", "governor"]  # ten minutes a round
    default = "(default: %(default)s)"
    add("--rounds", type=int, default=1, metavar="N", help=default)
    add("--scenarios", nargs="+", choices=SCENARIOS, default=scenarios, help=default)
    add("--policies", nargs="+", choices=every, default=policies, help=default)
    add("--file", type=Path, help="add each run to a file, and count those that are in it, too")
    asked = parser.parse_args()
    if os.geteuid():
        sys.exit("policies.py: only root may set the knobs")
    results = {}
    for each in runs(asked):
        results.setdefault(each.scenario, {}).setdefault(each.policy, []).append(each)
    for name in sorted(results):
        show(name, results[name])


if __name__ == "__main__":
    main()
