"""`python -m benchmarks.scale`: what a window of many meters costs, how long its alerts take, and what it holds.

For each number of meters (10 a transformer): the pipeline runs and is warm, one window's reads become visible in the
topic at once (they are published in a transaction), and when all of them are read, the record time passes the window's
end and collection delay. Then as many windows as have two million reads, or one, are shown together for what they cost.
5 % of the transformers then have a low voltage and 5 % a low receipt rate. Prints a table, or
with --json a list on standard output.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path

from confluent_kafka import Consumer, Producer, TopicPartition

from ami_beam.codecs.json_outputs import GRID_ALERTS_TOPIC, RESULT_TOPICS
from ami_beam.instants import MICROS_PER_SECOND, format_instant
from ami_beam.local.kafka_broker import KafkaBroker
from benchmarks.ending import leave_with
from benchmarks.process_tree import PeakMemory, cpu_seconds, peak_bytes_by_process
from benchmarks.systems import EVENTS, READS, Place, Running, ami_beam

SIZES = (10_000, 100_000, 1_000_000, 5_000_000)
PARTITIONS = 2
METERS_PER_TRANSFORMER = 10
WINDOW = 900
DUE = 300
"""Collection and receipt delay, seconds."""
_WARM_UP_METERS = 20_000
_WARM_UP_WINDOWS = 15
_QUIET_CORES = 0.3
_QUIET_SECONDS = 3.0
_STATE_SECONDS = 25.0
_MEASURED_READS = 2_000_000
_THREE_WINDOWS = 1_000_000
"""Up to so many meters three windows are shown one by one: more meters take too long."""
_PATIENCE_SECONDS = 900.0
_LOW_VOLTAGE, _SILENT = 0, 1
"""Of twenty transformers, the one whose voltage is low and the one half of whose meters are silent."""
_READ = (
    '{"meter_id":"MTR-%07d","service_point_id":"SP-%07d","customer_id":"CUST-%07d","transformer_id":"TR-%06d",'
    '"feeder_id":"FDR-%05d","read_type":"INTERVAL","interval_start":"%s","interval_end":"%s","consumption_kwh":0.%04d,'
    '"delivered_kwh":0.%04d,"received_kwh":0.0,"voltage_v":%.2f,"power_quality_code":0,"estimated_flag":false,'
    '"read_ts":"%s"}'
)


@dataclass(frozen=True)
class Scale:
    """The figures of one number of meters. Seconds are of the wall clock, memory is each process's own peak."""

    meters: int
    cpu_s_per_million: float
    """Of all processes but the broker, from the first read to the last alert of windows that are shown together: two
    million reads or one window."""
    reads_per_s: float
    """In the same time."""
    last_alert_s: float
    """From when the record that moves the watermark is published; the longest of the windows, of which the pipeline
    also learns where the meters hang (`transforms/transformer_places.py`)."""
    alerts: int
    state_bytes_per_read: float
    """What the window adds to Flink's checkpoint."""
    peak_mb: dict[str, int]
    peak_sum_mb: int


def reads_of(window_end: int, meters: int) -> Iterator[tuple[int, int, bytes, bytes]]:
    """(partition, record time in ms, key, value) of a window's reads, in an order that has nothing to do with ids."""
    start, end = (format_instant(each * MICROS_PER_SECOND) for each in (window_end - WINDOW, window_end))
    # A step without a common divisor with the number visits every meter once.
    step = next(number for number in range(int(meters * 0.618), meters * 2) if _coprime(number, meters))
    for place in range(meters):
        meter = place * step % meters
        transformer = meter // METERS_PER_TRANSFORMER
        if transformer % 20 == _SILENT and meter % 2:
            continue
        volts = 200.0 if transformer % 20 == _LOW_VOLTAGE else 228 + meter % 400 / 100
        energy = (meter * 7919 + window_end) % 10_000
        value = _READ % (
            meter, meter, meter, transformer, transformer // 50, start, end, energy, energy, volts, end,
        )  # fmt: skip
        at = (window_end + 5) * 1_000 + place * 235_000 // meters
        yield transformer % PARTITIONS, at, b"MTR-%07d" % meter, value.encode()


def alerts_of(meters: int) -> int:
    """How many alerts a window raises."""
    transformers = meters // METERS_PER_TRANSFORMER
    return sum(len(range(each, transformers, 20)) for each in (_LOW_VOLTAGE, _SILENT))


def _coprime(a: int, b: int) -> bool:
    while b:
        a, b = b, a % b
    return a == 1


class Feed:
    """Publishes to the reads topic: warm-up windows as they come, a measured window so that it is visible at once."""

    def __init__(self, servers: str) -> None:
        config = {"bootstrap.servers": servers, "linger.ms": 20, "queue.buffering.max.messages": 500_000}
        self._producer = Producer({**config, "transactional.id": "scale", "transaction.timeout.ms": 900_000})
        self._producer.init_transactions(60)

    def prepare(self, records: Iterator[tuple[int, int, bytes, bytes]]) -> int:
        """Publish, invisible until `show`. Returns how many."""
        self._producer.begin_transaction()
        count = 0
        for partition, at, key, value in records:
            while True:
                try:
                    self._producer.produce(READS, value, key, partition, timestamp=at)
                    break
                except BufferError:
                    self._producer.poll(0.1)
            count += 1
            if count % 10_000 == 0:
                self._producer.poll(0)
                if count % 500_000 == 0:
                    _say(f"  {count:,} reads published")
        self._producer.flush(120)
        return count

    def show(self) -> None:
        self._producer.commit_transaction(60)


class Alerts:
    """Counts the alerts of a window."""

    def __init__(self, servers: str) -> None:
        self._consumer = Consumer({"bootstrap.servers": servers, "group.id": "scale", "enable.auto.commit": False})
        self._consumer.assign([TopicPartition(GRID_ALERTS_TOPIC, number, 0) for number in range(PARTITIONS)])
        self._ids: dict[str, set[str]] = {}

    def until(self, window_end: int, wanted: int, process: Running) -> float:
        """The moment (monotonic) at which the last of `wanted` alerts came."""
        text = format_instant(window_end * MICROS_PER_SECOND)
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while len(self._ids.get(text, ())) < wanted:
            process.check()
            if time.monotonic() > deadline:
                raise RuntimeError(f"{len(self._ids.get(text, ()))} of {wanted} alerts after {_PATIENCE_SECONDS} s")
            for message in self._consumer.consume(10_000, timeout=0.05):
                if message.error() is None:
                    alert = json.loads(message.value() or b"")
                    self._ids.setdefault(alert["window_end"], set()).add(alert["alert_id"])
        return time.monotonic()

    def close(self) -> None:
        self._consumer.close()


def measure(meters: int, arguments: list[str], log: Path) -> Scale:
    """One number of meters, with a broker and a Flink of its own."""
    # The last window's reads, and the record that makes it due, lie in the past by now.
    last = int(time.time() - DUE - 60) // WINDOW * WINDOW
    warm_up = min(meters, _WARM_UP_METERS)
    windows, at_once = 3 if meters <= _THREE_WINDOWS else 1, max(1, _MEASURED_READS // meters)
    wanted = alerts_of(meters)
    # The end of the last warm-up window.
    first = last - (windows + at_once) * WINDOW
    with KafkaBroker() as broker, tempfile.TemporaryDirectory(prefix="ami-beam-scale-") as directory:
        for topic in (READS, EVENTS, *RESULT_TOPICS):
            broker.create_topic(topic, PARTITIONS)
        counts = Path(directory) / "counts.csv"
        with counts.open("w") as file:
            file.write("transformer_id,total_meters,effective_from\n")
            since = format_instant(first * MICROS_PER_SECOND + 1)
            for transformer in range(meters // METERS_PER_TRANSFORMER):
                known = transformer < warm_up // METERS_PER_TRANSFORMER
                file.write(f"TR-{transformer:06d},{METERS_PER_TRANSFORMER},{'' if known else since}\n")
        feed, alerts = Feed(broker.bootstrap_servers), Alerts(broker.bootstrap_servers)
        system = ami_beam("ami-beam native", "--kafka_io=native", *arguments)
        place = Place(broker.bootstrap_servers, counts, "")
        try:
            with Running(system, place, log) as process, PeakMemory(process.pid) as memory:
                for window_end in range(first - (_WARM_UP_WINDOWS - 1) * WINDOW, first + 1, WINDOW):
                    feed.prepare(reads_of(window_end, warm_up))
                    feed.show()
                    _make_due(feed, window_end)
                alerts.until(first, alerts_of(warm_up), process)
                _say(f"  warm after {warm_up * _WARM_UP_WINDOWS:,} reads")
                _until_at_rest(process)
                delays, state = [], 0.0
                ends = iter(range(first + WINDOW, last + 1, WINDOW))
                for window_end in islice(ends, windows):
                    published = feed.prepare(reads_of(window_end, meters))
                    state_before = _checkpoint_bytes(process.pid)
                    shown = time.monotonic()
                    feed.show()
                    at_rest = _until_at_rest(process)
                    _say(f"  {published:,} reads taken in {at_rest - shown:.1f} s")
                    if not state:
                        time.sleep(_STATE_SECONDS)
                        state = (_checkpoint_bytes(process.pid) - state_before) / published
                    moved = time.monotonic()
                    _make_due(feed, window_end)
                    delays.append(alerts.until(window_end, wanted, process) - moved)
                    _say(f"  the last alert after {delays[-1]:.1f} s")
                    _until_at_rest(process)
                reads = feed.prepare(chain.from_iterable(_with_due(window_end, meters) for window_end in ends))
                cpu, shown = cpu_seconds(process.pid), time.monotonic()
                feed.show()
                took = alerts.until(last, wanted, process) - shown
                cpu = cpu_seconds(process.pid) - cpu
                peaks = {name: peak // 1_000_000 for name, peak in peak_bytes_by_process(process.pid).items()}
        finally:
            alerts.close()
        return Scale(
            meters, cpu / reads * 1e6, reads / took, max(delays), wanted, state, peaks,
            memory.peak // 1_000_000,
        )  # fmt: skip


def _with_due(window_end: int, meters: int) -> Iterator[tuple[int, int, bytes, bytes]]:
    """A window's reads, and what makes it due."""
    yield from reads_of(window_end, meters)
    yield from _late_again(window_end)


def _make_due(feed: Feed, window_end: int) -> None:
    feed.prepare(_late_again(window_end))
    feed.show()


def _late_again(window_end: int) -> Iterator[tuple[int, int, bytes, bytes]]:
    """A read that was there already, once more in every partition, at the moment at which the window is due."""
    again: dict[int, tuple[int, int, bytes, bytes]] = {}
    for partition, _, key, value in reads_of(window_end, 100):
        again[partition] = partition, (window_end + DUE) * 1_000 + 1, key, value
    yield from again.values()


def _until_at_rest(process: Running) -> float:
    """The moment (monotonic) at which the processes became idle; they are watched for some seconds longer."""
    since, cpu = time.monotonic(), cpu_seconds(process.pid)
    at_rest, deadline = None, time.monotonic() + _PATIENCE_SECONDS
    while at_rest is None or time.monotonic() - at_rest < _QUIET_SECONDS:
        process.check()
        time.sleep(0.5)
        now, used = time.monotonic(), cpu_seconds(process.pid)
        if (used - cpu) / (now - since) > _QUIET_CORES:
            at_rest = None
        elif at_rest is None:
            at_rest = since
        since, cpu = now, used
        if now > deadline:
            raise RuntimeError(f"still busy after {_PATIENCE_SECONDS} s")
    return at_rest


def _checkpoint_bytes(pid: int) -> int:
    """The size of the newest complete checkpoint of the Flink that `pid` has started."""
    found = Path(tempfile.gettempdir()).glob("ami-beam-flink-*/checkpoints/*/chk-*/_metadata")
    newest = max(found, key=lambda path: path.stat().st_mtime)
    return sum(file.stat().st_size for file in newest.parent.iterdir())


def main(argv: list[str] | None = None) -> int:
    """Measure every size and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--meters", default=",".join(map(str, SIZES)), help="numbers of meters (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print a list on standard output")
    parser.add_argument("--log", type=Path, help="where the pipeline's log goes (discarded)")
    parser.add_argument("pipeline", nargs="*", metavar="-- --OPTION", help="options of ami_beam.run")
    options = parser.parse_args(argv)
    results = []
    with tempfile.TemporaryDirectory() as scratch:
        log = options.log or Path(scratch) / "run.log"
        for meters in (int(word) for word in options.meters.split(",")):
            _say(f"{meters:,} meters")
            result = measure(meters, options.pipeline, log)
            results.append(asdict(result))
            _say(f"  {result}")
    if options.json:
        print(json.dumps(results))
        return 0
    print("| meters | CPU-s per million | reads/s | last alert after | alerts | state bytes a read | peak MB |")
    print("|---|---|---|---|---|---|---|")
    for row in results:
        print(
            f"| {row['meters']:,} | {row['cpu_s_per_million']:.2f} | {row['reads_per_s']:,.0f} |"
            f" {row['last_alert_s']:.1f} s | {row['alerts']:,} |"
            f" {row['state_bytes_per_read']:.1f} | {row['peak_sum_mb']:,} |"
        )
    return 0


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    leave_with(main)
