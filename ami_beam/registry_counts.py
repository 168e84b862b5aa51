"""How many meters each transformer has by the meter registry, and since when: meter counts that nobody has to keep."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from msgspec.structs import replace

from ami_beam.instants import MAX_INSTANT
from ami_beam.meter_counts import MeterCounts, effective
from ami_beam.read_columns import Flags, Floats, Ints
from ami_beam.records import MeterCount
from ami_beam.settings import Settings

ALWAYS = -1
"""The effective_from of a row that holds from the beginning."""
NEVER = MAX_INSTANT + 1
"""The end of a row that holds to the end."""
Codes = np.ndarray[Any, np.dtype[np.int32]]


@dataclass(frozen=True)
class Rows:
    """Rows of a registry: value i of every column belongs to row i."""

    transformers: Codes
    """Indices of names."""
    service_points: Ints
    """Any number that stands for it."""
    begins: Ints
    ends: Ints
    """The first instant at which the row holds no more."""
    active: Flags
    voltages: Floats
    """NaN where nothing is said."""
    intervals: Ints
    """In microseconds; 0 where nothing is said."""


@dataclass(frozen=True)
class CountChanges:
    """What holds of transformers from an instant on, by transformer and time; each differs from the one before."""

    names: Sequence[str]
    transformers: Ints
    """Indices of `names`."""
    begins: Ints
    totals: Ints
    """Service points with an active meter."""
    voltages: Floats
    """The most frequent of the active meters' own, the lowest of equally frequent ones; NaN without any."""
    longest: Ints
    """The longest interval of active meters; 0 where none says its own."""
    all_known: Flags
    """Whether all active meters say theirs."""
    mixed_voltages: int
    """Transformers whose active meters do not all say the same."""


def count_changes(rows: Rows, names: Sequence[str]) -> CountChanges:
    """The changes by rows, of which those of one meter do not overlap."""
    at = np.flatnonzero(rows.active)
    transformers = rows.transformers[at].astype(np.int64)
    times = np.unique(np.concatenate([rows.begins[at], rows.ends[at], [NEVER]]))
    begins, ends = np.searchsorted(times, rows.begins[at]), np.searchsorted(times, rows.ends[at])
    sweep = _Sweep(transformers, begins, ends, len(times))
    totals = sweep.distinct(rows.service_points[at])
    intervals, voltages = rows.intervals[at], rows.voltages[at]
    longest = np.zeros(len(totals), np.int64)
    for interval in np.unique(intervals).tolist():
        longest[sweep.running(intervals == interval) > 0] = interval
    all_known = sweep.running(intervals == 0) == 0
    voltage, most = np.full(len(totals), np.nan), np.zeros(len(totals), np.int64)
    mixed = np.zeros(len(totals), np.bool_)
    for volts in np.unique(voltages[~np.isnan(voltages)]).tolist():
        meters = sweep.running(voltages == volts)
        mixed |= (meters > 0) & (most > 0)
        more = meters > most
        voltage[more], most[more] = volts, meters[more]
    which, since = sweep.points // len(times), times[sweep.points % len(times)]
    new = np.ones(len(totals), np.bool_)
    new[1:] = which[1:] != which[:-1]
    for column in (totals, np.nan_to_num(voltage), longest, all_known):
        new[1:] |= column[1:] != column[:-1]
    return CountChanges(
        names, which[new], since[new], totals[new], voltage[new], longest[new], all_known[new],
        len(np.unique(which[mixed])),
    )  # fmt: skip


class _Sweep:
    """Counts of what begins and ends, at every instant at which something of a transformer does."""

    def __init__(self, transformers: Ints, begins: Ints, ends: Ints, times: int) -> None:
        """`begins` and `ends` are ranks among `times` instants, the last of which is never."""
        self._transformers, self._begins, self._ends, self._times = transformers, begins, ends, times
        first, last = transformers * times + begins, transformers * times + ends
        keys = np.concatenate([first, last[ends < times - 1]])
        self.points = np.unique(keys)
        self._first, self._last = (np.searchsorted(self.points, key) for key in (first, last))
        # Where nothing ends the place is one too far for its transformer, and is never looked at.
        of = self.points // times
        starts = np.flatnonzero(np.r_[True, of[1:] != of[:-1]][: len(of)])
        self._start = np.repeat(starts, np.diff(np.r_[starts, len(of)]))

    def running(self, chosen: Flags) -> Ints:
        """How many of the chosen rows hold, at each point."""
        return self._summed(self._first[chosen], self._last[chosen & (self._ends < self._times - 1)])

    def distinct(self, groups: Ints) -> Ints:
        """How many groups have a row that holds, at each point; `groups` has a number for each row."""
        order = np.lexsort((self._begins, groups, self._transformers))
        transformers, groups = self._transformers[order], groups[order]
        begins, ends = self._begins[order], self._ends[order]
        other = np.ones(len(order), np.bool_)
        other[1:] = (transformers[1:] != transformers[:-1]) | (groups[1:] != groups[:-1])
        # The latest end so far of each group, as one running maximum over all of them.
        latest = np.maximum.accumulate((np.cumsum(other) - 1) * self._times + ends) % self._times
        opens = other.copy()
        opens[1:] |= begins[1:] > latest[:-1]
        closes = np.r_[opens[1:], True][: len(opens)]
        final = np.flatnonzero(closes)
        ending = latest[final] < self._times - 1
        last = transformers[final[ending]] * self._times + latest[final[ending]]
        return self._summed(self._first[order[opens]], np.searchsorted(self.points, last))

    def _summed(self, begun: Ints, ended: Ints) -> Ints:
        count = len(self.points)
        steps = np.bincount(begun, minlength=count) - np.bincount(ended, minlength=count)
        sums = np.cumsum(steps)
        return sums - (sums - steps)[self._start]


@dataclass(frozen=True)
class ReceiptDelays:
    """How long after a window's end missing reads are held against a transformer, by its meters' intervals."""

    window: int
    usual: int
    """Of the run: for transformers of which nothing is known."""
    of_short: int
    """Where all meters are known to have intervals that are no longer than the window."""
    most: int

    @classmethod
    def of_run(cls, settings: Settings) -> ReceiptDelays:
        """Those of a run. Where nobody gives a receipt delay, `usual` allows for the longest interval of all."""
        not_given = settings.receipt_delay == settings.collection_delay + settings.behind_windows
        of_short = settings.collection_delay if not_given else settings.receipt_delay
        return cls(settings.window, settings.receipt_delay, of_short, settings.allowed_lateness)

    def of(self, longest: int, all_known: bool) -> int | None:
        """A transformer's own delay; None for that of the run.

        The read of a long interval comes so much after the first window in it.

        Args:
          longest: interval of its meters that say theirs, 0 where none does.
          all_known: whether all do.
        """
        if not longest:
            return None
        delay = self.of_short + max(longest - self.window, 0)
        delay = min(delay if all_known else max(delay, self.usual), self.most)
        return None if delay == self.usual else delay


def meter_counts_of(changes: CountChanges, delays: ReceiptDelays) -> list[MeterCount]:
    """The changes as meter counts. A total of 0 says that the transformer is not expected from then on."""
    return [
        MeterCount(
            changes.names[transformer],
            total,
            None if volts != volts else volts,
            delays.of(longest, all_known),
            None if begin == ALWAYS else begin,
        )
        for transformer, begin, total, volts, longest, all_known in zip(
            changes.transformers.tolist(),
            changes.begins.tolist(),
            changes.totals.tolist(),
            changes.voltages.tolist(),
            changes.longest.tolist(),
            changes.all_known.tolist(),
            strict=True,
        )
    ]


def merged(registry: Iterable[MeterCount], given: Sequence[MeterCount]) -> list[MeterCount]:
    """Totals of the registry, and of each transformer what else the meter counts that were given say.

    Transformers that the registry does not know are as they were given.
    """
    table = MeterCounts.from_rows(given)
    rows_of = Counter(row.transformer_id for row in given)
    known: dict[str, list[MeterCount]] = {}
    for row in registry:
        known.setdefault(row.transformer_id, []).append(row)
    found = [row for row in given if row.transformer_id not in known]
    for transformer_id, rows in known.items():
        if not rows_of[transformer_id]:
            found += rows
            continue
        own = MeterCounts.from_rows(rows)
        times = {effective(row) for row in (*rows, *table.rows_of(transformer_id))}
        found += [_combined(transformer_id, time, own, table) for time in sorted(times)]
    return found


def _combined(transformer_id: str, time: int, registry: MeterCounts, given: MeterCounts) -> MeterCount:
    """What holds from `time` on."""
    row = registry.row_at(transformer_id, time) or MeterCount(transformer_id, 0)
    row = replace(row, effective_from=None if time == ALWAYS else time)
    told = given.row_at(transformer_id, time)
    if told is None:
        return row
    return replace(
        row,
        nominal_voltage_v=row.nominal_voltage_v if told.nominal_voltage_v is None else told.nominal_voltage_v,
        receipt_delay=row.receipt_delay if told.receipt_delay is None else told.receipt_delay,
        collection_group=told.collection_group,
    )
