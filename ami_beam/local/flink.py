"""A Flink of our own, gone at the end, and Beam's job server in front of it.

Without TaskManagers each job runs in a Flink of its own inside the job server's JVM and its Python code in the
submitting process (LOOPBACK): small and quick to start. With them the jobs run on a cluster of processes
(`flink_cluster`), and the Python code in a worker process for each. The expansion service, which only pipelines with
Kafka's Java connector need, is a JVM of its own that starts when its address is first asked for. It is not the job
server's own one: that one expands for docker, and into a read that stays idle on Flink.

Flink listens on loopback only. Beam's gRPC servers (jobs, artifacts, expansion, workers) accept connections from every
interface and have no option against it, and whoever reaches them can run code: not for a machine that others can reach.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from apache_beam.runners.runner import PipelineResult, PipelineState

from ami_beam.local import flink_cluster, jars, process, workers

_START_ATTEMPTS = 3
_START_SECONDS = 90.0
_MAX_JOBS = 64
_ENDED = {"FINISHED", "CANCELED", "FAILED"}


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
        self._processes: list[process.ChildProcess] = []
        self._directory: process.TemporaryDirectory | None = None
        self._class_path = ""
        self._expansion_service = ""
        self._lock = threading.Lock()
        self._workers = workers.Workers(on_lost)
        self._rest_ports = range(0)
        self.job_endpoint = ""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pids(self) -> list[int]:
        """The job server's, the expansion service's once it has been started, the cluster's, the jobs' workers'."""
        cluster = self._cluster.pids if self._cluster else []
        return [*(each.pid for each in self._processes), *cluster, *self._workers.pids]

    @property
    def logs(self) -> list[Path]:
        cluster = self._cluster.logs if self._cluster else []
        return [*(each.log for each in self._processes if each.log is not None), *cluster]

    @property
    def checkpoints(self) -> Path:
        """Where jobs keep checkpoints, a folder for each job."""
        return self._running_directory() / "checkpoints"

    @property
    def expansion_service(self) -> str:
        """The address for `expansion_service=` of Kafka's Java connector; its JVM starts on the first call."""
        with self._lock:
            if not self._expansion_service:
                self._expansion_service = self._start("the expansion service", 1, self._expansion_command)
            return self._expansion_service

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
            for url in jobs:
                with suppress(OSError, http.client.HTTPException):
                    flink_cluster.request(f"{url}?mode=cancel", "PATCH")
            time.sleep(0.2)

    def start(self) -> Self:
        """Fetches the jars if needed, and returns when jobs can be submitted. Raises StartError with the log's end."""
        self._class_path = jars.class_path("flink")
        self._directory = process.TemporaryDirectory("ami-beam-flink-")
        directory = self._directory.path
        for name in ("conf", "checkpoints", "artifacts", "tmp"):
            (directory / name).mkdir()
        try:
            self._workers.start()
            if self._task_managers:
                self._cluster = flink_cluster.FlinkCluster(
                    self._class_path, directory, self._task_managers, self._heap, self._on_lost
                )
                self._cluster.start()
                self._rest_ports = range(self._cluster.rest_port, self._cluster.rest_port + 1)
            else:
                first = min(process.free_ports(1)[0], 65_535 - _MAX_JOBS)
                self._rest_ports = range(first, first + _MAX_JOBS)
            ports = f"{self._rest_ports.start}-{self._rest_ports.stop - 1}"
            settings = flink_cluster.common_settings(directory) | {"rest.bind-port": ports}
            (directory / "conf" / "config.yaml").write_text(flink_cluster.as_yaml(settings), encoding="utf-8")
            self.job_endpoint = self._start("the Flink job server", 2, self._job_server_command)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Ends every job, its workers and every JVM and removes the temporary directory. May be called twice."""
        # The workers first: they would tell at length of a Flink that is gone.
        self._workers.stop()
        for each in reversed(self._processes):
            each.stop()
        self._processes.clear()
        if self._cluster:
            self._cluster.stop()
            self._cluster = None
        self._expansion_service = self.job_endpoint = ""
        if self._directory:
            self._directory.remove()
            self._directory = None

    def _flink_jobs(self, name: str) -> list[str]:
        """Addresses of the unended jobs of that name. Each job has a Flink, hence a REST port, of its own."""
        jobs = []
        for port in self._rest_ports:
            url = f"http://127.0.0.1:{port}/jobs"
            # Something else than a Flink may listen there, such as one of Beam's gRPC servers.
            with suppress(OSError, http.client.HTTPException, ValueError, LookupError, TypeError):
                for job in json.loads(flink_cluster.request(f"{url}/overview"))["jobs"]:
                    if job["name"] == name and job["state"] not in _ENDED:
                        jobs.append(f"{url}/{job['jid']}")
        return jobs

    def _running_directory(self) -> Path:
        if self._directory is None:
            raise RuntimeError("the local Flink is not running")
        return self._directory.path

    def _start(self, name: str, ports: int, command: _Command) -> str:
        directory = self._running_directory()
        for attempt in range(1, _START_ATTEMPTS + 1):
            chosen = process.free_ports(ports)
            log = directory / f"{name.split()[1]}-{attempt}.log"
            child = process.ChildProcess(name, command(directory, chosen), log)
            self._processes.append(child)
            try:
                child.wait_until(lambda port=chosen[0]: process.is_listening(port), _START_SECONDS)  # type: ignore[misc]
            except process.StartError as error:
                self._processes.remove(child)
                # Another process took a port between the choice and the start.
                if attempt == _START_ATTEMPTS or "Address already in use" not in str(error):
                    raise
            else:
                return f"127.0.0.1:{chosen[0]}"
        raise AssertionError("unreachable")

    def _job_server_command(self, directory: Path, ports: list[int]) -> list[str | Path]:
        # In front of a cluster it only translates and submits.
        heap = ["-Xmx512m"] if self._cluster else [f"-Xmx{self._heap}"] if self._heap else []
        return [
            *flink_cluster.jvm(self._class_path, directory / "tmp", heap),
            *(*flink_cluster.OPENED, "org.apache.beam.runners.flink.FlinkJobServerDriver"),
            *("--flink-master", self._cluster.master if self._cluster else "[local]"),
            *("--flink-conf-dir", directory / "conf"),
            *("--job-host", "127.0.0.1", "--job-port", str(ports[0]), "--artifact-port", str(ports[1])),
            *("--expansion-port", "-1", "--artifacts-dir", directory / "artifacts"),
        ]

    def _expansion_command(self, directory: Path, ports: list[int]) -> list[str | Path]:
        return [
            *flink_cluster.jvm(self._class_path, directory / "tmp", [f"-Xmx{self._expansion_heap}"]),
            *("org.apache.beam.sdk.expansion.service.ExpansionService", str(ports[0])),
            # The harness runs in Flink's own JVM, which has the connector's classes.
            "--defaultEnvironmentType=EMBEDDED",
            # The splittable read stays idle on Flink: no output, no error.
            "--experiments=use_deprecated_read",
        ]


class _Command(Protocol):
    def __call__(self, directory: Path, ports: list[int]) -> list[str | Path]: ...
