#!/usr/bin/env python3
"""Measure the CPU time of a sample, compared with other ways to read the same counters.

Compares in alternating rounds, so that noise affects all of them equally:

  sampler         roles/part_sampler/files/ksm_sampler.py, from its end line: from the first
                  deadline on, including sleeping, reading and writing
  C loop          pread_loop.c, compiled here: sleeps to the same deadlines and preads the same
                  files into a buffer of the same size, and does nothing else; it has the same
                  priority as the sampler
  original's way  a shell loop that forks a cat, grep or awk for each value; CPU of the children too
  node_exporter   prometheus-node-exporter on the loopback, with its collectors ksmd, cpu, meminfo
                  and vmstat only, scraped over one connection; CPU of the exporter alone

A ratio is the median of the ratios of the rounds; the range follows. CPU times depend less on the
load of the machine, but cache misses cost CPU time, so prefer an idle machine.
"""

import argparse
import contextlib
import http.client
import json
import mmap
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _sampler import SAMPLER, ksm_sampler

BENCH = Path(__file__).resolve().parent
PYTHON = "/usr/bin/python3"  # what runs the sampler on a Debian host
STAND_IN_BYTES = 16 << 20  # mergeable memory of a guest's stand-in
ORIGINAL_SAMPLES = 3  # per round: they are slow
EXPORTER = "prometheus-node-exporter"
EXAMPLES = """\
examples:
  python bench/sampler.py
  python bench/sampler.py --rounds 9 --samples 500
  python bench/sampler.py --guest a=/run/libvirt/qemu/ksm-guest-01.pid --guest b=4242

Needs root, gcc, and Debian's prometheus-node-exporter (skipped if it is not installed).
"""


@contextlib.contextmanager
def stand_ins(count):
    """Start processes with mergeable memory instead of guests; return their names and pids."""
    pids = []
    try:
        for _ in range(count):
            ready, started = os.pipe()
            pid = os.fork()
            if pid == 0:
                stand_in(started)
            os.close(started)
            pids.append(pid)
            os.read(ready, 1)
            os.close(ready)
        yield [(f"stand-in-{n}", pid) for n, pid in enumerate(pids, 1)]
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def stand_in(started):
    """Hold mergeable memory until killed."""
    memory = mmap.mmap(-1, STAND_IN_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_MERGEABLE)
    memory.write(bytes(range(256)) * (STAND_IN_BYTES // 256))
    os.write(started, b".")
    while True:
        signal.pause()


def sampled_files(guests):
    """Return every file that the sampler keeps open, in the order of reading."""
    reader, _ = ksm_sampler.open_reader(Path("/"), guests)
    files = [Path(f"/proc/self/fd/{fd}").readlink() for fd in reader.fds]
    for fd in reader.fds:
        os.close(fd)
    return files


def run_sampler(arguments, guests, samples):
    """Return the end line of one run of the sampler."""
    with tempfile.TemporaryDirectory() as directory:
        command = [arguments.python, SAMPLER, "--output", f"{directory}/samples.jsonl"]
        command += ["--period", str(arguments.period), "--samples", str(samples)]
        for name, pid in guests:
            command += ["--guest", f"{name}={pid}"]
        return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def sampler_cpu(arguments, guests):
    """Return the CPU seconds per sample of the sampler."""
    end = run_sampler(arguments, guests, arguments.samples)
    return end["cpu_seconds"] / end["samples"]


def compile_loop(directory):
    """Compile the C loop; return its path."""
    program = Path(directory) / "pread_loop"
    source = BENCH / "pread_loop.c"
    subprocess.run(["gcc", "-O2", "-Wall", "-o", program, source], check=True)
    return program


def loop_cpu(arguments, program, files):
    """Return the CPU seconds per sample of the C loop."""
    numbers = [round(arguments.period * 1e9), arguments.samples, ksm_sampler.BUFFER]
    command = [program, *map(str, numbers), *files]
    run = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, preexec_fn=ksm_sampler.take_precedence
    )
    return int(run.stdout) / 1e9


def original_script(guests, files):
    """Return a shell loop with one command for each value that the sampler records."""
    values = [f"cat {file}" for file in files if file.parent == Path("/sys/kernel/mm/ksm")]
    values += ["grep '^cpu ' /proc/stat"]
    values += [f"awk '$1 == \"{key}:\" {{print $2}}' /proc/meminfo" for key in names("MEMINFO")]
    values += [f"awk '$1 == \"{key}\" {{print $2}}' /proc/vmstat" for key in names("VMSTAT")]
    values += [f"awk '{{print $1}}' {file}" for file in files if file.name == "schedstat"]
    for _, pid in guests:
        lines = Path(f"/proc/{pid}/ksm_stat").read_text().splitlines()
        values += [f"grep {line.split()[0]} /proc/{pid}/ksm_stat" for line in lines]
        values += [f"awk '{{print ${field}}}' /proc/{pid}/stat" for field in (14, 15)]
        values += [f"awk '{{print $2}}' /proc/{pid}/statm"]
    line = " ".join(f"$({value})" for value in values)
    return f"for n in $(seq {ORIGINAL_SAMPLES}); do echo {line}; done"


def names(selection):
    """Return the names of a selection that this kernel has."""
    text = Path(f"/proc/{selection.lower()}").read_text()
    present = {line.split()[0].rstrip(":") for line in text.splitlines()}
    return sorted(present & {name.decode() for name in getattr(ksm_sampler, selection)})


def original_cpu(script):
    """Return the CPU seconds per sample of the shell and its children."""
    shell = subprocess.Popen(["bash", "-c", script], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(shell.pid, 0)
    shell.returncode = os.waitstatus_to_exitcode(status)
    if shell.returncode:
        raise SystemExit("the shell loop failed")
    return (usage.ru_utime + usage.ru_stime) / ORIGINAL_SAMPLES


@contextlib.contextmanager
def exporter():
    """Run node_exporter; yield its pid and a connection, or None if it is not installed."""
    program = shutil.which(EXPORTER)
    if program is None:
        print(f"{EXPORTER} is not installed: skipped", file=sys.stderr)
        yield None
        return
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    collectors = [f"--collector.{name}" for name in ("ksmd", "cpu", "meminfo", "vmstat")]
    command = [program, "--collector.disable-defaults", *collectors, "--log.level=error"]
    process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"])
    try:
        yield process.pid, connect(port)
    finally:
        process.kill()
        process.wait()


def connect(port):
    """Connect to the exporter as soon as it listens."""
    for _ in range(100):
        connection = http.client.HTTPConnection("127.0.0.1", port)
        with contextlib.suppress(ConnectionRefusedError):
            connection.connect()
            return connection
        time.sleep(0.05)
    raise SystemExit(f"{EXPORTER} does not answer on port {port}")


def scrape_cpu(arguments, pid, connection):
    """Return the CPU seconds per scrape of the exporter."""
    clock = (~pid << 3) | 2  # as clock_getcpuclockid(3) makes it
    start = time.clock_gettime(clock)
    for _ in range(arguments.samples):
        time.sleep(arguments.period)
        connection.request("GET", "/metrics")
        if b"node_ksmd_pages_sharing" not in connection.getresponse().read():
            raise SystemExit(f"{EXPORTER} does not export KSM")
    return (time.clock_gettime(clock) - start) / arguments.samples


def rounds(arguments, guests):
    """Return the CPU seconds per sample of each method and round."""
    files = sampled_files(guests)
    script = original_script(guests, files)
    costs = {}
    with tempfile.TemporaryDirectory() as directory, exporter() as scraped:
        program = compile_loop(directory)
        ways = {
            "sampler": lambda: sampler_cpu(arguments, guests),
            "C loop": lambda: loop_cpu(arguments, program, files),
            "original's way": lambda: original_cpu(script),
        }
        if scraped:
            ways["node_exporter"] = lambda: scrape_cpu(arguments, *scraped)
        for n in range(arguments.rounds):
            print(f"round {n + 1} of {arguments.rounds}", file=sys.stderr)
            for way, measure in ways.items():
                costs.setdefault(way, []).append(measure())
    return costs


def show(costs):
    """Print the table."""
    # method: maximum cost of the sampler relative to it
    targets = {"C loop": 2, "original's way": 1 / 100, "node_exporter": 1 / 5}
    print(f"\n{'':16}{'CPU a sample':>14}   sampler / this   (range)            target")
    for way, values in costs.items():
        row = f"{way:16}{statistics.median(values) * 1e6:11.0f} µs"
        if way in targets:
            ratios = [own / other for own, other in zip(costs["sampler"], values, strict=True)]
            ratio, limit = statistics.median(ratios), targets[way]
            span = f"({min(ratios):.3g} to {max(ratios):.3g})"
            verdict = "met" if ratio <= limit else "NOT met"
            row += f"   {ratio:<14.3g}   {span:18} at most {limit:g}: {verdict}"
        print(row)


def show_pace(arguments, guests):
    """Print whether the sampler keeps 100 Hz for 10 s."""
    end = run_sampler(argparse.Namespace(**vars(arguments) | {"period": 0.01}), guests, 1000)
    verdict = "NOT met" if end["missed"] else "met"
    print(f"100 Hz for 10 s: missed {end['missed']} of 1000   target 0: {verdict}")


def main():
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--rounds", type=int, default=7, metavar="N", help="repetitions (default: 7)")
    add("--samples", type=int, default=200, metavar="N", help="samples a round (default: 200)")
    add("--period", type=float, default=0.01, metavar="S", help="seconds (default: 0.01)")
    add("--python", default=PYTHON, help=f"interpreter of the sampler (default: {PYTHON})")
    add(
        "--guest",
        type=ksm_sampler.guest_argument,
        action="append",
        metavar="NAME=PID|PIDFILE",
        help="a guest's process; may be repeated (default: three stand-ins)",
    )
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        guests = arguments.guest or stack.enter_context(stand_ins(3))
        pace = f"{1 / arguments.period:g} Hz, {arguments.samples} samples a round"
        print(f"{len(guests)} guests, {pace}")
        show(rounds(arguments, guests))
        show_pace(arguments, guests)


if __name__ == "__main__":
    main()
