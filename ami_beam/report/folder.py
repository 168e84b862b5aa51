"""The rows of an output folder, as arrays: of each identity the one that counts, by the rule for consumers of topics.

A folder may hold a day of 100,000 transformers, ten million rows of each kind. Lines are read in blocks and never kept;
what is kept of a row are 44 bytes for a summary and 20 for a receipt.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NoReturn, TypeVar

import msgspec
import numpy as np
from apache_beam.io.filesystems import FileSystems
from msgspec import Struct
from numpy.typing import NDArray

from ami_beam.alarm_changes import within
from ami_beam.codecs.json_outputs import (
    ALARMS_TOPIC,
    CONFIG_TOPIC,
    DEAD_LETTER_TOPIC,
    RECEIPT_TOPIC,
    SUMMARY_TOPIC,
    parse_alarm,
)
from ami_beam.codecs.row_lines import ReceiptLine, SummaryLine, micros
from ami_beam.instants import format_instant
from ami_beam.io.files import ReplayError, open_plain_or_gz
from ami_beam.records import Alarm
from transforms.published_rows import readable

_BLOCK_BYTES = 32 << 20
_TELL_SECONDS = 10.0
_MAKE_IT = (
    "python -m ami_beam.run --source=files --sink=files --reads=reads.jsonl.gz --meter_counts=counts.csv --output={}"
)
_log = logging.getLogger(__name__)

SUMMARY_CELL = np.dtype(
    [("as_of", "i8"), ("low", "f8"), ("high", "f8"), ("consumption", "f8"), ("received", "f8"), ("meters", "i4")]
)
"""Volts, NaN where none was measured; kWh. as_of in microseconds, -1 where there is no row."""
RECEIPT_CELL = np.dtype([("as_of", "i8"), ("heard", "i4"), ("total", "i4"), ("feeder", "i4")])
"""feeder: its number, -1 where the row has none."""


class ReportError(RuntimeError):
    """A folder that no report can be made of; the message says what to do."""


class Cells:
    """`cells.of(window_end)[place]` is the row that counts: of the greatest as_of, and of equal ones the last."""

    def __init__(self, dtype: np.dtype) -> None:
        self._blocks: dict[int, NDArray[Any]] = {}
        self._none = np.zeros(1, dtype)
        self._none["as_of"] = -1

    def put(self, ends: NDArray[np.int64], places: NDArray[np.int64], rows: NDArray[Any]) -> None:
        """Take in rows in the order of the topic; one window's end, place and row each."""
        # Within a window ascending, so that of an identity's several rows the one that counts is assigned last.
        order = np.lexsort((rows["as_of"], ends))
        bounds = np.flatnonzero(np.diff(ends[order], prepend=-1, append=-1))
        for begin, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            part = order[begin:end]
            block = self._block(int(ends[part[0]]), int(places[part].max()) + 1)
            part = part[rows["as_of"][part] >= block["as_of"][places[part]]]
            block[places[part]] = rows[part]

    def of(self, window_end: int, places: int) -> NDArray[Any]:
        """The rows of a window by place, of shape (places,)."""
        block = self._blocks.get(window_end, self._none[:0])[:places]
        return np.concatenate((block, np.repeat(self._none, places - len(block))))

    def _block(self, window_end: int, places: int) -> NDArray[Any]:
        block = self._blocks.get(window_end, self._none[:0])
        if len(block) < places:
            # A quarter more: most windows have the same places, which come one after the other.
            more = places + places // 4 - len(block)
            block = self._blocks[window_end] = np.concatenate((block, np.repeat(self._none, more)))
        return block


Key = TypeVar("Key")


class Numbers(dict[Key, int]):
    """`numbers[key]` is the key's number, from 0 in the order in which they come."""

    def __missing__(self, key: Key) -> int:
        number = self[key] = len(self)
        return number


@dataclass
class Rows:
    """What a folder holds of a period."""

    transformers: Numbers[str]
    feeders: Numbers[str]
    place_transformer: NDArray[np.int64]
    """Of each place, which is a (transformer, feeder) pair of the summary, the transformer's number."""
    place_feeder: NDArray[np.int64]
    summary: Cells
    """By place."""
    receipt: Cells
    """By transformer."""
    starts: dict[int, int]
    """Of every window with a row the start, by its end; microseconds."""
    alarms: list[Alarm]
    """Each as it was published last, without those that late reads have taken back; by first window."""


def read_rows(folder: str, begin: int | None, end: int | None) -> Rows:
    """The rows of windows that end after `begin` and not after `end`.

    Raises ReportError where there is no such folder or file, where one cannot be read, and where there is no row.
    """
    reader = _Reader(begin, end)
    paths = [_needed(folder, topic) for topic in (SUMMARY_TOPIC, RECEIPT_TOPIC)]
    reader.take(paths[0], SUMMARY_TOPIC, SummaryLine, reader.take_summaries)
    reader.take(paths[1], RECEIPT_TOPIC, ReceiptLine, reader.take_receipts)
    if not reader.starts:
        _no_rows(folder, reader)
    # Somebody else who keeps the topics as files may not have kept this one.
    path = _file(folder, ALARMS_TOPIC)
    alarms = [] if path is None else reader.last_alarms(path)
    if reader.unreadable:
        _log.warning("%s lines of %s are no rows of ours, and were passed over.", f"{reader.unreadable:,}", folder)
    return Rows(
        reader.transformers,
        reader.feeders,
        np.array([reader.transformers[transformer] for transformer, _ in reader.places], np.int64),
        np.array([reader.feeders[feeder] for _, feeder in reader.places], np.int64),
        reader.summary,
        reader.receipt,
        reader.starts,
        alarms,
    )


def rules_of(folder: str) -> Mapping[str, Any]:
    """The rules of the run that wrote the folder, by the names of options; empty where it does not say them."""
    path = _file(folder, CONFIG_TOPIC)
    found: Mapping[str, Any] = {}
    for block in () if path is None else _blocks(path):
        for record in readable(block.splitlines(), msgspec.json.decode):
            if isinstance(record, dict) and isinstance(record.get("rules"), dict):
                found = record["rules"]
    return found


class _Reader:
    """Takes in lines, and counts those that it cannot take."""

    def __init__(self, begin: int | None, end: int | None) -> None:
        self.begin = begin
        self.end = end
        self.transformers: Numbers[str] = Numbers()
        self.feeders: Numbers[str] = Numbers()
        self.places: Numbers[tuple[str, str]] = Numbers()
        self.summary = Cells(SUMMARY_CELL)
        self.receipt = Cells(RECEIPT_CELL)
        self.starts: dict[int, int] = {}
        self.unreadable = 0
        self.windows: dict[datetime, int] = {}
        """All ends of windows, also those outside the period, in microseconds."""

    def take(self, path: str, topic: str, row_type: type[Struct], take: Callable[[list[Any]], None]) -> None:
        """Hands over all rows of a file, in its order."""
        decoder = msgspec.json.Decoder(row_type)
        told = time.monotonic()
        read = 0
        for block in _blocks(path):
            try:
                rows = decoder.decode_lines(block)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                rows = self._readable(block, decoder.decode)
            read += len(rows)
            take(rows)
            if time.monotonic() - told >= _TELL_SECONDS:
                told = time.monotonic()
                _log.info("%s: %s rows so far.", topic, f"{read:,}")
        _log.info("%s: %s rows.", topic, f"{read:,}")

    def _readable(self, block: bytes, parse: Callable[[bytes | str], Any]) -> list[Any]:
        """Line by line: one that is none of ours hides no other."""
        lines = [line for line in block.splitlines() if line]
        rows = list(readable(lines, parse))
        self.unreadable += len(lines) - len(rows)
        return rows

    def take_summaries(self, rows: list[SummaryLine]) -> None:
        ends, places, cells = [], [], []
        number = self.places
        for row in rows:
            end = self._window(row.window_start, row.window_end)
            if end is None:
                continue
            ends.append(end)
            places.append(number[row.transformer_id, row.feeder_id])
            cells.append(
                (
                    micros(row.as_of), _volts(row.min_voltage_v), _volts(row.max_voltage_v),
                    row.total_consumption_kwh, row.total_received_kwh, row.meters_reported,
                )
            )  # fmt: skip
        self.summary.put(np.array(ends, np.int64), np.array(places, np.int64), np.array(cells, SUMMARY_CELL))

    def take_receipts(self, rows: list[ReceiptLine]) -> None:
        ends, places, cells = [], [], []
        number, feeders = self.transformers, self.feeders
        for row in rows:
            end = self._window(row.window_start, row.window_end)
            if end is None:
                continue
            ends.append(end)
            places.append(number[row.transformer_id])
            feeder = -1 if row.feeder_id is None else feeders[row.feeder_id]
            cells.append((micros(row.as_of), row.meters_reported, row.total_meters, feeder))
        self.receipt.put(np.array(ends, np.int64), np.array(places, np.int64), np.array(cells, RECEIPT_CELL))

    def last_alarms(self, path: str) -> list[Alarm]:
        """Those that hold in the period."""
        last: dict[str, Alarm] = {}
        for block in _blocks(path):
            for alarm in self._readable(block, parse_alarm):
                known = last.get(alarm.alarm_id)
                if known is None or alarm.as_of >= known.as_of:
                    last[alarm.alarm_id] = alarm
        found = within(last.values(), self.begin, self.end)
        return sorted(found, key=lambda alarm: (alarm.first_window, alarm.alarm_id))

    def _window(self, start: datetime, end: datetime) -> int | None:
        """The end in microseconds; None where it is not in the period."""
        known = self.windows.get(end)
        if known is None:
            known = self.windows[end] = micros(end)
            if (self.begin is None or known > self.begin) and (self.end is None or known <= self.end):
                self.starts[known] = micros(start)
        return known if known in self.starts else None


def _volts(voltage: float | None) -> float:
    return math.nan if voltage is None else voltage


def _needed(folder: str, topic: str) -> str:
    path = _file(folder, topic)
    if path is not None:
        return path
    made = _MAKE_IT.format(folder)
    if "://" not in folder and not os.path.isdir(folder):
        raise ReportError(f"{folder}: no such folder. It is what a replay writes: {made}")
    raise ReportError(f"{folder} has no file {topic}.jsonl. A replay writes it: {made}")


def _no_rows(folder: str, reader: _Reader) -> NoReturn:
    if reader.windows:
        first, last = min(reader.windows.values()), max(reader.windows.values())
        raise ReportError(
            f"{folder}: no window in that period. Its windows end from {format_instant(first)} to"
            f" {format_instant(last)}: change --from or --to"
        )
    if reader.unreadable:
        raise ReportError(
            f"{folder}: none of its {reader.unreadable:,} lines is a row of ours: one JSON object a line, as"
            f" --sink=files writes them: {_MAKE_IT.format(folder)}"
        )
    raise ReportError(
        f"{folder}: {SUMMARY_TOPIC}.jsonl and {RECEIPT_TOPIC}.jsonl are empty, so the replay accepted no read. Its log"
        f" and {DEAD_LETTER_TOPIC}.jsonl say why; then run it again: {_MAKE_IT.format(folder)}"
    )


def _file(folder: str, topic: str) -> str | None:
    """The file of a topic, plain or .gz; None where there is none."""
    try:
        for suffix in (".jsonl", ".jsonl.gz"):
            path = FileSystems.join(folder, topic + suffix)
            if FileSystems.exists(path):
                return path
    except Exception as error:  # each file system has its own exceptions
        raise ReportError(f"{folder}: cannot be read: {error}") from error
    return None


def _blocks(path: str) -> Iterator[bytes]:
    """The file in pieces of whole lines."""
    try:
        with open_plain_or_gz(path) as content:
            rest = b""
            while read := content.read(_BLOCK_BYTES):
                whole = read.rfind(b"\n") + 1
                if whole:
                    yield rest + read[:whole]
                    rest = read[whole:]
                else:
                    rest += read
            if rest:
                yield rest
    except ReplayError as error:
        raise ReportError(str(error)) from None
    except OSError as error:
        raise ReportError(f"{path}: cannot be read: {error}") from error
