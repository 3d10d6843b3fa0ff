# Copyright: The KSM testbed authors
# MIT License (see LICENSE or https://opensource.org/license/mit)
"""Documentation of an action plugin, which has no module."""

from __future__ import annotations

DOCUMENTATION = r"""
module: run_directory
short_description: Write a run directory on the controller
description:
  - Makes the directory, writes files into it, and renames it when all files are written.
  - Does nothing on the host.
version_added: 0.1.0
options:
  path:
    description: The directory. It is made if it does not exist.
    type: path
    required: true
  files:
    description: Texts by file name. Files that differ are overwritten.
    type: dict
    default: {}
  rename:
    description: Final path of the directory. The task fails if it exists.
    type: path
attributes:
  check_mode:
    description: Says what would change, and changes nothing.
    support: full
  diff_mode:
    description: Shows what changes.
    support: full
    details: The files.
  action:
    description: Works on the controller.
    support: full
author: [The KSM testbed authors (@ksm-testbed)]
"""

EXAMPLES = r"""
- name: Finish a run directory
  ksm.testbed.run_directory:
    path: results/quick/g01-k1-idle-r1.partial
    files:
      run.json: "{{ record | to_nice_json }}"
    rename: results/quick/g01-k1-idle-r1
"""

RETURN = r"""
"""
