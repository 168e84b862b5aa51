"""Looks at the broker before a graph is built, so that a wrong address or topic is a sentence and no stack trace."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Container, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AclOperation, AdminClient, ConfigResource, ResourceType, TopicDescription

from ami_beam.io.librdkafka import ClientValue, SettingError, librdkafka

TIMEOUT_SECONDS = 15.0
REFUSED_SECONDS = 2.0
"""How long other brokers have to let us in when one has refused."""
GROUP_PREFIX = "ami-beam-"
_VERBS = {AclOperation.READ: "read", AclOperation.WRITE: "write"}
_log = logging.getLogger(__name__)


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
    bootstrap_servers: str,
    config: Mapping[str, str],
    inputs: Iterable[str],
    outputs: Iterable[str],
    native: bool = False,
    read_back: Iterable[str] = (),
) -> list[Topic]:
    """The input topics. Raises PreflightError when the broker does not answer or a topic is missing or not permitted.

    Args:
      native: whether the consumers will be the native connector's, which belong to groups and so need an ACL for them.
      read_back: those of the outputs that are read, too.
    """
    inputs, outputs = list(inputs), list(outputs)
    wanted = {topic: [AclOperation.WRITE] for topic in outputs} | {topic: [AclOperation.READ] for topic in inputs}
    for topic in read_back:
        wanted[topic].append(AclOperation.READ)
    errors: list[KafkaError] = []
    try:
        client_config = librdkafka({**config, "bootstrap.servers": bootstrap_servers})
        settings: dict[str, Any] = {**client_config, "error_cb": errors.append}
        admin = AdminClient(settings)
    except SettingError as error:
        raise PreflightError(f"--kafka_config: {error}") from None
    except KafkaException as error:
        # Such as a key file that cannot be read, or another password than it has.
        raise PreflightError(f"--kafka_config: {_plain(error.args[0])}") from None
    known: dict[str, TopicDescription] = {}
    missing: list[str] = []
    denied: dict[str, AclOperation] = {}
    for topic, answer in _described(admin, wanted, errors, bootstrap_servers).items():
        failure = answer.exception()
        if failure is None:
            known[topic] = answer.result()
            allowed = known[topic].authorized_operations
            # A broker that does not say what is allowed finds out later.
            for operation in wanted[topic] if allowed else ():
                if operation not in allowed:
                    denied.setdefault(topic, operation)
        elif failure.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            missing.append(topic)
        elif failure.args[0].code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            denied[topic] = wanted[topic][0]
        else:
            raise PreflightError(f"Topic {topic} cannot be looked at: {_plain(failure.args[0])}.")
    if denied:
        raise PreflightError(_denied(bootstrap_servers, dict(sorted(denied.items()))))
    if missing:
        missing.sort()
        raise PreflightError(
            f"Kafka at {bootstrap_servers} has no topic {', '.join(missing)}. Create them first, for example: "
            f"kafka-topics.sh --bootstrap-server {bootstrap_servers} --create --partitions 8 --topic {missing[0]}"
        )
    if native and inputs:
        _check_group(admin, bootstrap_servers)
    types = _timestamp_types(admin, inputs)
    partitions = {name: [each.id for each in known[name].partitions] for name in inputs}
    return [
        Topic(name, len(partitions[name]), types[name], _empty(client_config, name, partitions[name]))
        for name in inputs
    ]


def _described(
    admin: AdminClient, topics: Iterable[str], errors: list[KafkaError], bootstrap_servers: str
) -> dict[str, Future[TopicDescription]]:
    """What the broker says of each topic. Raises PreflightError when it says nothing, or lets nobody in."""
    # Asked for by name: topics that we may not see are left out of the list of all, as if they were missing.
    answers: dict[str, Future[TopicDescription]] = admin.describe_topics(
        TopicCollection(list(topics)), include_authorized_operations=True, request_timeout=TIMEOUT_SECONDS
    )
    until = time.monotonic() + TIMEOUT_SECONDS
    refused_at: float | None = None
    while not all(answer.done() for answer in answers.values()) and time.monotonic() < until:
        admin.poll(0.1)
        if refused_at is None and any(_refusal(error) for error in errors):
            refused_at = time.monotonic()
        # The client tries again until its time is up; another broker may let us in.
        if refused_at is not None and time.monotonic() > refused_at + REFUSED_SECONDS:
            break
    if any(not answer.done() or _unanswered(answer.exception()) for answer in answers.values()):
        reason = next(filter(None, map(_refusal, errors)), None)
        if reason is not None:
            raise PreflightError(f"--bootstrap_servers={bootstrap_servers}: {reason}")
        said = f" ({_plain(errors[0])})" if errors else ""
        raise PreflightError(
            f"--bootstrap_servers={bootstrap_servers}: no broker answered within {TIMEOUT_SECONDS:g} s{said}. "
            "Check the address, and security.protocol and credentials in --kafka_config."
        )
    return answers


def _unanswered(failure: BaseException | None) -> bool:
    # The client's own errors are negative, the broker's are not.
    return isinstance(failure, KafkaException) and failure.args[0].code() < 0


def _refusal(error: KafkaError) -> str | None:
    """A sentence, where the error says that the broker and this client do not accept each other."""
    text = error.str()
    if error.code() == KafkaError._AUTHENTICATION:
        return f"the broker refuses the login ({_plain(error)}). Check user name, password and sasl.mechanism."
    if "certificate verify failed" in text:
        return (
            "the broker's certificate is not signed by an authority that this run trusts. Name the right one: "
            "ssl.truststore.type=PEM and ssl.truststore.location in --kafka_config_file."
        )
    if "SSL alert" in text or "ssl/tls alert" in text:
        return (
            f"the broker refuses this client's certificate ({_plain(error)}). It needs one that the broker trusts: "
            "ssl.keystore.type=PEM and ssl.keystore.location in --kafka_config_file."
        )
    if error.code() == KafkaError._SSL:
        return f"no TLS connection ({_plain(error)}). Check security.protocol."
    return None


def _plain(error: KafkaError) -> str:
    """The client's words without its names for the connection and its states."""
    text = re.sub(r"^\w+://\S+: ", "", error.str())
    return re.sub(r" \(after \d+ms in state \w+(?:, \d+ identical error\(s\) suppressed)?\)$", "", text)


def _denied(bootstrap_servers: str, topics: Mapping[str, AclOperation]) -> str:
    listed = ", ".join(f"{_VERBS[operation]} {topic}" for topic, operation in topics.items())
    topic, operation = next(iter(topics.items()))
    return (
        f"Kafka at {bootstrap_servers} does not allow this run to {listed}, or there is no such topic. The ACLs are in "
        f"SECURITY.md, for example: kafka-acls.sh --bootstrap-server {bootstrap_servers} --add --allow-principal "
        f"User:ami-beam --operation {operation.name.capitalize()} --topic {topic}"
    )


def _check_group(admin: AdminClient, bootstrap_servers: str) -> None:
    (answer,) = admin.describe_consumer_groups([GROUP_PREFIX + "preflight"], request_timeout=TIMEOUT_SECONDS).values()
    failure = answer.exception()
    if isinstance(failure, KafkaException) and failure.args[0].code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
        raise PreflightError(
            f"Kafka at {bootstrap_servers} does not allow this run to describe consumer groups that begin with "
            f"{GROUP_PREFIX}, which reading needs. kafka-acls.sh --bootstrap-server {bootstrap_servers} --add "
            f"--allow-principal User:ami-beam --operation Describe --group {GROUP_PREFIX} "
            "--resource-pattern-type prefixed"
        )


def report(topics: Iterable[Topic], hold_nothing: Container[str] = ()) -> None:
    """Log what the run relies on, and warn of what delays results.

    Args:
      hold_nothing: names of those that no window waits for.
    """
    for topic in topics:
        _log.info("Topic %s: %d partitions, record time is %s.", topic.name, topic.partitions, topic.timestamp_type)
        if topic.timestamp_type == "CreateTime":
            _log.info(
                "Record times of %s are set by its producers; they must be arrival times. With "
                "message.timestamp.type=LogAppendTime the broker sets them.",
                topic.name,
            )
            if topic.empty_partitions and topic.name not in hold_nothing:
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
    consumer = Consumer({**config, "group.id": f"{GROUP_PREFIX}preflight", "enable.auto.commit": "false"})
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
