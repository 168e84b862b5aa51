"""Kafka as source and sink, through Beam's own cross-language I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import apache_beam as beam
from apache_beam.io.kafka import ReadFromKafka, WriteToKafka
from apache_beam.pvalue import PBegin

from ami_beam.instants import MICROS_PER_MILLI
from ami_beam.records import KeyedRecords, RecordBatch
from transforms.batch_records import BatchRecords

BYTES_DESERIALIZER = "org.apache.kafka.common.serialization.ByteArrayDeserializer"
BYTES_SERIALIZER = "org.apache.kafka.common.serialization.ByteArraySerializer"

NO_TIME = "ProcessingTime"
"""KafkaIO's policy whose watermark is the clock's: for a topic that nothing waits for, and that may never hold a
record. Batches have the records' own times all the same."""


class ReadTopic(beam.PTransform):
    """Every record of a topic from the start on, in batches, with record time and provenance.

    The watermark is Kafka's record time per partition, the smallest over all partitions. Beam's KafkaIO moves a
    partition that is caught up to wall-clock time, so records that are older than that when they are published
    are late; and with CreateTime a partition that has never held a record holds the watermark back.

    Args:
      topic: its name.
      consumer_config: the consumer's properties, broker included. Offsets are Beam's: the consumer commits none.
      start: "latest", "earliest", or an instant in microseconds from which record times count.
      timestamp_policy: "CreateTime" or "LogAppendTime", as the topic is, or `NO_TIME`.
      expansion_service: the one that knows KafkaIO, or its address; None for one of Beam's for this step alone.
    """

    def __init__(
        self,
        topic: str,
        consumer_config: Mapping[str, str],
        start: str | int,
        timestamp_policy: str,
        expansion_service: Any = None,
    ):
        super().__init__()
        self._topic = topic
        # Commit nothing: a committed offset of the group would beat the start that was asked for. Java's own default
        # takes what a producer has given up, which a head-end that publishes in transactions then sends again.
        self._config = {"isolation.level": "read_committed", **consumer_config, "enable.auto.commit": "false"}
        if isinstance(start, str):
            self._config["auto.offset.reset"] = start
        else:
            self._config.setdefault("auto.offset.reset", "latest")
        self._start = None if isinstance(start, str) else start // MICROS_PER_MILLI
        self._policy = timestamp_policy
        self._expansion_service = expansion_service

    def expand(self, pipeline: PBegin) -> beam.PCollection[RecordBatch]:
        return (
            pipeline
            | "ReadFromKafka" >> ReadFromKafka(
                consumer_config=self._config,
                topics=[self._topic],
                key_deserializer=BYTES_DESERIALIZER,
                value_deserializer=BYTES_DESERIALIZER,
                start_read_time=self._start,
                with_metadata=True,
                timestamp_policy=self._policy,
                expansion_service=self._expansion_service,
            )
            | "Batch" >> BatchRecords()
        )  # fmt: skip


class WriteTopic(beam.PTransform):
    """Every record reaches the topic at least once.

    Args:
      topic: its name.
      producer_config: the producer's properties, broker included.
      expansion_service: the one that knows KafkaIO, or its address; None for one of Beam's for this step alone.
    """

    def __init__(self, topic: str, producer_config: Mapping[str, str], expansion_service: Any = None):
        super().__init__()
        self._topic = topic
        self._config = dict(producer_config)
        self._expansion_service = expansion_service

    def expand(self, records: beam.PCollection[KeyedRecords]) -> Any:
        pairs = records | "EachRecord" >> beam.FlatMap(_pairs).with_output_types(tuple[bytes, bytes])
        return pairs | "WriteToKafka" >> WriteToKafka(
            producer_config=self._config,
            topic=self._topic,
            key_serializer=BYTES_SERIALIZER,
            value_serializer=BYTES_SERIALIZER,
            expansion_service=self._expansion_service,
        )


def _pairs(records: KeyedRecords) -> Iterator[tuple[bytes, bytes]]:
    return zip(records.keys, records.values, strict=True)
