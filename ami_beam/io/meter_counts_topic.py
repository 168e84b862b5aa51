"""Meter counts in a compacted topic: the last record of each key is its row."""

from __future__ import annotations

import logging
import time
import uuid
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaError, KafkaException, Message, TopicPartition

from ami_beam.codecs.dead_letter_reasons import Rejection
from ami_beam.codecs.debezium import Envelopes, RowKinds, plain
from ami_beam.codecs.meter_count_rows import json_fields, no_rows, row_of, shown
from ami_beam.io.kafka_preflight import GROUP_PREFIX, TIMEOUT_SECONDS
from ami_beam.io.librdkafka import SettingError, librdkafka
from ami_beam.meter_counts import MeterCountsError
from ami_beam.meter_counts_origin import Reading
from ami_beam.records import MeterCount

CountsFormat = Literal["json", "debezium"]
PATIENCE_SECONDS = 60.0
"""So long without a record, what is known to be there counts as not readable."""
_KINDS = RowKinds(
    instants=frozenset({"effective_from"}),
    numbers=frozenset({"nominal_voltage_v", "receipt_delay_minutes"}),
    integers=frozenset({"total_meters"}),
)
_MESSAGES = 10_000
_PROGRESS_SECONDS = 10.0
_POLL_SECONDS = 0.1
_OTHER_TOPIC = "it is not the topic that it was; it is read anew"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CountsTopic:
    """A topic, and how a process connects to its brokers.

    Args:
      client: client settings, brokers included, those of security by their Java names. They become a part of the job,
        so secrets must be references (`kafka_config.for_graph`).
    """

    topic: str
    client: tuple[tuple[str, str], ...]
    format: CountsFormat = "json"

    @property
    def name(self) -> str:
        return f"kafka:{self.topic}"

    def open(self, max_receipt_delay: int | None) -> TopicReader:
        return TopicReader(self, max_receipt_delay)


class _Row(NamedTuple):
    """What the last good record of a key says."""

    record_time: int
    row: MeterCount


class _Rebuild(Exception):
    """What is known of the topic is of no use any more; the message says why."""


class TopicReader:
    """Reads a topic from its beginning to its end, and then what is new: one consumer and one table, which stay.

    Records of transactions that are not committed are not seen. A bad record leaves the row of its key as it was; a
    record without a value, or a delete of Debezium, deletes it, and a truncate all of them. Where the topic is another
    one, or could not be read, the next reading begins anew.
    """

    def __init__(self, topic: CountsTopic, max_receipt_delay: int | None) -> None:
        self._topic = topic
        self._max_receipt_delay = max_receipt_delay
        self._consumer: Consumer | None = None
        self._errors: deque[KafkaError] = deque(maxlen=1)
        self._partitions: set[int] = set()
        self._read_to: dict[int, int] = {}
        self._envelopes = Envelopes()
        self._rows: dict[Hashable, _Row] = {}
        self._changes = 0
        self._problems: list[str] = []

    def read(self) -> Reading:
        try:
            self._read()
        except (KafkaException, SettingError, _Rebuild) as error:
            self.close()
            raise MeterCountsError(f"{self._topic.name}: cannot be read: {self._reason(error)}") from None
        except BaseException:
            self.close()
            raise
        bad, problems = len(self._problems), self._problems
        self._problems = []
        if problems:
            told = "\n  ".join(shown(problems))
            _log.warning("%s: bad records, whose rows stay as they were:\n  %s", self._topic.name, told)

        def checked() -> list[MeterCount]:
            rows = self._latest()
            if not rows:
                raise no_rows("\n  ".join([self._topic.name, *shown(problems)]))
            return rows

        # No two readers have the same mark: one that begins anew knows nothing of what the other has counted.
        return Reading(f"{id(self)} {self._changes}".encode(), checked, bad)

    def close(self) -> None:
        self._rows = {}
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None

    def _read(self) -> None:
        if self._consumer is None:
            self._errors.clear()
            self._changes += 1
            self._consumer = self._new_consumer()
            self._partitions = self._known_partitions(self._consumer)
            self._read_to = dict.fromkeys(self._partitions, 0)
            self._consumer.assign(
                [TopicPartition(self._topic.topic, each, OFFSET_BEGINNING) for each in self._partitions]
            )
            self._read_to_end(self._consumer)
        else:
            # Also whether it can be reached: a consumer without records says nothing.
            partitions = self._known_partitions(self._consumer)
            if partitions != self._partitions:
                raise _Rebuild(f"it had {len(self._partitions)} partitions, and has {len(partitions)}; it is read anew")
            self._read_news(self._consumer)

    def _latest(self) -> list[MeterCount]:
        found: dict[tuple[str, int | None], tuple[int, MeterCount]] = {}
        for record_time, row in self._rows.values():
            # Two keys may say something of the same: the later one is right.
            place = (row.transformer_id, row.effective_from)
            if place not in found or found[place][0] <= record_time:
                found[place] = record_time, row
        return [row for _, row in found.values()]

    def _new_consumer(self) -> Consumer:
        return Consumer(
            {
                "group.id": f"{GROUP_PREFIX}{uuid.uuid4()}",
                "queued.max.messages.kbytes": 16_384,
                **librdkafka(dict(self._topic.client)),
                "error_cb": self._errors.append,
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "auto.offset.reset": "error",
                "isolation.level": "read_committed",
                # Told by an event: behind the last record there may be markers of transactions, or what is compacted.
                "enable.partition.eof": True,
            }
        )

    def _known_partitions(self, consumer: Consumer) -> set[int]:
        metadata = consumer.list_topics(self._topic.topic, timeout=TIMEOUT_SECONDS).topics[self._topic.topic]
        if metadata.error is not None:
            raise KafkaException(metadata.error)
        return set(metadata.partitions)

    def _read_news(self, consumer: Consumer) -> None:
        """Up to the end that the topic has now for readers of committed records."""
        asked = [TopicPartition(self._topic.topic, each, OFFSET_END) for each in self._partitions]
        ends = {each.partition: each.offset for each in consumer.offsets_for_times(asked, timeout=TIMEOUT_SECONDS)}
        if any(end < self._read_to[each] for each, end in ends.items()):
            raise _Rebuild(_OTHER_TOPIC)
        heard = time.monotonic()
        # What the client has to say of errors is said here, too.
        messages = consumer.consume(_MESSAGES, timeout=0)
        while True:
            for message in messages:
                self._take(message)
                heard = time.monotonic()
            if all(self._read_to[each] >= end for each, end in ends.items()):
                return
            if time.monotonic() > heard + PATIENCE_SECONDS:
                raise _Rebuild(f"no record for {PATIENCE_SECONDS:g} s, and there are more")
            messages = consumer.consume(_MESSAGES, timeout=_POLL_SECONDS)

    def _read_to_end(self, consumer: Consumer) -> None:
        unread = set(self._partitions)
        heard = told = time.monotonic()
        count = 0
        while unread:
            messages = consumer.consume(_MESSAGES, timeout=_POLL_SECONDS)
            now = time.monotonic()
            for message in messages:
                self._take(message)
                error = message.error()
                if error is None:
                    count += 1
                elif error.code() == KafkaError._PARTITION_EOF:
                    unread.discard(message.partition() or 0)
            if messages:
                heard = now
            elif now > heard + PATIENCE_SECONDS:
                raise _Rebuild(f"no record for {PATIENCE_SECONDS:g} s; {count:,} were read")
            if now > told + _PROGRESS_SECONDS:
                told = now
                _log.info("%s: %s records read.", self._topic.name, f"{count:,}")

    def _take(self, message: Message) -> None:
        error = message.error()
        if error is not None:
            if error.code() == KafkaError._AUTO_OFFSET_RESET:
                raise _Rebuild(_OTHER_TOPIC)
            if error.code() == KafkaError._PARTITION_EOF:
                # Behind the last record there may be markers of transactions.
                self._read_to[message.partition() or 0] = message.offset() or 0
            elif not error.retriable():
                raise KafkaException(error)
            return
        self._read_to[message.partition() or 0] = (message.offset() or 0) + 1
        try:
            self._change(message)
        except ValueError as problem:
            self._problems.append(f"partition {message.partition()}, offset {message.offset()}: {problem}")

    def _change(self, message: Message) -> None:
        """Take in a record. Raises ValueError for one that says nothing."""
        key, value = message.key(), message.value()
        if value is None:
            if key is None:
                raise ValueError("neither key nor value; expected the key of the row to delete")
            self._delete(key)
            return
        operation, fields = "u", json_fields(value) if self._topic.format == "json" else {}
        if self._topic.format == "debezium":
            operation, fields = self._unwrapped(value)
        if operation == "t":
            self._rows.clear()
            self._changes += 1
        elif operation == "d" and key is not None:
            self._delete(key)
        else:
            row = row_of(fields, self._max_receipt_delay)
            identity: Hashable = (row.transformer_id, row.effective_from) if key is None else key
            if operation == "d":
                # Of a table without a primary key.
                self._delete(identity)
                return
            self._rows[identity] = _Row(message.timestamp()[1], row)
            self._changes += 1

    def _delete(self, identity: Hashable) -> None:
        if self._rows.pop(identity, None) is not None:
            self._changes += 1

    def _unwrapped(self, value: bytes) -> tuple[str, dict[str, Any]]:
        """What a change does, and the row after it, or before it where there is none any more. Raises ValueError."""
        try:
            change = self._envelopes.change_of(value)
            image = change.before if change.operation == "d" else change.after
            return change.operation, plain(image or {}, change.columns, _KINDS)
        except Rejection as rejection:
            raise ValueError(f"not a change with a row of meter counts: {rejection.detail}") from None

    def _reason(self, error: Exception) -> str:
        if not isinstance(error, KafkaException):
            return str(error)
        cause: KafkaError = error.args[0]
        if cause.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC):
            return (
                "there is no such topic. Create it with --config cleanup.policy=compact, and write its rows first, for"
                ' example with the key TR-1 {"transformer_id": "TR-1", "total_meters": 32}'
            )
        if cause.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            return f"it is not allowed: kafka-acls.sh --add --operation Read --topic {self._topic.topic} (SECURITY.md)"
        servers = dict(self._topic.client).get("bootstrap.servers")
        heard = f" ({self._errors[0].str()})" if self._errors else ""
        return f"{cause.str()}{heard}. Check --bootstrap_servers={servers} and --kafka_config_file"
