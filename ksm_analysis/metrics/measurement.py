"""The values of all metrics in every interval of a run."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from ksm_analysis.metrics.catalog import CENSUS, CENSUS_GUEST, GUEST, HOST, Metric
from ksm_analysis.metrics.values import Ends
from ksm_analysis.results.censuses import Census
from ksm_analysis.results.once import once
from ksm_analysis.results.reduced import Reduced
from ksm_analysis.results.run import Run


def interval_ends(run: Run, samples: pd.DataFrame) -> pd.DataFrame:
    """Return the last sample of each interval; row 0 is the first sample. Index: interval, from 0.

    `samples` is indexed by n. An interval is a row of NaN if all its samples were missed. So is row
    0 of an imported run, which has no sample before its first interval.
    """
    size = round(run.plan.sampling.interval / run.plan.sampling.period)
    interval = np.ceil(samples.index.to_numpy() / size).astype(int)
    if not run.imported:
        interval[0] = 0  # the baseline, even if sample 0 itself was missed
    last = ~pd.Series(interval).duplicated(keep="last").to_numpy()
    ends = samples[last].set_axis(interval[last])
    return ends.reindex(pd.RangeIndex(run.intervals + 1, name="interval"))


@dataclass(frozen=True)
class Measured:
    """A run and its values.

    `host`: one row for each interval, indexed by `interval` from 1, with the metrics of HOST.
    `guest`: one row for each interval and guest: `interval`, `guest`, then the metrics of GUEST.
    `census`: one row for each census: `seconds`, `moment`, then the metrics of CENSUS.
    `census_guest`: one row for each census and guest: `n`, `seconds`, `guest`, then the metrics of
    CENSUS_GUEST. The last two are empty without a census.
    """

    run: Run
    host: pd.DataFrame
    guest: pd.DataFrame
    census: pd.DataFrame
    census_guest: pd.DataFrame

    @property
    def known(self) -> dict[str, Any]:
        """What was computed of the run."""
        return self.run.known

    @property
    def last(self) -> int:
        """The interval whose values stand for the run: its last.

        For an imported run, it is the last interval in which one of its processes existed: the
        original program still wrote its log after the processes that it watched had ended.
        """
        return _last(self)

    @property
    def final(self) -> dict[str, float]:
        """The metrics of HOST in this interval."""
        return _final(self)

    @property
    def censuses(self) -> Census:
        """The censuses of a run that has at least one."""
        assert self.run.census is not None, f"{self.run.id} has no census"
        return self.run.census

    @property
    def last_census(self) -> pd.Series:
        """The values of the census that stands for the run: its last. Empty without a census."""
        values = _last_census(self)
        return pd.Series(values, dtype=object) if values else NOTHING


NOTHING = pd.Series(dtype=float)


@once()
def _last(measured: Measured) -> int:
    there = measured.guest.loc[measured.guest["ksm_rmap_items"].notna(), "interval"]
    if measured.run.imported and len(there):
        return int(there.max())
    return int(measured.host.index[-1])


@once()
def _last_census(measured: Measured) -> dict[str, Any]:
    return dict(measured.census.iloc[-1]) if len(measured.census) else {}


@once()
def _final(measured: Measured) -> dict[str, float]:
    row = measured.host.loc[[measured.last]].iloc[0]
    return {str(name): float(value) for name, value in row.items()}


def at_scan_ends(samples: pd.DataFrame) -> pd.DataFrame:
    """Return scan_end.pages_unshared and scan_end.pages_volatile: see AT_SCAN_END.

    When full_scans has risen by one, the values of the sample before are those at the end of the
    scan. They are kept from this sample on. When it has risen by more, no sample shows the end of
    a scan.
    """
    if "ksm.full_scans" not in samples or _skips_pages(samples):
        return pd.DataFrame(index=samples.index)
    risen = samples["ksm.full_scans"].diff()
    names = {f"ksm.{name}": f"scan_end.{name}" for name in ("pages_unshared", "pages_volatile")}
    held = samples.reindex(columns=list(names)).shift(1)
    scan = (risen > 0).cumsum()
    return held.where(risen == 1).groupby(scan).ffill().rename(columns=names)


def _skips_pages(samples: pd.DataFrame) -> bool:
    """Whether smart_scan is on: a page that it skips is not in the unstable tree in that scan."""
    return "ksm.smart_scan" in samples and bool((samples["ksm.smart_scan"].iloc[1:] == 1).any())


class Lazily(Measured):
    """What was measured of a run of which only the reduction was read."""

    reduced: Reduced

    def __init__(self, run: Reduced) -> None:
        self.__dict__.update(run=run, reduced=run)

    @cached_property
    def host(self) -> pd.DataFrame:
        """As in Measured."""
        kept = self.reduced.host_frame
        return self.whole.host if kept is None else kept

    @cached_property
    def whole(self) -> Measured:
        """The same from the raw files."""
        return measure(self.reduced.whole)

    @cached_property
    def guest(self) -> pd.DataFrame:
        """As in Measured."""
        return self.whole.guest

    @cached_property
    def census(self) -> pd.DataFrame:
        """As in Measured."""
        return pd.DataFrame() if self.run.census is None else self.whole.census

    @cached_property
    def census_guest(self) -> pd.DataFrame:
        """As in Measured."""
        return pd.DataFrame() if self.run.census is None else self.whole.census_guest


def measure(run: Run) -> Measured:
    """Compute the value of every metric in every interval of a run."""
    if isinstance(run, Reduced):
        return Lazily(run)
    samples = run.samples.join(at_scan_ends(run.samples))
    guest = _guest_values(run, _ends_of_guests(run), "interval")
    host = _host_values(run, interval_ends(run, samples), guest, "interval")
    return Measured(run, host, guest, *_census_values(run))


def _census_values(run: Run) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compute the values of each census, and of each guest in it."""
    if run.census is None:
        return pd.DataFrame(), pd.DataFrame()
    host = _census_table(run, run.census.rows, ["seconds", "moment"], CENSUS)
    return host, _census_table(run, run.census.guests, ["n", "seconds", "guest"], CENSUS_GUEST)


def _census_table(
    run: Run, rows: pd.DataFrame, names: list[str], metrics: tuple[Metric, ...]
) -> pd.DataFrame:
    ends = Ends(run, rows)
    return rows[names].assign(**{metric.name: metric.value(ends) for metric in metrics})


def every_sample(run: Run) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compute the value of every metric at every sample, as if each were an interval.

    Return the frames of Measured with `n` instead of `interval`, and with `seconds` since the time
    in the header. The value of a counter is the difference from the sample before.
    """
    samples = run.samples.join(at_scan_ends(run.samples))
    guest = _guest_values(run, run.guests, "n", "seconds")
    host = _host_values(run, samples, guest, "n")
    return host.assign(seconds=samples["seconds"]), guest


def _host_values(run: Run, rows: pd.DataFrame, guest: pd.DataFrame, index: str) -> pd.DataFrame:
    # A process without guests is not a guest, so its memory is not guest memory
    guests = guest if run.plan.guests.count else guest.iloc[:0]
    totals = guests.groupby(index)[["guest_cpu_percent", "resident_mib"]].sum(min_count=1)
    both = Ends(run, rows.join(totals.add_prefix("guests.")))
    return pd.DataFrame({m.name: m.value(both) for m in HOST}).iloc[1:]


def _ends_of_guests(run: Run) -> pd.DataFrame:
    """Return the last sample of each guest in each interval, one guest after another."""
    guests = run.guests.groupby("guest", observed=True) if len(run.guests) else ()
    ends = [interval_ends(run, rows.set_index("n")).assign(guest=guest) for guest, rows in guests]
    return pd.concat(ends).reset_index() if ends else pd.DataFrame()


def _guest_values(run: Run, rows: pd.DataFrame, *index: str) -> pd.DataFrame:
    """Compute the values of all guests at once. The rows of a guest are consecutive.

    A value may depend on the row before. For a guest's first row, this is a row of another guest.
    The result is not used: first rows are removed.
    """
    names = [*index, "guest"]
    if rows.empty:
        return pd.DataFrame(columns=[*names, *(m.name for m in GUEST)], dtype=float)
    ends = Ends(run, rows)
    table = rows[names].assign(**{m.name: m.value(ends) for m in GUEST})
    return table[rows["guest"].duplicated()].reset_index(drop=True)
