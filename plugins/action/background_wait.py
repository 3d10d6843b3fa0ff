"""Wait until a background program has ended, and print the progress of a sampler."""

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
SHOWN = ("full_scans", "pages_sharing", "ksm_zero_pages", "general_profit")
LOST = "has lost its supervisor, so its exit status is unknown"
Look = dict[str, Any]


class ActionModule(ActionBase):
    """See plugins/modules/background_wait.py for arguments and result."""

    _requires_connection = True
    _supports_check_mode = False  # check mode starts nothing, so there is nothing to wait for
    _VALID_ARGS = frozenset(
        (
            *("name", "directory", "ready", "seconds", "grace", "success"),
            *("samples", "label", "report"),
        )
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
                if "ready" in look:
                    return _ready(look["ready"])
                if "ended" in record:
                    early = "ready" in arguments  # whatever its exit code
                    return _judged(record, [] if early else arguments.get("success", [0]))
                # Read the record once more: it is replaced just before the supervisor ends.
                if lost and "lost" in look:
                    raise AnsibleActionFail(f"the {name} {LOST if record else 'was never started'}")
                lost = "lost" in look
                supervisor = record.get("supervisor", {}).get("pid", supervisor)
                if (label := arguments.get("label")) and (words := _progress(look)):
                    display.display(f"sampling: host={host} run={label} {words}")
            left = began + seconds - time.monotonic()
            if left < -grace:
                raise AnsibleActionFail(f"the {name} {_late(arguments, seconds, grace)}")
            time.sleep(END_POLL_SECONDS if lost or left <= END_POLL_SECONDS else min(report, left))

    def _look(self, command: str) -> Look | None:
        """Read the state on the host; None if the host is unreachable, and the wait continues."""
        try:
            said = self._low_level_execute_command(command)["stdout"]
        except AnsibleConnectionFailure as error:
            display.warning(f"cannot read the state of the program: {error}")
            self._connection.reset()
            return None
        return {key: value for line in said.splitlines() for key, value in _tagged(line)}


def _command(arguments: dict[str, Any], supervisor: int | None) -> str:
    """Return a command that prints the record, what is ready, a lost supervisor, and samples."""
    record = shlex.quote(str(PurePosixPath(arguments["directory"]) / f"{arguments['name']}.json"))
    words = [f"printf 'record '; tr -d '\\n' < {record}; echo"]
    gone = f"test -e /proc/{supervisor}" if supervisor else f"test -e {record}"
    words += [f"{gone} || echo 'lost {{}}'"]
    if ready := arguments.get("ready"):
        words += [f"printf 'ready '; tr -d '\\n' < {shlex.quote(ready)}; echo"]
    if samples := arguments.get("samples"):
        file = shlex.quote(samples)
        words += [f"printf 'header '; head -n 1 {file}; printf 'sample '; tail -n 1 {file}"]
    return f"{{ {'; '.join(words)}; }} 2>/dev/null"


def _tagged(line: str) -> list[tuple[str, Any]]:
    """Split one line of output into its tag and its JSON object; empty if it is incomplete.

    What is ready may also be a number, the process id.
    """
    tag, _, text = line.partition(" ")
    try:
        value = json.loads(text)
    except ValueError:
        return []
    return [(tag, value)] if isinstance(value, dict) or tag == "ready" else []


def _ready(said: Any) -> dict[str, Any]:
    """Return the result for a program that is ready, or says why it is not."""
    error = said.get("error") if isinstance(said, dict) else None
    return {"failed": True, "msg": error} if error else {"changed": False, "ready": said}


def _late(arguments: dict[str, Any], seconds: float, grace: float) -> str:
    """Describe a program that takes too long."""
    if "ready" in arguments:
        return f"was not ready within {seconds + grace:g} s"
    return f"still runs {grace:g} s after its end was due"


def _judged(record: dict[str, Any], success: list[int]) -> dict[str, Any]:
    """Return the result of an ended program. A failure says how it ended."""
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
    """Describe the progress of the sampler; empty before its first sample."""
    header, sample = look.get("header", {}), look.get("sample", {})
    if "samples" not in header or sample.get("kind") != "sample":
        return ""
    seconds = sample["monotonic"] - header["monotonic"]
    length = (header["samples"] - 1) * header["period"]
    counters = (f"{name}={sample['ksm'][name]}" for name in SHOWN if name in sample["ksm"])
    page_size = f"page_size={header['page_size']}"
    return " ".join([f"seconds={seconds:.1f}", f"of={length:g}", *counters, page_size])
