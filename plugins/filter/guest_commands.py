"""Workloads of guests, as the commands that guest_agent runs."""

from __future__ import annotations

TIMED_OUT = [124, 137]  # how timeout(1) says that it has ended a command, or had to kill it


def guest_commands(parts: list[dict], prefix: str, start: float) -> list[dict]:
    """One command for each guest of each part.

    A part has `guests` (numbers), `start` and `stop` (seconds) and either `stress_ng` (options) or
    `command` (argv). The filter's `start` is when the seconds begin, on the host's CLOCK_MONOTONIC.
    """
    return [
        {
            "guest": f"{prefix}{number:02}",
            "argv": argv(part),
            "at": start + part["start"],
            "seconds": part["stop"] - part["start"],
            "success": [0] if "stress_ng" in part else [0, *TIMED_OUT],
        }
        for part in parts
        for number in part["guests"]
    ]


def argv(part: dict) -> list[str]:
    """Return the command line of a part, which ends by itself when the part stops."""
    seconds = part["stop"] - part["start"]
    if "stress_ng" not in part:
        return ["/usr/bin/timeout", "--kill-after=5s", f"{seconds:g}s", *part["command"]]
    options = [option(name, value) for name, value in part["stress_ng"].items()]
    # It knows whole seconds only. With --quiet it would leave its metrics out of the YAML as well.
    limit = f"--timeout={max(1, round(seconds))}s"
    return ["/usr/bin/stress-ng", *filter(None, options), limit, "--metrics", "--yaml=/dev/stdout"]


def option(name: str, value: object) -> str:
    """One option of stress-ng: `vm_keep: true` is --vm-keep, `vm: 2` is --vm=2."""
    flag = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return flag if value else ""
    return f"{flag}={value}"


class FilterModule:
    """Filters of the role."""

    def filters(self) -> dict:
        """Names and functions."""
        return {"guest_commands": guest_commands}
