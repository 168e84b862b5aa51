"""The processes of one scenario: a Kafka, a Flink cluster with its worker pool, the head-end, and ami_beam.run.

Flink is the released one without anything of Beam's on it: a JobManager and TaskManagers of a slot each. What
Kubernetes would do in production, starting a lost process again, is done here.
"""

from __future__ import annotations

import re
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ami_beam.codecs.json_outputs import RESULT_TOPICS
from ami_beam.consumers import OPTIONAL_TOPICS
from ami_beam.flink_rest import FlinkError, FlinkRest
from ami_beam.local import flink_distribution, process
from ami_beam.local.flink_cluster import FlinkCluster
from ami_beam.local.kafka_broker import KafkaBroker
from tests.chaos.checks import Difference, Row, compare, read_files
from tests.chaos.headend import EVERYTHING, PARTITIONS, HeadEnd
from tests.kafka_replay import EVENTS, READS, Outputs, Run, workers_of

CHECKPOINT_MILLIS = 2_000
RECOVERY_SECONDS = 60.0
"""How soon after a fault the job must run again, take checkpoints and move its watermark."""
_START_SECONDS = 300.0
"""A graph with Beam's own Kafka connector is expanded in a JVM, topic by topic: 90 s on a busy machine."""
_END_SECONDS = 150.0
_SETTLE_SECONDS = 5.0
_DAY_MILLIS = 86_400_000


class ChaosError(AssertionError):
    """A check failed; the message says which and what was seen."""


class World:
    """`with World(...) as world:` has everything running but the job, which `submit` starts.

    Args:
      directory: for logs, checkpoints and results; the caller's.
      head_end: what will be published.
      nodes: Kafka brokers.
      task_managers: slots of the cluster.
      kafka_io: of the job.
      checkpoints: where; None for a folder in `directory`.
      flink_settings: on top of the usual ones.
    """

    def __init__(
        self,
        directory: Path,
        head_end: HeadEnd,
        nodes: int = 1,
        task_managers: int = 2,
        kafka_io: str = "native",
        checkpoints: Path | None = None,
        flink_settings: dict[str, Any] | None = None,
    ) -> None:
        self.directory = directory
        self.head_end = head_end
        self.checkpoints = checkpoints or directory / "checkpoints"
        self.recoveries: list[float] = []
        """Seconds from each fault until the job ran, had a checkpoint and a moving watermark."""
        self.faults = 0
        self.at_exit: list[Callable[[], object]] = []
        """What a scenario has to undo, done when everything has ended."""
        self.run: Run | None = None
        self._kafka_io = kafka_io
        self._runs = 0
        self.broker = KafkaBroker(nodes=nodes)
        flink_directory = directory / "flink"
        flink_directory.mkdir()
        self.flink = FlinkCluster(
            flink_distribution.runtime_class_path(),
            flink_directory,
            task_managers,
            heap="4g" if kafka_io == "beam" else "768m",
            settings={
                "state.checkpoints.dir": self.checkpoints.as_uri(),
                "state.savepoints.dir": (directory / "savepoints").as_uri(),
                # As docs/flink.md recommends: a lost TaskManager is missed after seconds and not after a minute.
                "heartbeat.interval": 3000,
                "heartbeat.timeout": 15000,
                "restart-strategy.type": "exponential-delay",
                "restart-strategy.exponential-delay.initial-backoff": "1 s",
                "restart-strategy.exponential-delay.max-backoff": "10 s",
                "classloader.resolve-order": "child-first",
                **(flink_settings or {}),
            },
        )
        self._pool: process.ChildProcess | None = None
        self._pool_port = 0
        self._outputs: Outputs | None = None

    def __enter__(self) -> Self:
        try:
            self.broker.start()
            for topic in (READS, EVENTS):
                self.broker.create_topic(topic, PARTITIONS)
            for topic in (*RESULT_TOPICS, *OPTIONAL_TOPICS.values()):
                self.broker.create_topic(topic, 2)
            (self.directory / "flink" / "tmp").mkdir()
            self.flink.start()
            self.start_pool()
            self._outputs = Outputs(self.broker, self.directory / "got")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.run is not None:
            self.run.kill()
        if self._pool is not None:
            self._pool.stop()
        self.flink.stop()
        if self._outputs is not None:
            self._outputs.close()
        self.broker.stop()
        for undo in self.at_exit:
            undo()

    @property
    def rest(self) -> FlinkRest:
        return FlinkRest(self.flink.master)

    def start_pool(self) -> None:
        """The worker pool, at the same address whenever it is started."""
        self._pool_port = self._pool_port or process.free_ports(1)[0]
        command = [sys.executable, "-m", "ami_beam.worker_pool", f"--port={self._pool_port}"]
        self._pool = process.ChildProcess("the worker pool", command, self.directory / "pool.log")
        self._pool.wait_until(lambda: process.is_listening(self._pool_port), _START_SECONDS)

    def kill_pool(self) -> None:
        """With everything that it has started."""
        assert self._pool is not None
        self._pool.signal(signal.SIGKILL)
        self._pool.wait()

    def workers(self) -> list[int]:
        """The process ids of the job's Python workers."""
        assert self._pool is not None
        return workers_of(self._pool.pid)

    def submit(
        self, parallelism: int = 2, savepoint: str | Path | None = None, arguments: tuple[str, ...] = ()
    ) -> None:
        """Start ami_beam.run, and return when the job runs and has a checkpoint."""
        self._runs += 1
        options = [
            *("--runner=FlinkRunner", f"--flink_master={self.flink.master}", f"--parallelism={parallelism}"),
            *(f"--environment_config=localhost:{self._pool_port}", "--environment_type=EXTERNAL"),
            *(f"--bootstrap_servers={self.broker.bootstrap_servers}", "--start=earliest", "--shards=4"),
            *(f"--meter_counts={self.head_end.meter_counts}", f"--kafka_io={self._kafka_io}"),
            *(f"--checkpointing_interval={CHECKPOINT_MILLIS}", "--job_name=ami-beam", *EVERYTHING),
            *((f"--savepoint_path={savepoint}",) if savepoint is not None else ()),
            *arguments,
        ]
        self.run = Run(options, self.directory / f"run-{self._runs}.log")
        self.wait_for(lambda: self._has_checkpoint_since(0.0), _START_SECONDS, "the job to run and take a checkpoint")

    def fault(
        self, what: Callable[[], object], recover: Callable[[], object] | None = None, seconds: float = 0.0
    ) -> None:
        """Do it to the running job, `recover` after a while, and return when the job is well again; measures how long.

        Args:
          what: the fault.
          recover: what somebody does about it, if anything.
          seconds: how long the fault lasts before that. Recovery counts from there.
        """
        self.faults += 1
        what()
        if recover is not None:
            time.sleep(seconds)
            recover()
        self.recovered()

    def recovered(self) -> None:
        """Return when the job is well again, as of now; raises ChaosError when it takes too long."""
        began, wall = time.monotonic(), time.time()
        self.wait_for(lambda: self._has_checkpoint_since(wall), RECOVERY_SECONDS, "the job to run and take checkpoints")
        before = self._watermark()
        left = RECOVERY_SECONDS - (time.monotonic() - began)
        self.wait_for(lambda: self._watermark() > before or self.head_end.published == 1, left, "the watermark to move")
        self.recoveries.append(time.monotonic() - began)

    def stop_run(self) -> str:
        """SIGTERM to ami_beam.run; the savepoint that it logs."""
        assert self.run is not None
        code = self.run.stop()
        found = re.findall(r"--savepoint_path=(\S+)", self.run.log.read_text())
        if code != 0 or not found:
            raise ChaosError(f"SIGTERM ended ami_beam.run with {code} and no savepoint:\n{self.run.log_tail()}")
        return found[-1]

    def end(self) -> Difference:
        """When everything was published and processed: what distinguishes the results from what they should be."""
        assert self._outputs is not None
        self.head_end.wait(_END_SECONDS)
        expected = read_files(self.head_end.expected())
        until = time.monotonic() + _END_SECONDS
        difference = compare(expected, self._rows())
        while difference and time.monotonic() < until:
            self._outputs.collect(2)
            difference = compare(expected, self._rows())
        # Equal for good: nothing that is still under way may change it.
        self._outputs.collect(_SETTLE_SECONDS)
        return compare(expected, self._rows())

    def wait_for(self, done: Callable[[], bool], seconds: float, what: str) -> None:
        """Raises ChaosError with the job's last failure after `seconds`."""
        until = time.monotonic() + seconds
        while not self._is(done):
            if time.monotonic() > until:
                raise ChaosError(f"waited {seconds:.0f} s for {what}; {self._situation()}")
            time.sleep(0.3)

    def _is(self, done: Callable[[], bool]) -> bool:
        # A JobManager that has just begun to listen may have no answer yet.
        with suppress(FlinkError):
            return done()
        return False

    def _rows(self) -> dict[str, list[Row]]:
        assert self._outputs is not None
        return {topic: list(rows) for topic, rows in self._outputs.rows.items()}

    def _job(self) -> str | None:
        with suppress(FlinkError):
            return next((job.id for job in self.rest.jobs() if not job.ended), None)
        return None

    def _has_checkpoint_since(self, wall: float) -> bool:
        job = self._job()
        if job is None:
            return False
        with suppress(FlinkError, TypeError):
            if self.rest.state(job) == "RUNNING":
                latest = self.rest.checkpoints(job)["latest"]["completed"]
                return latest is not None and latest["trigger_timestamp"] > wall * 1000
        return False

    def _watermark(self) -> int:
        job = self._job()
        with suppress(FlinkError, ValueError):
            if job is not None:
                # A source without time and an input that is at its end have watermarks of their own, which never move.
                moving = [mark for mark in self.rest.watermarks(job) if mark < time.time() * 1000 + _DAY_MILLIS]
                return max(moving, default=-(2**63))
        return -(2**63)

    def _situation(self) -> str:
        lines = []
        with suppress(FlinkError, LookupError):
            for job in self.rest.jobs():
                lines.append(f"job {job.id} is {job.state}: {self.rest.failure(job.id)}")
        if self.run is not None:
            lines.append(self.run.log_tail())
        return "\n".join(lines) or "no answer from Flink"
