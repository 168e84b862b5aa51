"""A Kafka of its own for tests and demonstrations, on loopback, empty at the start, gone at the end.

It keeps every record whatever its timestamp (a replay's records are old, and a test's may lie in the future), takes
records of up to 16 MiB, and creates topics only when asked. With `Security` it has listeners that demand a password or
a certificate, and lets nobody who came that way do what no ACL allows.
"""

from __future__ import annotations

import signal
import subprocess
import threading
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import (
    AdminClient,
    NewTopic,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialAlteration,
    UserScramCredentialUpsertion,
)

from ami_beam.local import jars, java, process

MAX_RECORD_BYTES = 16 * 1024 * 1024
_START_SECONDS = 60.0
_END_SECONDS = 120.0
"""Of a node that is asked to: it hands over what it leads first."""


@dataclass(frozen=True)
class Security:
    """What a broker needs to demand TLS and to know its clients: files in PEM, and passwords by user name.

    A client with a certificate is the user of its common name.
    """

    certificate: Path
    """The broker's certificate and its private key (PKCS #8, not encrypted) in one file."""
    authority: Path
    """The certificate that signed the broker's and every client's."""
    users: Mapping[str, str] = field(repr=False)


class KafkaBroker:
    """`with KafkaBroker() as broker:` gives a Kafka that answers at `broker.bootstrap_servers`.

    The data directory is a temporary one and is removed by `stop`, which leaving the block calls.

    Args:
      heap: of each node.
      nodes: brokers, each a process that is a controller, too. Topics have a replica on every one, up to three, and
        with three of them a record is acknowledged when two have it.
      security: adds the listeners `sasl_servers` (SCRAM-SHA-512 over TLS) and `mtls_servers`, and an authorizer.
        `bootstrap_servers` stays plain, and who comes there may do everything, such as giving ACLs.
    """

    def __init__(self, heap: str = "512m", nodes: int = 1, security: Security | None = None) -> None:
        self._security = security
        self._heap = heap
        self._nodes = nodes
        self._ports: list[int] = []
        self._processes: dict[int, process.ChildProcess] = {}
        self._directory: process.TemporaryDirectory | None = None
        self._admin: AdminClient | None = None
        self.bootstrap_servers = ""
        self.sasl_servers = ""
        self.mtls_servers = ""

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int | None:
        """The first node's."""
        return self._processes[0].pid if 0 in self._processes else None

    @property
    def pids(self) -> list[int]:
        """Those of the nodes that have not been stopped."""
        return [each.pid for each in self._processes.values()]

    @property
    def log(self) -> Path | None:
        """The first node's."""
        return self._processes[0].log if 0 in self._processes else None

    def start(self) -> Self:
        """Fetches the jars if needed, and returns when the broker answers. Raises StartError with its log's end."""
        process.start_server(self._start, self.stop)
        return self

    def stop(self) -> None:
        """Stops every node and removes its data. May be called twice."""
        self._admin = None
        for each in self._processes.values():
            each.signal(signal.SIGCONT)
            each.stop()
        self._processes.clear()
        if self._directory:
            self._directory.remove()
            self._directory = None

    def stop_node(self, node: int, number: signal.Signals = signal.SIGTERM) -> None:
        """End a node and keep its data; returns when it has ended. Raises StartError when it does not end."""
        child = self._processes.pop(node)
        child.signal(number)
        try:
            child.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            child.stop(patience=0)
            raise process.StartError(
                f"{child.name} had not ended {_END_SECONDS:.0f} s after {number.name}:\n{child.log_tail()}"
            ) from None

    def start_node(self, node: int) -> None:
        """Start a node that was stopped, on its data, and return when it listens. Raises StartError."""
        self._launch(node)
        self._wait_for(node)

    def _launch(self, node: int) -> None:
        directory = self._running_directory()
        command = [*self._jvm(), "kafka.Kafka", directory / f"node-{node}" / "server.properties"]
        child = process.ChildProcess("the Kafka broker", command, directory / f"broker-{node}.log")
        self._processes[node] = child

    def _wait_for(self, node: int) -> None:
        self._processes[node].wait_until(lambda: process.is_listening(self._ports[node]), _START_SECONDS)

    def freeze(self) -> None:
        """Stop answering without closing a connection, as behind a broken network; `thaw` ends it."""
        for each in self._processes.values():
            each.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        for each in self._processes.values():
            each.signal(signal.SIGCONT)

    def create_topic(
        self,
        name: str,
        partitions: int = 1,
        timestamp_type: Literal["CreateTime", "LogAppendTime"] = "CreateTime",
    ) -> None:
        """Creates a topic and returns when it can be written to. Raises KafkaException when it exists."""
        self.create_topics([name], partitions, timestamp_type)

    def create_topics(
        self,
        names: Sequence[str],
        partitions: int = 1,
        timestamp_type: Literal["CreateTime", "LogAppendTime"] = "CreateTime",
    ) -> None:
        """The same for several topics at once, which takes no longer than for one."""
        admin = self._running_admin()
        replicas = min(self._nodes, 3)
        config = {"message.timestamp.type": timestamp_type, "min.insync.replicas": str(max(1, replicas - 1))}
        topics = [
            NewTopic(name, num_partitions=partitions, replication_factor=replicas, config=config) for name in names
        ]
        for done in admin.create_topics(topics).values():
            done.result(30)

        # The creation is acknowledged by the controller, before the broker's own metadata know of it.
        def led(topics: Mapping[str, Any]) -> bool:
            of_each = [topics[name].partitions for name in names if name in topics]
            return len(of_each) == len(names) and all(
                len(known) == partitions and all(each.leader >= 0 for each in known.values()) for known in of_each
            )

        self._wait_for_topics(led, f"topics without a leader after 30 s: {', '.join(names)}")

    def delete_topics(self, names: Iterable[str]) -> None:
        """Deletes those of the topics that are there, and returns when they can be created anew."""
        admin, wanted = self._running_admin(), set(names)
        there = [name for name in admin.list_topics(timeout=10).topics if name in wanted]
        if there:
            for done in admin.delete_topics(there).values():
                done.result(30)
        self._wait_for_topics(wanted.isdisjoint, f"topics not deleted after 30 s: {', '.join(there)}")

    def _wait_for_topics(self, ready: Callable[[Mapping[str, Any]], bool], otherwise: str) -> None:
        admin, waiting = self._running_admin(), threading.Event()
        for _ in range(600):
            if ready(admin.list_topics(timeout=10).topics):
                return
            waiting.wait(0.05)
        raise RuntimeError(otherwise)

    def _running_admin(self) -> AdminClient:
        if self._admin is None:
            raise RuntimeError("the broker is not running")
        return self._admin

    def _start(self) -> None:
        self._directory = process.TemporaryDirectory("ami-beam-kafka-")
        directory = self._directory.path
        ports = process.free_ports(4 * self._nodes)
        self._ports, controllers, sasl, mtls = (ports[number::4] for number in range(4))
        # One in 64 begins with a dash, so below it has to stand in one word with its option.
        cluster = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        for node in range(self._nodes):
            home = directory / f"node-{node}"
            home.mkdir()
            properties = home / "server.properties"
            settings = _properties(node, home / "data", self._ports, controllers)
            if self._security is not None:
                settings |= _secured(settings, self._security, sasl[node], mtls[node])
            text = "".join(f"{name}={value}\n" for name, value in settings.items())
            properties.write_text(text, encoding="utf-8")
            formatting = process.ChildProcess(
                "Kafka's storage tool",
                [*self._jvm(), "kafka.tools.StorageTool", "format", f"--cluster-id={cluster}", "-c", properties],
                directory / f"format-{node}.log",
            )
            formatting.wait_until_success(_START_SECONDS)
        # A node listens once a majority of them has elected a controller.
        for node in range(self._nodes):
            self._launch(node)
        for node in range(self._nodes):
            self._wait_for(node)
        self.bootstrap_servers = ",".join(f"127.0.0.1:{port}" for port in self._ports)
        self._admin = AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": 0})
        self._processes[0].wait_until(self._answers, _START_SECONDS)
        if self._security is not None:
            self.sasl_servers = ",".join(f"127.0.0.1:{port}" for port in sasl)
            self.mtls_servers = ",".join(f"127.0.0.1:{port}" for port in mtls)
            info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
            users: list[UserScramCredentialAlteration] = [
                UserScramCredentialUpsertion(name, info, password.encode())
                for name, password in self._security.users.items()
            ]
            for done in self._admin.alter_user_scram_credentials(users).values():
                done.result(30)

    def run_tool(self, main: str, *arguments: str) -> None:
        """Run one of Kafka's command-line tools by the name of its class. Raises StartError when it fails."""
        log = self._running_directory() / f"{main.rpartition('.')[2]}-{uuid.uuid4().hex[:8]}.log"
        process.ChildProcess(main, [*self._jvm(), main, *arguments], log).wait_until_success(_START_SECONDS)

    def _jvm(self) -> list[str | Path]:
        # The serial collector and the first compiler only: a broker of tests lives for minutes, on few cores.
        return [
            *(java.find_java(), "-XX:+UseSerialGC", java.LIGHT, f"-Xmx{self._heap}"),
            *("-Djava.awt.headless=true", f"-Djava.io.tmpdir={self._running_directory()}"),
            *("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", jars.class_path("kafka")),
        ]

    def _running_directory(self) -> Path:
        if self._directory is None:
            raise RuntimeError("the broker is not running")
        return self._directory.path

    def _answers(self) -> bool:
        assert self._admin is not None
        try:
            return len(self._admin.list_topics(timeout=1).brokers) == self._nodes
        except KafkaException:
            return False


def _properties(node: int, data: Path, ports: list[int], controller_ports: list[int]) -> dict[str, Any]:
    voters = ",".join(f"{number}@127.0.0.1:{port}" for number, port in enumerate(controller_ports, start=1))
    replicas = min(len(ports), 3)
    return {
        "process.roles": "broker,controller",
        "node.id": node + 1,
        "controller.quorum.voters": voters,
        "listeners": f"PLAINTEXT://127.0.0.1:{ports[node]},CONTROLLER://127.0.0.1:{controller_ports[node]}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{ports[node]}",
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
        "offsets.topic.replication.factor": replicas,
        "offsets.topic.num.partitions": 1,
        "transaction.state.log.replication.factor": replicas,
        "transaction.state.log.min.isr": max(1, replicas - 1),
        "transaction.state.log.num.partitions": 1,
        "share.coordinator.state.topic.replication.factor": replicas,
        "share.coordinator.state.topic.min.isr": max(1, replicas - 1),
        "group.initial.rebalance.delay.ms": 0,
        # The default buffer of the log cleaner is a quarter of this heap.
        "log.cleaner.dedupe.buffer.size": 8 * 1024 * 1024,
        "num.network.threads": 2,
        "num.io.threads": 4,
    }


def _secured(plain: Mapping[str, Any], security: Security, sasl_port: int, mtls_port: int) -> dict[str, Any]:
    """The settings that make a plain node one with two secured listeners and an authorizer."""
    added = f",SASL_SSL://127.0.0.1:{sasl_port},SSL://127.0.0.1:{mtls_port}"
    return {
        "listeners": plain["listeners"] + added,
        "advertised.listeners": plain["advertised.listeners"] + added,
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL",
        "sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": (
            "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        ),
        "listener.name.ssl.ssl.client.auth": "required",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": security.certificate,
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": security.authority,
        "ssl.principal.mapping.rules": "RULE:^CN=([^,]+).*$/$1/,DEFAULT",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        # Nobody has logged in on the plain listeners, which the nodes use among themselves.
        "super.users": "User:ANONYMOUS",
    }
