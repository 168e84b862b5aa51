"""Kafka as a source without a JVM: confluent-kafka under Beam's unbounded source, a batch of records an element."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Mapping
from functools import partial
from typing import Any

import apache_beam as beam
import msgspec
from apache_beam.coders import Coder, registry
from apache_beam.coders.coders import LengthPrefixCoder
from apache_beam.io.unbounded_source import (
    CheckpointMark,
    UnboundedReader,
    UnboundedSource,
    _ReadFromUnboundedSourceDoFn,
)
from apache_beam.metrics import Metrics
from apache_beam.pvalue import PBegin
from apache_beam.utils.timestamp import MAX_TIMESTAMP, MIN_TIMESTAMP, Timestamp
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from ami_beam.instants import MAX_INSTANT, MICROS_PER_MILLI, MICROS_PER_MINUTE
from ami_beam.io.flink_subtasks import subtask_of
from ami_beam.io.kafka_errors import once_led
from ami_beam.io.librdkafka import librdkafka
from ami_beam.records import RecordBatch

BATCH_RECORDS = 1_000
GATHER_SECONDS = 0.05
"""How long a batch that is not full waits for more records."""
BUNDLE_SECONDS = 2.0
"""A reader with a backlog ends its bundle after this, so that a checkpoint need not wait."""
WATERMARK_STEP_SECONDS = 10.0
"""How long the watermark of a backlog stays before it moves on. Each move revises every window of which late reads have
come since: with 6 % of them late, moves after 2 s doubled the cost of a backlog."""
BACKLOG = MICROS_PER_MINUTE
"""How far behind the wall clock a reader with records to read must be for its watermark to move in steps."""
LIVE_BUNDLE_SECONDS = 0.1
"""A reader without a backlog ends its bundle after this, although records keep trickling in."""
IDLE_SECONDS = 0.05
"""How long after a bundle the next begins, at least."""
IDLE_SECONDS_BACK = 1.0
"""The same for topics that only what failed is read back from."""
_POLL_SECONDS = 0.005
MAX_SKEW = 5 * MICROS_PER_MINUTE
"""How far, in record time, a partition is read ahead of one that has a backlog."""
START_SECONDS = 5.0
"""How long the first poll after an assignment may take before the partition counts as silent."""
METADATA_SECONDS = 15.0
CLOCK_SKEW = 5 * MICROS_PER_MINUTE
EMPTY_CHECK_SECONDS = 5.0
BACKLOG_PATIENCE_SECONDS = 60.0
"""So long without a record, and what others wait for is not waited for any longer: a partition may be out of reach."""
_log = logging.getLogger(__name__)


@beam.typehints.with_output_types(RecordBatch)
class ReadTopicNatively(beam.PTransform):
    """Every record of a topic from the start on, in batches, with record time and provenance.

    The watermark of a partition is the greatest record time read from it; once it is caught up it advances from there
    by the wall time that passes, and never jumps to now, so that back-dated records are not late for being old. A
    partition that has never held a record does not hold the others back once one of them has held one. Record times
    more than five minutes ahead of the wall clock move nothing. Batches carry their smallest record time.

    Offsets are part of Beam's checkpoints; none is committed to Kafka. Partitions that are added to the topic later
    are not noticed: restart the job. Records that retention deleted before they were read are passed over with a
    warning that counts them.

    Gauge: kafka_lag_records, the records of a reader's partitions that are still to be read, as of the last fetch. Set
    when a bundle ends, and only while it is known of each of them. Where one subtask has several readers it is that of
    the one that read last.

    The partitions are shared out to `readers`, each with a consumer a partition, and the readers to as many of Flink's
    parallel subtasks. Beam's `ReadFromUnboundedSource` would bring all of them to the same one: Flink spreads
    elements, and its only element is the whole source.

    Args:
      topic: its name.
      config: client settings, broker included, those of security by their Java names. It becomes a part of the job,
        so secrets must be references (`kafka_config.for_graph`), which each consumer resolves when it is made.
      start: "latest", "earliest", or an instant in microseconds from which record times count.
      readers: how many; as many as the runner has parallel subtasks, and at most as the topic has partitions.
      keeps_time: False for a topic whose record times are no measure of progress: nothing waits for its watermark once
        the records that it had at the start are read.
      idle_seconds: how long after a bundle the next begins, at least.
    """

    def __init__(
        self,
        topic: str,
        config: Mapping[str, Any],
        start: str | int,
        readers: int = 1,
        keeps_time: bool = True,
        idle_seconds: float = IDLE_SECONDS,
    ):
        super().__init__()
        properties = tuple(sorted(config.items()))
        self._idle = idle_seconds
        self._sources = [
            spread(TopicSource(topic, properties, start, (), (i, readers), keeps_time=keeps_time))
            for i in range(readers)
        ]

    def expand(self, pipeline: PBegin) -> beam.PCollection[RecordBatch]:
        # The two bounds are never reached: the reader ends its bundles by itself.
        read = _ReadFromUnboundedSourceDoFn(self._idle, 10_000, 60.0)
        return (
            pipeline
            | "Shares" >> beam.Create(self._sources, reshuffle=False).with_output_types(TopicSource)
            | "Read" >> beam.ParDo(read).with_output_types(RecordBatch)
        )


def spread(source: TopicSource) -> TopicSource:
    """The same share of the topic, with a salt that brings it to the Flink subtask of its number."""
    number, readers = source.share
    for salt in range(1_000):
        salted = TopicSource(
            source.topic, source.config, source.start, source.starts, source.share, salt, source.keeps_time
        )
        if subtask_of(ELEMENT_CODER.encode(salted), readers) == number:
            return salted
    return source


class Position(msgspec.Struct, array_like=True, frozen=True):
    """How far one partition has been read."""

    partition: int
    next_offset: int
    record_time: int | None
    """Greatest record time read, microseconds; None before the first."""
    read_at: int
    """Wall clock when that record was read."""


class Positions(CheckpointMark):
    """Where a reader goes on: the position of each of its partitions."""

    def __init__(self, positions: tuple[Position, ...]):
        self.positions = positions

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Positions) and self.positions == other.positions

    def __hash__(self) -> int:
        return hash(self.positions)


class PositionsCoder(Coder):
    """Equal positions have equal bytes: Beam finds the waiting reader, and its consumer, by them."""

    def encode(self, value: Positions) -> bytes:
        return msgspec.msgpack.encode(value.positions)

    def decode(self, encoded: bytes) -> Positions:
        return Positions(msgspec.msgpack.decode(encoded, type=tuple[Position, ...]))

    def is_deterministic(self) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))


class TopicSource(UnboundedSource):
    """A share of a topic's partitions: those whose number is `share[0]` modulo `share[1]`.

    Its pickle is plain fields, the same bytes for the same source: it is a part of the key under which Beam keeps a
    reader between bundles.
    """

    def __init__(
        self,
        topic: str,
        config: tuple[tuple[str, Any], ...],
        start: str | int,
        starts: tuple[tuple[int, int], ...] = (),
        share: tuple[int, int] = (0, 1),
        salt: int = 0,
        keeps_time: bool = True,
    ):
        self.topic = topic
        self.config = config
        self.start = start
        self.starts = starts
        """(partition, offset), empty before `split`."""
        self.share = share
        self.salt = salt
        """Means nothing: it makes another element of it, which Flink brings elsewhere."""
        self.keeps_time = keeps_time

    def __reduce__(self) -> tuple[type[TopicSource], tuple[Any, ...]]:
        return TopicSource, self._fields()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TopicSource) and self._fields() == other._fields()

    def __hash__(self) -> int:
        return hash(self._fields())

    def _fields(self) -> tuple[Any, ...]:
        return self.topic, self.config, self.start, self.starts, self.share, self.salt, self.keeps_time

    def consumer(self) -> Consumer:
        """A new consumer that commits nothing and stops at nothing."""
        return Consumer(
            {
                # Records are read ahead into memory: 16 MB a consumer keep a reader busy without filling it.
                "queued.max.messages.kbytes": 16_384,
                # A partition whose memory was full is fetched from again after this long. The default of a second is
                # longer than a reader needs for 16 MB: a catching-up reader would wait most of the time.
                "fetch.queue.backoff.ms": 10,
                "group.id": f"ami-beam-{uuid.uuid4()}",
                **librdkafka(dict(self.config)),
                # What a producer has given up is no record: it sends it again.
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "auto.offset.reset": "error",
                # Told by an event, because the offsets behind the last record may be markers of transactions.
                "enable.partition.eof": True,
            }
        )

    def split(self, desired_num_splits: int, options: Any = None) -> list[TopicSource]:
        """This share, with the offsets at which its partitions start.

        It is not divided any further: Flink brings all parts of an element to one subtask, which would read them one
        after another, a bundle's length each.
        """
        return [
            TopicSource(self.topic, self.config, self.start, self._starts(), self.share, self.salt, self.keeps_time)
        ]

    def _starts(self) -> tuple[tuple[int, int], ...]:
        consumer = self.consumer()
        try:
            metadata = consumer.list_topics(self.topic, timeout=METADATA_SECONDS).topics[self.topic]
            if metadata.error is not None:
                raise KafkaException(metadata.error)
            number, of = self.share
            mine = [partition for partition in sorted(metadata.partitions) if partition % of == number]
            wanted = [TopicPartition(self.topic, partition) for partition in mine]
            if isinstance(self.start, int):
                millis = self.start // MICROS_PER_MILLI
                asked = [TopicPartition(self.topic, each.partition, millis) for each in wanted]
                found = consumer.offsets_for_times(asked, timeout=METADATA_SECONDS)
                known = {each.partition: each.offset for each in found if each.offset >= 0}
            else:
                known = {}
            starts = []
            for each in wanted:
                ask = partial(consumer.get_watermark_offsets, each, timeout=METADATA_SECONDS)
                low, high = once_led(ask, METADATA_SECONDS)
                # No record with that time or later: what comes from now on.
                fallback = low if self.start == "earliest" else high
                starts.append((each.partition, known.get(each.partition, fallback)))
            return tuple(starts)
        finally:
            consumer.close()

    def create_reader(self, options: Any, checkpoint_mark: CheckpointMark | None) -> TopicReader:
        if checkpoint_mark is None:
            now = _now()
            # Beam goes on with a source that was not split where `split` failed, as it does without a broker.
            starts = self.starts or self._starts()
            positions = tuple(Position(partition, offset, None, now) for partition, offset in starts)
        else:
            assert isinstance(checkpoint_mark, Positions)
            positions = checkpoint_mark.positions
        return TopicReader(self, positions)

    def get_checkpoint_mark_coder(self) -> Coder:
        return PositionsCoder()

    def default_output_coder(self) -> Coder:
        return registry.get_coder(RecordBatch)


class TopicSourceCoder(Coder):
    """Plain fields in a fixed order: equal sources have equal bytes."""

    def encode(self, value: TopicSource) -> bytes:
        return msgspec.msgpack.encode(value._fields())

    def decode(self, encoded: bytes) -> TopicSource:
        return TopicSource(*msgspec.msgpack.decode(encoded, type=_Fields))

    def is_deterministic(self) -> bool:
        return True

    def to_type_hint(self) -> type:
        return TopicSource

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))


_Fields = tuple[
    str, tuple[tuple[str, Any], ...], str | int, tuple[tuple[int, int], ...], tuple[int, int], int, bool
]  # fmt: skip
registry.register_coder(TopicSource, TopicSourceCoder)
ELEMENT_CODER = LengthPrefixCoder(TopicSourceCoder())
"""How a portable runner sees a source: it knows no coders but Beam's own, and gets the others' bytes with a length."""


class TopicReader(UnboundedReader):
    """Reads batches of some partitions, with a consumer for each that lives until the reader is closed.

    A consumer of several partitions would bring a backlog one partition after the other, and with it keep every window
    of the backlog open. Here the partition whose record time is behind is read first, and none is read further ahead
    of it than `MAX_SKEW`.
    """

    def __init__(self, source: TopicSource, positions: tuple[Position, ...]):
        self._source = source
        self._topic = source.topic
        self._positions = {each.partition: each for each in positions}
        self._consumers: dict[int, Consumer] = {}
        self._use: _TopicUse | None = None
        self._batch: RecordBatch | None = None
        self._timestamp = MIN_TIMESTAMP
        self._bundle_since: float | None = None
        """When the first batch of the bundle was read; None in between."""
        self._has_moved = False
        """Whether the watermark has in this bundle."""
        self._lag = Metrics.gauge("ami", "kafka_lag_records")

    def start(self) -> bool:
        return self._next()

    def advance(self) -> bool:
        return self._next()

    def _next(self) -> bool:
        if not self._positions or self._is_bundle_over():
            return False
        if self._bundle_since is None and self._source in _moved:
            _moved.discard(self._source)
            return False
        # Without consumers: new, or another reader went on from here and a failure has brought the work back.
        if not self._consumers and not self._take_over():
            return self._connect()
        return self._read(GATHER_SECONDS)

    def _is_bundle_over(self) -> bool:
        """Whether the bundle should end with what it has, because others wait for the watermark."""
        if self._bundle_since is None:
            return False
        lasted = time.monotonic() - self._bundle_since
        if lasted < LIVE_BUNDLE_SECONDS:
            return False
        return lasted >= BUNDLE_SECONDS or not self._has_backlog()

    def _has_backlog(self) -> bool:
        return sum(map(self._behind, self._all())) >= BATCH_RECORDS

    def _take_over(self) -> bool:
        """Go on with the consumers of the reader that stopped where this one begins, if this process has it."""
        with _owners_lock:
            owner = _owners.get(self._source)
            if owner is None or not owner._consumers or owner._positions != self._positions:
                return False
            self._consumers, owner._consumers = owner._consumers, {}
            self._use = owner._use
            _owners[self._source] = self
            return True

    def _connect(self) -> bool:
        for partition in self._positions:
            self._consumers[partition] = self._source.consumer()
            self._assign(partition)
        self._use = _TopicUse(next(iter(self._consumers.values())), self._topic)
        with _owners_lock:
            _owners[self._source] = self
        # The first poll after an assignment comes back with nothing while the consumer connects.
        deadline = time.monotonic() + START_SECONDS
        while not self._read(GATHER_SECONDS):
            if self._caught_up_everywhere() or time.monotonic() > deadline:
                return False
        return True

    def get_current(self) -> RecordBatch:
        assert self._batch is not None
        return self._batch

    def get_current_timestamp(self) -> Timestamp:
        return self._timestamp

    def get_watermark(self) -> Timestamp:
        if not self._positions:
            # More readers than partitions: this one is at its end.
            return MAX_TIMESTAMP
        if not self._source.keeps_time:
            return self._without_time()
        now = _now()
        marks = [mark for mark in (self._mark(each, now) for each in self._all()) if mark is not None]
        if marks:
            return Timestamp(micros=self._in_steps(min(marks), now))
        return Timestamp(micros=now) if self._use is not None and self._use.has_held_a_record() else MIN_TIMESTAMP

    def _without_time(self) -> Timestamp:
        """Nothing waits for records that may never come, but for those that are there at the start: of a backlog they
        would come when the windows that they belong to are long forgotten."""
        use = self._use
        if use is None:
            return MIN_TIMESTAMP
        behind = [each for each in self._all() if not self._caught_up(each)]
        if not behind or time.monotonic() - use.heard_at > BACKLOG_PATIENCE_SECONDS:
            use.had_its_backlog = True
        if use.had_its_backlog:
            # Not the end of time, which would be the end of the source.
            return Timestamp(micros=MAX_INSTANT)
        times = [each.record_time for each in behind]
        return MIN_TIMESTAMP if None in times else Timestamp(micros=min(filter(None, times)))

    def _in_steps(self, mark: int, now: int) -> int:
        """The watermark to show: in a backlog an earlier one, until it is time for the next step."""
        shown = _shown.get(self._source)
        # Less than before: the job was started again, or records came that are older than the clock.
        if shown is not None and mark >= shown[0]:
            last, at = shown
            is_early = time.monotonic() - at < WATERMARK_STEP_SECONDS
            if is_early and now - mark > BACKLOG and self._has_backlog():
                return last
            if mark == last:
                return mark
        if mark == MIN_TIMESTAMP.micros:
            return mark
        self._has_moved = True
        _shown[self._source] = mark, time.monotonic()
        return mark

    def get_checkpoint_mark(self) -> Positions:
        if self._bundle_since is not None and self._has_moved:
            _moved.add(self._source)
        self._bundle_since = None
        self._has_moved = False
        lags = [self._known_lag(each) for each in self._all()]
        known = [max(lag, 0) for lag in lags if lag is not None]
        # A part of the partitions would look like a lag that has gone.
        if lags and len(known) == len(lags):
            self._lag.set(sum(known))
        return Positions(tuple(self._all()))

    def close(self) -> None:
        with _owners_lock:
            if _owners.get(self._source) is self:
                del _owners[self._source]
            consumers, self._consumers = self._consumers, {}
        for consumer in consumers.values():
            consumer.close()

    def _assign(self, partition: int) -> None:
        """Read on from the position."""
        place = TopicPartition(self._topic, partition, self._positions[partition].next_offset)
        self._consumers[partition].assign([place])

    def _all(self) -> list[Position]:
        return [self._positions[partition] for partition in sorted(self._positions)]

    def _mark(self, position: Position, now: int) -> int | None:
        """The partition's watermark; None where it has none to give because it never held a record."""
        if position.record_time is None:
            if self._caught_up(position):
                # Held records before the start: what comes now has a record time of now, and nothing older is owed.
                return None if position.next_offset == 0 else now
            return int(MIN_TIMESTAMP.micros)
        if self._caught_up(position):
            return min(position.record_time + max(now - position.read_at, 0), max(now, position.record_time))
        return position.record_time

    def _caught_up(self, position: Position) -> bool:
        return self._behind(position) <= 0

    def _behind(self, position: Position) -> int:
        """How many records of the partition are still to be read, as of the last fetch; many where that is unknown."""
        lag = self._known_lag(position)
        return BATCH_RECORDS if lag is None else lag

    def _known_lag(self, position: Position) -> int | None:
        """The same; None where that is unknown."""
        consumer = self._consumers.get(position.partition)
        if consumer is None:
            return None
        # Costs no request. Negative before the first fetch.
        _, high = consumer.get_watermark_offsets(TopicPartition(self._topic, position.partition), cached=True)
        return high - position.next_offset if high >= 0 else None

    def _caught_up_everywhere(self) -> bool:
        return all(self._caught_up(each) for each in self._positions.values())

    def _read(self, timeout: float) -> bool:
        """Take the next batch; False when there is none now. Waits up to `timeout` for it to fill."""
        until = time.monotonic() + timeout
        taken: list[tuple[int, list[Any]]] = []
        count = 0
        while True:
            for partition in self._in_turn():
                messages = self._consumers[partition].consume(BATCH_RECORDS - count, 0)
                if messages:
                    taken.append((partition, messages))
                    count += len(messages)
                if count >= BATCH_RECORDS:
                    break
            if count >= BATCH_RECORDS or time.monotonic() >= until:
                break
            time.sleep(_POLL_SECONDS)
        errors = [message for _, messages in taken for message in messages if message.error() is not None]
        if errors:
            good = [(partition, [m for m in messages if m.error() is None]) for partition, messages in taken]
            taken = [(partition, messages) for partition, messages in good if messages]
        if taken:
            self._keep(taken)
            if self._use is not None:
                self._use.heard_at = time.monotonic()
            if self._bundle_since is None:
                self._bundle_since = time.monotonic()
        # Afterwards: to go on behind deleted records is to go on from the positions.
        for message in errors:
            self._handle(message)
        return bool(taken)

    def _in_turn(self) -> list[int]:
        """The partitions that may be read now, the one that is furthest behind in record time first."""
        if len(self._positions) == 1:
            return list(self._positions)
        times = {each.partition: each.record_time or 0 for each in self._positions.values()}
        waited_for = [times[each.partition] for each in self._positions.values() if self._behind(each) > 0]
        limit = min(waited_for) + MAX_SKEW if waited_for else None
        order = sorted(times, key=lambda partition: times[partition])
        return [partition for partition in order if limit is None or times[partition] <= limit]

    def _keep(self, taken: list[tuple[int, list[Any]]]) -> None:
        """Make the messages of these partitions the current batch, and move the positions."""
        batch = RecordBatch(self._topic, [], [], [], [])
        now = _now()
        believed = now + CLOCK_SKEW
        least: int | None = None
        for partition, messages in taken:
            batch.partitions += [partition] * len(messages)
            batch.offsets += [message.offset() for message in messages]
            batch.values += [message.value() for message in messages]
            # (type, milliseconds); type 0 says that the record has none
            stamps = [message.timestamp() for message in messages]
            times = [stamp[1] * MICROS_PER_MILLI if stamp[0] and stamp[1] >= 0 else None for stamp in stamps]
            batch.record_times += times
            known = [record_time for record_time in times if record_time is not None]
            time_read = self._positions[partition].record_time
            if known:
                least = min(known) if least is None else min(least, min(known))
                greatest = max(known)
                if greatest > believed:
                    greatest = max((record_time for record_time in known if record_time <= believed), default=-1)
                if greatest > (-1 if time_read is None else time_read):
                    time_read = greatest
            self._positions[partition] = Position(partition, batch.offsets[-1] + 1, time_read, now)
        self._batch = batch
        self._timestamp = MIN_TIMESTAMP if least is None else Timestamp(micros=min(least, MAX_INSTANT))

    def _handle(self, message: Any) -> None:
        """Go on after what passes by itself, tell of lost records, fail where an operator must act."""
        error: KafkaError = message.error()
        code = error.code()
        if code == KafkaError._PARTITION_EOF:
            position = self._positions[message.partition()]
            if position.next_offset < message.offset():
                self._positions[message.partition()] = msgspec.structs.replace(position, next_offset=message.offset())
        elif code in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            partition = message.partition()
            position = self._positions[partition]
            place = TopicPartition(self._topic, partition)
            low, _ = self._consumers[partition].get_watermark_offsets(place, timeout=METADATA_SECONDS)
            if not position.next_offset < low:
                raise KafkaException(error)
            _log.error(
                "Topic %s partition %d: %d records were deleted by retention before they were read (offsets %d to %d).",
                self._topic, partition, low - position.next_offset, position.next_offset, low - 1,
            )  # fmt: skip
            self._positions[partition] = msgspec.structs.replace(position, next_offset=low)
            # A partition whose fetching has failed cannot be moved by seek.
            self._assign(partition)
        elif code in _DENIED:
            raise RuntimeError(f"Kafka, topic {self._topic}: reading is denied ({error.str()}). {_DENIED[code]}")
        elif error.fatal() or code in _HOPELESS:
            raise KafkaException(error)
        else:
            _log.warning("Topic %s: %s; the consumer goes on by itself.", self._topic, error.str())


class _TopicUse:
    """What is known of a topic since its consumers are connected; goes on with them from reader to reader.

    Whether any partition has held a record: asked now and then until one has.
    """

    def __init__(self, consumer: Consumer, topic: str):
        self._consumer = consumer
        self._topic = topic
        self._known = False
        self.had_its_backlog = False
        """Whether what was there at the start was read."""
        self.heard_at = time.monotonic()
        """When a record was read last; at first, when it was connected."""
        self._asked_at = -EMPTY_CHECK_SECONDS

    def has_held_a_record(self) -> bool:
        if not self._known and time.monotonic() - self._asked_at >= EMPTY_CHECK_SECONDS:
            self._asked_at = time.monotonic()
            try:
                metadata = self._consumer.list_topics(self._topic, timeout=METADATA_SECONDS).topics[self._topic]
                self._known = any(
                    self._consumer.get_watermark_offsets(TopicPartition(self._topic, partition), METADATA_SECONDS)[1]
                    for partition in metadata.partitions
                )
            except KafkaException as error:
                _log.warning("Topic %s: %s", self._topic, error)
        return self._known


# Beam keeps a waiting reader in the step's instance that read last, and gives the next bundle to any instance: without
# this, a job with two of them would connect anew for almost every bundle.
_owners: dict[TopicSource, TopicReader] = {}
"""The reader that has the consumer of a source, in this process."""
_owners_lock = threading.Lock()

_shown: dict[TopicSource, tuple[int, float]] = {}
"""The watermark that a source has shown last in this process, and when, by the monotonic clock."""

_moved: set[TopicSource] = set()
"""Sources whose last bundle in this process had records and moved the watermark: the next one has none.

Beam's Flink runner (2.70) hands on a bundle's watermark after its outputs, by a task that waits behind the source's
next turn where the outputs took a while, and is dropped when that turn has begun a bundle. A bundle without outputs is
through before the next turn comes (`ami_beam/local/patches` sees to that). Without such bundles no window would be due
before a whole backlog is read, and state would hold all of it.
"""

_DENIED = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "Its ACLs must allow the operation Read.",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "ACLs must allow Describe on groups that begin with ami-beam-.",
    KafkaError._AUTHENTICATION: "Look at the credentials in --kafka_config_file.",
}
"""What an operator must do about it."""
_HOPELESS = (
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
)


def _now() -> int:
    return time.time_ns() // 1_000
