"""The assessment in words: lines for the terminal, which the page uses, too."""

from typing import Any

from ksm_analysis.assess.assessment import BUSY, CPU, FREED, GUESTS, SECONDS
from ksm_analysis.doctor.finding import hours, mib


def verdict(found: dict[str, Any]) -> str:
    """Return the answer in a sentence."""
    freed = found["freed"]
    if freed["net"] <= 0:
        return "KSM would free nothing here: its records would take more than it frees."
    read, around = found["read"], f"{size(freed['low'])} to {size(freed['high'])}"
    one = read["processes"] == 1
    who = "a process has" if one else f"{read['processes']} guests and processes have"
    return (
        f"KSM would free {size(freed['net'])} ({around}) of the {size(read['bytes'])} that {who} "
        "in memory."
    )


def parts(found: dict[str, Any]) -> str:
    """Say what that consists of."""
    freed = found["freed"]
    return (
        f"Merged {size(freed['merged'])}, zeros {size(freed['zeros'])}, zeros by splits of huge "
        f"pages {size(freed['split_zeros'])}, less {size(freed['records'])} of KSM's records. "
        f"Freed already: {size(freed['now'])}."
    )


def uncertain() -> str:
    """Say how good forecasts are."""
    low, high = GUESTS
    return (
        f"Tested on one machine, in twelve cases: freed memory within {100 * FREED:.0f} %, times "
        f"within {100 * SECONDS:.0f} %, and CPU time within {100 * CPU:.0f} %. "
        "On a busy machine, the CPU time of the advisor and of the governor was up to "
        f"{100 * BUSY:.0f} % off. Booted guests took {low} to {high} times as long as forecast "
        "(docs/assess.md). The range of what is freed also has all that changed while it was read."
    )


def how(found: dict[str, Any]) -> str:
    """Say how the host was read."""
    read = found["read"]
    moments, cpu = len(read["seconds"]), read["cpu_seconds"]
    text = (
        f"Memory was read {moments} times in {hours(read['seconds'][-1])}, with {cpu:.1f} s of CPU "
        f"time, at most {max(read['read_seconds']):.1f} s at a time. No guest was paused, nothing "
        "was written or set. Reading marks pages as accessed, so that the kernel swaps them out "
        "later than others."
    )
    if read["swapped_bytes"]:
        text += f" {size(read['swapped_bytes'])} are in swap and were not read."
    if read["fork_shared_bytes"]:
        text += (
            f" {size(read['fork_shared_bytes'])} are shared since a fork: merging frees less there."
        )
    if read["as_if_mergeable"]:
        text += " Memory that is not offered to KSM was read as if it were."
    return text


def risk(found: dict[str, Any]) -> str:
    """Say what has to be there if all is written to."""
    needed, there = found["risk"]["needed"], found["risk"]["available_then"]
    text = f"If all merged pages were written to, {size(needed)} would be needed again"
    if there is None:
        return f"{text}; how much is available is not known."
    return (
        f"{text}. With {size(found['risk']['swap'])} of swap, {size(there)} would be available if "
        f"what is freed is not used for more guests, so up to {size(max(0, there - needed))} can "
        "be filled without risk."
    )


def tenants(found: dict[str, Any]) -> str:
    """Say what KSM tells tenants of each other."""
    told = found["tenants"]
    if not told["guests"]:
        return "No two of them have pages in common, other than zeros."
    owners = f" of {told['owners']} users" if told["owners"] > 1 else ""
    return (
        f"{told['guests']} guests and processes{owners} have pages in common with others, up to "
        f"{size(told['most'])} with one of them. By the time of a write, each can find out whether "
        "another has a page that it guesses (docs/security.md). Merge only those that trust each "
        "other."
    )


def to_exclude(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the guests that are not worth scanning, with how to exclude each."""
    return [(each["name"], each["exclude"]) for each in found["guests"] if each["exclude"]]


def size(value: float) -> str:
    """Format bytes."""
    return mib(value) if abs(value) >= 2**20 or not value else f"{value / 2**10:,.0f} KiB"


def seconds(row: dict[str, Any]) -> str:
    """Format the time to 95 % of a setting."""
    value = row["seconds_to_95"]
    if value is None:
        return "frees nothing"
    text = hours(value) if value >= 10 else f"{value:.1f} s"
    return text if row["settled"] else f"> {text}"


def setting(row: dict[str, Any]) -> list[str]:
    """Return the cells of a setting: name, freed, time, CPU seconds, percent, hour, note."""
    cpu, hour = row["cpu_seconds_to_95"], row["cpu_seconds_hour"]
    return [
        row["name"] + (f" ({row['note']})" if row["note"] else ""),
        size(row["freed"]),
        seconds(row),
        "" if cpu is None else f"{cpu:.1f} s",
        f"{row['cpu_percent_later']:.2g} %",
        "" if hour is None else f"{hour:,.0f} s",
    ]


def guest(each: dict[str, Any]) -> list[str]:
    """Return the cells of a guest; see GUEST."""
    return [
        each["name"],
        *(size(each[key]) for key in ("bytes", "freed", "loss", "alone")),
        f"{each['written_percent']:.2g} %",
        f"{each['hot_percent']:.2g} %",
    ]


GUEST = (
    "guest",
    "in memory",
    f"freed (±{100 * FREED:.0f} %)",
    "lost without it",
    "alone",
    "written",
    "never at rest",
)
SETTING = (
    "setting",
    f"freed (±{100 * FREED:.0f} %)",
    f"95 % after (±{100 * SECONDS:.0f} %)",
    f"CPU until then (±{100 * CPU:.0f} %)",
    "of a CPU later",
    "in an hour",
)
