"""The adapter's topics: looked at before the first request, made where that is asked for, and read up to their ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

from ami_beam.io.kafka_errors import NO_LEADER, once_led
from ami_beam.io.kafka_preflight import GROUP_PREFIX, TIMEOUT_SECONDS, PreflightError
from ami_beam.io.librdkafka import librdkafka

CURSORS_TOPIC = "ami.headend.cursors"
SET_ASIDE_TOPIC = "ami.headend.setaside"
Offsets = dict[int, int]
Found = TypeVar("Found")


def make_missing(config: Mapping[str, str], topics: Mapping[str, int]) -> list[str]:
    """Create those that are not there, with so many partitions; returns their names. The cursors topic is compacted.

    Raises PreflightError where no broker answers, KafkaException where one refuses.
    """
    admin = AdminClient(librdkafka(config))
    try:
        there = admin.list_topics(timeout=TIMEOUT_SECONDS).topics
    except KafkaException as error:
        servers = config["bootstrap.servers"]
        raise PreflightError(
            f"--bootstrap_servers={servers}: no broker answered ({error.args[0].str()}). Check the address, and"
            " security.protocol and credentials in --kafka_config."
        ) from None
    wanted = [
        NewTopic(name, partitions, config={"cleanup.policy": "compact"} if name == CURSORS_TOPIC else {})
        for name, partitions in topics.items()
        if name not in there
    ]
    for done in admin.create_topics(wanted, operation_timeout=TIMEOUT_SECONDS).values() if wanted else ():
        try:
            done.result(TIMEOUT_SECONDS)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise
    return [each.topic for each in wanted]


def check_compacted(config: Mapping[str, str], bootstrap_servers: str) -> None:
    """Raises PreflightError where the cursors topic forgets: sources would begin anew when its retention is over."""
    admin = AdminClient(librdkafka(config))
    (answer,) = admin.describe_configs([ConfigResource(ResourceType.TOPIC, CURSORS_TOPIC)]).values()
    try:
        policy = answer.result(TIMEOUT_SECONDS)["cleanup.policy"].value
    except KafkaException:
        return  # without DescribeConfigs it cannot be known
    if policy != "compact":
        raise PreflightError(
            f"Topic {CURSORS_TOPIC} has cleanup.policy={policy}, so that positions would be deleted with time:"
            f" kafka-configs.sh --bootstrap-server {bootstrap_servers} --alter --entity-type topics --entity-name"
            f" {CURSORS_TOPIC} --add-config cleanup.policy=compact"
        )


def offsets_at(config: Mapping[str, str], topic: str, instant: int) -> Offsets:
    """Of every partition the first record with this record time or a later one; partitions without one are left out."""
    consumer = _consumer(config, "read_committed")
    try:
        asked = [TopicPartition(topic, each, max(0, instant // 1_000)) for each in _partitions(consumer, topic)]
        found = _patiently(lambda: consumer.offsets_for_times(asked, timeout=TIMEOUT_SECONDS))
        return {each.partition: each.offset for each in found if each.offset >= 0}
    finally:
        consumer.close()


def read_to_end(
    config: Mapping[str, str], topic: str, starts: Offsets | None, waiting: Callable[[float], None]
) -> Iterator[Message]:
    """Every committed record from the starts, or the beginning, to the end that the topic has now.

    Open transactions of others before that end are waited for: what was committed behind them belongs to it.

    Args:
      waiting: called with 0 again and again; may raise to end the reading.
    """
    ends = _ends(config, topic)
    begins = dict.fromkeys(ends, 0) if starts is None else starts
    unread = {each: ends[each] for each, begin in begins.items() if begin < ends.get(each, 0)}
    if not unread:
        return
    consumer = _consumer(config, "read_committed")
    try:
        consumer.assign([TopicPartition(topic, each, begins[each]) for each in unread])
        while unread:
            waiting(0.0)
            for message in consumer.consume(10_000, timeout=0.05):
                partition, offset = message.partition(), message.offset()
                assert partition is not None
                assert offset is not None
                error = message.error()
                if error is None:
                    if offset < unread.get(partition, 0):
                        yield message
                    if offset + 1 >= unread.get(partition, offset + 2):
                        unread.pop(partition, None)
                elif error.code() == KafkaError._PARTITION_EOF:
                    if offset >= unread.get(partition, offset + 1):
                        unread.pop(partition, None)
                elif not error.retriable():
                    raise KafkaException(error)
    finally:
        consumer.close()


def _ends(config: Mapping[str, str], topic: str) -> Offsets:
    """Behind the last record of every partition, committed or not."""
    consumer = _consumer(config, "read_uncommitted")
    try:
        ends = {}
        for each in _partitions(consumer, topic):
            place = TopicPartition(topic, each)
            ends[each] = _patiently(partial(consumer.get_watermark_offsets, place, timeout=TIMEOUT_SECONDS))[1]
        return ends
    finally:
        consumer.close()


def _patiently(ask: Callable[[], Found]) -> Found:
    """A topic that was just made may not be known everywhere, either."""
    return once_led(ask, TIMEOUT_SECONDS, (*NO_LEADER, KafkaError.UNKNOWN_TOPIC_OR_PART))


def _partitions(consumer: Consumer, topic: str) -> list[int]:
    until = time.monotonic() + TIMEOUT_SECONDS
    while True:
        found = consumer.list_topics(topic, timeout=TIMEOUT_SECONDS).topics[topic]
        if found.error is None:
            return sorted(found.partitions)
        if time.monotonic() > until:
            raise KafkaException(found.error)
        time.sleep(0.2)


def _consumer(config: Mapping[str, str], isolation: str) -> Consumer:
    return Consumer(
        {
            **librdkafka(config),
            "group.id": f"{GROUP_PREFIX}headend",
            "isolation.level": isolation,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "enable.partition.eof": True,
            # A broker keeps a question about an end for so long; half a second by default, at every start.
            "fetch.wait.max.ms": 20,
            # Records that retention has deleted cannot be read back.
            "auto.offset.reset": "earliest",
        }
    )
