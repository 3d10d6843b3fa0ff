"""`import LOG...` converts logs of the original framework to runs."""

import argparse
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ksm_analysis.errors import InputError

if TYPE_CHECKING:
    from ksm_analysis.results.original_logs import Log

HELP = "convert logs of the original bash framework to runs, for report and summary"
DETAILS = """\
Reads logs of monitor_ksm.sh, a script of the original framework, and writes a run directory for
each into DIR. report and summary read them like runs of this testbed. The logs are not changed. If
a log is cut short, its complete intervals are imported, with a warning. If a log cannot be read,
nothing is written. Existing runs in DIR are never overwritten.

A log does not contain the memory size of its guests. The default is 512 MiB, as in the original.
Logs with the same guests, knobs and command count as repetitions. Import other logs into separate
directories.

examples:
  python -m ksm_analysis import idle-3-vms.log --results results/old
  python -m ksm_analysis import logs/*.log --results results/old
  python -m ksm_analysis import big.log --results results/big --memory-mib 2048
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("logs", metavar="LOG", nargs="+", type=Path, help="an unmodified log")
    parser.add_argument(
        "--results",
        metavar="DIR",
        type=Path,
        required=True,
        help="output directory: DIR/<run id>/, named like the log",
    )
    parser.add_argument(
        "--memory-mib",
        metavar="N",
        type=_mebibytes,
        default=512,
        help="memory of a guest (default: 512)",
    )


def _mebibytes(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a whole number of MiB from 1, not {text!r}")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """Import all logs, or none."""
    directory, paths = arguments.results, arguments.logs
    ids = names(paths)
    logs = _read(paths, directory, ids)
    earlier = _records(directory)
    records = _recorded(arguments, ids, logs, earlier)
    _write(directory, ids, records, logs)
    _tell(paths, logs, records, earlier)
    for run_id, log in zip(ids, logs, strict=True):
        guests, intervals = _count(len(log.pids), "guest"), _count(len(log.intervals), "interval")
        print(f"{run_id}: {guests}, {intervals} of {log.seconds:g} s")
    print(f"\nnext: python -m ksm_analysis report {shlex.quote(str(directory))}")
    return 0


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


# --- what to call them ----------------------------------------------------------------------------


def names(paths: list[Path]) -> list[str]:
    """Return the id of each log: its name, with the name of the directory if needed."""
    plain = [_slug(path.stem) for path in paths]
    alone = {name for name in plain if plain.count(name) == 1}
    ids, taken = [], set(alone)
    for path, name in zip(paths, plain, strict=True):
        if name not in alone:
            name = _free(_slug(f"{path.absolute().parent.name} {path.stem}"), taken)
            taken.add(name)
        ids.append(name)
    return ids


def _slug(text: str) -> str:
    import re
    import unicodedata

    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9_]+", "-", plain.lower()).strip("-") or "log"


def _free(name: str, taken: set[str]) -> str:
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}-{number}"
    return free


# --- what is there --------------------------------------------------------------------------------


def _read(paths: list[Path], directory: Path, ids: list[str]) -> list[Any]:
    """Parse all logs. Raises one InputError with all problems."""
    from ksm_analysis.results import original_logs

    logs, problems = [], []
    for path, run_id in zip(paths, ids, strict=True):
        try:
            _require_free(directory / run_id, path)
            logs.append(original_logs.parse(path.read_bytes(), str(path)))
        except OSError as error:
            problems.append(f"{path}: cannot be read: {error.strerror}")
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise InputError("\n".join([*problems, "nothing was imported"]))
    return logs


def _require_free(place: Path, path: Path) -> None:
    partial = _partial(place)
    if place.exists():
        raise InputError(
            f"{path}: {place} exists and is not overwritten. Use another --results, or rename the "
            "log"
        )
    if partial.exists():
        raise InputError(f"{path}: {partial} is left from an interrupted import. Remove it")


def _partial(place: Path) -> Path:
    return place.with_name(f"{place.name}.partial")


def _records(directory: Path) -> list[dict[str, Any]]:
    """Read the run.json of each existing run; ignore unreadable ones."""
    import json

    records = []
    for path in sorted(directory.glob("*/run.json")):
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            records.append(
                {"factors": found["run"]["factors"], "index": int(found["run"]["index"])}
            )
            records[-1]["sha256"] = found.get("imported", {}).get("sha256")
            records[-1]["id"] = path.parent.name
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
    return records


def _recorded(
    arguments: argparse.Namespace, ids: list[str], logs: list[Any], earlier: list[Any]
) -> list[Any]:
    """Make the run.json of each log, numbered after the existing runs."""
    from collections import Counter

    from ksm_analysis.definition.factors import REPETITION, cell
    from ksm_analysis.results import original_logs

    experiment = arguments.results.resolve().name
    index = max((each["index"] for each in earlier), default=0)
    seen = Counter(cell(each["factors"]) for each in earlier)
    records = []
    for n, (path, run_id, log) in enumerate(zip(arguments.logs, ids, logs, strict=True), start=1):
        factors = original_logs.cell(log)
        seen[cell(factors)] += 1
        factors[REPETITION] = seen[cell(factors)]
        run = original_logs.planned(log, run_id, index + n, factors, arguments.memory_mib)
        records.append(original_logs.record(log, path.name, experiment, run))
    return records


# --- what is written, and said --------------------------------------------------------------------


def _write(directory: Path, ids: list[str], records: list[dict[str, Any]], logs: list[Any]) -> None:
    """Write all run directories, then rename them. Incomplete directories are removed."""
    import shutil

    places = [directory / run_id for run_id in ids]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for place, record, log in zip(places, records, logs, strict=True):
            _write_run(_partial(place), record, log)
        for place in places:
            _partial(place).rename(place)
    except OSError as error:
        raise InputError(
            f"{error.filename or directory}: cannot be written: {error.strerror}"
        ) from None
    finally:
        for place in places:
            shutil.rmtree(_partial(place), ignore_errors=True)


def _write_run(place: Path, record: dict[str, Any], log: "Log") -> None:
    import json

    from ksm_analysis.results import original_logs

    place.mkdir()
    (place / "run.json").write_text(f"{json.dumps(record, indent=4)}\n", encoding="utf-8")
    with (place / "samples.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in original_logs.samples(log))
    (place / "events.jsonl").touch()


def _tell(
    paths: list[Path], logs: list[Any], records: list[dict[str, Any]], earlier: list[dict[str, Any]]
) -> None:
    """Print warnings about a log to standard error."""
    import sys

    known = {each["sha256"]: each["id"] for each in reversed(earlier) if each["sha256"]}
    for path, log, record in zip(paths, logs, records, strict=True):
        notes = _notes(log, known.setdefault(log.sha256, str(path)), path)
        for note in (*notes, *_repeated(record)):
            print(f"warning: {path}: {note}", file=sys.stderr)


def _repeated(record: dict[str, Any]) -> Iterator[str]:
    """Warn that a log counts as a repetition, because the log itself does not say."""
    number = record["run"]["factors"]["repetition"]
    if number > 1:
        yield (
            f"counts as repetition {number} of a cell, because another log has the same guests, "
            "knobs and command; if that is wrong, import it into a separate directory"
        )


def _notes(log: "Log", first: str, path: Path) -> Iterator[str]:
    if log.cut_short:
        yield f"the log {log.cut_short}; complete intervals are imported"
    for key, value in log.assumed.items():
        yield f"no usable {key}: {value:g} is assumed"
    if log.other:
        lines = "1 line has" if len(log.other) == 1 else f"{len(log.other)} lines have"
        yield f"{lines} an unknown form, kept in run.json: {log.other[0][:60]}"
    if first != str(path):
        yield f"identical to {first}: it is not a separate measurement"
