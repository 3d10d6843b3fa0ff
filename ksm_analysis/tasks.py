"""Independent tasks, done by processes of this machine or by the workers of a Dask cluster."""

import ctypes
import hashlib
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from ksm_analysis.errors import InputError

Of = TypeVar("Of")
Value = TypeVar("Value")
PATIENCE = 10  # s, for a scheduler that does not answer
AHEAD = 1000  # tasks that the scheduler knows at a time
INSTALL = "pip install 'ksm-testbed[scale]'"
PR_SET_PDEATHSIG = 1  # see prctl(2)
PACKAGE = Path(__file__).parent


def here(
    function: Callable[[Of], Value], items: list[Of], processes: int | None, batch: int = 1
) -> Iterator[Value]:
    """Yield what a function returns for each item, in their order.

    So many processes of this machine do it, each `batch` items at a time; None: one for each
    processor. Raises InputError if one of them is ended from outside.
    """
    # A new process each: a fork of one with threads may hang
    with ProcessPoolExecutor(processes, get_context("spawn"), _end_with_parent) as pool:
        try:
            yield from pool.map(function, items, chunksize=batch)
        except BrokenProcessPool:
            raise InputError(
                "a process that read or simulated runs was ended from outside: is there too little "
                "memory?"
            ) from None


def _end_with_parent() -> None:
    """Let the kernel end this process when its parent ends, however that ends, and Ctrl-C, too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # quietly
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def on_cluster(function: Callable[[Of], Value], items: list[Of], scheduler: str) -> Iterator[Value]:
    """Yield what a function returns for each item, in any order.

    If a worker is lost, others do what it had. Raises InputError if the scheduler cannot be
    reached, or has no workers, and if one of these cannot do it.
    """
    try:
        from distributed import Client, as_completed
    except ImportError:
        raise InputError(f"--scheduler needs Dask: {INSTALL}") from None
    try:
        client = Client(scheduler, timeout=PATIENCE)
    except (OSError, ValueError) as error:
        raise InputError(
            f"--scheduler {scheduler}: no Dask scheduler answers there ({error})"
        ) from None
    with client:
        if not client.scheduler_info()["workers"]:
            raise InputError(
                f"--scheduler {scheduler}: it has no workers: start dask worker {scheduler}"
            )
        waiting = iter(items)
        done = as_completed(client.map(function, [*islice(waiting, AHEAD)], pure=False))
        for future in done:
            yield _result(future, scheduler)
            for item in islice(waiting, 1):
                done.add(client.submit(function, item, pure=False))


def _result(future: Any, scheduler: str) -> Any:
    try:
        return future.result()
    except InputError:
        raise
    except Exception as error:  # whatever a worker raises, such as that it has no such module
        raise InputError(
            f"--scheduler {scheduler}: {type(error).__name__}: {error}. Do all workers have this "
            "version of the project?"
        ) from None


def code(*names: str) -> str:
    """Return a hash of the code of these packages, which differs between versions."""
    total = hashlib.blake2b(digest_size=16)
    for file in sorted(file for name in names for file in (PACKAGE / name).rglob("*.py")):
        total.update(file.read_bytes())
    return total.hexdigest()
