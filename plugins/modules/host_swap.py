#!/usr/bin/python
"""Replace the swap space of a host, and restore it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_swap
short_description: Replace the swap space of a host, and restore it
description:
  - V(set) switches all swap space off, and, with O(zram_mib), makes a zram device of that size the
    only swap space. What was found is saved in O(remember) before the first change.
  - V(restored) switches on what was found, with the priorities that it had, removes the zram device
    and the file. Without the file it does nothing. After a reboot it only removes the file. A zram
    device that somebody else has made meanwhile stays, unless it has no size yet.
  - Swap space is switched off only if what is in it fits into the host's C(MemAvailable) minus 5 %
    of C(MemTotal).
options:
  state:
    description: Whether to replace or to restore.
    type: str
    choices: [set, restored]
    default: set
  zram_mib:
    description: Size of the zram device, in MiB; 0 is no swap space at all.
    type: int
    default: 0
  remember:
    description: File that saves what was found. A damaged file is an error.
    type: path
    required: true
attributes:
  check_mode:
    description: Says what would change, and changes nothing. Reports what is not possible.
    support: full
  diff_mode:
    description: Shows what changes.
    support: full
    details: The swap space, as lines of priority, size and name.
author: [The KSM testbed authors (@ksm-testbed)]
"""

EXAMPLES = r"""
- name: Swap to compressed memory
  ksm.testbed.host_swap:
    zram_mib: 512
    remember: /var/lib/ksm-testbed/swap.json

- name: Restore
  ksm.testbed.host_swap:
    state: restored
    remember: /var/lib/ksm-testbed/swap.json
"""

RETURN = r"""
swaps:
  description: "The swap space after the change: name, priority, kib."
  type: list
  elements: dict
  returned: always
"""

import json
import os
import re
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
CONTROL = Path("/sys/class/zram-control")
BLOCK = Path("/sys/block")
MARGIN = 0.05  # part of MemTotal that must stay free when swap space is switched off
FIRST = 32767  # the highest priority, for the zram device


class SwapError(Exception):
    """Swap space cannot be changed; the message is for the user."""


def swaps():
    """Return the swap space in use: name, priority, and KiB in all and used."""
    rows = [line.split() for line in Path("/proc/swaps").read_text().splitlines()[1:]]
    return [
        {
            "name": re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), row[0]),
            "priority": int(row[4]),
            "kib": int(row[2]),
            "used": int(row[3]),
        }
        for row in rows
    ]


def require_room(found):
    """Raise SwapError if what is in swap space does not fit into memory."""
    fields = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    meminfo = {field[0].rstrip(":"): int(field[1]) for field in fields}
    used = sum(each["used"] for each in found)
    free = meminfo["MemAvailable"] - int(meminfo["MemTotal"] * MARGIN)
    if used > free:
        raise SwapError(
            f"swap space cannot be switched off: {used} KiB are in it, but only {free} KiB of"
            " memory are free (less a margin of 5 %)"
        )


def call(module, *argv):
    """Run a program; raise SwapError with its words if it fails."""
    code, out, error = module.run_command([*argv])
    if code:
        raise SwapError(f"{' '.join(argv)}: {(error or out).strip()}")


def devices():
    """Return the names of all zram devices."""
    return sorted(path.name for path in BLOCK.glob("zram*"))


def require_zram(module):
    """Raise SwapError if the kernel has no zram. Its module is loaded, except in check mode."""
    if CONTROL.is_dir():
        return
    modprobe = module.get_bin_path("modprobe")
    options = ["--dry-run"] if module.check_mode else []
    if not modprobe or module.run_command([modprobe, *options, "zram"])[0]:
        raise SwapError("this kernel has no zram: it was built without CONFIG_ZRAM")


def saved(path):
    """Return what `remember` has saved since the last boot, or None."""
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text())
        current = found["boot_id"] == BOOT_ID.read_text().strip()
        found["swaps"], found["zram"] = list(found["swaps"]), list(found["zram"])
        found["made"], found["loaded"] = list(found["made"]), bool(found["loaded"])
    except (ValueError, KeyError, TypeError) as error:
        raise SwapError(f"{path} is damaged: {error}") from error
    return found if current else None


def as_found(found):
    """Describe what was found: swap space, zram devices, and whether zram was loaded.

    `made` names the devices that are made from now on.
    """
    was = {"boot_id": BOOT_ID.read_text().strip(), "swaps": found, "zram": devices()}
    return {**was, "made": [], "loaded": CONTROL.is_dir()}


def remember(path, was):
    """Save that, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("w") as file:
        json.dump(was, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def replace(module, path, found):
    """Switch all swap space off, and swap to a new zram device if one is asked for."""
    size = module.params["zram_mib"]
    was = saved(path) or as_found(found)
    remember(path, was)
    if size:
        require_zram(module)
    for each in found:
        call(module, "swapoff", each["name"])
    if size:
        device = f"zram{(CONTROL / 'hot_add').read_text().strip()}"
        remember(path, {**was, "made": [*was["made"], device]})
        (BLOCK / device / "disksize").write_text(f"{size}M")
        call(module, "mkswap", f"/dev/{device}")
        call(module, "swapon", "--priority", str(FIRST), f"/dev/{device}")


def restore(module, path, was):
    """Switch on what was found, and remove the zram devices that are new since then."""
    # first, so that what is in zram has a place to go
    active = {each["name"] for each in swaps()}
    for each in was["swaps"]:
        if each["name"] not in active:
            priority = ["--priority", str(each["priority"])] if each["priority"] >= 0 else []
            call(module, "swapon", *priority, each["name"])
    for device in devices():
        # One without a size may have been made just before this program was killed.
        size = (BLOCK / device / "disksize").read_text().strip()
        if device not in was["zram"] and (device in was["made"] or size == "0"):
            if f"/dev/{device}" in active:
                call(module, "swapoff", f"/dev/{device}")
            (BLOCK / device / "reset").write_text("1")
            (CONTROL / "hot_remove").write_text(device.removeprefix("zram"))
    if CONTROL.is_dir() and not was["loaded"]:
        call(module, "modprobe", "-r", "zram")
    path.unlink()


def wanted(size, found):
    """Return the swap space that there will be: what was found if that is as asked for."""
    page = os.sysconf("SC_PAGE_SIZE") // 1024  # the first page of swap space is its header
    asked = [("/dev/zram", size * 1024 - page)] if size else []
    if [(each["name"].rstrip("0123456789"), each["kib"]) for each in found] == asked:
        return found
    return [{"name": name, "priority": FIRST, "kib": kib} for name, kib in asked]


def lines(every):
    """Return the swap space as text, for the diff."""
    return "".join(f"{each['priority']} {each['kib']} KiB {each['name']}\n" for each in every)


def run(module):
    """Execute the module; return the result for exit_json."""
    path, found = Path(module.params["remember"]), swaps()
    if module.params["state"] == "restored":
        was = saved(path)
        changed, after = path.exists(), was["swaps"] if was else found
        if was and not module.check_mode:
            restore(module, path, was)
        elif changed and not module.check_mode:
            path.unlink()  # of an earlier boot, which has made all of this undone
    else:
        after = wanted(module.params["zram_mib"], found)
        changed = after != found
        if changed:
            require_room(found)
        if after and module.check_mode:
            require_zram(module)
        if changed and not module.check_mode:
            replace(module, path, found)
    if not module.check_mode:
        after = swaps()
    diff = {"before": lines(found), "after": lines(after)}
    shown = [{key: each[key] for key in ("name", "priority", "kib")} for each in after]
    return {"changed": changed, "swaps": shown, "diff": diff}


def main():
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["set", "restored"], "default": "set"},
            "zram_mib": {"type": "int", "default": 0},
            "remember": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except (SwapError, OSError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
