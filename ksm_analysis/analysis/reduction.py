"""Reading of large results: each run is reduced once, in parallel; then its reduction is read."""

import contextlib
import gc
import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from socket import gethostname

import pandas as pd

from ksm_analysis import tasks

# Imported for their functions that are computed once
from ksm_analysis.analysis import density, observations, settings  # noqa: F401
from ksm_analysis.errors import InputError
from ksm_analysis.metrics import curves, measurement, summary  # noqa: F401
from ksm_analysis.results import index, once, reader, reduced, together
from ksm_analysis.results.record import UnreadableError
from ksm_analysis.results.run import Results, Run

MANY = 200  # runs: the results of more are large
LARGE = 2**31  # bytes of samples: more are large, too
BATCH = 8  # runs that a process is given at a time
Found = tuple[Run | None, str]  # a run, or a warning, or neither
Reduction = tuple[Path, bytes | str]


def read_results(directories: list[Path], scheduler: str = "") -> Results:
    """Read results of one or more experiments together. Runs of large results are reduced.

    `scheduler` is the address of a Dask scheduler whose workers reduce them, such as
    tcp://127.0.0.1:8786; without it, processes of this machine do. Workers must see the results
    under the same path. Raises InputError as together.read_together does.
    """
    with _without_collection():
        return together.read_together(directories, partial(read, scheduler=scheduler))


@contextlib.contextmanager
def _without_collection() -> Iterator[None]:
    """Do not look for garbage while millions of objects are made that all stay, nor in them later.

    That would take a quarter of the time.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def read(paths: list[Path], scheduler: str = "") -> Iterator[Found]:
    """Read run directories, in any order."""
    if is_large(paths):
        return reduce_all(paths, scheduler)
    if scheduler:
        why = f"only results of more than {MANY} runs, or {LARGE >> 30} GiB of samples, need it"
        print(f"--scheduler was not used: {why}", file=sys.stderr)
    return reader.read_runs(paths)


def is_large(paths: list[Path]) -> bool:
    """Whether there are so many runs, or samples, that they are reduced."""
    if len(paths) > MANY:
        return True
    files = (path / "samples.jsonl" for path in paths)
    return sum(file.stat().st_size for file in files if file.exists()) > LARGE


def reduce_all(paths: list[Path], scheduler: str = "") -> Iterator[Found]:
    """Read the reductions of run directories; make those that are missing."""
    missing = []
    code, directory = reduced.code(), paths[0].parent
    known, entries = index.read(directory, code), {}
    for path in paths:
        if warning := reader.cut_off(path):
            yield None, warning
        elif (path / "run.json").exists():
            try:
                found = reduced.entry(path, known.get(path.name))
            except OSError as error:
                yield None, f"{path.name}: left out, since it cannot be read: {error.strerror}"
                continue
            if found:
                entries[path.name] = found
                yield reduced.of_entry(path, found), ""
            else:
                missing.append(path)
    if entries != known:
        index.write(directory, code, entries)
    for path, content in _made(missing, scheduler):
        if isinstance(content, str):
            yield None, content
        else:
            run = reduced.of_bytes(path, content)
            reduced.save(path, content)
            yield run, ""


def _made(paths: list[Path], scheduler: str) -> Iterator[Reduction]:
    if not paths:
        return
    if scheduler:
        yield from tasks.on_cluster(reduce, paths, scheduler)
    else:
        yield from tasks.here(reduce, paths, os.cpu_count(), BATCH)


def reduce(path: Path) -> Reduction:
    """Return the reduction of a run directory, or why it cannot be read. Nothing is written.

    Raises InputError if its files cannot be read here, which may be a worker elsewhere.
    """
    try:
        files, contents = reduced.files_of(path), reduced.contents_of(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read on {gethostname()}: {error.strerror}") from None
    try:
        run = reader.read_run(path, keep=False)
    except UnreadableError as error:
        return path, f"{path.name}: left out, since {error}"
    host = pd.DataFrame()
    if run.usable:
        measured = measurement.measure(run)
        host = measured.host
        for name, function in once.FUNCTIONS.items():
            function(measured if name in once.OF_MEASURED else run)
    return path, reduced.made(run, host, files, contents)
