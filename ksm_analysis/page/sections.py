"""The figures of the page, with their sections, headings and explanations."""

# ruff: noqa: RUF001

from collections.abc import Iterator
from dataclasses import dataclass

from ksm_analysis.analysis.settings import settings_of
from ksm_analysis.metrics import catalog
from ksm_analysis.metrics.catalog import Metric
from ksm_analysis.metrics.measurement import Measured
from ksm_analysis.metrics.reported import metrics_of
from ksm_analysis.page import (
    census_figures,
    efficiency_figures,
    figures,
    freed_figures,
    hashing_figures,
    load_figures,
    phase_lock_figures,
    policy_figures,
    reported_figures,
    write_figures,
)
from ksm_analysis.page.drawing import Panel
from ksm_analysis.page.published import COUNTING, PUBLISHED

SAVED = "reclaimed_mib"
FEW = 60  # runs, of which each is a line
FREED = (
    "The diamond is what the host has more of at the end of a run than at its start: the "
    "anonymous memory of the sampled processes (Pss_Anon) fell by this, less the memory of KSM's "
    "own structures. The open diamond is the same for the whole host (AnonPages and PageTables), "
    "with everything else that ran there. The bar has the parts that explain it. Merged: pages "
    "that share a page of KSM. Zeros, by ksmd: pages that ksmd replaced by the kernel's zero page "
    "(use_zero_pages=1). Zeros, by splits: pages of zeros that the kernel gave up when it split a "
    "huge page (Linux 6.12 and newer); no counter of KSM has them, and run=2 does not undo it. "
    "Below zero: what KSM's structures take, and memory that the processes took meanwhile. The "
    "residual is what none of these explains. The circle is what KSM counts: pages_sharing + "
    "ksm_zero_pages. Splits and growth are known only with a census of the start and of the end "
    "(census: [start, end]); without it, they are in the residual. Values are means of "
    "repetitions."
)
KINDS = (
    "The left bar (faint) is what perfect merging would save (limit_pages). Zeros are pages full "
    "of zeros. Of the other pages, within guests is what merging inside each guest alone would "
    "save, and between guests is what merging between guests adds. The right bar is what is saved. "
    "There, zeros are pages on the kernel's zero page. Without use_zero_pages, ksmd merges pages "
    "full of zeros like all other pages, so they are saved within and between guests. Values are "
    "means of repetitions, in the last census."
)
WHO = (
    "Pages of one guest (row) whose frame another guest (column) also uses. Where row and column "
    "are the same guest: pages whose frame it uses more than once. A panel shows the first run of "
    "its cell. Pages on the kernel's zero page are not included."
)
ATTRIBUTION = (
    f"{catalog.CENSUS_GUEST[0].help} ksm_process_profit is different. It counts every merged page, "
    "including the frame that is kept, so its sum over guests also contains the frames that are "
    "kept (pages_shared). It still counts pages that were written to after merging, until ksmd "
    "scans them again. It subtracts 64 B for each rmap_item of the guest, merged or not. Values "
    "are means of repetitions, in the last census."
)
RATE = (
    "The rate is pages_to_scan / sleep_millisecs, with their values in the last census. ksmd scans "
    "pages_to_scan pages, then sleeps for sleep_millisecs. The real rate is lower, because the "
    "scan of each batch also takes time. Each line is one combination of the other factors."
)
WRITES = (
    "A process writes a byte to random pages at random times, and measures each write. merged: the "
    "page was a page of KSM, and the write broke it (copy on write). unmerged: the page may be "
    "merged, but was not. plain: the page may not be merged. Which it was is known for each write, "
    "by the frame of the page before and after. Times include one reading of the clock: "
    "write_clock_p50_us in the summary. Phases: KSM off; first scans, until ksmd has scanned all "
    "memory twice; settled, after them; ksmd stopped, after the probe has set run=0. "
)
REPORTED = (
    "The value of a run is the mean of its values from the settled phase, when ksmd has scanned "
    "all memory twice, or of all its values if none is; percentiles of a load are those of all its "
    "answers in that time. By setting: a dash for each run, and the "
    "median of each setting. Over time: a line for each run and each guest or process."
)
EFFICIENCY = (
    "The contents of all mergeable memory are known, so what perfect merging would save is "
    "calculated at each time. The mean efficiency is the area under saved pages (pages_sharing + "
    "ksm_zero_pages), divided by the area under their limit. A line is one run."
)
LATENCIES = (
    "Percent of the answers that took so long or longer, from when their requests were due: 50 % "
    "at the median, 1 % at p99. Answers are of the settled phase, and with KSM off of the same "
    "time; without such a phase, of the whole run after the warm-up. Repetitions are counted "
    "together. "
)
HASHING = (
    "Trees, as in Linux: each page that is not merged is hashed once a visit (xxhash), to see "
    "whether it has changed; if not, both trees are searched with memcmp. Tables by the checksum: "
    "the same hash is the key of two hash tables. Trees of strong hashes: each page is hashed by "
    "SHA-256 instead, and trees are in the order of hashes. Checksum, and hashes kept: a page "
    "has a strong hash from its first visit at rest on. All compare whole pages before they merge "
    "them. A solid line is the least churn, and dashes are more: the part of all pages that is "
    "written from one scan to the next. CPU time is what it takes to hash, to search and to "
    "compare, from prices that were measured (docs/hashing.md). Memory is what hashes add, for "
    "each page of the guests."
)
PHASE_LOCK = (
    "Two sets of pages have the same contents. The second appears when ksmd has scanned the first "
    "as often as the axis says. Predicted is what the kernel's rule says (docs/smart_scan.md). "
    "Then, the same after a few more scans with smart_scan=0. It is not certain what the distance "
    "was if ksmd may have scanned while the second set was written."
)
CHANGED = (
    f"For one guest: {catalog.CENSUS[-1].help} ksmd wastes time on pages that change from scan to "
    "scan. A panel shows the first run of its cell."
)


@dataclass(frozen=True)
class Figure:
    """A figure as the page shows it: one panel, or several panels with titles.

    It is shown if `metric` is chosen on the page. A figure without `metric` is always shown.
    """

    id: str
    title: str
    help: str
    panels: tuple[Panel, ...]
    metric: str = ""
    note: str = ""
    wide: bool = False

    def scripts(self) -> list[tuple[str, str]]:
        """Return panels as JSON. Plotly escapes < and >, so that no name in it can end a script."""
        return [(title, figure.to_json()) for title, figure in self.panels]


@dataclass(frozen=True)
class Section:
    """Figures under one heading."""

    id: str
    title: str
    intro: str
    figures: tuple[Figure, ...]
    short: str = ""  # its title among the links

    @property
    def link(self) -> str:
        """The title among the links to sections."""
        return self.short or self.title


def sections_of(measured: list[Measured]) -> list[Section]:
    """Make all figures. A metric without any value, or a section without figures, is left out."""
    data = figures.load(measured)
    with_guests = bool((data.host["guests"] > 0).any())
    varied = data.host["guests"].nunique() > 1
    shown = [m for m in catalog.HOST if m.figure and data.host[m.name].notna().any()]
    of_guests = [m for m in catalog.GUEST if m.figure and data.guest[m.name].notna().any()]
    last = "Values of the last interval. "
    every = (
        Section(
            "savings",
            "What is saved",
            f"{last}To add published values (hollow markers), use the menu “metrics” above.",
            (*_savings(data, measured), *(_by_guests(data) if varied else ())),
        ),
        Section(
            "census",
            "What could be saved",
            "A census reads the contents and the frames of all mergeable memory. It shows what "
            "perfect merging would save, how much of that is saved, and who shares with whom. The "
            "last census stands for a run.",
            tuple(_census(data, census_figures.counted(measured))),
        ),
        Section(
            "decisions",
            "What policies did",
            "A policy turns the knobs during a run.",
            tuple(_decisions(measured)),
        ),
        Section(
            "writes",
            "What writes cost",
            "A write to a merged page makes the kernel copy it. Axes of time are logarithmic.",
            tuple(_writes(measured)),
        ),
        Section(
            "hashing",
            "What hashes would save",
            "What the trees of ksmd compare, and what other ways to find equal pages would take. "
            "The value of a run is the mean of its full scans after the second.",
            tuple(_hashing(measured)),
            "Hashing",
        ),
        Section(
            "reported",
            "What the runs measured",
            "What a command in the runs printed, or a part of them reported.",
            tuple(_reported(measured)),
            "Measured",
        ),
        Section(
            "intervals",
            "Over time",
            f"{_times(data)}Each point is at the end of its interval.",
            tuple(_of(m, "by-interval", figures.by_interval(data, m)) for m in shown),
        ),
        Section(
            "guests",
            f"{_whose(data)} over time",
            f"One panel for each {'number of guests, ' if with_guests else ''}workload and "
            f"setting, all with the same scale. {_bands(data)}",
            tuple(_of(m, "by-interval", figures.by_interval_of_guests(data, m)) for m in of_guests),
            _whose(data),
        ),
        Section(
            "counts",
            "Against the number of guests",
            last,
            (
                *(_by_guests(data) if with_guests and not varied else ()),
                *(_of(m, "by-guests", figures.by_guests(data, m)) for m in shown if with_guests),
            ),
            "By guests",
        ),
        Section(
            "samples",
            "Every sample",
            f"{_times(data)}Each line is one run. A panel of guests shows the first run of its "
            "cell. A line with many samples is divided into stretches. Each stretch keeps its "
            "lowest and its highest value, so no peak is lost.",
            tuple(_by_time(data, shown, of_guests)),
            "Samples",
        ),
    )
    return [section for section in every if section.figures]


def _by_time(data: figures.Data, shown: list[Metric], of_guests: list[Metric]) -> Iterator[Figure]:
    if _denser_than_intervals(data):
        yield from (_of(m, "by-time", figures.by_time(data, m)) for m in shown)
        yield from (_of(m, "by-time", figures.by_time_of_guests(data, m)) for m in of_guests)


def _denser_than_intervals(data: figures.Data) -> bool:
    """Whether there are more samples than ends of intervals. Imported logs have no more."""
    return any(len(each.host) > each.run.intervals for each in data.samples)


def _bands(data: figures.Data) -> str:
    most = data.guest.groupby("run")["guest"].nunique().max()
    if most <= figures.GUESTS:
        return ""
    return (
        f"More than {figures.GUESTS} guests are shown as a band from the lowest to the highest, "
        "plus the three guests that end lowest, in the middle and highest."
    )


def _whose(data: figures.Data) -> str:
    """Name what the values belong to: guests, the process of the arrays, or both."""
    there = data.guest["guests"] > 0
    if there.all():
        return "Each guest"
    return "Each guest or process" if there.any() else "The process"


def _times(data: figures.Data) -> str:
    """Explain what figures over time show in addition to lines of values."""
    band = (
        "The grey band shows when the workload was active, by the host's clock. "
        if data.windows["seconds"]
        else ""
    )
    marked = {words for marks in data.marks["seconds"].values() for _, words in marks}
    arrays = any(words.startswith("array") for words in marked)
    lines = "Dotted lines show when arrays were written and changed. " if arrays else ""
    if any(words.startswith(figures.CAME) for words in marked):
        lines += "Dotted lines show when guests and processes came (+) and went (−). "
    return band + lines


def _census(data: figures.Data, counted: list[Measured]) -> Iterator[Figure]:
    """Make the figures of censuses that have values."""
    efficiency = census_figures.EFFICIENCY.help
    of_kinds = census_figures.by_kind(counted)
    of_pairs = census_figures.who_shares(counted)
    of_guests = census_figures.attribution(counted)
    of_settings = census_figures.efficiency_by_guests(data, counted)
    of_rates = census_figures.efficiency_by_rate(counted)
    of_runs = census_figures.efficiency_over_time(data, counted)
    changed = census_figures.changed_over_time(data, counted)
    every = (
        ("census-by-kind", "What could be saved, and what is saved", KINDS, of_kinds),
        ("who-shares", "Who shares with whom", WHO, of_pairs),
        ("attribution", "Savings of each guest", ATTRIBUTION, of_guests),
        ("efficiency-by-guests", "Efficiency by number of guests", efficiency, of_settings),
        ("efficiency-by-rate", "Efficiency by scan rate", f"{efficiency} {RATE}", of_rates),
        (
            "efficiency-by-time",
            "Efficiency over time",
            f"{efficiency} A line is one run.",
            of_runs,
        ),
        ("changed-by-time", "Pages that change", CHANGED, changed),
    )
    for name, heading, words, panels in every:
        if panels:
            yield Figure(name, heading, words, tuple(panels))


def _decisions(measured: list[Measured]) -> Iterator[Figure]:
    """Make the figure of what policies did, if any run had one."""
    if panels := policy_figures.decisions(measured):
        help_ = policy_figures.DID
        yield Figure("policy-decisions", "Knobs over time", help_, tuple(panels), wide=True)


def _writes(measured: list[Measured]) -> Iterator[Figure]:
    """Make the figures of measured writes."""
    every = (
        (
            "writes-percentiles",
            "Time of a write: percentiles",
            "late: how late the process woke up for a pair of writes, which is not in their times. "
            "The means of the percentiles of repetitions. One that fewer than one write is "
            "expected beyond is not shown.",
            write_figures.percentiles(measured),
        ),
        (
            "writes-distribution",
            "Time of a write: distribution",
            "Percent of the writes of a line that took so long or longer: 50 % at the median, 1 % "
            "at p99. Repetitions are counted together.",
            write_figures.distributions(measured),
        ),
    )
    for name, heading, words, panels in every:
        if panels:
            yield Figure(name, heading, WRITES + words, tuple(panels), wide=True)


def _hashing(measured: list[Measured]) -> Iterator[Figure]:
    """Make the figures of what is compared and hashed, if runs have counted that."""
    for name, title, panels in hashing_figures.figures(measured):
        yield Figure(f"hashing-{name}", title, HASHING, tuple(panels), wide=True)


def _reported(measured: list[Measured]) -> Iterator[Figure]:
    """Make a figure of the latencies of a load, and one for each metric that runs reported."""
    if panels := load_figures.latencies(measured):
        yield Figure("load-latencies", "Time of an answer", LATENCIES, tuple(panels), wide=True)
    for metric in metrics_of(
        [each.run for each in measured if not hashing_figures.shows(each.run)]
    ):
        if panels := reported_figures.panels_of(measured, metric):
            name = f"reported-{metric.column}"
            words = f"{reported_figures.words_of(metric)}{REPORTED}"
            yield Figure(name, metric.column, words, tuple(panels), wide=True)


def _of(metric: Metric, against: str, panels: list[Panel]) -> Figure:
    name = f"{metric.name}-{against}"
    return Figure(name, metric.label, metric.help, tuple(panels), metric.chosen_with)


def _savings(data: figures.Data, measured: list[Measured]) -> Iterator[Figure]:
    by_name = {m.name: m for m in catalog.HOST}
    settings = settings_of(measured)
    if panels := figures.saved_by_guests(settings):
        yield Figure(
            "saved-by-guests",
            "Savings against the number of guests",
            f"{by_name[SAVED].help} At the end of the run. Values are means of repetitions with "
            "95 % intervals; a single run has no interval.",
            tuple(panels),
            wide=True,
        )
    if data.host[SAVED].notna().any():
        few = len(measured) <= FEW
        panels = (figures.by_time if few else figures.by_interval)(data, by_name[SAVED])
        line = "Each line is one run." if few else "Lines are means of repetitions."
        help_ = f"{by_name[SAVED].help} {line} {_times(data)}"
        yield Figure("saved-by-time", "Savings over time", help_.strip(), tuple(panels), wide=True)
    if panels := figures.savings_against_cost(settings):
        yield Figure(
            "savings-against-cost",
            "Savings against cost",
            "One point for each setting: savings at the end of the run, against the CPU time that "
            "ksmd used in the whole run, with that of the policy, if there was one. Values are "
            "means of repetitions with 95 % intervals; a single run has no interval. Lines go from "
            "few guests to many. Higher and further left is better.",
            tuple(panels),
            wide=True,
        )
    if panels := freed_figures.of_parts(measured):
        yield Figure("freed", "Memory that was freed", FREED, tuple(panels), wide=True)
    if panels := efficiency_figures.saved_and_limit(measured):
        title = "Saved pages and their limit"
        yield Figure("saved-and-limit", title, EFFICIENCY, tuple(panels), wide=True)
    if panels := phase_lock_figures.by_distance(measured):
        title = "Which equal pages were merged"
        yield Figure("phase-lock", title, PHASE_LOCK, tuple(panels), wide=True)


def _by_guests(data: figures.Data) -> Iterator[Figure]:
    """Make the figures of memory against the number of guests."""
    by_name = {m.name: m for m in catalog.HOST}
    in_mib = [by_name[name] for name in figures.MEMORY]
    for whole in ("configured", "resident"):
        if data.host[f"shared_percent_{whole}"].notna().any():
            yield Figure(
                f"percent-of-{whole}-by-guests",
                f"Shared and reclaimed, in percent of {whole} guest memory",
                "Shared: (pages_shared + pages_sharing + ksm_zero_pages) × page size. Reclaimed: "
                f"{catalog.SAVED} × page size. {catalog.WHOLE[whole]} {catalog.ZERO_PAGES_ALSO}",
                tuple(figures.percent_by_guests(data, whole)),
                note=_published() if whole == "configured" else "",
                wide=whole == "configured",
            )
    yield Figure(
        "memory-by-guests",
        "Guest memory, shared and reclaimed, in MiB",
        " ".join(f"{m.label}: {m.help}" for m in in_mib),
        tuple(figures.memory_by_guests(data)),
        note="Published values in MiB are published percentages × the memory of those guests. "
        f"{COUNTING}",
    )


def _published() -> str:
    """Say where the published values are from, and how they were counted."""
    return " ".join([*(f"{each.name}: {each.source}" for each in PUBLISHED), COUNTING])
