#!/usr/bin/env python3
"""Let ksmd scan when there is something to gain, and rest otherwise.

If new memory may be worth more than the CPU time of the scans, all memory is scanned at full rate.
Without a sign, that is tried less and less often. If somebody else sets a knob, it sets no more.

exit status: 0 ended by a signal, or restored; 2 wrong arguments, or somebody else controls KSM
"""
# One file, standard library only, so that it can be copied to any host. The core (`decide`) is
# pure; the shell reads the kernel's counters, and writes its knobs.

import sys

if sys.version_info < (3, 9):  # before anything that an older Python does not have
    sys.exit("ksm_governor.py needs Python 3.9 or newer; this is {}.{}".format(*sys.version_info))

import argparse
import contextlib
import fcntl
import json
import math
import os
import select
import signal
import time
from pathlib import Path
from typing import NamedTuple

PAGE = os.sysconf("SC_PAGE_SIZE")
KNOBS = ("smart_scan", "pages_to_scan", "sleep_millisecs", "run")  # in the order of writing
COUNTERS = ("pages_sharing", "ksm_zero_pages", "pages_volatile", "pages_scanned", "full_scans")

LOOK, STEP = 0.25, 0.01  # seconds between looks: while memory grows, and in a scan
QUIET = 8  # how many LOOKs apart looks are at rest, if neither memory nor its pressure rises
PRESSED, WINDOW = 5.0, 2.0  # percent of so many seconds in which a task has waited for memory
SLEEP = 0.02  # seconds that ksmd sleeps between batches; longer than STEP, to stop it between scans
HORIZON = 300.0  # seconds that a page is expected to stay merged
IDLE_COST = 0.25  # what CPU time costs if no task waits for a CPU, beside what it costs if one does
BUSY_PERCENT = 10.0  # of the time in which some task waits for a CPU: from here on, it costs all
LEAST_GAINS = 1 / 1024  # pages saved for each candidate; never 0, so that it can rise again
TRIAL_SHARE = 0.0025  # of a CPU, to try new memory where earlier memory did not merge
# first probe; share of a CPU that probes may use; how often they may become less frequent
PROBE_SECONDS, PROBE_SHARE, MOST_MISSES = 60.0, 0.0002, 8
NEAR, FAR, NOISE = 5.0, 60.0, 1024  # see Candidates
PAGE_SECONDS = 2e-6  # CPU time to scan a page, until it is measured


class UnusableError(Exception):
    """The governor cannot run; the message is for the user."""


# --- core: what to do, from what is seen ----------------------------------------------------------


class Settings(NamedTuple):
    """What the user chose: `price` in CPUs for each GiB, `max_cpu` as a share of a CPU."""

    price: float = 0.25
    max_cpu: float = 0.7


class Seen(NamedTuple):
    """One look: monotonic seconds, pages, full scans, CPU seconds of ksmd, pressures in percent."""

    seconds: float
    candidates: int  # pages that may be merged or are
    broken: int  # merged pages that a write broke, since boot
    saved: int  # pages_sharing + ksm_zero_pages
    volatile: int
    scanned: int
    full_scans: int
    cpu: float
    memory_pressure: float = 0.0
    cpu_pressure: float = 100.0
    gap: float = 0.0  # seconds since full_scans was read before


class State(NamedTuple):
    """What the governor remembers. At rest, `passes` is empty."""

    passes: tuple = ()  # smart_scan of each pass to come, the current one first
    target: int = 0  # full_scans when the current pass has ended
    began: "Seen | None" = None  # the look at which the last series of passes began
    last: "Seen | None" = None
    base: int = 0  # candidates that were tried
    waiting: int = 0  # pages that changed in the last pass, and may come to rest
    broken: int = 0  # when the last series began
    loss: float = 0.0  # CPU seconds that unmerged memory was worth since the last series
    gains: float = 1.0  # pages saved for each candidate
    cost: float = 0.0  # CPU seconds of a series
    costs: tuple = (PAGE_SECONDS, PAGE_SECONDS)  # CPU seconds of a page, by smart_scan
    since: "Seen | None" = None  # the look at which the last pass ended, or the first one began
    between: bool = False  # ksmd was stopped between two scans
    misses: int = 0  # series since the last that was worth its cost
    totals: tuple = (0, 0, 0.0)  # of all series: how many, saved pages, CPU seconds of ksmd


class Decision(NamedTuple):
    """Knobs to write, and why."""

    knobs: dict
    reason: str


def price_of_page(seen, settings):
    """Return what a page saved for a second is worth, in CPU seconds."""
    return settings.price * PAGE / 2**30 * (1 + seen.memory_pressure)


def weight(seen):
    """Return what a second of CPU time costs: less if no task waits for a CPU."""
    return IDLE_COST + (1 - IDLE_COST) * min(1.0, seen.cpu_pressure / BUSY_PERCENT)


def batch(page_seconds, settings):
    """Return pages_to_scan with which ksmd uses max_cpu, as it sleeps SLEEP after each batch."""
    seconds = SLEEP * settings.max_cpu / (1 - settings.max_cpu)
    # in steps of a fifth, so that the knob has few values: the guard must know them
    return round(2 ** max(7, min(22, math.floor(4 * math.log2(seconds / page_seconds)) / 4)))


def decide(state, seen, settings):
    """Return the next state, and a decision or None. `seen` is later than any look before it."""
    if state.began is None:
        return begin(state._replace(broken=seen.broken), seen, settings, "start")
    return scan(state, seen, settings) if state.passes else rest(state, seen, settings)


def rest(state, seen, settings):
    """Decide at rest."""
    base = min(state.base, seen.candidates)  # what leaves makes room for what comes
    new, waited = seen.candidates - base, seen.seconds - state.since.seconds
    grows = seen.candidates - state.last.candidates > new / 4
    expected = (new + state.waiting + seen.broken - state.broken) * state.gains
    price, cpu = price_of_page(seen, settings), state.cost + new * sum(state.costs)
    loss = state.loss + price * expected * (seen.seconds - state.last.seconds)
    cost = weight(seen) * cpu
    state = state._replace(base=base, last=seen, loss=loss)
    # where little has merged, new memory may still merge
    likely = new if waited * TRIAL_SHARE > cpu else new * state.gains
    if new and not grows and price * likely * HORIZON > cost:
        return begin(state, seen, settings, f"{new} pages are new")
    if loss > cost:
        return begin(state, seen, settings, f"{round(expected)} pages may be merged")
    if waited > max(PROBE_SECONDS, state.cost / PROBE_SHARE) * 2**state.misses:
        return begin(state, seen, settings, "probe")
    return state, None


def begin(state, seen, settings, reason):
    """Begin a series of passes."""
    # a scan that was cut off ends first: ksmd reaches what is new only after that. If it has looked
    # at no page, there is none
    passes = (1, 0) if state.between or not (seen.full_scans or seen.volatile) else (1, 1, 0)
    knobs = {"smart_scan": passes[0], "pages_to_scan": batch(state.costs[1], settings)}
    knobs.update(sleep_millisecs=round(SLEEP * 1000), run=1)
    state = state._replace(passes=passes, target=seen.full_scans + 1, began=seen, since=seen)
    return state, Decision(knobs, reason)


def scan(state, seen, settings):
    """Decide during a series of passes."""
    state = state._replace(last=seen)
    if seen.full_scans < state.target:
        return state, None
    (smart, *passes), costs, since = state.passes, [*state.costs], state.since
    if seen.cpu > since.cpu and seen.scanned > since.scanned:
        costs[smart] = max(1e-8, (seen.cpu - since.cpu) / (seen.scanned - since.scanned))
    # if it was read too late, the next scan may have begun
    between = seen.gap < SLEEP
    state = state._replace(passes=tuple(passes), costs=tuple(costs), since=seen, between=between)
    if not passes:
        return finish(state, seen, settings)
    knobs = {"smart_scan": passes[0], "pages_to_scan": batch(costs[passes[0]], settings)}
    return state._replace(target=seen.full_scans + 1), Decision(knobs, "next pass")


def finish(state, seen, settings):
    """End a series, and learn from it."""
    began, broken = state.began, state.began.broken - state.broken
    # until ksmd looks at them, pages that a write broke count as saved
    gained = max(0, seen.saved - began.saved + broken)
    cpu, tried = seen.cpu - began.cpu, began.candidates - state.base + state.waiting + broken
    # the last series tells most, but not all
    gains = (3 * min(1.0, gained / tried) + state.gains) / 4 if tried > 0 else state.gains
    paid = price_of_page(seen, settings) * gained * HORIZON >= weight(seen) * cpu
    state = state._replace(
        base=began.candidates,  # what came meanwhile is still new
        broken=began.broken,
        waiting=seen.volatile,
        loss=0.0,
        gains=max(LEAST_GAINS, gains),
        cost=cpu,
        misses=0 if paid else min(MOST_MISSES, state.misses + 1),
        totals=tuple(map(sum, zip(state.totals, (1, gained, cpu)))),
    )
    return state, Decision({"run": 0}, f"{gained} pages saved in {cpu:.2f} s of CPU time")


# --- shell: the kernel's files --------------------------------------------------------------------


class Kernel:
    """The counters and knobs of KSM. Files that this kernel does not have read as 0."""

    def __init__(self, root=Path("/")):
        self.ksm, proc = root / "sys/kernel/mm/ksm", root / "proc"
        paths = [self.ksm / name for name in (*KNOBS, *COUNTERS)]
        paths += [proc / name for name in ("meminfo", "pressure/memory", "pressure/cpu")]
        self.open, self.trigger, self.pressed = {}, select.poll(), -WINDOW
        paths += [path / "schedstat" for path in processes(proc, "ksmd")]  # hidden in a container
        for path in paths:
            with contextlib.suppress(OSError):
                self.open[path.name] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        if "full_scans" not in self.open:
            raise UnusableError(f"{self.ksm} cannot be read: this kernel has no KSM")
        self.candidates, self.read_at = Candidates(self, proc), time.monotonic()

    def listen(self, path=Path("/proc/pressure/memory")):
        """Ask the kernel to tell when memory gets short; without, only the mean of 10 s is read."""
        with contextlib.suppress(OSError):  # before Linux 6.5, that needs CAP_SYS_RESOURCE
            file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            os.write(file, b"some %d %d" % (PRESSED * WINDOW * 1e4, WINDOW * 1e6))
            self.trigger.register(file, select.POLLPRI)

    def text(self, name):
        """Return what is in a file; nothing if there is none, or if it cannot be read."""
        with contextlib.suppress(KeyError, OSError):
            return os.pread(self.open[name], 4096, 0)
        return b""

    def look(self):
        """Read all that a decision depends on."""
        counters = {name: int(self.text(name) or 0) for name in COUNTERS}
        now, saved = time.monotonic(), counters["pages_sharing"] + counters["ksm_zero_pages"]
        ran, pressed = self.text("schedstat"), PRESSED * (now < self.pressed + WINDOW)
        return Seen(
            seconds=now,
            candidates=self.candidates.count(now, saved),
            broken=self.candidates.broken,
            saved=saved,
            volatile=counters["pages_volatile"],
            scanned=counters["pages_scanned"],
            full_scans=counters["full_scans"],
            cpu=int(ran.split()[0]) / 1e9 if ran else counters["pages_scanned"] * PAGE_SECONDS,
            memory_pressure=max(pressed, number_after(b"some avg10=", self.text("memory"))),
            cpu_pressure=number_after(b"some avg10=", self.text("cpu"), without=100.0),
            gap=now - self.read_at,
        )

    def rest(self, looks=1):
        """Wait for some LOOKs, or until memory has grown or gets short (the kernel tells that)."""
        for _ in range(looks):
            if self.trigger.poll(LOOK * 1000):
                self.pressed = time.monotonic()
                break
            if self.candidates.all() > self.candidates.anonymous + NOISE:
                break

    def scan(self, full_scans):
        """Wait for the end of a scan, at most LOOK, or if ksmd does not scan."""
        now, scanned = time.monotonic(), self.text("pages_scanned")
        end = now + LOOK
        while now < end and int(self.text("full_scans")) < full_scans:
            self.read_at = now
            idle = now > end - LOOK + 2 * SLEEP and self.text("pages_scanned") == scanned
            time.sleep(end - now if idle else STEP)  # idle: there is no mergeable memory
            now = time.monotonic()

    def knobs(self):
        """Return the knobs that the governor sets, as far as this kernel has them."""
        return {name: int(self.text(name)) for name in KNOBS if name in self.open}

    def write(self, name, value):
        """Set a knob."""
        (self.ksm / name).write_text(f"{value}\n")


class Candidates:
    """Pages that may be merged or are, and each merged page that a write has broken."""

    # AnonPages of all memory is quickly read. Only when it has grown, and now and then, processes
    # are looked at: those whose memory may be merged, and others, which may say so later, and are
    # asked less often the older they are. Older kernels do not tell whose memory may be merged:
    # there, all anonymous memory counts.

    def __init__(self, kernel, proc):
        self.kernel, self.proc = kernel, proc
        # pids whose memory may be merged; when to ask others, and how long after that
        self.mergeable, self.others = set(), {}
        self.anonymous, self.pages, self.broken, self.near = 0, 0, 0, 0.0
        self.told = self.offers(str(os.getpid()), "ksm_mergeable")

    def count(self, now, saved):
        """Return the number."""
        anonymous = self.all()
        if anonymous > self.anonymous + NOISE or now >= self.near:
            self.broken = int(number_after(b"cow_ksm", (self.proc / "vmstat").read_bytes()))
            self.pages = self.resident(now) if self.told else 0
            self.anonymous, self.near = anonymous, now + NEAR
        # a page that is broken is anonymous again, and still counts as saved: it is not new
        return self.pages if self.told else anonymous + saved - self.broken

    def all(self):
        """Return the anonymous pages of all memory; this is quick."""
        return int(number_after(b"AnonPages:", self.kernel.text("meminfo"))) * 1024 // PAGE

    def resident(self, now):
        """Return the anonymous pages of the processes whose memory may be merged."""
        pids = set(filter(str.isdigit, os.listdir(self.proc)))  # noqa: PTH208 - three times as fast
        self.mergeable &= pids
        self.others = {pid: self.others.get(pid, (now, LOOK)) for pid in pids - self.mergeable}
        for pid, (due, wait) in self.others.items():
            if now >= due:
                self.others[pid] = (now + wait, min(FAR, 2 * wait))
                if self.offers(pid):
                    self.mergeable.add(pid)
        pages = 0
        for pid in self.mergeable:
            with contextlib.suppress(OSError):  # it has ended
                _, resident, shared, *_ = (self.proc / pid / "statm").read_text().split()
                pages += int(resident) - int(shared)
        return pages

    def offers(self, pid, words=": yes"):
        """Whether the kernel says that memory of a process may be merged, or other words."""
        with contextlib.suppress(OSError):
            return words in (self.proc / pid / "ksm_stat").read_text()
        return False


def processes(proc, name):
    """Return the directories of the processes with this name."""
    for path in proc.glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (path / "comm").read_text() == f"{name}\n":
                yield path


def number_after(words, text, without=0.0):
    """Return the number that follows some words in a text."""
    _, found, rest = text.partition(words)  # a fourth of the time of a regular expression
    return float(rest.split(maxsplit=1)[0]) if found else without


def others(kernel, proc=Path("/proc")):
    """Name who else controls KSM on this host."""
    with contextlib.suppress(OSError):
        if "[none]" not in (kernel.ksm / "advisor_mode").read_text():
            yield "the kernel's advisor (advisor_mode)"
    for path in processes(proc, "ksmtuned"):
        yield f"ksmtuned (process {path.name})"


# --- shell: the knobs are restored ----------------------------------------------------------------


class Knobs:
    """Knobs that are restored when this process ends, however it ends: a guard waits for that."""

    # A file has the values found, and all values that were set. A knob with none of these is left
    # as it is, since somebody else has set it.

    def __init__(self, kernel, state):
        self.kernel, self.file = kernel, state / "knobs.json"
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.lock = os.open(state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UnusableError(f"another governor has locked {state / 'lock'}") from None
        self.restore()  # what a governor has left that was killed together with its guard
        self.found = self.now = kernel.knobs()
        self.written = {name: [] for name in self.found}

    def guard(self):
        """Start the guard. Return a function that makes it restore the knobs, and waits for it."""
        reads, writes = os.pipe()
        child = os.fork()
        if child:
            os.close(reads)
            # the guard may have been killed
            return lambda: (os.close(writes), os.waitpid(child, 0), self.restore())
        try:
            os.close(writes)
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            os.read(reads, 1)  # it has an end, when the governor has ended, and nothing else
            self.restore()
        finally:
            os._exit(0)

    def foreign(self):
        """Return the knobs that somebody else has changed."""
        return {n: value for n, value in self.kernel.knobs().items() if value != self.now[n]}

    def write(self, knobs):
        """Set knobs; those that this kernel does not have are left out."""
        for name in [name for name in self.found if name in knobs]:
            if knobs[name] not in self.written[name]:
                self.written[name].append(knobs[name])
                replace(self.file, json.dumps({"found": self.found, "written": self.written}))
            self.kernel.write(name, knobs[name])
            self.now = {**self.now, name: knobs[name]}

    def restore(self):
        """Restore the knobs of the file, if there is one."""
        with contextlib.suppress(FileNotFoundError):
            kept, now = json.loads(self.file.read_text()), self.kernel.knobs()
            for name, values in kept["written"].items():
                if now[name] in values and now[name] != kept["found"][name]:
                    self.kernel.write(name, kept["found"][name])
            self.file.unlink()


def replace(path, text):
    """Write a file that is whole at any time."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(path)


# --- shell: the loop ------------------------------------------------------------------------------


class Told:
    """Who is told of decisions: standard output, a file of JSON lines, node_exporter."""

    def __init__(self, decisions, metrics):
        self.lines = decisions.open("a", buffering=1) if decisions else None
        self.metrics = metrics

    def decision(self, reason, knobs, state, held=0):
        """Tell one decision, and what state it leads to."""
        print(f"{reason}: {' '.join(f'{n}={v}' for n, v in knobs.items())}", flush=True)
        if self.lines:
            when = {"wall": time.time(), "monotonic": time.monotonic()}
            line = {"event": "decision", **when, "reason": reason, "knobs": knobs}
            self.lines.write(json.dumps(line) + "\n")
        if self.metrics:
            values = {"scanning": int(bool(state.passes)), "held": held, "gains": state.gains}
            totals = ("series_total", "saved_pages_total", "ksmd_cpu_seconds_total")
            values.update(zip(totals, state.totals))
            lines = (f"ksm_governor_{name} {value}\n" for name, value in values.items())
            replace(self.metrics, "".join(lines))


def govern(kernel, knobs, settings, told):
    """Look, decide and write, until a signal comes. Without `knobs`, only say what it would do."""
    state = State()
    while True:
        seen, changed = kernel.look(), knobs.foreign() if knobs else {}
        if changed:
            told.decision("somebody else has set knobs: held until a restart", changed, state, 1)
            signal.pause()
        if not knobs:  # each pass ends at once
            seen = seen._replace(full_scans=max(seen.full_scans, state.target))
        state, decision = decide(state, seen, settings)
        if decision:
            if knobs:
                knobs.write(decision.knobs)
            told.decision(decision.reason, decision.knobs, state)
        if state.passes and knobs:
            kernel.scan(state.target)
        else:
            kernel.rest(1 if seen.candidates > state.base + NOISE else QUIET)


def main(arguments=None):
    """Run the command line."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    add = parser.add_argument
    add("--price", type=float, default=0.25, metavar="CPUS",
        help="what a GiB is worth, in CPUs (default: %(default)s)")  # fmt: skip
    add("--max-cpu", type=float, default=70, metavar="PERCENT",
        help="of one CPU, for ksmd while it scans (default: %(default)s)")  # fmt: skip
    add("--decisions", type=Path, metavar="FILE", help="add each decision, as a line of JSON")
    add("--metrics", type=Path, metavar="FILE", help="keep metrics for node_exporter in this file")
    add("--state", type=Path, default=Path("/run/ksm-governor"), metavar="DIRECTORY",
        help="where the lock is, and the knobs as found (default: %(default)s)")  # fmt: skip
    add("--dry-run", action="store_true", help="say what it would do, and write no knob")
    add("--restore", action="store_true", help="restore the knobs after a crash, and end")
    asked = parser.parse_args(arguments)
    for name, least, most in (("price", 0.001, 1000), ("max_cpu", 1, 99)):
        if not least <= getattr(asked, name) <= most:
            parser.error(f"--{name.replace('_', '-')} must be a number from {least} to {most}")
    end = None
    try:
        kernel = Kernel()
        told = Told(asked.decisions, asked.metrics)
        knobs = None if asked.dry_run else Knobs(kernel, asked.state)
        if asked.restore:
            return 0
        for other in others(kernel):
            raise UnusableError(f"{other} controls KSM on this host: stop it first")
        end = knobs.guard() if knobs else None
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        kernel.listen()
        govern(kernel, knobs, Settings(asked.price, asked.max_cpu / 100), told)
    except KeyboardInterrupt:
        return 0
    except (UnusableError, OSError) as error:
        print(f"ksm_governor.py: {error}", file=sys.stderr)
        return 2
    finally:
        if end:
            end()


if __name__ == "__main__":
    sys.exit(main())
