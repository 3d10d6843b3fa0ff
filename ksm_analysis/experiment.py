"""An experiment definition: YAML text in, a validated experiment and its list of runs out.

Nothing here touches a host or a file. Whether a knob exists is for the host to say, since every
kernel has its own.
"""

import difflib
import itertools
import math
import re
import typing
from pathlib import PurePath
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidationInfo,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from ksm_analysis.errors import InputError

# What a run takes besides its sampling: unmerging, defining and removing the guests; then booting
# each guest. Measured with emulated guests on two CPUs, where boots wait for each other; with
# hardware virtualisation a run is quicker than its estimate.
RUN_SECONDS = 10.0
GUEST_SECONDS = 18.0

# fmt: off
MADVISE = (
    "dontneed", "hugepage", "mergeable", "nohugepage", "normal", "random", "sequential",
    "unmergeable", "willneed",
)
# As `stress-ng --vm 1 --vm-method which` of Debian 12's stress-ng 0.15.06 lists them.
VM_METHODS = (
    "all", "cache-lines", "cache-stripe", "checkerboard", "flip", "fwdrev", "galpat-0", "galpat-1",
    "gray", "grayflip", "rowhammer", "incdec", "inc-nybble", "lfsr32", "rand-set", "rand-sum",
    "read64", "ror", "swap", "move-inv", "modulo-x", "mscan", "wrrd128nt", "prime-0", "prime-1",
    "prime-gray-0", "prime-gray-1", "prime-incdec", "walk-0d", "walk-1d", "walk-0a", "walk-1a",
    "write64", "write64nt", "write1024v", "zero-one",
)
# fmt: on


# --- what a value may be -------------------------------------------------------------------------


def _allowed(text: str) -> WrapValidator:
    """Say what is allowed, whichever way the value is wrong."""

    def check(value, handler):
        try:
            return handler(value)
        except ValidationError:
            shown = repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:57]}..."
            message = "must be {allowed}, not {shown}"
            context = {"allowed": text, "shown": shown}
            raise PydanticCustomError("allowed", message, context) from None

    return WrapValidator(check)


def _whole(low: int, high: int):
    bounds = Field(ge=low, le=high, strict=True)
    return Annotated[int, bounds, _allowed(f"a whole number from {low} to {high}")]


def _seconds(low: float, high: float):
    bounds = Field(ge=low, le=high, strict=True, allow_inf_nan=False)
    return Annotated[float, bounds, _allowed(f"a number of seconds from {low} to {high}")]


def _text(pattern: str, description: str):
    return Annotated[str, Field(pattern=pattern, strict=True), _allowed(description)]


def _distinct(values: list) -> list:
    repeated = [value for i, value in enumerate(values) if value in values[:i]]
    if repeated:
        message = "each entry must be there once, but {repeated} is repeated"
        raise PydanticCustomError("distinct", message, {"repeated": str(repeated[0])})
    return values


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _word_or(model: type[BaseModel], *words: str, allowed: str):
    """One of some words, or a mapping; what is wrong inside the mapping is then told in full."""
    word = Annotated[Literal[words], _allowed(allowed), Tag("word")]
    return Annotated[
        word | Annotated[model, Tag("mapping")],
        Discriminator(lambda value: "mapping" if isinstance(value, dict | model) else "word"),
    ]


def _idle_by_name(value: Any) -> Any:
    return {"name": "idle"} if value == "idle" else value


def _distinct_names(workloads: list["Workload"]) -> list["Workload"]:
    _distinct([workload.name for workload in workloads])
    return workloads


def _fits(size: Any) -> Any:
    """Refuse sizes below stress-ng's least, 4 KiB."""
    number = re.match(r"[\d.]+", str(size))
    unit = str(size)[-1].lower()
    if unit != "%" and float(number[0]) * {"k": 2**10, "m": 2**20, "g": 2**30}.get(unit, 1) < 4096:
        raise PydanticCustomError("size", "must be at least 4K, the least that stress-ng takes")
    return size


Count = Annotated[
    list[_whole(1, 99)], Field(min_length=1), BeforeValidator(_as_list), AfterValidator(_distinct)
]
Switch = Annotated[bool, Field(strict=True), _allowed("true or false")]
Size = Annotated[
    Annotated[int, Field(ge=1, strict=True)]
    | Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?[bkmgBKMG%]?$", strict=True)],
    _allowed("a size such as 64M, 1G or 50%"),
    AfterValidator(_fits),
]
KnobName = _text(r"^[a-z][a-z0-9_]*$", "the name of a file in /sys/kernel/mm/ksm")
KnobValue = Annotated[
    Annotated[int, Field(ge=0, lt=2**63, strict=True)]
    | Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$", strict=True)],
    _allowed("a whole number of 0 or more, or a word such as scan-time"),
]


# --- the definition ------------------------------------------------------------------------------


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Network(_Strict):
    """A libvirt network that the guests are connected to."""

    network: _text(r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", "the name of a libvirt network")


class Guests(_Strict):
    """How many guests, and of what size."""

    count: Count
    memory_mib: _whole(64, 1048576) = 512
    disk_gib: _whole(1, 1024) = 4
    vcpus: _whole(1, 64) = 1
    network: _word_or(Network, "none", "user", allowed="none, user or {network: NAME}") = "none"


class StressNg(_Strict):
    """The vm options of stress-ng, with underscores for dashes and without the leading ones."""

    vm: _whole(1, 1024)
    vm_bytes: Size | None = None
    vm_hang: _whole(0, 86400) | None = None
    vm_keep: Switch = False
    vm_locked: Switch = False
    vm_madvise: Annotated[Literal[MADVISE], _allowed(f"one of {', '.join(MADVISE)}")] | None = None
    vm_method: (
        Annotated[Literal[VM_METHODS], _allowed(f"one of {', '.join(VM_METHODS)}")] | None
    ) = None
    vm_ops: _whole(1, 2**62) | None = None
    vm_populate: Switch = False


class Window(_Strict):
    """A part of the run, in seconds from its first sample."""

    start: _seconds(0, 31536000) = Field(alias="from")
    stop: _seconds(0, 31536000) = Field(alias="to")

    @model_validator(mode="after")
    def _within_the_run(self, info: ValidationInfo):
        if self.start >= self.stop:
            raise PydanticCustomError("window", "'from' must be less than 'to'")
        length = (info.context or {}).get("seconds")
        if length is not None and self.stop > length:
            message = "'to' must be at most {length} s, the length of a run's sampling"
            raise PydanticCustomError("window", message, {"length": f"{length:g}"})
        return self


class Workload(_Strict):
    """What every guest does: nothing (`idle`), or stress-ng for a stated part of the run."""

    name: _text(
        r"^[a-z0-9][a-z0-9_-]{0,39}$",
        "at most 40 small letters, digits, - and _ (it becomes part of a directory's name)",
    )
    stress_ng: StressNg | None = None
    active: _word_or(
        Window, "whole", "first-half", allowed="whole, first-half or {from: S, to: S}"
    ) = "whole"

    @model_validator(mode="after")
    def _idle_or_not(self):
        if (self.name == "idle") != (self.stress_ng is None):
            message = (
                "needs 'stress_ng' and a name of its own; a workload that does nothing is 'idle'"
            )
            raise PydanticCustomError("workload", message)
        return self

    def window(self, seconds: float) -> tuple[float, float]:
        """Start and stop of the workload in a run of that length, in seconds."""
        if isinstance(self.active, Window):
            return self.active.start, self.active.stop
        return 0.0, seconds / 2 if self.active == "first-half" else seconds


class Sampling(_Strict):
    """How long a run is, and how often all counters are read."""

    interval: _seconds(0.01, 86400)
    intervals: _whole(1, 100000)
    period: _seconds(0.01, 3600) = 0.25

    @model_validator(mode="after")
    def _whole_multiple(self):
        periods = self.interval / self.period
        if round(periods) < 1 or not math.isclose(periods, round(periods), rel_tol=1e-9):
            message = (
                "'interval' must be a whole multiple of 'period' ({period} s), not {interval} s"
            )
            context = {"period": f"{self.period:g}", "interval": f"{self.interval:g}"}
            raise PydanticCustomError("multiple", message, context)
        if self.samples > 1_000_000:
            message = "{samples} samples a run: at most 1000000 are allowed"
            raise PydanticCustomError("samples", message, {"samples": self.samples})
        return self

    @property
    def seconds(self) -> float:
        """From the first sample to the last."""
        return self.interval * self.intervals

    @property
    def samples(self) -> int:
        """One more than the periods: the first sample is the baseline of every counter."""
        return round(self.interval / self.period) * self.intervals + 1


class Experiment(_Strict):
    """The whole file."""

    note: Annotated[str, Field(strict=True), _allowed("text")] = ""
    guests: Guests
    knobs: Annotated[
        list[dict[KnobName, KnobValue]], Field(min_length=1), AfterValidator(_distinct)
    ] = [{"run": 1}]
    workloads: Annotated[
        list[Annotated[Workload, BeforeValidator(_idle_by_name)]],
        Field(min_length=1),
        AfterValidator(_distinct_names),
    ] = [Workload(name="idle")]
    sampling: Sampling
    repetitions: _whole(1, 1000) = 1


# --- text to experiment --------------------------------------------------------------------------


def parse(text: str, file: str) -> Experiment:
    """Read a definition. `file` is only for messages.

    Raises InputError with one line for each thing that is wrong: file, line, key, what is allowed.
    """
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        data = loader.construct_document(root) if root else None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(_not_yaml(error, file)) from None
    if not isinstance(data, dict):
        keys = ", ".join(_keys(Experiment))
        raise InputError(f"{file}:1: an experiment is a mapping with the keys {keys}")
    problems = list(_repeated_keys(root))
    try:
        experiment = Experiment.model_validate(data, context={"seconds": _run_seconds(data)})
    except ValidationError as error:
        problems += [_problem(details, root) for details in error.errors(include_url=False)]
    if problems:
        raise InputError("\n".join(f"{file}:{line}: {what}" for line, what in sorted(problems)))
    return experiment


def _run_seconds(data: dict) -> float | None:
    """Length of a run, for the checks of other keys; None if `sampling` itself is wrong."""
    try:
        return Sampling.model_validate(data.get("sampling")).seconds
    except ValidationError:
        return None


def _not_yaml(error: Exception, file: str) -> str:
    mark = getattr(error, "problem_mark", None)
    line = f"{mark.line + 1}" if mark else "1"
    what = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"{file}:{line}: not valid YAML: {what}"


def _repeated_keys(root: yaml.Node) -> typing.Iterator[tuple[int, str]]:
    """YAML keeps the last of two equal keys and says nothing; both cannot be meant."""
    seen, nodes = set(), [root]
    while nodes:
        node = nodes.pop()
        if id(node) in seen or isinstance(node, yaml.ScalarNode):
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            nodes += node.value
            continue
        names = set()
        for key, value in node.value:
            if key.value in names if isinstance(key.value, str) else False:
                yield key.start_mark.line + 1, f"{key.value}: this key is there twice"
            names.add(str(key.value))
            nodes.append(value)


def _problem(details: dict, root: yaml.Node) -> tuple[int, str]:
    """One of pydantic's errors as (line, text)."""
    line, path = _place(details["loc"], root)
    kind, message = details["type"], details["msg"]
    if kind == "extra_forbidden":
        message = _unknown_key(details["loc"])
    elif kind == "missing":
        path = ".".join([*filter(None, [path]), str(details["loc"][-1])])
        message = "this key is required"
    elif kind == "model_type":
        keys = ", ".join(_keys(_model_at(details["loc"])))
        message = f"must be a mapping with the keys {keys}"
    elif kind == "dict_type":
        message = "must be a mapping of names to values"
    elif kind == "too_short":
        message = "must have at least one entry"
    elif kind == "list_type":
        message = "must be a list"
    return line, f"{path}: {message}"


def _place(location: tuple, root: yaml.Node) -> tuple[int, str]:
    """Line and dotted path of the nearest thing in the file that pydantic's location names.

    Parts that are in no file (a missing key, pydantic's names for the branches of a union) are
    passed over.
    """
    node, line, path = root, root.start_mark.line + 1, ""
    for part in location:
        if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line, path = node.start_mark.line + 1, f"{path}[]"
        elif isinstance(node, yaml.MappingNode):
            found = [pair for pair in node.value if pair[0].value == str(part)]
            if found:
                key, node = found[-1]
                line, path = key.start_mark.line + 1, f"{path}.{part}".lstrip(".")
    return line, path


def _unknown_key(location: tuple) -> str:
    keys = _keys(_model_at(location[:-1]))
    near = difflib.get_close_matches(str(location[-1]), keys, n=2)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return f"unknown key.{hint} Allowed: {', '.join(keys)}"


def _keys(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_at(location: tuple) -> type[BaseModel]:
    """Find the model that pydantic's location leads to."""
    model = Experiment
    for part in location:
        field = model.model_fields.get(part) if isinstance(part, str) else None
        if field and (inner := _model_in(field.annotation)):
            model = inner
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_in, typing.get_args(annotation))), None)


# --- experiment to runs --------------------------------------------------------------------------


def plan(experiment: Experiment, file: str) -> dict:
    """List the runs of an experiment, in the order of running, as docs/data.md has them.

    Repetitions are outermost: what drifts with time (a warmer CPU, a fuller disk) then meets every
    cell alike.
    """
    name = PurePath(file).stem
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        allowed = "letters, digits, '.', '_' and '-'"
        raise InputError(f"{file}: the file's name becomes a directory's: {allowed} are allowed")
    labels = knob_labels(experiment.knobs)
    cells = itertools.product(
        range(1, experiment.repetitions + 1),
        experiment.guests.count,
        range(len(experiment.knobs)),
        experiment.workloads,
    )
    runs = [_run(experiment, index, labels, *cell) for index, cell in enumerate(cells, start=1)]
    return {
        "experiment": name,
        "file": file,
        "note": experiment.note.strip(),
        "seconds": sum(run["seconds"] for run in runs),
        "runs": runs,
    }


def knob_labels(settings: list[dict]) -> list[str]:
    """One name for each setting: the knobs that differ between them, or all if there is one."""
    names = list(dict.fromkeys(itertools.chain(*settings)))
    if len(settings) > 1:
        names = [name for name in names if len({str(s.get(name)) for s in settings}) > 1]
    return [
        ", ".join(f"{name}={s[name]}" if name in s else f"{name} as found" for name in names)
        for s in settings
    ]


def _run(
    experiment: Experiment,
    index: int,
    labels: list[str],
    repetition: int,
    count: int,
    setting: int,
    workload: Workload,
) -> dict:
    guests, sampling = experiment.guests, experiment.sampling
    return {
        "id": f"g{count:02}-k{setting + 1}-{workload.name}-r{repetition}",
        "index": index,
        "factors": {
            "guests": count,
            "knobs": labels[setting],
            "workload": workload.name,
            "repetition": repetition,
        },
        "guests": {
            "count": count,
            "memory_mib": guests.memory_mib,
            "disk_gib": guests.disk_gib,
            "vcpus": guests.vcpus,
            "network": _network(guests.network),
        },
        # ksmd that does not run measures nothing: run=0 has to be asked for
        "knobs": {"run": 1, **experiment.knobs[setting]},
        "workload": _workload(workload, sampling.seconds),
        "sampling": {
            "interval": sampling.interval,
            "intervals": sampling.intervals,
            "period": sampling.period,
            "samples": sampling.samples,
            "seconds": sampling.seconds,
        },
        # each run says for itself what it is part of
        "note": experiment.note.strip(),
        "seconds": RUN_SECONDS + GUEST_SECONDS * count + sampling.seconds,
    }


def _network(network: Network | str) -> str | None:
    if isinstance(network, Network):
        return network.network
    return None if network == "none" else network


def _workload(workload: Workload, seconds: float) -> dict:
    if workload.stress_ng is None:
        return {"name": workload.name}
    start, stop = workload.window(seconds)
    options = workload.stress_ng.model_dump(exclude_defaults=True)
    return {"name": workload.name, "stress_ng": options, "start": start, "stop": stop}
