"""The systems that `make bench` compares: how each is started on the topics of a run, and where its rows come out."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ami_beam.consumers import OPTIONAL_TOPICS
from ami_beam.local import flink_distribution, jars

READS = "ami.headend.reads"
EVENTS = "ami.headend.events"
SUMMARIES = "ami.transformer.summary"
ALERTS = "bench.flink-sql.alerts"


@dataclass(frozen=True)
class Place:
    """What a system needs to know of a run: the broker, the meter counts' file, and a topic for rows of its own."""

    bootstrap_servers: str
    meter_counts: Path
    own_summaries: str
    reads: str = READS


@dataclass(frozen=True)
class System:
    """One contestant. `command` starts the process whose tree is measured; it reads until SIGTERM."""

    name: str
    command: Callable[[Place], list[str]]
    takes_late_reads: bool
    """Whether it revises a published window. Flink SQL's windows drop late reads."""
    own_topic: bool
    """Its rows go to `Place.own_summaries` and not to ami-beam's topic."""
    whole_backlog: bool = False
    """Whether all reads must be there when it starts, because every read that is shown once it has caught up is late to
    it: Beam's KafkaIO then moves the watermark to the clock, and these reads' record times are hours old."""

    prepare: Callable[[], object] | None = None
    """Downloads what it needs and is not there."""

    def summaries(self, place: Place) -> str:
        return place.own_summaries if self.own_topic else SUMMARIES


def ami_beam(name: str, *arguments: str, whole_backlog: bool = False, customers: bool = False) -> System:
    """Our pipeline as a user starts it, on the local Flink with its checkpoints; `customers`: with a key for them."""

    def command(place: Place) -> list[str]:
        key = place.meter_counts.with_name("customer.key")
        if customers:
            key.write_text("no secret: for reads that are made up\n")
        return [
            *(sys.executable, "-m", "ami_beam.run", "--runner=FlinkRunner", "--start=earliest"),
            *((f"--customer_key_file={key}",) if customers else ()),
            *(f"--bootstrap_servers={place.bootstrap_servers}", f"--meter_counts={place.meter_counts}"),
            *(f"--reads={place.reads}", *arguments),
        ]

    return System(name, command, True, own_topic=False, whole_backlog=whole_backlog, prepare=jars.flink_class_path)


def _python_loop(place: Place) -> list[str]:
    return [sys.executable, "-m", "benchmarks.python_loop", place.bootstrap_servers, place.reads, place.own_summaries]


def _flink_sql_jars() -> list[Path]:
    return [*flink_distribution.fetch(), *jars.fetch("flink_sql")]


def _flink_sql(name: str, *arguments: str) -> System:
    def command(place: Place) -> list[str]:
        return [
            *(sys.executable, "-m", "benchmarks.flink_sql", place.bootstrap_servers, place.reads, EVENTS),
            *(str(place.meter_counts), place.own_summaries, ALERTS, "--warm_up=2", *arguments),
        ]

    return System(name, command, takes_late_reads=False, own_topic=True, prepare=_flink_sql_jars)


CORE, ALL_CONSUMERS = "ami-beam native", "ami-beam all consumers"
"""The pipeline that every run is, and what it costs to publish everything else as well."""
SYSTEMS = {
    system.name: system
    for system in (
        System("python-loop", _python_loop, takes_late_reads=True, own_topic=True),
        ami_beam(CORE, "--kafka_io=native"),
        ami_beam(ALL_CONSUMERS, "--kafka_io=native", f"--also_publish={','.join(OPTIONAL_TOPICS)}", customers=True),
        ami_beam("ami-beam beam-io", "--kafka_io=beam", whole_backlog=True),
        _flink_sql("flink-sql", "--checkpoint_seconds=10"),
        _flink_sql("flink-sql without checkpoints"),
    )
}


class Running:
    """`with Running(system, place, log) as process:` runs a system as a process of its own and ends it with SIGTERM."""

    def __init__(self, system: System, place: Place, log: Path) -> None:
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(system.command(place), stdout=output, stderr=subprocess.STDOUT)

    @property
    def pid(self) -> int:
        return self._process.pid

    def check(self) -> None:
        """Raise RuntimeError with the log's end when the process has ended."""
        if self._process.poll() is not None:
            raise RuntimeError(f"ended with code {self._process.returncode}:\n{self._log.read_text()[-3000:]}")

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
