"""Kafka as a sink without a JVM: confluent-kafka's idempotent producer, flushed with every bundle."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import apache_beam as beam
from confluent_kafka import KafkaError, KafkaException, Producer

from ami_beam.io.librdkafka import librdkafka
from ami_beam.records import KeyedRecords

FLUSH_SECONDS = 120.0
_DEFAULTS = {"linger.ms": 20, "compression.type": "lz4", "delivery.report.only.error": True}
_producers: dict[tuple[tuple[str, Any], ...], Producer] = {}
_lock = threading.Lock()


class WriteTopicNatively(beam.PTransform):
    """Every record reaches the topic at least once, acknowledged by all in-sync replicas.

    A bundle ends only after the broker has acknowledged its records, and fails with the topic and the broker's reason
    when it refused one, so that the runner goes back to its last checkpoint. Processes share one idempotent producer
    for a configuration.

    Args:
      topic: its name.
      config: client settings, broker included, those of security by their Java names. It becomes a part of the job,
        so secrets must be references (`kafka_config.for_graph`), which each producer resolves when it is made.
    """

    def __init__(self, topic: str, config: Mapping[str, Any]):
        super().__init__()
        self._topic = topic
        self._config = tuple(sorted(config.items()))

    def expand(self, records: beam.PCollection[KeyedRecords]) -> Any:
        return records | "Produce" >> beam.ParDo(_ProduceDoFn(self._topic, self._config))


@beam.typehints.with_input_types(KeyedRecords)
class _ProduceDoFn(beam.DoFn):
    def __init__(self, topic: str, config: tuple[tuple[str, Any], ...]):
        self._topic = topic
        self._config = config
        self._producer: Producer | None = None
        self._open = 0
        self._failure: str | None = None

    def start_bundle(self) -> None:
        self._open, self._failure = 0, None
        if self._producer is None:
            self._producer = _producer(self._config)

    def process(self, records: KeyedRecords) -> None:
        assert self._producer is not None
        produce, topic, refused = self._producer.produce, self._topic, self._refused
        for key, value in zip(records.keys, records.values, strict=True):
            while True:
                try:
                    produce(topic, value, key, on_delivery=refused)
                    break
                except BufferError:  # the producer's queue is full: wait for room
                    self._producer.poll(0.1)
                except KafkaException as error:
                    # Refused without being sent, for example for its size.
                    raise self._failed(f"refused a record: {_reason(error.args[0])}") from error
            self._open += 1
        self._producer.poll(0)

    def finish_bundle(self) -> None:
        if not self._open:
            return
        assert self._producer is not None
        left = self._producer.flush(FLUSH_SECONDS)
        if self._failure is not None:
            raise self._failed(f"refused a record: {self._failure}")
        if left:
            raise self._failed(f"did not acknowledge the records within {FLUSH_SECONDS:g} s")

    def _failed(self, reason: str) -> RuntimeError:
        # After a fatal error an idempotent producer sends nothing any more: the next attempt gets another one.
        with _lock:
            if _producers.get(self._config) is self._producer:
                del _producers[self._config]
        self._producer = None
        return RuntimeError(f"Kafka, topic {self._topic}: {reason}")

    def _refused(self, error: Any, message: Any) -> None:
        if error is not None:
            self._failure = _reason(error)


def _reason(error: KafkaError) -> str:
    denied = error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED
    return error.str() + (". Its ACLs must allow the operation Write" if denied else "")


def _producer(config: tuple[tuple[str, Any], ...]) -> Producer:
    with _lock:
        if config not in _producers:
            client = librdkafka(dict(config))
            _producers[config] = Producer({**_DEFAULTS, **client, "enable.idempotence": True, "acks": "all"})
        return _producers[config]
