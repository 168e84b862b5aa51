"""Writes acknowledgements of alarms to their topic: what was answered with success is there, under the user's name."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

import msgspec
from confluent_kafka import KafkaError, KafkaException, Producer

from ami_beam.dashboard.alarm_board import Acknowledgement
from ami_beam.dashboard.hub import AckJson
from ami_beam.instants import format_instant
from ami_beam.io.librdkafka import librdkafka

_DELIVERY_SECONDS = 10.0


class NotWrittenError(RuntimeError):
    """No broker took it; the message says why."""


class AckWriter:
    """Any thread may write; each waits for the broker's word."""

    def __init__(self, config: Mapping[str, str], topic: str) -> None:
        self._topic = topic
        self._config = config
        self._producer: Producer | None = None
        self._lock = threading.Lock()

    def write(self, said: Acknowledgement) -> None:
        """Returns when the brokers have it. Raises NotWrittenError, after at most ten seconds."""
        record = AckJson(said.alarm_id, said.user, format_instant(said.at), said.comment)
        answers: list[KafkaError | None] = []

        def answered(error: KafkaError | None, _: Any) -> None:
            answers.append(error)

        with self._lock:
            try:
                if self._producer is None:
                    settings: dict[str, Any] = {
                        **librdkafka(self._config),
                        "enable.idempotence": True,
                        "message.timeout.ms": int(_DELIVERY_SECONDS * 1000),
                    }
                    self._producer = Producer(settings)
                value, key = msgspec.json.encode(record), said.alarm_id.encode()
                self._producer.produce(self._topic, value, key, on_delivery=answered)
                until = time.monotonic() + _DELIVERY_SECONDS + 2
                while not answers and time.monotonic() < until:
                    self._producer.poll(0.1)
            except (KafkaException, BufferError) as error:
                raise NotWrittenError(f"The acknowledgement could not be written: {error}") from None
        if not answers:
            raise NotWrittenError("The acknowledgement could not be written: no broker has answered")
        if answers[0] is not None:
            raise NotWrittenError(f"The acknowledgement could not be written: {answers[0].str()}")
