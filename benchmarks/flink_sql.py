"""Flink SQL doing ami-beam's work: what a user would pick instead, and the reference of `make bench`.

`python -m benchmarks.flink_sql BOOTSTRAP READS_TOPIC EVENTS_TOPIC METER_COUNTS_CSV SUMMARY_TOPIC ALERTS_TOPIC` starts a
standalone Flink 1.19 of one JobManager and one TaskManager with two slots, all in the process tree of this command,
and on it the job of `flink_sql.sql`, which reads from the beginning of the topics until SIGTERM.

With `--warm_up N` the same job first reads all reads N times, into throw-away topics, so that the measured one runs in
a JVM whose code is compiled. `measured job started` on standard output says that the measured job has been submitted.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import string
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from py4j.java_gateway import CallbackServerParameters, GatewayParameters, JavaGateway
from py4j.protocol import Py4JError, Py4JJavaError

from ami_beam.flink_rest import FlinkError, FlinkRest
from ami_beam.local import flink_cluster, flink_distribution, jars, java, process

SLOTS = 2
_START_SECONDS = 90.0
_QUIET_SECONDS = 3.0
_STATE_POLL_SECONDS = 2.0
_PING_SECONDS = 1.0
_PYTHON_GATEWAY = "org.apache.flink.client.python.PythonGatewayServer"
_SETTING = re.compile(r"^SET '([^']+)' = '([^']+)'", re.MULTILINE)
_SQL = Path(__file__).with_suffix(".sql")
_LOGGING = """\
rootLogger.level = WARN
rootLogger.appenderRef.console.ref = Console
appender.console.type = CONSOLE
appender.console.name = Console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d %-5p %c %x - %m%n
"""


class JobError(RuntimeError):
    """A job was not accepted, or failed; the message says why."""


class Cluster:
    """`with Cluster() as cluster:` is a JobManager and a TaskManager, which the end of the block or of Python ends."""

    def __init__(self, checkpoint_seconds: float | None = None) -> None:
        self._checkpoint_seconds = checkpoint_seconds
        self._processes: list[process.ChildProcess] = []
        self._directory: process.TemporaryDirectory | None = None
        self._class_path = ""
        self._rest = FlinkRest("")

    def __enter__(self) -> Self:
        """Fetches the jars if needed, and returns when both slots are there. Raises StartError with a log's end."""
        self._class_path = ":".join(map(str, [*flink_distribution.fetch(), *jars.fetch("flink_sql")]))
        self._directory = process.TemporaryDirectory("ami-beam-flink-sql-")
        path = self._directory.path
        (path / "tmp").mkdir()
        rest_port, rpc_port = process.free_ports(2)
        self._rest = FlinkRest(f"127.0.0.1:{rest_port}")
        (path / "config.yaml").write_text(self._configuration(path, rest_port, rpc_port), encoding="utf-8")
        (path / "log4j.properties").write_text(_LOGGING, encoding="utf-8")
        try:
            manager = self._start("the JobManager", "runtime.entrypoint.StandaloneSessionClusterEntrypoint", "512m")
            manager.wait_until(lambda: process.is_listening(rest_port), _START_SECONDS)
            worker = self._start("the TaskManager", "runtime.taskexecutor.TaskManagerRunner", "1664m")
            worker.wait_until(lambda: self._get("/overview").get("slots-available") == SLOTS, _START_SECONDS)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End both processes and remove their files. May be called twice."""
        for each in reversed(self._processes):
            each.stop()
        self._processes.clear()
        if self._directory is not None:
            self._directory.remove()
            self._directory = None

    def submit(self, name: str, sql: str) -> str:
        """Run a script whose only job is called `name` and return the job's id. Raises JobError when it is refused."""
        log = self._path / f"{name}.log"
        connection = self._path / f"{name}.connection"
        environment = {
            **os.environ,
            "FLINK_CONF_DIR": str(self._path),
            "_PYFLINK_CONN_INFO_PATH": str(connection),
        }
        command = [*self._jvm("512m", java.LIGHT), _PYTHON_GATEWAY]
        with (
            log.open("wb") as output,
            # Not a ChildProcess, whose standard input is empty: the gateway ends when its own is closed.
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, env=environment
            ) as client,
        ):
            try:
                deadline = time.monotonic() + _START_SECONDS
                while not connection.exists():
                    if client.poll() is not None or time.monotonic() > deadline:
                        raise JobError(
                            f"Flink's Python gateway did not start:\n{log.read_text(errors='replace')[-4000:]}"
                        )
                    time.sleep(0.1)
                port = int.from_bytes(connection.read_bytes()[:4], "big")
                gateway = JavaGateway(gateway_parameters=GatewayParameters(port=port, auto_convert=True))
                try:
                    _stay(gateway)
                    return _execute(gateway, sql)
                except Py4JJavaError as error:
                    raise JobError(str(error)) from error
                except Py4JError as error:
                    # The gateway itself is gone, and what it last said is all there is.
                    said = log.read_text(errors="replace")[-2000:]
                    raise JobError(f"{error}; Flink's Python gateway ({client.poll()}) said:\n{said}") from None
                finally:
                    gateway.close()
                    gateway.shutdown_callback_server()
            finally:
                client.terminate()

    def check(self, job: str) -> None:
        """Raise JobError when the job is no longer running as it should."""
        for each in self._processes:
            if not each.is_alive():
                raise JobError(f"{each.name} ended:\n{each.log_tail()}")
        state = self._get(f"/jobs/{job}").get("state")
        # None: no answer this time, from a JobManager that is alive.
        if state not in (None, "CREATED", "INITIALIZING", "RUNNING"):
            raise JobError(f"the job is {state}: {self._get(f'/jobs/{job}/exceptions').get('root-exception')}")

    def cancel(self, job: str) -> None:
        """Return when the job has ended and its slots are free. Raises JobError after 30 s."""
        deadline = time.monotonic() + 30
        self._rest.cancel(job)
        while self._get("/overview").get("slots-available", 0) < SLOTS:
            if time.monotonic() > deadline:
                raise JobError(f"job {job} has not ended 30 s after its cancellation")
            time.sleep(0.2)

    @property
    def _path(self) -> Path:
        if self._directory is None:
            raise RuntimeError("the cluster is not running")
        return self._directory.path

    def _start(self, name: str, main: str, heap: str) -> process.ChildProcess:
        log = self._path / f"{name.split()[1]}.log"
        command = [
            *self._jvm(heap, "-XX:MaxDirectMemorySize=384m", "-XX:MaxMetaspaceSize=256m"),
            *(f"org.apache.flink.{main}", "--configDir", self._path),
        ]
        child = process.ChildProcess(name, command, log)
        self._processes.append(child)
        return child

    def _jvm(self, heap: str, *options: str) -> list[str | Path]:
        return [
            *(java.find_java(), f"-Xmx{heap}", *options, f"-Djava.io.tmpdir={self._path / 'tmp'}"),
            *(f"-Dlog4j.configurationFile=file:{self._path / 'log4j.properties'}", "-Djava.awt.headless=true"),
            *(*flink_cluster.OPENED, "-cp", self._class_path),
        ]

    def _configuration(self, path: Path, rest_port: int, rpc_port: int) -> str:
        settings: dict[str, Any] = {
            "jobmanager.rpc.address": "127.0.0.1",
            "jobmanager.rpc.port": rpc_port,
            "jobmanager.bind-host": "127.0.0.1",
            "rest.address": "127.0.0.1",
            "rest.port": rest_port,
            "rest.bind-address": "127.0.0.1",
            "execution.target": "remote",
            "taskmanager.host": "127.0.0.1",
            "taskmanager.bind-host": "127.0.0.1",
            "taskmanager.numberOfTaskSlots": SLOTS,
            # Without Flink's shell scripts nobody derives these from the process's size.
            "taskmanager.cpu.cores": float(SLOTS),
            "taskmanager.memory.framework.heap.size": "128m",
            "taskmanager.memory.framework.off-heap.size": "128m",
            "taskmanager.memory.task.heap.size": "1536m",
            "taskmanager.memory.task.off-heap.size": "0m",
            "taskmanager.memory.network.min": "128m",
            "taskmanager.memory.network.max": "128m",
            "taskmanager.memory.managed.size": "512m",
            "taskmanager.memory.jvm-metaspace.size": "256m",
            "taskmanager.memory.jvm-overhead.min": "192m",
            "taskmanager.memory.jvm-overhead.max": "192m",
            "parallelism.default": SLOTS,
            "pipeline.object-reuse": "true",
            "state.backend.type": "hashmap",
            "table.optimizer.agg-phase-strategy": "AUTO",
            "restart-strategy.type": "none",
            "io.tmp.dirs": path / "tmp",
            "state.checkpoints.dir": (path / "checkpoints").as_uri(),
        }
        if self._checkpoint_seconds is not None:
            settings["execution.checkpointing.interval"] = f"{round(self._checkpoint_seconds * 1000)}ms"
        return flink_cluster.as_yaml(settings)

    def _get(self, path: str) -> dict[str, Any]:
        """An answer of the JobManager, empty while it gives none."""
        try:
            return self._rest.request(path)
        except FlinkError:
            return {}


class _Watchdog:
    """What Flink's gateway asks whether its Python is still there."""

    def ping(self) -> bool:
        time.sleep(_PING_SECONDS)
        return True

    class Java:
        implements = ["org.apache.flink.client.python.PythonGatewayServer$Watchdog"]  # noqa: RUF012 - py4j's form


def _stay(gateway: JavaGateway) -> None:
    """Keep the gateway: it ends 10 s after its start, in the middle of a statement, unless it finds a watchdog."""
    gateway.start_callback_server(CallbackServerParameters(port=0, daemonize=True, daemonize_connections=True))
    server = gateway.java_gateway_server
    server.resetCallbackClient(
        server.getCallbackClient().getAddress(), gateway.get_callback_server().get_listening_port()
    )
    gateway.entry_point.put("Watchdog", _Watchdog())


def _execute(gateway: JavaGateway, sql: str) -> str:
    """Run the statements in order; the last one starts the job, whose id is returned."""
    table = gateway.jvm.org.apache.flink.table.api
    environment = table.TableEnvironment.create(
        table.EnvironmentSettings.newInstance()
        .inStreamingMode()
        # The cluster's own, from its directory: without it the job would run inside the client.
        .withConfiguration(gateway.jvm.org.apache.flink.configuration.GlobalConfiguration.loadConfiguration())
        .build()
    )
    definitions, execute, job = sql.partition("EXECUTE STATEMENT SET")
    for statement in re.split(r";\n", definitions):
        if setting := _SETTING.search(statement):
            environment.getConfig().set(setting[1], setting[2])
        elif statement.strip():
            environment.executeSql(statement)
    return environment.executeSql((execute + job).strip().removesuffix(";")).getJobClient().get().getJobID().toString()


def script(job: str, names: Mapping[str, str]) -> str:
    """The SQL of a job, reading and writing the topics that `names` gives."""
    quoted = {name: "'" + value.replace("'", "''") + "'" for name, value in {**names, "job": job}.items()}
    return string.Template(_SQL.read_text(encoding="utf-8")).substitute(quoted)


def _warm_up(cluster: Cluster, number: int, names: Mapping[str, str]) -> None:
    """Run a job until no more rows come out of it, and remove what it wrote."""
    servers = names["bootstrap_servers"]
    outputs = {name: f"{names[name]}.warm-up-{number}" for name in ("summaries", "alerts")}
    admin = AdminClient({"bootstrap.servers": servers})
    for future in admin.create_topics([NewTopic(topic, SLOTS) for topic in outputs.values()]).values():
        future.result(30)
    try:
        job = cluster.submit(f"warm-up-{number}", script(f"warm-up-{number}", {**names, **outputs}))
        with _row_counter(servers, outputs["summaries"]) as count:
            rows, moved = 0, time.monotonic()
            while not rows or time.monotonic() - moved < _QUIET_SECONDS:
                time.sleep(0.5)
                cluster.check(job)
                if (now := count()) != rows:
                    rows, moved = now, time.monotonic()
        cluster.cancel(job)
    finally:
        for future in admin.delete_topics(list(outputs.values())).values():
            with suppress(KafkaException):
                future.result(30)


@contextmanager
def _row_counter(servers: str, topic: str) -> Iterator[Any]:
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "flink-sql-warm-up"})
    partitions = [TopicPartition(topic, number) for number in range(SLOTS)]
    try:
        yield lambda: sum(consumer.get_watermark_offsets(each, timeout=10)[1] for each in partitions)
    finally:
        consumer.close()


def _stop(number: int, frame: FrameType | None) -> None:
    # Once: what is being stopped is not to be interrupted.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(0)


def main(argv: list[str] | None = None) -> None:
    """Run until SIGTERM. Raises StartError or JobError when Flink or the job does not start, or fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("bootstrap_servers", "reads", "events", "meter_counts", "summaries", "alerts"):
        parser.add_argument(name)
    parser.add_argument("--checkpoint_seconds", type=float, help="take a checkpoint every so many seconds (none)")
    parser.add_argument("--warm_up", type=int, default=0, help="how many jobs run before the measured one (0)")
    options = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, _stop)
    names = {
        name: getattr(options, name) for name in ("bootstrap_servers", "reads", "events", "summaries", "alerts")
    } | {"meter_counts": Path(options.meter_counts).absolute().as_uri()}
    with Cluster(options.checkpoint_seconds) as cluster:
        for number in range(1, options.warm_up + 1):
            print(f"warm-up job {number}", flush=True)
            _warm_up(cluster, number, names)
        job = cluster.submit("flink-sql", script("flink-sql", names))
        print("measured job started", flush=True)
        while True:
            cluster.check(job)
            time.sleep(_STATE_POLL_SECONDS)


if __name__ == "__main__":
    main(sys.argv[1:])
