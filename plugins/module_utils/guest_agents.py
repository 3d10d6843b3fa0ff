"""Use the QEMU guest agents of libvirt domains: wait for them, and run commands through them.

The module guest_agent and the program ksm_workload.py use it. Standard library and libvirt only.
"""

from __future__ import annotations

import base64
import json
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

try:
    import libvirt
    import libvirt_qemu
except ImportError:
    LIBVIRT_ERROR = traceback.format_exc()
else:
    LIBVIRT_ERROR = None

POLL_SECONDS = 0.25
SLEEP_SECONDS = 1
AGENT_SECONDS = 10  # libvirt's timeout for one answer


class GuestError(Exception):
    """A guest failed; the message is for the user."""


def now():
    """Return both clocks of the host."""
    return {"wall": time.time(), "monotonic": time.monotonic()}


def domain(connection, name):
    """Look up a running domain."""
    try:
        found = connection.lookupByName(name)
    except libvirt.libvirtError as error:
        raise GuestError(f"there is no domain {name}") from error
    if not found.isActive():
        raise GuestError(f"{name} is not running")
    return found


def ask(guest, command, **arguments):
    """Send one command to the agent of a domain and return its answer."""
    request = json.dumps({"execute": command, "arguments": arguments})
    return json.loads(libvirt_qemu.qemuAgentCommand(guest, request, AGENT_SECONDS, 0))["return"]


def poll(guest, deadline, attempt, what):
    """Call `attempt` until it returns something true. A guest that has ended is an error."""
    while True:
        try:
            answer = attempt()
            if answer:
                return answer
        except libvirt.libvirtError as error:
            if not alive(guest):
                raise GuestError(f"{guest.name()} stopped while {what}") from error
        if time.monotonic() > deadline:
            raise GuestError(f"{guest.name()}: timeout while {what}")
        time.sleep(POLL_SECONDS)


def alive(guest):
    """Whether the same domain still runs, and not a later one with its name."""
    try:
        return guest.connect().lookupByUUID(guest.UUID()).ID() == guest.ID()
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return False
        raise


def wait_ready(deadline, guest):
    """Wait until the agent answers a ping."""

    def ping():
        ask(guest, "guest-ping")
        return True

    poll(guest, deadline, ping, "waiting for its agent to answer")


def sleep_until(guest, until, stop):
    """Sleep without disturbing the guest; return whether to stop early. It must stay alive."""
    while not stop():
        left = until - time.monotonic()
        if left <= 0:
            return False
        if not alive(guest):
            raise GuestError(f"{guest.name()} has ended")
        time.sleep(min(left, SLEEP_SECONDS))
    return True


def wait_running(until, guest):
    """Wait until a time. The guest, which has no agent to ask, must still run then."""
    sleep_until(guest, until, lambda: False)
    if not alive(guest):
        raise GuestError(f"{guest.name()} has ended")


def execute(command, timeout, stop, tell, guest):
    """Run a command in a guest; return when it started, its exit code and its output.

    `stop` returns whether to stop early. `tell` is called when the command has started.
    """
    argv = command["argv"]
    if sleep_until(guest, command["at"], stop):
        return {}
    started = now()
    try:
        process = ask(guest, "guest-exec", path=argv[0], arg=argv[1:], **{"capture-output": True})[
            "pid"
        ]
    except libvirt.libvirtError as error:
        raise GuestError(f"{guest.name()}: cannot start {argv[0]}: {error}") from error
    tell(started)

    def ended():
        status = ask(guest, "guest-exec-status", pid=process)
        return status if status["exited"] else None

    stopping = sleep_until(guest, started["monotonic"] + command["seconds"], stop)
    # If the command has ended by itself, its exit code counts. The agent returns that only once.
    status = ended() if stopping else None
    early = stopping and status is None
    if early:
        interrupt(guest, process)
    deadline = time.monotonic() + timeout
    status = status or poll(guest, deadline, ended, f"waiting for {argv[0]} to end")
    exitcode = status.get("exitcode", -status.get("signal", 0))
    stderr = decoded(status, "err-data")
    good = early or exitcode in command["success"]
    return {
        "error": "" if good else f"{guest.name()}: {argv[0]} ended with {exitcode}: {stderr}",
        "started": started,
        "argv": argv,
        "exitcode": exitcode,
        "stdout": decoded(status, "out-data"),
        "stderr": stderr,
        "stopped_early": early,
    }


def interrupt(guest, process):
    """Ask a process in a guest to end, as Ctrl-C would."""
    argv = {"path": "/bin/sh", "arg": ["-c", 'kill -INT "$0"', str(process)]}
    ask(guest, "guest-exec", **argv)


def decoded(status, key):
    """Return the output of a command as text."""
    return base64.b64decode(status.get(key, "")).decode(errors="replace")


def serve(guest, act, since):
    """Call `act` for one guest. Errors are returned, so that each guest reports its own."""
    outcome = {"name": guest.name(), "error": "", "started": now()}
    since = outcome["started"]["monotonic"] if since is None else since
    try:
        outcome |= act(guest) or {}
    except (GuestError, libvirt.libvirtError) as error:
        outcome["error"] = str(error)
    outcome["stopped"] = now()
    outcome["seconds"] = outcome["stopped"]["monotonic"] - since
    return outcome


def serve_all(work, since=None):
    """Serve all guests in parallel, one thread each; return their outcomes in order.

    `work` is a list of (domain, function of it). All errors are in the outcomes.
    """
    with ThreadPoolExecutor(max(1, len(work))) as pool:
        return list(pool.map(lambda job: serve(*job, since), work))


def connect(uri):
    """Connect to libvirt, and keep it from printing errors to stderr."""
    libvirt.registerErrorHandler(lambda *_: None, None)
    try:
        return libvirt.open(uri)
    except libvirt.libvirtError as error:
        raise GuestError(str(error)) from error
