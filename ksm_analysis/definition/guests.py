"""Guests of a definition: how many there are, and what each is made of."""

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, ValidatorFunctionWrapHandler

from ksm_analysis.definition import values
from ksm_analysis.definition.values import Strict, WordOr, rest_of, says, whole, wrong


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
    vcpus: Annotated[int, whole(1, 64)] = Field(default=1, description="Virtual CPUs of a guest.")
    network: WordOr[
        Annotated[Literal["none", "user"], says("none, user or {network: NAME}")], Network
    ] = Field(
        default="none",
        description="A network card: none, QEMU's own user network, or a libvirt network of the"
        " host. Experiments need none.",
    )


def guests_or_none(value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
    """Accept no guests where nothing needs them."""
    rest = rest_of(info)
    if value is None and not rest.guests:
        if not rest.without_guests:
            kinds = "only workloads of 'arrays', 'memory' and 'write_probe' need no guests"
            if rest.processes:
                kinds = f"with 'processes', {kinds.replace('of ', 'of idle, ')}"
            raise wrong(f"this key is required: {kinds}")
        return None
    return handler(value)
