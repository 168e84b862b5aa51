"""Child processes that never outlive this one, not even when it is killed with SIGKILL.

On Linux the kernel kills the child when the thread that started it ends (`_guard`); therefore one thread, which lives
as long as this process, starts them all. Elsewhere only an orderly end of the interpreter stops them. The children form
sessions of their own, so that Ctrl-C reaches this process alone and it can stop them in order.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path

_LOCK = ".in-use"
_GUARD = Path(__file__).with_name("_guard.py")
_TAIL_BYTES = 4096
_POLL_SECONDS = 0.1
_START_ATTEMPTS = 3


class StartError(RuntimeError):
    """A child ended, or was not ready in time; the message says so, with the end of its log."""


class ChildProcess:
    """A running command. `stop` is idempotent, and the end of the interpreter calls it.

    Standard output and errors go to `log`, which is created, and which the caller removes; without one to this
    process's standard error. It inherits `pass_fds`, by their numbers.
    """

    def __init__(
        self, name: str, command: Sequence[str | Path], log: Path | None, pass_fds: Sequence[int] = ()
    ) -> None:
        self.name = name
        self.log = log
        guarded = [sys.executable, "-I", "-S", str(_GUARD), str(os.getpid()), *map(str, command)]
        self._process = _starter.start(guarded, log, pass_fds)
        self._owner = os.getpid()
        _children.add(self)

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def wait(self, timeout: float | None = None) -> int:
        """Returns the exit code once it has ended; that of a signal is negative. Raises subprocess.TimeoutExpired."""
        return self._process.wait(timeout)

    def ending(self, code: int) -> str:
        """A sentence on its end, from the exit code that `wait` gives."""
        return how_it_ended(self.name, code)

    def wait_until(self, ready: Callable[[], bool], timeout: float) -> None:
        """Returns once `ready()` is true; raises StartError when the child ends first, or is stopped as time is up."""
        deadline = time.monotonic() + timeout
        while True:
            if not self.is_alive():
                raise StartError(f"{self.name} ended with code {self._process.returncode}:\n{self.log_tail()}")
            if ready():
                return
            if time.monotonic() > deadline:
                self.stop()
                raise StartError(f"{self.name} was not ready after {timeout:.0f} s:\n{self.log_tail()}")
            time.sleep(_POLL_SECONDS)

    def wait_until_success(self, timeout: float) -> None:
        """Returns when the command has ended with code 0; raises StartError otherwise."""
        try:
            code = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.stop(patience=0)
            raise StartError(f"{self.name} had not ended after {timeout:.0f} s:\n{self.log_tail()}") from None
        _children.discard(self)
        if code != 0:
            raise StartError(f"{self.name} ended with code {code}:\n{self.log_tail()}")

    def log_tail(self) -> str:
        """The last lines of the log, for an error message."""
        if self.log is None:
            return "(see above)"
        try:
            data = self.log.read_bytes()[-_TAIL_BYTES:]
        except OSError as error:
            return f"(no log: {error})"
        return data.decode("utf-8", "replace") or "(the log is empty)"

    def stop(self, patience: float = 10.0) -> None:
        """SIGTERM, then SIGKILL after `patience` seconds, to the child and everything it started."""
        # A process forked from this one holds a copy of this object, and must not end what its parent uses.
        if self._owner != os.getpid():
            return
        _children.discard(self)
        if self.is_alive():
            self.signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(patience)
        self.signal(signal.SIGKILL)
        self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the child and everything it started; nothing happens when it has ended."""
        # Its session is also its process group. Gone means that nothing of it is left.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


def how_it_ended(name: str, code: int) -> str:
    """A sentence on the end of a process; the code of a signal is negative."""
    return f"{name} " + (f"was killed by signal {-code}" if code < 0 else f"ended with code {code}")


class _Starter:
    """Starts processes from one thread, which ends only with the interpreter: the guard is bound to that thread."""

    def __init__(self) -> None:
        self._requests: queue.SimpleQueue[
            tuple[list[str], Path | None, Sequence[int], Future[subprocess.Popen[bytes]]]
        ] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._pid = 0
        self._lock = threading.Lock()

    def start(self, command: list[str], log: Path | None, pass_fds: Sequence[int]) -> subprocess.Popen[bytes]:
        with self._lock:
            # Threads do not survive a fork; a forked process needs one of its own.
            if self._thread is None or self._pid != os.getpid():
                self._pid = os.getpid()
                self._thread = threading.Thread(target=self._run, name="ami-beam-starter", daemon=True)
                self._thread.start()
        future: Future[subprocess.Popen[bytes]] = Future()
        self._requests.put((command, log, pass_fds, future))
        return future.result()

    def _run(self) -> None:
        while True:
            command, log, pass_fds, future = self._requests.get()
            try:
                # Number 2, not sys.stderr, which may have been replaced by something that is no file.
                with open(2, "ab", closefd=False) if log is None else log.open("ab") as output:
                    process = subprocess.Popen(
                        command,
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                        pass_fds=pass_fds,
                    )
                future.set_result(process)
            except BaseException as error:
                future.set_exception(error)


class TemporaryDirectory:
    """A directory that `remove` removes, or, after a crash, the next process here that makes one with the same prefix.

    A lock held while this process lives tells the two apart; process ids would not, in containers that share `/tmp`.
    """

    def __init__(self, prefix: str) -> None:
        parent = Path(tempfile.gettempdir())
        for left_over in parent.glob(f"{prefix}*"):
            with suppress(OSError), (left_over / _LOCK).open("r") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left_over, ignore_errors=True)
        self.path = Path(tempfile.mkdtemp(prefix=prefix))
        # Locked before it has its name, so that nobody finds it unlocked.
        unnamed = self.path / f"{_LOCK}.new"
        self._file = unnamed.open("w")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        unnamed.rename(self.path / _LOCK)

    def remove(self) -> None:
        self._file.close()
        shutil.rmtree(self.path, ignore_errors=True)


def free_ports(number: int) -> list[int]:
    """Different ports of the loopback interface that were free a moment ago; another process may be faster to them."""
    sockets = [socket.socket() for _ in range(number)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def start_server(start: Callable[[], None], stop: Callable[[], None], taken: str = "Address already in use") -> None:
    """Run `start`, which chooses ports and waits for its server, again where another process was faster to a port.

    What has failed is stopped. Raises StartError, and whatever else `start` raises.

    Args:
      taken: what the server's log says then.
    """
    for attempt in range(1, _START_ATTEMPTS + 1):
        try:
            start()
            return
        except StartError as error:
            stop()
            if attempt == _START_ATTEMPTS or taken not in str(error):
                raise
        except BaseException:
            stop()
            raise


def is_listening(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


_starter = _Starter()
_children: weakref.WeakSet[ChildProcess] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    for child in list(_children):
        child.stop(patience=3)
