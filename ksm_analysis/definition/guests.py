"""Guests of a definition: how many there are, and what each is made of."""

import itertools
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationInfo, ValidatorFunctionWrapHandler, model_validator

from ksm_analysis.definition import arrivals, values
from ksm_analysis.definition.arrivals import Arrivals, Lifetimes
from ksm_analysis.definition.image import BASE, Turns
from ksm_analysis.definition.values import (
    OneOrList,
    OrLeftOut,
    Strict,
    WordOr,
    one_of,
    rest_of,
    says,
    whole,
    wrong,
    wrong_at,
)

Backing = Literal["anonymous", "hugepages", "shared", "locked"]
# Only private anonymous memory of small pages can be merged (mm/ksm.c, vma_ksm_compatible).
CANNOT_MERGE = {
    "hugepages": "it is in huge pages of hugetlbfs",
    "shared": "it is shared memory",
}
# The host gets no memory back from a balloon in such memory.
_WITHOUT_BALLOON = ("hugepages", "locked")


class Network(Strict):
    """A libvirt network that the guests are connected to."""

    network: Annotated[
        str,
        Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", strict=True),
        says("the name of a libvirt network"),
    ] = Field(description="In the mapping only: the libvirt network.")


class Guests(Strict):
    """How many guests, and of what size."""

    count: values.Count = Field(
        description="How many guests run at once: one cell for each number."
    )
    memory_mib: Annotated[int, whole(64, 1048576)] = Field(
        default=512, description="Memory of a guest, in MiB."
    )
    disk_gib: Annotated[int, whole(1, 1024)] = Field(
        default=4,
        description="Disk of a guest, in GiB; at least as large as the disk of the image, which has"
        " 4 GiB by default.",
    )
    vcpus: OneOrList[Annotated[int, whole(1, 64)]] = Field(
        default=[1], description="Virtual CPUs of a guest: one cell for each number."
    )
    backing: OneOrList[Annotated[Backing, one_of(Backing)]] = Field(
        default=["anonymous"],
        description="What the memory of a guest is on the host: one cell for each entry. KSM merges"
        " neither `hugepages` nor `shared` memory.",
    )
    image: OneOrList[Turns] = Field(
        default=[[BASE]],
        description="What guests boot from, one cell for each entry: `base`, the image of the"
        " inventory, or one of `images`. With a list of names, guests have them in turn.",
    )
    balloon_mib: OneOrList[Annotated[int, whole(0, 1048576)]] = Field(
        default=[0],
        description="Memory that a balloon leaves to a guest, in MiB; 0 is no balloon: one cell for"
        " each number.",
    )
    numa: OneOrList[Annotated[int, whole(1, 64)]] = Field(
        default=[1],
        description="NUMA nodes of a guest, which share its memory and its virtual CPUs evenly: one"
        " cell for each number.",
    )
    network: WordOr[
        Annotated[Literal["none", "user"], says("none, user or {network: NAME}")], Network
    ] = Field(
        default="none",
        description="A network card: none, QEMU's own user network, or a libvirt network of the"
        " host. Experiments need none.",
    )
    arrivals: OrLeftOut[Arrivals] = Field(
        default=None,
        description="When each guest starts, in seconds from the first sample: 0 is before it, as"
        " without this key. The first one has 0.",
    )
    lifetimes: OrLeftOut[Lifetimes] = Field(
        default=None,
        description="How long after its arrival a guest is stopped, in seconds: one time for all,"
        " or one for each guest. Without, it stays to the end of the run.",
    )

    @model_validator(mode="after")
    def _consistent(self, info: ValidationInfo) -> Self:
        if found := arrivals.problem(self.arrivals, self.lifetimes, max(self.count), rest_of(info)):
            raise wrong_at(found[0], found[1].message_template, **(found[1].context or {}))
        if self.arrivals and arrivals.times(self.arrivals, 1) != [0]:
            raise wrong_at("arrivals", "the first guest must be there from the beginning: 0")
        if self.come_and_go and any(self.balloon_mib):
            raise wrong_at("balloon_mib", "cannot go with arrivals and lifetimes")
        longest = max(map(len, self.image))
        if longest > min(self.count):
            message = "{images} images in turn need as many guests, but 'count' is {count}"
            raise wrong_at("image", message, images=longest, count=min(self.count))
        if max(self.numa) > min(self.vcpus):
            message = "{numa} nodes need as many 'vcpus', not {vcpus}"
            raise wrong_at("numa", message, numa=max(self.numa), vcpus=min(self.vcpus))
        if max(self.balloon_mib) >= self.memory_mib:
            message = "must be less than 'memory_mib' ({memory}), not {asked}"
            asked = max(self.balloon_mib)
            raise wrong_at("balloon_mib", message, memory=self.memory_mib, asked=asked)
        if any(self.balloon_mib) and (kinds := [*{*_WITHOUT_BALLOON} & {*self.backing}]):
            message = "the host gets no memory back from a balloon with 'backing: {kind}'"
            raise wrong_at("balloon_mib", message, kind=min(kinds))
        if "hugepages" in self.backing and self.memory_mib % (2 * max(self.numa)):
            message = "must be even for each node of a guest in huge pages of 2 MiB, not {asked}"
            raise wrong_at("memory_mib", message, asked=self.memory_mib)
        return self

    @property
    def come_and_go(self) -> bool:
        """Whether guests start or stop within a run."""
        return bool(self.arrivals or self.lifetimes)

    def changes(self, count: int, seconds: float) -> list[tuple[float, bool, int]]:
        """Return (seconds, whether it arrives, number) of all changes within a run, in order."""
        times = arrivals.times(self.arrivals, count) or [0.0] * count
        stays = arrivals.stays(self.lifetimes, count) or []
        numbered = list(enumerate(times, start=1))
        come = [(at, True, number) for number, at in numbered if at > 0]
        leave = [(at + stays[number - 1], False, number) for number, at in numbered if stays]
        return sorted(each for each in [*come, *leave] if each[0] < seconds)

    @property
    def variants(self) -> list[dict[str, Any]]:
        """All combinations of what guests are made of; each is a mapping of keys to values."""
        images = ["+".join(names) for names in self.image]
        every = {key: getattr(self, key) for key in ("vcpus", "backing", "balloon_mib", "numa")}
        every = {"image": images, **every}
        return [dict(zip(every, each, strict=True)) for each in itertools.product(*every.values())]


_DEFAULTS = {"image": BASE, "backing": "anonymous", "balloon_mib": 0, "numa": 1}


def asked(variant: dict[str, Any]) -> dict[str, Any]:
    """Return what a plan has of a variant: `vcpus`, and what is not the default."""
    return {key: value for key, value in variant.items() if value != _DEFAULTS.get(key)}


def guests_or_none(value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
    """Accept no guests where nothing needs them."""
    rest = rest_of(info)
    if value is None and not rest.guests:
        if not rest.without_guests:
            kinds = "'arrays', 'memory', 'write_probe' and 'phase_lock'"
            kinds = f"only workloads of {kinds} need no guests"
            if rest.processes:
                kinds = f"with 'processes', {kinds.replace('of ', 'of idle, ')}"
            raise wrong(f"this key is required: {kinds}")
        return None
    guests: Guests = handler(value)
    if "images" in info.data:  # otherwise they are wrong, which is reported
        known = [BASE, *(image.name for image in info.data["images"])]
        for name in itertools.chain(*guests.image):
            if name not in known:
                message = "there is no image '{name}' in 'images'; there are: {known}"
                raise wrong_at("image", message, name=name, known=", ".join(known))
    return guests
