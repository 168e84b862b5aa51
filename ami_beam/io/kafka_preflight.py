"""Looks at the broker before a graph is built, so that a wrong address or topic is a sentence and no stack trace."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

TIMEOUT_SECONDS = 15.0
ClientValue = str | int | float | bool
_log = logging.getLogger(__name__)
_JAAS_CREDENTIAL = re.compile(r'\b(username|password)\s*=\s*"((?:[^"\\]|\\.)*)"')


class PreflightError(RuntimeError):
    """The broker cannot serve this run: says what is wrong and what to do."""


@dataclass(frozen=True)
class Topic:
    """What a run needs to know of an input topic."""

    name: str
    partitions: int
    timestamp_type: str
    """`CreateTime` or `LogAppendTime`."""
    empty_partitions: tuple[int, ...]
    """Partitions that have never held a record."""


def inspect(
    bootstrap_servers: str, config: Mapping[str, str], inputs: Iterable[str], outputs: Iterable[str]
) -> list[Topic]:
    """The input topics. Raises PreflightError when the broker does not answer or a topic is missing."""
    client_config = librdkafka(bootstrap_servers, config)
    try:
        admin = AdminClient(client_config)
        known = admin.list_topics(timeout=TIMEOUT_SECONDS).topics
    except KafkaException as error:
        raise PreflightError(
            f"--bootstrap_servers={bootstrap_servers}: no broker answered within {TIMEOUT_SECONDS:g} s "
            f"({error.args[0].str()}). Check the address, and security.protocol and credentials in --kafka_config."
        ) from None
    inputs = list(inputs)
    missing = sorted({*inputs, *outputs} - known.keys())
    if missing:
        raise PreflightError(
            f"Kafka at {bootstrap_servers} has no topic {', '.join(missing)}. Create them first, for example: "
            f"kafka-topics.sh --bootstrap-server {bootstrap_servers} --create --partitions 8 --topic {missing[0]}"
        )
    types = _timestamp_types(admin, inputs)
    return [
        Topic(name, len(known[name].partitions), types[name], _empty(client_config, name, list(known[name].partitions)))
        for name in inputs
    ]


def report(topics: Iterable[Topic]) -> None:
    """Log what the run relies on, and warn of what delays results."""
    for topic in topics:
        _log.info("Topic %s: %d partitions, record time is %s.", topic.name, topic.partitions, topic.timestamp_type)
        if topic.timestamp_type == "CreateTime":
            _log.info(
                "Record times of %s are set by its producers; they must be arrival times. With "
                "message.timestamp.type=LogAppendTime the broker sets them.",
                topic.name,
            )
            if topic.empty_partitions:
                _log.warning(
                    "Partitions %s of %s have never held a record. Beam's KafkaIO holds every window back until each "
                    "partition has one, unless the topic has message.timestamp.type=LogAppendTime.",
                    ", ".join(map(str, topic.empty_partitions)),
                    topic.name,
                )


def _timestamp_types(admin: AdminClient, names: list[str]) -> dict[str, str]:
    if not names:
        return {}
    resources = {ConfigResource(ResourceType.TOPIC, name): name for name in names}
    types = {}
    for resource, answer in admin.describe_configs(list(resources), request_timeout=TIMEOUT_SECONDS).items():
        try:
            types[resource.name] = answer.result()["message.timestamp.type"].value
        except (KafkaException, KeyError) as error:
            _log.warning("Timestamp type of %s is not readable (%s); CreateTime is assumed.", resource.name, error)
            types[resource.name] = "CreateTime"
    return types


def _empty(config: dict[str, ClientValue], topic: str, partitions: list[int]) -> tuple[int, ...]:
    consumer = Consumer({**config, "group.id": "ami-beam-preflight", "enable.auto.commit": "false"})
    try:
        ends = {
            partition: consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=TIMEOUT_SECONDS)[1]
            for partition in partitions
        }
    except KafkaException as error:
        raise PreflightError(f"Topic {topic} cannot be read: {error.args[0].str()}.") from None
    finally:
        consumer.close()
    return tuple(partition for partition, end in ends.items() if end == 0)


def librdkafka(bootstrap_servers: str, config: Mapping[str, str]) -> dict[str, ClientValue]:
    """Java client settings as the look needs them."""
    own: dict[str, ClientValue] = {
        name: value for name, value in config.items() if name.startswith(("security.", "sasl.mechanism"))
    }
    credentials = dict(_JAAS_CREDENTIAL.findall(config.get("sasl.jaas.config", "")))
    for name, value in credentials.items():
        own[f"sasl.{name}"] = re.sub(r"\\(.)", r"\1", value)
    return {**own, "bootstrap.servers": bootstrap_servers, "log_level": "0"}
