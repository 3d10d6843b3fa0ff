"""The filter assign_runs: which host does which runs of an experiment."""

from __future__ import annotations

DOCUMENTATION = """
name: assign_runs
short_description: Assign the runs of an experiment to hosts
description:
  - Each run goes to the host that has done the fewest repetitions of its cell, and of these to the
    one that has the least to do. So no host is taken for a setting, all hosts end at about the same
    time, and with as many repetitions as hosts each host does each cell.
  - A run that has failed on a host goes to another one, if there is one.
  - The order of the runs of a host is that of the plan.
options:
  _input:
    description: Runs, as the plan lists them.
    type: list
    elements: dict
    required: true
  hosts:
    description: Names of the hosts that can do runs.
    type: list
    elements: str
    required: true
  earlier:
    description: Host, status and factors of each run that has ended before, by its id.
    type: dict
    default: {}
"""

EXAMPLES = """
- ansible.builtin.debug:
    msg: "{{ ksm_plan.runs | assign_runs(['a', 'b']) }}"
"""

RETURN = """
_value:
  description: The runs of each host, in order; hosts without any have an empty list.
  type: dict
"""


def cell(factors: dict) -> tuple:
    """What the repetitions of a run have in common."""
    return tuple((key, str(value)) for key, value in sorted(factors.items()) if key != "repetition")


def assign_runs(
    runs: list[dict], hosts: list[str], earlier: dict[str, dict] | None = None
) -> dict[str, list[dict]]:
    """Return the runs of each host. `earlier` has host, status and factors of ended runs, by id."""
    earlier = earlier or {}
    shares: dict[str, list[dict]] = {host: [] for host in hosts}
    seconds = dict.fromkeys(hosts, 0.0)
    complete = [each for each in earlier.values() if each["status"] == "complete"]
    done = [(each["host"], cell(each["factors"])) for each in complete]
    for run in runs if hosts else []:
        failed = earlier.get(run["id"], {}).get("host")
        able = [host for host in hosts if host != failed] or hosts
        this = cell(run["factors"])
        host = min(able, key=lambda host: (done.count((host, this)), seconds[host]))
        shares[host].append(run)
        seconds[host] += run["seconds"]
        done.append((host, this))
    return shares


class FilterModule:
    """Filters of the role run."""

    def filters(self) -> dict:
        """Names and functions."""
        return {"assign_runs": assign_runs}
