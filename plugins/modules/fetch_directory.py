# Copyright: The KSM testbed authors
# MIT License (see LICENSE or https://opensource.org/license/mit)
"""The documentation of an action plugin: it has no module."""

from __future__ import annotations

DOCUMENTATION = r"""
module: fetch_directory
short_description: Copy a directory from a host to the controller
description:
  - Packs the directory into one archive on the host, copies that, checks its SHA-256 checksum and
    unpacks it on the controller. Nothing of it passes through the memory of either as a whole.
  - Works for files that only root may read, whoever logs in. The archive is kept in a directory of
    the user who logs in, which is removed in any case.
  - A failure leaves the directory on the host as it was.
version_added: 0.1.0
options:
  src:
    description: The directory on the host.
    type: path
    required: true
  dest:
    description: >-
      The directory on the controller, made if it does not exist. Files of the same names are
      replaced.
    type: path
    required: true
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
- name: Fetch what a run has left
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
