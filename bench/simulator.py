#!/usr/bin/env python3
"""Compare the simulator with the real ksmd, page by page, and measure how fast it is.

Each case has processes with pages of known contents, real ones and simulated ones. They come, write
and end between full scans, which ksmd does one at a time. After each, all counters of KSM must be
equal. Cases are made at random, from the number of the case:
  rest      all processes are there from the beginning, and nothing changes
  arrivals  processes come
  writes    pages are written, some of them back to what they were
  exits     processes end
  knobs     smart_scan and use_zero_pages change
  all       all of these
  arrays    two arrays as of the part arrays, one of which changes
  batches   processes come and knobs change between batches, after each of which is compared

It sets knobs of KSM, and restores them. Nothing else may use KSM meanwhile; --replay and --speed
need no KSM.
"""

import argparse
import contextlib
import gzip
import itertools
import json
import mmap
import os
import pickle
import random
import resource
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ksm_analysis.simulator.ksmd import Ksmd
from ksm_analysis.simulator.programs import CONTENTS, program

KSM = Path("/sys/kernel/mm/ksm")
PAGE = mmap.PAGESIZE
KINDS = ("rest", "arrivals", "writes", "exits", "knobs", "all", "arrays", "batches")
SETTINGS = [*itertools.product((0, 1), (2, 7, 256), (0, 1))]  # smart_scan, max_page_sharing, zero
PRUNE = (0, 2**31 - 1)  # frames of a content are looked at always, or never; 2 s would be a race
ASLEEP = (3_600_000, 3_600_001)  # ms that ksmd sleeps; a change wakes it
TRIES = 5  # of a case, if memory of other processes is scanned meanwhile
PATIENCE, AGAIN = 60.0, 0.2  # seconds to a scan; until ksmd is woken again
SINCE_BOOT = ("pages_scanned", "pages_skipped")


class Case(NamedTuple):
    """One case: its settings, and the seed of all that happens."""

    number: int
    kind: str
    smart_scan: int
    max_page_sharing: int
    use_zero_pages: int
    prune: int

    @property
    def batch(self):
        """Pages of a batch of ksmd."""
        return 60 + 7 * self.number % 500 if self.kind == "batches" else 10_000_000


def cases(number):
    """Return so many cases; any 96 in sequence have all kinds with all settings."""
    found = []
    for n in range(number):
        row, column = divmod(n, len(KINDS))
        setting = SETTINGS[(row + 3 * column) % len(SETTINGS)]
        found.append(Case(n, KINDS[column], *setting, PRUNE[(n + row + row // len(SETTINGS)) % 2]))
    return found


# --- what happens ---------------------------------------------------------------------------------


class Story:
    """What happens in a case between scans, at random; the same in both worlds."""

    def __init__(self, case, world):
        self.case, self.world, self.random = case, world, random.Random(case.number)
        self.alive, self.born, self.alone = {}, 0, -1
        several = {"batches": ("arrivals", "knobs"), "all": KINDS[1:5]}
        self.kinds = {*several.get(case.kind, (case.kind,))}
        self.common = self.random.choice((5, 40, 300))  # so many contents may be equal

    def begin(self):
        """Start the first processes."""
        if self.case.kind == "arrays":
            pages = self.random.randrange(100, 1200)
            for _ in range(2):
                self.arrive([*range(1, pages + 1)])
            return
        for _ in range(self.random.randrange(2, 5)):
            self.arrive()

    def contents(self, number):
        """Return so many contents: zeros, some that others have, and some that no other has."""
        draw = self.random
        zeros, commons = draw.random() * 0.4, draw.random()
        found = []
        for _ in range(number):
            if draw.random() < zeros:
                found.append(0)
            elif draw.random() < commons:
                found.append(draw.randrange(1, self.common))
            else:
                found.append(self.alone)
                self.alone -= 1
        return found

    def arrive(self, contents=None):
        """Let a process come."""
        contents = contents or self.contents(self.random.randrange(20, 600))
        self.born += 1
        self.alive[self.born] = contents
        self.world.arrive(self.born, contents)

    def go_on(self, scan):
        """Do what happens before a scan."""
        draw = self.random
        if "arrivals" in self.kinds and draw.random() < 0.3 and len(self.alive) < 9:
            self.arrive()
        if "writes" in self.kinds and draw.random() < 0.6:
            for name in draw.sample([*self.alive], draw.randrange(1, len(self.alive) + 1)):
                self.write(name)
        if "exits" in self.kinds and draw.random() < 0.25:
            if len(self.alive) > 1:
                name = draw.choice([*self.alive])
                del self.alive[name]
                self.world.leave(name)
            if draw.random() < 0.7:
                self.arrive()
        if "knobs" in self.kinds and draw.random() < 0.3:
            knob = draw.choice(("smart_scan", "use_zero_pages"))
            value = draw.randrange(2)
            self.world.set({knob: value})
        if self.case.kind == "arrays" and scan == 5:
            self.change()

    def write(self, name):
        """Write to some pages: new contents, or those that they have."""
        had, draw = self.alive[name], self.random
        pages = sorted(draw.sample(range(len(had)), draw.randrange(1, max(2, len(had) // 4))))
        contents = self.contents(len(pages))
        for n, page in enumerate(pages):
            if draw.random() < 0.3:
                contents[n] = had[page]  # a write of the same breaks a merged page, too
            had[page] = contents[n]
        self.world.write(name, pages, contents)

    def change(self):
        """Change the first array, as the part arrays does."""
        size = len(self.alive[1])
        some = {"single": 1, "half-same": size // 2, "half-distinct": size // 2}
        change = self.random.choice([*some])
        pages = [*range(some[change])]
        contents = [size + 1 if change == "half-same" else -1 - page for page in pages]
        self.world.write(1, pages, contents)


# --- two worlds -----------------------------------------------------------------------------------


class Simulated:
    """The simulator, with the shape of the stable tree or without."""

    def __init__(self, case, shape):
        self.ksmd, self.processes = Ksmd(key=key if shape else None), {}
        self.ksmd.set({**knobs_of(case), "pages_to_scan": case.batch, "run": 1})

    def arrive(self, name, contents):
        """Add a process."""
        self.processes[name] = self.ksmd.arrive(contents)

    def write(self, name, pages, contents):
        """Write to pages."""
        self.ksmd.write(self.processes[name], pages, contents)

    def leave(self, name):
        """End a process."""
        self.ksmd.leave(self.processes.pop(name))

    def set(self, knobs):
        """Set knobs."""
        self.ksmd.set(knobs)

    def scan(self):
        """Do one batch."""
        self.ksmd.batch()

    def counters(self):
        """Return the counters."""
        return self.ksmd.counters()


class Real:
    """The real ksmd, and real processes."""

    def __init__(self, case):
        self.children, self.asleep = {}, itertools.cycle(ASLEEP)
        self.sizes, self.pages = {}, []  # pages of each process, and of all at each scan
        set_knob("run", 2)
        self.wake()  # it may sleep for an hour from the last case
        self.case = case
        self.set(knobs_of(case) | {"pages_to_scan": case.batch})
        self.before = counters()

    def set(self, knobs):
        """Set knobs."""
        for name, value in knobs.items():
            set_knob(name, value)

    def arrive(self, name, contents):
        """Start a process."""
        self.children[name] = Child(contents)
        self.sizes[name] = len(contents)

    def write(self, name, pages, contents):
        """Write to pages."""
        self.children[name].write(pages, contents)

    def leave(self, name):
        """End a process."""
        self.children.pop(name).end()
        del self.sizes[name]

    def wake(self):
        """Wake ksmd, which then does one batch."""
        set_knob("sleep_millisecs", next(self.asleep))

    def scan(self):
        """Let ksmd do one batch, which may be a full scan."""
        self.pages.append(sum(self.sizes.values()))
        begin, end = time.monotonic(), self.looked()
        end = (end[0] + 1, end[1] + self.case.batch)
        if read("run") != "1":
            set_knob("run", 1)
        else:
            self.wake()
        woken = time.monotonic()
        while all(now < then for now, then in zip(self.looked(), end, strict=True)):
            if time.monotonic() - begin > PATIENCE:
                sys.exit(f"ksmd has not ended a batch within {PATIENCE:g} s")
            if time.monotonic() - woken > AGAIN:  # it was just about to sleep
                self.wake()
                woken = time.monotonic()

    def looked(self):
        """Return how many scans ksmd has ended, and how many pages it has scanned."""
        return int(read("full_scans")), int(read("pages_scanned"))

    def counters(self):
        """Return the counters, those since boot as differences."""
        found = counters()
        return found | {name: found[name] - self.before[name] for name in SINCE_BOOT}

    def end(self):
        """End all processes."""
        for child in self.children.values():
            child.end()


class Child:
    """A process with mergeable memory, which writes to it as it is told."""

    def __init__(self, contents):
        (reads, self.orders), (self.answers, writes) = os.pipe(), os.pipe()
        self.pid = os.fork()
        if not self.pid:
            os.close(self.orders)
            with contextlib.suppress(BaseException):
                obey(len(contents), reads, writes)
            os._exit(0)
        os.close(reads)
        os.close(writes)
        self.write(range(len(contents)), contents)

    def write(self, pages, contents):
        """Write to pages, and wait until that is done."""
        order = pickle.dumps((list(pages), list(contents)))
        os.write(self.orders, len(order).to_bytes(4, "little"))
        while order:
            order = order[os.write(self.orders, order) :]
        if os.read(self.answers, 1) != b".":
            sys.exit("a process with mergeable memory has ended by itself")

    def end(self):
        """End it, and wait until its memory is gone."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.orders)
        os.close(self.answers)


def obey(size, reads, writes):
    """Write pages until nobody gives orders any more."""
    memory = mmap.mmap(-1, size * PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    memory.madvise(mmap.MADV_MERGEABLE)
    orders = os.fdopen(reads, "rb")
    while length := orders.read(4):
        pages, contents = pickle.loads(orders.read(int.from_bytes(length, "little")))
        for page, content in zip(pages, contents, strict=True):
            memory[page * PAGE : (page + 1) * PAGE] = data(content)
        os.write(writes, b".")


def data(content):
    """Return the page with a content; see Ksmd."""
    if content == 0:
        return bytes(PAGE)
    return program(CONTENTS).pattern(0 if content > 0 else 1, abs(content))


def key(content):
    """Return a number that is in the order of the bytes of pages."""
    return int.from_bytes(data(content)[:8], "big")  # which are repeated


def knobs_of(case):
    """Return the knobs of a case."""
    return {
        "smart_scan": case.smart_scan,
        "max_page_sharing": case.max_page_sharing,
        "use_zero_pages": case.use_zero_pages,
        "stable_node_chains_prune_millisecs": case.prune,
    }


def read(name):
    """Return the text of a file of KSM."""
    return (KSM / name).read_text().strip()


def set_knob(name, value):
    """Write to a knob."""
    (KSM / name).write_text(f"{value}\n")


def counters():
    """Return the counters that the simulator has."""
    return {name: int(read(name)) for name in Ksmd().counters()}


@contextlib.contextmanager
def restored():
    """Restore all knobs at the end."""
    names = ("max_page_sharing", "use_zero_pages", "stable_node_chains_prune_millisecs")
    names += ("smart_scan", "pages_to_scan", "sleep_millisecs", "run")
    found = {name: read(name) for name in names}
    if found["run"] != "0" or "[none]" not in read("advisor_mode"):
        sys.exit("KSM is in use on this host: stop it first")
    try:
        yield
    finally:
        set_knob("run", 2)
        for name in names:
            set_knob(name, found[name])


# --- comparison -----------------------------------------------------------------------------------


def counted(world, case, scans):
    """Return the counters of a world after each scan, or batch."""
    story, found = Story(case, world), []
    story.begin()
    for number in range(scans):
        story.go_on(number)
        world.scan()
        found.append(world.counters())
    return found


def measured(chosen, scans):
    """Return what the real ksmd has counted, for each case; with Ctrl-C, for those so far."""
    found = []
    with restored(), contextlib.suppress(KeyboardInterrupt):
        found.extend(_measured(case, scans) for case in chosen)
    return found


def _measured(case, scans):
    for _ in range(TRIES):
        real = Real(case)
        try:
            found = counted(real, case, scans)
        finally:
            real.end()
        if not any(map(foreign, found, real.pages)):
            return found
        time.sleep(1)  # others may have ended then
    sys.exit("memory of other processes is scanned, too: end what uses KSM on this host")


def foreign(found, pages):
    """Whether ksmd knows of more pages than there are."""
    trees = ("shared", "sharing", "unshared", "volatile")
    return sum(found[f"pages_{name}"] for name in trees) > pages


def simulated(case, expected, shape):
    """Return what the simulator counts after as many scans as in `expected`."""
    return counted(Simulated(case, shape), case, len(expected))


def differences(case, expected, shape, why=False):
    """Return by how much which counters are off, for each scan after which any is."""
    off = []
    for scan, (is_, should) in enumerate(
        zip(simulated(case, expected, shape), expected, strict=True)
    ):
        wrong = {name: is_[name] - should[name] for name in should if is_[name] != should[name]}
        off += [wrong] if wrong else []
        if wrong and why:
            print(f"  {case} scan {scan}: {wrong} of {should}")
    return off


def compare(chosen, expected, shape, why):
    """Print a table; return how many cases differ."""
    results = [(c, differences(c, e, shape, why)) for c, e in zip(chosen, expected, strict=True)]
    scans = {case: len(e) for case, e in zip(chosen, expected, strict=True)}
    print(f"{'kind':10}{'cases':>6}{'scans':>7}{'exact':>7}  differences (scans, most)")
    for kind in KINDS:
        found = {case: off for case, off in results if case.kind == kind}
        if found:
            exact = sum(not off for off in found.values())
            many = sum(scans[case] for case in found)
            print(f"{kind:10}{len(found):6}{many:7}{exact:7}  {summed(found.values())}")
    wrong = sum(bool(off) for _, off in results)
    print(f"{len(results)} cases, {sum(scans.values())} scans: {wrong} cases differ")
    return wrong


def keep(path, chosen, expected):
    """Keep what the real ksmd counted."""
    names = [*Ksmd().counters()]
    rows = [[[scan[name] for name in names] for scan in each] for each in expected]
    text = json.dumps({"counters": names, "cases": [*zip(chosen, rows, strict=True)]})
    path.write_bytes(gzip.compress(text.encode(), mtime=0))


def kept(path):
    """Return what was kept: cases, each with the counters after each scan."""
    found = json.loads(gzip.decompress(path.read_bytes()))
    return [
        (Case(*case), [dict(zip(found["counters"], row, strict=True)) for row in rows])
        for case, rows in found["cases"]
    ]


def summed(found):
    """Return in how many scans which counter was off, and the most by which it was."""
    times, most = Counter(), Counter()
    for off in found:
        for wrong in off:
            times.update(wrong.keys())
            for name, value in wrong.items():
                most[name] = max(most[name], abs(value))
    return ", ".join(f"{name} ({times[name]}, {most[name]})" for name in times) or "none"


# --- costs ----------------------------------------------------------------------------------------


def costs(pages):
    """Print what the real ksmd spends on a page, by what happens to it: means of full scans."""
    alone = [*range(-pages, 0)]
    with restored():
        real = Real(Case(0, "costs", 0, 256, 0, PRUNE[1]))
        try:
            real.arrive(1, alone)
            print_cost("changed", real, pages)
            print_cost("alone", real, pages)
            real.set({"smart_scan": 1})
            for _ in range(4):  # until they are old enough to be skipped
                real.scan()
            print_cost("skipped", real, pages)
            real.set({"smart_scan": 0})
            real.write(1, range(pages), [*range(1, pages // 2 + 1)] * 2)
            print_cost("changed", real, pages)
            print_cost("half of them alone, half merging", real, pages)
            print_cost("merged", real, pages)
        finally:
            real.end()


def print_cost(name, real, pages):
    """Scan once, and print the CPU time of a page."""
    before = cpu_ns()
    real.scan()
    time.sleep(AGAIN)  # until it sleeps
    print(f"{name:34}{(cpu_ns() - before) / pages / 1000:7.3f} µs", flush=True)


def cpu_ns():
    """Return how long ksmd has run."""
    for path in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            if path.read_text() == "ksmd\n":
                return int(path.with_name("schedstat").read_text().split()[0])
    sys.exit("ksmd is not to be seen")


# --- speed ----------------------------------------------------------------------------------------


def speed(guests, mib, scans):
    """Scan a population of equal guests, and print how long that takes."""
    pages = mib * 2**20 // PAGE
    draw, begin = np.random.default_rng(0), time.monotonic()
    ksmd = Ksmd()
    ksmd.set({"run": 1, "smart_scan": 0})
    ksmd.reserve(guests * pages, pages)
    alone = 0
    for _ in range(guests):
        contents = np.arange(1, pages + 1, dtype=np.int32)  # what all have
        own = draw.random(pages) < 0.4
        contents[own] = -1 - np.arange(alone, alone + own.sum())
        contents[draw.random(pages) < 0.1] = 0
        alone += int(own.sum())
        ksmd.arrive(contents)
    print(f"{guests} guests of {mib} MiB, {ksmd.pages:,} pages: made in {since(begin):.1f} s")
    for _ in range(scans):
        begin, cpu = time.monotonic(), time.process_time()
        ksmd.scan()
        took, used = since(begin), time.process_time() - cpu
        print(
            f"  scan {ksmd.full_scans}: {took:6.1f} s, {used:6.1f} s of a CPU,"
            f" {ksmd.pages / used / 1e6:5.1f} million pages in each;"
            f" saved {ksmd.saved:,}, alone {ksmd.unshared:,}",
            flush=True,
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"  peak memory {peak / 2**30:.2f} GiB, {peak / ksmd.pages:.0f} bytes a page")


def since(begin):
    """Return the seconds since a time."""
    return time.monotonic() - begin


def main():
    """Run the command line."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    add = parser.add_argument
    add("--cases", type=int, default=288, metavar="N", help="so many cases (default: %(default)s)")
    add("--scans", type=int, default=30, metavar="N", help="of each case (default: %(default)s)")
    add("--only", type=int, metavar="N", help="only the case with this number")
    add("--why", action="store_true", help="print each difference")
    add("--fast", action="store_true", help="simulate without the shape of the stable tree")
    add("--record", type=Path, metavar="FILE", help="keep what the real ksmd counted")
    add("--replay", type=Path, metavar="FILE", help="compare with what was kept; needs no KSM")
    add("--costs", action="store_true", help="measure what the real ksmd spends on a page instead")
    add("--speed", action="store_true", help="measure speed and memory instead")
    add("--guests", type=int, default=20, metavar="N", help="for --speed (default: %(default)s)")
    add("--mib", type=int, default=512, metavar="MIB", help="for --speed (default: %(default)s)")
    asked = parser.parse_args()
    if asked.speed:
        speed(asked.guests, asked.mib, 4)
        return 0
    if asked.replay:
        found = [each for each in kept(asked.replay) if asked.only in (None, each[0].number)]
        return 1 if compare(*zip(*found, strict=True), not asked.fast, asked.why) else 0
    if os.geteuid():
        parser.error("only root can set knobs of KSM")
    if asked.costs:
        costs(50_000)
        return 0
    chosen = [case for case in cases(asked.cases) if asked.only in (None, case.number)]
    expected = measured(chosen, asked.scans)
    chosen = chosen[: len(expected)]
    if asked.record:
        keep(asked.record, chosen, expected)
    return 1 if compare(chosen, expected, not asked.fast, asked.why) else 0


if __name__ == "__main__":
    sys.exit(main())
