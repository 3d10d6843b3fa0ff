#!/usr/bin/env python3
"""Turn KSM's knobs as a policy does, or run a program that does; record each decision.

One file, standard library only, Python 3.9 or newer, so that it can be copied to any host.
"""

import sys

if sys.version_info < (3, 9):  # before anything that an older Python does not have
    sys.exit("ksm_policy.py needs Python 3.9 or newer; this is {}.{}".format(*sys.version_info))

import argparse
import contextlib
import ctypes
import fcntl
import json
import math
import os
import re
import resource
import shutil
import signal
import stat
import struct
import subprocess
import time
from collections import namedtuple
from pathlib import Path

SIGNALS = (signal.SIGTERM, signal.SIGINT)
EXIT_FAILED, EXIT_UNUSABLE = 1, 2
FORMAT = 1
KSM = Path("/sys/kernel/mm/ksm")
MEMINFO = Path("/proc/meminfo")
GOVERNOR_LOCK = Path("/run/ksm-governor/lock")
KSMTUNED_CONF = Path("/etc/ksmtuned.conf")
HERE = Path(__file__).resolve().parent
PERIOD = 0.25  # seconds between looks at knobs, arrivals and messages
SETTLE = 0.2  # seconds in which whoever has started ksmd sees that it runs
LATE = 10.0  # seconds that ksmd may take to start
GRACE = 5.0  # seconds from SIGTERM to SIGKILL
SAID, LINES, LONGEST = 65536, 3, 200  # bytes of messages a look; lines and characters of a reason
CHILD_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER
TICKS = os.sysconf("SC_CLK_TCK")
PROCESS = "KSM_POLICY_OF"  # in the environment of all processes of the program

HELP = """\
Policies:
  kata      Kata Containers' ksm-throttler: {"mode": "auto"}, aggressive, standard or slow
  kubevirt  KubeVirt's virt-handler
  ksmtuned  Debian's script, which must be in the directory ksmtuned beside this file
  governor  ksm_governor.py, which must be beside this file
  command   {"argv": [...]}

policy.jsonl in --directory gets lines of JSON: each decision with its reason and the knobs that it
set; what the policy has used until --seconds are over; and how a program ended.

exit status:
  0    --end: nothing of the program is left
  1    the program has failed
  2    wrong arguments, or the host does not allow the policy
  130  ended by SIGINT    143  ended by SIGTERM
"""


class UnusableError(Exception):
    """The program cannot do what was requested; the message is for the user."""


class FailedError(Exception):
    """The program of the policy has failed; the message is for the user."""


class Stopped(Exception):  # noqa: N818 - not an error: it ends any wait
    """A signal has requested the end. The argument is its number."""


# --- kata -----------------------------------------------------------------------------------------
# As in github.com/kata-containers/ksm-throttler, ksm.go and throttler.go.

KATA = {"aggressive": (10, 1), "standard": (100, 10), "slow": (500, 100)}
KATA_AGGRESSIVE = 30.0  # seconds after the last arrival
KATA_FALLS = {"aggressive": ("standard", 120.0), "standard": ("slow", 120.0)}
KataState = namedtuple("KataState", "mode due")


def kata_start(now):
    """Return the state at the start: the knobs stay as they are until an arrival, or 120 s."""
    return KataState("aggressive", now + KATA_FALLS["aggressive"][1])


def kata_next(state, now, kicked):
    """Return the next state, and the mode to set now: one of KATA, `initial`, or None for none."""
    if kicked:
        return KataState("aggressive", now + KATA_AGGRESSIVE), "aggressive"
    if now < state.due:
        return state, None
    if state.mode not in KATA_FALLS:  # slow is left for the knobs as found, until an arrival
        return KataState(state.mode, math.inf), "initial"
    mode, seconds = KATA_FALLS[state.mode]
    return KataState(mode, now + seconds), mode


def kata_writes(mode, anon_kib, page_size):
    """Return what a mode writes to knobs, in this order. `anon_kib` is AnonPages of the host."""
    part, sleep = KATA[mode]
    pages = anon_kib * 1024 // page_size // part
    return [("run", 0), ("pages_to_scan", pages), ("sleep_millisecs", sleep), ("run", 1)]


# --- kubevirt -------------------------------------------------------------------------------------
# As in github.com/kubevirt/kubevirt, pkg/virt-handler/ksm/ksm.go.


def kubevirt_writes(options, running, pages, total_kib, available_kib):
    """Return what KubeVirt writes to knobs, in this order.

    `running` is whether run is 1, and `pages` is pages_to_scan. Memory is in KiB.
    """
    baseline = options["sleep_ms_baseline"]
    sleep = max(baseline * 16 * 1024 * 1024 // (total_kib - available_kib), baseline // 10)
    if single(available_kib) > single(single(total_kib) * single(options["free_percent"])):
        pages += options["pages_decay"]
        running = running and pages >= options["pages_min"]
    elif running:
        pages = min(pages + options["pages_boost"], options["pages_max"])
    else:
        running, pages = True, options["pages_init"]
    if not running:
        return [("run", 0)]
    return [("sleep_millisecs", sleep), ("pages_to_scan", pages), ("run", 1)]


def single(value):
    """Round a number to single precision, in which KubeVirt compares."""
    return struct.unpack("f", struct.pack("f", value))[0]


# --- knobs ----------------------------------------------------------------------------------------


def knob_value(text):
    """Return the value of a knob: an int or text; for `[none] scan-time` the word in brackets."""
    found = re.search(r"\[(.*?)\]", text)
    text = found[1] if found else text.strip()
    return int(text) if re.fullmatch(r"-?[0-9]+", text) else text


def read_knob(name):
    """Return the value of a knob."""
    return knob_value((KSM / name).read_text())


def all_knobs():
    """Return all knobs and their values."""
    names = sorted(path.name for path in KSM.iterdir() if path.stat().st_mode & stat.S_IWUSR)
    return {name: read_knob(name) for name in names}


def decide(output, reason, writes):
    """Write knobs in an order, and record the decision. One that is refused is recorded, too."""
    refused = {}
    try:
        for name, value in writes:
            (KSM / name).write_text(str(value))
    except OSError as error:
        refused = {"refused": f"{name}={value}: {error.strerror}"}
    tell(output, event="decision", reason=reason, knobs=dict(writes), **refused)


def meminfo(*names):
    """Return values of /proc/meminfo, in KiB."""
    lines = (line.split() for line in MEMINFO.read_text().splitlines())
    found = {words[0].rstrip(":"): int(words[1]) for words in lines}
    return [found[name] for name in names]


def others():
    """Name who else turns the knobs of this host."""
    for path in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            if path.read_text() == "ksmtuned\n":
                yield f"ksmtuned (process {path.parent.name})"
    with contextlib.suppress(FileNotFoundError), GOVERNOR_LOCK.open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            yield "a governor"


# --- policies that are ported ---------------------------------------------------------------------


class Arrivals:
    """The guests and processes of the run that have come since the last look."""

    def __init__(self, processes):
        self.files = {name: Path(path) for name, path in processes.items()}
        self.changed, self.there = {}, {}

    def new(self):
        """Return the names of those that were not there, or were others, at the last look."""
        changed = {folder: self.when(folder) for folder in {f.parent for f in self.files.values()}}
        if changed == self.changed:  # a file with a process id is renamed into place
            return []
        there = {name: self.when(file) for name, file in self.files.items()}
        came = [name for name, when in there.items() if when and when != self.there.get(name)]
        self.changed, self.there = changed, there
        return came

    @staticmethod
    def when(path):
        """Return when a file has changed; 0 if it is not there."""
        try:
            return path.stat().st_mtime_ns
        except OSError:
            return 0


def kata(settings, processes, output):
    """Turn the knobs as ksm-throttler does; yield after each look."""
    mode = settings["mode"]
    found = [(name, read_knob(name)) for name in ("pages_to_scan", "sleep_millisecs", "run")]

    def tune(mode, reason):
        if mode == "initial":
            return decide(output, f"{reason}: initial, the knobs as found", found)
        anon, page = *meminfo("AnonPages"), os.sysconf("SC_PAGE_SIZE")
        return decide(output, f"{reason}: {mode}", kata_writes(mode, anon, page))

    if mode != "auto":
        tune(mode, "the mode")
        while True:
            yield
    arrivals, state = Arrivals(processes), kata_start(time.monotonic())
    while True:
        came = arrivals.new()
        if came:
            more = f" and {len(came) - 1} more" * (len(came) > 1)
            state, mode = kata_next(state, time.monotonic(), kicked=True)
            tune(mode, f"{came[0]}{more} came")
        state, mode = kata_next(state, time.monotonic(), kicked=False)
        if mode:
            tune(mode, "time is over")
        yield


def kubevirt(options, _processes, output):
    """Turn the knobs as virt-handler does; yield after each look."""

    def spin():
        total, available = meminfo("MemTotal", "MemAvailable")
        running, pages = read_knob("run") == 1, read_knob("pages_to_scan")
        writes = kubevirt_writes(options, running, pages, total, available)
        decide(output, f"{available} of {total} KiB are available", writes)

    due = time.monotonic()
    while True:
        if time.monotonic() >= due:
            spin()
            due += options["interval"]
        yield


# --- policies that are programs -------------------------------------------------------------------


def command_of(kind, settings, directory):
    """Return the command of a policy, its environment, and the file of its decisions or None."""
    if kind == "ksmtuned":
        script = HERE / "ksmtuned/usr/sbin/ksmtuned"
        refuse_conf()
        variables = {name: str(value) for name, value in settings.items()}
        more = {"DEBUG": "1", "PIDFILE": str(directory / "ksmtuned.pid"), "LC_ALL": "C"}
        # it starts its loop in the background, and ends
        return ["/bin/bash", "-c", '. "$0"; wait', str(script)], {**variables, **more}, None
    if kind == "governor":
        decisions = directory / "governor.decisions"
        options = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
        state = HERE / "governor.state"  # that of a run which was cut off is of no use
        shutil.rmtree(state, ignore_errors=True)
        program = [sys.executable, str(HERE / "ksm_governor.py"), *options]
        return [*program, "--state", str(state), "--decisions", str(decisions)], {}, decisions
    return settings["argv"], {}, None


def refuse_conf():
    """Refuse a configuration of the host, which would override that of the experiment."""
    with contextlib.suppress(FileNotFoundError):
        found = re.findall(r"^\s*(\w+)=", KSMTUNED_CONF.read_text(), re.MULTILINE)
        if found:
            raise UnusableError(f"{KSMTUNED_CONF} sets {', '.join(found)}: remove it for the run")


class Program:
    """A program with all its descendants, which end with it."""

    def __init__(self, argv, environment, mark):
        ctypes.CDLL(None).prctl(CHILD_SUBREAPER, 1, 0, 0, 0)
        defaults = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
        try:
            self.child = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd="/",
                env={**defaults, **os.environ, **environment, PROCESS: mark},
                start_new_session=True,
            )
        except OSError as error:
            raise UnusableError(f"cannot start {argv[0]}: {error.strerror}") from error
        os.set_blocking(self.child.stdout.fileno(), False)
        self.left = b""

    def said(self):
        """Return what it has said since the last call, in whole lines."""
        with contextlib.suppress(BlockingIOError):
            self.left += os.read(self.child.stdout.fileno(), SAID)
        *whole, self.left = self.left.split(b"\n")
        self.left = self.left[-SAID:]
        return [line for line in map(words_of, whole) if line]

    def ended(self):
        """Take note of descendants that have ended; return how the program did, None if it runs."""
        with contextlib.suppress(ChildProcessError):
            pid = -1
            while pid:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == self.child.pid:
                    self.child.returncode = os.waitstatus_to_exitcode(status)
        return self.child.returncode

    def end(self):
        """End the program and all its descendants."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            deadline, family, signalled = time.monotonic() + GRACE, set(descendants()), set()
            while family and time.monotonic() < deadline:
                signal_all(family - signalled, number)
                signalled |= family
                time.sleep(0.02)
                self.ended()
                family = set(descendants())


def signal_all(processes, number):
    """Send a signal to processes, of which some may have ended."""
    for pid in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def words_of(line):
    """Return a message in printable characters, without the time that ksmtuned puts before it."""
    text = "".join(each if each.isprintable() else " " for each in line.decode(errors="replace"))
    return re.sub(r"^\w{3} \w{3} [ \d]{2} [\d:]{8} \w+ \d{4}: ", "", text).strip()[:LONGEST]


def descendants():
    """Return {pid: fields of stat after the name} of all living descendants of this process."""
    every = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text(errors="replace").rpartition(")")[2].split()
            every[int(path.parent.name)] = fields
    family, parents = {}, {os.getpid()}
    while parents:
        born = {pid: f for pid, f in every.items() if int(f[1]) in parents and pid not in family}
        family.update(born)
        parents = set(born)
    return {pid: fields for pid, fields in family.items() if fields[0] not in "ZX"}


def run_program(kind, settings, directory, output):
    """Run the program of a policy; yield after each look at what it did."""
    mark = f"{directory}:{os.getpid()}:{time.monotonic_ns()}"
    argv, environment, decisions = command_of(kind, settings, directory)
    (directory / "policy.mark").write_text(mark)
    program = Program(argv, environment, mark)
    knobs, recent, read, told = all_knobs(), [], 0, False
    try:
        while True:
            code = program.ended()
            now = all_knobs()
            recent = [*recent, *program.said()][-LINES:]
            if decisions:
                read = copy_decisions(decisions, read, output)
            elif now != knobs:
                changed = {name: now[name] for name in now if now[name] != knobs.get(name)}
                time.sleep(PERIOD / 5)  # a reason may be said just after the decision
                recent = [*recent, *program.said()][-LINES:]
                tell(output, event="decision", reason="; ".join(recent), knobs=changed)
                recent = []
            knobs = now
            if code is not None and not told:
                last = recent[-1] if recent else ""
                tell(output, event="policy program ended", code=code, said=last)
                if code:
                    raise FailedError(f"{argv[0]} ended with {code}: {last or 'no message'}")
                told = True
            yield
    finally:
        program.end()
        (directory / "policy.mark").unlink()


def copy_decisions(path, read, output):
    """Copy the decisions that a program has written after a place; return the next place."""
    try:
        text = path.read_bytes()[read:]
    except FileNotFoundError:
        return read
    whole = text[: text.rfind(b"\n") + 1]
    for line in whole.splitlines():
        with contextlib.suppress(ValueError):
            found = json.loads(line)
            if isinstance(found, dict) and found.get("event") == "decision":
                write(output, found)
    return read + len(whole)


def end_marked(mark):
    """End the processes of a program whose watcher was killed."""
    if not mark.exists():
        return
    wanted, deadline = f"{PROCESS}={mark.read_text()}".encode(), time.monotonic() + GRACE
    left = marked(wanted)
    while left:
        signal_all(left, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise UnusableError(f"{len(left)} processes of the policy cannot be killed")
        time.sleep(0.02)
        left = marked(wanted)
    mark.unlink()
    print("ended")  # for changed_when


def marked(wanted):
    """Return the ids of all processes that have an entry in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # it has ended
            if wanted in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


# --- what a policy uses ---------------------------------------------------------------------------


def used(of_program):
    """Return CPU seconds, and the peak of resident memory of the largest process, in KiB."""
    if not of_program:
        own = resource.getrusage(resource.RUSAGE_SELF)
        return own.ru_utime + own.ru_stime, own.ru_maxrss
    gone = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds, peak = gone.ru_utime + gone.ru_stime, gone.ru_maxrss
    for pid, fields in descendants().items():
        seconds += sum(map(int, fields[11:15])) / TICKS  # with those of its children that ended
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{pid}/status").read_text()
            found = re.search(r"^VmHWM:\s+(\d+)", status, re.MULTILINE)
            peak = max(peak, int(found[1])) if found else peak
    return seconds, peak


# --- the part -------------------------------------------------------------------------------------

PORTS = {"kata": kata, "kubevirt": kubevirt}


def work(asked, output):
    """Let the policy act from the start of the run until a signal."""
    kind, settings = asked.options["kind"], asked.options["settings"]
    for other in others():
        raise UnusableError(f"{other} turns the knobs of this host, too: stop it first")
    sleep_until(asked.start)
    until_ksmd_runs(asked.start)
    is_program = kind not in PORTS
    tell(output, event="policy started", kind=kind, knobs=all_knobs())
    before, end = used(is_program)[0], (asked.start or time.monotonic()) + asked.seconds
    if is_program:
        looks = run_program(kind, settings, asked.directory, output)
    else:
        looks = PORTS[kind](settings, asked.processes, output)
    with contextlib.closing(looks):
        at = time.monotonic()
        for _ in looks:
            if time.monotonic() >= end:
                seconds, peak = used(is_program)
                total = round(seconds - before, 6)
                tell(output, event="policy used", cpu_seconds=total, peak_rss_kib=peak)
                end = math.inf
            at = max(at + PERIOD, time.monotonic())
            sleep_until(min(at, end))


def until_ksmd_runs(start):
    """Wait until ksmd was started, which is after the start of the run."""
    deadline = max(start, time.monotonic()) + LATE
    while read_knob("run") != 1:
        if time.monotonic() > deadline:
            raise UnusableError(f"ksmd was not started within {LATE:g} s")
        time.sleep(0.02)
    time.sleep(SETTLE)


# --- input and output -----------------------------------------------------------------------------


def sleep_until(at):
    """Sleep until an absolute time of CLOCK_MONOTONIC."""
    time.sleep(max(0, at - time.monotonic()))


def stop(number, _frame):
    """Handle a signal: end at once, and ignore further signals."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise Stopped(number)


def tell(output, **line):
    """Write a line with its time to a descriptor."""
    write(output, {**line, "wall": time.time(), "monotonic": time.monotonic()})


def write(output, line):
    """Write a line of JSON to a descriptor."""
    try:
        os.write(output, json.dumps(line, separators=(",", ":")).encode() + b"\n")
    except OSError as error:
        raise UnusableError(f"cannot write a line: {error.strerror}") from error


@contextlib.contextmanager
def opened(path):
    """Create a file that only its owner can read."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise UnusableError(f"cannot make {path}: {error.strerror}") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def parse_arguments(argv):
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="ksm_policy.py",
        description=__doc__.partition("\n")[0],
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--directory", type=Path, required=True, metavar="DIR", help="directory of the run")
    add("--options", type=json.loads, metavar="JSON", help="kind of the policy, and its settings")
    add("--processes", type=json.loads, default={}, metavar="JSON", help="files with process ids")
    add("--start", type=float, default=0, metavar="T", help="begin at T of CLOCK_MONOTONIC")
    add("--seconds", type=float, default=60, metavar="S", help="how long the run is sampled")
    add("--end", action="store_true", help="only end what a killed watcher has left of a program")
    return parser.parse_args(argv)


def main(argv=None):
    """Run the command line; return the exit status."""
    asked = parse_arguments(argv)
    try:
        if asked.end:
            end_marked(asked.directory / "policy.mark")
            return 0
        for number in SIGNALS:
            signal.signal(number, stop)
        with opened(asked.directory / "policy.jsonl") as output:
            work(asked, output)
    except Stopped as stopped:
        return 128 + stopped.args[0]
    except (UnusableError, FailedError) as error:
        print(f"ksm_policy.py: error: {error}", file=sys.stderr)
        return EXIT_FAILED if isinstance(error, FailedError) else EXIT_UNUSABLE
    return 0


if __name__ == "__main__":
    sys.exit(main())
