"""Facts in files: of one host, or of several in a bundle."""

import json
from pathlib import Path
from typing import Any

from ksm_analysis.doctor.facts import Facts
from ksm_analysis.doctor.shape import FORMAT
from ksm_analysis.errors import InputError


def load(path: Path) -> dict[str, Facts]:
    """Return the facts of each host in a file, by name. Raises InputError.

    The file is a bundle of `doctor --collect`, the output of `doctor --json`, or that of
    ksm_facts.py, which is one host's facts.
    """
    try:
        given = json.loads(path.read_text(), parse_constant=_refuse)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: no JSON: {error}") from None
    if isinstance(given, dict) and isinstance(given.get("hosts"), dict):
        hosts = {
            name: each["facts"] if isinstance(each, dict) and "facts" in each else each
            for name, each in given["hosts"].items()
        }
        if not hosts:
            raise InputError(f"{path}: a bundle without hosts")
        return hosts
    if isinstance(given, dict) and "readings" in given:
        return {path.stem: given}
    raise InputError(
        f"{path}: neither a bundle of `doctor --collect`, nor output of `doctor --json` or "
        "ksm_facts.py"
    )


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")


def dump(hosts: dict[str, Any]) -> str:
    """Return a bundle of facts by host as text. Hosts without facts are left out."""
    known = {name: facts for name, facts in hosts.items() if facts is not None}
    return json.dumps({"format": FORMAT, "hosts": known}, indent=1, allow_nan=False) + "\n"
