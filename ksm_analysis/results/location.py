"""Results that lie elsewhere: a directory at an address such as s3://bucket/results/quick.

fsspec reads them. There must be run directories. What the reader reads of these is copied to the
user's cache, and only what is new or changed is fetched again: ETag, size and time of change tell.
A file gets its name when it is whole, so that a connection that is lost leaves nothing that could
be taken for more than it is; the next call continues. Reductions are never fetched, since they
count only beside their raw files: they are made here, once, and stay with the copy.

Credentials are what the file system of the address finds by itself: environment, configuration.
They are in no message: errors of other programs are named by their kind only.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from ksm_analysis.errors import InputError

INSTALL = "pip install 'ksm-testbed[remote]'"
AT_ONCE = 16  # files that are fetched at the same time
PROGRESS = 5  # s between two lines about progress
S3 = {"config_kwargs": {"connect_timeout": 5, "read_timeout": 20, "retries": {"max_attempts": 2}}}
EXAMPLE = "An address is such as s3://bucket/results/quick"
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}  # errors of the disk of the copy
RAW = (".json", ".jsonl")  # files that the reader reads
PARTIAL = ".partial"  # the reader warns of these
KNOWN = "known.json"  # of a copy: what was at the address, by file
Place = Path | str  # a directory, or an address
State = list[str]  # ETag or times, and size, of a file at an address
There = dict[str, tuple[str, State]]  # path at the address and state, by path in the copy


def place(text: str) -> Place:
    """Return a directory, or an address as it is."""
    return text if "://" in text else Path(text)


def cache() -> Path:
    """Return the user's cache of this project."""
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return user / "ksm-testbed"


def locals_of(several: Sequence[Place]) -> list[Path]:
    """Return directories as local() does. Raises InputError if an address is given twice."""
    addresses = [each.rstrip("/") for each in several if isinstance(each, str)]
    for each in addresses:
        if addresses.count(each) > 1:
            raise InputError(f"{shown(each)}: given twice, so its runs would count twice")
    return [*map(local, several)]


def local(where: Place) -> Path:
    """Return a directory as it is, and for an address its copy, with all that is new there.

    Raises InputError if the address cannot be read; what was fetched before then is kept.
    """
    if isinstance(where, Path):
        return where
    called = shown(where)
    with _in_words(called):
        system, root = _opened(where, called)
        there = _listed(system, root, called)
    # A name of its own, since the page shows it
    own = hashlib.blake2b(where.encode(), digest_size=16).hexdigest()
    copy = cache() / "remote" / own / (PurePosixPath(root).name or "results")
    try:
        copy.mkdir(parents=True, exist_ok=True)
        with (copy.parent / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            _brought_up_to_date(copy, system, there, called)
    except OSError as error:
        raise _unwritten(copy, error) from None
    return copy


def shown(where: Place) -> str:
    """Return what messages call it: an address without a user, and without what is after a ?.

    Raises InputError if it is no address.
    """
    if isinstance(where, Path):
        return str(where)
    try:
        parts = urlsplit(where)
    except ValueError as error:
        scheme, _, rest = where.partition("://")
        plain = f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}"
        raise InputError(f"{plain}: not an address: {error}. {EXAMPLE}") from None
    if not (parts.netloc + parts.path).strip("/"):
        raise InputError(f"{parts.scheme}://: names no directory. {EXAMPLE}")
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _opened(where: str, called: str) -> tuple[Any, str]:
    try:
        import fsspec
    except ImportError:
        raise InputError(f"{called}: results elsewhere need fsspec: {INSTALL}") from None
    scheme = where.partition("://")[0]
    try:
        options = S3 if scheme in ("s3", "s3a") else {}
        system, root = fsspec.core.url_to_fs(where, **options)
    except ImportError as error:
        raise InputError(f"{called}: {error}. For S3: {INSTALL}") from None
    except ValueError as error:
        if scheme in fsspec.available_protocols():
            raise InputError(f"{called}: not an address: {error}. {EXAMPLE}") from None
        known = "s3, file, memory, and others that fsspec knows"
        raise InputError(f"{called}: {scheme}:// is not known. Addresses are of {known}") from None
    if options:
        system.retries = 2
    system.invalidate_cache()
    return system, str(root).rstrip("/")


def _listed(system: Any, root: str, called: str) -> There:
    """Return what is at an address: the plan, and what is read of each run directory.

    Only the directory and those in it are listed, whatever is deeper. All must be listed: what is
    missing in a list is taken for removed.
    """
    top = _named(system, root, called)
    directories = {name: info["name"] for name, info in top.items() if info["type"] == "directory"}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        lists = pool.map(lambda path: _named(system, path, called), directories.values())
        inner = dict(zip(directories, lists, strict=True))
        runs = {n: each for n, each in inner.items() if "run.json" in each or n.endswith(PARTIAL)}
        if not runs:
            raise InputError(
                f"{called}: no runs here. Give the address of an experiment's results: it has a "
                "directory for each run, with a run.json"
            )
        files = {"plan.json": top["plan.json"]} if "plan.json" in top else {}
        for run, each in runs.items():
            files |= {f"{run}/{n}": i for n, i in each.items() if n.endswith(RAW)}
        states = pool.map(lambda info: _state(system, info), files.values())
        return {
            name: (info["name"], state)
            for (name, info), state in zip(files.items(), states, strict=True)
        }


def _named(system: Any, directory: str, called: str) -> dict[str, dict[str, Any]]:
    """List a directory by names. Hidden files are left out."""
    found = {}
    for info in system.ls(directory := directory.rstrip("/"), detail=True):
        path = info["name"].rstrip("/")
        name = path.rpartition("/")[2]
        if path == directory:
            if "ETag" not in info:  # not the key that stands for the directory itself
                print(f"{called}: left out what has an empty name in its path", file=sys.stderr)
        elif not name.startswith("."):
            found[name] = info
    return found


def _state(system: Any, info: dict[str, Any]) -> State:
    if info.get("size") is None:  # as in lists of HTTP
        info = {**info, **system.info(info["name"])}
    keys = ("ETag", "etag", "LastModified", "mtime", "created")
    return [*(str(info[key]) for key in keys if info.get(key) is not None), str(info["size"])]


def _brought_up_to_date(copy: Path, system: Any, there: There, called: str) -> None:
    """Fetch what a copy has not, and remove what is no longer at the address."""
    known = _known(copy)
    runs = {name.partition("/")[0] for name in there}
    for path in copy.iterdir():
        if path.is_dir() and path.name not in runs:
            shutil.rmtree(path)  # with what was made here
    for name in {*known} - {*there}:
        (copy / name).unlink(missing_ok=True)
    known = {
        name: state
        for name, state in known.items()
        if name in there and there[name][1] == state and (copy / name).is_file()
    }
    missing = [name for name in there if name not in known]
    told = time.monotonic()
    try:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            fetching = {
                pool.submit(_fetch, system, *there[name], copy / name, called): name
                for name in missing
            }
            try:
                for number, done in enumerate(as_completed(fetching), start=1):
                    done.result()
                    known[fetching[done]] = there[fetching[done]][1]
                    if time.monotonic() - told > PROGRESS:
                        told = time.monotonic()
                        _remember(copy, known)
                        print(f"{called}: {number:,} of {len(missing):,} files", file=sys.stderr)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    finally:
        _remember(copy, known)


def _remember(copy: Path, known: dict[str, State]) -> None:
    """Write down what was fetched."""
    beside = copy.parent / f".{KNOWN}"
    beside.write_text(json.dumps(known))
    beside.replace(copy.parent / KNOWN)


def _known(copy: Path) -> dict[str, State]:
    """Return what was fetched; nothing if that is not known."""
    try:
        found = json.loads((copy.parent / KNOWN).read_text())
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError):
        return {}


def _fetch(system: Any, path: str, state: State, to: Path, called: str) -> None:
    """Fetch a file completely or not at all."""
    to.parent.mkdir(parents=True, exist_ok=True)
    beside = to.with_name(f".{to.name}.part")
    try:
        with _in_words(called):
            _got(system, path, beside)
            if beside.stat().st_size != int(state[-1]):
                raise ConnectionError(f"{path} is not whole")
        beside.replace(to)
    finally:
        beside.unlink(missing_ok=True)


def _got(system: Any, path: str, to: Path) -> None:
    """Fetch a file. What the copy's disk refuses is no error of the server."""
    try:
        system.get_file(path, str(to))
    except OSError as error:
        if error.errno in FULL or error.filename == str(to):
            raise _unwritten(to.parent, error) from None
        raise


def _unwritten(place: Path, error: OSError) -> InputError:
    return InputError(f"{place}: cannot be written: {error.strerror}")


@contextlib.contextmanager
def _in_words(called: str) -> Iterator[None]:
    """Say in words what a file system raises, which may be anything."""
    try:
        yield
    except (InputError, KeyboardInterrupt):
        raise
    except FileNotFoundError:
        raise InputError(f"{called}: no such bucket or directory") from None
    except Exception as error:
        kind = type(error).__name__
        if isinstance(error, PermissionError) or "Credential" in kind:
            raise InputError(
                f"{called}: not allowed. Are there credentials, and are they right? For S3, these "
                "are AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or in ~/.aws/credentials"
            ) from None
        raise InputError(
            f"{called}: cannot be read ({kind}). Does the server answer? For S3 its address is "
            "that of AWS_ENDPOINT_URL. What was fetched is kept: try again to continue"
        ) from None
