"""Work on a Dask cluster: a graph of independent tasks, of which one lost is done again."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, TypeVar

from ksm_analysis.errors import InputError

Of = TypeVar("Of")
Value = TypeVar("Value")
PATIENCE = 10  # s, for a scheduler that does not answer
AHEAD = 1000  # tasks that the scheduler knows at a time
INSTALL = "pip install 'ksm-testbed[scale]'"


def each(function: Callable[[Of], Value], items: list[Of], scheduler: str) -> Iterator[Value]:
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
