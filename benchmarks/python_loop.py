"""The summary rows by hand: one process, confluent-kafka, orjson and dicts. No checkpoints, no checks of the input.

`python python_loop.py BOOTSTRAP READS_TOPIC ROWS_TOPIC` runs until SIGTERM. It follows the contract where that decides
the rows: right-closed windows of 15 minutes, the greatest read_ts wins, a window is due when the least record time of
the partitions passes its end by 5 minutes, later reads revise it after 10 s of record time, for 24 hours.
"""

from __future__ import annotations

import signal
import sys
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from functools import cache
from math import fsum
from typing import Any

import orjson
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

WINDOW = 900_000
COLLECTION_DELAY = 300_000
LATE_GATHER = 10_000
ALLOWED_LATENESS = 86_400_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_parse = datetime.fromisoformat


@cache
def _interval_end(text: str) -> tuple[int, int]:
    """(window end in ms, interval end in µs) since 1970."""
    micros = (_parse(text) - _EPOCH) // timedelta(microseconds=1)
    return -(-micros // (WINDOW * 1_000)) * WINDOW, micros


def _text(millis: int) -> str:
    return (_EPOCH + timedelta(milliseconds=millis)).isoformat().replace("+00:00", "Z")


class Loop:
    """State by window, transformer, (meter, interval_end): the winning read so far."""

    def __init__(self, producer: Producer, topic: str) -> None:
        self._producer = producer
        self._topic = topic
        self._windows: defaultdict[int, defaultdict[str, dict]] = defaultdict(lambda: defaultdict(dict))
        self._published: set[int] = set()
        self._late: defaultdict[int, set[str]] = defaultdict(set)
        self._record_times: dict[int, int] = {}
        self._gathered = 0

    def take(self, messages: list[Any]) -> None:
        """One batch; publishes what becomes due by it."""
        for message in messages:
            if message.error() is not None:
                raise KafkaException(message.error())
            read = orjson.loads(message.value())
            record_time = message.timestamp()[1]
            partition = message.partition()
            if record_time > self._record_times.get(partition, 0):
                self._record_times[partition] = record_time
            if read["read_type"] != "INTERVAL":
                continue
            window_end, interval_end = _interval_end(read["interval_end"])
            if record_time > window_end + ALLOWED_LATENESS:
                continue
            transformer = read["transformer_id"]
            reads = self._windows[window_end][transformer]
            key = (read["meter_id"], interval_end)
            read_ts = _parse(read["read_ts"])
            held = reads.get(key)
            # On a tie an actual read beats an estimate, then the later arrival wins.
            rank = (read_ts, not read["estimated_flag"])
            if held is None or rank >= held[0]:
                reads[key] = (
                    rank, record_time, read["feeder_id"], read["consumption_kwh"], read["delivered_kwh"],
                    read["received_kwh"], read.get("voltage_v"),
                )  # fmt: skip
            if window_end in self._published:
                self._late[window_end].add(transformer)
        if self._record_times:
            self._advance(min(self._record_times.values()))

    def _advance(self, watermark: int) -> None:
        if (gathered := watermark // LATE_GATHER) > self._gathered:
            self._gathered = gathered
            for window_end, transformers in self._late.items():
                self._publish(window_end, transformers)
            self._late.clear()
            for window_end in [each for each in self._windows if each + ALLOWED_LATENESS < watermark]:
                del self._windows[window_end]
                self._published.discard(window_end)
        for window_end in sorted(self._windows.keys() - self._published):
            if window_end + COLLECTION_DELAY <= watermark:
                self._published.add(window_end)
                self._publish(window_end, self._windows[window_end])

    def _publish(self, window_end: int, transformers: Any) -> None:
        of_window = self._windows[window_end]
        start, end = _text(window_end - WINDOW), _text(window_end)
        for transformer in transformers:
            by_feeder: dict[str, list[tuple]] = {}
            meters: dict[str, set[str]] = {}
            for (meter, _), read in of_window[transformer].items():
                by_feeder.setdefault(read[2], []).append(read)
                meters.setdefault(read[2], set()).add(meter)
            for feeder, reads in by_feeder.items():
                present = [read[6] for read in reads if read[6] is not None]
                volts = [volt for volt in present if 100 <= volt <= 400]
                row = {
                    "transformer_id": transformer,
                    "feeder_id": feeder,
                    "window_start": start,
                    "window_end": end,
                    "total_consumption_kwh": round(fsum(read[3] for read in reads), 6),
                    "total_delivered_kwh": round(fsum(read[4] for read in reads), 6),
                    "total_received_kwh": round(fsum(read[5] for read in reads), 6),
                    "meters_reported": len(meters[feeder]),
                    "avg_voltage_v": round(fsum(volts) / len(volts), 6) if volts else None,
                    "min_voltage_v": min(volts, default=None),
                    "max_voltage_v": max(volts, default=None),
                    "estimated_count": sum(not read[0][1] for read in reads),
                    "voltage_rejected_count": len(present) - len(volts),
                    "zero_voltage_count": sum(0 <= volt < 10 for volt in present),
                    "as_of": _text(max(read[1] for read in reads)),
                }
                while True:
                    try:
                        self._producer.produce(self._topic, orjson.dumps(row), transformer)
                        break
                    except BufferError:
                        self._producer.poll(0.1)
        self._producer.poll(0)


def main(bootstrap_servers: str, reads_topic: str, rows_topic: str) -> None:
    """Consume from the beginning of the topic until SIGTERM."""
    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True

    signal.signal(signal.SIGTERM, stop)
    producer = Producer({"bootstrap.servers": bootstrap_servers, "linger.ms": 20, "enable.idempotence": True})
    consumer = Consumer(
        {"bootstrap.servers": bootstrap_servers, "group.id": "python-loop", "enable.auto.commit": "false"}
    )
    partitions = consumer.list_topics(reads_topic, timeout=10).topics[reads_topic].partitions
    consumer.assign([TopicPartition(reads_topic, number, 0) for number in partitions])
    loop = Loop(producer, rows_topic)
    while not stopped:
        loop.take(consumer.consume(5_000, timeout=0.2))
    producer.flush(10)
    consumer.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
