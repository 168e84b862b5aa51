"""A Kafka Connect of its own for tests and demonstrations, stand-alone, on loopback, with Debezium for PostgreSQL.

What connectors have read is kept in a file beside it, so that one that is stopped, or killed, goes on where it was.
"""

from __future__ import annotations

import json
import signal
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ami_beam.local import jars, java, process

_START_SECONDS = 120.0
_HEAP = "-Xmx384m"


class KafkaConnect:
    """`with KafkaConnect(broker.bootstrap_servers) as connect:` gives one without connectors.

    Settings of connectors may name variables of this process's environment, as `${env:NAME}`.
    """

    def __init__(self, bootstrap_servers: str) -> None:
        self._bootstrap_servers = bootstrap_servers
        self._directory: process.TemporaryDirectory | None = None
        self._process: process.ChildProcess | None = None
        self.url = ""

    def __enter__(self) -> Self:
        self._directory = process.TemporaryDirectory("ami-beam-kafka-connect-")
        try:
            return self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if self._directory is not None:
            self._directory.remove()
            self._directory = None

    def start(self) -> Self:
        """Fetches the jars if needed, and returns when it answers. For the first time, or again after an end.

        It forgets connectors with its end, and keeps what they have read: put them again.
        """
        process.start_server(self._start, self.stop)
        return self

    def stop(self) -> None:
        """In order: what connectors have read so far is written down. May be called twice."""
        if self._process is not None:
            self._process.stop()
            self._process = None

    def kill(self) -> None:
        """As a crash: what was read in the last seconds is read again."""
        if self._process is not None:
            self._process.signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def put(self, name: str, config: dict[str, str]) -> None:
        """Make a connector, or change it. Raises StartError with what it does not like."""
        self._ask("PUT", f"/connectors/{name}/config", config)

    def delete(self, name: str) -> None:
        """End a connector. What it has read is remembered for another of its name only."""
        self._ask("DELETE", f"/connectors/{name}")

    def state(self, name: str) -> str:
        """Of a connector: RUNNING when it and its tasks are. Raises StartError when a task has failed."""
        found = self._ask("GET", f"/connectors/{name}/status")
        states = {found["connector"]["state"], *(task["state"] for task in found["tasks"])}
        for task in (found["connector"], *found["tasks"]):
            if task["state"] == "FAILED":
                raise process.StartError(f"{name} has failed:\n{task.get('trace', '')}")
        return states.pop() if len(states) == 1 and found["tasks"] else "STARTING"

    def log(self) -> str:
        """What it has logged."""
        return (self._folder / "connect.log").read_text(errors="replace")

    @property
    def _folder(self) -> Path:
        assert self._directory is not None
        return self._directory.path

    def _start(self) -> None:
        (port,) = process.free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        settings = {
            "bootstrap.servers": self._bootstrap_servers,
            "listeners": self.url,
            "key.converter": "org.apache.kafka.connect.json.JsonConverter",
            "value.converter": "org.apache.kafka.connect.json.JsonConverter",
            "offset.storage.file.filename": self._folder / "offsets",
            "offset.flush.interval.ms": 2_000,
            "config.providers": "env",
            "config.providers.env.class": "org.apache.kafka.common.config.provider.EnvVarConfigProvider",
            # All plug-ins are on the class path and name themselves; looking into every class takes seconds.
            "plugin.discovery": "service_load",
        }
        worker = self._folder / "worker.properties"
        worker.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        command: list[str | Path] = [
            *(java.find_java(), "-XX:+UseSerialGC", java.LIGHT, _HEAP, f"-Djava.io.tmpdir={self._folder}"),
            *("-Dorg.slf4j.simpleLogger.showDateTime=true", "-cp", jars.class_path("kafka_connect")),
            *("org.apache.kafka.connect.cli.ConnectStandalone", worker),
        ]
        self._process = process.ChildProcess("Kafka Connect", command, self._folder / "connect.log")
        self._process.wait_until(self._answers, _START_SECONDS)

    def _answers(self) -> bool:
        try:
            return isinstance(self._ask("GET", "/connectors"), list)
        except (OSError, process.StartError):
            return False

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        # A proxy for the outside world has nothing to say about this machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, data=data, method=method, headers=headers)
        try:
            with opener.open(request, timeout=60) as response:
                return json.loads(response.read() or b"null")
        except urllib.error.HTTPError as error:
            said = error.read().decode("utf-8", "replace")
            raise process.StartError(f"Kafka Connect answered {error.code}: {said}") from error
