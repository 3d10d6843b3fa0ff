# Copyright: The KSM testbed authors
# MIT License (see LICENSE or https://opensource.org/license/mit)
"""The documentation of an action plugin: it has no module."""

from __future__ import annotations

DOCUMENTATION = r"""
module: background_wait
short_description: Wait until a program in the background has ended
description:
  - Waits for the record of the end of a program that M(ksm.testbed.background) has started, and
    prints now and then how far a sampler is.
  - Looks at the host with one plain command at a time. A module would start Python again and again
    on the very processors that are being measured.
  - A host that cannot be reached for a moment is asked again.
version_added: 0.1.0
options:
  name:
    description: What the program is called.
    type: str
    required: true
  directory:
    description: The directory of its record.
    type: path
    required: true
  seconds:
    description: How long the program should still take.
    type: float
    default: 0
  grace:
    description: How much longer it may take. After that the task fails; the program runs on.
    type: float
    default: 60
  success:
    description: Exit codes that are no error.
    type: list
    elements: int
    default: [0]
  samples:
    description: The sampler's file. Its last sample is printed.
    type: path
  label:
    description: The name of the run in what is printed. Nothing is printed without one.
    type: str
    default: ""
  report:
    description: Seconds between two looks while the program should still run.
    type: float
    default: 10
attributes:
  check_mode:
    description: Says what would change, and changes nothing.
    support: none
    details: The task is skipped in check mode, in which nothing was started.
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
  description: What the record says; M(ksm.testbed.background) describes it.
  type: dict
  returned: once the program has ended
"""
