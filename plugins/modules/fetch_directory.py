# Copyright: The KSM testbed authors
# MIT License (see LICENSE or https://opensource.org/license/mit)
"""Documentation of an action plugin, which has no module."""

from __future__ import annotations

DOCUMENTATION = r"""
module: fetch_directory
short_description: Copy a directory from a host to the controller
description:
  - Packs the directory into one archive on the host, copies it, checks its SHA-256 checksum and
    unpacks it on the controller. It never holds the whole archive in memory.
  - Works for files that only root may read, also if another user logs in. The archive is in a
    temporary directory of the user who logs in, which is always removed.
  - A failure does not change the directory on the host.
version_added: 0.1.0
options:
  src:
    description: The directory on the host.
    type: path
    required: true
  dest:
    description: >-
      The directory on the controller. It is created if it does not exist. Files with the same names
      are replaced.
    type: path
    required: true
  remove:
    description: Remove the directory from the host, when all of it is on the controller.
    type: bool
    default: false
attributes:
  check_mode:
    description: Says what would change, and changes nothing.
    support: none
    details: The task is skipped in check mode.
  diff_mode:
    description: Shows what changes.
    support: none
  action:
    description: Works on the controller.
    support: full
author: [The KSM testbed authors (@ksm-testbed)]
"""

EXAMPLES = r"""
- name: Fetch the files of a run
  ksm.testbed.fetch_directory:
    src: /var/lib/ksm-testbed/run
    dest: results/quick/g01-k1-idle-r1.partial
"""

RETURN = r"""
files:
  description: Names of the files that were copied, relative to O(dest).
  type: list
  elements: str
  returned: success
bytes:
  description: Size of the archive.
  type: int
  returned: success
"""
