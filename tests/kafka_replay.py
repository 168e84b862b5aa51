"""A replay through real topics: publishes exported records with their record times and collects what comes out."""

from __future__ import annotations

import base64
import gzip
import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

from confluent_kafka import Consumer, Producer, TopicPartition

from ami_beam.codecs.json_outputs import OUTPUT_TOPICS, RESULT_TOPICS
from ami_beam.consumers import OPTIONAL_TOPICS
from ami_beam.instants import MICROS_PER_SECOND, format_instant, parse_instant
from ami_beam.local.kafka_broker import KafkaBroker

READS = "ami.headend.reads"
EVENTS = "ami.headend.events"
_TIME = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")


def exported(path: Path) -> Iterator[tuple[int, bytes | None, bytes | None]]:
    """(record time in ms, key, value) of every record of an export."""
    with gzip.open(path) as lines:
        for line in lines:
            row = json.loads(line)
            value, key = row["value_b64"], row["key"]
            yield row["ts_ms"], key.encode() if key else None, None if value is None else base64.b64decode(value)


@cache
def last_record_time(path: Path) -> int:
    """The greatest record time of an export, in ms."""
    return max(ts for ts, _, _ in exported(path))


def shift_to_now(paths: Iterable[Path], window_seconds: int = 900) -> int:
    """Seconds, whole windows, by which the records must be moved so that the last of them is not ahead of now."""
    last = max(map(last_record_time, paths))
    return int(time.time() - last / 1000) // window_seconds * window_seconds


def shifted(value: bytes | None, seconds: int) -> bytes | None:
    """The value with every timestamp in it moved; what is no timestamp stays as it is."""
    if value is None or seconds == 0:
        return value
    return _TIME.sub(lambda match: _moved(match[0], seconds), value)


@cache
def _moved(time_text: bytes, seconds: int) -> bytes:
    """A window's reads have most of their timestamps in common."""
    try:
        instant = parse_instant(time_text.decode() + "Z")
    except ValueError:
        return time_text
    return format_instant(instant + seconds * MICROS_PER_SECOND)[:19].encode()


def publish(
    broker: KafkaBroker,
    topic: str,
    path: Path,
    seconds: int,
    encode: Callable[[bytes | None], bytes | None] | None = None,
) -> int:
    """Publish an export in arrival order, moved by `seconds`, encoded anew by `encode`. Returns how many records."""
    producer = Producer({"bootstrap.servers": broker.bootstrap_servers, "linger.ms": 20, "enable.idempotence": True})
    count = 0
    for ts_ms, key, value in exported(path):
        while True:
            try:
                sent = shifted(value, seconds)
                sent = sent if encode is None else encode(sent)
                producer.produce(topic, value=sent, key=key, timestamp=ts_ms + seconds * 1000)
                break
            except BufferError:
                producer.poll(0.1)
        count += 1
        if count % 1000 == 0:
            producer.poll(0)
    assert producer.flush(60) == 0
    return count


class Outputs:
    """Everything in the output topics so far, as the files that `--sink=files` would write."""

    def __init__(self, broker: KafkaBroker, directory: Path, as_json: Callable[[bytes], bytes] = bytes):
        """`as_json`: of a value that is none."""
        self._directory = directory
        self._as_json = as_json
        directory.mkdir(parents=True, exist_ok=True)
        self._consumer = Consumer(
            {
                "bootstrap.servers": broker.bootstrap_servers,
                "group.id": "outputs",
                "enable.auto.commit": "false",
                "auto.offset.reset": "earliest",
                # A broker that a scenario ends is no news.
                "log_level": 0,
            }
        )
        known = self._consumer.list_topics(timeout=10).topics
        topics = [*OUTPUT_TOPICS, *(topic for topic in OPTIONAL_TOPICS.values() if topic in known)]
        self._consumer.assign(
            [TopicPartition(topic, number, 0) for topic in topics for number in known[topic].partitions]
        )
        self.rows: dict[str, list[dict]] = {topic: [] for topic in topics}
        self._files = {topic: (directory / f"{topic}.jsonl").open("wb") for topic in topics}

    def collect(self, seconds: float) -> int:
        """Take what comes within `seconds`. Returns how many records."""
        until, count = time.monotonic() + seconds, 0
        while (left := until - time.monotonic()) > 0:
            for message in self._consumer.consume(1000, timeout=min(left, 0.5)):
                assert message.error() is None, message.error()
                value = self._as_json(message.value())
                self.rows[message.topic()].append(json.loads(value))
                self._files[message.topic()].write(value + b"\n")
                count += 1
        for file in self._files.values():
            file.flush()
        return count

    @property
    def count(self) -> int:
        """How many records have come so far."""
        return sum(map(len, self.rows.values()))

    def set_aside(self) -> Counter[str]:
        """Distinct records set aside (`used: false`), by topic."""
        letters = {
            (row["topic"], row["partition"], row["offset"]) for row in self.rows["ami.deadletter"] if not row["used"]
        }
        return Counter(topic for topic, _, _ in letters)

    def close(self) -> None:
        self._consumer.close()
        for file in self._files.values():
            file.close()


class Run:
    """`python -m ami_beam.run` as a process of its own, stopped at the end."""

    def __init__(self, arguments: list[str], log: Path):
        self.log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ami_beam.run", *arguments], stdout=output, stderr=subprocess.STDOUT
            )

    def check(self) -> None:
        """Fail with the log's end when the process has ended."""
        if self._process.poll() is not None:
            raise AssertionError(f"run ended with {self._process.returncode}:\n{self.log_tail()}")

    def workers(self) -> list[int]:
        """Process ids of its worker processes."""
        return workers_of(self._process.pid)

    def log_tail(self) -> str:
        """The last lines of its log."""
        return self.log.read_text(errors="replace")[-4000:]

    def kill(self) -> None:
        """SIGKILL, which nothing can do anything about."""
        self._process.kill()
        self._process.wait()

    def wait(self, seconds: float) -> int:
        """The exit code, once it has ended by itself."""
        return self._process.wait(seconds)

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise

    def counters(self) -> dict[str, int]:
        """The counters that the run logged when it ended."""
        found = re.findall(r"Counters: (\{.*\})", self.log.read_text())
        return json.loads(found[-1]) if found else {}


def workers_of(pid: int) -> list[int]:
    """Process ids of the workers of a process that has a worker pool."""
    nursery = "ami_beam.worker_nursery"
    return [worker for mother in children(pid, nursery) for worker in children(mother, nursery)]


def children(pid: int, command: str) -> list[int]:
    """Process ids of the children of a process whose command line has this in it."""
    found = subprocess.run(["pgrep", "-f", "-P", str(pid), command], capture_output=True, text=True, check=False)
    return [int(word) for word in found.stdout.split()]


def create_topics(broker: KafkaBroker, partitions: int = 3, timestamp_type: str = "CreateTime") -> None:
    """Every topic of the product."""
    broker.create_topics((READS, EVENTS), partitions, timestamp_type)
    broker.create_topics(RESULT_TOPICS, partitions=2)
