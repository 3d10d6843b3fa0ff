#!/usr/bin/env python3
"""Compare what `assess` forecasts with what then happens: processes of known contents, real ksmd.

For each case, processes write their memory at native speed. Their memory is read as `assess` reads
it, while ksmd is off. Then ksmd runs with the settings of the case, for as long as was forecast:
  freed   bytes that the cgroup of the processes has less than they have, less ksmd's records: the
          mean of the last quarter of the time
  95 %    seconds until 95 % of that were freed
  CPU     seconds of ksmd in the whole time
The costs of ksmd were set with other cases (--training), not with these. ksmd has nice -15
meanwhile, so that other programs do not hold it up.
It sets knobs of KSM, and restores them. Nothing else may offer memory to KSM meanwhile: ksmd would
scan it, too, and be late. A case in which ksmd knows more pages than those of the case is marked.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import policies
from policies import KSM, PAGE, Acting, Held, Memory, cpu_seconds, number, restored, write

from ksm_analysis.assess import assessment, forecast, population, seen, settings

ROLES = policies.ROLES
PERIOD = 0.02
KSMD = int(subprocess.run(["pgrep", "-x", "ksmd"], capture_output=True, check=False).stdout or 0)
LIMITS = {"freed": assessment.FREED, "95 %": assessment.SECONDS, "CPU": assessment.CPU}
KNOWN = ("shared", "sharing", "unshared", "volatile")  # pages that ksmd has records of
OTHERS = 2.0  # MiB of others that do not matter
OF_HOST = ("max_page_sharing", "use_zero_pages")
ADVISOR = "advisor, 200 s"
GOVERNOR = ROLES / "governor/files/ksm_governor.py"


class Case(NamedTuple):
    """Processes of 96 MiB, the setting, and for how long."""

    held: list
    knobs: dict
    seconds: float
    policy: str = ""  # of bench/policies.py


def knobs(pages, sleep=20, smart_scan=0, **more):
    """Return knobs."""
    named = {"pages_to_scan": pages, "sleep_millisecs": sleep, "smart_scan": smart_scan}
    return {**named, **more}


def same(copies, equal, zero, **more):
    """Return what equal processes hold."""
    return [Held(equal, zero, **more)] * copies


CASES = {
    "default, smart_scan": Case(same(2, 30, 25), knobs(100, smart_scan=1), 45),
    "400 / 20": Case([*same(2, 60, 5), Held(0, 0)], knobs(400), 25),
    "800 / 20": Case(same(5, 30, 30), knobs(800), 25),
    "1500 / 10, max_page_sharing 32": Case(
        same(4, 45, 25), knobs(1500, 10, max_page_sharing=32), 20
    ),
    "6000 / 20": Case(same(7, 35, 20), knobs(6000), 15),
    "10000 / 20": Case(same(8, 80, 0), knobs(10000), 15),
    "10000 / 20, smart_scan, use_zero_pages": Case(
        same(6, 10, 60), knobs(10000, smart_scan=1, use_zero_pages=1), 15
    ),
    "2000 / 20, 1 % a second is written": Case(
        same(4, 50, 10, write_percent=1, rest_seconds=3), knobs(2000), 30
    ),
    "10000 / 20, huge pages": Case(same(6, 25, 50, huge_pages=True), knobs(10000), 15),
    "Kata": Case(same(5, 40, 20), knobs(100), 15, "kata"),
    "governor": Case(same(7, 60, 10), knobs(100, smart_scan=1), 20, "governor"),
    "advisor": Case(same(2, 40, 10), knobs(500, smart_scan=1), 150, ADVISOR),
}
TRAINING = {
    "3000 / 20": Case(same(3, 40, 15), knobs(3000), 15),
    "10000 / 20": Case(same(4, 60, 10), knobs(10000), 10),
    "10000 / 20, nothing equal": Case(same(6, 0, 0), knobs(10000), 10),
    "200 / 20": Case(same(2, 70, 10), knobs(200), 30),
    "4000 / 10, 2 % a second is written": Case(
        same(5, 40, 20, write_percent=2, rest_seconds=2), knobs(4000, 10), 20
    ),
    "5000 / 20, huge pages": Case(same(4, 40, 30, huge_pages=True), knobs(5000), 10),
}


class Result(NamedTuple):
    """Freed MiB, seconds to 95 % and CPU seconds; MiB of others that ksmd has scanned, too."""

    freed: float
    soon: float
    cpu: float
    others: float = 0.0


def run(case, directory):
    """Return what was forecast, and what then happened."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(restored())
        stack.enter_context(kept(OF_HOST))
        stack.enter_context(undisturbed(KSMD))
        write({"run": 2})
        write({each: case.knobs.get(each, number(each)) for each in case.knobs})
        here = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=directory)))
        memory = Memory(stack, here)
        for each in case.held:
            memory.arrive(each)
        memory.until_ready()
        told = read(memory.pids, here)
        expected = forecasted(told, case)
        return told, expected, happened(case, memory, here, stack)


@contextlib.contextmanager
def undisturbed(pid):
    """Let other programs not hold up ksmd, as on a host with idle CPUs."""
    before = os.getpriority(os.PRIO_PROCESS, pid)
    os.setpriority(os.PRIO_PROCESS, pid, -15)
    try:
        yield
    finally:
        os.setpriority(os.PRIO_PROCESS, pid, before)


@contextlib.contextmanager
def kept(names):
    """Restore knobs that can be set only on unmerged memory."""
    before = {name: number(name) for name in names}
    try:
        yield
    finally:
        write({"run": 2, **before})


def read(pids, directory):
    """Read the memory of processes as `assess` does."""
    program = ROLES / "assess/files/ksm_assess.py"
    beside = [str(ROLES / name) for name in ("part_census/files", "doctor/files")]
    words = [sys.executable, program, "--seconds=12", "--cpu=100", "--memory=4096"]
    told = directory / "told"
    with told.open("w") as output:
        subprocess.run(
            [*words, *(f"--guest={pid}" for pid in pids)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(beside)},
            stdout=output,
            check=True,
        )
    return seen.load(told)


def forecasted(told, case):
    """Return the forecast."""
    found, known = population.of(told), {**settings.usable(told.facts), **case.knobs}
    own = {name: value for name, value in case.knobs.items() if name not in OF_HOST}
    setting = settings.Setting("", {**own, "run": 1})
    if case.policy:
        setting = next(each for each in settings.OFFER if each.name.lower() == case.policy)
    outcome = settings.simulate(
        setting,
        found,
        settings.host_of(told),
        settings.costs(told.page_seconds),
        known,
        told.host["hz"],
        case.seconds,
    )
    limit = forecast.limit(found, known)
    return Result(
        limit.net(PAGE, outcome.final) / 2**20,
        outcome.soon[0] if outcome.soon else 0,
        outcome.cpu[-1],
    )


def happened(case, memory, directory, stack):
    """Let ksmd run; return what happened."""
    begin, before = time.monotonic(), cpu_seconds(KSMD)
    if case.policy == "governor":  # as a service of a host whose ksmd is off
        command = [policies.PYTHON, GOVERNOR, "--state", directory / "governor"]
        stack.callback(ended, subprocess.Popen(command, stdout=subprocess.DEVNULL))
    else:
        if case.policy in policies.PROGRAMS:
            begin += policies.LEAD
            acting = Acting(case.policy, directory, begin, case.seconds)
            stack.callback(acting.end)
            time.sleep(max(0, begin - time.monotonic()))
        if case.policy == ADVISOR:
            write({"advisor_mode": "scan-time"})
        write({"run": 1})  # also for programs, which wait for that
    points, most = [], 0
    while (now := time.monotonic() - begin) < case.seconds:
        points.append((now, saved(memory)))
        most = max(most, sum(number(f"pages_{name}") for name in KNOWN))
        time.sleep(PERIOD)
    used = cpu_seconds(KSMD) - before
    times, pages = map(np.array, zip(*points, strict=True))
    final = pages[times >= 0.75 * case.seconds].mean()
    soon = times[np.argmax(pages >= settings.SOON * final)] if final > 0 else 0.0
    names = (*KNOWN, "shared")  # and stable nodes
    records = forecast.ITEM * sum(number(f"pages_{name}") for name in names)
    others = max(0, most - policies.PAGES * len(case.held)) * PAGE / 2**20
    return Result((final * PAGE - records) / 2**20, float(soon), used, others)


def ended(process):
    """End a process, which restores its knobs."""
    process.terminate()
    process.wait()


def saved(memory):
    """Return the pages that the cgroup has less than the processes had at first."""
    text = (memory.cgroup / "memory.stat").read_text()
    found = next(
        int(line.split()[1]) for line in text.splitlines() if line.split()[0] in ("anon", "rss")
    )
    return memory.whole - found // PAGE


def line(name, expected, measured):
    """Return a row of the table, and whether it is within the limits."""
    cells, within = [name], measured.others <= OTHERS
    for most, is_, should in zip(LIMITS.values(), expected[:3], measured[:3], strict=True):
        off = (is_ - should) / should if should else 0.0
        within &= abs(off) <= most
        cells.append(f"{is_:.1f} / {should:.1f} ({100 * off:+.1f} %)")
    return f"| {' | '.join(cells)} |", within


def main():
    """Run the command line."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument(
        "--training", action="store_true", help="the cases that costs were set with"
    )
    parser.add_argument("--only", action="append", metavar="TEXT", help="cases whose name has it")
    asked = parser.parse_args()
    if os.geteuid():
        parser.error("only root can set knobs of KSM")
    if (KSM / "run").read_text().strip() != "0":
        parser.error("KSM is in use on this host: stop it first")
    chosen = TRAINING if asked.training else CASES
    if asked.only:
        chosen = {k: v for k, v in chosen.items() if any(text in k for text in asked.only)}
    print("forecast / measured; freed MiB within 5 %, times and CPU seconds within 25 %\n")
    print("| case | freed | 95 % after | CPU |\n| --- | --- | --- | --- |")
    good = 0
    with tempfile.TemporaryDirectory() as home:
        policies.programs(Path(home), {case.policy for case in chosen.values()})
        for name, case in chosen.items():
            told, *both = run(case, home)
            text, within = line(name, *both)
            good += within
            print(f"{text}{'' if within else '  <- outside'}", flush=True)
            if (others := both[1].others) > OTHERS:
                print(f"{name} does not count: others have offered {others:.0f} MiB to KSM, too")
            print(f"page_seconds {1e6 * told.page_seconds:.2f} µs", file=sys.stderr)
    print(f"\n{good} of {len(chosen)} are within")
    return 0 if good == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
