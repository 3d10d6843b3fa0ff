# Copyright: The KSM testbed authors
# MIT License (see LICENSE or https://opensource.org/license/mit)
"""Documentation of an action plugin, which has no module."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_files
short_description: Make a directory with files on a host
description:
  - Makes a directory of root, and files in it from the controller. Each file is replaced at once.
    Other files in the directory stay.
  - Compares by checksum, mode and owner. However many files there are, it runs one plain command if
    nothing differs, and two if anything does.
version_added: 0.1.0
options:
  directory:
    description: The directory. It is made if it does not exist, with those above it.
    type: path
    required: true
  directory_mode:
    description: Its mode, an octal number.
    type: str
    default: "0755"
  src:
    description: >-
      Files of the controller, found as M(ansible.builtin.copy) finds them. A file keeps its name,
      without directories. A name has no spaces.
    type: list
    elements: str
    default: []
  content:
    description: The texts of further files, by name.
    type: dict
    default: {}
  mode:
    description: The mode of all these files, an octal number.
    type: str
    default: "0755"
attributes:
  check_mode:
    description: Says what would change, and changes nothing.
    support: full
  diff_mode:
    description: Shows what changes.
    support: full
    details: Mode, owner, type and SHA-256 checksum of what differs. The directory is named C(.).
  action:
    description: Works on the controller.
    support: full
author: [The KSM testbed authors (@ksm-testbed)]
"""

EXAMPLES = r"""
- name: Install the programs
  ksm.testbed.host_files:
    directory: /opt/probe
    src: [ksm_probe.py, ksm_output.py]

- name: Make a directory that only root can read, with a file
  ksm.testbed.host_files:
    directory: /var/lib/ksm-testbed/run
    directory_mode: "0700"
    content:
      run.json: "{{ run_plan | to_nice_json }}"
    mode: "0600"
"""

RETURN = r"""
files:
  description: Names of the files that differed.
  type: list
  elements: str
  returned: success
"""
