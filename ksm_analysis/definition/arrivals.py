"""Copies that come and go within a run: when they start, and how long they stay."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from ksm_analysis.definition.values import YEAR, Rest, Strict, duration, not_allowed, wrong

_Time = Annotated[float, duration(0, YEAR)]
_Stay = Annotated[float, duration(1, YEAR)]
_Times = Annotated[list[_Time], Field(min_length=1)]
_Stays = Annotated[list[_Stay], Field(min_length=1)]


class EverySoOften(Strict):
    """One after the other."""

    every: Annotated[float, duration(1, 86400)] = Field(
        description="In the mapping only: seconds from one to the next. The first is there from the"
        " beginning."
    )


def _listed_or_mapping(value: Any) -> Any:
    if not isinstance(value, list | dict | EverySoOften):
        raise not_allowed(value, "a list of times, or {every: S}")
    return value


Arrivals = Annotated[
    Annotated[EverySoOften, Tag("(mapping)")] | Annotated[_Times, Tag("(list)")],
    Discriminator(lambda value: "(list)" if isinstance(value, list) else "(mapping)"),
    BeforeValidator(_listed_or_mapping, json_schema_input_type=EverySoOften | _Times),
]
Lifetimes = Annotated[
    _Stays,
    BeforeValidator(
        lambda value: value if isinstance(value, list) else [value],
        json_schema_input_type=_Stay | _Stays,
    ),
]


def times(arrivals: EverySoOften | list[float] | None, count: int) -> list[float] | None:
    """Return when each of so many copies starts, in seconds from the first sample.

    Those with 0 are there before it. None if all are.
    """
    if isinstance(arrivals, EverySoOften):
        return [arrivals.every * number for number in range(count)]
    return arrivals and arrivals[:count]


def stays(lifetimes: list[float] | None, count: int) -> list[float] | None:
    """Return how long each of so many copies stays, in seconds; None if to the end."""
    return lifetimes and (lifetimes * count if len(lifetimes) == 1 else lifetimes)[:count]


def problem(
    arrivals: EverySoOften | list[float] | None,
    lifetimes: list[float] | None,
    most: int,
    rest: Rest,
) -> tuple[str, PydanticCustomError] | None:
    """Return the key that is wrong, and why; None if both are right. There are at most `most`."""
    if isinstance(arrivals, list):
        if len(arrivals) != most:
            message = "has {has} times for {most}: it needs one for each"
            return "arrivals", wrong(message, has=len(arrivals), most=most)
        if sorted(arrivals) != arrivals:
            return "arrivals", wrong("times must be in order")
    if lifetimes and len(lifetimes) not in (1, most):
        message = "has {has} times for {most}: it needs one for each, or one for all"
        return "lifetimes", wrong(message, has=len(lifetimes), most=most)
    last = max(times(arrivals, most) or [0.0])
    if rest.seconds is not None and last >= rest.seconds:
        message = "the last one comes at {at} s: this must be before {limit} s, {length}"
        context: dict[str, Any] = {"at": f"{last:g}", "limit": f"{rest.seconds:g}"}
        return "arrivals", wrong(message, **context, length=rest.length)
    return None
