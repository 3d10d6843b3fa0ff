"""Results that lie elsewhere: a directory at an address such as s3://bucket/results/quick.

fsspec reads them. A copy of their raw files is kept in the user's cache, and only what is new or
changed is fetched again: ETag, size and time of change tell. A file gets its name when it is
whole, so that a connection that is lost leaves nothing that could be taken for more than it is;
the next call continues. Reductions are never fetched, since they count only beside their raw files:
they are made here, once, and stay with the copy.

Credentials are what the file system of the address finds by itself: environment, configuration.
They are in no message: errors of other programs are named by their kind only.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from ksm_analysis.errors import InputError

INSTALL = "pip install 'ksm-testbed[remote]'"
AT_ONCE = 16  # files that are fetched at the same time
PROGRESS = 5  # s between two lines about progress
S3 = {"config_kwargs": {"connect_timeout": 5, "read_timeout": 20, "retries": {"max_attempts": 2}}}
KNOWN = "known.json"  # of a copy: what was at the address, by file
Place = Path | str  # a directory, or an address
State = list[str]  # ETag or times, and size, of a file at an address


def place(text: str) -> Place:
    """Return a directory, or an address as it is."""
    return text if "://" in text else Path(text)


def cache() -> Path:
    """Return the user's cache of this project."""
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return user / "ksm-testbed"


def local(where: Place) -> Path:
    """Return a directory as it is, and for an address its copy, with all that is new there.

    Raises InputError if the address cannot be read; what was fetched before then is kept.
    """
    if isinstance(where, Path):
        return where
    called = shown(where)
    with _in_words(called):
        system, root = _opened(where, called)
        there = _listed(system, root)
    if not there:
        raise InputError(f"{called}: no such directory, or nothing is in it")
    # A name of its own, since the page shows it
    own = hashlib.blake2b(where.encode(), digest_size=16).hexdigest()
    copy = cache() / "remote" / own / (PurePosixPath(root).name or "results")
    try:
        copy.mkdir(parents=True, exist_ok=True)
        with (copy.parent / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            _brought_up_to_date(copy, system, root, there, called)
    except OSError as error:
        raise InputError(f"{copy}: cannot be written: {error.strerror}") from None
    return copy


def shown(where: Place) -> str:
    """Return what messages call it: an address without a user, and without what is after a ?."""
    if isinstance(where, Path):
        return str(where)
    parts = urlsplit(where)
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
    except ValueError:
        known = "s3, file, memory, and others that fsspec knows"
        raise InputError(f"{called}: {scheme}:// is not known. Addresses are of {known}") from None
    if options:
        system.retries = 2
    return system, str(root).rstrip("/")


def _listed(system: Any, root: str) -> dict[str, State]:
    """Return the state of each raw file below a root, by its relative path."""
    found = {}
    for path, info in system.find(root, detail=True).items():
        relative = PurePosixPath(path[len(root) :].lstrip("/"))
        name, known = relative.name, relative.parts
        if ".." in known or any(part.startswith(".") for part in known):
            continue
        if not name.endswith((".parquet", ".html")):
            if info.get("size") is None:  # as in lists of HTTP
                info = {**info, **system.info(path)}
            keys = ("ETag", "etag", "LastModified", "mtime", "created")
            state = [str(info[key]) for key in keys if info.get(key) is not None]
            found[str(relative)] = [*state, str(info["size"])]
    return found


def _brought_up_to_date(
    copy: Path, system: Any, root: str, there: dict[str, State], called: str
) -> None:
    """Fetch what a copy has not, and remove what is no longer at the address."""
    known = _known(copy)
    for name in {*known} - {*there}:
        (copy / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            (copy / name).parent.rmdir()
    known = {
        name: state
        for name, state in known.items()
        if there.get(name) == state and (copy / name).is_file()
    }
    missing = [name for name in there if name not in known]
    told = time.monotonic()
    try:
        with _in_words(called), ThreadPoolExecutor(AT_ONCE) as pool:
            fetching = {
                pool.submit(_fetch, system, f"{root}/{name}", copy / name, there[name]): name
                for name in missing
            }
            try:
                for number, done in enumerate(as_completed(fetching), start=1):
                    done.result()
                    known[fetching[done]] = there[fetching[done]]
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


def _fetch(system: Any, path: str, to: Path, state: State) -> None:
    """Fetch a file completely or not at all."""
    to.parent.mkdir(parents=True, exist_ok=True)
    beside = to.with_name(f".{to.name}.part")
    try:
        system.get_file(path, str(beside))
        if beside.stat().st_size != int(state[-1]):
            raise ConnectionError(f"{path} is not whole")
        beside.replace(to)
    finally:
        beside.unlink(missing_ok=True)


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
