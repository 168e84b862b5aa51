"""`python -m benchmarks.latency`: how long alerts take at a steady rate of reads, and what it costs.

Reads are published evenly over the wall clock, with record times of now; windows are short, so that many pass. 5 % of
the transformers have a low voltage and 5 % a low receipt rate in every window. With --malformed, malformed records of
many kinds come between the reads. A grid alert's delay is counted from the
moment at which its window is due (window_end + collection delay), an event alert's from the event's record time, each
until the broker has appended it. Prints a table, or with --json an object on standard output.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from confluent_kafka import Consumer, Producer, TopicPartition

from ami_beam.codecs.json_outputs import EVENT_ALERTS_TOPIC, GRID_ALERTS_TOPIC, RESULT_TOPICS
from ami_beam.instants import MICROS_PER_SECOND, format_instant, parse_instant
from ami_beam.local.kafka_broker import KafkaBroker
from benchmarks.ending import leave_with
from benchmarks.flood import malformed
from benchmarks.process_tree import cpu_seconds
from benchmarks.systems import EVENTS, READS, Place, Running, ami_beam

METERS_PER_TRANSFORMER = 10
PARTITIONS = 2
EVENTS_PER_SECOND = 5
_READ = (
    '{"meter_id":"MTR-%07d","service_point_id":"SP-%07d","customer_id":"CUST-%07d","transformer_id":"TR-%06d",'
    '"feeder_id":"FDR-%05d","read_type":"INTERVAL","interval_start":"%s","interval_end":"%s","consumption_kwh":0.%04d,'
    '"delivered_kwh":0.%04d,"received_kwh":0.0,"voltage_v":%.2f,"power_quality_code":0,"estimated_flag":false,'
    '"read_ts":"%s"}'
)
_EVENT = '{"meter_id":"MTR-%07d","event_code":%d,"event_desc":"%s","event_ts":"%s"}'


@dataclass(frozen=True)
class Latency:
    """Delays in seconds."""

    reads_per_s: float
    late_pct: float
    malformed_pct: float
    cores: float
    """CPU seconds a second of all processes but the broker, between the warm-up and the end."""
    voltage_alerts: int
    voltage_p50: float
    voltage_p99: float
    receipt_alerts: int
    receipt_p50: float
    receipt_p99: float
    event_alerts: int
    event_p50: float
    event_p99: float


class Headend:
    """Publishes reads at a rate, each window's meters in random order over the window that follows it."""

    def __init__(self, servers: str, rate: int, window: int, late_pct: float, malformed_pct: float = 0.0) -> None:
        self._producer = Producer({"bootstrap.servers": servers, "linger.ms": 5})
        self._window = window
        self._late = late_pct / 100
        self._malformed = malformed_pct / 100
        self._meters = [
            meter
            for meter in range(rate * window // METERS_PER_TRANSFORMER * METERS_PER_TRANSFORMER)
            if not (meter // METERS_PER_TRANSFORMER % 20 == 1 and meter % 2)
        ]
        self.transformers = rate * window // METERS_PER_TRANSFORMER
        self._random = random.Random(1)
        self._held_back: list[tuple[int, int]] = []
        self.reads = self.malformed = 0

    def run(self, begin: float, until: float, check: Running, what: str) -> None:
        """Publish in step with the wall clock, from one moment to another, both at ends of windows."""
        print(f"{what}: {until - time.time():.0f} s", file=sys.stderr, flush=True)
        for window_end in range(int(begin), int(until), self._window):
            check.check()
            self._random.shuffle(self._meters)
            count = len(self._meters)
            for place, meter in enumerate(self._meters):
                if place % 100 == 0:
                    self._producer.poll(0)
                    wait = window_end + self._window * place / count - time.time()
                    if wait > 0:
                        time.sleep(wait)
                    for _ in range(self._events_due(place, count)):
                        self._event()
                if self._random.random() >= self._late:
                    self._read(meter, window_end)
                else:
                    # In its place one that was held back: the rate stays the same.
                    self._held_back.append((meter, window_end))
                    if len(self._held_back) > count // 2:
                        number = self._random.randrange(len(self._held_back))
                        self._held_back[number], self._held_back[-1] = self._held_back[-1], self._held_back[number]
                        self._read(*self._held_back.pop())
        self._producer.flush(30)

    def _events_due(self, place: int, count: int) -> int:
        each = max(1, count // (EVENTS_PER_SECOND * self._window) // 100 * 100)
        return int(place % each == 0)

    def _read(self, meter: int, window_end: int) -> None:
        start, end = (format_instant(each * MICROS_PER_SECOND) for each in (window_end - self._window, window_end))
        transformer = meter // METERS_PER_TRANSFORMER
        volts = 200.0 if transformer % 20 == 0 else 228 + meter % 400 / 100
        energy = (meter * 7919 + window_end) % 10_000
        value = _READ % (
            meter, meter, meter, transformer, transformer // 50, start, end, energy, energy, volts, end,
        )  # fmt: skip
        record, key, partition = value.encode(), b"MTR-%07d" % meter, transformer % PARTITIONS
        self._producer.produce(READS, record, key, partition)
        self.reads += 1
        owed = int(self.reads * self._malformed) - self.malformed
        for _ in range(owed):
            self._producer.produce(READS, malformed(self.malformed, record), key, partition)
            self.malformed += 1

    def _event(self) -> None:
        now = format_instant(time.time_ns() // 1_000_000 * 1_000)
        meter = self._random.choice(self._meters)
        self._producer.produce(EVENTS, (_EVENT % (meter, 3840, "Last gasp", now)).encode(), b"MTR-%07d" % meter)


def measure(
    rate: int, seconds: int, window: int, late_pct: float, malformed_pct: float, arguments: list[str], log: Path
) -> Latency:
    """Run for `seconds` after a warm-up of two minutes, with a broker and a Flink of its own."""
    with KafkaBroker() as broker, tempfile.TemporaryDirectory(prefix="ami-beam-latency-") as directory:
        for topic in (READS, EVENTS):
            broker.create_topic(topic, PARTITIONS)
        for topic in RESULT_TOPICS:
            broker.create_topic(topic, 1, "LogAppendTime")
        headend = Headend(broker.bootstrap_servers, rate, window, late_pct, malformed_pct)
        counts = Path(directory) / "counts.csv"
        with counts.open("w") as file:
            file.write("transformer_id,total_meters\n")
            file.writelines(f"TR-{each:06d},{METERS_PER_TRANSFORMER}\n" for each in range(headend.transformers))
        delay = window + 2
        own = ["--kafka_io=native", f"--window={window}s", f"--collection_delay={delay}s", f"--receipt_delay={delay}s"]
        place = Place(broker.bootstrap_servers, counts, "")
        with Running(ami_beam("ami-beam native", *own, *arguments), place, log) as process:
            begin = (time.time() // window + 1) * window
            measured = begin + -(-120 // window) * window
            until = measured + -(-seconds // window) * window
            headend.run(begin, measured, process, "warm-up")
            before, reads_before, at = cpu_seconds(process.pid), headend.reads, time.time()
            headend.run(measured, until, process, "measuring")
            elapsed = time.time() - at
            cores = (cpu_seconds(process.pid) - before) / elapsed
            reads_per_s = (headend.reads - reads_before) / elapsed
            time.sleep(window + delay)
            # Of an alert and the copy that says what explains it the first.
            first: dict[str, tuple[float, dict]] = {}
            for appended, alert in _alerts(broker, GRID_ALERTS_TOPIC):
                first.setdefault(alert["alert_id"], (appended, alert))
            grid = [
                (alert["alert_source"], appended - delay - parse_instant(alert["window_end"]) / 1e6)
                for appended, alert in first.values()
                # On-time results: what late reads change comes at their time.
                if alert["revision"] == 0 and alert["status"] == "RAISED"
                and measured <= parse_instant(alert["window_end"]) / 1e6 < until - delay
            ]  # fmt: skip
            events = [
                appended - parse_instant(alert["as_of"]) / 1e6
                for appended, alert in _alerts(broker, EVENT_ALERTS_TOPIC)
                if parse_instant(alert["as_of"]) / 1e6 >= measured
            ]
        voltage = [seconds for source, seconds in grid if source == "VOLTAGE"]
        receipt = [seconds for source, seconds in grid if source == "COMM"]
        return Latency(
            reads_per_s, late_pct, malformed_pct, cores,
            len(voltage), _quantile(voltage, 0.5), _quantile(voltage, 0.99),
            len(receipt), _quantile(receipt, 0.5), _quantile(receipt, 0.99),
            len(events), _quantile(events, 0.5), _quantile(events, 0.99),
        )  # fmt: skip


def _alerts(broker: KafkaBroker, topic: str) -> list[tuple[float, dict]]:
    """(when the broker appended it, in seconds, and the alert) of everything in a topic."""
    consumer = Consumer({"bootstrap.servers": broker.bootstrap_servers, "group.id": "latency"})
    try:
        end = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=10)[1]
        consumer.assign([TopicPartition(topic, 0, 0)])
        found: list[tuple[float, dict]] = []
        while len(found) < end:
            for message in consumer.consume(10_000, timeout=1):
                if message.error() is None:
                    found.append((message.timestamp()[1] / 1e3, json.loads(message.value() or b"")))
        return found
    finally:
        consumer.close()


def _quantile(values: list[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * part), len(ordered) - 1)] if ordered else float("nan")


def main(argv: list[str] | None = None) -> int:
    """Measure once and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=int, default=5_600, help="reads a second (%(default)s)")
    parser.add_argument("--seconds", type=int, default=120, help="how long is measured (%(default)s)")
    parser.add_argument("--window", type=int, default=10, help="seconds of a window (%(default)s)")
    parser.add_argument("--late", type=float, default=0.0, help="per cent of late reads (%(default)s)")
    parser.add_argument(
        "--malformed", type=float, default=0.0, help="malformed records, in per cent of the reads (%(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print an object on standard output")
    parser.add_argument("--log", type=Path, help="where the pipeline's log goes (discarded)")
    parser.add_argument("pipeline", nargs="*", metavar="-- --OPTION", help="options of ami_beam.run")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        log = options.log or Path(scratch) / "run.log"
        result = measure(
            options.rate, options.seconds, options.window, options.late, options.malformed, options.pipeline, log
        )
    if options.json:
        print(json.dumps(asdict(result)))
        return 0
    for name, value in asdict(result).items():
        print(f"{name:14} {value:,.3f}" if isinstance(value, float) else f"{name:14} {value:,}")
    return 0


if __name__ == "__main__":
    leave_with(main)
