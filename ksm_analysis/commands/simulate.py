"""`simulate FILE` simulates the runs of an experiment, without KSM and without root."""

import argparse
from typing import TYPE_CHECKING, Any

from ksm_analysis.commands import add_scheduler
from ksm_analysis.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

HELP = "simulate the runs of an experiment right to the page, without KSM or root"
DETAILS = """\
Takes an experiment file as `run` does, and writes the same run directories: `report`, `summary`,
`answer` and `compare` work on them, and mark them as simulated. It starts nothing on any host.

What is simulated is ksmd of Linux 6.18, page by page: its trees, checksums, smart_scan, zero pages,
max_page_sharing, batches and the order of the scan. Its CPU time is a sum of costs by what happens
to each page. docs/simulator.md says how it is compared with the real one, and what it leaves out.

Only memory whose contents are known can be simulated:
  population  up to 1,000 guests drawn from a trace, on up to 1,000 hosts
  guests      with --trace: guests of a trace act instead of them, and arrive when they do
  processes   service: memory, with contents, arrivals and lifetimes
  workloads   arrays, memory, or idle beside such processes
  thp         enabled: madvise or never
  knobs       run, pages_to_scan, sleep_millisecs, smart_scan, use_zero_pages, max_page_sharing,
              stable_node_chains_prune_millisecs
  policies    none; advisor, ksmtuned, proxmox, kata, kubevirt and governor, which decide as the
              real ones; a command that only sets such knobs with echo. --policies chooses from a
              file that has others, too
All else is an error before anything starts.

Eight or more runs are simulated by several processes, one for every four runs and at most one for
each processor, as far as memory allows; or by the workers of a Dask cluster (--scheduler). The
files are the same to the byte.
"""
EXAMPLES = """\
examples:
  python -m ksm_analysis simulate experiments/arrays-half-same.yml
  python -m ksm_analysis report results/simulated/arrays-half-same
  python -m ksm_analysis simulate experiments/policies-s1-arrivals.yml --policies none,governor
  python -m ksm_analysis compare results/policies-s1-arrivals \\
      results/simulated/policies-s1-arrivals --by host      the real one and the simulated
  python -m ksm_analysis simulate experiments/policies-s9-guests-under-load.yml \\
      --trace guests-load
  python -m ksm_analysis simulate experiments/fleet.yml --scheduler tcp://127.0.0.1:8786

exit status:
  0  all runs were simulated
  2  wrong arguments, or something that cannot be simulated, or no workers that can do it; nothing
     was written, unless a worker failed after others had ended runs
  130  interrupted; what is done stays
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    option = parser.add_argument
    option("file", metavar="FILE", help="the experiment, a YAML file")
    option("--results", metavar="DIR", default="results/simulated", help="default: %(default)s")
    option("--interval", metavar="S", type=float, help="seconds of an interval, overrides the file")
    option("--intervals", metavar="N", type=int, help="intervals of a run, overrides the file")
    option("--trace", metavar="NAME", help="a trace whose guests act instead of those of the file")
    option("--policies", metavar="NAMES", help="only runs with these policies, such as none")
    option(
        "--host-memory-mib",
        metavar="N",
        type=_mebibytes,
        default=16384,
        help="memory of the simulated host, of which the kernel takes 512 MiB: ksmtuned, proxmox "
        "and kubevirt decide by how much of it is free (default: %(default)s)",
    )
    add_scheduler(parser, "simulate the runs", "have this version of the project, and its roles")


def _mebibytes(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1024 <= int(text) <= 2**30:
        raise argparse.ArgumentTypeError(
            f"must be a whole number of MiB from 1024 to 1073741824, not {text!r}"
        )
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """Simulate the experiment."""
    import time
    from pathlib import Path

    from ksm_analysis.commands.plan import read
    from ksm_analysis.definition import experiment
    from ksm_analysis.simulator import guests, possible, simulate

    file, options = arguments.file, (arguments.interval, arguments.intervals)
    plan = experiment.plan(experiment.parse(read(Path(file)), file, *options), file)
    if arguments.policies is not None:
        plan["runs"] = list(_with_policies(plan["runs"], arguments.policies.split(",")))
    if arguments.trace is not None:
        plan = guests.from_trace(plan, arguments.trace)
    memory = arguments.host_memory_mib
    possible.check(plan, memory, here=not arguments.scheduler)
    begin = time.monotonic()
    done = simulate.runs(plan, Path(arguments.results), memory, arguments.scheduler)
    try:
        for number, each in enumerate(done, start=1):
            so_far = f"{number} of {len(plan['runs'])} after {time.monotonic() - begin:.1f} s"
            print(f"{so_far}: {each.path}, {each.seconds:g} s", flush=True)
    except KeyboardInterrupt:
        return 130
    return 0


def _with_policies(runs: list[dict[str, Any]], chosen: list[str]) -> "Iterator[dict[str, Any]]":
    """Yield the runs with these policies. Raises InputError if the plan has none of a name."""
    names = [run.get("policy", {}).get("name", "none") for run in runs]
    if unknown := [name for name in chosen if name not in names]:
        there = ", ".join(dict.fromkeys(names))
        raise InputError(f"--policies {unknown[0]}: no such policy in the file. There are: {there}")
    for run, name in zip(runs, names, strict=True):
        if name in chosen:
            yield run
