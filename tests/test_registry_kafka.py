"""A meter registry that is corrected while a run on Flink reads a topic: rows of before are revised in the topic."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from ami_beam.instants import MICROS_PER_MINUTE, format_instant
from ami_beam.local.kafka_broker import KafkaBroker
from tests.kafka_replay import READS, Outputs, Run, create_topics
from tests.test_end_to_end_kafka import wait_for

pytestmark = pytest.mark.processes
WINDOW = 15
HEADER = "meter_id,service_point_id,transformer_id,feeder_id\n"
METERS = {f"M{number}": "T1" if number < 3 else "T2" for number in range(5)}
SUMMARIES, RECEIPTS = "ami.transformer.summary", "ami.transformer.receipt"


def registry(places: dict[str, str]) -> str:
    return HEADER + "".join(f"{meter},S-{meter},{place},F-{place}\n" for meter, place in places.items())


class Hours:
    """Reads of some windows that are over, each published with the time at which it came."""

    def __init__(self, broker: KafkaBroker):
        self._producer = Producer({"bootstrap.servers": broker.bootstrap_servers})
        size = WINDOW * MICROS_PER_MINUTE
        self._begin = (time.time_ns() // 1_000 - 6 * 60 * MICROS_PER_MINUTE) // size * size

    def end(self, window: int) -> str:
        return format_instant(self._begin + window * WINDOW * MICROS_PER_MINUTE)

    def pass_(self, first: int, last: int) -> None:
        for window in range(first, last + 1):
            for meter in METERS:
                read: dict[str, Any] = {
                    "meter_id": meter, "service_point_id": "S", "customer_id": "C", "transformer_id": "WRONG",
                    "feeder_id": "WRONG", "read_type": "INTERVAL", "interval_start": self.end(window - 1),
                    "interval_end": self.end(window), "consumption_kwh": 0.5, "delivered_kwh": 0.5,
                    "received_kwh": 0.0, "voltage_v": 230.0, "power_quality_code": 0, "estimated_flag": False,
                    "read_ts": self.end(window),
                }  # fmt: skip
                came = self._begin // 1_000 + window * WINDOW * 60_000 + 60_000
                self._producer.produce(READS, json.dumps(read).encode(), meter.encode(), timestamp=came)
        assert self._producer.flush(30) == 0


def test_both_transformers_are_revised_in_the_topic(tmp_path: Path) -> None:
    file = tmp_path / "registry.csv"
    file.write_text(registry(METERS))
    with KafkaBroker() as broker:
        create_topics(broker, partitions=1)
        hours = Hours(broker)
        hours.pass_(1, 4)
        outputs = Outputs(broker, tmp_path / "out")

        def last(topic: str, transformer: str, window: int) -> dict[str, Any] | None:
            rows = [
                row
                for row in outputs.rows[topic]
                if (row["transformer_id"], row["window_end"]) == (transformer, hours.end(window))
            ]
            return rows[-1] if rows else None

        def meters(topic: str, window: int) -> list[int | None]:
            found = (last(topic, transformer, window) for transformer in ("T1", "T2"))
            return [None if row is None else row["meters_reported"] for row in found]

        arguments = [
            "--runner=FlinkRunner", f"--bootstrap_servers={broker.bootstrap_servers}", "--start=earliest",
            f"--meter_registry={file}", "--meter_counts_refresh=1s", "--kafka_io=native", "--parallelism=1",
            "--shards=4",
        ]  # fmt: skip
        run = Run(arguments, tmp_path / "run.log")
        try:
            wait_for(run, outputs, lambda: meters(RECEIPTS, 3) == [3, 2], 120)
            assert meters(SUMMARIES, 2) == [3, 2]
            # M2 has been on T2 all the time.
            file.write_text(registry({**METERS, "M2": "T2"}))
            time.sleep(2)
            hours.pass_(5, 7)
            wait_for(run, outputs, lambda: meters(RECEIPTS, 6) == [2, 3] and meters(SUMMARIES, 2) == [2, 3], 120)
            for window in (1, 2, 3, 4, 5, 6):
                assert meters(SUMMARIES, window) == [2, 3]
            row = last(SUMMARIES, "T2", 2)
            assert row is not None
            assert (row["feeder_id"], row["revision"], row["total_consumption_kwh"]) == ("F-T2", 1, 1.5)
            wait_for(run, outputs, lambda: meters(RECEIPTS, 2) == [2, 3], 60)
        finally:
            code = run.stop()
            outputs.close()
    assert code == 0
    # The head-end was wrong all the time, and none of it is in the rows.
    assert {row["transformer_id"] for rows in outputs.rows.values() for row in rows if "transformer_id" in row} == {
        "T1", "T2",
    }  # fmt: skip
