"""Parts of a run that live outside this repository (docs/extending.md).

A package names them as entry points of the group `ksm_analysis.parts`: each is an instance of Part.
"""

import functools
from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from ksm_analysis.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

GROUP = "ksm_analysis.parts"


class Part:
    """One part: its key in an experiment, its role, and what the page shows of it.

    `name` is also the name of its files, `<name>.jsonl` and `<name>.json`. Ansible must be able to
    find `role`. `key` is the type of its key, for pydantic. Editors show `description`.
    """

    name: str
    role: str
    key: Any = dict[str, Any]
    description: str = ""
    title: str = ""

    def options(self, value: Any) -> dict[str, Any]:
        """Return the `part_options` of the role, made from the value of the key."""
        return dict(value)

    def table(self, runs: Sequence[Any]) -> "pd.DataFrame | None":
        """Return a table for the page, from runs (results.run.Run); None if there is no table.

        `run.lines(name)` has the lines of the part's file.
        """
        return None


@functools.cache
def outside() -> tuple[Part, ...]:
    """Return the installed parts. Raises InputError if one cannot be loaded."""
    found = []
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        try:
            part = point.load()
        except Exception as error:
            raise InputError(f"the part {point.name} ({point.value}): {error}") from error
        if not isinstance(part, Part):
            raise InputError(f"the part {point.name} ({point.value}): it is not a Part")
        found.append(part)
    return tuple(found)
