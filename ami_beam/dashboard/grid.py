"""The grid as the newest rows have it: voltages, consumption and receipt of every transformer in the last windows.

A cell of a transformer and window takes 27 bytes, in columns of numpy, so that a day of 500,000 transformers in 96
windows is 1.3 GB. What is shown of feeders is made of that once for each window that has changed (`Digest`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ami_beam.codecs.row_lines import ReceiptLine, SummaryLine, micros
from ami_beam.instants import MICROS_PER_DAY, MICROS_PER_MILLI
from ami_beam.records import ReceiptRow, SummaryRow
from ami_beam.voltage_codes import Thresholds, receipt_codes, voltage_codes, worst_of
from transforms.receipt_rate import receipt_rate_pct

UNKNOWN_FEEDER = "(unknown)"
"""Of a transformer of which nothing was ever heard, so that nobody knows where it hangs."""
MOST_PAIRS = 5_000_000
"""Of transformers and feeders. Names beyond that are counted and not kept: a topic must not fill the memory."""
SUMMARY, RECEIPT, SUMMARY_REVISED, RECEIPT_REVISED, DARK = 1, 2, 4, 8, 16
"""Flags of a cell. DARK: meters were heard, of which some said 0 V and none a voltage."""
REVISED = SUMMARY_REVISED | RECEIPT_REVISED
_VOLTS = 100
"""A voltage is kept as an integer of hundredths of a volt; of a higher nominal voltage in coarser steps."""
_GREATEST = 65_535
_MOST_DELAYS = 4_096
"""Of the rows of a window: a median of them is shown."""
_MOST_KWH = 1e30
"""What columns of 32 bits can add up."""
_FAR_AHEAD = 2 * MICROS_PER_DAY
"""So long after it was published no window ends: a row that says so would push out all that are true."""
_FINE_NOMINAL_V = 280.0
"""Up to which nominal voltage hundredths of a volt reach beyond 230 %."""
Column = NDArray[Any]
Line = SummaryLine | ReceiptLine


class WindowColumns:
    """What is known of one window, a place for each pair of a transformer and a feeder."""

    __slots__ = (
        "avg", "delays", "end", "flags", "heard", "kwh", "max", "min", "receipt_as_of", "received", "start",
        "summary_as_of", "total", "version",
    )  # fmt: skip

    def __init__(self, start: int, end: int, size: int) -> None:
        self.start = start
        self.end = end
        self.version = 0
        self.min = np.zeros(size, np.uint16)
        """Steps of a volt (`Grid.step`); 0: none. Likewise avg and max."""
        self.avg = np.zeros(size, np.uint16)
        self.max = np.zeros(size, np.uint16)
        self.kwh = np.full(size, np.nan, np.float32)
        self.received = np.full(size, np.nan, np.float32)
        self.heard = np.zeros(size, np.uint16)
        self.total = np.zeros(size, np.uint16)
        self.summary_as_of = np.zeros(size, np.uint32)
        """Milliseconds since a day before the window began. Likewise of receipt."""
        self.receipt_as_of = np.zeros(size, np.uint32)
        self.flags = np.zeros(size, np.uint8)
        self.delays: list[int] = []
        """How long after the window's end its first rows were published, microseconds."""

    def grow(self, size: int) -> None:
        """Make room for so many pairs."""
        for name in ("min", "avg", "max", "heard", "total", "summary_as_of", "receipt_as_of", "flags"):
            column = getattr(self, name)
            setattr(self, name, np.concatenate([column, np.zeros(size - len(column), column.dtype)]))
        for name in ("kwh", "received"):
            column = getattr(self, name)
            setattr(self, name, np.concatenate([column, np.full(size - len(column), np.nan, np.float32)]))

    def moment(self, as_of: int) -> int:
        """An as_of as the columns have it."""
        since = (as_of - self.start + MICROS_PER_DAY) // MICROS_PER_MILLI
        return min(max(since, 1), 2**32 - 1)

    def moments(self, as_of: Sequence[int]) -> Column:
        """Likewise of many."""
        since = (np.array(as_of, np.int64) - self.start + MICROS_PER_DAY) // MICROS_PER_MILLI
        return np.clip(since, 1, 2**32 - 1).astype(np.uint32)

    @property
    def nbytes(self) -> int:
        return sum(getattr(self, name).nbytes for name in self.__slots__ if isinstance(getattr(self, name), np.ndarray))


@dataclass(frozen=True)
class Digest:
    """What a window says of every feeder, and of the pairs themselves. Arrays are by feeder but where it says pairs."""

    version: int
    """Of the window that it was made of."""
    rows_version: int
    pair_voltage: Column = field(repr=False)
    """Codes of `voltage_codes`, of pairs. Likewise of receipt."""
    pair_receipt: Column = field(repr=False)
    voltage: Column = field(repr=False)
    receipt: Column = field(repr=False)
    below: Column = field(repr=False)
    """Transformers. Likewise above and silent; one that is both counts in both."""
    above: Column = field(repr=False)
    silent: Column = field(repr=False)
    present: Column = field(repr=False)
    """Transformers with a row."""
    heard: Column = field(repr=False)
    """Meters. Likewise total."""
    total: Column = field(repr=False)
    kwh: Column = field(repr=False)
    """NaN where there is no summary. Likewise received."""
    received: Column = field(repr=False)
    min_pct: Column = field(repr=False)
    """The least of its transformers, per cent of nominal; NaN where there is none."""
    max_pct: Column = field(repr=False)
    revised: Column = field(repr=False)
    """Whether a row of it was published again."""


class Grid:
    """Takes rows in any order and keeps of each identity the one with the greatest as_of, of equal ones the last.

    Not safe for threads: its owner locks.

    Args:
      history: microseconds; windows that end so long before the newest are dropped.
      thresholds: what bands are made of.
      nominal: volts by transformer_id, where they are not the thresholds' own.
    """

    def __init__(self, history: int, thresholds: Thresholds, nominal: Mapping[str, float] | None = None) -> None:
        self.history = history
        self.thresholds = thresholds
        self.windows: dict[int, WindowColumns] = {}
        self.window_length: int | None = None
        self.version = 1
        """Counts changes; of a window as `WindowColumns.version`."""
        self.rows_version = 1
        """Counts new transformers, and those that moved to another feeder."""
        self.transformers: list[str] = []
        """Of each pair."""
        self.feeders: list[str] = []
        self.refused = 0
        """Rows of names beyond MOST_PAIRS, and of windows far ahead."""
        self._nominal_of = dict(nominal or {})
        self._pairs: dict[tuple[str, str], int] = {}
        self._of_transformer: dict[str, list[int]] = {}
        self._feeder_index: dict[str, int] = {}
        self._feeder_of = np.zeros(64, np.int32)
        self._step = np.full(64, 1 / _VOLTS, np.float64)
        self._nominal = np.zeros(64, np.float64)
        """Volts; 0: the thresholds' own."""
        self._digests: dict[int, Digest] = {}
        self._members: tuple[int, list[NDArray[np.int64]]] = (0, [])
        self.newest_as_of = 0

    # Taking rows.

    def take_summary(self, row: SummaryRow, published: int | None = None) -> bool:
        """Whether the row counts. `published`: its record time, microseconds."""
        window = self._window(row.window_start, row.window_end, published)
        if window is None:
            return False
        place = self._place(row.transformer_id, row.feeder_id)
        if place is None:
            return False
        self._fit(window, place)
        moment = window.moment(row.as_of)
        if moment < window.summary_as_of[place]:
            return False
        step = self._step[place]
        there = window.flags[place] & SUMMARY
        values = (_steps(row.min_voltage_v, step), _steps(row.avg_voltage_v, step), _steps(row.max_voltage_v, step))
        reported = row.meters_reported > 0
        kwh = _energy(row.total_consumption_kwh) if reported else np.nan
        received = _energy(row.total_received_kwh) if reported else np.nan
        before = (window.min[place], window.avg[place], window.max[place], window.kwh[place])
        window.min[place], window.avg[place], window.max[place] = values
        window.kwh[place] = kwh
        window.received[place] = received
        window.summary_as_of[place] = moment
        flags = (int(window.flags[place]) & ~DARK) | SUMMARY
        if row.zero_voltage_count and row.min_voltage_v is None:
            flags |= DARK
        if there and not _same(before, (*values, np.float32(kwh))):
            flags |= SUMMARY_REVISED
        if row.revision:
            flags |= SUMMARY_REVISED
        window.flags[place] = flags
        self._changed(window, row.as_of, published, bool(there))
        return True

    def take_receipt(self, row: ReceiptRow, published: int | None = None) -> bool:
        """Whether the row counts."""
        window = self._window(row.window_start, row.window_end, published)
        if window is None:
            return False
        others = self._of_transformer.get(row.transformer_id, ())
        if row.feeder_id is None and others:
            place: int | None = others[0]
        else:
            place = self._place(row.transformer_id, row.feeder_id or UNKNOWN_FEEDER)
        if place is None:
            return False
        self._fit(window, place)
        moment = window.moment(row.as_of)
        others = self._of_transformer[row.transformer_id]
        known = max((int(window.receipt_as_of[other]) for other in others if other < len(window.flags)), default=0)
        if moment < known:
            return False
        there = False
        for other in others:
            # A transformer has one receipt row a window, on whichever of its feeders.
            if other < len(window.flags) and window.flags[other] & RECEIPT:
                there = True
                if other != place:
                    window.flags[other] &= ~(RECEIPT | RECEIPT_REVISED) & 0xFF
                    window.heard[other] = window.total[other] = 0
                    window.receipt_as_of[other] = 0
        heard, total = _count(row.meters_reported), _count(row.total_meters)
        flags = window.flags[place] | RECEIPT
        if row.revision or (there and (window.heard[place], window.total[place]) != (heard, total)):
            flags |= RECEIPT_REVISED
        window.heard[place], window.total[place] = heard, total
        window.receipt_as_of[place] = moment
        window.flags[place] = flags
        self._changed(window, row.as_of, published, there)
        return True

    def take_summaries(self, rows: Sequence[SummaryLine], published: Sequence[int]) -> None:
        """What `take_summary` does with each of them, in their order; several times as fast."""
        windows = _Windows(self)
        for number, row in enumerate(rows):
            window, chunk = windows.of(row, published[number])
            place = None if window is None else self._place(row.transformer_id, row.feeder_id)
            if window is None or place is None:
                continue
            if place in chunk:
                # Another version of one: it is held against the one before.
                self._take_summary_chunk(window, chunk, rows, published)
                chunk.clear()
            chunk[place] = number
        for window, chunk in windows.all():
            self._take_summary_chunk(window, chunk, rows, published)

    def _take_summary_chunk(
        self, window: WindowColumns, chunk: dict[int, int], rows: Sequence[SummaryLine], published: Sequence[int]
    ) -> None:
        """`chunk`: the number of a row by its place."""
        numbers, places, moments = self._newer(window, chunk, rows, "summary_as_of")
        if not numbers:
            return
        taken = [rows[number] for number in numbers]
        steps = self._step[places]
        reported = np.array([row.meters_reported for row in taken]) > 0
        columns = (
            (window.min, _all_steps([row.min_voltage_v for row in taken], steps)),
            (window.avg, _all_steps([row.avg_voltage_v for row in taken], steps)),
            (window.max, _all_steps([row.max_voltage_v for row in taken], steps)),
            (window.kwh, _all_energies([row.total_consumption_kwh for row in taken], reported)),
        )
        flags = window.flags[places]
        there = (flags & SUMMARY) > 0
        other = np.zeros(len(places), bool)
        for column, values in columns:
            before = column[places]
            other |= (before != values) & ~((before != before) & (values != values))
            column[places] = values
        window.received[places] = _all_energies([row.total_received_kwh for row in taken], reported)
        window.summary_as_of[places] = moments
        revised = (there & other) | (np.array([row.revision != 0 for row in taken]))
        dark = np.array([row.zero_voltage_count > 0 and row.min_voltage_v is None for row in taken])
        flags = (flags & np.uint8(0xFF & ~DARK)) | np.uint8(SUMMARY)
        window.flags[places] = flags | revised * np.uint8(SUMMARY_REVISED) | dark * np.uint8(DARK)
        self._all_changed(window, taken, [published[number] for number in numbers], there)

    def take_receipts(self, rows: Sequence[ReceiptLine], published: Sequence[int]) -> None:
        """What `take_receipt` does with each of them, in their order; several times as fast."""
        windows = _Windows(self)
        for number, row in enumerate(rows):
            window, chunk = windows.of(row, published[number])
            if window is None:
                continue
            pairs = self._of_transformer.get(row.transformer_id, [])
            alone = len(pairs) == 1 and row.feeder_id in (None, self.feeders[self._feeder_of[pairs[0]]])
            if not alone or pairs[0] in chunk:
                self._take_receipt_chunk(window, chunk, rows, published)
                chunk.clear()
            if alone:
                chunk[pairs[0]] = number
            else:
                # A new transformer, or one that is on several feeders: its other rows have to be looked at.
                self.take_receipt(_whole(row), published[number])
        for window, chunk in windows.all():
            self._take_receipt_chunk(window, chunk, rows, published)

    def _take_receipt_chunk(
        self, window: WindowColumns, chunk: dict[int, int], rows: Sequence[ReceiptLine], published: Sequence[int]
    ) -> None:
        numbers, places, moments = self._newer(window, chunk, rows, "receipt_as_of")
        if not numbers:
            return
        taken = [rows[number] for number in numbers]
        heard = np.minimum([row.meters_reported for row in taken], _GREATEST).astype(np.uint16)
        total = np.minimum([row.total_meters for row in taken], _GREATEST).astype(np.uint16)
        flags = window.flags[places]
        there = (flags & RECEIPT) > 0
        other = (window.heard[places] != heard) | (window.total[places] != total)
        revised = (there & other) | np.array([row.revision != 0 for row in taken])
        window.heard[places], window.total[places] = heard, total
        window.receipt_as_of[places] = moments
        window.flags[places] = flags | np.uint8(RECEIPT) | revised * np.uint8(RECEIPT_REVISED)
        self._all_changed(window, taken, [published[number] for number in numbers], there)

    def _newer(
        self, window: WindowColumns, chunk: dict[int, int], rows: Sequence[Line], as_of: str
    ) -> tuple[list[int], Column, Column]:
        """Of the chunk's rows that are not older than what is there: numbers, places, and moments of their as_of.

        Args:
          as_of: the name of the column that it is held against.
        """
        if not chunk:
            return [], np.zeros(0, np.int64), np.zeros(0, np.uint32)
        self._fit(window, max(chunk))
        numbers, places = np.array(list(chunk.values())), np.array(list(chunk))
        moments = window.moments([micros(rows[number].as_of) for number in chunk.values()])
        counts = moments >= getattr(window, as_of)[places]
        return numbers[counts].tolist(), places[counts], moments[counts]

    def _all_changed(self, window: WindowColumns, taken: Sequence[Line], published: list[int], there: Column) -> None:
        """`there`: which of the rows are versions of what was there."""
        self.version += 1
        window.version = self.version
        self.newest_as_of = max(self.newest_as_of, micros(max(row.as_of for row in taken)))
        room = _MOST_DELAYS - len(window.delays)
        if room > 0:
            fresh = np.array(published)[~there][:room]
            window.delays += (fresh - window.end).tolist()

    def _changed(self, window: WindowColumns, as_of: int, published: int | None, again: bool) -> None:
        self.version += 1
        window.version = self.version
        self.newest_as_of = max(self.newest_as_of, as_of)
        if published is not None and not again and len(window.delays) < _MOST_DELAYS:
            window.delays.append(published - window.end)

    def _window(self, start: int, end: int, published: int | None) -> WindowColumns | None:
        window = self.windows.get(end)
        if window is None:
            if published is not None and end > published + _FAR_AHEAD:
                self.refused += 1
                return None
            newest = max(self.windows, default=end)
            if end <= newest - self.history:
                return None
            window = self.windows[end] = WindowColumns(start, end, len(self._feeder_of))
            self.window_length = end - start
            for old in [each for each in self.windows if each <= max(newest, end) - self.history]:
                del self.windows[old]
                self._digests.pop(old, None)
        return window

    def _place(self, transformer: str, feeder: str) -> int | None:
        place = self._pairs.get((transformer, feeder))
        if place is not None:
            return place
        known = self._of_transformer.get(transformer)
        if known is not None and feeder != UNKNOWN_FEEDER:
            unknown = self._pairs.pop((transformer, UNKNOWN_FEEDER), None)
            if unknown is not None:
                # Now it is known where it hangs: what was said before belongs there, too.
                self._pairs[transformer, feeder] = unknown
                self._feeder_of[unknown] = self._feeder(feeder)
                self.rows_version += 1
                return unknown
        place = len(self.transformers)
        if place >= MOST_PAIRS:
            self.refused += 1
            return None
        if place == len(self._feeder_of):
            self._feeder_of = np.concatenate([self._feeder_of, np.zeros(place, np.int32)])
            self._step = np.concatenate([self._step, np.full(place, 1 / _VOLTS, np.float64)])
            self._nominal = np.concatenate([self._nominal, np.zeros(place, np.float64)])
        self.transformers.append(transformer)
        self._pairs[transformer, feeder] = place
        self._of_transformer.setdefault(transformer, []).append(place)
        self._feeder_of[place] = self._feeder(feeder)
        own = self._nominal_of.get(transformer, 0.0)
        self._nominal[place] = own
        nominal = own or self.thresholds.nominal_voltage
        self._step[place] = 1 / _VOLTS if nominal <= _FINE_NOMINAL_V else nominal / 25_000
        self.rows_version += 1
        return place

    def _feeder(self, name: str) -> int:
        index = self._feeder_index.setdefault(name, len(self.feeders))
        if index == len(self.feeders):
            self.feeders.append(name)
        return index

    def _fit(self, window: WindowColumns, place: int) -> None:
        if place >= len(window.flags):
            window.grow(len(self._feeder_of))

    # Telling.

    def set_thresholds(self, thresholds: Thresholds) -> None:
        """Judge everything by other limits."""
        if thresholds != self.thresholds:
            self.thresholds = thresholds
            self._digests.clear()
            self.version += 1
            for window in self.windows.values():
                window.version = self.version

    @property
    def ends(self) -> list[int]:
        """Of the windows that are known, oldest first."""
        return sorted(self.windows)

    @property
    def nbytes(self) -> int:
        """Of columns and digests."""
        arrays = sum(window.nbytes for window in self.windows.values())
        return arrays + self._feeder_of.nbytes + self._step.nbytes + self._nominal.nbytes

    def nominal(self, place: int) -> float:
        """Volts."""
        return float(self._nominal[place]) or self.thresholds.nominal_voltage

    def places(self, transformer: str) -> list[int]:
        """The pairs of a transformer, none where it is not known."""
        return self._of_transformer.get(transformer, [])

    def feeder_of(self, place: int) -> str:
        return self.feeders[self._feeder_of[place]]

    def feeder_index(self, feeder: str) -> int | None:
        return self._feeder_index.get(feeder)

    def members(self) -> list[NDArray[np.int64]]:
        """The pairs of each feeder."""
        if self._members[0] != self.rows_version:
            count = len(self.transformers)
            of = self._feeder_of[:count]
            order = np.argsort(of, kind="stable")
            ends = np.cumsum(np.bincount(of, minlength=len(self.feeders)))
            self._members = self.rows_version, np.split(order, ends[:-1]) if count else []
        return self._members[1]

    def stale_digests(self) -> list[int]:
        """Windows whose digest is not of now, newest first."""
        return [
            end
            for end in sorted(self.windows, reverse=True)
            if (made := self._digests.get(end)) is None
            or made.version != self.windows[end].version
            or made.rows_version != self.rows_version
        ]

    def digest(self, end: int, fresh: bool = True) -> Digest | None:
        """Of a window; None where there is none. Not `fresh`: the one that was made last may do."""
        window = self.windows.get(end)
        if window is None:
            return None
        made = self._digests.get(end)
        whole = made is not None and made.rows_version == self.rows_version
        if made is None or not whole or (fresh and made.version != window.version):
            made = self._digests[end] = self._digest(window)
        return made

    def pct(self, window: WindowColumns, places: Any) -> tuple[Column, Column]:
        """Least and greatest voltage of these pairs in per cent of nominal; NaN where there is none."""
        nominal = np.where(self._nominal[places] > 0, self._nominal[places], self.thresholds.nominal_voltage)
        factor = self._step[places] * 100 / nominal
        low, high = window.min[places], window.max[places]
        # Rounded: a voltage that is exactly the limit is not beyond it.
        return (
            np.where(low > 0, np.round(low * factor, 6), np.nan),
            np.where(high > 0, np.round(high * factor, 6), np.nan),
        )

    def volts(self, window: WindowColumns, place: int) -> tuple[float | None, float | None, float | None]:
        """Least, mean and greatest voltage."""
        step = self._step[place]
        low, mean, high = (
            round(float(column[place] * step), 2) if column[place] else None
            for column in (window.min, window.avg, window.max)
        )
        return low, mean, high

    def row(self, window: WindowColumns, place: int) -> tuple[bool, bool, bool]:
        """Whether the pair has a summary and a receipt row in the window, and whether one of them was revised."""
        flags = int(window.flags[place]) if place < len(window.flags) else 0
        return bool(flags & SUMMARY), bool(flags & RECEIPT), bool(flags & REVISED)

    def delays_of(self, window: WindowColumns) -> Column:
        """How long after the window's end the last read arrived that counts, of each of its summaries, in seconds."""
        since = window.summary_as_of[: len(self.transformers)]
        seconds = since[since > 0] / 1000 - (window.end - window.start + MICROS_PER_DAY) / 1e6
        return np.maximum(seconds, 0)

    def _digest(self, window: WindowColumns) -> Digest:
        count, feeders = len(self.transformers), len(self.feeders)
        self._fit(window, max(count - 1, 0))
        of = self._feeder_of[:count]
        flags = window.flags[:count]
        receipt = (flags & RECEIPT) > 0
        heard, total = window.heard[:count].astype(np.int64), window.total[:count].astype(np.int64)
        low, high = self.pct(window, slice(0, count))
        measured = ~np.isnan(low)
        silent = ~measured & ((receipt & (heard == 0)) | ((flags & DARK) > 0))
        pair_voltage = voltage_codes(low, high, measured | silent, self.thresholds)
        pair_receipt = receipt_codes(heard, total, receipt, self.thresholds)

        def counted(which: Column) -> Column:
            return np.bincount(of[which], minlength=feeders)

        def summed(values: Column) -> Column:
            there = np.isfinite(values)
            sums = np.bincount(of[there], weights=values[there].astype(np.float64), minlength=feeders)
            return np.where(counted(there) > 0, sums, np.nan)

        least, most = np.full(feeders, np.inf), np.full(feeders, -np.inf)
        np.minimum.at(least, of[measured], low[measured])
        above = ~np.isnan(high)
        np.maximum.at(most, of[above], high[above])
        heard_of = np.bincount(of, weights=heard, minlength=feeders).astype(np.int64)
        total_of = np.bincount(of, weights=total, minlength=feeders).astype(np.int64)
        judged = counted(receipt) > 0
        return Digest(
            window.version,
            self.rows_version,
            pair_voltage,
            pair_receipt,
            worst_of(pair_voltage, of, feeders, "voltage"),
            receipt_codes(heard_of, total_of, judged, self.thresholds),
            counted((pair_voltage == 1) | (pair_voltage == 6)),
            counted((pair_voltage == 5) | (pair_voltage == 6)),
            counted(silent),
            counted(np.isfinite(window.kwh[:count]) | receipt),
            heard_of,
            total_of,
            summed(window.kwh[:count]),
            summed(window.received[:count]),
            np.where(np.isfinite(least), least, np.nan),
            np.where(np.isfinite(most), most, np.nan),
            counted((flags & REVISED) > 0) > 0,
        )


def receipt_pct(heard: int, total: int) -> float | None:
    """Per cent, one decimal; None where no meter is expected."""
    return receipt_rate_pct(heard, total) if total else None


def _steps(volts: float | None, step: float) -> int:
    return 0 if volts is None else round(min(max(volts / step, 1), _GREATEST))


def _all_steps(volts: list[float | None], steps: Column) -> Column:
    values = np.array(volts, np.float64)
    there = ~np.isnan(values)
    found = np.zeros(len(values), np.uint16)
    found[there] = np.rint(np.clip(values[there] / steps[there], 1, _GREATEST))
    return found


def _all_energies(kwh: list[float], reported: Column) -> Column:
    values = np.clip(np.array(kwh, np.float64), -_MOST_KWH, _MOST_KWH)
    return np.where(reported, values, np.nan).astype(np.float32)


class _Windows:
    """The windows of the rows of a batch, and of each the numbers by place of those that are still to be taken."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._known: dict[datetime, tuple[WindowColumns | None, dict[int, int]]] = {}

    def of(self, row: Line, published: int) -> tuple[WindowColumns | None, dict[int, int]]:
        """None where the row's window is too old, or too far ahead."""
        known = self._known.get(row.window_end)
        if known is None:
            window = self._grid._window(micros(row.window_start), micros(row.window_end), published)
            known = self._known[row.window_end] = window, {}
        return known

    def all(self) -> Iterator[tuple[WindowColumns, dict[int, int]]]:
        yield from ((window, chunk) for window, chunk in self._known.values() if window is not None)


def _whole(row: ReceiptLine) -> ReceiptRow:
    """Without the rates, which are made of the rest."""
    start, end, as_of = micros(row.window_start), micros(row.window_end), micros(row.as_of)
    heard, total = row.meters_reported, row.total_meters
    return ReceiptRow(row.transformer_id, row.feeder_id, start, end, heard, total, 0.0, heard, 0.0, as_of, row.revision)


def _count(meters: int) -> int:
    return min(max(meters, 0), _GREATEST)


def _energy(kwh: float) -> float:
    return min(max(kwh, -_MOST_KWH), _MOST_KWH)


def _same(before: tuple[Any, ...], after: tuple[Any, ...]) -> bool:
    return all(a == b or (a != a and b != b) for a, b in zip(before, after, strict=True))
