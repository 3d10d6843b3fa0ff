"""Read and check run.json: what was asked of a run, and how it went.

Earlier formats are converted to the newest (docs/data.md).
"""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ksm_analysis.definition.factors import FACTORS, REPETITION
from ksm_analysis.definition.image import BASE

FORMAT = 2


class UnreadableError(Exception):
    """A run cannot be read. The message says why, for the user."""


class _Lenient(BaseModel):
    """A mapping that keeps the keys that a later version adds."""

    model_config = ConfigDict(extra="allow", strict=True)

    def asked(self) -> dict[str, Any]:
        """Return what the file has, without defaults."""
        return self.model_dump(exclude_unset=True)


Model = TypeVar("Model", bound=BaseModel)


Seconds = Annotated[float, Field(gt=0, lt=1e9)]
Moment = Annotated[float, Field(ge=0, lt=1e11, allow_inf_nan=False)]  # seconds since 1970
Count = Annotated[int, Field(ge=0, lt=2**31)]


class Sampling(_Lenient):
    """How a run is sampled. `intervals` and `samples` are counts; times are in seconds."""

    interval: Seconds
    intervals: Annotated[Count, Field(ge=1)]
    period: Seconds
    samples: Count
    seconds: Seconds
    steady: dict[str, Any] | None = None


class Part(_Lenient):
    """One part of a run: its name, its role, and its options."""

    name: str
    role: str = ""
    options: dict[str, Any] = {}
    processes: list[str] = []


class Task(_Lenient):
    """What some guests did, and when, in seconds since the run began."""

    guests: list[int]
    start: float
    stop: float
    stress_ng: dict[str, Any] | None = None
    command: list[str | int | float] | None = None
    metrics: str | None = None
    """How to read what the command prints."""


class Tasks(_Lenient):
    """The options of the part workload."""

    tasks: list[Task]


# Options of parts that readers use. Other options are only for the role of the part.
OPTIONS: dict[str, type[BaseModel]] = {"workload": Tasks}


class Factors(_Lenient):
    """What was varied; see ksm_analysis.definition.factors."""

    guests: Count
    knobs: str
    workload: str
    repetition: int
    processes: Count = 0
    """Copies of a service or a command. The label of the workload names them, too."""


class Guests(_Lenient):
    """The guests of a run."""

    count: Count
    memory_mib: Count | None = None
    nosharepages: list[int] | None = None
    image: str = BASE
    """The names of the images that guests have in turn, joined by +."""
    images: list[dict[str, Any]] = []
    """Their definitions, if they are not just the base image."""
    backing: str = "anonymous"
    balloon_mib: Count = 0
    numa: Count = 1


class Workload(_Lenient):
    """A workload."""

    name: str


class Policy(_Lenient):
    """Who turns the knobs during a run."""

    name: str
    """Its label."""
    kind: str
    full: str = ""
    """Its kind, and all that it was told."""
    settings: dict[str, Any] = {}
    turns: list[str] | None = None
    """The knobs that it may turn; None if it may turn any."""


class Planned(_Lenient):
    """One run as a plan lists it."""

    id: str
    index: int
    factors: Factors
    guests: Guests
    knobs: dict[str, int | str] = {}
    knobs_if_present: dict[str, int | str] = {}
    thp: dict[str, int | str] = {}
    """Knobs of transparent huge pages."""
    swap: str | int | None = None
    """The swap space: `none`, or the size of a zram device in MiB; None if it is as found."""
    policy: Policy | None = None
    """None if nobody turns the knobs."""
    workload: Workload
    sampling: Sampling
    parts: list[Part]
    note: str | None = None
    control: bool = False
    """Whether it runs the first setting once more, to show what no difference looks like."""
    repetition: int | None = None
    """Its repetition in its own experiment, if results were combined; see results.together."""
    unknown: dict[str, Any] = {}
    """Factors that this version does not know, by name."""


class Knobs(_Lenient):
    """Knobs at three times, by name."""

    before: dict[str, int | str] = {}
    during: dict[str, int | str] = {}
    after: dict[str, int | str] = {}


class Imported(_Lenient):
    """Where an imported run comes from."""

    file: str = ""
    cut_short: str | None = None
    assumed: dict[str, Any] = {}


class Simulated(_Lenient):
    """Which kernel was simulated, with how much memory, and the CPU seconds of a page."""

    kernel: str
    memory_mib: int | None = None
    costs: dict[str, float] = {}


class Record(_Lenient):
    """A whole run.json."""

    format: Literal[2]
    experiment: str = ""
    run: Planned
    host: str
    status: Literal["complete", "failed"]
    reason: str | None = ""
    started: Moment | None = None
    ended: Moment | None = None
    converged: bool | None = None
    knobs: Knobs = Knobs()
    provenance: dict[str, Any] = {}
    imported: Imported | None = None
    simulated: Simulated | None = None
    """None if it was measured on a real kernel."""


class Header(_Lenient):
    """The first line of samples.jsonl."""

    format: int
    monotonic: float
    period: float | None = None
    samples: int | None = None
    page_size: int = Field(gt=0, lt=2**40)
    clock_ticks: Annotated[float, Field(gt=0, lt=1e9)] | None = None
    guests: dict[str, int] = {}
    strain: dict[str, float | None] = {}
    pss_anon: dict[str, int | None] = {}


class Other(_Lenient):
    """A process that ksmd scans and that is not sampled."""

    pid: int
    name: str
    ksm_rmap_items: Count


class Others(_Lenient):
    """What ksmd tracks of processes that are not sampled: pages of all, and those with the most."""

    ksm_rmap_items: Count = 0
    processes: list[Other] = []


class End(_Lenient):
    """The last line of samples.jsonl, unless the sampler was killed."""

    reason: str | None = None
    gone: dict[str, float] | None = None
    converged: bool | None = None
    cpu_seconds: float | None = None
    strain: dict[str, float | None] = {}
    pss_anon: dict[str, int | None] = {}
    others: Others = Others()
    work: dict[str, float | None] = {}


def read(path: Path) -> Record:
    """Read and check a run.json, and convert it to the newest format.

    Raises UnreadableError, which says what is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UnreadableError(f"run.json cannot be read ({why(error)})") from None
    return of_text(text)


def of_text(text: str) -> Record:
    """Check the text of a run.json; see read."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"run.json cannot be read ({why(error)})") from None
    if not isinstance(found, dict):
        raise UnreadableError("run.json is not a JSON object")
    check_format(found.get("format"), "run.json", FORMAT)
    record = check(Record, upgraded(found) if found["format"] == 1 else found, "run.json")
    for part in record.run.parts:
        if model := OPTIONS.get(part.name):
            check(model, part.options, f"run.json, part {part.name},")
    record.run = _folded(record.run)
    return record


def _folded(plan: Planned) -> Planned:
    """Add factors that this version does not know to the label of the knobs.

    Runs are grouped by this label, so runs that differ in such a factor are never averaged.
    """
    factors = plan.factors.asked()
    names = [*FACTORS, REPETITION, *({"processes"} & {*factors})]
    known = {name: factors.pop(name) for name in names}
    more = [f"{name}={factors[name]}" for name in sorted(factors)]
    known["knobs"] = ", ".join(filter(None, [known["knobs"], *more]))
    return plan.model_copy(update={"factors": Factors(**known), "unknown": factors})


def check(model: type[Model], value: object, name: str) -> Model:
    """Read a value as a model. Raises UnreadableError with the first error."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise UnreadableError(f"{name} is not valid: {key}: {first['msg']}") from None


def check_format(found: object, name: str, newest: int) -> None:
    """Check that a format is known. Raises UnreadableError if not."""
    if not isinstance(found, int) or not 1 <= found <= newest:
        raise UnreadableError(
            f"format {found!r} of {name} is not known: this version of the project reads formats "
            f"up to {newest}. Read it with the version that wrote it"
        )


def why(error: Exception) -> str:
    """Say in words what an error means."""
    if isinstance(error, KeyError):
        return f"key {error} is missing"
    return getattr(error, "strerror", None) or str(error)


# --- format 1 -------------------------------------------------------------------------------------


def upgraded(record: dict[str, Any]) -> dict[str, Any]:
    """Convert a record of format 1 to format 2, which has parts."""
    run = record.get("run")
    if not isinstance(run, dict) or not isinstance(run.get("workload", {}), dict):
        raise UnreadableError("run.json is not valid: run: Input should be an object")
    workload, sampling = run.get("workload", {}), run.get("sampling")
    if not isinstance(sampling, dict):
        raise UnreadableError("run.json is not valid: run.sampling: Input should be an object")
    factors = run.get("factors")
    name = workload.get("name", factors.get("workload") if isinstance(factors, dict) else None)
    now = {key: value for key, value in run.items() if key != "census"}
    now |= {"workload": {"name": name}, "parts": _parts(workload, sampling, run.get("census"))}
    if isinstance(guests := run.get("guests"), dict) and guests.get("nosharepages") is None:
        now["guests"] = {**guests, "nosharepages": []}
    return {**record, "format": FORMAT, "run": now}


def _parts(
    workload: dict[str, Any], sampling: dict[str, Any], census: object
) -> list[dict[str, Any]]:
    keys = ("period", "samples", "steady")
    parts = [_part("sampler", {key: sampling[key] for key in keys if key in sampling})]
    if arrays := workload.get("arrays"):
        parts.insert(0, _part("arrays", arrays))
    if census:
        parts.append(_part("census", census))
    if tasks := workload.get("parts"):
        parts.append(_part("workload", {"tasks": tasks}))
    return parts


def _part(name: str, options: object) -> dict[str, Any]:
    return {"name": name, "role": f"ksm.testbed.part_{name}", "options": options}
