"""Workloads of guests, as the commands that guest_agent runs."""

from __future__ import annotations

TIMED_OUT = [124, 137]  # exit codes of timeout(1) when it ended or killed the command


def guest_commands(parts: list[dict], prefix: str, start: float) -> list[dict]:
    """Return one command for each guest of each task.

    A task has `guests` (numbers), `start` and `stop` (seconds) and either `stress_ng` (options) or
    `command` (argv). The argument `start` is second 0, on the host's CLOCK_MONOTONIC.
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
    """Return the command line of a task. The command ends when the task stops."""
    seconds = part["stop"] - part["start"]
    if "stress_ng" not in part:
        return ["/usr/bin/timeout", "--kill-after=5s", f"{seconds:g}s", *part["command"]]
    options = [option(name, value) for name, value in part["stress_ng"].items()]
    # stress-ng accepts only whole seconds. With --quiet it would omit its metrics from the YAML.
    limit = f"--timeout={max(1, round(seconds))}s"
    return ["/usr/bin/stress-ng", *filter(None, options), limit, "--metrics", "--yaml=/dev/stdout"]


def option(name: str, value: object) -> str:
    """Return one option of stress-ng: `vm_keep: true` is --vm-keep, `vm: 2` is --vm=2."""
    flag = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return flag if value else ""
    return f"{flag}={value}"


class FilterModule:
    """Filters of the role part_workload."""

    def filters(self) -> dict:
        """Return the filters by name."""
        return {"guest_commands": guest_commands}
