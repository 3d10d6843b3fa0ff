"""Workloads of a definition: what runs in the guests, or in two arrays instead of guests."""

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    model_validator,
)
from pydantic.config import JsonDict

from ksm_analysis.definition import values
from ksm_analysis.definition.image import Packages
from ksm_analysis.definition.load import Load, within_the_run
from ksm_analysis.definition.values import (
    OneOrList,
    OrLeftOut,
    Rest,
    Strict,
    WordOr,
    duration,
    keys,
    one_of,
    rest_of,
    says,
    whole,
    wrong,
    wrong_at,
)

Change = Literal["single", "half-same", "half-distinct"]


class StressNg(Strict):
    """The vm options of stress-ng, without leading dashes and with underscores for other dashes."""

    vm: Annotated[int, whole(1, 1024)] = Field(description="Worker processes in each guest.")
    vm_bytes: OrLeftOut[values.Size] = Field(
        default=None, description="Memory of all workers of a guest together; at least 4K."
    )
    vm_hang: OrLeftOut[Annotated[int, whole(0, 86400)]] = Field(
        default=None, description="Seconds to wait before memory is freed; 0 waits forever."
    )
    vm_keep: values.Switch = Field(
        default=False,
        description="Write to the same memory again instead of allocating new memory.",
    )
    vm_locked: values.Switch = Field(default=False, description="Lock the memory.")
    vm_madvise: OrLeftOut[Annotated[values.Madvise, one_of(values.Madvise)]] = Field(
        default=None, description="Advice to the guest's kernel."
    )
    vm_method: OrLeftOut[Annotated[values.VmMethod, one_of(values.VmMethod)]] = Field(
        default=None, description="What is written to the memory."
    )
    vm_ops: OrLeftOut[Annotated[int, whole(1, 2**62)]] = Field(
        default=None, description="Stop after this many operations."
    )
    vm_populate: values.Switch = Field(
        default=False, description="Fill in page tables when memory is mapped."
    )


class Window(Strict):
    """A part of the run, in seconds from its first sample."""

    start: Annotated[float, duration(0, values.YEAR)] = Field(
        alias="from",
        description="In the mapping only: when it starts, in seconds from the first sample.",
    )
    stop: Annotated[float, duration(0, values.YEAR)] = Field(
        alias="to",
        description="In the mapping only: when it stops; at most the length of the run.",
    )

    @model_validator(mode="after")
    def _within_the_run(self, info: ValidationInfo) -> Self:
        if self.start >= self.stop:
            raise wrong("'from' must be less than 'to'")
        rest = rest_of(info)
        if rest.seconds is not None and self.stop > rest.seconds:
            message = "'to' must be at most {limit} s, {length}"
            raise wrong(message, limit=f"{rest.seconds:g}", length=rest.length)
        return self


# Keys of a workload that a part of a mixed workload has, too.
_StressNg = Annotated[
    OrLeftOut[StressNg], Field(description="Options of stress-ng's virtual memory stressor.")
]
_Command = Annotated[
    OrLeftOut[values.Command],
    Field(description="A command of your own, run by root in the guest."),
]
_Metrics = Annotated[
    OrLeftOut[Annotated[values.Printed, one_of(values.Printed)]],
    Field(
        description="Read what `command` prints as metrics: lines of JSON, or the output of a"
        " program."
    ),
]
_Active = Annotated[
    WordOr[
        Annotated[Literal["whole", "first-half"], says("whole, first-half or {from: S, to: S}")],
        Window,
    ],
    Field(
        description="When it runs: in the whole run, in its first half, or in a part of it."
        " stress-ng takes only whole seconds, so its length is rounded."
    ),
]


class Part(Strict):
    """What some of the guests do."""

    stress_ng: _StressNg = None
    command: _Command = None
    metrics: _Metrics = None
    active: _Active = "whole"
    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": ["stress_ng"]}, {"required": ["command"]}]}
    )

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.stress_ng is None) == (self.command is None):
            raise wrong("needs either 'stress_ng' or 'command'; a part that does nothing is idle")
        if self.metrics and not self.command:
            raise wrong_at("metrics", "goes with 'command'")
        return self

    def window(self, length: float) -> tuple[float, float]:
        """Return start and stop in a run of that length, in seconds."""
        if isinstance(self.active, Window):
            return self.active.start, self.active.stop
        return 0.0, length / 2 if self.active == "first-half" else length


class Arrays(Strict):
    """The workload without guests: two equal mergeable arrays, one of which is changed."""

    change: Annotated[Change, says("one of single, half-same or half-distinct")] = Field(
        description="How array 1 is changed: its first number becomes -1 (single), each number of"
        " its first half becomes -1 (half-same), or number i of its first half becomes -i"
        " (half-distinct)."
    )
    ints: Annotated[int, whole(2, 10**9)] = Field(
        default=1_000_000, description="Numbers in each of the two arrays, of 4 bytes each."
    )
    second: Annotated[float, duration(0, values.YEAR)] = Field(
        default=10.0, description="When array 2 is written, in seconds from the first sample."
    )
    changed: Annotated[float, duration(0, values.YEAR)] = Field(
        default=20.0, description="When array 1 is changed; before the run ends."
    )


def _change_or_mapping(value: Any) -> Any:
    """Convert a change to the mapping that it abbreviates."""
    if value in get_args(Change):
        return {"change": value}
    if not isinstance(value, dict | Arrays):
        raise values.not_allowed(value, "single, half-same, half-distinct or {change: ...}")
    return value


def _arrays_within_the_run(arrays: Arrays, info: ValidationInfo) -> Arrays:
    if arrays.second >= arrays.changed:
        message = "'second' ({second} s) must be less than 'changed' ({changed} s)"
        raise wrong(message, second=f"{arrays.second:g}", changed=f"{arrays.changed:g}")
    rest = rest_of(info)
    if rest.seconds is not None and arrays.changed >= rest.seconds:
        message = "'changed' ({changed} s) must be less than {limit} s, {length}"
        limit, changed = f"{rest.seconds:g}", f"{arrays.changed:g}"
        raise wrong(message, changed=changed, limit=limit, length=rest.length)
    return arrays


class Memory(Strict):
    """The workload without guests whose savings are known: a process with known contents."""

    mib: Annotated[int, whole(1, 2**20)] = Field(
        default=64, description="Size of the memory, in MiB."
    )
    zero_percent: Annotated[float, values.number(0, 100)] = Field(
        default=50.0, description="Part of its pages that are full of zeros, in percent."
    )
    equal_percent: Annotated[float, values.number(0, 100)] = Field(
        default=12.5,
        description="Part of its pages that are equal to each other, in percent. All others are"
        " unique.",
    )
    huge_pages: values.Switch = Field(
        default=False,
        description="Ask for transparent huge pages. Without, the process has none.",
    )

    @model_validator(mode="after")
    def _at_most_all(self) -> Self:
        if self.zero_percent + self.equal_percent > 100:
            raise wrong("'zero_percent' and 'equal_percent' must be at most 100 together")
        return self


Placed = Literal["any", "same", "other"]


class WriteProbe(Strict):
    """The workload without guests that measures writes to merged pages, and to others."""

    mib: Annotated[int, whole(1, 2**20)] = Field(
        default=64,
        description="Size of the memory that may be merged, in MiB. As much again may not.",
    )
    equal: values.Switch = Field(
        default=True,
        description="16 mergeable pages have the same content. With false, each has its own, so"
        " that ksmd scans memory that cannot merge.",
    )
    rate: Annotated[float, values.number(1, 10000)] = Field(
        default=300.0, description="Mean number of writes a second to each kind of memory."
    )
    ksmd: Annotated[Placed, one_of(Placed)] = Field(
        default="any",
        description="Where ksmd runs: on the CPU of the probe, on others, or where the kernel lets"
        " it. The CPUs of ksmd are restored.",
    )
    stop_ksmd: Annotated[float, duration(0, values.YEAR)] = Field(
        default=0.0,
        description="When the probe sets the knob `run` to 0, in seconds from the first sample:"
        " what is merged stays merged, without scans. 0 is never. Before the run ends.",
    )
    seed: Annotated[int, whole(0, 2**31)] = Field(
        default=0,
        description="Determines the random times and pages of the first repetition. Each further"
        " one has the next seed.",
    )


class PhaseLock(Strict):
    """The workload without guests that finds out which equal pages smart_scan lets ksmd merge."""

    distances: OneOrList[Annotated[int, whole(1, 1000)]] = Field(
        default=[*range(13, 41)],
        description="How often ksmd has scanned a set of pages when its equal appears.",
    )
    pages: Annotated[int, whole(1, 65536)] = Field(default=512, description="Pages of a set.")
    scans: Annotated[int, whole(1, 10**6)] = Field(
        default=60,
        description="How many scans follow after the last set, before merged pages are counted.",
    )


def _probe_within_the_run(probe: WriteProbe, info: ValidationInfo) -> WriteProbe:
    rest = rest_of(info)
    if rest.seconds is not None and probe.stop_ksmd >= rest.seconds:
        message = "'stop_ksmd' ({at} s) must be less than {limit} s, {length}"
        limit, at = f"{rest.seconds:g}", f"{probe.stop_ksmd:g}"
        raise wrong(message, at=at, limit=limit, length=rest.length)
    return probe


def idle_or_mapping(value: Any) -> Any:
    """Convert `idle` to the workload of that name."""
    if value == "idle":
        return {"name": "idle"}
    if not isinstance(value, dict | Workload):
        allowed = f"idle or a mapping with the keys {', '.join(keys(Workload))}"
        raise values.not_allowed(value, allowed)
    return value


def _listed(allowed: str) -> BeforeValidator:
    def check(value: object) -> object:
        if not isinstance(value, list) or not value:
            raise values.not_allowed(value, allowed)
        return value

    return BeforeValidator(check)


WITHOUT_GUESTS = ("arrays", "memory", "write_probe", "phase_lock", "load")
KINDS = ("stress_ng", "command", "mixed", *WITHOUT_GUESTS)
_ONE_KIND: list[JsonDict] = [{"required": [kind]} for kind in KINDS]
_IdleOrPart = WordOr[
    Annotated[Literal["idle"], says("idle or a mapping with the keys stress_ng, command, active")],
    Part,
]


class Workload(Strict):
    """What runs: the same in all guests, a part in each guest, or a process instead of guests."""

    name: Annotated[
        str,
        Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$", strict=True),
        says("at most 40 small letters, digits, - and _ (it becomes part of a directory's name)"),
    ] = Field(description="Its name in tables, figures and directories. `idle` means no workload.")
    stress_ng: _StressNg = None
    command: _Command = None
    metrics: _Metrics = None
    mixed: Annotated[
        OrLeftOut[list[_IdleOrPart]],
        Field(min_length=1),
        _listed("a list of parts, each idle or a mapping"),
    ] = Field(
        default=None,
        description="A part for each guest: the first for guest 1, the second for guest 2, and so"
        " on. After the last part comes the first again.",
    )
    arrays: Annotated[
        OrLeftOut[Arrays],
        BeforeValidator(_change_or_mapping, json_schema_input_type=WordOr[Change, Arrays]),
        AfterValidator(_arrays_within_the_run),
    ] = Field(default=None, description="Two arrays of a process on the host, without guests.")
    memory: OrLeftOut[Memory] = Field(
        default=None,
        description="A process on the host, without guests, with memory of known contents, which it"
        " has written before the run begins.",
    )
    write_probe: OrLeftOut[Annotated[WriteProbe, AfterValidator(_probe_within_the_run)]] = Field(
        default=None,
        description="A process on the host, without guests, that measures how long its writes to"
        " merged pages take.",
    )
    phase_lock: OrLeftOut[PhaseLock] = Field(
        default=None,
        description="A process on the host, without guests, that finds out which equal pages ksmd"
        " merges, by the scans between their first appearances.",
    )
    load: OrLeftOut[Annotated[Load, AfterValidator(within_the_run)]] = Field(
        default=None,
        description="Requests to the copies of the service of `processes`, at a stated rate, and"
        " how long their answers take.",
    )
    active: _Active = "whole"
    nosharepages: OrLeftOut[values.GuestNumbers] = Field(
        default=None,
        description="Guests whose memory the host must not merge (libvirt's `<nosharepages/>`)."
        " Numbers of guests that a run does not have are ignored. If `name` is the only other key,"
        " the guests are idle.",
    )
    requires: OrLeftOut[Packages] = Field(
        default=None,
        description="Debian packages that it needs in the guests. They are looked up in each image"
        " before anything boots.",
    )
    model_config = ConfigDict(
        json_schema_extra={"oneOf": [*_ONE_KIND, {"not": {"anyOf": [*_ONE_KIND]}}]}
    )

    @model_validator(mode="after")
    def _consistent(self, info: ValidationInfo) -> Self:
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        for refused in (self._wrong_kinds(given), self._wrong_beside(given)):
            if refused:
                raise wrong(refused)
        rest = rest_of(info)
        if rest.guests and (kind := _without_guests(given)):
            raise wrong_at(kind, "is allowed only in an experiment without 'guests'")
        self._leaves_time(rest)
        return self

    def _wrong_kinds(self, given: list[str]) -> str:
        allowed = f"only one of {', '.join(KINDS[:-1])} and {KINDS[-1]} is allowed"
        if len(given) > 1:
            return f"has {', '.join(given)}: {allowed}"
        if self.name == "idle" and (given or self.nosharepages):
            return "needs another name: 'idle' is the workload that does nothing"
        if self.name != "idle" and not given and not self.nosharepages:
            kinds = ", ".join(f"'{kind}'" for kind in KINDS)
            kinds = f"one of {kinds} and 'nosharepages'"
            return f"needs {kinds}; a workload that does nothing is 'idle'"
        return ""

    def _wrong_beside(self, given: list[str]) -> str:
        if "active" in self.model_fields_set and not {"stress_ng", "command"} & {*given}:
            where = {"arrays": "; arrays have 'second' and 'changed'", "mixed": ", in each part"}
            beside = "".join(where.get(kind, "") for kind in given)
            return f"'active' goes with 'stress_ng' or 'command'{beside}"
        if self.metrics and "command" not in given:
            return f"'metrics' goes with 'command'{', in each part' if 'mixed' in given else ''}"
        if self.nosharepages and (kind := _without_guests(given)):
            return f"'nosharepages' is for guests: it cannot go with '{kind}'"
        if self.requires and (kind := _without_guests(given)):
            return f"'requires' is for guests: it cannot go with '{kind}'"
        if self.requires and not given:
            return "'requires' goes with 'stress_ng', 'command' or 'mixed'"
        return ""

    def _leaves_time(self, rest: Rest) -> None:
        if rest.seconds is None:
            return
        after = self.after(rest.seconds)
        if after + rest.steady > rest.seconds:
            message = (
                "ends at {after} s: this leaves {left} s of {limit} s, {length}, but 'stop' needs"
                " {steady} s"
            )
            left, limit = f"{rest.seconds - after:g}", f"{rest.seconds:g}"
            steady = f"{rest.steady:g}"
            context = {"left": left, "limit": limit, "steady": steady, "length": rest.length}
            raise wrong(message, after=f"{after:g}", **context)

    @property
    def parts(self) -> list[Part | Literal["idle"]]:
        """The parts, which are assigned to guests in this order, again and again."""
        if self.mixed:
            return self.mixed
        if self.stress_ng or self.command:
            return [
                Part.model_construct(
                    stress_ng=self.stress_ng,
                    command=self.command,
                    metrics=self.metrics,
                    active=self.active,
                )
            ]
        return ["idle"]

    def after(self, length: float) -> float:
        """Return when the last task ends that ends before a run of that length; 0 without one."""
        if self.arrays:
            return self.arrays.changed
        stops = [part.window(length)[1] for part in self.parts if part != "idle"]
        return max((stop for stop in stops if stop < length), default=0.0)


def _without_guests(given: list[str]) -> str | None:
    """Return the kind that needs no guests, if it is among those given."""
    return next((kind for kind in WITHOUT_GUESTS if kind in given), None)


def distinct_names(workloads: list[Workload]) -> list[Workload]:
    """Refuse two workloads with the same name."""
    values.distinct([workload.name for workload in workloads])
    return workloads
