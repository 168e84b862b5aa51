"""`python -m benchmarks.flood`: what malformed records cost the good ones, and what they do to memory.

One job reads one phase after the other, each shown to it at once as a backlog, with the same number of good reads in
each: good reads alone; as many malformed records between them; the malformed ones in bursts; a partition that holds
nothing else; good reads alone again. A last phase is records of 1 MB, of twice as many bytes as
the good reads. A phase is over when the rows of its good reads and the letters of all its malformed records are there.
Prints a table, or with --json a list on standard output.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from confluent_kafka import Consumer, Producer, TopicPartition

from ami_beam.codecs.json_outputs import DEAD_LETTER_TOPIC, RESULT_TOPICS, SUMMARY_TOPIC
from ami_beam.local.kafka_broker import KafkaBroker
from benchmarks.ending import leave_with
from benchmarks.process_tree import cpu_by_program, peak_bytes_by_process, reset_peaks, rss_by_process
from benchmarks.summary_watch import SummaryWatch
from benchmarks.systems import EVENTS, READS, Place, Running, ami_beam
from benchmarks.workload import Arrivals, Workload

PARTITIONS = 3
BURST = 5_000
HUGE_BYTES = 1_000_000
_HUGE_ONE_IN = 20_000
_STALL_SECONDS = 180.0
_WARM_UP_WINDOWS = 12
_PARTITION_OF_MALFORMED = 2

Record = tuple[int, int, bytes, bytes | None]
"""Partition, record time in ms, key, value."""


@dataclass(frozen=True)
class Phase:
    """The figures of one phase. CPU is that of all processes but the broker."""

    name: str
    good: int
    malformed: int
    cpu_s_per_million_good: float
    cpu_by_program: dict[str, float]
    """The same, split into "java" and "python"."""
    to_good: float
    """That, over the mean of the phases of good reads alone."""
    good_per_s: float
    records_per_s: float
    peak_mb: dict[str, int]
    """By process, the most in this phase."""
    rss_mb: dict[str, int]
    """By process, at its end."""


def malformed(number: int, value: bytes) -> bytes | None:
    """What became of a good record: one of the kinds of `KINDS`, in turn."""
    return KINDS[number % len(KINDS)](value)


KINDS = (
    lambda value: value[: len(value) // 2],  # cut off
    lambda value: value.replace(b'"consumption_kwh":', b'"consumption_kwh":"1.0","was":'),  # a number in quotes
    lambda value: value.replace(b'"meter_id"', b'"meterId"'),  # a field that is missing
    lambda value: b"\x00\x17" + value[:80],  # no JSON at all
    lambda value: value.replace(b'"interval_end":"2', b'"interval_end":"x2'),  # no time
    lambda value: value.replace(b'"estimated_flag":', b'"estimated_flag":null,"was":'),  # null for a boolean
    lambda value: value.replace(b'"feeder_id":', b'"feeder_id":"\xff\xfe","was":'),  # no UTF-8
    lambda value: value.replace(b'"read_type":"INTERVAL"', b'"read_type":"HOURLY"'),
    lambda value: b"[" + value + b"]",
    lambda value: None,  # a tombstone
)


def huge(number: int, value: bytes) -> bytes:
    """A record of 1 MB: a text without an end, valid JSON that is too long to be a read, or nothing but brackets."""
    if number % 3 == 0:
        return (value[:-1] + b',"x":"').ljust(HUGE_BYTES, b"x")
    if number % 3 == 1:
        return b'{"x":"' + b"y" * (HUGE_BYTES - 8) + b'"}'
    return b"[" * HUGE_BYTES


def alone(arrivals: Arrivals, position: int) -> Iterator[Record]:
    """The good reads of a position."""
    for _, at, key, value in arrivals.records(position):
        yield int(key[-7:]) // 10 % PARTITIONS, at, key, value


def mixed(arrivals: Arrivals, position: int) -> Iterator[Record]:
    """A malformed record before each good one; one in 20,000 of them is huge."""
    for number, (partition, at, key, value) in enumerate(alone(arrivals, position)):
        bad = huge(number, value) if number % _HUGE_ONE_IN == 17 else malformed(number, value)
        yield partition, at, key, bad
        yield partition, at, key, value


def bursts(arrivals: Arrivals, position: int) -> Iterator[Record]:
    """As many malformed records as good ones, in the same partitions, thousands of them in a row."""
    held: list[Record] = []
    for record in alone(arrivals, position):
        held.append(record)
        if len(held) == BURST:
            yield from _burst(held)
            held = []
    yield from _burst(held)


def _burst(held: list[Record]) -> Iterator[Record]:
    for number, (partition, at, key, value) in enumerate(held):
        yield partition, min(at, held[0][1]), key, malformed(number, value or b"")
    yield from held


def one_partition(arrivals: Arrivals, position: int) -> Iterator[Record]:
    """As many malformed records as good ones, and a partition has nothing else."""
    for number, (partition, at, key, value) in enumerate(alone(arrivals, position)):
        yield _PARTITION_OF_MALFORMED, at, key, malformed(number, value or b"")
        yield partition % _PARTITION_OF_MALFORMED, at, key, value


def megabytes(arrivals: Arrivals, position: int) -> Iterator[Record]:
    """So many records of 1 MB that there are twice as many bytes of them as of good reads."""
    written = 0
    for number, (partition, at, key, value) in enumerate(alone(arrivals, position)):
        written += 2 * len(value or b"")
        if written >= HUGE_BYTES:
            written -= HUGE_BYTES
            yield partition, at, key, huge(number, value or b"")
        yield partition, at, key, value


PHASES = (
    ("good reads alone", alone),
    ("50 % malformed", mixed),
    ("50 % malformed, bursts of 5,000", bursts),
    ("a partition of malformed ones", one_partition),
    ("good reads alone again", alone),
    ("records of 1 MB", megabytes),
)


class Feed:
    """Publishes a phase so that all of it is visible at once."""

    def __init__(self, servers: str) -> None:
        self._producer = Producer(
            {
                "bootstrap.servers": servers,
                "linger.ms": 20,
                "queue.buffering.max.messages": 500_000,
                "transactional.id": "flood",
                "transaction.timeout.ms": 900_000,
                "message.max.bytes": 1_040_000,
            }
        )
        self._producer.init_transactions(60)

    def prepare(self, records: Iterator[Record]) -> int:
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
        if self._producer.flush(300):
            raise RuntimeError("the broker did not take every record")
        return count

    def show(self) -> None:
        self._producer.commit_transaction(60)


class Letters:
    """How many records the dead-letter topic holds."""

    def __init__(self, servers: str) -> None:
        self._consumer = Consumer({"bootstrap.servers": servers, "group.id": "flood"})

    def count(self) -> int:
        ends = [
            self._consumer.get_watermark_offsets(TopicPartition(DEAD_LETTER_TOPIC, partition), timeout=10)[1]
            for partition in range(PARTITIONS)
        ]
        return sum(ends)

    def close(self) -> None:
        self._consumer.close()


def measure(reads: int, meters: int, arguments: list[str], log: Path, phases: list[str]) -> list[Phase]:
    """All phases, with a broker and a Flink of their own."""
    chosen = [(name, records) for name, records in PHASES if name in phases]
    windows = max(4, -(-reads // meters))
    total = Workload.of(windows * meters * len(chosen), meters, 0.0)
    workload = replace(total, warmup_windows=_WARM_UP_WINDOWS, measured_windows=windows * len(chosen))
    arrivals = workload.arrivals()
    wanted = arrivals.transformers_on_time()
    results: list[Phase] = []
    with KafkaBroker() as broker, tempfile.TemporaryDirectory(prefix="ami-beam-flood-") as directory:
        for topic in (READS, EVENTS, *RESULT_TOPICS):
            broker.create_topic(topic, PARTITIONS)
        counts = Path(directory) / "counts.csv"
        arrivals.write_meter_counts(str(counts))
        feed, letters = Feed(broker.bootstrap_servers), Letters(broker.bootstrap_servers)
        watch = SummaryWatch(broker.bootstrap_servers, SUMMARY_TOPIC)
        place = Place(broker.bootstrap_servers, counts, "")
        system = ami_beam("ami-beam native", "--kafka_io=native", *arguments)
        with (
            contextlib.closing(watch),
            contextlib.closing(letters),
            Running(system, place, log) as process,
        ):

            def until(window: int, expected_letters: int) -> None:
                text, published, moved = workload.window_end_text(window), -1, time.monotonic()
                while watch.rows[text] < wanted[window] or letters.count() < expected_letters:
                    process.check()
                    watch.collect(0.1)
                    now, so_far = time.monotonic(), watch.rows.total() + letters.count()
                    if so_far != published:
                        published, moved = so_far, now
                    elif now - moved > _STALL_SECONDS:
                        raise RuntimeError(
                            f"nothing published for {_STALL_SECONDS:g} s; {watch.rows[text]} of {wanted[window]} rows,"
                            f" {letters.count()} of {expected_letters} letters:\n{log.read_text()[-2000:]}"
                        )

            positions = range(_WARM_UP_WINDOWS)
            feed.prepare(record for each in positions for record in alone(arrivals, each))
            feed.show()
            until(positions[-2], 0)
            _say("warm")
            expected = 0
            for name, records in chosen:
                positions = range(positions.stop, positions.stop + windows)
                good = arrivals.reads_in(positions)
                bad = feed.prepare(record for each in positions for record in records(arrivals, each)) - good
                expected += bad
                reset_peaks(process.pid)
                cpu, shown = cpu_by_program(process.pid), time.monotonic()
                feed.show()
                until(positions[-2], expected)
                took = time.monotonic() - shown
                used = {
                    program: (seconds - cpu.get(program, 0.0)) / good * 1e6
                    for program, seconds in cpu_by_program(process.pid).items()
                }
                phase = Phase(
                    name, good, bad, sum(used.values()), used, 0.0, good / took, (good + bad) / took,
                    {each: peak // 1_000_000 for each, peak in peak_bytes_by_process(process.pid).items()},
                    {each: rss // 1_000_000 for each, rss in rss_by_process(process.pid).items()},
                )  # fmt: skip
                results.append(phase)
                _say(str(phase))
    base = float(np.mean([each.cpu_s_per_million_good for each in results if not each.malformed] or [np.nan]))
    return [replace(each, to_good=each.cpu_s_per_million_good / base) for each in results]


def main(argv: list[str] | None = None) -> int:
    """Measure once and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reads", type=int, default=500_000, help="good reads of a phase (%(default)s)")
    parser.add_argument("--meters", type=int, default=20_000, help="how many (%(default)s)")
    parser.add_argument("--phases", default=",".join(str(n) for n in range(len(PHASES))), help="numbers (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print a list on standard output")
    parser.add_argument("--log", type=Path, help="where the pipeline's log goes (discarded)")
    parser.add_argument("pipeline", nargs="*", metavar="-- --OPTION", help="options of ami_beam.run")
    options = parser.parse_args(argv)
    phases = [PHASES[int(number)][0] for number in options.phases.split(",")]
    with tempfile.TemporaryDirectory() as scratch:
        log = options.log or Path(scratch) / "run.log"
        results = measure(options.reads, options.meters, options.pipeline, log, phases)
    if options.json:
        print(json.dumps([asdict(each) for each in results]))
        return 0
    print("| phase | good | malformed | CPU-s per million good | to good alone | good/s | peak MB | MB at the end |")
    print("|---|---|---|---|---|---|---|---|")
    for each in results:
        peaks, rss = (", ".join(f"{n.split()[0]} {mb:,}" for n, mb in of.items()) for of in (each.peak_mb, each.rss_mb))
        print(
            f"| {each.name} | {each.good:,} | {each.malformed:,} | {each.cpu_s_per_million_good:.1f}"
            f" ({', '.join(f'{program} {cpu:.1f}' for program, cpu in sorted(each.cpu_by_program.items()))}) |"
            f" {each.to_good:.2f} | {each.good_per_s:,.0f} | {peaks} | {rss} |"
        )
    return 0


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    leave_with(main)
