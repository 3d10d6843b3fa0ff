"""Names of counters in files of others, which values they can have, and the page size they show."""

import math
from collections.abc import Iterable, Iterator, Sequence
from statistics import median
from typing import NamedTuple

from ksm_analysis.results.imports.log import KNOBS, PAGE_SIZE, Interval, Number, Values

COUNTERS = (
    *("full_scans", "general_profit", "ksm_zero_pages", "pages_scanned", "pages_shared"),
    *("pages_sharing", "pages_skipped", "pages_unshared", "pages_volatile"),
    *("stable_node_chains", "stable_node_dups"),
)
ALIASES = {"run_state": "run", "sleep_time": "sleep_millisecs", "zero_pages": "ksm_zero_pages"}
# of sysfs, node_exporter, PCP, and the monitor of this project
PREFIXES = ("/sys/kernel/mm/ksm/", "node_ksmd_", "mem.ksm.", "ksm.", "ksm_")
SUFFIXES = ("_total", "_bytes")
SIZES = tuple(2**power for power in range(12, 19))  # pages of 4 KiB to 256 KiB
NAMES = (*COUNTERS, *KNOBS)
RMAP_ITEM = 64  # bytes of a struct ksm_rmap_item, on 64-bit kernels
CLOSE = 0.02  # a derived page size may be wrong by this share: counters change while they are read
MOST = 2**40  # pages, of a host with 4 PiB of memory


class Column(NamedTuple):
    """A counter or knob by the kernel's name, and how its values are converted."""

    name: str
    factor: int = 1
    in_bytes: bool = False
    """Whether its values are bytes, where the kernel has pages."""

    def value(self, found: Number | str | None, page_size: int) -> Number | str | None:
        """Return a value in the unit of the kernel."""
        if not isinstance(found, int | float) or abs(found) > 2**64:
            return found
        if self.in_bytes:
            return round(found / page_size)
        return round(found * self.factor) if self.factor != 1 else found


def column(name: str) -> Column | None:
    """Return what a column of that name has; None if it is no counter or knob of KSM.

    Known are names of sysfs, of node_exporter and of PCP, in any case of letters.
    """
    plain = name.strip().lower()
    if plain.endswith("sleep_seconds"):
        return Column("sleep_millisecs", 1000)
    bare = next((plain.removeprefix(each) for each in PREFIXES if plain.startswith(each)), plain)
    suffix = next((each for each in SUFFIXES if bare.endswith(each)), "")
    bare = bare.removesuffix(suffix)
    found = next((each for each in (plain, bare, ALIASES.get(bare)) if each in NAMES), None)
    if found is None:
        return None
    return Column(found, in_bytes=suffix == "_bytes" and "pages" in found)


# --- values that cannot be right ------------------------------------------------------------------


def plausible(
    intervals: Sequence[Interval], file: str, lines: dict[tuple[int, str], int]
) -> Iterator[str]:
    """Remove counters that no kernel can have, and say which they were, a sentence for each name.

    `lines` has the line of each value in the file, by the number of the interval and the name.
    """
    names = dict.fromkeys(name for interval in intervals for name in interval.ksm)
    for name in names:
        found = [(each.number, each.ksm.get(name)) for each in intervals]
        bad = [(n, value, why) for n, value in found if (why := _wrong(name, value))]
        if not bad:
            continue
        number, value, why = bad[0]
        more = f", and {len(bad) - 1} more" if len(bad) > 1 else ""
        at = f"{file}:{line}: " if (line := lines.get((number, name))) else f"interval {number}: "
        yield f"{at}{name} {value} {why}; it is left out{more}"
        wrong = {number for number, _, _ in bad}
        for interval in intervals:
            if interval.number in wrong:
                interval.ksm[name] = None


def _wrong(name: str, value: Number | str | None) -> str:
    """Say why a value cannot be right; empty if it can."""
    if name not in NAMES or value is None:
        return ""
    if isinstance(value, str):
        return "is not a number" if name in COUNTERS else ""
    if isinstance(value, float) and (not math.isfinite(value) or value != int(value)):
        return "is not a whole number"
    if abs(value) > 2**64:
        return "is more than any kernel counts"
    if name == "general_profit":
        return ""
    if value < 0 or value >= 2**63:
        return "is below zero"
    if name in ("pages_shared", "pages_sharing", "ksm_zero_pages") and value > MOST:
        return "is more than any host has"
    return ""


# --- page size ------------------------------------------------------------------------------------


def page_size_of(intervals: Sequence[Interval], asked: int | None) -> tuple[int, str]:
    """Return the page size in bytes, and how it is known: asked, profit, or assumed."""
    if asked:
        return asked, "asked"
    shown = _shown_by_processes(intervals) or _shown_by_host(intervals)
    return (shown, "profit") if shown else (PAGE_SIZE, "assumed")


def contradicted(intervals: Sequence[Interval], asked: int | None) -> Iterator[str]:
    """Say that profits show another page size than the one that was asked for."""
    shown = _shown_by_processes(intervals) or _shown_by_host(intervals)
    if asked and shown and asked != shown:
        yield f"profits show pages of {shown} bytes, and not of {asked}"


def _shown_by_processes(intervals: Iterable[Interval]) -> int | None:
    """Return the page size that profits of processes show.

    The kernel reports profits in bytes: pages times their size, less 64 bytes for each rmap_item.
    """
    rows = [row for each in intervals for row in each.guests.values() if row]
    ratios = [ratio for row in rows if (ratio := _bytes_a_page(row))]
    close = [size for size in SIZES if ratios and abs(median(ratios) / size - 1) < CLOSE]
    return close[0] if close else None


def _shown_by_host(intervals: Iterable[Interval]) -> int | None:
    """Return the page size that the host's profit shows, without its rmap_items.

    The profit of a page is at most its size. So it shows only sizes of more than 4 KiB.
    """
    most = 0.0
    for each in intervals:
        names = ("general_profit", "pages_sharing", "ksm_zero_pages")
        profit, sharing, zero = (_whole(each.ksm.get(name)) for name in names)
        if sharing + zero > 0:
            most = max(most, profit / (sharing + zero))
    return next((size for size in SIZES if size >= most), None) if most > PAGE_SIZE else None


def _whole(value: Number | str | None) -> int:
    return value if isinstance(value, int) else 0


def _bytes_a_page(row: Values) -> float:
    """Return (profit + 64 x rmap_items) / pages of a process; 0 if it is not known."""
    if row.get("ksm_process_profit") is None:
        return 0.0
    names = ("ksm_process_profit", "ksm_rmap_items", "ksm_merging_pages", "ksm_zero_pages")
    profit, items, merging, zero = (_whole(row.get(name)) for name in names)
    return (profit + RMAP_ITEM * items) / (merging + zero) if merging + zero > 0 else 0.0
