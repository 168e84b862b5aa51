"""Starts a Python process for every worker that a portable runner on this machine asks for, and ends them all."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import grpc
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc

from ami_beam.local.process import ChildProcess

_THREADS = 4


class Workers(beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolServicer):
    """`with Workers() as workers:` listens on loopback; jobs with `workers.pipeline_args()` get processes of their own.

    Beam's own pool would discard the workers' logs into a pipe that nobody reads, and knows no pipeline options.

    Args:
      on_lost: called in another thread with a sentence when a worker ends that nobody has ended. Beam does not replace
        it: the job would begin anew again and again, each time with the worker that is gone.
    """

    def __init__(self, on_lost: Callable[[str], None] | None = None) -> None:
        self._on_lost = on_lost
        # Every TaskManager numbers its workers by itself; its control endpoint tells whose they are.
        self._children: dict[tuple[str, str], ChildProcess] = {}
        self._dismissed: set[str] = set()
        self._lock = threading.Lock()
        self._server: grpc.Server | None = None
        self._address = ""

    def __enter__(self) -> Self:
        return self.start()

    def start(self) -> Self:
        """Listen for requests."""
        self._server = grpc.server(ThreadPoolExecutor(_THREADS, thread_name_prefix="workers"))
        self._address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(self, self._server)
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pids(self) -> list[int]:
        with self._lock:
            return [child.pid for child in self._children.values()]

    def pipeline_args(self) -> list[str]:
        """The pipeline options with which a job has one of these processes for each TaskManager."""
        return [
            "--environment_type=EXTERNAL",
            f"--environment_config={self._address}",
            "--sdk_worker_parallelism=1",
        ]

    def stop(self) -> None:
        """End every worker and stop listening. May be called twice."""
        if self._server is not None:
            self._server.stop(grace=None)
            self._server = None
        with self._lock:
            children, self._children = list(self._children.values()), {}
        for child in children:
            child.stop()

    def StartWorker(self, request: Any, context: Any) -> Any:
        """Called by the runner."""
        command = [
            *(sys.executable, "-m", "ami_beam.worker", f"--id={request.worker_id}"),
            f"--control_endpoint={request.control_endpoint.url}",
            f"--provision_endpoint={request.provision_endpoint.url}",
        ]
        try:
            child = ChildProcess(f"worker {request.worker_id}", command, log=None)
        except OSError as error:
            return beam_fn_api_pb2.StartWorkerResponse(error=str(error))
        key = (request.worker_id, request.control_endpoint.url)
        with self._lock:
            self._children[key] = child
            self._dismissed.discard(key[0])
        threading.Thread(target=self._watch, args=(key, child), daemon=True).start()
        return beam_fn_api_pb2.StartWorkerResponse()

    def _watch(self, key: tuple[str, str], child: ChildProcess) -> None:
        code = child.wait()
        with self._lock:
            lost = self._children.pop(key, None) is child and key[0] not in self._dismissed
        if lost and self._on_lost is not None:
            self._on_lost(child.ending(code))

    def StopWorker(self, request: Any, context: Any) -> Any:
        """Called by the runner, which does not say which TaskManager's worker it means."""
        with self._lock:
            named = [key for key in self._children if key[0] == request.worker_id]
            child = self._children.pop(named[0]) if len(named) == 1 else None
            # It ends by itself when its TaskManager closes the connection.
            if child is None:
                self._dismissed.add(request.worker_id)
        if child is not None:
            child.stop()
        return beam_fn_api_pb2.StopWorkerResponse()
