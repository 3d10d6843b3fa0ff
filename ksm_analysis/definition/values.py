"""Types of the values of a definition, with messages that say what is allowed.

Each type also makes the JSON Schema of its values, for editors.
"""

import json
import re
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    GetPydanticSchema,
    Tag,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

YEAR = 31536000  # seconds: longer than any run

# fmt: off
Madvise = Literal[
    "dontneed", "hugepage", "mergeable", "nohugepage", "normal", "random", "sequential",
    "unmergeable", "willneed",
]
# As `stress-ng --vm 1 --vm-method which` of Debian 12's stress-ng 0.15.06 lists them.
VmMethod = Literal[
    "all", "cache-lines", "cache-stripe", "checkerboard", "flip", "fwdrev", "galpat-0", "galpat-1",
    "gray", "grayflip", "rowhammer", "incdec", "inc-nybble", "lfsr32", "rand-set", "rand-sum",
    "read64", "ror", "swap", "move-inv", "modulo-x", "mscan", "wrrd128nt", "prime-0", "prime-1",
    "prime-gray-0", "prime-gray-1", "prime-incdec", "walk-0d", "walk-1d", "walk-0a", "walk-1a",
    "write64", "write64nt", "write1024v", "zero-one",
]
# fmt: on


def wrong(message: str, **values: Any) -> PydanticCustomError:
    """Make the error of one value. `{name}` in the message stands for a value."""
    return PydanticCustomError("wrong", message, values)


def wrong_at(key: str, message: str, **values: Any) -> ValidationError:
    """Make the error of a key whose value is wrong because of another key of its mapping."""
    details = InitErrorDetails(type=wrong(message, **values), loc=(key,), input=None)
    return ValidationError.from_exception_data("definition", [details])


def not_allowed(value: Any, allowed: str) -> PydanticCustomError:
    """Make the error that says what is allowed, and what the file has instead."""
    try:
        shown = json.dumps(value, ensure_ascii=False, default=str)
    except (TypeError, ValueError):  # a key that is not text; a list that contains itself
        shown = repr(value)
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    return wrong("must be {allowed}, not {shown}", allowed=allowed, shown=shown)


def says(allowed: str) -> WrapValidator:
    """Report what is allowed for any wrong value."""

    def check(value: object, handler: ValidatorFunctionWrapHandler) -> object:
        try:
            return handler(value)
        except ValidationError:
            raise not_allowed(value, allowed) from None

    return WrapValidator(check)


# --- mappings ------------------------------------------------------------------------------------


class Strict(BaseModel):
    """A mapping that has no keys except its fields.

    Write defaults of fields as `default=`: type checkers do not see positional ones.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)


def keys(model: type[BaseModel]) -> list[str]:
    """Return the names of a model's keys, as they are written in a file."""
    return [field.alias or name for name, field in model.model_fields.items()]


class Rest(NamedTuple):
    """What the rest of the file says, for checks of one key by another. Defaults check nothing."""

    seconds: float | None = None  # length of a run's sampling; None if it is not known
    length: str = "the length of a run's sampling"
    guests: bool | None = None  # whether there is a key of that name
    processes: bool = False  # whether there is a key of that name
    service: str | None = ""  # which service these are, if any
    copies: int = 1  # of the processes, at most
    come_and_go: bool = False  # whether their number changes within a run
    without_guests: bool = True  # whether no workload needs guests
    steady: float = 0.0  # how long 'stop' needs a run to be steady, in seconds


def rest_of(info: ValidationInfo) -> Rest:
    """Return what the caller of the validation knows about the rest of the file."""
    return info.context or Rest()


# --- what types are made of -----------------------------------------------------------------------

_ONCE = Field(min_length=1, json_schema_extra={"uniqueItems": True})
T = TypeVar("T")
Word = TypeVar("Word")
Model = TypeVar("Model", bound=BaseModel)

# A key that a file may leave out. Then it is None, but a file cannot write `null`.
OrLeftOut = Annotated[T | None, GetPydanticSchema(lambda kind, handler: handler(get_args(kind)[0]))]

# Values that differ, of which a single one may be written without brackets. Each is a cell.
OneOrList = Annotated[
    list[T],
    GetPydanticSchema(
        lambda kind, handler: handler(
            Annotated[
                kind,
                _ONCE,
                BeforeValidator(
                    _listed,
                    json_schema_input_type=get_args(kind)[0] | Annotated[kind, _ONCE],
                ),
                AfterValidator(distinct),
            ]
        )
    ),
]

# A word, or a mapping. Errors inside the mapping are reported one by one.
WordOr = Annotated[
    Annotated[Word, Tag("(word)")] | Annotated[Model, Tag("(mapping)")],
    Discriminator(lambda value: "(mapping)" if isinstance(value, dict | BaseModel) else "(word)"),
]


def whole(low: int, high: int) -> GetPydanticSchema:
    """Whole numbers within bounds."""
    return _within(low, high, f"a whole number from {low} to {high}")


def number(low: float, high: float, of: str = "") -> GetPydanticSchema:
    """Numbers within bounds. `of` is their unit, in words."""
    return _within(low, high, f"a number{of} from {low} to {high}")


def duration(low: float, high: float) -> GetPydanticSchema:
    """Lengths and points of time."""
    return number(low, high, of=" of seconds")


def _within(low: float, high: float, allowed: str) -> GetPydanticSchema:
    """Combine bounds and their message, for `Annotated`."""
    bounds = Field(ge=low, le=high, strict=True, allow_inf_nan=False)
    return GetPydanticSchema(lambda kind, handler: handler(Annotated[kind, bounds, says(allowed)]))


def one_of(words: object) -> WrapValidator:
    """Report all words of a Literal as allowed."""
    return says(f"one of {', '.join(get_args(words))}")


def distinct(values: T) -> T:
    """Refuse a list with a repeated entry. Accept what is not a list."""
    if isinstance(values, list):
        repeated = [value for i, value in enumerate(values) if value in values[:i]]
        if repeated:
            message = "entries must differ, but {repeated} is repeated"
            raise wrong(message, repeated=str(repeated[0]))
    return values


def _listed(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _by_shell(value: Any) -> Any:
    return ["/bin/sh", "-c", value] if isinstance(value, str) and value.strip() else value


def _absolute(argv: list[str]) -> list[str]:
    if not re.match("/.", argv[0]):
        raise wrong("the program must be an absolute path")
    return argv


def _size(value: int | str) -> int | str:
    """Refuse sizes below the minimum of stress-ng, 4 KiB."""
    size = str(value).lower()
    bytes_each = {"k": 2**10, "m": 2**20, "g": 2**30}.get(size[-1], 1)
    if size[-1] != "%" and float(size.rstrip("bkmg")) * bytes_each < 4096:
        raise wrong("must be at least 4K, the minimum of stress-ng")
    return value


# What a command prints that can be read as metrics; see ksm_analysis.results.printed
Printed = Literal["json", "redis-benchmark", "sysbench", "cyclictest", "stress-ng", "fio"]


# --- types ---------------------------------------------------------------------------------------

Count = OneOrList[Annotated[int, whole(1, 99)]]
GuestNumbers = Annotated[
    Literal["all"] | Annotated[list[Annotated[int, Field(ge=1, le=99, strict=True)]], _ONCE],
    says("all, or a list of numbers of guests from 1 to 99"),
    AfterValidator(distinct),
]
Words = Annotated[str, Field(strict=True), says("text")]
Switch = Annotated[bool, Field(strict=True), says("true or false")]
Size = Annotated[
    Annotated[int, Field(ge=1, strict=True)]
    | Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?[bkmgBKMG%]?$", strict=True)],
    says("a size such as 64M, 1G or 50%"),
    AfterValidator(_size),
]
KnobName = Annotated[
    str,
    Field(pattern=r"^[a-z][a-z0-9_]*$", strict=True),
    says("the name of a file in /sys/kernel/mm/ksm"),
]
KnobValue = Annotated[
    Annotated[int, Field(ge=0, lt=2**63, strict=True)]
    | Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$", strict=True)],
    says("a whole number of 0 or more, or a word such as scan-time"),
]
_Argument = Annotated[str, Field(pattern=r"^[^\x00]*$", strict=True)]
_Shell = Annotated[str, Field(pattern=r"^[^\x00]*[^\x00\s][^\x00]*$")]
_PROGRAM = {"prefixItems": [{"pattern": r"^/[^\x00]"}]}
_Argv = Annotated[list[_Argument], Field(min_length=1, json_schema_extra=_PROGRAM)]
Command = Annotated[
    Annotated[list[_Argument], Field(min_length=1)],
    AfterValidator(_absolute),
    BeforeValidator(_by_shell, json_schema_input_type=_Shell | _Argv),
    says(
        "text for /bin/sh -c, or a list of text: an absolute path, then arguments"
        " (numbers in quotes)"
    ),
]
