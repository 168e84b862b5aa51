"""A period of a topic, read once from its first to its last record: for runs that end."""

from __future__ import annotations

import gzip
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from ami_beam.codecs.replay_lines import lines_of, ts_ms_of
from ami_beam.instants import MICROS_PER_MILLI
from ami_beam.io.files import BATCH_RECORDS
from ami_beam.io.kafka_preflight import GROUP_PREFIX, TIMEOUT_SECONDS
from ami_beam.io.librdkafka import librdkafka
from ami_beam.records import RecordBatch

PROGRESS_SECONDS = 10
PATIENCE_SECONDS = 60.0
_MESSAGES = 10_000
Span = tuple[int, int]
"""First offset, and the one behind the last."""
Place = None | int | Mapping[int, int]
"""Of a topic: its own begin or end, an instant in microseconds, or offsets of partitions (no others are read)."""
_WAIT_SECONDS = 0.1
"""The client waits so long for more messages, also where the last one is there."""
_log = logging.getLogger(__name__)


class PeriodError(RuntimeError):
    """The topic stopped giving records: names it, and how far reading came."""


def export_period(config: Mapping[str, str], topic: str, begin: int | None, end: int | None, path: Path) -> int:
    """Write the records of `read_period` to a new file, as `--source=files` reads it. Returns how many there were."""
    count = 0
    with gzip.open(path, "wb", compresslevel=1) as file:
        messages = read_period(config, topic, begin, end)
        while several := list(islice(messages, BATCH_RECORDS)):
            file.write(lines_of(several))
            count += len(several)
    return count


def period_batches(config: Mapping[str, str], topic: str, begin: int | None, end: int | None) -> Iterator[RecordBatch]:
    """The records of `read_period`, as the pipeline's sources give them."""
    messages = read_period(config, topic, begin, end)
    while several := list(islice(messages, BATCH_RECORDS)):
        batch = RecordBatch(topic, [], [], [], [])
        for message in several:
            ts_ms = ts_ms_of(message)
            batch.partitions.append(message.partition() or 0)
            batch.offsets.append(message.offset() or 0)
            batch.record_times.append(None if ts_ms is None else ts_ms * MICROS_PER_MILLI)
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
    with _consumer(config) as consumer:
        spans = _spans(consumer, topic, begin, end)
        for messages in _records(consumer, topic, spans, patience, _log_progress):
            yield from messages


def spans_of(config: Mapping[str, str], topic: str, begin: Place, end: Place) -> dict[int, Span]:
    """Where a period begins and ends, of every partition; both are the same where it holds nothing of the period.

    Raises PeriodError for a partition that there is not, KafkaException where the broker refuses.
    """
    with _consumer(config) as consumer:
        return _spans(consumer, topic, begin, end)


def read_spans(
    config: Mapping[str, str],
    topic: str,
    spans: Mapping[int, Span],
    progress: Callable[[int, int], None],
    patience: float = PATIENCE_SECONDS,
) -> Iterator[list[Message]]:
    """Every record in the spans, of a partition in the order of offsets, read_committed. Raises as `read_period` does.

    Args:
      progress: called now and then with how many records were read, and how many there are at most.
    """
    with _consumer(config) as consumer:
        yield from _records(consumer, topic, spans, patience, progress)


@contextmanager
def _consumer(config: Mapping[str, str]) -> Iterator[Consumer]:
    consumer = Consumer(
        {
            "isolation.level": "read_committed",
            **librdkafka(config),
            "group.id": f"{GROUP_PREFIX}period",
            "enable.auto.commit": "false",
            # Else the client goes to the end, past everything, where retention has taken what was to be read.
            "auto.offset.reset": "error",
        }
    )
    try:
        yield consumer
    finally:
        consumer.close()


def _spans(consumer: Consumer, topic: str, begin: Place, end: Place) -> dict[int, Span]:
    partitions = sorted(consumer.list_topics(topic, timeout=TIMEOUT_SECONDS).topics[topic].partitions)

    def offsets(place: Place) -> dict[int, int | None]:
        """None: behind all records."""
        if place is None:
            return dict.fromkeys(partitions)
        if not isinstance(place, int):
            unknown = sorted(set(place) - set(partitions))
            if unknown:
                raise PeriodError(
                    f"Topic {topic} has no partition {unknown[0]}; it has {partitions[0]} to {partitions[-1]}"
                )
            return dict(place)
        asked = [TopicPartition(topic, partition, max(place // MICROS_PER_MILLI, 0)) for partition in partitions]
        found = consumer.offsets_for_times(asked, timeout=TIMEOUT_SECONDS)
        # Negative: no record is so late.
        return {each.partition: each.offset if each.offset >= 0 else None for each in found}

    first, behind = offsets(begin), offsets(end)
    spans = {}
    for partition in sorted(first.keys() & behind.keys()):
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=TIMEOUT_SECONDS)
        start, stop = first[partition], behind[partition]
        start = low if begin is None else high if start is None else min(max(start, low), high)
        stop = high if stop is None else min(stop, high)
        spans[partition] = start, max(start, stop)
    return spans


def _records(
    consumer: Consumer,
    topic: str,
    spans: Mapping[int, Span],
    patience: float,
    progress: Callable[[int, int], None],
) -> Iterator[list[Message]]:
    total = sum(stop - start for start, stop in spans.values())
    unread = {partition: stop for partition, (start, stop) in spans.items() if start < stop}
    _log.info("Reading %s: up to %s records of %d partitions.", topic, f"{total:,}", len(unread))
    if not unread:
        return
    consumer.assign([TopicPartition(topic, partition, spans[partition][0]) for partition in unread])
    count = 0
    heard = told = time.monotonic()
    while unread:
        now = time.monotonic()
        if now > told + PROGRESS_SECONDS:
            told = now
            progress(count, total)
        messages = consumer.consume(_MESSAGES, timeout=_WAIT_SECONDS)
        within = []
        for message in messages:
            error = message.error()
            if error is not None:
                _raise_for(error, topic)
                continue
            partition, offset = message.partition(), message.offset()
            assert partition is not None
            assert offset is not None
            if offset < unread.get(partition, 0):
                within.append(message)
        if within:
            yield within
            count += len(within)
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


def _raise_for(error: KafkaError, topic: str) -> None:
    """Unless it is nothing that lasts."""
    if error.code() == KafkaError._AUTO_OFFSET_RESET:
        raise PeriodError(
            f"Topic {topic} has deleted records of the period before they were read: {error.str()}. Start later, or"
            " keep records longer (retention.ms, retention.bytes)"
        )
    if not error.retriable():
        raise KafkaException(error)


def _log_progress(count: int, total: int) -> None:
    _log.info("%s of up to %s records read.", f"{count:,}", f"{total:,}")
