"""The workers of several TaskManagers, which number them alike: the end of one is no other's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc

from ami_beam.local.process import free_ports
from ami_beam.worker_pool import Workers
from tests.kafka_replay import children, workers_of

pytestmark = pytest.mark.processes

NURSERY = "ami_beam.worker_nursery"


def wait_for(workers: Workers, count: int) -> None:
    until = time.monotonic() + 60
    while len(workers.pids) != count and time.monotonic() < until:
        time.sleep(0.05)
    assert len(workers.pids) == count


def start(workers: Workers, port: int) -> int:
    """A worker with the number that every TaskManager gives its first; it waits for its TaskManager. Its pid."""
    before = set(workers.pids)
    assert not workers.StartWorker(request(port), None).error
    (pid,) = set(workers.pids) - before
    return pid


def request(port: int) -> beam_fn_api_pb2.StartWorkerRequest:
    """For a worker of the TaskManager at that port."""
    made = beam_fn_api_pb2.StartWorkerRequest(worker_id="1-1")
    made.control_endpoint.url = made.provision_endpoint.url = f"127.0.0.1:{port}"
    return made


def test_who_is_told_of_the_end_of_a_worker_that_is_gone_leaves_the_others_alone() -> None:
    lost: list[str] = []
    with Workers(lost.append) as workers:
        one, other = (start(workers, port) for port in free_ports(2))
        os.kill(one, signal.SIGKILL)
        wait_for(workers, 1)
        workers.StopWorker(beam_fn_api_pb2.StopWorkerRequest(worker_id="1-1"), None)
        assert workers.pids == [other]
        assert lost == ["worker 1-1 was killed by signal 9"]
        # Of the next request nobody but the other can be meant.
        workers.StopWorker(beam_fn_api_pb2.StopWorkerRequest(worker_id="1-1"), None)
        wait_for(workers, 0)
    assert len(lost) == 1


def test_a_nursery_that_was_killed_takes_its_workers_along_and_is_replaced() -> None:
    lost: list[str] = []
    others = set(children(os.getpid(), NURSERY))
    with Workers(lost.append) as workers:
        ports = free_ports(2)
        start(workers, ports[0])
        (nursery,) = set(children(os.getpid(), NURSERY)) - others
        os.kill(nursery, signal.SIGKILL)
        wait_for(workers, 0)
        assert lost == ["worker 1-1 was killed by signal 9"]
        worker = start(workers, ports[1])
        assert is_there(worker)
    assert not is_there(worker)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills the children of a process that was killed")
def test_no_worker_outlives_a_pool_that_was_killed() -> None:
    port, unused = free_ports(2)
    pool = subprocess.Popen([sys.executable, "-m", "ami_beam.worker_pool", f"--port={port}"])
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolStub(channel)
            assert not stub.StartWorker(request(unused), wait_for_ready=True, timeout=60).error
        (worker,) = workers_of(pool.pid)
    finally:
        pool.kill()
        pool.wait()
    until = time.monotonic() + 30
    while is_there(worker) and time.monotonic() < until:
        time.sleep(0.05)
    assert not is_there(worker)


def is_there(pid: int) -> bool:
    """Whether the process runs. One that has ended and that nobody has asked for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
