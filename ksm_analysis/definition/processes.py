"""Processes of a definition: copies of a service or a command on the host."""

from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

from pydantic import (
    ConfigDict,
    Field,
    ValidationInfo,
    model_validator,
)
from pydantic.config import JsonDict

from ksm_analysis.definition import arrivals, values
from ksm_analysis.definition.arrivals import Arrivals, Lifetimes
from ksm_analysis.definition.density import Density
from ksm_analysis.definition.values import (
    OneOrList,
    OrLeftOut,
    Strict,
    duration,
    one_of,
    rest_of,
    whole,
    wrong,
    wrong_at,
)

Service = Literal["python", "redis", "memcached", "postgres", "nginx", "java", "memory"]
Merge = Literal["prctl", "madvise", "none"]
DataSet = Literal["same", "similar", "different"]
Count = OneOrList[Annotated[int, whole(1, 999)]]
MOST_PASSING = 90  # percent of the pages that do not rest
_ONE: list[JsonDict] = [{"required": ["service"]}, {"required": ["command"]}]


class Contents(Strict):
    """What each copy of the service `memory` contains, and how it changes."""

    equal_percent: Annotated[float, values.number(0, 100)] = Field(
        default=50.0,
        description="Part of the pages of a copy that each other copy has, too, in percent. They"
        " differ within a copy.",
    )
    zero_percent: Annotated[float, values.number(0, 100)] = Field(
        default=10.0,
        description="Part of its pages that are full of zeros, in percent. All others are unique.",
    )
    write_percent: Annotated[float, values.number(0, 100)] = Field(
        default=0.0,
        description="Part of its pages, chosen at random, that are written each second, in percent."
        " They then have contents that no other page has.",
    )
    rest_seconds: Annotated[float, duration(0, 3600)] = Field(
        default=0.0,
        description="Seconds until a page that was written gets its content back. With 0, that is"
        " at once.",
    )
    huge_pages: values.Switch = Field(
        default=False,
        description="Ask for transparent huge pages. Without, the memory has none.",
    )

    @model_validator(mode="after")
    def _at_most_all(self) -> Self:
        if self.zero_percent + self.equal_percent > 100:
            raise wrong("'zero_percent' and 'equal_percent' must be at most 100 together")
        if self.write_percent * self.rest_seconds > MOST_PASSING:
            message = "'write_percent' × 'rest_seconds' must be at most {most}"  # noqa: RUF001
            raise wrong(message, most=MOST_PASSING)
        return self


class Processes(Strict):
    """How many copies of what, and whether their memory is mergeable."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [*_ONE]})

    count: Count = Field(description="How many copies run at once: one cell for each number.")
    service: OrLeftOut[Annotated[Service, one_of(Service)]] = Field(
        default=None, description="A ready-made service, from Debian."
    )
    command: OrLeftOut[values.Command] = Field(
        default=None,
        description="A command of your own, run by root on the host, instead of `service`. It stays"
        " in the foreground. `KSM_COPY` is the number of the copy, from 1.",
    )
    check: OrLeftOut[values.Command] = Field(
        default=None,
        description="A command that succeeds when a copy of `command` is ready. Without, it is"
        " ready when it has started.",
    )
    metrics: OrLeftOut[Annotated[values.Printed, one_of(values.Printed)]] = Field(
        default=None,
        description="Read what `command` prints as metrics: lines of JSON, or the output of a"
        " program.",
    )
    merge: Annotated[Merge, one_of(Merge)] = Field(
        default="prctl",
        description="What makes memory mergeable: `prctl` for all memory of each process (Linux"
        " 6.4 and newer), `madvise` if the program asks for it itself, as `python` and `memory` do"
        " for their data, or `none`.",
    )
    memory_mib: Annotated[int, whole(8, 1048576)] = Field(
        default=512, description="Memory limit of the cgroup of each copy, in MiB."
    )
    data: Annotated[DataSet, one_of(DataSet)] = Field(
        default="same",
        description="The data set of a service: the `same` in all copies, `similar` (the same in"
        " another order), or `different`.",
    )
    data_mib: Annotated[int, whole(1, 65536)] = Field(
        default=32, description="Size of the data set of a copy, in MiB."
    )
    contents: OrLeftOut[Contents] = Field(
        default=None, description="What the memory of `memory` contains, and how it changes."
    )
    workers: Annotated[int, whole(1, 99)] = Field(
        default=2, description="Worker processes of a copy of `python`."
    )
    preload: values.Switch = Field(
        default=False,
        description="Whether `python` loads modules and data before it forks its workers, which"
        " then share them without KSM. Without, each worker loads its own.",
    )
    ready_seconds: Annotated[float, duration(1, 3600)] = Field(
        default=60.0, description="How long the copies may take to answer their check."
    )
    arrivals: OrLeftOut[Arrivals] = Field(
        default=None,
        description="When each copy starts, in seconds from the first sample: 0 is before it, as"
        " without this key.",
    )
    lifetimes: OrLeftOut[Lifetimes] = Field(
        default=None,
        description="How long after its arrival a copy is ended, in seconds: one time for all, or"
        " one for each copy. Without, it stays to the end of the run.",
    )

    @model_validator(mode="after")
    def _consistent(self, info: ValidationInfo) -> Self:
        if (self.service is None) == (self.command is None):
            raise wrong("needs either 'service' or 'command'")
        for key, of in _BELONGS.items():
            if key in self.model_fields_set and not of(self):
                raise wrong_at(key, _WHERE[key])
        if self.merge == "madvise" and self.service not in (None, "python", "memory"):
            message = "must be prctl or none for {service}, which does not ask for madvise itself"
            raise wrong_at("merge", message, service=self.service)
        found = arrivals.problem(self.arrivals, self.lifetimes, max(self.count), rest_of(info))
        if found:
            raise wrong_at(found[0], found[1].message_template, **(found[1].context or {}))
        return self

    @property
    def name(self) -> str:
        """What runs, in a word."""
        return self.service or "command"

    @property
    def notes(self) -> list[str]:
        """What KSM cannot merge by design."""
        if self.merge == "none":
            return ["KSM may not merge the memory of these processes: merge is none"]
        cannot = _CANNOT_MERGE.get(self.name)
        return [f"KSM cannot merge {cannot}"] if cannot else []

    @property
    def come_and_go(self) -> bool:
        """Whether copies start or end within a run."""
        return bool(self.arrivals or self.lifetimes)

    def names(self, count: int) -> list[str]:
        """Return the names of all processes of so many copies that are sampled."""
        width = max(2, len(str(count)))
        copies = [f"process-{number:0{width}}" for number in range(1, count + 1)]
        workers = range(1, {"python": self.workers, **_WORKERS}.get(self.name, 0) + 1)
        return [
            name for copy in copies for name in (copy, *(f"{copy}-w{number}" for number in workers))
        ]

    def options(self, count: int, density: Density | None) -> dict[str, Any]:
        """Return the options of the role for a run with that many copies."""
        return {
            **self.model_dump(exclude_none=True),  # the role takes no null for one of its choices
            **self._contents(),
            "count": count,
            "arrivals": arrivals.times(self.arrivals, count),
            "lifetimes": arrivals.stays(self.lifetimes, count),
            "density": density and density.model_dump(),
        }

    def _contents(self) -> dict[str, Any]:
        if self.service != "memory":
            return {}
        return {"contents": (self.contents or Contents()).model_dump()}


_WORKERS = {"postgres": 3, "nginx": 1}  # further processes of a copy that stay
_CANNOT_MERGE = {
    "postgres": "the buffers of PostgreSQL, which are shared memory, and its files in the page"
    " cache: only private memory of its processes",
    "memcached": "the values of memcached, even if they are the same: beside each are pointers,"
    " which differ between processes",
    "nginx": "the files that nginx serves, which are in the page cache: only private memory of its"
    " processes",
}
_BELONGS: dict[str, Callable[[Processes], object]] = {
    "check": lambda asked: asked.command,
    "metrics": lambda asked: asked.command,
    "contents": lambda asked: asked.service == "memory",
    "data": lambda asked: asked.service not in (None, "memory"),
    "data_mib": lambda asked: asked.service,
    "workers": lambda asked: asked.service == "python",
    "preload": lambda asked: asked.service == "python",
}
_WHERE = {
    "check": "goes with 'command': a service has a check of its own",
    "metrics": "goes with 'command'",
    "contents": "goes with 'service: memory'",
    "data": "goes with 'service', except for memory, which has 'contents'",
    "data_mib": "goes with 'service'",
    "workers": "goes with 'service: python'",
    "preload": "goes with 'service: python'",
}
