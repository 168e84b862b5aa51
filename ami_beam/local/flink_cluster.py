"""A standalone Flink on this machine: a JobManager and TaskManagers with a slot each, every one a process of its own.

A TaskManager asks for its own Python worker, so that each subtask of a job, from its source to its sink, has one: in a
Flink that keeps several subtasks in one JVM, Beam hands its workers to the steps in the order in which they happen to
start, and the reading of every partition may end up in the same process.

Everything listens on loopback only; whoever reaches the JobManager's REST port can run code.
"""

from __future__ import annotations

import itertools
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ami_beam.flink_rest import FlinkError, FlinkRest
from ami_beam.local import java, process

_START_SECONDS = 90.0
# What Flink 1.19 and Beam's serializers reach into by reflection; without them stateful stages fail on Java 17.
_OPENED = (
    *("java.lang", "java.lang.invoke", "java.lang.reflect", "java.io", "java.math", "java.net", "java.nio"),
    *("java.text", "java.time", "java.util", "java.util.concurrent", "java.util.concurrent.atomic"),
    *("java.util.concurrent.locks", "sun.nio.ch", "sun.net.util"),
)
OPENED = tuple(f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in _OPENED)
"""The JVM options that Flink and Beam need."""


class FlinkCluster:
    """`start` gives a cluster at `master` with a slot a TaskManager; `stop` ends it, as does the end of Python.

    Args:
      class_path: Flink's jars, and whatever the jobs need that is not to be sent with each of them.
      directory: for configuration, logs and temporary files; the caller's, who removes it.
      task_managers: how many.
      heap: that of each TaskManager ("512m"). Without it all of them together may take two fifths of the machine's.
      on_lost: called in another thread with a sentence when a process ends that nobody has ended.
      settings: Flink's, on top of ours.
    """

    def __init__(
        self,
        class_path: str,
        directory: Path,
        task_managers: int,
        heap: str | None = None,
        on_lost: Callable[[str], None] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self._settings = dict(settings or {})
        self._class_path = class_path
        self._directory = directory
        self._task_managers = task_managers
        self._heap = heap
        self._on_lost = on_lost
        self._processes: list[process.ChildProcess] = []
        self._stopping = threading.Event()
        self._numbers = itertools.count(1)
        self.rest_port = 0
        self.job_manager: process.ChildProcess | None = None
        self.task_managers: list[process.ChildProcess] = []
        """Those that were alive when the last one was started."""

    @property
    def master(self) -> str:
        """The address for `--flink_master`."""
        return f"127.0.0.1:{self.rest_port}"

    @property
    def pids(self) -> list[int]:
        return [each.pid for each in self._processes]

    @property
    def logs(self) -> list[Path]:
        return [each.log for each in self._processes if each.log is not None]

    def start(self) -> None:
        """Returns when every slot is there. Raises StartError with the end of a log."""
        self.rest_port, rpc_port = process.free_ports(2)
        (self._directory / "config.yaml").write_text(
            as_yaml(
                common_settings(self._directory)
                | {
                    "rest.port": self.rest_port,
                    "jobmanager.rpc.port": rpc_port,
                    "taskmanager.numberOfTaskSlots": 1,
                    # Without Flink's shell scripts nobody derives these from the process's size. Only the network's and
                    # the managed memory are taken by these numbers; the heap is the JVM's.
                    "taskmanager.cpu.cores": 1.0,
                    "taskmanager.memory.framework.heap.size": "128m",
                    "taskmanager.memory.framework.off-heap.size": "128m",
                    "taskmanager.memory.task.heap.size": "1g",
                    "taskmanager.memory.task.off-heap.size": "0m",
                    "taskmanager.memory.network.min": "64m",
                    "taskmanager.memory.network.max": "64m",
                    "taskmanager.memory.managed.size": "128m",
                    "taskmanager.memory.jvm-metaspace.size": "256m",
                    "taskmanager.memory.jvm-overhead.min": "192m",
                    "taskmanager.memory.jvm-overhead.max": "192m",
                    # The jobs' classes are on the cluster's class path; Beam sends them along all the same.
                    "classloader.resolve-order": "parent-first",
                    "rest.server.max-content-length": 1 << 30,
                    "rest.client.max-content-length": 1 << 30,
                }
                | self._settings
            ),
            encoding="utf-8",
        )
        self.start_job_manager()
        for _ in range(self._task_managers):
            self.start_task_manager()
        for each in self.task_managers:
            each.wait_until(lambda: self._slots() == self._task_managers, _START_SECONDS)
        for each in self._processes:
            threading.Thread(target=self._watch, args=(each,), daemon=True).start()

    def start_job_manager(self) -> process.ChildProcess:
        """Start one at the same address as before, and return when it answers."""
        manager = self._run("the JobManager", "StandaloneSessionClusterEntrypoint", ["-Xmx512m", java.LIGHT])
        manager.wait_until(lambda: process.is_listening(self.rest_port), _START_SECONDS)
        self.job_manager = manager
        return manager

    def kill_job_manager(self) -> None:
        """SIGKILL to it; returns when it is gone."""
        if self.job_manager is not None:
            self.job_manager.signal(signal.SIGKILL)
            self.job_manager.wait()

    def start_task_manager(self) -> process.ChildProcess:
        """Start one more, which may take the place of one that has ended."""
        heap = f"-Xmx{self._heap}" if self._heap else f"-XX:MaxRAMPercentage={40 / self._task_managers:g}"
        manager = self._run(f"the TaskManager {next(self._numbers)}", "TaskManagerRunner", [heap])
        self.task_managers = [each for each in self.task_managers if each.is_alive()] + [manager]
        return manager

    def stop(self) -> None:
        """End every process. May be called twice."""
        self._stopping.set()
        for each in reversed(self._processes):
            each.stop()
        self._processes.clear()

    def _slots(self) -> int:
        try:
            return FlinkRest(self.master).slots()[0]
        except FlinkError:
            return 0

    def _watch(self, child: process.ChildProcess) -> None:
        code = child.wait()
        if not self._stopping.is_set() and self._on_lost is not None:
            self._on_lost(child.ending(code))

    def _run(self, name: str, main: str, options: list[str]) -> process.ChildProcess:
        package = "entrypoint" if main.startswith("Standalone") else "taskexecutor"
        command = [
            *jvm(self._class_path, self._directory, options),
            *OPENED,
            *(f"org.apache.flink.runtime.{package}.{main}", "--configDir", self._directory),
        ]
        log = self._directory / f"{name.removeprefix('the ').replace(' ', '-')}.log"
        child = process.ChildProcess(name, command, log)
        self._processes.append(child)
        return child


def jvm(class_path: str, directory: Path, options: list[str]) -> list[str | Path]:
    """The start of a command that runs a class in a small JVM that logs warnings, with its files in `directory`."""
    return [
        java.find_java(),
        *(*options, "-XX:+UseSerialGC", "-Djava.awt.headless=true"),
        *(f"-Djava.io.tmpdir={directory}", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", class_path),
    ]


def common_settings(directory: Path) -> dict[str, Any]:
    """Flink settings of every kind of local Flink: on loopback only, with its files in `directory`."""
    return {
        # Without a directory checkpoints go to the heap and fail at the first real one.
        "state.checkpoints.dir": (directory / "checkpoints").as_uri(),
        "io.tmp.dirs": directory / "tmp",
        # Of a replay several shuffles are written at once, and the default of 512 is for each.
        "taskmanager.network.sort-shuffle.min-buffers": 64,
        "rest.address": "127.0.0.1",
        "rest.bind-address": "127.0.0.1",
        "jobmanager.rpc.address": "127.0.0.1",
        "jobmanager.bind-host": "127.0.0.1",
        "taskmanager.host": "127.0.0.1",
        "taskmanager.bind-host": "127.0.0.1",
    }


def as_yaml(settings: Mapping[str, Any]) -> str:
    return "".join(f"{name}: {value}\n" for name, value in settings.items())
