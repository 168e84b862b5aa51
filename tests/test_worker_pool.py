"""The workers of several TaskManagers, which number them alike: the end of one is no other's."""

from __future__ import annotations

import os
import signal
import time

import pytest
from apache_beam.portability.api import beam_fn_api_pb2

from ami_beam.local.process import free_ports
from ami_beam.worker_pool import Workers

pytestmark = pytest.mark.processes


def wait_for(workers: Workers, count: int) -> None:
    until = time.monotonic() + 60
    while len(workers.pids) != count and time.monotonic() < until:
        time.sleep(0.05)
    assert len(workers.pids) == count


def start(workers: Workers, port: int) -> int:
    """A worker with the number that every TaskManager gives its first; it waits for its TaskManager. Its pid."""
    before = set(workers.pids)
    request = beam_fn_api_pb2.StartWorkerRequest(worker_id="1-1")
    request.control_endpoint.url = request.provision_endpoint.url = f"127.0.0.1:{port}"
    assert not workers.StartWorker(request, None).error
    (pid,) = set(workers.pids) - before
    return pid


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
