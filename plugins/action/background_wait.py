"""Wait until a program in the background has ended, and print how far a sampler is."""

from __future__ import annotations

import json
import shlex
import time
from pathlib import PurePosixPath
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

display = Display()
END_POLL_SECONDS = 0.2  # once the program should have ended
SHOWN = ("full_scans", "pages_sharing", "general_profit")
LOST = "has lost its supervisor, so nobody knows how it ended"
Look = dict[str, dict[str, Any]]


class ActionModule(ActionBase):
    """See plugins/modules/background_wait.py for arguments and result."""

    _requires_connection = True
    _supports_check_mode = False  # nothing was started that could be waited for
    _VALID_ARGS = frozenset(
        ("name", "directory", "seconds", "grace", "success", "samples", "label", "report")
    )

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Wait; return the record of the program."""
        super().run(tmp, task_vars)
        arguments = self._task.args
        name, host = arguments["name"], (task_vars or {})["inventory_hostname"]
        seconds, grace = float(arguments.get("seconds", 0)), float(arguments.get("grace", 60))
        report, began = float(arguments.get("report", 10)), time.monotonic()
        supervisor, lost = None, False
        while True:
            look = self._look(_command(arguments, supervisor))
            if look is not None:
                record = look.get("record", {})
                if "ended" in record:
                    return _judged(record, arguments.get("success", [0]))
                # Looked at once more: the record is replaced just before the supervisor ends.
                if lost and "lost" in look:
                    raise AnsibleActionFail(f"the {name} {LOST if record else 'was never started'}")
                lost = "lost" in look
                supervisor = record.get("supervisor", {}).get("pid", supervisor)
                if (label := arguments.get("label")) and (words := _progress(look)):
                    display.display(f"sampling: host={host} run={label} {words}")
            left = began + seconds - time.monotonic()
            if left < -grace:
                raise AnsibleActionFail(f"the {name} still runs {grace:g} s after its end was due")
            time.sleep(END_POLL_SECONDS if lost or left <= END_POLL_SECONDS else min(report, left))

    def _look(self, command: str) -> Look | None:
        """Look at the host; None if it cannot be reached just now, which does not end the wait."""
        try:
            said = self._low_level_execute_command(command)["stdout"]
        except AnsibleConnectionFailure as error:
            display.warning(f"cannot look at the program: {error}")
            self._connection.reset()
            return None
        return {key: value for line in said.splitlines() for key, value in _tagged(line)}


def _command(arguments: dict[str, Any], supervisor: int | None) -> str:
    """Print the record, whether its supervisor is gone, and the first and last line of samples."""
    record = shlex.quote(str(PurePosixPath(arguments["directory"]) / f"{arguments['name']}.json"))
    words = [f"printf 'record '; tr -d '\\n' < {record}; echo"]
    gone = f"test -e /proc/{supervisor}" if supervisor else f"test -e {record}"
    words += [f"{gone} || echo 'lost {{}}'"]
    if samples := arguments.get("samples"):
        file = shlex.quote(samples)
        words += [f"printf 'header '; head -n 1 {file}; printf 'sample '; tail -n 1 {file}"]
    return f"{{ {'; '.join(words)}; }} 2>/dev/null"


def _tagged(line: str) -> list[tuple[str, dict[str, Any]]]:
    """Split one line of a look into its tag and its JSON object; nothing if it is torn."""
    tag, _, text = line.partition(" ")
    try:
        value = json.loads(text)
    except ValueError:
        return []
    return [(tag, value)] if isinstance(value, dict) else []


def _judged(record: dict[str, Any], success: list[int]) -> dict[str, Any]:
    """Return the result of a program that has ended; a failure says how it ended."""
    if record["exit_code"] in success:
        return {"changed": False, "record": record}
    how = f"ended with exit code {record['exit_code']}"
    if record["signal"]:
        how = f"was killed by signal {record['signal']}"
    elif record["exit_code"] is None:
        how = LOST
    said = record["stderr"].strip().splitlines()[-1:]
    return {
        "failed": True,
        "msg": ". ".join([f"the {record['name']} {how}", *said]),
        "record": record,
    }


def _progress(look: Look) -> str:
    """Say how far the sampler is; empty before its first sample."""
    header, sample = look.get("header", {}), look.get("sample", {})
    if "samples" not in header or sample.get("kind") != "sample":
        return ""
    seconds = sample["monotonic"] - header["monotonic"]
    length = (header["samples"] - 1) * header["period"]
    counters = (f"{name}={sample['ksm'][name]}" for name in SHOWN if name in sample["ksm"])
    page_size = f"page_size={header['page_size']}"
    return " ".join([f"seconds={seconds:.1f}", f"of={length:g}", *counters, page_size])
