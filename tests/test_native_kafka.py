"""The Kafka source and sink without a JVM, against a real broker."""

from __future__ import annotations

import pickle
import time
import uuid
from collections.abc import Iterator

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.utils.timestamp import MAX_TIMESTAMP, MIN_TIMESTAMP
from confluent_kafka import Consumer, Producer, TopicPartition
from msgspec.structs import replace

from ami_beam.instants import MAX_INSTANT, MICROS_PER_MILLI
from ami_beam.io import native_kafka_sink, native_kafka_source
from ami_beam.io.flink_subtasks import subtask_of
from ami_beam.io.native_kafka_sink import WriteTopicNatively
from ami_beam.io.native_kafka_source import (
    ELEMENT_CODER,
    PositionsCoder,
    ReadTopicNatively,
    TopicReader,
    TopicSource,
    TopicSourceCoder,
)
from ami_beam.local.kafka_broker import KafkaBroker
from ami_beam.records import KeyedRecords

pytestmark = pytest.mark.processes
SECONDS = 20.0
PARTITIONS = 3
HOUR = 3_600_000


@pytest.fixture
def topic(kafka_broker: KafkaBroker) -> str:
    """A topic of three partitions; the last one stays empty."""
    name = f"native-{uuid.uuid4()}"
    kafka_broker.create_topic(name, PARTITIONS)
    return name


def source(broker: KafkaBroker, topic: str, start: str | int = "earliest") -> TopicSource:
    return TopicSource(topic, (("bootstrap.servers", broker.bootstrap_servers),), start, ())


def publish(broker: KafkaBroker, topic: str, partition: int, stamps: list[int], prefix: str = "") -> None:
    """One record a stamp (milliseconds); values are prefix and number."""
    producer = Producer({"bootstrap.servers": broker.bootstrap_servers})
    for number, stamp in enumerate(stamps):
        producer.produce(topic, f"{prefix}{number}".encode(), b"k", partition, timestamp=stamp)
    assert producer.flush(SECONDS) == 0


def whole(given: TopicSource) -> TopicSource:
    (one,) = given.split(1)
    return one


class Reading:
    """A reader, driven as Beam drives it."""

    def __init__(self, reader: TopicReader) -> None:
        self.reader = reader
        self.started = False

    def take(self, count: int) -> list[tuple[int, int, bytes | None]]:
        """(partition, offset, value) of the next records, at least `count`; fewer when no more come."""
        until = time.monotonic() + SECONDS
        taken: list[tuple[int, int, bytes | None]] = []
        while len(taken) < count and time.monotonic() < until:
            if self._next():
                batch = self.reader.get_current()
                taken += zip(batch.partitions, batch.offsets, batch.values, strict=True)
        return taken

    def nothing(self) -> None:
        """Hold that no more records are there."""
        for _ in range(5):
            assert not self._next()

    def _next(self) -> bool:
        more = self.reader.advance() if self.started else self.reader.start()
        self.started = True
        if not more:
            # The bundle ends.
            self.reader.get_checkpoint_mark()
        return more


@pytest.fixture
def readers() -> Iterator[list[TopicReader]]:
    opened: list[TopicReader] = []
    yield opened
    for reader in opened:
        reader.close()


def reading(readers: list[TopicReader], of: TopicSource, mark: object = None) -> Reading:
    reader = of.create_reader(None, mark)  # type: ignore[arg-type]
    readers.append(reader)
    return Reading(reader)


def test_every_record_once_and_on_from_the_checkpoint(
    kafka_broker: KafkaBroker, topic: str, readers: list[TopicReader]
) -> None:
    now = int(time.time() * 1000)
    publish(kafka_broker, topic, 0, [now] * 700)
    publish(kafka_broker, topic, 1, [now] * 300)
    one = whole(source(kafka_broker, topic))
    first = reading(readers, one)
    seen = first.take(1_000)
    assert sorted((partition, offset) for partition, offset, _ in seen) == [
        *((0, n) for n in range(700)),
        *((1, n) for n in range(300)),
    ]
    first.nothing()
    mark = first.reader.get_checkpoint_mark()
    coder = PositionsCoder()
    assert coder.decode(coder.encode(mark)) == mark
    publish(kafka_broker, topic, 1, [now] * 5, "more")
    again = reading(readers, pickle.loads(pickle.dumps(one)), coder.decode(coder.encode(mark)))
    assert again.take(5) == [(1, 300 + n, b"more%d" % n) for n in range(5)]
    again.nothing()


def test_a_source_and_its_positions_are_the_same_bytes_when_they_are_the_same(
    kafka_broker: KafkaBroker, topic: str, readers: list[TopicReader]
) -> None:
    publish(kafka_broker, topic, 0, [int(time.time() * 1000)] * 3)
    one = whole(source(kafka_broker, topic))
    assert pickle.dumps(one) == pickle.dumps(pickle.loads(pickle.dumps(one)))
    coder = PositionsCoder()
    assert coder.is_deterministic()
    two = reading(readers, one)
    two.take(3)
    mark = two.reader.get_checkpoint_mark()
    assert coder.encode(mark) == coder.encode(coder.decode(coder.encode(mark)))


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_shares_hold_every_partition_once(
    kafka_broker: KafkaBroker, topic: str, readers: list[TopicReader], count: int
) -> None:
    config = {"bootstrap.servers": kafka_broker.bootstrap_servers}
    shares = ReadTopicNatively(topic, config, "earliest", count)._sources
    keys = [ELEMENT_CODER.encode(share) for share in shares]
    assert [subtask_of(key, count) for key in keys] == list(range(count))
    parts = [whole(TopicSourceCoder().decode(TopicSourceCoder().encode(share))) for share in shares]
    assert sorted(partition for part in parts for partition, _ in part.starts) == [0, 1, 2]
    for part in parts[3:]:
        idle = reading(readers, part)
        idle.nothing()
        assert idle.reader.get_watermark() == MAX_TIMESTAMP


def test_a_source_that_beam_could_not_split_reads_its_partitions(
    kafka_broker: KafkaBroker, topic: str, readers: list[TopicReader]
) -> None:
    publish(kafka_broker, topic, 1, [HOUR])
    assert reading(readers, source(kafka_broker, topic)).take(1) == [(1, 0, b"0")]


def test_the_partition_that_is_behind_is_read_first(
    kafka_broker: KafkaBroker, topic: str, readers: list[TopicReader], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_kafka_source, "BATCH_RECORDS", 10)
    minute = 60_000
    publish(kafka_broker, topic, 0, [HOUR + minute * number for number in range(60)])
    publish(kafka_broker, topic, 1, [HOUR + minute * number for number in range(60)])
    read = reading(readers, whole(source(kafka_broker, topic))).take(120)
    assert sorted(read) == [(partition, n, str(n).encode()) for partition in (0, 1) for n in range(60)]
    furthest = [-1, -1]
    for place, (partition, offset, _) in enumerate(read):
        furthest[partition] = offset
        # A batch may be ahead, and five minutes on top of it.
        assert max(furthest) - min(furthest) <= 10 + 5 + 1 or place < 10


def test_a_bundle_without_records_follows_each_that_moved_the_watermark(
    kafka_broker: KafkaBroker, topic: str, readers: list[TopicReader]
) -> None:
    for partition in range(PARTITIONS):
        publish(kafka_broker, topic, partition, [HOUR])
    one = whole(source(kafka_broker, topic))
    first = reading(readers, one)
    assert len(first.take(PARTITIONS)) == PARTITIONS
    assert first.reader.get_watermark() > MIN_TIMESTAMP
    mark = first.reader.get_checkpoint_mark()
    publish(kafka_broker, topic, 0, [HOUR])
    second = one.create_reader(None, mark)
    readers.append(second)
    assert not second.start()
    assert second.get_watermark().micros >= HOUR * 1_000
    second.get_checkpoint_mark()
    until = time.monotonic() + SECONDS
    while not second.advance() and time.monotonic() < until:
        second.get_checkpoint_mark()
    assert second.get_current().values == [b"0"]


def test_the_watermark_of_a_backlog_moves_in_steps(
    kafka_broker: KafkaBroker, topic: str, readers: list[TopicReader], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_kafka_source, "BATCH_RECORDS", 1)
    for partition in range(PARTITIONS):
        publish(kafka_broker, topic, partition, [HOUR + number for number in range(100)])
    one = reading(readers, whole(source(kafka_broker, topic)))
    marks = []
    for _ in range(60 * PARTITIONS):
        assert len(one.take(1)) == 1
        marks.append(one.reader.get_watermark())
    # Before every partition has been read there is none, and then one that stays.
    assert len(set(marks)) == 2
    assert marks[0] == MIN_TIMESTAMP
    monkeypatch.setattr(native_kafka_source, "WATERMARK_STEP_SECONDS", 0.0)
    moved = one.reader.get_watermark()
    assert moved > marks[-1]
    monkeypatch.undo()
    monkeypatch.setattr(native_kafka_source, "BATCH_RECORDS", 1)
    one.take(39 * PARTITIONS)
    assert one.reader.get_watermark() == moved
    # No backlog any more.
    one.take(PARTITIONS)
    until = time.monotonic() + SECONDS
    while one.reader.get_watermark() == moved and time.monotonic() < until:
        one.nothing()
    assert one.reader.get_watermark().micros >= (HOUR + 99) * 1_000


def test_the_lag_is_told_when_it_is_known_of_every_partition(
    kafka_broker: KafkaBroker, topic: str, readers: list[TopicReader], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_kafka_source, "BATCH_RECORDS", 10)
    told: list[int] = []

    class Gauge:
        set = staticmethod(told.append)

    publish(kafka_broker, topic, 0, [HOUR] * 30)
    publish(kafka_broker, topic, 1, [HOUR] * 5)
    one = whole(source(kafka_broker, topic))
    reader = one.create_reader(None, None)
    readers.append(reader)
    reader._lag = Gauge()  # type: ignore[assignment]
    # Before anything is fetched nobody knows.
    reader.get_checkpoint_mark()
    assert told == []
    driven = Reading(reader)
    driven.take(35)
    until = time.monotonic() + SECONDS
    # Until the consumer of the empty partition has heard that there is nothing.
    while not told and time.monotonic() < until:
        driven.nothing()
    assert told[-1] == 0
    assert all(0 <= lag < 35 for lag in told)
    reader._positions[0] = replace(reader._positions[0], next_offset=10)
    reader.get_checkpoint_mark()
    assert told[-1] == 20
    # Another reader has taken its consumers.
    reader._consumers = {}
    count = len(told)
    reader.get_checkpoint_mark()
    assert len(told) == count


def test_latest_and_a_record_time_as_the_start(
    kafka_broker: KafkaBroker, topic: str, readers: list[TopicReader]
) -> None:
    now = int(time.time() * 1000)
    publish(kafka_broker, topic, 0, [now - 3 * HOUR, now - 2 * HOUR, now - HOUR])
    publish(kafka_broker, topic, 1, [now - 3 * HOUR])
    latest = whole(source(kafka_broker, topic, "latest"))
    from_time = whole(source(kafka_broker, topic, (now - 2 * HOUR) * 1_000))
    publish(kafka_broker, topic, 1, [now], "new")
    assert reading(readers, latest).take(1) == [(1, 1, b"new0")]
    # In partition 1 nothing was that young when the job started: it gets what came since.
    assert sorted(reading(readers, from_time).take(3)) == [(0, 1, b"1"), (0, 2, b"2"), (1, 1, b"new0")]


def test_the_watermark_is_the_least_of_the_partitions_and_never_jumps_to_now(
    kafka_broker: KafkaBroker, topic: str, readers: list[TopicReader]
) -> None:
    now = int(time.time() * 1000)
    publish(kafka_broker, topic, 0, [now - 2 * HOUR, now - HOUR])
    publish(kafka_broker, topic, 1, [now - 3 * HOUR])
    one = reading(readers, whole(source(kafka_broker, topic)))
    assert len(one.take(3)) == 3
    began = time.monotonic()
    # Until the consumer of partition 2 has heard that there is nothing, it might hold anything.
    while one.reader.get_watermark() == MIN_TIMESTAMP and time.monotonic() < began + SECONDS:
        one.nothing()
    mark = one.reader.get_watermark().micros
    # Caught up: from the record of partition 1 on, by the time that has passed. Partition 2 holds nothing back.
    assert 0 <= mark - (now - 3 * HOUR) * 1_000 <= (time.monotonic() - began + 2) * 1e6
    time.sleep(0.3)
    assert one.reader.get_watermark().micros - mark >= 300_000


def test_a_partition_that_is_not_yet_read_holds_the_watermark(
    kafka_broker: KafkaBroker, topic: str, readers: list[TopicReader]
) -> None:
    publish(kafka_broker, topic, 0, [int(time.time() * 1000)])
    one = whole(source(kafka_broker, topic))
    reader = one.create_reader(None, None)
    readers.append(reader)
    reader._consumers = {number: one.consumer() for number in range(3)}
    assert reader.get_watermark() == MIN_TIMESTAMP


def test_a_topic_without_time_is_waited_for_until_its_backlog_is_read(
    kafka_broker: KafkaBroker, topic: str, readers: list[TopicReader], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else reads of a backlog may be days ahead of the events of their time."""
    monkeypatch.setattr(native_kafka_source, "BATCH_RECORDS", 10)
    stamps = [HOUR + 1_000 * number for number in range(25)]
    publish(kafka_broker, topic, 0, stamps)
    publish(kafka_broker, topic, 1, stamps)
    given = source(kafka_broker, topic)
    given.keeps_time = False
    reader = whole(given).create_reader(None, None)
    readers.append(reader)
    assert reader.get_watermark() == MIN_TIMESTAMP
    seen, count = [], 0
    until = time.monotonic() + SECONDS
    more = reader.start()
    while count < 50 and time.monotonic() < until:
        if more:
            count += len(reader.get_current().values)
        else:
            reader.get_checkpoint_mark()
        seen.append((count, reader.get_watermark().micros))
        more = reader.advance()
    assert count == 50
    ends = {mark for count, mark in seen if count == 50}
    before = [mark for count, mark in seen if count < 50]
    assert ends == {MAX_INSTANT}
    assert before == sorted(before)
    assert 0 < max(before) <= (HOUR + 24_000) * MICROS_PER_MILLI
    # From then on nobody waits for what comes.
    publish(kafka_broker, topic, 2, [5 * HOUR])
    assert reader.get_watermark().micros == MAX_INSTANT


def test_a_topic_without_time_that_gives_nothing_is_not_waited_for_for_ever(
    kafka_broker: KafkaBroker, topic: str, readers: list[TopicReader], monkeypatch: pytest.MonkeyPatch
) -> None:
    for partition in range(PARTITIONS):
        publish(kafka_broker, topic, partition, [HOUR])
    given = source(kafka_broker, topic, "latest")
    given.keeps_time = False
    reader = whole(given).create_reader(None, None)
    readers.append(reader)
    # A partition whose end is unknown, as without its leader.
    monkeypatch.setattr(TopicReader, "_known_lag", lambda self, position: None)
    monkeypatch.setattr(native_kafka_source, "START_SECONDS", 0.1)
    reader.start()
    assert reader.get_watermark() == MIN_TIMESTAMP
    monkeypatch.setattr(native_kafka_source, "BACKLOG_PATIENCE_SECONDS", 0.0)
    assert reader.get_watermark().micros == MAX_INSTANT


def test_a_record_time_in_the_future_moves_nothing(
    kafka_broker: KafkaBroker, topic: str, readers: list[TopicReader]
) -> None:
    now = int(time.time() * 1000)
    publish(kafka_broker, topic, 0, [now - HOUR, now + 2 * HOUR])
    one = reading(readers, whole(source(kafka_broker, topic)))
    assert len(one.take(2)) == 2
    assert one.reader.get_watermark().micros < (now - HOUR // 2) * 1_000


def test_records_that_retention_deleted_are_passed_over_and_counted(
    kafka_broker: KafkaBroker, topic: str, readers: list[TopicReader], caplog: pytest.LogCaptureFixture
) -> None:
    from confluent_kafka.admin import AdminClient

    publish(kafka_broker, topic, 0, [int(time.time() * 1000)] * 10)
    one = whole(source(kafka_broker, topic))
    admin = AdminClient({"bootstrap.servers": kafka_broker.bootstrap_servers})
    for future in admin.delete_records([TopicPartition(topic, 0, 4)]).values():
        future.result(SECONDS)
    assert [offset for _, offset, _ in reading(readers, one).take(6)] == [4, 5, 6, 7, 8, 9]
    assert "4 records were deleted by retention" in caplog.text


def test_an_unknown_topic_fails(kafka_broker: KafkaBroker) -> None:
    with pytest.raises(Exception, match=r"(?i)unknown topic"):
        source(kafka_broker, f"missing-{uuid.uuid4()}").split(1)


def written(broker: KafkaBroker, topic: str) -> list[tuple[bytes, bytes]]:
    consumer = Consumer({"bootstrap.servers": broker.bootstrap_servers, "group.id": "native-sink-test"})
    try:
        partitions = [TopicPartition(topic, number, 0) for number in range(3)]
        count = sum(consumer.get_watermark_offsets(each, timeout=SECONDS)[1] for each in partitions)
        consumer.assign(partitions)
        records: list[tuple[bytes, bytes]] = []
        until = time.monotonic() + SECONDS
        while len(records) < count and time.monotonic() < until:
            records += [(message.key(), message.value()) for message in consumer.consume(1_000, 0.5)]
        return records
    finally:
        consumer.close()


def test_the_sink_writes_every_record(kafka_broker: KafkaBroker, topic: str) -> None:
    records = [(b"k%d" % n, b"v%d" % n) for n in range(5_000)]
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        _ = (
            pipeline
            | beam.Create([KeyedRecords([key for key, _ in records], [value for _, value in records])])
            | WriteTopicNatively(topic, {"bootstrap.servers": kafka_broker.bootstrap_servers})
        )
    assert sorted(written(kafka_broker, topic)) == sorted(records)


@pytest.mark.parametrize("refused_by", ["client", "broker"])
def test_a_refused_record_fails_the_bundle_and_the_next_attempt_has_a_new_producer(
    kafka_broker: KafkaBroker, topic: str, refused_by: str
) -> None:
    config = {"bootstrap.servers": kafka_broker.bootstrap_servers, "message.timeout.ms": 3_000}
    name, value = (topic, b"x" * 2_000_000) if refused_by == "client" else (f"missing-{uuid.uuid4()}", b"x")
    write = WriteTopicNatively(name, config)
    refused = pytest.raises(Exception, match=f"topic {name}: refused a record")
    with refused, beam.Pipeline(runner=FnApiRunner()) as pipeline:
        _ = pipeline | beam.Create([KeyedRecords([b"k"], [value])]) | write
    assert tuple(sorted(config.items())) not in native_kafka_sink._producers
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        _ = pipeline | beam.Create([KeyedRecords([b"k"], [b"again"])]) | WriteTopicNatively(topic, config)
    assert written(kafka_broker, topic) == [(b"k", b"again")]


def test_markers_of_transactions_are_no_records_that_are_owed(
    kafka_broker: KafkaBroker, topic: str, readers: list[TopicReader]
) -> None:
    """Else a head-end that publishes in transactions would hold the watermark at its last record for ever."""
    now = int(time.time() * 1000)
    producer = Producer({"bootstrap.servers": kafka_broker.bootstrap_servers, "transactional.id": topic})
    producer.init_transactions(SECONDS)
    producer.begin_transaction()
    for partition in (0, 1):
        producer.produce(topic, b"0", b"k", partition, timestamp=now - HOUR)
    producer.commit_transaction(SECONDS)
    read = reading(readers, whole(source(kafka_broker, topic)))
    assert len(read.take(2)) == 2
    until = time.monotonic() + SECONDS
    while read.reader.get_watermark().micros <= (now - HOUR) * 1000 and time.monotonic() < until:
        read.nothing()
    first = read.reader.get_watermark()
    time.sleep(0.5)
    assert 400_000 < read.reader.get_watermark().micros - first.micros < 5_000_000


def test_a_reader_that_goes_on_from_a_checkpoint_takes_the_consumer_over(
    kafka_broker: KafkaBroker, topic: str, readers: list[TopicReader], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(kafka_broker, topic, 0, [HOUR] * 3)
    connections = []
    connect = TopicSource.consumer
    monkeypatch.setattr(TopicSource, "consumer", lambda self: connections.append(self) or connect(self))
    read_by = whole(source(kafka_broker, topic))
    connections.clear()
    first = reading(readers, read_by)
    assert [value for *_, value in first.take(3)] == [b"0", b"1", b"2"]
    mark = first.reader.get_checkpoint_mark()
    publish(kafka_broker, topic, 0, [HOUR] * 2, "later-")
    # Beam gives the rest to another instance of the step, which has decoded source and checkpoint.
    second = reading(readers, pickle.loads(pickle.dumps(read_by)), mark)
    later = [b"later-0", b"later-1"]
    assert [value for *_, value in second.take(2)] == later
    # A consumer a partition.
    assert len(connections) == 3
    # After a failure Beam may give the same checkpoint to the instance that waits with it.
    assert [value for *_, value in first.take(2)] == later
    assert len(connections) == 6
    first.reader.close()
    second.reader.close()
    assert [value for *_, value in reading(readers, read_by, mark).take(2)] == later
