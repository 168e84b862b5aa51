"""A Flink of our own, gone at the end, and Beam's job server in front of it.

Without TaskManagers each job runs in a Flink of its own inside the job server's JVM and its Python code in the
submitting process (LOOPBACK): small and quick to start. With them the jobs run on a cluster of processes
(`flink_cluster`), and the Python code in a worker process for each.

Flink listens on loopback only, Beam's gRPC servers do not (`job_server`): not for a machine that others can reach.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from apache_beam.runners.runner import PipelineResult, PipelineState

from ami_beam.flink_rest import FlinkError, FlinkRest
from ami_beam.local import flink_cluster, jars, process
from ami_beam.local.job_server import JobServer
from ami_beam.worker_pool import Workers

_MAX_JOBS = 64


class LocalFlink:
    """`with LocalFlink() as flink:` gives a job server; `flink.pipeline_args()` are the options that run a job on it.

    Checkpoints are stored in a temporary directory, which `stop` removes with everything else, and are taken only by
    jobs that ask for them (`checkpoint_seconds`).

    Args:
      task_managers: processes with a slot and a Python worker each; 0: one JVM for all, and no Python worker.
      heap: of each JVM that runs jobs. Without it they take what is there: a quarter of the machine's memory in one
        JVM, two fifths in a cluster.
      expansion_heap: that of the expansion service.
      on_lost: called in another thread with a sentence when a process of the cluster or a worker ends that nobody has
        ended. None of them is replaced.
    """

    def __init__(
        self,
        task_managers: int = 0,
        heap: str | None = "1g",
        expansion_heap: str = "256m",
        on_lost: Callable[[str], None] | None = None,
    ) -> None:
        self._task_managers = task_managers
        self._heap = heap
        self._expansion_heap = expansion_heap
        self._on_lost = on_lost
        self._cluster: flink_cluster.FlinkCluster | None = None
        self._server: JobServer | None = None
        self._directory: process.TemporaryDirectory | None = None
        self._workers = Workers(on_lost)
        self._rest_ports = range(0)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pids(self) -> list[int]:
        """The job server's, that of an expansion service, the cluster's, the jobs' workers'."""
        return [*(each for part in (self._server, self._cluster) if part for each in part.pids), *self._workers.pids]

    @property
    def logs(self) -> list[Path]:
        return [each for part in (self._server, self._cluster) if part for each in part.logs]

    @property
    def job_endpoint(self) -> str:
        """The address for `--job_endpoint`."""
        return self._running_server().endpoint

    @property
    def checkpoints(self) -> Path:
        """Where jobs keep checkpoints, a folder for each job."""
        return self._running_directory() / "checkpoints"

    def expansion(self) -> AbstractContextManager[str]:
        """The address for `expansion_service=` of Kafka's Java connector; its JVM starts and ends with the block."""
        return self._running_server().expansion()

    def pipeline_args(
        self,
        parallelism: int | None = None,
        checkpoint_seconds: float | None = None,
        bundle_milliseconds: int = 100,
    ) -> list[str]:
        """The pipeline options that run a streaming job here, with bundles short enough for tests of streams.

        Args:
          parallelism: a subtask for each TaskManager unless given; without TaskManagers one. Without them the
            submitting process runs the Python code, on one core whatever the parallelism.
          checkpoint_seconds: how often a checkpoint is taken; never without it.
          bundle_milliseconds: how long an element may wait for others.
        """
        environment = self._workers.pipeline_args() if self._task_managers else ["--environment_type=LOOPBACK"]
        if parallelism is None:
            parallelism = max(1, self._task_managers)
        arguments = [
            "--runner=PortableRunner",
            f"--job_endpoint={self.job_endpoint}",
            *environment,
            "--streaming",
            f"--parallelism={parallelism}",
            # Beam spells it so. The default of a second is added by every stage that an element passes.
            f"--max_bundle_time_mills={bundle_milliseconds}",
            # The default of 1,000 elements is 1,000 records of Beam's KafkaIO: a fifth of its cost.
            "--max_bundle_size=50000",
        ]
        if checkpoint_seconds is not None:
            arguments.append(f"--checkpointing_interval={round(checkpoint_seconds * 1000)}")
            # See `flink_submission.DEFAULTS`.
            arguments.append("--finish_bundle_before_checkpointing")
        return arguments

    def cancel(self, result: PipelineResult, timeout: float = 30.0) -> None:
        """Cancels a job and returns when it has ended. `result.cancel()` alone only says CANCELLED; the job runs on.

        Raises TimeoutError when it is still running after `timeout` seconds.
        """
        # The job's id is its name and a suffix; Flink only knows the name.
        name = result._job_id.rpartition("_")[0]  # type: ignore[attr-defined]
        deadline = time.monotonic() + timeout
        # A job that is only just being started would escape.
        while not self._flink_jobs(name) and time.monotonic() < deadline:
            if PipelineState.is_terminal(result.state):
                return
            time.sleep(0.2)
        # Beam first: it takes a job that Flink ended for a failed one.
        result.cancel()
        while jobs := self._flink_jobs(name):
            if time.monotonic() > deadline:
                raise TimeoutError(f"job {name} still runs {timeout:.0f} s after its cancellation")
            for rest, job in jobs:
                with suppress(FlinkError):
                    rest.cancel(job)
            time.sleep(0.2)

    def start(self) -> Self:
        """Fetches the jars if needed, and returns when jobs can be submitted. Raises StartError with the log's end."""
        class_path = jars.flink_class_path()
        self._directory = process.TemporaryDirectory("ami-beam-flink-")
        directory = self._directory.path
        for name in ("checkpoints", "tmp"):
            (directory / name).mkdir()
        try:
            master, heap = "[local]", self._heap
            if self._task_managers:
                self._workers.start()
                self._cluster = flink_cluster.FlinkCluster(
                    class_path, directory, self._task_managers, self._heap, self._on_lost
                )
                self._cluster.start()
                self._rest_ports = range(self._cluster.rest_port, self._cluster.rest_port + 1)
                # In front of a cluster it only translates and submits.
                master, heap = self._cluster.master, "512m"
            else:
                first = min(process.free_ports(1)[0], 65_535 - _MAX_JOBS)
                self._rest_ports = range(first, first + _MAX_JOBS)
            ports = f"{self._rest_ports.start}-{self._rest_ports.stop - 1}"
            settings = flink_cluster.common_settings(directory) | {"rest.bind-port": ports}
            self._server = JobServer(master, directory, settings, heap, self._expansion_heap)
            self._server.start()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Ends every job, its workers and every JVM and removes the temporary directory. May be called twice."""
        # The workers first: they would tell at length of a Flink that is gone.
        self._workers.stop()
        if self._server:
            self._server.stop()
            self._server = None
        if self._cluster:
            self._cluster.stop()
            self._cluster = None
        if self._directory:
            self._directory.remove()
            self._directory = None

    def _flink_jobs(self, name: str) -> list[tuple[FlinkRest, str]]:
        """The unended jobs of that name, and whom to ask. Each job has a Flink, hence a REST port, of its own."""
        jobs = []
        for port in self._rest_ports:
            rest = FlinkRest(f"127.0.0.1:{port}")
            # Something else than a Flink may listen there, such as one of Beam's gRPC servers.
            with suppress(FlinkError, LookupError, TypeError):
                jobs += [(rest, job.id) for job in rest.jobs() if job.name == name and not job.ended]
        return jobs

    def _running_server(self) -> JobServer:
        if self._server is None:
            raise RuntimeError("the local Flink is not running")
        return self._server

    def _running_directory(self) -> Path:
        if self._directory is None:
            raise RuntimeError("the local Flink is not running")
        return self._directory.path
