"""The reads that every system of `make bench` gets: the same records, in the same topic, in the same order.

Every meter has one read a window. Records are published in the order of their record times, a position of the stream
being the stretch of record time in which the reads of one window arrive (5 to 240 s after its end, in random order of
meters). A late read arrives at a later position than that of its window, at most 23.5 h behind, so that nobody may set
it aside as too late.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from confluent_kafka import KafkaError, Message, Producer

from ami_beam.instants import MICROS_PER_SECOND, format_instant

WINDOW_SECONDS = 900
METERS_PER_TRANSFORMER = 10
TRANSFORMERS_PER_FEEDER = 50
PARTITIONS = 2
_MAX_LATE_WINDOWS = 94
_PRODUCER = {
    "linger.ms": 20,
    "enable.idempotence": True,
    "batch.size": 500_000,
    "queue.buffering.max.messages": 500_000,
}
_QUIET_POSITIONS = 2
"""At the end, without late reads: the revisions of the last ones become due while there still are reads."""
_READ = (
    '{"meter_id":"MTR-%07d","service_point_id":"SP-%07d","customer_id":"CUST-%07d","transformer_id":"TR-%06d",'
    '"feeder_id":"FDR-%05d","read_type":"INTERVAL","interval_start":"%s","interval_end":"%s","consumption_kwh":%.4f,'
    '"delivered_kwh":%.4f,"received_kwh":%.4f,"voltage_v":%s,"power_quality_code":%d,"estimated_flag":%s,"read_ts":"%s"}'
)


@dataclass(frozen=True)
class Workload:
    """Reads of `meters` meters in warm-up and measured windows, `late_pct` percent of each position's late.

    `end` is the last window's end in seconds since 1970.
    """

    meters: int
    warmup_windows: int
    measured_windows: int
    late_pct: float
    end: int
    seed: int = 1

    @classmethod
    def of(cls, reads: int, meters: int, late_pct: float) -> Workload:
        """At least `reads` measured reads, after a quarter as many (10 windows at least).

        The last window ended a few minutes ago: all its reads have arrived by now.
        """
        meters = max(METERS_PER_TRANSFORMER, meters // METERS_PER_TRANSFORMER * METERS_PER_TRANSFORMER)
        measured = max(4, -(-reads // meters))
        end = int(time.time() - 240) // WINDOW_SECONDS * WINDOW_SECONDS
        return cls(meters, max(10, measured // 4), measured, late_pct, end)

    @property
    def windows(self) -> int:
        return self.warmup_windows + self.measured_windows

    @property
    def transformers(self) -> int:
        return self.meters // METERS_PER_TRANSFORMER

    @property
    def reads(self) -> int:
        """All reads in the topic: one of every meter and window."""
        return self.meters * self.windows

    def window_end(self, window: int) -> int:
        """Seconds since 1970."""
        return self.end - (self.windows - 1 - window) * WINDOW_SECONDS

    def window_end_text(self, window: int) -> str:
        return format_instant(self.window_end(window) * MICROS_PER_SECOND)

    def arrivals(self) -> Arrivals:
        """At which position each read arrives. The same for the same workload."""
        random = np.random.default_rng(self.seed)
        position = np.repeat(np.arange(self.windows, dtype=np.int32)[:, None], self.meters, axis=1)
        late = round(self.meters * self.late_pct / 100)
        for arrival in range(1, self.windows - _QUIET_POSITIONS):
            # More than needed: a read that is late already is passed over.
            meters = random.permutation(self.meters)[: 2 * late]
            behind = random.integers(1, min(_MAX_LATE_WINDOWS, arrival) + 1, len(meters))
            on_time = position[arrival - behind, meters] == arrival - behind
            meters, behind = meters[on_time][:late], behind[on_time][:late]
            position[arrival - behind, meters] = arrival
        return Arrivals(self, position)


class Arrivals:
    """`position[window, meter]`: where in the stream each read stands."""

    def __init__(self, workload: Workload, position: np.ndarray) -> None:
        self.workload = workload
        self.position = position

    def reads_in(self, positions: range) -> int:
        """How many reads arrive at these positions."""
        return int(((self.position >= positions.start) & (self.position < positions.stop)).sum())

    def transformers_on_time(self) -> list[int]:
        """By window, how many transformers have a read that is not late: so many rows has its on-time result."""
        window = np.arange(self.workload.windows)[:, None]
        on_time = (self.position == window).reshape(self.workload.windows, -1, METERS_PER_TRANSFORMER)
        return [int(each) for each in on_time.any(axis=2).sum(axis=1)]

    def records(self, position: int) -> Iterator[tuple[int, int, bytes, bytes]]:
        """(partition, record time in ms, key, value) of one position, in the order of the record times."""
        w = self.workload
        random = np.random.default_rng((w.seed, position))
        windows, meters = np.nonzero(self.position == position)
        order = random.permutation(len(meters))
        windows, meters = windows[order], meters[order]
        count = len(meters)
        times = w.window_end(position) * 1_000 + np.sort(random.integers(5_000, 240_000, count))
        delivered = random.integers(0, 20_000, count)
        received = np.where(random.random(count) < 0.1, random.integers(0, 10_000, count), 0)
        volts = np.round(random.normal(230.0, 2.0, count), 2).tolist()
        silent = random.random(count) < 0.01
        texts = [w.window_end_text(window) for window in range(-1, w.windows)]
        # A meter's clock stamps the read within a minute of the interval's end, however late it is collected.
        stamps = [
            [format_instant((w.window_end(window) + second) * MICROS_PER_SECOND) for second in range(60)]
            for window in range(w.windows)
        ]
        columns = zip(
            meters.tolist(),
            windows.tolist(),
            times.tolist(),
            ((delivered - received) / 10_000).tolist(),
            (delivered / 10_000).tolist(),
            (received / 10_000).tolist(),
            ["null" if no else f"{volt:.2f}" for no, volt in zip(silent.tolist(), volts, strict=True)],
            random.integers(0, 8, count).tolist(),
            ["true" if each else "false" for each in (random.random(count) < 0.02).tolist()],
            random.integers(0, 60, count).tolist(),
            strict=True,
        )
        for meter, window, at, net, plus, minus, volt, quality, estimated, second in columns:
            transformer = meter // METERS_PER_TRANSFORMER
            value = _READ % (
                meter, meter, meter, transformer, transformer // TRANSFORMERS_PER_FEEDER, texts[window],
                texts[window + 1], net, plus, minus, volt, quality, estimated, stamps[window][second],
            )  # fmt: skip
            yield transformer % PARTITIONS, at, b"MTR-%07d" % meter, value.encode()

    def publish(self, bootstrap_servers: str, topic: str, positions: range) -> None:
        """Publish the reads of these positions, and return when the broker has them.

        Raises RuntimeError when it did not take one.
        """
        self._send(Producer({"bootstrap.servers": bootstrap_servers, **_PRODUCER}), topic, positions)

    def prepare(self, bootstrap_servers: str, topic: str, positions: range) -> Callable[[], None]:
        """Publish the reads of these positions invisibly. The call of what is returned shows all of them at once."""
        producer = Producer(
            {
                "bootstrap.servers": bootstrap_servers,
                "transactional.id": topic,
                "transaction.timeout.ms": 900_000,
                **_PRODUCER,
            }
        )
        producer.init_transactions(60)
        producer.begin_transaction()
        self._send(producer, topic, positions)
        return lambda: producer.commit_transaction(60)

    def _send(self, producer: Producer, topic: str, positions: range) -> None:
        failures: list[str] = []

        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                failures.append(str(error))

        count = 0
        for position in positions:
            for partition, at, key, value in self.records(position):
                while True:
                    try:
                        producer.produce(topic, value, key, partition, timestamp=at, on_delivery=delivered)
                        break
                    except BufferError:
                        producer.poll(0.1)
                count += 1
                if count % 10_000 == 0:
                    producer.poll(0)
        left = producer.flush(120)
        if left or failures:
            raise RuntimeError(f"{left + len(failures)} reads were not published: {failures[:1]}")

    def write_meter_counts(self, path: str) -> None:
        """The meter counts as `ami_beam.run --meter_counts` takes them."""
        with open(path, "w", encoding="utf-8") as file:
            file.write("transformer_id,total_meters\n")
            file.writelines(f"TR-{n:06d},{METERS_PER_TRANSFORMER}\n" for n in range(self.workload.transformers))
