"""An experiment that was interrupted: which of its runs are left."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ksm_analysis.errors import InputError
from ksm_analysis.results.record import UnreadableError, upgraded

# What of a run may change without making it another run.
_MAY_DIFFER = {"index", "note", "seconds"}


def records(directory: Path) -> dict[str, dict[str, Any]]:
    """Read the run.json of each run in an experiment's results, by the run's id.

    What is not whole is left out. No directory, no run. Raises InputError if the directory, or a
    file in it, is there and may not be read.
    """
    try:
        read = {path.name: _record(path / "run.json") for path in sorted(directory.iterdir())}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read: {error.strerror}") from None
    return {name: record for name, record in read.items() if record}


def finished(records: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Pick those of complete runs: all others are to be run again."""
    return {name: record for name, record in records.items() if record.get("status") == "complete"}


def earlier(
    planned: dict[str, Any], records: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Say which host has done which planned run, and how it ended: runs are assigned by it."""
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
    """Make the plan of the runs that have not finished; each keeps its index.

    `finished` has the run.json of complete runs, by id. Raises InputError if one of them is not
    what is planned now: its results would be taken for those of another run.
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
                f"{experiment}/{asked['id']} has finished, but was not what is asked for now: "
                f"{key}: recorded {_shown(before, key)}, asked {_shown(now, key)}. Give another "
                "--results, or leave out --resume, so that the earlier results are set aside."
            )


def _values(tree: dict[str, Any] | list[Any], path: str = "") -> Iterator[tuple[str, object]]:
    """Every value under its dotted key. What is empty is as good as absent."""
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
