# Copyright: The KSM testbed authors
# MIT License (see LICENSE or https://opensource.org/license/mit)
"""Documentation of an action plugin, which has no module."""

from __future__ import annotations

DOCUMENTATION = r"""
module: set_aside
short_description: Move earlier results aside on the controller
description:
  - Renames a directory of results, if there is one, so that nothing is overwritten. The time of its
    last change is added to its new name.
  - Does nothing on the host.
version_added: 0.1.0
options:
  path:
    description: The directory.
    type: path
    required: true
  aside:
    description: Its new path, without the time. The directory above is made if it does not exist.
    type: path
    required: true
attributes:
  check_mode:
    description: Says what would change, and changes nothing.
    support: full
  diff_mode:
    description: Shows what changes.
    support: full
    details: The two paths.
  action:
    description: Works on the controller.
    support: full
author: [The KSM testbed authors (@ksm-testbed)]
"""

EXAMPLES = r"""
- name: Move earlier results aside
  ksm.testbed.set_aside:
    path: results/quick
    aside: results/quick
"""

RETURN = r"""
moved_to:
  description: The new path.
  type: str
  returned: if there was anything
"""
