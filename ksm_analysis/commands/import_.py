"""`import FILE...` converts what others recorded to runs."""

import argparse
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ksm_analysis.errors import InputError

if TYPE_CHECKING:
    from ksm_analysis.results.imports.log import Log
    from ksm_analysis.results.imports.series import Options

HELP = "convert logs, tables and dumps of others, or ranges of a Prometheus, to runs"
DETAILS = """\
Reads what other programs have recorded and writes a run directory for each file into DIR. report
and summary read them like runs of this testbed. A file is one of:

  log    of monitor_ksm.sh, a script of the original bash framework, in both of its forms
  table  CSV, also with semicolons or tabs; its first line names the columns. Names of sysfs
         (pages_sharing), of node_exporter (node_ksmd_pages_sharing) and of PCP
         (mem.ksm.pages_sharing) are known. --map names others. The column of time is named time,
         timestamp, date or the like, or by --time: seconds or ISO 8601
  dump   what `grep . /sys/kernel/mm/ksm/*` prints, once or several times in a file. A line before
         it may be its time, such as that of `date +%s`

With --from prometheus URL it reads a range from a Prometheus instead, one run for each machine
(label instance). --query selects series; NAME=EXPRESSION gives a counter to what an expression
computes.

Files are not changed. If a file cannot be read, nothing is written; if it is cut short, what is
complete is imported. Values that no kernel can have are left out, each with a warning that has its
line. Existing runs in DIR are never overwritten.

A file does not contain the memory size of its guests. The default is 512 MiB, as in the original.
The page size is what profits in the file show, or else 4096 bytes, unless --page-size says it.
Files with the same guests, knobs and command count as repetitions. Import others into separate
directories.

examples:
  python -m ksm_analysis import idle-3-vms.log --results results/old
  python -m ksm_analysis import logs/*.log --results results/old
  python -m ksm_analysis import big.log --results results/big --memory-mib 2048
  python -m ksm_analysis import ksm.csv --map shared=pages_shared --time when --results results/csv
  python -m ksm_analysis import dumps.txt --period 60 --results results/dumps
  python -m ksm_analysis import --from prometheus http://localhost:9090 --start 2026-10-01 \\
      --end 2026-11-01 --step 300 --results results/october
"""


class Source(NamedTuple):
    """Something that was imported: its name in messages, its name in run.json, and its run id."""

    name: str
    file: str
    run_id: str
    log: "Log"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("files", metavar="FILE", nargs="*", type=Path, help="an unmodified file")
    parser.add_argument(
        "--results",
        metavar="DIR",
        type=Path,
        required=True,
        help="output directory: DIR/<run id>/, named like the file",
    )
    parser.add_argument(
        "--memory-mib",
        metavar="N",
        type=_mebibytes,
        default=512,
        help="memory of a guest (default: 512)",
    )
    parser.add_argument(
        "--page-size", metavar="BYTES", type=_page_size, help="page size of the host"
    )
    parser.add_argument(
        "--period",
        metavar="S",
        type=_seconds,
        help="seconds between rows or dumps (default: by their times, or 1)",
    )
    parser.add_argument("--time", metavar="COLUMN", help="column of a table with the time")
    parser.add_argument(
        "--map",
        metavar="COLUMN=NAME",
        type=_mapped,
        action="append",
        default=[],
        help="a column and the kernel's name of its counter; may be repeated",
    )
    server = parser.add_argument_group("from a server")
    server.add_argument(
        "--from", dest="server", metavar=("prometheus", "URL"), nargs=2, help="read from a server"
    )
    server.add_argument(
        "--query",
        metavar="[NAME=]EXPRESSION",
        action="append",
        help="series to read; may be repeated (default: all of node_exporter and of our monitor)",
    )
    server.add_argument(
        "--start", metavar="TIME", type=_moment, help="ISO 8601 or seconds (default: a day ago)"
    )
    server.add_argument("--end", metavar="TIME", type=_moment, help="default: now")
    server.add_argument(
        "--step", metavar="S", type=_seconds, help="seconds between values (default: 60)"
    )


def _page_size(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) not in PAGE_SIZES:
        raise argparse.ArgumentTypeError(f"must be a power of 2 from 4096 to 262144, not {text!r}")
    return int(text)


PAGE_SIZES = tuple(2**power for power in range(12, 19))


def _seconds(text: str) -> float:
    import math

    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"must be a number of seconds above 0, not {text!r}")
    return value


def _moment(text: str) -> float:
    from ksm_analysis.results.imports.series import moment

    if (found := moment(text)) is None:
        raise argparse.ArgumentTypeError(f"must be ISO 8601 or seconds since 1970, not {text!r}")
    return found


def _mapped(text: str) -> tuple[str, str]:
    from ksm_analysis.results.imports.counters import NAMES

    column, equals, name = text.rpartition("=")
    if not equals or name not in NAMES:
        raise argparse.ArgumentTypeError(
            f"must be COLUMN=NAME, not {text!r}. NAME is one of: {', '.join(NAMES)}"
        )
    return column, name


def _mebibytes(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a whole number of MiB from 1, not {text!r}")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """Import all files, or none."""
    directory = arguments.results
    if bool(arguments.files) == bool(arguments.server):
        raise InputError("name files to import, or --from prometheus URL")
    _require_useful(arguments)
    sources = (_of_server if arguments.server else _of_files)(arguments)
    earlier = _records(directory)
    records = _recorded(arguments, sources, earlier)
    _write(directory, sources, records)
    _tell(sources, records, earlier)
    for _, _, run_id, log in sources:
        guests, intervals = _count(len(log.pids), "guest"), _count(len(log.intervals), "interval")
        pages = f"pages of {log.page_size} bytes ({HOW[log.page_size_from]})"
        print(f"{run_id}: {guests}, {intervals} of {log.seconds:g} s, {pages}")
    print(f"\nnext: python -m ksm_analysis report {shlex.quote(str(directory))}")
    return 0


def _require_useful(arguments: argparse.Namespace) -> None:
    """Refuse options that would be ignored."""
    of_files = {"map": arguments.map or None, "time": arguments.time, "period": arguments.period}
    names = ("query", "start", "end", "step")
    of_server = {name: getattr(arguments, name) for name in names}
    for name, value in (of_files if arguments.server else of_server).items():
        if value is not None:
            raise InputError(f"--{name}: only {'for files' if arguments.server else 'with --from'}")


HOW = {"asked": "as told", "profit": "from profits", "assumed": "assumed"}


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


def _of_files(arguments: argparse.Namespace) -> list[Source]:
    """Parse all files. Raises one InputError with all problems."""
    from ksm_analysis.results.imports import forms

    sources, problems = [], []
    for path, run_id in zip(arguments.files, names(arguments.files), strict=True):
        try:
            _require_free(arguments.results / run_id, str(path))
            log = forms.parse(path.read_bytes(), str(path), _options(arguments))
            sources.append(Source(str(path), path.name, run_id, log))
        except OSError as error:
            problems.append(f"{path}: cannot be read: {error.strerror}")
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise InputError("\n".join([*problems, "nothing was imported"]))
    return sources


def _options(arguments: argparse.Namespace) -> "Options":
    from ksm_analysis.results.imports.series import Options

    columns = tuple(arguments.map)
    return Options(arguments.period, arguments.page_size, columns, arguments.time)


def _of_server(arguments: argparse.Namespace) -> list[Source]:
    """Read a range from a server. Raises InputError if it has none of the counters."""
    import sys
    import time

    from ksm_analysis.results.imports import prometheus

    kind, url = arguments.server
    if kind != "prometheus":
        raise InputError(f"--from {kind} is not known. There is: prometheus")
    end = time.time() if arguments.end is None else arguments.end
    start = end - 86400 if arguments.start is None else arguments.start
    step = 60.0 if arguments.step is None else arguments.step
    if start >= end:
        raise InputError("--start must be before --end")
    asked = prometheus.Range(start, end, step)
    answers = []
    for query in arguments.query or [prometheus.QUERY]:
        name, expression = prometheus.named(query)
        print(f"reading {expression} ...", file=sys.stderr)
        answers.append((name, prometheus.fetch(url, expression, asked)))
    logs = prometheus.logs(answers, _options(arguments), step)
    ids = names([Path(log.host) for log in logs])
    for log, run_id in zip(logs, ids, strict=True):
        _require_free(arguments.results / run_id, log.host)
    return [Source(log.host, log.host, run_id, log) for log, run_id in zip(logs, ids, strict=True)]


def _require_free(place: Path, name: str) -> None:
    partial = _partial(place)
    if place.exists():
        raise InputError(
            f"{name}: {place} exists and is not overwritten. Use another --results, or rename the "
            "file"
        )
    if partial.exists():
        raise InputError(f"{name}: {partial} is left from an interrupted import. Remove it")


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
    arguments: argparse.Namespace, sources: list[Source], earlier: list[Any]
) -> list[Any]:
    """Make the run.json of each file, numbered after the existing runs."""
    from collections import Counter

    from ksm_analysis.definition.factors import REPETITION, cell
    from ksm_analysis.results.imports import log as imported

    experiment = arguments.results.resolve().name
    index = max((each["index"] for each in earlier), default=0)
    seen = Counter(cell(each["factors"]) for each in earlier)
    records = []
    for n, source in enumerate(sources, start=1):
        factors = imported.cell(source.log)
        seen[cell(factors)] += 1
        factors[REPETITION] = seen[cell(factors)]
        planned = imported.planned(
            source.log, source.run_id, index + n, factors, arguments.memory_mib
        )
        records.append(imported.record(source.log, source.file, experiment, planned))
    return records


# --- what is written, and said --------------------------------------------------------------------


def _write(directory: Path, sources: list[Source], records: list[dict[str, Any]]) -> None:
    """Write all run directories, then rename them. Incomplete directories are removed."""
    import shutil

    places = [directory / each.run_id for each in sources]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for place, record, source in zip(places, records, sources, strict=True):
            _write_run(_partial(place), record, source.log)
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

    from ksm_analysis.results.imports.log import samples

    place.mkdir()
    (place / "run.json").write_text(f"{json.dumps(record, indent=4)}\n", encoding="utf-8")
    with (place / "samples.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in samples(log))
    (place / "events.jsonl").touch()


def _tell(
    sources: list[Source], records: list[dict[str, Any]], earlier: list[dict[str, Any]]
) -> None:
    """Print warnings about a file to standard error."""
    import sys

    known = {each["sha256"]: each["id"] for each in reversed(earlier) if each["sha256"]}
    for source, record in zip(sources, records, strict=True):
        first = known.setdefault(source.log.sha256, source.name)
        for note in (*_notes(source, first), *_repeated(record)):
            place = "" if note.startswith(f"{source.name}:") else f"{source.name}: "
            print(f"warning: {place}{note}", file=sys.stderr)


def _repeated(record: dict[str, Any]) -> Iterator[str]:
    """Warn that a log counts as a repetition, because the log itself does not say."""
    number = record["run"]["factors"]["repetition"]
    if number > 1:
        yield (
            f"counts as repetition {number} of a cell, because another log has the same guests, "
            "knobs and command; if that is wrong, import it into a separate directory"
        )


def _notes(source: Source, first: str) -> Iterator[str]:
    log = source.log
    yield from log.notes
    if log.cut_short:
        yield f"the log {log.cut_short}; complete intervals are imported"
    for key, value in log.assumed.items():
        yield f"no usable {key}: {value:g} is assumed"
    if log.other:
        lines = "1 line has" if len(log.other) == 1 else f"{len(log.other)} lines have"
        yield f"{lines} an unknown form, kept in run.json: {log.other[0][:60]}"
    if first != source.name:
        yield f"identical to {first}: it is not a separate measurement"
