#!/usr/bin/python
"""Set, unmerge and restore the knobs of Kernel Samepage Merging."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ksm_knobs
short_description: Set the knobs of Kernel Samepage Merging, or of transparent huge pages
description:
  - Sets knobs in C(/sys/kernel/mm/ksm) in the order that the kernel requires, and only those that
    differ. A knob is a writable file there; the kernel of the host decides which knobs exist.
  - With O(directory=/sys/kernel/mm/transparent_hugepage), sets those of transparent huge pages,
    which have no order. A knob in a subdirectory is named with it, as in C(khugepaged/defrag).
    C(/sys/kernel/mm/hugepages/hugepages-2048kB) works the same, for huge pages of hugetlbfs.
  - C(advisor_mode) is turned off before C(pages_to_scan) is written and turned on after that,
    because the kernel refuses C(pages_to_scan) while the advisor controls it. C(max_page_sharing)
    and C(merge_across_nodes) can change only while nothing is shared, so a change of them unmerges
    shared pages first. C(run) is written last.
  - If O(remember) is given and does not exist, all knobs are saved there before the first change.
  - Before pages are unmerged, the module checks that the merged pages (C(pages_sharing) and
    C(ksm_zero_pages)) fit into the host's C(MemAvailable) minus 5 % of C(MemTotal).
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
      - V(set) sets O(knobs). V(restored) sets the values that O(remember) has saved and removes
        that file; without the file it does nothing. If ksmd did not run before, V(restored)
        unmerges all pages first.
      - If the merged pages do not fit into memory, V(set) fails and changes nothing. V(restored)
        restores the knobs without unmerging and warns. Knobs that cannot change while pages are
        merged then keep their values, and O(remember) is kept, so that the task can be repeated.
    type: str
    choices: [set, restored]
    default: set
  unmerge:
    description: >-
      Unmerge all pages (run=2) and wait until none is shared, before anything is set. ksmd then
      starts from the beginning and counts C(full_scans) from 0. Always reported as a change. Fails
      if the merged pages do not fit into memory.
    type: bool
    default: false
  at:
    description: >-
      Set the knobs when the host's CLOCK_MONOTONIC reaches this time, at most 600 s ahead; a past
      time means now. Check mode does not wait.
    type: float
    default: 0
  timeout:
    description: Seconds to wait until pages are unmerged.
    type: int
    default: 120
  remember:
    description: File that saves the previous values of all knobs. A damaged file is an error.
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
- name: Scan 1000 pages every 20 ms, starting with unmerged memory
  ksm.testbed.ksm_knobs:
    knobs: {run: 1, pages_to_scan: 1000, sleep_millisecs: 20}
    unmerge: true
    remember: /var/lib/ksm-testbed/knobs.json

- name: Use huge pages for all memory
  ksm.testbed.ksm_knobs:
    directory: /sys/kernel/mm/transparent_hugepage
    knobs: {enabled: always, khugepaged/max_ptes_none: 511}
    remember: /var/lib/ksm-testbed/huge_pages.json
"""

RETURN = r"""
before: {description: All knobs before the change, type: dict, returned: always}
after: {description: All knobs after the change or check mode, type: dict, returned: always}
wall: {description: CLOCK_REALTIME after all knobs were set, type: float, returned: always}
monotonic: {description: CLOCK_MONOTONIC after all knobs were set, type: float, returned: always}
"""

import errno
import json
import os
import stat
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

NEEDS_NOTHING_SHARED = ("max_page_sharing", "merge_across_nodes")
MAX_WAIT = 600
OPTIONS = {
    "ksm": "CONFIG_KSM",
    "transparent_hugepage": "CONFIG_TRANSPARENT_HUGEPAGE",
    "hugepages-2048kB": "CONFIG_HUGETLBFS",
}
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
MEMINFO = Path("/proc/meminfo")
MARGIN = 0.05  # part of MemTotal that must stay free when pages are unmerged


class KnobError(Exception):
    """A knob cannot be set; the message is for the user."""


def knob_names(directory):
    """Return the names of all writable files: the knobs of the running kernel."""
    return sorted(
        str(path.relative_to(directory))
        for path in directory.rglob("*")
        if path.is_file() and path.stat().st_mode & stat.S_IWUSR
    )


def parse(text):
    """Return the value of a knob: an int or text; for `[none] scan-time` the word in brackets."""
    text = text.strip()
    if "[" in text:
        return text[text.index("[") + 1 : text.index("]")]
    try:
        return int(text)
    except ValueError:
        return text


def read(directory, names):
    """Return {name: value} for the named files."""
    return {name: parse((directory / name).read_text()) for name in names}


def wanted(knobs, names):
    """Check that the requested knobs exist; return {name: int or text}."""
    unknown = sorted(set(knobs) - set(names))
    if unknown:
        raise KnobError(f"this kernel has no knob {', '.join(unknown)}; it has: {', '.join(names)}")
    return {name: parse(str(int(v) if isinstance(v, bool) else v)) for name, v in knobs.items()}


def write(directory, name, value):
    """Write one knob; raise KnobError with the kernel's error and its likely cause."""
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
            hint += "; the active advisor controls pages_to_scan (set advisor_mode: none)"
        raise KnobError(f"{name}={value}: {os.strerror(error.errno)}: {hint}") from error


def unmerge(directory, timeout):
    """Write run=2, which unmerges all pages, and wait until no page is shared."""
    write(directory, "run", 2)
    deadline = time.monotonic() + timeout
    while any(read(directory, ("pages_shared", "pages_sharing")).values()):
        if time.monotonic() > deadline:
            left = read(directory, ("pages_shared", "pages_sharing"))
            raise KnobError(f"pages are still shared {timeout} s after run=2: {left}")
        time.sleep(0.05)


def read_meminfo():
    """Return {name: KiB} from /proc/meminfo."""
    fields = (line.split() for line in MEMINFO.read_text().splitlines())
    return {field[0].rstrip(":"): int(field[1]) for field in fields}


def shortfall(counters, page_size, meminfo):
    """Return why the merged pages do not fit into memory when unmerged; None if they do.

    `counters` are KSM's (in pages), `page_size` is in bytes, `meminfo` in KiB.
    """
    pages = counters["pages_sharing"] + counters.get("ksm_zero_pages", 0)
    needed = pages * page_size // 1024
    margin = int(meminfo["MemTotal"] * MARGIN)
    free = meminfo["MemAvailable"] - margin
    if needed <= free:
        return None
    return (
        f"{pages} merged pages need {needed} KiB when unmerged, but only {free} KiB are free "
        f"({meminfo['MemAvailable']} KiB available less a margin of {margin} KiB)"
    )


def host_shortfall(directory):
    """Return `shortfall` for the current state of this host."""
    names = [n for n in ("pages_sharing", "ksm_zero_pages") if (directory / n).exists()]
    return shortfall(read(directory, names), os.sysconf("SC_PAGE_SIZE"), read_meminfo())


def held(directory, before, target):
    """Return the names of knobs that can change only after pages are unmerged."""
    if not any(name in before for name in NEEDS_NOTHING_SHARED):
        return []
    if not read(directory, ["pages_shared"])["pages_shared"]:
        return []
    return [name for name in NEEDS_NOTHING_SHARED if target.get(name) != before.get(name)]


def order(name):
    """Return the sort key of a knob: the advisor controls pages_to_scan, and run comes last."""
    return (name == "run", name == "advisor_mode", name)


def apply(directory, before, target, timeout, unmerge_first):
    """Change the knobs from `before` to `target` (both complete) in an order the kernel accepts."""
    changes = {name: value for name, value in target.items() if before[name] != value}
    if unmerge_first or held(directory, before, target):
        unmerge(directory, timeout)
        changes["run"] = target["run"]
    if before.get("advisor_mode", "none") != "none" and changes.keys() & {
        "advisor_mode",
        "pages_to_scan",
    }:
        # Turning the advisor off also sets pages_to_scan, to the kernel's default.
        write(directory, "advisor_mode", "none")
        changes |= {name: target[name] for name in ("advisor_mode", "pages_to_scan")}
    for name in sorted(changes, key=order):
        write(directory, name, changes[name])


def check(asked, after):
    """Require that every knob has its requested value, except those that the advisor controls."""
    advised = after.get("advisor_mode", "none") != "none"
    wrong = [
        f"{name} is {after[name]}, not {value}"
        for name, value in sorted(asked.items())
        if after[name] != value and not (advised and name == "pages_to_scan")
    ]
    if wrong:
        raise KnobError(f"the kernel did not accept the written values: {'; '.join(wrong)}")


def remembered(path):
    """Return the knobs saved since the last boot, or None: a reboot has reset the knobs."""
    if not path or not path.exists():
        return None
    try:
        saved = json.loads(path.read_text())
    except ValueError as error:
        raise KnobError(f"{path} is damaged: {error}") from error
    if not well_formed(saved):
        raise KnobError(f"{path} is damaged: boot_id or knobs are missing")
    return saved["knobs"] if saved["boot_id"] == BOOT_ID.read_text().strip() else None


def well_formed(saved):
    """Whether the content has the form that `remember` saves."""
    return (
        isinstance(saved, dict)
        and isinstance(saved.get("boot_id"), str)
        and isinstance(saved.get("knobs"), dict)
        and all(isinstance(value, int | str) for value in saved["knobs"].values())
    )


def remember(path, knobs):
    """Save the previous knobs, once and atomically."""
    if path and remembered(path) is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        with partial.open("w") as file:
            json.dump({"boot_id": BOOT_ID.read_text().strip(), "knobs": knobs}, file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)


def wait_until(at, check_mode):
    """Sleep until a time of CLOCK_MONOTONIC. Check mode only checks that it is near enough."""
    left = at - time.monotonic()
    if left > MAX_WAIT:
        raise KnobError(f"at is {left:.0f} s ahead; at most {MAX_WAIT} s are allowed")
    if not check_mode:
        time.sleep(max(0, left))


def goal(before, asked, restoring):
    """Return the target values of all knobs."""
    target = {**before, **asked}
    mode = target.get("advisor_mode", "none")
    stays_advised = mode != "none" and before["advisor_mode"] == mode
    if stays_advised and "pages_to_scan" in asked and not restoring:
        raise KnobError(
            f"the advisor controls pages_to_scan while advisor_mode is {mode}; "
            "set advisor_mode: none as well"
        )
    return target


def run(module):
    """Execute the module; return the result for exit_json."""
    p = module.params
    directory = Path(p["directory"])
    path = Path(p["remember"]) if p["remember"] else None
    if not directory.is_dir():
        option = OPTIONS.get(directory.name, "what it needs")
        raise KnobError(f"{directory} does not exist: this kernel was built without {option}")
    names = knob_names(directory)
    wait_until(p["at"], module.check_mode)
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
    # If the restored host does not scan, ksmd must not keep records of memory that is gone.
    unmerge_first = p["unmerge"] or (restoring and target.get("run", 1) != 1)
    unmerges = unmerge_first or (target.get("run") == 2 != before["run"])
    held_back = held(directory, before, target)
    too_much = host_shortfall(directory) if unmerges or held_back else None
    if too_much and not restoring:
        raise KnobError(f"pages cannot be unmerged: {too_much}")
    if too_much:
        kept = {name: before[name] for name in held_back}
        asked = {**asked, **kept, **({"run": 0} if target["run"] == 2 else {})}
        target, unmerge_first = {**target, **asked}, False
        also = f"; also not restored: {', '.join(held_back)}" if held_back else ""
        module.warn(f"Pages were not unmerged: {too_much}{also}")
    changed = target != before or p["unmerge"] or stale
    if not module.check_mode:
        if changed and not restoring:
            remember(path, before)
        apply(directory, before, target, p["timeout"], unmerge_first)
        target = read(directory, names)
        check(asked, target)
        if stale and not (too_much and held_back):
            path.unlink()
    return result(before, target, changed)


def result(before, after, changed):
    """Return the result of the module."""
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
