"""Density of a definition: how many copies or guests fit into a budget of memory."""

import itertools
from typing import Annotated

from pydantic import Field, ValidationInfo

from ksm_analysis.definition import values
from ksm_analysis.definition.guests import Guests
from ksm_analysis.definition.values import (
    OrLeftOut,
    Strict,
    duration,
    number,
    whole,
    wrong,
    wrong_at,
)

MOST_GUESTS = 99  # their names have two digits
PARTITION = "/ksmtestbed"  # as the role part_density makes it


class Density(Strict):
    """A budget of memory, what must hold with all copies in it, and how copies are added."""

    memory_mib: Annotated[int, whole(8, 1048576)] = Field(
        description="The budget: the limit of memory and swap of all of them together, in MiB."
    )
    limit: Annotated[int, whole(2, 999)] = Field(
        default=99,
        description="Most copies or guests; of guests at most 99. More than `count` of them.",
    )
    step: Annotated[int, whole(1, 99)] = Field(default=1, description="How many are added at once.")
    settle_seconds: Annotated[float, duration(0, 3600)] = Field(
        default=5.0,
        description="How long ksmd has to merge what was added, before it is checked whether all"
        " fit, and more are added.",
    )
    answer_seconds: Annotated[float, duration(0.1, 3600)] = Field(
        default=5.0,
        description="All must answer their check within this time: of a guest, its agent.",
    )
    answer_p99_ms: OrLeftOut[Annotated[float, number(0.001, 3600000)]] = Field(
        default=None,
        description="The 99th percentile of 100 times in which a copy answers its check may be at"
        " most so many milliseconds. Without, it is no criterion. Only for a `service`.",
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


def of_what_is_added(density: Density, info: ValidationInfo) -> Density:
    """Refuse a density that the processes, or without any the guests, cannot have."""
    if not {"processes", "guests"} <= {*info.data}:  # they are wrong
        return density
    processes, guests = info.data["processes"], info.data["guests"]
    kind, added = ("processes", processes) if processes else ("guests", guests)
    if not added:
        raise wrong("needs 'processes' or 'guests'")
    if added.arrivals or added.lifetimes:
        raise wrong("cannot go with 'arrivals' and 'lifetimes': it adds {kind} itself", kind=kind)
    if len(added.count) > 1:
        raise wrong("needs one 'count' of {kind}: how many there are at first", kind=kind)
    if added.count[0] >= density.limit:
        message = "'limit' ({limit}) must be more than 'count' of {kind} ({count})"
        raise wrong(message, limit=density.limit, kind=kind, count=added.count[0])
    if density.storm and not (processes and processes.service == "python"):
        raise wrong("'storm' is only for 'service: python'")
    if density.answer_p99_ms and not (processes and processes.service):
        raise wrong("'answer_p99_ms' is only for a 'service' of 'processes'")
    if not processes:
        _of_guests(density, guests, info)
    return density


def _of_guests(density: Density, guests: Guests, info: ValidationInfo) -> None:
    if density.limit > MOST_GUESTS:
        raise wrong_at("limit", "must be at most {most} for guests", most=MOST_GUESTS)
    if "hugepages" in guests.backing:
        raise wrong("cannot go with 'backing: hugepages', which no budget counts")
    if any(guests.balloon_mib):
        raise wrong("cannot go with 'balloon_mib'")
    silent = {image.name for image in info.data.get("images", []) if not image.agent}
    if found := silent.intersection(*[itertools.chain(*guests.image)]):
        raise wrong("image '{image}' has no agent to answer", image=min(found))
