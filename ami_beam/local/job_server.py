"""Beam's job server for Flink, which translates and submits jobs, and the expansion service that knows KafkaIO.

The expansion service, which only pipelines with Kafka's Java connector need, is a JVM of its own that is there while a
graph is built. It is not the job server's own one: that one expands for docker, and into a read that stays idle on
Flink.

Beam's gRPC servers (jobs, artifacts, expansion) accept connections from every interface and have no option against it,
and whoever reaches them can run code: not for a machine that others can reach.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from ami_beam.local import flink_cluster, jars, java, process

_START_ATTEMPTS = 3
_START_SECONDS = 90.0


class JobServer:
    """`start` makes `endpoint` the address for `--job_endpoint`; `stop` ends it, as does the end of Python.

    Args:
      master: "[local]" for a Flink in the job server's own JVM for each job, else the JobManager's host:port.
      directory: for configuration, logs and temporary files; the caller's, who removes it.
      settings: of the Flink that it starts, or of its client.
      heap: of the job server; None for a quarter of the machine's memory.
      expansion_heap: that of the expansion service.
    """

    def __init__(
        self,
        master: str,
        directory: Path,
        settings: Mapping[str, Any],
        heap: str | None = "512m",
        expansion_heap: str = "256m",
    ) -> None:
        self._master = master
        self._directory = directory
        self._settings = dict(settings)
        self._heap = heap
        self._expansion_heap = expansion_heap
        self._processes: list[process.ChildProcess] = []
        self.endpoint = ""

    @property
    def pids(self) -> list[int]:
        """The job server's, and that of an expansion service."""
        return [each.pid for each in self._processes]

    @property
    def logs(self) -> list[Path]:
        return [each.log for each in self._processes if each.log is not None]

    @contextlib.contextmanager
    def expansion(self) -> Iterator[str]:
        """The address for `expansion_service=` of Kafka's Java connector; its JVM starts and ends with the block."""
        child, address = self._start("the expansion service", 1, self._expansion_command)
        try:
            yield address
        finally:
            child.stop()
            # `stop` may have been faster.
            with contextlib.suppress(ValueError):
                self._processes.remove(child)

    def start(self) -> None:
        """Fetches the jars if needed, and returns when jobs can be submitted. Raises StartError with the log's end."""
        for name in ("conf", "artifacts", "tmp"):
            (self._directory / name).mkdir(exist_ok=True)
        (self._directory / "conf" / "config.yaml").write_text(flink_cluster.as_yaml(self._settings), encoding="utf-8")
        _, self.endpoint = self._start("the Flink job server", 2, self._job_server_command)

    def stop(self) -> None:
        """End every JVM. May be called twice. Jobs on a cluster run on."""
        for each in reversed(self._processes):
            each.stop()
        self._processes.clear()
        self.endpoint = ""

    def _start(self, name: str, ports: int, command: _Command) -> tuple[process.ChildProcess, str]:
        for attempt in range(1, _START_ATTEMPTS + 1):
            chosen = process.free_ports(ports)
            log = self._directory / f"{name.split()[1]}-{attempt}.log"
            child = process.ChildProcess(name, command(chosen), log)
            self._processes.append(child)
            try:
                child.wait_until(lambda port=chosen[0]: process.is_listening(port), _START_SECONDS)  # type: ignore[misc]
            except process.StartError as error:
                self._processes.remove(child)
                # Another process took a port between the choice and the start.
                if attempt == _START_ATTEMPTS or "Address already in use" not in str(error):
                    raise
            else:
                return child, f"127.0.0.1:{chosen[0]}"
        raise AssertionError("unreachable")

    def _job_server_command(self, ports: list[int]) -> list[str | Path]:
        heap = [f"-Xmx{self._heap}"] if self._heap else []
        # In front of a cluster it only translates and submits.
        light = [] if self._master == "[local]" else [java.LIGHT]
        return [
            *flink_cluster.jvm(self._class_path(), self._directory / "tmp", [*heap, *light]),
            *(*flink_cluster.OPENED, "org.apache.beam.runners.flink.FlinkJobServerDriver"),
            *("--flink-master", self._master, "--flink-conf-dir", self._directory / "conf"),
            *("--job-host", "127.0.0.1", "--job-port", str(ports[0]), "--artifact-port", str(ports[1])),
            *("--expansion-port", "-1", "--artifacts-dir", self._directory / "artifacts"),
        ]

    def _expansion_command(self, ports: list[int]) -> list[str | Path]:
        return [
            *flink_cluster.jvm(
                self._class_path(), self._directory / "tmp", [f"-Xmx{self._expansion_heap}", java.LIGHT]
            ),
            *("org.apache.beam.sdk.expansion.service.ExpansionService", str(ports[0])),
            # The harness runs in Flink's own JVM, which has the connector's classes, and looks at no file of its
            # environment. Unless one is named they are the whole class path, 200 MB: for every step this JVM would hash
            # it, and Beam fetch a copy and hash that.
            *("--defaultEnvironmentType=EMBEDDED", f"--filesToStage={jars.PATCHES}"),
            # The splittable read stays idle on Flink: no output, no error.
            "--experiments=use_deprecated_read",
        ]

    def _class_path(self) -> str:
        return jars.flink_class_path()


class _Command(Protocol):
    def __call__(self, ports: list[int]) -> list[str | Path]: ...
