"""An experiment definition: its keys, their allowed values, and their meaning.

docs/experiments.md has the same descriptions. Editors show them, from the JSON Schema.
"""

import functools
import itertools
import math
import re
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationInfo,
    WrapValidator,
    create_model,
    model_validator,
)
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core.core_schema import WithDefaultSchema

from ksm_analysis.definition import image, values
from ksm_analysis.definition.density import Density, of_what_is_added
from ksm_analysis.definition.guests import Guests, guests_or_none
from ksm_analysis.definition.image import Image
from ksm_analysis.definition.part import outside
from ksm_analysis.definition.policies import (
    NONE,
    Policy,
    PolicyWord,
    beside_knobs,
    distinct_labels,
    word_or_policy,
)
from ksm_analysis.definition.population import Population
from ksm_analysis.definition.processes import Processes
from ksm_analysis.definition.values import (
    OneOrList,
    OrLeftOut,
    Strict,
    WordOr,
    duration,
    not_allowed,
    one_of,
    rest_of,
    says,
    whole,
    wrong,
    wrong_at,
)
from ksm_analysis.definition.workload import Workload, distinct_names, idle_or_mapping

MAX_SAMPLES = 1_000_000
SEED = 2**63 - 1

# --- huge pages -----------------------------------------------------------------------------------


Enabled = Literal["always", "madvise", "never"]
SharedEnabled = Literal["always", "within_size", "advise", "never", "deny", "force"]


class HugePages(Strict):
    """Knobs of transparent huge pages, as in `/sys/kernel/mm/transparent_hugepage`."""

    enabled: OrLeftOut[Annotated[Enabled, one_of(Enabled)]] = Field(
        default=None,
        description="Whether memory is in transparent huge pages: all memory, only memory that asks"
        " for them, or none.",
    )
    shmem_enabled: OrLeftOut[Annotated[SharedEnabled, one_of(SharedEnabled)]] = Field(
        default=None, description="The same for shared memory."
    )
    khugepaged_defrag: OrLeftOut[Annotated[int, whole(0, 1)]] = Field(
        default=None,
        alias="khugepaged/defrag",
        description="Whether khugepaged may free memory to make huge pages.",
    )
    max_ptes_none: OrLeftOut[Annotated[int, whole(0, 511)]] = Field(
        default=None,
        alias="khugepaged/max_ptes_none",
        description="How many pages that are not in memory khugepaged may add to make a huge page.",
    )
    max_ptes_shared: OrLeftOut[Annotated[int, whole(0, 511)]] = Field(
        default=None,
        alias="khugepaged/max_ptes_shared",
        description="How many shared pages, merged ones among them, khugepaged may copy to make a"
        " huge page (Linux 5.8 and newer).",
    )

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if not self.knobs:
            raise wrong("needs at least one knob")
        return self

    @property
    def knobs(self) -> dict[str, str | int]:
        """The knobs that are given, by the kernel's names."""
        return self.model_dump(by_alias=True, exclude_none=True)


# --- swap -----------------------------------------------------------------------------------------


class Zram(Strict):
    """Swap space in compressed memory."""

    zram_mib: Annotated[int, whole(1, 1048576)] = Field(
        description="In the mapping only: the size of a zram device, which is the only swap space."
    )


_Swap = WordOr[
    Annotated[Literal["as-found", "none"], says("as-found, none or {zram_mib: N}")],
    Zram,
]


# --- sampling, order, stop ------------------------------------------------------------------------


class Sampling(Strict):
    """How long a run is, and how often all counters are read."""

    interval: Annotated[float, duration(0.01, 86400)] = Field(
        description="Length of an interval; a whole multiple of `period`. Figures have one point"
        " for each interval."
    )
    intervals: Annotated[int, whole(1, 100000)] = Field(
        description="Number of intervals in a run. Together they are the length of the run's"
        " sampling."
    )
    period: Annotated[float, duration(0.01, 3600)] = Field(
        default=0.25, description=f"Time between samples. A run has at most {MAX_SAMPLES} samples."
    )

    @model_validator(mode="after")
    def _whole_multiple(self) -> Self:
        periods = self.interval / self.period
        if round(periods) < 1 or not math.isclose(periods, round(periods), rel_tol=1e-9):
            message = "must be a whole multiple of 'period' ({period} s), not {interval} s"
            context = {"period": f"{self.period:g}", "interval": f"{self.interval:g}"}
            raise wrong_at("interval", message, **context)
        if self.samples > MAX_SAMPLES:
            message = "{samples} samples a run: at most {most} are allowed"
            raise wrong(message, samples=self.samples, most=MAX_SAMPLES)
        return self

    @property
    def seconds(self) -> float:
        """From the first sample to the last."""
        return round(self.interval * self.intervals, 9)  # 3 x 0.7 is not quite 2.1

    @property
    def samples(self) -> int:
        """One more than the periods: the first sample is the baseline of every counter."""
        return round(self.interval / self.period) * self.intervals + 1


class Shuffled(Strict):
    """Each repetition has its own order, which the seed determines."""

    shuffled: Annotated[int, whole(0, SEED)] = Field(
        description="In the mapping only: the seed, as in `shuffled(SEED)`. For plain `shuffled`,"
        " it is 0."
    )


def _seeded(value: Any) -> Any:
    """Convert `shuffled` and `shuffled(SEED)` to the mapping that they abbreviate."""
    found = isinstance(value, str) and re.fullmatch(r"shuffled(\(([0-9]{1,20})\))?", value)
    return {"shuffled": int(found[2] or 0)} if found else value


_ShuffledText = Annotated[str, Field(pattern=r"^shuffled(\([0-9]+\))?$")]
Order = Annotated[
    WordOr[
        Annotated[
            Literal["balanced", "as-written", "interleaved"],
            says("balanced, as-written, interleaved, shuffled, shuffled(SEED) or {shuffled: SEED}"),
        ],
        Shuffled,
    ],
    BeforeValidator(
        _seeded,
        json_schema_input_type=Literal["balanced", "as-written", "interleaved"]
        | _ShuffledText
        | Shuffled,
    ),
]


class Steady(Strict):
    """What counts as steady: the saved pages have stayed within a few percent for a while.

    They are pages_sharing + ksm_zero_pages.
    """

    scans: Annotated[int, whole(3, 1000000)] = Field(
        default=3,
        description="Savings must be flat for at least this many full scans; with `smart_scan: 1`"
        " for at least 10.",
    )
    seconds: Annotated[float, duration(0, values.YEAR)] = Field(
        default=60.0,
        description="Savings must be flat for at least this many seconds; at most the length of the"
        " run.",
    )
    percent: Annotated[float, values.number(0, 100)] = Field(
        default=1.0,
        description="How flat: the greatest difference allowed between the highest and the lowest"
        " `pages_sharing + ksm_zero_pages`, in percent of the highest. Their slope must not change"
        " them by more in 10 scans, nor in 10 times `seconds`.",
    )


class Stop(Strict):
    """When a run ends before its time."""

    steady: Steady = Field(description="In the mapping only: what counts as steady.")


def steady_of(stop: Stop | str | None) -> Steady | None:
    """What counts as steady; None if runs have a fixed length."""
    if isinstance(stop, Stop):
        return stop.steady
    return Steady() if stop == "steady" else None


def _changing(info: ValidationInfo) -> str:
    """Name the key by which guests or processes come or go within a run; empty without any."""
    if info.data.get("density"):
        return "density"
    for key in ("processes", "guests"):
        if info.data.get(key) and info.data[key].come_and_go:
            return f"arrivals or lifetimes of {key}"
    return ""


def _steady_within_the_run(stop: Stop | str, info: ValidationInfo) -> Stop | str:
    steady, rest = steady_of(stop), rest_of(info)
    if steady and (changing := _changing(info)):
        raise wrong("must be fixed with {changing}, which change the savings", changing=changing)
    if steady and any(each != NONE for each in info.data.get("policies", [])):
        raise wrong("must be fixed with policies: savings are flat while a policy does not scan")
    if steady and rest.seconds is not None and steady.seconds > rest.seconds:
        message = "'seconds' of steady ({asked} s) must be at most {limit} s, {length}"
        limit, asked = f"{rest.seconds:g}", f"{steady.seconds:g}"
        raise wrong(message, asked=asked, limit=limit, length=rest.length)
    return stop


# --- census --------------------------------------------------------------------------------------

MOMENTS = "a list of start, end, at-scan-boundary and every: S"


class Every(Strict):
    """At regular times of a run."""

    every: Annotated[float, duration(1, 86400)] = Field(
        description="In the list only: a census each time this many seconds have passed; at most"
        " the length of the run."
    )


def _listed(value: Any) -> Any:
    if not isinstance(value, list):
        raise not_allowed(value, MOMENTS)
    return value


def _one_every(moments: list[Every | str]) -> list[Every | str]:
    if moments == ["start"]:
        raise wrong("has only 'start': a later census is needed to compare with")
    if sum(isinstance(moment, Every) for moment in moments) > 1:
        raise wrong("has 'every' more than once: only one is allowed")
    return values.distinct(moments)


_Moment = WordOr[
    Annotated[
        Literal["start", "end", "at-scan-boundary"],
        says("start, end, at-scan-boundary or every: S"),
    ],
    Every,
]
_Moments = Annotated[
    list[_Moment],
    Field(min_length=1),
    BeforeValidator(_listed),
    AfterValidator(_one_every),
]


class Census(Strict):
    """When all mergeable memory is read, to count what could be merged and what is merged."""

    moments: _Moments = Field(description="In the mapping only: the moments, as in the plain list.")
    pause: values.Switch = Field(
        default=False,
        description="In the mapping only: pause the guests while their memory is read, so that all"
        " contents are from the same moment.",
    )
    trace: values.Switch = Field(
        default=False,
        description="In the mapping only: also keep which page had which content.",
    )

    @property
    def every(self) -> float | None:
        """Seconds from one census to the next; None without such moments."""
        return next((each.every for each in self.moments if isinstance(each, Every)), None)


def _moments_or_mapping(value: Any) -> Any:
    """Convert a list to the mapping that it abbreviates."""
    if isinstance(value, list):
        return {"moments": value}
    if not isinstance(value, dict | Census):
        raise not_allowed(value, f"{MOMENTS}, or {{moments: [...], pause: true, trace: true}}")
    return value


def _every_within_the_run(census: Census, info: ValidationInfo) -> Census:
    rest = rest_of(info)
    if changing := _changing(info):
        message = "cannot go with {changing}: a census needs the same processes in the whole run"
        raise wrong(message, changing=changing)
    if census.every and rest.seconds is not None and census.every > rest.seconds:
        message = "'every' ({every} s) must be at most {limit} s, {length}"
        limit, every = f"{rest.seconds:g}", f"{census.every:g}"
        raise wrong(message, every=every, limit=limit, length=rest.length)
    return census


# --- the whole -----------------------------------------------------------------------------------


def _idle_if_guests_come(workloads: list[Workload], info: ValidationInfo) -> list[Workload]:
    guests = info.data.get("guests")
    added = info.data.get("density") and not info.data.get("processes")
    if guests and (guests.come_and_go or added) and any(w.parts != ["idle"] for w in workloads):
        raise wrong("guests with arrivals, lifetimes or a density can only be idle")
    return workloads


Setting = Annotated[
    dict[values.KnobName, values.KnobValue],
    Field(json_schema_extra={"additionalProperties": False}),
]


def _only_if_present(setting: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
    """Refuse a knob that `knobs` also has, since only one of the two values can be set."""
    named = {"run"}.union(*info.data.get("knobs", []))
    for name in setting:
        if name in named:
            message = "must be in 'knobs' or in 'knobs_if_present', not in both"
            if name == "run":
                message = "belongs in 'knobs': every kernel with KSM has it"
            raise wrong_at(name, message)
    return setting


class Experiment(Strict):
    """An experiment: what to vary (guests x knobs x workloads), how often, and how to sample."""

    note: values.Words = Field(
        default="", description="What the experiment is about. The page shows it."
    )
    images: Annotated[list[Image], Field(min_length=1), AfterValidator(image.distinct_names)] = (
        Field(
            default=[],
            description="Images that guests boot from, beside `base`, the image of the inventory.",
        )
    )
    guests: Annotated[OrLeftOut[Guests], WrapValidator(guests_or_none)] = Field(
        default=None,
        validate_default=True,
        description="The guests of every run. Required, unless all workloads are `arrays`,"
        " `memory`, `write_probe` or `phase_lock`, or there are `processes`.",
    )
    processes: OrLeftOut[Processes] = Field(
        default=None,
        description="Processes on the host, instead of guests or beside them, in every run. Without"
        " guests, workloads are `idle`, `arrays`, `memory`, `write_probe`, `phase_lock` or `load`.",
    )
    population: OrLeftOut[Population] = Field(
        default=None,
        description="Guests drawn from a trace, instead of all others. Only `simulate` can do"
        " that.",
    )
    density: OrLeftOut[Annotated[Density, AfterValidator(of_what_is_added)]] = Field(
        default=None,
        description="How many copies of `processes`, or without any how many `guests`, fit into a"
        " budget of memory: they are added until they no longer do.",
    )
    knobs: Annotated[
        list[Setting], Field(min_length=1), AfterValidator(values.distinct)
    ] = Field(
        default=[{"run": 1}],
        description="Settings of `/sys/kernel/mm/ksm`: one cell for each entry.",
    )  # fmt: skip
    knobs_if_present: Annotated[Setting, AfterValidator(_only_if_present)] = Field(
        default={},
        description="Knobs that are added to every setting if the host's kernel has them.",
    )
    thp: Annotated[
        OrLeftOut[list[HugePages]],
        Field(min_length=1),
        AfterValidator(values.distinct),
    ] = Field(
        default=None,
        description="Settings of transparent huge pages: one cell for each entry, with each setting"
        " of `knobs`. Without this key, they stay as they are.",
    )
    swap: OneOrList[_Swap] = Field(
        default=["as-found"],
        description="Swap space of the host: one cell for each entry, with each setting of"
        " `knobs`.",
    )
    policies: Annotated[
        list[
            Annotated[
                Policy,
                BeforeValidator(word_or_policy, json_schema_input_type=PolicyWord | Policy),
            ]
        ],
        Field(min_length=1),
        AfterValidator(distinct_labels),
        AfterValidator(beside_knobs),
    ] = Field(
        default=["none"],
        validate_default=True,
        description="Who turns the knobs during a run: one cell for each entry, with each setting"
        " of `knobs` that has `run: 1`. An entry is a word, or a mapping with the keys below.",
    )
    workloads: Annotated[
        list[
            Annotated[
                Workload,
                BeforeValidator(idle_or_mapping, json_schema_input_type=Literal["idle"] | Workload),
            ]
        ],
        Field(min_length=1),
        AfterValidator(distinct_names),
        AfterValidator(_idle_if_guests_come),
    ] = Field(
        default=["idle"],
        validate_default=True,
        description="What runs: one cell for each entry. An entry is `idle` or a mapping with the"
        " keys below.",
    )
    sampling: Sampling = Field(description="How long a run is sampled, and how often.")
    stop: Annotated[
        WordOr[
            Annotated[
                Literal["fixed", "steady"],
                says("fixed, steady or {steady: {scans: N, seconds: S, percent: P}}"),
            ],
            Stop,
        ],
        AfterValidator(_steady_within_the_run),
    ] = Field(
        default="fixed",
        description="When a run ends: after all its intervals, or as soon as it is steady.",
    )
    census: Annotated[
        OrLeftOut[Census],
        BeforeValidator(_moments_or_mapping, json_schema_input_type=_Moments | Census),
        AfterValidator(_every_within_the_run),
    ] = Field(
        default=None,
        description="When the contents of all mergeable memory are read, to find what could be"
        " merged, what is merged, and which guests share pages.",
    )
    repetitions: Annotated[int, whole(1, 1000)] = Field(
        default=1, description="How often each cell is run, with fresh guests each time."
    )
    order: Order = Field(default="balanced", description="The order of the runs.")
    control: values.Switch = Field(
        default=False,
        description="Run the first entry of `knobs` once more in each repetition, as a cell of its"
        " own: it shows what no difference looks like.",
    )

    @model_validator(mode="after")
    def _ksmd_is_left_to_the_policy(self) -> Self:
        acting = any(policy != NONE for policy in self.policies)
        for workload in self.workloads if acting else []:
            if workload.write_probe and workload.write_probe.stop_ksmd:
                message = "cannot go with 'stop_ksmd' of '{workload}': both would turn run"
                raise wrong_at("policies", message, workload=workload.name)
        return self

    @model_validator(mode="after")
    def _population_is_alone(self) -> Self:
        if self.population:
            for other in ("guests", "processes", "density", "census", "images"):
                if getattr(self, other):
                    raise wrong_at("population", "cannot go with '{other}'", other=other)
            if [workload.name for workload in self.workloads] != ["idle"]:
                raise wrong_at("population", "has only the workload idle")
            if self.population.hosts and "repetitions" in self.model_fields_set:
                message = "each of the 'hosts' of a population is a repetition: leave it out"
                raise wrong_at("repetitions", message)
        return self

    @model_validator(mode="after")
    def _images(self) -> Self:
        if self.images and not self.guests:
            raise wrong_at("images", "goes with 'guests', which boot from them")
        silent = {each.name for each in self.images if not each.agent}
        used = silent.intersection(*[itertools.chain(*self.guests.image)] if self.guests else [])
        for workload in self.workloads if used else []:
            if workload.parts != ["idle"]:
                message = (
                    "'{workload}' runs in guests, but image '{image}' has no agent to start it"
                )
                raise wrong_at("workloads", message, workload=workload.name, image=min(used))
        return self


@functools.cache
def model() -> type[Experiment]:
    """Return the model of an experiment, with the keys of parts from outside."""
    keys: dict[str, Any] = {
        part.name: (part.key | None, Field(default=None, description=part.description))
        for part in outside()
    }
    return create_model("Experiment", __base__=Experiment, **keys) if keys else Experiment


# --- for editors ---------------------------------------------------------------------------------


class _ForEditors(GenerateJsonSchema):
    def field_title_should_be_set(self, schema: object) -> bool:
        return False  # the key says it

    def default_schema(self, schema: WithDefaultSchema) -> JsonSchemaValue:
        made = super().default_schema(schema)
        if made.get("default", 0) is None:  # it means absent; a file cannot write it
            del made["default"]
        return made


def json_schema() -> dict[str, Any]:
    """Make the JSON Schema of definitions. It accepts all valid files, and finds most errors."""
    schema = Experiment.model_json_schema(schema_generator=_ForEditors)
    dialect = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": dialect, **schema}
