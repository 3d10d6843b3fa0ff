# Copyright: The KSM testbed authors
# MIT License (see LICENSE or https://opensource.org/license/mit)
"""Documentation of an action plugin, which has no module."""

from __future__ import annotations

DOCUMENTATION = r"""
module: paths_info
short_description: Find out which of some paths exist on a host, and read files
description:
  - Looks with one plain command. M(ansible.builtin.stat) and M(ansible.builtin.slurp) start Python
    on the host for each path.
  - A link exists even if its target does not.
version_added: 0.1.0
options:
  paths:
    description: The paths.
    type: list
    elements: path
    default: []
  read:
    description: Paths of text files, whose contents are read if they exist.
    type: list
    elements: path
    default: []
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
- name: Look for saved knobs
  ksm.testbed.paths_info:
    paths: [/var/lib/ksm-testbed/knobs.json, /var/lib/ksm-testbed/huge_pages.json]
  register: saved
"""

RETURN = r"""
existing:
  description: Those that exist.
  type: list
  elements: str
  returned: success
contents:
  description: The text of each file of O(read) that exists and can be read, by its path.
  type: dict
  returned: success
"""
