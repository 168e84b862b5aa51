"""What a scenario publishes, at which pace, and what must come of it in the end.

The records are the simulator's: meters that are collected in several ways, outages, resends, estimates, malformed
records. What must come of them is what ami-beam makes of the same records as files, on one worker and without a fault;
that this is right is proved against independently computed rows by `tests/test_simbench_replay.py`.
"""

from __future__ import annotations

import base64
import gzip
import json
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from confluent_kafka import Message, Producer

from ami_beam.consumers import OPTIONAL_TOPICS
from ami_beam.instants import MICROS_PER_SECOND, format_instant
from tests.kafka_replay import EVENTS, READS, exported
from transforms.silence import CATCH_UP

EVERYTHING = (f"--also_publish={','.join(OPTIONAL_TOPICS)}", "--customer_id=keep")
PARTITIONS = 4
WINDOW_SECONDS = 900
INTERVALS = 24
_FLUSH_SECONDS = 26 * 3600
"""Record time after the last record, by which every window is due and every late read has been gathered."""
_LATEST_SECONDS = 26 * 3600
"""After the last interval; what is read later still is left out. The simulator's latest comes after 58 hours, by a
collector silent for 28: Beam's Kafka I/O, whose watermark jumps to now at its end, cannot take so old a backlog.
"""
_CATCH_UP_SECONDS = CATCH_UP // MICROS_PER_SECOND


@dataclass(frozen=True)
class Sent:
    """A record as it goes to the broker; `offset` is known once the broker has it."""

    topic: str
    partition: int
    time_ms: int
    key: bytes | None
    value: bytes | None
    offset: int = -1


class HeadEnd:
    """The records of one scenario. `publish` sends them in another thread, `wait` returns when the broker has them all.

    Args:
      directory: for the simulation and the expected results.
      seed: of the simulation.
      meters: how many.
      new_schema: whether the head-end is upgraded in mid-stream: its reads get new fields and lose others.
    """

    def __init__(self, directory: Path, seed: int, meters: int, new_schema: bool = False) -> None:
        self._directory = directory
        simulated = directory / "simulated"
        # Record times end a good day ago, so that the records that make everything due are not ahead of the clock.
        span = INTERVALS * WINDOW_SECONDS + _LATEST_SECONDS + _FLUSH_SECONDS + _CATCH_UP_SECONDS + 2 * 3600
        span *= MICROS_PER_SECOND
        window = WINDOW_SECONDS * MICROS_PER_SECOND
        start = (time.time_ns() // 1_000 - span) // window * window
        subprocess.run(
            [
                *(sys.executable, "-m", "ami_beam.simulate", f"--output={simulated}", f"--seed={seed}"),
                *(f"--meters={meters}", f"--intervals={INTERVALS}", "--profile=mixed"),
                f"--start={format_instant(start)}",
            ],
            check=True,
            capture_output=True,
        )
        self.meter_counts = simulated / "transformer_meter_count.csv"
        # Those that make everything due end before now: a live run sets aside what is ahead of its clock.
        latest = start // 1_000 + (INTERVALS * WINDOW_SECONDS + _LATEST_SECONDS) * 1_000
        self.records = _in_order(simulated, latest)
        if new_schema:
            half = len(self.records) // 2
            upgraded = [_upgraded(number, record) for number, record in enumerate(self.records[half:])]
            self.records[half:] = upgraded
        self._sent: list[Sent] = []
        self._failures: list[str] = []
        self._thread: threading.Thread | None = None

    @property
    def published(self) -> float:
        """The share of the records that the broker has."""
        return len(self._sent) / len(self.records)

    def publish(self, bootstrap_servers: str, seconds: float) -> None:
        """Begin to send the records, evenly over `seconds`."""
        self._thread = threading.Thread(target=self._publish, args=(bootstrap_servers, seconds), daemon=True)
        self._thread.start()

    def wait(self, seconds: float) -> None:
        """Raises RuntimeError when the broker has not taken every record by then."""
        assert self._thread is not None
        self._thread.join(seconds)
        if self._thread.is_alive() or self._failures or len(self._sent) < len(self.records):
            raise RuntimeError(f"{len(self._sent)} of {len(self.records)} records published: {self._failures[:1]}")

    def expected(self) -> Path:
        """The folder of results that the pipeline gives without a fault. Only after `wait`."""
        for topic, name in ((READS, "reads"), (EVENTS, "events")):
            with gzip.open(self._directory / f"{name}.jsonl.gz", "wt", compresslevel=1) as file:
                for sent in self._sent:
                    if sent.topic == topic:
                        file.write(json.dumps(_exported(sent)) + "\n")
        output = self._directory / "expected"
        subprocess.run(
            [
                *(sys.executable, "-m", "ami_beam.run", "--source=files", "--sink=files"),
                *(f"--reads={self._directory}/reads.jsonl.gz", f"--events={self._directory}/events.jsonl.gz"),
                *(f"--meter_counts={self.meter_counts}", f"--output={output}", *EVERYTHING),
            ],
            check=True,
            capture_output=True,
        )
        return output

    def _publish(self, bootstrap_servers: str, seconds: float) -> None:
        producer = Producer(
            {
                "bootstrap.servers": bootstrap_servers,
                "enable.idempotence": True,
                "linger.ms": 5,
                "message.timeout.ms": 600_000,
                "log_level": 0,
            }
        )
        began = time.monotonic()
        for number, record in enumerate(self.records):
            due = began + seconds * number / len(self.records)
            while (early := due - time.monotonic()) > 0:
                producer.poll(min(early, 0.05))

            def delivered(error: object, message: Message, record: Sent = record) -> None:
                if error is not None:
                    self._failures.append(str(error))
                else:
                    self._sent.append(replace(record, offset=message.offset()))

            producer.produce(
                record.topic,
                record.value,
                record.key,
                record.partition,
                timestamp=record.time_ms,
                on_delivery=delivered,
            )
        producer.flush(600)


def _in_order(simulated: Path, latest: int) -> list[Sent]:
    """The records up to `latest` (milliseconds) in the order of their record times, and then, on every partition, some
    that make everything due.

    The first comes after a silence, and windows that were due in it wait for reads a little longer: for the last. In
    between there is no other silence.
    """
    records = [
        Sent(topic, zlib.crc32(key or b"") % PARTITIONS, ts_ms, key, value)
        for topic, name in ((READS, "reads"), (EVENTS, "events"))
        for ts_ms, key, value in exported(simulated / f"{name}.jsonl.gz")
        if ts_ms <= latest
    ]
    records.sort(key=lambda record: record.time_ms)
    end = records[-1].time_ms + _FLUSH_SECONDS * 1000
    flushing = range(end, end + (_CATCH_UP_SECONDS + 600) * 1000, 600 * 1000)
    return [*records, *(record for time_ms in flushing for record in _flushing(time_ms))]


def _upgraded(number: int, record: Sent) -> Sent:
    """A record as the new version sends it: more fields, no voltage, and of every tenth read no consumption, which it
    must have."""
    try:
        row = json.loads(record.value or b"")
    except ValueError:
        return record
    if record.topic != READS or not isinstance(row, dict):
        return record
    row |= {"firmware": "7.1", "phases": [{"name": "L1", "voltage_v": 999.0}], "consumption_wh": 1}
    row.pop("voltage_v", None)
    if number % 10 == 0:
        row.pop("consumption_kwh", None)
    return replace(record, value=json.dumps(row).encode())


def _flushing(time_ms: int) -> Iterator[Sent]:
    for topic in (READS, EVENTS):
        for partition in range(PARTITIONS):
            yield Sent(topic, partition, time_ms, None, b"no record, only a later time")


def _exported(sent: Sent) -> dict[str, object]:
    return {
        "topic": sent.topic,
        "partition": sent.partition,
        "offset": sent.offset,
        "ts_ms": sent.time_ms,
        "key": sent.key.decode() if sent.key else None,
        "value_b64": None if sent.value is None else base64.b64encode(sent.value).decode(),
    }
