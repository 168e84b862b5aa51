"""A period of a topic, read once from its first to its last record: for runs that end."""

from __future__ import annotations

import base64
import gzip
import logging
import time
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

import msgspec
from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Consumer, KafkaException, Message, TopicPartition

from ami_beam.instants import MICROS_PER_MILLI
from ami_beam.io.files import BATCH_RECORDS
from ami_beam.io.kafka_preflight import GROUP_PREFIX, TIMEOUT_SECONDS
from ami_beam.io.librdkafka import librdkafka
from ami_beam.records import RecordBatch

PROGRESS_SECONDS = 10
PATIENCE_SECONDS = 60.0
_MESSAGES = 10_000
_WAIT_SECONDS = 0.1
"""The client waits so long for more messages, also where the last one is there."""
_log = logging.getLogger(__name__)


class PeriodError(RuntimeError):
    """The topic stopped giving records: names it, and how far reading came."""


def export_period(config: Mapping[str, str], topic: str, begin: int | None, end: int | None, path: Path) -> int:
    """Write the records of `read_period` to a new file, as `--source=files` reads it. Returns how many there were."""
    encode = msgspec.json.Encoder().encode
    count = 0
    with gzip.open(path, "wb", compresslevel=1) as file:
        for batch in period_batches(config, topic, begin, end):
            for partition, offset, record_time, value in zip(
                batch.partitions, batch.offsets, batch.record_times, batch.values, strict=True
            ):
                line = {
                    "ts_ms": None if record_time is None else record_time // MICROS_PER_MILLI,
                    "value_b64": None if value is None else base64.b64encode(value).decode(),
                    "topic": topic,
                    "partition": partition,
                    "offset": offset,
                }
                file.write(encode(line) + b"\n")
            count += len(batch.values)
    return count


def period_batches(config: Mapping[str, str], topic: str, begin: int | None, end: int | None) -> Iterator[RecordBatch]:
    """The records of `read_period`, as the pipeline's sources give them."""
    messages = read_period(config, topic, begin, end)
    while several := list(islice(messages, BATCH_RECORDS)):
        batch = RecordBatch(topic, [], [], [], [])
        for message in several:
            kind, ts_ms = message.timestamp()
            batch.partitions.append(message.partition() or 0)
            batch.offsets.append(message.offset() or 0)
            batch.record_times.append(None if kind == TIMESTAMP_NOT_AVAILABLE else ts_ms * MICROS_PER_MILLI)
            batch.values.append(message.value())
        yield batch


def read_period(
    config: Mapping[str, str], topic: str, begin: int | None, end: int | None, patience: float = PATIENCE_SECONDS
) -> Iterator[Message]:
    """Every record from the first with record time `begin` to the last before the first with `end`.

    As Kafka finds offsets by time: per partition, in the order of offsets, nothing between them left out. A partition
    without a record so late is read to its present end. Raises PeriodError when no record comes for `patience`
    seconds, KafkaException where the broker refuses.

    Args:
      config: client settings with bootstrap.servers, as the Kafka client of Java has them.
      begin, end: microseconds; None is the topic's own.
    """
    client = {**librdkafka(config), "group.id": f"{GROUP_PREFIX}period", "enable.auto.commit": "false"}
    consumer = Consumer(client)
    try:
        spans = _spans(consumer, topic, begin, end)
        yield from _records(consumer, topic, spans, patience)
    finally:
        consumer.close()


def _spans(consumer: Consumer, topic: str, begin: int | None, end: int | None) -> dict[int, tuple[int, int]]:
    """First offset and the one behind the last, of every partition that has any."""
    partitions = sorted(consumer.list_topics(topic, timeout=TIMEOUT_SECONDS).topics[topic].partitions)

    def at(instant: int) -> dict[int, int]:
        asked = [TopicPartition(topic, partition, max(instant // MICROS_PER_MILLI, 0)) for partition in partitions]
        return {each.partition: each.offset for each in consumer.offsets_for_times(asked, timeout=TIMEOUT_SECONDS)}

    first = dict.fromkeys(partitions, 0) if begin is None else at(begin)
    behind = dict.fromkeys(partitions, -1) if end is None else at(end)
    spans = {}
    for partition in partitions:
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=TIMEOUT_SECONDS)
        # Negative: no record is so late.
        start = high if first[partition] < 0 else max(first[partition], low)
        stop = high if behind[partition] < 0 else behind[partition]
        if start < stop:
            spans[partition] = start, stop
    return spans


def _records(
    consumer: Consumer, topic: str, spans: Mapping[int, tuple[int, int]], patience: float
) -> Iterator[Message]:
    total = sum(stop - start for start, stop in spans.values())
    _log.info("Reading %s: up to %s records of %d partitions.", topic, f"{total:,}", len(spans))
    consumer.assign([TopicPartition(topic, partition, start) for partition, (start, _) in spans.items()])
    unread = {partition: stop for partition, (_, stop) in spans.items()}
    count = 0
    heard = told = time.monotonic()
    while unread:
        now = time.monotonic()
        if now > told + PROGRESS_SECONDS:
            told = now
            _log.info("%s of up to %s records read.", f"{count:,}", f"{total:,}")
        messages = consumer.consume(_MESSAGES, timeout=_WAIT_SECONDS)
        for message in messages:
            error = message.error()
            if error is not None:
                if error.retriable():
                    continue
                raise KafkaException(error)
            partition, offset = message.partition(), message.offset()
            assert partition is not None
            assert offset is not None
            if offset < unread.get(partition, 0):
                yield message
                count += 1
        if messages:
            # After the records: whoever takes them may take long.
            heard = time.monotonic()
        # Offsets may be missing at the end, of transactions or where the topic is compacted: the position goes on.
        for each in consumer.position([TopicPartition(topic, partition) for partition in unread]):
            if each.offset >= unread[each.partition]:
                del unread[each.partition]
                consumer.pause([TopicPartition(topic, each.partition)])
        if unread and now > heard + patience:
            raise PeriodError(
                f"Topic {topic} has given no record for {patience:g} s; {count:,} of up to {total:,} were read"
            )
