"""Values of a run that are computed once, and kept with it."""

from collections.abc import Callable
from functools import wraps
from typing import Any, Protocol, TypeVar


class Known(Protocol):
    """A run, or what was measured of it: something that keeps values."""

    @property
    def known(self) -> dict[str, Any]:
        """Values by the functions that computed them, such as `metrics.times.has_plateau`."""


Of = TypeVar("Of", bound=Known)
Value = TypeVar("Value")
FUNCTIONS: dict[str, Callable[[Any], Any]] = {}
OF_MEASURED: set[str] = set()  # of these, those of what was measured


def same(value: Any) -> Any:
    """Return a value as it is."""
    return value


def once(
    read: Callable[[Any], Any] = same,
) -> Callable[[Callable[[Of], Value]], Callable[[Of], Value]]:
    """Let a function of a run, or of what was measured of it, be computed once for each run.

    Its value must be what JSON can hold, or what `read` makes of that. `read` must leave a value
    as it is that it has made. If its argument is called `measured`, that is what it gets in a
    reduction; else, the run.
    """

    def decorate(function: Callable[[Of], Value]) -> Callable[[Of], Value]:
        name = f"{function.__module__.removeprefix('ksm_analysis.')}.{function.__qualname__}"

        @wraps(function)
        def kept(of: Of) -> Value:
            known = of.known
            if name not in known:
                known[name] = function(of)
            value: Value = read(known[name])
            return value

        FUNCTIONS[name] = kept
        if function.__code__.co_varnames[0] == "measured":
            OF_MEASURED.add(name)
        return kept

    return decorate
