#!/usr/bin/env python3
"""Measure what the load generator costs: requests for each second of its own CPU time.

Compares in alternating rounds, so that noise affects all of them equally, with one redis-server on
a unix socket, whose values have 1000 bytes:

  ksm_load         roles/part_load/files/ksm_load.py: an open load, in Python
  C loop           open_loop.c, compiled here: the same open load at the same rate, and nothing more
  redis-benchmark  Debian's: the same GET requests as fast as the same connections can make them. It
                   has no rate. A closed load: it sends the next request only after an answer

CPU times are of the generators alone, without their start. A ratio is the median of the ratios of
the rounds; the range follows. Beside it are the latencies that both open loads saw.

Needs gcc, and Debian's redis-server and redis-tools. The server is one of its own, and ends.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

BENCH = Path(__file__).resolve().parent
ROLES = BENCH.parent / "roles"
PYTHON = "/usr/bin/python3"  # what runs the generator on a Debian host
DATA = {"service": "redis", "data": "same", "data_mib": 4}
ANSWER_BYTES = 1009  # of a value of 1000 bytes, with its head and its end

sys.path.insert(0, str(ROLES / "processes/files"))
import ksm_services  # noqa: E402 - it is copied to hosts, and not part of a package


@contextlib.contextmanager
def server(directory: Path):
    """Run redis as the launcher does, with its data; yield the path of its socket."""
    copy = {"number": 1, "scratch": str(directory / "scratch/process-01")}
    copy["socket"] = f"{copy['scratch']}/socket"
    Path(copy["scratch"]).mkdir(parents=True)
    state = {"scratch": str(directory / "scratch")}
    (directory / "processes.state").write_text(json.dumps(state))
    argv = [shutil.which("redis-server"), *ksm_services.command_of(DATA, copy)[1:]]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    try:
        while not Path(copy["socket"]).exists():
            if process.poll() is not None:
                sys.exit("load.py: redis-server has ended")
            time.sleep(0.05)
        ksm_services.load(DATA, copy)
        yield copy["socket"]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def ksm_load(directory: Path, asked: argparse.Namespace) -> tuple[float, float, float]:
    """Return requests per CPU second, and the latencies' p50 and p99 in ns."""
    options = {**DATA, "rate": asked.rate, "connections": asked.connections, "write_percent": 0}
    options |= {"arrivals": "poisson", "keys": "uniform", "warmup": 0, "seed": 0}
    argv = [PYTHON, str(ROLES / "part_load/files/ksm_load.py"), "--options", json.dumps(options)]
    argv += ["--directory", str(directory), "--seconds", str(asked.seconds)]
    environment = os.environ | {"PYTHONPATH": str(ROLES / "processes/files")}
    subprocess.run(argv, check=True, env=environment)
    lines = [json.loads(line) for line in (directory / "load.jsonl").read_text().splitlines()]
    (directory / "load.jsonl").unlink()
    lines = [line for line in lines if line["kind"] == "requests"]
    counts: Counter[int] = Counter()
    for line in lines:
        counts.update({int(ns): n for ns, n in line["reads"].items()})
    ordered = sorted(counts.elements())
    if errors := sum(line["errors"] for line in lines):
        print(f"{errors} requests had no answer: the server got no CPU time", file=sys.stderr)
    cpu = sum(line["cpu_seconds"] for line in lines)
    return len(ordered) / cpu, ordered[len(ordered) // 2], ordered[len(ordered) * 99 // 100]


def open_loop(program: Path, socket: str, asked: argparse.Namespace) -> tuple[float, float, float]:
    """Return the same of the C loop."""
    numbers = [asked.rate, asked.seconds, asked.connections, ksm_services.record_count(DATA)]
    command = [str(program), socket, *map(str, numbers), str(ANSWER_BYTES)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    answers, cpu, p50, p99 = map(int, done.stdout.split())
    return answers / (cpu / 1e9), p50, p99


def redis_benchmark(socket: str, asked: argparse.Namespace) -> tuple[float, float]:
    """Return requests per CPU second, and requests per second."""
    count = 20 * round(asked.rate * asked.seconds)
    command = ["redis-benchmark", "-s", socket, "-c", str(asked.connections), "-n", str(count)]
    command += ["-r", str(ksm_services.record_count(DATA)), "GET", "key:__rand_int__"]
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit("load.py: redis-benchmark failed")
    return count / (usage.ru_utime + usage.ru_stime), count / (time.monotonic() - start)


def spread(values: list[float], digits: int = 0) -> str:
    """Write the median and the range."""
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"


def show(asked, ours, loops, theirs) -> None:
    """Print the figures."""
    print(f"{asked.rounds} rounds of {asked.seconds:g} s; median (range)")
    print(f"requests a CPU second, {asked.rate:g} requests a second on {asked.connections} sockets")
    print(f"  ksm_load         {spread([each[0] for each in ours])}")
    print(f"  C loop           {spread([each[0] for each in loops])}")
    words = f"  at {statistics.median(each[1] for each in theirs):,.0f} requests a second, closed"
    print(f"  redis-benchmark  {spread([each[0] for each in theirs])}{words}")
    for name, others in (("C loop", loops), ("redis-benchmark", theirs)):
        ratios = [one[0] / other[0] for one, other in zip(ours, others, strict=True)]
        print(f"ksm_load / {name:15} {spread(ratios, 3)}")
    for place, name in ((1, "p50"), (2, "p99")):
        both = [spread([each[place] / 1e3 for each in side], 1) for side in (ours, loops)]
        ratios = [one[place] / other[place] for one, other in zip(ours, loops, strict=True)]
        print(f"{name}: ksm_load {both[0]} µs, C loop {both[1]} µs; ratio {spread(ratios, 2)}")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--rounds", type=int, default=7, metavar="N", help="(default: 7)")
    add("--seconds", type=float, default=4, metavar="S", help="of each open load (default: 4)")
    add("--rate", type=float, default=2000, metavar="R", help="requests a second (default: 2000)")
    add("--connections", type=int, default=4, metavar="N", help="(default: 4)")
    asked = parser.parse_args()
    for program in ("redis-server", "redis-benchmark"):
        if not shutil.which(program):
            sys.exit(f"load.py: {program} is missing: install Debian's redis-server, redis-tools")
    ours, loops, theirs = [], [], []
    with tempfile.TemporaryDirectory() as name:
        directory, program = Path(name), Path(name, "open_loop")
        source = BENCH / "open_loop.c"
        subprocess.run(["gcc", "-O2", "-Wall", "-o", program, source, "-lm"], check=True)
        with server(directory) as socket:
            for n in range(asked.rounds):
                print(f"round {n + 1} of {asked.rounds}", file=sys.stderr)
                ours.append(ksm_load(directory, asked))
                loops.append(open_loop(program, socket, asked))
                theirs.append(redis_benchmark(socket, asked))
    show(asked, ours, loops, theirs)


if __name__ == "__main__":
    main()
