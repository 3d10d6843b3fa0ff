#!/usr/bin/env python3
"""Send requests to the copies of a service at a stated rate, and record how long answers take.

Standard library only, Python 3.9 or newer, so that it can be copied to any host. Beside it:
ksm_services.py, which knows the data sets of the services.
"""

import sys

if sys.version_info < (3, 9):  # before anything that an older Python does not have
    sys.exit("ksm_load.py needs Python 3.9 or newer; this is {}.{}".format(*sys.version_info))

import argparse
import bisect
import collections
import contextlib
import ctypes
import gc
import itertools
import json
import math
import os
import random
import re
import resource
import select
import signal
import socket
import subprocess
import time
from pathlib import Path

from ksm_services import FailedError, key_name, postgres_programs, record_count, value_of

FORMAT = 1
SIGNALS = (signal.SIGTERM, signal.SIGINT)
EXIT_UNUSABLE = 2
ABSOLUTE = 1  # TFD_TIMER_ABSTIME
BITS = 11  # of a time that are kept: it is right to 0.1 %
WINDOW = 1.0  # s
PAUSE = 0.001  # s; a line is written when the load has such a pause, so that it delays no request
BEHIND, BEHIND_WINDOWS = 1.0, 5  # s, and for how many windows until the generator gives up
WAITING = 100_000  # requests that wait for a connection; any more are errors
TURN = 64  # arrivals that are handled before answers are looked for again
DRAIN = 2.0  # s; how long answers are awaited after the last request
REASON_SECONDS = 20.0  # in which the launcher says why a copy has ended
SPREAD = 2_654_435_761  # a prime: spreads frequent keys over the data set
KSM_RUN = Path("/sys/kernel/mm/ksm/run")
ZIPF = 1.001  # the exponent, as low as that of pgbench can be

HELP = """\
Requests arrive at random (Poisson) or constant times, whether or not earlier ones have been
answered. A time counts from when the request should have been sent, so it includes all waiting.
--directory has processes.state of ksm_launcher.py. It gets load.jsonl: a header line, a line for
each second, an end line.
  reads, writes, late   nanoseconds, with 11 significant bits, and how often
  late                  how late this program was for its own requests: not the services' fault

--options is JSON: service, data, data_mib, rate (of each copy), arrivals (poisson, constant),
connections (to each copy), write_percent, keys (uniform, zipf), warmup, seed, stop_ksmd (after how
many seconds the knob run becomes 0; 0 is never).

exit status:
  2    wrong arguments, a service that has ended, or a rate that this host cannot make
  143  ended by SIGTERM
"""


class UnusableError(Exception):
    """The load cannot be made; the message is for the user."""


class Stopped(Exception):  # noqa: N818 - not an error: it ends any wait
    """A signal has requested the end. The argument is its number."""


# --- services -------------------------------------------------------------------------------------
# A protocol makes the bytes of a request, and says of an answer whether it is complete: None if
# not, else whether it is good.


class Redis:
    """GET and SET of the Redis protocol."""

    keeps = True  # connections

    def read(self, key):
        """Return the request for a value."""
        name = key_name(key)
        return f"*2\r\n$3\r\nGET\r\n${len(name)}\r\n{name}\r\n".encode()

    def write(self, key, value):
        """Return the request that stores a value."""
        name = key_name(key)
        head = f"*3\r\n$3\r\nSET\r\n${len(name)}\r\n{name}\r\n${len(value)}\r\n"
        return f"{head}{value}\r\n".encode()

    def answered(self, answer):
        """Judge an answer."""
        if not answer.endswith(b"\r\n"):
            return None
        if answer[:1] != b"$":
            return answer.startswith(b"+OK")
        head = answer.index(b"\r\n")
        length = int(answer[1:head])
        if length < 0:
            return False
        return True if len(answer) >= head + length + 4 else None


class Memcached:
    """Get and set of memcached."""

    keeps = True

    def read(self, key):
        """Return the request for a value."""
        return f"get {key_name(key)}\r\n".encode()

    def write(self, key, value):
        """Return the request that stores a value."""
        return f"set {key_name(key)} 0 0 {len(value)}\r\n{value}\r\n".encode()

    def answered(self, answer):
        """Judge an answer."""
        if answer.startswith(b"VALUE"):
            return True if answer.endswith(b"END\r\n") else None
        return answer == b"STORED\r\n" if answer.endswith(b"\r\n") else None


class Python:
    """The server of ksm_workers.py: a connection for each request."""

    keeps = False

    def read(self, key):
        """Return the request for the sum of a record."""
        return f"{key}\n".encode()

    def write(self, key, _value):
        """Return the request that writes a record again."""
        return f"+{key}\n".encode()

    def answered(self, answer):
        """Judge an answer."""
        return answer.startswith(b"ready") if answer.endswith(b"\n") else None


class Nginx:
    """GET of HTTP. Nothing is written."""

    keeps = True

    def read(self, key):
        """Return the request for a file."""
        return f"GET /{key_name(key)} HTTP/1.1\r\nHost: load\r\n\r\n".encode()

    def answered(self, answer):
        """Judge an answer."""
        head, found, body = answer.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        if not found or (length and len(body) < int(length[1])):
            return None
        return bool(length) and head.startswith(b"HTTP/1.1 200 ")


PROTOCOLS = {
    "redis": Redis,
    "memcached": Memcached,
    "java": Memcached,
    "python": Python,
    "nginx": Nginx,
}


# --- requests -------------------------------------------------------------------------------------


class Requests:
    """What is asked, of whom, and when: determined by the seed, and not by any answer."""

    def __init__(self, asked, copies, start):
        self.asked, self.copies = asked, copies
        self.protocol = PROTOCOLS[asked["service"]]()
        self.random = random.Random(asked["seed"])
        self.rate = asked["rate"] * len(copies)
        self.turn = itertools.cycle(range(len(copies)))
        self.start, self.sent = start, 0
        self.at = start
        self.keys = record_count(asked)
        self.weights = None
        if asked["keys"] == "zipf":
            weights = (rank**-ZIPF for rank in range(1, self.keys + 1))
            self.weights = list(itertools.accumulate(weights))

    def next(self):
        """Return the next request: its time, the place of its copy, whether it writes, its bytes.

        It is made before its time.
        """
        if self.asked["arrivals"] == "poisson":
            self.at += self.random.expovariate(self.rate)
            place = self.random.randrange(len(self.copies))
        else:
            self.sent += 1
            self.at = self.start + self.sent / self.rate
            place = next(self.turn)
        key = self.key()
        if self.random.random() * 100 >= self.asked["write_percent"]:
            return self.at, place, False, self.protocol.read(key)
        value = value_of(self.asked, key, self.copies[place]["number"])
        return self.at, place, True, self.protocol.write(key, value)

    def key(self):
        """Return a random key."""
        if self.weights is None:
            return self.random.randrange(self.keys)
        rank = bisect.bisect(self.weights, self.random.random() * self.weights[-1])
        return rank * SPREAD % self.keys


# --- measurement ----------------------------------------------------------------------------------


def add(counts, seconds):
    """Count a time, with BITS significant bits of its nanoseconds, as in an HDR histogram."""
    ns = max(0, int(seconds * 1e9))
    shift = ns.bit_length() - BITS
    if shift > 0:
        ns = ns >> shift << shift
    counts[ns] = counts.get(ns, 0) + 1


class Window:
    """The times since the last line."""

    def __init__(self, begun):
        self.begun = begun
        self.reads, self.writes, self.late = {}, {}, {}
        self.errors = 0


class Recorder:
    """Writes a line for each window."""

    def __init__(self, output, start, warmup):
        self.output, self.warm, self.window = output, start + warmup, Window(start)
        self.cpu = 0.0

    def begin(self):
        """Begin to count the generator's CPU time."""
        self.cpu = time.process_time()

    def due(self):
        """Return when the window should end. The warm-up ends with a window."""
        end = self.window.begun + WINDOW
        return self.warm if self.window.begun < self.warm < end else end

    def write(self, waiting, cpu=0.0):
        """Write the line of the window, and begin the next one."""
        window, used = self.window, time.process_time() + cpu
        now = tell(
            self.output,
            kind="requests",
            warmup=window.begun < self.warm,
            seconds=round(time.monotonic() - window.begun, 6),
            reads=window.reads,
            writes=window.writes,
            late=window.late,
            errors=window.errors,
            waiting=waiting,
            cpu_seconds=round(used - self.cpu, 6),
        )
        self.cpu, self.window = used, Window(now)


# --- the load -------------------------------------------------------------------------------------


class Timer:
    """A descriptor that is ready at an absolute time, to the precision of the kernel.

    The wait of epoll itself has whole milliseconds.
    """

    def __init__(self):
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.descriptor = self.libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK)
        if self.descriptor < 0:
            raise UnusableError(f"no timer: {os.strerror(ctypes.get_errno())}")
        self.value = (ctypes.c_long * 4)()

    def set(self, at):
        """Set it to a time of CLOCK_MONOTONIC; a time that has passed is at once."""
        ns = max(1, int(at * 1e9))
        self.value[2], self.value[3] = ns // 10**9, ns % 10**9
        self.libc.timerfd_settime(self.descriptor, ABSOLUTE, self.value, None)


class Load:
    """All connections, and the requests that wait for one."""

    def __init__(self, asked, copies, output, start):
        self.requests = Requests(asked, copies, start)
        self.protocol = self.requests.protocol
        self.recorder = Recorder(output, start, asked["warmup"])
        self.poll, self.timer, self.connections = select.epoll(), Timer(), {}
        self.poll.register(self.timer.descriptor, select.EPOLLIN)
        self.free = [
            [Connection(place, f"{copy['scratch']}/socket") for _ in range(asked["connections"])]
            for place, copy in enumerate(copies)
        ]
        self.waiting = [collections.deque() for _ in copies]
        self.unsent = self.busy = self.behind = 0

    def run(self, until):
        """Send requests until a time, and await the last answers."""
        request = self.requests.next()
        self.timer.set(request[0])
        while request[0] < until:
            self.receive(-1)
            now = time.monotonic()
            for _ in range(TURN):
                if request[0] > now or request[0] >= until:
                    break
                add(self.recorder.window.late, now - request[0])
                self.take(*request)
                request = self.requests.next()
                self.timer.set(request[0])
                now = time.monotonic()
            self.record(now, request[0] - now)
        while self.busy and time.monotonic() < until + DRAIN:
            self.receive(0.01)
        self.recorder.window.errors += self.busy + self.unsent
        self.recorder.write(self.unsent)

    def record(self, now, pause):
        """Write the line of a second in a pause of the load, or at most a second late."""
        due = self.recorder.due()
        if now < due or (now < due + WINDOW and (pause < PAUSE or self.busy)):
            return
        self.recorder.write(self.unsent)
        self.behind = self.behind + 1 if pause < -BEHIND else 0
        if self.behind == BEHIND_WINDOWS:
            raise UnusableError(
                f"this host cannot make {self.requests.rate:g} requests a second: the load itself,"
                f" not the answers, is {-pause:.1f} s late. Ask for a lower rate"
            )

    def take(self, at, place, writes, request):
        """Send a request whose time has come, or let it wait for a connection."""
        if self.free[place]:
            connection = self.free[place].pop()
            if not self.send(connection, at, writes, request):
                self.free[place].append(connection)
        elif self.unsent < WAITING:
            self.waiting[place].append((at, writes, request))
            self.unsent += 1
        else:
            self.recorder.window.errors += 1

    def send(self, connection, at, writes, request):
        """Send a request, and return whether that succeeded; if not, it is an error."""
        try:
            if connection.socket is None:
                connection.open()
                self.connections[connection.socket.fileno()] = connection
                self.poll.register(connection.socket.fileno(), select.EPOLLIN)
            connection.socket.send(request)  # the buffer of the socket has no other request
        except (ConnectionRefusedError, FileNotFoundError) as error:
            raise Ended(connection.place, error.strerror) from error
        except OSError:  # too many connections are not accepted yet, or it was closed meanwhile
            self.recorder.window.errors += 1
            self.close(connection)
            return False
        connection.at, connection.writes = at, writes
        self.busy += 1
        return True

    def receive(self, seconds):
        """Handle what happens within some seconds; -1 is until anything happens."""
        for descriptor, _ in self.poll.poll(seconds):
            if descriptor in self.connections:  # the timer only ends the wait
                self.answer(self.connections[descriptor])

    def answer(self, connection):
        """Read from a connection. One that is closed early is an error."""
        try:
            data = connection.socket.recv(65536)
        except OSError:
            data = b""
        connection.answer += data
        good = self.protocol.answered(connection.answer)
        if good is None and data:
            return
        window, busy = self.recorder.window, connection.at is not None
        if good:
            took = time.monotonic() - connection.at
            add(window.writes if connection.writes else window.reads, took)
        else:
            window.errors += 1
        if not data or not self.protocol.keeps:
            self.close(connection)
        connection.answer, connection.at = b"", None
        if busy:
            self.busy -= 1
            self.reuse(connection)

    def close(self, connection):
        """Close a connection. The next request opens it again."""
        if connection.socket is not None:
            descriptor = connection.socket.fileno()
            if self.connections.pop(descriptor, None):
                self.poll.unregister(descriptor)
            connection.socket.close()
            connection.socket = None

    def reuse(self, connection):
        """Send the next request that waits, if any."""
        waiting = self.waiting[connection.place]
        while waiting:
            self.unsent -= 1
            if self.send(connection, *waiting.popleft()):
                return
        self.free[connection.place].append(connection)


class Connection:
    """A connection to a copy, with at most one request on its way."""

    def __init__(self, place, path):
        self.place, self.path = place, path
        self.socket, self.answer = None, b""
        self.at, self.writes = None, False  # of the request on its way

    def open(self):
        """Connect. Raises OSError."""
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.setblocking(False)  # if nobody accepts, that is an error, and not a wait
        self.socket.connect(self.path)


class Ended(Exception):  # noqa: N818 - the launcher knows the reason
    """A copy takes no connections. Arguments: its place, and what the system says."""


# --- PostgreSQL -----------------------------------------------------------------------------------

MOST_COPIES = 1000  # so that no two copies of any two seeds have the same
READ = "SELECT value FROM data WHERE key = :key;"
WRITE = "UPDATE data SET value = value WHERE key = :key;"
PICK = {
    "uniform": "\\set key random(0, :keys - 1)",
    "zipf": f"\\set key permute(random_zipfian(1, :keys, {ZIPF}) - 1, :keys)",
}


def pgbench(asked, copy, seconds):
    """Start pgbench for a copy: with a rate, its load is open, and counts from when it is due."""
    argv = [str(postgres_programs() / "pgbench"), "-h", copy["scratch"], "-U", "postgres", "-n"]
    argv += ["-M", "prepared", "-c", asked["connections"], "-R", asked["rate"], "-T", seconds]
    argv += ["--random-seed", asked["seed"] * MOST_COPIES + copy["number"]]
    argv += ["-D", f"keys={record_count(asked)}"]
    argv += ["--log", "--log-prefix", f"{copy['scratch']}/pgbench"]
    writes = round(asked["write_percent"] * 100)
    for name, command, weight in (("read", READ, 10_000 - writes), ("write", WRITE, writes)):
        if weight:
            script = Path(copy["scratch"], f"{name}.sql")
            script.write_text(f"{PICK[asked['keys']]}\n{command}\n")
            argv += ["-f", f"{script}@{weight}"]
    argv = [*map(str, argv), "postgres"]
    with Path(copy["scratch"], "pgbench.stderr").open("wb") as error:
        return subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=error)


def bench(asked, copies, output, start, seconds):
    """Let pgbench make the load, and write the lines of what it logged."""
    begun, offset = time.monotonic(), time.time() - time.monotonic()
    running = [pgbench(asked, copy, math.ceil(seconds)) for copy in copies]
    try:
        codes = [each.wait() for each in running]
    except (Stopped, UnusableError):
        for each in running:
            each.terminate()
            each.wait()
        raise
    finally:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        elapsed = time.monotonic() - begun
        share = (used.ru_utime + used.ru_stime) / elapsed
        write_windows(asked, logged(copies, offset), output, start, elapsed, share)
    for place, code in enumerate(codes):
        if code:
            said = Path(copies[place]["scratch"], "pgbench.stderr").read_text().strip()
            raise Ended(place, f"pgbench: {said.splitlines()[-1] if said else code}")


def logged(copies, offset):
    """Yield (monotonic time of the end, seconds it took, seconds late, whether it wrote) of all."""
    for copy in copies:
        for path in Path(copy["scratch"]).glob("pgbench.[0-9]*"):
            for line in path.read_text().splitlines():
                words = line.split()
                if len(words) < 7 or not all(word.isdecimal() for word in words[2:7]):
                    continue  # torn, or of a transaction that failed
                took, script, whole, part, late = map(int, words[2:7])
                end = whole + part / 1e6 - offset
                yield end, took / 1e6, late / 1e6, script == 1


def write_windows(asked, transactions, output, start, elapsed, share):
    """Write a line for each second, as for other services.

    pgbench does not tell how late it was by itself: late includes the wait for a connection.
    """
    windows, last = {}, {}
    for end, took, late, writes in transactions:
        warm = end - start < asked["warmup"]
        window = windows.setdefault((int(max(0, end - start)), not warm), Window(start))
        add(window.writes if writes else window.reads, took)
        add(window.late, late)
        last[end] = late
    for (second, measured), window in sorted(windows.items()):
        first, until = second, min(second + 1, elapsed)
        if measured:
            first = max(second, asked["warmup"])
        else:
            until = min(until, asked["warmup"])
        length = max(until - first, 1e-6)
        tell(
            output,
            kind="requests",
            warmup=not measured,
            seconds=round(length, 6),
            reads=window.reads,
            writes=window.writes,
            late=window.late,
            errors=0,
            waiting=int(last[max(last)] * asked["rate"]),
            cpu_seconds=round(share * length, 6),
            wall=time.time() - time.monotonic() + start + first + length,
            monotonic=start + first + length,
        )


# --- the program ----------------------------------------------------------------------------------


def copies_of(directory):
    """Return the copies that the launcher holds: their names, numbers and sockets."""
    try:
        state = json.loads((directory / "processes.state").read_text())
        names = sorted(path.name for path in Path(state["scratch"]).iterdir())
    except (OSError, ValueError, KeyError) as error:
        raise UnusableError(f"no copies of a service run: {error}") from error
    return [
        {"name": name, "number": number, "scratch": f"{state['scratch']}/{name}"}
        for number, name in enumerate(names, start=1)
    ]


def reason(directory):
    """Return why the launcher's copies have ended; empty if it does not say."""
    until = time.monotonic() + REASON_SECONDS
    while time.monotonic() < until:
        with contextlib.suppress(OSError, ValueError):
            said = json.loads((directory / "processes.ready").read_text())["error"]
            if said:
                return said
        time.sleep(0.2)
    return ""


def work(asked, directory, start, seconds):
    """Make the load from its start on, and describe it in load.jsonl."""
    copies = copies_of(directory)
    with opened(directory / "load.jsonl") as output:
        start = max(time.monotonic(), start)
        told = ("rate", "arrivals", "connections", "write_percent", "keys", "warmup")
        told = {name: asked[name] for name in told}
        told["realtime"] = be_first()
        tell(output, kind="header", format=FORMAT, copies=len(copies), **told)
        gc.collect()
        gc.freeze()
        gc.disable()
        try:
            if asked.get("stop_ksmd"):
                stop_ksmd_at(start + asked["stop_ksmd"], output)
            if asked["service"] == "postgres":
                sleep_until(start)
                bench(asked, copies, output, start, seconds)
            else:
                ask(asked, copies, output, start, seconds)
        except Ended as ended:
            place, said = ended.args
            said = reason(directory) or f"{copies[place]['name']}: {said}"
            raise UnusableError(f"the load cannot go on: {said}") from ended
        tell(output, kind="end")


def stop_ksmd_at(at, output):
    """Let ksmd stop at a monotonic time: what is merged stays merged.

    Whoever has set the knobs restores them.
    """

    def stop_now(*_):
        try:
            KSM_RUN.write_text("0")
        except OSError as error:
            raise UnusableError(f"ksmd cannot be stopped: {error.strerror}") from error
        tell(output, event="ksmd stopped")

    signal.signal(signal.SIGALRM, stop_now)
    signal.setitimer(signal.ITIMER_REAL, max(1e-3, at - time.monotonic()))


def be_first():
    """Let this program run whenever it has something to do; return whether that is allowed.

    Clients are elsewhere. They do not wait for the processors of the services and of ksmd.
    """
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
        return True
    return False


def ask(asked, copies, output, start, seconds):
    """Make the load of other services than PostgreSQL."""
    load = Load(asked, copies, output, start)
    sleep_until(start)
    load.recorder.begin()
    try:
        load.run(start + seconds)
    except Stopped:
        load.recorder.write(load.unsent)
        raise


def sleep_until(at):
    """Sleep until an absolute time of CLOCK_MONOTONIC."""
    time.sleep(max(0, at - time.monotonic()))


def stop(number, _frame):
    """Handle a signal: end at once, and ignore further signals."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise Stopped(number)


def tell(output, **line):
    """Write a line with its time to a descriptor; return its monotonic time."""
    line = {"wall": time.time(), "monotonic": time.monotonic(), **line}
    try:
        os.write(output, json.dumps(line, separators=(",", ":")).encode() + b"\n")
    except OSError as error:
        raise UnusableError(f"cannot write a line: {error.strerror}") from error
    return line["monotonic"]


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
        prog="ksm_load.py",
        description=__doc__.partition("\n")[0],
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_argument = parser.add_argument
    add_argument("--directory", type=Path, required=True, metavar="DIR")
    add_argument("--options", type=json.loads, required=True, metavar="JSON")
    add_argument("--start", type=float, default=0, metavar="T", help="at T of CLOCK_MONOTONIC")
    add_argument("--seconds", type=float, default=60, metavar="S", help="how long")
    return parser.parse_args(argv)


def main(argv=None):
    """Run the command line; return the exit status."""
    asked = parse_arguments(argv)
    try:
        for number in SIGNALS:
            signal.signal(number, stop)
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        work(asked.options, asked.directory, asked.start, asked.seconds)
    except Stopped as stopped:
        return 128 + stopped.args[0]
    except (UnusableError, FailedError) as error:
        print(f"ksm_load.py: error: {error}", file=sys.stderr)
        return EXIT_UNUSABLE
    return 0


if __name__ == "__main__":
    sys.exit(main())
