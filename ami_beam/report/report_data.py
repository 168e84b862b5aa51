"""What the pictures and tables of a report show, computed from the rows: all numbers, and nothing of how they look."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ami_beam.instants import MICROS_PER_DAY, MICROS_PER_HOUR
from ami_beam.meter_counts import MeterCounts
from ami_beam.records import Alarm
from ami_beam.report.folder import Rows
from ami_beam.voltage_codes import (
    ABOVE,
    BELOW,
    BOTH,
    NEAR_HIGH,
    NEAR_LOW,
    NO_ROW,
    SILENT,
    Codes,
    Thresholds,
    receipt_codes,
    voltage_codes,
    worst_of,
)

UNPLACED = "(nothing heard)"
"""Stands for the feeder of transformers of which no read ever came."""
_BEYOND = (BELOW, ABOVE, BOTH)
_NEAR = (NEAR_LOW, NEAR_HIGH)

_EXTREME = np.dtype([("volts", "f8"), ("pct", "f8"), ("window", "f8")])
"""NaN until there is one."""

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Extreme:
    """A voltage that is the least or greatest of its row of a heat map, in all windows."""

    volts: float
    pct: float
    """Of the transformer's nominal voltage, by which voltages are compared."""
    transformer_id: str
    window: int
    """Number of the window."""


@dataclass(frozen=True)
class HeatMap:
    """Codes of voltage, a row for each feeder or for each transformer of one; the worst row first.

    Worst is most windows beyond a limit, then most windows near one, then most silent windows, then the name.
    """

    feeder_id: str | None
    """Whose transformers the rows are; None: they are feeders."""
    names: list[str]
    codes: Codes
    """Of shape (rows, windows)."""
    transformers: Integers
    """So many of each row."""
    lowest: list[Extreme | None]
    """Of each row; None where no voltage was measured."""
    highest: list[Extreme | None]

    def windows_with(self, *codes: int) -> Integers:
        """How many windows of each row have one of these codes."""
        return np.isin(self.codes, codes).sum(axis=1)


@dataclass(frozen=True)
class ReceiptHistory:
    """Receipt rates of the whole system and of feeders, the lowest over all windows first.

    Rates are those of all meters of all transformers with a receipt row: per cent, one decimal, half up; NaN where no
    meter was expected.
    """

    heard: Integers
    """Meters of the system that reported, of shape (windows,); `expected` likewise."""
    expected: Integers
    system_pct: Floats
    """Likewise."""
    names: list[str]
    feeder_heard: Integers
    """Of shape (feeders, windows); `feeder_expected`, `feeder_pct` and `codes` likewise."""
    feeder_expected: Integers
    feeder_pct: Floats
    codes: Codes
    system_mean_pct: float
    """Over all windows, each meter counted in each."""
    feeder_mean_pct: Floats
    """Likewise, of shape (feeders,)."""

    def in_steps(self, parts: Sequence[slice], feeder: int | None) -> Floats:
        """The rates over the windows of each of `steps`; of the feeder of this number, or None: of the system."""
        heard, expected = self.heard, self.expected
        if feeder is not None:
            heard, expected = self.feeder_heard[feeder], self.feeder_expected[feeder]
        return _rates(
            np.array([heard[part].sum() for part in parts]), np.array([expected[part].sum() for part in parts])
        )


@dataclass(frozen=True)
class Profile:
    """Energy of a window by time of day (UTC), over several days. All of shape (times of day,)."""

    starts: Integers
    """Of the windows, in microseconds since midnight, ascending."""
    days: Integers
    """On how many days there was one."""
    consumption_mean: Floats
    consumption_least: Floats
    consumption_most: Floats
    received_mean: Floats


@dataclass(frozen=True)
class AlarmTally:
    """Alarms of one type."""

    alarm_type: str
    severity: str
    alarms: int
    active: int
    cleared: int
    unknown: int
    explained: int
    """By another alarm, or by what was announced."""
    entities: int
    feeders: int
    first: int
    """End of the first window in violation."""
    last: int


@dataclass(frozen=True)
class ReportData:
    """All of it, for one period."""

    thresholds: Thresholds
    own_nominal: bool
    """Whether any transformer has a nominal voltage of its own."""
    ends: Integers
    """Of the windows, ascending, in microseconds; `starts` likewise. Windows without any row are not among them."""
    starts: Integers
    transformers: int
    feeders: HeatMap
    chosen: list[HeatMap]
    """The transformers of feeders."""
    receipt: ReceiptHistory
    consumption_kwh: Floats
    """Of all transformers, by window; NaN where there is no summary row."""
    received_kwh: Floats
    below: Integers
    """Transformers that are below their limit, by window; `above` its own, `silent` without any voltage. One that is
    both below and above counts in either."""
    above: Integers
    silent: Integers
    profile: Profile | None
    """None where no time of day is there twice."""
    alarms: list[AlarmTally]
    """Most alarms first."""


class NoFeederError(ValueError):
    """There is no feeder of that name; `feeders` are those that there are."""

    def __init__(self, feeder_id: str, feeders: list[str]) -> None:
        super().__init__(f"no feeder {feeder_id}")
        self.feeder_id = feeder_id
        self.feeders = feeders


@dataclass(frozen=True)
class Span:
    """The windows of some time together, for tables."""

    start: int
    end: int
    """Of the last window; microseconds."""
    consumption_kwh: float
    """Of all of them; NaN where none has a summary row, and so is `received_kwh`."""
    received_kwh: float
    receipt_pct: float
    """Over all of them; NaN where no meter was expected."""
    below: int
    """The most transformers in one window; `above` and `silent` likewise."""
    above: int
    silent: int


def report_data(
    rows: Rows, thresholds: Thresholds, counts: MeterCounts | None = None, chosen: Iterable[str] = ()
) -> ReportData:
    """Everything that is shown of these rows.

    A transformer of which nothing was heard in a window is on the feeder that it was last seen on, or else on the one
    that it is first seen on afterwards, or on `UNPLACED`.

    Args:
      rows: of a folder.
      thresholds: limits, and the nominal voltage of transformers without one in `counts`.
      counts: meter counts with transformers' own nominal voltages; their versions by time are kept to.
      chosen: feeders whose transformers are shown; none: the worst one. Raises NoFeederError.
    """
    grid = _Grid(rows, thresholds, counts)
    feeders = grid.feeder_map()
    wanted = list(dict.fromkeys(chosen)) or feeders.names[:1]
    for each in wanted:
        if each not in grid.feeder_names:
            raise NoFeederError(each, sorted(grid.feeder_names, key=natural))
    return ReportData(
        thresholds,
        grid.own_nominal,
        grid.ends,
        grid.starts,
        len(rows.transformers),
        feeders,
        [grid.transformer_map(each) for each in wanted],
        grid.receipt_history(),
        grid.consumption,
        grid.received,
        *grid.beyond(),
        _profile(grid.starts, grid.consumption, grid.received),
        _tallies(rows.alarms),
    )


def steps(data: ReportData, most: int) -> list[slice]:
    """The windows of the whole period in order: each, or those of hours, quarters of days, days or weeks together.

    No more than `most` steps unless there are so many weeks. Times without a window are left out.
    """
    for size in (1, MICROS_PER_HOUR, 6 * MICROS_PER_HOUR, MICROS_PER_DAY, 7 * MICROS_PER_DAY):
        begins = np.unique(data.starts // size, return_index=True)[1].tolist()
        if len(begins) <= most:
            break
    return [slice(begin, end) for begin, end in pairwise([*begins, len(data.ends)])]


def spans(data: ReportData, most: int) -> list[Span]:
    """The whole period in `steps`."""
    return [_span(data, part) for part in steps(data, most)]


def _span(data: ReportData, part: slice) -> Span:
    there = ~np.isnan(data.consumption_kwh[part])
    consumption, received = (
        round(float(kwh[part][there].sum()), 6) if there.any() else math.nan
        for kwh in (data.consumption_kwh, data.received_kwh)
    )
    return Span(
        int(data.starts[part][0]),
        int(data.ends[part][-1]),
        consumption,
        received,
        float(_rates(data.receipt.heard[part].sum(), data.receipt.expected[part].sum())),
        *(int(counted[part].max()) for counted in (data.below, data.above, data.silent)),
    )


def coarser(codes: Codes, rows: Integers, columns: Integers, kind: Literal["voltage", "receipt"]) -> Codes:
    """The codes for a picture that has not room for all of them: of the rows and columns of a group the worst.

    So a violation in a single cell is still seen. `rows` and `columns` are the numbers of their groups, from 0.
    """
    shape = int(rows[-1]) + 1, int(columns[-1]) + 1
    if shape == codes.shape:
        return codes
    index = np.add.outer(rows * shape[1], columns)
    return worst_of(codes.ravel(), index.ravel(), shape[0] * shape[1], kind).reshape(shape)


def natural(name: str) -> list[tuple[int, int, str]]:
    """As people sort: Feeder2 before Feeder10."""
    parts = re.split(r"([0-9]{1,18})", name)
    return [(0, int(part), "") if number % 2 else (1, 0, part) for number, part in enumerate(parts)]


class _Grid:
    """Goes through the windows once, in order, and keeps of each transformer a code.

    Transformers are at places: (transformer, feeder) pairs, those of the summary and one more for each transformer
    that is in none. So one that changes its feeder has a row on either.
    """

    def __init__(self, rows: Rows, thresholds: Thresholds, counts: MeterCounts | None) -> None:
        self._rows = rows
        self._thresholds = thresholds
        self.ends = np.array(sorted(rows.starts), np.int64)
        self.starts = np.array([rows.starts[end] for end in self.ends.tolist()], np.int64)
        self.transformer_names = list(rows.transformers)
        self.feeder_names = list(rows.feeders)
        self._summary_places = len(rows.place_transformer)
        unseen = np.setdiff1d(np.arange(len(self.transformer_names)), rows.place_transformer)
        if len(unseen):
            self.feeder_names.append(UNPLACED)
        no_feeder = np.full(len(unseen), len(self.feeder_names) - 1)
        self._transformer_of = np.concatenate((rows.place_transformer, unseen))
        self._feeder_of = np.concatenate((rows.place_feeder, no_feeder))
        self._nominal = _Nominal(self.transformer_names, thresholds.nominal_voltage, counts)
        self.own_nominal = self._nominal.own
        places, windows, feeders = len(self._transformer_of), len(self.ends), len(self.feeder_names)
        self._codes = np.full((places, windows), NO_ROW, np.uint8)
        self._feeder_codes = np.full((feeders, windows), NO_ROW, np.uint8)
        self._heard = np.zeros((feeders, windows), np.int64)
        self._expected = np.zeros((feeders, windows), np.int64)
        self.consumption = np.full(windows, np.nan)
        self.received = np.full(windows, np.nan)
        self._lowest = np.full(places, np.nan, _EXTREME)
        self._highest = np.full(places, np.nan, _EXTREME)
        self._seen_at = self._first_places()
        for window in range(windows):
            self._take(window)

    def feeder_map(self) -> HeatMap:
        """All feeders."""
        names = self.feeder_names
        members = np.argsort(self._feeder_of, kind="stable")
        bounds = np.searchsorted(self._feeder_of[members], np.arange(len(names) + 1))
        groups = [members[begin:end] for begin, end in pairwise(bounds.tolist())]
        return self._heat_map(None, names, self._feeder_codes, groups)

    def transformer_map(self, feeder_id: str) -> HeatMap:
        """The transformers of a feeder."""
        places = np.flatnonzero(self._feeder_of == self.feeder_names.index(feeder_id))
        names = [self.transformer_names[number] for number in self._transformer_of[places].tolist()]
        return self._heat_map(feeder_id, names, self._codes[places], list(places[:, None]))

    def beyond(self) -> tuple[Integers, Integers, Integers]:
        """How many transformers of each window are below, above and silent."""
        below, above, silent = (
            np.isin(self._codes, codes).sum(axis=0) for codes in ((BELOW, BOTH), (ABOVE, BOTH), (SILENT,))
        )
        return below, above, silent

    def receipt_history(self) -> ReceiptHistory:
        """Of the system, and of the feeders with a meter that is expected."""
        there = np.flatnonzero(self._expected.any(axis=1))
        heard, expected = self._heard[there], self._expected[there]
        means = _rates(heard.sum(axis=1), expected.sum(axis=1))
        names = [self.feeder_names[number] for number in there.tolist()]
        order = np.array(sorted(range(len(names)), key=lambda row: (means[row], natural(names[row]))), np.int64)
        heard, expected = heard[order], expected[order]
        all_heard, all_expected = heard.sum(axis=0), expected.sum(axis=0)
        return ReceiptHistory(
            all_heard,
            all_expected,
            _rates(all_heard, all_expected),
            [names[row] for row in order.tolist()],
            heard,
            expected,
            _rates(heard, expected),
            receipt_codes(heard, expected, expected > 0, self._thresholds),
            float(_rates(all_heard.sum(), all_expected.sum())),
            means[order],
        )

    def _heat_map(self, feeder_id: str | None, names: list[str], codes: Codes, groups: list[Integers]) -> HeatMap:
        beyond, near, silent = (np.isin(codes, each).sum(axis=1) for each in (_BEYOND, _NEAR, (SILENT,)))
        order = sorted(range(len(names)), key=lambda row: (-beyond[row], -near[row], -silent[row], natural(names[row])))
        groups = [groups[row] for row in order]
        return HeatMap(
            feeder_id,
            [names[row] for row in order],
            codes[order],
            np.array([len(set(self._transformer_of[group].tolist())) for group in groups], np.int64),
            [self._extreme(group, self._lowest, np.nanargmin) for group in groups],
            [self._extreme(group, self._highest, np.nanargmax) for group in groups],
        )

    def _extreme(self, places: Integers, found: NDArray[Any], which: Callable[[Floats], np.intp]) -> Extreme | None:
        pct = found["pct"][places]
        if np.isnan(pct).all():
            return None
        place = places[which(pct)]
        volts, share, window = found[place].tolist()
        return Extreme(volts, share, self.transformer_names[self._transformer_of[place]], int(window))

    def _first_places(self) -> Integers:
        """Of each transformer the place where it was heard first."""
        first = np.full(len(self.transformer_names), -1, np.int64)
        for end in self.ends[::-1].tolist():
            heard = np.flatnonzero(self._rows.summary.of(end, self._summary_places)["meters"])
            first[self._transformer_of[heard]] = heard
        unseen = np.arange(self._summary_places, len(self._transformer_of))
        first[self._transformer_of[unseen]] = unseen
        # Heard in no window of the period, and taken back in one: any of its places.
        for place in np.flatnonzero(first[self._transformer_of] < 0).tolist():
            first[self._transformer_of[place]] = place
        return first

    def _take(self, window: int) -> None:
        end, rows = int(self.ends[window]), self._rows
        summary = rows.summary.of(end, self._summary_places)
        receipt = rows.receipt.of(end, len(self.transformer_names))
        # A pair that has lost its last read has a row with no meters: the transformer is on another feeder, or silent.
        heard = np.flatnonzero(summary["meters"])
        cells, transformers = summary[heard], self._transformer_of[heard]
        if (summary["as_of"] >= 0).any():
            self.consumption[window] = round(float(summary["consumption"].sum()), 6)
            self.received[window] = round(float(summary["received"].sum()), 6)
        to_pct = 100 / self._nominal.at(end)[transformers]
        low, high = cells["low"] * to_pct, cells["high"] * to_pct
        self._codes[heard, window] = voltage_codes(low, high, np.ones(len(heard), bool), self._thresholds)
        for kept, volts, pct, sign in ((self._lowest, cells["low"], low, 1), (self._highest, cells["high"], high, -1)):
            beyond = ~np.isnan(pct) & ~(sign * pct >= sign * kept["pct"][heard])
            kept["volts"][heard[beyond]] = volts[beyond]
            kept["pct"][heard[beyond]] = pct[beyond]
            kept["window"][heard[beyond]] = window
        self._seen_at[transformers] = heard
        with_row = receipt["as_of"] >= 0
        silent = with_row.copy()
        silent[transformers] = False
        self._codes[self._seen_at[silent], window] = SILENT
        self._feeder_codes[:, window] = worst_of(
            self._codes[:, window], self._feeder_of, len(self.feeder_names), "voltage"
        )
        of = np.where(receipt["feeder"] >= 0, receipt["feeder"], self._feeder_of[self._seen_at])[with_row]
        for sums, column in ((self._heard, "heard"), (self._expected, "total")):
            np.add.at(sums[:, window], of, receipt[column][with_row])


class _Nominal:
    """Transformers' nominal voltages, by the meter counts that are valid at a window's end."""

    def __init__(self, transformers: list[str], default: float, counts: MeterCounts | None) -> None:
        self._values = np.full(len(transformers), default)
        self._counts = counts
        self._default = default
        self._changing: list[tuple[int, str]] = []
        self.own = False
        if counts is None:
            return
        for number, name in enumerate(transformers):
            several = counts.rows_of(name)
            self.own |= any(row.nominal_voltage_v is not None for row in several)
            if len(several) == 1 and several[0].effective_from is None:
                self._values[number] = several[0].nominal_voltage_v or default
            elif several:
                self._changing.append((number, name))

    def at(self, window_end: int) -> Floats:
        """Of all transformers, in volts. Overwritten by the next call."""
        if self._counts is not None:
            for number, name in self._changing:
                row = self._counts.at(name, window_end)
                self._values[number] = (row and row.nominal_voltage_v) or self._default
        return self._values


def _rates(heard: Integers, expected: Integers) -> Floats:
    """Per cent, one decimal, half up, as receipt rows have it; NaN where nothing is expected."""
    divisor = np.maximum(expected, 1)
    return np.where(expected > 0, (2000 * heard + divisor) // (2 * divisor) / 10, np.nan)


def _profile(starts: Integers, consumption: Floats, received: Floats) -> Profile | None:
    there = ~np.isnan(consumption)
    times, index, days = np.unique(starts[there] % MICROS_PER_DAY, return_inverse=True, return_counts=True)
    if days.max(initial=0) < 2:
        return None
    least, most = np.full(len(times), np.inf), np.full(len(times), -np.inf)
    np.minimum.at(least, index, consumption[there])
    np.maximum.at(most, index, consumption[there])
    return Profile(
        times,
        days,
        np.round(np.bincount(index, consumption[there]) / days, 6),
        least,
        most,
        np.round(np.bincount(index, received[there]) / days, 6),
    )


def _tallies(alarms: Iterable[Alarm]) -> list[AlarmTally]:
    by_type: dict[str, list[Alarm]] = {}
    for alarm in alarms:
        by_type.setdefault(alarm.alarm_type, []).append(alarm)
    found = [_tally(alarm_type, several) for alarm_type, several in by_type.items()]
    return sorted(found, key=lambda tally: (-tally.alarms, tally.alarm_type))


def _tally(alarm_type: str, alarms: list[Alarm]) -> AlarmTally:
    states = [alarm.state for alarm in alarms]
    return AlarmTally(
        alarm_type,
        "CRITICAL" if any(alarm.severity == "CRITICAL" for alarm in alarms) else "WARNING",
        len(alarms),
        states.count("ACTIVE"),
        states.count("CLEARED"),
        states.count("UNKNOWN"),
        sum(alarm.cause is not None for alarm in alarms),
        len({alarm.entity_id for alarm in alarms}),
        len({alarm.feeder_id for alarm in alarms if alarm.feeder_id is not None}),
        min(alarm.first_window for alarm in alarms),
        max(alarm.last_window for alarm in alarms),
    )
