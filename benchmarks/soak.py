"""`python -m benchmarks.soak`: whether memory, checkpoints and results stay as they are for as long as it runs.

Reads are published live, with record times of now and windows of 10 s, so that a window stands for a quarter of an
hour: nights without a read, collectors that are silent and then send everything at ten times the rate, late reads, and
a few malformed records. The memory of every process and the size of every checkpoint are sampled, and a line is laid
through what follows the warm-up. At the end the last rows of the last minutes are compared with those of a replay of
the same records from files. Prints a table, or with --json an object on standard output; exit code 1 when results
differ.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from ami_beam.codecs.json_outputs import (
    ALARMS_TOPIC,
    DEAD_LETTER_TOPIC,
    OUTPUT_TOPICS,
    RECEIPT_TOPIC,
    RESULT_TOPICS,
    SILENT_METERS_TOPIC,
    SUMMARY_TOPIC,
)
from ami_beam.consumers import OPTIONAL_TOPICS
from ami_beam.flink_rest import FlinkError, FlinkRest
from ami_beam.instants import MICROS_PER_SECOND, parse_instant
from ami_beam.local.kafka_broker import KafkaBroker
from benchmarks.ending import leave_with
from benchmarks.latency import METERS_PER_TRANSFORMER, PARTITIONS, Headend
from benchmarks.process_tree import command_lines, cpu_seconds, rss_by_process
from benchmarks.systems import EVENTS, READS, Place, Running, System
from tests.chaos.checks import TOPICS, Row, compare, read_files
from tests.chaos.headend import EVERYTHING

WINDOW = 10
CYCLE = 12
"""Windows after which everything comes again."""
_DARK = (5, 6)
"""Windows of a cycle of which nothing is sent before the next one has begun, and then at ten times the rate."""
_NIGHT = (9, 10)
"""Windows of a cycle that no meter reads."""
_BURST = 10
_MOST_LATE = 4
_SAMPLE_SECONDS = 5.0
_UNCHANGED_SECONDS = 3 * WINDOW
_LATENESS = 60
"""Seconds: less than a day at the scale of the windows, so that the state is soon at its full size."""
_DELAY = WINDOW + 2
_COMPARED_SECONDS = 180
"""At the end: where drift would show. The replay takes longer than the records took to arrive."""
_MALFORMED_ONE_IN = 500


@dataclass(frozen=True)
class Slope:
    """A line through samples: where it begins after the warm-up, how it rises, and the greatest sample."""

    start_mb: float
    mb_per_hour: float
    greatest_mb: float


@dataclass(frozen=True)
class Soak:
    """The figures of a run. Slopes are those after the warm-up."""

    seconds: float
    reads: int
    cores: float
    """CPU seconds a second of all processes but the broker, after the warm-up."""
    processes: dict[str, Slope]
    """Those that were there at the end."""
    jvm_heap: Slope
    """Of the least in each cycle: what is left after a collection, or a little more."""
    checkpoints: Slope
    compared_rows: int
    lost: list[str]
    """Rows of the replay that are missing or other than there."""
    invented: list[str]


class Days(Headend):
    """The head-end of the soak: a cycle of ordinary windows, silent collectors, a burst and a night."""

    def __init__(self, servers: str, rate: int, late_pct: float) -> None:
        super().__init__(servers, rate, WINDOW, late_pct)
        self._rate = rate
        self._waiting: dict[int, list[tuple[int, int]]] = {}

    def live(self, begin: int, until: int, check: Running) -> None:
        """Publish from the end of one window to that of another, and at last whatever is still held back."""
        number = 0
        for number, window_end in enumerate(range(begin, until, WINDOW)):
            check.check()
            place = number % CYCLE
            now = self._waiting.pop(number, [])
            if place in _DARK:
                self._waiting.setdefault(number - place + _DARK[-1] + 1, []).extend(self._reads(window_end))
            elif place not in _NIGHT:
                for read in self._reads(window_end):
                    if self._random.random() < self._late:
                        later = number + self._random.randint(1, _MOST_LATE)
                        self._waiting.setdefault(later, []).append(read)
                    else:
                        now.append(read)
                if place == _DARK[-1] + 1:
                    # What collectors have gathered comes first, and as fast as they can.
                    self._publish(now, time.time(), len(now) / self._rate / _BURST)
                    now = []
            self._random.shuffle(now)
            self._publish(now, window_end, WINDOW)
            time.sleep(max(0.0, window_end + WINDOW - time.time()))
        left = [read for later in self._waiting.values() for read in later]
        self._publish(left, time.time(), len(left) / self._rate)
        self._producer.flush(60)

    def _reads(self, window_end: int) -> list[tuple[int, int]]:
        self._random.shuffle(self._meters)
        return [(meter, window_end) for meter in self._meters]

    def _publish(self, reads: list[tuple[int, int]], begin: float, seconds: float) -> None:
        for place, (meter, window_end) in enumerate(reads):
            if place % 100 == 0:
                self._producer.poll(0)
                time.sleep(max(0.0, begin + seconds * place / len(reads) - time.time()))
                if place % 10_000 == 0:
                    self._event()
            self._read(meter, window_end)
            if self.reads % _MALFORMED_ONE_IN == 0:
                self._producer.produce(READS, b'{"meter_id":"MTR-%07d"' % meter, partition=meter % PARTITIONS)


class Samples:
    """The memory of the processes and the size of the newest checkpoint, sampled in a thread of its own."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._flink: tuple[FlinkRest, str] | None = None
        self.memory: dict[str, list[tuple[float, float]]] = {}
        """By process: (moment, MB)."""
        self.checkpoints: list[tuple[float, float]] = []
        self.heap: list[tuple[float, float]] = []

    def __enter__(self) -> Samples:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        told = 0.0
        while not self._stop.wait(_SAMPLE_SECONDS):
            now = time.time()
            for name, size in rss_by_process(self._pid).items():
                self.memory.setdefault(name, []).append((now, size / 1e6))
            # It may not be there yet, or busy.
            with suppress(FlinkError, LookupError, TypeError, ValueError, OSError):
                self._flink = self._flink or flink_of(self._pid)
                if self._flink is not None:
                    rest, job = self._flink
                    size = rest.checkpoints(job)["latest"]["completed"]["state_size"]
                    self.checkpoints.append((now, size / 1e6))
                    used = rest.request("/jobmanager/metrics?get=Status.JVM.Memory.Heap.Used")[0]["value"]
                    self.heap.append((now, int(used) / 1e6))
            if now - told >= 30:
                told = now
                sizes = ", ".join(f"{name.split()[0]} {found[-1][1]:.0f}" for name, found in self.memory.items())
                checkpoint = f"{self.checkpoints[-1][1]:.1f}" if self.checkpoints else "none"
                heap = f"{self.heap[-1][1]:.0f}" if self.heap else "unknown"
                _say(f"MB: {sizes}; JVM heap {heap}; checkpoint {checkpoint}")


def flink_of(pid: int) -> tuple[FlinkRest, str] | None:
    """The local Flink that `pid` has started, and its job that runs."""
    for words in command_lines(pid):
        for word in words:
            found = re.fullmatch(r"-Djava\.io\.tmpdir=(.*)/tmp", word)
            settings = Path(found[1]) / "conf" / "config.yaml" if found else None
            if settings is not None and settings.exists():
                first, last = re.findall(r"rest\.bind-port: (\d+)-(\d+)", settings.read_text())[0]
                for port in range(int(first), int(last) + 1):
                    rest = FlinkRest(f"127.0.0.1:{port}")
                    with suppress(FlinkError, LookupError, TypeError):
                        for job in rest.jobs():
                            if not job.ended:
                                return rest, job.id
    return None


def slope(samples: list[tuple[float, float]], since: float) -> Slope:
    """The line through the samples of whole cycles that end with the last one and begin after `since`."""
    last = samples[-1][0] if samples else 0.0
    cycle = CYCLE * WINDOW
    cycles = int((last - since) // cycle)
    begin = last - cycles * cycle if cycles else since
    chosen = np.array([each for each in samples if each[0] >= begin] or [(0.0, float("nan"))])
    if len(chosen) < 2:
        return Slope(float("nan"), float("nan"), float("nan"))
    rise, start = np.polyfit((chosen[:, 0] - chosen[0, 0]) / 3600, chosen[:, 1], 1)
    return Slope(float(start), float(rise), float(chosen[:, 1].max()))


def _lows(samples: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The least of every cycle."""
    cycles: dict[int, tuple[float, float]] = {}
    for at, size in samples:
        cycle = int(at // (CYCLE * WINDOW))
        cycles[cycle] = min(cycles.get(cycle, (at, size)), (at, size), key=lambda each: each[1])
    return list(cycles.values())


def measure(rate: int, seconds: int, warm_up: int, late_pct: float, arguments: list[str], log: Path) -> Soak:
    """One run, with a broker and a Flink of its own."""
    with KafkaBroker() as broker, tempfile.TemporaryDirectory(prefix="ami-beam-soak-") as folder:
        directory = Path(folder)
        for topic in (READS, EVENTS, *RESULT_TOPICS, *OPTIONAL_TOPICS.values()):
            broker.create_topic(topic, PARTITIONS)
        headend = Days(broker.bootstrap_servers, rate, late_pct)
        counts = directory / "counts.csv"
        with counts.open("w") as file:
            file.write("transformer_id,total_meters\n")
            file.writelines(f"TR-{each:06d},{METERS_PER_TRANSFORMER}\n" for each in range(headend.transformers))
        rules = [
            *(f"--window={WINDOW}s", f"--collection_delay={_DELAY}s", f"--receipt_delay={_DELAY}s"),
            *(f"--allowed_lateness={_LATENESS}s", f"--billing_lateness={_LATENESS}s", "--late_gather=5s"),
            *(*EVERYTHING, *arguments),
        ]
        options = [*("--runner=FlinkRunner", "--kafka_io=native", "--start=earliest", "--parallelism=1"), *rules]
        system = System("soak", lambda place: _command(place, options), takes_late_reads=True, own_topic=False)
        place = Place(broker.bootstrap_servers, counts, "")
        with Running(system, place, log) as process, Samples(process.pid) as samples:
            begin = int(time.time() // WINDOW + 1) * WINDOW
            until = begin + -(-seconds // WINDOW) * WINDOW
            publishing = threading.Thread(target=headend.live, args=(begin, until, process), daemon=True)
            publishing.start()
            publishing.join(warm_up)
            process.check()
            warm, cpu = time.time(), cpu_seconds(process.pid)
            while publishing.is_alive():
                process.check()
                publishing.join(1)
            cores = (cpu_seconds(process.pid) - cpu) / (time.time() - warm)
            # Until the watermark, which follows the clock, has made the last window due and revised it.
            time.sleep(_MOST_LATE * WINDOW + _DELAY + 3 * WINDOW)
            _wait_until_published(broker, process)
        took = time.time() - begin
        since = max(begin, until - _COMPARED_SECONDS)
        _say("replaying the records")
        replayed = _replay(broker, directory, since, counts, rules)
        published = _rows(broker, since)
    # A window's reads come after its end: the windows from here on have all of theirs in the replay.
    first = since + _DELAY + WINDOW
    expected, got = (_of_windows(rows, first) for rows in (replayed, published))
    difference = compare(expected, got)
    return Soak(
        took,
        headend.reads,
        cores,
        {name: slope(found, warm) for name, found in samples.memory.items() if found[-1][0] > until},
        slope(_lows(samples.heap), warm),
        slope(samples.checkpoints, warm),
        sum(map(len, expected.values())),
        difference.lost,
        difference.invented,
    )


def _wait_until_published(broker: KafkaBroker, process: Running) -> None:
    """Wait until nothing more is published: on a loaded machine the pipeline may be behind the head-end."""
    before, since = None, time.monotonic()
    while before is None or time.monotonic() - since < _UNCHANGED_SECONDS:
        process.check()
        now = _ends(broker)
        if now != before:
            before, since = now, time.monotonic()
        time.sleep(1)


def _ends(broker: KafkaBroker) -> list[int]:
    consumer = Consumer({"bootstrap.servers": broker.bootstrap_servers, "group.id": "soak-end"})
    try:
        return [
            consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=10)[1]
            for topic in (SUMMARY_TOPIC, RECEIPT_TOPIC)
            for partition in range(PARTITIONS)
        ]
    finally:
        consumer.close()


def _command(place: Place, options: list[str]) -> list[str]:
    topics = [f"--bootstrap_servers={place.bootstrap_servers}", f"--meter_counts={place.meter_counts}"]
    return [sys.executable, "-m", "benchmarks.compressed_run", *topics, *options]


def _messages(broker: KafkaBroker, topics: tuple[str, ...], since: int) -> Iterator[Message]:
    """What was appended to the topics from a moment on (seconds), by topic, and in order within a partition."""
    consumer = Consumer({"bootstrap.servers": broker.bootstrap_servers, "group.id": "soak", "fetch.min.bytes": 1})
    try:
        for topic in topics:
            for partition in range(PARTITIONS):
                asked = TopicPartition(topic, partition, since * 1000)
                found = consumer.offsets_for_times([asked], timeout=30)[0].offset
                end = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=10)[1]
                if not 0 <= found < end:
                    continue
                consumer.assign([TopicPartition(topic, partition, found)])
                done = found
                while done < end:
                    for message in consumer.consume(5_000, timeout=1):
                        if message.error() is not None:
                            raise KafkaException(message.error())
                        done = message.offset() + 1
                        yield message
    finally:
        consumer.close()


def _replay(broker: KafkaBroker, directory: Path, since: int, counts: Path, rules: list[str]) -> dict[str, list[Row]]:
    """What ami-beam makes of the records from `since` on, read from files, on one worker and without a Flink."""
    for topic, name in ((READS, "reads"), (EVENTS, "events")):
        records = [
            (message.timestamp()[1], message.partition(), message.offset(), message.value())
            for message in _messages(broker, (topic,), since)
        ]
        records.sort(key=lambda record: record[0])
        with gzip.open(directory / f"{name}.jsonl.gz", "wt", compresslevel=1) as file:
            for at, partition, offset, value in records:
                row = {"topic": topic, "partition": partition, "offset": offset, "ts_ms": at, "key": None}
                file.write(json.dumps({**row, "value_b64": base64.b64encode(value).decode()}) + "\n")
    subprocess.run(
        [
            *(sys.executable, "-m", "ami_beam.run", "--source=files", "--sink=files", *rules),
            *(f"--reads={directory}/reads.jsonl.gz", f"--events={directory}/events.jsonl.gz"),
            *(f"--meter_counts={counts}", f"--output={directory}/expected"),
        ],
        check=True,
        capture_output=True,
    )
    return read_files(directory / "expected")


def _rows(broker: KafkaBroker, since: int) -> dict[str, list[Row]]:
    topics = (*OUTPUT_TOPICS, *OPTIONAL_TOPICS.values())
    rows: dict[str, list[Row]] = {topic: [] for topic in topics}
    for message in _messages(broker, topics, since):
        rows[message.topic()].append(json.loads(message.value()))
    return rows


def _of_windows(rows: dict[str, list[Row]], first: int) -> dict[str, list[Row]]:
    """The rows of windows and intervals that end at `first` (seconds) or later, of events and letters from then on.

    Days and months have begun before.
    """

    def belongs(row: Row) -> bool:
        at: Any = row.get("window_end") or row.get("alert_time") or row.get("record_time")
        if row.get("record") == "READ":
            at = row["interval_end"]
        return at is not None and parse_instant(at) >= first * MICROS_PER_SECOND

    topics = (*TOPICS, DEAD_LETTER_TOPIC)
    # Days are minutes in one of them, and so their rules are others. An alarm is made of windows from before, too, and
    # so are a list of silent meters and what explains an alert.
    whole = {topic: rows[topic] if topic not in (ALARMS_TOPIC, SILENT_METERS_TOPIC) else [] for topic in topics}
    return {
        topic: [
            {name: value for name, value in row.items() if name not in ("explained_by", "config_id")}
            for row in found
            if belongs(row)
        ]
        for topic, found in whole.items()
    }


def main(argv: list[str] | None = None) -> int:
    """Measure once and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=3_600, help="how long reads are published (%(default)s)")
    parser.add_argument("--warm_up", type=int, default=240, help="of them, seconds left out of slopes (%(default)s)")
    parser.add_argument("--rate", type=int, default=5_600, help="reads a second (%(default)s)")
    parser.add_argument("--late", type=float, default=5.0, help="per cent of late reads (%(default)s)")
    parser.add_argument(
        "--heap", default="1g", help="of the JVM, which else takes a quarter of the memory (%(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print an object on standard output")
    parser.add_argument("--log", type=Path, help="where the pipeline's log goes (discarded)")
    parser.add_argument("pipeline", nargs="*", metavar="-- --OPTION", help="options of ami_beam.run")
    options = parser.parse_args(argv)
    # The broker's own limit stands on its command line, which counts more.
    os.environ["JAVA_TOOL_OPTIONS"] = f"-Xmx{options.heap}"
    with tempfile.TemporaryDirectory() as scratch:
        log = options.log or Path(scratch) / "run.log"
        result = measure(options.rate, options.seconds, options.warm_up, options.late, options.pipeline, log)
    if options.json:
        print(json.dumps(asdict(result)))
    else:
        print(f"{result.reads:,} reads in {result.seconds:,.0f} s, {result.cores:.2f} cores")
        lines = {**result.processes, "JVM heap, lows": result.jvm_heap, "checkpoint": result.checkpoints}
        print("| | MB after the warm-up | MB per hour | greatest |")
        print("|---|---|---|---|")
        for name, line in lines.items():
            print(f"| {name} | {line.start_mb:,.1f} | {line.mb_per_hour:+,.1f} | {line.greatest_mb:,.1f} |")
        lost, invented = len(result.lost), len(result.invented)
        print(f"{result.compared_rows:,} rows of the replay: {lost} lost or different, {invented} invented")
    for kind, rows in (("lost or different", result.lost), ("invented", result.invented)):
        if rows:
            _say(f"{kind}: {dict(Counter(row.split(' ', 1)[0] for row in rows))}; {rows[:5]}")
    return 1 if result.lost or result.invented else 0


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    leave_with(main)
