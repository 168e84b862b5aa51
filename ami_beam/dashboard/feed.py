"""Reads the output topics into a `Hub`, for as long as it runs, whatever the brokers do.

It belongs to no consumer group and commits nothing: each page server reads for itself. After an interruption it goes on
where it was. What it reads twice changes nothing, because a row has an identity and an as_of.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import (
    OFFSET_BEGINNING,
    TIMESTAMP_NOT_AVAILABLE,
    Consumer,
    KafkaException,
    TopicPartition,
)

from ami_beam.dashboard.hub import Hub, Record
from ami_beam.instants import MICROS_PER_HOUR, MICROS_PER_MILLI
from ami_beam.io import kafka_errors
from ami_beam.io.kafka_preflight import GROUP_PREFIX
from ami_beam.io.librdkafka import librdkafka

_BATCH = 2_000
"""Messages that are taken under one hold of the lock: a few milliseconds."""
_WAIT_SECONDS = 0.2
_ANSWER_SECONDS = 5.0
_AGAIN_SECONDS = 2.0
_LOOK_SECONDS = 5.0
_LOOK_AT_TOPICS_SECONDS = 30.0
_EARLIER = MICROS_PER_HOUR
"""Of rows so much more than the history is read: they are published after their windows."""
_CAUGHT_UP = 1_000
_log = logging.getLogger(__name__)


@dataclass
class TopicState:
    """How reading of a topic stands."""

    partitions: int = 0
    behind: int = 0
    """Records that were not read yet."""
    problem: str | None = None


@dataclass
class FeedState:
    """How reading stands; only the feed writes it, each field at once."""

    connected: bool = False
    caught_up: bool = False
    """Whether everything that was there at the start has been read."""
    problem: str | None = None
    since: float = field(default_factory=time.time)
    """When `connected` became what it is, seconds since the epoch."""
    topics: dict[str, TopicState] = field(default_factory=dict)
    reads_per_second: float | None = None
    """Published to the topic of reads."""


class Feed:
    """`start`, and `stop` when it is enough. A second thread looks at the ends of the topics.

    Args:
      config: client settings with bootstrap.servers, as the Kafka client of Java has them.
    """

    def __init__(self, hub: Hub, config: Mapping[str, str]) -> None:
        self.state = FeedState()
        self._hub = hub
        self._config = librdkafka(config)
        self._stop = threading.Event()
        self._positions: dict[tuple[str, int], int] = {}
        """The offset behind the last record that was read."""
        self._wanted: dict[tuple[str, int], int] = {}
        """Partitions that are to be read, and from where."""
        self._assign = threading.Event()
        self._threads = [
            threading.Thread(target=self._guarded, args=(self._read,), name="feed", daemon=True),
            threading.Thread(target=self._guarded, args=(self._look,), name="ends", daemon=True),
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Returns when both threads have ended, or cannot be waited for any longer."""
        self._stop.set()
        for thread in self._threads:
            thread.join(_ANSWER_SECONDS * 2)

    def _guarded(self, run: Any) -> None:
        """Both threads go on for good: what goes wrong is said, and tried again."""
        while not self._stop.is_set():
            try:
                run()
            except Exception as error:
                self._lost(kafka_errors.words(error))
                if not isinstance(error, KafkaException):
                    _log.exception("Reading has failed, and begins again")
            self._stop.wait(_AGAIN_SECONDS)

    def _client(self, **settings: Any) -> Consumer:
        return Consumer(
            {
                "isolation.level": "read_committed",
                **self._config,
                "group.id": f"{GROUP_PREFIX}dashboard",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                **settings,
            }
        )

    # The thread that reads.

    def _read(self) -> None:
        consumer = self._client(**{"fetch.message.max.bytes": 4_194_304, "queued.max.messages.kbytes": 65_536})
        try:
            assigned: set[tuple[str, int]] = set()
            while not self._stop.is_set():
                if self._assign.is_set():
                    self._assign.clear()
                    new = {place: begin for place, begin in dict(self._wanted).items() if place not in assigned}
                    begins = {place: self._positions.get(place, begin) for place, begin in new.items()}
                    consumer.incremental_assign([TopicPartition(*place, begin) for place, begin in begins.items()])
                    assigned |= set(new)
                if not assigned:
                    self._stop.wait(_WAIT_SECONDS)
                    continue
                self._hand_over(consumer.consume(_BATCH, timeout=_WAIT_SECONDS))
        finally:
            self._assign.set()  # whoever reads next reads all of them
            consumer.close()

    def _hand_over(self, messages: list[Any]) -> None:
        by_topic: dict[str, list[Record]] = {}
        for message in messages:
            error = message.error()
            if error is not None:
                if error.fatal():
                    raise KafkaException(error)
                continue  # the client tries again by itself; whether brokers answer says the other thread
            topic, partition, offset = message.topic(), message.partition(), message.offset()
            kind, ts_ms = message.timestamp()
            at = time.time_ns() // 1_000 if kind == TIMESTAMP_NOT_AVAILABLE else ts_ms * MICROS_PER_MILLI
            by_topic.setdefault(topic, []).append(Record(message.value(), partition, offset, at))
            self._positions[topic, partition] = offset + 1
        for topic, records in by_topic.items():
            self._hub.take(topic, records)

    # The thread that looks where the topics end.

    def _look(self) -> None:
        consumer = self._client()
        try:
            looked_at_topics = -_LOOK_AT_TOPICS_SECONDS
            reads: tuple[float, int] | None = None
            while not self._stop.is_set():
                now = time.monotonic()
                missing = any(state.problem for state in self.state.topics.values())
                if now - looked_at_topics >= (_LOOK_SECONDS if missing else _LOOK_AT_TOPICS_SECONDS):
                    self._look_for_partitions(consumer)
                    looked_at_topics = now
                self._look_at_ends(consumer)
                reads = self._look_at_reads(consumer, reads)
                self._found()
                self._stop.wait(1.0 if not self.state.caught_up else _LOOK_SECONDS)
        finally:
            consumer.close()

    def _look_for_partitions(self, consumer: Consumer) -> None:
        topics = self._hub.topics
        known = consumer.list_topics(timeout=_ANSWER_SECONDS).topics
        since = time.time_ns() // 1_000 - self._hub.history - _EARLIER
        for topic in (*topics.whole(), *topics.of_rows()):
            state = self.state.topics.setdefault(topic, TopicState())
            found = known.get(topic)
            if found is None or found.error is not None:
                state.problem = None if topic in topics.optional() else "The topic is missing, or may not be read"
                continue
            new = [number for number in found.partitions if (topic, number) not in self._wanted]
            if new and topic in topics.of_rows():
                # Before times are looked up: what is published in between must be behind it.
                ends = {number: self._end(consumer, topic, number) for number in new}
                asked = [TopicPartition(topic, number, since // MICROS_PER_MILLI) for number in new]
                begins = consumer.offsets_for_times(asked, timeout=_ANSWER_SECONDS)
                for each in begins:
                    if each.error is not None:
                        raise KafkaException(each.error)
                    # Negative: no record is so late.
                    begin = each.offset if each.offset >= 0 else ends[each.partition]
                    self._wanted[topic, each.partition] = begin
            else:
                self._wanted |= {(topic, number): OFFSET_BEGINNING for number in new}
            state.partitions, state.problem = len(found.partitions), None
            if new:
                self._assign.set()

    def _look_at_ends(self, consumer: Consumer) -> None:
        behind: dict[str, int] = {}
        for topic, partition in list(self._wanted):
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=_ANSWER_SECONDS)
            begin = self._wanted[topic, partition]
            position = self._positions.get((topic, partition), low if begin < 0 else begin)
            if position > high:
                # The topic was made anew, with fewer records than were read of the old one.
                position = self._positions[topic, partition] = low
            behind[topic] = behind.get(topic, 0) + max(high - max(position, low), 0)
        for topic, count in behind.items():
            self.state.topics[topic].behind = count
        if self._wanted and sum(behind.values()) <= _CAUGHT_UP:
            self.state.caught_up = True

    def _look_at_reads(self, consumer: Consumer, before: tuple[float, int] | None) -> tuple[float, int] | None:
        topic = self._hub.topics.reads
        if topic is None:
            return None
        found = consumer.list_topics(topic, timeout=_ANSWER_SECONDS).topics[topic]
        if found.error is not None:
            self.state.reads_per_second = None
            return None
        ends = sum(self._end(consumer, topic, partition) for partition in found.partitions)
        now = time.monotonic()
        if before is not None and now > before[0] and ends >= before[1]:
            self.state.reads_per_second = (ends - before[1]) / (now - before[0])
        return now, ends

    def _end(self, consumer: Consumer, topic: str, partition: int) -> int:
        return int(consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=_ANSWER_SECONDS)[1])

    def _found(self) -> None:
        if not self.state.connected:
            _log.info("Kafka answers")
            self.state.since = time.time()
        self.state.connected, self.state.problem = True, None

    def _lost(self, problem: str) -> None:
        if self.state.connected or self.state.problem is None:
            _log.warning("Kafka does not answer: %s", problem)
            self.state.since = time.time()
        self.state.connected, self.state.problem = False, problem
        self.state.reads_per_second = None
