"""All that the page shows, in one place and under one lock: rows come in by one thread, answers go out by others."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from ami_beam.codecs.avro_outputs import RowParser
from ami_beam.codecs.input_decoders import announcement_decoder
from ami_beam.codecs.json_outputs import (
    ALARMS_TOPIC,
    CONFIG_TOPIC,
    DEAD_LETTER_TOPIC,
    EVENT_ALERTS_TOPIC,
    GRID_ALERTS_TOPIC,
    RECEIPT_TOPIC,
    SUMMARY_TOPIC,
    parse_alarm,
    parse_alert,
    parse_receipt,
    parse_summary,
)
from ami_beam.codecs.row_lines import LineDecoder, ReceiptLine, SummaryLine
from ami_beam.codecs.stored_letters import letter_parser
from ami_beam.codecs.writer_schemas import NO_SCHEMAS, Schemas, WriterSchemas
from ami_beam.dashboard.alarm_board import Acknowledgement, AlarmBoard
from ami_beam.dashboard.grid import Grid
from ami_beam.dashboard.letter_counts import LetterCounts, Place
from ami_beam.instants import format_instant, parse_duration, parse_instant
from ami_beam.records import Alarm, Alert, ReceiptRow, RecordBatch, SummaryRow
from ami_beam.settings import Settings
from ami_beam.voltage_codes import Thresholds

ACK_TOPIC = "ami.alarms.ack"
MOST_COMMENT = 500
_RATE_SECONDS = 10.0
_log = logging.getLogger(__name__)


class Record(NamedTuple):
    """What the feed hands over of a message."""

    value: bytes | None
    partition: int
    offset: int
    at: int
    """Its record time in microseconds."""


class AckJson(Struct):
    """A record of `ami.alarms.ack`, under the alarm's id."""

    alarm_id: str
    user: str
    at: str
    comment: str


@dataclass(frozen=True)
class Topics:
    """Where what is shown stands; None: not read."""

    prefix: str
    outages: str | None
    work: str | None
    reads: str | None
    acknowledgements: str = ACK_TOPIC

    def of_rows(self) -> list[str]:
        """Those of which only the last hours are read."""
        rows = (SUMMARY_TOPIC, RECEIPT_TOPIC, GRID_ALERTS_TOPIC, EVENT_ALERTS_TOPIC, DEAD_LETTER_TOPIC)
        return [self.prefix + topic for topic in rows]

    def whole(self) -> list[str]:
        """Those that are read from their beginning: an alarm may be older than the windows that are shown."""
        named = [self.prefix + CONFIG_TOPIC, self.acknowledgements, self.outages, self.work]
        return [self.prefix + ALARMS_TOPIC, *(topic for topic in named if topic is not None)]

    def optional(self) -> set[str]:
        """Those that need not be there."""
        return {self.acknowledgements, self.prefix + CONFIG_TOPIC}


class Hub:
    """Takes the records of all topics. What cannot be read is counted by topic, and never stops it.

    `lock` protects `grid`, `board` and `letters`: whoever looks at them holds it.
    """

    def __init__(
        self,
        settings: Settings,
        topics: Topics,
        history: int,
        published: WriterSchemas | None = None,
        inputs: Schemas | None = None,
        nominal: Mapping[str, float] | None = None,
    ) -> None:
        self.settings = settings
        self.topics = topics
        self.history = history
        self.lock = threading.RLock()
        self.grid = Grid(history, thresholds_of(settings), nominal)
        self.board = AlarmBoard(history)
        self.letters = LetterCounts(history)
        self.server_id = secrets.token_hex(8)
        self.unreadable: Counter[str] = Counter()
        self.rows = Rate()
        self.window: int | None = None
        """By the newest record of `ami.config`, microseconds; None before one was read. Likewise collection_delay."""
        self.collection_delay: int | None = None
        self._config = 0
        """When the run began that the newest record of `ami.config` is of."""
        inputs = inputs or NO_SCHEMAS
        prefix = topics.prefix
        self._take: dict[str, Callable[[Record], None]] = {
            prefix + SUMMARY_TOPIC: self._rows(RowParser(parse_summary, SummaryRow, published), self.grid.take_summary),
            prefix + RECEIPT_TOPIC: self._rows(RowParser(parse_receipt, ReceiptRow, published), self.grid.take_receipt),
            prefix + GRID_ALERTS_TOPIC: self._one(RowParser(parse_alert, Alert, published), self.board.take_alert),
            prefix + EVENT_ALERTS_TOPIC: self._one(RowParser(parse_alert, Alert, published), self.board.take_alert),
            prefix + ALARMS_TOPIC: self._one(RowParser(parse_alarm, Alarm, published), self.board.take_alarm),
            prefix + CONFIG_TOPIC: self._take_config,
            topics.acknowledgements: self._take_acknowledgement,
        }
        self._many: dict[str, tuple[LineDecoder[Any], Callable[[Any, list[int]], None]]] = {
            prefix + SUMMARY_TOPIC: (LineDecoder(SummaryLine), self.grid.take_summaries),
            prefix + RECEIPT_TOPIC: (LineDecoder(ReceiptLine), self.grid.take_receipts),
        }
        """Of the topics with many records: all of a batch at once, where they are plain."""
        letter = letter_parser(published)

        def take_letter(record: Record) -> None:
            found = letter(record.value or b"")
            time_text = None if found.record_time is None else format_instant(found.record_time)
            place = Place(found.topic, found.partition, found.offset, time_text, found.detail)
            self.letters.take(found.reason, found.used, place, record.at)

        self._take[prefix + DEAD_LETTER_TOPIC] = take_letter
        if topics.outages is not None:
            decoder = announcement_decoder(settings, "oms", inputs.outages)
            self._take[topics.outages] = self._announcements(topics.outages, decoder)
        if topics.work is not None:
            decoder = announcement_decoder(settings, "work", inputs.work)
            self._take[topics.work] = self._announcements(topics.work, decoder)

    def take(self, topic: str, records: Iterable[Record]) -> None:
        """Records of a topic, in its order."""
        take = self._take[topic]
        records = list(records)
        with self.lock:
            for record in () if self._taken_together(topic, records) else records:
                try:
                    take(record)
                except Exception as error:  # whatever a record holds, the others are taken
                    self.unreadable[topic] += 1
                    if self.unreadable[topic] == 1:
                        _log.warning("%s holds a record that is none of ours (%s)", topic, type(error).__name__)
        self.rows.add(len(records))

    def _taken_together(self, topic: str, records: Sequence[Record]) -> bool:
        """Whether they are plain rows of one kind, and have been taken. If not, each has to be looked at."""
        if topic not in self._many:
            return False
        decoder, take = self._many[topic]
        rows = decoder.rows([record.value for record in records])
        if rows is None:
            return False
        try:
            take(rows, [record.at for record in records])
        except Exception:  # what was taken already is taken again, which changes nothing
            _log.exception("Records of %s could not be taken together", topic)
            return False
        return True

    def forget(self) -> None:
        """Drop what is too old, measured by the newest that was seen: a replay of last year is shown, too."""
        with self.lock:
            newest = max(self.grid.newest_as_of, self.board.newest)
            self.board.forget(newest)

    def make_digests(self, most: int = 4) -> int:
        """Bring what is shown of feeders up to date, newest window first. Returns how many windows are left."""
        with self.lock:
            stale = self.grid.stale_digests()
        for end in stale[:most]:
            with self.lock:
                self.grid.digest(end)
        return max(len(stale) - most, 0)

    def _rows(self, parse: Callable[[bytes], Any], take: Callable[[Any, int], object]) -> Callable[[Record], None]:
        def take_row(record: Record) -> None:
            take(parse(record.value or b""), record.at)

        return take_row

    def _one(self, parse: Callable[[bytes], Any], take: Callable[[Any], object]) -> Callable[[Record], None]:
        def take_one(record: Record) -> None:
            take(parse(record.value or b""))

        return take_one

    def _announcements(self, topic: str, decoder: Any) -> Callable[[Record], None]:
        def take_announcement(record: Record) -> None:
            batch = RecordBatch(topic, [record.partition], [record.offset], [record.at], [record.value])
            found, letters = decoder.decode(batch, None)
            for each in found:
                self.board.take_announcement(each)
            # The pipeline has set it aside, with the reason.
            self.unreadable[topic] += len(letters)

        return take_announcement

    def _take_config(self, record: Record) -> None:
        document = msgspec.json.decode(record.value or b"", type=_Config)
        started = parse_instant(document.started)
        if started < self._config:
            return
        self._config = started
        rules = document.rules
        names = {field.name for field in fields(Thresholds)}
        self.grid.set_thresholds(Thresholds(**{name: float(rules[name]) for name in names if name in rules}))
        if "window" in rules:
            self.window = parse_duration(rules["window"])
        if "collection_delay" in rules:
            self.collection_delay = parse_duration(rules["collection_delay"])

    def _take_acknowledgement(self, record: Record) -> None:
        said = msgspec.json.decode(record.value or b"", type=AckJson)
        self.board.acknowledge(
            Acknowledgement(said.alarm_id, said.user[:200], parse_instant(said.at), said.comment[:MOST_COMMENT])
        )


class _Config(Struct):
    started: str
    rules: dict[str, Any]


class Rate:
    """How many a second, over the last seconds. Any thread may add."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._added: deque[tuple[float, int]] = deque()
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        with self._lock:
            self._added.append((self._clock(), count))
            self._trim()

    def per_second(self) -> float:
        with self._lock:
            self._trim()
            return sum(count for _, count in self._added) / _RATE_SECONDS

    def _trim(self) -> None:
        until = self._clock() - _RATE_SECONDS
        while self._added and self._added[0][0] < until:
            self._added.popleft()


def thresholds_of(settings: Settings) -> Thresholds:
    """The limits of a run."""
    return Thresholds(**{field.name: getattr(settings, field.name) for field in fields(Thresholds)})
