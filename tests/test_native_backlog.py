"""The native Kafka source on Flink with a backlog: the watermark moves while it is read."""

from __future__ import annotations

import time
import uuid

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.window import FixedWindows
from confluent_kafka import Consumer, Producer, TopicPartition

from ami_beam.io import native_kafka_source
from ami_beam.io.native_kafka_sink import WriteTopicNatively
from ami_beam.io.native_kafka_source import ReadTopicNatively, TopicReader
from ami_beam.local.flink import LocalFlink
from ami_beam.local.kafka_broker import KafkaBroker
from ami_beam.records import KeyedRecords, RecordBatch

pytestmark = pytest.mark.processes
RECORDS = 30_000
WINDOWS = 10
SECONDS = 90.0


def counted(batch: RecordBatch) -> tuple[str, int]:
    return "records", len(batch.values)


def total(element: tuple[str, list[int]]) -> KeyedRecords:
    return KeyedRecords([element[0].encode()], [str(sum(element[1])).encode()])


def test_windows_become_due_while_a_backlog_is_read(
    kafka_broker: KafkaBroker, local_flink: LocalFlink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beam's runner hands on no watermark after a bundle with outputs: a reader has to leave some without any."""
    topic, results = f"backlog-{uuid.uuid4()}", f"windows-{uuid.uuid4()}"
    kafka_broker.create_topic(topic, partitions=2)
    kafka_broker.create_topic(results, 1, "LogAppendTime")
    size = RECORDS // WINDOWS
    end = int(time.time()) // size * size
    producer = Producer({"bootstrap.servers": kafka_broker.bootstrap_servers})
    for number in range(RECORDS):
        at = (end - RECORDS + number) * 1_000
        producer.produce(topic, b"x", b"k", number % 2, timestamp=at)
    assert producer.flush(SECONDS) == 0

    # A backlog that takes some ten seconds, without publishing gigabytes.
    read = TopicReader._read
    monkeypatch.setattr(native_kafka_source, "BATCH_RECORDS", 20)
    monkeypatch.setattr(native_kafka_source, "WATERMARK_STEP_SECONDS", 1.0)
    monkeypatch.setattr(TopicReader, "_read", lambda self, timeout: time.sleep(0.005) or read(self, timeout))
    config = {"bootstrap.servers": kafka_broker.bootstrap_servers}
    pipeline = beam.Pipeline(options=PipelineOptions(local_flink.pipeline_args(checkpoint_seconds=2)))
    _ = (
        pipeline
        | ReadTopicNatively(topic, config, "earliest")
        | beam.Map(counted).with_output_types(tuple[str, int])
        | beam.WindowInto(FixedWindows(size))
        | beam.GroupByKey()
        | beam.Map(total).with_output_types(KeyedRecords)
        | WriteTopicNatively(results, config)
    )
    result = pipeline.run()
    consumer = Consumer({**config, "group.id": "windows"})
    consumer.assign([TopicPartition(results, 0, 0)])
    try:
        appended: list[int] = []
        until = time.monotonic() + SECONDS
        while len(appended) < WINDOWS - 1 and time.monotonic() < until:
            appended += [each.timestamp()[1] for each in consumer.consume(100, 0.5) if each.error() is None]
    finally:
        consumer.close()
        local_flink.cancel(result)
    assert len(appended) >= WINDOWS - 1
    # One after the other, and not all of them when the last record was read.
    assert appended[WINDOWS - 2] - appended[0] > 3_000
