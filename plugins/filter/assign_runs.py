"""The filter assign_runs: which host does which runs of an experiment."""

from __future__ import annotations


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
