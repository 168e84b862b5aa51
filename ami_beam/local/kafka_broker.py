"""A Kafka broker of its own for tests and demonstrations: one JVM on loopback, empty at the start, gone at the end.

It keeps every record whatever its timestamp (a replay's records are old, and a test's may lie in the future), takes
records of up to 16 MiB, and creates topics only when asked.
"""

from __future__ import annotations

import threading
import uuid
from base64 import urlsafe_b64encode
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from ami_beam.local import jars, java, process

MAX_RECORD_BYTES = 16 * 1024 * 1024
_START_ATTEMPTS = 3
_START_SECONDS = 60.0


class KafkaBroker:
    """`with KafkaBroker() as broker:` gives a broker that answers at `broker.bootstrap_servers`.

    The data directory is a temporary one and is removed by `stop`, which leaving the block calls.
    """

    def __init__(self, heap: str = "512m") -> None:
        self._heap = heap
        self._process: process.ChildProcess | None = None
        self._directory: process.TemporaryDirectory | None = None
        self._admin: AdminClient | None = None
        self.bootstrap_servers = ""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def log(self) -> Path | None:
        return self._process.log if self._process else None

    def start(self) -> Self:
        """Fetches the jars if needed, and returns when the broker answers. Raises StartError with its log's end."""
        class_path = jars.class_path("kafka")
        for attempt in range(1, _START_ATTEMPTS + 1):
            try:
                self._start(class_path)
                return self
            except process.StartError as error:
                self.stop()
                # Another process took a port between the choice and the start.
                if attempt == _START_ATTEMPTS or "Address already in use" not in str(error):
                    raise
            except BaseException:
                self.stop()
                raise
        raise AssertionError("unreachable")

    def stop(self) -> None:
        """Stops the broker and removes its data. May be called twice."""
        self._admin = None
        if self._process:
            self._process.stop()
            self._process = None
        if self._directory:
            self._directory.remove()
            self._directory = None

    def create_topic(
        self, name: str, partitions: int = 1, timestamp_type: Literal["CreateTime", "LogAppendTime"] = "CreateTime"
    ) -> None:
        """Creates a topic and returns when it can be written to. Raises KafkaException when it exists."""
        if self._admin is None:
            raise RuntimeError("the broker is not running")
        topic = NewTopic(
            name,
            num_partitions=partitions,
            replication_factor=1,
            config={"message.timestamp.type": timestamp_type},
        )
        self._admin.create_topics([topic])[name].result(30)
        # The creation is acknowledged by the controller, before the broker's own metadata know of it.
        waiting = threading.Event()
        for _ in range(300):
            known = self._admin.list_topics(name, timeout=10).topics[name].partitions
            if len(known) == partitions and all(each.leader >= 0 for each in known.values()):
                return
            waiting.wait(0.1)
        raise RuntimeError(f"topic {name} has no leader after 30 s")

    def _start(self, class_path: str) -> None:
        self._directory = process.TemporaryDirectory("ami-beam-kafka-")
        directory = self._directory.path
        port, controller_port = process.free_ports(2)
        properties = directory / "server.properties"
        properties.write_text(_properties(directory / "data", port, controller_port), encoding="utf-8")
        # The serial collector and the first compiler only: a broker of tests lives for minutes, on few cores.
        jvm: list[str | Path] = [
            *(java.find_java(), "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", f"-Xmx{self._heap}"),
            *("-Djava.awt.headless=true", f"-Djava.io.tmpdir={directory}"),
            *("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", class_path),
        ]
        # One in 64 begins with a dash, so below it has to stand in one word with its option.
        cluster = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        formatting = process.ChildProcess(
            "Kafka's storage tool",
            [*jvm, "kafka.tools.StorageTool", "format", f"--cluster-id={cluster}", "-c", properties],
            directory / "format.log",
        )
        formatting.wait_until_success(_START_SECONDS)
        self._process = process.ChildProcess(
            "the Kafka broker", [*jvm, "kafka.Kafka", properties], directory / "broker.log"
        )
        self._process.wait_until(lambda: process.is_listening(port), _START_SECONDS)
        self.bootstrap_servers = f"127.0.0.1:{port}"
        self._admin = AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": 0})
        self._process.wait_until(self._answers, _START_SECONDS)

    def _answers(self) -> bool:
        assert self._admin is not None
        try:
            return bool(self._admin.list_topics(timeout=1).brokers)
        except KafkaException:
            return False


def _properties(data: Path, port: int, controller_port: int) -> str:
    settings = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "log.dirs": data,
        "auto.create.topics.enable": "false",
        # By default records with timestamps of last week are deleted at the first check, and those of the next hours
        # are refused.
        "log.retention.ms": -1,
        "log.message.timestamp.before.max.ms": 2**63 - 1,
        "log.message.timestamp.after.max.ms": 2**63 - 1,
        "message.max.bytes": MAX_RECORD_BYTES,
        "replica.fetch.max.bytes": MAX_RECORD_BYTES,
        # One broker cannot replicate, and one consumer need not wait for others.
        "offsets.topic.replication.factor": 1,
        "offsets.topic.num.partitions": 1,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "transaction.state.log.num.partitions": 1,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        "group.initial.rebalance.delay.ms": 0,
        # The default buffer of the log cleaner is a quarter of this heap.
        "log.cleaner.dedupe.buffer.size": 8 * 1024 * 1024,
        "num.network.threads": 2,
        "num.io.threads": 4,
    }
    return "".join(f"{name}={value}\n" for name, value in settings.items())
