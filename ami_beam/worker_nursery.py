"""A process that has loaded all that a worker needs, and becomes one by a fork: a start takes no second of a core.

Beam, its clients and our steps take two seconds to load, and after a failure every TaskManager wants a worker at once.
Forking is safe here, unlike in the pool, because this process never opens a channel and runs no thread of Python's.
Workers share the memory of what was loaded. Linux only: elsewhere system libraries do not survive a fork.

`Nursery` is the side of the worker pool; `python -m ami_beam.worker_nursery` the process, which ends with the pool, and
all workers with it.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress

import msgspec
from msgspec import Struct

from ami_beam.local.process import ChildProcess, how_it_ended

_MOST_BYTES = 1 << 16
_START_SECONDS = 120.0
_LOADED = ("ami_beam.run", "ami_beam.worker")
"""With everything that they import, which is what a worker would load when it starts and when it gets its steps."""
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15  # prctl.h


class _Wanted(Struct):
    """A request for a worker."""

    number: int
    arguments: list[str]


class _Told(Struct):
    """What has become of a worker: it has a process id, or could not be started, or has ended."""

    number: int
    pid: int | None = None
    error: str | None = None
    code: int | None = None


class Worker:
    """A running worker, as a `ChildProcess` to whoever holds it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.pid = 0
        self._error: str | None = None
        self._code: int | None = None
        self._known = threading.Event()
        self._ended = threading.Event()

    def told(self, news: _Told) -> None:
        """Called with what the nursery says."""
        self.pid = news.pid or self.pid
        self._error, self._code = news.error, news.code
        if news.code is not None:
            self._ended.set()
        self._known.set()

    def wait_until_started(self) -> None:
        """Raises OSError when it could not be."""
        if not self._known.wait(_START_SECONDS):
            raise OSError(f"{self.name} was not started within {_START_SECONDS:.0f} s")
        if self._error is not None or not self.pid:
            raise OSError(f"{self.name} could not be started: {self._error or 'its nursery has ended'}")

    def is_alive(self) -> bool:
        return not self._ended.is_set()

    def wait(self, timeout: float | None = None) -> int:
        """Returns the exit code once it has ended; that of a signal is negative. Raises subprocess.TimeoutExpired."""
        if not self._ended.wait(timeout):
            raise subprocess.TimeoutExpired(self.name, timeout or 0.0)
        assert self._code is not None
        return self._code

    def ending(self, code: int) -> str:
        """A sentence on its end, from the exit code that `wait` gives."""
        return how_it_ended(self.name, code)

    def stop(self, patience: float = 10.0) -> None:
        """SIGTERM, then SIGKILL after `patience` seconds, to it and everything it started."""
        for number, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, None)):
            if self.is_alive():
                # Its session is also its process group.
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(self.pid, number)
                with suppress(subprocess.TimeoutExpired):
                    self.wait(seconds)


class Nursery:
    """Starts workers. What it has not loaded yet it loads meanwhile: only the first ones wait for it."""

    def __init__(self) -> None:
        self._workers: dict[int, Worker] = {}
        self._last = 0
        self._lock = threading.Lock()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-m", "ami_beam.worker_nursery", str(theirs.fileno())]
            self._process = ChildProcess("the workers' nursery", command, None, (theirs.fileno(),))
        threading.Thread(target=self._listen, name="ami-beam-nursery", daemon=True).start()

    def is_alive(self) -> bool:
        return self._process.is_alive()

    def start(self, name: str, arguments: list[str]) -> Worker:
        """A worker with these arguments of `ami_beam.worker`. Raises OSError when there cannot be one."""
        worker = Worker(name)
        with self._lock:
            self._last += 1
            number = self._last
            self._workers[number] = worker
        self._control.send(msgspec.json.encode(_Wanted(number, arguments)))
        worker.wait_until_started()
        return worker

    def stop(self) -> None:
        """End it, and whatever workers it still has."""
        with suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)
        self._process.stop()

    def _listen(self) -> None:
        news = msgspec.json.Decoder(_Told)
        with suppress(OSError):
            while data := self._control.recv(_MOST_BYTES):
                told = news.decode(data)
                with self._lock:
                    worker = self._workers[told.number] if told.code is None else self._workers.pop(told.number)
                worker.told(told)
        with self._lock:
            left, self._workers = list(self._workers.values()), {}
        for worker in left:
            # The kernel kills them with the process that has forked them.
            worker.told(_Told(0, code=-signal.SIGKILL))


def main() -> int:
    """Fork a worker for every request, until the pool is gone. Returns the exit code."""
    control = socket.socket(fileno=int(sys.argv[1]))
    for name in _LOADED:
        importlib.import_module(name)
    # What was loaded stays as it is, so that the pages are everybody's.
    gc.collect()
    gc.freeze()
    wake, woken = os.pipe()
    for end in (wake, woken):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    wanted = msgspec.json.Decoder(_Wanted)
    numbers: dict[int, int] = {}
    asked = control.fileno()

    def tell(told: _Told) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):
            control.send(msgspec.json.encode(told))

    while True:
        ready, _, _ = select.select([asked, wake], [], [])
        if asked in ready:
            data = control.recv(_MOST_BYTES)
            if not data:
                return 0
            request = wanted.decode(data)
            try:
                pid = os.fork()
            except OSError as error:
                tell(_Told(request.number, error=str(error)))
                continue
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                control.close()
                for end in (wake, woken):
                    os.close(end)
                _become_worker(request.arguments)
            numbers[pid] = request.number
            tell(_Told(request.number, pid=pid))
        if wake in ready:
            with suppress(BlockingIOError):
                os.read(wake, _MOST_BYTES)
            for pid, status in _ended():
                tell(_Told(numbers.pop(pid), code=os.waitstatus_to_exitcode(status)))


def _ended() -> list[tuple[int, int]]:
    """(process id, status) of the children that have ended."""
    found = []
    with suppress(ChildProcessError):
        while (each := os.waitpid(-1, os.WNOHANG))[0]:
            found.append(each)
    return found


def _become_worker(arguments: list[str]) -> None:
    """Never returns."""
    code = 1
    try:
        parent = os.getppid()
        os.setsid()
        library = ctypes.CDLL(None, use_errno=True)
        library.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it has ended before the request was made
            return
        library.prctl(_PR_SET_NAME, b"ami-beam-worker", 0, 0, 0)
        code = importlib.import_module("ami_beam.worker").main(arguments)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        # The harness leaves threads behind that are not daemons.
        os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
