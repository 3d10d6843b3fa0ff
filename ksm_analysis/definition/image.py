"""Images of a definition: what guests boot from, beside the image of the inventory."""

from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from ksm_analysis.definition import values
from ksm_analysis.definition.values import (
    OrLeftOut,
    Strict,
    duration,
    not_allowed,
    says,
    wrong,
    wrong_at,
)

BASE = "base"  # the image of the inventory

_Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,14}$", strict=True)]
_TURNS = "the name of an image or a list of two or more names"


def _own_name(name: str) -> str:
    if name in (BASE, "current"):
        raise wrong("needs another name: '{name}' is the image of the inventory", name=name)
    return name


def _turns(value: Any) -> Any:
    """Make a list of a single name, which a file writes without brackets."""
    if isinstance(value, list) and len(value) < 2:
        raise not_allowed(value, _TURNS)
    return [value] if isinstance(value, str) else value


# The images that guests have in turn: guest 1 the first, guest 2 the second, …
Turns = Annotated[
    list[_Name],
    BeforeValidator(
        _turns, json_schema_input_type=_Name | Annotated[list[_Name], Field(min_length=2)]
    ),
    says(_TURNS),
]
Package = Annotated[
    str,
    Field(pattern=r"^[a-z0-9][a-z0-9+.-]+$", strict=True),
]
Packages = Annotated[
    list[Package],
    Field(min_length=1),
    says("a list of names of Debian packages"),
    AfterValidator(values.distinct),
]
_Path = Annotated[
    str, Field(pattern=r"^/[^\x00\n]+$", strict=True), says("an absolute path on the host")
]


class Image(Strict):
    """An image of Debian packages, or one's own disk."""

    name: Annotated[
        _Name,
        says("at most 15 small letters, digits and -, of which the first is a letter"),
        AfterValidator(_own_name),
    ] = Field(description="Its name in `guests.image`, in labels and on the host.")
    packages: OrLeftOut[Packages] = Field(
        default=None,
        description="Packages in addition to those of the image of the inventory, which is `base`.",
    )
    suite: OrLeftOut[
        Annotated[
            str,
            Field(pattern=r"^[a-z][a-z-]*$", strict=True),
            says("the name of a Debian release, such as bookworm"),
        ]
    ] = Field(default=None, description="Debian release, which a mirror of the host must have.")
    file: OrLeftOut[_Path] = Field(
        default=None,
        description="A qcow2 disk of your own on the host. It is only read. Without `kernel`, its"
        " boot loader boots it (BIOS).",
    )
    kernel: OrLeftOut[_Path] = Field(
        default=None, description="With `file`: the kernel that boots it, on the host."
    )
    initrd: OrLeftOut[_Path] = Field(
        default=None, description="With `kernel`: its initrd, on the host."
    )
    cmdline: OrLeftOut[values.Words] = Field(
        default=None,
        description="With `kernel`: its command line. Without, it is"
        " `root=/dev/vda rw console=ttyS0 quiet`.",
    )
    agent: values.Switch = Field(
        default=True,
        description="With `file`: whether the QEMU guest agent runs in it. Without, its guests can"
        " only be idle.",
    )
    ready_seconds: Annotated[float, duration(0, 3600)] = Field(
        default=30.0,
        description="With `agent: false`: how long a guest must have run to be ready.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.file is None and not (self.packages or self.suite):
            raise wrong("needs 'packages', 'suite' or 'file'")
        given = self.model_fields_set
        for key in ("packages", "suite"):
            if self.file and key in given:
                raise wrong_at(key, "cannot go with 'file'")
        for key, needs in _BELONGS.items():
            if key in given and not getattr(self, needs):
                raise wrong_at(key, "goes with '{needs}'", needs=needs)
        if "ready_seconds" in given and self.agent:
            raise wrong_at("ready_seconds", "goes with 'agent: false': an agent says when it is")
        return self

    def planned(self) -> dict[str, Any]:
        """Return what the roles need to know of it."""
        return self.model_dump(exclude_none=True, exclude_defaults=True) | (
            {} if self.agent else {"ready_seconds": self.ready_seconds}
        )


_BELONGS = {"kernel": "file", "initrd": "kernel", "cmdline": "kernel", "agent": "file"}


def distinct_names(images: list[Image]) -> list[Image]:
    """Refuse two images with the same name."""
    values.distinct([image.name for image in images])
    return images
