"""Density of a definition: how many copies fit into a budget of memory."""

from typing import Annotated

from pydantic import Field, ValidationInfo

from ksm_analysis.definition import values
from ksm_analysis.definition.values import OrLeftOut, Strict, duration, number, whole, wrong


class Density(Strict):
    """A budget of memory, what must hold with all copies in it, and how copies are added."""

    memory_mib: Annotated[int, whole(8, 1048576)] = Field(
        description="The budget: the limit of memory and swap of all copies together, in MiB."
    )
    limit: Annotated[int, whole(2, 999)] = Field(
        default=99, description="Most copies. More than `processes.count`."
    )
    step: Annotated[int, whole(1, 99)] = Field(
        default=1, description="How many copies are added at once."
    )
    settle_seconds: Annotated[float, duration(0, 3600)] = Field(
        default=5.0,
        description="How long ksmd has to merge what was added, before it is checked whether all"
        " copies fit, and more are added.",
    )
    answer_seconds: Annotated[float, duration(0.1, 3600)] = Field(
        default=5.0, description="All copies must answer their check within this time."
    )
    psi_full: OrLeftOut[Annotated[float, number(0, 100)]] = Field(
        default=None,
        description="Percent of the time that all tasks may wait for memory (PSI `full`): those of"
        " the cgroup in version 2, else those of the host. Without, it is no criterion.",
    )
    storm: values.Switch = Field(
        default=False,
        description="Once it is known how many fit, let all write to all pages of their data at"
        " once, and count how many that kills. Only for the service `python`.",
    )


def with_processes(density: Density, info: ValidationInfo) -> Density:
    """Refuse a density that the processes of the definition cannot have."""
    processes = info.data.get("processes")
    if "processes" in info.data and processes is None:
        raise wrong("needs 'processes'")
    if processes is None:  # they are wrong
        return density
    if processes.arrivals or processes.lifetimes:
        raise wrong("cannot go with 'arrivals' and 'lifetimes': it adds the copies itself")
    if len(processes.count) > 1:
        raise wrong("needs one 'count' of processes: how many there are at first")
    if processes.count[0] >= density.limit:
        message = "'limit' ({limit}) must be more than 'count' of processes ({count})"
        raise wrong(message, limit=density.limit, count=processes.count[0])
    if density.storm and processes.service != "python":
        raise wrong("'storm' is only for 'service: python'")
    return density
