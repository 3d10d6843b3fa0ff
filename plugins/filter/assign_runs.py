"""The filter assign_runs assigns the runs of an experiment to hosts."""

from __future__ import annotations


def cell(factors: dict) -> tuple:
    """Return the factors that all repetitions of a run share."""
    return tuple((key, str(value)) for key, value in sorted(factors.items()) if key != "repetition")


def assign_runs(
    runs: list[dict], hosts: list[str], earlier: dict[str, dict] | None = None
) -> dict[str, list[dict]]:
    """Return the runs of each host. `earlier` maps ids of ended runs to host, status, factors."""
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
        """Return the filters by name."""
        return {"assign_runs": assign_runs}
