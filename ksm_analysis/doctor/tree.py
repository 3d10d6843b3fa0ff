"""Facts of a copy of another machine's files: a directory with its proc and sys."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from ksm_analysis.errors import InputError

PROGRAM = Path(__file__).parents[2] / "roles/doctor/files/ksm_facts.py"


def read(root: Path, later: Path | None, seconds: float | None) -> dict[str, Any]:
    """Return the facts of a tree. Raises InputError.

    The second reading is that of the tree `later`, so many seconds after the first; without
    `later`, it is the first again, and no rate is known. `seconds` may be None if both trees have
    proc/uptime.
    """
    facts = _run(root)
    first = facts["readings"][0]
    if later is None:
        facts["readings"] = [first, {**first}]
        return facts
    after = _run(later)
    if seconds is None:
        seconds = _between(facts, after)
    if seconds is None:
        raise InputError(f"--later {later}: give --seconds, the time between the two trees")
    reading = after["readings"][0]
    facts["readings"] = [first, {**reading, "monotonic": first["monotonic"] + seconds}]
    return facts


def _between(facts: dict[str, Any], after: dict[str, Any]) -> float | None:
    first, last = facts["host"]["uptime"], after["host"]["uptime"]
    if first is None or last is None or last <= first:
        return None
    return float(last - first)


def _run(root: Path) -> dict[str, Any]:
    if not PROGRAM.is_file():
        raise InputError(f"{PROGRAM}: no such file: use it from a clone of the repository")
    if not root.is_dir():
        raise InputError(f"{root}: no such directory")
    if not (root / "proc").is_dir() and not (root / "sys").is_dir():
        raise InputError(f"{root}: neither proc nor sys in it: expected copies of a machine's")
    command = [sys.executable, "-I", "-B", str(PROGRAM), "--root", str(root.absolute())]
    done = subprocess.run(
        [*command, "--seconds", "0"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        found: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise InputError(f"{root}: cannot be read: {said[-1]}") from None
    return found
