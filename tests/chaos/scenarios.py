"""What goes wrong, scenario by scenario. Each runs a job while the head-end publishes, and does its faults at seeded
random instants; `Scenario.run` returns what distinguishes the results from those without a fault."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tests.chaos.checks import Difference
from tests.chaos.headend import HeadEnd
from tests.chaos.world import World

PUBLISH_SECONDS = 60.0
_FAULTS = 2
_UNREACHABLE_SECONDS = 120.0
_DISK_MEGABYTES = 24


@dataclass(frozen=True)
class Scenario:
    """A name, what happens, and what the world needs for it."""

    name: str
    story: Callable[[World, random.Random], None]
    world: dict[str, Any] = field(default_factory=dict)
    head_end: dict[str, Any] = field(default_factory=dict)
    """What it is that publishes, beyond the usual."""
    publish_seconds: float = PUBLISH_SECONDS
    needs_root: bool = False

    def run(self, directory: Path, head_end: HeadEnd, rng: random.Random) -> tuple[World, Difference]:
        """Raises ChaosError when the job does not recover in time."""
        with World(directory, head_end, **self.world) as world:
            head_end.publish(world.broker.bootstrap_servers, self.publish_seconds)
            self.story(world, rng)
            return world, world.end()


def _instants(world: World, rng: random.Random, number: int = _FAULTS) -> list[float]:
    """Shares of the records after which something happens: random, and in order."""
    begin, end = 0.25, 0.9
    step = (end - begin) / number
    return [begin + step * (each + 0.8 * rng.random()) for each in range(number)]


def _at(world: World, share: float) -> None:
    while world.head_end.published < share:
        time.sleep(0.05)


def none(world: World, rng: random.Random) -> None:
    """The control: what is found here is no fault's doing."""
    world.submit()


def task_manager(world: World, rng: random.Random) -> None:
    """kill -9 of a TaskManager; another one takes its place after three seconds."""

    def kill() -> None:
        rng.choice(world.flink.task_managers).signal(signal.SIGKILL)

    def replace() -> None:
        world.flink.start_task_manager()

    world.submit()
    for share in _instants(world, rng):
        _at(world, share)
        world.fault(kill, replace, 3)


def worker(world: World, rng: random.Random) -> None:
    """kill -9 of a Python worker."""
    world.submit()
    for share in _instants(world, rng):
        _at(world, share)
        world.fault(lambda: os.kill(rng.choice(world.workers()), signal.SIGKILL))


def worker_pool(world: World, rng: random.Random) -> None:
    """kill -9 of the worker pool with all its workers; another one takes its place after three seconds."""
    world.submit()
    for share in _instants(world, rng, 1):
        _at(world, share)
        world.fault(world.kill_pool, world.start_pool, 3)


def job_manager(world: World, rng: random.Random) -> None:
    """kill -9 of the JobManager, which knows its jobs in memory only: the job is submitted again from its newest
    checkpoint."""

    def again() -> None:
        assert world.run is not None
        world.run.kill()
        world.flink.start_job_manager()
        world.wait_for(lambda: world.rest.slots()[1] >= 2, 60, "the TaskManagers to register")
        world.submit(savepoint=world.checkpoints)

    world.submit()
    for share in _instants(world, rng, 1):
        _at(world, share)
        world.fault(world.flink.kill_job_manager, again, 3)


def broker_term(world: World, rng: random.Random) -> None:
    """An orderly restart of one broker of three, and of another."""
    _restart_brokers(world, rng, signal.SIGTERM)


def broker_kill(world: World, rng: random.Random) -> None:
    """kill -9 of one broker of three, and of another."""
    _restart_brokers(world, rng, signal.SIGKILL)


def _restart_brokers(world: World, rng: random.Random, number: signal.Signals) -> None:
    nodes = rng.sample(range(3), _FAULTS)
    world.submit()
    for share in _instants(world, rng):
        _at(world, share)
        node = nodes.pop()
        world.fault(partial(world.broker.stop_node, node, number), partial(world.broker.start_node, node), 5)


def broker_unreachable(world: World, rng: random.Random) -> None:
    """No broker answers for two minutes, and no connection is closed."""
    world.submit()
    for share in _instants(world, rng, 1):
        _at(world, share)
        world.fault(world.broker.freeze, world.broker.thaw, _UNREACHABLE_SECONDS)


def savepoint(world: World, rng: random.Random) -> None:
    """Stopped with a savepoint, and started from it."""
    world.submit()
    for share in _instants(world, rng):
        _at(world, share)
        world.faults += 1
        world.submit(savepoint=world.stop_run())
        world.recovered()


def rescale(world: World, rng: random.Random) -> None:
    """Stopped with a savepoint, and started from it with one subtask less, and then with one more."""
    world.submit(parallelism=2)
    for share, parallelism in zip(_instants(world, rng), (1, 2), strict=True):
        _at(world, share)
        world.faults += 1
        world.submit(parallelism, savepoint=world.stop_run())
        world.recovered()


def disk_full(world: World, rng: random.Random) -> None:
    """The file system of the checkpoints has no room for ten seconds."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_DISK_MEGABYTES}m", "tmpfs", world.checkpoints], check=True)
    world.at_exit.append(lambda: subprocess.run(["umount", "-l", world.checkpoints], check=False))
    world.submit()
    for share in _instants(world, rng, 1):
        _at(world, share)
        world.fault(lambda: _fill(world.checkpoints), (world.checkpoints / "filler").unlink, 10)


def _fill(folder: Path) -> None:
    with suppress(OSError), (folder / "filler").open("wb") as file:
        while True:
            file.write(b"\0" * (1 << 16))
            file.flush()


def schema(world: World, rng: random.Random) -> None:
    """The head-end's records change in mid-stream, and a TaskManager is killed about then."""
    world.submit()
    _at(world, 0.5 + 0.1 * rng.random())
    world.fault(lambda: rng.choice(world.flink.task_managers).signal(signal.SIGKILL), world.flink.start_task_manager, 3)


def backlog(world: World, rng: random.Random) -> None:
    """A backlog through Beam's KafkaIO, which may not catch up in between; a TaskManager is killed meanwhile."""
    world.head_end.wait(120)
    world.submit()
    time.sleep(3 * rng.random())
    world.fault(lambda: rng.choice(world.flink.task_managers).signal(signal.SIGKILL), world.flink.start_task_manager, 3)


def started_anew(world: World, rng: random.Random) -> None:
    """All state is thrown away, and the job is started anew from the beginning of the topics."""
    world.submit()
    for share in _instants(world, rng, 1):
        _at(world, share)
        world.faults += 1
        world.rest.cancel(next(job.id for job in world.rest.jobs() if not job.ended))
        assert world.run is not None
        world.run.kill()
        world.wait_for(lambda: all(job.ended for job in world.rest.jobs()), 60, "the job to end")
        shutil.rmtree(world.checkpoints)
        world.checkpoints.mkdir()
        world.submit()
        world.recovered()


THREE_BROKERS = {"nodes": 3}
SCENARIOS = [
    Scenario("none", none),
    Scenario("task-manager", task_manager),
    Scenario("worker", worker),
    Scenario("worker-pool", worker_pool),
    Scenario("job-manager", job_manager),
    Scenario("broker-term", broker_term, THREE_BROKERS),
    Scenario("broker-kill", broker_kill, THREE_BROKERS),
    Scenario("broker-unreachable", broker_unreachable, THREE_BROKERS),
    Scenario("savepoint", savepoint),
    Scenario("rescale", rescale),
    Scenario("disk-full", disk_full, needs_root=True),
    Scenario("schema", schema, head_end={"new_schema": True}),
    Scenario("beam-io-backlog", backlog, {"kafka_io": "beam"}, {"meters": 3_000}, publish_seconds=5),
    Scenario("started-anew", started_anew),
]
