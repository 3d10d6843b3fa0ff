"""Find the remaining runs of an interrupted experiment."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ksm_analysis.errors import InputError
from ksm_analysis.results.record import UnreadableError, upgraded

# Keys of a run that may change without making it a different run.
_MAY_DIFFER = {"index", "note", "notes", "seconds"}


def records(directory: Path) -> dict[str, dict[str, Any]]:
    """Read the run.json of each run in the results of an experiment, by the id of the run.

    Incomplete files are left out. Returns nothing if there is no directory. Raises InputError if
    the directory, or a file in it, exists and cannot be read.
    """
    try:
        read = {path.name: _record(path / "run.json") for path in sorted(directory.iterdir())}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read: {error.strerror}") from None
    return {name: record for name, record in read.items() if record}


def finished(records: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the records of complete runs. All other runs are repeated."""
    return {name: record for name, record in records.items() if record.get("status") == "complete"}


def earlier(
    planned: dict[str, Any], records: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Return which host did which planned run, and its status, for the assignment of runs."""
    return {
        run["id"]: {
            "host": records[run["id"]].get("host"),
            "status": records[run["id"]].get("status"),
            "factors": run["factors"],
        }
        for run in planned["runs"]
        if run["id"] in records
    }


def _record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    whole = isinstance(record, dict) and isinstance(record.get("run"), dict)
    if not whole or record.get("format") != 1:
        return record if whole else {}
    try:
        return upgraded(record)
    except UnreadableError:
        return {}


def pending(planned: dict[str, Any], finished: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the plan of the unfinished runs; each keeps its index.

    `finished` has the run.json of complete runs, by id. Raises InputError if one of them differs
    from the plan, because its results would be mistaken for those of another run.
    """
    for run in planned["runs"]:
        if run["id"] in finished:
            _require_same(finished[run["id"]]["run"], run, planned["experiment"])
    left = [run for run in planned["runs"] if run["id"] not in finished]
    return {**planned, "seconds": sum(run["seconds"] for run in left), "runs": left}


def _require_same(recorded: dict[str, Any], asked: dict[str, Any], experiment: str) -> None:
    before, now = (
        dict(_values({key: value for key, value in run.items() if key not in _MAY_DIFFER}))
        for run in (recorded, asked)
    )
    for key in [*now, *before]:
        if before.get(key) != now.get(key):
            raise InputError(
                f"{experiment}/{asked['id']} has finished, but differs from the experiment file: "
                f"{key}: recorded {_shown(before, key)}, planned {_shown(now, key)}. Use another "
                "--results, or omit --resume, so that earlier results are moved aside."
            )


def _values(tree: dict[str, Any] | list[Any], path: str = "") -> Iterator[tuple[str, object]]:
    """Yield every value with its dotted key. Empty values are ignored."""
    if isinstance(tree, dict):
        items = [(f"{path}.{key}".lstrip("."), value) for key, value in tree.items()]
    else:
        items = [(f"{path}[{i}]", value) for i, value in enumerate(tree)]
    for key, value in items:
        if _is_tree(value):
            yield from _values(value, key)
        elif value is not None and value != []:
            yield key, value


def _is_tree(value: object) -> bool:
    return isinstance(value, dict) or (
        isinstance(value, list) and any(isinstance(each, dict) for each in value)
    )


def _shown(values: dict[str, Any], key: str) -> str:
    return json.dumps(values[key], ensure_ascii=False) if key in values else "nothing"
