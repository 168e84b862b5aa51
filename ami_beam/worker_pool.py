"""`python -m ami_beam.worker_pool`: starts a Python process for every worker that a runner asks for, and ends them all.

One runs beside every TaskManager of a Flink cluster (on Kubernetes as a side-car). Jobs find it with
`--environment_type=EXTERNAL --environment_config=localhost:50000`, the defaults with `--flink_master`.
The local Flink has one of its own.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import grpc
from apache_beam.portability.api import beam_fn_api_pb2, beam_fn_api_pb2_grpc

from ami_beam.local.process import ChildProcess
from ami_beam.worker_nursery import Nursery, Worker

DEFAULT_PORT = 50_000
_THREADS = 4
_log = logging.getLogger("ami_beam.worker_pool")


class Workers(beam_fn_api_pb2_grpc.BeamFnExternalWorkerPoolServicer):
    """`with Workers() as workers:` listens; jobs with `workers.pipeline_args()` get processes of their own.

    Beam's own pool would discard the workers' logs into a pipe that nobody reads, and knows no pipeline options.

    Args:
      on_lost: called in another thread with a sentence when a worker ends that nobody has ended.
      host: the interface to listen on. Whoever reaches it can start processes: loopback, or behind a firewall.
      port: 0 for any that is free.
    """

    def __init__(self, on_lost: Callable[[str], None] | None = None, host: str = "127.0.0.1", port: int = 0) -> None:
        self._on_lost = on_lost
        self._listen_at = (host, port)
        # Every TaskManager numbers its workers by itself; its control endpoint tells whose they are.
        self._children: dict[tuple[str, str], ChildProcess | Worker] = {}
        self._dismissed: set[str] = set()
        self._ended: Counter[str] = Counter()
        """Of the workers of a number: how many ended before anybody asked for it."""
        self._lock = threading.Lock()
        self._nursery: Nursery | None = None
        self._nursery_lock = threading.Lock()
        self._server: grpc.Server | None = None
        self._address = ""

    def __enter__(self) -> Self:
        return self.start()

    def start(self) -> Self:
        """Listen for requests. Raises RuntimeError when the port is taken."""
        host, port = self._listen_at
        # Two pools that share a port would each get some of a job's requests.
        options = [("grpc.so_reuseport", 0)]
        self._server = grpc.server(ThreadPoolExecutor(_THREADS, thread_name_prefix="workers"), options=options)
        self._address = f"{host}:{self._server.add_insecure_port(f'{host}:{port}')}"
        beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(self, self._server)
        self._server.start()
        if sys.platform == "linux":
            self._ready_nursery()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pids(self) -> list[int]:
        with self._lock:
            return [child.pid for child in self._children.values()]

    @property
    def address(self) -> str:
        """Where it listens."""
        return self._address

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
        with self._nursery_lock:
            if self._nursery is not None:
                self._nursery.stop()
                self._nursery = None

    def _ready_nursery(self) -> Nursery:
        """The one that there is, or another where it has ended."""
        with self._nursery_lock:
            if self._nursery is None or not self._nursery.is_alive():
                self._nursery = Nursery()
            return self._nursery

    def _start(self, name: str, arguments: list[str]) -> ChildProcess | Worker:
        if sys.platform == "linux":
            return self._ready_nursery().start(name, arguments)
        return ChildProcess(name, [sys.executable, "-m", "ami_beam.worker", *arguments], log=None)

    def StartWorker(self, request: Any, context: Any) -> Any:
        """Called by the runner."""
        arguments = [
            f"--id={request.worker_id}",
            f"--control_endpoint={request.control_endpoint.url}",
            f"--provision_endpoint={request.provision_endpoint.url}",
        ]
        try:
            child = self._start(f"worker {request.worker_id}", arguments)
        except OSError as error:
            return beam_fn_api_pb2.StartWorkerResponse(error=str(error))
        key = (request.worker_id, request.control_endpoint.url)
        with self._lock:
            self._children[key] = child
            self._dismissed.discard(key[0])
        threading.Thread(target=self._watch, args=(key, child), daemon=True).start()
        return beam_fn_api_pb2.StartWorkerResponse()

    def _watch(self, key: tuple[str, str], child: ChildProcess | Worker) -> None:
        code = child.wait()
        with self._lock:
            known = self._children.pop(key, None) is child and key[0] not in self._dismissed
            self._ended[key[0]] += known
        # Of a replay Flink lets workers go while others still work, and says so only then: they end well.
        lost = known and code != 0
        if lost and self._on_lost is not None:
            self._on_lost(child.ending(code))

    def StopWorker(self, request: Any, context: Any) -> Any:
        """Called by the runner, which does not say which TaskManager's worker it means."""
        with self._lock:
            if self._ended[request.worker_id]:
                # It is about one that is gone. One that is left with this number is another TaskManager's.
                self._ended[request.worker_id] -= 1
                return beam_fn_api_pb2.StopWorkerResponse()
            named = [key for key in self._children if key[0] == request.worker_id]
            child = self._children.pop(named[0]) if len(named) == 1 else None
            # It ends by itself when its TaskManager closes the connection.
            if child is None:
                self._dismissed.add(request.worker_id)
        if child is not None:
            child.stop()
        return beam_fn_api_pb2.StopWorkerResponse()


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or Ctrl-C, which end the workers, too. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m ami_beam.worker_pool", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="interface to listen on; whoever reaches it can run code")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help=f"({DEFAULT_PORT})")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    pool = Workers(lambda ending: _log.warning("%s.", ending), options.host, options.port)
    try:
        pool.start()
    except RuntimeError:
        print(f"ami_beam.worker_pool: cannot listen on {options.host}:{options.port}; another pool?", file=sys.stderr)
        return 1
    _log.info("Listening on %s.", pool.address)
    stop.wait()
    pool.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
