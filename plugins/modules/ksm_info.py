# Copyright: The KSM testbed authors
# MIT License (see LICENSE or https://opensource.org/license/mit)
"""Documentation of an action plugin, which has no module."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ksm_info
short_description: Read what affects KSM on a host
description:
  - Reads the knobs and counters of KSM, memory, services and guests. Reads the counters a second
    time some seconds later.
  - Sends its program to the standard input of the host's Python, so that no file is written on the
    host. A module would be unpacked into files there.
version_added: 0.1.0
options:
  seconds:
    description: Time between the two readings of the counters.
    type: float
    required: true
attributes:
  check_mode:
    description: Says what would change, and changes nothing.
    support: full
  diff_mode:
    description: Shows what changes.
    support: none
  action:
    description: Works on the controller.
    support: full
author: [The KSM testbed authors (@ksm-testbed)]
"""

EXAMPLES = r"""
- name: Read what affects KSM
  ksm.testbed.ksm_info:
    seconds: 5
  register: found
"""

RETURN = r"""
facts:
  description: The facts. The README of the role P(ksm.testbed.doctor#role) describes them.
  type: dict
  returned: always
"""
