#!/usr/bin/python
"""Disks of guests: overlays on one image."""

from __future__ import annotations

DOCUMENTATION = r"""
module: guest_disks
short_description: Make a disk for each guest, as an overlay on one image, and remove disks
description:
  - V(present) makes a qcow2 overlay for each guest, in one task. Existing overlays are not changed;
    if one has another size or another image, the module fails and changes nothing. Only root can
    read them; libvirt makes QEMU's user their owner while the guest runs.
  - V(absent) removes disks (C(NAME.qcow2)) and console logs (C(NAME.console.log)), and the
    directory, unless it has other files.
options:
  state:
    description: Whether there are to be disks.
    type: str
    choices: [present, absent]
    default: present
  directory:
    description: Directory of the overlays, created if needed. QEMU's user can pass through it.
    type: path
    required: true
  guests:
    description: Names of guests; their disks are C(NAME.qcow2). Required for O(state=present).
    type: list
    elements: str
  image:
    description: The qcow2 image that the overlays are based on. Required for O(state=present).
    type: path
  gib:
    description: Size of each disk. Required for O(state=present).
    type: int
  pattern:
    description: Regular expression for whole names of guests. Required for O(state=absent).
    type: str
attributes:
  check_mode:
    description: Says what would change, and changes nothing.
    support: full
  diff_mode:
    description: Shows what changes.
    support: full
    details: Paths of the disks that exist, and of what is removed.
author: [The KSM testbed authors (@ksm-testbed)]
"""

EXAMPLES = r"""
- name: Make two disks
  ksm.testbed.guest_disks:
    directory: /var/lib/ksm-testbed/guests
    guests: [ksm-guest-01, ksm-guest-02]
    image: /var/lib/ksm-testbed/images/current/root.qcow2
    gib: 4

- name: Remove all that there are
  ksm.testbed.guest_disks:
    state: absent
    directory: /var/lib/ksm-testbed/guests
    pattern: ksm-guest-\d\d
"""

RETURN = r"""
disks:
  description: Paths of new disks, or of what was removed
  type: list
  elements: str
  returned: always
"""

import json
import re
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

GIB = 2**30


def lines(texts):
    """Return one text per line."""
    return "".join(f"{text}\n" for text in texts)


def unlike(module, disk, image):
    """Say how an existing disk differs from what is asked for; empty if it does not."""
    # A disk in use is locked, and only read here
    command = ["qemu-img", "info", "--force-share", "--output=json", disk]
    found = json.loads(module.run_command(command, check_rc=True)[1])
    bytes_ = module.params["gib"] * GIB
    differs = []
    if found["virtual-size"] != bytes_:
        differs.append(f"it has {found['virtual-size'] / GIB:g} GiB, not {bytes_ / GIB:g} GiB")
    if (below := found.get("full-backing-filename")) != image:
        differs.append(f"its image is {below}, not {image}")
    return f"{disk} exists: {', and '.join(differs)}" if differs else ""


def make(module, directory):
    """Make the disks that are missing; return the result for exit_json."""
    # Not the name of a link: an overlay needs the image that it was made on
    image = str(Path(module.params["image"]).resolve())
    disks = [directory / f"{guest}.qcow2" for guest in module.params["guests"]]
    existing = [str(disk) for disk in disks if disk.exists()]
    missing = [str(disk) for disk in disks if not disk.exists()]
    if differ := [words for disk in existing if (words := unlike(module, disk, image))]:
        module.fail_json(msg="; ".join(differ) + ". Remove these guests first")
    new = not directory.is_dir()
    if not module.check_mode:
        directory.mkdir(mode=0o711, parents=True, exist_ok=True)
        for disk in missing:
            create = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", image]
            size = f"{module.params['gib']}G"
            module.run_command([*create, disk, size], check_rc=True, umask=0o077)
    diff = {"before": lines(existing), "after": lines(sorted(existing + missing))}
    return {"changed": new or bool(missing), "disks": missing, "diff": diff}


def remove(module, directory):
    """Remove disks and console logs, and the directory; return the result for exit_json."""
    there = sorted(directory.iterdir()) if directory.is_dir() else []
    name = re.compile(rf"(?:{module.params['pattern']})\.(?:qcow2|console\.log)")
    own = [path for path in there if name.fullmatch(path.name)]
    removed = [*own, *([directory] if directory.is_dir() and own == there else [])]
    if not module.check_mode:
        for path in own:
            path.unlink()
        if directory in removed:
            directory.rmdir()
    paths = [str(path) for path in removed]
    return {"changed": bool(paths), "disks": paths, "diff": {"before": lines(paths), "after": ""}}


def main():
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "guests": {"type": "list", "elements": "str"},
            "image": {"type": "path"},
            "gib": {"type": "int"},
            "pattern": {"type": "str"},
        },
        required_if=[
            ("state", "present", ["guests", "image", "gib"]),
            ("state", "absent", ["pattern"]),
        ],
        supports_check_mode=True,
    )
    act = make if module.params["state"] == "present" else remove
    try:
        result = act(module, Path(module.params["directory"]))
    except OSError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
