"""Where simulated records go: replay files, or Kafka with the record times as message timestamps."""

from __future__ import annotations

import base64
import csv
import gzip
import json
from pathlib import Path
from typing import IO, Protocol

from confluent_kafka import KafkaError, KafkaException, Message, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from ami_beam.instants import MICROS_PER_MILLI
from ami_beam.simulator.simulation import Record, Simulation

METER_COUNTS_FILE = "transformer_meter_count.csv"
REGISTRY_FILE = "meter_registry.csv"
TRUTH_FILE = "truth.jsonl"
_TIMEOUT_S = 15


class RecordSink(Protocol):
    """Takes records in arrival order."""

    def write(self, record: Record) -> None: ...

    def idle(self) -> None:
        """Called while the run waits for the wall clock."""

    def close(self) -> int:
        """Everything written is kept when this returns. Returns how many records were lost."""


class ReplayFiles:
    """One gzip file of JSON lines a topic, in arrival order: what `--source=files` replays.

    The same records give the same bytes: the files carry no name and no time of their own.
    """

    def __init__(self, directory: Path, files: dict[str, str]) -> None:
        """`files` gives each topic's file name."""
        self._files: dict[str, gzip.GzipFile] = {}
        self._raw: list[IO[bytes]] = []
        for topic, name in files.items():
            raw = open(directory / name, "wb")  # noqa: SIM115 - closed in close()
            self._raw.append(raw)
            self._files[topic] = gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=4, mtime=0)

    def write(self, record: Record) -> None:
        topic, micros, key, value = record
        line = b'{"ts_ms":%d,"key":"%s","value_b64":"%s"}\n'
        self._files[topic].write(line % (micros // MICROS_PER_MILLI, key, base64.b64encode(value)))

    def idle(self) -> None:
        pass

    def close(self) -> int:
        for file in self._files.values():
            file.close()
        for raw in self._raw:
            raw.close()
        return 0


class KafkaTopics:
    """Publishes with the record time as the message's timestamp and the meter as its key.

    A meter always goes to the same partition, so its records keep their order there.
    """

    def __init__(self, config: dict[str, str]) -> None:
        self.lost = 0
        self._producer = Producer(
            {
                "linger.ms": "20",
                "compression.type": "lz4",
                "partitioner": "murmur2_random",
                "enable.idempotence": "true",
                "queue.buffering.max.messages": "200000",
                "delivery.report.only.error": True,
                "on_delivery": self._delivered,
                **config,
            }
        )
        self._written = 0

    @staticmethod
    def create(config: dict[str, str], partitions: dict[str, int], keep_all: bool) -> list[str]:
        """Creates the topics that are missing and returns their names. `keep_all`: their records never expire.

        Records of old times would otherwise be deleted by the broker's retention before they are read.
        """
        admin = AdminClient(dict(config))
        existing = admin.list_topics(timeout=_TIMEOUT_S).topics
        retention = {"retention.ms": "-1"} if keep_all else {}
        missing = [
            NewTopic(topic, num_partitions=count, replication_factor=-1, config=retention)
            for topic, count in partitions.items()
            if topic not in existing
        ]
        for future in admin.create_topics(missing, operation_timeout=_TIMEOUT_S).values() if missing else ():
            try:
                future.result()
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise
        return [topic.topic for topic in missing]

    def write(self, record: Record) -> None:
        topic, micros, key, value = record
        while True:
            try:
                self._producer.produce(topic, value, key, timestamp=micros // MICROS_PER_MILLI)
                break
            except BufferError:
                self._producer.poll(0.1)
        self._written += 1
        if self._written % 1000 == 0:
            self._producer.poll(0)

    def idle(self) -> None:
        self._producer.poll(0)

    def close(self) -> int:
        left = self._producer.flush(_TIMEOUT_S)
        return self.lost + int(left)

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self.lost += 1


class Truth:
    """`truth.jsonl`: one line a condition, written as soon as it begins."""

    def __init__(self, directory: Path, simulation: Simulation) -> None:
        self._file = open(directory / TRUTH_FILE, "w", encoding="utf-8")  # noqa: SIM115 - closed in close()
        self._simulation = simulation
        self._written = 0

    def update(self) -> None:
        conditions = self._simulation.conditions
        if self._written < len(conditions):
            for condition in conditions[self._written :]:
                self._file.write(json.dumps(condition.truth(self._simulation.network)) + "\n")
            self._written = len(conditions)
            self._file.flush()

    def close(self) -> None:
        self.update()
        self._file.close()


def meter_count_rows(simulation: Simulation) -> list[dict[str, object]]:
    """The meter counts as they are published: a field without a value is left out."""
    rows: list[dict[str, object]] = []
    for transformer, total, nominal, delay, collector in simulation.network.meter_counts(simulation.clock):
        row: dict[str, object] = {"transformer_id": transformer, "total_meters": total, "nominal_voltage_v": nominal}
        if delay is not None:
            row["receipt_delay_minutes"] = delay
        row["collection_group"] = collector
        rows.append(row)
    return rows


def write_registry(directory: Path, simulation: Simulation) -> None:
    """Writes `transformer_meter_count.csv` and `meter_registry.csv`."""
    with open(directory / METER_COUNTS_FILE, "w", newline="", encoding="utf-8") as file:
        fields = ["transformer_id", "total_meters", "nominal_voltage_v", "receipt_delay_minutes", "collection_group"]
        table = csv.DictWriter(file, fields, restval="", lineterminator="\n")
        table.writeheader()
        table.writerows(meter_count_rows(simulation))
    with open(directory / REGISTRY_FILE, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        ids = ["meter_id", "service_point_id", "customer_id", "transformer_id", "feeder_id"]
        writer.writerow([*ids, "profile", "has_pv", "collection_group"])
        writer.writerows(simulation.network.registry())
