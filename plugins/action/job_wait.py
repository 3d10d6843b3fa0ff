"""Wait for an asynchronous job, and say meanwhile how far the sampling is."""

from __future__ import annotations

import json
import shlex
import time

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

# A plugin of the controller and not a module: each look at the host is one `tail` there, where a
# module would start Python again and again on the very processors that are being measured.

display = Display()
END_POLL_SECONDS = 0.2  # once the job should have ended
OUTPUT = ("stdout", "stderr")
SHOWN = ("full_scans", "pages_sharing", "general_profit")


class ActionModule(ActionBase):
    """Arguments.

    `job`: what the task that started it has registered. `seconds`: how long it should take, and
    `grace`: how much longer it may. `samples`: the sampler's file, to report from; `label`: the
    name of the run in these reports; `report`: seconds between them. Returns the job's own result,
    and forgets the job.
    """

    _requires_connection = True
    _supports_check_mode = False  # no job has been started that could be waited for
    _VALID_ARGS = frozenset(("job", "seconds", "grace", "samples", "label", "report"))

    def run(self, tmp=None, task_vars=None):
        """Wait, and return the result of the job."""
        super().run(tmp, task_vars)
        arguments = self._task.args
        job, seconds = arguments["job"]["results_file"], float(arguments["seconds"])
        grace, report = float(arguments.get("grace", 60)), float(arguments.get("report", 10))
        began, host = time.monotonic(), task_vars["inventory_hostname"]
        while True:
            ended, sample = self._look_again(job, arguments.get("samples"))
            if ended is not None:
                self._shell(f"rm -f {shlex.quote(job)}")
                lines = {f"{key}_lines": ended.get(key, "").splitlines() for key in OUTPUT}
                return ended | lines
            if sample and arguments.get("label"):
                display.display(f"sampling: host={host} run={arguments['label']} {sample}")
            left = began + seconds - time.monotonic()
            if left < -grace:
                late = f"The job has not ended {grace:g} s after it should have."
                raise AnsibleActionFail(late)
            time.sleep(min(report, left) if left > END_POLL_SECONDS else END_POLL_SECONDS)

    def _look_again(self, job, samples):
        """Look; a host that cannot be reached just now has not ended, and is not lost."""
        try:
            return self._look(job, samples)
        except AnsibleConnectionFailure as error:
            display.warning(f"cannot look how far the sampling is: {error}")
            self._connection.reset()
            return None, None

    def _look(self, job, samples):
        """Return the job's result, or None, and the last sample in words, or None."""
        command = f"cat {shlex.quote(job)}; echo"
        if samples:
            command += f"; head -n 1 {shlex.quote(samples)}; tail -n 1 {shlex.quote(samples)}"
        found = {"job": {}, "header": {}, "sample": {}}
        for line in filter(None, map(_json, self._shell(command).splitlines())):
            found[line.get("kind", "job")] = line
        # The job's file is there from its start; these keys come with its end.
        if found["job"].keys() & {"rc", "failed", "guests"}:
            return found["job"], None
        return None, _words(found["header"], found["sample"])

    def _shell(self, command):
        """Run a command on the host and return what it prints."""
        return self._low_level_execute_command(f"{{ {command}; }} 2>/dev/null")["stdout"]


def _json(line):
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _words(header, sample):
    if not header or not sample:
        return None
    seconds = sample["monotonic"] - header["monotonic"]
    length = (header["samples"] - 1) * header["period"]
    counters = (f"{name}={sample['ksm'][name]}" for name in SHOWN if name in sample["ksm"])
    page_size = f"page_size={header['page_size']}"
    return " ".join([f"seconds={seconds:.1f}", f"of={length:g}", *counters, page_size])
