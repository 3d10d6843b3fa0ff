"""The load of a definition: requests to the copies of a service, at a stated rate."""

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo

from ksm_analysis.definition import values
from ksm_analysis.definition.values import (
    Strict,
    duration,
    number,
    one_of,
    rest_of,
    whole,
    wrong,
    wrong_at,
)

Arrivals = Literal["poisson", "constant"]
Keys = Literal["uniform", "zipf"]
SETTLE = 1.0  # s between the end of scans and the end of the warm-up
MOST = 20000  # requests a second to all copies together, by one process in Python


class Load(Strict):
    """How many requests the copies of a service get, whether or not they keep up."""

    rate: Annotated[float, number(0.1, MOST)] = Field(
        description="Mean number of requests a second to each copy, whether or not it has answered"
        f" earlier ones; to all copies together at most {MOST}."
    )
    arrivals: Annotated[Arrivals, one_of(Arrivals)] = Field(
        default="poisson",
        description="When requests arrive: at random times, independent of each other (`poisson`),"
        " or at equal distances (`constant`).",
    )
    connections: Annotated[int, whole(1, 100)] = Field(
        default=4,
        description="Connections to each copy. A request that finds all of them in use waits, and"
        " this counts.",
    )
    write_percent: Annotated[float, number(0, 100)] = Field(
        default=10.0,
        description="Part of the requests that write a value, in percent. It is the value that the"
        " key has already.",
    )
    keys: Annotated[Keys, one_of(Keys)] = Field(
        default="uniform",
        description="Which keys are asked for: all equally often, or the n-th most frequent one"
        " 1/n times as often as the first (`zipf`).",
    )
    warmup: Annotated[float, duration(0, values.YEAR)] = Field(
        default=5.0,
        description="Seconds from the first sample whose requests are not counted; less than the"
        " length of the run.",
    )
    stop_ksmd: Annotated[float, duration(0, values.YEAR)] = Field(
        default=0.0,
        description="When the load sets the knob `run` to 0, in seconds from the first sample: what"
        " is merged stays merged, without scans. 0 is never. At least a second before the end of"
        " the warm-up, so that all that counts is after it.",
    )
    seed: Annotated[int, whole(0, 2**31)] = Field(
        default=0,
        description="Determines the times, the copies and the keys of the first repetition. Each"
        " further one has the next seed.",
    )

    def options(self, processes: dict[str, Any]) -> dict[str, Any]:
        """Return the options of the role beside those of the processes of the same run."""
        of = {name: processes[name] for name in ("service", "data", "data_mib")}
        return {**self.model_dump(), **of}


def within_the_run(load: Load, info: ValidationInfo) -> Load:
    """Refuse a load without a service, that no generator can make, or that is only warm-up."""
    rest = rest_of(info)
    if rest.service is None:
        raise wrong("goes with 'processes' that have a 'service': it sends requests to its copies")
    if rest.service == "memory":
        raise wrong("cannot go with 'service: memory', which answers no requests")
    if rest.come_and_go:
        raise wrong("cannot go with 'arrivals', 'lifetimes' or 'density': all copies must be there")
    if rest.service == "postgres" and load.arrivals == "constant":
        raise wrong_at("arrivals", "must be poisson for postgres: pgbench has no other")
    if rest.service == "nginx" and load.write_percent:
        raise wrong("'write_percent' must be 0 for nginx, which serves files")
    if load.rate * rest.copies > MOST:
        message = "{copies} copies × {rate} are more than {most} requests a second"  # noqa: RUF001
        raise wrong_at("rate", message, copies=rest.copies, rate=f"{load.rate:g}", most=MOST)
    if rest.seconds is not None and load.warmup >= rest.seconds:
        message = "must be less than {limit} s, {length}"
        raise wrong_at("warmup", message, limit=f"{rest.seconds:g}", length=rest.length)
    if load.stop_ksmd and load.stop_ksmd > load.warmup - SETTLE:
        message = "must be at most {most} s: a second before the end of the warm-up"
        raise wrong_at("stop_ksmd", message, most=f"{load.warmup - SETTLE:g}")
    return load
