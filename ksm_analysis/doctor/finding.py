"""One finding of the doctor, and formatting of its values."""

from dataclasses import asdict, dataclass
from typing import Any

KSM = "/sys/kernel/mm/ksm"
# Severities, the worst first. A note is for information: nothing is wrong.
DANGER, BLOCKS, LIMITS, COSTS, UNSEEN, NOTE = (
    *("danger", "blocks", "limits", "costs", "unseen", "note"),
)
SEVERITIES = (DANGER, BLOCKS, LIMITS, COSTS, UNSEEN, NOTE)


@dataclass(frozen=True)
class Finding:
    """One problem, or one note."""

    finding: str  # its name, the same in docs/doctor.md
    severity: str
    what: str
    where: dict[str, Any]  # kind (host, domain or process), and name and pid of the latter two
    evidence: dict[str, Any]  # names as in the facts, and their values
    why: str
    fix: str

    def plain(self) -> dict[str, Any]:
        """Return the finding for JSON."""
        return asdict(self)


HOST = {"kind": "host", "name": None, "pid": None}


def hours(seconds: float) -> str:
    """Format a long time with suitable precision."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 3600:.1f} hours" if seconds >= 3600 else f"{seconds / 60:.0f} minutes"


def mib(size: float) -> str:
    """Format bytes."""
    if abs(size) < 1024**2:
        return f"{size / 1024:,.0f} KiB"
    return (
        f"{size / 1024**2:,.0f} MiB" if abs(size) < 10 * 1024**3 else f"{size / 1024**3:,.1f} GiB"
    )
