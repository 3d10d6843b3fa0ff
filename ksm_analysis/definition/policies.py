"""Policies of a definition: who turns the knobs of KSM during a run."""

import shlex
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import ConfigDict, Field, ValidationInfo, model_validator
from pydantic.config import JsonDict

from ksm_analysis.definition import values
from ksm_analysis.definition.values import (
    OrLeftOut,
    Strict,
    keys,
    not_allowed,
    number,
    one_of,
    says,
    whole,
    wrong,
)

BIG = 2**31 - 1
PolicyWord = Literal["none", "advisor", "ksmtuned", "proxmox", "kata", "kubevirt", "governor"]
Kata = Literal["auto", "aggressive", "standard", "slow"]
_SCAN_KNOBS = ("run", "pages_to_scan", "sleep_millisecs")


class Advisor(Strict):
    """Knobs of the kernel's advisor of scan times (Linux 6.8 and newer)."""

    target_scan_time: OrLeftOut[Annotated[int, whole(1, BIG)]] = Field(
        default=None, description="Seconds that a full scan should take."
    )
    max_cpu: OrLeftOut[Annotated[int, whole(1, 100)]] = Field(
        default=None, description="Most CPU time for ksmd, in percent of one CPU."
    )
    min_pages_to_scan: OrLeftOut[Annotated[int, whole(1, BIG)]] = Field(
        default=None, description="Fewest pages that ksmd scans before it sleeps."
    )
    max_pages_to_scan: OrLeftOut[Annotated[int, whole(1, BIG)]] = Field(
        default=None, description="Most pages that ksmd scans before it sleeps."
    )


class Ksmtuned(Strict):
    """Variables of Debian's ksmtuned, as in /etc/ksmtuned.conf."""

    KSM_MONITOR_INTERVAL: OrLeftOut[Annotated[int, whole(1, 86400)]] = Field(
        default=None, description="Seconds from one decision to the next, and before the first."
    )
    KSM_SLEEP_MSEC: OrLeftOut[Annotated[int, whole(1, BIG)]] = Field(
        default=None,
        description="`sleep_millisecs` on a host with 16 GiB; less with more memory, at least 10.",
    )
    KSM_NPAGES_BOOST: OrLeftOut[Annotated[int, whole(0, BIG)]] = Field(
        default=None, description="Added to `pages_to_scan` while memory is short."
    )
    KSM_NPAGES_DECAY: OrLeftOut[Annotated[int, whole(-BIG, 0)]] = Field(
        default=None, description="Added to `pages_to_scan` while memory is not short."
    )
    KSM_NPAGES_MIN: OrLeftOut[Annotated[int, whole(1, BIG)]] = Field(
        default=None, description="Least `pages_to_scan`."
    )
    KSM_NPAGES_MAX: OrLeftOut[Annotated[int, whole(1, BIG)]] = Field(
        default=None, description="Greatest `pages_to_scan`."
    )
    KSM_THRES_COEF: OrLeftOut[Annotated[int, whole(0, 100)]] = Field(
        default=None,
        description="Memory is short with less than this percentage of it free; with 100, always.",
    )
    KSM_THRES_CONST: OrLeftOut[Annotated[int, whole(0, BIG)]] = Field(
        default=None, description="Memory is short with fewer KiB free, if those are more."
    )


class KubeVirt(Strict):
    """What annotations of a node can override for KubeVirt's virt-handler, and its interval."""

    interval: Annotated[float, values.duration(1, 86400)] = Field(
        default=180.0,
        description="Seconds from one decision to the next. KubeVirt has no other than 180.",
    )
    pages_boost: Annotated[int, whole(0, BIG)] = Field(
        default=300, description="Added to `pages_to_scan` while memory is short."
    )
    pages_decay: Annotated[int, whole(-BIG, 0)] = Field(
        default=-50, description="Added to `pages_to_scan` while memory is not short."
    )
    pages_min: Annotated[int, whole(0, BIG)] = Field(
        default=64, description="ksmd is stopped when `pages_to_scan` would fall below it."
    )
    pages_max: Annotated[int, whole(0, BIG)] = Field(
        default=1250, description="Greatest `pages_to_scan`."
    )
    pages_init: Annotated[int, whole(0, BIG)] = Field(
        default=100, description="`pages_to_scan` when ksmd is started."
    )
    sleep_ms_baseline: Annotated[int, whole(1, BIG)] = Field(
        default=100,
        description="`sleep_millisecs` with 16 GiB in use; less with more, at least a tenth.",
    )
    free_percent: Annotated[float, number(0, 1)] = Field(
        default=0.2, description="Memory is short with this part of it available, or less."
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        # out of these bounds, KubeVirt would silently use other values
        if not self.pages_min <= self.pages_init <= self.pages_max:
            raise wrong("needs pages_min ≤ pages_init ≤ pages_max")
        return self


class Governor(Strict):
    """What the governor is told."""

    price: OrLeftOut[Annotated[float, number(0.001, 1000)]] = Field(
        default=None, description="What a GiB is worth, in CPUs. Without, it is 0.25."
    )
    max_cpu: OrLeftOut[Annotated[float, number(1, 99)]] = Field(
        default=None,
        description="Most CPU time for ksmd while it scans, in percent of one CPU. Without, it is"
        " 70.",
    )


# What a policy turns. A program of one's own may turn any knob.
_TURNS = {
    "advisor": ["pages_to_scan"],
    "ksmtuned": [*_SCAN_KNOBS],
    "kata": [*_SCAN_KNOBS],
    "kubevirt": [*_SCAN_KNOBS],
    "governor": [*_SCAN_KNOBS, "smart_scan"],
}
KINDS = ("advisor", "ksmtuned", "kata", "kubevirt", "command", "governor")
_ONE: list[JsonDict] = [{"required": [kind]} for kind in KINDS]


class Policy(Strict):
    """Who turns the knobs during a run. Without a kind, nobody does."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [*_ONE]})

    name: OrLeftOut[
        Annotated[
            Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$", strict=True)],
            says("at most 40 small letters, digits, - and _"),
        ]
    ] = Field(default=None, description="Its name in labels. Without, it is its kind and values.")
    advisor: OrLeftOut[Advisor] = Field(
        default=None, description="The kernel's advisor of scan times: `advisor_mode=scan-time`."
    )
    ksmtuned: OrLeftOut[Ksmtuned] = Field(
        default=None, description="Debian's ksmtuned, with these variables."
    )
    kata: OrLeftOut[Annotated[Kata, one_of(Kata)]] = Field(
        default=None,
        description="Kata Containers' ksm-throttler: `auto`, as the word `kata` says, or a mode for"
        " the whole run.",
    )
    kubevirt: OrLeftOut[KubeVirt] = Field(
        default=None, description="How KubeVirt's virt-handler decides."
    )
    command: OrLeftOut[values.Command] = Field(
        default=None,
        description="A program of your own, run by root on the host while the run is sampled.",
    )
    governor: OrLeftOut[Governor] = Field(default=None, description="The governor of this project.")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(given) != 1 and self.model_fields_set:  # without any field, it is NONE
            has = f"has {', '.join(given)}: " if given else ""
            raise wrong("{has}needs one of {kinds}", has=has, kinds=", ".join(KINDS))
        return self

    @property
    def kind(self) -> str:
        """The kind of a policy; `none` if nobody turns knobs."""
        return next((kind for kind in KINDS if getattr(self, kind) is not None), "none")

    @property
    def settings(self) -> dict[str, Any]:
        """What the policy is told, by the names of its keys."""
        given = getattr(self, self.kind, None)
        if isinstance(given, Strict):
            return given.model_dump(exclude_none=True)
        return {"mode": given} if self.kind == "kata" else {"argv": given} if given else {}

    @property
    def label(self) -> str:
        """Its name in labels. That of a command does not contain the command."""
        return self.name or (self.kind if self.command else self.full)

    @property
    def full(self) -> str:
        """Its kind, and all that it is told."""
        given = getattr(self, self.kind, None)
        if given is None:
            return self.kind
        if isinstance(given, list):
            return f"{self.kind} {shlex.join(given)}"
        if isinstance(given, str):
            return "kata" if given == "auto" else f"kata {given}"
        chosen = given.model_dump(exclude_defaults=True)
        words = " ".join(f"{name}={value:g}" for name, value in chosen.items())
        return f"{self.kind}({words})" if words else self.kind

    @property
    def knobs(self) -> dict[str, Any]:
        """The knobs that it needs, set before the run."""
        if not self.advisor:
            return {}
        given = self.advisor.model_dump(exclude_none=True)
        return {"advisor_mode": "scan-time"} | {f"advisor_{k}": v for k, v in given.items()}

    @property
    def knobs_if_present(self) -> dict[str, Any]:
        """The knobs that it needs if the kernel has them: else it cannot turn pages_to_scan."""
        return {} if self.kind in ("none", "advisor") else {"advisor_mode": "none"}

    @property
    def notes(self) -> list[str]:
        """What a reader of its runs must know."""
        return [_KSMTUNED] if self.ksmtuned else []

    def planned(self) -> dict[str, Any]:
        """Return the policy of a run as a plan has it. Without `turns`, it may turn any knob."""
        turns = {"turns": _TURNS[self.kind]} if self.kind in _TURNS else {}
        told = {"kind": self.kind, "settings": self.settings, **turns}
        return {"name": self.label, "full": self.full, **told}

    @property
    def part(self) -> dict[str, Any] | None:
        """The options of the part of a run; None if it has no program."""
        if self.kind in ("none", "advisor"):
            return None
        return {"kind": self.kind, "settings": self.settings}


_KSMTUNED = (
    "ksmtuned counts only memory of processes that are called qemu-system… -enable-kvm. It sees no"
    " guests of libvirt, which are started in another way, and no other processes: it starts ksmd"
    " only when less memory is free than KSM_THRES_COEF percent"
)
_PROXMOX = Ksmtuned(KSM_SLEEP_MSEC=100)  # the only default that Proxmox's package changes
NONE = Policy()
_WORDS = {
    "none": NONE,
    "advisor": Policy(advisor=Advisor()),
    "ksmtuned": Policy(ksmtuned=Ksmtuned()),
    "proxmox": Policy(name="proxmox", ksmtuned=_PROXMOX),
    "kata": Policy(kata="auto"),
    "kubevirt": Policy(kubevirt=KubeVirt()),
    "governor": Policy(governor=Governor()),
}


def word_or_policy(value: Any) -> Any:
    """Convert a word to the policy that it names."""
    if isinstance(value, str) and value in _WORDS:
        return _WORDS[value]
    if not isinstance(value, dict | Policy) or value == {}:
        words = ", ".join(get_args(PolicyWord))
        raise not_allowed(value, f"{words} or a mapping with the keys {', '.join(keys(Policy))}")
    return value


def labelled(entry: Any) -> str:
    """Return the label of an entry of a valid definition."""
    return Policy.model_validate(word_or_policy(entry)).label


def distinct_labels(policies: list[Policy]) -> list[Policy]:
    """Refuse two policies with the same label."""
    labels = [policy.label for policy in policies]
    repeated = [label for i, label in enumerate(labels) if label in labels[:i]]
    if repeated:
        raise wrong("two are called {label}: give one of them a 'name'", label=repeated[0])
    return policies


def beside_knobs(policies: list[Policy], info: ValidationInfo) -> list[Policy]:
    """Refuse policies that no entry of `knobs` leaves the knobs to."""
    knobs = info.data.get("knobs")
    acting = [policy for policy in policies if policy != NONE]
    if knobs is None or not acting:  # wrong knobs are reported at their own key
        return policies
    if not any(goes_with(each) for each in knobs):
        raise wrong("go with entries of 'knobs' with run: 1, and there is none")
    present = info.data.get("knobs_if_present") or {}
    for name, value in [pair for each in (*knobs, present) for pair in each.items()]:
        if name.startswith("advisor_") and any(policy.advisor for policy in acting):
            raise wrong("has advisor: give {name} to it instead of to the knobs", name=name)
        if name == "advisor_mode" and str(value) != "none":
            raise wrong(
                "cannot go with advisor_mode among the knobs: both would turn pages_to_scan"
            )
    return policies


def goes_with(knobs: dict[str, Any]) -> bool:
    """Whether a policy goes with an entry of `knobs`: ksmd runs."""
    return str(knobs.get("run", 1)) == "1"
