"""Watches a topic of summary rows: how many transformers each window has so far, and the newest row of each."""

from __future__ import annotations

import re
import time
from collections import Counter
from typing import Any

import orjson
from confluent_kafka import Consumer, KafkaException, TopicPartition

_END = re.compile(rb'"window_end": ?"([^"]+)"')
COMPARED = (
    *("total_consumption_kwh", "total_delivered_kwh", "total_received_kwh", "meters_reported", "avg_voltage_v"),
    *("min_voltage_v", "max_voltage_v", "estimated_count", "voltage_rejected_count", "zero_voltage_count"),
)


class SummaryWatch:
    """Rows that are published from its making on."""

    def __init__(self, bootstrap_servers: str, topic: str) -> None:
        self._consumer = Consumer(
            {"bootstrap.servers": bootstrap_servers, "group.id": "bench", "enable.auto.commit": "false"}
        )
        partitions = self._consumer.list_topics(topic, timeout=10).topics[topic].partitions
        ends = [(p, self._consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=10)[1]) for p in partitions]
        self._consumer.assign([TopicPartition(topic, partition, end) for partition, end in ends])
        self._values: list[bytes] = []
        self._arrived: list[float] = []
        self.rows: Counter[str] = Counter()
        """By window end: how many rows, revisions included."""

    def collect(self, seconds: float) -> None:
        """Take what comes within `seconds`."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            for message in self._consumer.consume(5_000, timeout=min(left, 0.1)):
                if message.error() is not None:
                    raise KafkaException(message.error())
                value = message.value()
                self._values.append(value)
                found = _END.search(value)
                if found is None:
                    raise ValueError(f"no window_end in {value[:200]!r}")
                self.rows[found[1].decode()] += 1

    def newest(self) -> dict[tuple[str, str, str], tuple[Any, ...]]:
        """By (transformer, feeder, window end): the figures of the row that was published last."""
        rows = {}
        for value in self._values:
            row = orjson.loads(value)
            figures = tuple(row[name] for name in COMPARED)
            rows[row["transformer_id"], row["feeder_id"], row["window_end"]] = figures
        return rows

    def close(self) -> None:
        self._consumer.close()
