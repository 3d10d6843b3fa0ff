#!/usr/bin/python
"""Set, unmerge and restore the knobs of Kernel Samepage Merging."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ksm_knobs
short_description: Set the knobs of Kernel Samepage Merging
description:
  - Sets knobs in C(/sys/kernel/mm/ksm) in the order that the kernel demands, and only those that
    differ. A knob is a writable file there; the host's own list decides which exist.
  - C(advisor_mode) is turned off before C(pages_to_scan) is written and turned on after, since the
    kernel refuses C(pages_to_scan) while the advisor rules it. C(max_page_sharing) and
    C(merge_across_nodes) can only change while nothing is shared, so pages are unmerged first
    where a change to them meets shared pages. C(run) is written last.
  - When O(remember) is given and does not exist, all knobs are saved there before the first change.
options:
  knobs:
    description: Knobs and their values. Booleans count as 1 and 0.
    type: dict
    default: {}
  knobs_if_present:
    description: The same, but a knob that the kernel lacks is ignored.
    type: dict
    default: {}
  state:
    description:
      - V(set) sets O(knobs). V(restored) sets what O(remember) has saved and removes that file;
        nothing saved, nothing done. If ksmd did not run, all pages are unmerged first.
    type: str
    choices: [set, restored]
    default: set
  unmerge:
    description: >-
      Unmerge all pages (run=2) and wait until none is shared, before anything is set. ksmd also
      forgets what it knew and counts C(full_scans) from 0. Always a change.
    type: bool
    default: false
  at:
    description: >-
      Do it when the host's CLOCK_MONOTONIC reaches this, at most a minute ahead; a time that has
      passed means now.
    type: float
    default: 0
  timeout:
    description: Seconds to wait for pages to be unmerged.
    type: int
    default: 120
  remember:
    description: File that keeps the knobs as they were found.
    type: path
  directory:
    description: The directory of the knobs.
    type: path
    default: /sys/kernel/mm/ksm
attributes:
  check_mode:
    description: Says what would change, and changes nothing.
    support: full
  diff_mode:
    description: Shows what changes.
    support: full
author: [The KSM testbed authors (@ksm-testbed)]
"""

EXAMPLES = r"""
- name: Scan 1000 pages every 20 ms, from a clean start
  ksm.testbed.ksm_knobs:
    knobs: {run: 1, pages_to_scan: 1000, sleep_millisecs: 20}
    unmerge: true
    remember: /var/lib/ksm-testbed/knobs.json
"""

RETURN = r"""
before: {description: Every knob before, type: dict, returned: always}
after: {description: Every knob after (in check mode as it would be), type: dict, returned: always}
wall: {description: CLOCK_REALTIME when all was set, type: float, returned: always}
monotonic: {description: CLOCK_MONOTONIC when all was set, type: float, returned: always}
"""

import errno
import json
import os
import stat
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

NEEDS_NOTHING_SHARED = ("max_page_sharing", "merge_across_nodes")
MAX_WAIT = 60
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class KnobError(Exception):
    """A knob cannot be set, in words for the user."""


def knob_names(directory):
    """Names of all writable files: what the running kernel lets anyone set."""
    return sorted(path.name for path in directory.iterdir() if path.stat().st_mode & stat.S_IWUSR)


def parse(text):
    """Value of a knob: an int, or text; of `[none] scan-time` the word in brackets."""
    text = text.strip()
    if "[" in text:
        return text[text.index("[") + 1 : text.index("]")]
    try:
        return int(text)
    except ValueError:
        return text


def read(directory, names):
    """Return {name: value} of the named files."""
    return {name: parse((directory / name).read_text()) for name in names}


def wanted(knobs, names):
    """Check the asked knobs against those that exist; return {name: int or text}."""
    unknown = sorted(set(knobs) - set(names))
    if unknown:
        raise KnobError(
            f"this kernel has no KSM knob {', '.join(unknown)}; it has: {', '.join(names)}"
        )
    return {name: parse(str(int(v) if isinstance(v, bool) else v)) for name, v in knobs.items()}


def write(directory, name, value):
    """Write one knob; raise KnobError with the kernel's word and what it likely means."""
    try:
        (directory / name).write_text(str(value))
    except OSError as error:
        hints = {
            errno.EINVAL: "the kernel does not allow this value",
            errno.EBUSY: "pages are still shared",
            errno.EACCES: "this needs root",
        }
        hint = hints.get(error.errno, "the kernel refused")
        if name == "pages_to_scan" and error.errno == errno.EINVAL:
            hint += "; while the advisor is on it rules pages_to_scan (set advisor_mode: none)"
        raise KnobError(f"{name}={value}: {os.strerror(error.errno)}: {hint}") from error


def unmerge(directory, timeout):
    """Write run=2, which breaks all sharing, and wait until no page is shared."""
    write(directory, "run", 2)
    deadline = time.monotonic() + timeout
    while any(read(directory, ("pages_shared", "pages_sharing")).values()):
        if time.monotonic() > deadline:
            left = read(directory, ("pages_shared", "pages_sharing"))
            raise KnobError(f"pages are still shared {timeout} s after run=2: {left}")
        time.sleep(0.05)


def order(name):
    """Sort key of a knob: the advisor rules pages_to_scan, and run comes last."""
    return (name == "run", name == "advisor_mode", name)


def apply(directory, before, target, timeout, unmerge_first):
    """Bring the knobs from `before` to `target` (both complete) in an order the kernel accepts."""
    changes = {name: value for name, value in target.items() if before[name] != value}
    busy = any(name in changes for name in NEEDS_NOTHING_SHARED)
    if unmerge_first or (busy and read(directory, ["pages_shared"])["pages_shared"]):
        unmerge(directory, timeout)
        changes["run"] = target["run"]
    if before.get("advisor_mode", "none") != "none" and changes.keys() & {
        "advisor_mode",
        "pages_to_scan",
    }:
        # Turning the advisor off, too, sets pages_to_scan: to the kernel's default.
        write(directory, "advisor_mode", "none")
        changes |= {name: target[name] for name in ("advisor_mode", "pages_to_scan")}
    for name in sorted(changes, key=order):
        write(directory, name, changes[name])


def check(asked, after):
    """Require that every knob is now what was asked, but for what the advisor rules."""
    advised = after.get("advisor_mode", "none") != "none"
    wrong = [
        f"{name} is {after[name]}, not {value}"
        for name, value in sorted(asked.items())
        if after[name] != value and not (advised and name == "pages_to_scan")
    ]
    if wrong:
        raise KnobError(f"the kernel did not take what was written: {'; '.join(wrong)}")


def remembered(path):
    """Knobs saved in `path` by this boot, or None: a reboot has already reset the kernel's."""
    if not path or not path.exists():
        return None
    saved = json.loads(path.read_text())
    return saved["knobs"] if saved["boot_id"] == BOOT_ID.read_text().strip() else None


def remember(path, knobs):
    """Save the knobs as found, once, whole or not at all."""
    if path and remembered(path) is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        with partial.open("w") as file:
            json.dump({"boot_id": BOOT_ID.read_text().strip(), "knobs": knobs}, file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)


def wait_until(at):
    """Sleep until a time of CLOCK_MONOTONIC."""
    left = at - time.monotonic()
    if left > MAX_WAIT:
        raise KnobError(f"at is {left:.0f} s ahead; at most {MAX_WAIT} s are allowed")
    time.sleep(max(0, left))


def goal(before, asked, restoring):
    """All knobs as they shall be."""
    target = {**before, **asked}
    mode = target.get("advisor_mode", "none")
    stays_advised = mode != "none" and before["advisor_mode"] == mode
    if stays_advised and "pages_to_scan" in asked and not restoring:
        raise KnobError(
            f"pages_to_scan is ruled by the advisor while advisor_mode is {mode}; "
            "set advisor_mode: none as well"
        )
    return target


def run(module):
    """Do what the parameters ask; return the result for exit_json."""
    p = module.params
    directory = Path(p["directory"])
    path = Path(p["remember"]) if p["remember"] else None
    if not directory.is_dir():
        raise KnobError(f"{directory} does not exist: this kernel was built without CONFIG_KSM")
    names = knob_names(directory)
    wait_until(p["at"])
    before = read(directory, names)
    restoring = p["state"] == "restored"
    present = {name: p["knobs_if_present"][name] for name in p["knobs_if_present"] if name in names}
    asked = remembered(path) if restoring else {**present, **p["knobs"]}
    stale = restoring and path is not None and path.exists()
    if restoring and asked is None:
        if stale and not module.check_mode:
            path.unlink()
        return result(before, before, changed=stale)
    asked = wanted(asked, names)
    target = goal(before, asked, restoring)
    # A restored host that does not scan shall not keep what ksmd knew of memory that has gone.
    unmerge_first = p["unmerge"] or (restoring and target["run"] != 1)
    changed = target != before or p["unmerge"] or stale
    if not module.check_mode:
        if changed and not restoring:
            remember(path, before)
        apply(directory, before, target, p["timeout"], unmerge_first)
        target = read(directory, names)
        check(asked, target)
        if stale:
            path.unlink()
    return result(before, target, changed)


def result(before, after, changed):
    """Shape of what the module returns."""
    lines = [
        "".join(f"{name}={value}\n" for name, value in knobs.items()) for knobs in (before, after)
    ]
    return {
        "changed": changed,
        "before": before,
        "after": after,
        "diff": {"before": lines[0], "after": lines[1]},
        "wall": time.time(),
        "monotonic": time.monotonic(),
    }


def main():
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "knobs": {"type": "dict", "default": {}},
            "knobs_if_present": {"type": "dict", "default": {}},
            "state": {"type": "str", "choices": ["set", "restored"], "default": "set"},
            "unmerge": {"type": "bool", "default": False},
            "at": {"type": "float", "default": 0},
            "timeout": {"type": "int", "default": 120},
            "remember": {"type": "path"},
            "directory": {"type": "path", "default": "/sys/kernel/mm/ksm"},
        },
        required_if=[("state", "restored", ["remember"])],
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except (KnobError, OSError, ValueError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
