"""One finding of the doctor, and its words."""

from dataclasses import asdict, dataclass
from typing import Any

KSM = "/sys/kernel/mm/ksm"
# How bad it is, the worst first. A note is only worth knowing: nothing is wrong.
BLOCKS, LIMITS, COSTS, UNSEEN, NOTE = "blocks", "limits", "costs", "unseen", "note"
SEVERITIES = (BLOCKS, LIMITS, COSTS, UNSEEN, NOTE)


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth knowing."""

    finding: str  # its name, the same in docs/doctor.md
    severity: str
    what: str
    where: dict[str, Any]  # kind (host, domain or process), and name and pid of the latter two
    evidence: dict[str, Any]  # names as in the facts, and their values
    why: str
    fix: str

    def plain(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)


HOST = {"kind": "host", "name": None, "pid": None}


def hours(seconds: float) -> str:
    """A long time, no finer than it is good for."""
    return f"{seconds / 3600:.1f} hours" if seconds >= 3600 else f"{seconds / 60:.0f} minutes"


def mib(size: int) -> str:
    """Bytes, in words."""
    if size < 1024**2:
        return f"{size / 1024:,.0f} KiB"
    return f"{size / 1024**2:,.0f} MiB" if size < 10 * 1024**3 else f"{size / 1024**3:,.1f} GiB"
