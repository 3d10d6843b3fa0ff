"""How many copies fit into a budget of memory: they are added until they no longer do.

`copies` are ksm_copies.Copies, or guests with the same methods. The options are those of `density`
in docs/experiments.md: memory_mib, step, limit, settle_seconds, answer_seconds, answer_p99_ms and
psi_full (percent), which may be null, storm.

Standard library only, Python 3.9 or newer.
"""

import contextlib
import math
import os
import signal
import time
from pathlib import Path

from ksm_copies import POLL_SECONDS, members
from ksm_services import FailedError

ANSWERS = 100  # for a 99th percentile
STORM_SECONDS = 1.0  # before copies are asked whether they have survived


def add_until_it_breaks(copies, begin):
    """Add copies until one fails, or there are as many as allowed, and tell how many fit.

    A failure of the first copies, which must fit, is an error: FailedError.
    """
    asked = copies.asked["density"]
    copies.watch(begin)
    settle(copies)
    fit, reason = len(copies.there), ""
    try:
        while fit < asked["limit"]:
            for number in range(fit + 1, min(fit + asked["step"], asked["limit"]) + 1):
                copies.start(number)
            copies.wait_ready()
            settle(copies)
            fit = len(copies.there)
    except FailedError as error:
        reason = broken(copies) or str(error)
    except BaseException:  # the end of the run
        told(copies, fit, "the end of the run", broke=False)
        raise
    told(copies, fit, reason or f"the limit of {asked['limit']}", broke=bool(reason))
    make_room(copies, fit, reason)
    if asked["storm"]:
        storm(copies)


def told(copies, fit, reason, broke):
    """Tell how many copies fit, and why not more."""
    copies.tell(event="density ended", copies=fit, reason=reason, broke=broke)
    copies.tell(metric="density_copies", value=fit, unit=copies.unit, better="higher")


def settle(copies):
    """Wait, while ksmd merges. Raises FailedError if a criterion is not met then."""
    asked = copies.asked["density"]
    since, stalled = time.monotonic(), stall_seconds(copies.state)
    copies.watch(since + asked["settle_seconds"])
    if asked["psi_full"] is not None:
        if stalled is None:
            raise FailedError("psi_full: this kernel has no pressure stall information (PSI)")
        share = (stall_seconds(copies.state) - stalled) / (time.monotonic() - since)
        if 100 * share > asked["psi_full"]:
            words = f"PSI full {100 * share:.1f} % > {asked['psi_full']:g} %"
            raise FailedError(words)
    for copy in copies.there:
        if not answers_within(copies, copy, asked["answer_seconds"]):
            raise FailedError(f"{copy['name']} did not answer within {asked['answer_seconds']:g} s")
    if asked["answer_p99_ms"] is not None:
        require_p99(copies)


def require_p99(copies):
    """Raise FailedError if the 99th percentile of the answer times of a copy is over the limit."""
    most = copies.asked["density"]["answer_p99_ms"]
    for copy in copies.there:
        times = sorted(answer_ms(copies, copy) for _ in range(ANSWERS))
        p99 = times[math.ceil(0.99 * ANSWERS) - 1]
        if p99 > most:
            raise FailedError(f"{copy['name']}: p99 of answers {p99:.1f} ms > {most:g} ms")


def answer_ms(copies, copy):
    """Return how long a copy takes to answer its check, in milliseconds."""
    since = time.perf_counter()
    if not answers_within(copies, copy, copies.asked["density"]["answer_seconds"]):
        return float("inf")
    return 1000 * (time.perf_counter() - since)


def answers_within(copies, copy, seconds):
    """Whether a copy answers its check within a time."""
    until = time.monotonic() + seconds
    while not copies.answers(copy, max(POLL_SECONDS, until - time.monotonic())):
        if time.monotonic() > until or copies.has_ended(copy):
            return False
        time.sleep(POLL_SECONDS)
    return True


def stall_seconds(state):
    """Return how long all tasks waited for memory: those of the cgroup, or in version 1 the host's.

    None if the kernel does not say.
    """
    own = Path(state["cgroup"], "memory.pressure")
    path = own if state["version"] == 2 and own.exists() else Path("/proc/pressure/memory")
    with contextlib.suppress(OSError, StopIteration):
        line = next(line for line in path.read_text().splitlines() if line.startswith("full"))
        return int(line.rpartition("total=")[2]) / 1e6
    return None


def broken(copies):
    """Say which copies the kernel has killed because there was no memory; empty without any."""
    killed = [copy["name"] for copy in copies.there if copies.was_killed(copy)]
    return f"an OOM kill in {', '.join(killed)}" if killed else ""


def make_room(copies, fit, reason):
    """End copies that are broken, and the last ones, until there are as many as fit."""
    while True:
        for copy in list(copies.there):
            if copies.was_killed(copy) or copies.has_ended(copy):
                copies.leave(copy, reason)
        for copy in copies.there[fit:]:
            copies.leave(copy, reason)
        with contextlib.suppress(FailedError):
            return copies.wait_ready()
        if not broken(copies):  # one that does not answer in time
            fit = sum(bool(copy["pids"]) for copy in copies.there)


def storm(copies):
    """Let all copies write to all pages of their data at once, and tell how many it has killed."""
    settled = len(copies.there)
    with contextlib.suppress(FailedError):
        copies.watch(time.monotonic() + copies.asked["density"]["settle_seconds"])
    copies.tell(event="density storm", copies=settled)
    for copy in copies.there:
        for pid in members(copy["group"]):
            if pid != copy["process"].pid:  # the first process has no data
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGUSR1)
    time.sleep(STORM_SECONDS)
    killed = [copy for copy in list(copies.there) if not has_survived(copies, copy)]
    for copy in killed:
        copies.leave(copy, "the storm of writes")
    copies.tell(event="density storm ended", copies=settled, killed=len(killed))
    copies.tell(metric="density_storm_killed", value=len(killed), unit="copies", better="lower")


def has_survived(copies, copy):
    """Whether a copy answers, with each of its workers, and none was killed."""
    for _ in range(copies.asked["workers"]):
        if not answers_within(copies, copy, copies.asked["density"]["answer_seconds"]):
            return False
    return not copies.was_killed(copy)
