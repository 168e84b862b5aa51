"""A schema registry of its own for tests and demonstrations, on loopback, empty at the start, gone at the end.

It is Apicurio Registry, which answers the REST calls of Confluent's registry below `url`, and keeps all in memory.
"""

from __future__ import annotations

import signal
import tarfile
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self

from ami_beam.local import jars, java, process

_START_SECONDS = 60.0
_HEAP = "-Xmx256m"


class SchemaRegistry:
    """`with SchemaRegistry() as registry:` gives one that answers Confluent's client at `registry.url`."""

    def __init__(self) -> None:
        self._directory: process.TemporaryDirectory | None = None
        self._process: process.ChildProcess | None = None
        self.url = ""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> Self:
        """Fetches the program if needed, and returns when it answers. Raises StartError with its log's end."""
        process.start_server(self._start, self.stop, taken="already in use")
        return self

    def stop(self) -> None:
        """Stops it; what it held is gone. May be called twice."""
        if self._process is not None:
            self._process.signal(signal.SIGCONT)
            self._process.stop()
            self._process = None
        if self._directory is not None:
            self._directory.remove()
            self._directory = None

    def freeze(self) -> None:
        """Stop answering without closing a connection, as behind a broken network; `thaw` ends it."""
        if self._process is not None:
            self._process.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        if self._process is not None:
            self._process.signal(signal.SIGCONT)

    def _start(self) -> None:
        (archive,) = jars.fetch("schema_registry")
        self._directory = process.TemporaryDirectory("ami-beam-schema-registry-")
        directory = self._directory.path
        with tarfile.open(archive) as packed:
            packed.extractall(directory, filter="data")
        (program,) = directory.glob("*-runner.jar")
        (port,) = process.free_ports(1)
        command: list[str | Path] = [
            *(java.find_java(), "-XX:+UseSerialGC", java.LIGHT, _HEAP, f"-Djava.io.tmpdir={directory}"),
            *("-Dquarkus.http.host=127.0.0.1", f"-Dquarkus.http.port={port}", "-jar", program),
        ]
        self._process = process.ChildProcess("the schema registry", command, directory / "registry.log")
        self.url = f"http://127.0.0.1:{port}/apis/ccompat/v7"
        self._process.wait_until(self._answers, _START_SECONDS)

    def _answers(self) -> bool:
        # A proxy for the outside world has nothing to say about this machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"{self.url}/subjects", timeout=2) as response:
                return response.status == 200
        except (OSError, urllib.error.URLError):
            return False
