"""`python -m ami_beam.demo`: the whole product on one machine, and nothing of it left when it ends.

A Kafka broker, a simulated head-end and the pipeline on an embedded Flink run as child processes; the alerts are
printed as they come out of Kafka. Whatever ends the demonstration ends all of them and removes their files.

Exit codes: 0 stopped by Ctrl-C or SIGTERM, or, with --once, every alert type was seen; 1 something did not start, ended
too early, or did not come in time; 2 a wrong option.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from confluent_kafka import Consumer, KafkaException, TopicPartition

from ami_beam.codecs.json_outputs import OUTPUT_TOPICS, RESULT_TOPICS
from ami_beam.demo_options import parser
from ami_beam.demo_screen import Screen, Tally, missing
from ami_beam.input_topics import EVENTS_TOPIC, OUTAGES_TOPIC, READS_TOPIC
from ami_beam.instants import MICROS_PER_SECOND, format_duration
from ami_beam.local import jars, process
from ami_beam.local.java import JavaNotFoundError, find_java
from ami_beam.local.kafka_broker import KafkaBroker

_READ_PARTITIONS, _EVENT_PARTITIONS = 2, 1
_PATIENCE_SECONDS = 30.0
_CHECK_SECONDS = 1.0
_TOGETHER_SECONDS = 1.0


class Stopped(BaseException):
    """SIGTERM or Ctrl-C asked the demonstration to end."""


class DemoError(Exception):
    """The demonstration cannot go on; the message says why."""


class Signals:
    """The first SIGINT, SIGTERM or SIGHUP raises `Stopped`; a later one kills the children and ends the process.

    Those that come together, as from a terminal and `make` at once, count as one.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._first = 0.0
        self._children: list[process.ChildProcess] = []
        self.stopping = False

    def install(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # Somebody who started us with nohup wants us to stay.
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._arrived)

    def watch(self, child: process.ChildProcess) -> None:
        """Kill this child, too, when there is no time left."""
        self._children.append(child)

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.stopping:
            self.stopping, self._first = True, now
            raise Stopped
        if now - self._first < _TOGETHER_SECONDS:
            return
        for child in self._children:
            with contextlib.suppress(OSError):
                os.killpg(child.pid, signal.SIGKILL)
        # On Linux the kernel ends the broker and what the children started as their parents end.
        shutil.rmtree(self._directory, ignore_errors=True)
        os._exit(1)


class Demo:
    """Broker, head-end and pipeline; `watch` shows what comes out of them."""

    def __init__(self, args: argparse.Namespace, logs: Path, scratch: Path, screen: Screen, signals: Signals) -> None:
        self._args = args
        self._logs = logs
        self._scratch = scratch
        self._screen = screen
        self._signals = signals
        self._children: list[process.ChildProcess] = []
        self.tally = Tally()

    def start(self, stack: contextlib.ExitStack) -> KafkaBroker:
        """Everything runs when this returns. What `stack` holds stops it, the pipeline first."""
        find_java()
        # Before the children start, whose output goes to logs: downloads show their progress here.
        for name in ("kafka", "flink"):
            jars.fetch(name)
        self._screen.say("Starting a Kafka broker …")
        broker = KafkaBroker()
        stack.callback(self._stop_broker, broker)
        broker.start()
        broker.create_topic(READS_TOPIC, _READ_PARTITIONS, "LogAppendTime")
        broker.create_topic(EVENTS_TOPIC, _EVENT_PARTITIONS, "LogAppendTime")
        broker.create_topics((OUTAGES_TOPIC, *RESULT_TOPICS))
        window = format_duration(self._args.window)
        self._screen.say(f"Starting the head-end: {self._args.meters:,} meters, a read each every {window} …")
        network = self._scratch / "network"
        headend = self._child(
            stack,
            "the head-end",
            "ami_beam.simulate",
            [
                *("--realtime", "--scenario=demo", "--meter_counts=", f"--output={network}"),
                *(f"--bootstrap_servers={broker.bootstrap_servers}", f"--window={window}"),
                *(f"--meters={self._args.meters}", "--planned_outages=1", f"--oms_outages={OUTAGES_TOPIC}"),
            ],
        )
        # The meter counts are complete once the file that is written after them is there.
        headend.wait_until((network / "truth.jsonl").exists, 60)
        delay = format_duration(max(self._args.window // 3 // 1000 * 1000, MICROS_PER_SECOND))
        self._screen.say("Starting the pipeline on an embedded Flink; its first results take half a minute …")
        self._child(
            stack,
            "the pipeline",
            "ami_beam.run",
            [
                *("--runner=FlinkRunner", "--start=earliest", "--late_gather=2s", "--shards=8"),
                *(f"--bootstrap_servers={broker.bootstrap_servers}", f"--window={window}"),
                *(f"--collection_delay={delay}", f"--meter_counts={network / 'transformer_meter_count.csv'}"),
                f"--oms_outages={OUTAGES_TOPIC}",
            ],
        )
        self._start_dashboard(stack, broker)
        return broker

    def _start_dashboard(self, stack: contextlib.ExitStack, broker: KafkaBroker) -> None:
        """Returns when the page is there."""
        port = self._args.dashboard_port
        if not port or process.is_listening(port):
            (port,) = process.free_ports(1)
        page = self._child(
            stack,
            "the operators' screen",
            "ami_beam.dashboard",
            [
                *(f"--bootstrap_servers={broker.bootstrap_servers}", f"--port={port}"),
                f"--oms_outages={OUTAGES_TOPIC}",
            ],
        )
        page.wait_until(lambda: process.is_listening(port), _PATIENCE_SECONDS)
        self._screen.say(f"The operators' screen is at http://127.0.0.1:{port}/")

    def watch(self, broker: KafkaBroker, deadline: float | None) -> bool:
        """Show alerts and counts, without a deadline for ever; with one, whether every type was seen by then."""
        port = int(broker.bootstrap_servers.rpartition(":")[2])
        next_check = 0.0
        with _consumer(broker) as consumer:
            while deadline is None or time.monotonic() < deadline:
                for message in consumer.consume(500, timeout=0.25):
                    topic, value = message.topic(), message.value()
                    if message.error() is None and topic is not None and value is not None:
                        if topic == OUTAGES_TOPIC:
                            self._screen.announced(value)
                        elif (alert := self.tally.take(topic, value)) is not None:
                            self._screen.alert(alert)
                if time.monotonic() >= next_check:
                    next_check = time.monotonic() + _CHECK_SECONDS
                    for child in self._children:
                        child.wait_until(lambda: True, 0)  # raises when it has ended
                    if not process.is_listening(port):
                        raise DemoError(f"the Kafka broker does not answer any more:\n{_end_of(broker.log)}")
                    with contextlib.suppress(KafkaException):  # busy
                        self.tally.reads = _records(consumer, READS_TOPIC, _READ_PARTITIONS)
                self._screen.count(self.tally)
                if deadline is not None and not missing(self.tally.seen):
                    return True
        return False

    def _child(
        self, stack: contextlib.ExitStack, name: str, module: str, arguments: Sequence[str]
    ) -> process.ChildProcess:
        log = self._logs / f"{module.rpartition('.')[2]}.log"
        child = process.ChildProcess(name, [sys.executable, "-m", module, *arguments], log)
        stack.callback(child.stop, _PATIENCE_SECONDS)
        self._signals.watch(child)
        self._children.append(child)
        return child

    def _stop_broker(self, broker: KafkaBroker) -> None:
        if self._args.keep and broker.log and broker.log.exists():
            shutil.copy(broker.log, self._logs / "broker.log")
        broker.stop()


@contextlib.contextmanager
def _consumer(broker: KafkaBroker) -> Iterator[Consumer]:
    """A consumer of every output topic, and of what the OMS announces, from their beginning."""
    consumer = Consumer(
        {
            "bootstrap.servers": broker.bootstrap_servers,
            "group.id": "ami-beam-demo",
            "enable.auto.commit": "false",
            "auto.offset.reset": "earliest",
            "log_level": "0",
        }
    )
    try:
        consumer.assign([TopicPartition(topic, 0, 0) for topic in (OUTAGES_TOPIC, *OUTPUT_TOPICS)])
        yield consumer
    finally:
        consumer.close()


def _records(consumer: Consumer, topic: str, partitions: int) -> int:
    """How many records a topic has taken."""
    ends = (consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=5) for number in range(partitions))
    return sum(end[1] for end in ends if end)


def _end_of(log: Path | None, size: int = 4096) -> str:
    return log.read_bytes()[-size:].decode("utf-8", "replace") if log and log.exists() else "(no log)"


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """A directory for every temporary file of ours and of our children, removed at the end."""
    directory = process.TemporaryDirectory("ami-beam-demo-")
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = tempfile.tempdir = str(directory.path)
    try:
        yield directory.path
    finally:
        tempfile.tempdir = None
        if before is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = before
        directory.remove()


def main(argv: Sequence[str] | None = None) -> int:
    """Run a demonstration. Returns the exit code."""
    args = parser().parse_args(argv)
    screen = Screen(sys.stdout)
    began = time.monotonic()
    # Made first, so that it is not in the directory that is removed.
    logs = Path(tempfile.mkdtemp(prefix="ami-beam-logs-")) if args.keep else None
    with _scratch() as scratch:
        signals = Signals(scratch)
        demo = Demo(args, logs or scratch, scratch, screen, signals)
        try:
            with contextlib.ExitStack() as stack:
                stack.callback(screen.say, "Everything has stopped.")
                signals.install()
                try:
                    broker = demo.start(stack)
                    deadline = time.monotonic() + args.timeout / MICROS_PER_SECOND if args.once else None
                    complete = demo.watch(broker, deadline)
                finally:
                    # From here on a signal interrupts nothing; a late one forces the end.
                    signals.stopping = True
                    screen.count(demo.tally, force=True)
                    screen.end_count()
                    screen.say("Stopping …")
        except Stopped:
            return 1 if args.once and _say_missing(screen, demo.tally, "when it was stopped") else 0
        except (DemoError, process.StartError, jars.JarError, JavaNotFoundError) as error:
            print(f"ami_beam.demo: {error}", file=sys.stderr)
            return 1
        finally:
            if logs:
                screen.say(f"The logs are in {logs}")
    if not complete:
        _say_missing(screen, demo.tally, f"within {format_duration(args.timeout)}")
        return 1
    screen.say(f"Every alert type was seen, {time.monotonic() - began:.0f} s after the start.")
    return 0


def _say_missing(screen: Screen, tally: Tally, when: str) -> bool:
    """Whether anything is missing, after saying what."""
    left = missing(tally.seen)
    if left:
        screen.say(f"Not seen {when}: {', '.join(left)}")
    return bool(left)


if __name__ == "__main__":
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:
        # Nobody reads any more. What is still buffered must not fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)
