"""Both sources of the pipeline read only what was committed: the adapter's transactions are seen once, and whole."""

from __future__ import annotations

import time
import uuid

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from confluent_kafka import Consumer, Producer

from ami_beam.io.kafka import ReadTopic, WriteTopic
from ami_beam.io.native_kafka_source import TopicReader, TopicSource
from ami_beam.local.flink import LocalFlink
from ami_beam.local.kafka_broker import KafkaBroker
from ami_beam.records import KeyedRecords, RecordBatch

pytestmark = pytest.mark.processes
SECONDS = 60.0


@pytest.fixture
def topic(kafka_broker: KafkaBroker) -> str:
    """Its records are: given up, committed, given up, and committed by another producer."""
    name = f"committed-{uuid.uuid4().hex[:8]}"
    kafka_broker.create_topic(name)
    producer = Producer({"bootstrap.servers": kafka_broker.bootstrap_servers, "transactional.id": name})
    producer.init_transactions(SECONDS)
    for number, kept in enumerate((False, True, False, True)):
        producer.begin_transaction()
        producer.produce(name, b"%d" % number, b"k", timestamp=int(time.time() * 1000))
        assert producer.flush(SECONDS) == 0
        (producer.commit_transaction if kept else producer.abort_transaction)(SECONDS)
    return name


def test_the_native_source_reads_what_was_committed(kafka_broker: KafkaBroker, topic: str) -> None:
    config = (("bootstrap.servers", kafka_broker.bootstrap_servers),)
    (share,) = TopicSource(topic, config, "earliest", ()).split(1)
    reader: TopicReader = share.create_reader(None, None)  # type: ignore[arg-type]
    try:
        found: list[bytes | None] = []
        until = time.monotonic() + SECONDS
        more = reader.start()
        while len(found) < 2 and time.monotonic() < until:
            if more:
                found += reader.get_current().values
            else:
                reader.get_checkpoint_mark()
            more = reader.advance()
        assert found == [b"1", b"3"]
    finally:
        reader.close()


def as_pairs(batch: RecordBatch) -> KeyedRecords:
    return KeyedRecords([b"k"] * len(batch.values), [value or b"" for value in batch.values])


def test_beam_s_source_reads_what_was_committed(kafka_broker: KafkaBroker, local_flink: LocalFlink, topic: str) -> None:
    out = f"{topic}-out"
    kafka_broker.create_topic(out)
    servers = {"bootstrap.servers": kafka_broker.bootstrap_servers}
    pipeline = beam.Pipeline(options=PipelineOptions(local_flink.pipeline_args(parallelism=1, checkpoint_seconds=1)))
    with local_flink.expansion() as expansion_service:
        (
            pipeline
            | ReadTopic(topic, servers, "earliest", "CreateTime", expansion_service)
            | beam.Map(as_pairs).with_output_types(KeyedRecords)
            | WriteTopic(out, servers, expansion_service)
        )
    result = pipeline.run()
    try:
        consumer = Consumer({**servers, "group.id": out, "auto.offset.reset": "earliest"})
        consumer.subscribe([out])
        found: list[bytes | None] = []
        until = time.monotonic() + SECONDS
        while b"3" not in found and time.monotonic() < until:
            message = consumer.poll(0.2)
            if message is not None and message.error() is None:
                found.append(message.value())
        consumer.close()
        assert found == [b"1", b"3"]
    finally:
        local_flink.cancel(result)
