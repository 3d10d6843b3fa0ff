# Copyright: The KSM testbed authors
# MIT License (see LICENSE or https://opensource.org/license/mit)
"""Documentation of an action plugin, which has no module."""

from __future__ import annotations

DOCUMENTATION = r"""
module: background_wait
short_description: Wait until a program in the background has ended, or is ready
description:
  - Waits until a program that M(ksm.testbed.background) has started is recorded as ended. Prints
    the progress of a sampler periodically.
  - With O(ready), waits until the program is ready.
  - Runs one shell command per poll. A module would start Python repeatedly on the processors that
    are being measured.
  - A host that is unreachable for a moment is polled again.
version_added: 0.1.0
options:
  name:
    description: Name of the program.
    type: str
    required: true
  directory:
    description: The directory of its record.
    type: path
    required: true
  ready:
    description: >-
      A file of JSON, such as a number, that the program writes when it is ready. Then the task
      ends. It fails if the file is an object whose C(error) says why the program is not ready, and
      if the program has ended before.
    type: path
  seconds:
    description: How much longer the program is expected to run.
    type: float
    default: 0
  grace:
    description: Additional time. After that the task fails; the program continues to run.
    type: float
    default: 60
  success:
    description: Exit codes that mean success.
    type: list
    elements: int
    default: [0]
  samples:
    description: The file of the sampler. Its last sample is printed.
    type: path
  label:
    description: Name of the run in the printed lines. If it is empty, nothing is printed.
    type: str
    default: ""
  report:
    description: Seconds between two polls while the program is expected to run.
    type: float
    default: 10
attributes:
  check_mode:
    description: Says what would change, and changes nothing.
    support: none
    details: The task is skipped in check mode, because check mode starts nothing.
  diff_mode:
    description: Shows what changes.
    support: none
  action:
    description: Works on the controller.
    support: full
author: [The KSM testbed authors (@ksm-testbed)]
"""

EXAMPLES = r"""
- name: Sample
  ksm.testbed.background_wait:
    name: sampler
    directory: /var/lib/ksm-testbed/run
    seconds: 60
    samples: /var/lib/ksm-testbed/run/samples.jsonl
    label: g01-k1-idle-r1
"""

RETURN = r"""
record:
  description: The record; M(ksm.testbed.background) describes it.
  type: dict
  returned: if the program has ended
ready:
  description: The content of O(ready).
  type: raw
  returned: if the program is ready
"""
