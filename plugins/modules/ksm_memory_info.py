# Copyright: The KSM testbed authors
# MIT License (see LICENSE or https://opensource.org/license/mit)
"""Documentation of an action plugin, which has no module."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ksm_memory_info
short_description: Read what is in memory that KSM may merge
description:
  - Reads the memory of guests and processes at four moments, and writes to a file on the
    controller which pages are equal, as hashes with a key that is nowhere kept.
  - Sends its program to the standard input of the host's Python, so that no file is written on the
    host. Guests are not paused.
version_added: 0.1.0
options:
  dest:
    description: The file on the controller. It is replaced, and only its owner can read it.
    type: path
    required: true
  seconds:
    description: Time from the first to the last moment.
    type: float
    required: true
  guests:
    description: Only guests or processes with these names or process ids. If empty, all.
    type: list
    elements: str
    required: true
  as_if_mergeable:
    description: Whether to read private memory that is not offered to KSM, too.
    type: bool
    required: true
  memory_mib:
    description: The most memory that it may take. If it would take more, nothing is read.
    type: float
    required: true
  cpu_percent:
    description: The most CPU time for reading, in percent of one CPU.
    type: float
    required: true
attributes:
  check_mode:
    description: Reads nothing in check mode.
    support: none
  diff_mode:
    description: Shows what changes.
    support: none
  action:
    description: Works on the controller.
    support: full
author: [The KSM testbed authors (@ksm-testbed)]
"""

EXAMPLES = r"""
- name: Read what is in memory for ten minutes
  ksm.testbed.ksm_memory_info:
    dest: host.assess
    seconds: 600
    guests: []
    as_if_mergeable: false
    memory_mib: 1024
    cpu_percent: 50
"""

RETURN = r"""
dest:
  description: The file.
  type: str
  returned: always
"""
